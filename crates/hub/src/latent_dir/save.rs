//! Writes the folder of a latent diffusion pipeline.

use std::path::Path;

use serde_json::{Map, Value, json};
use tweedie_models::{
    Autoencoder, AutoencoderKl, AutoencoderTiny, ClipTextModel, DitTransformer, UNet2DConditionModel,
    UNet2DModel, unet::DIFFUSERS_VERSION,
};

use super::{LatentClass, LatentModel, LatentNetwork, TEXTS, check_tokens};
use crate::{
    component::{TEXT_WEIGHTS, write},
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
    /// Converts between images and latents.
    pub vae: &'a AutoencoderKl,
    /// Denoises latents.
    pub unet: &'a UNet2DConditionModel,
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
    /// Writes the folder `path`, which Python opens with `StableDiffusionPipeline.from_pretrained(path)`. A pipeline at
    /// `path` is replaced as a whole.
    ///
    /// # Errors
    /// If parts do not match, a file cannot be written (then `path` is unchanged), or `path` is a folder with other content.
    pub fn save(&self, path: &Path, precision: Precision) -> Result<(), HubError> {
        let folder = Folder {
            class: LatentClass::StableDiffusion,
            autoencoder: Coder::Kl(self.vae),
            network: Network::TextUNet(self.unet),
            texts: vec![(self.tokenizer, self.text_encoder)],
            scheduler: self.scheduler,
            zeros: false,
            class_names: &[],
            extras: self.extras,
        };
        folder.save(path, precision)
    }
}

impl LatentModel {
    /// Writes the folder `path`, which Python opens with `from_pretrained` of its pipeline (the text-to-image or
    /// unconditional variant, whichever was loaded). A pipeline at `path` is replaced as a whole. Needs memory for a second
    /// copy of the largest network.
    ///
    /// # Errors
    /// If a value is too large for `precision`, a file cannot be written (then `path` is unchanged), or `path` is a folder
    /// with other content.
    pub fn save(&self, path: &Path, precision: Precision) -> Result<(), HubError> {
        let folder = Folder {
            class: self.class,
            autoencoder: match &self.autoencoder {
                Autoencoder::Kl(vae) => Coder::Kl(vae),
                Autoencoder::Tiny(vae) => Coder::Tiny(vae),
            },
            network: match &self.network {
                LatentNetwork::UNet(unet) => Network::UNet(unet),
                LatentNetwork::TextUNet(unet) => Network::TextUNet(unet),
                LatentNetwork::Dit(dit) => Network::Dit(dit),
            },
            texts: self.texts.iter().map(|text| (&text.tokenizer, &text.encoder)).collect(),
            scheduler: &self.scheduler,
            zeros: self.zeros_for_no_negative,
            class_names: &self.class_names,
            extras: &self.extras,
        };
        folder.save(path, precision)
    }
}

