//! What a client has ordered: a request for a model, as it is stored in the journal.
//!
//! A request over HTTP never names a file of the server: files are uploaded first, and the request contains their SHA-256.
//! [`checked`] turns them into places in the store, which also stand in the metadata of results; [`resolved`] turns places
//! into paths just before a job is prepared.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tweedie_pipe::Request;
use utoipa::ToSchema;

use crate::{Fault, store::Store};

/// The folder in the store that requests refer to.
const INPUTS: &str = "inputs/";

/// Which jobs go first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Before all others.
    High,
    /// The default.
    #[default]
    Normal,
    /// If nothing else is to be done.
    Low,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It has not begun.
    Queued,
    /// It has begun.
    Running,
    /// All results are stored.
    Finished,
    /// It has failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl State {
    /// Its name in JSON and in the journal.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Queued, Self::Running, Self::Finished, Self::Failed, Self::Cancelled]
            .into_iter()
            .find(|state| state.name() == name)
    }

    /// Whether nothing more will happen.
    pub fn is_last(self) -> bool {
        matches!(self, Self::Finished | Self::Failed | Self::Cancelled)
    }
}

/// An accepted order.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// A random name.
    pub id: String,
    /// Who ordered it.
    pub client: String,
    /// The model.
    pub model: String,
    /// The request as JSON, with places in the store.
    pub request: Value,
    /// Its priority.
    pub priority: Priority,
    /// When it was accepted, in milliseconds since 1970.
    pub created: u64,
    /// When it fails unless it is finished, in milliseconds since 1970.
    pub deadline: Option<u64>,
    /// Number of previews at evenly spaced steps that are made in any case.
    pub partials: usize,
    /// The client's own name for this order, and a hash of what it ordered.
    pub idempotency: Option<(String, String)>,
}

/// A request from HTTP, checked: it names no path, and the files that it refers to are in the store.
///
/// # Errors
/// [`Fault`] naming the field.
pub fn checked(mut json: Map<String, Value>, store: &Store) -> Result<(Value, Request), Fault> {
    if let Some(Value::Array(loras)) = json.get_mut("loras") {
        loras.iter_mut().try_for_each(|lora| named(lora, store))?;
    }
    for (name, value) in &mut json {
        place(name, value, store)?;
    }
    let json = Value::Object(json);
    let request = Request::deserialize(&json).map_err(|e| Fault::invalid(format!("request: {e}")))?;
    // What is stored is what was understood, in one form.
    let json = serde_json::to_value(&request).map_err(|e| Fault::internal(e.to_string()))?;
    Ok((json, request))
}

/// Replaces the name of a LoRA by its file.
fn named(lora: &mut Value, store: &Store) -> Result<(), Fault> {
    let Some(entries) = lora.as_object_mut() else { return Ok(()) };
    let Some(name) = entries.remove("name") else { return Ok(()) };
    let hash = name.as_str().and_then(|name| store.lora(name)).ok_or_else(|| {
        let known: Vec<_> = store.loras().map(|name| format!("`{name}`")).collect();
        let known = if known.is_empty() { "this server has none".to_owned() } else { known.join(" or ") };
        Fault::field("loras", format!("unknown LoRA {name}; expected one of: {known}"))
    })?;
    if entries.insert("file".into(), json!({ "sha256": hash })).is_some() {
        return Err(Fault::field(
            "loras",
            format!("the LoRA {name} has a name and a file; expected one of them"),
        ));
    }
    entries.entry("scale").or_insert_with(|| 1.0.into());
    Ok(())
}

fn place(name: &str, value: &mut Value, store: &Store) -> Result<(), Fault> {
    match value {
        Value::Array(values) => values.iter_mut().try_for_each(|value| place(name, value, store)),
        Value::Object(entries) => {
            if entries.contains_key("path") {
                return Err(Fault::field(
                    name,
                    "a request over HTTP cannot name a file of the server; upload the file as a part of a multipart \
                     request, or refer to an uploaded file or a result by `{\"sha256\": \"…\"}`",
                ));
            }
            if let Some(hash) = entries.get("sha256") {
                let hash = hash.as_str().unwrap_or_default().to_ascii_lowercase();
                if store.find(&hash).is_none() {
                    let reason = format!("no uploaded file or result has the SHA-256 `{hash}`");
                    return Err(Fault::field(name, reason));
                }
                entries.insert("path".into(), format!("{INPUTS}{hash}").into());
                entries.insert("sha256".into(), hash.into());
                return Ok(());
            }
            entries.iter_mut().try_for_each(|(_, value)| place(name, value, store))
        }
        _ => Ok(()),
    }
}

