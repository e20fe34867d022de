//! `DDPMScheduler` and `UnCLIPScheduler`: ancestral sampling at integer timesteps. Each step goes to the next timestep of
//! the list, the last to a clean sample.

use tweedie_core::{
    Level, Move, Parameterization, Plan,
    bound::ReverseVariance,
    plan::{Final, NoiseRule},
    schedule::Interpolation,
    spacing::Spacing,
};

use super::{
    Clamp, Process, Read, Scheduler,
    betas::{self, BetaRules, Curve, EPS_X0_V, Rescaled, Table, TableRule, TableSpacing},
    keys::Keys,
};

const BETAS: BetaRules = BetaRules {
    start: 1e-4,
    end: 0.02,
    curves: &[
        ("linear", Curve::Linear),
        ("scaled_linear", Curve::ScaledLinear),
        ("squaredcos_cap_v2", Curve::SquaredCosine),
        ("sigmoid", Curve::Sigmoid),
        ("laplace", Curve::Laplace),
    ],
    predictions: EPS_X0_V,
    interpolation: Interpolation::LogAlphaBar,
    rescaled: Rescaled::PureNoise,
};

#[derive(Debug)]
struct Ddpm {
    process: Process,
    table: usize,
    spacing: TableSpacing,
    clamp: Option<Clamp>,
    variance: ReverseVariance,
}

pub(super) fn read(keys: &mut Keys) -> Read {
    let Table { process, steps: table, .. } = betas::process(keys, &BETAS)?;
    // The logarithm of the smaller variance is another way to compute the same. That of the larger one gives NaN in
    // diffusers.
    let variances = [
        ("fixed_small", ReverseVariance::FixedSmall),
        ("fixed_small_log", ReverseVariance::FixedSmall),
        ("fixed_large", ReverseVariance::FixedLarge),
        ("learned_range", ReverseVariance::LearnedRange),
    ];
    let variance = keys.choice("variance_type", "fixed_small", &variances)?;
    let spacing = TableSpacing::read(keys, "leading")?;
    let clamp = betas::clamp(keys, true, false)?;
    Ok(Box::new(Ddpm { process, table, spacing, clamp, variance }))
}

/// `UnCLIPScheduler`: `linspace` over squared-cosine betas.
pub(super) fn read_unclip(keys: &mut Keys) -> Read {
    let rules = BetaRules {
        curves: &[("squaredcos_cap_v2", Curve::SquaredCosine)],
        predictions: &[("epsilon", Parameterization::Eps), ("sample", Parameterization::X0)],
        rescaled: Rescaled::Never,
        ..BETAS
    };
    let Table { process, steps: table, .. } = betas::process_by(keys, &rules, "squaredcos_cap_v2")?;
    let variances =
        [("fixed_small_log", ReverseVariance::FixedSmall), ("learned_range", ReverseVariance::LearnedRange)];
    let variance = keys.choice("variance_type", "fixed_small_log", &variances)?;
    let spacing = TableSpacing { rule: TableRule::Linspace, offset: 0 };
    let clamp = betas::clip(keys, true, false)?;
    Ok(Box::new(Ddpm { process, table, spacing, clamp, variance }))
}

impl Scheduler for Ddpm {
    fn process(&self) -> &Process {
        &self.process
    }

    fn solver(&self) -> &'static str {
        match self.variance {
            ReverseVariance::FixedSmall => "ddpm",
            ReverseVariance::FixedLarge => "ddpm-large",
            ReverseVariance::LearnedRange => "ddpm-learned",
        }
    }

    fn clamp(&self) -> Option<Clamp> {
        self.clamp
    }

    fn plan(&self, steps: usize) -> Result<Plan, String> {
        let times = self.spacing.times(self.table, steps).map_err(|e| e.to_string())?;
        let schedule = self.process.schedule.clone();
        Plan::descend(schedule, &times, Final::Clean).map_err(|e| e.to_string())
    }

    fn noise(&self) -> NoiseRule {
        match self.variance {
            ReverseVariance::FixedSmall => NoiseRule::Ancestral { eta: 1.0 },
            ReverseVariance::FixedLarge => NoiseRule::FixedLarge,
            // The solver adds it, element by element.
            ReverseVariance::LearnedRange => NoiseRule::None,
        }
    }

    fn noise_of(&self, eta: f64) -> NoiseRule {
        match self.variance {
            ReverseVariance::LearnedRange => NoiseRule::None,
            _ if eta == 0.0 => NoiseRule::None,
            _ => NoiseRule::Ancestral { eta },
        }
    }

    /// With its larger variance diffusers adds noise even after the last step, unless that starts at timestep 0.
    fn finish(&self, mut plan: Plan) -> Plan {
        if let Some((from, Move::Solve(Level { sigma: 0.0, .. }))) = plan.steps().last()
            && self.variance == ReverseVariance::FixedLarge
            && from.t > 0.0
        {
            let to = Level { alpha: 1.0, sigma: from.sigma, t: 0.0 };
            plan.moves.extend([Move::Renoise { to, scale: 1.0 }, Move::Relabel(Level::CLEAN)]);
        }
        plan
    }

    fn spacing(&self) -> Spacing {
        self.spacing.general()
    }
}
