//! What a training run is: one TOML file, every key known, every value checked.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tweedie_core::Parameterization;
use tweedie_data::{AugmentConfig, DataConfig};
use tweedie_models::{Precision, unet::UNet2DConfig};
use tweedie_ops::Device;

use crate::{
    diffusion::DiffusionConfig, ema::EmaConfig, error::TrainError, learning_rate::LearningRateConfig,
    loss::LossConfig, model::ModelConfig, optim::OptimizerConfig,
};

/// Everything that determines a training run. Equal configurations on the same machine give equal bits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// How long, how large, where to.
    pub run: Run,
    /// The images.
    pub data: DataConfig,
    /// What is done to them on the way.
    pub augment: AugmentConfig,
    /// The network.
    pub model: ModelConfig,
    /// The forward process and what the network answers.
    pub diffusion: DiffusionConfig,
    /// What is minimized.
    pub loss: LossConfig,
    /// AdamW.
    pub optimizer: OptimizerConfig,
    /// The learning rate over time.
    pub learning_rate: LearningRateConfig,
    /// The averages of the weights.
    pub ema: EmaConfig,
    /// What the network is told besides the noise level.
    pub conditioning: Conditioning,
}

/// Length, batch, seed, intervals and place of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Run {
    /// Ends after this many optimizer steps; or after `minutes`, whichever comes first.
    pub steps: Option<u64>,
    /// Ends after this many minutes of training, over all sessions of the run.
    pub minutes: Option<f64>,
    /// Images per forward and backward pass, at least 1.
    pub batch: usize,
    /// Passes per optimizer step, at least 1; the step sees `batch * accumulation` images.
    pub accumulation: usize,
    /// From this come the initial weights, order, noise, times, dropout and augmentation.
    pub seed: u64,
    /// Steps between checkpoints; 0 for only the last.
    pub checkpoint_every: u64,
    /// How many of the latest checkpoints stay on disk, at least 1.
    pub keep_last: usize,
    /// Steps between sample grids; 0 for none.
    pub preview_every: u64,
    /// Samples in a grid.
    pub preview_images: usize,
    /// Solver steps of a preview, at least 2.
    pub preview_steps: usize,
    /// Steps between losses on held-out images; 0 for none.
    pub validate_every: u64,
    /// How many held-out images (at most; with fixed noise and times).
    pub validation_images: usize,
    /// Steps between lines of the log, at least 1; each holds the mean loss since the last.
    pub log_every: u64,
    /// Where tensors live: `cpu`, or what the build adds.
    pub device: String,
    /// What activations, and their gradients, are held in: `f32` or `bf16`. Weights and their gradients are `f32`.
    pub precision: Precision,
    /// The run's folder.
    pub out: PathBuf,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            steps: None,
            minutes: None,
            batch: 64,
            accumulation: 1,
            seed: 0,
            checkpoint_every: 500,
            keep_last: 3,
            preview_every: 500,
            preview_images: 36,
            preview_steps: 24,
            validate_every: 250,
            validation_images: 128,
            log_every: 10,
            device: "cpu".into(),
            precision: Precision::F32,
            out: "runs/emoji".into(),
        }
    }
}

impl Run {
    /// Where tensors live.
    pub(crate) fn device(&self) -> Result<Device, TrainError> {
        let device = tweedie_ops::device(&self.device).map_err(|e| TrainError::Device(e.to_string()))?;
        if self.precision == Precision::Bf16 && !tweedie_ops::has_bf16(&device) {
            let expected = "`f32`: only the CPU computes with `bf16`";
            return Err(TrainError::config("run.precision", self.precision, expected));
        }
        Ok(device)
    }

    /// Images per optimizer step.
    pub fn images_per_step(&self) -> usize {
        self.batch * self.accumulation
    }
}

/// Classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Conditioning {
    /// Tell the network each image's class; when not given, if the data has classes.
    pub classes: Option<bool>,
    /// Show every class equally often, whatever its size.
    pub balance: bool,
    /// Probability, `0..=1`, of telling it "no class" (index K of K classes) instead, so that guidance
    /// can contrast the two (Ho & Salimans 2022, arXiv:2207.12598).
    pub label_dropout: f64,
}

impl Default for Conditioning {
    fn default() -> Self {
        Self { classes: None, balance: false, label_dropout: 0.1 }
    }
}

