//! Some images of a job on their way: a trajectory that asks for network calls, and can be stored and resumed.

use std::{ops::Range, sync::Arc};

use serde::{Deserialize, Serialize};
use tweedie_core::{
    Halt, Level, Move,
    trajectory::{Poll, State, Trajectory},
};
use tweedie_models::denoiser::Call;
use tweedie_ops::{Batch, FiniteWatch};

use crate::{
    PipelineError,
    guidance::Guided,
    job::{Job, not_finite},
    posterior::tracked,
};

/// Some images of a job on their way. It holds no model: it asks for network calls, so several can share one.
pub struct Flight {
    job: Arc<Job>,
    rows: Range<usize>,
    guided: Guided,
    trajectory: Trajectory<Batch>,
    /// What it asked for last.
    asked: Option<(Batch, Level)>,
    x0: Option<Batch>,
    step: usize,
    /// Looks at the predictions; names the times of network calls.
    watch: FiniteWatch<f64>,
    /// The value of `step` at the last call.
    called: usize,
    /// The samples, if it has stopped before its end.
    stopped: Option<Batch>,
}

/// A stored flight. The same job resumes it to the same bits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FlightState {
    /// The images.
    pub rows: Range<usize>,
    trajectory: State<Batch>,
    x0: Option<Batch>,
    step: usize,
}

/// What a flight needs or has done.
#[derive(Debug)]
pub enum Next {
    /// It needs the raw output of the network for this call: pass it to [`Flight::supply`].
    Ask(Call),
    /// It has finished a step.
    Step(Box<Snapshot>),
    /// It has arrived: the samples, to be decoded by [`Job::decode`].
    Done(Batch),
}

/// The samples after a step.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The images.
    pub rows: Range<usize>,
    /// The step of the plan, counted from 1.
    pub step: usize,
    /// Network evaluations so far.
    pub evals: usize,
    /// The noise level.
    pub level: Level,
    /// The noisy samples.
    pub x: Batch,
    /// The clean samples predicted in this step.
    pub x0: Batch,
}

impl Flight {
    /// The flight of these images of a job, from its start.
    ///
    /// # Panics
    /// If the job has fewer images.
    pub fn new(job: &Arc<Job>, rows: Range<usize>) -> Self {
        let noise = Box::new(job.fresh(rows.clone()));
        let plan = Arc::new(job.recipe.plan.clone());
        let trajectory = Trajectory::new(plan, job.solver().into(), job.start(rows.clone()), noise);
        Self::of(job, rows, trajectory)
    }

    fn of(job: &Arc<Job>, rows: Range<usize>, trajectory: Trajectory<Batch>) -> Self {
        let guided = job.guided(&job.recipe, rows.clone());
        Self {
            job: job.clone(),
            rows,
            guided,
            trajectory,
            asked: None,
            x0: None,
            step: 0,
            watch: FiniteWatch::default(),
            called: 0,
            stopped: None,
        }
    }

    /// Resumes a stored flight of the same job.
    ///
    /// # Errors
    /// If the state does not belong to the job.
    pub fn resume(job: &Arc<Job>, state: FlightState) -> Result<Self, PipelineError> {
        let FlightState { rows, trajectory, x0, step } = state;
        let wrong = |reason: String| PipelineError::Model { reason: format!("the stored state: {reason}") };
        if rows.end > job.count() || rows.is_empty() {
            return Err(wrong(format!("it has the images {rows:?} of a request for {}", job.count())));
        }
        if rows.len() > 1 && job.conditions.is_ragged() {
            return Err(wrong("its images have texts of different lengths".into()));
        }
        let fits = |x: &Batch| x.len() == rows.len() && x.shape() == &job.shape;
        if !trajectory.values().chain(&x0).all(fits) {
            let reason = format!("its values are not {} samples of shape {}", rows.len(), job.shape);
            return Err(wrong(reason));
        }
        let noise = Box::new(job.fresh(rows.clone()));
        let plan = Arc::new(job.recipe.plan.clone());
        let trajectory = Trajectory::resume(plan, job.solver().into(), noise, trajectory);
        let trajectory = trajectory.map_err(|e| wrong(e.to_string()))?;
        Ok(Self { x0, step, ..Self::of(job, rows, trajectory) })
    }

