//! Several solvers with several numbers of evaluations, from the same noise, compared with a converged solution.

use std::time::Instant;

use tweedie_core::{
    solver::{SolverEntry, find},
    spacing::Spacing,
};
use tweedie_hub::{Recipe, Sampling, scheduler_config::TUNED};

use crate::{
    Pipeline, PipelineError,
    media::Media,
    study::{Spread, Study, distances, evaluations},
};

/// A solver with a number of evaluations.
#[derive(Clone, Debug)]
pub struct Contender {
    /// The solver as it was named.
    pub solver: String,
    /// How it samples.
    pub recipe: Recipe,
    /// The number of evaluations that it may take.
    pub budget: usize,
    /// The number that it takes.
    pub evaluations: usize,
    /// Whether it draws fresh noise, and so ends at other samples by design.
    pub stochastic: bool,
}

/// What a sampler made.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The distance to the converged solution, unless the sampler is stochastic.
    pub error: Option<Spread>,
    /// The time of all samples.
    pub seconds: f64,
    /// The samples as media.
    pub media: Media,
}

/// The contenders for these solvers, names or aliases of the registry or [`TUNED`], and numbers of evaluations. A solver
/// with several evaluations per step takes as many steps as fit; combinations that do not fit are left out.
///
/// # Errors
/// For a solver that is unknown, adaptive, or does not suit the guidance scale; names the field `solvers` or `guidance`.
pub fn contenders(
    pipeline: &Pipeline,
    study: &Study<'_>,
    solvers: &[String],
    budgets: &[usize],
    spacing: Spacing,
) -> Result<Vec<Contender>, PipelineError> {
    let fail = |field: &'static str, reason: String| PipelineError::request(field, reason);
    let job = study.job();
    let mut all = Vec::new();
    for name in solvers {
        if name == TUNED {
            for &budget in budgets {
                let Some(tuned) = pipeline.extras().tuned(budget, job.scale_for(TUNED)) else { continue };
                let recipe = job.bespoke(&tuned.sampler)?;
                let (solver, evaluations) = (name.clone(), budget);
                all.push(Contender { solver, recipe, budget, evaluations, stochastic: false });
            }
            continue;
        }
        let known = find(name).ok_or_else(|| {
            let reason = format!("unknown solver `{name}`; `tweedie sample --solvers` lists all");
            fail("solvers", reason)
        })?;
        if known.adaptive {
            let reason = format!("`{name}` is adaptive and cannot run with a fixed number of evaluations");
            return Err(fail("solvers", reason));
        }
        let guidance = job.guidance();
        if known.is_cfgpp() && guidance > 1.0 {
            let reason = format!("`{name}` needs a guidance from 0 to 1, got {guidance}");
            return Err(fail("solvers", reason));
        }
        if job.scale_for(name) != 1.0 && !job.can_be_guided() && !pipeline.network().spec().takes_guidance {
            let reason =
                "needs a model with prompts, or with classes and a null class; this model has neither";
            return Err(fail("guidance", reason.into()));
        }
        for &budget in budgets {
            all.extend(fitting(study, name, known, budget, spacing)?);
        }
    }
    match all.is_empty() {
        true => {
            Err(fail("solvers", "none of these solvers can run with these numbers of evaluations".into()))
        }
        false => Ok(all),
    }
}

/// The largest number of steps within the budget of evaluations.
fn fitting(
    study: &Study<'_>,
    name: &str,
    known: &SolverEntry,
    budget: usize,
    spacing: Spacing,
) -> Result<Option<Contender>, PipelineError> {
    // The last step may take fewer evaluations than the others.
    for steps in (1..=budget.div_ceil(known.evaluations)).rev() {
        let ask = Sampling { steps, solver: Some(name.into()), spacing: Some(spacing), eta: None };
        let recipe = study.job().recipe_with(&ask)?;
        let evaluations = evaluations(&recipe).map_err(crate::study::halted)?;
        if evaluations <= budget {
            let stochastic = !known.is_deterministic();
            return Ok(Some(Contender { solver: name.into(), recipe, budget, evaluations, stochastic }));
        }
    }
    Ok(None)
}

/// Runs the reference and all contenders from the same noise; `on` receives how many are done. The first outcome is that of
/// the reference.
///
/// # Errors
/// If the model fails, and [`PipelineError::Cancelled`].
pub fn compare(
    study: &Study<'_>,
    reference: &Recipe,
    contenders: &[Contender],
    on: &mut dyn FnMut(usize),
) -> Result<(Outcome, Vec<Outcome>), PipelineError> {
    let batches = study.job().chunks();
    let run = |recipe: &Recipe| {
        let start = Instant::now();
        let ends = batches.iter().map(|rows| study.end(recipe, rows, &study.noise(rows)));
        let ends = ends.collect::<Result<Vec<_>, _>>()?;
        let seconds = start.elapsed().as_secs_f64();
        let parts = batches.iter().zip(&ends).map(|(rows, end)| study.job().finish(rows.clone(), end));
        let media = study.job().media_of(parts.collect::<Result<Vec<_>, _>>()?).1;
        Ok::<_, PipelineError>((ends, Outcome { error: None, seconds, media }))
    };
    let (targets, converged) = run(reference)?;
    on(1);
    let outcomes = contenders.iter().enumerate().map(|(index, contender)| {
        let (ends, outcome) = run(&contender.recipe)?;
        let found: Vec<f64> = ends.iter().zip(&targets).flat_map(|(a, b)| distances(a, b)).collect();
        on(index + 2);
        Ok(Outcome { error: (!contender.stochastic).then(|| Spread::of(&found)), ..outcome })
    });
    let outcomes = outcomes.collect::<Result<Vec<_>, PipelineError>>()?;
    Ok((converged, outcomes))
}
