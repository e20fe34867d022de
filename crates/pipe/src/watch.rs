//! Denoisers that check for values that are not finite, and for cancellation.

use std::sync::atomic::{AtomicBool, Ordering};

use tweedie_core::{Denoiser, Halt, Level, Prediction};
use tweedie_ops::Batch;

/// Fails if a prediction is not finite, instead of producing a black image.
pub struct Finite<'a>(pub &'a dyn Denoiser<Batch<4>>);

impl Denoiser<Batch<4>> for Finite<'_> {
    /// Waits for the device; the prediction stays there.
    fn denoise(&self, x: &Batch<4>, at: Level) -> Result<Prediction<Batch<4>>, Halt> {
        let answer = self.0.denoise(x, at)?;
        if answer.x0.is_finite() {
            return Ok(answer);
        }
        let cause = if x.is_finite() { "returned" } else { "got" };
        Err(Halt::Failed(format!("the network {cause} values that are not finite at t = {:.3}", at.t)))
    }
}

/// Stops as soon as the flag is set, even between the evaluations of one step.
pub struct Cancellable<'a> {
    /// The denoiser.
    pub inner: &'a dyn Denoiser<Batch<4>>,
    /// Set this from any thread to stop.
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
