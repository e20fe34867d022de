//! CLIP (Radford et al. 2021, arXiv:2103.00020): encoders of texts and of images into one space, in a folder with
//! `text_encoder`, `tokenizer`, `image_encoder` and `feature_extractor`, which transformers reads.

use std::path::Path;

use burn::tensor::Device;
use tweedie_models::{ClipTextModel, ClipVisionConfig, ClipVisionModel};

use crate::{
    component::{Component, ComponentDir, TEXT_WEIGHTS, write},
    error::HubError,
    files,
    image_processor::ImageProcessor,
    model::{TEXTS, TextPart, check_tokens},
    model_dir::{EXTRAS, Extras},
    tokenizer::ClipTokenizer,
    weights::Precision,
};

/// The folder of the encoder of images.
pub const IMAGE_ENCODER: &str = "image_encoder";
/// The folder that says how it prepares images.
pub const FEATURES: &str = "feature_extractor";
/// The same in Wan's pipelines.
pub(crate) const PROCESSOR: &str = "image_processor";

/// Gives the embeddings of images.
#[derive(Clone, Debug)]
pub struct ImageEncoder {
    /// Prepares images.
    pub processor: ImageProcessor,
    /// The network.
    pub encoder: ClipVisionModel,
}

impl ImageEncoder {
    /// The encoder in one folder with the processor in another, which must match.
    pub(crate) fn open(encoder: &Path, processor: &Path, device: &Device) -> Result<Self, HubError> {
        let component = ComponentDir::open(encoder)?;
        let Component::Vision(network) = component.load(device)? else {
            let reason =
                format!("unsupported class `{}`; expected {}", component.class(), ClipVisionConfig::CLASS);
            return Err(HubError::format(encoder, reason));
        };
        let images = Self::of(*network, ImageProcessor::open(processor)?, processor)?;
        images.check_projects(encoder)?;
        Ok(images)
    }

    /// Both parts, which must match; errors name `path`.
    pub(crate) fn of(
        encoder: ClipVisionModel,
        processor: ImageProcessor,
        path: &Path,
    ) -> Result<Self, HubError> {
        let size = encoder.config().image_size;
        if processor.crop != [size, size] {
            let reason =
                format!("crops images to {:?}, but {IMAGE_ENCODER} expects {size}×{size}", processor.crop);
            return Err(HubError::key(path, FEATURES, reason));
        }
        Ok(Self { processor, encoder })
    }

    /// Checks that the encoder gives embeddings; errors name `path`.
    pub(crate) fn check_projects(&self, path: &Path) -> Result<(), HubError> {
        if self.encoder.config().projects() {
            return Ok(());
        }
        let reason = format!(
            "a {} gives no embeddings; expected {}",
            ClipVisionConfig::UNPROJECTED,
            ClipVisionConfig::CLASS
        );
        Err(HubError::key(path, IMAGE_ENCODER, reason))
    }

    /// Writes both folders into `dir`.
    pub(crate) fn write(&self, dir: &Path, precision: Precision) -> Result<(), HubError> {
        let config = self.encoder.config().to_json();
        write(&dir.join(IMAGE_ENCODER), TEXT_WEIGHTS, &self.encoder, &config, precision)?;
        self.processor.write(&dir.join(FEATURES))
    }
}

/// Both encoders.
#[derive(Clone, Debug)]
pub struct Clip {
    /// Of texts, with projected embeddings.
    pub text: TextPart,
    /// Of images.
    pub images: ImageEncoder,
}

impl Clip {
    /// Opens the folder `dir`: that of CLIP, or of a pipeline with the same four folders.
    ///
    /// # Errors
    /// If a part is missing, damaged or does not match the others.
    pub fn open(dir: &Path, device: &Device) -> Result<Self, HubError> {
        let (name, tokens) = TEXTS[0];
        let component = ComponentDir::open(&dir.join(name))?;
        let Component::Text(encoder) = component.load(device)? else {
            let reason =
                format!("unsupported class `{}`; expected CLIPTextModelWithProjection", component.class());
            return Err(HubError::format(&dir.join(name), reason));
        };
        let folder = dir.join(tokens);
        let text = TextPart::new(ClipTokenizer::open(&folder)?, *encoder, &folder, name)?;
        let images = ImageEncoder::open(&dir.join(IMAGE_ENCODER), &dir.join(FEATURES), device)?;
        let (of_texts, of_images) = (text.encoder.config(), images.encoder.config());
        let reason = if !of_texts.projects() {
            Some("expected a CLIPTextModelWithProjection".to_owned())
        } else if of_texts.projection_dim != of_images.projection_dim {
            Some(format!(
                "gives embeddings of width {}, but those of {IMAGE_ENCODER} have {}",
                of_texts.projection_dim, of_images.projection_dim
            ))
        } else {
            None
        };
        match reason {
            Some(reason) => Err(HubError::format(&dir.join(name), reason)),
            None => Ok(Self { text, images }),
        }
    }

    /// Writes the folder `path`, with `tweedie.json`. Such a folder at `path` is replaced as a whole.
    ///
    /// # Errors
    /// If a file cannot be written (then `path` is unchanged), or `path` is a folder with other content.
    pub fn save(&self, path: &Path, extras: &Extras, precision: Precision) -> Result<(), HubError> {
        let TextPart { tokenizer, encoder } = &self.text;
        files::write_dir_with(path, EXTRAS, |dir| {
            write_text(dir, tokenizer, encoder, precision)?;
            self.images.write(dir, precision)?;
            files::write_json(&dir.join(EXTRAS), extras)
        })
    }
}

/// Writes the folders of the first text encoder of a pipeline and its tokenizer into `dir`.
pub(crate) fn write_text(
    dir: &Path,
    tokenizer: &ClipTokenizer,
    encoder: &ClipTextModel,
    precision: Precision,
) -> Result<(), HubError> {
    let (name, tokens) = TEXTS[0];
    check_tokens(&dir.join(tokens), tokenizer, name, encoder.config())?;
    let config = encoder.config().to_json(tokenizer.begin, tokenizer.pad);
    write(&dir.join(name), TEXT_WEIGHTS, encoder, &config, precision)?;
    let folder = dir.join(tokens);
    files::create_dir(&folder)?;
    tokenizer.save(&folder, encoder.config().max_position_embeddings)
}
