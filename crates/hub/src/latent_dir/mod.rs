//! The folder of a latent diffusion pipeline in diffusers' layout: one subfolder per component, and `model_index.json`
//! with their classes.

mod index;
mod save;

use std::{cell::RefCell, path::Path};

use burn::tensor::Device;
use serde_json::{Map, Value};
use tweedie_models::{
    Autoencoder, ClipTextConfig, ClipTextModel, DitConfig, DitTransformer, TensorSource,
    UNet2DConditionConfig, UNet2DConditionModel, UNet2DConfig, UNet2DModel,
};

pub use save::StableDiffusion;

use self::index::{Index, merge};
use crate::{
    component::{CONFIG, Component, ComponentDir},
    error::HubError,
    files,
    lora::Lora,
    model_dir::{Extras, extras_in},
    model_index,
    original::{self, Family, OriginalCheckpoint},
    scheduler_config::{PATCH, SchedulerConfig, tokens},
    tokenizer::ClipTokenizer,
};

/// A pipeline that diffuses in the latents of an autoencoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatentClass {
    /// `StableDiffusionPipeline` and its image-to-image variant.
    StableDiffusion,
    /// `StableDiffusionXLPipeline` and its image-to-image variant.
    StableDiffusionXl,
    /// `DiTPipeline`, class-conditional.
    Dit,
    /// `LDMPipeline`, unconditional.
    Unconditional,
}

impl LatentClass {
    /// The name of diffusers' pipeline, without the image-to-image variant.
    pub fn name(self) -> &'static str {
        CLASSES.iter().find(|(_, class)| *class == self).map_or("", |(name, _)| name)
    }

    /// Whether it is conditioned on a text.
    pub fn reads_texts(self) -> bool {
        matches!(self, Self::StableDiffusion | Self::StableDiffusionXl)
    }

    /// The folder of the autoencoder.
    pub fn autoencoder(self) -> &'static str {
        if self == Self::Unconditional { "vqvae" } else { "vae" }
    }
}

/// Names of text encoders and their tokenizers in folders.
pub const TEXTS: [(&str, &str); 2] = [("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")];

const CLASSES: [(&str, LatentClass); 6] = [
    ("StableDiffusionPipeline", LatentClass::StableDiffusion),
    ("StableDiffusionImg2ImgPipeline", LatentClass::StableDiffusion),
    ("StableDiffusionXLPipeline", LatentClass::StableDiffusionXl),
    ("StableDiffusionXLImg2ImgPipeline", LatentClass::StableDiffusionXl),
    ("DiTPipeline", LatentClass::Dit),
    ("LDMPipeline", LatentClass::Unconditional),
];

/// Components that are not needed to make images; they are not loaded.
const UNUSED: [&str; 3] = ["safety_checker", "feature_extractor", "image_encoder"];

/// The network that denoises latents.
#[derive(Debug)]
pub enum LatentNetwork {
    /// Unconditional.
    UNet(Box<UNet2DModel>),
    /// Text-conditional.
    TextUNet(Box<UNet2DConditionModel>),
    /// Class-conditional.
    Dit(Box<DitTransformer>),
}

/// A text encoder with its tokenizer.
#[derive(Debug)]
pub struct TextPart {
    /// Converts texts to tokens.
    pub tokenizer: ClipTokenizer,
    /// Converts tokens to features.
    pub encoder: ClipTextModel,
}

/// A loaded pipeline.
#[derive(Debug)]
pub struct LatentModel {
    /// The pipeline's class.
    pub class: LatentClass,
    /// Converts between images and latents.
    pub autoencoder: Autoencoder,
    /// Denoises latents.
    pub network: LatentNetwork,
    /// Zero, one or two text encoders.
    pub texts: Vec<TextPart>,
    /// How it is sampled.
    pub scheduler: SchedulerConfig,
    /// Whether a missing negative prompt means features of zeros instead of those of an empty text.
    pub zeros_for_no_negative: bool,
    /// Names of the classes by index; a class may have several names, separated by commas.
    pub class_names: Vec<String>,
    /// Default sampling settings, and how the model was trained.
    pub extras: Extras,
    /// Warnings about its files, one sentence each.
    pub remarks: Vec<String>,
}

/// The class of the latent pipeline in `dir`, or `None` if it contains something else.
///
/// # Errors
/// If its `model_index.json` is not valid JSON.
pub fn class_of(dir: &Path) -> Result<Option<LatentClass>, HubError> {
    let path = dir.join(model_index::FILE);
    if !path.exists() {
        return Ok(None);
    }
    let entries: Map<String, Value> = files::read_json(&path)?;
    let class = entries.get("_class_name").and_then(Value::as_str).unwrap_or_default();
    Ok(CLASSES.iter().find(|(name, _)| *name == class).map(|(_, class)| *class))
}

