//! Known values replace those of every prediction. Song et al. 2021, arXiv:2011.13456, section 4.
//!
//! `x0` is the known value `y`, and `eps = (x − alpha·y)/sigma` is the noise that leads from it to `x`. Any solver then
//! leaves the known values on their own path, `alpha·y + sigma·eps`; with fresh noise in every step their distribution is
//! that of RePaint's `q(x_t | y)` (Lugmayr et al. 2022, arXiv:2201.09865, algorithm 1, line 4). RePaint's repetitions are
//! [`Plan::resampled`](tweedie_core::Plan::resampled).
//!
//! The samples are not exactly those of the posterior: what is unknown follows the known values only through the network's
//! predictions, which see `x` and not `y`.
//!
//! A value may also be known only above a noise level: then it is changed as by image-to-image with a lower strength. Levin
//! & Fried 2023, arXiv:2306.00950.

use tweedie_core::{Level, Prediction, lin};
use tweedie_ops::{Batch, from_host};

/// What is known of a sample.
#[derive(Clone, Debug)]
pub(crate) struct Replacement {
    /// The sample, one row. What is not known is where to begin with a lower strength.
    sample: Batch,
    /// For each value the noise level `sigma/alpha` down to which it is known: infinite if it never is, negative if it
    /// always is.
    until: Vec<f64>,
}

impl Replacement {
    /// A sample, one row, of which values are known at levels noisier than `until`.
    ///
    /// # Panics
    /// If there is not one level for each value.
    pub fn new(sample: Batch, until: Vec<f64>) -> Self {
        assert_eq!(sample.shape().len(), until.len(), "a level for each value");
        Self { sample, until }
    }

    fn known(&self, at: Level) -> impl Iterator<Item = bool> + '_ {
        let nsr = at.nsr();
        self.until.iter().map(move |until| nsr > *until)
    }

    /// 1 for known values, `[1, values]`.
    fn mask(&self, at: Level) -> tweedie_ops::Tensor<2> {
        let values: Vec<f32> = self.known(at).map(|known| f32::from(u8::from(known))).collect();
        let count = values.len();
        from_host(values, [1, count], &self.sample.device())
    }

    /// `inside` where values are known at this level, and `outside` elsewhere.
    fn choose(&self, at: Level, inside: &Batch, outside: &Batch) -> Batch {
        let mask = self.mask(at);
        let rest = mask.clone().neg().add_scalar(1.0f32);
        outside.with_rows(outside.rows().clone() * rest + inside.rows().clone() * mask)
    }

    fn rows(&self, count: usize) -> Batch {
        Batch::cat(&vec![self.sample.clone(); count])
    }

    /// The prediction with the known values.
    pub fn apply(&self, prediction: Prediction<Batch>, x: &Batch, at: Level) -> Prediction<Batch> {
        let sample = self.rows(x.len());
        let x0 = self.choose(at, &sample, &prediction.x0);
        if at.is_clean() {
            return Prediction { x0, ..prediction };
        }
        let eps = lin![1.0 / at.sigma => x, -at.alpha / at.sigma => &sample];
        Prediction {
            x0,
            null_eps: prediction.null_eps.map(|null| self.choose(at, &eps, &null)),
            eps: self.choose(at, &eps, &prediction.eps),
            variance: prediction.variance,
            pulled: prediction.pulled,
        }
    }

    /// The samples at the first level: the known ones, and those that are to be changed by less than all, with noise; the
    /// others are `noise` alone.
    pub fn start(&self, eps: &Batch, noise: &Batch, at: Level) -> Batch {
        let sample = self.rows(eps.len());
        let noised = lin![at.alpha => &sample, at.sigma => eps];
        let begins: Vec<f32> =
            self.until.iter().map(|until| f32::from(u8::from(until.is_finite()))).collect();
        let count = begins.len();
        let begins = from_host(begins, [1, count], &self.sample.device());
        let rest = begins.clone().neg().add_scalar(1.0f32);
        noise.with_rows(noise.rows().clone() * rest + noised.rows().clone() * begins)
    }
}

#[cfg(test)]
mod tests {
    use tweedie_ops::SampleShape;

    use super::*;

    fn batch(values: &[f32]) -> Batch {
        let device = tweedie_ops::device("cpu").unwrap();
        Batch::from_host(values.to_vec(), 1, &SampleShape::from([values.len()]), &device)
    }

    #[test]
    fn known_values_stay_on_their_path() {
        let known = Replacement::new(batch(&[0.5, -1.0, 0.25]), vec![-1.0, f64::INFINITY, 0.5]);
        let at = |sigma: f64| Level { alpha: 0.8, sigma, t: 1.0 };
        let x = batch(&[1.0, 1.0, 1.0]);
        let predicted = || Prediction::new(batch(&[9.0; 3]), batch(&[7.0; 3]));
        let p = known.apply(predicted(), &x, at(0.6));
        assert_eq!(p.x0.to_host(), [0.5, 9.0, 0.25]);
        assert_eq!(p.eps.to_host()[1], 7.0);
        let back = lin![0.8 => &p.x0, 0.6 => &p.eps].to_host();
        assert!((back[0] - 1.0).abs() < 1e-6 && (back[2] - 1.0).abs() < 1e-6, "{back:?}");
        // Below the level the third value is free.
        assert_eq!(known.apply(predicted(), &x, at(0.3)).x0.to_host(), [0.5, 9.0, 9.0]);
        let start = known.start(&batch(&[1.0; 3]), &batch(&[2.0; 3]), at(0.6)).to_host();
        assert!(
            (start[0] - 1.0).abs() < 1e-6 && start[1] == 2.0 && (start[2] - 0.8).abs() < 1e-6,
            "{start:?}"
        );
    }
}
