//! Benchmarks of whole networks: a forward pass, a training step, a sampling run.

use std::{num::NonZeroUsize, ops::ControlFlow, path::Path, time::Instant};

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use tweedie::{
    builtin,
    core::noise::fill_normal,
    hub::{Extras, ModelDir, PipelineKind, model::kind_of, model_dir, weights::Precision},
    models::{self, Conditions, Mode, UNet2DConfig, UNet2DModel},
    ops::{self, Batch, Device, ExecContext},
    pipe::{Job, Pipeline, Request},
    train::{
        ema,
        optim::{GradientMap, Optimizer, OptimizerConfig},
    },
};

use super::{
    MOST_PIXELS, Piece, layers,
    measure::{Bench, Work},
};
use crate::{model, process};

/// Built-in networks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Named {
    /// The U-Net of DDPM for CIFAR-10 (Ho et al. 2020, arXiv:2006.11239): 35.7 million parameters, 32×32 pixels, random
    /// weights.
    #[default]
    DdpmCifar10,
    /// The built-in emoji model.
    BuiltIn,
}

const DDPM_CIFAR10: &str = include_str!("ddpm-cifar10.json");
/// Width and height in pixels if neither flags nor network set them.
const SIZE: usize = 32;

/// The prompt for text-to-image models.
pub const PROMPT: &str = "a photograph of a small blue house";

impl Bench<'_> {
    fn kind(&self) -> Result<Option<&'static PipelineKind>> {
        match &self.args.model {
            Some(model) => Ok(kind_of(&model::path(model)?)?),
            None => Ok(None),
        }
    }

    /// Whether the benchmarked model needs a prompt.
    pub fn reads_texts(&self) -> Result<bool> {
        Ok(self.kind()?.is_some_and(PipelineKind::reads_texts))
    }

    /// The reason why training is not measured, if there is one.
    pub fn untrained(&self) -> Result<Option<&'static str>> {
        let trained = self.kind()?.is_none_or(PipelineKind::trained_in_pixels);
        Ok(match (trained, self.args.precision) {
            (false, _) => Some("training is only measured for models without latents"),
            (true, models::Precision::Int8) => Some("int8 weights cannot be trained"),
            _ => None,
        })
    }

    /// A request for `batch` images.
    fn request(&self, pipeline: &Pipeline, batch: usize) -> Result<Request> {
        let made_for = pipeline.native_size().unwrap_or_else(|| vec![SIZE; 2]);
        let size = self.args.size.map_or(made_for, |side| vec![side; 2]);
        let pixels = size.iter().fold(batch, |all, n| all.saturating_mul(*n));
        ensure!(
            pixels <= MOST_PIXELS,
            "{batch} images of {size:?} pixels: expected at most {MOST_PIXELS} pixels in all"
        );
        Ok(Request {
            count: NonZeroUsize::new(batch).unwrap_or(NonZeroUsize::MIN),
            prompts: if pipeline.reads_texts() { vec![PROMPT.to_owned()] } else { Vec::new() },
            steps: Some(self.args.steps),
            size: Some(size),
            precision: Some(self.args.precision),
            ..Request::default()
        })
    }

    /// What everything runs in.
    pub fn context(&self) -> ExecContext {
        let (precision, measure) = (self.args.precision, self.args.fastest_kernels);
        ExecContext { precision, measure, ..ExecContext::default() }
    }

    /// The benchmarked pipeline.
    fn pipeline(&self, device: &Device) -> Result<Pipeline> {
        let pipeline = match (&self.args.model, self.args.network) {
            (None, Named::DdpmCifar10) => {
                let (unet, scheduler) = (random(device)?, process::scheduler("linear")?);
                Pipeline::of_network(unet, scheduler, Extras::default(), device)
            }
            (model, _) => model::pipeline(model.as_deref(), device, self.ui)?,
        };
        Ok(pipeline.with_context(self.context()))
    }

    /// The network to train.
    fn network(&self, device: &Device) -> Result<UNet2DModel> {
        let network = match (&self.args.model, self.args.network) {
            (Some(model), _) => ModelDir::open(&model::path(model)?)?.load_unet(device)?,
            (None, Named::BuiltIn) => builtin::network(device)?,
            (None, Named::DdpmCifar10) => random(device)?,
        };
        Ok(network.with_context(self.context()))
    }
}

/// The network of `ddpm-cifar10.json`.
fn random(device: &Device) -> Result<UNet2DModel> {
    Ok(UNet2DModel::new(&UNet2DConfig::from_json(DDPM_CIFAR10)?, 0, device)?)
}

/// Writes the network with random weights as a model folder.
pub fn write_random(path: &Path, device: &Device) -> Result<()> {
    let scheduler = process::scheduler("linear")?;
    Ok(model_dir::save(path, &random(device)?, &scheduler, &Extras::default(), Precision::F32)?)
}

