//! A model: the components of a diffusers pipeline, loaded.
//!
//! A class of pipelines is data, a row of [`PIPELINES`]: which components it has, and its defaults. Pipelines in pixels have
//! no autoencoder.

mod control;
mod index;
mod kinds;
mod motion;
mod save;
mod small;
mod sound;
mod umt5;
mod unclip;

use std::{cell::RefCell, path::Path, sync::Arc};

use burn::tensor::Device;
use serde_json::{Map, Value};
use tweedie_core::Parameterization;
use tweedie_models::{
    ClipTextConfig, ClipTextModel, Codec, FirstChannels, Guide, IoSpec, Network, TensorSource,
};

pub use kinds::{Maps, PIPELINES, PipelineKind, Sounds, TEXTS};
pub use save::StableDiffusion;
pub use small::{SmallImage, SmallMap};
pub use sound::SoundText;
pub use umt5::Umt5;
pub use unclip::{StagePart, UnClip, UnClipParts, save_stage, statistics};

use self::{
    index::{Index, merge},
    kinds::{AESTHETIC, PIXELS, UNUSED, alone, named, names_of, of_texts_by},
};
use crate::{
    clip::{IMAGE_ENCODER, ImageEncoder, PROCESSOR},
    component::{Component, ComponentDir},
    error::HubError,
    files,
    learned::LearnedToken,
    lora::Lora,
    model_dir::{Extras, ModelDir, SCHEDULER, extras_in},
    model_index,
    original::{self, Family, OriginalCheckpoint},
    scheduler_config::{SchedulerConfig, tokens},
    tokenizer::ClipTokenizer,
};

/// A text encoder with its tokenizer.
#[derive(Clone, Debug)]
pub struct TextPart {
    /// Converts texts to tokens.
    pub tokenizer: Arc<ClipTokenizer>,
    /// Converts tokens to features.
    pub encoder: ClipTextModel,
}

/// A loaded model.
#[derive(Debug)]
pub struct Model {
    /// Its pipeline's class.
    pub kind: &'static PipelineKind,
    /// Denoises samples, or latents.
    pub network: Box<dyn Network>,
    /// Converts between media and latents, unless samples are the media themselves.
    pub codec: Option<Arc<dyn Codec>>,
    /// Zero, one or two text encoders.
    pub texts: Vec<TextPart>,
    /// ControlNets and T2I-Adapters, which read an image each.
    pub controls: Vec<Guide>,
    /// Whether it reads an aesthetic score instead of the size of the result, as SDXL's refiner does.
    pub aesthetic: bool,
    /// How the small image is read, if it enlarges images.
    pub small: Option<SmallImage>,
    /// Reads the image of which it makes clips, if it does so.
    pub picture: Option<ImageEncoder>,
    /// Reads its texts, if it is one of diffusers' pipelines of sounds.
    pub sound: Option<SoundText>,
    /// Reads its texts, if UMT5 does.
    pub umt5: Option<Umt5>,
    /// The other stages of DALL·E 2, if the network is its decoder.
    pub unclip: Option<UnClip>,
    /// Whether tokens were added to the text encoders; such a model cannot be written.
    pub learned: bool,
    /// How it is sampled.
    pub scheduler: SchedulerConfig,
    /// Whether a missing negative prompt means features of zeros instead of those of an empty text.
    pub zeros_for_no_negative: bool,
    /// Class names, default sampling settings, and how the model was trained.
    pub extras: Extras,
    /// Warnings about its files, one sentence each.
    pub remarks: Vec<String>,
}

/// Frames of one latent of Wan's autoencoder.
const FRAMES_OF_LATENT: usize = 4;
/// Default steps and frames per second of Stable Video Diffusion in diffusers.
const PICTURE_STEPS: usize = 25;
const PICTURE_FPS: u32 = 7;

