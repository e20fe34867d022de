//! A layer of Wan's transformer.

use burn::{
    module::{Module, Param},
    tensor::{DType, Device, Tensor, TensorData},
};
use tweedie_ops::{self as ops, Precision};

use super::WanTransformerConfig;
use crate::{
    dit::{normalize, parts, scale_shift},
    layers::{Activation, FeedForward, FeedForwardActivation, Init, LayerNorm, Linear, RmsNorm},
};

/// The longest wavelength of rotations, over 2π.
const THETA: f64 = 10_000.0;
/// Scales, shifts and gates of a layer.
pub(super) const MODULATIONS: usize = 6;

/// Rotations of queries and keys by frame, row and column of a token (Su et al. 2021, arXiv:2104.09864), `[1, 1, T, head/2]` each.
#[derive(Clone, Debug)]
pub(super) struct Rotary {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Rotary {
    /// Those of `frames × rows × columns` tokens: a third of each head is turned by the row, a third by the column, and the rest,
    /// which comes first, by the frame.
    pub(super) fn new([frames, rows, columns]: [usize; 3], head: usize, device: &Device) -> Self {
        let side = 2 * (head / 6);
        let widths = [head - 2 * side, side, side];
        let phases = |place: [usize; 3]| {
            (0..3).flat_map(move |axis| {
                let width = widths[axis];
                let frequency = move |i: usize| 1.0 / THETA.powf((2 * i) as f64 / width as f64);
                (0..width / 2).map(move |i| place[axis] as f64 * frequency(i))
            })
        };
        let mut tables = [Vec::new(), Vec::new()];
        for frame in 0..frames {
            for row in 0..rows {
                for column in 0..columns {
                    for phase in phases([frame, row, column]) {
                        tables[0].push(phase.cos() as f32);
                        tables[1].push(phase.sin() as f32);
                    }
                }
            }
        }
        let shape = [1, 1, frames * rows * columns, head / 2];
        let [cos, sin] =
            tables.map(|values| Tensor::from_data(TensorData::new(values, shape), (device, DType::F32)));
        Self { cos, sin }
    }

    /// `x: [B, heads, T, head]`. Pairs of neighbours are turned; the first of all pairs come first in the result, which does not
    /// change the products of queries and keys.
    fn turn(&self, x: Tensor<4>) -> Tensor<4> {
        let [b, heads, t, head] = x.dims();
        let pairs: Tensor<5> = ops::to_f32(x.clone()).reshape([b, heads, t, head / 2, 2]);
        let part = |i: usize| -> Tensor<4> { pairs.clone().narrow(4, i, 1).reshape([b, heads, t, head / 2]) };
        let (first, second) = (part(0), part(1));
        let (cos, sin) = (self.cos.clone(), self.sin.clone());
        let turned = [first.clone() * cos.clone() - second.clone() * sin.clone(), first * sin + second * cos];
        ops::cast_like(Tensor::cat(turned.into(), 3), &x)
    }
}

/// Attention with normalized queries and keys, to other tokens and to those of an image.
#[derive(Module, Debug)]
pub struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Vec<Linear>,
    norm_q: RmsNorm,
    norm_k: RmsNorm,
    add_k_proj: Option<Linear>,
    add_v_proj: Option<Linear>,
    norm_added_k: Option<RmsNorm>,
    heads: usize,
}

impl Attention {
    fn new(init: &Init, config: &WanTransformerConfig, image: bool) -> Self {
        let width = config.width();
        let linear = |name: &str| Linear::new(&init.at(name), width, width, true);
        let norm = |name: &str| RmsNorm::new(&init.at(name), width, config.eps);
        Self {
            to_q: linear("to_q"),
            to_k: linear("to_k"),
            to_v: linear("to_v"),
            to_out: vec![linear("to_out.0")],
            norm_q: norm("norm_q"),
            norm_k: norm("norm_k"),
            add_k_proj: image.then(|| linear("add_k_proj")),
            add_v_proj: image.then(|| linear("add_v_proj")),
            norm_added_k: image.then(|| norm("norm_added_k")),
            heads: config.num_attention_heads,
        }
    }

