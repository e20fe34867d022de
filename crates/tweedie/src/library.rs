//! Models by name. A name such as `emoji-32` is looked up, in this order, in
//!
//! 1. the folders of the environment variable `TWEEDIE_MODELS`, separated as in `PATH`,
//! 2. `models/` beside the executable or up to three folders above it, as in a clone of the repository,
//! 3. the user's data folder: `tweedie/models` in `$XDG_DATA_HOME`, `~/.local/share` or `%LOCALAPPDATA%`,
//! 4. the binary, which contains one ([`builtin`]).

use std::{
    env,
    path::{Path, PathBuf},
};

use tweedie_hub::{HubError, extras_in};
use tweedie_ops::Device;
use tweedie_pipe::{LoadOptions, Pipeline, PipelineError};

use crate::builtin;

/// The environment variable with folders of models.
pub const VARIABLE: &str = "TWEEDIE_MODELS";

/// The text-to-image model that is used for prompts if no model is given.
pub const TEXTS: &str = "emoji-text-64";
/// The model that enlarges images if no model is given.
pub const ENLARGER: &str = "emoji-x4";

/// The models of this project, in the folder `models` of its repository, with a description.
pub const OWN: &[(&str, &str)] = &[
    (builtin::IMAGES, "emoji of 32×32 pixels, by class"),
    (TEXTS, "emoji of 64×64 pixels, by text"),
    ("emoji-vae-64", "autoencoder of 64×64 emoji"),
    (ENLARGER, "enlarges emoji and drawings 4 times"),
    ("spoken-digits", "speaks digits in six voices"),
    ("moving-emoji", "clips of moving emoji, by text"),
];

/// The description of one of this project's models; empty for others.
pub fn about(name: &str) -> &'static str {
    OWN.iter().find(|(own, _)| *own == name).map_or("", |(_, about)| about)
}

/// Where a model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A folder or file.
    Path(PathBuf),
    /// Part of the binary: [`builtin`].
    BuiltIn,
}

/// A model that can be selected by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub name: String,
    /// Where it is.
    pub place: Place,
}

/// The folders that are searched, in order. Not all need exist.
pub fn search_path() -> Vec<PathBuf> {
    let given = env::var_os(VARIABLE).unwrap_or_default();
    let mut all: Vec<PathBuf> =
        env::split_paths(&given).filter(|path| !path.as_os_str().is_empty()).collect();
    if let Ok(program) = env::current_exe() {
        all.extend(program.ancestors().skip(1).take(4).map(|folder| folder.join("models")));
    }
    let of = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || of("HOME").map(|home| home.join(".local/share"));
    let user = of("XDG_DATA_HOME").or_else(|| of("LOCALAPPDATA")).or_else(home);
    all.extend(user.map(|folder| folder.join("tweedie/models")));
    all
}

fn is_model(folder: &Path) -> bool {
    ["model_index.json", "config.json"].iter().any(|file| folder.join(file).is_file())
}

/// All models with names. One that is hidden by another of the same name is left out.
pub fn list() -> Vec<Named> {
    let mut all: Vec<Named> = Vec::new();
    for folder in search_path() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        found.retain(|path| is_model(path));
        found.sort();
        for path in found {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if all.iter().all(|named| named.name != name) {
                all.push(Named { name: name.into(), place: Place::Path(path.clone()) });
            }
        }
    }
    if all.iter().all(|named| named.name != builtin::IMAGES) {
        all.push(Named { name: builtin::IMAGES.into(), place: Place::BuiltIn });
    }
    all
}

/// The place of a model: an existing path, or a name.
///
/// # Errors
/// If there is neither; lists the names.
pub fn find(model: &Path) -> Result<Place, HubError> {
    if model.exists() {
        return Ok(Place::Path(model.into()));
    }
    let plain = model.components().count() == 1;
    let name = model.to_str().filter(|_| plain);
    let named = name.and_then(|name| {
        let folder = search_path().into_iter().map(|folder| folder.join(name)).find(|path| is_model(path));
        folder.map(Place::Path).or_else(|| (name == builtin::IMAGES).then_some(Place::BuiltIn))
    });
    named.ok_or_else(|| {
        let reason = match name.filter(|name| !about(name).is_empty()) {
            Some(name) => format!(
                "this model is not part of the binary; copy the folder `models/{name}` of the repository into a folder \
                 `models` beside the program, or into another folder that `tweedie models` lists"
            ),
            None => {
                let names: Vec<_> = list().into_iter().map(|named| named.name).collect();
                format!("no such folder, file or model name; the models with names are {}", names.join(", "))
            }
        };
        HubError::Format { path: model.into(), reason }
    })
}

/// Loads a model by its path or name.
///
/// # Errors
/// Those of [`find`] and [`Pipeline::load_with`].
pub fn load(model: &Path, options: &LoadOptions<'_>, device: &Device) -> Result<Pipeline, PipelineError> {
    match find(model)? {
        Place::Path(path) => Pipeline::load_with(&path, options, device),
        Place::BuiltIn => {
            let plain = options.variant.is_none()
                && options.loras.is_empty()
                && options.controls.is_empty()
                && options.tokenizer.is_none()
                && options.motion_adapter.is_none()
                && options.prediction.is_none();
            if plain {
                return Ok(Pipeline::of(builtin::load(device)?, device));
            }
            let reason = "this model is part of the binary; LoRAs, ControlNets, motion adapters, variants, tokenizers and prediction \
                          types need a model folder or file";
            Err(HubError::Format { path: model.into(), reason: reason.into() }.into())
        }
    }
}

/// How many times larger per side a model makes an image, if `tweedie train` made it to enlarge them. Its weights are not read.
pub fn enlarges(place: &Place) -> Option<usize> {
    match place {
        Place::Path(path) => extras_in(path).ok()?.enlarging.map(|enlarging| enlarging.factor),
        Place::BuiltIn => None,
    }
}

/// Approximate bytes of a model's weights in memory: those of its files; `f16` weights need up to twice as many.
pub fn bytes(place: &Place) -> u64 {
    fn of(path: &Path) -> u64 {
        match std::fs::read_dir(path) {
            Ok(entries) => entries.flatten().map(|entry| of(&entry.path())).sum(),
            Err(_) => {
                let weights = path.extension().is_some_and(|e| e == "safetensors" || e == "ckpt");
                std::fs::metadata(path).map_or(0, |file| if weights { file.len() } else { 0 })
            }
        }
    }
    match place {
        Place::Path(path) => of(path),
        Place::BuiltIn => builtin::bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_are_found() {
        assert!(matches!(find(Path::new(".")), Ok(Place::Path(_))));
        let names: Vec<_> = list().into_iter().map(|named| named.name).collect();
        assert!(names.iter().any(|name| name == builtin::IMAGES), "{names:?}");
        let error = find(Path::new("emoji-33")).unwrap_err().to_string();
        assert!(error.contains("emoji-33") && error.contains("emoji-32"), "{error}");
        assert!(find(Path::new("no/emoji-32")).is_err());
    }
}
