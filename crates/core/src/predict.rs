//! The meaning of a network's raw output.
//!
//! Every parameterization is read through the four coefficients of Karras et al. 2022
//! (arXiv:2206.00364, eq. 7): `x0 = c_skip·x + c_out·F(c_in·x; c_noise)`.

use serde::{Deserialize, Serialize};

use crate::{level::Level, lin, vector::Vector};

/// What the network `F` is trained to predict.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parameterization {
    /// The noise `eps` (Ho et al. 2020).
    Eps,
    /// The clean sample `x0`.
    X0,
    /// The velocity `alpha·eps − sigma·x0` (Salimans & Ho 2022).
    V,
    /// The flow `eps − x0` (Liu et al. 2022; Lipman et al. 2023).
    Flow,
    /// Preconditioned as in Karras et al. 2022, table 1.
    Edm {
        /// Standard deviation of the data.
        sigma_data: f64,
    },
    /// The same, but the network gets `2/π·arctan(sigma/alpha)` as its time, as in Stable Audio.
    EdmArctan {
        /// Standard deviation of the data.
        sigma_data: f64,
    },
    /// A consistency model, which returns the sample itself at `sigma_min` and gets `250·ln(sigma/alpha)` as its
    /// time. Song et al. 2023, arXiv:2303.01469, appendix C.
    Consistency {
        /// Standard deviation of the data.
        sigma_data: f64,
        /// The cleanest level, where the output is the sample.
        sigma_min: f64,
    },
}

/// `x0 = c_skip·x + c_out·F(c_in·x; c_noise)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scalings {
    /// Factor of the network's input.
    pub c_in: f64,
    /// Factor of the noisy sample in the prediction.
    pub c_skip: f64,
    /// Factor of the network's output in the prediction. Zero where the output does not determine `x0`.
    pub c_out: f64,
    /// The time passed to the network.
    pub c_noise: f64,
}

/// A denoiser's prediction at one level, with `x = alpha·x0 + sigma·eps`. Both parts are computed such that each
/// is well conditioned.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Prediction<V> {
    /// The expected clean sample, `E[x0 | x]`.
    pub x0: V,
    /// The expected noise, `E[eps | x]`.
    pub eps: V,
    /// The noise predicted without the condition, if guidance evaluated it; CFG++ adds this one back.
    pub null_eps: Option<V>,
    /// The predicted variance of a network with learned variance: the interpolation between `ln β̃` (−1) and
    /// `ln β` (1). Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15.
    pub variance: Option<V>,
    /// `(∂x0/∂x)ᵀ·v` for a vector `v` that the caller has agreed on with the solver: samplers that follow a measurement need
    /// this gradient.
    #[serde(default = "Option::default")]
    pub pulled: Option<V>,
}

impl<V> Prediction<V> {
    /// A prediction of the clean sample and the noise only.
    pub fn new(x0: V, eps: V) -> Self {
        Self { x0, eps, null_eps: None, variance: None, pulled: None }
    }
}

/// Why a trajectory ended early.
#[derive(Debug, thiserror::Error)]
pub enum Halt {
    /// The caller cancelled it.
    #[error("cancelled")]
    Cancelled,
    /// A solver's step needs a prediction that is not available yet. Solvers pass this on; a trajectory turns it into
    /// [`Poll::Ask`](crate::trajectory::Poll::Ask).
    #[error("a prediction is not available yet")]
    Pending,
    /// The denoiser failed, or its prediction was not finite.
    #[error("{0}")]
    Failed(String),
}

/// Predicts the clean sample.
pub trait Denoiser<V> {
    /// The prediction for `x` at noise level `at`. Costs one network evaluation.
    fn denoise(&self, x: &V, at: Level) -> Result<Prediction<V>, Halt>;
}

impl<V, F: Fn(&V, Level) -> Prediction<V>> Denoiser<V> for F {
    fn denoise(&self, x: &V, at: Level) -> Result<Prediction<V>, Halt> {
        Ok(self(x, at))
    }
}

