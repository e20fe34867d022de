//! Checks values, and compares configurations.

use std::collections::{BTreeMap, BTreeSet};

use tweedie_core::Parameterization;
use tweedie_models::unet::{ClassEmbedType, UNet2DConfig};

use super::RunConfig;
use crate::{diffusion::Process, error::TrainError, task::TaskKind};

impl RunConfig {
    /// The configuration as TOML.
    ///
    /// # Errors
    /// If a path is not valid Unicode.
    pub fn to_toml(&self) -> Result<String, TrainError> {
        toml::to_string(self)
            .map_err(|e| TrainError::Toml { origin: "the configuration".into(), reason: e.to_string() })
    }

    /// Fills in values that depend on others, and checks all of them.
    ///
    /// # Errors
    /// [`TrainError::Config`] naming the key, the value, and what was expected.
    pub fn resolved(mut self) -> Result<Self, TrainError> {
        self.learning_rate.resolve(self.run.steps)?;
        self.check()?;
        Ok(self)
    }

    /// The network for data with this number of classes.
    ///
    /// # Errors
    /// [`TrainError::Config`] naming the key.
    pub fn unet(&self, classes_in_data: usize) -> Result<UNet2DConfig, TrainError> {
        let channels = self.data.channels;
        if self.task == TaskKind::SuperResolution {
            let side = self.super_resolution.side(self.data.size);
            let unet = self.model.unet(side, channels, None, self.diffusion.learned_range())?;
            return Ok(UNet2DConfig {
                in_channels: 2 * channels,
                class_embed_type: (!self.super_resolution.blind).then_some(ClassEmbedType::Timestep),
                ..unet
            });
        }
        let classes = self.conditioning.class_count(classes_in_data);
        self.model.unet(self.data.size, channels, classes, self.diffusion.learned_range())
    }

    /// The side of the images or squares of them on which a network in pixels is trained.
    pub(crate) fn trained_side(&self) -> usize {
        match self.task {
            TaskKind::SuperResolution => self.super_resolution.side(self.data.size),
            _ => self.data.size,
        }
    }

    /// The meaning of the network's raw output.
    pub fn parameterization(&self) -> Parameterization {
        self.diffusion.parameterization()
    }

