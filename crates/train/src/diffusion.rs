//! The forward process of a run, and the prediction type of its network.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tweedie_core::{
    NoiseSchedule, Parameterization,
    bound::{Bound, ReverseVariance},
    schedule::{CosineSchedule, EdmSchedule, FlowSchedule, TableSchedule},
};

use crate::error::TrainError;

/// Forward processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Process {
    /// Linear betas (Ho et al. 2020).
    Linear,
    /// Linear square roots of betas (Rombach et al. 2022).
    ScaledLinear,
    /// `alpha` a squared cosine (Nichol & Dhariwal 2021).
    #[default]
    SquaredCosine,
    /// Betas along a sigmoid (Xu et al. 2022).
    Sigmoid,
    /// Rectified flow: `x = (1 - s)·x0 + s·eps` (Liu et al. 2023).
    Flow,
    /// `x = x0 + sigma·eps` (Karras et al. 2022).
    Edm,
    /// `x = cos(π·t/2)·x0 + sin(π·t/2)·eps` for all times in 0..=1 (Salimans & Ho 2022), as of Dance Diffusion.
    Cosine,
}

/// The meaning of the network's raw output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Output {
    /// The noise.
    Eps,
    /// The clean image.
    X0,
    /// The velocity `alpha·eps - sigma·x0`.
    #[default]
    V,
    /// The flow `eps - x0`.
    Flow,
    /// EDM's preconditioned residual.
    Edm,
}

/// The `[diffusion]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiffusionConfig {
    /// The forward process.
    pub schedule: Process,
    /// What the network predicts: `eps`, `x0` or `v` for the first four processes, `flow` for flow, `edm` for EDM, `v` for
    /// cosine.
    pub parameterization: Output,
    /// Variance of the reverse process, for the bound and for sampling: `fixed-small`, `fixed-large`, or `learned-range`, which
    /// doubles the output channels of the network (Nichol & Dhariwal 2021). Only for schedules of betas.
    pub variance: ReverseVariance,
    /// Number of timesteps, at least 2; for flow, the network's time at pure noise.
    pub train_steps: usize,
    /// First beta, for linear, scaled-linear and sigmoid.
    pub beta_start: f64,
    /// Last beta, for linear, scaled-linear and sigmoid.
    pub beta_end: f64,
    /// Rescale the table so that its last entry is pure noise (Lin et al. 2024).
    pub zero_terminal_snr: bool,
    /// Flow: values above 1 let samplers take more steps at high noise. For training, `loss.times_mean` of the logit-normal
    /// distribution has the same effect.
    pub shift: f64,
    /// EDM: the smallest noise level in sampling.
    pub sigma_min: f64,
    /// EDM: the largest noise level in sampling.
    pub sigma_max: f64,
    /// EDM: standard deviation of the data, for values in -1 to 1.
    pub sigma_data: f64,
}

impl Default for DiffusionConfig {
    fn default() -> Self {
        Self {
            schedule: Process::default(),
            parameterization: Output::default(),
            variance: ReverseVariance::default(),
            train_steps: 1000,
            beta_start: 1e-4,
            beta_end: 0.02,
            zero_terminal_snr: false,
            shift: 1.0,
            sigma_min: 0.002,
            sigma_max: 80.0,
            sigma_data: 0.5,
        }
    }
}

impl DiffusionConfig {
    /// The forward process.
    ///
    /// # Errors
    /// [`TrainError::Config`] for invalid parameters.
    pub fn schedule(&self) -> Result<Arc<dyn NoiseSchedule>, TrainError> {
        let wrong = |e: tweedie_core::schedule::ScheduleError| {
            TrainError::config("diffusion.schedule", self.name(), format!("valid parameters: {e}"))
        };
        let n = self.train_steps;
        let table = match self.schedule {
            Process::Flow => {
                return Ok(Arc::new(FlowSchedule::new().with_time_scale(n as f64).map_err(wrong)?));
            }
            Process::Edm => {
                return Ok(Arc::new(EdmSchedule::new(self.sigma_min, self.sigma_max).map_err(wrong)?));
            }
            Process::Cosine => return Ok(Arc::new(CosineSchedule::new())),
            Process::Linear => TableSchedule::linear(n, self.beta_start, self.beta_end),
            Process::ScaledLinear => TableSchedule::scaled_linear(n, self.beta_start, self.beta_end),
            Process::SquaredCosine => TableSchedule::squared_cosine(n),
            Process::Sigmoid => TableSchedule::sigmoid(n, self.beta_start, self.beta_end),
        };
        let table = table.map_err(wrong)?;
        Ok(Arc::new(if self.zero_terminal_snr {
            table.rescale_zero_terminal_snr().map_err(wrong)?
        } else {
            table
        }))
    }

    /// Whether the schedule is a table of betas.
    pub(crate) fn is_table(&self) -> bool {
        !matches!(self.schedule, Process::Flow | Process::Edm | Process::Cosine)
    }

    /// Whether the network also predicts a variance.
    pub fn learned_range(&self) -> bool {
        self.variance == ReverseVariance::LearnedRange
    }

