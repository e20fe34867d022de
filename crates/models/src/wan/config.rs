//! The configuration of a [`WanTransformer`](super::WanTransformer) in the format of diffusers' `config.json`.

use serde::{Deserialize, Serialize};

use crate::{
    config::{self, ConfigError, Format, in_range},
    network::IoSpec,
};

/// Keys whose other values belong to networks that are not supported.
const FIXED: [(&str, &str); 2] = [("pos_embed_seq_len", "null"), ("qk_norm", "\"rms_norm_across_heads\"")];

/// The latents of diffusers' default clip: 81 frames of 832×480 pixels.
const NATIVE: [usize; 3] = [21, 60, 104];
const MAX: usize = 1 << 16;

/// The keys of `config.json`. Missing keys have diffusers' defaults; unknown ones are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WanTransformerConfig {
    /// Frames, height and width of a token in latents: `[1, p, p]`.
    pub patch_size: [usize; 3],
    /// Number of attention heads.
    pub num_attention_heads: usize,
    /// Width of a head; even.
    pub attention_head_dim: usize,
    /// Channels of the input: those of the latents and of maps.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Width of the text features.
    pub text_dim: usize,
    /// Width of the sinusoidal time embedding.
    pub freq_dim: usize,
    /// Width of the feed-forward layers.
    pub ffn_dim: usize,
    /// Number of layers.
    pub num_layers: usize,
    /// Whether the input of the attention to the text is normalized.
    pub cross_attn_norm: bool,
    /// Added to variances and mean squares.
    pub eps: f64,
    /// Width of the image's features, if the network reads an image.
    pub image_dim: Option<usize>,
    /// Width of the image's features in attention layers, that of a token, if the network reads an image.
    pub added_kv_proj_dim: Option<usize>,
    /// Most tokens along each axis.
    pub rope_max_seq_len: usize,
}

impl Default for WanTransformerConfig {
    fn default() -> Self {
        Self {
            patch_size: [1, 2, 2],
            num_attention_heads: 40,
            attention_head_dim: 128,
            in_channels: 16,
            out_channels: 16,
            text_dim: 4096,
            freq_dim: 256,
            ffn_dim: 13824,
            num_layers: 40,
            cross_attn_norm: true,
            eps: 1e-6,
            image_dim: None,
            added_kv_proj_dim: None,
            rope_max_seq_len: 1024,
        }
    }
}

impl WanTransformerConfig {
    /// Name of the class in diffusers.
    pub const CLASS: &'static str = "WanTransformer3DModel";

    /// Parses `config.json` and [validates](Self::validate) it.
    ///
    /// # Errors
    /// Names the key that is unknown, malformed, contradicts others, or belongs to a network that is not supported.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let format = Format { class: Self::CLASS, harmless: &[], fixed: &FIXED };
        let config: Self = config::read(text, &format)?;
        config.validate()?;
        Ok(config)
    }

    /// The `config.json` for diffusers.
    pub fn to_json(&self) -> String {
        config::write(self, Self::CLASS)
    }

    /// Checks that a network can be built from this.
    ///
    /// # Errors
    /// Names the key, its value and what was expected.
    pub fn validate(&self) -> Result<(), ConfigError> {
        in_range(&[
            ("num_attention_heads", self.num_attention_heads, 1, 1 << 12),
            ("attention_head_dim", self.attention_head_dim, 6, 1 << 12),
            ("in_channels", self.in_channels, 1, MAX),
            ("out_channels", self.out_channels, 1, MAX),
            ("text_dim", self.text_dim, 1, MAX),
            ("freq_dim", self.freq_dim, 2, MAX),
            ("ffn_dim", self.ffn_dim, 1, 1 << 20),
            ("num_layers", self.num_layers, 1, 1024),
            ("rope_max_seq_len", self.rope_max_seq_len, 1, 1 << 20),
        ])?;
        let [frames, height, width] = self.patch_size;
        if frames != 1 || height != width || !(1..=64).contains(&height) {
            let reason = "expected [1, p, p] with p from 1 to 64";
            return Err(ConfigError::value("patch_size", self.patch_size, reason));
        }
        if !self.attention_head_dim.is_multiple_of(2) {
            return Err(ConfigError::value(
                "attention_head_dim",
                self.attention_head_dim,
                "expected an even width",
            ));
        }
        if !(self.eps >= 0.0 && self.eps.is_finite()) {
            return Err(ConfigError::value("eps", self.eps, "expected 0 or more"));
        }
        match (self.image_dim, self.added_kv_proj_dim) {
            (None, None) => Ok(()),
            (Some(image), Some(added)) if image > 0 && added == self.width() => Ok(()),
            (Some(0), _) => Err(ConfigError::value("image_dim", 0, "expected at least 1")),
            (image, added) => {
                let width = self.width();
                let reason = match image {
                    Some(_) => {
                        format!("expected {width}, the width of a token, because there is an `image_dim`")
                    }
                    None => "expected null, because there is no `image_dim`".into(),
                };
                Err(ConfigError::value("added_kv_proj_dim", added, reason))
            }
        }
    }

    /// Width of a token.
    pub fn width(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Height and width of a token in latents.
    pub(super) fn patch(&self) -> usize {
        self.patch_size[2]
    }

    /// What a network of this configuration takes and gives.
    pub fn spec(&self) -> IoSpec {
        let [frames, sides @ ..] = NATIVE;
        let sides = sides.map(|n| n.next_multiple_of(self.patch().max(1)));
        IoSpec {
            native: Some([&[frames][..], &sides].concat()),
            multiple: self.patch(),
            patch: self.patch(),
            text: Some(self.text_dim),
            image: self.image_dim,
            ..IoSpec::new(Self::CLASS, 3, [self.in_channels, self.out_channels])
        }
    }
}
