//! The stages of DALL·E 2 (Ramesh et al. 2022, arXiv:2204.06125) in the folder of an `UnCLIPPipeline`: a prior samples CLIP's
//! embedding of an image for a text, a decoder the image for the embedding, and two networks enlarge it. In an
//! `UnCLIPImageVariationPipeline` the embedding is that of an image. A folder may have both sources of embeddings.

mod save;

use std::{path::Path, sync::Arc};

use burn::tensor::Device;
use tweedie_models::{
    ClipVisionConfig, EmbeddingProjection, EmbeddingProjectionConfig, LastStep, Network, Standardized,
    TensorSource,
};

pub use save::{StagePart, UnClipParts, save_stage};

use super::{Maps, Model, PIXELS, PipelineKind, SmallImage, TextPart, index::Index};
use crate::{
    clip::{FEATURES, IMAGE_ENCODER, ImageEncoder},
    component::{Component, ComponentDir},
    error::HubError,
    image_processor::ImageProcessor,
    model_dir::{Extras, SCHEDULER, extras_in},
    scheduler_config::SchedulerConfig,
    weights::SafetensorsFile,
};

const PROJECTION: &str = "text_proj";
pub(super) const VARIATION: &str = "UnCLIPImageVariationPipeline";
pub(super) const DECODER: PipelineKind = PipelineKind {
    name: "UnCLIPPipeline",
    network: ("decoder", "UNet2DConditionModel"),
    texts: 1,
    guidance: 8.0,
    scheduler: "decoder_scheduler",
    ..PIXELS
};
const PRIOR: PipelineKind = PipelineKind {
    name: "PriorTransformer",
    network: ("prior", "PriorTransformer"),
    texts: 1,
    guidance: 4.0,
    scheduler: "prior_scheduler",
    ..PIXELS
};
const ENLARGER: PipelineKind = PipelineKind {
    name: "UNet2DModel",
    network: ("super_res_first", "UNet2DModel"),
    maps: Maps::Small,
    scheduler: "super_res_scheduler",
    ..PIXELS
};
const LAST: &str = "super_res_last";

/// Further components of the folder of a pipeline.
pub(super) fn components(kind: &PipelineKind) -> impl Iterator<Item = &'static str> {
    const COMMON: [&str; 4] = [PROJECTION, ENLARGER.network.0, LAST, ENLARGER.scheduler];
    const OF_PRIOR: [&str; 2] = [PRIOR.network.0, PRIOR.scheduler];
    let decodes = kind.network == DECODER.network;
    let common = decodes.then_some(COMMON).into_iter().flatten();
    common.chain((decodes && kind.name != VARIATION).then_some(OF_PRIOR).into_iter().flatten())
}

/// Default steps of the prior and the decoder, and of the enlarger, in diffusers.
pub(super) const STEPS: usize = 25;
const ENLARGING_STEPS: usize = 7;

/// What a decoder of image embeddings needs besides itself. It has a prior, an encoder of images, or both.
#[derive(Debug)]
pub struct UnClip {
    /// Samples embeddings for texts.
    pub prior: Option<Arc<Model>>,
    /// Gives the embeddings of images.
    pub images: Option<ImageEncoder>,
    /// What the decoder reads of an embedding and a text.
    pub projection: EmbeddingProjection,
    /// Enlarges what the decoder makes.
    pub enlarger: Option<Arc<Model>>,
    /// What makes the last step of the enlarger.
    pub last: Option<Arc<dyn Network>>,
}

impl UnClip {
    /// Loads the further components of the folder of a `decoder`. diffusers' pipelines have an enlarger, and either a prior or
    /// an encoder of images; ours may lack an enlarger and have both.
    pub(super) fn load(index: &Index<'_>, decoder: &Model, device: &Device) -> Result<Self, HubError> {
        let Component::Projection(projection) = index.load(PROJECTION, device)? else {
            return index.wrong(PROJECTION, EmbeddingProjectionConfig::CLASS);
        };
        let varies = decoder.kind.name == VARIATION;
        let enlarges = index.has(ENLARGER.network.0);
        let (enlarger, last) = enlarges.then(|| enlarger(index, decoder, device)).transpose()?.unzip();
        let unclip = Self {
            prior: (!varies).then(|| prior(index, decoder, device)).transpose()?.map(Arc::new),
            images: (varies || index.has(IMAGE_ENCODER)).then(|| images(index, device)).transpose()?,
            projection: *projection,
            enlarger,
            last,
        };
        unclip.check_fit(&index.path, decoder)?;
        Ok(unclip)
    }

    fn check_fit(&self, path: &Path, decoder: &Model) -> Result<(), HubError> {
        let config = self.projection.config();
        let expected = config.clip_embeddings_dim;
        let prior = (self.prior.as_ref())
            .map(|prior| (PRIOR.network.0, "samples embeddings", prior.network.spec().outputs));
        let images = (self.images.as_ref())
            .map(|images| (IMAGE_ENCODER, "gives embeddings", images.encoder.config().projection_dim));
        let encoder = decoder.texts.first().map(|text| text.encoder.config().clone()).unwrap_or_default();
        let texts = [
            ("text_encoder", "gives features", encoder.hidden_size),
            ("text_encoder", "gives embeddings", encoder.projection_dim),
        ];
        for (name, what, found) in prior.into_iter().chain(images).chain(texts) {
            if found != expected {
                let reason = format!("{what} of width {found}, but {PROJECTION} expects {expected}");
                return Err(HubError::key(path, name, reason));
            }
        }
        match decoder.network.spec().text {
            Some(width) if width != config.cross_attention_dim => {
                let found = config.cross_attention_dim;
                let reason = format!("gives features of width {found}, but the decoder expects {width}");
                Err(HubError::key(path, PROJECTION, reason))
            }
            _ => Ok(()),
        }
    }
}

