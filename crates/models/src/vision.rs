//! CLIP's image encoder (Radford et al. 2021, arXiv:2103.00020), a vision transformer. Tensors are named as in transformers'
//! `CLIPVisionModelWithProjection` and, without the projection, `CLIPVisionModel`.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use serde::{Deserialize, Serialize};
use tweedie_ops::ConvOptions;

use crate::{
    config::{self, ConfigError, Format, in_range},
    layers::{Activation, ClipLayer, ClipLayerSpec, Conv2d, Embedding, Init, LayerNorm, Linear},
    network::InputError,
    params::constructors,
    text::Prefixed,
};

/// Keys of transformers that do not affect the output.
const HARMLESS: [&str; 11] = [
    "attention_dropout",
    "dropout",
    "dtype",
    "initializer_factor",
    "initializer_range",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "torch_dtype",
    "transformers_version",
];

/// The keys of `config.json`. Missing keys have transformers' defaults; unknown ones are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClipVisionConfig {
    /// Class in transformers: `CLIPVisionModelWithProjection`, or `CLIPVisionModel` without the projection.
    pub architectures: Vec<String>,
    /// Width of a token.
    pub hidden_size: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Width of the embedding; unused without the projection.
    pub projection_dim: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of attention heads.
    pub num_attention_heads: usize,
    /// Channels of images.
    pub num_channels: usize,
    /// Height and width of images.
    pub image_size: usize,
    /// Height and width of a token.
    pub patch_size: usize,
    /// Activation of the feed-forward layers.
    pub hidden_act: Activation,
    /// Added to variances.
    pub layer_norm_eps: f64,
}

impl Default for ClipVisionConfig {
    fn default() -> Self {
        Self {
            architectures: vec![Self::CLASS.into()],
            hidden_size: 768,
            intermediate_size: 3072,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
        }
    }
}

impl ClipVisionConfig {
    /// Name of the class in transformers.
    pub const CLASS: &'static str = "CLIPVisionModelWithProjection";
    /// The class without the projection.
    pub const UNPROJECTED: &'static str = "CLIPVisionModel";

    /// Parses `config.json` and validates it.
    ///
    /// # Errors
    /// Names the key that is unknown, malformed or contradicts others.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let config: Self =
            config::read(text, &Format { class: Self::CLASS, harmless: &HARMLESS, fixed: &[] })?;
        config.validate()?;
        Ok(config)
    }

    /// The `config.json` for transformers.
    pub fn to_json(&self) -> String {
        let mut entries = config::entries_of(self);
        entries.insert("model_type".into(), "clip_vision_model".into());
        entries.insert("torch_dtype".into(), "float32".into());
        let mut text = serde_json::to_string_pretty(&entries).expect("a map of JSON values");
        text.push('\n');
        text
    }

    /// Checks that an encoder can be built from this.
    ///
    /// # Errors
    /// Names the key, its value and what was expected.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if ![Self::CLASS, Self::UNPROJECTED].iter().any(|class| self.architectures == [*class]) {
            let reason = format!("expected [\"{}\"] or [\"{}\"]", Self::CLASS, Self::UNPROJECTED);
            return Err(ConfigError::value("architectures", &self.architectures, reason));
        }
        const MAX: usize = 1 << 16;
        in_range(&[
            ("hidden_size", self.hidden_size, 1, MAX),
            ("intermediate_size", self.intermediate_size, 1, MAX),
            ("projection_dim", self.projection_dim, 1, MAX),
            ("num_hidden_layers", self.num_hidden_layers, 1, 256),
            ("num_attention_heads", self.num_attention_heads, 1, MAX),
            ("num_channels", self.num_channels, 3, 3),
            ("image_size", self.image_size, 1, 1 << 12),
            ("patch_size", self.patch_size, 1, self.image_size),
        ])?;
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let reason = format!("expected a divisor of the width {}", self.hidden_size);
            return Err(ConfigError::value("num_attention_heads", self.num_attention_heads, reason));
        }
        Ok(())
    }

    /// Whether the encoder gives embeddings.
    pub fn projects(&self) -> bool {
        self.architectures == [Self::CLASS]
    }

    /// Number of patches of an image.
    fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }
}

/// Embeddings of patches and positions.
#[derive(Module, Debug)]
pub struct Embeddings {
    class_embedding: Param<Tensor<1>>,
    patch_embedding: Conv2d,
    position_embedding: Embedding,
}

/// The layers.
#[derive(Module, Debug)]
pub struct Encoder {
    layers: Vec<ClipLayer>,
}

