//! `PNDMScheduler`: PNDM on raw outputs of the network, in steps that cover `num_train_timesteps / steps`.

use tweedie_core::{
    Level, Move, Parameterization, Plan,
    schedule::Interpolation,
    solver::{AnySolver, StridedPndm},
    spacing::Spacing,
};

use super::{
    Process, Read, Scheduler,
    betas::{self, BetaRules, COMMON_CURVES, EPS_AND_V, Rescaled, Table, TableSpacing},
    keys::Keys,
};

const BETAS: BetaRules = BetaRules {
    start: 1e-4,
    end: 0.02,
    curves: COMMON_CURVES,
    predictions: EPS_AND_V,
    interpolation: Interpolation::LogAlphaBar,
    rescaled: Rescaled::Never,
};

#[derive(Debug)]
struct PndmScheduler {
    process: Process,
    table: usize,
    spacing: TableSpacing,
    runge_kutta: bool,
    end: Level,
}

pub(super) fn read(keys: &mut Keys) -> Read {
    let Table { process, steps: table, .. } = betas::process(keys, &BETAS)?;
    let spacing = TableSpacing::read(keys, "leading")?;
    let runge_kutta = !keys.flag("skip_prk_steps", false)?;
    let end = if keys.flag("set_alpha_to_one", false)? { Level::CLEAN } else { process.schedule.level(0.0) };
    Ok(Box::new(PndmScheduler { process, table, spacing, runge_kutta, end }))
}

impl Scheduler for PndmScheduler {
    fn process(&self) -> &Process {
        &self.process
    }

    fn solver(&self) -> &'static str {
        if self.runge_kutta { "pndm" } else { "plms" }
    }

    fn with_options(&self, steps: usize) -> Option<AnySolver> {
        let pndm = StridedPndm {
            v: self.process.parameterization == Parameterization::V,
            runge_kutta: self.runge_kutta,
            steps,
            stride: (self.table / steps.max(1)) as f64,
            end: self.end,
        };
        Some(pndm.into())
    }

    fn plan(&self, steps: usize) -> Result<Plan, String> {
        if self.runge_kutta && (1..4).contains(&steps) {
            return Err("the Runge-Kutta start takes 3 steps, and at least 1 must follow: expected at least 4 steps, or \
                        `skip_prk_steps`"
                .into());
        }
        let schedule = self.process.schedule.clone();
        let times = self.spacing.times(self.table, steps).map_err(|e| e.to_string())?;
        let stride = (self.table / steps) as f64;
        let mut plan = Plan::strided(schedule, &times, stride, self.end).map_err(|e| e.to_string())?;
        // The steps of the start end where the next one starts.
        let begun = if self.runge_kutta { 3 } else { 1 };
        let level = |k: usize| times.get(k).map(|&t| Move::Solve(plan.schedule.level(t)));
        let mut moves: Vec<Move> = (1..=begun).filter_map(level).collect();
        let rest =
            plan.moves.iter().enumerate().filter(|(_, m)| matches!(m, Move::Solve(_))).nth(moves.len());
        if let Some((index, _)) = rest {
            moves.extend(&plan.moves[index..]);
            plan.moves = moves;
        }
        Ok(plan)
    }

    fn spacing(&self) -> Spacing {
        self.spacing.general()
    }
}
