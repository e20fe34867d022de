//! Packed weights of layers that run many times with the same weights, as in sampling.
//!
//! An entry holds the weight's buffer weakly. While a weak reference exists, `Arc` does not allow writing to the buffer
//! in place, so a changed weight gets another buffer. The same buffer therefore means the same values.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use burn::{backend::flex::FlexTensor, tensor::Bytes};
use tweedie_kernels::{
    bf16,
    conv::{self, Algorithm, Conv},
    gemm::{Matrix, Packed},
    int8,
};

use super::{isa, layout::values};
use crate::{context, file_map};

/// The limit of models without one of their own, in bytes; 0 is not yet decided.
static LIMIT: AtomicUsize = AtomicUsize::new(0);
/// The limit where the machine's memory is unknown.
const UNKNOWN: usize = 1 << 30;

/// The limit: what was set, or else a sixteenth of the memory that was available at the first use, from 256 MiB to 4 GiB.
fn usual_limit() -> usize {
    match LIMIT.load(Ordering::Relaxed) {
        0 => {
            let share = |bytes: u64| ((bytes / 16) as usize).clamp(256 << 20, 4 << 30);
            let found = tweedie_system::memory::available().map_or(UNKNOWN, share);
            LIMIT.store(found, Ordering::Relaxed);
            found
        }
        set => set,
    }
}

/// Sets the limit of models without one of their own.
pub(crate) fn set_limit(bytes: usize) {
    LIMIT.store(bytes.max(1), Ordering::Relaxed);
}

/// Copies of weights in the layout of the kernels, made at the second use of a weight. They belong to a model: clones share
/// them, and they are freed with the last clone, or each with its weight. Results do not depend on them.
#[derive(Clone, Default)]
pub struct PackedWeights {
    /// In bytes, not counting those whose mapped file pages are released.
    limit: Option<usize>,
    entries: Arc<Mutex<HashMap<Key, Entry>>>,
}

impl PackedWeights {
    /// None yet, and later at most so many bytes; see [`crate::set_packed_weights`] for the limit without this.
    pub fn with_limit(bytes: usize) -> Self {
        Self { limit: Some(bytes), ..Self::default() }
    }

    /// Bytes that count towards the limit.
    pub fn bytes(&self) -> usize {
        self.entries().values().filter(|e| e.buffer.strong_count() > 0).map(|e| e.bytes).sum()
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for PackedWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedWeights").field("limit", &self.limit).finish_non_exhaustive()
    }
}

struct Entry {
    buffer: Weak<Bytes>,
    prepared: Option<Arc<dyn Any + Send + Sync>>,
    /// Bytes that count towards the limit.
    bytes: usize,
}

/// Address of the buffer, offset, type of the packed weights, and shape and algorithm.
type Key = (usize, usize, TypeId, [usize; 5]);

/// The use from which on weights are packed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// At the first use: the packed weights are smaller than the original ones.
    First,
    /// At the second use, because buffers are used once in training, and if the limit allows it.
    Second,
}

/// The packed weights of a convolution, from their second use on, if that pays. `weight` is dense.
pub(super) fn kernels(algorithm: Algorithm, c: &Conv, weight: &FlexTensor) -> Option<Arc<conv::Prepared>> {
    if !conv::Prepared::pays(algorithm, c) {
        return None;
    }
    let bytes = conv::Prepared::bytes(algorithm, c);
    let shape = [c.in_channels, c.out_channels, c.kernel[0], c.kernel[1], algorithm as usize];
    prepared(weight, shape, bytes, Use::Second, || conv::Prepared::by(algorithm, isa(), c, values(weight)))
}

/// The packed transpose of `weight: [n, k]`, from its second use on. `weight` is dense.
pub(super) fn transposed([n, k]: [usize; 2], weight: &FlexTensor) -> Option<Arc<Packed>> {
    prepared(weight, [n, k, 0, 0, 0], n * k * size_of::<f32>(), Use::Second, || {
        Some(Packed::new(isa(), Matrix::new(values(weight), n, k).t()))
    })
}

/// The packed weights of a convolution with `bf16` activations. `weight` is dense.
pub(super) fn half_kernels(c: &Conv, weight: &FlexTensor) -> Arc<bf16::conv::Prepared> {
    let algorithm = bf16::conv::Algorithm::of(c);
    let shape = [c.in_channels / c.groups, c.out_channels, c.kernel[0], c.kernel[1], algorithm as usize];
    let make = || bf16::conv::Prepared::new(isa(), c, values(weight));
    let bytes = size_of::<bf16::Bf16>() * c.lens()[1] * algorithm.growth().0 / algorithm.growth().1;
    prepared(weight, shape, bytes, Use::Second, || Some(make())).unwrap_or_else(|| Arc::new(make()))
}

/// The packed weight of a linear layer, `[n, k]` and dense, for `bf16` activations.
pub(super) fn half_linear([n, k]: [usize; 2], weight: &FlexTensor) -> Arc<bf16::linear::Linear> {
    let make = || bf16::linear::Linear::new(isa(), values(weight), n, k);
    prepared(weight, [n, k, 0, 0, 0], n * k * size_of::<bf16::Bf16>(), Use::Second, || Some(make()))
        .unwrap_or_else(|| Arc::new(make()))
}

/// The weights of a convolution, for products of bytes. `weight` is dense.
pub(super) fn int8_direct(c: &Conv, weight: &FlexTensor) -> Arc<int8::Direct> {
    let make = || int8::Direct::new(isa(), values(weight), c.out_channels, c.kernel);
    let shape = [c.in_channels, c.out_channels, c.kernel[0], c.kernel[1], 0];
    let bytes = values::<f32>(weight).len();
    prepared(weight, shape, bytes, Use::First, || Some(make())).unwrap_or_else(|| Arc::new(make()))
}

/// The 8-bit weights of a convolution, for products in `f32`. `weight` is dense.
pub(super) fn int8_kernels(outputs: usize, weight: &FlexTensor) -> Arc<int8::Kernels> {
    let make = || int8::Kernels::new(isa(), values(weight), outputs);
    let bytes = values::<f32>(weight).len();
    prepared(weight, [outputs, 0, 0, 0, 0], bytes, Use::First, || Some(make()))
        .unwrap_or_else(|| Arc::new(make()))
}

/// The 8-bit weight of a linear layer or a 1×1 convolution, `[n, k]` and dense.
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
    let (once, weights) = context::current(|c| (c.once, c.weights.clone()));
    if bytes == 0 || from == Use::Second && once {
        return None;
    }
    let buffer: Arc<Bytes> = weight.data_arc();
    let (offset, _) = weight.layout().contiguous_offsets()?;
    let key = (Arc::as_ptr(&buffer) as usize, offset, TypeId::of::<T>(), shape);
    let mut all = weights.entries();
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
    if from == Use::Second
        && all.values().map(|e| e.bytes).sum::<usize>() + more > weights.limit.unwrap_or_else(usual_limit)
    {
        return None;
    }
    drop(all);
    let prepared = Arc::new(make()?);
    // `buffer` is alive, so the entry is still valid for it.
    if let Some(e) = weights.entries().get_mut(&key) {
        let shared: Arc<dyn Any + Send + Sync> = prepared.clone();
        (e.prepared, e.bytes) = (Some(shared), more);
        file_map::give_back(numbers);
    }
    Some(prepared)
}
