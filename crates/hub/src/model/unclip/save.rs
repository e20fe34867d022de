//! Writes the folder of DALL·E 2's stages.

use std::path::Path;

use serde_json::{Map, Value, json};
use tweedie_models::{
    ClipVisionConfig, EmbeddingProjection, EmbeddingProjectionConfig, Network, unet::DIFFUSERS_VERSION,
};

use super::{DECODER, ENLARGER, LAST, PRIOR, PROJECTION, VARIATION};
use crate::{
    clip::{FEATURES, IMAGE_ENCODER, ImageEncoder, write_text},
    component::{write, write_tensors},
    error::HubError,
    files,
    model::{TEXTS, TextPart},
    model_dir::{EXTRAS, Extras, SCHEDULER, WEIGHTS},
    model_index,
    scheduler_config::SchedulerConfig,
    weights::Precision,
};

/// The module of the projection in diffusers 0.42.1, which it does not find by the class alone.
const PROJECTION_MODULE: &str = "diffusers.pipelines.deprecated.unclip.text_proj";

/// A stage before or after the decoder.
#[derive(Clone, Copy)]
pub struct StagePart<'a> {
    /// The network.
    pub network: &'a dyn Network,
    /// How it is sampled: an `UnCLIPScheduler`.
    pub scheduler: &'a SchedulerConfig,
    /// Its default settings.
    pub extras: &'a Extras,
}

/// The parts of DALL·E 2, to be written.
pub struct UnClipParts<'a> {
    /// Makes images of embeddings: a `UNet2DConditionModel`.
    pub decoder: &'a dyn Network,
    /// How it is sampled.
    pub scheduler: &'a SchedulerConfig,
    /// What it reads of an embedding and a text.
    pub projection: &'a EmbeddingProjection,
    /// Gives the embeddings of texts.
    pub text: &'a TextPart,
    /// Gives the embeddings of images. diffusers needs it without a prior.
    pub images: Option<&'a ImageEncoder>,
    /// Samples embeddings for texts: a `PriorTransformer`. Without it, the folder is that of an
    /// `UnCLIPImageVariationPipeline`.
    pub prior: Option<StagePart<'a>>,
    /// Enlarges what the decoder makes: a `UNet2DModel`. diffusers needs one.
    pub enlarger: Option<StagePart<'a>>,
    /// Makes the last step of the enlarger, by default the enlarger itself.
    pub last: Option<&'a dyn Network>,
    /// The content of `tweedie.json`.
    pub extras: &'a Extras,
}

impl UnClipParts<'_> {
    /// Writes the folder `path`. A pipeline at `path` is replaced as a whole.
    ///
    /// With a prior, Python opens it with `UnCLIPPipeline.from_pretrained`, which ignores the encoder of images; without one,
    /// with `UnCLIPImageVariationPipeline.from_pretrained`. Both need an enlarger.
    ///
    /// # Errors
    /// If a file cannot be written (then `path` is unchanged), or `path` is a folder with other content.
    pub fn save(&self, path: &Path, precision: Precision) -> Result<(), HubError> {
        files::write_dir_with(path, model_index::FILE, |dir| {
            write_network(&dir.join(DECODER.network.0), self.decoder, precision)?;
            write_scheduler(&dir.join(DECODER.scheduler), self.scheduler)?;
            let config = self.projection.config().to_json();
            write(&dir.join(PROJECTION), WEIGHTS, self.projection, &config, precision)?;
            write_text(dir, &self.text.tokenizer, &self.text.encoder, precision)?;
            self.images.map(|images| images.write(dir, precision)).transpose()?;
            if let Some(StagePart { network, scheduler, extras }) = self.prior {
                let folder = dir.join(PRIOR.network.0);
                write_network(&folder, network, precision)?;
                write_scheduler(&dir.join(PRIOR.scheduler), scheduler)?;
                files::write_json(&folder.join(EXTRAS), extras)?;
            }
            if let Some(StagePart { network, scheduler, extras }) = self.enlarger {
                let folder = dir.join(ENLARGER.network.0);
                write_network(&folder, network, precision)?;
                if *extras != Extras::default() {
                    files::write_json(&folder.join(EXTRAS), extras)?;
                }
                write_network(&dir.join(LAST), self.last.unwrap_or(network), precision)?;
                write_scheduler(&dir.join(ENLARGER.scheduler), scheduler)?;
            }
            if *self.extras != Extras::default() {
                files::write_json(&dir.join(EXTRAS), self.extras)?;
            }
            files::write_json(&dir.join(model_index::FILE), &self.index())
        })
    }

    fn index(&self) -> Map<String, Value> {
        let diffusers = |class: &str| json!(["diffusers", class]);
        let transformers = |class: &str| json!(["transformers", class]);
        let (text, tokens) = TEXTS[0];
        let name = if self.prior.is_some() { DECODER.name } else { VARIATION };
        let mut index = vec![
            ("_class_name", json!(name)),
            ("_diffusers_version", json!(DIFFUSERS_VERSION)),
            (DECODER.network.0, diffusers(DECODER.network.1)),
            (DECODER.scheduler, diffusers(self.scheduler.class_name())),
            (PROJECTION, json!([PROJECTION_MODULE, EmbeddingProjectionConfig::CLASS])),
            (text, transformers("CLIPTextModelWithProjection")),
            (tokens, transformers("CLIPTokenizer")),
        ];
        if self.images.is_some() {
            index.push((IMAGE_ENCODER, transformers(ClipVisionConfig::CLASS)));
            index.push((FEATURES, transformers("CLIPImageProcessor")));
        }
        if let Some(stage) = &self.prior {
            index.push((PRIOR.network.0, diffusers(PRIOR.network.1)));
            index.push((PRIOR.scheduler, diffusers(stage.scheduler.class_name())));
        }
        if let Some(stage) = &self.enlarger {
            index.extend([ENLARGER.network.0, LAST].map(|name| (name, diffusers(ENLARGER.network.1))));
            index.push((ENLARGER.scheduler, diffusers(stage.scheduler.class_name())));
        }
        index.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

/// Writes the folder `path` of a stage alone: `config.json` and the weights, `scheduler_config.json` and `tweedie.json`. Such a
/// folder at `path` is replaced as a whole.
///
/// # Errors
/// If a file cannot be written (then `path` is unchanged), or `path` is a folder with other content.
pub fn save_stage(path: &Path, stage: StagePart<'_>, precision: Precision) -> Result<(), HubError> {
    files::write_dir_with(path, EXTRAS, |dir| {
        write_network(dir, stage.network, precision)?;
        write_scheduler(dir, stage.scheduler)?;
        files::write_json(&dir.join(EXTRAS), stage.extras)
    })
}

fn write_network(dir: &Path, network: &dyn Network, precision: Precision) -> Result<(), HubError> {
    write_tensors(dir, WEIGHTS, &network.tensors(), &network.config_json(), precision)
}

fn write_scheduler(dir: &Path, scheduler: &SchedulerConfig) -> Result<(), HubError> {
    files::create_dir(dir)?;
    files::write_atomic(&dir.join(SCHEDULER), scheduler.to_json().as_bytes())
}
