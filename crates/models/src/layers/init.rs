//! Initial values that only depend on a seed and the parameter's name.

use burn::{
    module::Param,
    tensor::{DType, Device, Tensor, TensorData},
};
use rand_distr::{Distribution, StandardUniform};
use tweedie_core::noise::{fill_normal, generator};

use crate::params::{hash, param_id};

/// The context in which a module is built: its path, the seed, the device.
///
/// Parameters are drawn at their first use, so they are never drawn for modules whose weights are imported.
#[derive(Clone, Debug)]
pub struct Init {
    seed: u64,
    device: Device,
    path: String,
}

impl Init {
    /// Creates the context for the root of a network.
    pub fn new(seed: u64, device: &Device) -> Self {
        Self { seed, device: device.clone(), path: String::new() }
    }

    /// The context for the field or list entry `name`.
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        let path = if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) };
        Self { path, ..self.clone() }
    }

    /// The path so far, for example `down_blocks.0.resnets.1`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// A parameter uniform between `-bound` and `bound`.
    pub fn uniform<const D: usize>(&self, name: &str, shape: [usize; D], bound: f64) -> Param<Tensor<D>> {
        self.param(name, shape, move |seed, values| {
            let mut rng = generator(seed, 0);
            for v in values {
                let u: f32 = StandardUniform.sample(&mut rng);
                *v = ((f64::from(u) * 2.0 - 1.0) * bound) as f32;
            }
        })
    }

    /// A normal parameter with mean 0 and standard deviation `std`.
    pub fn normal<const D: usize>(&self, name: &str, shape: [usize; D], std: f32) -> Param<Tensor<D>> {
        self.param(name, shape, move |seed, values| {
            fill_normal(seed, 0, values);
            values.iter_mut().for_each(|v| *v *= std);
        })
    }

    /// A constant parameter.
    pub fn constant<const D: usize>(&self, name: &str, shape: [usize; D], value: f32) -> Param<Tensor<D>> {
        self.filled(name, shape, move |values| values.fill(value))
    }

    /// A parameter with the values that `fill` writes.
    pub fn filled<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        fill: impl FnOnce(&mut [f32]) + Send + Sync + 'static,
    ) -> Param<Tensor<D>> {
        self.param(name, shape, move |_, values| fill(values))
    }

    fn param<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        fill: impl FnOnce(u64, &mut [f32]) + Send + Sync + 'static,
    ) -> Param<Tensor<D>> {
        let path = self.at(name).path;
        let seed = self.seed ^ hash(&path).rotate_left(17);
        let init = move |device: &Device, require_grad: bool| {
            let mut values = vec![0.0; shape.iter().product()];
            fill(seed, &mut values);
            let value = Tensor::from_data(TensorData::new(values, shape), (device, DType::F32));
            if require_grad { value.require_grad() } else { value }
        };
        Param::uninitialized(param_id(&path), init, self.device.clone(), true, shape.into())
    }
}
