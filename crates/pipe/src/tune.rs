//! Learns a sampler with few evaluations for a model: [`tweedie_core::tune`] on its own converged solutions.
//!
//! Levels and weights are searched, then refined. The registered solvers are tried with every spacing, as a starting point
//! if one is better, and for comparison. The result is evaluated on starting points that were not used for learning.

use std::{
    ops::{ControlFlow, Range},
    sync::atomic::{AtomicBool, Ordering},
};

use tweedie_core::{
    Halt, Level,
    solver::{Bespoke, SOLVERS, SolverEntry},
    spacing::{SPACINGS, Spacing},
    tune::{self, Case},
};
use tweedie_hub::{Recipe, Sampling, Tuned, scheduler_config::TUNED};
use tweedie_ops::Batch;

use crate::{
    Pipeline, PipelineError, Request,
    study::{CONVERGED_STEPS, Spread, Study, distances, evaluations, halted},
};

/// Settings of the learning.
#[derive(Clone, Debug, PartialEq)]
pub struct TuneOptions {
    /// Network evaluations of the sampler.
    pub evaluations: usize,
    /// Number of starting points for learning; rounded up to whole batches.
    pub seeds: usize,
    /// Number of starting points for the evaluation; rounded up to whole batches.
    pub held_out: usize,
    /// Steps of the reference solution.
    pub reference_steps: usize,
    /// Maximum number of sweeps of the search, each of which moves every level.
    pub sweeps: usize,
    /// Maximum number of iterations of the refinement, each of which takes as long as several sweeps.
    pub iterations: usize,
}

impl Default for TuneOptions {
    fn default() -> Self {
        let reference_steps = CONVERGED_STEPS;
        Self { evaluations: 6, seeds: 64, held_out: 64, reference_steps, sweeps: 16, iterations: 2 }
    }
}

/// Progress of the learning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TuneEvent {
    /// Computing reference solutions.
    Converging {
        /// Finished images.
        done: usize,
        /// All images.
        of: usize,
    },
    /// Trying registered solvers.
    Trying {
        /// Finished combinations of solver and spacing.
        done: usize,
        /// All combinations.
        of: usize,
    },
    /// Searching levels and weights.
    Searching {
        /// Finished sweeps.
        done: f64,
        /// Maximum number of sweeps.
        of: usize,
        /// Root mean square distance so far, on the starting points for learning.
        error: f64,
    },
    /// Refining all values.
    Learning {
        /// Finished iterations.
        done: f64,
        /// Maximum number of iterations.
        of: usize,
        /// Root mean square distance so far, on the starting points for learning.
        error: f64,
    },
}

/// A registered solver with a spacing.
#[derive(Clone, Debug)]
pub struct Untuned {
    /// The solver.
    pub solver: &'static SolverEntry,
    /// Name of the spacing.
    pub spacing: &'static str,
    /// Distance to the reference solutions.
    pub error: Spread,
    /// The same on the starting points for learning.
    pub train: Spread,
    recipe: Recipe,
}

/// The learned sampler and its evaluation.
#[derive(Clone, Debug)]
pub struct Learned {
    /// The sampler.
    pub tuned: Tuned,
    /// Its distance to the reference solutions on the starting points for learning.
    pub train: Spread,
    /// The same on held-out starting points.
    pub held_out: Spread,
    /// The best registered solvers and spacings with the same number of evaluations, on the held-out starting points.
    pub untuned: Vec<Untuned>,
    /// Whether the result is a registered sampler, because no learned one was closer on held-out starting points.
    pub as_registered: bool,
    /// The distance of the model's default sampler with the same number of steps, on the held-out starting points.
    pub own: Spread,
    /// Distance between the reference solutions and those with half the steps, on a few starting points.
    pub converged: Spread,
    /// Whether the learning was stopped early.
    pub cancelled: bool,
}

/// Number of starting points on which every registered sampler is tried.
const FEW: usize = 2;
/// Number of registered samplers that are tried on a batch.
const CLOSER: usize = 32;
/// Number of registered samplers that are tried on all starting points.
const FINALISTS: usize = 6;
/// Limit for the number of values in stored reference solutions.
const MOST_KEPT: usize = 1 << 28;
/// Minimum number of candidate levels per evaluation.
const CHOICES: usize = 6;

