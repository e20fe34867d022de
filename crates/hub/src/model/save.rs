//! Writes the folder of a pipeline.

use std::path::Path;

use serde_json::{Map, Value, json};
use tweedie_models::{ClipTextModel, ClipVisionConfig, Codec, Guide, Network, unet::DIFFUSERS_VERSION};

use super::{
    AESTHETIC, Model, PipelineKind, StagePart, TEXTS, UnClipParts, check_tokens, control, kinds::ANIMATED,
    motion, names_of, of_texts_by,
};
use crate::{
    clip::{FEATURES, IMAGE_ENCODER, ImageEncoder},
    component::{TEXT_WEIGHTS, write, write_tensors},
    error::HubError,
    files,
    model_dir::{EXTRAS, Extras, SCHEDULER, WEIGHTS},
    model_index,
    scheduler_config::SchedulerConfig,
    tokenizer::ClipTokenizer,
    weights::Precision,
};

/// The classes of several ControlNets and of several adapters.
const SEVERAL_NETS: &str = "MultiControlNetModel";
const SEVERAL_ADAPTERS: &str = "MultiAdapter";

/// The parts of a `StableDiffusionPipeline`, or of a pipeline of clips or sounds with the same parts.
pub struct StableDiffusion<'a> {
    /// Converts between media and latents.
    pub vae: &'a dyn Codec,
    /// Denoises latents; its class decides which.
    pub unet: &'a dyn Network,
    /// Converts texts to tokens.
    pub tokenizer: &'a ClipTokenizer,
    /// Converts tokens to features.
    pub text_encoder: &'a ClipTextModel,
    /// How the model is sampled.
    pub scheduler: &'a SchedulerConfig,
    /// The content of `tweedie.json`.
    pub extras: &'a Extras,
}

impl StableDiffusion<'_> {
    /// Writes the folder `path`, which Python opens with `from_pretrained` of its pipeline. A pipeline at
    /// `path` is replaced as a whole.
    ///
    /// # Errors
    /// If parts do not match, a file cannot be written (then `path` is unchanged), or `path` is a folder with other content.
    pub fn save(&self, path: &Path, precision: Precision) -> Result<(), HubError> {
        let folder = Folder {
            kind: of_texts_by(self.unet.spec().class, self.vae),
            codec: Some(self.vae),
            network: self.unet,
            texts: vec![(self.tokenizer, self.text_encoder)],
            controls: &[],
            picture: None,
            scheduler: self.scheduler,
            aesthetic: false,
            zeros: false,
            extras: self.extras,
        };
        folder.save(path, precision)
    }
}

impl Model {
    /// Writes the folder `path`, which Python opens with `from_pretrained` of its pipeline (the text-to-image or
    /// unconditional variant, whichever was loaded). A pipeline at `path` is replaced as a whole. Needs memory for a second
    /// copy of the largest network.
    ///
    /// # Errors
    /// If a value is too large for `precision`, a file cannot be written (then `path` is unchanged), or `path` is a folder
    /// with other content.
    pub fn save(&self, path: &Path, precision: Precision) -> Result<(), HubError> {
        if self.small.is_some() && self.codec.is_some() || self.sound.is_some() || self.umt5.is_some() {
            let reason = format!("writing the folder of a {} is not supported", self.kind.name);
            return Err(HubError::format(path, reason));
        }
        if self.learned {
            return Err(HubError::format(path, "a model with learned tokens cannot be written"));
        }
        if let (Some(unclip), [text]) = (&self.unclip, &*self.texts) {
            let parts = UnClipParts {
                decoder: &*self.network,
                scheduler: &self.scheduler,
                projection: &unclip.projection,
                text,
                images: unclip.images.as_ref(),
                prior: unclip.prior.as_deref().map(Self::stage),
                enlarger: unclip.enlarger.as_deref().map(Self::stage),
                last: unclip.last.as_deref(),
                extras: &self.extras,
            };
            return parts.save(path, precision);
        }
        if !self.controls.is_empty() && self.kind.controls.is_none() {
            let reason =
                "a model with ControlNets or adapters beside it cannot be written; load it without them";
            return Err(HubError::format(path, reason));
        }
        let folder = Folder {
            kind: self.kind,
            codec: self.codec.as_deref(),
            network: &*self.network,
            texts: self.texts.iter().map(|text| (&*text.tokenizer, &text.encoder)).collect(),
            controls: &self.controls,
            picture: self.picture.as_ref(),
            scheduler: &self.scheduler,
            aesthetic: self.aesthetic,
            zeros: self.zeros_for_no_negative,
            extras: &self.extras,
        };
        folder.save(path, precision)
    }

    /// A stage of DALL·E 2.
    fn stage(&self) -> StagePart<'_> {
        StagePart { network: &*self.network, scheduler: &self.scheduler, extras: &self.extras }
    }
}

/// The parts of any pipeline.
struct Folder<'a> {
    kind: &'static PipelineKind,
    codec: Option<&'a dyn Codec>,
    network: &'a dyn Network,
    texts: Vec<(&'a ClipTokenizer, &'a ClipTextModel)>,
    controls: &'a [Guide],
    picture: Option<&'a ImageEncoder>,
    scheduler: &'a SchedulerConfig,
    aesthetic: bool,
    /// Whether a missing negative prompt means features of zeros.
    zeros: bool,
    extras: &'a Extras,
}

