//! Solvers: each computes the sample at the next level with one formula of its paper. [`SOLVERS`] lists all.

mod adams;
mod adaptive;
mod bespoke;
mod cfgpp;
mod consistency;
mod ddim;
mod deis;
mod dpm2;
mod dpm_grouped;
mod dpm_multistep;
mod dpm_singlestep;
mod dpmpp_2m;
mod dpmpp_sde;
mod er_sde;
mod exponential;
mod learned;
mod pndm;
mod registry;
mod runge_kutta;
mod sa;
mod unipc;

use crate::{
    predict::Halt,
    trajectory::{Step, Tolerance},
    vector::Vector,
};

pub use adams::{GradientEstimation, Ipndm, Lms};
pub use adaptive::Adaptive;
pub use bespoke::{Bespoke, BespokeError};
pub use cfgpp::CfgPlusPlus;
pub use consistency::Consistency;
pub use ddim::Ddim;
pub use deis::Deis;
pub use dpm_grouped::DpmGrouped;
pub use dpm_multistep::{Curvature, DpmMultistep, Rule};
pub use dpm_singlestep::DpmSinglestep;
pub use dpm2::Dpm2;
pub use dpmpp_2m::Dpmpp2m;
pub use dpmpp_sde::DpmppSde;
pub use er_sde::ErSde;
pub use exponential::{FinalOrder, Form};
pub use learned::LearnedVariance;
pub use pndm::{Pndm, Start};
pub use registry::{SOLVERS, SolverEntry, find, solver};
pub use runge_kutta::{CLASSICAL, HEUN, MIDPOINT, RungeKutta, Tableau};
pub use sa::SaSolver;
pub use unipc::{Bh, Uncorrected, UniPc};

/// A sampler's formula for one step.
pub trait Solver<V: Vector>: Send + Sync {
    /// Order of convergence of the global error, for smooth denoisers and roughly equal steps in `lambda`. For a
    /// stochastic solver, its order without noise.
    fn order(&self) -> usize;

    /// How many past nodes it uses.
    fn memory(&self) -> usize {
        0
    }

    /// The error allowed for its steps, if it takes them of its own size between the plan's levels. It then tells
    /// its [lower order](Step::lower_order).
    fn tolerance(&self) -> Option<Tolerance> {
        None
    }

    /// The sample at `s.to`. Must do the same whenever it is called for the same step ([`Step`]), and pass on every
    /// [`Halt`].
    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt>;
}
