//! The solver and the plan of a request.

use tweedie_core::solver;
use tweedie_hub::{Recipe, Sampling, SchedulerConfig, scheduler_config::TUNED};

use crate::{
    Pipeline, PipelineError, Request,
    guidance::{self, check_unused},
    known::Work,
};

impl Pipeline {
    /// The sampler, without the steps that an initial image replaces.
    pub(super) fn sampler(
        &self,
        request: &Request,
        scheduler: &SchedulerConfig,
        sampling: &Sampling,
        guidance: f64,
        begins: Begins,
    ) -> Result<Recipe, PipelineError> {
        let recipe = match self.tuned(request, sampling.steps, guidance, begins != Begins::Noise)? {
            Some(tuned) => scheduler.resolve_bespoke(tuned)?,
            None => scheduler.resolve_with(sampling)?,
        };
        match begins {
            Begins::Noise if request.strength.is_some() => {
                Err(PipelineError::request("strength", "needs an initial image"))
            }
            Begins::Noise => Ok(recipe),
            Begins::Image { strength } => shortened(recipe, strength, sampling.steps),
        }
    }

    /// The learned sampler for this request, if the request does not choose a solver or chooses it.
    fn tuned(
        &self,
        request: &Request,
        steps: usize,
        guidance: f64,
        image: bool,
    ) -> Result<Option<&solver::Bespoke>, PipelineError> {
        let named = request.solver.as_deref() == Some(TUNED);
        let open = request.solver.is_none()
            && request.spacing.is_none()
            && request.eta.is_none()
            && !image
            && request.strength.is_none();
        if !(open && !request.untuned || named) {
            return Ok(None);
        }
        let scale = guidance::scale_for(TUNED, guidance);
        let found = self.extras().tuned(steps, scale).filter(|_| request.guidance_interval.is_none());
        if named && found.is_none() {
            let known: Vec<_> = (self.extras().tuned.iter())
                .map(|t| format!("{} at guidance {}", t.sampler.evaluations(), t.guidance))
                .collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let reason = format!(
                "this model has no learned sampler (`{TUNED}`) for {steps} evaluations at guidance {scale} on all noise \
                 levels; available: {known}"
            );
            return Err(PipelineError::request("solver", reason));
        }
        Ok(found.map(|tuned| &tuned.sampler))
    }

    /// The scheduler with the shift for this number of tokens, or the requested shift; `None` if the model's has no shift.
    pub(super) fn shifted(
        &self,
        request: &Request,
        tokens: usize,
    ) -> Result<Option<SchedulerConfig>, PipelineError> {
        let scheduler = self.scheduler();
        match request.mu {
            Some(mu) => {
                let shifted = scheduler.again()?.with_mu(mu);
                Ok(Some(shifted.map_err(|e| PipelineError::request("mu", e.to_string()))?))
            }
            None => Ok(scheduler.of_tokens(tokens)?),
        }
    }
}

/// Where the sampler of a network that fills masks begins: at noise. It needs no method.
pub(super) fn filled(request: &Request) -> Result<Begins, PipelineError> {
    let method = request.known.as_ref().is_some_and(|known| known.method.is_some());
    let reason = "has no effect: this model itself fills the mask; remove it";
    check_unused(reason, &[("method", method), ("strength", request.strength.is_some())])?;
    Ok(Begins::Noise)
}

/// Checks whether the network predicts the variance that the solver needs.
pub(super) fn check_variance(recipe: &Recipe, outputs: usize, channels: usize) -> Result<(), PipelineError> {
    if recipe.solver.name() != "ddpm-learned" || outputs == 2 * channels {
        return Ok(());
    }
    let reason = format!(
        "`ddpm-learned` needs a network with a learned variance ({} output channels for {channels} input channels); this \
         network has {outputs}. Use `ddpm` instead",
        2 * channels
    );
    Err(PipelineError::request("solver", reason))
}

/// Where a sampler begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Begins {
    /// At noise.
    Noise,
    /// At an image, of which this much is replaced.
    Image { strength: f64 },
}

impl Begins {
    pub fn of(image: bool, work: Option<&Work>, strength: Option<f64>) -> Self {
        match work {
            Some(work) if work.measurement().is_some() => Self::Image { strength: 1.0 },
            Some(Work::Whole(_) | Work::Sound(_)) => Self::Image { strength: strength.unwrap_or(1.0) },
            Some(work @ (Work::Part(_) | Work::Clip(_))) => {
                let change = match work {
                    Work::Part(canvas) => canvas.change(),
                    Work::Clip(footage) => footage.change(),
                    _ => Vec::new(),
                };
                let most = change.into_iter().fold(0.0f32, f32::max);
                Self::Image { strength: f64::from(most) * strength.unwrap_or(1.0) }
            }
            None if image => Self::Image { strength: strength.unwrap_or(0.8) },
            None => Self::Noise,
        }
    }
}

/// The plan without the steps that the initial image replaces.
fn shortened(recipe: Recipe, strength: f64, steps: usize) -> Result<Recipe, PipelineError> {
    let fail = |reason: String| PipelineError::request("strength", reason);
    if !(strength > 0.0 && strength <= 1.0) {
        return Err(fail(format!("{strength}: expected a value > 0 and ≤ 1")));
    }
    let kept = ((steps as f64 * strength) as usize).min(steps);
    if kept == 0 {
        return Err(fail(format!(
            "{strength}: no step remains of {steps}; increase the strength or the steps"
        )));
    }
    recipe.begun_at(steps - kept).map_err(fail)
}
