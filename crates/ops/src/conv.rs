//! 2-D convolutions, fused with operations before and after them.

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

/// Stride, padding and dilation of a convolution in `N` dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvOptions<const N: usize = 2> {
    /// Distances between output positions (height and width in two dimensions).
    pub stride: [usize; N],
    /// Zero padding before (top, left).
    pub pad_before: [usize; N],
    /// Zero padding after (bottom, right).
    pub pad_after: [usize; N],
    /// Distances between kernel taps.
    pub dilation: [usize; N],
    /// Number of channel groups.
    pub groups: usize,
}

impl<const N: usize> ConvOptions<N> {
    /// Stride 1 and the same `padding` on all sides.
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
/// without a copy in memory.
#[derive(Clone, Debug)]
pub struct Maps {
    /// The first map.
    pub x: Tensor<4>,
    /// The second map.
    pub skip: Option<Tensor<4>>,
}

impl From<Tensor<4>> for Maps {
    fn from(x: Tensor<4>) -> Self {
        Self { x, skip: None }
    }
}

impl Maps {
    /// Batch size, channels of both, height and width.
    pub fn dims(&self) -> [usize; 4] {
        let [b, c, h, w] = self.x.dims();
        [b, c + self.skip.as_ref().map_or(0, |s| s.dims()[1]), h, w]
    }

    /// Concatenates the maps.
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

/// Parameters and options of a convolution.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// `[Cout, Cin/groups, kh, kw]`.
    pub weight: Tensor<4>,
    /// `[Cout]`; no bias if `None`.
    pub bias: Option<Tensor<1>>,
    /// Stride, padding, dilation and groups.
    pub options: ConvOptions,
}

/// What is added to the result of a convolution in the same pass.
#[derive(Clone, Debug, Default)]
pub struct Added {
    /// One value per sample and channel, `[B, Cout]`: an embedding.
    pub shift: Option<Tensor<2>>,
    /// The other branch of a residual layer, of the result's shape.
    pub residual: Option<Tensor<4>>,
}

impl Added {
    /// Only a residual.
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

/// 2-D convolution plus `added` in the same pass over memory: `[B, Cin, H, W]` to `[B, Cout, H', W']`.
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

/// Nearest-neighbour resizing to `size = [H, W]` like PyTorch's `nearest`, then [`conv2d_with`]. If `size` is twice the
/// input's, the resized map is never stored.
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

/// [`normalize`], then [`conv2d_with`]: the building block of residual layers. The gradient needs the normalized map,
/// which [`crate::ExecContext::recompute`] recomputes instead of storing it.
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
