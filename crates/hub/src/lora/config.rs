//! PEFT's configuration of an adapter, which determines its scale.

use std::path::PathBuf;

use regex::Regex;
use serde_json::{Map, Value};

use super::names::COMPONENTS;
use crate::{error::HubError, files, weights::SafetensorsFile};

/// The key of the configuration in a file's header (diffusers), and its file name (PEFT).
const HEADER: &str = "lora_adapter_metadata";
const BESIDE: (&str, &str) = ("adapter_model.safetensors", "adapter_config.json");

/// Supported kinds of adapters.
const KINDS: [&str; 3] = ["LORA", "LOHA", "LOKR"];
/// Initializations that modify the model's own weights, which the file does not contain.
const RESIDUAL: [&str; 4] = ["pissa", "olora", "corda", "loftq"];

/// The configured scales of a file's layers.
pub(super) struct Config {
    /// Path of the configuration.
    path: PathBuf,
    entries: Map<String, Value>,
    /// Patterns by key.
    patterns: Vec<(String, Patterns)>,
}

/// Patterns of layer names with their values, in order.
type Patterns = Vec<(Regex, f64)>;

impl Config {
    /// The configuration of `file`; empty if there is none.
    pub(super) fn of(file: &SafetensorsFile) -> Result<Self, HubError> {
        let path = file.path();
        let beside = path.with_file_name(BESIDE.1);
        let (path, entries) = match file.metadata().get(HEADER) {
            Some(text) => {
                let wrong = |e: serde_json::Error| {
                    HubError::key(path, HEADER, format!("expected a JSON object: {e}"))
                };
                (path.to_path_buf(), serde_json::from_str(text).map_err(wrong)?)
            }
            None if path.file_name().is_some_and(|name| name == BESIDE.0) && beside.exists() => {
                let entries = files::read_json(&beside)?;
                (beside, entries)
            }
            None => (path.to_path_buf(), Map::new()),
        };
        let mut config = Self { path, entries, patterns: Vec::new() };
        config.check()?;
        config.patterns = config.read_patterns()?;
        Ok(config)
    }

    /// Checks that everything in it is supported.
    fn check(&self) -> Result<(), HubError> {
        for (key, value) in &self.entries {
            let fail = |reason: String| Err(HubError::key(&self.path, key, reason));
            let text = value.as_str().map(str::to_lowercase).unwrap_or_default();
            match bare(key) {
                "peft_type" if !KINDS.iter().any(|kind| kind.eq_ignore_ascii_case(&text)) => {
                    return fail(format!("{value} is not supported; expected one of {}", KINDS.join(", ")));
                }
                "fan_in_fan_out" if *value == Value::Bool(true) => {
                    return fail("true is not supported: the weights would be transposed".into());
                }
                "init_lora_weights" if RESIDUAL.iter().any(|way| text.starts_with(way)) => {
                    return fail(format!(
                        "{value} is not supported, because it modifies the model's own weights; save the adapter with PEFT's \
                         `path_initial_model_for_weight_conversion`"
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read_patterns(&self) -> Result<Vec<(String, Patterns)>, HubError> {
        let mut all = Vec::new();
        for (key, value) in &self.entries {
            if !["alpha_pattern", "rank_pattern"].contains(&bare(key)) || value.is_null() {
                continue;
            }
            let wrong = |reason: String| HubError::key(&self.path, key, reason);
            let Some(entries) = value.as_object() else {
                return Err(wrong(format!("{value}: expected an object of patterns and numbers")));
            };
            let mut list = Vec::new();
            for (pattern, number) in entries {
                let number =
                    number.as_f64().ok_or_else(|| wrong(format!("`{pattern}`: expected a number")))?;
                // Like PEFT, matches the end of a name, from its start or from a dot.
                let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$"));
                let regex = regex
                    .map_err(|e| wrong(format!("`{pattern}` is not a supported regular expression: {e}")))?;
                list.push((regex, number));
            }
            all.push((key.clone(), list));
        }
        Ok(all)
    }

    /// The entry for `component`, or the general one.
    fn get(&self, component: &str, key: &str) -> Option<&Value> {
        self.entries.get(&format!("{component}.{key}")).or_else(|| self.entries.get(key))
    }

    /// The value of the first pattern that matches the name of `layer`, or else the value at `keys`.
    fn number(&self, component: &str, layer: &str, pattern: &str, keys: &[&str]) -> Option<f64> {
        let own = format!("{component}.{pattern}");
        let list = [own.as_str(), pattern]
            .into_iter()
            .find_map(|key| Some(&self.patterns.iter().find(|(known, _)| known == key)?.1));
        let matched = list.and_then(|list| list.iter().find(|(regex, _)| regex.is_match(layer)));
        let general = || keys.iter().find_map(|key| self.get(component, key))?.as_f64();
        matched.map(|(_, number)| *number).or_else(general)
    }

    /// The configured factor of a layer, if any. `rank` is the rank of its matrices, if they have one.
    pub(super) fn factor(&self, component: &str, layer: &str, rank: Option<usize>) -> Option<f64> {
        let alpha = self.number(component, layer, "alpha_pattern", &["lora_alpha", "alpha"])?;
        let rank = match rank {
            Some(rank) => rank as f64,
            None => self.number(component, layer, "rank_pattern", &["r"])?,
        };
        let stabilized = self.get(component, "use_rslora").and_then(Value::as_bool).unwrap_or(false);
        Some(if stabilized { alpha / rank.sqrt() } else { alpha / rank })
    }
}

/// A key without the name of its component.
fn bare(key: &str) -> &str {
    let rest = COMPONENTS.iter().find_map(|component| key.strip_prefix(component)?.strip_prefix('.'));
    rest.unwrap_or(key)
}
