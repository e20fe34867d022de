//! Settings that follow from the images or sounds and the length of the run.

use tweedie_data::{DataError, SoundSurvey, Source, Survey, survey, survey_sounds};

use super::{ConfigBuilder, RunConfig, builder::merge};
use crate::{error::TrainError, task::TaskKind};

/// A key that was not given, and its chosen value.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Choice {
    /// The dotted key.
    pub key: &'static str,
    /// Its value, as TOML.
    pub value: String,
    /// Why.
    pub why: String,
}

/// All chosen values.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Suited {
    /// A description of the data; empty if nothing was chosen.
    pub data: String,
    /// The chosen values.
    pub choices: Vec<Choice>,
}

/// Largest image side for a run of up to this many minutes on a few cores.
const SIDES: [(f64, usize); 2] = [(29.0, 32), (f64::INFINITY, 64)];
/// Channels at full resolution and layers per block, for a run of up to this many minutes.
const WIDTHS: [(f64, [usize; 2]); 3] = [(20.0, [32, 1]), (120.0, [48, 1]), (f64::INFINITY, [64, 2])];
/// Steps that count as a minute if only steps are given.
const STEPS_A_MINUTE: f64 = 1000.0;
/// With this many training images or more there is no augmentation; with [`FEW`] or fewer its probability is [`MOST`].
const MANY: f64 = 20_000.0;
const FEW: f64 = 500.0;
const MOST: f64 = 0.25;

/// Largest rate in Hz and length in values of waveforms, for a run of up to this many minutes.
const SOUNDS: [(f64, [usize; 2]); 3] =
    [(20.0, [16_000, 8192]), (120.0, [16_000, 16_384]), (f64::INFINITY, [48_000, 65_536])];
/// The shortest waveform.
const LEAST_WINDOW: usize = 1024;
/// Channels of a network of waveforms at the full length are twice this, for a run of up to this many minutes.
const WAVE_BASES: [(f64, usize); 3] = [(20.0, 8), (120.0, 16), (f64::INFINITY, 32)];
/// The channels at each length as multiples of that; the last for all further ones.
const WAVE_WIDTHS: [usize; 5] = [2, 3, 4, 8, 12];
/// Most values of the shortest maps.
const MIDDLE: usize = 128;

impl ConfigBuilder {
    /// Chooses the keys that the presets `folder` and `waveform` leave to the data and that are not given: size and channels of
    /// images, probability of augmentation, network; rate, channels and length of sounds, network. Returns the choices too; other
    /// presets have none.
    ///
    /// # Errors
    /// If the data cannot be read, or a given key is invalid.
    pub fn suited(mut self) -> Result<(Self, Suited), TrainError> {
        if !self.follows_data {
            return Ok((self, Suited::default()));
        }
        self.follows_data = false;
        let config =
            self.parse().map_err(|reason| TrainError::Toml { origin: self.origin.clone(), reason })?;
        let minutes = config.run.minutes.or(config.run.steps.map(|s| s as f64 / STEPS_A_MINUTE));
        let minutes = minutes.unwrap_or(f64::INFINITY);
        if config.task == TaskKind::Waveform {
            return self.suited_to_sounds(&config, minutes);
        }
        let found = survey(&config.data)?;
        let mut suited = Suited { data: describe(&found), choices: Vec::new() };

        let most = *at_most(&SIDES, minutes);
        let side = found.side.min(most);
        let stride = stride(side);
        let size = (side / stride * stride).max(8);
        let why = match found.side {
            own if own == size => "the images' own size".to_owned(),
            own if own > most => format!("the images have {own}, too slow for {}", lasting(minutes)),
            own => format!("near the images' {own}, and a multiple of {stride}"),
        };
        self.choose(&mut suited, "data.size", number(size), why);
        let (channels, why) = match found.grey {
            true => {
                (1, format!("{} inspected images are grey; any colour image is converted", found.looked_at))
            }
            false => (3, "the images have colours".to_owned()),
        };
        self.choose(&mut suited, "data.channels", number(channels), why);

        let images = found.images as f64 * (1.0 - config.data.holdout);
        let share = ((MANY / images.max(1.0)).ln() / (MANY / FEW).ln()).clamp(0.0, 1.0);
        let p = (100.0 * MOST * share).round() / 100.0;
        let why = match p {
            0.0 => format!("about {images:.0} training images need no augmentation"),
            _ => format!("about {images:.0} training images; the network gets the changes as input"),
        };
        self.choose(&mut suited, "augment.edm.p", toml::Value::Float(p), why);

        if self.get("model.unet").is_none() {
            let size = self.given("data.size").unwrap_or(size);
            self.choose_network(&mut suited, size, minutes);
        }
        Ok((self, suited))
    }

