//! `tweedie sample --enlarge`: a second model enlarges the images.

use std::{ops::ControlFlow, path::Path, sync::atomic::AtomicBool};

use anyhow::{Result, ensure};
use tweedie::{
    ops::Device,
    pipe::{Event, Inputs, Output, Pipeline, PipelineError, Request},
};

use crate::ui::Ui;

/// The model of --enlarge.
pub(super) fn model(path: &Path, device: &Device, ui: Ui) -> Result<Pipeline> {
    let enlarger = crate::model::pipeline(Some(path), device, ui)?;
    ensure!(
        enlarger.model().small.is_some(),
        "--enlarge {}: this model does not enlarge images",
        path.display()
    );
    Ok(enlarger)
}

/// The same with larger images; `None` if it was interrupted.
pub(super) fn enlarged(
    enlarger: &Pipeline,
    output: Output,
    request: &Request,
    cancelled: &AtomicBool,
    ui: Ui,
) -> Result<Option<Output>> {
    ensure!(!output.images.is_empty(), "--enlarge: the model does not make images");
    let asked =
        Request { count: request.count, seed: request.seed, chunk: request.chunk, ..Request::default() };
    let asked = enlarger.describing(asked, &request.prompts);
    let inputs = Inputs::enlarging(&output.images)?;
    let job = enlarger.prepare_with(&asked, inputs)?;
    let bar = ui.bar(0, "steps");
    bar.set_message("enlarging");
    let run = job.run(cancelled, &mut |event| {
        if let Event::Step { index, of, .. } = event {
            bar.set_length(of as u64);
            bar.set_position(index as u64);
        }
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    match run {
        Err(PipelineError::Cancelled) => Ok(None),
        Err(error) => Err(error.into()),
        Ok(large) => Ok(Some(Output { evals: output.evals + large.evals, classes: output.classes, ..large })),
    }
}