/// The number of latent tokens of the pipeline's own image size, by which noise levels may be shifted. `None` if the
/// configuration contains no size. The weights are not read.
///
/// # Errors
/// If the network's configuration is missing or invalid.
pub fn own_tokens(dir: &Path, class: LatentClass) -> Result<Option<usize>, HubError> {
    let folder = dir.join(if class == LatentClass::Dit { "transformer" } else { "unet" });
    let network = ComponentDir::open(&folder)?;
    let bad = |source| HubError::Config { path: folder.join(CONFIG), source };
    let text = network.config();
    let (size, patch) = match network.class() {
        "DiTTransformer2DModel" => {
            let config = DitConfig::from_json(text).map_err(bad)?;
            (Some([config.sample_size; 2]), config.patch_size)
        }
        "UNet2DConditionModel" => {
            let size = UNet2DConditionConfig::from_json(text).map_err(bad)?.sample_size;
            (size.map(|size| size.dims()), PATCH)
        }
        _ => (UNet2DConfig::from_json(text).map_err(bad)?.sample_size.map(|size| size.dims()), PATCH),
    };
    Ok(size.map(|size| tokens(size, patch)))
}

impl TextPart {
    /// The encoder `name` with the tokenizer in `folder`, which must match.
    fn new(
        tokenizer: ClipTokenizer,
        encoder: ClipTextModel,
        folder: &Path,
        name: &str,
    ) -> Result<Self, HubError> {
        check_tokens(folder, &tokenizer, name, encoder.config())?;
        Ok(Self { tokenizer, encoder })
    }
}

/// For this value of `eos_token_id`, the token with the largest id ends a text.
const LARGEST_ENDS: u32 = 2;

/// Checks that the vocabulary and the end token of `tokenizer` in `folder` match the encoder `name`.
fn check_tokens(
    folder: &Path,
    tokenizer: &ClipTokenizer,
    name: &str,
    encoder: &ClipTextConfig,
) -> Result<(), HubError> {
    let (bound, known) = (tokenizer.bound() as usize, encoder.vocab_size);
    let fail = |reason: String| Err(HubError::format(folder, reason));
    if bound > known {
        return fail(format!("has token ids up to {}, but {name} has a vocabulary of {known}", bound - 1));
    }
    match encoder.eos_token_id {
        // The end token cannot be compared here, but another tokenizer usually has another size.
        LARGEST_ENDS if bound < known => fail(format!(
            "has {bound} tokens, but {name} has a vocabulary of {known}; this tokenizer belongs to another text encoder"
        )),
        LARGEST_ENDS => Ok(()),
        end if end != tokenizer.end => fail(format!(
            "ends texts with token {}, but {name} expects {end} (`eos_token_id`); this tokenizer belongs to another \
             text encoder",
            tokenizer.end
        )),
        _ => Ok(()),
    }
}

