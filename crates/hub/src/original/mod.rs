//! Single-file checkpoints of Stable Diffusion 1.x, 2.x and XL, as published by their authors and most fine-tuners: one
//! safetensors file with the tensors of all components, under the names of the original code, without configuration.
//!
//! Tables in `names` map tensor names to those of diffusers; `configs` infers configurations from shapes. The tokenizer
//! and the sampling settings are not in such a file.

mod configs;
mod declared;
pub(crate) mod names;
mod part;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tweedie_models::TensorSource;

pub use self::part::Part;

use self::declared::Declared;
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

impl Family {
    /// Prefixes of its components' tensor names.
    fn prefixes(self) -> &'static [&'static str] {
        match self {
            Self::Sd1 => &[UNET, AUTOENCODER, SD1_TEXT],
            Self::Sd2 => &[UNET, AUTOENCODER, SD2_TEXT],
            Self::Sdxl => &[UNET, AUTOENCODER, SDXL_TEXTS[0], SDXL_TEXTS[1]],
        }
    }

    /// Image size of the published model.
    fn side(self, prediction: Prediction) -> usize {
        match (self, prediction) {
            (Self::Sdxl, _) => 1024,
            (Self::Sd2, Prediction::V) => 768,
            _ => 512,
        }
    }
}

impl Prediction {
    fn what(self) -> &'static str {
        match self {
            Self::Eps => "the noise",
            Self::V => "the velocity",
        }
    }
}

/// A checkpoint whose header has been read.
pub struct OriginalCheckpoint {
    file: SafetensorsFile,
    family: Family,
    prediction: Prediction,
    /// Height and width of its images.
    size: [usize; 2],
    zero_snr: bool,
    remarks: Vec<String>,
}

const UNET: &str = "model.diffusion_model.";
const AUTOENCODER: &str = "first_stage_model.";
const SD1_TEXT: &str = "cond_stage_model.transformer.";
const SD2_TEXT: &str = "cond_stage_model.model.";
const SDXL_TEXTS: [&str; 2] = ["conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."];
const REFINER_TEXT: &str = "conditioner.embedders.0.model.";
/// Pixels per latent, along a side.
const LATENT_PIXELS: usize = 8;

impl OriginalCheckpoint {
    /// Opens the file at `path`. `prediction` is what its U-Net predicts; by default given by a tensor
    /// called `v_pred` or `modelspec.prediction_type` in the header. Without either it is the noise, or for 2.x the
    /// velocity, as in its models for 768×768 pixels.
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
        let declared = Declared::of(&file, prediction)?;
        let mut remarks = declared::passed_over(&file, family.prefixes());
        let by_default = if family == Family::Sd2 { Prediction::V } else { Prediction::Eps };
        if let (None, Some((kind, source))) = (prediction, &declared.prediction)
            && *kind != by_default
        {
            remarks.push(format!("the network predicts {}, according to {source}", kind.what()));
        }
        let prediction = prediction.or(declared.prediction.map(|(kind, _)| kind)).unwrap_or(by_default);
        let zero_snr = match (declared.zero_snr, prediction) {
            (Some(source), Prediction::V) => {
                remarks.push(format!("the noise schedule ends at pure noise, according to {source}"));
                true
            }
            (Some(source), Prediction::Eps) => {
                remarks.push(format!(
                    "ignoring {source}: a network that predicts the noise cannot start from pure noise; use \
                     --prediction v if it predicts the velocity"
                ));
                false
            }
            (None, _) => false,
        };
        let size = declared.size.unwrap_or_else(|| [family.side(prediction); 2]);
        Ok(Self { file, family, prediction, size, zero_snr, remarks })
    }

    /// Warnings about the file, one sentence each.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
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
        Part::new(&self.file, prefix)
    }

    fn unet(&self) -> Result<(Value, Part<'_>), String> {
        let mut part = self.part(UNET);
        let layers = configs::unet_layers(&part);
        part.rename(|name| Some(vec![names::unet(name, layers)?]))?;
        let mut config = configs::unet(&part)?;
        config["sample_size"] = match self.size.map(|side| side / LATENT_PIXELS) {
            [height, width] if height == width => json!(height),
            size => json!(size),
        };
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
        match (self.family, self.zero_snr) {
            (Family::Sdxl, _) => config["_class_name"] = json!("EulerDiscreteScheduler"),
            (_, false) => {
                config["skip_prk_steps"] = json!(true);
                config["set_alpha_to_one"] = json!(false);
            }
            // PNDM does not support this schedule.
            (_, true) => {
                config["_class_name"] = json!("DDIMScheduler");
                config["clip_sample"] = json!(false);
                config["set_alpha_to_one"] = json!(false);
            }
        }
        if self.zero_snr {
            config["rescale_betas_zero_snr"] = json!(true);
            // Only this spacing starts at the last time, which is pure noise (Lin et al. 2023, arXiv:2305.08891).
            config["timestep_spacing"] = json!("trailing");
        }
        SchedulerConfig::from_json(&config.to_string(), self.path())
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
