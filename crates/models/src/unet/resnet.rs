//! The residual layer: normalize, activate, convolve, twice, with the time embedding in between.

use burn::{
    module::Module,
    tensor::{DType, Tensor},
};
use tweedie_ops::{self as ops, Added, ConvOptions, Maps};

use super::{
    config::{ConfigError, TimeScaleShift, UNet2DConfig},
    resample::Resample,
};
use crate::{
    layers::{Activation, Conv2d, Dropout, Either, GroupNorm, Init, Linear, channels_last},
    network::Mode,
};

/// The time embedding for residual layers, both `[B, width]`.
#[derive(Clone, Debug)]
pub(crate) struct Time {
    /// The embedding.
    pub(crate) raw: Tensor<2>,
    /// Its activation.
    pub(crate) active: Tensor<2>,
}

/// Group normalization whose scale and shift are linear in the time embedding.
#[derive(Module, Debug)]
pub struct TimeGroupNorm {
    linear: Linear,
    groups: usize,
    eps: f64,
}

impl TimeGroupNorm {
    /// Creates it for `channels`, which `groups` must divide, and time embeddings of `width`.
    pub(crate) fn new(init: &Init, groups: usize, channels: usize, width: usize, eps: f64) -> Self {
        Self { linear: Linear::new(&init.at("linear"), width, 2 * channels, true), groups, eps }
    }

    /// Normalizes `[B, C, H, W]`; the result has the same shape.
    pub(crate) fn forward(&self, x: Tensor<4>, time: &Time) -> Tensor<4> {
        let channels = x.dims()[1];
        let options = (&x.device(), DType::F32);
        let (one, zero) = (Tensor::ones([channels], options), Tensor::zeros([channels], options));
        let scale_shift = Some(halves(self.linear.forward(time.raw.clone())));
        let (groups, eps) = (self.groups, self.eps);
        ops::normalize(x, ops::Norm { groups, weight: one, bias: zero, eps, scale_shift, silu: false })
    }
}

/// Splits `[B, 2C]` into scale and shift.
fn halves(by: Tensor<2>) -> [Tensor<2>; 2] {
    let channels = by.dims()[1] / 2;
    [by.clone().narrow(1, 0, channels), by.narrow(1, channels, channels)]
}

type Norm = Either<GroupNorm, TimeGroupNorm>;

/// The parameters of a residual layer.
pub(crate) struct ResnetSpec {
    pub(crate) inputs: usize,
    /// Channels between the two convolutions.
    pub(crate) inner: usize,
    pub(crate) outputs: usize,
    pub(crate) groups: Groups,
    /// Divisor of the sum of both paths.
    pub(crate) scale: f64,
    pub(crate) resample: Option<Resample>,
}

/// How the number of groups is determined.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Groups {
    /// `norm_num_groups`.
    Configured,
    /// A quarter of the channels, at most 32, or as given for the first normalization.
    Quarter {
        /// Groups of the first normalization.
        first: Option<usize>,
    },
    /// One group per 32 channels, with normalization conditioned on time.
    Of32 {
        /// The channels from which the second normalization's groups are computed. The last layer of a block of the up path has
        /// another number, but uses the block's number of groups.
        second: usize,
    },
}

impl Groups {
    fn of(
        self,
        init: &Init,
        config: &UNet2DConfig,
        channels: usize,
        first: bool,
    ) -> Result<usize, ConfigError> {
        let groups = match self {
            Self::Configured => return configured_groups(init, config, channels),
            Self::Quarter { first: Some(n) } if first => n,
            Self::Quarter { .. } => (channels / 4).min(32),
            Self::Of32 { .. } if first => channels / 32,
            Self::Of32 { second } => second / 32,
        };
        check_groups(init, "block_out_channels", &config.block_out_channels, groups, channels)?;
        Ok(groups)
    }
}

/// The residual layer.
#[derive(Module, Debug)]
pub struct ResnetBlock {
    norm1: Norm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: Norm,
    dropout: Dropout,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
    scale: f64,
    scale_shift: bool,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    resample: Option<Resample>,
}

