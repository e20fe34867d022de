//! The folder of a latent diffusion pipeline, as diffusers lays it out: a folder per component, and
//! `model_index.json`, which names their classes.

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
    /// `StableDiffusionPipeline` and its image-to-image form.
    StableDiffusion,
    /// `StableDiffusionXLPipeline` and its image-to-image form.
    StableDiffusionXl,
    /// `DiTPipeline`: classes.
    Dit,
    /// `LDMPipeline`: neither text nor classes.
    Unconditional,
}

impl LatentClass {
    /// The name of diffusers' pipeline, of several that which makes pictures from noise.
    pub fn name(self) -> &'static str {
        CLASSES.iter().find(|(_, class)| *class == self).map_or("", |(name, _)| name)
    }

    /// Whether it makes pictures of texts.
    pub fn reads_texts(self) -> bool {
        matches!(self, Self::StableDiffusion | Self::StableDiffusionXl)
    }

    /// What its folder calls the autoencoder.
    pub fn autoencoder(self) -> &'static str {
        if self == Self::Unconditional { "vqvae" } else { "vae" }
    }
}

/// What folders call text encoders and their tokenizers.
pub const TEXTS: [(&str, &str); 2] = [("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")];

const CLASSES: [(&str, LatentClass); 6] = [
    ("StableDiffusionPipeline", LatentClass::StableDiffusion),
    ("StableDiffusionImg2ImgPipeline", LatentClass::StableDiffusion),
    ("StableDiffusionXLPipeline", LatentClass::StableDiffusionXl),
    ("StableDiffusionXLImg2ImgPipeline", LatentClass::StableDiffusionXl),
    ("DiTPipeline", LatentClass::Dit),
    ("LDMPipeline", LatentClass::Unconditional),
];

/// Components that judge or convert pictures and do not make them; they are not loaded.
const UNUSED: [&str; 3] = ["safety_checker", "feature_extractor", "image_encoder"];

/// The network that denoises latents.
#[derive(Debug)]
pub enum LatentNetwork {
    /// Without conditions.
    UNet(Box<UNet2DModel>),
    /// Reads a text.
    TextUNet(Box<UNet2DConditionModel>),
    /// Knows classes.
    Dit(Box<DitTransformer>),
}

/// A text encoder with its tokenizer.
#[derive(Debug)]
pub struct TextPart {
    /// Texts to tokens.
    pub tokenizer: ClipTokenizer,
    /// Tokens to features.
    pub encoder: ClipTextModel,
}

/// All of a pipeline, loaded.
#[derive(Debug)]
pub struct LatentModel {
    /// The pipeline's class.
    pub class: LatentClass,
    /// Between pictures and latents.
    pub autoencoder: Autoencoder,
    /// Denoises latents.
    pub network: LatentNetwork,
    /// None, one or two.
    pub texts: Vec<TextPart>,
    /// How it is sampled.
    pub scheduler: SchedulerConfig,
    /// Whether no negative prompt means features of zero instead of those of an empty text.
    pub zeros_for_no_negative: bool,
    /// Names of classes in order of their numbers; a class has several, with commas between.
    pub class_names: Vec<String>,
    /// How to sample it if nothing else is asked for, and how it was trained.
    pub extras: Extras,
    /// What users should know of how its files were understood: a sentence each.
    pub remarks: Vec<String>,
}

/// The class of the latent pipeline in `dir`, or `None` if it holds something else.
///
/// # Errors
/// If its `model_index.json` is not JSON.
pub fn class_of(dir: &Path) -> Result<Option<LatentClass>, HubError> {
    let path = dir.join(model_index::FILE);
    if !path.exists() {
        return Ok(None);
    }
    let entries: Map<String, Value> = files::read_json(&path)?;
    let class = entries.get("_class_name").and_then(Value::as_str).unwrap_or_default();
    Ok(CLASSES.iter().find(|(name, _)| *name == class).map(|(_, class)| *class))
}

/// Tokens of the latents that the network of the latent pipeline in `dir` was made for, by which its noise levels may
/// be shifted. `None` if its configuration says no size. The weights are not read.
///
/// # Errors
/// If the network's configuration is missing or not understood.
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
    /// The encoder `name` with the tokenizer of `folder`, which must be its own.
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

