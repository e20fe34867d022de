//! 2-D convolutions, and what need not be made before or after them.

use burn::{
    backend::Dispatch,
    tensor::{Device, Tensor},
};

use crate::{
    Norm, absent, bias_or_zeros,
    engine::{self, Engine},
    norm::normalize,
    reference,
};

/// Stride, padding and dilation of a convolution over `N` dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvOptions<const N: usize = 2> {
    /// Steps between output points, for height and width in two dimensions.
    pub stride: [usize; N],
    /// Zeros added before (top, left).
    pub pad_before: [usize; N],
    /// Zeros added after (bottom, right).
    pub pad_after: [usize; N],
    /// Distances between kernel taps.
    pub dilation: [usize; N],
    /// Channel groups.
    pub groups: usize,
}

impl<const N: usize> ConvOptions<N> {
    /// Stride 1, `padding` on all sides.
    pub fn same(padding: usize) -> Self {
        Self::strided(1, padding)
    }

    /// The same stride and padding in all directions.
    pub fn strided(stride: usize, padding: usize) -> Self {
        Self {
            stride: [stride; N],
            pad_before: [padding; N],
            pad_after: [padding; N],
            dilation: [1; N],
            groups: 1,
        }
    }
}

/// A map `[B, C, H, W]`, or two of the same size that are read as one: the channels of `skip` follow those of `x`,
/// and are never joined with them in memory.
#[derive(Clone, Debug)]
pub struct Maps {
    /// The map.
    pub x: Tensor<4>,
    /// The other one.
    pub skip: Option<Tensor<4>>,
}

impl From<Tensor<4>> for Maps {
    fn from(x: Tensor<4>) -> Self {
        Self { x, skip: None }
    }
}

impl Maps {
    /// Samples, channels of both, height and width.
    pub fn dims(&self) -> [usize; 4] {
        let [b, c, h, w] = self.x.dims();
        [b, c + self.skip.as_ref().map_or(0, |s| s.dims()[1]), h, w]
    }

    /// One map in memory.
    pub fn joined(self) -> Tensor<4> {
        match self.skip {
            Some(skip) => crate::cat_channels(self.x, skip),
            None => self.x,
        }
    }

    pub(crate) fn device(&self) -> Device {
        self.x.device()
    }

    pub(crate) fn is_taken(&self) -> bool {
        let fits = |s: &Tensor<4>| engine::takes(s) && s.dtype() == self.x.dtype();
        engine::takes(&self.x) && self.skip.as_ref().is_none_or(fits)
    }
}

/// What a convolution learns, and how it strides.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// `[Cout, Cin/groups, kh, kw]`.
    pub weight: Tensor<4>,
    /// `[Cout]`.
    pub bias: Option<Tensor<1>>,
    /// Stride, padding, dilation, groups.
    pub options: ConvOptions,
}

/// What is added to a convolution's result as it is made.
#[derive(Clone, Debug, Default)]
pub struct Added {
    /// One number per sample and channel, `[B, Cout]`: an embedding.
    pub shift: Option<Tensor<2>>,
    /// Of the result's shape: the other branch of a residual layer.
    pub residual: Option<Tensor<4>>,
}

impl Added {
    /// Another branch alone.
    pub fn residual(x: Tensor<4>) -> Self {
        Self { shift: None, residual: Some(x) }
    }

    fn to(self, mut y: Tensor<4>) -> Tensor<4> {
        if let Some(shift) = self.shift {
            y = crate::add_channels(y, shift);
        }
        match self.residual {
            Some(residual) => crate::add(residual, y),
            None => y,
        }
    }

    fn is_served(&self, x: &Maps, kernel: &Kernel) -> bool {
        let shape = [x.dims()[0], kernel.weight.dims()[0]];
        let shift = self.shift.as_ref().is_none_or(|s| engine::serves(s) && s.dims() == shape);
        let fits = |r: &Tensor<4>| engine::takes(r) && r.dtype() == x.x.dtype();
        shift && self.residual.as_ref().is_none_or(fits)
    }
}

