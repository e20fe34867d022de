//! Learns a sampler of few evaluations for a model: [`tweedie_core::tune`] on its own converged solutions.

use std::{
    ops::{ControlFlow, Range},
    sync::atomic::{AtomicBool, Ordering},
};

use tweedie_core::{
    Halt, lin,
    solver::{Bespoke, SOLVERS, SolverEntry},
    spacing::{SPACINGS, Spacing},
    tune::{self, Case},
};
use tweedie_hub::{Recipe, Sampling, Tuned};
use tweedie_ops::Batch;

use crate::{
    Pipeline, PipelineError, Request,
    study::{CONVERGED_STEPS, Study, distance, evaluations, halted},
};

/// How to learn.
#[derive(Clone, Debug, PartialEq)]
pub struct TuneOptions {
    /// Network evaluations of the sampler.
    pub evaluations: usize,
    /// Starts to learn from; rounded up to whole batches.
    pub seeds: usize,
    /// Starts to judge by; rounded up to whole batches.
    pub held_out: usize,
    /// Steps of the solution that is taken for converged.
    pub reference_steps: usize,
    /// Iterations at most.
    pub iterations: usize,
}

impl Default for TuneOptions {
    fn default() -> Self {
        Self { evaluations: 6, seeds: 128, held_out: 64, reference_steps: CONVERGED_STEPS, iterations: 10 }
    }
}

/// How far the work is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TuneEvent {
    /// Converged solutions, in rows.
    Converging {
        /// Rows done.
        done: usize,
        /// All rows.
        of: usize,
    },
    /// Solvers of the registry, tried as they are.
    Trying {
        /// Solvers and spacings done.
        done: usize,
        /// All of them.
        of: usize,
    },
    /// Learning.
    Learning {
        /// Iterations done.
        done: f64,
        /// Iterations at most.
        of: usize,
        /// Root mean square distance so far, on the starts to learn from.
        error: f64,
    },
}

/// A registered solver on a spacing.
#[derive(Clone, Debug)]
pub struct Untuned {
    /// The solver.
    pub solver: &'static SolverEntry,
    /// The spacing's name.
    pub spacing: &'static str,
    /// Root mean square distance to the converged solutions.
    pub error: f64,
    /// The same on the starts that were learned from.
    pub train: f64,
    recipe: Recipe,
}

/// What was learned, and how good it is.
#[derive(Clone, Debug)]
pub struct Learned {
    /// The sampler.
    pub tuned: Tuned,
    /// Its root mean square distance to the converged solutions of the starts it learned from.
    pub train: f64,
    /// The same on starts that it has not seen.
    pub held_out: f64,
    /// The best registered solvers and spacings at as many evaluations, on those same unseen starts.
    pub untuned: Vec<Untuned>,
    /// Whether the sampler is a registered one after all: learning found none that is closer on unseen starts.
    pub as_registered: bool,
    /// The distance of the model's own sampler in as many steps, on the unseen starts.
    pub own: f64,
    /// How far the solutions taken for converged are from those of half the steps, on a few starts.
    pub converged: f64,
    /// Whether the work was ended early.
    pub cancelled: bool,
}

/// Starts on which every registered sampler is tried.
const FEW: usize = 2;
/// Registered samplers that are tried on a batch.
const CLOSER: usize = 32;
/// Registered samplers that are tried on all starts.
const FINALISTS: usize = 6;
/// Samplers to begin from.
const BEGINNINGS: usize = 1;

