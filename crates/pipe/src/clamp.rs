//! Clamping of the predicted clean sample.

use burn::tensor::Tensor;
use tweedie_core::{Denoiser, Halt, Level, Prediction, lin};
use tweedie_hub::scheduler_config::{Clamp, ClampRange};
use tweedie_ops::Batch;

/// A denoiser whose `x0` is clamped and whose `eps` is recomputed, unless it is to be kept.
pub struct Clamped<'a> {
    /// The denoiser.
    pub inner: &'a dyn Denoiser<Batch<4>>,
    /// The range.
    pub clamp: Clamp,
}

impl Denoiser<Batch<4>> for Clamped<'_> {
    fn denoise(&self, x: &Batch<4>, at: Level) -> Result<Prediction<Batch<4>>, Halt> {
        let Prediction { x0, eps, null_eps, variance } = self.inner.denoise(x, at)?;
        let x0 = Batch(clamp(x0.0, self.clamp.range));
        let eps = if self.clamp.keep_eps { eps } else { noise_of(x, &x0, at).unwrap_or(eps) };
        Ok(Prediction { x0, eps, null_eps, variance })
    }
}

/// The noise that gives `x` together with `x0`; `None` at the clean level.
pub(crate) fn noise_of(x: &Batch<4>, x0: &Batch<4>, at: Level) -> Option<Batch<4>> {
    (!at.is_clean()).then(|| lin![1.0 / at.sigma => x, -at.alpha / at.sigma => x0])
}

/// Clamps each row of `x0: [B, C, H, W]`.
pub fn clamp(x0: Tensor<4>, range: ClampRange) -> Tensor<4> {
    match range {
        ClampRange::Static { limit } => x0.clamp(-limit as f32, limit as f32),
        ClampRange::Dynamic { ratio, max } => {
            let s = quantile(x0.clone().abs(), ratio).clamp(1.0f32, max as f32);
            x0.min_pair(s.clone()).max_pair(s.clone().neg()) / s
        }
    }
}

/// The `ratio` quantile of each row, interpolated linearly: `[B, 1, 1, 1]`.
pub(crate) fn quantile(x: Tensor<4>, ratio: f64) -> Tensor<4> {
    let [b, c, h, w] = x.dims();
    let last = (c * h * w).saturating_sub(1);
    let position = ratio * last as f64;
    let (below, fraction) = (position.floor() as usize, position.fract() as f32);
    let sorted = x.reshape([b, last + 1]).sort(1);
    let low = sorted.clone().narrow(1, below, 1);
    let high = sorted.narrow(1, (below + 1).min(last), 1);
    (low.clone() + (high - low).mul_scalar(fraction)).reshape([b, 1, 1, 1])
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, TensorData};

    use super::*;

    fn tensor(values: Vec<f32>, shape: [usize; 4]) -> Tensor<4> {
        let device = tweedie_ops::device("cpu").unwrap();
        Tensor::from_data(TensorData::new(values, shape), (&device, DType::F32))
    }

    fn values(x: Tensor<4>) -> Vec<f32> {
        x.into_data().iter::<f32>().collect()
    }

    #[test]
    fn static_range() {
        let x = tensor(vec![-3.0, -0.5, 0.5, 1.5], [1, 1, 2, 2]);
        assert_eq!(values(clamp(x, ClampRange::Static { limit: 1.0 })), [-1.0, -0.5, 0.5, 1.0]);
    }

    /// Computed by hand: magnitudes 0, 1, 2, 3, 4 have their 0.8 quantile at 3.2.
    #[test]
    fn dynamic_range_is_that_of_each_row() {
        let x = tensor(vec![0.0, -1.0, 2.0, -3.0, 4.0, 0.1, 0.2, 0.3, 0.4, 0.5], [2, 1, 1, 5]);
        let y = values(clamp(x, ClampRange::Dynamic { ratio: 0.8, max: 10.0 }));
        let expected = [0.0, -1.0 / 3.2, 2.0 / 3.2, -3.0 / 3.2, 1.0, 0.1, 0.2, 0.3, 0.4, 0.5];
        for (y, e) in y.iter().zip(expected) {
            assert!((y - e).abs() < 1e-6, "{y} {e}");
        }
    }

    #[test]
    fn eps_follows_unless_kept() {
        let at = Level { alpha: 0.8, sigma: 0.6, t: 1.0 };
        let x = Batch(tensor(vec![2.0, 0.2], [1, 1, 1, 2]));
        let inner = |x: &Batch<4>, at: Level| {
            let eps = Batch(x.0.clone() * 0.0);
            Prediction::new(lin![1.0 / at.alpha => x], eps)
        };
        let range = ClampRange::Static { limit: 1.0 };
        let kept = Clamped { inner: &inner, clamp: Clamp { range, keep_eps: true } };
        assert_eq!(values(kept.denoise(&x, at).unwrap().eps.0), [0.0, 0.0]);
        let follows = Clamped { inner: &inner, clamp: Clamp { range, keep_eps: false } };
        let p = follows.denoise(&x, at).unwrap();
        let back = values(lin![at.alpha => &p.x0, at.sigma => &p.eps].0);
        assert!((back[0] - 2.0).abs() < 1e-6 && (back[1] - 0.2).abs() < 1e-6, "{back:?}");
        assert_eq!(values(p.x0.0)[0], 1.0);
    }
}
