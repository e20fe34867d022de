//! The model of a command: a folder, a file or a name.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use tweedie::{
    builtin,
    hub::{self, Extras, SchedulerConfig, model::scheduler_of},
    library::{self, Place},
    ops::Device,
    pipe::{ClassSelector, Classes, EmbeddingFile, LoadOptions, LoraFile, Pipeline, RecordedFile},
};

use crate::ui::Ui;

/// The pipeline of `model`, or of the built-in model.
pub fn pipeline(model: Option<&Path>, device: &Device, ui: Ui) -> Result<Pipeline> {
    pipeline_with(model, &LoadOptions::default(), device, ui)
}

/// The same, by default of [`library::TEXTS`] if there are prompts.
pub fn pipeline_for(model: Option<&Path>, prompts: &[String], device: &Device, ui: Ui) -> Result<Pipeline> {
    pipeline_for_with(model, prompts, &LoadOptions::default(), device, ui)
}

/// The same with options.
pub fn pipeline_for_with(
    model: Option<&Path>,
    prompts: &[String],
    options: &LoadOptions<'_>,
    device: &Device,
    ui: Ui,
) -> Result<Pipeline> {
    let texts = (!prompts.is_empty()).then_some(Path::new(library::TEXTS));
    pipeline_with(model.or(texts), options, device, ui)
}

/// The same with options.
pub fn pipeline_with(
    model: Option<&Path>,
    options: &LoadOptions<'_>,
    device: &Device,
    ui: Ui,
) -> Result<Pipeline> {
    let model = model.unwrap_or(Path::new(builtin::IMAGES));
    if model.is_dir() {
        ensure!(
            options.tokenizer.is_none(),
            "--tokenizer is only supported for single-file checkpoints; a folder has its own tokenizer"
        );
        ensure!(
            options.prediction.is_none(),
            "--prediction is only supported for single-file checkpoints; a folder contains it"
        );
    }
    let pipeline = library::load(model, options, device)?;
    for remark in &pipeline.model().remarks {
        ui.warn(format!("{}: {remark}", model.display()));
    }
    tell_passed_over(pipeline.scheduler(), ui);
    Ok(pipeline)
}

/// The folder or file of `model`, for commands that need one.
pub fn path(model: &Path) -> Result<PathBuf> {
    match library::find(model)? {
        Place::Path(path) => Ok(path),
        Place::BuiltIn => anyhow::bail!(
            "`{}` is part of the binary, but this command needs its folder; put a copy of the folder into one of \
             the folders of `tweedie models`",
            model.display()
        ),
    }
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

impl From<Prediction> for hub::Prediction {
    fn from(kind: Prediction) -> Self {
        match kind {
            Prediction::Eps => Self::Eps,
            Prediction::V => Self::V,
        }
    }
}

/// Parses `FILE` or `FILE:SCALE`. Without a scale it is that of the same file in a `stored` request, or 1.
pub fn lora(text: &str, stored: &[LoraFile]) -> Result<LoraFile> {
    let (path, scale) = match text.rsplit_once(':').map(|(path, scale)| (path, scale.parse::<f64>())) {
        Some((path, Ok(scale))) => (path, Some(scale)),
        _ => (text, None),
    };
    ensure!(scale.is_none_or(f64::is_finite), "--lora {text}: expected a finite number after the colon");
    let file = RecordedFile::of(Path::new(path))?;
    let same = stored.iter().find(|lora| lora.file.sha256 == file.sha256);
    Ok(LoraFile { scale: scale.or(same.map(|lora| lora.scale)).unwrap_or(1.0), file })
}

/// Parses `FILE` or `FILE:TOKEN`. A path may contain a colon.
pub fn embedding(text: &str) -> Result<EmbeddingFile> {
    let (path, token) = match text.rsplit_once(':') {
        Some((path, token)) if !Path::new(text).exists() && !token.is_empty() => {
            (path, Some(token.to_owned()))
        }
        _ => (text, None),
    };
    Ok(EmbeddingFile { file: RecordedFile::of(Path::new(path))?, token })
}

/// The model's scheduler, with the shift for its own size or `mu`, and the model's defaults.
pub fn scheduler(model: Option<&Path>, mu: Option<f64>, ui: Ui) -> Result<(SchedulerConfig, Extras)> {
    let (scheduler, extras, own) = match library::find(model.unwrap_or(Path::new(builtin::IMAGES)))? {
        Place::Path(dir) => scheduler_of(&dir)?,
        Place::BuiltIn => {
            let (scheduler, extras) = builtin::settings()?;
            (scheduler, extras, None)
        }
    };
    tell_passed_over(&scheduler, ui);
    let shifted = match (mu, own) {
        (Some(mu), _) => return Ok((scheduler.with_mu(mu)?, extras)),
        (None, Some(own)) => scheduler.of_tokens(own)?,
        (None, None) => None,
    };
    Ok((shifted.unwrap_or(scheduler), extras))
}