    /// The variational bound of this process.
    ///
    /// # Errors
    /// Those of [`DiffusionConfig::schedule`].
    pub fn bound(&self) -> Result<Bound, TrainError> {
        Bound::of(&*self.schedule()?, self.train_steps, self.variance).map_err(|e| {
            TrainError::config("diffusion.schedule", self.name(), format!("valid noise levels: {e}"))
        })
    }

    /// The prediction type, with EDM's parameter.
    pub fn parameterization(&self) -> Parameterization {
        match self.parameterization {
            Output::Eps => Parameterization::Eps,
            Output::X0 => Parameterization::X0,
            Output::V => Parameterization::V,
            Output::Flow => Parameterization::Flow,
            Output::Edm => Parameterization::Edm { sigma_data: self.sigma_data },
        }
    }

    /// The equivalent diffusers `scheduler_config.json`.
    pub fn scheduler_config(&self) -> Value {
        let betas = match self.schedule {
            Process::Flow => {
                return json!({
                    "_class_name": "FlowMatchEulerDiscreteScheduler",
                    "num_train_timesteps": self.train_steps,
                    "shift": self.shift,
                });
            }
            Process::Edm => {
                return json!({
                    "_class_name": "EDMEulerScheduler",
                    "num_train_timesteps": self.train_steps,
                    "prediction_type": "epsilon",
                    "rho": 7.0,
                    "sigma_data": self.sigma_data,
                    "sigma_max": self.sigma_max,
                    "sigma_min": self.sigma_min,
                    "sigma_schedule": "karras",
                });
            }
            Process::Cosine => {
                return json!({
                    "_class_name": "IPNDMScheduler",
                    "num_train_timesteps": self.train_steps,
                    "trained_betas": null,
                });
            }
            Process::Linear => "linear",
            Process::ScaledLinear => "scaled_linear",
            Process::SquaredCosine => "squaredcos_cap_v2",
            Process::Sigmoid => "sigmoid",
        };
        let prediction = match self.parameterization {
            Output::X0 => "sample",
            Output::V => "v_prediction",
            _ => "epsilon",
        };
        json!({
            "_class_name": "DDPMScheduler",
            "beta_end": self.beta_end,
            "beta_schedule": betas,
            "beta_start": self.beta_start,
            "clip_sample": true,
            "clip_sample_range": 1.0,
            "num_train_timesteps": self.train_steps,
            "prediction_type": prediction,
            "rescale_betas_zero_snr": self.zero_terminal_snr,
            "steps_offset": 0,
            "timestep_spacing": if self.zero_terminal_snr { "trailing" } else { "leading" },
            "variance_type": match self.variance {
                ReverseVariance::FixedSmall => "fixed_small",
                ReverseVariance::FixedLarge => "fixed_large",
                ReverseVariance::LearnedRange => "learned_range",
            },
        })
    }

    fn name(&self) -> String {
        serde_json::to_value(self.schedule)
            .ok()
            .and_then(|v| v.as_str().map(str::to_owned))
            .unwrap_or_default()
    }

    pub(crate) fn check(&self) -> Result<(), TrainError> {
        if !(2..=1_000_000).contains(&self.train_steps) {
            return Err(TrainError::config("diffusion.train_steps", self.train_steps, "2 to 1000000"));
        }
        if !(self.shift > 0.0 && self.shift.is_finite()) {
            return Err(TrainError::config("diffusion.shift", self.shift, "a finite value > 0"));
        }
        if !(self.sigma_data > 0.0 && self.sigma_data.is_finite()) {
            return Err(TrainError::config("diffusion.sigma_data", self.sigma_data, "a finite value > 0"));
        }
        let fits = match self.schedule {
            Process::Flow => self.parameterization == Output::Flow,
            Process::Edm => self.parameterization == Output::Edm,
            Process::Cosine => self.parameterization == Output::V,
            _ => matches!(self.parameterization, Output::Eps | Output::X0 | Output::V),
        };
        if !fits {
            let expected = match self.schedule {
                Process::Flow => "flow for diffusion.schedule = flow",
                Process::Edm => "edm for diffusion.schedule = edm",
                Process::Cosine => "v for diffusion.schedule = cosine",
                _ => "eps, x0 or v for a schedule of betas",
            };
            let found = format!("{:?}", self.parameterization).to_lowercase();
            return Err(TrainError::config("diffusion.parameterization", found, expected));
        }
        if self.zero_terminal_snr && self.parameterization == Output::Eps {
            let expected = "x0 or v with diffusion.zero_terminal_snr, because eps at pure noise does not determine the image";
            return Err(TrainError::config("diffusion.parameterization", "eps", expected));
        }
        if self.variance != ReverseVariance::FixedSmall && !self.is_table() {
            let found = match self.variance {
                ReverseVariance::LearnedRange => "learned-range",
                _ => "fixed-large",
            };
            let expected = "fixed-small, because diffusion.schedule has no betas";
            return Err(TrainError::config("diffusion.variance", found, expected));
        }
        self.schedule().map(|_| ())
    }
}
