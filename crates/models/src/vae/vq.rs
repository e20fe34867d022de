//! `VQModel`: an autoencoder whose latents are vectors of a table (van den Oord et al. 2017, arXiv:1711.00937; Esser et al.
//! 2021, arXiv:2012.09841), as in diffusers. Diffusion works on the latents before they are looked up.

use burn::{module::Module, tensor::Tensor};
use serde::{Deserialize, Serialize};
use tweedie_ops::{self as ops, Batch, ConvOptions, ExecContext, Precision};

use super::{
    blocks::{Decoder, Encoder},
    check_image, check_latents,
    config::{AutoencoderKlConfig, DecoderBlockType, EncoderBlockType},
    images,
};
use crate::{
    codec::{Codec, CodecSpec, Encoded},
    config::{self, ConfigError, Format, in_range},
    layers::{Activation, Conv2d, Embedding, Init},
    network::{InputError, module_object},
    params::constructors,
    unet::{CurrentNames, SampleSize},
};

/// Keys whose other values belong to networks that are not supported.
const FIXED: [(&str, &str); 2] = [("norm_type", "\"group\""), ("lookup_from_codebook", "false")];

/// The keys of a `VQModel`'s `config.json`. Missing keys have diffusers' defaults; unknown ones are errors. Those that are not
/// described here are described at [`AutoencoderKlConfig`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct VqModelConfig {
    pub in_channels: usize,
    pub out_channels: usize,
    pub down_block_types: Vec<EncoderBlockType>,
    pub up_block_types: Vec<DecoderBlockType>,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    pub act_fn: Activation,
    /// Channels of the encoder's output.
    pub latent_channels: usize,
    pub sample_size: SampleSize,
    /// Entries of the table.
    pub num_vq_embeddings: usize,
    pub norm_num_groups: usize,
    /// Width of the entries, by default `latent_channels`.
    pub vq_embed_dim: Option<usize>,
    pub scaling_factor: f64,
    pub mid_block_add_attention: bool,
    pub force_upcast: bool,
}

impl Default for VqModelConfig {
    fn default() -> Self {
        let kl = AutoencoderKlConfig::default();
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: kl.down_block_types,
            up_block_types: kl.up_block_types,
            block_out_channels: kl.block_out_channels,
            layers_per_block: 1,
            act_fn: kl.act_fn,
            latent_channels: 3,
            sample_size: kl.sample_size,
            num_vq_embeddings: 256,
            norm_num_groups: kl.norm_num_groups,
            vq_embed_dim: None,
            scaling_factor: kl.scaling_factor,
            mid_block_add_attention: true,
            force_upcast: false,
        }
    }
}

impl VqModelConfig {
    /// Name of the class in diffusers.
    pub const CLASS: &'static str = "VQModel";

    /// Parses `config.json` and checks whether it describes a network.
    ///
    /// # Errors
    /// Names the key that is unknown, malformed or contradicts others.
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

    fn validate(&self) -> Result<(), ConfigError> {
        self.autoencoder().validate()?;
        in_range(&[
            ("num_vq_embeddings", self.num_vq_embeddings, 1, 1 << 24),
            ("vq_embed_dim", self.width(), 1, 1 << 16),
        ])
    }

    /// Channels of the latents: the width of the table's entries.
    fn width(&self) -> usize {
        self.vq_embed_dim.unwrap_or(self.latent_channels)
    }

    /// The autoencoder with the same encoder and decoder.
    fn autoencoder(&self) -> AutoencoderKlConfig {
        let c = self.clone();
        AutoencoderKlConfig {
            in_channels: c.in_channels,
            out_channels: c.out_channels,
            down_block_types: c.down_block_types,
            up_block_types: c.up_block_types,
            block_out_channels: c.block_out_channels,
            layers_per_block: c.layers_per_block,
            act_fn: c.act_fn,
            latent_channels: c.latent_channels,
            norm_num_groups: c.norm_num_groups,
            sample_size: c.sample_size,
            scaling_factor: c.scaling_factor,
            mid_block_add_attention: c.mid_block_add_attention,
            ..AutoencoderKlConfig::default()
        }
    }
}

/// The table.
#[derive(Module, Debug)]
pub struct Quantizer {
    embedding: Embedding,
}

