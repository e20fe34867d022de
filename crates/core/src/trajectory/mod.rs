//! The one sampling loop: plan × solver × denoiser.
//!
//! A trajectory holds no model. It says where it needs a prediction ([`Poll::Ask`]) and continues once it has one. So the
//! caller decides which trajectories share a network call, and can store one across a restart. [`sample`] runs a single
//! trajectory with a single denoiser.

mod control;
mod state;
mod step;

use std::sync::Arc;

use crate::{
    level::Level,
    noise::Noise,
    plan::Plan,
    predict::{Denoiser, Halt, Prediction},
    solver::Solver,
    vector::Vector,
};

pub use control::Tolerance;
pub use state::{State, StateError};
pub use step::{Node, Step};

/// A trajectory after one of its moves.
#[derive(Clone, Debug)]
pub struct Moment<V> {
    /// Moves made so far.
    pub index: usize,
    /// Moves in the plan.
    pub of: usize,
    /// The level of `x`.
    pub level: Level,
    /// The sample.
    pub x: V,
    /// The last predicted clean sample, for previews; `None` after a move without evaluation.
    pub x0: Option<V>,
    /// Network evaluations so far.
    pub evals: usize,
}

/// What a trajectory needs or has done.
#[derive(Clone, Debug)]
pub enum Poll<V> {
    /// It needs the prediction for `x` at the level `at`: pass it to `answer`.
    Ask {
        /// The noisy sample.
        x: V,
        /// Its noise level.
        at: Level,
    },
    /// It has made a move.
    Moved(Moment<V>),
    /// It has made all moves. Contains the result.
    Done(V),
}

/// A sampling run that owns its plan, solver and noise. It can be paused, interleaved with others and resumed from its
/// [`State`].
///
/// ```
/// use std::sync::Arc;
/// use tweedie_core::{
///     Denoiser, Plan, oracle::Gaussian, noise::SeededNoise, plan::Final, schedule::TableSchedule, solver, spacing,
///     trajectory::{Poll, Trajectory},
/// };
/// let data = Gaussian::new(vec![1.0], vec![0.01])?;
/// let schedule = Arc::new(TableSchedule::linear(1000, 1e-4, 0.02)?);
/// let plan = Arc::new(Plan::descend(schedule, &spacing::trailing(1000, 10)?, Final::Clean)?);
/// let solver = solver::solver("dpmpp-2m").expect("a name of solver::SOLVERS").into();
/// let mut one = Trajectory::new(plan, solver, vec![0.3], Box::new(SeededNoise(7)));
/// let x = loop {
///     match one.poll()? {
///         Poll::Ask { x, at } => one.answer(data.denoise(&x, at)?),
///         Poll::Moved(_) => {}
///         Poll::Done(x) => break x,
///     }
/// };
/// assert!((x[0] - 1.0).abs() < 0.5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Trajectory<V> {
    plan: Arc<Plan>,
    solver: Arc<dyn Solver<V>>,
    noise: Box<dyn Noise<V> + Send>,
    state: State<V>,
}

impl<V: Vector> Trajectory<V> {
    /// Starts at `x`, already scaled to `plan.start`.
    pub fn new(plan: Arc<Plan>, solver: Arc<dyn Solver<V>>, x: V, noise: Box<dyn Noise<V> + Send>) -> Self {
        let state = State::new(&plan, x);
        Self { plan, solver, noise, state }
    }

    /// Resumes from a state of the same plan and solver; `noise` must be the same function of draws.
    ///
    /// # Errors
    /// If the state does not belong to this plan.
    pub fn resume(
        plan: Arc<Plan>,
        solver: Arc<dyn Solver<V>>,
        noise: Box<dyn Noise<V> + Send>,
        state: State<V>,
    ) -> Result<Self, StateError> {
        state.check(&plan)?;
        Ok(Self { plan, solver, noise, state })
    }

    /// Runs until it needs a prediction, has made a move, or is done.
    ///
    /// # Errors
    /// Those of the solver.
    pub fn poll(&mut self) -> Result<Poll<V>, Halt> {
        self.state.poll(&self.plan, &*self.solver, &mut *self.noise)
    }

    /// Passes the requested prediction. Ignored if none was requested.
    pub fn answer(&mut self, prediction: Prediction<V>) {
        self.state.answer(prediction);
    }

    /// Everything that it needs to continue, except the plan, the solver and the noise.
    pub fn state(&self) -> &State<V> {
        &self.state
    }

    /// Its plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }
}

/// One trajectory driven by one denoiser: yields a [`Moment`] after every move. Dropping it ends the run.
pub struct Samples<'a, V> {
    plan: &'a Plan,
    solver: &'a dyn Solver<V>,
    model: &'a dyn Denoiser<V>,
    noise: &'a mut dyn Noise<V>,
    state: State<V>,
    ended: bool,
}

/// Starts at `x` (already scaled to `plan.start`) and yields a [`Moment`] after every move. The last one holds the result.
pub fn sample<'a, V: Vector>(
    plan: &'a Plan,
    solver: &'a dyn Solver<V>,
    model: &'a dyn Denoiser<V>,
    x: V,
    noise: &'a mut dyn Noise<V>,
) -> Samples<'a, V> {
    Samples { plan, solver, model, noise, state: State::new(plan, x), ended: false }
}

impl<V: Vector> Samples<'_, V> {
    /// Runs to the end and returns the final sample.
    pub fn finish(mut self) -> Result<V, Halt> {
        for moment in self.by_ref() {
            moment?;
        }
        Ok(self.state.into_x())
    }

    fn advance(&mut self) -> Result<Option<Moment<V>>, Halt> {
        loop {
            match self.state.poll(self.plan, self.solver, self.noise)? {
                Poll::Ask { x, at } => {
                    let prediction = self.model.denoise(&x, at)?;
                    self.state.answer(prediction);
                }
                Poll::Moved(moment) => return Ok(Some(moment)),
                Poll::Done(_) => return Ok(None),
            }
        }
    }
}

impl<V: Vector> Iterator for Samples<'_, V> {
    type Item = Result<Moment<V>, Halt>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.advance().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}