impl Conditioning {
    /// How many classes the network is told of, given those of the data; `None` if it is told none.
    pub fn told(&self, in_data: usize) -> Option<usize> {
        self.classes.unwrap_or(in_data > 0).then_some(in_data)
    }
}

/// A configuration that comes with the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// One line for a menu.
    pub about: &'static str,
    /// The TOML text.
    pub toml: &'static str,
}

/// The embedded presets; the first is the default.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "emoji",
        about: "32x32 emoji by group, from the built-in artwork: minutes on a laptop",
        toml: include_str!("presets/emoji.toml"),
    },
    Preset {
        name: "tiny",
        about: "a very small network on 16x16 emoji: seconds, to try things out",
        toml: include_str!("presets/tiny.toml"),
    },
    Preset {
        name: "cifar",
        about: "the 35.7 M-parameter network of DDPM on a folder of 32x32 images by class",
        toml: include_str!("presets/cifar.toml"),
    },
];

/// The preset called `name`.
///
/// # Errors
/// [`TrainError::Config`] listing the names there are.
pub fn preset(name: &str) -> Result<Preset, TrainError> {
    PRESETS.iter().find(|p| p.name == name).copied().ok_or_else(|| {
        let names: Vec<_> = PRESETS.iter().map(|p| p.name).collect();
        TrainError::config("preset", name, format!("one of {}", names.join(", ")))
    })
}

/// Joins a preset, a file and single values into a configuration; later layers win.
///
/// ```
/// use tweedie_train::ConfigBuilder;
///
/// let config = ConfigBuilder::preset("emoji")?.set("run.steps=100")?.set("diffusion.parameterization=eps")?.build()?;
/// assert_eq!(config.run.steps, Some(100));
/// # Ok::<(), tweedie_train::TrainError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ConfigBuilder {
    table: toml::Table,
    origin: String,
}

impl ConfigBuilder {
    /// Starts from an embedded preset.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn preset(name: &str) -> Result<Self, TrainError> {
        let preset = preset(name)?;
        Self::text(preset.toml, &format!("preset {name}"))
    }

    /// Starts from a file. Its first key may be `preset = "..."`, on which the rest is then laid; without
    /// one, keys that are not given have the library's defaults.
    ///
    /// # Errors
    /// When it cannot be read, is not TOML, or names an unknown preset.
    pub fn file(path: &Path) -> Result<Self, TrainError> {
        let text = std::fs::read_to_string(path).map_err(|e| TrainError::io(path, e))?;
        Self::text(&text, &path.display().to_string())
    }

    /// Starts from TOML text; `origin` is what errors call it.
    ///
    /// # Errors
    /// As [`ConfigBuilder::file`].
    pub fn text(text: &str, origin: &str) -> Result<Self, TrainError> {
        let mut table: toml::Table =
            text.parse().map_err(|e| TrainError::Toml { origin: origin.into(), reason: format!("{e}") })?;
        let base = table.remove("preset");
        // Unknown keys are reported while the file is still known by name and line.
        let mut own = text.to_owned();
        if base.is_some() {
            own = toml::to_string(&table)
                .map_err(|e| TrainError::Toml { origin: origin.into(), reason: e.to_string() })?;
        }
        toml::from_str::<RunConfig>(&own)
            .map_err(|e| TrainError::Toml { origin: origin.into(), reason: format!("{e}") })?;
        let layer = Self { table, origin: origin.into() };
        match base {
            None => Ok(layer),
            Some(toml::Value::String(name)) => Ok(Self::preset(&name)?.over(layer)),
            Some(other) => Err(TrainError::config("preset", other.to_string(), "the name of a preset")),
        }
    }

    /// Lays `layer` over this one, table by table. A layer that says how long to run, in steps or minutes, takes
    /// back the other measure.
    #[must_use]
    pub fn over(mut self, layer: Self) -> Self {
        if let (Some(toml::Value::Table(below)), Some(toml::Value::Table(above))) =
            (self.table.get_mut("run"), layer.table.get("run"))
        {
            for (given, other) in [("steps", "minutes"), ("minutes", "steps")] {
                if above.contains_key(given) {
                    below.remove(other);
                }
            }
        }
        merge(&mut self.table, layer.table);
        self.origin = layer.origin;
        self
    }

    /// Sets one value by its dotted key, as in `loss.weighting=min-snr`. What does not read as a TOML
    /// value is taken as a string.
    ///
    /// # Errors
    /// When `assignment` has no `=`, a key leads through something that is not a table, or the value
    /// does not fit.
    pub fn set(mut self, assignment: &str) -> Result<Self, TrainError> {
        let (key, value) = assignment
            .split_once('=')
            .ok_or_else(|| TrainError::config("--set", assignment, "an assignment such as run.steps=1000"))?;
        let (key, value) = (key.trim(), value.trim());
        let value = format!("v = {value}")
            .parse::<toml::Table>()
            .ok()
            .and_then(|mut t| t.remove("v"))
            .unwrap_or_else(|| toml::Value::String(value.into()));
        let mut layer = value.clone();
        for part in key.rsplit('.') {
            layer = toml::Value::Table([(part.to_owned(), layer)].into_iter().collect());
        }
        let toml::Value::Table(layer) = layer else {
            return Err(TrainError::config(key, value.to_string(), "a dotted key"));
        };
        merge(&mut self.table, layer);
        self.parse().map_err(|reason| TrainError::Toml { origin: assignment.into(), reason })?;
        Ok(self)
    }

    fn parse(&self) -> Result<RunConfig, String> {
        // Through text, so that messages name the key.
        let text = toml::to_string(&self.table).map_err(|e| e.to_string())?;
        toml::from_str(&text).map_err(|e| e.to_string())
    }

    /// The configuration, with values that depend on others filled in, and checked.
    ///
    /// # Errors
    /// [`TrainError::Config`] naming the key, the value, and what was expected.
    pub fn build(self) -> Result<RunConfig, TrainError> {
        let config =
            self.parse().map_err(|reason| TrainError::Toml { origin: self.origin.clone(), reason })?;
        config.resolved()
    }
}

