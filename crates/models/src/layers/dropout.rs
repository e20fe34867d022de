//! Dropout with reproducible masks.

use burn::{
    module::Module,
    tensor::{Tensor, TensorData},
};
use rand_distr::{Distribution, StandardUniform};
use tweedie_core::noise::generator;

use super::{Init, channels_last};
use crate::{network::Mode, params::hash};

/// Sets elements to zero with probability `p` in training, and divides the others by `1 − p`.
///
/// The mask is a function of the step's seed, the layer and the row. It does not depend on the rest of the batch or the
/// order in which layers run.
#[derive(Module, Debug)]
pub struct Dropout {
    p: f64,
    layer: u64,
}

impl Dropout {
    /// Creates it; `p` must be in `0..=1`.
    pub fn new(init: &Init, p: f64) -> Self {
        Self { p, layer: hash(init.path()) }
    }

    /// Whether it changes its input.
    pub fn is_active(&self, mode: Mode) -> bool {
        self.p > 0.0 && mode != Mode::Eval
    }

    /// Applies dropout to `[B, C, H, W]`.
    pub fn forward(&self, x: Tensor<4>, mode: Mode) -> Tensor<4> {
        match mode {
            Mode::Train { dropout_seed } if self.p > 0.0 => self.mask(x, dropout_seed),
            _ => x,
        }
    }

    fn mask(&self, x: Tensor<4>, seed: u64) -> Tensor<4> {
        let [b, c, h, w] = x.dims();
        let row = c * h * w;
        let keep = if self.p < 1.0 { (1.0 / (1.0 - self.p)) as f32 } else { 0.0 };
        let mut mask = vec![0.0f32; b * row];
        for (i, values) in mask.chunks_mut(row.max(1)).enumerate() {
            let mut rng = generator(seed ^ self.layer.rotate_left(29), i as u64);
            for v in values {
                let u: f32 = StandardUniform.sample(&mut rng);
                *v = if f64::from(u) < self.p { 0.0 } else { keep };
            }
        }
        let mask = Tensor::<4>::from_data(TensorData::new(mask, [b, h, w, c]), (&x.device(), x.dtype()));
        channels_last(x, |x| x * mask)
    }
}
