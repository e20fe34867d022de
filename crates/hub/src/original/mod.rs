//! Single-file checkpoints of Stable Diffusion 1.x, 2.x and XL, as published by their authors and most fine-tuners: one
//! safetensors file with the tensors of all components, under the names of the original code, without configuration.
//!
//! Tables in `names` map tensor names to those of diffusers; `configs` infers configurations from shapes. The tokenizer
//! and the sampling settings are not in such a file.

mod configs;
pub(crate) mod names;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tweedie_models::{HostTensor, TensorSource};

use crate::{
    component::ComponentDir, error::HubError, scheduler_config::SchedulerConfig, weights::SafetensorsFile,
};

/// The version of Stable Diffusion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// 1.x: one CLIP encoder.
    Sd1,
    /// 2.x: one OpenCLIP encoder without its last layer.
    Sd2,
    /// XL: a CLIP and an OpenCLIP encoder.
    Sdxl,
}

/// What a model's U-Net predicts, which its file does not contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// The noise.
    Eps,
    /// The velocity.
    V,
}

/// A checkpoint whose header has been read.
pub struct OriginalCheckpoint {
    file: SafetensorsFile,
    family: Family,
    prediction: Prediction,
}

/// How a tensor is taken from the original one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Whole,
    /// One of three equal parts of the first axis.
    Third(usize),
    Transposed,
    /// A 1×1 convolution as a linear layer.
    Linear,
}

/// The tensors of one component, under diffusers' names.
pub struct Part<'a> {
    file: &'a SafetensorsFile,
    prefix: &'static str,
    /// diffusers' name, the original name with prefix, and how to take it.
    tensors: BTreeMap<String, (String, Cut)>,
}

const UNET: &str = "model.diffusion_model.";
const AUTOENCODER: &str = "first_stage_model.";
const SD1_TEXT: &str = "cond_stage_model.transformer.";
const SD2_TEXT: &str = "cond_stage_model.model.";
const SDXL_TEXTS: [&str; 2] = ["conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."];
const REFINER_TEXT: &str = "conditioner.embedders.0.model.";
/// Tensors that are not weights, or are only used in training.
const IDLE: [&str; 3] = ["position_ids", "logit_scale", "attn_mask"];

impl OriginalCheckpoint {
    /// Opens the file at `path`. `prediction` is what its U-Net predicts; by default noise, and velocity for 2.x, like the
    /// models for 768×768 pixels.
    ///
    /// # Errors
    /// If it is damaged, or not one of these models.
    pub fn open(path: &Path, prediction: Option<Prediction>) -> Result<Self, HubError> {
        let file = SafetensorsFile::open(path)?;
        let names = file.names();
        let has = |prefix: &str| names.iter().any(|name| name.starts_with(prefix));
        if let Some(missing) = [UNET, AUTOENCODER].into_iter().find(|prefix| !has(prefix)) {
            let reason = format!(
                "not a single-file checkpoint of Stable Diffusion 1.x, 2.x or XL: no tensor name starts with \
                 `{missing}`"
            );
            return Err(HubError::format(path, reason));
        }
        let family = match (has(SD1_TEXT), has(SD2_TEXT), has(SDXL_TEXTS[0]) && has(SDXL_TEXTS[1])) {
            (true, _, _) => Family::Sd1,
            (_, true, _) => Family::Sd2,
            (_, _, true) => Family::Sdxl,
            _ if has(REFINER_TEXT) => {
                let reason = "SDXL refiners are only supported as networks, not as pipelines";
                return Err(HubError::format(path, reason));
            }
            _ => {
                let reason = format!(
                    "no text encoder: no tensor name starts with `{SD1_TEXT}`, `{SD2_TEXT}` or `{}`",
                    SDXL_TEXTS[0]
                );
                return Err(HubError::format(path, reason));
            }
        };
        let by_default = if family == Family::Sd2 { Prediction::V } else { Prediction::Eps };
        Ok(Self { file, family, prediction: prediction.unwrap_or(by_default) })
    }