    /// The same for sounds.
    fn suited_to_sounds(mut self, config: &RunConfig, minutes: f64) -> Result<(Self, Suited), TrainError> {
        // A source of another kind, or one that is not there, is told when the rest is checked.
        let has_sounds = matches!(config.data.source, Source::Folder(_) | Source::Packed(_));
        let found = match has_sounds.then(|| survey_sounds(&config.data)) {
            Some(Ok(found)) => found,
            None | Some(Err(DataError::Missing { .. })) => return Ok((self, Suited::default())),
            Some(Err(error)) => return Err(error.into()),
        };
        let mut suited = Suited { data: describe_sounds(&found), choices: Vec::new() };
        let [most_rate, most_window] = *at_most(&SOUNDS, minutes);
        let rate = (found.rate as usize).min(most_rate);
        let why = match rate < found.rate as usize {
            true => format!("the sounds have {} Hz, too slow for {}", found.rate, lasting(minutes)),
            false => "the sounds' own rate".to_owned(),
        };
        self.choose(&mut suited, "waveform.sample_rate", number(rate), why);
        let rate = self.given("waveform.sample_rate").unwrap_or(rate);
        let (channels, why) = match found.stereo {
            true => (2, "most sounds are stereo"),
            false => (1, "most sounds are mono"),
        };
        self.choose(&mut suited, "waveform.channels", number(channels), why.into());
        let own = (found.seconds * rate as f64).ceil() as usize;
        let window = own.next_power_of_two().clamp(LEAST_WINDOW, most_window);
        let seconds = window as f64 / rate as f64;
        let why = match window < own {
            true => {
                format!("{seconds:.2} s, a part of most sounds; more is too slow for {}", lasting(minutes))
            }
            false => format!("{seconds:.2} s; half of the sounds have {:.2} s or less", found.seconds),
        };
        self.choose(&mut suited, "waveform.window", number(window), why);
        let window = self.given("waveform.window").unwrap_or(window);
        let (edges, why) = match own < 4 * window {
            true => (true, "the sounds are short: samples may reach beyond their ends"),
            false => (false, "the sounds are long: samples are parts of them"),
        };
        self.choose(&mut suited, "waveform.edges", toml::Value::Boolean(edges), why.into());
        if self.get("model.unet").is_none() {
            let mut multipliers = WAVE_WIDTHS.to_vec();
            let last = multipliers.len() - 1;
            while window >> multipliers.len() > MIDDLE && multipliers.len() < 16 {
                multipliers.push(WAVE_WIDTHS[last]);
            }
            let why = |what: &str| format!("{what} for {window} values and {}", lasting(minutes));
            let lowest = multipliers.len() - 1;
            let width = *at_most(&WAVE_BASES, minutes);
            self.choose(&mut suited, "model.base_channels", number(width), why("width"));
            let list = |numbers: &[usize]| toml::Value::Array(numbers.iter().map(|n| number(*n)).collect());
            self.choose(&mut suited, "model.multipliers", list(&multipliers), why("lengths"));
            let why = "the shortest length".to_owned();
            self.choose(&mut suited, "model.attention_levels", list(&[lowest]), why);
        }
        Ok((self, suited))
    }

    /// A number that is given or chosen.
    fn given(&self, key: &str) -> Option<usize> {
        self.get(key).and_then(toml::Value::as_integer).and_then(|n| usize::try_from(n).ok())
    }

    fn choose_network(&mut self, suited: &mut Suited, size: usize, minutes: f64) {
        let [width, layers] = *at_most(&WIDTHS, minutes);
        let multipliers: &[usize] = if stride(size) == 8 { &[1, 2, 4, 4] } else { &[1, 2, 4] };
        let lowest = multipliers.len() - 1;
        let why = |what: &str| format!("{what} for {size}×{size} images and {}", lasting(minutes));
        self.choose(suited, "model.base_channels", number(width), why("width"));
        let list = |numbers: &[usize]| toml::Value::Array(numbers.iter().map(|n| number(*n)).collect());
        self.choose(suited, "model.multipliers", list(multipliers), why("resolutions"));
        self.choose(suited, "model.attention_levels", list(&[lowest]), "the lowest resolution".into());
        self.choose(suited, "model.layers_per_block", number(layers), why("depth"));
        self.choose(suited, "model.norm_groups", number(8), "divides all numbers of channels".into());
    }

    fn get(&self, key: &str) -> Option<&toml::Value> {
        let mut parts = key.split('.');
        let first = self.table.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part))
    }

    /// Sets a key that is not given.
    fn choose(&mut self, suited: &mut Suited, key: &'static str, value: toml::Value, why: String) {
        if self.get(key).is_some() {
            return;
        }
        suited.choices.push(Choice { key, value: value.to_string(), why });
        let mut layer = value;
        for part in key.rsplit('.') {
            layer = toml::Value::Table([(part.to_owned(), layer)].into_iter().collect());
        }
        if let toml::Value::Table(layer) = layer {
            merge(&mut self.table, layer);
        }
    }
}

/// The value of the first row that covers this many minutes.
fn at_most<T>(rows: &[(f64, T)], minutes: f64) -> &T {
    &rows.iter().find(|(until, _)| minutes <= *until).unwrap_or(&rows[rows.len() - 1]).1
}

fn number(n: usize) -> toml::Value {
    toml::Value::Integer(n as i64)
}

/// The factor between the highest and the lowest resolution; networks for larger images have one resolution more.
fn stride(size: usize) -> usize {
    if size > 48 { 8 } else { 4 }
}

fn lasting(minutes: f64) -> String {
    match minutes {
        m if m.is_finite() => format!("a run of {m:.0} minutes on a few cores"),
        _ => "a long run".into(),
    }
}

fn describe(found: &Survey) -> String {
    let size = if found.one_size { "" } else { " or more" };
    let kind = if found.grey { "grey" } else { "in colour" };
    let classes = match found.classes {
        0 => "no classes".to_owned(),
        1 => "1 class".to_owned(),
        n => format!("{n} classes"),
    };
    let recognized_as = match found.recognized_as.as_str() {
        "" => String::new(),
        text => format!("{text}: "),
    };
    format!("{recognized_as}{} images of {} pixels{size} a side, {kind}, {classes}", found.images, found.side)
}

fn describe_sounds(found: &SoundSurvey) -> String {
    let recognized_as = match found.recognized_as.as_str() {
        "" => String::new(),
        text => format!("{text}: "),
    };
    let channels = if found.stereo { "stereo" } else { "mono" };
    format!(
        "{recognized_as}{} sounds, most of {} Hz in {channels}, half of them of {:.2} s or less",
        found.sounds, found.rate, found.seconds
    )
}
