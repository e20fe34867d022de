//! AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) as in PyTorch, with state by parameter name.

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleMapper, Param, ParamId},
    tensor::{DType, Device, Tensor, TensorData},
};
use serde::{Deserialize, Serialize};
use tweedie_models::params::{HostTensor, TensorSource};
use tweedie_ops::{AdamW, adamw, adamw_averaged, lerp};

pub use crate::gradients::GradientMap;
use crate::{
    ema::{PutBack, Taken},
    error::TrainError,
};

/// The `[optimizer]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Decay rate of the mean of gradients, ≥ 0 and < 1.
    pub beta1: f64,
    /// Decay rate of the mean of squared gradients, ≥ 0 and < 1.
    pub beta2: f64,
    /// Added to the denominator, > 0.
    pub eps: f64,
    /// Decoupled weight decay, ≥ 0.
    pub weight_decay: f64,
    /// Whether weight decay also applies to biases, norms and embeddings.
    pub decay_all: bool,
    /// Maximum norm of the gradient, which is scaled down to it; 0 turns clipping off.
    pub clip_norm: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.01, decay_all: false, clip_norm: 1.0 }
    }
}

impl OptimizerConfig {
    pub(crate) fn check(&self) -> Result<(), TrainError> {
        for (key, v) in [("optimizer.beta1", self.beta1), ("optimizer.beta2", self.beta2)] {
            if !(0.0..1.0).contains(&v) {
                return Err(TrainError::config(key, v, "a value ≥ 0 and < 1"));
            }
        }
        if !(self.eps > 0.0 && self.eps.is_finite()) {
            return Err(TrainError::config("optimizer.eps", self.eps, "a value > 0"));
        }
        for (key, v) in
            [("optimizer.weight_decay", self.weight_decay), ("optimizer.clip_norm", self.clip_norm)]
        {
            if !(v >= 0.0 && v.is_finite()) {
                return Err(TrainError::config(key, v, "a value ≥ 0"));
            }
        }
        Ok(())
    }
}

/// The running means of a parameter, flat.
struct Moments {
    mean: Tensor<1>,
    square: Tensor<1>,
    shape: Vec<usize>,
}

/// AdamW over a module's parameters.
pub struct Optimizer {
    config: OptimizerConfig,
    state: BTreeMap<String, Moments>,
    steps: u64,
}

impl Optimizer {
    /// Creates an optimizer without steps.
    pub fn new(config: &OptimizerConfig) -> Self {
        Self { config: config.clone(), state: BTreeMap::new(), steps: 0 }
    }

    /// Steps made.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Makes one step. A parameter without a gradient is not changed.
    pub fn step<M: Module>(&mut self, model: M, gradients: GradientMap, learning_rate: f64) -> M {
        model.map(&mut self.update(gradients, learning_rate, 0.0, BTreeMap::new()))
    }

    /// Like [`Optimizer::step`], and for each parameter also `average += weight·(parameter - average)`, where `average` is a copy
    /// of the model without autodiff; bit for bit like [`crate::ema::update`] after the step. Returns the model and the
    /// average.
    pub fn step_averaged<M: Module>(
        &mut self,
        model: M,
        gradients: GradientMap,
        learning_rate: f64,
        average: M,
        weight: f64,
    ) -> (M, M) {
        let mut taken = Taken::default();
        let emptied = average.map(&mut taken);
        let mut update = self.update(gradients, learning_rate, weight, taken.0);
        let model = model.map(&mut update);
        let average = emptied.map(&mut PutBack(update.averages));
        (model, average)
    }

