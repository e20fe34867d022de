//! The perceptual distance of images: the distance of a network's activations (LPIPS, Zhang et al. 2018,
//! arXiv:1801.03924).
//!
//! In each layer, the features of every pixel are scaled to length 1. The squared differences between two images are
//! summed over channels with weights, averaged over pixels, and summed over layers.

mod encoder;
mod vgg;

use burn::tensor::Tensor;

pub use encoder::EncoderNet;
pub use vgg::Vgg;

/// Added to squared lengths, so that the gradient at 0 is finite.
const EPS: f32 = 1e-20;

/// A network for perceptual distances.
#[derive(Clone, Debug)]
pub enum Perceptual {
    /// The project's encoder, with all channel weights 1.
    Encoder(Box<EncoderNet>),
    /// VGG-16 with the weights of LPIPS, or 1 if the file has none.
    Vgg(Box<Vgg>),
}

/// A network's activations for images: for each layer one row per pixel, `[B·H·W, C]`, of length 1.
#[derive(Clone, Debug)]
pub struct Impression(Vec<Tensor<2>>);

impl Perceptual {
    /// Height and width of the smallest supported images.
    pub fn least(&self) -> usize {
        match self {
            Self::Encoder(_) => 8,
            Self::Vgg(_) => Vgg::LEAST,
        }
    }

    /// The activations for images `[B, 3, H, W]` in `-1..=1`.
    pub fn see(&self, planes: Tensor<4>) -> Impression {
        let layers = match self {
            Self::Encoder(net) => net.layers(planes),
            Self::Vgg(net) => net.layers(planes),
        };
        Impression(layers.into_iter().map(normalized).collect())
    }

    /// The mean distance between two batches of images of the same size, 0 for equal ones. Differentiable.
    pub fn distance(&self, a: &Impression, b: &Impression) -> Tensor<1> {
        let weights = match self {
            Self::Vgg(net) => net.linear(),
            Self::Encoder(_) => None,
        };
        let layer = |(index, (a, b)): (usize, (&Tensor<2>, &Tensor<2>))| {
            let rows = a.dims()[0] as f32;
            let difference = match (a.is_autodiff(), b.is_autodiff()) {
                (true, false) => a.clone() - b.clone().autodiff(),
                (false, true) => a.clone().autodiff() - b.clone(),
                _ => a.clone() - b.clone(),
            };
            let squares = difference.clone() * difference;
            let weighed = match weights.and_then(|w| w.get(index)) {
                Some(w) if squares.is_autodiff() => squares * w.clone().autodiff(),
                Some(w) => squares * w.clone(),
                None => squares,
            };
            weighed.sum().div_scalar(rows)
        };
        let layers = a.0.iter().zip(&b.0).enumerate().map(layer);
        layers.reduce(|sum, layer| sum + layer).expect("a network has layers")
    }
}

/// `[B, C, H, W]` to rows of length 1.
fn normalized(x: Tensor<4>) -> Tensor<2> {
    let [b, c, h, w] = x.dims();
    let rows: Tensor<2> = x.permute([0, 2, 3, 1]).reshape([b * h * w, c]);
    let length = (rows.clone() * rows.clone()).sum_dim(1).add_scalar(EPS).sqrt();
    rows / length
}
