//! Pseudo linear multistep method: Adams–Bashforth weights of order 4 on `eps`, and DDIM's transfer. The first steps
//! use Runge–Kutta's or Heun's method. Liu et al. 2022, arXiv:2202.09778, algorithm 2. Order 2, because the
//! weights are those of equal steps; one evaluation, more at the start.

use super::{
    Solver,
    adams::{extrapolated, transfer},
};
use crate::{level::Level, lin, predict::Halt, trajectory::Step, vector::Vector};

/// How the first steps are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// One step of two evaluations, then lower orders: F-PNDM in diffusers with `skip_prk_steps`.
    #[default]
    Heun,
    /// Three steps of four evaluations, with stages half-way in time between their ends.
    RungeKutta,
}

/// PNDM.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pndm {
    /// How the first steps are computed.
    pub start: Start,
}

impl<V: Vector> Solver<V> for Pndm {
    fn order(&self) -> usize {
        2
    }

    fn memory(&self) -> usize {
        3
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let p = s.predict()?;
        let pasts = (1..=3).map_while(|k| s.past(k)).count();
        let few = pasts < if self.start == Start::Heun { 1 } else { 3 };
        if !few || s.to.is_clean() || s.from.alpha == 0.0 {
            return Ok(transfer(s, &p, &extrapolated(s, &p, 4)));
        }
        let moved = |s: &Step<'_, V>, eps: &V, to: Level| {
            let ratio = to.alpha / s.from.alpha;
            lin![ratio => &s.x, to.sigma - ratio * s.from.sigma => eps]
        };
        let to = s.to;
        let eps = match self.start {
            Start::Heun => {
                let end = s.predict_at(&moved(s, &p.eps, to), to)?.eps;
                lin![0.5 => &p.eps, 0.5 => &end]
            }
            Start::RungeKutta => {
                let middle = middle(s);
                let second = s.predict_at(&moved(s, &p.eps, middle), middle)?.eps;
                let third = s.predict_at(&moved(s, &second, middle), middle)?.eps;
                let fourth = s.predict_at(&moved(s, &third, to), to)?.eps;
                let (ends, inner) = (1.0 / 6.0, 1.0 / 3.0);
                lin![ends => &p.eps, inner => &second, inner => &third, ends => &fourth]
            }
        };
        Ok(transfer(s, &p, &eps))
    }
}

/// Half-way in time; in a table, half the distance below the start, rounded down.
fn middle<V: Vector>(s: &Step<'_, V>) -> Level {
    let half = 0.5 * (s.from.t - s.to.t);
    let whole = s.schedule().times().is_table() && s.from.t.fract() == 0.0;
    s.schedule().level(s.from.t - if whole { half.floor() } else { half })
}
