//! Group normalization, optionally with scale, shift and SiLU.

use burn::{backend::Dispatch, tensor::Tensor};

use crate::{
    Maps, absent, context,
    engine::{self, Engine, NormOptions},
    reference,
};

/// A group normalization (Wu & He 2018, arXiv:1803.08494): `z = x̂·weight + bias`, where `x̂` has mean 0 and variance 1
/// over the pixels and channels of each group; then `z·(1 + scale) + shift`; then `z·sigmoid(z)`.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Number of groups, which must divide the channels.
    pub groups: usize,
    /// Scale of each channel, `[C]`.
    pub weight: Tensor<1>,
    /// Shift of each channel, `[C]`.
    pub bias: Tensor<1>,
    /// Added to the variance.
    pub eps: f64,
    /// Scale and shift from an embedding, `[B, C]` each.
    pub scale_shift: Option<[Tensor<2>; 2]>,
    /// Whether SiLU follows.
    pub silu: bool,
}

impl Norm {
    pub(crate) fn options(&self) -> NormOptions {
        NormOptions {
            groups: self.groups,
            eps: self.eps,
            silu: self.silu,
            recompute: context::current(|c| c.recompute),
        }
    }

    pub(crate) fn is_served(&self, x: &Maps) -> bool {
        let [b, c, ..] = x.dims();
        let mut scaled = self.scale_shift.iter().flatten();
        x.is_taken()
            && engine::serves(&self.weight)
            && scaled.all(|s| engine::serves(s) && s.dims() == [b, c])
    }
}

/// Normalizes `[B, C, H, W]`; the result has the same shape.
pub fn normalize(x: impl Into<Maps>, norm: Norm) -> Tensor<4> {
    let x = x.into();
    if !norm.is_served(&x) {
        let mut y = reference::group_norm(x.joined(), norm.groups, norm.weight, norm.bias, norm.eps);
        if let Some([scale, shift]) = norm.scale_shift {
            y = crate::scale_shift_channels(y, scale, shift);
        }
        return if norm.silu { crate::silu(y) } else { y };
    }
    let (device, options) = (x.device(), norm.options());
    let none = || absent(&device).into_dispatch();
    let [scale, shift] = match norm.scale_shift {
        Some(both) => both.map(Tensor::into_dispatch),
        None => [none(), none()],
    };
    let y = x.skip.map_or_else(none, Tensor::into_dispatch);
    let (x, weight, bias) = (x.x.into_dispatch(), norm.weight.into_dispatch(), norm.bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::engine_group_norm(x, y, weight, bias, scale, shift, options).0)
}

/// Group normalization over channels and positions. `x: [B, C, H, W]` or `[B, C, T]`; `weight, bias: [C]`.
pub fn group_norm<const D: usize>(
    x: Tensor<D>,
    groups: usize,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
) -> Tensor<D> {
    plain(x, groups, weight, bias, eps, false)
}

/// `silu(group_norm(x))`.
pub fn group_norm_silu<const D: usize>(
    x: Tensor<D>,
    groups: usize,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
) -> Tensor<D> {
    plain(x, groups, weight, bias, eps, true)
}

fn plain<const D: usize>(
    x: Tensor<D>,
    groups: usize,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
    silu: bool,
) -> Tensor<D> {
    if D < 3 || !engine::takes(&x) || !engine::serves(&weight) {
        let y = reference::group_norm(x, groups, weight, bias, eps);
        return if silu { reference::silu(y) } else { y };
    }
    let device = x.device();
    let none = || absent(&device).into_dispatch();
    let options = NormOptions { groups, eps, silu, recompute: false };
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::engine_group_norm(x, none(), weight, bias, none(), none(), options).0)
}
