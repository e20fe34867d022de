//! Tokens that were learned for a text encoder: textual inversion (Gal et al. 2022, arXiv:2208.01618).

use std::path::Path;

use tweedie_models::{HostTensor, TensorSource};

use crate::{error::HubError, weights::SafetensorsFile};

/// A learned token: a word of prompts that stands for some vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct LearnedToken {
    /// The word.
    pub token: String,
    /// `[vectors, width]` for each text encoder.
    pub vectors: Vec<HostTensor>,
}

/// Keys of files for two text encoders, and the key that AUTOMATIC1111's web UI writes.
const SEVERAL: [&str; 2] = ["clip_l", "clip_g"];
const UNNAMED: &str = "emb_params";

impl LearnedToken {
    /// Reads a safetensors file for text encoders of these widths. The file has one tensor, whose name is the token if
    /// diffusers wrote it, or `clip_l` and `clip_g` for two text encoders. `token` takes the place of the file's own token, which
    /// by default is the name of the file.
    ///
    /// # Errors
    /// If the file is damaged or belongs to other text encoders.
    pub fn open(path: &Path, token: Option<&str>, widths: &[usize]) -> Result<Self, HubError> {
        let file = SafetensorsFile::open(path)?;
        let names = file.names();
        let stem = || path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let (keys, own) = match &*names {
            [name] if name == UNNAMED => (vec![name.clone()], stem()),
            [name] => (vec![name.clone()], name.clone()),
            names if names.len() == 2 && SEVERAL.iter().all(|key| names.iter().any(|name| name == key)) => {
                (SEVERAL.map(str::to_owned).to_vec(), stem())
            }
            names => {
                let found = names.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
                return Err(HubError::format(
                    path,
                    format!(
                        "not a textual inversion: {} tensors ({found}), expected one, or clip_l and clip_g",
                        names.len()
                    ),
                ));
            }
        };
        let read = |key: &String| -> Result<HostTensor, HubError> {
            let tensor = file.read(key).map_err(|reason| HubError::tensor(path, key, reason))?;
            let shape = match *tensor.shape {
                [width] => vec![1, width],
                [vectors @ 1..=75, width] => vec![vectors, width],
                _ => {
                    let reason = format!(
                        "has shape {:?}, expected [width], or [vectors, width] of 1 to 75 vectors",
                        tensor.shape
                    );
                    return Err(HubError::tensor(path, key, reason));
                }
            };
            if tensor.values.iter().any(|v| !v.is_finite()) {
                return Err(HubError::tensor(path, key, "has values that are not finite"));
            }
            Ok(HostTensor { shape, values: tensor.values })
        };
        let all: Vec<HostTensor> = keys.iter().map(read).collect::<Result<_, _>>()?;
        let found: Vec<usize> = all.iter().map(|tensor| tensor.shape[1]).collect();
        if found != widths {
            let reason =
                format!("vectors of width {found:?}, but the text encoders of the model have {widths:?}");
            return Err(HubError::format(path, reason));
        }
        let token = token.map_or(own, str::to_owned);
        if token.trim().is_empty() || token.contains(char::is_whitespace) {
            let reason = format!("the token `{token}`: expected a word without spaces; give it another name");
            return Err(HubError::format(path, reason));
        }
        Ok(Self { token, vectors: all })
    }
}
