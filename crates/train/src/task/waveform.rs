//! Training a model of waveforms: see [`crate::wave`].

use tweedie_hub::{Model, weights::Precision};
use tweedie_models::{Mode, Network, UNet1DConfig, UNet1DModel, params::count};
use tweedie_ops::{Batch, Device, SampleShape};
use tweedie_pipe::{Inputs, Pipeline, Request};
use tweedie_system::memory;

use super::{
    Sheet,
    diffusion::{Diffusion, Subject},
};
use crate::{
    batches::HostBatch,
    checkpoint::Checkpoint,
    config::RunConfig,
    dry_run::{DryRun, Memory, in_main_memory, unet_1d_activations},
    error::TrainError,
    event::Summary,
    export, init, preview,
    share::Share,
    wave::{WaveSet, Windows},
};

pub(super) struct Waveforms {
    config: RunConfig,
    windows: Windows,
}

/// The task of a run.
pub(super) fn open(
    config: &RunConfig,
    data: &WaveSet,
    device: &Device,
    from: Option<&Checkpoint>,
    share: &Share,
) -> Result<Diffusion<Waveforms>, TrainError> {
    let unet = config.waveform.unet(&config.model)?;
    fits(config, &unet)?;
    let mut model = network(&unet, config, &device.clone().autodiff())?.with_context(config.run.context());
    if let (Some(path), None) = (&config.run.init, from) {
        model = init::waveform(model, path, device)?;
    }
    let windows = Windows::new(config, data)?;
    Diffusion::new(config, Waveforms { config: config.clone(), windows }, model, device, from, share)
}

fn network(unet: &UNet1DConfig, config: &RunConfig, device: &Device) -> Result<UNet1DModel, TrainError> {
    UNet1DModel::new(unet, config.run.seed, device).map_err(|e| TrainError::Model(e.to_string()))
}

/// Checks before anything is allocated whether there is memory.
fn fits(config: &RunConfig, unet: &UNet1DConfig) -> Result<(), TrainError> {
    let (batch, window) = (config.run.batch, config.waveform.window);
    // At least three convolutions of five positions at each length, with gradients and two means.
    let square = |c: &usize| (*c as u64).saturating_mul(*c as u64).saturating_mul(2 * 3 * 2 * 5 * 16);
    let weights = unet.block_out_channels.iter().map(square).fold(0, u64::saturating_add);
    // Sounds, noise, target and input of the current step and of one prepared ahead.
    let values = (2 * 4 * 4 * config.waveform.channels * window) as u64;
    let rows = values.saturating_mul(config.run.images_per_step() as u64);
    let activations = unet_1d_activations(unet, window).saturating_mul(batch as u64);
    let tensors = in_main_memory(&config.run, activations.saturating_add(weights));
    memory::check(tensors.saturating_add(rows)).map_err(|source| {
        let what =
            format!("run.batch = {batch}, waveform.window = {window}; lower one of them, or the network");
        TrainError::Memory { what, source }
    })
}

impl Waveforms {
    /// The pipeline of a network of the run.
    fn model(&self, network: UNet1DModel, path: &std::path::Path) -> Result<Model, TrainError> {
        let scheduler = self.config.diffusion.scheduler(path)?;
        Ok(Model::of_network(Box::new(network), scheduler, export::waveforms()))
    }
}

impl Subject for Waveforms {
    type Model = UNet1DModel;
    type Batches = Windows;

    fn batches(&self) -> &Windows {
        &self.windows
    }

    fn shape(&self) -> SampleShape {
        [self.config.waveform.channels, self.config.waveform.window].into()
    }

    fn forward(model: &UNet1DModel, x: Batch, rows: &HostBatch, mode: Mode) -> Result<Batch, TrainError> {
        Ok(Network::forward(model, x, &rows.times, &Default::default(), mode))
    }

    fn preview(&self, model: UNet1DModel, device: &Device, share: &Share) -> Result<Sheet, TrainError> {
        let pipeline = Pipeline::of(self.model(model, &self.config.run.out)?, device);
        let made = preview::samples(&self.config, &pipeline, Request::default(), Inputs::default(), share)?;
        Ok(preview::sheet(made, |count| (count as f64).sqrt().ceil() as usize))
    }

    fn export(&self, model: UNet1DModel, summary: &Summary) -> Result<(), TrainError> {
        let mut model = self.model(model, &summary.model)?;
        model.extras.training = export::training(&self.config, summary);
        Ok(model.save(&summary.model, Precision::F32)?)
    }
}

/// The sizes of the network and of the data.
pub(super) fn plan(config: &RunConfig, data: &WaveSet, device: &Device) -> Result<DryRun, TrainError> {
    let unet = config.waveform.unet(&config.model)?;
    let parameters = count(&network(&unet, config, device)?);
    let activations = config.run.batch as u64 * unet_1d_activations(&unet, config.waveform.window);
    let mut memory = Memory::of(parameters, config.ema.averages().len(), activations);
    memory.data = 4 * data.values() as u64;
    let [images, held_out] = data.sizes();
    let networks = vec![("unet".to_owned(), unet.to_json())];
    let classes = Vec::new();
    Ok(DryRun { config: config.to_toml()?, networks, parameters, images, held_out, classes, memory })
}
