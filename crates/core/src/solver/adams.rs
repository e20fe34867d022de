//! Adams–Bashforth methods: the slope over a step is extrapolated from past predictions.
//!
//! - [`Ipndm`]: the weights for equal steps, whatever the step sizes are; the improved PNDM of Zhang & Chen 2022,
//!   arXiv:2204.13902.
//! - [`GradientEstimation`]: Permenter & Yuan 2024, arXiv:2306.04848.
//!
//! One evaluation per step each.

use super::Solver;
use crate::{
    lin,
    predict::{Halt, Prediction},
    trajectory::Step,
    vector::Vector,
};

/// Weights of the newest prediction and earlier ones, for equal steps.
pub(super) const EQUAL_STEPS: [&[f64]; 4] = [
    &[1.0],
    &[3.0 / 2.0, -1.0 / 2.0],
    &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
    &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
];

/// The noise over this step, extrapolated from the last `order` predictions (1 to 4) as if steps were equal.
pub(super) fn extrapolated<V: Vector>(s: &Step<'_, V>, p: &Prediction<V>, order: usize) -> V {
    let mut eps = vec![&p.eps];
    eps.extend((1..order).map_while(|k| s.past(k)).map(|node| &node.prediction.eps));
    let weights = EQUAL_STEPS[eps.len().min(4) - 1];
    let terms: Vec<(f64, &V)> = weights.iter().copied().zip(eps).collect();
    V::lin(&terms)
}

/// PNDM's transfer: DDIM's step with the noise `eps` instead of the predicted noise. Liu et al. 2022,
/// arXiv:2202.09778, eq. 11. From pure noise, which does not determine a clean sample, it equals DDIM's step.
pub(super) fn transfer<V: Vector>(s: &Step<'_, V>, p: &Prediction<V>, eps: &V) -> V {
    if s.from.alpha == 0.0 {
        return lin![s.to.alpha => &p.x0, s.to.sigma => &p.eps];
    }
    let ratio = s.to.alpha / s.from.alpha;
    lin![ratio => &s.x, s.to.sigma - ratio * s.from.sigma => eps]
}

/// iPNDM: extrapolates `eps`, with lower orders until there are enough predictions. Converges with order 2 at
/// most, because steps are never exactly equal.
#[derive(Clone, Copy, Debug)]
pub struct Ipndm {
    /// Number of predictions, 1 to 4.
    pub order: usize,
    /// Whether a step from pure noise treats the clean sample as zero: diffusers divides by an `alpha` of zero there
    /// and so ignores the prediction.
    pub zero_at_noise: bool,
}

impl Ipndm {
    /// Creates it for any start.
    pub const fn new(order: usize) -> Self {
        Self { order, zero_at_noise: false }
    }
}

impl<V: Vector> Solver<V> for Ipndm {
    fn order(&self) -> usize {
        self.order.min(2)
    }

    fn memory(&self) -> usize {
        self.order - 1
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let p = s.predict()?;
        if self.zero_at_noise && s.from.alpha == 0.0 {
            return Ok(lin![s.to.sigma / s.from.sigma => &s.x]);
        }
        Ok(transfer(s, &p, &extrapolated(s, &p, self.order)))
    }
}

/// DDIM with `eps` extrapolated beyond the last difference: `gamma·eps + (1 − gamma)·eps_before`.
#[derive(Clone, Copy, Debug)]
pub struct GradientEstimation {
    /// 2 in the paper; 1 is DDIM, 1.5 is `Ipndm` of order 2.
    pub gamma: f64,
}

impl<V: Vector> Solver<V> for GradientEstimation {
    fn order(&self) -> usize {
        1
    }

    fn memory(&self) -> usize {
        1
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let p = s.predict()?;
        let eps = match s.past(1) {
            Some(past) => lin![self.gamma => &p.eps, 1.0 - self.gamma => &past.prediction.eps],
            None => p.eps.clone(),
        };
        Ok(transfer(s, &p, &eps))
    }
}
