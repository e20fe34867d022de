//! A batch of samples as a vector for the solvers of `tweedie-core`.

use std::{fmt, ops::Range};

use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use tweedie_core::{
    Vector,
    noise::{Noise, fill_normal},
};

use crate::{engine, from_host, to_host};

/// The shape of one sample: channels, then its axes. `[C, T]` for signals, `[C, H, W]` for images, `[C, F, H, W]` for
/// clips.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SampleShape(Vec<usize>);

impl SampleShape {
    /// The shape with these channels and axes.
    pub fn new(channels: usize, axes: &[usize]) -> Self {
        Self(std::iter::once(channels).chain(axes.iter().copied()).collect())
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.0.first().copied().unwrap_or(1)
    }

    /// The other dimensions: length, or height and width, or frames, height and width.
    pub fn axes(&self) -> &[usize] {
        self.0.get(1..).unwrap_or_default()
    }

    /// All dimensions.
    pub fn dims(&self) -> &[usize] {
        &self.0
    }

    /// Number of values in one sample; saturates.
    pub fn len(&self) -> usize {
        self.0.iter().fold(1, |product, n| product.saturating_mul(*n))
    }

    /// Whether a sample has no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same axes with another number of channels.
    #[must_use]
    pub fn with_channels(&self, channels: usize) -> Self {
        Self::new(channels, self.axes())
    }

    /// The shape of a tensor of `rows` such samples.
    ///
    /// # Panics
    /// If a sample does not have `D - 1` dimensions.
    pub fn of_rows<const D: usize>(&self, rows: usize) -> [usize; D] {
        let all: Vec<usize> = std::iter::once(rows).chain(self.0.iter().copied()).collect();
        all.try_into().unwrap_or_else(|_| panic!("a sample of shape {self} has not {} dimensions", D - 1))
    }
}

impl From<&[usize]> for SampleShape {
    fn from(dims: &[usize]) -> Self {
        Self(dims.to_vec())
    }
}

impl<const N: usize> From<[usize; N]> for SampleShape {
    fn from(dims: [usize; N]) -> Self {
        Self(dims.to_vec())
    }
}

impl fmt::Display for SampleShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<_> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&dims.join("×"))
    }
}

/// A batch of samples of one shape. Solvers see rows of values, networks see their shape.
#[derive(Clone, Debug)]
pub struct Batch {
    rows: Tensor<2>,
    shape: SampleShape,
}

impl Vector for Batch {
    fn lin(terms: &[(f64, &Self)]) -> Self {
        let shape = terms.first().expect("lin has at least one term").1.shape.clone();
        if terms.iter().all(|(_, v)| engine::is_plain(&v.rows)) {
            let plain = |v: &Self| engine::plain(v.rows.clone()).expect("a CPU tensor");
            let terms = terms.iter().map(|(c, v)| (*c, plain(v))).collect();
            return Self { rows: engine::wrap(engine::linear_combination(terms)), shape };
        }
        let mut sum: Option<Tensor<2>> = None;
        for (c, v) in terms {
            let term = v.rows.clone().mul_scalar(*c);
            sum = Some(match sum {
                Some(s) => s + term,
                None => term,
            });
        }
        Self { rows: sum.expect("lin has at least one term"), shape }
    }

    fn rms(&self) -> f64 {
        let values = self.to_host();
        let sum: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
        (sum / values.len().max(1) as f64).sqrt()
    }

    fn dot(&self, other: &Self) -> f64 {
        let (a, b) = (self.to_host(), other.to_host());
        a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    fn times_exp(&self, log: &Self) -> Self {
        self.with_rows(self.rows.clone() * log.rows.clone().exp())
    }
}

impl Batch {
    /// A batch of the rows of `x`, `[B, …]`, whose other dimensions are the shape of a sample.
    pub fn of<const D: usize>(x: Tensor<D>) -> Self {
        let dims = x.dims();
        let shape = SampleShape::from(&dims[1..]);
        Self { rows: x.reshape([dims[0], shape.len()]), shape }
    }

    /// `rows` samples of `values`, row by row, on `device`.
    ///
    /// # Panics
    /// If the number of values does not match.
    pub fn from_host(values: Vec<f32>, rows: usize, shape: &SampleShape, device: &Device) -> Self {
        Self { rows: from_host(values, [rows, shape.len()], device), shape: shape.clone() }
    }

    /// The tensor `[B, …]`.
    ///
    /// # Panics
    /// If a sample does not have `D - 1` dimensions.
    pub fn tensor<const D: usize>(&self) -> Tensor<D> {
        self.rows.clone().reshape(self.shape.of_rows::<D>(self.len()))
    }

    /// The values, row by row. Waits for the device.
    pub fn to_host(&self) -> Vec<f32> {
        to_host(self.rows.clone())
    }

    /// The rows, `[B, values of a sample]`.
    pub fn rows(&self) -> &Tensor<2> {
        &self.rows
    }

    /// Other rows of the same shape.
    pub fn with_rows(&self, rows: Tensor<2>) -> Self {
        Self { rows, shape: self.shape.clone() }
    }

