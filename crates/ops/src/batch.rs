//! A batch of samples as a vector for the solvers of `tweedie-core`.

use burn::tensor::{DType, Tensor, TensorData};
use tweedie_core::{
    Vector,
    noise::{Noise, fill_normal},
};

use crate::{engine, to_host};

/// A batch of samples, one per entry of the first dimension.
#[derive(Clone, Debug)]
pub struct Batch<const D: usize>(pub Tensor<D>);

impl<const D: usize> Vector for Batch<D> {
    fn lin(terms: &[(f64, &Self)]) -> Self {
        if !terms.is_empty() && terms.iter().all(|(_, v)| engine::is_plain(&v.0)) {
            let plain = |v: &Self| engine::plain(v.0.clone()).expect("a CPU tensor");
            let terms = terms.iter().map(|(c, v)| (*c, plain(v))).collect();
            return Self(engine::wrap(engine::linear_combination(terms)));
        }
        let mut sum: Option<Tensor<D>> = None;
        for (c, v) in terms {
            let term = v.0.clone().mul_scalar(*c);
            sum = Some(match sum {
                Some(s) => s + term,
                None => term,
            });
        }
        Self(sum.expect("lin has at least one term"))
    }

    fn rms(&self) -> f64 {
        let data = self.0.clone().into_data().convert::<f32>();
        let values = data.as_slice::<f32>().expect("converted to f32");
        let sum: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
        (sum / values.len().max(1) as f64).sqrt()
    }

    fn dot(&self, other: &Self) -> f64 {
        let (a, b) = (to_host(self.0.clone()), to_host(other.0.clone()));
        a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    fn times_exp(&self, log: &Self) -> Self {
        Self(self.0.clone() * log.0.clone().exp())
    }
}

impl<const D: usize> Batch<D> {
    /// Whether every number is finite. A device other than the CPU is asked for one number.
    pub fn is_finite(&self) -> bool {
        if engine::is_plain(&self.0) {
            return engine::plain(self.0.clone()).is_some_and(engine::is_finite);
        }
        // A sum of finite numbers that is not finite has run over: only then each is looked at.
        let sum = self.0.clone().sum().into_scalar::<f32>();
        sum.is_finite() || self.rms().is_finite()
    }
}

/// Noise with one seed per row, drawn on the CPU, so that a row is the same in every batch and on every device.
#[derive(Clone, Debug)]
pub struct RowNoise(pub Vec<u64>);

impl RowNoise {
    /// Noise of draw number `draw`, one row per seed. The first dimension of `shape` is the number of seeds.
    pub fn tensor<const D: usize>(
        &self,
        shape: [usize; D],
        draw: u64,
        device: &burn::tensor::Device,
    ) -> Tensor<D> {
        let row: usize = shape[1..].iter().product();
        let mut values = vec![0.0f32; row * self.0.len()];
        for (seed, out) in self.0.iter().zip(values.chunks_mut(row.max(1))) {
            fill_normal(*seed, draw, out);
        }
        Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
    }
}

impl<const D: usize> Noise<Batch<D>> for RowNoise {
    fn normal(&mut self, like: &Batch<D>, draw: u64) -> Batch<D> {
        Batch(self.tensor(like.0.dims(), draw, &like.0.device()))
    }
}
