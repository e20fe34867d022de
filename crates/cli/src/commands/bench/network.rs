//! Benchmarks of whole networks: a forward pass, a training step, a sampling run.

use std::{num::NonZeroUsize, ops::ControlFlow, path::Path, sync::atomic::AtomicBool, time::Instant};

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use tweedie::{
    core::noise::fill_normal,
    hub::{Extras, LatentClass, ModelDir, latent_dir, model_dir, weights::Precision},
    models::{self, Condition, Mode, Network, UNet2DConfig, UNet2DModel},
    ops::{self, Device},
    pipe::{LatentPipeline, Pipeline, Request},
    train::{
        ema,
        optim::{GradientMap, Optimizer, OptimizerConfig},
    },
};

use super::{
    MOST_PIXELS, Piece, layers,
    measure::{Bench, Work},
};
use crate::{builtin, process};

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

/// A latent model or a pixel model.
enum Subject {
    Pixels(Box<UNet2DModel>),
    Latents(Box<LatentPipeline>, Box<dyn Network>),
}

impl Subject {
    fn network(&self) -> &dyn Network {
        match self {
            Self::Pixels(unet) => &**unet,
            Self::Latents(_, network) => &**network,
        }
    }

    fn input(&self, bench: &Bench<'_>, batch: usize) -> Result<Input> {
        match self {
            Self::Pixels(unet) => Input::new(bench, unet, batch),
            Self::Latents(pipeline, _) => Input::of_latents(bench, pipeline, batch),
        }
    }
}

