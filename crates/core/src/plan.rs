//! Which noise levels to visit, and where to add noise.
//!
//! Stochastic samplers are transformations of a plan, not solvers: DDPM, DDIM(eta) and the ancestral
//! samplers are all a deterministic step to a lower level followed by fresh noise.

use crate::level::Level;

/// One move of a trajectory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Move {
    /// Let the solver carry the sample to this level.
    Solve(Level),
    /// Run the forward process from the present level up to `to`, its noise multiplied by `scale`
    /// (1 keeps the marginals exact).
    Renoise {
        /// The noisier level reached.
        to: Level,
        /// Factor of the added noise.
        scale: f64,
    },
    /// Call the same sample by another level: some published samplers step to one level and then
    /// ask the network at another.
    Relabel(Level),
}

/// Where a trajectory starts, and its moves.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The level of the initial sample.
    pub start: Level,
    /// Standard deviation of the initial noise, by which the caller multiplies a standard normal.
    pub start_std: f64,
    /// The moves, in order.
    pub moves: Vec<Move>,
}

impl Plan {
    /// The deterministic plan that visits `levels` in order, the first being the start.
    /// `None` if fewer than two levels are given.
    pub fn through(levels: &[Level]) -> Option<Self> {
        let (&start, rest) = levels.split_first()?;
        if rest.is_empty() {
            return None;
        }
        let moves = rest.iter().map(|&l| Move::Solve(l)).collect();
        Some(Self { start, start_std: (start.alpha.powi(2) + start.sigma.powi(2)).sqrt(), moves })
    }

    /// How many times the solver is called.
    pub fn solves(&self) -> usize {
        self.moves.iter().filter(|m| matches!(m, Move::Solve(_))).count()
    }
}
