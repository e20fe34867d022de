//! diffusers' `scheduler_config.json`.
//!
//! The file names a class, which gives the keys their meaning. Each class is one file here that reads its keys and converts
//! them to a [`Recipe`] of schedule, parameterization, plan, solver and clamp. Unknown keys and unsupported values are
//! errors that name the key; nothing is replaced silently. To add a class, write its file and add a line to `CLASSES`.

mod betas;
mod clamp;
mod cogvideox;
mod consistency;
mod consistency_models;
mod ddim;
mod ddim_inverse;
mod ddpm;
mod deis;
mod dpmsolver;
mod edm;
mod euler;
mod flow;
mod foreign;
mod heun;
mod ipndm;
mod keys;
mod lms;
mod multistep;
mod pndm;
mod recipe;
mod sigmas;
mod trace;
mod unipc;
mod write;

use std::{
    fmt::Debug,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};
use tweedie_core::{
    Level, Move, Parameterization, Plan,
    plan::NoiseRule,
    solver::{self, AnySolver, Bespoke},
    spacing::Spacing,
};

use crate::{error::HubError, files};
pub use clamp::{Clamp, ClampRange};
use keys::Keys;
pub use recipe::{Process, Recipe, SampleScale, Sampling, SolverChoice};
pub use trace::{Draws, Formula, Trace};
pub use write::{BetaCurve, TableProcess};

/// The supported class names and their readers.
const CLASSES: &[(&str, Reader)] = &[
    ("DDPMScheduler", ddpm::read),
    ("DDPMParallelScheduler", ddpm::read),
    ("UnCLIPScheduler", ddpm::read_unclip),
    ("DDIMScheduler", ddim::read),
    ("DDIMParallelScheduler", ddim::read),
    ("CogVideoXDDIMScheduler", cogvideox::read),
    ("CogVideoXDPMScheduler", cogvideox::read_dpm),
    ("DDIMInverseScheduler", ddim_inverse::read),
    ("PNDMScheduler", pndm::read),
    ("IPNDMScheduler", ipndm::read),
    ("LMSDiscreteScheduler", lms::read),
    ("EulerDiscreteScheduler", euler::read),
    ("EulerAncestralDiscreteScheduler", euler::read_ancestral),
    ("HeunDiscreteScheduler", heun::read),
    ("KDPM2DiscreteScheduler", lms::read_dpm2),
    ("KDPM2AncestralDiscreteScheduler", lms::read_dpm2_ancestral),
    ("DPMSolverSDEScheduler", lms::read_dpm_sde),
    ("DPMSolverMultistepScheduler", dpmsolver::read),
    ("DPMSolverMultistepInverseScheduler", dpmsolver::read_inverse),
    ("DPMSolverSinglestepScheduler", dpmsolver::read_singlestep),
    ("DEISMultistepScheduler", deis::read),
    ("UniPCMultistepScheduler", unipc::read),
    ("SASolverScheduler", deis::read_sa),
    ("EDMEulerScheduler", edm::read),
    ("EDMDPMSolverMultistepScheduler", edm::read_dpm),
    ("CosineDPMSolverMultistepScheduler", edm::read_cosine),
    ("CMStochasticIterativeScheduler", consistency_models::read),
    ("LCMScheduler", consistency::read_lcm),
    ("TCDScheduler", consistency::read_tcd),
    ("FlowMatchEulerDiscreteScheduler", flow::read),
    ("FlowMatchHeunDiscreteScheduler", flow::read_heun),
    ("FlowMatchLCMScheduler", flow::read_lcm),
];

/// The name of a learned sampler where a solver is expected.
pub const TUNED: &str = "tuned";

/// Number of tokens of a sample with these axes in patches with sides of `patch`, for [`SchedulerConfig::of_tokens`].
pub fn tokens(axes: &[usize], patch: usize) -> usize {
    axes.iter().map(|n| n.div_ceil(patch.max(1))).product()
}

/// Limit of the number of steps, if the schedule itself has none.
const MOST_STEPS: usize = 1 << 20;

type Read = Result<Box<dyn Scheduler>, HubError>;
type Reader = fn(&mut Keys) -> Read;

/// One class of `CLASSES` with its keys.
trait Scheduler: Debug + Send + Sync {
    /// The process that the model was trained on.
    fn process(&self) -> &Process;

    /// The sampler of [`solver::SOLVERS`] that the class implements, or its own name if it is not registered.
    fn solver(&self) -> &'static str;

    /// The sampler with the configuration's options for a plan of `steps` steps, if it has any.
    fn with_options(&self, _steps: usize) -> Option<AnySolver> {
        None
    }