impl Bench<'_> {
    /// The class of the benchmarked model, if it is a latent model.
    pub fn latent_class(&self) -> Result<Option<LatentClass>> {
        Ok(self.args.model.as_deref().map(latent_dir::class_of).transpose()?.flatten())
    }

    /// The reason why training is not measured, if there is one.
    pub fn untrained(&self) -> Result<Option<&'static str>> {
        Ok(match (self.latent_class()?, self.args.precision) {
            (Some(_), _) => Some("training is only measured for models without latents"),
            (None, models::Precision::Int8) => Some("int8 weights cannot be trained"),
            _ => None,
        })
    }

    /// The benchmarked pipeline, if it is a latent model.
    fn latent_pipeline(&self) -> Result<Option<LatentPipeline>> {
        match (&self.args.model, self.latent_class()?) {
            (Some(folder), Some(_)) => Ok(Some(LatentPipeline::load(folder, &self.device)?)),
            _ => Ok(None),
        }
    }

    /// A request for `batch` images of a latent model.
    fn request(&self, class: LatentClass, batch: usize) -> Request {
        Request {
            count: NonZeroUsize::new(batch).unwrap_or(NonZeroUsize::MIN),
            prompts: if class.reads_texts() { vec![PROMPT.to_owned()] } else { Vec::new() },
            steps: Some(self.args.steps),
            size: self.args.size.map(|side| [side; 2]),
            precision: Some(self.args.precision),
            ..Request::default()
        }
    }

    /// The benchmarked pipeline.
    fn pipeline(&self, device: &Device) -> Result<Pipeline> {
        match (&self.args.model, self.args.network) {
            (Some(folder), _) => Ok(Pipeline::load(folder, device)?),
            (None, Named::BuiltIn) => builtin::pipeline(device),
            (None, Named::DdpmCifar10) => {
                let unet = random(device)?;
                Ok(Pipeline::from_parts(unet, process::scheduler("linear")?, Extras::default(), device))
            }
        }
    }

    /// The benchmarked network.
    fn network(&self, device: &Device) -> Result<UNet2DModel> {
        let network = match (&self.args.model, self.args.network) {
            (Some(folder), _) => ModelDir::open(folder)?.load_unet(device)?,
            (None, Named::BuiltIn) => builtin::pipeline(device)?.unet().clone(),
            (None, Named::DdpmCifar10) => random(device)?,
        };
        Ok(network.with_precision(self.args.precision))
    }

    /// Shape of the inputs, `[batch, channels, height, width]`.
    fn shape(&self, config: &UNet2DConfig, batch: usize) -> Result<[usize; 4]> {
        let made_for = config.sample_size.map_or([SIZE; 2], |s| s.dims());
        let [height, width] = self.args.size.map_or(made_for, |s| [s; 2]);
        let pixels = batch.saturating_mul(height).saturating_mul(width);
        ensure!(
            pixels <= MOST_PIXELS,
            "{batch} images of {height}x{width} pixels: expected at most {MOST_PIXELS} pixels in all"
        );
        Ok([batch, config.in_channels, height, width])
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

/// The checked inputs of a call.
struct Input {
    shape: [usize; 4],
    noise: Vec<f32>,
    times: Vec<f32>,
    condition: Condition,
}

impl Input {
    fn new(bench: &Bench<'_>, network: &UNet2DModel, batch: usize) -> Result<Self> {
        let config = network.config();
        let shape = bench.shape(config, batch)?;
        let times: Vec<f32> = (0..batch).map(|i| (i * 97 % 1000) as f32).collect();
        let condition = match config.num_class_embeds {
            Some(n) => Condition::classes((0..batch).map(|i| i % n).collect()),
            None => Condition::default(),
        };
        network.check(shape, &times, &condition)?;
        let mut noise = vec![0.0; shape.iter().product()];
        fill_normal(0, 0, &mut noise);
        Ok(Self { shape, noise, times, condition })
    }
}

impl Input {
    fn of_latents(bench: &Bench<'_>, pipeline: &LatentPipeline, batch: usize) -> Result<Self> {
        let plan = pipeline.resolve(&bench.request(pipeline.model().class, batch), false)?;
        let [c, h, w] = pipeline.latents_of(plan.size);
        let mut noise = vec![0.0; batch * c * h * w];
        fill_normal(0, 0, &mut noise);
        let times = (0..batch).map(|i| (i * 97 % 1000) as f32).collect();
        Ok(Self { shape: [batch, c, h, w], noise, times, condition: plan.condition(0..batch) })
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
    let subject = match bench.latent_pipeline()? {
        Some(pipeline) => {
            let (network, _) = pipeline.held_in(bench.args.precision);
            Subject::Latents(Box::new(pipeline), network)
        }
        None => Subject::Pixels(Box::new(bench.network(&bench.device)?)),
    };
    for (batch, name) in batches {
        let input = subject.input(bench, batch)?;
        let x = ops::from_host(input.noise, input.shape, &bench.device);
        f(batch, &name, &mut || {
            let y = subject.network().forward(x.clone(), &input.times, &input.condition, Mode::Eval);
            std::hint::black_box(ops::to_host(y));
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
        let Some(config) = &network else { continue };
        let input = Input::new(bench, config, batch)?;
        bench.time(Piece::Train, &name, Work::Images(batch), || {
            let (Some(model), Some(mean)) = (network.take(), average.take()) else { return Ok(()) };
            seed += 1;
            let x = ops::from_host(input.noise.clone(), input.shape, &bench.device);
            let output =
                model.forward(x.clone(), &input.times, &input.condition, Mode::Train { dropout_seed: seed });
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
    if let Some(pipeline) = bench.latent_pipeline()? {
        let never = AtomicBool::new(false);
        for (batch, name) in batches {
            let request = bench.request(pipeline.model().class, batch);
            bench.time(Piece::Sample, &name, Work::Images(batch), || {
                pipeline.run_from(&request, None, None, &never, &mut |_| ControlFlow::Continue(()))?;
                Ok(())
            })?;
        }
        return Ok(());
    }
    let pipeline = bench.pipeline(&bench.device)?;
    for (batch, name) in batches {
        let [_, _, height, width] = bench.shape(pipeline.unet().config(), batch)?;
        let request = Request {
            count: NonZeroUsize::new(batch).unwrap_or(NonZeroUsize::MIN),
            steps: Some(bench.args.steps),
            size: Some([height, width]),
            precision: Some(bench.args.precision),
            ..Request::default()
        };
        bench.time(Piece::Sample, &name, Work::Images(batch), || {
            pipeline.run(&request, &mut |_| ControlFlow::Continue(()))?;
            Ok(())
        })?;
    }
    Ok(())
}
