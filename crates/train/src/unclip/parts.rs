//! The finished stages that a decoder is written with.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tweedie_core::Parameterization;
use tweedie_hub::{Component, ComponentDir, Extras, ModelDir, SchedulerConfig, extras_in, model::StagePart};
use tweedie_models::{
    Network, PriorConfig, UNet2DConfig, UNet2DModel,
    unet::{LoadError, SampleSize},
};
use tweedie_ops::Device;

use super::{Frozen, export::scheduler, wrong};
use crate::{config::RunConfig, diffusion::Output, error::TrainError};

/// What the training of a stage says of its CLIP.
pub(super) const CLIP: &str = "clip";

/// A finished stage.
pub(crate) struct Stage {
    network: Box<dyn Network>,
    scheduler: SchedulerConfig,
    extras: Extras,
}

impl Stage {
    /// The stage, to be written.
    pub fn part(&self) -> StagePart<'_> {
        StagePart { network: &*self.network, scheduler: &self.scheduler, extras: &self.extras }
    }
}

/// The stages besides the decoder, as far as there are any.
pub(crate) struct Stages {
    pub prior: Option<Stage>,
    pub enlarger: Option<Stage>,
}

impl Stages {
    /// Loads the stages of `config`, which must fit its CLIP and the size of its images.
    ///
    /// # Errors
    /// [`TrainError::Config`] naming the key, or that of a damaged file.
    pub fn load(config: &RunConfig, frozen: &Frozen, device: &Device) -> Result<Self, TrainError> {
        let given = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| folder(path));
        let table = &config.unclip;
        Ok(Self {
            prior: given(&table.prior).map(|dir| prior(&dir, frozen, device)).transpose()?,
            enlarger: given(&table.enlarger).map(|dir| enlarger(&dir, config, device)).transpose()?,
        })
    }
}

/// A model's folder, or that in the folder of its run.
fn folder(path: &Path) -> PathBuf {
    let of_run = path.join("model");
    if of_run.is_dir() { of_run } else { path.into() }
}

fn prior(dir: &Path, frozen: &Frozen, device: &Device) -> Result<Stage, TrainError> {
    let fail = |expected: String| TrainError::config("unclip.prior", dir.display(), expected);
    if !dir.join("config.json").is_file() {
        return Err(fail("the folder of a prior, or of the run that trained it".into()));
    }
    let component = ComponentDir::open(dir)?;
    if component.class() != PriorConfig::CLASS {
        return Err(fail(format!("a {}, not {}", PriorConfig::CLASS, component.class())));
    }
    let network = PriorConfig::from_json(component.config()).map_err(wrong)?;
    let text = frozen.text();
    let (found, expected) = (
        [network.embedding_dim, network.num_embeddings],
        [text.projection_dim, text.max_position_embeddings],
    );
    let extras = extras_in(dir)?;
    let same = extras.training.get(CLIP).is_none_or(|clip| *clip == json!(frozen.fingerprint()));
    if found != expected || !same {
        return Err(fail("a prior of the CLIP in unclip.clip; this one was trained with another".into()));
    }
    let scheduler = SchedulerConfig::load(&dir.join("scheduler_config.json"))?;
    match component.load(device)? {
        Component::Network(network) => Ok(Stage { network, scheduler, extras }),
        _ => Err(fail(format!("a {}", PriorConfig::CLASS))),
    }
}

fn enlarger(dir: &Path, config: &RunConfig, device: &Device) -> Result<Stage, TrainError> {
    let fail = |expected: &str| TrainError::config("unclip.enlarger", dir.display(), expected);
    if !dir.join("model_index.json").is_file() {
        return Err(fail("the folder of a model that enlarges images, or of the run that trained it"));
    }
    let model = ModelDir::open(dir)?;
    let Some(enlarging) = model.extras.enlarging else {
        return Err(fail("a model that enlarges images, as of the preset `enlarger`"));
    };
    let UNet2DConfig { in_channels, out_channels, class_embed_type, num_class_embeds, .. } = &model.unet;
    if class_embed_type.is_some() || num_class_embeds.is_some() {
        return Err(fail("a model that was trained with super_resolution.blind = true"));
    }
    if [*in_channels, *out_channels] != [6, 3] {
        return Err(fail("a model of colour images with a fixed variance"));
    }
    let output = match model.scheduler.as_ref().map(|s| (s, s.process().parameterization)) {
        Some((own, output)) if is_squared_cosine(own) => match output {
            Parameterization::Eps => Output::Eps,
            Parameterization::X0 => Output::X0,
            _ => return Err(fail("a model with diffusion.parameterization = x0 or eps")),
        },
        _ => return Err(fail("a model with diffusion.schedule = squared-cosine")),
    };
    let steps = model.scheduler.as_ref().map(|own| entries(own)["num_train_timesteps"].clone());
    let steps = steps.as_ref().and_then(Value::as_u64).unwrap_or(1000) as usize;
    let side = config.data.size.saturating_mul(enlarging.factor);
    // It was trained on parts of images; the pipeline reads the size of its results here.
    let unet = UNet2DConfig { sample_size: Some(SampleSize::Square(side)), ..model.unet.clone() };
    let loaded: Result<UNet2DModel, LoadError> = UNet2DModel::load(&unet, &model.weights()?, device);
    Ok(Stage {
        network: Box::new(loaded.map_err(wrong)?),
        scheduler: scheduler(steps, output, false, 1.0, dir)?,
        extras: Extras::default(),
    })
}

fn entries(scheduler: &SchedulerConfig) -> Value {
    serde_json::from_str(&scheduler.to_json()).unwrap_or_default()
}

fn is_squared_cosine(scheduler: &SchedulerConfig) -> bool {
    let entries = entries(scheduler);
    entries["beta_schedule"] == json!("squaredcos_cap_v2")
        && !entries["rescale_betas_zero_snr"].as_bool().unwrap_or(false)
}
