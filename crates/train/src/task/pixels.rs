//! Training a denoising network on images.

use tweedie_data::Dataset;
use tweedie_models::{Mode, params::count};
use tweedie_ops::{Batch, Device, SampleShape};
use tweedie_pipe::{Inputs, Pipeline, Request};

use super::{
    Sheet,
    diffusion::{Diffusion, Subject},
};
use crate::{
    batches::{BatchMaker, HostBatch},
    checkpoint::Checkpoint,
    config::RunConfig,
    dry_run::{DryRun, Memory, fits, unet_activations},
    error::TrainError,
    event::Summary,
    export, init,
    model::TrainModel,
    preview,
    share::Share,
    task::TaskKind,
};

pub(super) struct Pixels {
    config: RunConfig,
    class_names: Vec<String>,
    maker: BatchMaker,
}

/// The task of a run.
pub(super) fn open(
    config: &RunConfig,
    data: &Dataset,
    device: &Device,
    from: Option<&Checkpoint>,
    share: &Share,
) -> Result<Diffusion<Pixels>, TrainError> {
    let maker = BatchMaker::new(config, data)?;
    let unet = config.unet(data.class_names().len())?;
    let each = unet_activations(&unet, config.trained_side(), config.run.recompute);
    fits(config, &unet.block_out_channels, each.saturating_mul(config.run.batch as u64))?;
    let labels = config.augment.has_labels();
    let mut model = TrainModel::new(&unet, labels, config.run.seed, &device.clone().autodiff())?
        .with_context(config.run.context());
    if let (Some(path), None) = (&config.run.init, from) {
        model.unet = init::unet(model.unet, path, data.class_names())?;
    }
    let subject = Pixels { config: config.clone(), class_names: data.class_names().to_vec(), maker };
    Diffusion::new(config, subject, model, device, from, share)
}

impl Subject for Pixels {
    type Model = TrainModel;
    type Batches = BatchMaker;

    fn batches(&self) -> &BatchMaker {
        &self.maker
    }

    fn shape(&self) -> SampleShape {
        let side = self.config.trained_side();
        [self.config.data.channels, side, side].into()
    }

    fn forward(model: &TrainModel, x: Batch, rows: &HostBatch, mode: Mode) -> Result<Batch, TrainError> {
        Ok(model.of_batch(x, rows, mode))
    }

    fn preview(&self, model: TrainModel, device: &Device, share: &Share) -> Result<Sheet, TrainError> {
        let scheduler = self.config.diffusion.scheduler(&self.config.run.out)?;
        let extras = export::extras(&self.config, &self.class_names);
        let pipeline = Pipeline::of_network(model.unet, scheduler, extras, device);
        let asked = Request { guidance: Some(1.0), ..Request::default() };
        if self.config.task == TaskKind::SuperResolution {
            return preview::enlarged(&self.config, &pipeline, self.maker.unseen(), share);
        }
        let made = preview::samples(&self.config, &pipeline, asked, Inputs::default(), share)?;
        Ok(preview::sheet(made, |count| (count as f64).sqrt().ceil() as usize))
    }

    fn export(&self, model: TrainModel, summary: &Summary) -> Result<(), TrainError> {
        export::model(&model.unet, &self.config, &self.class_names, summary)
    }
}

/// The sizes of the network and of the data.
pub(super) fn plan(config: &RunConfig, data: &Dataset, device: &Device) -> Result<DryRun, TrainError> {
    let classes_in_model = config.conditioning.class_count(data.class_names().len());
    let classes_in_model = classes_in_model.filter(|_| config.task == TaskKind::Diffusion);
    let classes = if classes_in_model.is_some() { data.class_names().to_vec() } else { Vec::new() };
    let unet = config.unet(data.class_names().len())?;
    let model = TrainModel::new(&unet, config.augment.has_labels(), config.run.seed, device)?;
    let activations =
        config.run.batch as u64 * unet_activations(&unet, config.trained_side(), config.run.recompute);
    let memory = Memory::of(count(&model), config.ema.averages().len(), activations);
    let networks = vec![("unet".to_owned(), unet.to_json())];
    DryRun::new(config, data, count(&model), classes, networks, memory)
}