    /// How `x0` is clamped.
    fn clamp(&self) -> Option<Clamp> {
        None
    }

    /// The class's own plan of `steps` steps, before any `eta`.
    fn plan(&self, steps: usize) -> Result<Plan, String>;

    /// The noise rule of the class's plan.
    fn noise(&self) -> NoiseRule {
        NoiseRule::None
    }

    /// The noise rule of the class's plan for a given `eta`.
    fn noise_of(&self, eta: f64) -> NoiseRule {
        if eta == 0.0 { NoiseRule::None } else { NoiseRule::Ancestral { eta } }
    }

    /// Changes of the class after its noise rule.
    fn finish(&self, plan: Plan) -> Plan {
        plan
    }

    /// The scale of the class's samples.
    fn scale(&self) -> SampleScale {
        SampleScale::Level
    }

    /// Sets `mu` for `use_dynamic_shifting`.
    fn set_mu(&mut self, _mu: f64) -> Result<(), String> {
        Err("`mu` can only be set with `use_dynamic_shifting`".into())
    }

    /// The spacing if another solver is given, but no spacing.
    fn spacing(&self) -> Spacing;
}

/// A parsed scheduler configuration.
#[derive(Debug)]
pub struct SchedulerConfig {
    path: PathBuf,
    class: &'static str,
    entries: Map<String, Value>,
    passed_over: Vec<String>,
    scheduler: Box<dyn Scheduler>,
    /// The process with another meaning of the network's output, if it is not the file's.
    process: Option<Process>,
}

impl SchedulerConfig {
    /// Reads `scheduler_config.json`.
    ///
    /// # Errors
    /// If the file cannot be read, a key is unknown, or a value is not supported.
    pub fn load(path: &Path) -> Result<Self, HubError> {
        Self::from_json(&files::read_text(path)?, path)
    }

    /// Parses the text of a configuration; `path` is for errors.
    ///
    /// # Errors
    /// Those of [`Self::load`].
    pub fn from_json(text: &str, path: &Path) -> Result<Self, HubError> {
        let text = keys::quote_non_finite(text);
        let entries: Map<String, Value> = serde_json::from_str(&text)
            .map_err(|e| HubError::format(path, format!("expected a JSON object: {e}")))?;
        Self::from_entries(entries, path)
    }

    fn from_entries(entries: Map<String, Value>, path: &Path) -> Result<Self, HubError> {
        let class = match entries.get("_class_name") {
            Some(Value::String(class)) => class.clone(),
            Some(other) => {
                return Err(HubError::key(path, "_class_name", format!("{other} is not a string")));
            }
            None => return Err(HubError::key(path, "_class_name", "missing")),
        };
        Self::read_as(entries, path, &class)
    }

    fn read_as(entries: Map<String, Value>, path: &Path, class: &str) -> Result<Self, HubError> {
        let Some(&(class, read)) = CLASSES.iter().find(|(name, _)| *name == class) else {
            let names: Vec<&str> = CLASSES.iter().map(|(name, _)| *name).collect();
            let reason = format!("unsupported scheduler `{class}`; expected one of {}", names.join(", "));
            return Err(HubError::key(path, "_class_name", reason));
        };
        let mut keys = Keys::new(&entries, path);
        let scheduler = read(&mut keys)?;
        let passed_over = keys.finish()?;
        Ok(Self { path: path.into(), class, entries, passed_over, scheduler, process: None })
    }

    /// The same training process with the sampler of another class, like `OtherScheduler.from_config`: shared keys keep their
    /// values, other keys of the new class have their defaults, and other keys of this class are dropped.
    ///
    /// # Errors
    /// If the class does not support a value.
    pub fn convert(&self, class: &str) -> Result<Self, HubError> {
        let mut entries = self.entries.clone();
        entries.insert("_class_name".into(), class.into());
        self.kept(Self::read_as(entries, &self.path, class)?)
    }

    /// The same for a network whose output means something else than the file says.
    #[must_use]
    pub(crate) fn predicting(mut self, parameterization: Parameterization) -> Self {
        self.process = Some(Process { parameterization, ..self.scheduler.process().clone() });
        self
    }

    /// `other` with the same meaning of the network's output.
    fn kept(&self, other: Self) -> Result<Self, HubError> {
        Ok(match &self.process {
            Some(process) => other.predicting(process.parameterization),
            None => other,
        })
    }

    /// The same with `mu` for `use_dynamic_shifting`, which pipelines compute from the length of the image's token sequence.
    ///
    /// # Errors
    /// If the configuration does not use it.
    pub fn with_mu(mut self, mu: f64) -> Result<Self, HubError> {
        if !mu.is_finite() {
            return Err(HubError::format(&self.path, format!("mu = {mu}: expected a finite number")));
        }
        self.scheduler
            .set_mu(mu)
            .map_err(|reason| HubError::key(&self.path, "use_dynamic_shifting", reason))?;
        Ok(self)
    }

