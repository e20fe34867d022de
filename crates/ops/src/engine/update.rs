//! Updates of parameters in a training step, and of samples in a solver's step, on CPU tensors: in place if the values
//! are not shared.

use burn::backend::flex::FlexTensor;
use tweedie_kernels::{adamw as adamw_kernel, elementwise};

use super::{
    isa,
    layout::{Image, dense, flat, like, stretch, uninitialized, values, values_mut},
};
use crate::{AdamW, file_map};

/// The values of a dense tensor, copied if they are shared.
fn owned(x: FlexTensor) -> FlexTensor {
    let mut x = dense(x);
    let place = |x: &FlexTensor| (values::<f32>(x).as_ptr() as usize, size_of_val(values::<f32>(x)));
    let (start, len) = place(&x);
    if values_mut(&mut x).is_none() {
        // An unshared buffer that a cache watches, or a shared one: `storage_mut` moves or copies it.
        x.storage_mut::<f32>();
    }
    if place(&x).0 != start {
        // The values are no longer read from the mapped file.
        file_map::give_back_range(start, len);
    }
    x
}

fn coefficients(h: AdamW) -> adamw_kernel::Coefficients {
    let (correction1, correction2) = h.bias_corrections();
    adamw_kernel::Coefficients {
        keep: (1.0 - h.lr * h.weight_decay) as f32,
        rate: (h.lr / correction1) as f32,
        beta1: h.beta1 as f32,
        one_minus_beta1: (1.0 - h.beta1) as f32,
        beta2: h.beta2 as f32,
        one_minus_beta2: (1.0 - h.beta2) as f32,
        root_correction: (1.0 / correction2.sqrt()) as f32,
        eps: h.eps as f32,
    }
}

/// One step of AdamW, in place if the values are not shared.
pub(crate) fn adamw(
    param: FlexTensor,
    grad: FlexTensor,
    m: FlexTensor,
    v: FlexTensor,
    h: AdamW,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let grad = dense(grad);
    let [mut param, mut m, mut v] = [param, m, v].map(owned);
    if let (Some(p), Some(m), Some(v)) = (values_mut(&mut param), values_mut(&mut m), values_mut(&mut v)) {
        adamw_kernel::adamw(isa(), p, values(&grad), m, v, &coefficients(h));
    }
    (param, m, v)
}

/// [`adamw`], and in the same pass `average += weight·(param - average)`. Returns `param`, `m`, `v` and `average`.
pub(crate) fn adamw_averaged(
    [param, m, v, average]: [FlexTensor; 4],
    grad: FlexTensor,
    h: AdamW,
    weight: f64,
) -> [FlexTensor; 4] {
    let grad = dense(grad);
    let mut all = [param, m, v, average].map(owned);
    if let [Some(p), Some(m), Some(v), Some(average)] = all.each_mut().map(values_mut) {
        let (h, weight) = (coefficients(h), weight as f32);
        adamw_kernel::adamw_averaged(isa(), p, values(&grad), m, v, &h, average, weight);
    }
    all
}

/// `from + weight·(to - from)`, in place if the values are not shared.
pub(crate) fn lerp(from: FlexTensor, to: FlexTensor, weight: f64) -> FlexTensor {
    let to = dense(to);
    let mut from = owned(from);
    if let Some(x) = values_mut(&mut from) {
        elementwise::lerp_assign(isa(), x, values(&to), weight as f32);
    }
    from
}

/// `Σ coefficient·term`, in the memory order of the terms if they share one.
pub(crate) fn linear_combination(terms: Vec<(f64, FlexTensor)>) -> FlexTensor {
    let rank = terms[0].1.layout().num_dims();
    let flat = terms.iter().all(|(_, t)| t.layout().contiguous_offsets().is_some());
    let terms: Vec<(f32, FlexTensor)> = terms
        .into_iter()
        .map(|(c, t)| (c as f32, if flat || rank < 3 { dense(t) } else { Image::new(t).into_tensor() }))
        .collect();
    let slices: Vec<(f32, &[f32])> = terms.iter().map(|(c, t)| (*c, stretch(t))).collect();
    let mut out = uninitialized::<f32>(slices[0].1.len());
    tweedie_kernels::linear_combination(isa(), &slices, &mut out);
    like(&terms[0].1, out)
}

/// Whether every number is finite; reads them where they are.
pub(crate) fn is_finite(x: FlexTensor) -> bool {
    let x = flat(x);
    // Without a branch for each, so that the compiler can take many at once.
    let finite = |chunk: &[f32]| chunk.iter().fold(true, |all, v| all & v.is_finite());
    stretch(&x).chunks(4096).all(finite)
}
