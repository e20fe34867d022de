//! All scores of a set of images, or why they cannot be computed.

use serde::Serialize;

use crate::{
    extract::{Extracted, Extractor},
    metrics::{MetricError, Reference, Score, Watch, inception::inception_score, manifold::Shares},
};

/// The neighbour that balls reach to, for precision, recall, density and coverage.
pub const NEIGHBOUR: usize = 5;

/// A score, or why it cannot be computed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// A score.
    Scored {
        /// The score.
        value: f64,
        /// Its standard error.
        standard_error: Option<f64>,
        /// The 95 % confidence interval.
        interval: Option<[f64; 2]>,
    },
    /// No score.
    Refused {
        /// The reason.
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
    /// What its scores are comparable with.
    pub comparable: String,
    /// Number of features.
    pub dim: usize,
    /// Number of scored images.
    pub generated: usize,
    /// Number of images in the data.
    pub data: usize,
    /// Fréchet distance: 0 is best; too high for few images.
    pub fid: Outcome,
    /// Kernel distance, unbiased: 0 on average for equal distributions.
    pub kid: Outcome,
    /// Number of blocks of the kernel distance, and of images in each, if it was computed in blocks.
    pub kid_blocks: Option<[usize; 2]>,
    /// Inception Score: higher is better; only uses the generated images.
    pub inception_score: Outcome,
    /// Fraction of generated images that lie in the data's distribution.
    pub precision: Outcome,
    /// Fraction of the data that lies in the distribution of generated images.
    pub recall: Outcome,
    /// Average density of the data around generated images.
    pub density: Outcome,
    /// Fraction of the data that has generated images nearby.
    pub coverage: Outcome,
    /// The neighbour that balls reach to for the last four.
    pub k: usize,
}

impl Quality {
    /// All scores of `pictures` compared with `data`, both from `extractor`.
    pub fn of(
        extractor: &dyn Extractor,
        pictures: &Extracted,
        data: &Reference<'_>,
        watch: Watch<'_>,
    ) -> Self {
        let (a, b) = (&pictures.features, data.features());
        let kid = data.kid(a, watch);
        let shares = data.shares(a, NEIGHBOUR, watch);
        let share = |f: fn(&Shares) -> Score| Outcome::from(shares.as_ref().map(f).map_err(Clone::clone));
        Self {
            extractor: extractor.name().into(),
            comparable: extractor.comparable().into(),
            dim: a.dim(),
            generated: a.len(),
            data: b.len(),
            fid: data.fid(a).into(),
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

    /// Names, which direction is better, and the scores.
    pub fn rows(&self) -> [(&'static str, &'static str, &Outcome); 7] {
        [
            ("FID", "lower", &self.fid),
            ("KID", "lower", &self.kid),
            ("Inception Score", "higher", &self.inception_score),
            ("precision", "higher", &self.precision),
            ("recall", "higher", &self.recall),
            ("density", "higher", &self.density),
            ("coverage", "higher", &self.coverage),
        ]
    }
}
