//! The methods by name.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use tweedie_core::{Plan, Solver};

use super::{Ddnm, Ddrm, DiffPir, Dps, Measurement, Particles, PiGdm, Rows, Weight};

/// How a sample follows from what is known of it. In text and JSON a name, with parameters after `=`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Method {
    /// Known values are replaced in every prediction.
    Replacement,
    /// Replacement that repeats the noise levels: RePaint.
    Repaint {
        /// How many steps are repeated together.
        jump: usize,
        /// How often each step is made.
        times: usize,
    },
    /// [`Ddnm`].
    Ddnm,
    /// [`Ddrm`] with `eta_b = 1`.
    Ddrm {
        /// Amount of fresh noise.
        eta: f64,
    },
    /// [`DiffPir`].
    DiffPir {
        /// Weight of the prior.
        lambda: f64,
        /// Share of fresh noise.
        zeta: f64,
    },
    /// [`PiGdm`].
    PiGdm {
        /// Amount of fresh noise.
        eta: f64,
    },
    /// [`Dps`].
    Dps {
        /// The step size.
        zeta: f64,
    },
    /// [`Particles`].
    Particles,
}

/// What a method can do with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// A mask.
    Mask,
    /// A linear operator with a known decomposition if the measurement has noise; otherwise any with a projection.
    Projection,
    /// A linear operator with a known decomposition.
    Decomposition,
    /// A linear operator.
    Linear,
    /// Any operator.
    Any,
}

/// Names with their parameters, and what they are.
pub const METHODS: &[(&str, &str)] = &[
    (
        "replacement",
        "known values replace those of every prediction, with any solver (Song et al. 2021); masks only",
    ),
    (
        "repaint=JUMP,TIMES",
        "replacement that goes back by JUMP steps and repeats them, TIMES in all (Lugmayr et al. 2022); masks only",
    ),
    ("ddnm", "corrects every prediction in the range of the measurement: DDNM+ (Wang et al. 2023)"),
    ("ddrm=ETA", "weighs measurement and prediction by singular value (Kawar et al. 2022) [0.85]"),
    ("diffpir=LAMBDA,ZETA", "alternates between prediction and proximal point (Zhu et al. 2023) [2,1]"),
    (
        "pigdm=ETA",
        "follows the gradient of the measurement's likelihood through the network (Song et al. 2023) [1]",
    ),
    ("dps=ZETA", "takes gradient steps through the network; for every measurement (Chung et al. 2023) [0.5]"),
    ("particles", "filters the answers as one population: FPS-SMC (Dou & Song 2024)"),
];

impl Method {
    pub(crate) fn needs(self) -> Needs {
        match self {
            Self::Replacement | Self::Repaint { .. } => Needs::Mask,
            Self::Ddnm => Needs::Projection,
            Self::Ddrm { .. } => Needs::Decomposition,
            Self::DiffPir { .. } | Self::PiGdm { .. } | Self::Particles => Needs::Linear,
            Self::Dps { .. } => Needs::Any,
        }
    }

    /// Whether every prediction needs a gradient through the network.
    pub fn is_pulled(self) -> bool {
        matches!(self, Self::PiGdm { .. } | Self::Dps { .. })
    }

