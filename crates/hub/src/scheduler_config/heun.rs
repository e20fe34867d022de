//! `HeunDiscreteScheduler`: Heun's method in `sigma/alpha`, with Euler's for the last step.

use tweedie_core::{Plan, plan::Final, schedule::Interpolation, spacing::Spacing};

use super::{
    Clamp, Process, Read, SampleScale, Scheduler,
    betas::{self, BetaRules, Curve, EPS_X0_V, Rescaled, Table},
    keys::Keys,
    sigmas::{NetworkTime, SigmaSpacing},
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
    predictions: EPS_X0_V,
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
    let spacing = SigmaSpacing::read(keys, NetworkTime::Time)?;
    let clamp = betas::clip(keys, false, false)?;
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

    fn scale(&self) -> SampleScale {
        SampleScale::OverAlpha
    }

    fn spacing(&self) -> Spacing {
        self.spacing.general()
    }
}
