//! `HeunDiscreteScheduler`: Heun's method in `sigma/alpha`, the last step Euler's.

use tweedie_core::{Plan, plan::Final, schedule::Interpolation, spacing::Spacing};

use super::{
    Clamp, ClampRange, Process, Read, Scheduler,
    betas::{self, BetaRules, Curve, NoiseSpacing, Rescaled, Table, TableSpacing},
    euler::SigmaSpacing,
    keys::Keys,
};

const BETAS: BetaRules = BetaRules {
    start: 0.00085,
    end: 0.012,
    curves: &[
        ("linear", Curve::Linear),
        ("scaled_linear", Curve::ScaledLinear),
        ("squaredcos_cap_v2", Curve::SquaredCosine),
        ("exp", Curve::Exponential),
    ],
    interpolation: Interpolation::Nsr,
    rescaled: Rescaled::Never,
};

#[derive(Debug)]
struct Heun {
    table: Table,
    spacing: SigmaSpacing,
    clamp: Option<Clamp>,
}

pub(super) fn read(keys: &mut Keys) -> Read {
    let table = betas::process(keys, &BETAS)?;
    let times = TableSpacing::read(keys, "linspace")?;
    let noise = NoiseSpacing::read(keys)?;
    let clipped = keys.flag("clip_sample", false)?;
    let limit: f64 = keys.take("clip_sample_range", 1.0)?;
    if clipped && (limit.is_nan() || limit <= 0.0) {
        return Err(keys.error("clip_sample_range", format!("{limit}: expected a number > 0")));
    }
    let range = ClampRange::Static { limit };
    let clamp = clipped.then_some(Clamp { range, keep_eps: false });
    let spacing = SigmaSpacing { times, noise, min: None, max: None, log_linear: false };
    Ok(Box::new(Heun { table, spacing, clamp }))
}

impl Scheduler for Heun {
    fn process(&self) -> &Process {
        &self.table.process
    }

    fn solver(&self) -> &'static str {
        "heun"
    }

    fn clamp(&self) -> Option<Clamp> {
        self.clamp
    }

    fn plan(&self, steps: usize) -> Result<Plan, String> {
        self.spacing.plan(&self.table, steps, Final::Clean)
    }

    fn spacing(&self) -> Spacing {
        self.spacing.general()
    }
}