/// Learns a sampler for the classes, guidance and size of `request`. Setting `stop` ends the learning and keeps the result
/// so far.
///
/// # Errors
/// For a request that does not suit the model, a model that fails, or [`PipelineError::Cancelled`] if `stop` is set before
/// there is a result.
pub fn tune(
    pipeline: &Pipeline,
    request: &Request,
    options: &TuneOptions,
    stop: &AtomicBool,
    on: &mut dyn FnMut(TuneEvent),
) -> Result<Learned, PipelineError> {
    let probe = Study::new(pipeline, request, stop)?;
    let whole = |n: usize| n.max(1).div_ceil(probe.job().chunk()) * probe.job().chunk();
    let (seeds, held_out) = (whole(options.seeds), whole(options.held_out));
    let count = (seeds + held_out).try_into().map_err(|_| PipelineError::request("count", "0"))?;
    let steps = options.evaluations.try_into().ok();
    let request = Request { count, steps, untuned: true, ..request.clone() };
    let study = Study::new(pipeline, &request, stop)?;
    let reference = study.converged(options.reference_steps)?;
    let references = References::of(&study, &reference, seeds, options.evaluations);
    let mut rows = Vec::new();
    for range in study.job().chunks() {
        let noise = study.noise(&range);
        let every = if range.start < seeds { references.every } else { usize::MAX };
        let (way, target) = study.way(&reference, &range, &noise, every)?;
        on(TuneEvent::Converging { done: range.end, of: seeds + held_out });
        rows.push(Row { range, noise, way, target });
    }
    let (train, unseen) = rows.split_at(seeds / study.job().chunk());
    let half = study.converged(options.reference_steps.div_ceil(2))?;
    let converged = error_of(&study, &half, &[train[0].first(FEW)])?;

    let mut untuned = untuned(&study, options.evaluations, train, on)?;
    let models: Vec<_> = train.iter().map(|row| study.denoiser(&reference, &row.range)).collect();
    let cases = (train.iter().zip(&models)).map(|(row, model)| Case {
        noise: row.noise.clone(),
        model,
        path: row.way.clone(),
        target: row.target.clone(),
    });
    let cases: Vec<Case<'_, Batch>> = cases.collect();
    let sampler = learn(&reference, &references.levels, &cases, &untuned, options, stop, on)?;
    // The evaluation runs to its end, even when stopped, because it is needed for the result.
    let cancelled = stop.load(Ordering::Relaxed);
    let never = AtomicBool::new(false);
    let study = Study::new(pipeline, &request, &never)?;
    for u in &mut untuned {
        u.train = u.error;
        u.error = error_of(&study, &u.recipe, unseen)?;
    }
    untuned.sort_by(|a, b| a.error.rms.total_cmp(&b.error.rms));
    let own = error_of(&study, pipeline.prepare(&request)?.recipe(), unseen)?;
    let recipe = study.job().bespoke(&sampler)?;
    let (seen, held_out) = (error_of(&study, &recipe, train)?, error_of(&study, &recipe, unseen)?);
    let learned = Choice { sampler, train: seen, held_out };
    let registered = untuned.iter().find_map(|u| {
        let sampler = Bespoke::of(&u.recipe.plan, &*u.recipe.solver.build()).ok()?;
        Some(Choice { sampler, train: u.train, held_out: u.error })
    });
    let registered = registered.filter(|r| r.held_out.rms < learned.held_out.rms);
    let as_registered = registered.is_some();
    let Choice { sampler, train, held_out } = registered.unwrap_or(learned);
    let report = serde_json::Map::from_iter([("error".to_owned(), held_out.rms.into())]);
    let tuned = Tuned { guidance: study.job().scale_for(TUNED), sampler, report };
    Ok(Learned { tuned, train, held_out, untuned, as_registered, own, converged, cancelled })
}

