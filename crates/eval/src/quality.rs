//! All scores of a set of pictures against a data set, or why there is none.

use serde::Serialize;

use crate::{
    extract::{Extracted, Extractor},
    metrics::{
        MetricError, Moments, Score,
        frechet::fid,
        inception::inception_score,
        kernel::kid,
        manifold::{Shares, shares},
    },
};

/// The neighbour to which balls reach, for precision, recall, density and coverage.
pub const NEIGHBOUR: usize = 5;

/// A score, or why it is refused.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// A score.
    Scored {
        /// The score.
        value: f64,
        /// Its standard error.
        standard_error: Option<f64>,
        /// In which it lies 95 times of 100.
        interval: Option<[f64; 2]>,
    },
    /// No score.
    Refused {
        /// Why.
        refused: String,
    },
}

impl From<Result<Score, MetricError>> for Outcome {
    fn from(result: Result<Score, MetricError>) -> Self {
        match result {
            Ok(score) => Self::Scored {
                value: score.value,
                standard_error: score.standard_error,
                interval: score.interval(),
            },
            Err(e) => Self::Refused { refused: e.to_string() },
        }
    }
}

/// The scores of one network's features.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quality {
    /// The network.
    pub extractor: String,
    /// What its scores may be compared with.
    pub comparable: String,
    /// Features of a picture.
    pub dim: usize,
    /// Pictures scored.
    pub generated: usize,
    /// Pictures of the data.
    pub data: usize,
    /// Fréchet distance: 0 is best; biased upwards by few pictures.
    pub fid: Outcome,
    /// Kernel distance: 0 on average for equal distributions, without bias.
    pub kid: Outcome,
    /// Blocks of the kernel distance, and pictures of each, if it was computed in blocks.
    pub kid_blocks: Option<[usize; 2]>,
    /// Inception Score: more is better; of the pictures alone.
    pub inception_score: Outcome,
    /// Share of the pictures that could be data.
    pub precision: Outcome,
    /// Share of the data that could be pictures.
    pub recall: Outcome,
    /// How densely the data lies around the pictures.
    pub density: Outcome,
    /// Share of the data near which there are pictures.
    pub coverage: Outcome,
    /// To this neighbour the balls of the last four reach.
    pub k: usize,
}

impl Quality {
    /// All scores of `pictures` against `data`, both from `extractor`.
    pub fn of(extractor: &dyn Extractor, pictures: &Extracted, data: &Extracted) -> Self {
        let (a, b) = (&pictures.features, &data.features);
        let kid = kid(a, b);
        let shares = shares(a, b, NEIGHBOUR);
        let share = |f: fn(&Shares) -> Score| Outcome::from(shares.as_ref().map(f).map_err(Clone::clone));
        Self {
            extractor: extractor.name().into(),
            comparable: extractor.comparable().into(),
            dim: a.dim(),
            generated: a.len(),
            data: b.len(),
            fid: fid(a, &Moments::of(b)).into(),
            kid_blocks: kid.as_ref().ok().and_then(|k| k.blocks),
            kid: kid.map(|k| k.score).into(),
            inception_score: inception_score(&pictures.probabilities).into(),
            precision: share(|s| s.precision),
            recall: share(|s| s.recall),
            density: share(|s| s.density),
            coverage: share(|s| s.coverage),
            k: NEIGHBOUR,
        }
    }

    /// Names, which way is better, and the scores.
    pub fn rows(&self) -> [(&'static str, &'static str, &Outcome); 7] {
        [
            ("FID", "less", &self.fid),
            ("KID", "less", &self.kid),
            ("Inception Score", "more", &self.inception_score),
            ("precision", "more", &self.precision),
            ("recall", "more", &self.recall),
            ("density", "more", &self.density),
            ("coverage", "more", &self.coverage),
        ]
    }
}