impl ResnetBlock {
    pub(crate) fn new(init: &Init, config: &UNet2DConfig, spec: ResnetSpec) -> Result<Self, ConfigError> {
        let ResnetSpec { inputs, inner, outputs, groups, scale, resample } = spec;
        let conditioned = matches!(groups, Groups::Of32 { .. });
        let fir = matches!(resample, Some(Resample::FirDown | Resample::FirUp));
        let scale_shift = config.resnet_time_scale_shift == TimeScaleShift::ScaleShift;
        let width = config.time_width();
        let norm = |name: &str, channels: usize| -> Result<Norm, ConfigError> {
            let init = init.at(name);
            let groups = groups.of(&init, config, channels, name == "norm1")?;
            let eps = config.norm_eps;
            Ok(match conditioned {
                true => Either::B(TimeGroupNorm::new(&init, groups, channels, width, eps)),
                false => Either::A(GroupNorm::new(&init, groups, channels, eps)),
            })
        };
        let projected = if scale_shift { 2 * inner } else { inner };
        Ok(Self {
            norm1: norm("norm1", inputs)?,
            conv1: Conv2d::new(&init.at("conv1"), inputs, inner, 3, true),
            time_emb_proj: (!conditioned)
                .then(|| Linear::new(&init.at("time_emb_proj"), width, projected, true)),
            norm2: norm("norm2", inner)?,
            dropout: Dropout::new(init, config.dropout),
            conv2: Conv2d::new(&init.at("conv2"), inner, outputs, 3, true),
            conv_shortcut: (inputs != outputs || fir)
                .then(|| Conv2d::new(&init.at("conv_shortcut"), inputs, outputs, 1, !conditioned)),
            scale,
            scale_shift,
            activation: config.act_fn,
            resample,
        })
    }

    /// `[B, in, H, W]` to `[B, out, H', W']`.
    pub(crate) fn forward(&self, x: impl Into<Maps>, time: &Time, mode: Mode) -> Tensor<4> {
        let (act, mut x) = (self.activation, x.into());
        let (mut shift, mut scale_shift) = (None, None);
        if let Some(linear) = &self.time_emb_proj {
            let by = linear.forward(time.active.clone());
            if self.scale_shift { scale_shift = Some(halves(by)) } else { shift = Some(by) }
        }
        let embedding = Added { shift, residual: None };
        let h = match (&self.norm1, self.resample) {
            (Either::A(norm), None) => norm.then_conv(act, x.clone(), None, &self.conv1, embedding),
            (norm, resample) => {
                let joined = x.joined();
                let h = match norm {
                    Either::A(norm) => norm.then(act, joined.clone()),
                    Either::B(norm) => act.apply(norm.forward(joined.clone(), time)),
                };
                x = resample.map_or_else(|| joined.clone(), |r| r.apply(joined.clone())).into();
                match resample {
                    Some(Resample::NearestUp) => {
                        let [_, _, height, width] = h.dims();
                        self.conv1.forward_resized(h, [2 * height, 2 * width], embedding)
                    }
                    Some(r) => self.conv1.forward_with(r.apply(h), ConvOptions::same(1), embedding),
                    None => self.conv1.forward_with(h, ConvOptions::same(1), embedding),
                }
            }
        };
        let residual = Added::residual(match &self.conv_shortcut {
            Some(conv) => conv.forward(x, ConvOptions::same(0)),
            None => x.joined(),
        });
        let h = match &self.norm2 {
            Either::A(norm) if !self.dropout.is_active(mode) => {
                norm.then_conv(act, h, scale_shift, &self.conv2, residual)
            }
            norm => {
                let h = match norm {
                    Either::A(norm) => norm.scaled(act, h, scale_shift),
                    Either::B(norm) => act.apply(norm.forward(h, time)),
                };
                let h = self.dropout.forward(h, mode);
                self.conv2.forward_with(h, ConvOptions::same(1), residual)
            }
        };
        rescale(h, self.scale)
    }
}

/// `x / by`.
pub(crate) fn rescale(x: Tensor<4>, by: f64) -> Tensor<4> {
    if by == 1.0 { x } else { channels_last(x, |x| x.div_scalar(by as f32)) }
}

/// `norm_num_groups`, if it divides the `channels` at `init`.
pub(crate) fn configured_groups(
    init: &Init,
    config: &UNet2DConfig,
    channels: usize,
) -> Result<usize, ConfigError> {
    let key = "norm_num_groups";
    let Some(groups) = config.norm_num_groups else {
        return Err(ConfigError::value(
            key,
            (),
            format!("{} needs a number of groups, expected an integer", init.path()),
        ));
    };
    check_groups(init, key, groups, groups, channels)?;
    Ok(groups)
}

/// Checks that `groups` divides the `channels` at `init`; the error names `key`.
pub(crate) fn check_groups(
    init: &Init,
    key: &str,
    value: impl serde::Serialize,
    groups: usize,
    channels: usize,
) -> Result<(), ConfigError> {
    if groups > 0 && channels.is_multiple_of(groups) {
        return Ok(());
    }
    let reason = format!("the {channels} channels of {} are not divisible by {groups} groups", init.path());
    Err(ConfigError::value(key, value, reason))
}