impl Folder<'_> {
    fn save(&self, path: &Path, precision: Precision) -> Result<(), HubError> {
        let names = || names_of(self.kind, self.texts.len());
        for ((tokenizer, encoder), (name, folder)) in self.texts.iter().zip(names()) {
            check_tokens(&path.join(folder), tokenizer, name, encoder.config())?;
        }
        files::write_dir_with(path, model_index::FILE, |dir| {
            self.write_networks(dir, precision)?;
            self.picture.map(|picture| picture.write(dir, precision)).transpose()?;
            for ((tokenizer, encoder), (name, folder)) in self.texts.iter().zip(names()) {
                let config = encoder.config().to_json(tokenizer.begin, tokenizer.pad);
                write(&dir.join(name), TEXT_WEIGHTS, *encoder, &config, precision)?;
                let folder = dir.join(folder);
                files::create_dir(&folder)?;
                tokenizer.save(&folder, encoder.config().max_position_embeddings)?;
            }
            let scheduler = dir.join("scheduler");
            files::create_dir(&scheduler)?;
            files::write_atomic(&scheduler.join(SCHEDULER), self.scheduler.to_json().as_bytes())?;
            let mut extras = self.extras.clone();
            if self.kind.listed {
                // They are in the index.
                extras.class_names.clear();
            }
            if extras != Extras::default() {
                files::write_json(&dir.join(EXTRAS), &extras)?;
            }
            files::write_json(&dir.join(model_index::FILE), &self.index())
        })
    }

    fn write_networks(&self, dir: &Path, precision: Precision) -> Result<(), HubError> {
        if let (Some(name), Some(codec)) = (self.kind.autoencoder, self.codec) {
            write_tensors(&dir.join(name), WEIGHTS, &codec.tensors(), &codec.config_json(), precision)?;
        }
        for (i, guide) in self.controls.iter().enumerate() {
            let folder = dir.join(control::folder_of(self.kind.controls.unwrap_or(control::CONTROLNET), i));
            write_tensors(&folder, WEIGHTS, &guide.tensors(), &guide.config_json(), precision)?;
        }
        let (config, tensors) = (self.network.config_json(), self.network.tensors());
        write_tensors(&dir.join(self.kind.network.0), WEIGHTS, &tensors, &config, precision)
    }

    fn index(&self) -> Map<String, Value> {
        // Only that pipeline has the key.
        let name = if self.aesthetic { "StableDiffusionXLImg2ImgPipeline" } else { self.kind.name };
        let mut index = Map::from_iter([
            ("_class_name".to_owned(), json!(name)),
            ("_diffusers_version".to_owned(), json!(DIFFUSERS_VERSION)),
            ("scheduler".to_owned(), json!(["diffusers", self.scheduler.class_name()])),
        ]);
        if let (Some(name), Some(codec)) = (self.kind.autoencoder, self.codec) {
            index.insert(name.to_owned(), json!(["diffusers", codec.spec().class]));
        }
        if let ([first, further @ ..], Some(folder)) = (self.controls, self.kind.controls) {
            let class = match (further.is_empty(), first) {
                (true, guide) => guide.class(),
                (false, Guide::ControlNet(_)) => SEVERAL_NETS,
                (false, Guide::Adapter(_)) => SEVERAL_ADAPTERS,
            };
            index.insert(folder.into(), json!(["diffusers", class]));
        }
        let (name, class) = self.kind.network;
        index.insert(name.to_owned(), json!(["diffusers", class]));
        let absent = json!([null, null]);
        for (name, folder) in TEXTS.iter().take(self.kind.texts) {
            index.insert((*name).to_owned(), absent.clone());
            index.insert((*folder).to_owned(), absent.clone());
        }
        for ((_, encoder), (name, folder)) in self.texts.iter().zip(names_of(self.kind, self.texts.len())) {
            let class = encoder.config().architectures.first();
            index.insert(name.to_owned(), json!(["transformers", class]));
            index.insert(folder.to_owned(), json!(["transformers", "CLIPTokenizer"]));
        }
        let images = class != "UNet3DConditionModel";
        let animated = self.kind == &ANIMATED;
        if animated {
            index.insert(motion::ADAPTER.into(), absent.clone());
        }
        if images && !self.texts.is_empty() {
            index.insert("feature_extractor".into(), absent.clone());
            // Of diffusers' pipelines of images, only this has none.
            if self.kind.controls != Some(control::ADAPTER) || self.kind.xl {
                index.insert("image_encoder".into(), absent.clone());
            }
        }
        if self.picture.is_some() {
            index.insert(IMAGE_ENCODER.into(), json!(["transformers", ClipVisionConfig::CLASS]));
            index.insert(FEATURES.into(), json!(["transformers", "CLIPImageProcessor"]));
        }
        if self.aesthetic {
            index.insert(AESTHETIC.into(), json!(true));
        }
        if self.kind.xl {
            index.insert("force_zeros_for_empty_prompt".into(), json!(self.zeros));
        } else if images && !animated && !self.texts.is_empty() {
            index.insert("safety_checker".into(), absent);
            index.insert("requires_safety_checker".into(), json!(false));
        }
        let names = &self.extras.class_names;
        if self.kind.listed && !names.is_empty() {
            let names = names.iter().enumerate().map(|(i, name)| (i.to_string(), json!(name)));
            index.insert("id2label".into(), names.collect::<Map<_, _>>().into());
        }
        index
    }
}
