//! Weights prepared for their kernels, of layers that run again and again with the same weights, as in sampling.
//!
//! An entry holds the weight's buffer weakly. While a weak reference exists, `Arc` lets nobody write to the
//! buffer in place: whoever wants to gets another one. So the same buffer means the same numbers.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak},
};

use burn::{backend::flex::FlexTensor, tensor::Bytes};
use tweedie_kernels::{
    bf16,
    conv::{self, Algorithm, Conv},
    gemm::{Matrix, Packed},
    int8,
};

use super::{isa, layout::values};
use crate::{file_map, scope};

/// Bytes that all prepared weights may take beyond those of mapped files, which are given back.
const LIMIT: usize = 1 << 30;

struct Entry {
    buffer: Weak<Bytes>,
    prepared: Option<Arc<dyn Any + Send + Sync>>,
    /// That count towards the limit.
    bytes: usize,
}

/// Address of the buffer, offset in it, what is made of it, and for which shape and algorithm.
type Key = (usize, usize, TypeId, [usize; 5]);

fn entries() -> MutexGuard<'static, HashMap<Key, Entry>> {
    static ENTRIES: LazyLock<Mutex<HashMap<Key, Entry>>> = LazyLock::new(Default::default);
    ENTRIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The use from which on weights are prepared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// At once: they are smaller than what they are made of.
    First,
    /// At their second use, for in training every buffer is used once, and where [`LIMIT`] leaves room.
    Second,
}

/// The weights of a convolution, from their second use on, if that pays. `weight` is dense.
pub(super) fn kernels(algorithm: Algorithm, c: &Conv, weight: &FlexTensor) -> Option<Arc<conv::Prepared>> {
    if !conv::Prepared::pays(algorithm, c) {
        return None;
    }
    let bytes = conv::Prepared::bytes(algorithm, c);
    let shape = [c.in_channels, c.out_channels, c.kernel[0], c.kernel[1], algorithm as usize];
    prepared(weight, shape, bytes, Use::Second, || conv::Prepared::by(algorithm, isa(), c, values(weight)))
}

/// The transpose of `weight: [n, k]`, from its second use on. `weight` is dense.
pub(super) fn transposed([n, k]: [usize; 2], weight: &FlexTensor) -> Option<Arc<Packed>> {
    prepared(weight, [n, k, 0, 0, 0], n * k * size_of::<f32>(), Use::Second, || {
        Some(Packed::new(isa(), Matrix::new(values(weight), n, k).t()))
    })
}

/// The weights of a convolution of `bf16` activations. `weight` is dense.
pub(super) fn half_kernels(c: &Conv, weight: &FlexTensor) -> Arc<bf16::conv::Prepared> {
    let algorithm = bf16::conv::Algorithm::of(c);
    let shape = [c.in_channels / c.groups, c.out_channels, c.kernel[0], c.kernel[1], algorithm as usize];
    let make = || bf16::conv::Prepared::new(isa(), c, values(weight));
    let bytes = size_of::<bf16::Bf16>() * c.lens()[1] * algorithm.growth().0 / algorithm.growth().1;
    prepared(weight, shape, bytes, Use::Second, || Some(make())).unwrap_or_else(|| Arc::new(make()))
}

/// A linear map's weight, `[n, k]` and dense, for `bf16` activations.
pub(super) fn half_linear([n, k]: [usize; 2], weight: &FlexTensor) -> Arc<bf16::linear::Linear> {
    let make = || bf16::linear::Linear::new(isa(), values(weight), n, k);
    prepared(weight, [n, k, 0, 0, 0], n * k * size_of::<bf16::Bf16>(), Use::Second, || Some(make()))
        .unwrap_or_else(|| Arc::new(make()))
}

/// The weights of a convolution in eight bits. `weight` is dense.
pub(super) fn int8_kernels(outputs: usize, weight: &FlexTensor) -> Arc<int8::Kernels> {
    let make = || int8::Kernels::new(isa(), values(weight), outputs);
    let bytes = values::<f32>(weight).len();
    prepared(weight, [outputs, 0, 0, 0, 0], bytes, Use::First, || Some(make()))
        .unwrap_or_else(|| Arc::new(make()))
}

/// The weight of a linear map, or of a convolution with 1×1 kernels, `[n, k]` and dense, in eight bits.
pub(super) fn int8_linear([n, k]: [usize; 2], weight: &FlexTensor) -> Arc<int8::Linear> {
    let make = || int8::Linear::new(isa(), values(weight), n, k);
    prepared(weight, [n, k, 0, 0, 0], n * k, Use::First, || Some(make())).unwrap_or_else(|| Arc::new(make()))
}

fn prepared<T: Send + Sync + 'static>(
    weight: &FlexTensor,
    shape: [usize; 5],
    bytes: usize,
    from: Use,
    make: impl FnOnce() -> Option<T>,
) -> Option<Arc<T>> {
    if bytes == 0 || from == Use::Second && scope::is_once() {
        return None;
    }
    let buffer: Arc<Bytes> = weight.data_arc();
    let (offset, _) = weight.layout().contiguous_offsets()?;
    let key = (Arc::as_ptr(&buffer) as usize, offset, TypeId::of::<T>(), shape);
    let mut all = entries();
    match all.get(&key) {
        Some(e) if e.buffer.strong_count() > 0 => {
            if let Some(p) = &e.prepared {
                return p.clone().downcast().ok();
            }
        }
        _ => {
            all.retain(|_, e| e.buffer.strong_count() > 0);
            all.insert(key, Entry { buffer: Arc::downgrade(&buffer), prepared: None, bytes: 0 });
            if from == Use::Second {
                return None;
            }
        }
    }
    let numbers: &[f32] = values(weight);
    let freed = if file_map::is_mapped(numbers) { size_of_val(numbers) } else { 0 };
    let more = bytes.saturating_sub(freed);
    if from == Use::Second && all.values().map(|e| e.bytes).sum::<usize>() + more > LIMIT {
        return None;
    }
    drop(all);
    let prepared = Arc::new(make()?);
    // `buffer` is alive, so the entry still stands for it.
    if let Some(e) = entries().get_mut(&key) {
        let shared: Arc<dyn Any + Send + Sync> = prepared.clone();
        (e.prepared, e.bytes) = (Some(shared), more);
        file_map::give_back(numbers);
    }
    Some(prepared)
}
