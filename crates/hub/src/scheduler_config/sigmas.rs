//! The levels of schedulers that work in `sigma/alpha`: Euler, Heun, LMS and DPM2.

use tweedie_core::{
    Level, Plan,
    plan::Final,
    spacing::{self, Spacing},
};

use super::{
    betas::{self, NoiseSpacing, Table, TableRule, TableSpacing},
    keys::Keys,
};
use crate::error::HubError;

/// The levels, and the time that the network gets at each.
#[derive(Clone, Copy, Debug)]
pub(super) struct SigmaSpacing {
    pub(super) times: TableSpacing,
    pub(super) noise: Option<NoiseSpacing>,
    pub(super) min: Option<f64>,
    pub(super) max: Option<f64>,
    /// `interpolation_type = "log_linear"`: the logarithms of the levels are evenly spaced down to the table's cleanest, where
    /// the plan ends; the timesteps are unchanged.
    pub(super) log_linear: bool,
    /// The time that the network gets.
    pub(super) network_time: NetworkTime,
}

/// The time that the network gets for a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NetworkTime {
    /// Its timestep.
    Time,
    /// Its timestep, rounded to an integer for Karras' spacing.
    Whole,
    /// `ln(sigma/alpha)/4`.
    Noise,
}

impl SigmaSpacing {
    /// Reads `timestep_spacing`, `steps_offset` and the noise spacings.
    pub(super) fn read(keys: &mut Keys, network_time: NetworkTime) -> Result<Self, HubError> {
        let times = TableSpacing::read(keys, "linspace")?;
        let noise = NoiseSpacing::read(keys)?;
        Ok(Self { times, noise, min: None, max: None, log_linear: false, network_time })
    }

    fn levels(&self, table: &Table, n: usize) -> Result<Vec<Level>, String> {
        let text = |e: spacing::SpacingError| e.to_string();
        let times = match self.times.rule {
            TableRule::Leading => spacing::leading(table.steps, n, self.times.offset),
            TableRule::Trailing => spacing::trailing(table.steps, n),
            TableRule::Linspace => spacing::linspace_fractional(table.steps, n),
        };
        let mut levels: Vec<Level> = times.map_err(text)?.into_iter().map(|t| table.level(t)).collect();
        if self.log_linear {
            let ends = (table.level(0.0).nsr(), table.noisiest().nsr());
            let nsrs = spacing::exponential(ends.0, ends.1, n + 1).map_err(text)?;
            for (level, nsr) in levels.iter_mut().zip(nsrs) {
                *level = Level::variance_preserving(nsr, level.t);
            }
        }
        let Some(noise) = self.noise else { return Ok(levels) };
        let max = self.max.or(levels.first().map(|l| l.nsr())).unwrap_or_default();
        let last = if self.log_linear { Some(table.level(0.0)) } else { levels.last().copied() };
        let min = self.min.or(last.map(|l| l.nsr())).unwrap_or_default();
        if n == 1 {
            // Both ends are the same level.
            return Ok(vec![table.at_nsr(max)]);
        }
        Ok(noise.nsrs(min, max, n).map_err(text)?.into_iter().map(|nsr| table.at_nsr(nsr)).collect())
    }

    fn network_time(&self, level: Level) -> f64 {
        match self.network_time {
            NetworkTime::Whole if self.noise == Some(NoiseSpacing::Karras) => level.t.round_ties_even(),
            NetworkTime::Noise => 0.25 * level.nsr().ln(),
            _ => level.t,
        }
    }

    /// The plan. The first sample has the standard deviation `sqrt(sigma² + 1)` with `leading` and `sigma` otherwise, before
    /// `x` is divided by `sqrt(sigma² + 1)`.
    pub(super) fn plan(&self, table: &Table, n: usize, end: Final) -> Result<Plan, String> {
        let mut levels = self.levels(table, n)?;
        levels.iter_mut().for_each(|level| level.t = self.network_time(*level));
        let end = if self.log_linear && self.noise.is_none() { Final::Level(table.level(0.0)) } else { end };
        let mut plan = betas::plan_to(table.process.schedule.clone(), levels, end)?;
        plan.start_std = if self.times.rule == TableRule::Leading { 1.0 } else { plan.start.sigma };
        Ok(plan)
    }

    pub(super) fn general(&self) -> Spacing {
        match self.noise {
            Some(noise) => noise.general(),
            None if self.times.rule == TableRule::Linspace => Spacing::LinspaceFractional,
            None => self.times.general(),
        }
    }
}
