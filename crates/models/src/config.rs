//! Reading the configurations of networks: strict about keys, precise about what is wrong.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// A configuration that describes no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not a JSON object.
    #[error("expected a JSON object: {0}")]
    Json(String),
    /// A key that nothing reads.
    #[error("unknown key `{0}`")]
    UnknownKey(String),
    /// A value of the wrong type, out of range, or in contradiction to others.
    #[error("`{key}` is {value}: {reason}")]
    Value {
        /// The key.
        key: String,
        /// Its value, as JSON.
        value: String,
        /// What was expected.
        reason: String,
    },
}

impl ConfigError {
    pub(crate) fn value(key: &str, value: impl Serialize, reason: impl Into<String>) -> Self {
        let value = serde_json::to_string(&value).unwrap_or_default();
        Self::Value { key: key.into(), value, reason: reason.into() }
    }
}

/// What a configuration of one class may hold beside the keys that are read.
pub(crate) struct Format<'a> {
    /// diffusers' or transformers' name of the class.
    pub(crate) class: &'a str,
    /// Keys that say nothing about the network.
    pub(crate) harmless: &'a [&'a str],
    /// Keys with the only value that is supported, as JSON.
    pub(crate) fixed: &'a [(&'a str, &'a str)],
}

/// Reads the keys of `T`, which has `serde(default)`. Keys that begin with an underscore are notes of the
/// program that wrote the file; of these only `_class_name` is looked at.
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
    // serde's messages do not say which key they are about, so a bad one is looked for by itself.
    for (key, value) in &entries {
        let alone = Value::Object(Map::from_iter([(key.clone(), value.clone())]));
        if let Err(e) = serde_json::from_value::<T>(alone) {
            return Err(ConfigError::value(key, value, e.to_string()));
        }
    }
    serde_json::from_value(Value::Object(entries)).map_err(|e| ConfigError::Json(e.to_string()))
}

/// Whether each of `values` lies within its range.
pub(crate) fn in_range(values: &[(&str, usize, usize, usize)]) -> Result<(), ConfigError> {
    match values.iter().find(|(_, value, least, most)| value < least || value > most) {
        Some((key, value, least, most)) => {
            Err(ConfigError::value(key, value, format!("expected between {least} and {most}")))
        }
        None => Ok(()),
    }
}

/// The keys that a configuration writes.
pub(crate) fn entries_of<T: Serialize>(config: &T) -> Map<String, Value> {
    match serde_json::to_value(config) {
        Ok(Value::Object(entries)) => entries,
        _ => unreachable!("a struct serializes to an object"),
    }
}

/// `config.json` as diffusers reads it.
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
