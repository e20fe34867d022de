//! Conversion between tensors and host memory.

use burn::{
    backend::ExecutionError,
    tensor::{DType, Device, Tensor, TensorData},
};

use crate::failure;

/// A tensor of `values` in row-major order, as 32-bit floats on `device`.
///
/// # Panics
/// If the number of values does not match `shape`.
pub fn from_host<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

/// The values of a tensor in row-major order, as 32-bit floats. Waits for the device.
///
/// # Panics
/// If the device has failed; see [`crate::guarded`].
pub fn to_host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    read(tensor.try_into_data())
}

/// The values of what a device answered.
pub(crate) fn read(answer: Result<TensorData, ExecutionError>) -> Vec<f32> {
    let data = answer.unwrap_or_else(|error| failure::fail(&error));
    failure::check();
    data.convert::<f32>().try_into_vec().expect("converted to f32")
}
