//! Requests that are stored in images and other results, for `--like`. The files that they need may be elsewhere by now.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;
use tweedie::pipe::Request;

/// The request with files where they are: as it says, or in the data folder of the server that made `from`. With `flags`, the
/// command has flags for LoRAs and others, which an error names.
pub fn located(request: &Request, from: &Path, flags: bool) -> Result<Request> {
    let mut json = serde_json::to_value(request)?;
    let fields = json.as_object_mut().context("expected a request")?;
    for (field, value) in fields.iter_mut() {
        locate(value, from)
            .map_err(|missing| lacking(&missing, if flags { field } else { "" }, request, from))?;
    }
    Ok(serde_json::from_value(json)?)
}

/// Puts in where recorded files are. The error is one that is nowhere.
fn locate(value: &mut Value, from: &Path) -> Result<(), Missing> {
    match value {
        Value::Array(values) => values.iter_mut().try_for_each(|value| locate(value, from)),
        Value::Object(entries) => {
            let text = |name: &str| entries.get(name).and_then(Value::as_str).map(str::to_owned);
            if let (Some(path), sha256) = (text("path"), text("sha256")) {
                let place = found(Path::new(&path), from).ok_or(Missing { path, sha256 })?;
                entries.insert("path".into(), Value::from(place.to_string_lossy()));
                return Ok(());
            }
            entries.iter_mut().try_for_each(|(_, value)| locate(value, from))
        }
        _ => Ok(()),
    }
}

/// A file that is nowhere.
struct Missing {
    path: String,
    sha256: Option<String>,
}

fn found(path: &Path, from: &Path) -> Option<PathBuf> {
    // A server keeps results in a folder beside that of uploads.
    let beside = from.parent().into_iter().flat_map(|folder| [folder.to_owned(), folder.join("..")]);
    let beside = beside.map(|folder| folder.join(path)).filter(|_| path.is_relative());
    std::iter::once(path.to_owned()).chain(beside).find(|path| path.exists())
}

/// Says which file is missing, and how to give it.
fn lacking(Missing { path, sha256 }: &Missing, field: &str, request: &Request, from: &Path) -> anyhow::Error {
    let name = |file: &Path| file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let give = match field {
        "loras" => {
            let files = request.loras.iter().map(|lora| format!("--lora {}", name(&lora.file.path)));
            format!("give it with {}", files.collect::<Vec<_>>().join(" "))
        }
        "embeddings" => "give the learned tokens with --embedding".into(),
        "controls" => "give the images and ControlNets with --control-image and --controlnet".into(),
        "noise" => "give the file with --noise".into(),
        _ => "put it there, or run this in the data folder of the server that made the file".into(),
    };
    let hash = sha256.as_ref().map(|hash| format!(" (SHA-256 {hash})")).unwrap_or_default();
    anyhow::anyhow!("{}: it was made with `{path}`{hash}, which is not found; {give}", from.display())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(json: Value) -> Request {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn files_are_found_beside_a_result() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["inputs", "files"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        std::fs::write(dir.path().join("inputs/ab"), "abc").unwrap();
        let from = dir.path().join("files/x.png");
        let asked = request(json!({ "image": { "path": "inputs/ab", "sha256": "ab" } }));
        let image = located(&asked, &from, true).unwrap().image.unwrap();
        assert_eq!(std::fs::read(image.path).unwrap(), b"abc");
        assert_eq!(image.sha256.as_deref(), Some("ab"));
    }

    #[test]
    fn a_missing_file_is_asked_for() {
        let from = Path::new("a/x.png");
        let lora =
            |name: &str| json!({ "file": { "path": format!("loras/{name}"), "sha256": "12" }, "scale": 1 });
        for (asked, words) in [
            (
                json!({ "loras": [lora("a.safetensors"), lora("b.safetensors")] }),
                "a/x.png: it was made with `loras/a.safetensors` (SHA-256 12), which is not found; give it with --lora \
                 a.safetensors --lora b.safetensors",
            ),
            (json!({ "image": { "path": "inputs/no" } }), "`inputs/no`, which is not found; put it there"),
            (json!({ "known": { "image": { "path": "inputs/no" } } }), "run this in the data folder"),
            (json!({ "noise": { "path": "no" } }), "--noise"),
        ] {
            let error = located(&request(asked), from, true).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
