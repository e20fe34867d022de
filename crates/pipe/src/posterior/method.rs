//! The methods by name.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

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
}

/// Names, and what they are.
pub const METHODS: &[(&str, &str)] = &[
    ("replacement", "known values replace those of every prediction (Song et al. 2021); masks only"),
    (
        "repaint=JUMP,TIMES",
        "replacement that goes back by JUMP steps and repeats them, TIMES in all (Lugmayr et al. 2022); masks only",
    ),
];

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, parameters) = text.split_once('=').map_or((text, None), |(name, rest)| (name, Some(rest)));
        let wrong = || format!("unknown method `{text}`; expected one of {}", names().join(", "));
        let counts = || -> Option<[usize; 2]> {
            let (a, b) = parameters?.split_once(',')?;
            Some([a.trim().parse().ok()?, b.trim().parse().ok()?])
        };
        match (name, parameters) {
            ("replacement", None) => Ok(Self::Replacement),
            ("repaint", None) => Ok(Self::Repaint { jump: 10, times: 10 }),
            ("repaint", Some(_)) => match counts() {
                Some([jump, times]) if jump > 0 && (1..=1000).contains(&times) => {
                    Ok(Self::Repaint { jump, times })
                }
                _ => Err(format!(
                    "`{text}`: expected two whole numbers, the steps to go back and how often, such as `repaint=10,10`"
                )),
            },
            _ => Err(wrong()),
        }
    }
}

fn names() -> Vec<String> {
    METHODS.iter().map(|(name, _)| format!("`{}`", name.split('=').next().unwrap_or(name))).collect()
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replacement => f.write_str("replacement"),
            Self::Repaint { jump, times } => write!(f, "repaint={jump},{times}"),
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