impl LatentModel {
    /// Loads the pipeline in `dir` onto `device`.
    ///
    /// # Errors
    /// If a component is missing, damaged, of an unsupported class, or does not match the others.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, HubError> {
        Self::load_with(dir, &[], device)
    }

    /// Like [`Self::load`], with LoRAs merged into the networks.
    ///
    /// # Errors
    /// Those of [`Self::load`], and if a LoRA has a layer that the networks do not have, or of another shape.
    pub fn load_with(dir: &Path, loras: &[Lora], device: &Device) -> Result<Self, HubError> {
        Self::load_variant(dir, None, loras, device)
    }

    /// The same with one variant of the weights, for example `fp16`, for components that have it.
    ///
    /// # Errors
    /// As [`Self::load_with`], and if no component has that variant.
    pub fn load_variant(
        dir: &Path,
        variant: Option<&str>,
        loras: &[Lora],
        device: &Device,
    ) -> Result<Self, HubError> {
        let path = dir.join(model_index::FILE);
        let entries: Map<String, Value> = files::read_json(&path)?;
        let name = entries.get("_class_name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let Some(class) = class_of(dir)? else {
            let names = CLASSES.map(|(name, _)| name).join(", ");
            let reason = format!("unsupported pipeline `{name}`; expected one of {names}");
            return Err(HubError::key(&path, "_class_name", reason));
        };
        let index = Index { dir: dir.into(), path, entries, loras, variant, without: RefCell::default() };
        index.check(class, &name)?;

        let name = class.autoencoder();
        let Component::Autoencoder(autoencoder) = index.load(name, device)? else {
            return index.wrong(name, "AutoencoderKL or AutoencoderTiny");
        };
        let network = match class {
            LatentClass::Dit => match index.load("transformer", device)? {
                Component::Dit(dit) => LatentNetwork::Dit(dit),
                _ => return index.wrong("transformer", "DiTTransformer2DModel"),
            },
            LatentClass::Unconditional => match index.load("unet", device)? {
                Component::UNet(unet) => LatentNetwork::UNet(unet),
                _ => return index.wrong("unet", "UNet2DModel"),
            },
            _ => match index.load("unet", device)? {
                Component::TextUNet(unet) => LatentNetwork::TextUNet(unet),
                _ => return index.wrong("unet", "UNet2DConditionModel"),
            },
        };
        let texts = match class {
            LatentClass::StableDiffusion => &TEXTS[..1],
            LatentClass::StableDiffusionXl => &TEXTS,
            _ => &[],
        };
        let texts = texts.iter().map(|names| index.text(*names, device)).collect::<Result<Vec<_>, _>>()?;
        let remarks = index.remarks(2 + texts.len())?;
        loras.iter().try_for_each(Lora::check_used)?;
        let scheduler = SchedulerConfig::load(&index.folder("scheduler")?.join("scheduler_config.json"))?;
        let zeros = index.entries.get("force_zeros_for_empty_prompt").and_then(Value::as_bool);
        let model = Self {
            class,
            autoencoder,
            network,
            texts,
            scheduler,
            zeros_for_no_negative: class == LatentClass::StableDiffusionXl && zeros.unwrap_or(true),
            class_names: index.class_names()?,
            extras: extras_in(dir)?,
            remarks,
        };
        model.check_fit(&index.path)?;
        Ok(model)
    }

    /// Loads a single-file checkpoint, with the tokenizer in the folder `tokens` or beside the file.
    ///
    /// # Errors
    /// If a tensor is missing or unknown, there is no tokenizer, or a LoRA has an unknown layer.
    pub fn load_original(
        checkpoint: &OriginalCheckpoint,
        tokens: Option<&Path>,
        loras: &[Lora],
        device: &Device,
    ) -> Result<Self, HubError> {
        let path = checkpoint.path();
        let wrong = |name: &str| HubError::format(path, format!("its {name} has an unsupported class"));
        let folder = original::tokenizer_dir(path, tokens)?;
        let load = |name: &'static str| {
            let (component, part) = checkpoint.component(name)?;
            merge(loras, name, &part, &|source: &dyn TensorSource| component.load_from(source, path, device))
        };
        let text = |name: &'static str, padded: bool| {
            let mut tokenizer = ClipTokenizer::open(&folder)?;
            if padded {
                // OpenCLIP pads texts with token 0, which is `!`.
                tokenizer = tokenizer.padded_with("!");
            }
            let Component::Text(encoder) = load(name)? else { return Err(wrong(name)) };
            TextPart::new(tokenizer, *encoder, &folder, name)
        };
        let texts = match checkpoint.family() {
            Family::Sd1 => vec![text("text_encoder", false)?],
            Family::Sd2 => vec![text("text_encoder", true)?],
            Family::Sdxl => vec![text("text_encoder", false)?, text("text_encoder_2", true)?],
        };
        let Component::Autoencoder(autoencoder) = load("vae")? else { return Err(wrong("vae")) };
        let Component::TextUNet(unet) = load("unet")? else { return Err(wrong("unet")) };
        loras.iter().try_for_each(Lora::check_used)?;
        let xl = checkpoint.family() == Family::Sdxl;
        let model = Self {
            class: if xl { LatentClass::StableDiffusionXl } else { LatentClass::StableDiffusion },
            autoencoder,
            network: LatentNetwork::TextUNet(unet),
            texts,
            scheduler: checkpoint.scheduler()?,
            zeros_for_no_negative: xl,
            class_names: Vec::new(),
            extras: Extras::default(),
            remarks: checkpoint.remarks().to_vec(),
        };
        model.check_fit(path)?;
        Ok(model)
    }

    /// Checks that widths and channels of the components agree.
    fn check_fit(&self, path: &Path) -> Result<(), HubError> {
        let latents = self.autoencoder.latent_channels();
        let (inputs, outputs) = match &self.network {
            LatentNetwork::UNet(unet) => (unet.config().in_channels, unet.config().out_channels),
            LatentNetwork::TextUNet(unet) => (unet.config().in_channels, unet.config().out_channels),
            LatentNetwork::Dit(dit) => (dit.config().in_channels, dit.config().outputs()),
        };
        if inputs != latents || (outputs != latents && outputs != 2 * latents) {
            let reason =
                format!("has {inputs} input and {outputs} output channels, but the latents have {latents}");
            return Err(HubError::key(path, "unet", reason));
        }
        if let LatentNetwork::TextUNet(unet) = &self.network {
            let width: usize = self.texts.iter().map(|text| text.encoder.config().hidden_size).sum();
            let expected = unet.config().text_width().unwrap_or(0);
            if width != expected {
                let reason = format!(
                    "the text encoders give features of width {width}, but the U-Net expects {expected}"
                );
                return Err(HubError::key(path, "text_encoder", reason));
            }
        }
        Ok(())
    }
}
