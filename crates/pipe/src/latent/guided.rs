//! Guidance between two conditions: prompt and negative prompt, or class and no class.

use burn::tensor::Tensor;
use tweedie_core::{Denoiser, Halt, Level, Parameterization, Prediction};
use tweedie_models::{Added, Condition, Network, NetworkDenoiser};
use tweedie_ops::Batch;

use crate::clamp::{noise_of, quantile};

/// A network's output `F_null + scale·(F_given − F_null)`, if `null` is given; see [`crate::guidance`].
pub(super) struct Guided<'a> {
    pub(super) network: &'a dyn Network,
    pub(super) parameterization: Parameterization,
    pub(super) given: Condition,
    pub(super) null: Option<Condition>,
    pub(super) scale: f64,
    /// How much of the guided output is rescaled to the standard deviation of `F_given`, per row.
    pub(super) rescale: f64,
    pub(super) interval: Option<[f64; 2]>,
    /// The quantile of the magnitudes of the guided `x0`, per row, that is reduced to that of the unguided one; larger
    /// magnitudes are clipped.
    pub(super) threshold: Option<f64>,
}

impl Denoiser<Batch<4>> for Guided<'_> {
    fn denoise(&self, x: &Batch<4>, at: Level) -> Result<Prediction<Batch<4>>, Halt> {
        let ask = |condition| NetworkDenoiser::new(self.network, self.parameterization, condition);
        let outside = self.interval.is_some_and(|[from, to]| !(from..=to).contains(&at.nsr()));
        let Some(null) = self.null.as_ref().filter(|_| !outside && self.scale != 1.0) else {
            return ask(self.given.clone()).denoise(x, at);
        };
        let rows = x.0.dims()[0];
        let both = ask(joined(&self.given, null));
        let (raw, variance) = both.raw(&Tensor::cat(vec![x.0.clone(), x.0.clone()], 0), at)?;
        let given = Batch(raw.clone().narrow(0, 0, rows));
        let null = Batch(raw.narrow(0, rows, rows));
        let mut raw = tweedie_core::lin![self.scale => &given, 1.0 - self.scale => &null];
        if self.rescale > 0.0 {
            let ratio = spread(given.0.clone()) / spread(raw.0.clone());
            let rescaled = Batch(raw.0.clone() * ratio);
            raw = tweedie_core::lin![self.rescale => &rescaled, 1.0 - self.rescale => &raw];
        }
        let null_eps = Some(self.parameterization.read(x, &null, at).eps);
        let variance = variance.map(|v| Batch(v.narrow(0, 0, rows)));
        let mut guided = self.parameterization.read(x, &raw, at);
        if let Some(ratio) = self.threshold {
            let unguided = self.parameterization.read(x, &given, at).x0;
            guided.x0 = Batch(brought_back(guided.x0.0, unguided.0, ratio));
            guided.eps = noise_of(x, &guided.x0, at).unwrap_or(guided.eps);
        }
        Ok(Prediction { null_eps, variance, ..guided })
    }
}

/// Clips each row of `x0` at the `ratio` quantile of its magnitudes, and scales it such that this is at most `like`'s.
/// Dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487) compares with 1, the range of pixels, which does not
/// apply to latents.
fn brought_back(x0: Tensor<4>, like: Tensor<4>, ratio: f64) -> Tensor<4> {
    let own = quantile(like.abs(), ratio);
    let s = quantile(x0.clone().abs(), ratio).max_pair(own.clone());
    let cut = x0.min_pair(s.clone()).max_pair(s.clone().neg());
    // Both are zero if the whole row is.
    cut * own / s.clamp_min(f32::MIN_POSITIVE)
}

/// The standard deviation of each row, `[B, 1, 1, 1]`.
fn spread(x: Tensor<4>) -> Tensor<4> {
    let [b, c, h, w] = x.dims();
    x.reshape([b, c * h * w]).var(1).sqrt().reshape([b, 1, 1, 1])
}

fn cat<const D: usize>(a: &Option<Tensor<D>>, b: &Option<Tensor<D>>) -> Option<Tensor<D>> {
    Some(Tensor::cat(vec![a.clone()?, b.clone()?], 0))
}

/// Concatenates the rows of both.
fn joined(a: &Condition, b: &Condition) -> Condition {
    let classes = |a: &Vec<usize>, b: &Vec<usize>| [&a[..], &b[..]].concat();
    let added = |a: &Added, b: &Added| Added {
        text_embeds: Tensor::cat(vec![a.text_embeds.clone(), b.text_embeds.clone()], 0),
        time_ids: [&a.time_ids[..], &b.time_ids[..]].concat(),
    };
    Condition {
        classes: a.classes.as_ref().zip(b.classes.as_ref()).map(|(a, b)| classes(a, b)),
        embedding: cat(&a.embedding, &b.embedding),
        text: cat(&a.text, &b.text),
        added: a.added.as_ref().zip(b.added.as_ref()).map(|(a, b)| added(a, b)),
        guidance: a.guidance.as_ref().zip(b.guidance.as_ref()).map(|(a, b)| [&a[..], &b[..]].concat()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed by hand: magnitudes 0, 1, 2, 3, 4 have their 0.5 quantile at 2, half of them at 1.
    #[test]
    fn strong_answers_are_brought_back() {
        let device = tweedie_ops::device("cpu").unwrap();
        let row = |values: [f32; 5]| tweedie_ops::from_host(values.to_vec(), [1, 1, 1, 5], &device);
        let guided = || row([0.0, -1.0, 2.0, -3.0, 4.0]);
        let like = row([0.0, -0.5, 1.0, -1.5, 2.0]);
        let back = |like| brought_back(guided(), like, 0.5).into_data().iter::<f32>().collect::<Vec<_>>();
        assert_eq!(back(like), [0.0, -0.5, 1.0, -1.0, 1.0]);
        // The result is never amplified.
        assert_eq!(back(guided() * 2.0), [0.0, -1.0, 2.0, -3.0, 4.0]);
        let zeros = brought_back(guided() * 0.0, guided() * 0.0, 0.5);
        assert!(zeros.into_data().iter::<f32>().all(|v| v == 0.0));
    }
}