    /// Everything that it needs to be resumed, besides its job.
    pub fn state(&self) -> FlightState {
        FlightState {
            rows: self.rows.clone(),
            trajectory: self.trajectory.state().clone(),
            x0: self.x0.clone(),
            step: self.step,
        }
    }

    /// Its job.
    pub fn job(&self) -> &Arc<Job> {
        &self.job
    }

    /// Its images.
    pub fn rows(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// Network evaluations so far.
    pub fn evals(&self) -> usize {
        self.trajectory.state().evals()
    }

    /// Runs until it needs the network, has finished a step, or has arrived.
    ///
    /// # Errors
    /// [`PipelineError::Step`] if the solver fails.
    pub fn poll(&mut self) -> Result<Next, PipelineError> {
        if let Some(x) = self.stopped.take() {
            return self.arrived(x);
        }
        loop {
            match self.trajectory.poll().map_err(|halt| self.failed(halt))? {
                Poll::Ask { x, at } => {
                    let pulled = self.job.is_pulled();
                    let x = if pulled { tracked(&x) } else { x };
                    let mut call = self.guided.call(&x, at);
                    if pulled {
                        call.conditions = call.conditions.autodiff();
                    }
                    self.asked = Some((x, at));
                    return Ok(Next::Ask(call));
                }
                Poll::Moved(moment) => {
                    let moves = &self.job.recipe.plan.moves;
                    let solved = |index: usize| matches!(moves.get(index), Some(Move::Solve(_)));
                    self.step += usize::from(solved(moment.index - 1));
                    self.x0 = moment.x0.or(self.x0.take());
                    // Fresh noise and relabelling after a solver's move belong to the same step.
                    if let (Some(x0), true) = (&self.x0, moment.index == moves.len() || solved(moment.index))
                    {
                        if Some(self.step) == self.job.stop {
                            self.stopped = Some(moment.x.clone());
                        }
                        return Ok(Next::Step(Box::new(Snapshot {
                            rows: self.rows.clone(),
                            step: self.step,
                            evals: moment.evals,
                            level: moment.level,
                            x: moment.x,
                            x0: x0.clone(),
                        })));
                    }
                }
                Poll::Done(x) => {
                    let x = self.job.finished(x);
                    return self.arrived(x);
                }
            }
        }
    }

    fn arrived(&mut self, x: Batch) -> Result<Next, PipelineError> {
        self.watch.finish().map_err(|t| self.failed_in(self.called, not_finite("returned", t)))?;
        Ok(Next::Done(x))
    }

    /// Passes the raw output of the network for the last call. Ignored if none was asked for.
    ///
    /// # Errors
    /// [`PipelineError::Step`] if it is not finite or has the wrong shape. On another device than the CPU, values that are not
    /// finite are found in the next call, or at the end.
    pub fn supply(&mut self, raw: Batch) -> Result<(), PipelineError> {
        let Some((x, at)) = self.asked.take() else { return Ok(()) };
        let prediction = self.job.read(&self.guided, &self.job.recipe, &x, at, raw, &mut self.watch);
        let before = std::mem::replace(&mut self.called, self.step);
        let step = if self.watch.is_behind() { before } else { self.step };
        self.trajectory.answer(prediction.map_err(|halt| self.failed_in(step, halt))?);
        Ok(())
    }

    pub(crate) fn failed(&self, halt: Halt) -> PipelineError {
        self.failed_in(self.step, halt)
    }

    /// The error of a call after `step` steps.
    fn failed_in(&self, step: usize, halt: Halt) -> PipelineError {
        if matches!(halt, Halt::Cancelled) {
            return PipelineError::Cancelled;
        }
        let (step, of) = (step + 1, self.job.recipe.plan.solves());
        PipelineError::Step { step, of, reason: self.job.explained(halt.to_string()) }
    }
}
