//! `DPMSolverMultistepScheduler`: DPM-Solver++ of order 1 or 2.

use tweedie_core::{
    Level, Plan,
    plan::Final,
    schedule::Interpolation,
    solver::FinalOrder,
    spacing::{self, Spacing},
};

use super::{
    Clamp, Process, Read, Scheduler,
    betas::{self, BetaRules, COMMON_CURVES, NoiseSpacing, Rescaled, Table, TableRule, TableSpacing},
    keys::Keys,
};

const BETAS: BetaRules = BetaRules {
    start: 1e-4,
    end: 0.02,
    curves: COMMON_CURVES,
    interpolation: Interpolation::Nsr,
    rescaled: Rescaled::Finite,
};

#[derive(Debug)]
struct DpmSolver {
    table: Table,
    /// How many times of the table `lambda_min_clipped` leaves.
    left: usize,
    times: TableSpacing,
    noise: Option<LevelSpacing>,
    /// Whether times of spaced noise levels are rounded.
    rounded: bool,
    end: Final,
    order: usize,
    final_order: FinalOrder,
    clamp: Option<Clamp>,
}

#[derive(Clone, Copy, Debug)]
enum LevelSpacing {
    Noise(NoiseSpacing),
    /// `use_lu_lambdas`.
    UniformLambda,
}

pub(super) fn read(keys: &mut Keys) -> Read {
    let table = betas::process(keys, &BETAS)?;
    let times = TableSpacing::read(keys, "linspace")?;
    let lu = keys.flag("use_lu_lambdas", false)?;
    let noise = match NoiseSpacing::read(keys)? {
        // Karras' spacing comes first in diffusers, then Lu's.
        Some(NoiseSpacing::Karras) => Some(LevelSpacing::Noise(NoiseSpacing::Karras)),
        _ if lu => Some(LevelSpacing::UniformLambda),
        other => other.map(LevelSpacing::Noise),
    };
    let exact = matches!(noise, Some(LevelSpacing::Noise(NoiseSpacing::Exponential | NoiseSpacing::Beta)));
    let cosine: String = keys.take("beta_schedule", "linear".into())?;
    keys.only("use_flow_sigmas", false, false)?;
    keys.only("use_dynamic_shifting", false, false)?;
    keys.only("variance_type", None::<String>, None)?;
    keys.only("algorithm_type", "dpmsolver++".to_string(), "dpmsolver++".to_string())?;
    let order: usize = keys.take("solver_order", 2)?;
    if !(1..=2).contains(&order) {
        return Err(keys.error("solver_order", format!("{order} is not supported; supported: 1, 2")));
    }
    if order == 2 {
        let midpoint = || "midpoint".to_string();
        let found: String = keys.take("solver_type", midpoint())?;
        // diffusers reads these as the midpoint rule.
        if !["logrho", "bh1", "bh2"].contains(&&*found) {
            keys.only("solver_type", midpoint(), midpoint())?;
        }
    }
    let lower = keys.flag("lower_order_final", true)?;
    let euler = keys.flag("euler_at_final", false)?;
    let end = betas::final_level(keys, &*table.process.schedule)?;
    let lambda_min = keys.number("lambda_min_clipped", f64::NEG_INFINITY)?;
    let clipped = (0..table.steps).filter(|&t| table.level(t as f64).lambda() < lambda_min).count();
    let clamp = betas::clamp(keys, None, false)?;
    Ok(Box::new(DpmSolver {
        left: table.steps - clipped,
        table,
        times,
        noise,
        rounded: !exact && cosine != "squaredcos_cap_v2",
        end,
        order,
        final_order: match (euler, lower) {
            (true, _) => FinalOrder::Lower,
            (false, true) => FinalOrder::LowerIfFew,
            (false, false) => FinalOrder::Full,
        },
        clamp,
    }))
}

impl DpmSolver {
    fn levels(&self, n: usize) -> Result<Vec<Level>, String> {
        let table = &self.table;
        let Some(noise) = self.noise else {
            let times = match self.times.rule {
                TableRule::Leading => spacing::leading_without_cleanest(self.left, n, self.times.offset),
                TableRule::Linspace => spacing::linspace_without_cleanest(self.left, n),
                TableRule::Trailing => self.trailing(n),
            };
            return Ok(times.map_err(|e| e.to_string())?.into_iter().map(|t| table.level(t)).collect());
        };
        let (min, max) = (table.level(0.0).nsr(), table.noisiest().nsr());
        let nsrs = match noise {
            LevelSpacing::Noise(noise) => noise.nsrs(min, max, n),
            LevelSpacing::UniformLambda => spacing::exponential(min, max, n),
        };
        let level = |nsr: f64| {
            let level = table.at_nsr(nsr);
            // The network is told whole times: rounded, or else cut off.
            let t = if self.rounded { level.t.round_ties_even() } else { level.t }.floor();
            Level { t, ..level }
        };
        Ok(nsrs.map_err(|e| e.to_string())?.into_iter().map(level).collect())
    }

    /// A clipped table is left sooner, by the steps of the full one.
    fn trailing(&self, n: usize) -> Result<Vec<f64>, spacing::SpacingError> {
        let (all, left) = (self.table.steps as f64, self.left as f64);
        let mut times = spacing::trailing(self.table.steps, n)?;
        if left < all {
            let step = all / n as f64;
            times.truncate((left / step).ceil() as usize);
            for (i, t) in times.iter_mut().enumerate() {
                *t = (left - i as f64 * step).round_ties_even() - 1.0;
            }
        }
        Ok(times)
    }
}

impl Scheduler for DpmSolver {
    fn process(&self) -> &Process {
        &self.table.process
    }

    fn solver(&self) -> &'static str {
        if self.order == 1 { "ddim" } else { "dpmpp-2m" }
    }

    fn clamp(&self) -> Option<Clamp> {
        self.clamp
    }

    fn plan(&self, steps: usize) -> Result<Plan, String> {
        let levels = self.levels(steps)?;
        let mut plan = betas::plan_to(self.table.process.schedule.clone(), levels, self.end)?;
        plan.start_std = 1.0;
        Ok(plan)
    }

    fn final_order(&self) -> FinalOrder {
        self.final_order
    }

    fn spacing(&self) -> Spacing {
        match self.noise {
            None => self.times.general(),
            Some(LevelSpacing::Noise(noise)) => noise.general(),
            Some(LevelSpacing::UniformLambda) => Spacing::UniformLambda,
        }
    }
}
