//! Configuration values that follow from an initial model.

use std::path::Path;

use serde_json::Value;
use toml::Table;
use tweedie_core::{Parameterization, bound::ReverseVariance};
use tweedie_hub::{ComponentDir, HubError, ModelDir, SchedulerConfig};
use tweedie_models::{
    AutoencoderKlConfig, ClipTextConfig, ConfigError, UNet1DConfig, UNet2DConditionConfig, UNet3DConfig,
    unet::SampleSize,
};

use super::{folder, task_of};
use crate::{
    diffusion::{DiffusionConfig, Output, Process},
    error::TrainError,
    task::TaskKind,
};

/// The configuration that follows from the model at `path`: its network, its process, the image size, and `run.init`.
///
/// # Errors
/// If there is no model, or it cannot be trained here; names file and key.
pub(crate) fn settings(path: &Path) -> Result<Table, TrainError> {
    let Some(name) = path.to_str() else {
        return Err(TrainError::config("run.init", path.display(), "a path in valid Unicode"));
    };
    let dir = folder(path);
    let mut layer = match task_of(path)? {
        TaskKind::Diffusion => diffusion(&dir)?,
        TaskKind::TextToImage | TaskKind::TextToSound => {
            let unet = component(&dir, "unet", UNet2DConditionConfig::from_json)?;
            text(&dir, name, &unet.to_json(), unet.sample_size)?
        }
        TaskKind::TextToVideo => {
            let unet = component(&dir, "unet", UNet3DConfig::from_json)?;
            text(&dir, name, &unet.to_json(), unet.sample_size)?
        }
        TaskKind::Waveform => waveform(&dir)?,
        TaskKind::Vae => vae(&dir)?,
        TaskKind::SuperResolution => super_resolution(&dir)?,
        task @ (TaskKind::Clip | TaskKind::Prior | TaskKind::Decoder) => {
            let expected = format!("nothing: task = {task} starts from random weights");
            return Err(TrainError::config("run.init", path.display(), expected));
        }
    };
    layer.insert("run".into(), table([("init", name.into())]));
    Ok(layer)
}

