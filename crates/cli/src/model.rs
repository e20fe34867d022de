//! The model of a command: a given folder or the built-in one.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tweedie::{
    hub::{
        self, Extras, LatentModel, Lora, ModelDir, OriginalCheckpoint, SchedulerConfig, latent_dir,
        model_dir::extras_in,
        scheduler_config::{PATCH, tokens},
    },
    pipe::{ClassSelector, Classes, Pipeline},
};

use crate::{builtin, ui::Ui};

/// The pipeline of the model in `dir`, or of the built-in model.
pub fn pipeline(dir: Option<&Path>, device: &tweedie::ops::Device, ui: Ui) -> Result<Pipeline> {
    pipeline_of(dir, None, device, ui)
}

/// The same with one variant of the weights.
pub fn pipeline_of(
    dir: Option<&Path>,
    variant: Option<&str>,
    device: &tweedie::ops::Device,
    ui: Ui,
) -> Result<Pipeline> {
    let Some(dir) = dir else { return builtin::pipeline(device) };
    let pipeline = Pipeline::load_variant(dir, variant, device)?;
    tell_passed_over(pipeline.scheduler(), ui);
    Ok(pipeline)
}

/// Warns about keys of a scheduler configuration that its class ignores although they would have an effect.
pub fn tell_passed_over(scheduler: &SchedulerConfig, ui: Ui) {
    for (key, value) in scheduler.passed_over() {
        ui.warn(format!(
            "{}: ignoring `{key}` = {value}, as in diffusers: {} has no such key",
            scheduler.path().display(),
            scheduler.class_name()
        ));
    }
}

/// Notes how ambiguous classes, which could be names or numbers, were interpreted.
pub fn tell_classes(classes: Classes<'_>, asked: &[ClassSelector], ui: Ui) {
    asked.iter().filter_map(|class| classes.explain(class)).for_each(|text| ui.note(text));
}

/// What a network predicts.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub enum Prediction {
    /// The noise.
    Eps,
    /// The velocity.
    V,
}

/// The latent model at `path`, a folder or a single file, with `loras` merged.
pub fn latent(
    path: &Path,
    tokenizer: Option<&Path>,
    prediction: Option<Prediction>,
    variant: Option<&str>,
    loras: &[Lora],
    device: &tweedie::ops::Device,
    ui: Ui,
) -> Result<LatentModel> {
    if path.is_file() {
        let prediction = prediction.map(|kind| match kind {
            Prediction::Eps => hub::Prediction::Eps,
            Prediction::V => hub::Prediction::V,
        });
        ensure!(variant.is_none(), "--variant is only supported for model folders");
        let checkpoint = OriginalCheckpoint::open(path, prediction)?;
        let model = LatentModel::load_original(&checkpoint, tokenizer, loras, device)?;
        tell_remarks(path, &model.remarks, loras, ui);
        return Ok(model);
    }
    ensure!(
        tokenizer.is_none(),
        "--tokenizer is only supported for single-file checkpoints; a folder has its own tokenizer"
    );
    ensure!(
        prediction.is_none(),
        "--prediction is only supported for single-file checkpoints; a folder contains it"
    );
    let model = LatentModel::load_variant(path, variant, loras, device)?;
    tell_remarks(path, &model.remarks, loras, ui);
    tell_passed_over(&model.scheduler, ui);
    Ok(model)
}

/// Prints warnings about the files of a model.
fn tell_remarks(path: &Path, remarks: &[String], loras: &[Lora], ui: Ui) {
    let own = remarks.iter().map(|remark| (path, remark));
    let changes = loras.iter().flat_map(|lora| lora.remarks().iter().map(|remark| (lora.path(), remark)));
    own.chain(changes).for_each(|(path, remark)| ui.warn(format!("{}: {remark}", path.display())));
}

/// Parses `FILE` or `FILE:SCALE`.
pub fn lora(text: &str) -> Result<Lora> {
    let (path, scale) = match text.rsplit_once(':').map(|(path, scale)| (path, scale.parse::<f64>())) {
        Some((path, Ok(scale))) => (path, scale),
        _ => (text, 1.0),
    };
    ensure!(scale.is_finite(), "--lora {text}: expected a finite number after the colon");
    Ok(Lora::open(Path::new(path), scale)?)
}

/// The model's scheduler, with the shift for its own size or `mu`, and the model's defaults.
pub fn scheduler(dir: Option<&Path>, mu: Option<f64>, ui: Ui) -> Result<(SchedulerConfig, Extras)> {
    let (scheduler, extras, own) = match dir {
        Some(dir) => match latent_dir::class_of(dir)? {
            Some(class) => {
                let scheduler = SchedulerConfig::load(&dir.join("scheduler/scheduler_config.json"))?;
                (scheduler, extras_in(dir)?, latent_dir::own_tokens(dir, class)?)
            }
            None => {
                let ModelDir { scheduler, unet, extras, .. } = ModelDir::open(dir)?;
                let scheduler = scheduler
                    .with_context(|| format!("{}: scheduler_config.json is missing", dir.display()))?;
                (scheduler, extras, unet.sample_size.map(|size| tokens(size.dims(), PATCH)))
            }
        },
        None => (builtin::scheduler()?, builtin::extras()?, None),
    };
    tell_passed_over(&scheduler, ui);
    let shifted = match (mu, own) {
        (Some(mu), _) => return Ok((scheduler.with_mu(mu)?, extras)),
        (None, Some(own)) => scheduler.of_tokens(own)?,
        (None, None) => None,
    };
    Ok((shifted.unwrap_or(scheduler), extras))
}