    /// The same configuration, parsed again.
    ///
    /// # Errors
    /// Those of [`Self::load`], which already succeeded.
    pub fn again(&self) -> Result<Self, HubError> {
        self.kept(Self::read_as(self.entries.clone(), &self.path, self.class)?)
    }

    /// With `use_dynamic_shifting`, the same configuration for an image with `tokens` tokens (of its latents, in patches of
    /// 2×2 for most models): `mu` on the line through `base_shift` at `base_image_seq_len` and `max_shift` at
    /// `max_image_seq_len`, as in diffusers' pipelines. `None` without it.
    ///
    /// # Errors
    /// If both ends of the line are at the same length.
    pub fn of_tokens(&self, tokens: usize) -> Result<Option<Self>, HubError> {
        if self.entries.get("use_dynamic_shifting") != Some(&Value::Bool(true)) {
            return Ok(None);
        }
        let shifted = self.again()?;
        let number = |key, usual| self.entries.get(key).and_then(Value::as_f64).unwrap_or(usual);
        let (low, high) = (number("base_shift", 0.5), number("max_shift", 1.15));
        let (short, long) = (number("base_image_seq_len", 256.0), number("max_image_seq_len", 4096.0));
        if short == long {
            let reason = format!("{long} equals `base_image_seq_len`; expected another length");
            return Err(HubError::key(&self.path, "max_image_seq_len", reason));
        }
        let mut scheduler = shifted.scheduler;
        let mu = low + (tokens as f64 - short) * (high - low) / (long - short);
        // Classes without the key ignore it.
        Ok(match scheduler.set_mu(mu) {
            Ok(()) => Some(Self { scheduler, ..shifted }),
            Err(_) => None,
        })
    }

    /// The file that was read, for errors.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ignored keys of other classes, with their values, that would change the process, the noise levels or the range there.
    /// diffusers ignores them, too.
    ///
    /// ```
    /// use tweedie_hub::SchedulerConfig;
    /// let text = r#"{"_class_name": "DDIMScheduler", "use_karras_sigmas": true, "solver_order": 3}"#;
    /// let config = SchedulerConfig::from_json(text, "scheduler_config.json".as_ref())?;
    /// assert_eq!(config.passed_over().map(|(key, _)| key).collect::<Vec<_>>(), ["use_karras_sigmas"]);
    /// # Ok::<(), tweedie_hub::HubError>(())
    /// ```
    pub fn passed_over(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.passed_over.iter().filter_map(|key| Some((key.as_str(), self.entries.get(key)?)))
    }

