//! Denoisers that look on: for answers that are not finite, and for a wish to stop.

use std::sync::atomic::{AtomicBool, Ordering};

use tweedie_core::{Denoiser, Halt, Level, Prediction, Vector};
use tweedie_ops::Batch;

/// Halts where an answer is not finite, instead of painting a black picture.
pub struct Finite<'a>(pub &'a dyn Denoiser<Batch<4>>);

impl Denoiser<Batch<4>> for Finite<'_> {
    /// Reads the answer back, which waits for the device.
    fn denoise(&self, x: &Batch<4>, at: Level) -> Result<Prediction<Batch<4>>, Halt> {
        let answer = self.0.denoise(x, at)?;
        if answer.x0.rms().is_finite() {
            return Ok(answer);
        }
        let cause = if x.rms().is_finite() { "answers with" } else { "was given" };
        Err(Halt::Failed(format!("the network {cause} numbers that are not finite, at t = {:.3}", at.t)))
    }
}

/// Halts as soon as the flag is set, even between the evaluations of one step.
pub struct Cancellable<'a> {
    /// The denoiser.
    pub inner: &'a dyn Denoiser<Batch<4>>,
    /// Set from anywhere to stop.
    pub cancelled: &'a AtomicBool,
}

impl Denoiser<Batch<4>> for Cancellable<'_> {
    fn denoise(&self, x: &Batch<4>, at: Level) -> Result<Prediction<Batch<4>>, Halt> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Halt::Cancelled);
        }
        self.inner.denoise(x, at)
    }
}
