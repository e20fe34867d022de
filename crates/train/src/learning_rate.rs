//! The learning rate schedule: a linear warm-up, then constant or half a cosine.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::error::TrainError;

/// The schedule after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// Constant.
    #[default]
    Constant,
    /// `floor + (peak - floor)·(1 + cos(pi·progress))/2`.
    Cosine,
}

/// The `[learning_rate]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LearningRateConfig {
    /// Peak learning rate, > 0.
    pub peak: f64,
    /// Steps of linear warm-up; the first step already uses `peak / warmup`.
    pub warmup: u64,
    /// The schedule after the warm-up.
    pub decay: Decay,
    /// Step at which a cosine reaches its floor; by default `run.steps`.
    pub decay_steps: Option<u64>,
    /// Final value of a cosine, from 0 to the peak.
    pub floor: f64,
}

impl Default for LearningRateConfig {
    fn default() -> Self {
        Self { peak: 3e-4, warmup: 100, decay: Decay::Constant, decay_steps: None, floor: 0.0 }
    }
}

impl LearningRateConfig {
    /// The learning rate of the step after `done` steps.
    pub fn at(&self, done: u64) -> f64 {
        if done < self.warmup {
            return self.peak * (done + 1) as f64 / self.warmup as f64;
        }
        match (self.decay, self.decay_steps) {
            (Decay::Cosine, Some(end)) => {
                let span = end.saturating_sub(self.warmup).max(1) as f64;
                let progress = ((done - self.warmup) as f64 / span).min(1.0);
                self.floor + (self.peak - self.floor) * 0.5 * (1.0 + (PI * progress).cos())
            }
            _ => self.peak,
        }
    }

    pub(crate) fn resolve(&mut self, steps: Option<u64>) -> Result<(), TrainError> {
        if self.decay == Decay::Cosine && self.decay_steps.is_none() {
            self.decay_steps = steps;
            if steps.is_none() {
                let expected = "a value for learning_rate.decay_steps or run.steps";
                return Err(TrainError::config("learning_rate.decay", "cosine", expected));
            }
        }
        Ok(())
    }

    pub(crate) fn check(&self) -> Result<(), TrainError> {
        if !(self.peak > 0.0 && self.peak.is_finite()) {
            return Err(TrainError::config("learning_rate.peak", self.peak, "a value > 0"));
        }
        if !(0.0..=self.peak).contains(&self.floor) {
            return Err(TrainError::config("learning_rate.floor", self.floor, "0 to learning_rate.peak"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warms_up_then_falls_along_a_cosine() {
        let mut rate = LearningRateConfig { peak: 1.0, warmup: 4, floor: 0.1, ..Default::default() };
        assert_eq!((0..6).map(|s| rate.at(s)).collect::<Vec<_>>(), [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]);
        rate.decay = Decay::Cosine;
        assert!(rate.resolve(None).is_err());
        rate.resolve(Some(104)).unwrap();
        assert_eq!(rate.at(4), 1.0);
        assert!((rate.at(54) - 0.55).abs() < 1e-12);
        assert!((rate.at(104) - 0.1).abs() < 1e-12 && (rate.at(9999) - 0.1).abs() < 1e-12);
    }
}
