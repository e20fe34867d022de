//! Writing the folder of a latent diffusion pipeline.

use std::path::Path;

use serde_json::{Value, json};
use tweedie_models::{AutoencoderKl, ClipTextModel, UNet2DConditionModel, unet::DIFFUSERS_VERSION};

use super::check_tokens;
use crate::{
    component::{TEXT_WEIGHTS, write as network},
    error::HubError,
    files,
    model_dir::{EXTRAS, Extras, SCHEDULER, WEIGHTS},
    model_index,
    scheduler_config::SchedulerConfig,
    tokenizer::ClipTokenizer,
    weights::Precision,
};

/// The parts of a `StableDiffusionPipeline`.
pub struct StableDiffusion<'a> {
    /// Between pictures and latents.
    pub vae: &'a AutoencoderKl,
    /// Denoises latents.
    pub unet: &'a UNet2DConditionModel,
    /// Texts to tokens.
    pub tokenizer: &'a ClipTokenizer,
    /// Tokens to features.
    pub text_encoder: &'a ClipTextModel,
    /// How it is sampled.
    pub scheduler: &'a SchedulerConfig,
    /// What diffusers has no place for.
    pub extras: &'a Extras,
}

impl StableDiffusion<'_> {
    /// Writes the folder `path`, which Python opens with `StableDiffusionPipeline.from_pretrained(path)`. A
    /// pipeline that is at `path` already is replaced as a whole.
    ///
    /// # Errors
    /// If parts do not fit each other, a file cannot be written (what was at `path` is left as it was), or
    /// `path` is a folder of something else.
    pub fn save(&self, path: &Path, precision: Precision) -> Result<(), HubError> {
        let text = self.text_encoder.config();
        check_tokens(&path.join("tokenizer"), self.tokenizer, "text_encoder", text.vocab_size)?;
        files::write_dir_with(path, model_index::FILE, |dir| {
            network(&dir.join("vae"), WEIGHTS, self.vae, &self.vae.config().to_json(), precision)?;
            network(&dir.join("unet"), WEIGHTS, self.unet, &self.unet.config().to_json(), precision)?;
            let config = text.to_json(self.tokenizer.begin, self.tokenizer.pad);
            network(&dir.join("text_encoder"), TEXT_WEIGHTS, self.text_encoder, &config, precision)?;
            let (tokens, scheduler) = (dir.join("tokenizer"), dir.join("scheduler"));
            files::create_dir(&tokens)?;
            self.tokenizer.save(&tokens, text.max_position_embeddings)?;
            files::create_dir(&scheduler)?;
            files::write_atomic(&scheduler.join(SCHEDULER), self.scheduler.to_json().as_bytes())?;
            if *self.extras != Extras::default() {
                files::write_json(&dir.join(EXTRAS), self.extras)?;
            }
            files::write_json(&dir.join(model_index::FILE), &self.index())
        })
    }

    fn index(&self) -> Value {
        json!({
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": DIFFUSERS_VERSION,
            "feature_extractor": [null, null],
            "image_encoder": [null, null],
            "requires_safety_checker": false,
            "safety_checker": [null, null],
            "scheduler": ["diffusers", self.scheduler.class_name()],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        })
    }
}