enum Coder<'a> {
    Kl(&'a AutoencoderKl),
    Tiny(&'a AutoencoderTiny),
}

enum Network<'a> {
    UNet(&'a UNet2DModel),
    TextUNet(&'a UNet2DConditionModel),
    Dit(&'a DitTransformer),
}

/// The parts of any pipeline.
struct Folder<'a> {
    class: LatentClass,
    autoencoder: Coder<'a>,
    network: Network<'a>,
    texts: Vec<(&'a ClipTokenizer, &'a ClipTextModel)>,
    scheduler: &'a SchedulerConfig,
    /// Whether a missing negative prompt means features of zeros.
    zeros: bool,
    class_names: &'a [String],
    extras: &'a Extras,
}

impl Folder<'_> {
    fn save(&self, path: &Path, precision: Precision) -> Result<(), HubError> {
        for ((tokenizer, encoder), (name, folder)) in self.texts.iter().zip(TEXTS) {
            check_tokens(&path.join(folder), tokenizer, name, encoder.config())?;
        }
        files::write_dir_with(path, model_index::FILE, |dir| {
            self.write_networks(dir, precision)?;
            for ((tokenizer, encoder), (name, folder)) in self.texts.iter().zip(TEXTS) {
                let config = encoder.config().to_json(tokenizer.begin, tokenizer.pad);
                write(&dir.join(name), TEXT_WEIGHTS, *encoder, &config, precision)?;
                let folder = dir.join(folder);
                files::create_dir(&folder)?;
                tokenizer.save(&folder, encoder.config().max_position_embeddings)?;
            }
            let scheduler = dir.join("scheduler");
            files::create_dir(&scheduler)?;
            files::write_atomic(&scheduler.join(SCHEDULER), self.scheduler.to_json().as_bytes())?;
            if *self.extras != Extras::default() {
                files::write_json(&dir.join(EXTRAS), self.extras)?;
            }
            files::write_json(&dir.join(model_index::FILE), &self.index())
        })
    }

    fn write_networks(&self, dir: &Path, precision: Precision) -> Result<(), HubError> {
        let folder = dir.join(self.class.autoencoder());
        match self.autoencoder {
            Coder::Kl(vae) => write(&folder, WEIGHTS, vae, &vae.config().to_json(), precision)?,
            Coder::Tiny(vae) => write(&folder, WEIGHTS, vae, &vae.config().to_json(), precision)?,
        }
        let folder = dir.join(self.network_names().0);
        match self.network {
            Network::UNet(unet) => write(&folder, WEIGHTS, unet, &unet.config().to_json(), precision),
            Network::TextUNet(unet) => write(&folder, WEIGHTS, unet, &unet.config().to_json(), precision),
            Network::Dit(dit) => write(&folder, WEIGHTS, dit, &dit.config().to_json(), precision),
        }
    }

    /// Folder and class of the network.
    fn network_names(&self) -> (&'static str, &'static str) {
        match self.network {
            Network::UNet(_) => ("unet", "UNet2DModel"),
            Network::TextUNet(_) => ("unet", "UNet2DConditionModel"),
            Network::Dit(_) => ("transformer", "DiTTransformer2DModel"),
        }
    }

    fn index(&self) -> Map<String, Value> {
        let (name, class) = self.network_names();
        let autoencoder = match self.autoencoder {
            Coder::Kl(_) => "AutoencoderKL",
            Coder::Tiny(_) => "AutoencoderTiny",
        };
        let mut index = Map::from_iter([
            ("_class_name".to_owned(), json!(self.class.name())),
            ("_diffusers_version".to_owned(), json!(DIFFUSERS_VERSION)),
            ("scheduler".to_owned(), json!(["diffusers", self.scheduler.class_name()])),
            (self.class.autoencoder().to_owned(), json!(["diffusers", autoencoder])),
            (name.to_owned(), json!(["diffusers", class])),
        ]);
        for ((_, encoder), (name, folder)) in self.texts.iter().zip(TEXTS) {
            let class = encoder.config().architectures.first();
            index.insert(name.to_owned(), json!(["transformers", class]));
            index.insert(folder.to_owned(), json!(["transformers", "CLIPTokenizer"]));
        }
        let absent = json!([null, null]);
        if !self.texts.is_empty() {
            index.insert("feature_extractor".into(), absent.clone());
            index.insert("image_encoder".into(), absent.clone());
        }
        match self.class {
            LatentClass::StableDiffusion => {
                index.insert("safety_checker".into(), absent);
                index.insert("requires_safety_checker".into(), json!(false));
            }
            LatentClass::StableDiffusionXl => {
                index.insert("force_zeros_for_empty_prompt".into(), json!(self.zeros));
            }
            LatentClass::Dit if !self.class_names.is_empty() => {
                let names: Map<String, Value> = self
                    .class_names
                    .iter()
                    .enumerate()
                    .map(|(i, name)| (i.to_string(), json!(name)))
                    .collect();
                index.insert("id2label".into(), names.into());
            }
            LatentClass::Dit | LatentClass::Unconditional => {}
        }
        index
    }
}
