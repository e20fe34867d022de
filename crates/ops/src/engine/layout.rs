//! Channels-last memory for `[B, C, ...]` shapes.
//!
//! The kernels' images are `[B, ..., C]` in memory; Burn sees them as views with permuted strides. Nothing is copied
//! between operations of the engine; other tensors are converted to this order once.

use burn::{
    backend::flex::{FlexTensor, Layout},
    tensor::{Bytes, DType, Shape},
};
use tweedie_kernels::{
    attention::Heads,
    bf16::{self, Bf16},
    resample,
};

use super::half::{narrow, wide};

/// Element types of the engine's tensors.
pub(super) trait Number: Copy {
    const DTYPE: DType;

    /// The whole storage of a tensor.
    fn storage(x: &FlexTensor) -> &[Self];
    /// The whole storage, unless it is shared.
    fn storage_mut(x: &mut FlexTensor) -> Option<&mut [Self]>;
    fn bytes(values: Vec<Self>) -> Bytes;
}

macro_rules! number {
    ($t:ty, $dtype:expr) => {
        impl Number for $t {
            const DTYPE: DType = $dtype;

            fn storage(x: &FlexTensor) -> &[Self] {
                x.storage()
            }

            fn storage_mut(x: &mut FlexTensor) -> Option<&mut [Self]> {
                x.try_storage_mut()
            }

            fn bytes(values: Vec<Self>) -> Bytes {
                Bytes::from_elems(values)
            }
        }
    };
}
number!(f32, DType::F32);
number!(Bf16, DType::BF16);

/// An image tensor in channels-last memory.
pub(super) struct Image {
    /// Contiguous `[B, ..., C]`.
    tensor: FlexTensor,
}

/// `[0, 2, .., rank - 1, 1]`.
fn last(rank: usize) -> Vec<usize> {
    [0].into_iter().chain(2..rank).chain([1]).collect()
}

/// `[0, rank - 1, 1, .., rank - 2]`.
fn first(rank: usize) -> Vec<usize> {
    [0, rank - 1].into_iter().chain(1..rank - 1).collect()
}

fn permuted(x: FlexTensor, axes: &[usize]) -> FlexTensor {
    let layout = x.layout().permute(axes);
    x.with_layout(layout)
}

impl Image {
    /// Converts `x: [B, C, ...]` with any strides.
    pub(super) fn new(x: FlexTensor) -> Self {
        let shape = x.layout().shape().to_vec();
        let axes = last(shape.len());
        if x.layout().permute(&axes).contiguous_offsets().is_some() {
            return Self { tensor: permuted(x, &axes) };
        }
        if x.dtype() == DType::BF16 {
            return Self { tensor: narrow(Self::new(wide(x)).tensor) };
        }
        let [b, c] = [shape[0], shape[1]];
        let positions: usize = shape[2..].iter().product();
        let x = dense(x);
        let mut out = uninitialized(b * c * positions);
        resample::to_channels_last(values(&x), [b, c, positions], &mut out);
        let target = axes.iter().map(|&i| shape[i]).collect();
        Self { tensor: tensor(out, target) }
    }

    /// Creates an image from channels-last values of `[b, size.., c]`.
    pub(super) fn from_values<T: Number>(values: Vec<T>, b: usize, size: &[usize], c: usize) -> Self {
        let shape = [b].into_iter().chain(size.iter().copied()).chain([c]).collect();
        Self { tensor: tensor(values, shape) }
    }

    /// The view with shape `[B, C, ...]`.
    pub(super) fn into_tensor(self) -> FlexTensor {
        let rank = self.tensor.layout().num_dims();
        permuted(self.tensor, &first(rank))
    }

    pub(super) fn values<T: Number>(&self) -> &[T] {
        values(&self.tensor)
    }

    pub(super) fn batch(&self) -> usize {
        self.tensor.layout().shape()[0]
    }

    pub(super) fn channels(&self) -> usize {
        self.tensor.layout().shape()[self.tensor.layout().num_dims() - 1]
    }

    /// Sizes of the dimensions between batch and channels.
    pub(super) fn size(&self) -> Vec<usize> {
        let shape = self.tensor.layout().shape().to_vec();
        shape[1..shape.len() - 1].to_vec()
    }

    /// Height and width.
    pub(super) fn map(&self) -> [usize; 2] {
        let size = self.size();
        [size[0], size[1]]
    }

    /// Batch size, positions, channels.
    pub(super) fn dims(&self) -> [usize; 3] {
        [self.batch(), self.size().iter().product(), self.channels()]
    }

