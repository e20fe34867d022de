//! Solvers of the probability-flow ODE: each goes from one level to the next by one formula.

mod ddim;
mod dpmpp_2m;
mod runge_kutta;

use crate::{plan::NoiseRule, predict::Halt, trajectory::Step, vector::Vector};

pub use ddim::Ddim;
pub use dpmpp_2m::{Dpmpp2m, FinalOrder};
pub use runge_kutta::{HEUN, RungeKutta, Tableau};

/// A sampler's formula for one step.
pub trait Solver<V: Vector>: Send + Sync {
    /// Order of convergence of the global error, for smooth denoisers.
    fn order(&self) -> usize;

    /// How many past nodes it reads.
    fn memory(&self) -> usize {
        0
    }

    /// The sample at `s.to`.
    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt>;
}

#[derive(Clone, Copy, Debug)]
enum Formula {
    Ddim,
    Heun,
    Dpmpp2m,
}

/// A sampler by name: a solver, and the noise that its plan adds.
#[derive(Clone, Copy, Debug)]
pub struct SolverEntry {
    /// Its name.
    pub name: &'static str,
    /// Other names of the same formula.
    pub aliases: &'static [&'static str],
    /// What it is, in a line.
    pub summary: &'static str,
    /// Where it is from.
    pub paper: &'static str,
    /// Order of convergence; of a stochastic one, that of its solver.
    pub order: usize,
    /// Network evaluations per step.
    pub evaluations: usize,
    /// The noise that its plan adds: pass it to [`Plan::with_noise`](crate::Plan::with_noise).
    pub noise: NoiseRule,
    formula: Formula,
}

/// Every sampler, for menus, help and tests.
pub static SOLVERS: &[SolverEntry] = &[
    SolverEntry {
        name: "ddim",
        aliases: &["euler", "flow-euler", "dpmpp-1"],
        summary: "first order; DDIM, Euler and DPM-Solver++(1) are one formula",
        paper: "Song et al. 2021, arXiv:2010.02502",
        order: 1,
        evaluations: 1,
        noise: NoiseRule::None,
        formula: Formula::Ddim,
    },
    SolverEntry {
        name: "ddpm",
        aliases: &["euler-ancestral", "euler-a"],
        summary: "ancestral sampling with the posterior's variance; many steps",
        paper: "Ho et al. 2020, arXiv:2006.11239",
        order: 1,
        evaluations: 1,
        noise: NoiseRule::Ancestral { eta: 1.0 },
        formula: Formula::Ddim,
    },
    SolverEntry {
        name: "ddpm-large",
        aliases: &[],
        summary: "ddpm with the larger variance beta",
        paper: "Ho et al. 2020, arXiv:2006.11239",
        order: 1,
        evaluations: 1,
        noise: NoiseRule::FixedLarge,
        formula: Formula::Ddim,
    },
    SolverEntry {
        name: "heun",
        aliases: &["edm"],
        summary: "second order, two evaluations a step (one in the last)",
        paper: "Karras et al. 2022, arXiv:2206.00364, algorithm 1",
        order: 2,
        evaluations: 2,
        noise: NoiseRule::None,
        formula: Formula::Heun,
    },
    SolverEntry {
        name: "dpmpp-2m",
        aliases: &["dpm++2m"],
        summary: "second order, one evaluation a step; good from 15 steps on",
        paper: "Lu et al. 2022, arXiv:2211.01095, algorithm 2",
        order: 2,
        evaluations: 1,
        noise: NoiseRule::None,
        formula: Formula::Dpmpp2m,
    },
];

impl SolverEntry {
    /// The solver itself.
    pub fn build<V: Vector + 'static>(&self) -> Box<dyn Solver<V>> {
        match self.formula {
            Formula::Ddim => Box::new(Ddim),
            Formula::Heun => Box::new(HEUN),
            Formula::Dpmpp2m => Box::new(Dpmpp2m::default()),
        }
    }
}

/// The entry of a name or an alias.
pub fn find(name: &str) -> Option<&'static SolverEntry> {
    SOLVERS.iter().find(|entry| entry.name == name || entry.aliases.contains(&name))
}

/// The solver of a name or an alias, without its noise: see [`find`] for both.
pub fn solver<V: Vector + 'static>(name: &str) -> Option<Box<dyn Solver<V>>> {
    find(name).map(SolverEntry::build)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_orders_agree() {
        let names: Vec<_> = SOLVERS.iter().flat_map(|e| e.aliases.iter().chain([&e.name])).collect();
        for (i, name) in names.iter().enumerate() {
            assert!(!names[..i].contains(name), "{name} twice");
            assert!(find(name).is_some());
        }
        for entry in SOLVERS {
            assert_eq!(entry.build::<f64>().order(), entry.order, "{}", entry.name);
        }
        assert!(solver::<f64>("euler").is_some() && solver::<f64>("none such").is_none());
    }
}
