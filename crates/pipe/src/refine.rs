//! A result whose first steps are those of one model and whose last ones are those of another for the same latents, such as
//! SDXL and its refiner (Podell et al. 2023, arXiv:2307.01952, section 2.5).

use std::{
    ops::{ControlFlow, Range},
    sync::{Arc, atomic::AtomicBool},
};

use burn::tensor::Device;
use tweedie_core::{Level, Move, schedule::Times};
use tweedie_hub::Recipe;
use tweedie_ops::{Batch, SampleShape};

use crate::{Event, Inputs, Job, NoiseOfRows, Output, Pipeline, PipelineError, Request, job::SeededRows};

/// After this part of the noise levels the refiner takes over.
const FROM: f64 = 0.8;

/// Which of its steps a job makes. Only a [`Refinement`] asks for less than all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Section(Which);

#[derive(Clone, Copy, Debug, Default)]
enum Which {
    /// All.
    #[default]
    All,
    /// Those before this part of the noise levels.
    Until(f64),
    /// Those after it.
    From(f64),
}

impl Section {
    /// The recipe with these steps, and the number of steps after which it stops, if it does.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn of(self, recipe: Recipe) -> Result<(Recipe, Option<usize>), PipelineError> {
        let fail = |reason: String| PipelineError::request("refine_from", reason);
        let from = match self.0 {
            Which::All => return Ok((recipe, None)),
            Which::Until(from) | Which::From(from) => from,
        };
        let (before, all) = (steps_before(&recipe, from), recipe.plan.solves());
        if before == 0 || before == all {
            let who = if before == 0 { "the model" } else { "the refiner" };
            return Err(fail(format!("{from}: none of the {all} steps is left for {who}")));
        }
        match self.0 {
            Which::From(_) => Ok((recipe.begun_at(before).map_err(fail)?, None)),
            _ => Ok((recipe, Some(before))),
        }
    }
}

/// The number of steps that begin in the first part of the times, by the rule of diffusers' `denoising_end` and
/// `denoising_start`.
fn steps_before(recipe: &Recipe, part: f64) -> usize {
    let most = match recipe.schedule.times() {
        Times::Table { steps } => steps as f64,
        Times::Interval { max, .. } => max,
    };
    let cutoff = match recipe.schedule.times().is_table() {
        true => (most - part * most).round_ties_even(),
        false => most - part * most,
    };
    let solves = recipe.plan.steps().filter(|(_, step)| matches!(step, Move::Solve(_)));
    solves.take_while(|(level, _)| level.t >= cutoff).count()
}

/// A model and its refiner, ready to run.
pub struct Refinement {
    first: Job,
    last: Job,
}

/// Fresh noise for the last steps, which differs from that of the first ones.
struct Later(SeededRows);

impl NoiseOfRows for Later {
    fn normal(&self, rows: Range<usize>, shape: &SampleShape, draw: u64, device: &Device) -> Batch {
        self.0.normal(rows, shape, draw ^ (1 << 48), device)
    }
}

impl Refinement {
    /// Checks a request, whose `refiner` is ignored, against both models. The refiner gets the prompts, the sampler and the
    /// guidance; images, ControlNets, LoRAs and learned tokens are for the first model only.
    ///
    /// # Errors
    /// Those of [`Pipeline::prepare`], and if the models have other latents or noise levels.
    pub fn prepare(base: &Pipeline, refiner: &Pipeline, request: &Request) -> Result<Self, PipelineError> {
        Self::prepare_with(base, refiner, request, Inputs::default())
    }