fn is_served(x: &Maps, kernel: &Kernel, added: &Added) -> bool {
    let one = x.skip.is_none() || kernel.options.groups == 1;
    one && x.is_taken() && engine::serves(&kernel.weight) && added.is_served(x, kernel)
}

/// 2-D convolution. `x: [B, Cin, H, W]`, `weight: [Cout, Cin/groups, kh, kw]`, `bias: [Cout]`.
pub fn conv2d(
    x: impl Into<Maps>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    options: ConvOptions,
) -> Tensor<4> {
    conv2d_with(x, Kernel { weight, bias, options }, Added::default())
}

/// 2-D convolution, with what is `added` to it in the same pass over memory: `[B, Cin, H, W]` to `[B, Cout, H', W']`.
pub fn conv2d_with(x: impl Into<Maps>, kernel: Kernel, added: Added) -> Tensor<4> {
    let x = x.into();
    if !is_served(&x, &kernel, &added) {
        let y = match x.is_taken() && engine::serves(&kernel.weight) {
            true => run(x.joined().into(), kernel, Added::default(), false),
            false => reference::conv2d(x.joined(), kernel.weight, kernel.bias, kernel.options),
        };
        return added.to(y);
    }
    run(x, kernel, added, false)
}

/// Nearest-neighbour resizing to `size = [H, W]`, as PyTorch's `nearest`, then [`conv2d_with`]. Where that is a
/// doubling, the large map is never in memory.
pub fn upsample_conv2d(x: Tensor<4>, size: [usize; 2], kernel: Kernel, added: Added) -> Tensor<4> {
    let [_, _, h, w] = x.dims();
    let x = Maps::from(x);
    if size == [2 * h, 2 * w] && is_served(&x, &kernel, &added) {
        return run(x, kernel, added, true);
    }
    conv2d_with(crate::upsample_nearest2d(x.x, size), kernel, added)
}

fn run(x: Maps, kernel: Kernel, added: Added, doubled: bool) -> Tensor<4> {
    let device = x.device();
    let none = || absent(&device).into_dispatch();
    let Kernel { weight, bias, options } = kernel;
    let bias = bias_or_zeros(bias, &weight, weight.dims()[0]).into_dispatch();
    let shift = added.shift.map_or_else(none, Tensor::into_dispatch);
    let residual = added.residual.map_or_else(none, Tensor::into_dispatch);
    let y = x.skip.map_or_else(none, Tensor::into_dispatch);
    let (x, weight) = (x.x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::engine_conv2d(x, y, weight, bias, shift, residual, options, doubled))
}

/// [`normalize`], then [`conv2d_with`]: the layers that residual blocks are made of. Their gradient reads the
/// normalized map, which [`crate::recomputing`] has made again and not kept.
pub fn norm_conv2d(x: impl Into<Maps>, norm: Norm, kernel: Kernel, added: Added) -> Tensor<4> {
    let x = x.into();
    let served = engine::serves(&kernel.weight) && added.is_served(&x, &kernel) && x.is_taken();
    if !served || !norm.is_served(&x) {
        return conv2d_with(normalize(x, norm), kernel, added);
    }
    let device = x.device();
    let none = || absent(&device).into_dispatch();
    let norm_options = norm.options();
    let Kernel { weight, bias, options } = kernel;
    let bias = bias_or_zeros(bias, &weight, weight.dims()[0]).into_dispatch();
    let [scale, by] = match norm.scale_shift {
        Some(both) => both.map(Tensor::into_dispatch),
        None => [none(), none()],
    };
    let shift = added.shift.map_or_else(none, Tensor::into_dispatch);
    let residual = added.residual.map_or_else(none, Tensor::into_dispatch);
    let y = x.skip.map_or_else(none, Tensor::into_dispatch);
    let (x, weight) = (x.x.into_dispatch(), weight.into_dispatch());
    let (norm_weight, norm_bias) = (norm.weight.into_dispatch(), norm.bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::engine_norm_conv2d(
        x,
        y,
        norm_weight,
        norm_bias,
        scale,
        by,
        weight,
        bias,
        shift,
        residual,
        norm_options,
        options,
    ))
}