    /// The name without parameters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Replacement => "replacement",
            Self::Repaint { .. } => "repaint",
            Self::Ddnm => "ddnm",
            Self::Ddrm { .. } => "ddrm",
            Self::DiffPir { .. } => "diffpir",
            Self::PiGdm { .. } => "pigdm",
            Self::Dps { .. } => "dps",
            Self::Particles => "particles",
        }
    }

    fn parameters(self) -> Vec<f64> {
        match self {
            Self::Replacement | Self::Ddnm | Self::Particles => vec![],
            Self::Repaint { jump, times } => vec![jump as f64, times as f64],
            Self::Ddrm { eta } | Self::PiGdm { eta } => vec![eta],
            Self::DiffPir { lambda, zeta } => vec![lambda, zeta],
            Self::Dps { zeta } => vec![zeta],
        }
    }

    /// The solver that follows `measurement` along `plan`; `None` for methods that replace known values and work with any
    /// solver. `noise(i)` is standard normal noise of the shape of one sample.
    pub fn solver<V: Rows + 'static>(
        self,
        measurement: &Measurement,
        plan: &Plan,
        noise: impl FnMut(usize) -> Vec<f64>,
    ) -> Option<Box<dyn Solver<V>>> {
        let measurement = measurement.clone();
        Some(match self {
            Self::Replacement | Self::Repaint { .. } => return None,
            Self::Ddnm => Box::new(Ddnm(measurement)),
            Self::Ddrm { eta } => Box::new(Ddrm { measurement, eta, eta_b: 1.0 }),
            Self::DiffPir { lambda, zeta } => Box::new(DiffPir { measurement, lambda, zeta }),
            Self::PiGdm { eta } => Box::new(PiGdm { measurement, eta, weight: Weight::Paper }),
            Self::Dps { zeta } => Box::new(Dps { measurement, zeta }),
            Self::Particles => Box::new(Particles::new(measurement, plan, noise)),
        })
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once('=').map_or((text, None), |(name, rest)| (name, Some(rest)));
        let defaults: &[f64] = match name {
            "replacement" | "ddnm" | "particles" => &[],
            "repaint" => &[10.0, 10.0],
            "ddrm" => &[0.85],
            "diffpir" => &[2.0, 1.0],
            "pigdm" => &[1.0],
            "dps" => &[0.5],
            _ => {
                let known =
                    METHODS.iter().map(|(name, _)| format!("`{}`", name.split('=').next().unwrap_or(name)));
                let known: Vec<String> = known.collect();
                return Err(format!("unknown method `{text}`; expected one of {}", known.join(", ")));
            }
        };
        let numbers = match rest {
            None => defaults.to_vec(),
            Some(rest) => {
                let numbers: Result<Vec<f64>, _> = rest.split(',').map(|part| part.trim().parse()).collect();
                numbers.ok().filter(|all| all.len() == defaults.len()).unwrap_or_default()
            }
        };
        let share = |v: f64| (0.0..=1.0).contains(&v);
        let count = |v: f64| (1.0..=1000.0).contains(&v) && v.fract() == 0.0;
        let positive = |v: f64| v > 0.0 && v.is_finite();
        match (name, &*numbers) {
            ("replacement", []) if rest.is_none() => Ok(Self::Replacement),
            ("ddnm", []) if rest.is_none() => Ok(Self::Ddnm),
            ("particles", []) if rest.is_none() => Ok(Self::Particles),
            ("repaint", &[jump, times]) if count(jump) && count(times) => {
                Ok(Self::Repaint { jump: jump as usize, times: times as usize })
            }
            ("ddrm", &[eta]) if share(eta) => Ok(Self::Ddrm { eta }),
            ("pigdm", &[eta]) if share(eta) => Ok(Self::PiGdm { eta }),
            ("diffpir", &[lambda, zeta]) if positive(lambda) && share(zeta) => {
                Ok(Self::DiffPir { lambda, zeta })
            }
            ("dps", &[zeta]) if positive(zeta) => Ok(Self::Dps { zeta }),
            _ => Err(format!("`{text}`: expected {}", expected(name))),
        }
    }
}

fn expected(name: &str) -> &'static str {
    match name {
        "repaint" => "the number of steps to go back and how often, from 1 to 1000, such as `repaint=10,10`",
        "ddrm" => "the amount of fresh noise in 0..=1, such as `ddrm=0.85`",
        "pigdm" => "the amount of fresh noise in 0..=1, such as `pigdm=1`",
        "diffpir" => {
            "a positive weight of the prior and a share of fresh noise in 0..=1, such as `diffpir=2,1`"
        }
        "dps" => "a positive step size, such as `dps=0.5`",
        _ => "no parameters",
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        let numbers: Vec<String> = self.parameters().iter().map(f64::to_string).collect();
        match numbers.is_empty() {
            true => Ok(()),
            false => write!(f, "={}", numbers.join(",")),
        }
    }
}

impl TryFrom<String> for Method {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Method> for String {
    fn from(method: Method) -> Self {
        method.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_read_as_they_are_written() {
        for (name, _) in METHODS {
            let method: Method = name.split('=').next().unwrap().parse().unwrap();
            assert_eq!(method.to_string().parse(), Ok(method));
            assert!(name.starts_with(method.name()));
        }
        for text in [
            "repaint=0,3",
            "repaint=3",
            "ddrm=1.5",
            "diffpir=0,1",
            "dps=nan",
            "dps=",
            "ddnm=1",
            "pigdm=a",
            "repant",
        ] {
            assert!(text.parse::<Method>().is_err(), "{text}");
        }
    }
}