    /// The same with inputs in memory for the first model.
    ///
    /// # Errors
    /// Those of [`Self::prepare`].
    pub fn prepare_with(
        base: &Pipeline,
        refiner: &Pipeline,
        request: &Request,
        inputs: Inputs,
    ) -> Result<Self, PipelineError> {
        let fail = |field, reason: String| Err(PipelineError::request(field, reason));
        let from = request.refine_from.unwrap_or(FROM);
        if !(from > 0.0 && from < 1.0) {
            return fail("refine_from", format!("{from}: expected a value > 0 and < 1"));
        }
        if request.known.is_some() {
            return fail("refiner", "the part of an image that is edited cannot be refined".into());
        }
        let both = Request { refiner: None, refine_from: None, enlarge: None, ..request.clone() };
        let own = Request { aesthetic_score: None, negative_aesthetic_score: None, ..both.clone() };
        let first = base.prepare_with(&own, Inputs { section: Section(Which::Until(from)), ..inputs })?;
        let theirs = Request {
            steps: std::num::NonZeroUsize::new(first.sampling().steps),
            size: Some(first.size().to_vec()),
            image: None,
            strength: None,
            noise: None,
            controls: Vec::new(),
            guess: false,
            loras: Vec::new(),
            embeddings: Vec::new(),
            ..both
        };
        let draws: Arc<dyn NoiseOfRows> = Arc::new(Later(SeededRows::new(request.seed, request.count.get())));
        let last = refiner.prepare_with(
            &theirs,
            Inputs { section: Section(Which::From(from)), draws: Some(draws), ..Inputs::default() },
        )?;
        if first.shape() != last.shape() {
            let reason = format!(
                "its latents have the shape {}, but those of the model {}",
                last.shape(),
                first.shape()
            );
            return fail("refiner", reason);
        }
        let start = last.recipe().plan.start;
        let (a, b, t) = (first.end().nsr(), start.nsr(), start.t);
        if (a / b - 1.0).abs() > 1e-3 {
            let reason = format!(
                "its last steps begin at t = {t} with the noise level {b:.4}, but those of the model end at {a:.4}; both need \
                 the same schedule, spacing and number of steps"
            );
            return fail("refiner", reason);
        }
        Ok(Self { first, last })
    }

    /// The job that makes the results.
    pub fn job(&self) -> &Job {
        &self.last
    }

    /// The number of solver steps of both.
    pub fn steps(&self) -> usize {
        self.first.steps() + self.last.steps()
    }

    /// Runs both jobs. `on` receives every step and may stop the run.
    ///
    /// # Errors
    /// Those of [`Job::run`].
    pub fn run(
        self,
        cancelled: &AtomicBool,
        on: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Output, PipelineError> {
        let Self { first, mut last } = self;
        let ([before, after], begun_steps) =
            ([&first, &last].map(|job| job.steps() * job.chunks().len()), first.steps());
        // The models may scale their samples differently at one noise level.
        let scale = (last.recipe().plan.start.alpha / first.end().alpha) as f32;
        // Both runs are one for who watches.
        let mut told = |event: Event<'_>, done: (usize, usize, usize)| {
            let Event::Step { index, evals, rows, step, level, preview, .. } = event;
            let (index, of) = (done.0 + index, before + after);
            on(Event::Step { index, of, evals: done.1 + evals, rows, step: done.2 + step, level, preview })
        };
        let begun = first.run(cancelled, &mut |event| told(event, (0, 0, 0)))?;
        let mut samples = begun.tensors;
        samples.values.iter_mut().for_each(|value| *value *= scale);
        last.midway = Some(samples);
        let done = (before, begun.evals, begun_steps);
        let output = last.run(cancelled, &mut |event| told(event, done))?;
        Ok(Output { evals: begun.evals + output.evals, ..output })
    }
}

impl Job {
    /// The noise level at which it stops.
    fn end(&self) -> Level {
        let steps = self.recipe().plan.steps();
        let mut solved = 0;
        let mut end = self.recipe().plan.start;
        for (from, step) in steps {
            if matches!(step, Move::Solve(_)) {
                if Some(solved) == self.stop {
                    return from;
                }
                solved += 1;
            }
            end = step.to();
        }
        end
    }
}
