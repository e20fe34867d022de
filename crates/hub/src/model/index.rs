//! The components listed in `model_index.json`.

use std::{cell::RefCell, collections::BTreeMap, path::PathBuf};

use burn::tensor::Device;
use serde_json::{Map, Value};
use tweedie_models::TensorSource;

use super::{Maps, PipelineKind, TEXTS, TextPart, UNUSED, small::LOW_RES, sound, umt5, unclip};
use crate::{
    clip::{FEATURES, IMAGE_ENCODER, PROCESSOR},
    component::{Component, ComponentDir},
    error::HubError,
    lora::Lora,
    tokenizer::ClipTokenizer,
};

/// The content of an index, and the requested variant and LoRAs of its components.
pub(super) struct Index<'a> {
    pub(super) dir: PathBuf,
    pub(super) path: PathBuf,
    pub(super) entries: Map<String, Value>,
    pub(super) loras: &'a [Lora],
    pub(super) variant: Option<&'a str>,
    /// Components without that variant.
    pub(super) without: RefCell<Vec<&'static str>>,
}

/// Applies `load` to the tensors of `source` with all LoRAs merged.
pub(super) fn merge<T>(
    loras: &[Lora],
    component: &'static str,
    source: &dyn TensorSource,
    load: &dyn Fn(&dyn TensorSource) -> T,
) -> T {
    match loras.split_first() {
        Some((first, rest)) => merge(rest, component, &first.merged(component, source), load),
        None => load(source),
    }
}

impl Index<'_> {
    /// Whether the index lists a component other than null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.get(name).and_then(|v| v.get(1)).is_some_and(|class| !class.is_null())
    }

    pub(super) fn folder(&self, name: &str) -> Result<PathBuf, HubError> {
        let dir = self.dir.join(name);
        match (self.has(name), dir.is_dir()) {
            (true, true) => Ok(dir),
            (true, false) => {
                Err(HubError::format(&dir, "this component is listed in model_index.json but missing"))
            }
            (false, _) => Err(HubError::key(&self.path, name, "this component is required but missing")),
        }
    }

    /// The component `name` with the LoRAs for it merged.
    pub(super) fn load(&self, name: &'static str, device: &Device) -> Result<Component, HubError> {
        self.load_from(ComponentDir::open(&self.folder(name)?)?, name, device)
    }

    /// The autoencoder `name`; pipelines that enlarge without a text ignore the scale of its latents.
    pub(super) fn codec(
        &self,
        kind: &PipelineKind,
        name: &'static str,
        device: &Device,
    ) -> Result<Component, HubError> {
        let component = ComponentDir::open(&self.folder(name)?)?;
        match kind.maps == Maps::Small && kind.texts == 0 {
            true => self.load_from(component.with_key("scaling_factor", 1.0.into())?, name, device),
            false => self.load_from(component, name, device),
        }
    }

    fn load_from(
        &self,
        mut component: ComponentDir,
        name: &'static str,
        device: &Device,
    ) -> Result<Component, HubError> {
        if let Some(variant) = self.variant {
            match component.has_variant(variant)? {
                true => component = component.with_variant(Some(variant)),
                false => self.without.borrow_mut().push(name),
            }
        }
        let weights = component.weights()?;
        let load = |source: &dyn TensorSource| component.load_from(source, weights.path(), device);
        merge(self.loras, name, &weights, &load)
    }

    pub(super) fn wrong<T>(&self, name: &str, expected: &str) -> Result<T, HubError> {
        let class = self.entries.get(name).map(Value::to_string).unwrap_or_default();
        Err(HubError::key(&self.path, name, format!("unsupported class {class}; expected {expected}")))
    }

    pub(super) fn text(
        &self,
        (name, tokens): (&'static str, &str),
        device: &Device,
    ) -> Result<TextPart, HubError> {
        let folder = self.folder(tokens)?;
        let tokenizer = ClipTokenizer::open(&folder)?;
        let Component::Text(encoder) = self.load(name, device)? else {
            return self.wrong(name, "CLIPTextModel or CLIPTextModelWithProjection");
        };
        TextPart::new(tokenizer, *encoder, &folder, name)
    }

    /// Warnings about the requested variant, for a model with this number of components.
    pub(super) fn remarks(&self, components: usize) -> Result<Vec<String>, HubError> {
        let (Some(variant), without) = (self.variant, self.without.borrow()) else { return Ok(Vec::new()) };
        if without.len() == components {
            let reason = format!("no component has the variant `{variant}`");
            return Err(HubError::format(&self.dir, reason));
        }
        let remark = |name: &&str| format!("`{name}` has no variant `{variant}`; using its default weights");
        Ok(without.iter().map(remark).collect())
    }

    /// Checks that all components of the index belong to the class.
    pub(super) fn check(&self, kind: &PipelineKind, name: &str) -> Result<(), HubError> {
        let texts = TEXTS.iter().take(kind.texts).flat_map(|(encoder, tokenizer)| [*encoder, *tokenizer]);
        let low = (kind.maps == Maps::Small && kind.texts > 0).then_some(LOW_RES);
        let images = match kind.maps {
            Maps::Picture => Some([IMAGE_ENCODER, FEATURES]),
            Maps::FirstFrame => Some([IMAGE_ENCODER, PROCESSOR]),
            _ => None,
        };
        let known: Vec<&str> = kind
            .autoencoder
            .into_iter()
            .chain(texts)
            .chain([kind.network.0, kind.scheduler])
            .chain(low)
            .chain(images.into_iter().flatten())
            .chain(unclip::components(kind))
            .chain(sound::components(kind))
            .chain(kind.controls)
            .chain(umt5::components(kind))
            .collect();
        for (key, value) in self.entries.iter().filter(|(key, _)| !key.starts_with('_')) {
            let component = value.as_array().is_some_and(|pair| pair.len() == 2);
            if component && !known.contains(&key.as_str()) && !UNUSED.contains(&key.as_str()) {
                return Err(HubError::key(&self.path, key, format!("not a component of {name}")));
            }
        }
        Ok(())
    }

    pub(super) fn class_names(&self) -> Result<Vec<String>, HubError> {
        let Some(labels) = self.entries.get("id2label").filter(|v| !v.is_null()) else {
            return Ok(Vec::new());
        };
        let wrong = |e: &dyn std::fmt::Display| HubError::key(&self.path, "id2label", e.to_string());
        let labels: BTreeMap<String, String> =
            serde_json::from_value(labels.clone()).map_err(|e| wrong(&e))?;
        let mut numbered: Vec<(usize, String)> = (labels.into_iter())
            .map(|(number, name)| number.parse().map(|n| (n, name)))
            .collect::<Result<_, _>>()
            .map_err(|e| wrong(&e))?;
        numbered.sort();
        match numbered.iter().enumerate().find(|(i, (n, _))| i != n) {
            Some((i, _)) => Err(wrong(&format!("class {i} has no name"))),
            None => Ok(numbered.into_iter().map(|(_, name)| name).collect()),
        }
    }
}