    /// The first table that is set but not used by the task.
    fn unread(&self) -> Option<&'static str> {
        let default = Self::default();
        let set = [
            ("model", self.model != default.model),
            ("diffusion", self.diffusion != default.diffusion),
            ("loss", self.loss != default.loss),
            ("conditioning", self.conditioning != default.conditioning),
            ("text", self.text != default.text),
            ("sound", self.sound != default.sound),
            ("waveform", self.waveform != default.waveform),
            ("vae", self.vae != default.vae),
            ("super_resolution", self.super_resolution != default.super_resolution),
            ("clip", self.clip != default.clip),
            ("unclip", self.unclip != default.unclip),
            ("prior", self.prior != default.prior),
        ];
        set.into_iter().find(|(table, set)| *set && !self.task.reads(table)).map(|(table, _)| table)
    }

    fn check(&self) -> Result<(), TrainError> {
        if let Some(table) = self.unread() {
            let expected = format!("no table [{table}], because this task does not use it");
            return Err(TrainError::config("task", self.task, expected));
        }
        let run = &self.run;
        for (key, value) in [
            ("run.batch", run.batch as u64),
            ("run.accumulation", run.accumulation as u64),
            ("run.keep_last", run.keep_last as u64),
            ("run.log_every", run.log_every),
            ("run.steps", run.steps.unwrap_or(1)),
        ] {
            if value == 0 {
                return Err(TrainError::config(key, value, "at least 1"));
            }
        }
        for (key, value, most) in [
            ("run.preview_images", run.preview_images as u64, 1 << 16),
            ("run.preview_steps", run.preview_steps as u64, 1 << 16),
            ("run.validation_images", run.validation_images as u64, 1 << 24),
            ("run.steps", run.steps.unwrap_or(0), 1 << 48),
        ] {
            if value > most {
                return Err(TrainError::config(key, value, format!("at most {most}")));
            }
        }
        if run.batch.checked_mul(run.accumulation).is_none_or(|n| n > 1 << 24) {
            return Err(TrainError::config("run.batch", run.batch, "at most 16777216 images per step"));
        }
        if run.steps.is_none() && run.minutes.is_none() {
            return Err(TrainError::config("run.steps", "none", "a value for run.steps or run.minutes"));
        }
        /// A hundred years.
        const LONGEST: f64 = 5.3e7;
        if run.minutes.is_some_and(|m| !(m > 0.0 && m <= LONGEST)) {
            let expected = format!("a value > 0, at most {LONGEST}");
            return Err(TrainError::config("run.minutes", run.minutes.unwrap_or(0.0), expected));
        }
        if run.preview_steps < 2 {
            return Err(TrainError::config("run.preview_steps", run.preview_steps, "at least 2"));
        }
        if run.out.as_os_str().is_empty() {
            return Err(TrainError::config("run.out", "", "a folder"));
        }
        self.data.validate()?;
        self.augment.validate()?;
        self.optimizer.check()?;
        self.learning_rate.check()?;
        self.ema.check()?;
        let grey = [TaskKind::Diffusion, TaskKind::SuperResolution];
        if self.data.channels != 3 && !grey.contains(&self.task) {
            let expected = format!("3: task = {} learns images in colour only", self.task);
            return Err(TrainError::config("data.channels", self.data.channels, expected));
        }
        if self.diffusion.schedule == Process::Cosine && self.task != TaskKind::Waveform {
            let expected = "another schedule; this one is for task = waveform";
            return Err(TrainError::config("diffusion.schedule", "cosine", expected));
        }
        let fresh = [TaskKind::Clip, TaskKind::Prior, TaskKind::Decoder];
        if let Some(path) = self.run.init.as_ref().filter(|_| fresh.contains(&self.task)) {
            let expected = format!("nothing: task = {} starts from random weights", self.task);
            return Err(TrainError::config("run.init", path.display(), expected));
        }
        match self.task {
            TaskKind::Diffusion => self.check_diffusion(),
            TaskKind::TextToImage | TaskKind::TextToVideo => {
                self.diffusion.check()?;
                self.loss.check(&self.diffusion)?;
                if self.text.vae.as_os_str().is_empty() {
                    let expected = "the folder of an autoencoder";
                    return Err(TrainError::config("text.vae", "\"\"", expected));
                }
                self.text.check(self)
            }
            TaskKind::TextToSound => {
                self.diffusion.check()?;
                self.loss.check(&self.diffusion)?;
                self.sound.check(self)?;
                self.text.check(self)
            }
            TaskKind::Waveform => {
                self.diffusion.check()?;
                self.loss.check(&self.diffusion)?;
                self.waveform.check(self)
            }
            TaskKind::SuperResolution => {
                self.super_resolution.check(self.data.size)?;
                self.check_diffusion()
            }
            TaskKind::Vae => self.vae.check(self),
            TaskKind::Clip => self.clip.check(self),
            TaskKind::Prior | TaskKind::Decoder => self.unclip.check(self),
        }
    }

    fn check_diffusion(&self) -> Result<(), TrainError> {
        let dropout = self.conditioning.label_dropout;
        if !(0.0..=1.0).contains(&dropout) {
            return Err(TrainError::config("conditioning.label_dropout", dropout, "a probability in 0..=1"));
        }
        let guidance = self.conditioning.guidance;
        if !(guidance >= 0.0 && guidance.is_finite()) {
            return Err(TrainError::config("conditioning.guidance", guidance, "a finite number, at least 0"));
        }
        self.diffusion.check()?;
        self.loss.check(&self.diffusion)?;
        self.unet(0).map(drop)
    }

    /// The dotted keys whose values differ between `self` and `other`, except those that only affect the length, the reports
    /// and the output folder.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        const FREE: &[&str] = &[
            "run.steps",
            "run.minutes",
            "run.checkpoint_every",
            "run.keep_last",
            "run.preview_every",
            "run.preview_images",
            "run.preview_steps",
            "run.validate_every",
            "run.validation_images",
            "run.log_every",
            "run.recompute",
            "run.out",
            "data.buffer_mb",
            "data.cache_mb",
            "ema.snapshot_every",
            "conditioning.guidance",
            "super_resolution.noise_level",
            "text.prompts",
            "text.guidance",
            "text.latents.cache_mb",
            "unclip.prior",
            "unclip.enlarger",
        ];
        self.differences_except(other, FREE)
    }

    /// All dotted keys whose values differ between `self` and `other`.
    pub(crate) fn all_differences(&self, other: &Self) -> Vec<String> {
        self.differences_except(other, &[])
    }

    fn differences_except(&self, other: &Self, free: &[&str]) -> Vec<String> {
        let flat = |config: &Self| {
            let mut out = BTreeMap::new();
            if let Ok(value) = toml::Value::try_from(config) {
                flatten("", &value, &mut out);
            }
            out
        };
        let (ours, theirs) = (flat(self), flat(other));
        let keys: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        keys.into_iter()
            .filter(|k| !free.contains(&k.as_str()) && ours.get(*k) != theirs.get(*k))
            .map(|k| {
                let show =
                    |m: &BTreeMap<String, String>| m.get(k).cloned().unwrap_or_else(|| "nothing".into());
                format!("{k} ({} instead of {})", show(&theirs), show(&ours))
            })
            .collect()
    }
}

fn flatten(prefix: &str, value: &toml::Value, out: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&path, value, out);
            }
        }
        leaf => {
            out.insert(prefix.to_owned(), leaf.to_string());
        }
    }
}
