//! diffusers' `scheduler_config.json`.
//!
//! The file names a class, and the class gives the keys their meaning: here each class is one file that
//! reads the keys it knows into types, and turns them into a [`Recipe`] of schedule, parameterization,
//! plan, solver and clamp. Unknown keys and unsupported values are errors that name the key; nothing is
//! substituted silently. To add a class, write its file and add a line to `CLASSES`.

mod betas;
mod ddim;
mod ddpm;
mod dpmsolver;
mod edm;
mod euler;
mod flow;
mod heun;
mod keys;
mod write;

use std::{fmt::Debug, path::Path, path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tweedie_core::{
    Level, Move, NoiseSchedule, Parameterization, Plan, Solver, Vector,
    plan::NoiseRule,
    solver::{self, Dpmpp2m, FinalOrder, SolverEntry},
    spacing::Spacing,
};

use crate::{error::HubError, files};
use keys::Keys;
pub use write::{BetaCurve, TableProcess};

/// The class names that are understood, and what reads them.
const CLASSES: &[(&str, Reader)] = &[
    ("DDPMScheduler", ddpm::read),
    ("DDIMScheduler", ddim::read),
    ("EulerDiscreteScheduler", euler::read),
    ("HeunDiscreteScheduler", heun::read),
    ("DPMSolverMultistepScheduler", dpmsolver::read),
    ("FlowMatchEulerDiscreteScheduler", flow::read),
    ("EDMEulerScheduler", edm::read),
];

/// The most steps of a plan, where the schedule itself sets no limit.
const MOST_STEPS: usize = 1 << 20;

type Read = Result<Box<dyn Scheduler>, HubError>;
type Reader = fn(&mut Keys) -> Read;

/// One class of `CLASSES`, its keys read.
trait Scheduler: Debug + Send + Sync {
    /// What the model was trained for.
    fn process(&self) -> &Process;

    /// The sampler of [`solver::SOLVERS`] that the class implements.
    fn solver(&self) -> &'static str;

    /// How to keep `x0` in range.
    fn clamp(&self) -> Option<Clamp> {
        None
    }

    /// The class's own plan of `steps` steps, before any `eta`.
    fn plan(&self, steps: usize) -> Result<Plan, String>;

    /// The fresh noise of the class's plan.
    fn noise(&self) -> NoiseRule {
        NoiseRule::None
    }

    /// What the class does after its noise rule.
    fn finish(&self, plan: Plan) -> Plan {
        plan
    }

    /// The order of a multistep solver's last step.
    fn final_order(&self) -> FinalOrder {
        FinalOrder::default()
    }

    /// Where to go if another solver is asked for, but no spacing.
    fn spacing(&self) -> Spacing;
}

/// A forward process and what the network answers.
#[derive(Clone, Debug)]
pub struct Process {
    /// The noise levels.
    pub schedule: Arc<dyn NoiseSchedule>,
    /// What the network's output means.
    pub parameterization: Parameterization,
}

/// How a predicted clean sample is kept in range, and what becomes of the predicted noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clamp {
    /// The range.
    pub range: ClampRange,
    /// Keep the network's `eps` as it is, as DDIM does, instead of recomputing it from the clamped `x0`.
    pub keep_eps: bool,
}

/// The range of a clean sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ClampRange {
    /// `-limit..=limit`.
    Static {
        /// The largest magnitude.
        limit: f64,
    },
    /// Dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487): `s` is the `ratio` quantile of a
    /// sample's magnitudes, between 1 and `max`; the sample is clamped to `-s..=s` and divided by `s`.
    Dynamic {
        /// Which quantile, in `0..=1`.
        ratio: f64,
        /// The largest `s`.
        max: f64,
    },
}

/// How to sample. What is `None` is the model's own choice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Steps of the solver, at least 1.
    pub steps: usize,
    /// A name or alias of [`solver::SOLVERS`].
    #[serde(default)]
    pub solver: Option<String>,
    /// Which levels to visit.
    #[serde(default)]
    pub spacing: Option<Spacing>,
    /// Fresh noise, from 0 (none) to 1 (as in the reversed diffusion).
    #[serde(default)]
    pub eta: Option<f64>,
}

impl Sampling {
    /// The model's own sampler, in `steps` steps.
    pub fn steps(steps: usize) -> Self {
        Self { steps, solver: None, spacing: None, eta: None }
    }
}

/// Everything that a trajectory needs but the network and the noise.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The forward process.
    pub schedule: Arc<dyn NoiseSchedule>,
    /// What the network's output means.
    pub parameterization: Parameterization,
    /// The levels to visit.
    pub plan: Plan,
    /// What goes from one to the next.
    pub solver: SolverChoice,
    /// How to keep `x0` in range.
    pub clamp: Option<Clamp>,
}

/// A solver with its options, for any kind of sample.
#[derive(Clone, Copy, Debug)]
pub struct SolverChoice {
    entry: &'static SolverEntry,
    final_order: FinalOrder,
}

impl SolverChoice {
    /// Its name in [`solver::SOLVERS`].
    pub fn name(&self) -> &'static str {
        self.entry.name
    }

    /// Network evaluations per step.
    pub fn evaluations(&self) -> usize {
        self.entry.evaluations
    }

    /// The solver itself.
    pub fn build<V: Vector + 'static>(&self) -> Box<dyn Solver<V>> {
        match self.entry.name {
            "dpmpp-2m" => Box::new(Dpmpp2m { final_order: self.final_order }),
            _ => self.entry.build(),
        }
    }
}

/// A scheduler configuration, read and understood.
#[derive(Debug)]
pub struct SchedulerConfig {
    path: PathBuf,
    class: &'static str,
    entries: Map<String, Value>,
    scheduler: Box<dyn Scheduler>,
}

