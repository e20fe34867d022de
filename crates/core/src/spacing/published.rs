//! Align Your Steps: noise levels optimized for single models, in ten steps. Sabour et al. 2024, arXiv:2404.14507.
//! Other numbers of steps are interpolated in `log(sigma/alpha)`.

use serde::{Deserialize, Serialize};

/// The model that the levels were optimized for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlignedFor {
    /// Stable Diffusion 1.5.
    StableDiffusion,
    /// Stable Diffusion XL.
    StableDiffusionXl,
    /// Stable Video Diffusion.
    StableVideoDiffusion,
}

impl AlignedFor {
    /// Eleven values of `sigma/alpha`: ten steps from the first to the last.
    pub fn noise(self) -> [f64; 11] {
        match self {
            Self::StableDiffusion => {
                [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029]
            }
            Self::StableDiffusionXl => {
                [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029]
            }
            Self::StableVideoDiffusion => {
                [700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002]
            }
        }
    }

    /// `n` values of `sigma/alpha` from `max` down, without `min`, where the last step would end: the table
    /// interpolated in `log(sigma/alpha)` and stretched to these ends.
    pub(super) fn stretched(self, min: f64, max: f64, n: usize) -> Vec<f64> {
        let logs = self.noise().map(f64::ln);
        let (first, last) = (logs[0], logs[10]);
        (0..n)
            .map(|i| {
                let place = 10.0 * i as f64 / n as f64;
                let below = (place.floor() as usize).min(9);
                let log = logs[below] + (place - below as f64) * (logs[below + 1] - logs[below]);
                let share = (log - first) / (last - first);
                (max.ln() + share * (min.ln() - max.ln())).exp()
            })
            .collect()
    }
}