    fn update(
        &mut self,
        gradients: GradientMap,
        learning_rate: f64,
        weight: f64,
        averages: BTreeMap<ParamId, Tensor<1>>,
    ) -> Update<'_> {
        self.steps += 1;
        let c = &self.config;
        let settings = AdamW {
            lr: learning_rate,
            beta1: c.beta1,
            beta2: c.beta2,
            eps: c.eps,
            weight_decay: c.weight_decay,
            step: self.steps,
        };
        Update {
            path: Vec::new(),
            gradients: gradients.0,
            state: &mut self.state,
            settings,
            decay_all: c.decay_all,
            averages,
            weight,
        }
    }

    /// Forgets the running means of the parameters for which `keep` is false.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.state.retain(|name, _| keep(name));
    }

    /// The running means as named tensors, with the prefix `mean.` or `square.` before the parameter's name.
    pub fn export(&self) -> BTreeMap<String, HostTensor> {
        let host = |t: &Tensor<1>, shape: &[usize]| {
            let data = t.clone().into_data().convert::<f32>();
            HostTensor { shape: shape.to_vec(), values: data.as_slice::<f32>().unwrap_or_default().to_vec() }
        };
        let both = |(name, m): (&String, &Moments)| {
            [
                (format!("mean.{name}"), host(&m.mean, &m.shape)),
                (format!("square.{name}"), host(&m.square, &m.shape)),
            ]
        };
        self.state.iter().flat_map(both).collect()
    }

    /// Restores exported running means after `steps` steps, for parameters of these `shapes`.
    ///
    /// # Errors
    /// Names the tensor that is missing, has the wrong shape, cannot be read, or does not belong to a parameter.
    pub fn import(
        config: &OptimizerConfig,
        steps: u64,
        source: &dyn TensorSource,
        shapes: &BTreeMap<String, Vec<usize>>,
        device: &Device,
    ) -> Result<Self, String> {
        let mut state = BTreeMap::new();
        for name in source.names() {
            let Some(parameter) = name.strip_prefix("mean.") else {
                if name.strip_prefix("square.").is_none_or(|p| !shapes.contains_key(p)) {
                    return Err(format!("unexpected tensor `{name}`, which does not belong to a parameter"));
                }
                continue;
            };
            let shape = shapes
                .get(parameter)
                .ok_or_else(|| format!("unexpected tensor `{name}`, which does not belong to a parameter"))?;
            let read = |name: &str| {
                let tensor = source.read(name).map_err(|e| format!("tensor `{name}`: {e}"))?;
                if tensor.shape != *shape {
                    return Err(format!("tensor `{name}` has shape {:?}, expected {shape:?}", tensor.shape));
                }
                let count = tensor.values.len();
                let data = TensorData::new(tensor.values, [count]);
                Ok(Tensor::<1>::from_data(data, (device, DType::F32)))
            };
            let (mean, square) = (read(&name)?, read(&format!("square.{parameter}"))?);
            state.insert(parameter.to_owned(), Moments { mean, square, shape: shape.clone() });
        }
        Ok(Self { config: config.clone(), state, steps })
    }
}

/// Whether weight decay applies to `name` with `rank` dimensions; not to biases, norms and embeddings.
fn decays(name: &str, rank: usize) -> bool {
    const EMBEDDINGS: [&str; 3] = ["class_embedding", "token_embedding", "position_embedding"];
    rank > 1 && !name.split('.').any(|part| EMBEDDINGS.iter().any(|e| part.starts_with(e)))
}

struct Update<'a> {
    path: Vec<String>,
    gradients: BTreeMap<String, Tensor<1>>,
    state: &'a mut BTreeMap<String, Moments>,
    settings: AdamW,
    decay_all: bool,
    /// Averages of some parameters, flat, and their update weights.
    averages: BTreeMap<ParamId, Tensor<1>>,
    weight: f64,
}

impl ModuleMapper for Update<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, p: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.join(".");
        let Some(gradient) = self.gradients.remove(&name) else {
            if let Some(average) = self.averages.remove(&p.id) {
                let value = p.val().without_autodiff();
                let count = value.shape().num_elements();
                self.averages.insert(p.id, lerp(average, value.reshape([count]), self.weight));
            }
            return p;
        };
        let (id, value, mapper) = p.consume();
        let shape = value.shape();
        let tracked = value.is_autodiff();
        let value = value.without_autodiff().reshape([shape.num_elements()]);
        let Moments { mean, square, .. } = self.state.remove(&name).unwrap_or_else(|| Moments {
            mean: value.zeros_like(),
            square: value.zeros_like(),
            shape: Vec::new(),
        });
        let mut settings = self.settings;
        if !self.decay_all && !decays(&name, D) {
            settings.weight_decay = 0.0;
        }
        let (value, mean, square) = match self.averages.remove(&id) {
            None => adamw(value, gradient, mean, square, settings),
            Some(average) => {
                let all = [value, mean, square, average];
                let [value, mean, square, average] = adamw_averaged(all, gradient, settings, self.weight);
                self.averages.insert(id, average);
                (value, mean, square)
            }
        };
        self.state.insert(name, Moments { mean, square, shape: shape.as_slice().to_vec() });
        let value = value.reshape(shape);
        let value = if tracked { Tensor::from_inner(value).require_grad() } else { value };
        Param::from_mapped_value(id, value, mapper)
    }
}

#[cfg(test)]
mod tests {
    use burn::module::ParamId;
    use serde_json::Value;
    use tweedie_models::params::{export, settle, shapes};

    use super::*;

    #[derive(Module, Debug)]
    struct Two {
        weight: Param<Tensor<2>>,
        bias: Param<Tensor<1>>,
    }

    fn tensor<const D: usize>(values: &Value, shape: [usize; D], device: &Device) -> Tensor<D> {
        let values: Vec<f32> =
            values.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
        Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
    }

    fn two(values: &Value, device: &Device) -> Two {
        let weight = tensor(&values["weight"], [3, 4], device).require_grad();
        let bias = tensor(&values["bias"], [4], device).require_grad();
        settle(Two {
            weight: Param::initialized(ParamId::new(), weight),
            bias: Param::initialized(ParamId::new(), bias),
        })
    }