impl Quantizer {
    /// The nearest entry for each pixel of `z: [B, width, h, w]`. Gradients pass it unchanged.
    fn forward(&self, z: Tensor<4>) -> Tensor<4> {
        let [b, width, h, w] = z.dims();
        let (table, values, area) =
            (ops::to_host(self.embedding.weight.val()), ops::to_host(z.clone()), h * w);
        let mut found = vec![0.0; values.len()];
        for row in 0..b {
            for pixel in 0..area {
                let at = |c: usize| (row * width + c) * area + pixel;
                let distance = |entry: &[f32]| -> f32 {
                    entry.iter().enumerate().map(|(c, v)| (v - values[at(c)]).powi(2)).sum()
                };
                let nearest = table.chunks_exact(width).min_by(|a, b| distance(a).total_cmp(&distance(b)));
                for (c, value) in nearest.unwrap_or_default().iter().enumerate() {
                    found[at(c)] = *value;
                }
            }
        }
        let found: Tensor<4> = ops::from_host(found, [b, width, h, w], &z.device());
        let change = found - z.clone().detach();
        z + change
    }
}

/// The autoencoder. Parameters are named as in diffusers' `VQModel`.
#[derive(Module, Debug)]
pub struct VqModel {
    encoder: Encoder,
    quant_conv: Conv2d,
    quantize: Quantizer,
    post_quant_conv: Conv2d,
    decoder: Decoder,
    #[module(skip)]
    config: VqModelConfig,
    #[module(skip)]
    context: ExecContext,
}

impl VqModel {
    constructors!(VqModelConfig, CurrentNames::new);

    fn build(config: &VqModelConfig, init: &Init) -> Result<Self, ConfigError> {
        config.validate()?;
        let (latents, width) = (config.latent_channels, config.width());
        let coder = config.autoencoder();
        let mix = |name: &str, from, to| Conv2d::new(&init.at(name), from, to, 1, true);
        let table = init.at("quantize.embedding");
        Ok(Self {
            encoder: Encoder::new(&init.at("encoder"), &coder, latents),
            quant_conv: mix("quant_conv", latents, width),
            quantize: Quantizer { embedding: Embedding::new(&table, config.num_vq_embeddings, width) },
            post_quant_conv: mix("post_quant_conv", width, latents),
            decoder: Decoder::new(&init.at("decoder"), &coder),
            config: config.clone(),
            context: ExecContext::default(),
        })
    }

    /// The latents of images `[B, in_channels, H, W]` in −1..1, before they are looked up. H and W must be multiples of the
    /// stride.
    ///
    /// # Errors
    /// Says which dimension is wrong and what was expected.
    pub fn encode(&self, x: Tensor<4>) -> Result<Tensor<4>, InputError> {
        check_image(x.dims(), self.config.in_channels, self.config.autoencoder().stride())?;
        Ok(self.context.run(|| {
            let z = self.encoder.forward(x, self.context.precision);
            self.quant_conv.forward(z, ConvOptions::same(0))
        }))
    }

    /// The images of latents `[B, width, h, w]`, each pixel of which is replaced by the nearest entry of the table.
    ///
    /// # Errors
    /// If the number of channels is wrong.
    pub fn decode(&self, z: Tensor<4>) -> Result<Tensor<4>, InputError> {
        check_latents(z.dims(), self.config.width())?;
        Ok(self.context.run(|| {
            let z = self.post_quant_conv.forward(self.quantize.forward(z), ConvOptions::same(0));
            let features = self.decoder.features(z, self.context.precision);
            self.decoder.conv_out.forward(features, ConvOptions::same(1))
        }))
    }

    /// The same network, whose calls run in `context`; [`Precision::Int8`] is `f32`. Parameters are shared.
    #[must_use]
    pub fn with_context(mut self, context: ExecContext) -> Self {
        self.context = match context.precision {
            Precision::Int8 => context.with_precision(Precision::F32),
            _ => context,
        };
        self
    }
}

impl Codec for VqModel {
    fn spec(&self) -> CodecSpec {
        let (c, n) = (&self.config, self.config.width());
        CodecSpec {
            class: VqModelConfig::CLASS,
            media: c.in_channels,
            latents: n,
            axes: 2,
            stride: c.autoencoder().stride(),
            width: c.block_out_channels.first().copied().unwrap_or(0),
            scale: vec![c.scaling_factor; n],
            shift: vec![0.0; n],
        }
    }

    fn encode(&self, media: Batch) -> Result<Encoded, InputError> {
        let latents = VqModel::encode(self, images(&media)?)?;
        Ok(Encoded { mean: Batch::of(latents), logvar: None })
    }

    fn decode(&self, latents: Batch) -> Result<Batch, InputError> {
        VqModel::decode(self, images(&latents)?).map(Batch::of)
    }

    module_object!(Codec);
}
