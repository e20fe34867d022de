//! Halving and doubling the resolution.

use burn::{
    module::Module,
    tensor::{DType, Device, Tensor, TensorData, ops::PadMode},
};
use tweedie_ops::{self as ops, Added, ConvOptions};

use crate::layers::{Conv2d, Init};

/// A change of resolution without parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resample {
    /// The mean of 2×2 pixels.
    MeanDown,
    /// Each pixel repeated to 2×2.
    NearestUp,
    /// Filtered with `[1, 3, 3, 1]/8` (Karras et al. 2020) with zero padding.
    FirDown,
    /// Zeros inserted, then filtered with `[1, 3, 3, 1]/4` with zero padding.
    FirUp,
    /// Like `FirDown` with mirror padding.
    MirrorDown,
    /// Like `FirUp` with mirror padding.
    MirrorUp,
}

impl Resample {
    /// `[B, C, H, W]` to `[B, C, H/2, W/2]` or `[B, C, 2H, 2W]`.
    pub(crate) fn apply(self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, h, w] = x.dims();
        match self {
            Self::MeanDown => ops::avg_pool2d(x, 2),
            Self::NearestUp => ops::upsample_nearest2d(x, [2 * h, 2 * w]),
            Self::FirDown => filter(x, &[0.125, 0.375, 0.375, 0.125], 2, 1),
            Self::FirUp => filter(ops::upsample_nearest2d(x, [2 * h, 2 * w]), &BINOMIAL, 1, 1),
            Self::MirrorDown => filter(mirror(x), &[0.125, 0.375, 0.375, 0.125], 2, 0),
            Self::MirrorUp => {
                let x = ops::upsample_nearest2d(mirror(x), [2 * h + 4, 2 * w + 4]);
                let x = x.narrow(2, 1, 2 * h + 2).narrow(3, 1, 2 * w + 2);
                filter(x, &BINOMIAL, 1, 0)
            }
        }
    }
}

/// Filtering repeated pixels with this equals inserting zeros and filtering with `[1, 3, 3, 1]/4`.
const BINOMIAL: [f32; 3] = [0.25, 0.5, 0.25];

/// Convolves every channel with `taps ⊗ taps`.
fn filter(x: Tensor<4>, taps: &[f32], stride: usize, padding: usize) -> Tensor<4> {
    let channels = x.dims()[1];
    let options = ConvOptions { groups: channels, ..ConvOptions::strided(stride, padding) };
    ops::conv2d(x.clone(), taps_of(taps, channels, &x.device()), None, options)
}

fn taps_of(taps: &[f32], channels: usize, device: &Device) -> Tensor<4> {
    let plane = taps.iter().flat_map(|a| taps.iter().map(move |b| a * b));
    let values: Vec<f32> = (0..channels).flat_map(|_| plane.clone()).collect();
    let shape = [channels, 1, taps.len(), taps.len()];
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

fn mirror(x: Tensor<4>) -> Tensor<4> {
    x.pad((1, 1, 1, 1), PadMode::Reflect)
}

/// A convolution that halves the resolution.
#[derive(Module, Debug)]
pub struct ConvDown {
    conv: Conv2d,
    padding: usize,
}

impl ConvDown {
    pub(crate) fn new(init: &Init, channels: usize, padding: usize) -> Self {
        Self { conv: Conv2d::new(&init.at("conv"), channels, channels, 3, true), padding }
    }

    /// `[B, C, H, W]` to `[B, C, H/2, W/2]`.
    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut options = ConvOptions::strided(2, self.padding);
        if self.padding == 0 {
            options.pad_after = [1, 1];
        }
        self.conv.forward(x, options)
    }
}

/// Nearest-neighbour upsampling by 2, then a convolution.
#[derive(Module, Debug)]
pub struct ConvUp {
    conv: Conv2d,
}

impl ConvUp {
    pub(crate) fn new(init: &Init, channels: usize) -> Self {
        Self { conv: Conv2d::new(&init.at("conv"), channels, channels, 3, true) }
    }

    /// `[B, C, H, W]` to `[B, C, 2H, 2W]`.
    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, h, w] = x.dims();
        self.forward_to(x, [2 * h, 2 * w])
    }

    /// `[B, C, H, W]` to `[B, C, size]`.
    pub(crate) fn forward_to(&self, x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
        self.conv.forward_resized(x, size, Added::default())
    }
}