    /// `x: [B, T, width]`, `context: [B, S, width]`, `image: [B, I, width]`; as `x`.
    fn forward(
        &self,
        x: Tensor<3>,
        context: Tensor<3>,
        image: Option<&Tensor<3>>,
        rotary: Option<&Rotary>,
    ) -> Tensor<3> {
        let [b, t, width] = x.dims();
        let head = width / self.heads;
        let split = |x: Tensor<3>| -> Tensor<4> {
            let n = x.dims()[1];
            x.reshape([b, n, self.heads, head]).swap_dims(1, 2)
        };
        let mut q = split(self.norm_q.forward(self.to_q.forward(x)));
        let mut k = split(self.norm_k.forward(self.to_k.forward(context.clone())));
        let v = split(self.to_v.forward(context));
        if let Some(rotary) = rotary {
            (q, k) = (rotary.turn(q), rotary.turn(k));
        }
        let attend = |k: Tensor<4>, v: Tensor<4>| ops::attention(q.clone(), k, v, (head as f64).powf(-0.5));
        let mut y = attend(k, v);
        if let (Some(image), Some(to_k), Some(to_v), Some(norm)) =
            (image, &self.add_k_proj, &self.add_v_proj, &self.norm_added_k)
        {
            let k = split(norm.forward(to_k.forward(image.clone())));
            y = y + attend(k, split(to_v.forward(image.clone())));
        }
        let y: Tensor<3> = y.swap_dims(1, 2).reshape([b, t, width]);
        self.to_out.iter().fold(y, |y, linear| linear.forward(y))
    }
}

/// What the layers read besides the tokens.
pub(super) struct Given<'a> {
    /// `[B, S, width]`.
    pub(super) text: &'a Tensor<3>,
    /// `[B, I, width]`.
    pub(super) image: Option<&'a Tensor<3>>,
    /// What the time adds to scales, shifts and gates, `[B, 6·width]`.
    pub(super) time: &'a Tensor<2>,
    pub(super) rotary: &'a Rotary,
    pub(super) precision: Precision,
}

/// Attention to all tokens, attention to the text, feed-forward. The time scales, shifts and gates the first and the last.
#[derive(Module, Debug)]
pub struct Layer {
    attn1: Attention,
    attn2: Attention,
    norm2: Option<LayerNorm>,
    ffn: FeedForward,
    /// `[1, 6, width]`.
    scale_shift_table: Param<Tensor<3>>,
    eps: f64,
}

impl Layer {
    pub(super) fn new(init: &Init, config: &WanTransformerConfig) -> Self {
        let width = config.width();
        let activation = FeedForwardActivation::Plain(Activation::GeluTanh);
        let std = (width as f32).powf(-0.5);
        Self {
            attn1: Attention::new(&init.at("attn1"), config, false),
            attn2: Attention::new(&init.at("attn2"), config, config.image_dim.is_some()),
            norm2: config.cross_attn_norm.then(|| LayerNorm::new(&init.at("norm2"), width, config.eps)),
            ffn: FeedForward::of_widths(&init.at("ffn"), [width, config.ffn_dim, width], activation),
            scale_shift_table: init.normal("scale_shift_table", [1, MODULATIONS, width], std),
            eps: config.eps,
        }
    }

    /// `x: [B, T, width]`. The residual stream stays in `f32`.
    pub(super) fn forward(&self, x: Tensor<3>, given: &Given<'_>) -> Tensor<3> {
        let Given { text, image, time, rotary, precision } = *given;
        let table: Tensor<2> = self.scale_shift_table.val().flatten(1, 2);
        let [shift, scale, gate, shift_f, scale_f, gate_f] = parts(time.clone() + table);
        let h = precision.lower(scale_shift(normalize(x.clone(), self.eps), scale, shift));
        let x = x + gate * precision.raise(self.attn1.forward(h.clone(), h, None, Some(rotary)));
        let h = self.norm2.iter().fold(x.clone(), |x, norm| norm.forward(x));
        let x = x + precision.raise(self.attn2.forward(precision.lower(h), text.clone(), image, None));
        let h = precision.lower(scale_shift(normalize(x.clone(), self.eps), scale_f, shift_f));
        x + gate_f * precision.raise(self.ffn.forward(h))
    }
}
