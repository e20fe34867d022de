//! A module in training: its weights, their averages, and its optimizer.

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use tweedie_models::{
    ExecContext,
    params::{export, import, shapes},
};
use tweedie_system::record;

use super::{Files, Learned, StepAt};
use crate::{
    checkpoint::Checkpoint,
    config::RunConfig,
    ema::{self, Average},
    error::TrainError,
    optim::{GradientMap, Optimizer, OptimizerConfig},
    share::{Owners, Share},
};

/// The contribution of a pass to a step's loss.
pub(crate) struct PassLoss {
    /// The value of the loss.
    pub value: f64,
    /// A tensor with the gradient of the loss.
    pub graph: Tensor<1>,
    /// Gradients of another module, for its own optimizer.
    pub others: GradientMap,
    /// Further numbers, which all ranks get.
    pub numbers: Vec<f64>,
}

/// What the passes of a step found.
pub(crate) struct Passes {
    /// The loss, and the norm of the gradient.
    pub learned: Learned,
    /// The sums of [`PassLoss::others`] that this process could make alone.
    pub others: Vec<GradientMap>,
    /// [`PassLoss::numbers`] of the passes of all ranks, in their order.
    pub numbers: Vec<Vec<f64>>,
}

/// A module in training.
pub(crate) struct Learner<M> {
    /// `None` only during an update.
    model: Option<M>,
    /// Only on the first rank.
    averages: Vec<(Average, M)>,
    /// Whether the first rank has averages.
    averaged: bool,
    optimizer: Optimizer,
    config: OptimizerConfig,
    /// What losses run in, as far as networks have no context of their own.
    context: ExecContext,
    prefix: &'static str,
    share: Share,
    owners: Owners,
}

impl<M: Module> Learner<M> {
    /// The main module of a run before the first step, with the run's averages, which only the first rank has.
    pub fn new(model: M, config: &RunConfig, share: &Share) -> Self {
        let mut laws = config.ema.averages();
        let averaged = !laws.is_empty();
        if !share.is_first() {
            laws.clear();
        }
        let averages = laws.into_iter().map(|law| (law, model.valid())).collect();
        Self {
            averages,
            averaged,
            context: config.run.context(),
            ..Self::plain(model, &config.optimizer, "", share)
        }
    }

    /// An additional module without averages, whose files have the prefix `prefix`.
    pub fn plain(model: M, config: &OptimizerConfig, prefix: &'static str, share: &Share) -> Self {
        Self {
            owners: Owners::new(&model, share.ranks().count()),
            model: Some(model),
            averages: Vec::new(),
            averaged: false,
            optimizer: Optimizer::new(config),
            config: config.clone(),
            context: ExecContext::default(),
            prefix,
            share: share.clone(),
        }
    }

    /// Restores the state at a checkpoint, after `steps` steps of this module.
    ///
    /// # Errors
    /// If the checkpoint belongs to other networks or optimizers.
    pub fn restored(mut self, from: &Checkpoint, steps: u64, device: &Device) -> Result<Self, TrainError> {
        let wrong = |e: &dyn std::fmt::Display| TrainError::checkpoint(&from.path, e);
        let model = self.model.take().ok_or_else(ended)?;
        let model = import(model, &from.tensors(&self.file("model"))?).map_err(|e| wrong(&e))?;
        for (index, (law, average)) in std::mem::take(&mut self.averages).into_iter().enumerate() {
            let tensors = from.tensors(&self.file(&ema_name(index)))?;
            self.averages.push((law, import(average, &tensors).map_err(|e| wrong(&e))?));
        }
        let tensors = from.tensors(&self.file("optimizer"))?;
        self.optimizer = Optimizer::import(&self.config, steps, &tensors, &shapes(&model), device)
            .map_err(|e| wrong(&e))?;
        let rank = self.share.ranks().rank();
        self.optimizer.retain(|name| self.owners.owns(rank, name));
        self.model = Some(model);
        Ok(self)
    }

