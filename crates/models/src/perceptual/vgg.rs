//! VGG-16 (Simonyan & Zisserman 2015, arXiv:1409.1556), up to its last convolution.

use std::collections::BTreeSet;

use burn::tensor::{
    DType, Device, Tensor, TensorData, activation::relu, module::max_pool2d, ops::MaxPoolOptions,
};
use tweedie_ops::{ConvOptions, conv2d};

use crate::{
    layers::channels_last,
    params::{ParamError, TensorSource},
};

/// Channels of each slice, and the indices of its convolutions in `features`. The size is halved between slices.
const SLICES: [(usize, &[usize]); 5] =
    [(64, &[0, 2]), (128, &[5, 7]), (256, &[10, 12, 14]), (512, &[17, 19, 21]), (512, &[24, 26, 28])];
/// LPIPS' mean and standard deviation of images in `-1..=1`.
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];

/// The convolutions of VGG-16, and LPIPS' weights of their channels.
#[derive(Clone, Debug)]
pub struct Vgg {
    /// Weights `[out, in, 3, 3]` and biases `[out]`.
    slices: Vec<Vec<(Tensor<4>, Tensor<1>)>>,
    /// `[1, C]` for each slice.
    linear: Option<Vec<Tensor<2>>>,
    shift: Tensor<4>,
    scale: Tensor<4>,
}

impl Vgg {
    /// Height and width of the smallest supported images.
    pub const LEAST: usize = 16;

    /// Creates it with the weights of `source`, named as in torchvision's `vgg16` (`features.0.weight`; the classifier is
    /// not read) or as in the `LPIPS` module of the package lpips (`net.slice1.0.weight`, `lin0.model.1.weight`). The
    /// former may be combined with the latter's `lin…`.
    ///
    /// # Errors
    /// If a tensor is missing, unexpected, has the wrong shape or cannot be read.
    pub fn load(source: &dyn TensorSource, device: &Device) -> Result<Self, ParamError> {
        let mut load = Load { source, device, used: BTreeSet::new() };
        let mut slices = Vec::new();
        let mut inputs = 3;
        for (number, (channels, convolutions)) in SLICES.iter().enumerate() {
            let mut slice = Vec::new();
            for index in *convolutions {
                let lpips = format!("net.slice{}.{index}", number + 1);
                let name =
                    if load.has(&format!("{lpips}.weight")) { lpips } else { format!("features.{index}") };
                let weight = load.tensor(&format!("{name}.weight"), [*channels, inputs, 3, 3])?;
                slice.push((weight, load.tensor(&format!("{name}.bias"), [*channels])?));
                inputs = *channels;
            }
            slices.push(slice);
        }
        let linear = if load.has("lin0.model.1.weight") {
            let of = |(number, (channels, _)): (usize, &(usize, &[usize]))| {
                let weight = load.tensor(&format!("lin{number}.model.1.weight"), [1, *channels, 1, 1])?;
                Ok(weight.reshape([1, *channels]))
            };
            Some(SLICES.iter().enumerate().map(of).collect::<Result<_, _>>()?)
        } else {
            None
        };
        load.all_used()?;
        let constant = |values: [f32; 3]| {
            Tensor::from_data(TensorData::new(values.to_vec(), [1, 3, 1, 1]), (device, DType::F32))
        };
        Ok(Self { slices, linear, shift: constant(SHIFT), scale: constant(SCALE) })
    }

    /// LPIPS' weight of each channel, `[1, C]` for each of [`Self::layers`], if the file has them.
    pub fn linear(&self) -> Option<&[Tensor<2>]> {
        self.linear.as_deref()
    }

    /// Activations after the last ReLU of each slice for images `[B, 3, H, W]` in `-1..=1`, of at least 16×16 pixels:
    /// `[B, C, H, W]` with 64, 128, 256, 512 and 512 channels, each at half the size of the previous one.
    pub fn layers(&self, planes: Tensor<4>) -> Vec<Tensor<4>> {
        let autodiff = planes.is_autodiff();
        let like = |t: &Tensor<4>| if autodiff { t.clone().autodiff() } else { t.clone() };
        let mut x = (planes - like(&self.shift)) / like(&self.scale);
        let mut layers = Vec::new();
        for (number, slice) in self.slices.iter().enumerate() {
            if number > 0 {
                x = max_pool2d(x, MaxPoolOptions::new([2, 2]));
            }
            for (weight, bias) in slice {
                let bias = if autodiff { bias.clone().autodiff() } else { bias.clone() };
                x = channels_last(conv2d(x, like(weight), Some(bias), ConvOptions::same(1)), relu);
            }
            layers.push(x.clone());
        }
        layers
    }
}

/// Reads tensors of a source and records which were used.
struct Load<'a> {
    source: &'a dyn TensorSource,
    device: &'a Device,
    used: BTreeSet<String>,
}

impl Load<'_> {
    fn has(&self, name: &str) -> bool {
        self.source.shape(name).is_some()
    }

    fn tensor<const D: usize>(&mut self, name: &str, expected: [usize; D]) -> Result<Tensor<D>, ParamError> {
        let Some(found) = self.source.shape(name) else {
            return Err(ParamError::Missing { name: name.into(), shape: expected.to_vec(), others: 0 });
        };
        if found != expected {
            return Err(ParamError::Shape { name: name.into(), expected: expected.to_vec(), found });
        }
        let data = self.source.data(name).map_err(|reason| ParamError::Read { name: name.into(), reason })?;
        self.used.insert(name.into());
        Ok(Tensor::from_data(data, (self.device, DType::F32)))
    }

    /// Checks that nothing else is there, except what the two packages store besides: a classifier, the input constants,
    /// and the channel weights once more as a list.
    fn all_used(&self) -> Result<(), ParamError> {
        const BESIDE: [&str; 3] = ["classifier.", "scaling_layer.", "lins."];
        let beside = |name: &String| BESIDE.iter().any(|start| name.starts_with(start));
        let names = self.source.names();
        let mut unused = names.iter().filter(|name| !self.used.contains(*name) && !beside(name));
        match unused.next() {
            Some(name) => Err(ParamError::Unused { name: name.clone(), others: unused.count() }),
            None => Ok(()),
        }
    }
}
