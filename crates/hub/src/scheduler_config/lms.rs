//! `LMSDiscreteScheduler`, `KDPM2DiscreteScheduler`, `KDPM2AncestralDiscreteScheduler` and
//! `DPMSolverSDEScheduler`: k-diffusion's samplers in `sigma/alpha`, with the same keys.

use tweedie_core::{
    Plan,
    plan::{Final, NoiseRule},
    schedule::Interpolation,
    solver::{self, AnySolver, Lms},
    spacing::Spacing,
};

use super::{
    Process, Read, SampleScale, Scheduler,
    betas::{self, BetaRules, COMMON_CURVES, EPS_AND_V, EPS_X0_V, Rescaled, Table},
    keys::Keys,
    sigmas::{NetworkTime, SigmaSpacing},
};

const BETAS: BetaRules = BetaRules {
    start: 0.00085,
    end: 0.012,
    curves: COMMON_CURVES,
    predictions: EPS_AND_V,
    interpolation: Interpolation::Nsr,
    rescaled: Rescaled::Never,
};

#[derive(Debug)]
struct Sigmas {
    table: Table,
    spacing: SigmaSpacing,
    solver: &'static str,
}

fn read_as(keys: &mut Keys, solver: &'static str, rules: &BetaRules, network_time: NetworkTime) -> Read {
    let table = betas::process(keys, rules)?;
    let spacing = SigmaSpacing::read(keys, network_time)?;
    Ok(Box::new(Sigmas { table, spacing, solver }))
}

pub(super) fn read(keys: &mut Keys) -> Read {
    let rules = BetaRules { start: 1e-4, end: 0.02, predictions: EPS_X0_V, ..BETAS };
    read_as(keys, "lms", &rules, NetworkTime::Time)
}

pub(super) fn read_dpm2(keys: &mut Keys) -> Read {
    read_as(keys, "dpm2", &BETAS, NetworkTime::Whole)
}

pub(super) fn read_dpm2_ancestral(keys: &mut Keys) -> Read {
    read_as(keys, "dpm2-ancestral", &BETAS, NetworkTime::Whole)
}

pub(super) fn read_dpm_sde(keys: &mut Keys) -> Read {
    // The noise comes from the caller's seed.
    keys.only("noise_sampler_seed", None::<u64>, None)?;
    read_as(keys, "dpmpp-sde", &BETAS, NetworkTime::Time)
}

impl Scheduler for Sigmas {
    fn process(&self) -> &Process {
        &self.table.process
    }

    fn solver(&self) -> &'static str {
        self.solver
    }

    fn with_options(&self, _: usize) -> Option<AnySolver> {
        (self.solver == "lms").then(|| Lms::new(4).into())
    }

    fn plan(&self, steps: usize) -> Result<Plan, String> {
        self.spacing.plan(&self.table, steps, Final::Clean)
    }

    fn noise(&self) -> NoiseRule {
        solver::find(self.solver).map_or(NoiseRule::None, |entry| entry.noise)
    }

    fn scale(&self) -> SampleScale {
        SampleScale::OverAlpha
    }

    fn spacing(&self) -> Spacing {
        self.spacing.general()
    }
}
