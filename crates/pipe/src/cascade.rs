//! The other stages of DALL·E 2's cascade, which run within the job of its decoder: the prior before it, the enlarger after it.

use std::{
    ops::{ControlFlow, Range},
    sync::{Arc, atomic::AtomicBool},
};

use burn::tensor::Device;
use tweedie_hub::Model;
use tweedie_models::{ExecContext, HostTensor};
use tweedie_ops::{Batch, SampleShape};

use crate::{
    Inputs, Pipeline, PipelineError, Request,
    coding::host,
    job::{Job, NoiseOfRows},
    parts::SharedParts,
};

/// A stage besides the decoder.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stage {
    Prior = 1,
    Enlarger = 2,
}

/// The noise of a stage, which is independent of that of the decoder. Image 0 of the stage is image `first` of the request.
pub(crate) struct StageNoise {
    pub(crate) draws: Arc<dyn NoiseOfRows>,
    pub(crate) stage: Stage,
    pub(crate) first: usize,
}

impl NoiseOfRows for StageNoise {
    fn normal(&self, rows: Range<usize>, shape: &SampleShape, draw: u64, device: &Device) -> Batch {
        let rows = rows.start + self.first..rows.end + self.first;
        self.draws.normal(rows, shape, draw ^ ((self.stage as u64) << 40), device)
    }
}

/// The pipeline of a stage.
pub(crate) fn stage(model: &Arc<Model>, device: &Device, context: &ExecContext) -> Pipeline {
    Pipeline {
        model: model.clone(),
        device: device.clone(),
        loras: Vec::new(),
        embeddings: Vec::new(),
        controls: Vec::new(),
        context: context.clone(),
        parts: SharedParts::default(),
    }
}

/// Runs a request of a stage.
pub(crate) fn run(
    pipeline: &Pipeline,
    request: &Request,
    inputs: Inputs,
) -> Result<HostTensor, PipelineError> {
    let job = pipeline.prepare_with(request, inputs)?;
    let output = job.run(&AtomicBool::new(false), &mut |_| ControlFlow::Continue(()))?;
    Ok(output.tensors)
}

impl Job {
    /// The results for samples of the images `rows`: decoded, and enlarged by the model's own enlarger if it has one. A job that
    /// only makes its first steps returns the samples.
    ///
    /// # Errors
    /// If a network fails.
    pub fn finish(&self, rows: Range<usize>, samples: &Batch) -> Result<HostTensor, PipelineError> {
        if self.stop.is_some() {
            return Ok(host(samples));
        }
        let mut made = self.decode(samples)?;
        let Some(enlarger) = &self.enlarger else { return Ok(made) };
        made.values.iter_mut().for_each(|v| *v = v.clamp(-1.0, 1.0));
        let count = self.request.count.min(rows.len().try_into().unwrap_or(self.request.count));
        let request = Request {
            count,
            chunk: self.request.chunk,
            precision: self.request.precision,
            ..Request::default()
        };
        let draws = StageNoise { draws: self.draws.clone(), stage: Stage::Enlarger, first: rows.start };
        let inputs = Inputs { small: Some(made), draws: Some(Arc::new(draws)), ..Inputs::default() };
        run(enlarger, &request, inputs)
    }
}