impl SchedulerConfig {
    /// Reads `scheduler_config.json`.
    ///
    /// # Errors
    /// If the file cannot be read, a key is unknown, or a value is unsupported.
    pub fn load(path: &Path) -> Result<Self, HubError> {
        Self::from_json(&files::read_text(path)?, path)
    }

    /// Reads the text of a configuration; `path` is for messages.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_json(text: &str, path: &Path) -> Result<Self, HubError> {
        let text = keys::quote_non_finite(text);
        let entries: Map<String, Value> = serde_json::from_str(&text)
            .map_err(|e| HubError::format(path, format!("expected a JSON object: {e}")))?;
        Self::from_entries(entries, path)
    }

    fn from_entries(entries: Map<String, Value>, path: &Path) -> Result<Self, HubError> {
        let class = match entries.get("_class_name") {
            Some(Value::String(class)) => class.clone(),
            Some(other) => return Err(HubError::key(path, "_class_name", format!("{other} is not a name"))),
            None => return Err(HubError::key(path, "_class_name", "missing")),
        };
        Self::read_as(entries, path, &class)
    }

    fn read_as(entries: Map<String, Value>, path: &Path, class: &str) -> Result<Self, HubError> {
        let Some(&(class, read)) = CLASSES.iter().find(|(name, _)| *name == class) else {
            let names: Vec<&str> = CLASSES.iter().map(|(name, _)| *name).collect();
            let reason = format!("`{class}` is not supported; supported are {}", names.join(", "));
            return Err(HubError::key(path, "_class_name", reason));
        };
        let mut keys = Keys::new(&entries, path);
        let scheduler = read(&mut keys)?;
        keys.finish()?;
        Ok(Self { path: path.into(), class, entries, scheduler })
    }

    /// The same training process sampled by another class, as `OtherScheduler.from_config` does: shared
    /// keys keep their values, the class's other keys have their defaults, and those of this class alone
    /// are dropped.
    ///
    /// # Errors
    /// If the class does not support a value.
    pub fn convert(&self, class: &str) -> Result<Self, HubError> {
        let mut entries = self.entries.clone();
        entries.insert("_class_name".into(), class.into());
        Self::read_as(entries, &self.path, class)
    }

    /// diffusers' class.
    pub fn class_name(&self) -> &'static str {
        self.class
    }

    /// What the model was trained for.
    pub fn process(&self) -> &Process {
        self.scheduler.process()
    }

    /// The configuration as JSON, as it was read.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(&self.entries).unwrap_or_default();
        text.push('\n');
        keys::unquote_non_finite(&text)
    }

    /// The class's own sampler in `steps` steps.
    ///
    /// # Errors
    /// As [`Self::resolve_with`].
    pub fn resolve(&self, steps: usize) -> Result<Recipe, HubError> {
        self.resolve_with(&Sampling::steps(steps))
    }

    /// The sampler that is asked for, in the process of the model. What is not asked for is as the class
    /// does it; with another solver than the class's, levels are spaced as the class's own are by
    /// default, and the last step ends at a clean sample.
    ///
    /// # Errors
    /// For an unknown solver, more steps than the schedule has, an `eta` out of range, or a network that
    /// predicts noise and a plan that starts from nothing else.
    pub fn resolve_with(&self, ask: &Sampling) -> Result<Recipe, HubError> {
        let fail = |reason: String| HubError::format(&self.path, reason);
        if let Some(eta) = ask.eta.filter(|eta| !(0.0..=1.0).contains(eta)) {
            return Err(fail(format!("eta = {eta}: expected 0 to 1")));
        }
        if ask.steps > MOST_STEPS {
            return Err(fail(format!("steps = {}: expected at most {MOST_STEPS}", ask.steps)));
        }
        let own = self.scheduler.solver();
        let name = ask.solver.as_deref().unwrap_or(own);
        let entry = solver::find(name).ok_or_else(|| fail(unknown_solver(name)))?;
        let scheduler = &*self.scheduler;
        let Process { schedule, parameterization } = scheduler.process().clone();
        let class_plan = entry.name == own && ask.spacing.is_none();

        let plan = if class_plan { scheduler.plan(ask.steps) } else { self.spaced(ask) }
            .map_err(|e| fail(format!("cannot plan {} steps: {e}", ask.steps)))?;
        let own_noise = if class_plan { scheduler.noise() } else { entry.noise };
        let noise = match ask.eta {
            None => own_noise,
            Some(0.0) => NoiseRule::None,
            Some(eta) => NoiseRule::Ancestral { eta },
        };
        let mut plan = plan.with_noise(noise);
        if class_plan && ask.eta.is_none() {
            plan = scheduler.finish(plan);
        }
        if parameterization == Parameterization::Eps && asks_at_pure_noise(&plan) {
            let reason = "the plan starts at pure noise, where predicted noise says nothing of the sample; \
                          such a schedule needs prediction_type `v_prediction` or `sample`";
            return Err(fail(reason.into()));
        }
        let mut clamp = scheduler.clamp();
        if !class_plan && let Some(clamp) = &mut clamp {
            clamp.keep_eps &= entry.name == own;
        }
        let solver = SolverChoice { entry, final_order: scheduler.final_order() };
        Ok(Recipe { schedule, parameterization, plan, solver, clamp })
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
    format!("there is no solver `{name}`; there are {}", names.join(", "))
}

fn asks_at_pure_noise(plan: &Plan) -> bool {
    plan.steps().any(|(from, step)| matches!(step, Move::Solve(_)) && from.alpha == 0.0)
}