/// Everything except the projection.
#[derive(Module, Debug)]
pub struct VisionModel {
    embeddings: Embeddings,
    /// So spelled in published files.
    pre_layrnorm: LayerNorm,
    encoder: Encoder,
    post_layernorm: LayerNorm,
}

/// The image encoder.
#[derive(Module, Debug)]
pub struct ClipVisionModel {
    vision_model: VisionModel,
    visual_projection: Option<Linear>,
    #[module(skip)]
    config: ClipVisionConfig,
}

impl ClipVisionModel {
    constructors!(ClipVisionConfig, Prefixed::of_images);

    fn build(config: &ClipVisionConfig, init: &Init) -> Result<Self, ConfigError> {
        config.validate()?;
        let (width, at) = (config.hidden_size, init.at("vision_model"));
        let (tokens, layers) = (at.at("embeddings"), at.at("encoder.layers"));
        let std = (width as f32).powf(-0.5);
        let spec = ClipLayerSpec {
            width,
            inner: config.intermediate_size,
            heads: config.num_attention_heads,
            layers: config.num_hidden_layers,
            eps: config.layer_norm_eps,
            activation: config.hidden_act,
        };
        let norm = |name: &str| LayerNorm::new(&at.at(name), width, config.layer_norm_eps);
        let patch = tokens.at("patch_embedding");
        Ok(Self {
            vision_model: VisionModel {
                embeddings: Embeddings {
                    class_embedding: tokens.normal("class_embedding", [width], std),
                    patch_embedding: Conv2d::new(
                        &patch,
                        config.num_channels,
                        width,
                        config.patch_size,
                        false,
                    ),
                    position_embedding: Embedding::normal(
                        &tokens.at("position_embedding"),
                        config.patches() + 1,
                        width,
                        0.02,
                    ),
                },
                pre_layrnorm: norm("pre_layrnorm"),
                encoder: Encoder {
                    layers: (0..config.num_hidden_layers)
                        .map(|i| ClipLayer::new(&layers.at(i), spec))
                        .collect(),
                },
                post_layernorm: norm("post_layernorm"),
            },
            visual_projection: config
                .projects()
                .then(|| Linear::new(&init.at("visual_projection"), width, config.projection_dim, false)),
            config: config.clone(),
        })
    }

    /// The embeddings `[B, projection_dim]` of images `[B, 3, H, W]`, normalized as in training.
    ///
    /// # Errors
    /// If the images have another size, or the encoder has no projection.
    pub fn encode(&self, images: Tensor<4>) -> Result<Tensor<2>, InputError> {
        let Some(projection) = &self.visual_projection else {
            let reason = format!("a {} gives no embeddings of images", ClipVisionConfig::UNPROJECTED);
            return Err(InputError(reason));
        };
        let x = self.tokens(images, 0)?;
        let [rows, _, width] = x.dims();
        let first: Tensor<2> = x.narrow(1, 0, 1).reshape([rows, width]);
        Ok(projection.forward(self.vision_model.post_layernorm.forward(first)))
    }

    /// The features of the parts of images `[B, 3, H, W]`, normalized as in training, before the last `skipped` layers: `[B, 1 +
    /// patches, hidden_size]`.
    ///
    /// # Errors
    /// If the images have another size.
    pub fn tokens(&self, images: Tensor<4>, skipped: usize) -> Result<Tensor<3>, InputError> {
        let (c, model) = (&self.config, &self.vision_model);
        let dims = images.dims();
        let rows = dims[0];
        if dims[1..] != [c.num_channels, c.image_size, c.image_size] || rows == 0 {
            return Err(InputError(format!(
                "the images have the shape {dims:?}, expected [B, {}, {n}, {n}]",
                c.num_channels,
                n = c.image_size
            )));
        }
        let (width, tokens) = (c.hidden_size, c.patches() + 1);
        let patches = model.embeddings.patch_embedding.forward(images, ConvOptions::strided(c.patch_size, 0));
        let patches: Tensor<3> = patches.reshape([rows, width, tokens - 1]).swap_dims(1, 2);
        let class: Tensor<3> = model.embeddings.class_embedding.val().reshape([1, 1, width]);
        let places: Vec<usize> = (0..tokens).collect();
        let places = model.embeddings.position_embedding.forward(&places).reshape([1, tokens, width]);
        let x = Tensor::cat(vec![class.expand([rows, 1, width]), patches], 1) + places;
        let x = model.pre_layrnorm.forward(x);
        let layers = model.encoder.layers.len().saturating_sub(skipped);
        Ok(model.encoder.layers.iter().take(layers).fold(x, |x, layer| layer.forward(x, None)))
    }
}
