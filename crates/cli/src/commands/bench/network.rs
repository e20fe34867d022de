//! Whole networks: a pass, a training step, a sampling run.

use std::{num::NonZeroUsize, ops::ControlFlow, path::Path};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use tweedie::{
    core::noise::fill_normal,
    hub::{Extras, ModelDir, model_dir, weights::Precision},
    models::{self, Condition, Mode, Network, UNet2DConfig, UNet2DModel},
    ops::{self, Device},
    pipe::{Pipeline, Request},
    train::{
        ema,
        optim::{GradientMap, Optimizer, OptimizerConfig},
    },
};

use super::{
    MOST_PIXELS, Piece,
    measure::{Bench, Work},
};
use crate::{builtin, process};

/// Networks that need no folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Named {
    /// The 35.7 million parameters of Ho et al. 2020 (arXiv:2006.11239) for 32×32 pixels, with random weights.
    #[default]
    DdpmCifar10,
    /// The built-in emoji model.
    BuiltIn,
}

const DDPM_CIFAR10: &str = include_str!("ddpm-cifar10.json");
/// Edge in pixels where neither flags nor network say.
const SIZE: usize = 32;

impl Bench<'_> {
    /// The pipeline under test.
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

    /// The network under test.
    fn network(&self, device: &Device) -> Result<UNet2DModel> {
        ensure!(
            self.args.precision == models::Precision::F32 || ops::has_bf16(device),
            "--precision bf16: only the CPU computes with it, expected f32"
        );
        let network = match (&self.args.model, self.args.network) {
            (Some(folder), _) => ModelDir::open(folder)?.load_unet(device)?,
            (None, Named::BuiltIn) => builtin::pipeline(device)?.unet().clone(),
            (None, Named::DdpmCifar10) => random(device)?,
        };
        Ok(network.with_precision(self.args.precision))
    }

    /// `[batch, channels, height, width]` of its inputs.
    fn shape(&self, config: &UNet2DConfig, batch: usize) -> Result<[usize; 4]> {
        let made_for = config.sample_size.map_or([SIZE; 2], |s| s.dims());
        let [height, width] = self.args.size.map_or(made_for, |s| [s; 2]);
        let pixels = batch.saturating_mul(height).saturating_mul(width);
        ensure!(
            pixels <= MOST_PIXELS,
            "{batch} images of {height}x{width}: expected at most {MOST_PIXELS} pixels"
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

/// What a network is told in a call, checked.
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

pub fn forward(bench: &Bench<'_>) -> Result<()> {
    let batches = bench.batches(Piece::Forward);
    if batches.is_empty() {
        return Ok(());
    }
    let network = bench.network(&bench.device)?;
    for (batch, name) in batches {
        let input = Input::new(bench, &network, batch)?;
        let x = ops::from_host(input.noise, input.shape, &bench.device);
        bench.time(Piece::Forward, &name, Work::Images(batch), || {
            let y = network.forward(x.clone(), &input.times, &input.condition, Mode::Eval);
            std::hint::black_box(ops::to_host(y));
            Ok(())
        })?;
    }
    Ok(())
}

pub fn train(bench: &Bench<'_>) -> Result<()> {
    /// Of the weights' average.
    const DECAY: f64 = 0.9999;
    const LEARNING_RATE: f64 = 1e-4;

    for (batch, name) in bench.batches(Piece::Train) {
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