    /// The version of the model.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Names of its components in diffusers.
    pub fn components(&self) -> &'static [&'static str] {
        match self.family {
            Family::Sdxl => &["vae", "text_encoder", "text_encoder_2", "unet"],
            _ => &["vae", "text_encoder", "unet"],
        }
    }

    /// The network of a component by diffusers' name, for example `unet`, and its tensors.
    ///
    /// # Errors
    /// If the model has no such component, it has a tensor with an unknown name, or tensors are missing whose shapes
    /// determine the configuration.
    pub fn component(&self, name: &str) -> Result<(ComponentDir, Part<'_>), HubError> {
        let found = match (name, self.family) {
            ("unet", _) => self.unet(),
            ("vae", _) => self.autoencoder(),
            ("text_encoder", Family::Sd1) => self.clip(SD1_TEXT),
            ("text_encoder", Family::Sd2) => self.open_clip(SD2_TEXT, false),
            ("text_encoder", Family::Sdxl) => self.clip(SDXL_TEXTS[0]),
            ("text_encoder_2", Family::Sdxl) => self.open_clip(SDXL_TEXTS[1], true),
            _ => Err(format!("has no component `{name}`")),
        };
        let (config, part) = found.map_err(|reason| HubError::format(self.path(), reason))?;
        let class = ["_class_name", "architectures"].into_iter().find_map(|key| {
            let entry = config.get(key)?;
            entry.as_str().or_else(|| entry.get(0)?.as_str())
        });
        let class = class.unwrap_or_default().to_owned();
        Ok((ComponentDir::described(self.path(), class, config.to_string()), part))
    }

    fn part(&self, prefix: &'static str) -> Part<'_> {
        Part { file: &self.file, prefix, tensors: BTreeMap::new() }
    }

    fn unet(&self) -> Result<(Value, Part<'_>), String> {
        let mut part = self.part(UNET);
        let layers = configs::unet_layers(&part);
        part.rename(|name| Some(vec![names::unet(name, layers)?]))?;
        let mut config = configs::unet(&part)?;
        config["sample_size"] = json!(match (self.family, self.prediction) {
            (Family::Sdxl, _) => 128,
            (Family::Sd2, Prediction::V) => 96,
            _ => 64,
        });
        Ok((config, part))
    }

    fn autoencoder(&self) -> Result<(Value, Part<'_>), String> {
        let mut part = self.part(AUTOENCODER);
        let levels = configs::autoencoder_levels(&part);
        part.rename(|name| Some(vec![names::autoencoder(name, levels)?]))?;
        let scaling_factor = if self.family == Family::Sdxl { 0.13025 } else { 0.18215 };
        Ok((configs::autoencoder(&part, scaling_factor)?, part))
    }

    fn clip(&self, prefix: &'static str) -> Result<(Value, Part<'_>), String> {
        let mut part = self.part(prefix);
        part.rename(|name| Some(vec![name.to_owned()]))?;
        Ok((configs::clip(&part)?, part))
    }

    fn open_clip(&self, prefix: &'static str, projected: bool) -> Result<(Value, Part<'_>), String> {
        let mut part = self.part(prefix);
        // Without projection, the features are those before the last layer.
        let layers = configs::open_clip_layers(&part).saturating_sub(usize::from(!projected));
        part.rename(|name| match names::open_clip_layer(name) {
            Some((layer, _)) if layer >= layers => Some(Vec::new()),
            None if !projected && name == "text_projection" => Some(Vec::new()),
            _ => names::open_clip(name),
        })?;
        Ok((configs::open_clip(&part, layers, projected)?, part))
    }

    /// The scheduler configuration that diffusers' pipelines use for this model.
    ///
    /// # Errors
    /// None that a file could cause.
    pub fn scheduler(&self) -> Result<SchedulerConfig, HubError> {
        let prediction = match self.prediction {
            Prediction::Eps => "epsilon",
            Prediction::V => "v_prediction",
        };
        let mut config = json!({
            "_class_name": "PNDMScheduler",
            "num_train_timesteps": 1000,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "prediction_type": prediction,
            "timestep_spacing": "leading",
            "steps_offset": 1,
        });
        match self.family {
            Family::Sdxl => config["_class_name"] = json!("EulerDiscreteScheduler"),
            _ => {
                config["skip_prk_steps"] = json!(true);
                config["set_alpha_to_one"] = json!(false);
            }
        }
        SchedulerConfig::from_json(&config.to_string(), self.path())
    }
}

