//! Clamping of the predicted clean sample.

use burn::tensor::Tensor;
use tweedie_core::{Level, Prediction, lin};
use tweedie_hub::scheduler_config::{Clamp, ClampRange};
use tweedie_ops::Batch;

/// The prediction with a clamped `x0`, and `eps` recomputed unless it is to be kept.
pub fn clamped(prediction: Prediction<Batch>, x: &Batch, at: Level, clamp: Clamp) -> Prediction<Batch> {
    let Prediction { x0, eps, null_eps, variance, pulled } = prediction;
    let x0 = x0.with_rows(self::clamp(x0.rows().clone(), clamp.range));
    let eps = if clamp.keep_eps { eps } else { noise_of(x, &x0, at).unwrap_or(eps) };
    Prediction { x0, eps, null_eps, variance, pulled }
}

/// The noise that gives `x` together with `x0`; `None` at the clean level.
pub(crate) fn noise_of(x: &Batch, x0: &Batch, at: Level) -> Option<Batch> {
    (!at.is_clean()).then(|| lin![1.0 / at.sigma => x, -at.alpha / at.sigma => x0])
}

/// Clamps each row of `x0`, `[B, values]`.
pub fn clamp(x0: Tensor<2>, range: ClampRange) -> Tensor<2> {
    match range {
        ClampRange::Static { limit } => x0.clamp(-limit as f32, limit as f32),
        ClampRange::Dynamic { ratio, max } => {
            let s = quantile(x0.clone().abs(), ratio).clamp(1.0f32, max as f32);
            x0.min_pair(s.clone()).max_pair(s.clone().neg()) / s
        }
    }
}

/// The `ratio` quantile of each row, interpolated linearly: `[B, 1]`.
pub(crate) fn quantile(x: Tensor<2>, ratio: f64) -> Tensor<2> {
    let last = x.dims()[1].saturating_sub(1);
    let position = ratio * last as f64;
    let (below, fraction) = (position.floor() as usize, position.fract() as f32);
    let sorted = x.sort(1);
    let low = sorted.clone().narrow(1, below, 1);
    let high = sorted.narrow(1, (below + 1).min(last), 1);
    low.clone() + (high - low).mul_scalar(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
        tweedie_ops::from_host(values, shape, &tweedie_ops::device("cpu").unwrap())
    }

    fn values(x: Tensor<2>) -> Vec<f32> {
        tweedie_ops::to_host(x)
    }

    #[test]
    fn static_range() {
        let x = tensor(vec![-3.0, -0.5, 0.5, 1.5], [1, 4]);
        assert_eq!(values(clamp(x, ClampRange::Static { limit: 1.0 })), [-1.0, -0.5, 0.5, 1.0]);
    }

    /// Computed by hand: magnitudes 0, 1, 2, 3, 4 have their 0.8 quantile at 3.2.
    #[test]
    fn dynamic_range_is_that_of_each_row() {
        let x = tensor(vec![0.0, -1.0, 2.0, -3.0, 4.0, 0.1, 0.2, 0.3, 0.4, 0.5], [2, 5]);
        let y = values(clamp(x, ClampRange::Dynamic { ratio: 0.8, max: 10.0 }));
        let expected = [0.0, -1.0 / 3.2, 2.0 / 3.2, -3.0 / 3.2, 1.0, 0.1, 0.2, 0.3, 0.4, 0.5];
        for (y, e) in y.iter().zip(expected) {
            assert!((y - e).abs() < 1e-6, "{y} {e}");
        }
    }

    #[test]
    fn eps_follows_unless_kept() {
        let at = Level { alpha: 0.8, sigma: 0.6, t: 1.0 };
        let x = Batch::of(tensor(vec![2.0, 0.2], [1, 2]));
        let predicted = || Prediction::new(lin![1.0 / at.alpha => &x], lin![0.0 => &x]);
        let range = ClampRange::Static { limit: 1.0 };
        let kept = clamped(predicted(), &x, at, Clamp { range, keep_eps: true });
        assert_eq!(kept.eps.to_host(), [0.0, 0.0]);
        let p = clamped(predicted(), &x, at, Clamp { range, keep_eps: false });
        let back = lin![at.alpha => &p.x0, at.sigma => &p.eps].to_host();
        assert!((back[0] - 2.0).abs() < 1e-6 && (back[1] - 0.2).abs() < 1e-6, "{back:?}");
        assert_eq!(p.x0.to_host()[0], 1.0);
    }
}