/// Learns a sampler for the classes, guidance and size of `request`. Setting `stop` ends the learning and keeps
/// what was reached.
///
/// # Errors
/// For a request that does not suit the model, a model that halts, or [`PipelineError::Cancelled`] if `stop`
/// is set before there is anything to keep.
pub fn tune(
    pipeline: &Pipeline,
    request: &Request,
    options: &TuneOptions,
    stop: &AtomicBool,
    on: &mut dyn FnMut(TuneEvent),
) -> Result<Learned, PipelineError> {
    let probe = Study::new(pipeline, request, stop)?;
    let whole = |n: usize| n.max(1).div_ceil(probe.batch()) * probe.batch();
    let (seeds, held_out) = (whole(options.seeds), whole(options.held_out));
    let count = (seeds + held_out).try_into().map_err(|_| PipelineError::request("count", "0"))?;
    let steps = options.evaluations.try_into().ok();
    let request = Request { count, steps, untuned: true, ..request.clone() };
    let study = Study::new(pipeline, &request, stop)?;
    let reference = study.converged(options.reference_steps)?;
    let mut rows = Vec::new();
    for range in study.batches() {
        let noise = study.noise(&range);
        let target = study.end(&reference, &range, &noise)?;
        on(TuneEvent::Converging { done: range.end, of: seeds + held_out });
        rows.push(Row { range, noise, target });
    }
    let (train, unseen) = rows.split_at(seeds / study.batch());
    let half = study.converged(options.reference_steps.div_ceil(2))?;
    let converged = error_of(&study, &half, &[train[0].first(FEW)])?;

    let mut untuned = untuned(&study, options.evaluations, train, on)?;
    let schedule = reference.schedule.clone();
    let first: Vec<Bespoke> = untuned
        .iter()
        .filter_map(|u| Bespoke::of(&u.recipe.plan, &*u.recipe.solver.build()).ok())
        .take(BEGINNINGS)
        .collect();
    let models: Vec<_> = rows.iter().map(|row| study.denoiser(&reference, &row.range)).collect();
    let start_std = reference.plan.start_std;
    let cases: Vec<Case<'_, Batch<4>>> = (train.iter().zip(&models))
        .map(|(row, model)| Case { start: lin![start_std => &row.noise], model, target: row.target.clone() })
        .collect();
    let settings = tune::Options { iterations: options.iterations, ..Default::default() };
    let mut best: Option<(f64, Bespoke)> = None;
    for (index, first) in first.iter().enumerate() {
        let first = Bespoke { start_std, ..first.clone() };
        let made = tune::refine(&first, &*schedule, &cases, &settings, &mut |p| {
            let done = index as f64 * options.iterations as f64 + p.iterations;
            on(TuneEvent::Learning { done, of: BEGINNINGS * options.iterations, error: p.error });
            match stop.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        let (made, error) = match made {
            Err(Halt::Cancelled) if best.is_some() => break,
            other => other.map_err(halted)?,
        };
        if best.as_ref().is_none_or(|(least, _)| error < *least) {
            best = Some((error, made));
        }
    }
    let Some((train_error, sampler)) = best else {
        return Err(PipelineError::request("steps", "no solver to begin from"));
    };
    // To judge what was reached takes longer than to be asked to stop.
    let cancelled = stop.load(Ordering::Relaxed);
    let never = AtomicBool::new(false);
    let study = Study::new(pipeline, &request, &never)?;
    for u in &mut untuned {
        u.train = u.error;
        u.error = error_of(&study, &u.recipe, unseen)?;
    }
    untuned.sort_by(|a, b| a.error.total_cmp(&b.error));
    let own = error_of(&study, &pipeline.resolve(&request)?.1, unseen)?;
    let recipe = pipeline.scheduler().resolve_bespoke(&sampler)?;
    let learned = Choice { sampler, train: train_error, held_out: error_of(&study, &recipe, unseen)? };
    let registered = untuned.iter().find_map(|u| {
        let sampler = Bespoke::of(&u.recipe.plan, &*u.recipe.solver.build()).ok()?;
        Some(Choice { sampler, train: u.train, held_out: u.error })
    });
    let registered = registered.filter(|r| r.held_out < learned.held_out);
    let as_registered = registered.is_some();
    let Choice { sampler, train, held_out } = registered.unwrap_or(learned);
    let report = serde_json::Map::from_iter([("error".to_owned(), held_out.into())]);
    let tuned = Tuned { guidance: study.resolved().guidance, sampler, report };
    Ok(Learned { tuned, train, held_out, untuned, as_registered, own, converged, cancelled })
}

struct Choice {
    sampler: Bespoke,
    train: f64,
    held_out: f64,
}

struct Row {
    range: Range<usize>,
    noise: Batch<4>,
    target: Batch<4>,
}

impl Row {
    /// The first `n` of its rows.
    fn first(&self, n: usize) -> Self {
        let n = n.min(self.range.len());
        let part = |x: &Batch<4>| Batch(x.0.clone().narrow(0, 0, n));
        let range = self.range.start..self.range.start + n;
        Self { range, noise: part(&self.noise), target: part(&self.target) }
    }
}

fn error_of(study: &Study<'_>, recipe: &Recipe, rows: &[Row]) -> Result<f64, PipelineError> {
    let mut squares = 0.0;
    for row in rows {
        let end = study.end(recipe, &row.range, &row.noise)?;
        squares += distance(&end, &row.target).powi(2);
    }
    Ok((squares / rows.len().max(1) as f64).sqrt())
}

/// The best deterministic solvers and spacings of the registry at so many evaluations, best first: all of them
/// on a few starts, the better ones on more.
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
        all.sort_by(|a, b| a.error.total_cmp(&b.error));
        all.truncate(keep);
    }
    Ok(all)
}

/// Every deterministic solver on every spacing that takes at most so many evaluations, no two alike.
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
                all.push(Untuned {
                    solver,
                    spacing: name,
                    error: f64::INFINITY,
                    train: f64::INFINITY,
                    recipe,
                });
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
    let recipe = study.recipe(&ask).ok()?;
    (evaluations(&recipe).ok()? <= budget).then_some(recipe)
}
