//! What a client has ordered: a request for a model, as it is stored in the journal.
//!
//! A request over HTTP never names a file of the server: files are uploaded first, and the request contains their SHA-256;
//! LoRAs and ControlNets of the server have names. [`checked`] turns them into places in the store, which also stand in the
//! metadata of results; [`resolved`] turns places into paths just before a job is prepared.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tweedie_pipe::Request;
use utoipa::ToSchema;

use crate::{
    Fault,
    store::{Part, Store},
};

/// The folder of uploads in the store.
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
    for (name, value) in &mut json {
        place(name, value, store)?;
    }
    if let Some(Value::Array(loras)) = json.get_mut("loras") {
        loras.iter_mut().try_for_each(|lora| named_lora(lora, store))?;
    }
    if let Some(Value::Array(controls)) = json.get_mut("controls") {
        controls.iter_mut().try_for_each(|control| named_net(control, store))?;
    }
    let json = Value::Object(json);
    let request = Request::deserialize(&json).map_err(|e| Fault::invalid(format!("request: {e}")))?;
    // What is stored is what was understood, in one form.
    let json = serde_json::to_value(&request).map_err(|e| Fault::internal(e.to_string()))?;
    Ok((json, request))
}

/// The recorded file of a part of the server, with a place that tells its name.
fn recorded(part: Part, field: &str, name: &Value, store: &Store) -> Result<Value, Fault> {
    let found = name.as_str().and_then(|name| store.named(part).find(|named| named.name == name));
    let named = found.ok_or_else(|| {
        let known: Vec<_> = store.named(part).map(|named| format!("`{}`", named.name)).collect();
        let known = if known.is_empty() { "this server has none".to_owned() } else { known.join(" or ") };
        let noun = part.noun();
        let found = if name.is_null() {
            format!("a {noun} without a name")
        } else {
            format!("unknown {noun} {name}")
        };
        Fault::field(field, format!("{found}; expected one of: {known}"))
    })?;
    let file = named.path.file_name().and_then(|file| file.to_str()).unwrap_or(&named.name);
    Ok(json!({ "path": format!("{}/{file}", part.folder()), "sha256": named.sha256 }))
}

/// Replaces the name of a LoRA by its file.
fn named_lora(lora: &mut Value, store: &Store) -> Result<(), Fault> {
    let Some(entries) = lora.as_object_mut() else { return Ok(()) };
    let Some(name) = entries.remove("name") else { return Ok(()) };
    let file = recorded(Part::Lora, "loras", &name, store)?;
    if entries.insert("file".into(), file).is_some() {
        let reason = format!("the LoRA {name} has a name and a file; expected one of them");
        return Err(Fault::field("loras", reason));
    }
    entries.entry("scale").or_insert_with(|| 1.0.into());
    Ok(())
}

/// Replaces the name of a ControlNet by its folder.
fn named_net(control: &mut Value, store: &Store) -> Result<(), Fault> {
    let Some(net) = control.get_mut("net").filter(|net| !net.is_null()) else { return Ok(()) };
    // A ControlNet is a folder, which cannot be uploaded.
    let name = net.get("name").or(net.is_string().then_some(net)).cloned().unwrap_or_default();
    *net = recorded(Part::ControlNet, "controls", &name, store)?;
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
            if let Some(stored) = entries.get("path").and_then(Value::as_str) {
                let hash = match stored.strip_prefix(INPUTS) {
                    Some(hash) => hash,
                    None => entries.get("sha256").and_then(Value::as_str).unwrap_or_default(),
                };
                let path = store.find(hash);
                let path = path.ok_or_else(|| gone(stored, hash))?;
                entries.insert("path".into(), text_of(&path)?.into());
                return Ok(());
            }
            entries.iter_mut().try_for_each(|(_, value)| locate(value, store))
        }
        _ => Ok(()),
    }
}

fn gone(stored: &str, hash: &str) -> Fault {
    Fault::missing(match stored.starts_with(INPUTS) {
        true => format!("the uploaded file with the SHA-256 `{hash}` was deleted"),
        false => format!("this server no longer has `{stored}` with the SHA-256 `{hash}`"),
    })
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
        let parts = [(Part::Lora, file.as_path())];
        let store = Store::open(dir.path()).unwrap().with_named(&parts).unwrap();
        let (stored, _) = checked(object(json!({ "loras": [{ "name": "style" }] })), &store).unwrap();
        // The metadata of results tells which file it was.
        assert_eq!(stored["loras"][0]["file"]["path"], "loras/style.safetensors");
        let request = resolved(&stored, &store).unwrap();
        assert_eq!((&request.loras[0].file.path, request.loras[0].scale), (&file, 1.0));
        assert!(inputs(&stored).is_empty());
        let gone = resolved(&stored, &Store::open(dir.path()).unwrap()).unwrap_err();
        assert!(gone.message.contains("no longer has `loras/style.safetensors`"), "{gone}");
        let upload = store.put_input(b"abd").unwrap();
        for (lora, words) in [
            (json!({ "name": "other" }), ["unknown LoRA \"other\"", "`style`"]),
            (json!({ "name": "style", "file": { "sha256": upload } }), ["a name and a file", "loras"]),
            (json!({ "name": 3 }), ["unknown LoRA 3", "loras"]),
        ] {
            let fault = checked(object(json!({ "loras": [lora] })), &store).unwrap_err();
            let text = format!("{:?} {fault}", fault.param);
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        }
        assert!(Store::open(dir.path()).unwrap().with_named(&[parts[0], parts[0]]).is_err());
    }

    #[test]
    fn controlnets_have_names() {
        let dir = tempfile::tempdir().unwrap();
        let net = dir.path().join("edges");
        std::fs::create_dir(&net).unwrap();
        std::fs::write(net.join("config.json"), "{}").unwrap();
        let open = || Store::open(dir.path()).unwrap();
        let store = open().with_named(&[(Part::ControlNet, &net)]).unwrap();
        let image = store.put_input(b"abc").unwrap();
        let control = |net: Value| json!({ "image": { "sha256": image }, "net": net });
        for net_of in [json!("edges"), json!({ "name": "edges" })] {
            let asked = object(json!({ "controls": [control(net_of)] }));
            let (stored, _) = checked(asked, &store).unwrap();
            assert_eq!(stored["controls"][0]["net"]["path"], "controlnets/edges");
            let request = resolved(&stored, &store).unwrap();
            assert_eq!(request.controls[0].net.as_ref().unwrap().path, net);
            request.controls[0].net.as_ref().unwrap().check().unwrap();
        }
        for (wrong, words) in [
            (json!("depth"), "unknown ControlNet \"depth\"; expected one of: `edges`"),
            (json!({ "path": "/etc" }), "cannot name a file"),
            (json!({ "sha256": image }), "a ControlNet without a name; expected one of: `edges`"),
        ] {
            let fault = checked(object(json!({ "controls": [control(wrong)] })), &store).unwrap_err();
            assert!(fault.message.contains(words), "{fault}");
        }
        let error = open().with_named(&[(Part::Lora, &net)]).unwrap_err().to_string();
        assert!(error.contains("edges: expected a file"), "{error}");
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
