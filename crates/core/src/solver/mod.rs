//! Solvers: each computes the sample at the next level with one formula of its paper. [`SOLVERS`] lists all.
//!
//! To add a solver, write its file, add a `mod` and a line to `solvers!`, and, if it needs no options, a row to [`SOLVERS`].

mod adams;
mod adaptive;
mod begun;
mod begun_pndm;
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
mod lms;
mod pndm;
mod registry;
mod runge_kutta;
mod sa;
mod strided_pndm;
mod unipc;

use crate::{
    predict::Halt,
    trajectory::{Step, Tolerance},
    vector::Vector,
};

pub use adaptive::Adaptive;
pub use bespoke::BespokeError;
pub use cfgpp::CfgPlusPlus;
pub use dpm_multistep::{Curvature, Rule};
pub use exponential::{FinalOrder, Form};
pub use pndm::Start;
pub use registry::{SOLVERS, SolverEntry, find, solver};
pub use runge_kutta::{CLASSICAL, HEUN, MIDPOINT, Tableau};
pub use unipc::{Bh, Uncorrected};

/// Exports the solvers of each file and makes them variants of [`AnySolver`]. The modules are declared outside, because
/// rustfmt formats no file whose module is declared by a macro.
macro_rules! solvers {
    ($($file:ident: $($solver:ident),+;)+) => {
        $(pub use $file::{$($solver),+};)+

        /// Any solver of this crate with its options, for any kind of sample.
        #[derive(Clone, Debug)]
        pub enum AnySolver {
            $($(
                #[doc = concat!("[`", stringify!($solver), "`]")]
                $solver($solver),
            )+)+
        }

        impl AnySolver {
            /// Creates the solver for one kind of sample.
            pub fn build<V: Vector + 'static>(&self) -> Box<dyn Solver<V>> {
                match self { $($(Self::$solver(solver) => Box::new(solver.clone())),+),+ }
            }
        }

        $($(impl From<$solver> for AnySolver {
            fn from(solver: $solver) -> Self {
                Self::$solver(solver)
            }
        })+)+
    };
}

solvers! {
    adams: GradientEstimation, Ipndm;
    adaptive: AdaptiveDpm;
    begun_pndm: BegunPndm;
    bespoke: Bespoke;
    cfgpp: DdimCfg, Dpmpp2mCfg;
    consistency: Consistency;
    ddim: Ddim;
    deis: Deis;
    dpm2: Dpm2;
    dpm_grouped: DpmGrouped;
    dpm_multistep: DpmMultistep;
    dpm_singlestep: DpmSinglestep;
    dpmpp_2m: Dpmpp2m;
    dpmpp_sde: DpmppSde;
    er_sde: ErSde;
    learned: LearnedVariance;
    lms: Lms;
    pndm: Pndm;
    runge_kutta: RungeKutta;
    sa: SaSolver;
    strided_pndm: StridedPndm;
    unipc: UniPc;
}

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
