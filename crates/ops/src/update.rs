//! Parameter updates of a training step.

use burn::tensor::Tensor;

use crate::{engine, reference};

/// Settings of one AdamW step. Weight decay is decoupled: `param` shrinks by `lr·weight_decay` independently of its
/// gradient (Loshchilov & Hutter 2019, arXiv:1711.05101; the formulas are PyTorch's).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Decay rate of the mean of gradients, in `0..1`.
    pub beta1: f64,
    /// Decay rate of the mean of squared gradients, in `0..1`.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Weight decay, multiplied by `lr`.
    pub weight_decay: f64,
    /// Number of this step, counted from 1, for the bias corrections.
    pub step: u64,
}

impl AdamW {
    /// `(1 - beta1^step, 1 - beta2^step)`.
    pub(crate) fn bias_corrections(&self) -> (f64, f64) {
        let step = self.step.max(1) as f64;
        (1.0 - self.beta1.powf(step), 1.0 - self.beta2.powf(step))
    }
}

/// One AdamW step. `m` and `v` are the running means of the gradient and its square, zero before the first step. Returns
/// the new `(param, m, v)`. The tensors must not be tracked by autodiff.
pub fn adamw(
    param: Tensor<1>,
    grad: Tensor<1>,
    m: Tensor<1>,
    v: Tensor<1>,
    h: AdamW,
) -> (Tensor<1>, Tensor<1>, Tensor<1>) {
    if ![&param, &grad, &m, &v].into_iter().all(engine::is_plain) {
        return reference::adamw(param, grad, m, v, h);
    }
    let [p, g, m, v] = [param, grad, m, v].map(|t| engine::plain(t).expect("a CPU tensor"));
    let (p, m, v) = engine::adamw(p, g, m, v, h);
    (engine::wrap(p), engine::wrap(m), engine::wrap(v))
}

/// [`adamw`], and in the same pass over memory [`lerp`] of the parameter's moving average towards the new parameter.
/// Returns `[param, m, v, average]`, bit for bit as from separate calls.
pub fn adamw_averaged(
    [param, m, v, average]: [Tensor<1>; 4],
    grad: Tensor<1>,
    h: AdamW,
    weight: f64,
) -> [Tensor<1>; 4] {
    if ![&param, &grad, &m, &v, &average].into_iter().all(engine::is_plain) {
        let (param, m, v) = adamw(param, grad, m, v, h);
        let average = lerp(average, param.clone(), weight);
        return [param, m, v, average];
    }
    let plain = |t| engine::plain(t).expect("a CPU tensor");
    engine::adamw_averaged([param, m, v, average].map(plain), plain(grad), h, weight).map(engine::wrap)
}

/// `from + weight·(to - from)`; an exponential moving average uses the weight `1 - decay`.
pub fn lerp<const D: usize>(from: Tensor<D>, to: Tensor<D>, weight: f64) -> Tensor<D> {
    if !engine::is_plain(&from) || !engine::is_plain(&to) {
        return reference::lerp(from, to, weight);
    }
    let [from, to] = [from, to].map(|t| engine::plain(t).expect("a CPU tensor"));
    engine::wrap(engine::lerp(from, to, weight))
}
