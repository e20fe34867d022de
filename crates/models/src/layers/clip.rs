//! A layer of CLIP's encoders (Radford et al. 2021, arXiv:2103.00020). Tensors are named as in transformers.

use burn::{
    module::Module,
    tensor::{Tensor, activation::softmax},
};

use super::{Activation, Init, LayerNorm, Linear};

/// Self-attention.
#[derive(Module, Debug)]
pub struct SelfAttention {
    k_proj: Linear,
    v_proj: Linear,
    q_proj: Linear,
    out_proj: Linear,
    heads: usize,
}

impl SelfAttention {
    fn new(init: &Init, width: usize, heads: usize, std: f64) -> Self {
        let linear = |name: &str, std| Linear::normal(&init.at(name), width, width, std);
        Self {
            k_proj: linear("k_proj", std),
            v_proj: linear("v_proj", std),
            q_proj: linear("q_proj", std),
            out_proj: linear("out_proj", (width as f64).powf(-0.5)),
            heads,
        }
    }

    fn forward(&self, x: Tensor<3>, mask: Option<Tensor<4>>) -> Tensor<3> {
        let [b, t, width] = x.dims();
        let head = width / self.heads;
        let split = |x: Tensor<3>| -> Tensor<4> { x.reshape([b, t, self.heads, head]).swap_dims(1, 2) };
        let q = split(self.q_proj.forward(x.clone())).mul_scalar((head as f32).powf(-0.5));
        let k = split(self.k_proj.forward(x.clone()));
        let v = split(self.v_proj.forward(x));
        let scores = q.matmul(k.swap_dims(2, 3));
        let weights = softmax(mask.into_iter().fold(scores, |scores, mask| scores + mask), 3);
        self.out_proj.forward(weights.matmul(v).swap_dims(1, 2).reshape([b, t, width]))
    }
}

/// Feed-forward: two linear layers with an activation in between.
#[derive(Module, Debug)]
pub struct Mlp {
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    activation: Activation,
}

/// The parameters of a layer.
#[derive(Clone, Copy, Debug)]
pub struct ClipLayerSpec {
    /// Width of a token.
    pub width: usize,
    /// Width of the feed-forward layer.
    pub inner: usize,
    /// Number of attention heads.
    pub heads: usize,
    /// Number of layers of the network, for the initial weights.
    pub layers: usize,
    /// Added to variances.
    pub eps: f64,
    /// Activation of the feed-forward layer.
    pub activation: Activation,
}

/// Attention and feed-forward, each with a preceding normalization and a residual connection.
#[derive(Module, Debug)]
pub struct ClipLayer {
    self_attn: SelfAttention,
    layer_norm1: LayerNorm,
    mlp: Mlp,
    layer_norm2: LayerNorm,
}

impl ClipLayer {
    /// `heads` must divide `width`.
    pub fn new(init: &Init, spec: ClipLayerSpec) -> Self {
        let ClipLayerSpec { width, inner, heads, layers, eps, activation } = spec;
        let at = init.at("mlp");
        // Initialization of Radford et al. 2021: residual branches have smaller weights in deeper networks.
        let fan = width as f64;
        let std = (2.0 * fan * layers as f64).powf(-0.5);
        Self {
            self_attn: SelfAttention::new(&init.at("self_attn"), width, heads, std),
            layer_norm1: LayerNorm::new(&init.at("layer_norm1"), width, eps),
            mlp: Mlp {
                fc1: Linear::normal(&at.at("fc1"), width, inner, (2.0 * fan).powf(-0.5)),
                fc2: Linear::normal(&at.at("fc2"), inner, width, std),
                activation,
            },
            layer_norm2: LayerNorm::new(&init.at("layer_norm2"), width, eps),
        }
    }

    /// `x: [B, T, width]`; `mask: [1, 1, T, T]` is added to the scores.
    pub fn forward(&self, x: Tensor<3>, mask: Option<Tensor<4>>) -> Tensor<3> {
        let x = self.self_attn.forward(self.layer_norm1.forward(x.clone()), mask) + x;
        let h = self.mlp.fc1.forward(self.layer_norm2.forward(x.clone()));
        self.mlp.fc2.forward(self.mlp.activation.apply(h)) + x
    }
}
