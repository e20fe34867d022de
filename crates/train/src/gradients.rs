//! Gradients by parameter, and their norm.

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{DType, Device, Gradients, Tensor, TensorData},
};

/// Gradients by parameter name, flat, not tracked by autodiff.
#[derive(Default)]
pub struct GradientMap(pub(crate) BTreeMap<String, Tensor<1>>);

impl GradientMap {
    /// Takes the gradients of `model`'s parameters from a backward pass.
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

    /// The L2 norm over all parameters, summed in double precision in the order of their names.
    ///
    /// # Errors
    /// The name of the first parameter whose gradient is not finite.
    pub fn norm(&mut self) -> Result<f64, String> {
        norm(self.squares())
    }

    /// The sum of squares of each gradient, in the order of their names.
    pub(crate) fn squares(&mut self) -> Vec<(String, f64)> {
        let on_host = self.0.values().next().is_none_or(|g| g.device() == Device::flex());
        if !on_host {
            return self.squares_on_device();
        }
        let mut squares = Vec::with_capacity(self.0.len());
        for (name, slot) in &mut self.0 {
            let device = slot.device();
            let gradient = std::mem::replace(slot, Tensor::empty([1], &device));
            // Unshared memory is moved out and back without a copy.
            let data = gradient.into_data().convert::<f32>();
            let part = sum_of_squares(data.as_slice::<f32>().unwrap_or_default());
            *slot = Tensor::from_data(data, (&device, DType::F32));
            squares.push((name.clone(), part));
        }
        squares
    }

    /// Sums each gradient on its device and reads all sums at once.
    pub(crate) fn squares_on_device(&self) -> Vec<(String, f64)> {
        let sums = self.0.values().map(|g| (g.clone() * g.clone()).sum()).collect();
        let data = Tensor::<1>::cat(sums, 0).into_data().convert::<f32>();
        let sums = data.as_slice::<f32>().unwrap_or_default();
        self.0.keys().cloned().zip(sums.iter().map(|&part| f64::from(part))).collect()
    }

    /// The device of the gradients; `None` if there are none.
    pub(crate) fn device(&self) -> Option<Device> {
        self.0.values().next().map(Tensor::device)
    }

    /// The values in main memory.
    pub(crate) fn into_values(self) -> BTreeMap<String, Vec<f32>> {
        let host = |gradient: Tensor<1>| {
            let data = gradient.into_data().convert::<f32>();
            data.try_into_vec::<f32>().unwrap_or_default()
        };
        self.0.into_iter().map(|(name, gradient)| (name, host(gradient))).collect()
    }

    /// Gradients from values in main memory.
    pub(crate) fn from_values(values: BTreeMap<String, Vec<f32>>, device: Option<Device>) -> Self {
        let device = device.unwrap_or_else(Device::flex);
        let tensor = |values: Vec<f32>| {
            let count = values.len();
            Tensor::from_data(TensorData::new(values, [count]), (&device, DType::F32))
        };
        Self(values.into_iter().map(|(name, values)| (name, tensor(values))).collect())
    }

    /// Multiplies all gradients by `factor`.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self(self.0.into_iter().map(|(name, g)| (name, g.mul_scalar(factor))).collect())
    }
}

/// The L2 norm of all parameters, from the sum of squares of each.
///
/// # Errors
/// The name of the first sum that is not finite.
pub(crate) fn norm(squares: impl IntoIterator<Item = (String, f64)>) -> Result<f64, String> {
    let mut sum = 0.0;
    for (name, part) in squares {
        if !part.is_finite() {
            return Err(name);
        }
        sum += part;
    }
    Ok(sum.sqrt())
}

/// Σ v² in double precision, in a fixed order.
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