    /// The gradients from autodiff for `Σ parameter·gradient`.
    fn gradients(model: &Two, step: &Value, device: &Device) -> GradientMap {
        let weight = tensor(&step["weight_grad"], [3, 4], device);
        let bias = tensor(&step["bias_grad"], [4], device);
        let loss = (model.weight.val() * weight).sum() + (model.bias.val() * bias).sum();
        GradientMap::take(model, &mut loss.backward())
    }

    /// Compared with torch.optim.AdamW: see tests/goldens/adamw.py. With an interruption in the middle.
    #[test]
    fn steps_are_those_of_pytorch() {
        let golden: Value = serde_json::from_str(include_str!("../tests/goldens/adamw.json")).unwrap();
        let device = Device::flex();
        let ad = device.clone().autodiff();
        let mut model = two(&golden, &ad);
        let config = OptimizerConfig { beta2: 0.95, weight_decay: 0.05, ..Default::default() };
        let mut optimizer = Optimizer::new(&config);
        for (i, step) in golden["steps"].as_array().unwrap().iter().enumerate() {
            let mut gradients = gradients(&model, step, &ad);
            let norm = step["norm"].as_f64().unwrap();
            assert!((gradients.norm().unwrap() / norm - 1.0).abs() < 1e-7);
            assert!(
                (crate::gradients::norm(gradients.squares_on_device()).unwrap() / norm - 1.0).abs() < 1e-6
            );
            model = optimizer.step(model, gradients, step["lr"].as_f64().unwrap());
            let found = export(&model);
            for name in ["weight", "bias"] {
                let expected = step[name].as_array().unwrap();
                for (a, b) in found[name].values.iter().zip(expected) {
                    let b = b.as_f64().unwrap();
                    assert!(
                        (f64::from(*a) - b).abs() <= 3e-7 * b.abs().max(1.0),
                        "step {i}, {name}: {a} {b}"
                    );
                }
            }
            if i == 2 {
                let state = optimizer.export();
                optimizer = Optimizer::import(&config, 3, &state, &shapes(&model), &device).unwrap();
            }
        }
    }

    #[test]
    fn an_average_moves_as_after_the_step() {
        let golden: Value = serde_json::from_str(include_str!("../tests/goldens/adamw.json")).unwrap();
        let device = Device::flex();
        let ad = device.clone().autodiff();
        let start = two(&golden, &ad);
        let (mut one, mut other) = (Optimizer::new(&Default::default()), Optimizer::new(&Default::default()));
        let (mut model, mut average) = (start.clone(), start.valid());
        let (mut fused, mut fused_average) = (start.clone(), start.valid());
        for (i, step) in golden["steps"].as_array().unwrap().iter().enumerate() {
            let mut found = gradients(&model, step, &ad);
            if i == 1 {
                // A parameter without a gradient does not change; its average moves.
                found.0.remove("bias");
            }
            let same = GradientMap(found.0.clone());
            model = one.step(model, found, 1e-2);
            average = crate::ema::update(average, &model, 0.3);
            (fused, fused_average) = other.step_averaged(fused, same, 1e-2, fused_average, 0.3);
            assert_eq!(export(&fused), export(&model), "step {i}");
            assert_eq!(export(&fused_average), export(&average), "step {i}");
        }
        assert_eq!(one.export(), other.export());
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_named() {
        let golden: Value = serde_json::from_str(include_str!("../tests/goldens/adamw.json")).unwrap();
        let ad = Device::flex().autodiff();
        let model = two(&golden, &ad);
        let loss = model.weight.val().sum() + (model.bias.val().mul_scalar(0.0)).log().sum();
        let mut gradients = GradientMap::take(&model, &mut loss.backward());
        assert_eq!(gradients.norm(), Err("bias".to_owned()));
    }

    #[test]
    fn state_of_other_parameters_is_refused() {
        let device = Device::flex();
        let tensor = |n| HostTensor { shape: vec![n], values: vec![0.0; n] };
        let source = |name: &str, n| {
            BTreeMap::from([(format!("mean.{name}"), tensor(n)), (format!("square.{name}"), tensor(n))])
        };
        let shapes = BTreeMap::from([("a".to_owned(), vec![3])]);
        let import = |source| Optimizer::import(&OptimizerConfig::default(), 1, &source, &shapes, &device);
        assert!(import(source("a", 3)).is_ok());
        assert!(import(source("b", 3)).err().unwrap().contains("mean.b"));
        assert!(import(source("a", 4)).err().unwrap().contains("shape [4], expected [3]"));
        let mut half = source("a", 3);
        half.remove("square.a");
        assert!(import(half).err().unwrap().contains("square.a"));
    }

    #[test]
    fn biases_norms_and_class_embeddings_do_not_decay() {
        assert!(decays("unet.conv_in.weight", 4) && decays("unet.time_embedding.linear_1.weight", 2));
        assert!(!decays("unet.conv_in.bias", 1) && !decays("unet.class_embedding.weight", 2));
    }
}
