//! Classifier-free guidance: `F = F_null + scale·(F_class − F_null)` for the network's raw output `F`, which is equivalent
//! to guiding `x0` or `eps` for every parameterization. Ho & Salimans 2022, arXiv:2207.12598; within an interval of noise
//! levels only: Kynkäänniemi et al. 2024, arXiv:2404.07724.

use burn::tensor::Tensor;
use tweedie_core::{Denoiser, Halt, Level, Parameterization, Prediction, solver};
use tweedie_models::{Condition, Network, NetworkDenoiser};
use tweedie_ops::Batch;

use crate::PipelineError;

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

/// A network guided towards one class per row.
pub struct Guided<'a, N: ?Sized> {
    /// The network.
    pub network: &'a N,
    /// What it predicts.
    pub parameterization: Parameterization,
    /// The class of each row.
    pub classes: Vec<usize>,
    /// The class that means "no class".
    pub null_class: usize,
    /// 0 ignores the class, 1 is the prediction for the class, larger values exaggerate it.
    pub scale: f64,
    /// The range of noise levels `sigma/alpha` with guidance; elsewhere the scale is 1.
    pub interval: Option<[f64; 2]>,
}

impl<N: Network + ?Sized> Guided<'_, N> {
    fn scale_at(&self, at: Level) -> f64 {
        match self.interval {
            Some([from, to]) if !(from..=to).contains(&at.nsr()) => 1.0,
            _ => self.scale,
        }
    }
}

impl<N: Network + ?Sized> Denoiser<Batch<4>> for Guided<'_, N> {
    /// One call of the network, with twice the rows unless the scale is 0 or 1.
    fn denoise(&self, x: &Batch<4>, at: Level) -> Result<Prediction<Batch<4>>, Halt> {
        let scale = self.scale_at(at);
        let nulls = || vec![self.null_class; self.classes.len()];
        let ask = |classes: Vec<usize>| {
            NetworkDenoiser::new(self.network, self.parameterization, Condition::classes(classes))
        };
        if scale == 1.0 {
            return ask(self.classes.clone()).denoise(x, at);
        }
        if scale == 0.0 {
            return ask(nulls()).denoise(x, at);
        }
        let rows = self.classes.len();
        let classes = self.classes.iter().copied().chain(nulls()).collect();
        let (raw, variance) = ask(classes).raw(&Tensor::cat(vec![x.0.clone(), x.0.clone()], 0), at)?;
        let given = Batch(raw.clone().narrow(0, 0, rows));
        let null = Batch(raw.narrow(0, rows, rows));
        let raw = tweedie_core::lin![scale => &given, 1.0 - scale => &null];
        let null_eps = Some(self.parameterization.read(x, &null, at).eps);
        let variance = variance.map(|v| Batch(v.narrow(0, 0, rows)));
        Ok(Prediction { null_eps, variance, ..self.parameterization.read(x, &raw, at) })
    }
}
