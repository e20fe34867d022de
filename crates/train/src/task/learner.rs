//! A module in training: its weights, their averages, and its optimizer.

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use tweedie_models::{
    ExecContext,
    params::{export, import, shapes},
};

use super::{Files, Learned, StepAt};
use crate::{
    checkpoint::Checkpoint,
    config::RunConfig,
    ema::{self, Average},
    error::TrainError,
    optim::{GradientMap, Optimizer, OptimizerConfig},
};

/// The contribution of a pass to a step's loss.
pub(crate) struct PassLoss {
    /// The value of the loss.
    pub value: f64,
    /// A tensor with the gradient of the loss.
    pub graph: Tensor<1>,
}

/// A module in training.
pub(crate) struct Learner<M> {
    /// `None` only during an update.
    model: Option<M>,
    averages: Vec<(Average, M)>,
    optimizer: Optimizer,
    config: OptimizerConfig,
    /// What losses run in, as far as networks have no context of their own.
    context: ExecContext,
    prefix: &'static str,
}

impl<M: Module> Learner<M> {
    /// The main module of a run before the first step, with the run's averages.
    pub fn new(model: M, config: &RunConfig) -> Self {
        let averages = config.ema.averages().into_iter().map(|law| (law, model.valid())).collect();
        Self { averages, context: config.run.context(), ..Self::plain(model, &config.optimizer, "") }
    }

    /// An additional module without averages, whose files have the prefix `prefix`.
    pub fn plain(model: M, config: &OptimizerConfig, prefix: &'static str) -> Self {
        let optimizer = Optimizer::new(config);
        let (averages, config) = (Vec::new(), config.clone());
        Self { model: Some(model), averages, optimizer, config, context: ExecContext::default(), prefix }
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
        self.model = Some(model);
        Ok(self)
    }

    fn file(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The module, tracked by autodiff.
    pub fn model(&self) -> Result<&M, TrainError> {
        self.model.as_ref().ok_or_else(ended)
    }

    /// The first average, if there is one.
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

    /// Makes one optimizer step with the sum of the losses of `passes`. `loss` gets the index of the pass.
    ///
    /// # Errors
    /// Those of `loss`, and if a loss or a gradient is not finite.
    pub fn learn<B>(
        &mut self,
        passes: &[B],
        at: &StepAt,
        mut loss: impl FnMut(&M, usize, &B) -> Result<PassLoss, TrainError>,
    ) -> Result<Learned, TrainError> {
        let model = self.model()?;
        let (mut total, mut sum) = (0.0, None::<GradientMap>);
        for (pass, batch) in passes.iter().enumerate() {
            let found = self.context.run(|| loss(model, pass, batch))?;
            if !found.value.is_finite() {
                return Err(at.not_finite("the loss"));
            }
            total += found.value;
            let mut gradients = found.graph.backward();
            let gradients = GradientMap::take(model, &mut gradients);
            sum = Some(match sum {
                None => gradients,
                Some(sum) => sum.plus(gradients),
            });
        }
        let grad_norm = self.step(sum.unwrap_or_default(), at)?;
        Ok(Learned { loss: total, grad_norm, figures: Vec::new() })
    }

    /// Makes one optimizer step with clipped gradients, and updates the averages. Returns the gradient's norm.
    ///
    /// # Errors
    /// If a gradient is not finite.
    pub fn step(&mut self, mut gradients: GradientMap, at: &StepAt) -> Result<f64, TrainError> {
        let norm = gradients.norm().map_err(|name| at.not_finite(format!("the gradient of {name}")))?;
        let clip = self.config.clip_norm;
        if clip > 0.0 && norm > clip {
            gradients = gradients.scaled(clip / norm);
        }
        let model = self.model.take().ok_or_else(ended)?;
        let (rate, weight) = (at.learning_rate, |law: &Average| law.weight(at.images, at.rows as u64));
        let mut averages = std::mem::take(&mut self.averages).into_iter();
        // The first average is updated together with the parameters, which saves a pass over memory.
        let model = match averages.next() {
            None => self.optimizer.step(model, gradients, rate),
            Some((law, average)) => {
                let weight = weight(&law);
                let (model, average) = self.optimizer.step_averaged(model, gradients, rate, average, weight);
                self.averages.push((law, average));
                model
            }
        };
        let others = averages.map(|(law, average)| (law, ema::update(average, &model, weight(&law))));
        self.averages.extend(others);
        self.model = Some(model);
        Ok(norm)
    }

    /// The weights, the averages and the optimizer's running means.
    pub fn tensors(&self) -> Files {
        let mut files: Files = self.model.iter().map(|m| (self.file("model"), export(m))).collect();
        files.extend(self.averages());
        files.push((self.file("optimizer"), self.optimizer.export()));
        files
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