    fn file(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The share of this process in the run.
    pub fn share(&self) -> &Share {
        &self.share
    }

    /// The module, tracked by autodiff.
    pub fn model(&self) -> Result<&M, TrainError> {
        self.model.as_ref().ok_or_else(ended)
    }

    /// Changes the module after a step. `change` must be the same on all ranks.
    pub fn change(&mut self, change: impl FnOnce(M) -> M) {
        self.model = self.model.take().map(change);
    }

    /// The first average, if there is one and this is the first rank.
    pub fn average(&self) -> Option<&M> {
        self.averages.first().map(|(_, model)| model)
    }

    /// The module for previews and export, without autodiff: the first average, or else the weights.
    pub fn best(&self) -> Result<M, TrainError> {
        match self.average() {
            Some(average) => Ok(average.clone()),
            None => self.model().map(Module::valid),
        }
    }

    /// The first average, if there is one, on all ranks. Collective.
    ///
    /// # Errors
    /// If another rank cannot be reached.
    pub fn average_everywhere(&self) -> Result<Option<M>, TrainError> {
        if !self.averaged {
            return Ok(None);
        }
        self.share.spread(&self.owners.of_first(), self.best()?).map(Some)
    }

    /// [`Learner::best`] on all ranks. Collective.
    ///
    /// # Errors
    /// If another rank cannot be reached.
    pub fn best_everywhere(&self) -> Result<M, TrainError> {
        match self.average_everywhere()? {
            Some(average) => Ok(average),
            None => self.best(),
        }
    }

    /// Makes one optimizer step with the sum of the losses of all passes. `batches` are those of this rank's passes; `loss`
    /// gets the number of the pass. Collective.
    ///
    /// # Errors
    /// That of `batches`, those of `loss`, those of other ranks, and if a loss or a gradient is not finite.
    pub fn learn<B>(
        &mut self,
        batches: Result<Vec<B>, TrainError>,
        at: &StepAt,
        mut loss: impl FnMut(&M, usize, &B) -> Result<PassLoss, TrainError>,
    ) -> Result<Passes, TrainError> {
        let (model, share) = (self.model()?, &self.share);
        // For each pass its loss, then its further numbers.
        let mut numbers: Vec<Vec<u64>> = Vec::new();
        let (mut reduction, mut others) = (share.reduction(&self.owners), Vec::new());
        let sums = batches.and_then(|batches| {
            let mut batches = batches.into_iter();
            let leaf = |pass| {
                let _span = record::span("compute");
                let batch = batches.next().ok_or_else(ended)?;
                let found = self.context.run(|| loss(model, pass, &batch))?;
                if !found.value.is_finite() {
                    return Err(at.not_finite("the loss"));
                }
                let all = std::iter::once(found.value).chain(found.numbers);
                numbers.push(all.map(f64::to_bits).collect());
                let mut gradients = found.graph.backward();
                Ok([GradientMap::take(model, &mut gradients), found.others])
            };
            let add = |[a, b]: [GradientMap; 2], [c, d]: [GradientMap; 2]| [a.plus(c), b.plus(d)];
            share.sums(leaf, add, |[own, other]| {
                reduction.give(own);
                others.push(other);
            })
        });
        reduction.given();
        // The other ranks learn of an error before the last sums have arrived.
        let told = self.share.tell(sums.map(|()| numbers))?;
        reduction.send_last();
        let mut total = 0.0;
        let mut numbers = Vec::new();
        for pass in told.heard()?.concat() {
            let mut pass = pass.into_iter().map(f64::from_bits);
            total += pass.next().unwrap_or(f64::NAN);
            numbers.push(pass.collect());
        }
        let grad_norm = self.apply(reduction.finish()?, at)?;
        Ok(Passes { learned: Learned { loss: total, grad_norm, figures: Vec::new() }, others, numbers })
    }

    /// Makes one optimizer step with the sums of gradients that this process could make alone. Returns the gradient's norm.
    /// Collective.
    ///
    /// # Errors
    /// If a gradient is not finite.
    pub fn step(&mut self, sums: Vec<GradientMap>, at: &StepAt) -> Result<f64, TrainError> {
        let mut reduction = self.share.reduction(&self.owners);
        sums.into_iter().for_each(|sum| reduction.give(sum));
        self.apply(reduction.finish()?, at)
    }

    /// Makes one optimizer step with the gradients of own parameters, clipped, and updates the averages. Returns the norm of
    /// all gradients. Collective.
    fn apply(&mut self, mut gradients: GradientMap, at: &StepAt) -> Result<f64, TrainError> {
        let norm = self.share.norm(&mut gradients)?;
        let norm = norm.map_err(|name| at.not_finite(format!("the gradient of {name}")))?;
        let clip = self.config.clip_norm;
        if clip > 0.0 && norm > clip {
            gradients = gradients.scaled(clip / norm);
        }
        let model = self.model.take().ok_or_else(ended)?;
        let (rate, weight) = (at.learning_rate, |law: &Average| law.weight(at.images, at.rows as u64));
        let mut averages = std::mem::take(&mut self.averages);
        let span = record::span("update");
        let model = if self.share.is_shared() {
            let model = self.optimizer.step(model, gradients, rate);
            drop(span);
            self.share.spread(&self.owners, model)?
        } else if averages.is_empty() {
            self.optimizer.step(model, gradients, rate)
        } else {
            // The first average is updated together with the parameters, which saves a pass over memory.
            let (law, average) = averages.remove(0);
            let weight = weight(&law);
            let (model, average) = self.optimizer.step_averaged(model, gradients, rate, average, weight);
            self.averages.push((law, average));
            model
        };
        let _span = record::span("update");
        let others =
            averages.into_iter().map(|(law, average)| (law, ema::update(average, &model, weight(&law))));
        self.averages.extend(others);
        self.model = Some(model);
        Ok(norm)
    }

    /// The weights, the averages and the optimizer's running means; complete on the first rank. Collective.
    ///
    /// # Errors
    /// If another rank cannot be reached.
    pub fn tensors(&self) -> Result<Files, TrainError> {
        let mut files: Files = self.model.iter().map(|m| (self.file("model"), export(m))).collect();
        files.extend(self.averages());
        files.push((self.file("optimizer"), self.share.collect(self.optimizer.export())?));
        Ok(files)
    }

    /// A checksum of the weights.
    pub fn fingerprint(&self) -> u32 {
        let tensors = self.model.as_ref().map(export).unwrap_or_default();
        let all = tensors.values().flat_map(|tensor| &tensor.values);
        all.fold(0, |sum, v| crc32c::crc32c_append(sum, &v.to_le_bytes()))
    }

    /// The averages.
    pub fn averages(&self) -> Files {
        let file = |index| self.file(&ema_name(index));
        self.averages.iter().enumerate().map(|(i, (_, m))| (file(i), export(m))).collect()
    }
}

fn ended() -> TrainError {
    TrainError::Model("the run has ended".into())
}

/// The file name of an average.
pub(crate) fn ema_name(index: usize) -> String {
    if index == 0 { "ema".into() } else { format!("ema-{index}") }
}
