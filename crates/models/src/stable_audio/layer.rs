//! A layer of Stable Audio's transformer.

use burn::{
    module::Module,
    tensor::{DType, Device, Tensor, TensorData},
};
use tweedie_ops::{self as ops, Precision};

use super::StableAudioDitConfig;
use crate::layers::{FeedForward, FeedForwardActivation, Init, LayerNorm, Linear};

/// Added to variances, fixed in the published networks.
const EPS: f64 = 1e-5;
/// The longest wavelength of rotations, over 2π.
const THETA: f32 = 10_000.0;

/// Rotations of queries and keys by their position (Su et al. 2021, arXiv:2104.09864), `[1, 1, T, dims]` each.
#[derive(Clone, Debug)]
pub(super) struct Rotary {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Rotary {
    /// Those of `t` positions, which turn the first half of each head.
    pub(super) fn new(t: usize, head: usize, device: &Device) -> Self {
        let dims = head / 2;
        let pairs = dims / 2;
        let frequency = |i: usize| 1.0 / THETA.powf((2 * i) as f32 / dims as f32);
        let phases: Vec<f32> =
            (0..t).flat_map(|place| (0..dims).map(move |i| place as f32 * frequency(i % pairs))).collect();
        let table = |f: fn(f32) -> f32| {
            let values: Vec<f32> = phases.iter().map(|phase| f(*phase)).collect();
            Tensor::from_data(TensorData::new(values, [1, 1, t, dims]), (device, DType::F32))
        };
        Self { cos: table(f32::cos), sin: table(f32::sin) }
    }

    /// `x: [B, heads, T, head]`.
    fn turn(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, _, dims] = self.cos.dims();
        let (pairs, rest) = (dims / 2, x.dims()[3] - dims);
        let wide = ops::to_f32(x.clone());
        let first = wide.clone().narrow(3, 0, dims);
        let half = |i: usize| wide.clone().narrow(3, i * pairs, pairs);
        let turned = Tensor::cat(vec![half(1).neg(), half(0)], 3);
        let turned = first * self.cos.clone() + turned * self.sin.clone();
        ops::cast_like(Tensor::cat(vec![turned, wide.narrow(3, dims, rest)], 3), &x)
    }
}

/// Attention, whose keys and values may have fewer heads than queries.
#[derive(Module, Debug)]
pub struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Vec<Linear>,
    head: usize,
}

impl Attention {
    fn new(init: &Init, [width, context]: [usize; 2], heads: usize, head: usize) -> Self {
        let linear = |name: &str, from, to| Linear::new(&init.at(name), from, to, false);
        Self {
            to_q: linear("to_q", width, width),
            to_k: linear("to_k", context, heads * head),
            to_v: linear("to_v", context, heads * head),
            to_out: vec![linear("to_out.0", width, width)],
            head,
        }
    }

    fn forward(&self, x: Tensor<3>, context: Tensor<3>, rotary: Option<&Rotary>) -> Tensor<3> {
        let [b, t, width] = x.dims();
        let split = |x: Tensor<3>| -> Tensor<4> {
            let [_, n, all] = x.dims();
            x.reshape([b, n, all / self.head, self.head]).swap_dims(1, 2)
        };
        let [mut q, mut k, v] = [
            split(self.to_q.forward(x)),
            split(self.to_k.forward(context.clone())),
            split(self.to_v.forward(context)),
        ];
        if let Some(rotary) = rotary {
            (q, k) = (rotary.turn(q), rotary.turn(k));
        }
        let times = q.dims()[1] / k.dims()[1];
        let [k, v] = [k, v].map(|x| repeated(x, times));
        let y = ops::attention(q, k, v, (self.head as f64).powf(-0.5));
        let y = y.swap_dims(1, 2).reshape([b, t, width]);
        self.to_out.iter().fold(y, |y, linear| linear.forward(y))
    }
}

/// Each head of `[B, heads, T, head]` as many times, one after the other.
fn repeated(x: Tensor<4>, times: usize) -> Tensor<4> {
    let [b, heads, t, head] = x.dims();
    match times {
        1 => x,
        _ => x.reshape([b, heads, 1, t, head]).expand([b, heads, times, t, head]).reshape([
            b,
            heads * times,
            t,
            head,
        ]),
    }
}

/// Attention to all positions, attention to the text, feed-forward, each with a preceding normalization and a residual
/// connection.
#[derive(Module, Debug)]
pub struct Layer {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl Layer {
    pub(super) fn new(init: &Init, config: &StableAudioDitConfig) -> Self {
        let (width, head, text) = (config.width(), config.attention_head_dim, config.cross_attention_dim);
        let norm = |name: &str| LayerNorm::new(&init.at(name), width, EPS);
        let (heads, few) = (config.num_attention_heads, config.num_key_value_attention_heads);
        Self {
            norm1: norm("norm1"),
            attn1: Attention::new(&init.at("attn1"), [width, width], heads, head),
            norm2: norm("norm2"),
            attn2: Attention::new(&init.at("attn2"), [width, text], few, head),
            norm3: norm("norm3"),
            ff: FeedForward::new(&init.at("ff"), width, FeedForwardActivation::Swiglu),
        }
    }

    /// `x: [B, T, width]` and `text: [B, S, cross_attention_dim]`. The residual stream stays in `f32`.
    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        text: Tensor<3>,
        rotary: &Rotary,
        precision: Precision,
    ) -> Tensor<3> {
        let h = precision.lower(self.norm1.forward(x.clone()));
        let x = x + precision.raise(self.attn1.forward(h.clone(), h, Some(rotary)));
        let h = precision.lower(self.norm2.forward(x.clone()));
        let x = x + precision.raise(self.attn2.forward(h, text, None));
        let h = precision.lower(self.norm3.forward(x.clone()));
        x + precision.raise(self.ff.forward(h))
    }
}
