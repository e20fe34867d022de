//! PEFT's configuration of a change, which says how much of it is made.

use std::path::PathBuf;

use regex::Regex;
use serde_json::{Map, Value};

use super::names::COMPONENTS;
use crate::{error::HubError, files, weights::SafetensorsFile};

/// Where diffusers keeps the configuration in a file's header, and PEFT beside its own file.
const HEADER: &str = "lora_adapter_metadata";
const BESIDE: (&str, &str) = ("adapter_model.safetensors", "adapter_config.json");

/// Kinds of changes that are read.
const KINDS: [&str; 3] = ["LORA", "LOHA", "LOKR"];
/// Ways to begin training that take something out of the model's own weights, which such a file does not hold.
const RESIDUAL: [&str; 4] = ["pissa", "olora", "corda", "loftq"];

/// What is known of how a file's changes are scaled.
pub(super) struct Config {
    /// Where it was found.
    path: PathBuf,
    entries: Map<String, Value>,
    /// By key.
    patterns: Vec<(String, Patterns)>,
}

/// Patterns of layers' names with their numbers, in order.
type Patterns = Vec<(Regex, f64)>;

impl Config {
    /// That of `file`; without entries where there is none.
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

    /// Whether it asks for nothing that is not done.
    fn check(&self) -> Result<(), HubError> {
        for (key, value) in &self.entries {
            let fail = |reason: String| Err(HubError::key(&self.path, key, reason));
            let text = value.as_str().map(str::to_lowercase).unwrap_or_default();
            match bare(key) {
                "peft_type" if !KINDS.iter().any(|kind| kind.eq_ignore_ascii_case(&text)) => {
                    return fail(format!("{value} is not supported; supported: {}", KINDS.join(", ")));
                }
                "fan_in_fan_out" if *value == Value::Bool(true) => {
                    return fail("true is not supported: the weights would be transposed".into());
                }
                "init_lora_weights" if RESIDUAL.iter().any(|way| text.starts_with(way)) => {
                    return fail(format!(
                        "{value}: such a change belongs to other weights than the model's. Save it in PEFT with \
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
                // As PEFT matches: the end of a name, from its beginning or a dot on.
                let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$"));
                let regex = regex.map_err(|e| {
                    wrong(format!("`{pattern}`: not a regular expression that is understood: {e}"))
                })?;
                list.push((regex, number));
            }
            all.push((key.clone(), list));
        }
        Ok(all)
    }

    /// An entry for `component`, or for all.
    fn get(&self, component: &str, key: &str) -> Option<&Value> {
        self.entries.get(&format!("{component}.{key}")).or_else(|| self.entries.get(key))
    }

    /// The number of the first pattern that the name of `layer` matches, or the number at `key`.
    fn number(&self, component: &str, layer: &str, pattern: &str, keys: &[&str]) -> Option<f64> {
        let own = format!("{component}.{pattern}");
        let list = [own.as_str(), pattern]
            .into_iter()
            .find_map(|key| Some(&self.patterns.iter().find(|(known, _)| known == key)?.1));
        let matched = list.and_then(|list| list.iter().find(|(regex, _)| regex.is_match(layer)));
        let general = || keys.iter().find_map(|key| self.get(component, key))?.as_f64();
        matched.map(|(_, number)| *number).or_else(general)
    }

    /// The number that the change of a layer is multiplied by, if anything says so. `rank` is that of its factors, if
    /// they tell it.
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

/// A key without the component that it is for.
fn bare(key: &str) -> &str {
    let rest = COMPONENTS.iter().find_map(|component| key.strip_prefix(component)?.strip_prefix('.'));
    rest.unwrap_or(key)
}
