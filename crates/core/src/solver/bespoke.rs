//! A solver for one plan, in which every step is a weighted sum of the initial noise and of all predictions so far,
//! with its own weights: a "bespoke non-stationary" solver. Shaul et al. 2024, arXiv:2403.01329. Every
//! deterministic solver on a plan can be written in this form ([`Bespoke::of`]); better weights for one model are
//! learned ([`crate::tune`]).

use std::{cell::RefCell, sync::Arc};

use serde::{Deserialize, Serialize};

use super::Solver;
use crate::{
    level::Level,
    plan::{Move, Plan, PlanError},
    predict::{Halt, Prediction},
    schedule::NoiseSchedule,
    trajectory::{Step, sample},
    vector::Vector,
};

/// The levels at which the network is evaluated, and how its predictions are combined.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bespoke {
    /// The level of each evaluation, noisiest first. The `t` of a level may differ from that of its noise.
    pub levels: Vec<Level>,
    /// After evaluation `k`, counted from 0, the sample is `weights[k][0]·start + Σ weights[k][1+j]·x0_j` over the
    /// predictions `j = 0..=k`; after the last it is clean.
    pub weights: Vec<Vec<f64>>,
    /// Standard deviation of the initial noise.
    pub start_std: f64,
}

/// Why levels and weights do not define a solver.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BespokeError {
    /// An unexpected number of entries.
    #[error("{what}: found {found}, expected {expected}")]
    Length {
        /// What has the wrong length.
        what: String,
        /// Number of entries found.
        found: usize,
        /// Number of entries expected.
        expected: usize,
    },
    /// A value out of range.
    #[error("{what}: {reason}")]
    Value {
        /// Name of the value.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// A solver that cannot be written in this form.
    #[error("this plan and solver cannot be written as weighted sums of one prediction per step: {reason}")]
    NotLinear {
        /// The reason.
        reason: String,
    },
}

impl Bespoke {
    /// Determines the weights of `solver` on `plan` by running it on basis vectors.
    ///
    /// # Errors
    /// If the plan adds noise or does not descend to a clean level, or if the solver draws noise or does not
    /// evaluate the network exactly once per step.
    pub fn of(plan: &Plan, solver: &dyn Solver<Vec<f64>>) -> Result<Self, BespokeError> {
        let fail = |reason: String| BespokeError::NotLinear { reason };
        if plan.moves.iter().any(|m| !matches!(m, Move::Solve(_))) {
            return Err(fail("the plan does not only step down".into()));
        }
        let steps = plan.moves.len();
        let basis = |k: usize| -> Vec<f64> { (0..=steps).map(|i| f64::from(i == k)).collect() };
        let asked = RefCell::new(Vec::new());
        let answer = |x: &Vec<f64>, at: Level| {
            asked.borrow_mut().push((at, x.clone()));
            let x0 = basis(asked.borrow().len().min(steps));
            let eps = x.iter().zip(&x0).map(|(x, x0)| (x - at.alpha * x0) / at.sigma).collect();
            Prediction::new(x0, eps)
        };
        let drawn = RefCell::new(false);
        let mut noise = |like: &Vec<f64>, _: u64| {
            *drawn.borrow_mut() = true;
            like.clone()
        };
        let end = sample(plan, solver, &answer, basis(0), &mut noise).finish();
        let end = end.map_err(|e| fail(e.to_string()))?;
        if *drawn.borrow() {
            return Err(fail("the solver draws noise".into()));
        }
        let (levels, mut inputs): (Vec<Level>, Vec<Vec<f64>>) = asked.into_inner().into_iter().unzip();
        if levels.len() != steps {
            return Err(fail(format!("{} evaluations in {steps} steps", levels.len())));
        }
        inputs.push(end);
        let weights = inputs.into_iter().skip(1).enumerate().map(|(k, w)| w[..k + 2].to_vec()).collect();
        let made = Self { levels, weights, start_std: plan.start_std };
        made.check()?;
        Ok(made)
    }

    /// Network evaluations.
    pub fn evaluations(&self) -> usize {
        self.levels.len()
    }

    /// Checks levels and weights.
    ///
    /// # Errors
    /// If they are empty, have the wrong lengths, are not finite, or the noise does not decrease from each level to
    /// the next.
    pub fn check(&self) -> Result<(), BespokeError> {
        let value = |what: String, reason: &str| Err(BespokeError::Value { what, reason: reason.into() });
        let expect = |what: String, found: usize, expected: usize| match found == expected {
            true => Ok(()),
            false => Err(BespokeError::Length { what, found, expected }),
        };
        if self.levels.is_empty() {
            return value("levels".into(), "expected at least one");
        }
        if !(self.start_std > 0.0 && self.start_std.is_finite()) {
            return value(format!("start_std = {}", self.start_std), "expected a finite number > 0");
        }
        expect("rows of weights".into(), self.weights.len(), self.levels.len())?;
        for (k, row) in self.weights.iter().enumerate() {
            expect(format!("weights[{k}]"), row.len(), k + 2)?;
            if row.iter().any(|w| !w.is_finite()) {
                return value(format!("weights[{k}]"), "expected finite numbers");
            }
        }
        let mut before = f64::INFINITY;
        for (k, level) in self.levels.iter().enumerate() {
            let Level { alpha, sigma, t } = *level;
            if !(alpha >= 0.0 && alpha.is_finite() && sigma > 0.0 && sigma.is_finite() && t.is_finite()) {
                return value(format!("levels[{k}]"), "expected finite alpha ≥ 0, sigma > 0 and t");
            }
            if k > 0 && level.nsr() >= before {
                return value(format!("levels[{k}]"), "expected less noise than the level before");
            }
            before = level.nsr();
        }
        Ok(())
    }

    /// The plan of this solver.
    ///
    /// # Errors
    /// [`PlanError::TooShort`] if there are no levels.
    pub fn plan(&self, schedule: Arc<dyn NoiseSchedule>) -> Result<Plan, PlanError> {
        let levels: Vec<Level> = self.levels.iter().copied().chain([Level::CLEAN]).collect();
        let start_std = self.start_std;
        Ok(Plan { start_std, ..Plan::through(schedule, &levels)? })
    }

    /// The sample after evaluation `k`, from the initial noise and the predictions so far.
    pub(crate) fn sum<V: Vector>(&self, k: usize, start: &V, answers: &[V]) -> V {
        Self::sum_of(&self.weights[k], start, answers)
    }

    /// The weighted sum of the initial noise and predictions.
    pub(crate) fn sum_of<V: Vector>(weights: &[f64], start: &V, answers: &[V]) -> V {
        let parts = std::iter::once(start).chain(answers);
        let terms: Vec<(f64, &V)> = weights.iter().copied().zip(parts).collect();
        V::lin(&terms)
    }
}

impl<V: Vector> Solver<V> for Bespoke {
    fn order(&self) -> usize {
        1
    }

    fn memory(&self) -> usize {
        self.levels.len()
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let fresh = s.predict()?.x0;
        let k = s.index;
        let pasts: Option<Vec<_>> = (1..=k).rev().map(|back| s.past(back)).collect();
        let (Some(row), Some(pasts)) = (self.weights.get(k), pasts) else {
            return Err(Halt::Failed("a learned solver can only run its own plan, from the start".into()));
        };
        let start = pasts.first().map_or(&s.x, |node| &node.x);
        let answers = pasts.iter().map(|node| &node.prediction.x0).chain([&fresh]);
        let terms: Vec<(f64, &V)> = row.iter().copied().zip(std::iter::once(start).chain(answers)).collect();
        Ok(V::lin(&terms))
    }
}