/// The request with paths.
///
/// # Errors
/// If a file is no longer in the store.
pub fn resolved(json: &Value, store: &Store) -> Result<Request, Fault> {
    let mut json = json.clone();
    locate(&mut json, store)?;
    Request::deserialize(&json).map_err(|e| Fault::internal(format!("the stored request: {e}")))
}

fn locate(value: &mut Value, store: &Store) -> Result<(), Fault> {
    match value {
        Value::Array(values) => values.iter_mut().try_for_each(|value| locate(value, store)),
        Value::Object(entries) => {
            let hash = entries.get("path").and_then(Value::as_str).and_then(|path| path.strip_prefix(INPUTS));
            if let Some(hash) = hash {
                let path = store.find(hash);
                let path = path.ok_or_else(|| {
                    Fault::missing(format!("the uploaded file with the SHA-256 `{hash}` was deleted"))
                })?;
                entries.insert("path".into(), text_of(&path)?.into());
                return Ok(());
            }
            entries.iter_mut().try_for_each(|(_, value)| locate(value, store))
        }
        _ => Ok(()),
    }
}

fn text_of(path: &Path) -> Result<&str, Fault> {
    path.to_str().ok_or_else(|| Fault::internal("the data folder has a name that is not UTF-8"))
}

/// The hashes of the files that a request refers to.
pub fn inputs(json: &Value) -> Vec<String> {
    match json {
        Value::Array(values) => values.iter().flat_map(inputs).collect(),
        Value::Object(entries) => {
            let own = entries.get("path").and_then(Value::as_str).and_then(|path| path.strip_prefix(INPUTS));
            own.map(str::to_owned).into_iter().chain(entries.values().flat_map(inputs)).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn no_path_gets_through() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for request in [
            json!({ "image": { "path": "/etc/passwd" } }),
            json!({ "noise": { "path": "a", "sha256": "b" } }),
            json!({ "loras": [{ "file": { "path": "a" }, "scale": 1 }] }),
        ] {
            let fault = checked(object(request), &store).unwrap_err();
            assert!(fault.message.contains("cannot name a file"), "{fault}");
        }
        let fault = checked(object(json!({ "image": { "sha256": "../../etc" } })), &store).unwrap_err();
        assert!(fault.message.contains("no uploaded file"), "{fault}");
        let fault = checked(object(json!({ "image": "a.png" })), &store).unwrap_err();
        assert_eq!(fault.code, "invalid_request");
    }

    #[test]
    fn loras_have_names() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("style.safetensors");
        std::fs::write(&file, "abc").unwrap();
        let store = Store::open(dir.path()).unwrap().with_loras(std::slice::from_ref(&file)).unwrap();
        let (stored, _) = checked(object(json!({ "loras": [{ "name": "style" }] })), &store).unwrap();
        let request = resolved(&stored, &store).unwrap();
        assert_eq!((&request.loras[0].file.path, request.loras[0].scale), (&file, 1.0));
        let found = store.find(store.lora("style").unwrap());
        assert_eq!(found, Some(file.clone()));
        for (lora, words) in [
            (json!({ "name": "other" }), ["unknown LoRA \"other\"", "`style`"]),
            (json!({ "name": "style", "file": { "sha256": "a" } }), ["a name and a file", "loras"]),
            (json!({ "name": 3 }), ["unknown LoRA 3", "loras"]),
        ] {
            let fault = checked(object(json!({ "loras": [lora] })), &store).unwrap_err();
            let text = format!("{:?} {fault}", fault.param);
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        }
        assert!(Store::open(dir.path()).unwrap().with_loras(&[file.clone(), file]).is_err());
    }

    #[test]
    fn uploads_are_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let hash = store.put_input(b"abc").unwrap();
        let (json, request) = checked(object(json!({ "image": { "sha256": hash } })), &store).unwrap();
        assert!(request.image.unwrap().path.starts_with("inputs"));
        assert_eq!(inputs(&json), [hash]);
        let request = resolved(&json, &store).unwrap();
        let file = request.image.unwrap();
        assert_eq!(std::fs::read(&file.path).unwrap(), b"abc");
        file.check().unwrap();
    }
}
