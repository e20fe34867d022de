//! Attention of pixels to the text and to themselves at once (Nichol et al. 2021, arXiv:2112.10741): keys and values of the
//! text come before those of the pixels. The blocks "SimpleCrossAttn" of diffusers.

use std::ops::Range;

use burn::{module::Module, tensor::Tensor};
use tweedie_ops as ops;

use crate::layers::{GroupNorm, Init, Linear};

/// Added to variances, fixed in the published networks.
const EPS: f64 = 1e-5;

/// The parameters of a layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct AddedSpec {
    pub(super) channels: usize,
    /// Channels of a head; a divisor of `channels`.
    pub(super) head: usize,
    /// Width of the text features.
    pub(super) text: usize,
    /// A divisor of `channels`.
    pub(super) groups: usize,
    /// Whether pixels attend to the text alone.
    pub(super) only_cross: bool,
}

/// Normalization, attention to the text and the pixels, projection, residual connection.
#[derive(Module, Debug)]
pub struct AddedAttention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Option<Linear>,
    to_v: Option<Linear>,
    add_k_proj: Linear,
    add_v_proj: Linear,
    to_out: Vec<Linear>,
    head: usize,
}

impl AddedAttention {
    pub(super) fn new(init: &Init, spec: AddedSpec) -> Self {
        let AddedSpec { channels, head, text, groups, only_cross } = spec;
        let linear = |name: &str, inputs| Linear::new(&init.at(name), inputs, channels, true);
        let own = |name: &str| (!only_cross).then(|| linear(name, channels));
        Self {
            group_norm: GroupNorm::new(&init.at("group_norm"), groups, channels, EPS),
            to_q: linear("to_q", channels),
            to_k: own("to_k"),
            to_v: own("to_v"),
            add_k_proj: linear("add_k_proj", text),
            add_v_proj: linear("add_v_proj", text),
            to_out: vec![linear("to_out.0", channels)],
            head,
        }
    }

    /// `x: [B, C, H, W]`, `text: [B, S, width]`. With `lengths`, row `i` only reads its first `lengths[i]` tokens.
    pub(super) fn forward(&self, x: Tensor<4>, text: &Tensor<3>, lengths: Option<&[usize]>) -> Tensor<4> {
        let [b, c, h, w] = x.dims();
        let tokens: Tensor<3> =
            self.group_norm.forward(x.clone()).permute([0, 2, 3, 1]).reshape([b, h * w, c]);
        let heads = |x: Tensor<3>| -> Tensor<4> {
            let [b, n, c] = x.dims();
            x.reshape([b, n, c / self.head, self.head]).swap_dims(1, 2)
        };
        let q = heads(self.to_q.forward(tokens.clone()));
        let pair = [(&self.add_k_proj, &self.to_k), (&self.add_v_proj, &self.to_v)];
        let pair = pair.map(|(of_text, own)| {
            let own = own.as_ref().map(|own| heads(own.forward(tokens.clone())));
            (heads(of_text.forward(text.clone())), own)
        });
        let scale = (self.head as f64).powf(-0.5);
        let attend = |rows: Range<usize>, length: usize| {
            let some = |x: &Tensor<4>| x.clone().narrow(0, rows.start, rows.len());
            let [k, v] = [&pair[0], &pair[1]].map(|(of_text, own)| {
                let of_text = some(of_text).narrow(2, 0, length);
                match own {
                    Some(own) => Tensor::cat(vec![of_text, some(own)], 2),
                    None => of_text,
                }
            });
            ops::attention(some(&q), k, v, scale)
        };
        let all = text.dims()[1];
        let y = match lengths {
            None => attend(0..b, all),
            Some(lengths) => {
                let parts = runs(lengths).map(|rows| attend(rows.clone(), lengths[rows.start].min(all)));
                Tensor::cat(parts.collect(), 0)
            }
        };
        let y: Tensor<3> = y.swap_dims(1, 2).reshape([b, h * w, c]);
        let y = self.to_out.iter().fold(y, |y, linear| linear.forward(y));
        ops::add(y.reshape([b, h, w, c]).permute([0, 3, 1, 2]), x)
    }
}

/// The ranges of equal neighbours.
fn runs(all: &[usize]) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    all.chunk_by(PartialEq::eq).map(move |run| {
        let rows = start..start + run.len();
        start = rows.end;
        rows
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_neighbours_are_one_range() {
        assert_eq!(runs(&[3, 3, 5, 3]).collect::<Vec<_>>(), [0..2, 2..3, 3..4]);
        assert_eq!(runs(&[]).count(), 0);
    }
}
