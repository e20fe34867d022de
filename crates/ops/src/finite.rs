//! Finds samples that are not finite without waiting for the device.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use burn::{
    backend::ExecutionError,
    tensor::{TensorData, read_sync},
};

use tweedie_core::Vector;

use crate::{Batch, is_cpu};

type Reading = Pin<Box<dyn Future<Output = Result<TensorData, ExecutionError>> + Send>>;

/// Looks at batches, one after the other, for values that are not finite. On the CPU, each look tells its result. On another
/// device, it starts to read one value, and tells the result of the look before, so that the device always has work.
#[derive(Default)]
pub struct FiniteWatch<T> {
    before: Option<(Batch, T, Reading)>,
}

impl<T> fmt::Debug for FiniteWatch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FiniteWatch").field("waits", &self.before.is_some()).finish()
    }
}

impl<T> FiniteWatch<T> {
    /// Looks at `x`, which `label` names.
    ///
    /// # Errors
    /// The label of a batch with a value that is not finite: this one, or the one before.
    pub fn look(&mut self, x: &Batch, label: T) -> Result<(), T> {
        if is_cpu(&x.device()) {
            return if x.is_finite() { Ok(()) } else { Err(label) };
        }
        let x = x.with_rows(x.rows().clone().without_autodiff());
        let mut reading: Reading = Box::pin(x.rows().clone().sum().into_data_async());
        // Polling starts the copy, after what the device has been given so far.
        if let Poll::Ready(read) = reading.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            reading = Box::pin(std::future::ready(read));
        }
        let before = self.before.replace((x, label, reading));
        before.map_or(Ok(()), told)
    }

    /// Whether the result of the last look is not told yet.
    pub fn is_behind(&self) -> bool {
        self.before.is_some()
    }

    /// Tells the result of the last look, if it was not told yet.
    ///
    /// # Errors
    /// The label of a batch with a value that is not finite.
    pub fn finish(&mut self) -> Result<(), T> {
        self.before.take().map_or(Ok(()), told)
    }
}

fn told<T>((x, label, reading): (Batch, T, Reading)) -> Result<(), T> {
    let sum = crate::host::read(read_sync(reading)).iter().sum::<f32>();
    // A sum of finite values may overflow: then each value is read.
    if sum.is_finite() || x.rms().is_finite() { Ok(()) } else { Err(label) }
}
