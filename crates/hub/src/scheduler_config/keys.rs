//! Reads the keys of a configuration one by one, so that every error names its key.

use std::{collections::BTreeSet, path::Path};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::foreign;
use crate::error::HubError;

/// The keys of one configuration, read by one class.
pub(super) struct Keys<'a> {
    entries: &'a Map<String, Value>,
    path: &'a Path,
    defaulted: BTreeSet<&'a str>,
    read: BTreeSet<&'static str>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(entries: &'a Map<String, Value>, path: &'a Path) -> Self {
        // diffusers lists the keys whose values were not chosen; a class uses its own defaults for them.
        let listed = entries.get("_use_default_values").and_then(Value::as_array);
        let defaulted = listed.into_iter().flatten().filter_map(Value::as_str).collect();
        Self { entries, path, defaulted, read: BTreeSet::new() }
    }

    /// The value of `key`, or `default` if it is absent or null.
    pub(super) fn take<T: DeserializeOwned>(&mut self, key: &'static str, default: T) -> Result<T, HubError> {
        self.read.insert(key);
        match self.entries.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(_) if self.defaulted.contains(key) => Ok(default),
            Some(value) => serde_json::from_value(value.clone())
                .map_err(|_| self.error(key, format!("{value} is invalid; expected {}", expected::<T>()))),
        }
    }

    /// A number that may be infinite.
    pub(super) fn number(&mut self, key: &'static str, default: f64) -> Result<f64, HubError> {
        match self.entries.get(key).and_then(Value::as_str) {
            Some(text @ ("Infinity" | "-Infinity")) => {
                self.read.insert(key);
                Ok(if text.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY })
            }
            _ => self.take(key, default),
        }
    }

    /// A boolean; null is false.
    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> Result<bool, HubError> {
        if self.entries.get(key) == Some(&Value::Null) {
            self.read.insert(key);
            return Ok(false);
        }
        self.take(key, default)
    }

    /// One of several names.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        default: &str,
        choices: &[(&str, T)],
    ) -> Result<T, HubError> {
        let found: String = self.take(key, default.to_string())?;
        match choices.iter().find(|(name, _)| *name == found) {
            Some(&(_, value)) => Ok(value),
            None => {
                let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
                Err(self.error(
                    key,
                    format!("\"{found}\" is not supported; expected one of {}", names.join(", ")),
                ))
            }
        }
    }

    /// A key with only one supported value.
    pub(super) fn only<T: DeserializeOwned + PartialEq + std::fmt::Debug>(
        &mut self,
        key: &'static str,
        value: T,
        default: T,
    ) -> Result<(), HubError> {
        let found = self.take(key, default)?;
        if found == value {
            return Ok(());
        }
        Err(self.error(key, format!("{found:?} is not supported; expected {value:?}")))
    }

    pub(super) fn error(&self, key: &str, reason: impl Into<String>) -> HubError {
        HubError::key(self.path, key, reason)
    }

    /// Checks that every key is known; returns keys of other classes whose values would have an effect there.
    pub(super) fn finish(self) -> Result<Vec<String>, HubError> {
        let mut passed_over = Vec::new();
        for (key, value) in self.entries {
            if key.starts_with('_') || self.read.contains(&**key) {
                continue;
            }
            if !foreign::known(key) {
                let reason = format!("unknown key; the keys of this class are {}", list(&self.read));
                return Err(self.error(key, reason));
            }
            if !self.defaulted.contains(&**key) && foreign::asks(key, value) {
                passed_over.push(key.clone());
            }
        }
        Ok(passed_over)
    }
}

fn list(names: &BTreeSet<&str>) -> String {
    names.iter().copied().collect::<Vec<_>>().join(", ")
}

fn expected<T>() -> &'static str {
    match std::any::type_name::<T>() {
        "f64" => "a number",
        "usize" => "an integer ≥ 0",
        "bool" => "true or false",
        "alloc::string::String" => "a string",
        _ => "a value of the expected type",
    }
}

/// Python writes infinities and NaN to JSON without quotes, which JSON does not allow.
pub(super) fn quote_non_finite(text: &str) -> String {
    replace_outside_strings(text, |rest| {
        ["-Infinity", "Infinity", "NaN"]
            .into_iter()
            .find(|t| rest.starts_with(t))
            .map(|t| (t.len(), format!("\"{t}\"")))
    })
}

/// The reverse of [`quote_non_finite`], for values.
pub(super) fn unquote_non_finite(text: &str) -> String {
    let mut text = text.to_string();
    for token in ["-Infinity", "Infinity", "NaN"] {
        text = text.replace(&format!(": \"{token}\""), &format!(": {token}"));
    }
    text
}

fn replace_outside_strings(text: &str, find: impl Fn(&str) -> Option<(usize, String)>) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut quoted, mut escaped) = (text, false, false);
    while let Some(c) = rest.chars().next() {
        if !quoted && let Some((length, new)) = find(rest) {
            out.push_str(&new);
            rest = &rest[length..];
            continue;
        }
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = quoted,
            '"' => quoted = !quoted,
            _ => {}
        }
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pythons_infinities_become_strings_and_back() {
        let text = r#"{"a": -Infinity, "b\"Infinity": "NaN, Infinity", "c": NaN}"#;
        let quoted = quote_non_finite(text);
        assert_eq!(quoted, r#"{"a": "-Infinity", "b\"Infinity": "NaN, Infinity", "c": "NaN"}"#);
        assert_eq!(unquote_non_finite(&quoted), text);
    }
}
