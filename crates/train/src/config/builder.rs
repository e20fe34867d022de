//! Builds a configuration from a preset, a file and single values.

use std::path::Path;

use super::{RunConfig, preset};
use crate::{error::TrainError, init};

/// Maximum size of a configuration file.
const LONGEST: u64 = 1 << 24;

/// Combines a preset, a file and single values into a configuration; later layers take precedence.
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
    pub(super) table: toml::Table,
    pub(super) origin: String,
    /// Whether keys that are not given are chosen from the data.
    pub(super) follows_data: bool,
}

impl ConfigBuilder {
    /// Starts from a built-in preset.
    ///
    /// # Errors
    /// If there is no preset of this name.
    pub fn preset(name: &str) -> Result<Self, TrainError> {
        let preset = preset(name)?;
        let built = Self::text(preset.toml, &format!("preset {name}"))?;
        Ok(Self { follows_data: preset.follows_data, ..built })
    }

    /// Starts from a file. Its first key may be `preset = "..."`, which the rest then overrides. Without it, missing keys have
    /// the library's defaults.
    ///
    /// # Errors
    /// If it cannot be read, is not valid TOML, or names an unknown preset.
    pub fn file(path: &Path) -> Result<Self, TrainError> {
        let text = tweedie_system::files::read_text(path, LONGEST).map_err(|e| TrainError::io(path, e))?;
        Self::text(&text, &path.display().to_string())
    }

    /// Starts from TOML text; errors call it `origin`.
    ///
    /// # Errors
    /// Those of [`ConfigBuilder::file`].
    pub fn text(text: &str, origin: &str) -> Result<Self, TrainError> {
        let mut table: toml::Table =
            text.parse().map_err(|e| TrainError::Toml { origin: origin.into(), reason: reason(&e, text) })?;
        let base = table.remove("preset");
        // Unknown keys are reported here, where the file and the line are known.
        let mut own = text.to_owned();
        if base.is_some() {
            own = toml::to_string(&table)
                .map_err(|e| TrainError::Toml { origin: origin.into(), reason: e.to_string() })?;
        }
        toml::from_str::<RunConfig>(&own)
            .map_err(|e| TrainError::Toml { origin: origin.into(), reason: reason(&e, &own) })?;
        let layer = Self { table, origin: origin.into(), follows_data: false };
        match base {
            None => Ok(layer),
            Some(toml::Value::String(name)) => Ok(Self::preset(&name)?.over(layer)),
            Some(other) => Err(TrainError::config("preset", other.to_string(), "the name of a preset")),
        }
    }

    /// Overrides this configuration with `layer`, table by table. A layer that sets the length in steps or minutes removes the
    /// other one.
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

    /// Starts from the model at `path` instead of random weights: overrides the network, the process, the image size and
    /// `run.init`.
    ///
    /// # Errors
    /// If there is no model, or it is for another task than this configuration (see [`crate::task_of`]); names file and key.
    pub fn init(mut self, path: &Path) -> Result<Self, TrainError> {
        let task =
            self.parse().map_err(|reason| TrainError::Toml { origin: self.origin.clone(), reason })?.task;
        let of_model = init::task_of(path)?;
        if task != of_model {
            let expected = format!("a model for task = {task}; this one is for task = {of_model}");
            return Err(TrainError::config("run.init", path.display(), expected));
        }
        merge(&mut self.table, init::settings(path)?);
        self.origin = path.display().to_string();
        Ok(self)
    }

    /// Sets one value by its dotted key, for example `loss.weighting=min-snr`. A value that is not valid TOML is used as a
    /// string.
    ///
    /// # Errors
    /// If `assignment` has no `=`, a part of the key is not a table, or the value is invalid.
    pub fn set(mut self, assignment: &str) -> Result<Self, TrainError> {
        let (key, value) = assignment
            .split_once('=')
            .ok_or_else(|| TrainError::config("--set", assignment, "an assignment like run.steps=1000"))?;
        let (key, value) = (key.trim(), value.trim());
        if value.strip_prefix(['-', '+']).unwrap_or(value).bytes().all(|b| b.is_ascii_digit())
            && !value.is_empty()
            && value.parse::<i64>().is_err()
        {
            let expected = format!("an integer from {} to {}", i64::MIN, i64::MAX);
            return Err(TrainError::config(key, value, expected));
        }
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

    pub(super) fn parse(&self) -> Result<RunConfig, String> {
        // Goes through text, so that errors name the key.
        let text = toml::to_string(&self.table).map_err(|e| e.to_string())?;
        toml::from_str(&text).map_err(|e| reason(&e, &text))
    }

    /// The folder of the run.
    ///
    /// # Errors
    /// If a value is invalid.
    pub fn out(&self) -> Result<std::path::PathBuf, TrainError> {
        let parsed = self.parse().map_err(|reason| TrainError::Toml { origin: self.origin.clone(), reason });
        Ok(parsed?.run.out)
    }

    /// The checked configuration, with values that depend on others filled in. With the preset `folder` it reads some of the
    /// data; [`ConfigBuilder::suited`] returns what was chosen.
    ///
    /// # Errors
    /// [`TrainError::Config`] naming the key, the value and what was expected; as [`ConfigBuilder::suited`].
    pub fn build(self) -> Result<RunConfig, TrainError> {
        if self.follows_data {
            return self.suited()?.0.build();
        }
        let config =
            self.parse().map_err(|reason| TrainError::Toml { origin: self.origin.clone(), reason })?;
        config.resolved()
    }
}

/// The parser's error with its position, without the line of `text` if that is too long.
fn reason(error: &toml::de::Error, text: &str) -> String {
    /// Maximum characters of a line, and of a message.
    const MOST: usize = 200;
    let whole = error.to_string();
    if whole.lines().all(|line| line.chars().count() <= MOST) {
        return whole;
    }
    let line =
        error.span().map_or(0, |span| text.get(..span.start).unwrap_or_default().matches('\n').count()) + 1;
    let message = error.message();
    let clipped: String = message.chars().take(MOST).collect();
    let more = if clipped.len() < message.len() { "…" } else { "" };
    format!("line {line}: {clipped}{more}")
}

/// Merges `layer` over `base`. A table of alternatives replaces the one below.
pub(super) fn merge(base: &mut toml::Table, layer: toml::Table) {
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
