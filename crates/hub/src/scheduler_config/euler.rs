//! `EulerDiscreteScheduler` and `EulerAncestralDiscreteScheduler`: Euler's method in `sigma/alpha`.

use tweedie_core::{
    Parameterization, Plan,
    plan::{Final, NoiseRule},
    schedule::Interpolation,
    spacing::Spacing,
};

use super::{
    Process, Read, SampleScale, Scheduler,
    betas::{self, BetaRules, COMMON_CURVES, EPS_AND_V, Rescaled, Table},
    keys::Keys,
    sigmas::{NetworkTime, SigmaSpacing},
};

const BETAS: BetaRules = BetaRules {
    start: 1e-4,
    end: 0.02,
    curves: COMMON_CURVES,
    predictions: &[
        ("epsilon", Parameterization::Eps),
        ("sample", Parameterization::X0),
        ("original_sample", Parameterization::X0),
        ("v_prediction", Parameterization::V),
    ],
    interpolation: Interpolation::Nsr,
    rescaled: Rescaled::Finite,
};

#[derive(Debug)]
struct Euler {
    table: Table,
    spacing: SigmaSpacing,
    end: Final,
    ancestral: bool,
}

pub(super) fn read(keys: &mut Keys) -> Read {
    let table = betas::process(keys, &BETAS)?;
    let mut spacing = SigmaSpacing::read(keys, NetworkTime::Time)?;
    spacing.min = keys.take("sigma_min", None)?;
    spacing.max = keys.take("sigma_max", None)?;
    spacing.log_linear =
        keys.choice("interpolation_type", "linear", &[("linear", false), ("log_linear", true)])?;
    let continuous =
        keys.choice("timestep_type", "discrete", &[("discrete", false), ("continuous", true)])?;
    // diffusers only uses it for networks that predict v.
    if continuous && table.process.parameterization == Parameterization::V {
        spacing.network_time = NetworkTime::Noise;
    }
    let end = betas::final_level(keys, &*table.process.schedule)?;
    Ok(Box::new(Euler { table, spacing, end, ancestral: false }))
}

pub(super) fn read_ancestral(keys: &mut Keys) -> Read {
    let table = betas::process(keys, &BetaRules { predictions: EPS_AND_V, ..BETAS })?;
    let times = betas::TableSpacing::read(keys, "linspace")?;
    let spacing = SigmaSpacing {
        times,
        noise: None,
        min: None,
        max: None,
        log_linear: false,
        network_time: NetworkTime::Time,
    };
    Ok(Box::new(Euler { table, spacing, end: Final::Clean, ancestral: true }))
}

impl Scheduler for Euler {
    fn process(&self) -> &Process {
        &self.table.process
    }

    fn solver(&self) -> &'static str {
        if self.ancestral { "ddpm" } else { "ddim" }
    }

    fn plan(&self, steps: usize) -> Result<Plan, String> {
        self.spacing.plan(&self.table, steps, self.end)
    }

    fn noise(&self) -> NoiseRule {
        if self.ancestral { NoiseRule::Ancestral { eta: 1.0 } } else { NoiseRule::None }
    }

    fn scale(&self) -> SampleScale {
        SampleScale::OverAlpha
    }

    fn spacing(&self) -> Spacing {
        self.spacing.general()
    }
}
