//! Classifier-free guidance: `F = F_null + scale·(F_class − F_null)` for the network's raw output `F`, which is equivalent
//! to guiding `x0` or `eps` for every parameterization. Ho & Salimans 2022, arXiv:2207.12598; within an interval of noise
//! levels only: Kynkäänniemi et al. 2024, arXiv:2404.07724.

use std::sync::Arc;

use burn::tensor::Tensor;
use tweedie_core::{Halt, Level, Parameterization, Prediction, lin, solver};
use tweedie_models::{
    Conditions,
    denoiser::{Call, split_variance},
};
use tweedie_ops::Batch;

use crate::{
    PipelineError,
    clamp::{noise_of, quantile},
    control::Strengths,
};

/// The effective scale of a request's `guidance` for this solver: 1, no guidance, for all values up to 1, as in
/// diffusers, except that CFG++ solvers use values from 0 to 1.
pub fn scale_for(solver: &str, guidance: f64) -> f64 {
    if cfgpp(solver).is_some() { guidance } else { guidance.max(1.0) }
}

/// The same with a check. `own`: the value is the model's default.
pub(crate) fn checked_scale(solver: &str, guidance: f64, own: bool) -> Result<f64, PipelineError> {
    let fail = |reason: String| Err(PipelineError::request("guidance", reason));
    if !guidance.is_finite() || guidance < 0.0 {
        return fail(format!("{guidance}: expected a finite value ≥ 0"));
    }
    if let Some(name) = cfgpp(solver).filter(|_| guidance > 1.0) {
        let whose = if own { " (the model's default)" } else { "" };
        return fail(format!("{guidance}{whose}: the solver `{name}` needs a value in 0..=1"));
    }
    Ok(scale_for(solver, guidance))
}

/// The name of the solver if it is a CFG++ solver.
fn cfgpp(solver: &str) -> Option<&'static str> {
    solver::find(solver).filter(|entry| entry.is_cfgpp()).map(|entry| entry.name)
}

/// The reason why fields that modify guidance have no effect.
pub(crate) const UNGUIDED: &str = "has no effect without guidance; set `guidance` above 1, or remove it";