fn table<const N: usize>(entries: [(&str, toml::Value); N]) -> toml::Value {
    toml::Value::Table(entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
}

fn number(n: usize) -> toml::Value {
    toml::Value::Integer(n as i64)
}

fn diffusion(dir: &Path) -> Result<Table, TrainError> {
    let model = ModelDir::open(dir)?;
    let mut layer = Table::new();
    layer.insert("model".into(), table([("unet", network(&model.unet.to_json()))]));
    if let Some(scheduler) = &model.scheduler {
        layer.insert("diffusion".into(), process(scheduler)?);
    }
    let mut data = Table::from_iter([("channels".to_owned(), number(model.unet.in_channels))]);
    data.extend(square(model.unet.sample_size).map(|size| ("size".to_owned(), number(size))));
    layer.insert("data".into(), toml::Value::Table(data));
    Ok(layer)
}

/// A pipeline of waveforms.
fn waveform(dir: &Path) -> Result<Table, TrainError> {
    let mut unet = component(dir, "unet", UNet1DConfig::from_json)?;
    let scheduler = SchedulerConfig::load(&dir.join("scheduler/scheduler_config.json"))?;
    let (rate, window, channels) = (unet.sample_rate.take(), unet.sample_size, unet.in_channels);
    let mut own =
        Table::from_iter([("window".to_owned(), number(window)), ("channels".to_owned(), number(channels))]);
    own.extend(rate.map(|rate| ("sample_rate".to_owned(), number(rate))));
    Ok(Table::from_iter([
        ("model".to_owned(), table([("unet", network(&unet.to_json()))])),
        ("diffusion".to_owned(), process(&scheduler)?),
        ("waveform".to_owned(), toml::Value::Table(own)),
    ]))
}

fn super_resolution(dir: &Path) -> Result<Table, TrainError> {
    let mut model = ModelDir::open(dir)?;
    // The small image's channels and the level of its noise are added again.
    model.unet.in_channels /= 2;
    model.unet.class_embed_type = None;
    let mut layer = Table::from_iter([
        ("task".to_owned(), TaskKind::SuperResolution.to_string().into()),
        ("model".to_owned(), table([("unet", network(&model.unet.to_json()))])),
        ("data".to_owned(), table([("channels", number(model.unet.in_channels))])),
    ]);
    if let Some(scheduler) = &model.scheduler {
        layer.insert("diffusion".into(), process(scheduler)?);
    }
    let mut own = Table::new();
    if let Some(enlarging) = model.extras.enlarging {
        own.insert("factor".into(), number(enlarging.factor));
        own.insert("noise".into(), number(enlarging.most_noise));
        own.insert("noise_level".into(), number(enlarging.noise_level));
    }
    own.extend(square(model.unet.sample_size).map(|side| ("crop".to_owned(), number(side))));
    layer.insert("super_resolution".into(), toml::Value::Table(own));
    Ok(layer)
}

/// The configuration of a part of the pipeline in `dir`.
fn component<C>(
    dir: &Path,
    part: &str,
    parse: impl FnOnce(&str) -> Result<C, ConfigError>,
) -> Result<C, TrainError> {
    let wrong = |source| HubError::Config { path: dir.join(part).join("config.json"), source };
    Ok(parse(ComponentDir::open(&dir.join(part))?.config()).map_err(wrong)?)
}

/// A pipeline of texts, called `name` by the user, whose network has this `config.json` and sample size.
fn text(dir: &Path, name: &str, unet: &str, sample: Option<SampleSize>) -> Result<Table, TrainError> {
    let text = component(dir, "text_encoder", ClipTextConfig::from_json)?;
    let vae = component(dir, "vae", AutoencoderKlConfig::from_json)?;
    let scheduler = SchedulerConfig::load(&dir.join("scheduler/scheduler_config.json"))?;

    let mut layer = Table::new();
    layer.insert("model".into(), table([("unet", network(unet))]));
    layer.insert("diffusion".into(), process(&scheduler)?);
    layer.insert(
        "text".into(),
        table([
            ("vae", name.into()),
            ("tokens", number(text.max_position_embeddings)),
            ("width", number(text.hidden_size)),
            ("layers", number(text.num_hidden_layers)),
            ("heads", number(text.num_attention_heads)),
        ]),
    );
    if let Some(size) = square(sample) {
        layer.insert("data".into(), table([("size", number(size * vae.stride()))]));
    }
    Ok(layer)
}

fn vae(dir: &Path) -> Result<Table, TrainError> {
    let text = ComponentDir::open(dir)?;
    let config = AutoencoderKlConfig::from_json(text.config())
        .map_err(|source| HubError::Config { path: dir.join("config.json"), source })?;
    let channels = config.block_out_channels.iter().map(|&c| number(c)).collect();
    let mut layer = Table::new();
    layer.insert(
        "vae".into(),
        table([
            ("latent_channels", number(config.latent_channels)),
            ("channels", toml::Value::Array(channels)),
            ("layers_per_block", number(config.layers_per_block)),
            ("norm_groups", number(config.norm_num_groups)),
            ("mid_attention", config.mid_block_add_attention.into()),
        ]),
    );
    if let Some(size) = square(Some(config.sample_size)) {
        layer.insert("data".into(), table([("size", number(size))]));
    }
    Ok(layer)
}

/// The width of square samples.
fn square(size: Option<SampleSize>) -> Option<usize> {
    size.map(|size| size.dims()).filter(|[h, w]| h == w).map(|[h, _]| h)
}

/// The keys of a network's `config.json` in the format of `[model.unet]`.
fn network(json: &str) -> toml::Value {
    fn toml_of(value: Value) -> toml::Value {
        match value {
            // TOML has no null.
            Value::Null => "null".into(),
            Value::Bool(b) => b.into(),
            Value::Number(n) => match n.as_i64() {
                Some(n) => n.into(),
                None => n.as_f64().unwrap_or(f64::NAN).into(),
            },
            Value::String(s) => s.into(),
            Value::Array(values) => toml::Value::Array(values.into_iter().map(toml_of).collect()),
            Value::Object(map) => toml::Value::Table(map.into_iter().map(|(k, v)| (k, toml_of(v))).collect()),
        }
    }
    // Keys that follow from the data.
    const OTHERS: [&str; 2] = ["sample_size", "num_class_embeds"];
    let Ok(Value::Object(mut entries)) = serde_json::from_str(json) else { return Table::new().into() };
    entries.retain(|key, _| !key.starts_with('_') && !OTHERS.contains(&key.as_str()));
    toml_of(Value::Object(entries))
}

/// The process of a scheduler's configuration in the format of `[diffusion]`.
fn process(scheduler: &SchedulerConfig) -> Result<toml::Value, TrainError> {
    let wrong = |key: &str, found: String, expected: &str| HubError::Key {
        path: scheduler.path().into(),
        key: key.into(),
        reason: format!("{found}: expected {expected}"),
    };
    let json: Value = serde_json::from_str(&scheduler.to_json()).unwrap_or_default();
    let number = |key: &str, default: f64| json[key].as_f64().unwrap_or(default);
    let class = scheduler.class_name();
    let betas = json["beta_schedule"].as_str().unwrap_or("linear");
    let schedule = match betas {
        _ if class.starts_with("FlowMatch") => Process::Flow,
        _ if class.starts_with("EDM") => Process::Edm,
        _ if class == "IPNDMScheduler" => Process::Cosine,
        "linear" => Process::Linear,
        "scaled_linear" => Process::ScaledLinear,
        "squaredcos_cap_v2" => Process::SquaredCosine,
        "sigmoid" => Process::Sigmoid,
        other => {
            let expected = "linear, scaled_linear, squaredcos_cap_v2 or sigmoid for training";
            return Err(wrong("beta_schedule", other.into(), expected).into());
        }
    };
    let process = scheduler.process();
    let defaults = DiffusionConfig::default();
    let config = DiffusionConfig {
        schedule,
        parameterization: match process.parameterization {
            Parameterization::Eps => Output::Eps,
            Parameterization::X0 => Output::X0,
            Parameterization::V => Output::V,
            Parameterization::Flow => Output::Flow,
            Parameterization::Edm { .. } => Output::Edm,
            other => {
                let expected = "a prediction type that training supports";
                return Err(wrong("prediction_type", format!("{other:?}"), expected).into());
            }
        },
        variance: match json["variance_type"].as_str() {
            Some("fixed_large" | "fixed_large_log") => ReverseVariance::FixedLarge,
            Some("learned_range") => ReverseVariance::LearnedRange,
            Some(other @ "learned") => {
                return Err(wrong("variance_type", other.into(), "a fixed variance or learned_range").into());
            }
            _ => ReverseVariance::FixedSmall,
        },
        train_steps: number("num_train_timesteps", 1000.0) as usize,
        beta_start: number("beta_start", defaults.beta_start),
        beta_end: number("beta_end", defaults.beta_end),
        zero_terminal_snr: json["rescale_betas_zero_snr"].as_bool().unwrap_or(false),
        shift: number("shift", defaults.shift),
        sigma_min: number("sigma_min", defaults.sigma_min),
        sigma_max: number("sigma_max", defaults.sigma_max),
        sigma_data: number("sigma_data", defaults.sigma_data),
    };
    config.check()?;
    let (ours, theirs) = (config.schedule()?, &process.schedule);
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-6 * a.abs().max(b.abs());
    let differs = |i: usize| {
        let (a, b) = (ours.level(i as f64), theirs.level(i as f64));
        !(near(a.alpha, b.alpha) && near(a.sigma, b.sigma))
    };
    if config.is_table() && (0..config.train_steps).any(differs) {
        let expected = "noise levels given by beta_schedule, beta_start and beta_end";
        return Err(wrong("trained_betas", "other levels".into(), expected).into());
    }
    toml::Value::try_from(config).map_err(|e| TrainError::Model(e.to_string()))
}