impl Model {
    /// A prior of parts in memory: its network, the text encoder, and the mean and the standard deviation of each value of an
    /// embedding.
    pub fn of_prior(
        network: Box<dyn Network>,
        texts: Vec<TextPart>,
        [mean, std]: [&[f32]; 2],
        scheduler: SchedulerConfig,
        extras: Extras,
    ) -> Self {
        let codec = Arc::new(Standardized::new(mean, std));
        Self { codec: Some(codec), texts, ..Self::of_parts(&PRIOR, network, scheduler, extras) }
    }

    /// A decoder of image embeddings of parts in memory, which must fit together.
    pub fn of_decoder(
        network: Box<dyn Network>,
        texts: Vec<TextPart>,
        unclip: UnClip,
        scheduler: SchedulerConfig,
        extras: Extras,
    ) -> Self {
        Self { texts, unclip: Some(unclip), ..Self::of_parts(&DECODER, network, scheduler, extras) }
    }
}

/// The encoder of images in the folder of a pipeline, which gives embeddings.
pub(super) fn images(index: &Index<'_>, device: &Device) -> Result<ImageEncoder, HubError> {
    let images = encoder(index, FEATURES, device)?;
    images.check_projects(&index.path)?;
    Ok(images)
}

/// The encoder of images in the folder of a pipeline, whose processor is in the folder `features`.
pub(super) fn encoder(index: &Index<'_>, features: &str, device: &Device) -> Result<ImageEncoder, HubError> {
    let Component::Vision(encoder) = index.load(IMAGE_ENCODER, device)? else {
        return index.wrong(IMAGE_ENCODER, ClipVisionConfig::CLASS);
    };
    ImageEncoder::of(*encoder, ImageProcessor::open(&index.folder(features)?)?, &index.path)
}

fn network(
    index: &Index<'_>,
    name: &'static str,
    class: &str,
    device: &Device,
) -> Result<Box<dyn Network>, HubError> {
    if ComponentDir::open(&index.folder(name)?)?.class() != class {
        return index.wrong(name, class);
    }
    match index.load(name, device)? {
        Component::Network(network) => Ok(network),
        _ => index.wrong(name, class),
    }
}

/// The default settings of a stage: its own, or else diffusers' number of steps.
fn settings(dir: &Path, steps: usize) -> Result<Extras, HubError> {
    let mut extras = extras_in(dir)?;
    extras.sampling.steps.get_or_insert(steps);
    Ok(extras)
}

fn schedule(index: &Index<'_>, kind: &PipelineKind) -> Result<SchedulerConfig, HubError> {
    SchedulerConfig::load(&index.folder(kind.scheduler)?.join(SCHEDULER))
}

fn prior(index: &Index<'_>, decoder: &Model, device: &Device) -> Result<Model, HubError> {
    let (name, class) = PRIOR.network;
    let network = network(index, name, class, device)?;
    // It diffuses standardized embeddings.
    let folder = index.folder(name)?;
    let weights = ComponentDir::open(&folder)?.with_variant(index.variant).weights()?;
    let [mean, std] = statistics(&weights)?;
    let extras = settings(&folder, STEPS)?;
    let scheduler = schedule(index, &PRIOR)?;
    Ok(Model::of_prior(network, decoder.texts.clone(), [&mean, &std], scheduler, extras))
}

/// The mean and the standard deviation of each value of an embedding, in the weights of a prior.
///
/// # Errors
/// If they are missing or cannot be read.
pub fn statistics(weights: &SafetensorsFile) -> Result<[Vec<f32>; 2], HubError> {
    let read = |tensor: &str| {
        let values = weights.read(tensor);
        values.map(|t| t.values).map_err(|reason| HubError::tensor(weights.path(), tensor, reason))
    };
    Ok([read("clip_mean")?, read("clip_std")?])
}

/// The enlarger, and what makes its last step.
fn enlarger(
    index: &Index<'_>,
    decoder: &Model,
    device: &Device,
) -> Result<(Arc<Model>, Arc<dyn Network>), HubError> {
    let (name, class) = ENLARGER.network;
    let first = network(index, name, class, device)?;
    let last: Arc<dyn Network> = network(index, LAST, class, device)?.into();
    let native = |network: &dyn Network| network.spec().native.unwrap_or_default();
    let (large, small) = (native(&*first), native(&*decoder.network));
    let factors: Vec<usize> = large.iter().zip(&small).map(|(large, small)| large / small.max(&1)).collect();
    let exact = large.iter().zip(&small).all(|(large, small)| large % small.max(&1) == 0);
    let factor = match &*factors {
        &[h, w] if exact && h == w && h > 0 => h,
        _ => {
            let reason = format!(
                "makes images of {large:?} pixels, expected a multiple of the {small:?} pixels of the decoder"
            );
            return Err(HubError::key(&index.path, name, reason));
        }
    };
    let (network, scheduler) = (Box::new(LastStep::new(first, last.clone())), schedule(index, &ENLARGER)?);
    let extras = settings(&index.folder(name)?, ENLARGING_STEPS)?;
    let model = Model::of_parts(&ENLARGER, network, scheduler, extras);
    Ok((Arc::new(Model { small: Some(SmallImage::plain(factor)), ..model }), last))
}
