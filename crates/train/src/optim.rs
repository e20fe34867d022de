//! AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) as PyTorch defines it, with its state kept by parameter
//! name, and the norm of the whole gradient.

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{DType, Device, Gradients, Tensor, TensorData},
};
use serde::{Deserialize, Serialize};
use tweedie_models::params::{HostTensor, TensorSource};
use tweedie_ops::{AdamW, adamw};

use crate::error::TrainError;

/// The `[optimizer]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Decay of the mean of gradients, from 0 to below 1.
    pub beta1: f64,
    /// Decay of the mean of squared gradients, from 0 to below 1.
    pub beta2: f64,
    /// Added to the denominator, above 0.
    pub eps: f64,
    /// Decoupled decay of the weights, 0 or more.
    pub weight_decay: f64,
    /// Let biases, norms and embeddings decay too.
    pub decay_all: bool,
    /// The gradient is scaled down to this norm, if above; 0 for no clipping.
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
                return Err(TrainError::config(key, v, "0 up to, not including, 1"));
            }
        }
        if !(self.eps > 0.0 && self.eps.is_finite()) {
            return Err(TrainError::config("optimizer.eps", self.eps, "a number above 0"));
        }
        for (key, v) in
            [("optimizer.weight_decay", self.weight_decay), ("optimizer.clip_norm", self.clip_norm)]
        {
            if !(v >= 0.0 && v.is_finite()) {
                return Err(TrainError::config(key, v, "0 or more"));
            }
        }
        Ok(())
    }
}

/// A parameter's running means, flat.
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
    /// One that has not made a step.
    pub fn new(config: &OptimizerConfig) -> Self {
        Self { config: config.clone(), state: BTreeMap::new(), steps: 0 }
    }

    /// Steps made.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Makes one step. A parameter without a gradient is left as it is.
    pub fn step<M: Module>(&mut self, model: M, gradients: GradientMap, learning_rate: f64) -> M {
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
        model.map(&mut Update {
            path: Vec::new(),
            gradients: gradients.0,
            state: &mut self.state,
            settings,
            decay_all: c.decay_all,
        })
    }

    /// The running means as named tensors, `mean.` and `square.` before the parameter's name.
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

    /// Continues after `steps` steps from exported running means, for parameters of these `shapes`.
    ///
    /// # Errors
    /// Names the tensor that is missing, of another shape, unreadable, or of no parameter.
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
                    return Err(format!("tensor `{name}` belongs to no parameter"));
                }
                continue;
            };
            let shape =
                shapes.get(parameter).ok_or_else(|| format!("tensor `{name}` belongs to no parameter"))?;
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

/// Whether `name`, of `rank` dimensions, takes part in weight decay: not biases, norms and embeddings.
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
        let Some(gradient) = self.gradients.remove(&name) else { return p };
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
        let (value, mean, square) = adamw(value, gradient, mean, square, settings);
        self.state.insert(name, Moments { mean, square, shape: shape.as_slice().to_vec() });
        let value = value.reshape(shape);
        let value = if tracked { Tensor::from_inner(value).require_grad() } else { value };
        Param::from_mapped_value(id, value, mapper)
    }
}

/// Gradients by parameter name, flat, outside autodiff.
#[derive(Default)]
pub struct GradientMap(pub(crate) BTreeMap<String, Tensor<1>>);

impl GradientMap {
    /// Takes the gradients of `model`'s parameters out of a backward pass.
    pub fn take<M: Module>(model: &M, gradients: &mut Gradients) -> Self {
        let mut visitor = Take { path: Vec::new(), gradients, found: BTreeMap::new() };
        model.visit(&mut visitor);
        Self(visitor.found)
    }

    /// Adds the gradients of another pass over the same parameters.
    #[must_use]
    pub fn plus(mut self, other: Self) -> Self {
        for (name, gradient) in other.0 {
            let sum = match self.0.remove(&name) {
                Some(sum) => sum + gradient,
                None => gradient,
            };
            self.0.insert(name, sum);
        }
        self
    }

    /// The L2 norm over all parameters, summed in double precision in the order of their names; or the name
    /// of the first parameter whose gradient is not finite.
    ///
    /// # Errors
    /// That name.
    pub fn norm(&mut self) -> Result<f64, String> {
        let on_host = self.0.values().next().is_none_or(|g| g.device() == Device::flex());
        if !on_host {
            return self.norm_on_device();
        }
        let mut sum = 0.0;
        for (name, slot) in &mut self.0 {
            let device = slot.device();
            let gradient = std::mem::replace(slot, Tensor::empty([1], &device));
            // Without another owner the CPU hands its memory over, here and back.
            let data = gradient.into_data().convert::<f32>();
            let part = sum_of_squares(data.as_slice::<f32>().unwrap_or_default());
            *slot = Tensor::from_data(data, (&device, DType::F32));
            if !part.is_finite() {
                return Err(name.clone());
            }
            sum += part;
        }
        Ok(sum.sqrt())
    }

    /// Sums each gradient where it lies and reads all sums at once.
    fn norm_on_device(&self) -> Result<f64, String> {
        let sums = self.0.values().map(|g| (g.clone() * g.clone()).sum()).collect();
        let data = Tensor::<1>::cat(sums, 0).into_data().convert::<f32>();
        let sums = data.as_slice::<f32>().unwrap_or_default();
        match self.0.keys().zip(sums).find(|(_, part)| !part.is_finite()) {
            Some((name, _)) => Err(name.clone()),
            None => Ok(sums.iter().map(|&part| f64::from(part)).sum::<f64>().sqrt()),
        }
    }

    /// Multiplies all gradients by `factor`.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self(self.0.into_iter().map(|(name, g)| (name, g.mul_scalar(factor))).collect())
    }
}

/// Σ v² in double precision, always in the same order.
fn sum_of_squares(values: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 16];
    let chunks = values.chunks_exact(lanes.len());
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(v) * f64::from(v);
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>()
}

struct Take<'a> {
    path: Vec<String>,
    gradients: &'a mut Gradients,
    found: BTreeMap<String, Tensor<1>>,
}

impl ModuleVisitor for Take<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, p: &Param<Tensor<D>>) {
        if let Some(gradient) = p.val().grad_remove(self.gradients) {
            let count = gradient.shape().num_elements();
            self.found.insert(self.path.join("."), gradient.reshape([count]));
        }
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

    /// The gradients that autodiff finds for `Σ parameter·gradient`.
    fn gradients(model: &Two, step: &Value, device: &Device) -> GradientMap {
        let weight = tensor(&step["weight_grad"], [3, 4], device);
        let bias = tensor(&step["bias_grad"], [4], device);
        let loss = (model.weight.val() * weight).sum() + (model.bias.val() * bias).sum();
        GradientMap::take(model, &mut loss.backward())
    }

    /// Against torch.optim.AdamW: see tests/goldens/adamw.py. With a stop in the middle.
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
            assert!((gradients.norm_on_device().unwrap() / norm - 1.0).abs() < 1e-6);
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