    /// The same rows as samples of `shape`, with as many values.
    ///
    /// # Panics
    /// If the number of values differs.
    pub fn shaped(&self, shape: &SampleShape) -> Self {
        assert_eq!(self.rows.dims()[1], shape.len(), "a row has as many values as a sample");
        Self { rows: self.rows.clone(), shape: shape.clone() }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.dims()[0]
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shape of a sample.
    pub fn shape(&self) -> &SampleShape {
        &self.shape
    }

    /// The device of the values.
    pub fn device(&self) -> Device {
        self.rows.device()
    }

    /// Some of the rows.
    pub fn narrow(&self, rows: Range<usize>) -> Self {
        self.with_rows(self.rows.clone().narrow(0, rows.start, rows.len()))
    }

    /// Some of the channels of all rows.
    pub fn channels(&self, channels: Range<usize>) -> Self {
        let area: usize = self.shape.axes().iter().product();
        let rows = self.rows.clone().narrow(1, channels.start * area, channels.len() * area);
        Self { rows, shape: self.shape.with_channels(channels.len()) }
    }

    /// The rows of all batches, which have one shape, in order.
    ///
    /// # Panics
    /// If there is no batch.
    pub fn cat(batches: &[Self]) -> Self {
        let first = batches.first().expect("at least one batch");
        if batches.len() == 1 {
            return first.clone();
        }
        first.with_rows(Tensor::cat(batches.iter().map(|b| b.rows.clone()).collect(), 0))
    }

    /// The channels of all batches, which have the same rows and axes, in order.
    ///
    /// # Panics
    /// If there is no batch.
    pub fn cat_channels(batches: &[Self]) -> Self {
        let first = batches.first().expect("at least one batch");
        let channels = batches.iter().map(|b| b.shape.channels()).sum();
        let rows = Tensor::cat(batches.iter().map(|b| b.rows.clone()).collect(), 1);
        Self { rows, shape: first.shape.with_channels(channels) }
    }

    /// The same values on another device.
    pub fn to_device(&self, device: &Device) -> Self {
        self.with_rows(self.rows.clone().to_device(device))
    }

    /// Whether every value is finite. A device other than the CPU returns one value.
    pub fn is_finite(&self) -> bool {
        if engine::is_plain(&self.rows) {
            return engine::plain(self.rows.clone()).is_some_and(engine::is_finite);
        }
        // A sum of finite values may overflow: then each value is checked.
        let sum = self.rows.clone().sum().into_scalar::<f32>();
        sum.is_finite() || self.rms().is_finite()
    }
}

/// Shape and values.
#[derive(Serialize, Deserialize)]
struct Stored {
    shape: SampleShape,
    values: Vec<f32>,
}

impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        Stored { shape: self.shape.clone(), values: self.to_host() }.serialize(out)
    }
}

/// On the CPU; see [`Batch::to_device`].
impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let Stored { shape, values } = Stored::deserialize(from)?;
        let each = shape.len();
        if each == 0 || !values.len().is_multiple_of(each) {
            let found = values.len();
            return Err(D::Error::custom(format!("{found} values do not make samples of shape {shape}")));
        }
        Ok(Self::from_host(values.clone(), values.len() / each, &shape, &Device::flex()))
    }
}

/// Noise with one seed per row, drawn on the CPU, so that a row is the same in every batch and on every device.
#[derive(Clone, Debug)]
pub struct RowNoise(pub Vec<u64>);

impl RowNoise {
    /// Noise of draw number `draw`, one row per seed. The first dimension of `shape` is the number of seeds.
    pub fn tensor<const D: usize>(&self, shape: [usize; D], draw: u64, device: &Device) -> Tensor<D> {
        let row: usize = shape[1..].iter().product();
        let mut values = vec![0.0f32; row * self.0.len()];
        for (seed, out) in self.0.iter().zip(values.chunks_mut(row.max(1))) {
            fill_normal(*seed, draw, out);
        }
        Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
    }

    /// Noise of draw number `draw`, one sample per seed.
    pub fn batch(&self, shape: &SampleShape, draw: u64, device: &Device) -> Batch {
        let rows = self.tensor([self.0.len(), shape.len()], draw, device);
        Batch { rows, shape: shape.clone() }
    }
}

impl Noise<Batch> for RowNoise {
    fn normal(&mut self, like: &Batch, draw: u64) -> Batch {
        self.batch(&like.shape, draw, &like.device())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Batch {
        let values = (0..24).map(|v| v as f32 / 7.0).collect();
        Batch::from_host(values, 2, &SampleShape::from([3, 2, 2]), &Device::flex())
    }

    #[test]
    fn rows_and_channels() {
        let x = batch();
        assert_eq!((x.len(), x.shape().channels(), x.shape().axes()), (2, 3, &[2, 2][..]));
        assert_eq!(x.tensor::<4>().dims(), [2, 3, 2, 2]);
        assert_eq!(Batch::of(x.tensor::<4>()).to_host(), x.to_host());
        let second = x.channels(1..2);
        assert_eq!(second.to_host()[..4], x.to_host()[4..8]);
        assert_eq!(second.shape().to_string(), "1×2×2");
        let parts = [x.channels(0..1), x.channels(1..3)];
        assert_eq!(Batch::cat_channels(&parts).to_host(), x.to_host());
        let halves = [x.narrow(0..1), x.narrow(1..2)];
        assert_eq!(Batch::cat(&halves).to_host(), x.to_host());
    }

    #[test]
    fn values_survive_json() {
        let text = serde_json::to_string(&batch()).unwrap();
        let back: Batch = serde_json::from_str(&text).unwrap();
        assert_eq!((back.to_host(), back.shape()), (batch().to_host(), batch().shape()));
        let wrong = serde_json::from_str::<Batch>(r#"{"shape":[2,2],"values":[1,2,3]}"#);
        assert!(wrong.unwrap_err().to_string().contains("2×2"));
    }
}
