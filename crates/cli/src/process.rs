//! Forward processes by name.

use anyhow::{Context, Result};
use clap::builder::PossibleValuesParser;
use tweedie::{
    core::Parameterization,
    hub::{
        SchedulerConfig,
        scheduler_config::{BetaCurve, TableProcess},
    },
};

const NAMES: &[&str] = &["linear", "scaled-linear", "cosine", "sigmoid", "flow", "edm"];

/// The names, for flags.
pub fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(NAMES)
}

/// The process called `name`, with the parameters of its paper.
pub fn scheduler(name: &str) -> Result<SchedulerConfig> {
    let table = |curve| {
        let process = TableProcess { steps: 1000, curve, zero_terminal_snr: false };
        SchedulerConfig::ddpm(&process, Parameterization::Eps)
    };
    let (ddpm_start, ddpm_end) = (1e-4, 0.02);
    Ok(match name {
        "linear" => table(BetaCurve::Linear { start: ddpm_start, end: ddpm_end })?,
        "scaled-linear" => table(BetaCurve::ScaledLinear { start: 0.00085, end: 0.012 })?,
        "cosine" => table(BetaCurve::SquaredCosine)?,
        "sigmoid" => table(BetaCurve::Sigmoid { start: ddpm_start, end: ddpm_end })?,
        "flow" => SchedulerConfig::flow(1000, 1.0)?,
        "edm" => SchedulerConfig::edm(0.002, 80.0, 0.5)?,
        _ => return Err(anyhow::anyhow!("unknown process `{name}`")).context(NAMES.join(", ")),
    })
}