impl Parameterization {
    /// The coefficients that turn the raw output at level `at` into `x0`.
    pub fn scalings(&self, at: Level) -> Scalings {
        let Level { alpha, sigma, t } = at;
        match *self {
            Self::Eps => Scalings { c_in: 1.0, c_skip: 1.0 / alpha, c_out: -sigma / alpha, c_noise: t },
            Self::X0 => Scalings { c_in: 1.0, c_skip: 0.0, c_out: 1.0, c_noise: t },
            Self::V => {
                let n = alpha * alpha + sigma * sigma;
                Scalings { c_in: 1.0, c_skip: alpha / n, c_out: -sigma / n, c_noise: t }
            }
            Self::Flow => {
                let n = alpha + sigma;
                Scalings { c_in: 1.0, c_skip: 1.0 / n, c_out: -sigma / n, c_noise: t }
            }
            Self::Edm { sigma_data } | Self::EdmArctan { sigma_data } => {
                // Table 1 of the paper in terms of alpha and sigma, finite at both ends.
                let n = sigma.hypot(alpha * sigma_data);
                Scalings {
                    c_in: 1.0 / n,
                    c_skip: alpha * sigma_data * sigma_data / (n * n),
                    c_out: sigma * sigma_data / n,
                    c_noise: match self {
                        Self::EdmArctan { .. } => sigma.atan2(alpha) * std::f64::consts::FRAC_2_PI,
                        _ => 0.25 * (sigma / alpha).ln(),
                    },
                }
            }
            Self::Consistency { sigma_data, sigma_min } => {
                let n = sigma.hypot(alpha * sigma_data);
                let above = sigma - alpha * sigma_min;
                let skip = sigma_data / above.hypot(alpha * sigma_data);
                Scalings {
                    c_in: 1.0 / n,
                    c_skip: alpha * skip * skip,
                    c_out: above * sigma_data / n,
                    c_noise: 250.0 * (sigma / alpha).ln(),
                }
            }
        }
    }

    /// Converts the raw network output `raw` for the noisy sample `x` to a prediction.
    ///
    /// Finite at every level with one exception: [`Eps`](Self::Eps) divides by `alpha`, because at pure noise
    /// the predicted noise does not determine `x0`. Processes with zero terminal SNR need another
    /// parameterization. At a clean level, where [`X0`](Self::X0) and [`Consistency`](Self::Consistency) do not
    /// determine the noise, `eps` is zero.
    pub fn read<V: Vector>(&self, x: &V, raw: &V, at: Level) -> Prediction<V> {
        let Level { alpha, sigma, .. } = at;
        let s = self.scalings(at);
        let eps = match *self {
            Self::Eps => raw.clone(),
            Self::X0 if sigma == 0.0 => lin![0.0 => x],
            Self::X0 => lin![1.0 / sigma => x, -alpha / sigma => raw],
            Self::V => {
                let n = alpha * alpha + sigma * sigma;
                lin![sigma / n => x, alpha / n => raw]
            }
            Self::Flow => {
                let n = alpha + sigma;
                lin![1.0 / n => x, alpha / n => raw]
            }
            Self::Edm { sigma_data } | Self::EdmArctan { sigma_data } => {
                let n = sigma.hypot(alpha * sigma_data);
                lin![sigma / (n * n) => x, -alpha * sigma_data / n => raw]
            }
            Self::Consistency { .. } if sigma == 0.0 => lin![0.0 => x],
            Self::Consistency { .. } => {
                lin![(1.0 - alpha * s.c_skip) / sigma => x, -alpha * s.c_out / sigma => raw]
            }
        };
        let x0 = match *self {
            Self::X0 => raw.clone(),
            _ => lin![s.c_skip => x, s.c_out => raw],
        };
        Prediction::new(x0, eps)
    }

    /// The training target at level `at`.
    pub fn target<V: Vector>(&self, x0: &V, eps: &V, at: Level) -> V {
        let (a, b) = self.target_weights(at);
        lin![a => x0, b => eps]
    }

    /// The target as weights of `x0` and `eps`, for batches whose images have different noise levels.
    pub fn target_weights(&self, at: Level) -> (f64, f64) {
        let Level { alpha, sigma, .. } = at;
        match *self {
            Self::Eps => (0.0, 1.0),
            Self::X0 => (1.0, 0.0),
            Self::V => (-sigma, alpha),
            Self::Flow => (-1.0, 1.0),
            Self::Edm { sigma_data } | Self::EdmArctan { sigma_data } => {
                let n = sigma.hypot(alpha * sigma_data);
                (sigma / (n * sigma_data), -alpha * sigma_data / n)
            }
            // There is no target at the cleanest level, where the output has no weight.
            Self::Consistency { .. } => {
                let s = self.scalings(at);
                ((1.0 - s.c_skip * alpha) / s.c_out, -s.c_skip * sigma / s.c_out)
            }
        }
    }
}
