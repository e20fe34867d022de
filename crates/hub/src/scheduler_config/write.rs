//! Configurations for models trained here.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tweedie_core::{Parameterization, schedule::TableSchedule};
use tweedie_models::unet::DIFFUSERS_VERSION;

use super::SchedulerConfig;
use crate::error::HubError;

/// A curve of betas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "curve", deny_unknown_fields)]
pub enum BetaCurve {
    /// Evenly spaced.
    Linear {
        /// First beta.
        start: f64,
        /// Last beta.
        end: f64,
    },
    /// Square roots evenly spaced.
    ScaledLinear {
        /// First beta.
        start: f64,
        /// Last beta.
        end: f64,
    },
    /// Nichol & Dhariwal 2021, arXiv:2102.09672.
    SquaredCosine,
    /// Along a sigmoid.
    Sigmoid {
        /// Approximate first beta.
        start: f64,
        /// Approximate last beta.
        end: f64,
    },
    /// Explicit values.
    Betas {
        /// One value per timestep.
        betas: Vec<f64>,
    },
}

/// A variance-preserving table of noise levels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableProcess {
    /// Number of timesteps; that of the betas, if those are given.
    pub steps: usize,
    /// The curve of the betas.
    pub curve: BetaCurve,
    /// Whether the last timestep is pure noise (Lin et al. 2024, arXiv:2305.08891). Not for networks that predict noise.
    pub zero_terminal_snr: bool,
}

impl TableProcess {
    /// The schedule.
    ///
    /// # Errors
    /// If the betas are invalid.
    pub fn schedule(&self) -> Result<TableSchedule, tweedie_core::schedule::ScheduleError> {
        let steps = self.steps;
        let table = match &self.curve {
            BetaCurve::Linear { start, end } => TableSchedule::linear(steps, *start, *end),
            BetaCurve::ScaledLinear { start, end } => TableSchedule::scaled_linear(steps, *start, *end),
            BetaCurve::SquaredCosine => TableSchedule::squared_cosine(steps),
            BetaCurve::Sigmoid { start, end } => TableSchedule::sigmoid(steps, *start, *end),
            BetaCurve::Betas { betas } => TableSchedule::from_betas(betas),
        }?;
        if self.zero_terminal_snr { table.rescale_zero_terminal_snr() } else { Ok(table) }
    }
}

impl SchedulerConfig {
    /// A `DDPMScheduler` for a network trained on a table of noise levels, with predictions clamped to `-1..=1` and `trailing`
    /// spacing.
    ///
    /// # Errors
    /// For a parameterization that the class does not support, or invalid betas.
    pub fn ddpm(process: &TableProcess, parameterization: Parameterization) -> Result<Self, HubError> {
        let unwritten = Path::new("scheduler_config.json");
        let prediction_type = match parameterization {
            Parameterization::Eps => "epsilon",
            Parameterization::X0 => "sample",
            Parameterization::V => "v_prediction",
            other => {
                let reason =
                    format!("{other:?} is not supported with a table of betas; expected Eps, X0 or V");
                return Err(HubError::key(unwritten, "prediction_type", reason));
            }
        };
        let (curve, start, end, given) = match &process.curve {
            BetaCurve::Linear { start, end } => ("linear", *start, *end, None),
            BetaCurve::ScaledLinear { start, end } => ("scaled_linear", *start, *end, None),
            BetaCurve::SquaredCosine => ("squaredcos_cap_v2", 1e-4, 0.02, None),
            BetaCurve::Sigmoid { start, end } => ("sigmoid", *start, *end, None),
            BetaCurve::Betas { betas } => ("linear", 1e-4, 0.02, Some(betas)),
        };
        build(
            "DDPMScheduler",
            json!({
                "num_train_timesteps": given.map_or(process.steps, |b| b.len()),
                "beta_schedule": curve,
                "beta_start": start,
                "beta_end": end,
                "trained_betas": given,
                "prediction_type": prediction_type,
                "rescale_betas_zero_snr": process.zero_terminal_snr,
                "variance_type": "fixed_small",
                "clip_sample": true,
                "clip_sample_range": 1.0,
                "thresholding": false,
                "dynamic_thresholding_ratio": 0.995,
                "sample_max_value": 1.0,
                "timestep_spacing": "trailing",
                "steps_offset": 0,
            }),
        )
    }

    /// A `FlowMatchEulerDiscreteScheduler` for a network trained on rectified flow, which gets `time_scale · sigma` as time.
    /// `shift` moves the timesteps towards noise; 1 leaves them evenly spaced.
    ///
    /// # Errors
    /// If the scale is 0, or the shift is not a finite number > 0.
    pub fn flow(time_scale: usize, shift: f64) -> Result<Self, HubError> {
        build(
            "FlowMatchEulerDiscreteScheduler",
            json!({ "num_train_timesteps": time_scale, "shift": shift, "use_dynamic_shifting": false }),
        )
    }

    /// An `EDMEulerScheduler` for a network preconditioned as in Karras et al. 2022, sampled from `sigma_max` to `sigma_min`
    /// and then to a clean sample.
    ///
    /// # Errors
    /// Unless `0 < sigma_min < sigma_max` and `sigma_data > 0`.
    pub fn edm(sigma_min: f64, sigma_max: f64, sigma_data: f64) -> Result<Self, HubError> {
        build(
            "EDMEulerScheduler",
            json!({
                "sigma_min": sigma_min,
                "sigma_max": sigma_max,
                "sigma_data": sigma_data,
                "sigma_schedule": "karras",
                "rho": 7.0,
                "prediction_type": "epsilon",
                "num_train_timesteps": 1000,
                "final_sigmas_type": "zero",
            }),
        )
    }
}

fn build(class: &str, keys: Value) -> Result<SchedulerConfig, HubError> {
    let mut entries = Map::new();
    entries.insert("_class_name".into(), class.into());
    entries.insert("_diffusers_version".into(), DIFFUSERS_VERSION.into());
    if let Value::Object(keys) = keys {
        entries.extend(keys);
    }
    SchedulerConfig::from_entries(entries, Path::new("scheduler_config.json"))
}