/// Searches, then refines the better of the search result and the best registered sampler.
fn learn(
    reference: &Recipe,
    levels: &[Level],
    cases: &[Case<'_, Batch>],
    untuned: &[Untuned],
    options: &TuneOptions,
    stop: &AtomicBool,
    on: &mut dyn FnMut(TuneEvent),
) -> Result<Bespoke, PipelineError> {
    let flow = || match stop.load(Ordering::Relaxed) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    let TuneOptions { evaluations, sweeps, iterations, .. } = *options;
    let found = tune::search(levels, evaluations, cases, sweeps, &mut |p| {
        on(TuneEvent::Searching { done: p.iterations, of: sweeps, error: p.error });
        flow()
    });
    let (found, error) = found.map_err(halted)?;
    let registered = untuned.iter().filter(|u| u.error.rms < error).find_map(|u| {
        let sampler = Bespoke::of(&u.recipe.plan, &*u.recipe.solver.build()).ok()?;
        Some(Bespoke { start_std: reference.plan.start_std, ..sampler })
    });
    let first = registered.unwrap_or(found);
    let settings = tune::Options { iterations, ..Default::default() };
    let made = tune::refine(&first, &*reference.schedule, cases, &settings, &mut |p| {
        on(TuneEvent::Learning { done: p.iterations, of: iterations, error: p.error });
        flow()
    });
    match made {
        Ok((made, _)) => Ok(made),
        Err(Halt::Cancelled) => Ok(first),
        Err(halt) => Err(halted(halt)),
    }
}

struct Choice {
    sampler: Bespoke,
    train: Spread,
    held_out: Spread,
}

/// Stored reference solutions.
struct References {
    levels: Vec<Level>,
    /// Only every `every`-th level of the reference is stored.
    every: usize,
}

impl References {
    fn of(study: &Study<'_>, reference: &Recipe, seeds: usize, evaluations: usize) -> Self {
        let moves = reference.plan.moves.len();
        let numbers = seeds * study.job().shape().len();
        let most =
            (MOST_KEPT / numbers.max(1)).clamp(CHOICES * evaluations, moves.max(CHOICES * evaluations));
        let every = moves.div_ceil(most).max(1);
        let levels = reference.plan.steps().map(|(level, _)| level).step_by(every).collect();
        Self { levels, every }
    }
}

struct Row {
    range: Range<usize>,
    noise: Batch,
    way: Vec<Batch>,
    target: Batch,
}

impl Row {
    /// The first `n` images.
    fn first(&self, n: usize) -> Self {
        let n = n.min(self.range.len());
        let part = |x: &Batch| x.narrow(0..n);
        let range = self.range.start..self.range.start + n;
        Self { range, noise: part(&self.noise), way: Vec::new(), target: part(&self.target) }
    }
}

fn error_of(study: &Study<'_>, recipe: &Recipe, rows: &[Row]) -> Result<Spread, PipelineError> {
    let mut found = Vec::new();
    for row in rows {
        found.extend(distances(&study.end(recipe, &row.range, &row.noise)?, &row.target));
    }
    Ok(Spread::of(&found))
}

/// The best deterministic solvers and spacings of the registry with this number of evaluations, best first: all are tried
/// on a few starting points, the better ones on more.
fn untuned(
    study: &Study<'_>,
    budget: usize,
    rows: &[Row],
    on: &mut dyn FnMut(TuneEvent),
) -> Result<Vec<Untuned>, PipelineError> {
    let mut all = candidates(study, budget);
    let few = [rows[0].first(FEW)];
    let of = all.len() + all.len().min(CLOSER) + all.len().min(FINALISTS);
    let mut done = 0;
    for (sieve, keep) in [(&few[..], CLOSER), (&rows[..1], FINALISTS), (rows, FINALISTS)] {
        for candidate in &mut all {
            candidate.error = error_of(study, &candidate.recipe, sieve)?;
            done += 1;
            on(TuneEvent::Trying { done, of });
        }
        all.sort_by(|a, b| a.error.rms.total_cmp(&b.error.rms));
        all.truncate(keep);
    }
    Ok(all)
}

/// All deterministic solvers with all spacings that take at most `budget` evaluations, without duplicates.
pub(crate) fn candidates(study: &Study<'_>, budget: usize) -> Vec<Untuned> {
    let mut all: Vec<Untuned> = Vec::new();
    for solver in SOLVERS.iter().filter(|s| s.is_deterministic() && !s.adaptive && !s.is_cfgpp()) {
        for (name, spacing) in SPACINGS {
            let fits = (1..=budget).rev().find_map(|steps| fitting(study, solver, *spacing, steps, budget));
            if let Some(recipe) = fits
                && !all
                    .iter()
                    .any(|u| u.solver.name == solver.name && u.recipe.plan.moves == recipe.plan.moves)
            {
                let unknown = Spread::of(&[]);
                all.push(Untuned { solver, spacing: name, error: unknown, train: unknown, recipe });
            }
        }
    }
    all
}

fn fitting(
    study: &Study<'_>,
    solver: &SolverEntry,
    spacing: Spacing,
    steps: usize,
    budget: usize,
) -> Option<Recipe> {
    let ask = Sampling { steps, solver: Some(solver.name.into()), spacing: Some(spacing), eta: None };
    let recipe = study.job().recipe_with(&ask).ok()?;
    (evaluations(&recipe).ok()? <= budget).then_some(recipe)
}
