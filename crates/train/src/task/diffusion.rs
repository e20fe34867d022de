//! Training a denoising network: one task for every source of samples, condition and network.

use std::{collections::BTreeMap, sync::Arc};

use burn::module::Module;
use tweedie_models::{Mode, params::count};
use tweedie_ops::{Batch, Device, SampleShape};

use super::{Files, Learned, Learner, Sheet, Size, StepAt, Task, Validation, learner::PassLoss};
use crate::{
    batches::{Batches, HostBatch},
    checkpoint::Checkpoint,
    config::RunConfig,
    error::TrainError,
    event::Summary,
    importance::LossHistory,
    keys::{Purpose, key},
    objective::Objective,
    optim::GradientMap,
    prefetch::Prefetch,
    share::Share,
};

/// The file with the last losses of all times.
const TIMES: &str = "times";

/// What differs between the tasks: where clean samples and conditions come from, the networks, and what is made of them.
pub(super) trait Subject: Send + Sync + 'static {
    /// The trained networks.
    type Model: Module;
    /// The data.
    type Batches: Batches;

    /// The data.
    fn batches(&self) -> &Self::Batches;

    /// The shape of a sample.
    fn shape(&self) -> SampleShape;

    /// The network's output for the noisy samples `x` of `rows`.
    fn forward(model: &Self::Model, x: Batch, rows: &RowsOf<Self>, mode: Mode) -> Result<Batch, TrainError>;

    /// Inputs besides configuration and checkpoint, each with a fingerprint.
    fn inputs(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// Samples of `model`; nothing on other ranks than the first. Collective.
    fn preview(&self, model: Self::Model, device: &Device, share: &Share) -> Result<Sheet, TrainError>;

    /// Writes `model` to the folder `summary.model`.
    fn export(&self, model: Self::Model, summary: &Summary) -> Result<(), TrainError>;
}

/// The rows of one forward and backward pass of a subject.
pub(super) type RowsOf<S> = <<S as Subject>::Batches as Batches>::Rows;

/// The training of a subject's networks.
pub(super) struct Diffusion<S: Subject> {
    config: RunConfig,
    device: Device,
    subject: Arc<S>,
    batches: Prefetch<Vec<RowsOf<S>>>,
    /// The batches of this rank, and the number of rows of all; computed at the first use.
    validation: Option<(Vec<RowsOf<S>>, usize)>,
    learner: Learner<S::Model>,
    objective: Objective,
    shape: SampleShape,
    /// Set if times depend on the losses.
    history: Option<LossHistory>,
    share: Share,
}

impl<S: Subject> Diffusion<S> {
    /// A run of `subject` with the initial networks `model`, or as it was at a checkpoint.
    pub fn new(
        config: &RunConfig,
        subject: S,
        model: S::Model,
        device: &Device,
        from: Option<&Checkpoint>,
        share: &Share,
    ) -> Result<Self, TrainError> {
        let mut learner = Learner::new(model, config, share);
        let times = config.diffusion.train_steps;
        let mut history = config.loss.times.adapts().then(|| LossHistory::new(times));
        if let Some(checkpoint) = from {
            learner = learner.restored(checkpoint, checkpoint.state.step, device)?;
            if history.is_some() {
                let losses = LossHistory::import(&checkpoint.tensors(TIMES)?, times);
                history = Some(losses.map_err(|e| TrainError::checkpoint(&checkpoint.path, e))?);
            }
        }
        let subject = Arc::new(subject);
        let (of_step, own) = (subject.clone(), share.own());
        Ok(Self {
            config: config.clone(),
            device: device.clone(),
            batches: Prefetch::new("batches", move |step| of_step.batches().step(step, own.clone())),
            validation: None,
            learner,
            objective: Objective::new(config)?,
            shape: subject.shape(),
            history,
            subject,
            share: share.clone(),
        })
    }
}

impl<S: Subject> Task for Diffusion<S> {
    fn size(&self) -> Size {
        let [images, held_out] = self.subject.batches().sizes();
        Size { parameters: self.learner.model().map(count).unwrap_or(0), images, held_out }
    }

    fn inputs(&self) -> Result<BTreeMap<String, String>, TrainError> {
        Ok(self.subject.inputs())
    }

    fn step(&mut self, at: &StepAt) -> Result<Learned, TrainError> {
        let run = &self.config.run;
        let mut batches = self.batches.at(at.done, &at.stop);
        if let (Some(history), Ok(batches)) = (&self.history, &mut batches) {
            let first = self.share.own().start * run.batch;
            let samples = batches.iter_mut().map(AsMut::as_mut);
            self.subject.batches().noising().draw_times(samples, at.done, first, history);
        }
        let adapts = self.history.is_some();
        let passes = self.learner.learn(batches, at, |model, pass, rows| {
            let seed = key(run.seed, Purpose::Dropout, at.done * run.accumulation as u64 + pass as u64);
            let samples: &HostBatch = rows.as_ref();
            let found = self.objective.of(samples, &self.shape, at.rows, &self.device, &|x| {
                S::forward(model, x, rows, Mode::Train { dropout_seed: seed })
            })?;
            let losses = samples.levels.iter().zip(&found.rows).filter(|_| adapts);
            let numbers = losses.flat_map(|(index, loss)| [*index as f64, *loss]).collect();
            Ok(PassLoss { value: found.value, graph: found.graph, others: GradientMap::default(), numbers })
        })?;
        if let Some(history) = &mut self.history {
            let rows = passes.numbers.iter().flat_map(|pass| pass.chunks_exact(2));
            rows.for_each(|row| history.record(row[0] as usize, row[1]));
        }
        Ok(passes.learned)
    }

    fn validate(&mut self) -> Result<Option<Validation>, TrainError> {
        let (batches, rows) = match self.validation.take() {
            Some(found) => found,
            None => {
                let most = self.config.run.validation_images;
                let batches = self.share.together(self.subject.batches().validation(most, &self.share))?;
                let own: usize = batches.iter().map(|batch| batch.as_ref().len()).sum();
                (batches, self.share.agree(Ok(own))?.into_iter().sum())
            }
        };
        let of = |model: &S::Model| -> Result<f64, TrainError> {
            let of_batch = |batch: &RowsOf<S>| {
                let forward = |x| S::forward(model, x, batch, Mode::Eval);
                Ok(self.objective.of(batch.as_ref(), &self.shape, rows, &self.device, &forward)?.value)
            };
            // Summed in the order of all batches.
            Ok(self.share.numbers(batches.iter().map(of_batch).collect())?.into_iter().sum())
        };
        let found = (rows > 0).then(|| {
            let loss = of(&self.learner.model()?.valid())?;
            let ema_loss = self.learner.average_everywhere()?.as_ref().map(of).transpose()?;
            Ok(Validation { loss, ema_loss, figures: Vec::new() })
        });
        self.validation = Some((batches, rows));
        found.transpose()
    }

    fn preview(&mut self) -> Result<Sheet, TrainError> {
        self.subject.preview(self.learner.best_everywhere()?, &self.device, &self.share)
    }

    fn tensors(&self) -> Result<Files, TrainError> {
        let mut files = self.learner.tensors()?;
        files.extend(self.history.iter().map(|h| (TIMES.to_owned(), h.export())));
        Ok(files)
    }

    fn fingerprint(&self) -> u32 {
        self.learner.fingerprint()
    }

    fn averages(&self) -> Files {
        self.learner.averages()
    }

    fn export(&mut self, summary: &Summary) -> Result<(), TrainError> {
        self.subject.export(self.learner.best()?, summary)
    }
}