/// The inputs of a call.
struct Input {
    x: Batch,
    times: Vec<f32>,
    conditions: Conditions,
}

impl Input {
    fn new(bench: &Bench<'_>, job: &Job, batch: usize) -> Result<Self> {
        let times: Vec<f32> = (0..batch).map(|i| (i * 97 % 1000) as f32).collect();
        let mut noise = vec![0.0; batch * job.shape().len()];
        fill_normal(0, 0, &mut noise);
        let x = Batch::from_host(noise, batch, job.shape(), &bench.device);
        let conditions = job.conditions(0..batch);
        job.network().check(batch, job.shape(), &times, &conditions)?;
        Ok(Self { x, times, conditions })
    }
}

/// Measures passes of several batch sizes: `f` gets the size and name, and runs them.
fn passes(
    bench: &Bench<'_>,
    batches: Vec<(usize, String)>,
    mut f: impl FnMut(usize, &str, &mut dyn FnMut()) -> Result<()>,
) -> Result<()> {
    if batches.is_empty() {
        return Ok(());
    }
    let pipeline = bench.pipeline(&bench.device)?;
    for (batch, name) in batches {
        let job = pipeline.prepare(&bench.request(&pipeline, batch)?)?;
        let input = Input::new(bench, &job, batch)?;
        f(batch, &name, &mut || {
            let x = input.x.clone();
            let y = job.network().forward(x, &input.times, &input.conditions, Mode::Eval);
            std::hint::black_box(y.to_host());
        })?;
    }
    Ok(())
}

pub fn forward(bench: &Bench<'_>) -> Result<()> {
    passes(bench, bench.batches(Piece::Forward), |batch, name, pass| {
        bench.time(Piece::Forward, name, Work::Images(batch), || {
            pass();
            Ok(())
        })
    })
}

pub fn layers(bench: &Bench<'_>) -> Result<()> {
    let batches = bench.batches(Piece::Layers);
    if bench.device_name != "cpu" {
        bench.ui.note("skipping the layer benchmark, which only exists for the CPU");
        return Ok(());
    }
    passes(bench, batches, |_, name, pass| {
        (0..bench.args.warm_up).for_each(|_| pass());
        let runs = (0..bench.args.runs.get()).map(|_| {
            let start = Instant::now();
            let ((), layers) = ops::profile::profile(&mut *pass);
            (start.elapsed().as_secs_f64(), layers)
        });
        layers::report(bench, name, runs.collect());
        Ok(())
    })
}

pub fn train(bench: &Bench<'_>) -> Result<()> {
    /// Decay rate of the weight average.
    const DECAY: f64 = 0.9999;
    const LEARNING_RATE: f64 = 1e-4;

    let batches = bench.batches(Piece::Train);
    if let (false, Some(reason)) = (batches.is_empty(), bench.untrained()?) {
        bail!("train: {reason}");
    }
    for (batch, name) in batches {
        let mut network = Some(bench.network(&bench.device.clone().autodiff())?);
        let mut average = Some(bench.network(&bench.device)?);
        let mut optimizer = Optimizer::new(&OptimizerConfig::default());
        let mut seed = 0;
        let pipeline = bench.pipeline(&bench.device)?;
        let job = pipeline.prepare(&bench.request(&pipeline, batch)?)?;
        let input = Input::new(bench, &job, batch)?;
        bench.time(Piece::Train, &name, Work::Images(batch), || {
            let (Some(model), Some(mean)) = (network.take(), average.take()) else { return Ok(()) };
            seed += 1;
            let (x, mode) = (input.x.tensor::<4>(), Mode::Train { dropout_seed: seed });
            let output = model.forward(x.clone(), &input.times, &input.conditions, mode);
            let error = output - x.autodiff();
            let loss = (error.clone() * error).mean();
            let mut gradients = loss.backward();
            let gradients = GradientMap::take(&model, &mut gradients);
            let model = optimizer.step(model, gradients, LEARNING_RATE);
            average = Some(ema::update(mean, &model, 1.0 - DECAY));
            network = Some(model);
            Ok(())
        })?;
    }
    Ok(())
}

pub fn sample(bench: &Bench<'_>) -> Result<()> {
    let batches = bench.batches(Piece::Sample);
    if batches.is_empty() {
        return Ok(());
    }
    let pipeline = bench.pipeline(&bench.device)?;
    for (batch, name) in batches {
        let request = bench.request(&pipeline, batch)?;
        bench.time(Piece::Sample, &name, Work::Images(batch), || {
            pipeline.run(&request, &mut |_| ControlFlow::Continue(()))?;
            Ok(())
        })?;
    }
    Ok(())
}
