//! Reads the configurations of networks. Unknown keys and invalid values are errors that name them.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// A configuration that does not describe a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The text is not a JSON object.
    #[error("expected a JSON object: {0}")]
    Json(String),
    /// An unknown key.
    #[error("unknown key `{0}`")]
    UnknownKey(String),
    /// A value of the wrong type, out of range, or contradicting others.
    #[error("`{key}` is {value}: {reason}")]
    Value {
        /// Name of the key.
        key: String,
        /// The value, as JSON.
        value: String,
        /// What is wrong and what was expected.
        reason: String,
    },
}

impl ConfigError {
    pub(crate) fn value(key: &str, value: impl Serialize, reason: impl Into<String>) -> Self {
        let value = serde_json::to_string(&value).unwrap_or_default();
        Self::Value { key: key.into(), value, reason: reason.into() }
    }
}

/// What a configuration of one class may contain besides the keys that are read.
pub(crate) struct Format<'a> {
    /// Name of the class in diffusers or transformers.
    pub(crate) class: &'a str,
    /// Keys that do not affect the network.
    pub(crate) harmless: &'a [&'a str],
    /// Keys with their only supported value, as JSON.
    pub(crate) fixed: &'a [(&'a str, &'a str)],
}

/// Reads the keys of `T`, which must have `serde(default)`. Keys that start with an underscore are metadata of the
/// program that wrote the file and are ignored, except `_class_name`.
pub(crate) fn read<T>(text: &str, format: &Format<'_>) -> Result<T, ConfigError>
where
    T: Default + Serialize + DeserializeOwned,
{
    let mut entries: Map<String, Value> =
        serde_json::from_str(text).map_err(|e| ConfigError::Json(e.to_string()))?;
    if let Some(class) = entries.get("_class_name").filter(|class| class.as_str() != Some(format.class)) {
        return Err(ConfigError::value("_class_name", class, format!("expected {:?}", format.class)));
    }
    for (key, only) in format.fixed {
        if let Some(value) =
            entries.remove(*key).filter(|value| serde_json::from_str(only).ok().as_ref() != Some(value))
        {
            return Err(ConfigError::value(key, value, format!("only {only} is supported")));
        }
    }
    entries.retain(|key, _| !key.starts_with('_') && !format.harmless.contains(&key.as_str()));

    let known = entries_of(&T::default());
    if let Some(key) = entries.keys().find(|key| !known.contains_key(*key)) {
        return Err(ConfigError::UnknownKey(key.clone()));
    }
    // serde's messages do not name the key, so each key is tried separately to find the invalid one.
    for (key, value) in &entries {
        let alone = Value::Object(Map::from_iter([(key.clone(), value.clone())]));
        if let Err(e) = serde_json::from_value::<T>(alone) {
            return Err(ConfigError::value(key, value, e.to_string()));
        }
    }
    serde_json::from_value(Value::Object(entries)).map_err(|e| ConfigError::Json(e.to_string()))
}

/// Checks that each of `values` lies within its range.
pub(crate) fn in_range(values: &[(&str, usize, usize, usize)]) -> Result<(), ConfigError> {
    match values.iter().find(|(_, value, least, most)| value < least || value > most) {
        Some((key, value, least, most)) => {
            Err(ConfigError::value(key, value, format!("expected between {least} and {most}")))
        }
        None => Ok(()),
    }
}

/// The keys and values of a configuration.
pub(crate) fn entries_of<T: Serialize>(config: &T) -> Map<String, Value> {
    match serde_json::to_value(config) {
        Ok(Value::Object(entries)) => entries,
        _ => unreachable!("a struct serializes to an object"),
    }
}

/// The `config.json` for diffusers.
pub(crate) fn write<T: Serialize>(config: &T, class: &str) -> String {
    let mut entries = Map::from_iter([
        ("_class_name".into(), Value::from(class)),
        ("_diffusers_version".into(), Value::from(crate::unet::DIFFUSERS_VERSION)),
    ]);
    entries.extend(entries_of(config));
    let mut text = serde_json::to_string_pretty(&entries).expect("a map of JSON values");
    text.push('\n');
    text
}