/// `layer` over `base`. A table that chooses between alternatives replaces the one below.
fn merge(base: &mut toml::Table, layer: toml::Table) {
    for (key, value) in layer {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => {
                if key == "source" || (key == "model" && above.contains_key("unet")) {
                    below.clear();
                }
                merge(below, above);
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

impl RunConfig {
    /// The configuration as TOML.
    ///
    /// # Errors
    /// When a path is not Unicode.
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

    /// The network for data of so many classes.
    ///
    /// # Errors
    /// [`TrainError::Config`] naming the key.
    pub fn unet(&self, classes_in_data: usize) -> Result<UNet2DConfig, TrainError> {
        let told = self.conditioning.told(classes_in_data);
        self.model.unet(self.data.size, told, self.diffusion.learned_range())
    }

    /// What the network's raw output means.
    pub fn parameterization(&self) -> Parameterization {
        self.diffusion.parameterization()
    }

    fn check(&self) -> Result<(), TrainError> {
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
        if run.batch.checked_mul(run.accumulation).is_none_or(|n| n > 1 << 24) {
            return Err(TrainError::config("run.batch", run.batch, "at most 16777216 images per step"));
        }
        if run.steps.is_none() && run.minutes.is_none() {
            return Err(TrainError::config("run.steps", "none", "run.steps or run.minutes, so that it ends"));
        }
        if run.minutes.is_some_and(|m| !(m > 0.0 && m.is_finite())) {
            return Err(TrainError::config("run.minutes", run.minutes.unwrap_or(0.0), "a positive number"));
        }
        if run.preview_steps < 2 {
            return Err(TrainError::config("run.preview_steps", run.preview_steps, "at least 2"));
        }
        if run.out.as_os_str().is_empty() {
            return Err(TrainError::config("run.out", "", "a folder"));
        }
        let dropout = self.conditioning.label_dropout;
        if !(0.0..=1.0).contains(&dropout) {
            return Err(TrainError::config("conditioning.label_dropout", dropout, "a probability, 0 to 1"));
        }
        self.data.validate()?;
        self.augment.validate()?;
        self.diffusion.check()?;
        self.optimizer.check()?;
        self.learning_rate.check()?;
        self.ema.check()?;
        self.loss.check(&self.diffusion)?;
        self.model.unet(self.data.size, None, self.diffusion.learned_range())?;
        Ok(())
    }

    /// The dotted keys whose values differ between `self` and `other`, except those that only say how
    /// long to run, what to report and where to.
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
            "run.out",
            "data.cache_mb",
            "ema.snapshot_every",
        ];
        let flat = |config: &Self| {
            let mut out = std::collections::BTreeMap::new();
            if let Ok(value) = toml::Value::try_from(config) {
                flatten("", &value, &mut out);
            }
            out
        };
        let (ours, theirs) = (flat(self), flat(other));
        let keys: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        keys.into_iter()
            .filter(|k| !FREE.contains(&k.as_str()) && ours.get(*k) != theirs.get(*k))
            .map(|k| {
                let show = |m: &std::collections::BTreeMap<String, String>| {
                    m.get(k).cloned().unwrap_or_else(|| "nothing".into())
                };
                format!("{k} ({} instead of {})", show(&theirs), show(&ours))
            })
            .collect()
    }
}

fn flatten(prefix: &str, value: &toml::Value, out: &mut std::collections::BTreeMap<String, String>) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LossConfig, Output, WeightingKind};

    fn error(assignments: &[&str]) -> String {
        let set = |b: ConfigBuilder, a: &&str| b.set(a);
        let built = assignments
            .iter()
            .try_fold(ConfigBuilder::preset("emoji").unwrap(), set)
            .and_then(ConfigBuilder::build);
        built.unwrap_err().to_string()
    }

    #[test]
    fn presets_build_and_survive_toml() {
        for p in PRESETS {
            let config = ConfigBuilder::preset(p.name).unwrap().build().unwrap();
            let text = config.to_toml().unwrap();
            let again: RunConfig = toml::from_str(&text).unwrap();
            assert_eq!(again, config, "{}", p.name);
            let json = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<RunConfig>(&json).unwrap(), config);
        }
        assert!(preset("nope").unwrap_err().to_string().contains("one of emoji, tiny, cifar"));
    }

    #[test]
    fn layers_override_key_by_key() {
        let text = "preset = \"tiny\"\n[run]\nbatch = 3\n[data]\nsource = { folder = \"x\" }\n";
        let config = ConfigBuilder::text(text, "mine.toml")
            .and_then(|b| b.set("loss.weighting=sigmoid")?.set("run.out=runs/a b")?.set("run.steps=7"))
            .and_then(ConfigBuilder::build)
            .unwrap();
        assert_eq!((config.run.batch, config.run.steps, config.run.log_every), (3, Some(7), 5));
        assert_eq!(config.loss, LossConfig { weighting: WeightingKind::Sigmoid, ..Default::default() });
        assert_eq!(config.data.source, tweedie_data::Source::Folder("x".into()));
        assert_eq!(config.run.out, PathBuf::from("runs/a b"));
        let minutes = ConfigBuilder::text("preset = \"tiny\"\n[run]\nminutes = 2.0", "mine.toml").unwrap();
        assert_eq!(minutes.clone().build().unwrap().run.steps, None);
        assert_eq!(minutes.set("run.steps=2").and_then(ConfigBuilder::build).unwrap().run.minutes, Some(2.0));
        let endless = ConfigBuilder::text("", "mine.toml").and_then(ConfigBuilder::build).unwrap_err();
        assert!(endless.to_string().contains("run.steps or run.minutes"));
    }

    #[test]
    fn a_whole_network_replaces_the_compact_one() {
        let text = r#"
            preset = "tiny"
            [model.unet]
            block_out_channels = [16, 32]
            down_block_types = ["DownBlock2D", "AttnDownBlock2D"]
            up_block_types = ["AttnUpBlock2D", "UpBlock2D"]
            attention_head_dim = "null"
            norm_num_groups = 8
        "#;
        let config = ConfigBuilder::text(text, "mine.toml").and_then(ConfigBuilder::build).unwrap();
        let unet = config.model.unet(16, Some(9), false).unwrap();
        assert_eq!((unet.attention_head_dim, unet.num_class_embeds), (None, Some(10)));
        assert_eq!(toml::from_str::<RunConfig>(&config.to_toml().unwrap()).unwrap(), config);
        let wrong = text.replace("norm_num_groups", "norm_groups");
        let message = ConfigBuilder::text(&wrong, "mine.toml").and_then(ConfigBuilder::build).unwrap_err();
        assert!(message.to_string().contains("norm_groups"), "{message}");
        let both = "[model]\nbase_channels = 8\nunet = { layers_per_block = 1 }";
        let message = ConfigBuilder::text(both, "mine.toml").unwrap_err().to_string();
        assert!(message.contains("`base_channels` beside `model.unet`"), "{message}");
    }

    #[test]
    fn wrong_keys_and_values_are_named() {
        for (assignments, parts) in [
            (&["run.stepz=3"][..], &["stepz"][..]),
            (&["model.chanels=3"], &["chanels"]),
            (&["loss.weighting=snr"], &["snr", "min-snr"]),
            (&["run.batch=0"], &["run.batch = 0", "at least 1"]),
            (&["run.batch=-1"], &["batch", "-1"]),
            (&["run.minutes=nan"], &["run.minutes = NaN"]),
            (&["optimizer.beta2=1.0"], &["optimizer.beta2 = 1"]),
            (&["learning_rate.peak=0"], &["learning_rate.peak = 0"]),
            (&["learning_rate.decay=cosine"], &["learning_rate.decay = cosine", "run.steps"]),
            (&["ema.half_life=-3"], &["ema.half_life = -3"]),
            (&["ema.kind=power", "ema.stds=[]"], &["ema.stds"]),
            (&["ema.snapshot_every=5"], &["ema.snapshot_every = 5", "ema.kind = power"]),
            (&["conditioning.label_dropout=1.5"], &["conditioning.label_dropout = 1.5"]),
            (&["diffusion.parameterization=flow"], &["diffusion.parameterization = flow", "eps, x0 or v"]),
            (&["diffusion.train_steps=1"], &["diffusion.train_steps = 1"]),
            (&["diffusion.zero_terminal_snr=true", "diffusion.parameterization=eps"], &["zero_terminal_snr"]),
            (&["model.attention_levels=[3]"], &["model.attention_levels = 3", "0 to 2"]),
            (&["model.base_channels=33"], &["33"]),
            (&["data.holdout=1.0"], &["holdout = 1"]),
            (&["augment.edm.p=2"], &["p = 2"]),
            (&["diffusion.variance=learned"], &["learned", "learned-range"]),
            (
                &[
                    "diffusion.schedule=flow",
                    "diffusion.parameterization=flow",
                    "diffusion.variance=fixed-large",
                ],
                &["diffusion.variance = fixed-large", "fixed-small"],
            ),
            (&["diffusion.variance=learned-range"], &["loss.objective = simple", "hybrid or vlb"]),
            (&["loss.objective=hybrid"], &["loss.objective = hybrid", "diffusion.variance = learned-range"]),
            (&["loss.objective=vlb", "loss.times=logit-normal"], &["loss.times = logit-normal", "uniform"]),
            (
                &["loss.objective=vlb", "loss.times=uniform", "loss.continuous=true"],
                &["loss.continuous = true"],
            ),
            (
                &["diffusion.schedule=edm", "diffusion.parameterization=edm", "loss.objective=vlb"],
                &["loss.objective = vlb", "schedule of betas"],
            ),
            (
                &[
                    "diffusion.schedule=flow",
                    "diffusion.parameterization=flow",
                    "loss.times=loss-second-moment",
                ],
                &["loss.times = loss-second-moment", "schedule of betas"],
            ),
            (&["loss.vlb_weight=0"], &["loss.vlb_weight = 0"]),
            (&["run"], &["run.steps=1000"]),
            (&["=3"], &["unknown field ``"]),
        ] {
            let message = error(assignments);
            for part in parts {
                assert!(message.contains(part), "{assignments:?}: {message}");
            }
        }
        let file = ConfigBuilder::text("[data]\nsise = 3\n", "mine.toml").unwrap_err().to_string();
        assert!(file.contains("mine.toml") && file.contains("sise") && file.contains("line 2"), "{file}");
    }

    #[test]
    fn only_what_changes_the_bits_makes_a_difference() {
        let config = |a: &[&str]| {
            a.iter()
                .try_fold(ConfigBuilder::preset("tiny").unwrap(), |b, a| b.set(a))
                .and_then(ConfigBuilder::build)
                .unwrap()
        };
        let base = config(&[]);
        let longer = config(&["run.steps=9", "run.log_every=2", "run.keep_last=9", "run.out=elsewhere"]);
        assert_eq!(base.differences(&longer), [""; 0]);
        let other = config(&["diffusion.parameterization=eps", "run.batch=4"]);
        assert_eq!(
            base.differences(&other),
            ["diffusion.parameterization (\"eps\" instead of \"v\")", "run.batch (4 instead of 8)"]
        );
        assert_eq!(other.diffusion.parameterization, Output::Eps);
    }
}
