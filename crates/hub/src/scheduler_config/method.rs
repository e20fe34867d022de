//! A solver with the options of a configuration.

use std::sync::Arc;

use tweedie_core::{
    Level, Plan, Solver, Vector,
    solver::{
        Bespoke, Consistency, Deis, DpmGrouped, DpmMultistep, Ipndm, SaSolver, SolverEntry, Uncorrected,
        UniPc,
    },
};

use super::{cogvideox::CogVideoX, ipndm::FromPureNoise, lms_begun::Lms, pndm::Pndm, pndm_begun};

/// The method that goes from one level to the next.
#[derive(Clone, Debug)]
pub(super) enum Method {
    /// A registered solver.
    Named(&'static SolverEntry),
    Pndm(Pndm),
    PndmBegun(pndm_begun::Begun),
    CogVideoX(CogVideoX),
    Ipndm(FromPureNoise<Ipndm>),
    Lms(Lms),
    DpmMultistep(DpmMultistep),
    DpmGrouped(DpmGrouped),
    Deis(Deis),
    UniPc(UniPc),
    SaSolver(SaSolver),
    Consistency(Consistency),
    Bespoke(Arc<Bespoke>),
}

impl Method {
    fn build<V: Vector + 'static>(&self) -> Box<dyn Solver<V>> {
        match self {
            Self::Named(entry) => entry.build(),
            Self::Pndm(solver) => Box::new(*solver),
            Self::PndmBegun(solver) => Box::new(solver.clone()),
            Self::CogVideoX(solver) => Box::new(*solver),
            Self::Ipndm(solver) => Box::new(*solver),
            Self::Lms(solver) => Box::new(*solver),
            Self::DpmMultistep(solver) => Box::new(*solver),
            Self::DpmGrouped(solver) => Box::new(*solver),
            Self::Deis(solver) => Box::new(*solver),
            Self::UniPc(solver) => Box::new(*solver),
            Self::SaSolver(solver) => Box::new(*solver),
            Self::Consistency(solver) => Box::new(*solver),
            Self::Bespoke(solver) => Box::new(Bespoke::clone(solver)),
        }
    }
}

/// A solver with its options, for any kind of sample.
#[derive(Clone, Debug)]
pub struct SolverChoice {
    pub(super) name: &'static str,
    pub(super) evaluations: usize,
    pub(super) method: Method,
}

impl SolverChoice {
    /// Its name, which is in [`SOLVERS`](tweedie_core::solver::SOLVERS) if it has no further options.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Network evaluations per step.
    pub fn evaluations(&self) -> usize {
        self.evaluations
    }

    /// Creates the solver.
    pub fn build<V: Vector + 'static>(&self) -> Box<dyn Solver<V>> {
        self.method.build()
    }

    /// The plan and the solver without the first `step` steps, if the solver has its own way to start there.
    pub(super) fn begun_at(&self, plan: &Plan, step: usize) -> Option<(Plan, Self)> {
        let Method::Pndm(solver) = &self.method else { return None };
        let (plan, begun) = solver.begun_at(plan, step)?;
        let method = begun.map_or(self.method.clone(), Method::PndmBegun);
        Some((plan, Self { method, ..self.clone() }))
    }

    /// The solver for a plan of `steps` steps without the first ones, which were at the levels `skipped`.
    pub(super) fn begun_after(mut self, skipped: &[Level], steps: usize) -> Self {
        match &mut self.method {
            Method::DpmGrouped(solver) => solver.steps = Some(steps),
            Method::UniPc(UniPc { uncorrected: Uncorrected::Steps(bits), .. }) => {
                *bits = bits.checked_shr(skipped.len() as u32).unwrap_or(0);
            }
            Method::Lms(solver) => *solver = Lms::begun_after(skipped),
            _ => {}
        }
        self
    }
}