    /// An image of the same shape.
    pub(super) fn like<T: Number>(&self, values: Vec<T>) -> Self {
        Self::from_values(values, self.batch(), &self.size(), self.channels())
    }
}

/// Makes `x` contiguous in the order of its shape.
pub(super) fn dense(x: FlexTensor) -> FlexTensor {
    if x.layout().contiguous_offsets().is_some() { x } else { x.to_contiguous() }
}

/// The values of a dense tensor.
pub(super) fn values<T: Number>(x: &FlexTensor) -> &[T] {
    let (start, end) = x.layout().contiguous_offsets().expect("a dense tensor");
    &T::storage(x)[start..end]
}

/// The values of a dense tensor, unless they are shared.
pub(super) fn values_mut(x: &mut FlexTensor) -> Option<&mut [f32]> {
    let (start, end) = x.layout().contiguous_offsets()?;
    x.try_storage_mut::<f32>().map(|s| &mut s[start..end])
}

pub(super) fn tensor<T: Number>(values: Vec<T>, shape: Vec<usize>) -> FlexTensor {
    FlexTensor::new(T::bytes(values), Layout::contiguous(Shape::from(shape)), T::DTYPE)
}

/// Memory that a kernel is about to fill completely.
#[allow(clippy::uninit_vec)]
pub(super) fn uninitialized<T: Number>(len: usize) -> Vec<T> {
    let mut v = Vec::with_capacity(len);
    // SAFETY: every bit pattern is valid, and kernels write all of their output before it is read.
    unsafe { v.set_len(len) };
    v
}

/// Whether the values fill one stretch of memory, in any order of the dimensions.
pub(super) fn is_packed(x: &FlexTensor) -> bool {
    let (shape, strides) = (x.layout().shape(), x.layout().strides());
    let mut dims: Vec<(isize, usize)> =
        strides.iter().copied().zip(shape.iter().copied()).filter(|(_, size)| *size != 1).collect();
    dims.sort_unstable();
    let mut inner = 1;
    dims.into_iter().all(|(stride, size)| {
        let fits = stride == inner;
        inner *= size as isize;
        fits
    })
}

/// The values of a packed tensor, in memory order.
pub(super) fn stretch<T: Number>(x: &FlexTensor) -> &[T] {
    let start = x.layout().start_offset();
    &T::storage(x)[start..start + x.layout().num_elements()]
}

/// Like [`stretch`], unless they are shared.
pub(super) fn stretch_mut<T: Number>(x: &mut FlexTensor) -> Option<&mut [T]> {
    let (start, len) = (x.layout().start_offset(), x.layout().num_elements());
    T::storage_mut(x).map(|all| &mut all[start..start + len])
}

/// `values` in the memory order of `x`.
pub(super) fn like<T: Number>(x: &FlexTensor, values: Vec<T>) -> FlexTensor {
    let layout = Layout::new(x.layout().shape().clone(), x.layout().strides().to_vec(), 0);
    tensor(values, vec![layout.num_elements()]).with_layout(layout)
}

/// Makes `x` contiguous: in the order of its shape, or channels-last.
pub(super) fn flat(x: FlexTensor) -> FlexTensor {
    if x.layout().num_dims() < 3 || x.layout().contiguous_offsets().is_some() {
        dense(x)
    } else {
        Image::new(x).into_tensor()
    }
}

/// The heads of `[B, heads, positions, width]`: a view if the last dimension is contiguous.
pub(super) fn heads_of(x: FlexTensor) -> FlexTensor {
    let strides = x.layout().strides();
    if strides[3] == 1 && strides.iter().all(|&s| s >= 0) { x } else { x.to_contiguous() }
}

fn head_strides(x: &FlexTensor) -> [usize; 3] {
    let s = x.layout().strides();
    [s[0] as usize, s[1] as usize, s[2] as usize]
}

pub(super) fn heads(x: &FlexTensor) -> Heads<'_> {
    Heads { data: &f32::storage(x)[x.layout().start_offset()..], strides: head_strides(x) }
}

pub(super) fn half_heads(x: &FlexTensor) -> bf16::attention::Heads<'_> {
    let data = &Bf16::storage(x)[x.layout().start_offset()..];
    bf16::attention::Heads { data, strides: head_strides(x) }
}

/// `[B, positions, heads, width]` in memory as `[B, heads, positions, width]`.
pub(super) fn from_heads<T: Number>(values: Vec<T>, [b, h, t, d]: [usize; 4]) -> FlexTensor {
    let x = tensor(values, vec![b, t, h, d]);
    let layout = x.layout().permute(&[0, 2, 1, 3]);
    x.with_layout(layout)
}
