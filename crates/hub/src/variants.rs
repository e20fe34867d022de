//! The files of a component's weights, which may be there in several variants: diffusers' `variant="fp16"` writes
//! `diffusion_pytorch_model.fp16.safetensors`, or in shards with an index beside them.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{error::HubError, weights::SafetensorsFile};

/// What is read where the weights without a variant are not there: the first of these, else the first by name.
const PREFERRED: [&str; 4] = ["fp32", "fp16", "bf16", "ema"];

impl SafetensorsFile {
    /// Opens the weights called `stem` in `dir`, whole or in shards. Of several variants the one called `variant`, if
    /// it is given, else the weights without a variant or, where they are not there, `fp32`, `fp16`, `bf16`, `ema` or
    /// the first other one.
    ///
    /// # Errors
    /// As [`Self::open`]; if there is no such variant; says so if only pickled weights are there, which are never read.
    pub fn open_in(dir: &Path, stem: &str, variant: Option<&str>) -> Result<Self, HubError> {
        let found = variants(dir, stem)?;
        let path = match variant {
            Some(name) => found.get(name),
            None => std::iter::once(&"").chain(&PREFERRED).find_map(|name| found.get(*name)),
        };
        match (path.or(found.values().next().filter(|_| variant.is_none())), variant) {
            (Some(path), _) => Self::open(path),
            (None, Some(name)) if !found.is_empty() => {
                let known: Vec<&str> =
                    found.keys().map(|n| if n.is_empty() { "no variant" } else { n }).collect();
                let reason = format!("`{stem}` has no variant `{name}`; there are: {}", known.join(", "));
                Err(HubError::format(dir, reason))
            }
            _ => Err(missing(dir, stem)),
        }
    }
}

/// The files of the weights called `stem` in `dir` by variant; without a variant by the empty name. A whole file comes
/// before an index of shards.
pub(crate) fn variants(dir: &Path, stem: &str) -> Result<BTreeMap<String, PathBuf>, HubError> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(|e| HubError::read(dir, e))? {
        let name = entry.map_err(|e| HubError::read(dir, e))?.file_name();
        let Some((variant, whole)) = name.to_str().and_then(|name| variant_of(name, stem)) else { continue };
        let path = dir.join(&name);
        if whole || !found.contains_key(variant) {
            found.insert(variant.to_owned(), path);
        }
    }
    Ok(found)
}

/// The variant that a file's name tells, and whether it holds all of the weights.
fn variant_of<'a>(name: &'a str, stem: &str) -> Option<(&'a str, bool)> {
    let rest = name.strip_prefix(stem)?;
    const WHOLE: &str = ".safetensors";
    const INDEX: &str = ".safetensors.index";
    let simple = |variant: &'a str| {
        let bare = variant.strip_prefix('.').unwrap_or_default();
        let fits = variant.is_empty() || !bare.is_empty() && !bare.contains('.') && !bare.contains("-of-");
        fits.then_some(bare)
    };
    if let Some(variant) = rest.strip_suffix(WHOLE) {
        return Some((simple(variant)?, true));
    }
    let rest = rest.strip_suffix(".json")?;
    let (before, after) = rest.split_once(INDEX)?;
    // diffusers puts the variant before the last ending, others before the first.
    match (before, after) {
        ("", variant) | (variant, "") => Some((simple(variant)?, false)),
        _ => None,
    }
}

/// Why there are no weights.
fn missing(dir: &Path, stem: &str) -> HubError {
    let pickled = |entry: io::Result<fs::DirEntry>| {
        let path = entry.ok()?.path();
        let name = path.file_name()?.to_str()?;
        let ends = [".bin", ".pt", ".ckpt"].iter().any(|end| name.ends_with(end));
        (name.starts_with(stem) && ends).then_some(path)
    };
    match fs::read_dir(dir).ok().and_then(|mut all| all.find_map(pickled)) {
        Some(path) => HubError::pickle(&path),
        None => {
            let path = dir.join(format!("{stem}.safetensors"));
            let why = fs::metadata(&path).err().unwrap_or_else(|| io::ErrorKind::NotFound.into());
            HubError::read(&path, why)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_tell_the_variant() {
        let of = |name| variant_of(name, "model");
        assert_eq!(of("model.safetensors"), Some(("", true)));
        assert_eq!(of("model.fp16.safetensors"), Some(("fp16", true)));
        assert_eq!(of("model.safetensors.index.json"), Some(("", false)));
        assert_eq!(of("model.safetensors.index.fp16.json"), Some(("fp16", false)));
        assert_eq!(of("model.fp16.safetensors.index.json"), Some(("fp16", false)));
        for other in [
            "model-00001-of-00002.safetensors",
            "model.fp16-00001-of-00002.safetensors",
            "model.bin",
            "models.safetensors",
            "model.a.b.safetensors",
            "config.json",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