/// Features of texts are those of the token that has the largest number.
const LARGEST_ENDS: u32 = 2;

/// Whether the encoder `name` knows the tokens of `tokenizer`, which is in `folder`, and ends texts as it does.
fn check_tokens(
    folder: &Path,
    tokenizer: &ClipTokenizer,
    name: &str,
    encoder: &ClipTextConfig,
) -> Result<(), HubError> {
    let (bound, known) = (tokenizer.bound() as usize, encoder.vocab_size);
    let fail = |reason: String| Err(HubError::format(folder, reason));
    if bound > known {
        return fail(format!("has tokens up to {}, but {name} knows {known}", bound - 1));
    }
    match encoder.eos_token_id {
        // Nothing tells the token that ends a text; of another vocabulary the size does.
        LARGEST_ENDS if bound < known => {
            fail(format!("has {bound} tokens, but {name} knows {known}: the tokenizer is another encoder's"))
        }
        LARGEST_ENDS => Ok(()),
        end if end != tokenizer.end => fail(format!(
            "ends texts with the token {}, but {name} expects {end} (`eos_token_id`): the tokenizer is another \
             encoder's",
            tokenizer.end
        )),
        _ => Ok(()),
    }
}

impl LatentModel {
    /// Loads the pipeline in `dir` onto `device`.
    ///
    /// # Errors
    /// If a component is missing, damaged, of a class that is not supported, or does not fit the others.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, HubError> {
        Self::load_with(dir, &[], device)
    }

    /// The same with low-rank changes of its networks.
    ///
    /// # Errors
    /// As [`Self::load`], and if a change finds no layer or does not fit it.
    pub fn load_with(dir: &Path, loras: &[Lora], device: &Device) -> Result<Self, HubError> {
        Self::load_variant(dir, None, loras, device)
    }

    /// The same with the weights of one variant, such as `fp16`, where a component has it.
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
            let reason = format!("`{name}` is not a latent pipeline that is supported: {names}");
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

    /// Loads a checkpoint in one file, with the tokenizer in the folder `tokens`, or beside the file.
    ///
    /// # Errors
    /// If a tensor is missing or unknown, there is no tokenizer, or a change finds no layer.
    pub fn load_original(
        checkpoint: &OriginalCheckpoint,
        tokens: Option<&Path>,
        loras: &[Lora],
        device: &Device,
    ) -> Result<Self, HubError> {
        let path = checkpoint.path();
        let wrong = |name: &str| HubError::format(path, format!("its {name} is of another kind"));
        let folder = original::tokenizer_dir(path, tokens)?;
        let load = |name: &'static str| {
            let (component, part) = checkpoint.component(name)?;
            merge(loras, name, &part, &|source: &dyn TensorSource| component.load_from(source, path, device))
        };
        let text = |name: &'static str, padded: bool| {
            let mut tokenizer = ClipTokenizer::open(&folder)?;
            if padded {
                // OpenCLIP's texts end in zeros, which is the number of this token.
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

    /// Whether widths and channels of the components agree.
    fn check_fit(&self, path: &Path) -> Result<(), HubError> {
        let latents = self.autoencoder.latent_channels();
        let (inputs, outputs) = match &self.network {
            LatentNetwork::UNet(unet) => (unet.config().in_channels, unet.config().out_channels),
            LatentNetwork::TextUNet(unet) => (unet.config().in_channels, unet.config().out_channels),
            LatentNetwork::Dit(dit) => (dit.config().in_channels, dit.config().outputs()),
        };
        if inputs != latents || (outputs != latents && outputs != 2 * latents) {
            let reason = format!("maps {inputs} channels to {outputs}, but the latents have {latents}");
            return Err(HubError::key(path, "unet", reason));
        }
        if let LatentNetwork::TextUNet(unet) = &self.network {
            let width: usize = self.texts.iter().map(|text| text.encoder.config().hidden_size).sum();
            let expected = unet.config().text_width().unwrap_or(0);
            if width != expected {
                let reason =
                    format!("texts have features of width {width}, but the U-Net expects {expected}");
                return Err(HubError::key(path, "text_encoder", reason));
            }
        }
        Ok(())
    }
}
