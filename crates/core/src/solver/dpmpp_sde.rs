//! DPM-Solver++ (SDE): an ancestral step to the midpoint in `lambda`, then an ancestral step over the whole interval
//! with the prediction found there. The stochastic form of DPM-Solver++(2S), Lu et al. 2022, arXiv:2211.01095;
//! Katherine Crowson's `dpmpp_sde` in k-diffusion. Two evaluations, one in a step to a clean level.

use super::Solver;
use crate::{
    forward::posterior,
    level::Level,
    lin,
    predict::{Halt, Prediction},
    trajectory::Step,
    vector::Vector,
};

/// DPM-Solver++ (SDE).
#[derive(Clone, Copy, Debug)]
pub struct DpmppSde {
    /// Amount of noise: 0 is DPM-Solver++(2S), 1 the reversed diffusion.
    pub eta: f64,
}

impl DpmppSde {
    /// An ancestral step to `to` with a given prediction: down, then up with noise of the path.
    fn ancestral<V: Vector>(&self, s: &mut Step<'_, V>, p: &Prediction<V>, x0: &V, to: Level) -> V {
        let up = (self.eta * posterior(s.from, to).variance.sqrt()).min(to.sigma);
        let down = ((to.sigma - up) * (to.sigma + up)).sqrt();
        // The fraction of x that is kept; p splits it into clean sample and noise.
        let kept = down / to.alpha / s.from.nsr();
        let (alpha, from) = (to.alpha, s.from);
        let noise = s.increment(from, to);
        lin![alpha * (1.0 - kept) => x0, alpha * kept => &p.x0, down => &p.eps, up => &noise]
    }
}

impl<V: Vector> Solver<V> for DpmppSde {
    fn order(&self) -> usize {
        2
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let p = s.predict()?;
        let to = s.to;
        if to.is_clean() {
            return Ok(p.x0);
        }
        if !s.is_finite() {
            return Ok(self.ancestral(s, &p, &p.x0, to));
        }
        let middle = s.schedule().at_nsr((s.from.nsr() * to.nsr()).sqrt());
        let x = self.ancestral(s, &p, &p.x0, middle);
        let x0 = s.predict_at(&x, middle)?.x0;
        Ok(self.ancestral(s, &p, &x0, to))
    }
}
