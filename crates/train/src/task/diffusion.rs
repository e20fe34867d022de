//! Training a denoising network on images.

use std::sync::Arc;

use burn::module::Module;
use tweedie_data::Dataset;
use tweedie_models::{Mode, params::count};
use tweedie_ops::Device;

use super::{Files, Learned, Learner, Sheet, Size, StepAt, Task, Validation, learner::PassLoss};
use crate::{
    batches::{BatchMaker, HostBatch},
    checkpoint::Checkpoint,
    config::RunConfig,
    dry_run::{DryRun, Memory, fits, unet_activations},
    error::TrainError,
    event::Summary,
    export,
    importance::LossHistory,
    init,
    keys::{Purpose, key},
    model::TrainModel,
    objective::Objective,
    prefetch::Prefetch,
    preview,
};

/// The file with the last losses of all times.
const TIMES: &str = "times";

pub(super) struct Diffusion {
    config: RunConfig,
    device: Device,
    class_names: Vec<String>,
    maker: Arc<BatchMaker>,
    batches: Prefetch<Vec<HostBatch>>,
    /// Computed at the first use.
    validation: Option<Vec<HostBatch>>,
    learner: Learner<TrainModel>,
    objective: Objective,
    /// Set if times depend on the losses.
    history: Option<LossHistory>,
}

impl Diffusion {
    pub fn new(
        config: &RunConfig,
        data: &Dataset,
        device: &Device,
        from: Option<&Checkpoint>,
    ) -> Result<Self, TrainError> {
        let maker = Arc::new(BatchMaker::new(config, data)?);
        let unet = config.unet(data.class_names().len())?;
        let each = unet_activations(&unet, config.data.size, config.run.recompute);
        fits(config, &unet.block_out_channels, each.saturating_mul(config.run.batch as u64))?;
        let labels = config.augment.has_labels();
        let mut model = TrainModel::new(&unet, labels, config.run.seed, &device.clone().autodiff())?
            .with_precision(config.run.precision);
        if let (Some(path), None) = (&config.run.init, from) {
            model.unet = init::unet(model.unet, path, data.class_names())?;
        }
        let mut learner = Learner::new(model, config);
        let times = config.diffusion.train_steps;
        let mut history = config.loss.times.adapts().then(|| LossHistory::new(times));
        if let Some(checkpoint) = from {
            learner = learner.restored(checkpoint, checkpoint.state.step, device)?;
            if history.is_some() {
                let losses = LossHistory::import(&checkpoint.tensors(TIMES)?, times);
                history = Some(losses.map_err(|e| TrainError::checkpoint(&checkpoint.path, e))?);
            }
        }
        let of_step = maker.clone();
        Ok(Self {
            device: device.clone(),
            class_names: data.class_names().to_vec(),
            maker,
            batches: Prefetch::new("batches", move |step| of_step.step(step)),
            validation: None,
            learner,
            objective: Objective::new(config)?,
            history,
            config: config.clone(),
        })
    }
}

impl Task for Diffusion {
    fn size(&self) -> Size {
        let parameters = self.learner.model().map(count).unwrap_or(0);
        Size { parameters, images: self.maker.len(), held_out: self.maker.held_out() }
    }

    fn step(&mut self, at: &StepAt) -> Result<Learned, TrainError> {
        let run = &self.config.run;
        let mut batches = self.batches.at(at.done, &at.stop)?;
        if let Some(history) = &self.history {
            self.maker.draw_times(&mut batches, at.done, history);
        }
        let mut row_losses = Vec::new();
        let learned = self.learner.learn(&batches, at, |model, pass, batch| {
            let seed = key(run.seed, Purpose::Dropout, at.done * run.accumulation as u64 + pass as u64);
            let mode = Mode::Train { dropout_seed: seed };
            let found = self.objective.of(model, batch, at.rows, mode, &self.device);
            row_losses.extend(batch.levels.iter().copied().zip(found.rows));
            Ok(PassLoss { value: found.value, graph: found.graph })
        })?;
        if let Some(history) = &mut self.history {
            row_losses.into_iter().for_each(|(index, loss)| history.record(index, loss));
        }
        Ok(learned)
    }

    fn validate(&mut self) -> Result<Option<Validation>, TrainError> {
        let batches = match self.validation.take() {
            Some(batches) => batches,
            None => self.maker.validation(self.config.run.validation_images)?,
        };
        let rows: usize = batches.iter().map(HostBatch::len).sum();
        let of = |model: &TrainModel| -> f64 {
            let of_batch = |b| self.objective.of(model, b, rows, Mode::Eval, &self.device).value;
            batches.iter().map(of_batch).sum()
        };
        let found = (rows > 0).then(|| {
            let loss = of(&self.learner.model()?.valid());
            Ok(Validation { loss, ema_loss: self.learner.average().map(of), figures: Vec::new() })
        });
        self.validation = Some(batches);
        found.transpose()
    }

    fn preview(&mut self) -> Result<Sheet, TrainError> {
        let classes = self.config.conditioning.class_count(self.class_names.len());
        let images = preview::samples(&self.config, &self.learner.best()?, classes, &self.device)?;
        let columns = (images.len() as f64).sqrt().ceil() as usize;
        Ok(Sheet { images, columns })
    }

    fn tensors(&self) -> Files {
        let mut files = self.learner.tensors();
        files.extend(self.history.iter().map(|h| (TIMES.to_owned(), h.export())));
        files
    }

    fn averages(&self) -> Files {
        self.learner.averages()
    }

    fn export(&mut self, summary: &Summary) -> Result<(), TrainError> {
        export::model(&self.learner.best()?.unet, &self.config, &self.class_names, summary)
    }
}

/// The sizes of the network and of the data.
pub(super) fn plan(config: &RunConfig, data: &Dataset, device: &Device) -> Result<DryRun, TrainError> {
    let classes_in_model = config.conditioning.class_count(data.class_names().len());
    let classes = if classes_in_model.is_some() { data.class_names().to_vec() } else { Vec::new() };
    let unet = config.unet(data.class_names().len())?;
    let model = TrainModel::new(&unet, config.augment.has_labels(), config.run.seed, device)?;
    let activations =
        config.run.batch as u64 * unet_activations(&unet, config.data.size, config.run.recompute);
    let memory = Memory::of(count(&model), config.ema.averages().len(), activations);
    let networks = vec![("unet".to_owned(), unet.to_json())];
    DryRun::new(config, data, count(&model), classes, networks, memory)
}