/// The class of the pipeline in `dir`; `None` for the folder of a component.
///
/// # Errors
/// If its `model_index.json` is not valid JSON, or of an unsupported class.
pub fn kind_of(dir: &Path) -> Result<Option<&'static PipelineKind>, HubError> {
    let path = dir.join(model_index::FILE);
    if !path.exists() {
        return Ok(None);
    }
    let entries: Map<String, Value> = files::read_json(&path)?;
    let name = entries.get("_class_name").and_then(Value::as_str);
    let name = name.ok_or_else(|| HubError::key(&path, "_class_name", "missing or not a string"))?;
    match PIPELINES.iter().find(|kind| kind.name == name || kind.also.contains(&name)) {
        Some(kind) => Ok(Some(kind)),
        None => {
            let all =
                PIPELINES.iter().flat_map(|kind| [kind.name].into_iter().chain(kind.also.iter().copied()));
            let names = all.collect::<Vec<_>>().join(", ");
            let reason = format!("unsupported pipeline `{name}`; expected one of {names}");
            Err(HubError::key(&path, "_class_name", reason))
        }
    }
}

/// The scheduler and the defaults of the model in `dir`, and the number of tokens of its own size, by which noise levels may
/// be shifted. The weights are not read.
///
/// # Errors
/// If a configuration is missing or invalid.
pub fn scheduler_of(dir: &Path) -> Result<(SchedulerConfig, Extras, Option<usize>), HubError> {
    let kind = kind_of(dir)?;
    let Some(kind) = kind.filter(|kind| !kind.trained_in_pixels()) else {
        let ModelDir { scheduler, unet, extras, .. } = ModelDir::open(dir)?;
        let scheduler = scheduler.ok_or_else(|| HubError::format(dir, format!("{SCHEDULER} is missing")))?;
        let spec = unet.spec();
        return Ok((scheduler, extras, spec.native.map(|axes| tokens(&axes, spec.patch))));
    };
    let spec = ComponentDir::open(&dir.join(kind.network.0))?.spec()?;
    let scheduler = SchedulerConfig::load(&dir.join(kind.scheduler).join(SCHEDULER))?;
    Ok((scheduler, extras_in(dir)?, spec.native.map(|axes| tokens(&axes, spec.patch))))
}

impl TextPart {
    /// The encoder `name` with the tokenizer in `folder`, which must match.
    pub(crate) fn new(
        tokenizer: ClipTokenizer,
        encoder: ClipTextModel,
        folder: &Path,
        name: &str,
    ) -> Result<Self, HubError> {
        check_tokens(folder, &tokenizer, name, encoder.config())?;
        Ok(Self { tokenizer: Arc::new(tokenizer), encoder })
    }
}

impl Model {
    /// Adds a learned token to the text encoders.
    ///
    /// # Errors
    /// If the model does not read texts, or a text encoder already has the token.
    pub fn learn(&mut self, path: &Path, token: Option<&str>) -> Result<(), HubError> {
        let widths: Vec<usize> = self.texts.iter().map(|text| text.encoder.config().hidden_size).collect();
        if widths.is_empty() {
            return Err(HubError::format(path, "this model does not read texts"));
        }
        let LearnedToken { token, vectors } = LearnedToken::open(path, token, &widths)?;
        for (text, vectors) in self.texts.iter_mut().zip(vectors) {
            let (first, count) = (text.encoder.config().vocab_size as u32, vectors.shape[0] as u32);
            let tokenizer = text.tokenizer.with_learned(&token, first, count).ok_or_else(|| {
                HubError::format(path, format!("the token `{token}` is already known; give it another name"))
            })?;
            text.tokenizer = tokenizer.into();
            text.encoder = text.encoder.clone().with_tokens(vectors);
        }
        self.learned = true;
        Ok(())
    }
}

/// The noise on the small image of `StableDiffusionLatentUpscalePipeline`, of which there is none, as its network reads it: the
/// cosines and sines of zero.
pub const NO_NOISE: [f32; 128] = {
    let mut values = [0.0; 128];
    let mut i = 0;
    while i < 64 {
        values[i] = 1.0;
        i += 1;
    }
    values
};

/// The scheduler of `StableDiffusionLatentUpscalePipeline`, whose network is preconditioned as in Karras et al. 2022 for data of
/// variance 1; the scheduler is given the sample that follows.
fn preconditioned(scheduler: SchedulerConfig) -> Result<SchedulerConfig, HubError> {
    match scheduler.process().parameterization {
        Parameterization::X0 => Ok(scheduler.predicting(Parameterization::Edm { sigma_data: 1.0 })),
        _ => {
            let reason = "expected `sample`: the pipeline gives the scheduler a sample";
            Err(HubError::key(scheduler.path(), "prediction_type", reason))
        }
    }
}

/// For this value of `eos_token_id`, the token with the largest id ends a text.
const LARGEST_ENDS: u32 = 2;

