//! A network and its parameterization, as a denoiser.

use burn::tensor::Tensor;
use tweedie_core::{Denoiser, Halt, Level, Parameterization, Prediction, Vector};
use tweedie_ops::Batch;

use crate::network::{Condition, Mode, Network};

/// Predicts the clean sample with a network: `x0 = c_skip·x + c_out·F(c_in·x; c_noise)`, for a batch at one noise level.
/// If the network has twice the channels of `x` as output, the second half is a learned variance (Nichol & Dhariwal
/// 2021): [`Prediction::variance`].
///
/// The caller must check that predictions are finite, because reading them back here would stall a device.
#[derive(Clone, Debug)]
pub struct NetworkDenoiser<'a, N: ?Sized> {
    /// The network.
    pub network: &'a N,
    /// What the network predicts.
    pub parameterization: Parameterization,
    /// The network's condition, with one entry per row.
    pub condition: Condition,
}

impl<'a, N: Network + ?Sized> NetworkDenoiser<'a, N> {
    /// Creates a denoiser for batches with as many rows as `condition`.
    pub fn new(network: &'a N, parameterization: Parameterization, condition: Condition) -> Self {
        Self { network, parameterization, condition }
    }

    /// The network's raw output for `x: [B, C, H, W]` at `at`, of the shape of `x`, and the raw variance of the same shape
    /// if the network predicts one. Costs one evaluation.
    ///
    /// # Errors
    /// [`Halt::Failed`] for inputs that the network does not support.
    pub fn raw(&self, x: &Tensor<4>, at: Level) -> Result<(Tensor<4>, Option<Tensor<4>>), Halt> {
        let scalings = self.parameterization.scalings(at);
        let shape = x.dims();
        let [b, c, h, w] = shape;
        let times = vec![scalings.c_noise as f32; b];
        let failed = |e: &dyn std::fmt::Display| Halt::Failed(e.to_string());
        self.network.check(shape, &times, &self.condition).map_err(|e| failed(&e))?;

        let input = match scalings.c_in {
            1.0 => x.clone(),
            c => Batch::lin(&[(c, &Batch(x.clone()))]).0,
        };
        let raw = self.network.forward(input, &times, &self.condition, Mode::Eval);
        match raw.dims() {
            found if found == shape => Ok((raw, None)),
            found if found == [b, 2 * c, h, w] => {
                Ok((raw.clone().narrow(1, 0, c), Some(raw.narrow(1, c, c))))
            }
            found => Err(failed(&format!(
                "the network's output for an input of shape {shape:?} has shape {found:?}; expected as many channels as the input or twice as many"
            ))),
        }
    }
}

impl<N: Network + ?Sized> Denoiser<Batch<4>> for NetworkDenoiser<'_, N> {
    fn denoise(&self, x: &Batch<4>, at: Level) -> Result<Prediction<Batch<4>>, Halt> {
        let (raw, variance) = self.raw(&x.0, at)?;
        let variance = variance.map(Batch);
        Ok(Prediction { variance, ..self.parameterization.read(x, &Batch(raw), at) })
    }
}