    /// The class in diffusers.
    pub fn class_name(&self) -> &'static str {
        self.class
    }

    /// The process that the model was trained on.
    pub fn process(&self) -> &Process {
        self.process.as_ref().unwrap_or_else(|| self.scheduler.process())
    }

    /// The configuration as JSON, as it was read.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(&self.entries).unwrap_or_default();
        text.push('\n');
        keys::unquote_non_finite(&text)
    }

    /// The class's own sampler with `steps` steps.
    ///
    /// # Errors
    /// Those of [`Self::resolve_with`].
    pub fn resolve(&self, steps: usize) -> Result<Recipe, HubError> {
        self.resolve_with(&Sampling::steps(steps))
    }

    /// The requested sampler for the model's process. Settings that are `None` follow the class. With another solver than the
    /// class's, levels are spaced like the class's default, and the last step ends at a clean sample.
    ///
    /// # Errors
    /// For an unknown solver, more steps than the schedule allows, an `eta` out of range, or a network that predicts noise
    /// with a plan that starts at pure noise.
    pub fn resolve_with(&self, ask: &Sampling) -> Result<Recipe, HubError> {
        let fail = |reason: String| HubError::format(&self.path, reason);
        if let Some(eta) = ask.eta.filter(|eta| !(0.0..=1.0).contains(eta)) {
            return Err(fail(format!("eta = {eta}: expected a value in 0..=1")));
        }
        if ask.steps > MOST_STEPS {
            return Err(fail(format!("steps = {}: expected at most {MOST_STEPS}", ask.steps)));
        }
        let scheduler = &*self.scheduler;
        let own = scheduler.solver();
        let asked = match ask.solver.as_deref() {
            None => None,
            Some(name) => Some(solver::find(name).ok_or_else(|| fail(unknown_solver(name)))?),
        };
        let entry = asked.or_else(|| solver::find(own));
        let name = asked.map_or(own, |entry| entry.name);
        let Process { schedule, parameterization } = self.process().clone();
        let class_plan = name == own && ask.spacing.is_none();

        let plan = if class_plan { scheduler.plan(ask.steps) } else { self.spaced(ask) }
            .map_err(|e| fail(format!("cannot plan {} steps: {e}", ask.steps)))?;
        let noise = match (ask.eta, entry) {
            (None, _) if class_plan => scheduler.noise(),
            (None, entry) => entry.map_or(NoiseRule::None, |entry| entry.noise),
            (Some(eta), Some(entry)) => {
                let rule = entry.noise_of(eta).ok_or_else(|| fail(no_eta(entry.name, eta)))?;
                if class_plan { scheduler.noise_of(eta) } else { rule }
            }
            (Some(eta), None) => scheduler.noise_of(eta),
        };
        let mut plan = plan.with_noise(noise);
        if class_plan && ask.eta.is_none() {
            plan = scheduler.finish(plan);
        }
        let rescaled = self.entries.get("rescale_betas_zero_snr") == Some(&Value::Bool(true));
        if parameterization == Parameterization::Eps && asks_at_pure_noise(&plan, rescaled) {
            let reason = "the plan starts at pure noise, where the predicted noise does not determine the sample; \
                          this schedule needs the prediction_type `v_prediction` or `sample`";
            return Err(fail(reason.into()));
        }
        let mut clamp = scheduler.clamp();
        if !class_plan && let Some(clamp) = &mut clamp {
            clamp.keep_eps &= name == own;
        }
        let (solver, own) = match (scheduler.with_options(ask.steps), entry) {
            (Some(solver), _) if class_plan => (solver, true),
            (_, Some(entry)) => (entry.solver(), false),
            (Some(solver), None) => (solver, true),
            (None, None) => return Err(fail(unknown_solver(own))),
        };
        let evaluations = entry.map_or(1, |entry| entry.evaluations);
        let solver = SolverChoice { name, evaluations, solver, own };
        let scale = scheduler.scale();
        Ok(Recipe { schedule, parameterization, plan, solver, clamp, scale })
    }

    /// A learned sampler ([`Bespoke`]) with the configuration's clamp.
    ///
    /// # Errors
    /// If its levels and weights are invalid.
    pub fn resolve_bespoke(&self, bespoke: &Bespoke) -> Result<Recipe, HubError> {
        let fail = |reason: String| HubError::format(&self.path, format!("learned sampler: {reason}"));
        bespoke.check().map_err(|e| fail(e.to_string()))?;
        let Process { schedule, parameterization } = self.process().clone();
        let plan = bespoke.plan(schedule.clone()).map_err(|e| fail(e.to_string()))?;
        let solver = bespoke.clone().into();
        let solver = SolverChoice { name: TUNED, evaluations: 1, solver, own: true };
        let clamp = self.scheduler.clamp().map(|clamp| Clamp { keep_eps: false, ..clamp });
        Ok(Recipe { schedule, parameterization, plan, solver, clamp, scale: self.scheduler.scale() })
    }

    fn spaced(&self, ask: &Sampling) -> Result<Plan, String> {
        let schedule = self.scheduler.process().schedule.clone();
        let spacing = ask.spacing.unwrap_or_else(|| self.scheduler.spacing());
        let mut levels = spacing.levels(&*schedule, ask.steps).map_err(|e| e.to_string())?;
        levels.push(Level::CLEAN);
        Plan::through(schedule, &levels).map_err(|e| e.to_string())
    }
}

fn unknown_solver(name: &str) -> String {
    let names: Vec<&str> = solver::SOLVERS.iter().map(|s| s.name).collect();
    format!("unknown solver `{name}`; expected one of {}", names.join(", "))
}

fn no_eta(name: &str, eta: f64) -> String {
    let all = solver::SOLVERS.iter().filter(|s| s.noise_of(1.0).is_some());
    let names: Vec<&str> = all.map(|s| s.name).collect();
    format!("eta = {eta}: the solver `{name}` does not support eta; solvers that do: {}", names.join(", "))
}

/// Whether the network is evaluated at pure noise: at `alpha` = 0 or, for a `rescaled` table, at the value that some
/// classes use instead.
fn asks_at_pure_noise(plan: &Plan, rescaled: bool) -> bool {
    let nothing = |alpha: f64| alpha == 0.0 || rescaled && (alpha - betas::FINITE_ALPHA).abs() < 1e-9;
    plan.steps().any(|(from, step)| matches!(step, Move::Solve(_)) && nothing(from.alpha))
}
