//! Self-attention between pixels.

use burn::{module::Module, tensor::Tensor};
use tweedie_ops as ops;

use super::{
    config::{ConfigError, UNet2DConfig},
    resnet::rescale,
};
use crate::layers::{GroupNorm, Init, Linear};

/// Normalization, attention, projection, residual connection.
#[derive(Module, Debug)]
pub struct Attention {
    group_norm: Option<GroupNorm>,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Vec<Linear>,
    heads: usize,
    head_dim: usize,
    scale: f64,
}

impl Attention {
    /// `groups` must divide `channels`; without it there is no normalization. The sum with the input is divided by `scale`.
    pub(crate) fn new(
        init: &Init,
        config: &UNet2DConfig,
        channels: usize,
        groups: Option<usize>,
        scale: f64,
    ) -> Result<Self, ConfigError> {
        let head_dim = config.attention_head_dim.unwrap_or(channels);
        if head_dim == 0 || head_dim > channels {
            let reason = format!(
                "{} has {channels} channels; expected 1 to {channels} channels per head",
                init.path()
            );
            return Err(ConfigError::value("attention_head_dim", head_dim, reason));
        }
        let norm = groups.map(|n| (n, config.norm_eps));
        Ok(Self { scale, ..Self::of_heads(init, channels, head_dim, norm) })
    }

    /// Attention with heads of `head_dim` channels, after a normalization with the given groups and epsilon.
    pub(crate) fn of_heads(
        init: &Init,
        channels: usize,
        head_dim: usize,
        norm: Option<(usize, f64)>,
    ) -> Self {
        let heads = channels / head_dim;
        let inner = heads * head_dim;
        let linear = |name: &str, inputs, outputs| Linear::new(&init.at(name), inputs, outputs, true);
        Self {
            group_norm: norm.map(|(n, eps)| GroupNorm::new(&init.at("group_norm"), n, channels, eps)),
            to_q: linear("to_q", channels, inner),
            to_k: linear("to_k", channels, inner),
            to_v: linear("to_v", channels, inner),
            to_out: vec![linear("to_out.0", inner, channels)],
            heads,
            head_dim,
            scale: 1.0,
        }
    }

    /// Maps `[B, C, H, W]` to the same shape.
    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [b, c, h, w] = x.dims();
        let y = match &self.group_norm {
            Some(norm) => norm.forward(x.clone()),
            None => x.clone(),
        };
        let tokens: Tensor<3> = y.permute([0, 2, 3, 1]).reshape([b, h * w, c]);
        let split =
            |t: Tensor<3>| -> Tensor<4> { t.reshape([b, h * w, self.heads, self.head_dim]).swap_dims(1, 2) };
        let q = split(self.to_q.forward(tokens.clone()));
        let k = split(self.to_k.forward(tokens.clone()));
        let v = split(self.to_v.forward(tokens));
        let y = ops::attention(q, k, v, (self.head_dim as f64).powf(-0.5));
        let mut y: Tensor<3> = y.swap_dims(1, 2).reshape([b, h * w, self.heads * self.head_dim]);
        for linear in &self.to_out {
            y = linear.forward(y);
        }
        let y: Tensor<4> = y.reshape([b, h, w, c]).permute([0, 3, 1, 2]);
        rescale(ops::add(y, x), self.scale)
    }
}