/// Checks that the vocabulary and the end token of `tokenizer` in `folder` match the encoder `name`.
pub(crate) fn check_tokens(
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

impl Model {
    /// Loads the model in the folder `dir` onto `device`.
    ///
    /// # Errors
    /// If a component is missing, damaged, of an unsupported class, or does not match the others.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, HubError> {
        Self::load_with(dir, &[], device)
    }

    /// Like [`Self::load`], with LoRAs merged into the networks.
    ///
    /// # Errors
    /// As [`Self::load`], and if a LoRA has an unknown layer.
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
        let kind = kind_of(dir)?.unwrap_or(&PIPELINES[0]);
        if kind.trained_in_pixels() {
            return Self::in_pixels(kind, dir, variant, loras, device);
        }
        let path = dir.join(model_index::FILE);
        let entries: Map<String, Value> = files::read_json(&path)?;
        let name = entries.get("_class_name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let index = Index { dir: dir.into(), path, entries, loras, variant, without: RefCell::default() };
        index.check(kind, &name)?;

        let codec: Option<Arc<dyn Codec>> = match kind.autoencoder {
            None => None,
            Some(name) => match index.codec(kind, name, device)? {
                Component::Codec(codec) => Some(codec.into()),
                _ => {
                    return index.wrong(
                        name,
                        "AutoencoderKL, AutoencoderKLTemporalDecoder, AutoencoderKLWan, AutoencoderTiny, VQModel, \
                         MelSpectrogram or AutoencoderOobleck",
                    );
                }
            },
        };
        let codec = sound::codec(&index, kind, codec, device)?;
        let (folder, class) = kind.network;
        if ComponentDir::open(&index.folder(folder)?)?.class() != class {
            return index.wrong(folder, class);
        }
        let Component::Network(mut network) = index.load(folder, device)? else {
            return index.wrong(folder, class);
        };
        // SDXL's refiner only has the second one.
        let absent = |(encoder, _): &&(&str, &str)| kind.xl && *encoder == TEXTS[0].0 && !index.has(encoder);
        let texts = TEXTS.iter().take(kind.texts).filter(|names| !absent(names));
        let texts = texts.map(|names| index.text(*names, device));
        let texts = texts.collect::<Result<Vec<_>, _>>()?;
        let controls = index.controls(kind, device)?;
        let sound = SoundText::load(&index, kind, device)?;
        let umt5 = kind.umt5.then(|| Umt5::load(&index, device)).transpose()?;
        let picture = match kind.maps {
            Maps::Picture => Some(unclip::images(&index, device)?),
            Maps::FirstFrame => Some(unclip::encoder(&index, PROCESSOR, device)?),
            _ => None,
        };
        // Besides the tokenizer.
        let of_sound = sound::components(kind).count().saturating_sub(1);
        let readers =
            texts.len() + controls.len() + usize::from(picture.is_some()) + usize::from(umt5.is_some());
        let components = 1 + usize::from(codec.is_some()) + readers + of_sound;
        let remarks = index.remarks(components)?;
        loras.iter().try_for_each(Lora::check_used)?;
        let mut scheduler = SchedulerConfig::load(&index.folder(kind.scheduler)?.join(SCHEDULER))?;
        if let (Maps::SmallLatents, Some(codec)) = (kind.maps, &codec) {
            let latents = codec.spec().latents;
            if network.spec().outputs == latents + 1 {
                network = Box::new(FirstChannels::new(network, latents));
            }
            scheduler = preconditioned(scheduler)?;
        }
        let zeros = index.entries.get("force_zeros_for_empty_prompt").and_then(Value::as_bool);
        let mut extras = extras_in(dir)?;
        if kind.listed {
            extras.class_names = index.class_names()?;
        }
        let small = match (kind.maps, &codec) {
            (Maps::Small, Some(codec)) if kind.texts == 0 => {
                Some(SmallImage::plain_in_latents(codec.spec().stride))
            }
            (Maps::Small, Some(codec)) => {
                index.folder(small::LOW_RES)?;
                Some(SmallImage::in_latents(dir, &index.entries, codec.spec().stride)?)
            }
            (Maps::SmallLatents, _) => Some(SmallImage::of_latents()),
            _ => None,
        };
        let mut model = Self {
            kind,
            network,
            codec,
            texts,
            controls: Vec::new(),
            aesthetic: index.entries.get(AESTHETIC) == Some(&Value::Bool(true)),
            small,
            picture,
            sound,
            umt5,
            unclip: None,
            learned: false,
            scheduler,
            zeros_for_no_negative: kind.xl && zeros.unwrap_or(true),
            extras,
            remarks,
        };
        if kind.network == unclip::DECODER.network {
            model.unclip = Some(UnClip::load(&index, &model, device)?);
            model.extras.sampling.steps.get_or_insert(unclip::STEPS);
        }
        if kind.maps == Maps::Picture {
            model.extras.sampling.steps.get_or_insert(PICTURE_STEPS);
            model.extras.sampling.fps.get_or_insert(PICTURE_FPS);
        }
        if kind.umt5 {
            model.extras.sampling.fps.get_or_insert(umt5::FPS);
        }
        if let Some(sounds) = kind.sounds {
            model.extras.sampling.steps.get_or_insert(sounds.steps());
        }
        model.check_fit(&index.path)?;
        for (dir, guide) in controls {
            model.add_control(&dir, guide)?;
        }
        Ok(model)
    }

    /// A pipeline of one U-Net, or the folder of its network.
    fn in_pixels(
        kind: &'static PipelineKind,
        dir: &Path,
        variant: Option<&str>,
        loras: &[Lora],
        device: &Device,
    ) -> Result<Self, HubError> {
        let mut folder = ModelDir::open(dir)?;
        folder.variant = variant.map(str::to_owned);
        let scheduler = folder.scheduler.take().ok_or_else(|| {
            HubError::format(dir, format!("{SCHEDULER} is missing; a model needs one to be sampled"))
        })?;
        if let Some(lora) = loras.first() {
            return Err(HubError::format(lora.path(), "LoRAs are only supported for latent models"));
        }
        let network: Box<dyn Network> = Box::new(folder.load_unet(device)?);
        Ok(Self::of_parts(kind, network, scheduler, folder.extras))
    }

    /// A model without an autoencoder and text encoders, of parts in memory. It is of the first class of pipelines that consist
    /// of such a network alone.
    pub fn of_network(network: Box<dyn Network>, scheduler: SchedulerConfig, extras: Extras) -> Self {
        Self::of_parts(alone(network.spec().class), network, scheduler, extras)
    }

    /// A model of texts of parts in memory, which must fit together: Stable Diffusion's, or one of clips or sounds with the same
    /// parts.
    pub fn of_texts(
        network: Box<dyn Network>,
        codec: Arc<dyn Codec>,
        texts: Vec<TextPart>,
        scheduler: SchedulerConfig,
        extras: Extras,
    ) -> Self {
        let kind = of_texts_by(network.spec().class, &*codec);
        Self { codec: Some(codec), texts, ..Self::of_parts(kind, network, scheduler, extras) }
    }

    fn of_parts(
        kind: &'static PipelineKind,
        network: Box<dyn Network>,
        scheduler: SchedulerConfig,
        extras: Extras,
    ) -> Self {
        Self {
            kind,
            network,
            codec: None,
            texts: Vec::new(),
            controls: Vec::new(),
            aesthetic: false,
            small: extras.enlarging.map(SmallImage::from),
            picture: None,
            sound: None,
            umt5: None,
            unclip: None,
            learned: false,
            scheduler,
            zeros_for_no_negative: false,
            extras,
            remarks: Vec::new(),
        }
    }

    /// The names of its text encoders and their tokenizers. SDXL's refiner only has the second ones.
    pub fn text_names(&self) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
        names_of(self.kind, self.texts.len())
    }

    /// Whether it is conditioned on a text.
    pub fn reads_texts(&self) -> bool {
        let prior = self.unclip.as_ref().is_none_or(|unclip| unclip.prior.is_some());
        self.sound.is_some() || self.umt5.is_some() || !self.texts.is_empty() && prior
    }

    /// Whether it makes variations of an image.
    pub fn reads_image(&self) -> bool {
        self.unclip.as_ref().is_some_and(|unclip| unclip.images.is_some())
    }

    /// The class that means "no class", if it has one.
    pub fn null_class(&self) -> Option<usize> {
        self.extras.null_class.or(self.network.spec().classes.null)
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
        let Component::Codec(codec) = load("vae")? else { return Err(wrong("vae")) };
        let Component::Network(network) = load("unet")? else { return Err(wrong("unet")) };
        loras.iter().try_for_each(Lora::check_used)?;
        let xl = checkpoint.family() == Family::Sdxl;
        let model = Self {
            kind: named(if xl { "StableDiffusionXLPipeline" } else { "StableDiffusionPipeline" }),
            network,
            codec: Some(codec.into()),
            texts,
            controls: Vec::new(),
            aesthetic: false,
            small: None,
            picture: None,
            sound: None,
            umt5: None,
            unclip: None,
            learned: false,
            scheduler: checkpoint.scheduler()?,
            zeros_for_no_negative: xl,
            extras: Extras::default(),
            remarks: checkpoint.remarks().to_vec(),
        };
        model.check_fit(path)?;
        Ok(model)
    }

    /// Checks that the network reads what the encoder of the image gives.
    fn check_picture(&self, path: &Path, spec: &IoSpec) -> Result<(), HubError> {
        let network = self.kind.network.0;
        let Some(picture) = &self.picture else {
            return match spec.image {
                Some(_) => {
                    Err(HubError::key(path, network, "reads an image, which this pipeline does not have"))
                }
                None => Ok(()),
            };
        };
        let config = picture.encoder.config();
        let (what, width, read) = match self.kind.maps {
            Maps::Picture => ("embeddings", config.projection_dim, spec.text),
            _ => ("features", config.hidden_size, spec.image),
        };
        if read == Some(width) {
            return Ok(());
        }
        let read = read.map_or("none".to_owned(), |width| width.to_string());
        let reason = format!("gives {what} of width {width}, but {network} reads {read}");
        Err(HubError::key(path, IMAGE_ENCODER, reason))
    }

    /// Checks that widths and channels of the components agree.
    fn check_fit(&self, path: &Path) -> Result<(), HubError> {
        let spec = self.network.spec();
        if let Some(latents) = self.codec.as_ref().map(|codec| codec.spec().latents) {
            let more: &[usize] = match self.kind.maps {
                Maps::None => &[0],
                Maps::Mask => &[0, latents + 1],
                Maps::Small => &[3],
                Maps::Picture => &[latents],
                Maps::FirstFrame => &[latents + FRAMES_OF_LATENT],
                Maps::SmallLatents => &[latents],
            };
            let (inputs, outputs) = (spec.inputs, spec.outputs);
            if !more.iter().any(|more| inputs == latents + more)
                || (outputs != latents && outputs != 2 * latents)
            {
                let reason = format!(
                    "has {inputs} input and {outputs} output channels, but the latents have {latents}"
                );
                return Err(HubError::key(path, self.kind.network.0, reason));
            }
        }
        self.check_picture(path, &spec)?;
        if self.kind.maps == Maps::Picture {
            return Ok(());
        }
        if let (Some(umt5), Some(expected)) = (&self.umt5, spec.text) {
            return umt5.check_fit(path, self.kind, expected);
        }
        if let (Some(expected), Some(text)) = (spec.with_time, self.texts.first()) {
            let pooled = text.encoder.config().hidden_size;
            if expected != NO_NOISE.len() + pooled {
                let reason = format!(
                    "reads {expected} values with the time (`time_cond_proj_dim`), expected {}: {} for the noise on the small \
                     image and {pooled} of the text",
                    NO_NOISE.len() + pooled,
                    NO_NOISE.len()
                );
                return Err(HubError::key(path, self.kind.network.0, reason));
            }
        }
        if (self.kind.maps == Maps::SmallLatents) != spec.with_time.is_some() {
            let reason = match spec.with_time {
                None => {
                    "does not read a vector with the time; expected a network with `time_embedding_type` \"fourier\" and \
                         `time_cond_proj_dim`"
                }
                Some(_) => {
                    "reads a vector with the time (`time_embedding_type` \"fourier\" and `time_cond_proj_dim`), which \
                            only StableDiffusionLatentUpscalePipeline has"
                }
            };
            return Err(HubError::key(path, self.kind.network.0, reason));
        }
        if let Some(sound) = &self.sound {
            return sound.check_fit(path, self.kind, &spec);
        }
        if let Some(expected) = spec.text.filter(|_| self.unclip.is_none()) {
            let width: usize = self.texts.iter().map(|text| text.encoder.config().hidden_size).sum();
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
