//! The stages of DALL·E 2 (Ramesh et al. 2022, arXiv:2204.06125) in the folder of an `UnCLIPPipeline`: a prior samples CLIP's
//! embedding of an image for a text, a decoder the image for the embedding, and two networks enlarge it. In an
//! `UnCLIPImageVariationPipeline` the embedding is that of an image.

use std::{path::Path, sync::Arc};

use burn::tensor::Device;
use tweedie_models::{ClipVisionModel, EmbeddingProjection, LastStep, Network, Standardized, TensorSource};

use super::{Maps, Model, PIXELS, PipelineKind, SmallImage, index::Index};
use crate::{
    component::{Component, ComponentDir},
    error::HubError,
    image_processor::ImageProcessor,
    model_dir::{Extras, SCHEDULER, SamplingDefaults},
    scheduler_config::SchedulerConfig,
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
const IMAGE_ENCODER: &str = "image_encoder";
const FEATURES: &str = "feature_extractor";

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

/// Where embeddings of images come from.
#[derive(Debug)]
pub enum Source {
    /// They are sampled for texts.
    Prior(Arc<Model>),
    /// They are those of images.
    Image {
        /// Prepares images.
        processor: ImageProcessor,
        /// Gives their embeddings.
        encoder: Box<ClipVisionModel>,
    },
}

/// What a decoder of image embeddings needs besides itself.
#[derive(Debug)]
pub struct UnClip {
    /// Where embeddings of images come from.
    pub source: Source,
    /// What the decoder reads of an embedding and a text.
    pub projection: EmbeddingProjection,
    /// Enlarges what the decoder makes.
    pub enlarger: Arc<Model>,
}

impl UnClip {
    /// Loads the further components of the folder of a `decoder`.
    pub(super) fn load(index: &Index<'_>, decoder: &Model, device: &Device) -> Result<Self, HubError> {
        let Component::Projection(projection) = index.load(PROJECTION, device)? else {
            return index.wrong(PROJECTION, "UnCLIPTextProjModel");
        };
        let source = match decoder.kind.name {
            VARIATION => image(index, device)?,
            _ => Source::Prior(Arc::new(prior(index, decoder, device)?)),
        };
        let unclip =
            Self { source, projection: *projection, enlarger: Arc::new(enlarger(index, decoder, device)?) };
        unclip.check_fit(&index.path, decoder)?;
        Ok(unclip)
    }

    fn check_fit(&self, path: &Path, decoder: &Model) -> Result<(), HubError> {
        let config = self.projection.config();
        let expected = config.clip_embeddings_dim;
        let source = match &self.source {
            Source::Prior(prior) => (PRIOR.network.0, "samples embeddings", prior.network.spec().outputs),
            Source::Image { encoder, .. } => {
                (IMAGE_ENCODER, "gives embeddings", encoder.config().projection_dim)
            }
        };
        let encoder = decoder.texts.first().map(|text| text.encoder.config().clone()).unwrap_or_default();
        for (name, what, found) in [
            source,
            ("text_encoder", "gives features", encoder.hidden_size),
            ("text_encoder", "gives embeddings", encoder.projection_dim),
        ] {
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

fn image(index: &Index<'_>, device: &Device) -> Result<Source, HubError> {
    let Component::Vision(encoder) = index.load(IMAGE_ENCODER, device)? else {
        return index.wrong(IMAGE_ENCODER, "CLIPVisionModelWithProjection");
    };
    let processor = ImageProcessor::open(&index.folder(FEATURES)?)?;
    let size = encoder.config().image_size;
    if processor.crop != [size, size] {
        let reason =
            format!("crops images to {:?}, but {IMAGE_ENCODER} expects {size}×{size}", processor.crop);
        return Err(HubError::key(&index.path, FEATURES, reason));
    }
    Ok(Source::Image { processor, encoder })
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

/// A stage with diffusers' default number of steps.
fn stage(
    index: &Index<'_>,
    kind: &'static PipelineKind,
    network: Box<dyn Network>,
    steps: usize,
) -> Result<Model, HubError> {
    let scheduler = SchedulerConfig::load(&index.folder(kind.scheduler)?.join(SCHEDULER))?;
    let sampling = SamplingDefaults { steps: Some(steps), ..SamplingDefaults::default() };
    Ok(Model::of_parts(kind, network, scheduler, Extras { sampling, ..Extras::default() }))
}

fn prior(index: &Index<'_>, decoder: &Model, device: &Device) -> Result<Model, HubError> {
    let (name, class) = PRIOR.network;
    let network = network(index, name, class, device)?;
    // It diffuses standardized embeddings.
    let weights = ComponentDir::open(&index.folder(name)?)?.with_variant(index.variant).weights()?;
    let read = |tensor: &str| {
        let values = weights.read(tensor);
        values.map(|t| t.values).map_err(|reason| HubError::tensor(weights.path(), tensor, reason))
    };
    let codec = Standardized::new(&read("clip_mean")?, &read("clip_std")?);
    let model = stage(index, &PRIOR, network, STEPS)?;
    Ok(Model { codec: Some(Arc::new(codec)), texts: decoder.texts.clone(), ..model })
}

fn enlarger(index: &Index<'_>, decoder: &Model, device: &Device) -> Result<Model, HubError> {
    let (name, class) = ENLARGER.network;
    let first = network(index, name, class, device)?;
    let last = network(index, LAST, class, device)?;
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
    let model = stage(index, &ENLARGER, Box::new(LastStep::new(first, last)), ENLARGING_STEPS)?;
    Ok(Model { small: Some(SmallImage::plain(factor)), ..model })
}