/// Returns an error with `reason` if a field that has no effect is set.
pub(crate) fn check_unused(reason: &str, fields: &[(&'static str, bool)]) -> Result<(), PipelineError> {
    match fields.iter().find(|(_, set)| *set) {
        Some((field, _)) => Err(PipelineError::request(field, reason)),
        None => Ok(()),
    }
}

/// How the prediction is guided.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    /// 0 ignores the condition, 1 is the prediction for the condition, larger values exaggerate it.
    pub scale: f64,
    /// The scale of the first frame of clips, from which it rises evenly to `scale` at the last.
    pub first: Option<f64>,
    /// How much the guided output is rescaled to the standard deviation of the conditional one, per row.
    pub rescale: f64,
    /// The range of noise levels `sigma/alpha` with guidance; elsewhere the scale is 1.
    pub interval: Option<[f64; 2]>,
    /// The quantile of the magnitudes of the guided `x0`, per row, that is reduced to that of the unguided one; larger
    /// magnitudes are clipped.
    pub threshold: Option<f64>,
}

/// Rows with their conditions: which network call an evaluation needs, and how its output is read.
#[derive(Clone, Debug)]
pub struct Guided {
    /// What the network predicts.
    pub parameterization: Parameterization,
    /// The conditions of the rows.
    pub given: Conditions,
    /// The unconditional ones, if there are any.
    pub null: Option<Conditions>,
    /// How the prediction is guided.
    pub guidance: Guidance,
    /// When and how strongly ControlNets act, if there are any.
    pub(crate) control: Option<Arc<Strengths>>,
}

/// Which predictions an evaluation consists of.
enum Parts<'a> {
    Given,
    Null(&'a Conditions),
    Both(&'a Conditions),
}

impl Guided {
    fn parts(&self, at: Level) -> Parts<'_> {
        let outside = self.guidance.interval.is_some_and(|[from, to]| !(from..=to).contains(&at.nsr()));
        match &self.null {
            Some(null) if !outside && self.guidance.scale == 0.0 => Parts::Null(null),
            Some(null) if !outside && self.guidance.scale != 1.0 => Parts::Both(null),
            _ => Parts::Given,
        }
    }

    /// The network call for `x` at the level `at`: with twice the rows if both predictions are needed.
    pub fn call(&self, x: &Batch, at: Level) -> Call {
        let controlled = |conditions: &Conditions, null: bool| match &self.control {
            Some(control) => control.add(conditions, x.len(), at, null),
            None => conditions.clone(),
        };
        match self.parts(at) {
            Parts::Given => Call::new(self.parameterization, x, at, controlled(&self.given, false)),
            Parts::Null(null) => Call::new(self.parameterization, x, at, controlled(null, true)),
            Parts::Both(null) => {
                let (given, null) = (controlled(&self.given, false), controlled(null, true));
                let both = Conditions::cat(&[&given, &null]).expect("both are of one kind");
                let twice = Batch::cat(&[x.clone(), x.clone()]);
                Call::new(self.parameterization, &twice, at, both)
            }
        }
    }

    /// Reads the network's output for [`Self::call`].
    ///
    /// # Errors
    /// [`Halt::Failed`] for an output with another number of channels.
    pub fn read(&self, x: &Batch, at: Level, raw: Batch) -> Result<Prediction<Batch>, Halt> {
        let (raw, variance) = split_variance(raw, x.shape().channels())?;
        let Parts::Both(_) = self.parts(at) else {
            return Ok(Prediction { variance, ..self.parameterization.read(x, &raw, at) });
        };
        let (rows, Guidance { scale, first, rescale, threshold, .. }) = (x.len(), self.guidance);
        let (given, null) = (raw.narrow(0..rows), raw.narrow(rows..2 * rows));
        let mut raw = match first {
            None => lin![scale => &given, 1.0 - scale => &null],
            Some(first) => rising(&given, &null, [first, scale]),
        };
        if rescale > 0.0 {
            let ratio = spread(given.rows().clone()) / spread(raw.rows().clone());
            let rescaled = raw.with_rows(raw.rows().clone() * ratio);
            raw = lin![rescale => &rescaled, 1.0 - rescale => &raw];
        }
        let null_eps = Some(self.parameterization.read(x, &null, at).eps);
        let variance = variance.map(|v| v.narrow(0..rows));
        let mut guided = self.parameterization.read(x, &raw, at);
        if let Some(ratio) = threshold {
            let unguided = self.parameterization.read(x, &given, at).x0;
            let x0 = brought_back(guided.x0.rows().clone(), unguided.rows().clone(), ratio);
            guided.x0 = guided.x0.with_rows(x0);
            guided.eps = noise_of(x, &guided.x0, at).unwrap_or(guided.eps);
        }
        Ok(Prediction { null_eps, variance, ..guided })
    }
}

/// `null + scale·(given − null)`, where the scale of each frame is on the line between those of the first and the last.
fn rising(given: &Batch, null: &Batch, [first, last]: [f64; 2]) -> Batch {
    let shape = given.shape();
    let (frames, area) = match *shape.axes() {
        [frames, ref axes @ ..] => (frames, axes.iter().product::<usize>()),
        [] => (1, 1),
    };
    let of_frame = |f: usize| first + (last - first) * f as f64 / frames.saturating_sub(1).max(1) as f64;
    let channel: Vec<f32> = (0..frames).flat_map(|f| std::iter::repeat_n(of_frame(f) as f32, area)).collect();
    let scales = Batch::from_host(channel.repeat(shape.channels()), 1, shape, &given.device());
    let (given, base) = (given.rows().clone(), null.rows().clone());
    null.with_rows(base.clone() + (given - base) * scales.rows().clone())
}

/// Clips each row of `x0` at the `ratio` quantile of its magnitudes, and scales it such that this is at most `like`'s.
/// Dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487) compares with 1, the range of pixels, which does not
/// apply to latents.
fn brought_back(x0: Tensor<2>, like: Tensor<2>, ratio: f64) -> Tensor<2> {
    let own = quantile(like.abs(), ratio);
    let s = quantile(x0.clone().abs(), ratio).max_pair(own.clone());
    let cut = x0.min_pair(s.clone()).max_pair(s.clone().neg());
    // Both are zero if the whole row is.
    cut * own / s.clamp_min(f32::MIN_POSITIVE)
}

/// The standard deviation of each row, `[B, 1]`.
fn spread(x: Tensor<2>) -> Tensor<2> {
    x.var(1).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed by hand: magnitudes 0, 1, 2, 3, 4 have their 0.5 quantile at 2, half of them at 1.
    /// Computed by hand: scales of 1, 2 and 3 for the three frames of both channels.
    #[test]
    fn the_scale_rises_over_the_frames() {
        let device = tweedie_ops::device("cpu").unwrap();
        let batch = |values: Vec<f32>| Batch::from_host(values, 1, &[2, 3, 1, 1].into(), &device);
        let null = batch(vec![0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
        let given = batch(vec![1.0, 1.0, 1.0, 3.0, 3.0, 3.0]);
        let found = rising(&given, &null, [1.0, 3.0]).to_host();
        assert_eq!(found, [1.0, 2.0, 3.0, 3.0, 5.0, 7.0]);
    }

    #[test]
    fn strong_predictions_are_brought_back() {
        let device = tweedie_ops::device("cpu").unwrap();
        let row = |values: [f32; 5]| tweedie_ops::from_host(values.to_vec(), [1, 5], &device);
        let guided = || row([0.0, -1.0, 2.0, -3.0, 4.0]);
        let like = row([0.0, -0.5, 1.0, -1.5, 2.0]);
        let back = |like| tweedie_ops::to_host(brought_back(guided(), like, 0.5));
        assert_eq!(back(like), [0.0, -0.5, 1.0, -1.0, 1.0]);
        // The result is never amplified.
        assert_eq!(back(guided() * 2.0), [0.0, -1.0, 2.0, -3.0, 4.0]);
        let zeros = brought_back(guided() * 0.0, guided() * 0.0, 0.5);
        assert!(tweedie_ops::to_host(zeros).iter().all(|v| *v == 0.0));
    }
}
