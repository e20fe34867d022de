//! What the decoder of DALL·E 2 reads: CLIP's embedding of an image is added to the time embedding, and becomes additional
//! tokens before those of the text (Ramesh et al. 2022, arXiv:2204.06125, section 2.1). `UnCLIPTextProjModel` of diffusers.

use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor},
};
use serde::{Deserialize, Serialize};

use crate::{
    config::{self, ConfigError, Format, in_range},
    layers::{Init, LayerNorm, Linear},
    network::InputError,
    params::{self, TensorSource},
    unet::LoadError,
};

/// The keys of `config.json`. Missing keys have diffusers' defaults; unknown ones are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddingProjectionConfig {
    /// Number of additional tokens.
    pub clip_extra_context_tokens: usize,
    /// Width of the embeddings of images and texts.
    pub clip_embeddings_dim: usize,
    /// Width of the decoder's time embedding.
    pub time_embed_dim: usize,
    /// Width of the decoder's text features.
    pub cross_attention_dim: usize,
}

impl Default for EmbeddingProjectionConfig {
    fn default() -> Self {
        Self {
            clip_extra_context_tokens: 4,
            clip_embeddings_dim: 768,
            time_embed_dim: 0,
            cross_attention_dim: 0,
        }
    }
}

impl EmbeddingProjectionConfig {
    /// Name of the class in diffusers.
    pub const CLASS: &'static str = "UnCLIPTextProjModel";

    /// Parses `config.json` and validates it.
    ///
    /// # Errors
    /// Names the key that is unknown, malformed, or out of range.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let config: Self = config::read(text, &Format { class: Self::CLASS, harmless: &[], fixed: &[] })?;
        const MAX: usize = 1 << 16;
        in_range(&[
            ("clip_extra_context_tokens", config.clip_extra_context_tokens, 1, 1 << 10),
            ("clip_embeddings_dim", config.clip_embeddings_dim, 1, MAX),
            ("time_embed_dim", config.time_embed_dim, 1, MAX),
            ("cross_attention_dim", config.cross_attention_dim, 1, MAX),
        ])?;
        Ok(config)
    }

    /// The `config.json` for diffusers.
    pub fn to_json(&self) -> String {
        config::write(self, Self::CLASS)
    }
}

/// The decoder's conditions.
#[derive(Clone, Debug)]
pub struct Projected {
    /// Features of the additional tokens and the text's, `[B, additional + tokens, cross_attention_dim]`.
    pub tokens: Tensor<3>,
    /// Added to the time embedding, `[B, time_embed_dim]`.
    pub embedding: Tensor<2>,
}

/// The projection. Parameters are named as in diffusers' `UnCLIPTextProjModel`.
#[derive(Module, Debug)]
pub struct EmbeddingProjection {
    learned_classifier_free_guidance_embeddings: Param<Tensor<1>>,
    embedding_proj: Linear,
    clip_image_embeddings_project_to_time_embeddings: Linear,
    clip_extra_context_tokens_proj: Linear,
    encoder_hidden_states_proj: Linear,
    text_encoder_hidden_states_norm: LayerNorm,
    #[module(skip)]
    config: EmbeddingProjectionConfig,
}

impl EmbeddingProjection {
    /// Creates it with initial weights drawn from PyTorch's default distributions.
    pub fn new(config: &EmbeddingProjectionConfig, seed: u64, device: &Device) -> Self {
        params::settle(Self::build(config, &Init::new(seed, device)))
    }

    /// Creates it with the weights of `source`.
    ///
    /// # Errors
    /// Those of [`params::import`].
    pub fn load(
        config: &EmbeddingProjectionConfig,
        source: &dyn TensorSource,
        device: &Device,
    ) -> Result<Self, LoadError> {
        Ok(params::import(Self::build(config, &Init::new(0, device)), source)?)
    }

    /// Its configuration.
    pub fn config(&self) -> &EmbeddingProjectionConfig {
        &self.config
    }

    fn build(config: &EmbeddingProjectionConfig, init: &Init) -> Self {
        let EmbeddingProjectionConfig {
            clip_extra_context_tokens: extra,
            clip_embeddings_dim: width,
            time_embed_dim: time,
            cross_attention_dim: text,
        } = *config;
        let linear = |name: &str, outputs| Linear::new(&init.at(name), width, outputs, true);
        Self {
            learned_classifier_free_guidance_embeddings: init.constant(
                "learned_classifier_free_guidance_embeddings",
                [width],
                0.0,
            ),
            embedding_proj: linear("embedding_proj", time),
            clip_image_embeddings_project_to_time_embeddings: linear(
                "clip_image_embeddings_project_to_time_embeddings",
                time,
            ),
            clip_extra_context_tokens_proj: linear("clip_extra_context_tokens_proj", extra * text),
            encoder_hidden_states_proj: linear("encoder_hidden_states_proj", text),
            text_encoder_hidden_states_norm: LayerNorm::new(
                &init.at("text_encoder_hidden_states_norm"),
                text,
                1e-5,
            ),
            config: config.clone(),
        }
    }

    /// The embedding that stands for no image, `[1, width]`.
    pub fn no_image(&self) -> Tensor<2> {
        self.learned_classifier_free_guidance_embeddings.val().unsqueeze()
    }

    /// The decoder's conditions for embeddings of images and texts, `[B, width]`, and features of the texts' tokens,
    /// `[B, tokens, width]`.
    ///
    /// # Errors
    /// If an input has another shape.
    pub fn project(
        &self,
        image: Tensor<2>,
        text: Tensor<2>,
        tokens: Tensor<3>,
    ) -> Result<Projected, InputError> {
        let c = &self.config;
        let [rows, _, width] = tokens.dims();
        let expected = [rows, c.clip_embeddings_dim];
        if image.dims() != expected || text.dims() != expected || width != expected[1] {
            return Err(InputError(format!(
                "embeddings of the shapes {:?} and {:?} and tokens of width {width}, expected {expected:?}",
                image.dims(),
                text.dims()
            )));
        }
        let embedding = self.clip_image_embeddings_project_to_time_embeddings.forward(image.clone())
            + self.embedding_proj.forward(text);
        // Its values are stored with the token as the last dimension.
        let (extra, width) = (c.clip_extra_context_tokens, c.cross_attention_dim);
        let added: Tensor<3> =
            self.clip_extra_context_tokens_proj.forward(image).reshape([rows, width, extra]);
        let tokens = self.encoder_hidden_states_proj.forward(tokens);
        let tokens = self.text_encoder_hidden_states_norm.forward(tokens);
        Ok(Projected { tokens: Tensor::cat(vec![added.swap_dims(1, 2), tokens], 1), embedding })
    }
}