impl Part<'_> {
    /// The shape of a tensor by its original name without the component's prefix.
    fn original_shape(&self, name: &str) -> Option<Vec<usize>> {
        self.file.shape(&format!("{}{name}", self.prefix))
    }

    /// Adds all tensors of the component under the names that `rename` returns: several for equal parts, or none if the
    /// tensor is not needed.
    fn rename(&mut self, rename: impl Fn(&str) -> Option<Vec<String>>) -> Result<(), String> {
        for whole in self.file.names() {
            let Some(name) = whole.strip_prefix(self.prefix) else { continue };
            if IDLE.iter().any(|idle| name.ends_with(idle)) {
                continue;
            }
            let renamed = rename(name).ok_or_else(|| {
                format!("unexpected tensor `{whole}`, which does not belong to a known layer")
            })?;
            let rank = self.file.shape(&whole).map_or(0, |shape| shape.len());
            let parts = renamed.len();
            for (i, name) in renamed.into_iter().enumerate() {
                let linear =
                    rank == 4 && [".to_q.", ".to_k.", ".to_v.", ".to_out."].iter().any(|l| name.contains(l));
                let cut = match parts {
                    3 => Cut::Third(i),
                    _ if name == "text_projection.weight" && whole.ends_with("text_projection") => {
                        Cut::Transposed
                    }
                    _ if linear => Cut::Linear,
                    _ => Cut::Whole,
                };
                self.tensors.insert(name, (whole.clone(), cut));
            }
        }
        Ok(())
    }
}

impl TensorSource for Part<'_> {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let (whole, cut) = self.tensors.get(name)?;
        let mut shape = self.file.shape(whole)?;
        match cut {
            Cut::Whole => {}
            Cut::Third(_) => *shape.first_mut()? /= 3,
            Cut::Transposed => shape.reverse(),
            Cut::Linear => shape.truncate(2),
        }
        Some(shape)
    }

    fn read(&self, name: &str) -> Result<HostTensor, String> {
        let (whole, cut) = self.tensors.get(name).ok_or("missing")?;
        let mut tensor = self.file.read(whole)?;
        let shape = tensor.shape.clone();
        match (cut, shape.as_slice()) {
            (Cut::Whole, _) => {}
            (Cut::Third(i), [rows, ..]) if rows.is_multiple_of(3) => {
                let third = tensor.values.len() / 3;
                tensor.values = tensor.values[i * third..(i + 1) * third].to_vec();
                tensor.shape[0] /= 3;
            }
            (Cut::Transposed, &[rows, columns]) => {
                let values = (0..columns).flat_map(|c| (0..rows).map(move |r| (r, c)));
                tensor.values = values.map(|(r, c)| tensor.values[r * columns + c]).collect();
                tensor.shape.reverse();
            }
            (Cut::Linear, [_, _, 1, 1]) => tensor.shape.truncate(2),
            _ => return Err(format!("tensor `{whole}` has an unexpected shape {shape:?}")),
        }
        Ok(tensor)
    }

    fn data(&self, name: &str) -> Result<burn::tensor::TensorData, String> {
        match self.tensors.get(name) {
            Some((whole, Cut::Whole)) => self.file.data(whole),
            _ => self.read(name)?.into_data(),
        }
    }
}

/// The folder of a checkpoint's tokenizer: the given one, or that of the file.
pub(crate) fn tokenizer_dir(checkpoint: &Path, given: Option<&Path>) -> Result<PathBuf, HubError> {
    if let Some(dir) = given {
        return Ok(dir.into());
    }
    let beside = checkpoint.parent().unwrap_or(Path::new(""));
    let holds = |dir: &Path| ["vocab.json", "tokenizer.json"].iter().any(|file| dir.join(file).exists());
    let dir = [beside.join("tokenizer"), beside.to_owned()].into_iter().find(|dir| holds(dir));
    dir.ok_or_else(|| {
        let reason = "a single-file checkpoint has no tokenizer; give the folder of CLIP's tokenizer (vocab.json and \
                      merges.txt, or tokenizer.json), or put it beside the file";
        HubError::format(checkpoint, reason)
    })
}
