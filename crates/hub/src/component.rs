//! A folder with one network: `config.json` and its weights.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use burn::{module::Module, tensor::Device};
use serde_json::{Map, Value};
use tweedie_models::{
    AutoencoderKl, CODECS, ClapTextConfig, ClapTextModel, ClipTextConfig, ClipTextModel, ClipVisionConfig,
    ClipVisionModel, Codec, ConfigError, ControlNetConfig, ControlNetModel, EmbeddingProjection,
    EmbeddingProjectionConfig, HifiGan, HifiGanConfig, HostTensor, IoSpec, LoadError, NETWORKS, Network,
    StableAudioProjection, StableAudioProjectionConfig, T2iAdapter, T2iAdapterConfig, T5Config, T5Encoder,
    TensorSource, export, registry,
};

use crate::{
    error::HubError,
    files,
    model_dir::{EXTRAS, Extras, WEIGHTS},
    variants::variants,
    weights::{self, Precision, SafetensorsFile},
};

pub(crate) const CONFIG: &str = "config.json";
/// File name of weights in transformers, without the extension.
pub(crate) const TEXT_WEIGHTS: &str = "model";

/// A loaded network of any supported class.
#[derive(Debug)]
pub enum Component {
    /// One of [`NETWORKS`].
    Network(Box<dyn Network>),
    /// One of [`CODECS`].
    Codec(Box<dyn Codec>),
    /// `CLIPTextModel` or `CLIPTextModelWithProjection`.
    Text(Box<ClipTextModel>),
    /// `CLIPVisionModelWithProjection` or `CLIPVisionModel`.
    Vision(Box<ClipVisionModel>),
    /// `UnCLIPTextProjModel`.
    Projection(Box<EmbeddingProjection>),
    /// `ControlNetModel`.
    Control(Box<ControlNetModel>),
    /// `T2IAdapter`.
    Adapter(Box<T2iAdapter>),
    /// `ClapTextModelWithProjection`.
    Clap(Box<ClapTextModel>),
    /// `SpeechT5HifiGan`.
    Vocoder(Box<HifiGan>),
    /// `T5EncoderModel` or `UMT5EncoderModel`.
    T5(Box<T5Encoder>),
    /// `StableAudioProjectionModel`.
    SoundProjection(Box<StableAudioProjection>),
}

/// The supported classes besides [`NETWORKS`] and [`CODECS`].
const OTHERS: [&str; 12] = [
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    ClipVisionConfig::CLASS,
    ClipVisionConfig::UNPROJECTED,
    EmbeddingProjectionConfig::CLASS,
    ControlNetConfig::CLASS,
    T2iAdapterConfig::CLASS,
    ClapTextConfig::CLASS,
    HifiGanConfig::CLASS,
    T5Config::CLASS,
    T5Config::UMT5,
    StableAudioProjectionConfig::CLASS,
];
/// Those of transformers.
const OF_TRANSFORMERS: [&str; 8] = [
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    ClipVisionConfig::CLASS,
    ClipVisionConfig::UNPROJECTED,
    ClapTextConfig::CLASS,
    HifiGanConfig::CLASS,
    T5Config::CLASS,
    T5Config::UMT5,
];

/// A network's folder with its configuration; the weights are not read yet.
pub struct ComponentDir {
    dir: PathBuf,
    /// The path of the configuration, for errors.
    config: PathBuf,
    class: String,
    text: String,
    variant: Option<String>,
}

impl ComponentDir {
    /// Reads the configuration in `dir`.
    ///
    /// # Errors
    /// If it is missing, or of a class that is not supported.
    pub fn open(dir: &Path) -> Result<Self, HubError> {
        let path = dir.join(CONFIG);
        let text = files::read_text(&path)?;
        let entries: Map<String, Value> =
            serde_json::from_str(&text).map_err(|e| HubError::format(&path, format!("invalid JSON: {e}")))?;
        let first = |v: &Value| v.get(0).and_then(Value::as_str).map(str::to_owned);
        let class = match entries.get("_class_name").and_then(Value::as_str) {
            Some(name) => name.to_owned(),
            None => entries.get("architectures").and_then(first).unwrap_or_else(|| NETWORKS[0].class.into()),
        };
        let networks = NETWORKS.iter().map(|entry| entry.class);
        let codecs = CODECS.iter().map(|entry| entry.class);
        let all: Vec<&str> = networks.chain(codecs).chain(OTHERS).collect();
        if !all.contains(&class.as_str()) {
            let reason = format!("unsupported class `{class}`; expected one of {}", all.join(", "));
            return Err(HubError::key(&path, "_class_name", reason));
        }
        Ok(Self { dir: dir.into(), config: path, class, text, variant: None })
    }

    /// A network of `class` with the configuration `text`, inferred from the file `origin`.
    pub(crate) fn described(origin: &Path, class: String, text: String) -> Self {
        Self { dir: origin.into(), config: origin.into(), class, text, variant: None }
    }

    /// The same with the given variant of the weights.
    #[must_use]
    pub fn with_variant(self, variant: Option<&str>) -> Self {
        Self { variant: variant.map(str::to_owned), ..self }
    }

    /// The same with another value in its configuration.
    pub(crate) fn with_key(mut self, key: &str, value: Value) -> Result<Self, HubError> {
        let invalid = |e: serde_json::Error| HubError::format(&self.config, format!("invalid JSON: {e}"));
        let mut entries: Map<String, Value> = serde_json::from_str(&self.text).map_err(invalid)?;
        entries.insert(key.into(), value);
        self.text = Value::Object(entries).to_string();
        Ok(self)
    }

    /// Whether the weights have this variant.
    pub(crate) fn has_variant(&self, variant: &str) -> Result<bool, HubError> {
        Ok(variants(&self.dir, self.stem())?.contains_key(variant))
    }

    fn stem(&self) -> &'static str {
        if OF_TRANSFORMERS.contains(&&*self.class) { TEXT_WEIGHTS } else { WEIGHTS }
    }

    /// The network's class.
    pub fn class(&self) -> &str {
        &self.class
    }

    /// The text of the configuration.
    pub fn config(&self) -> &str {
        &self.text
    }

    /// What the network takes and gives.
    ///
    /// # Errors
    /// If it does not denoise samples, or its configuration does not describe a network.
    pub fn spec(&self) -> Result<IoSpec, HubError> {
        let entry = registry::find(&self.class).ok_or_else(|| {
            HubError::key(&self.config, "_class_name", format!("`{}` does not denoise samples", self.class))
        })?;
        (entry.spec)(&self.text).map_err(|source| HubError::Config { path: self.config.clone(), source })
    }

    /// Loads the network on `device`, with the weights of its folder.
    ///
    /// # Errors
    /// If the configuration does not describe a network, or the weights are missing, damaged or those of another network.
    pub fn load(&self, device: &Device) -> Result<Component, HubError> {
        let weights = self.weights()?;
        self.load_from(&weights, weights.path(), device)
    }

    /// Opens the weights without reading them.
    ///
    /// # Errors
    /// Those of [`SafetensorsFile::open_in`].
    pub fn weights(&self) -> Result<SafetensorsFile, HubError> {
        SafetensorsFile::open_in(&self.dir, self.stem(), self.variant.as_deref())
    }

    /// Loads the network with the tensors of `source`; errors name `path`.
    ///
    /// # Errors
    /// Those of [`Self::load`].
    pub fn load_from(
        &self,
        source: &dyn TensorSource,
        path: &Path,
        device: &Device,
    ) -> Result<Component, HubError> {
        let bad = |source: ConfigError| HubError::Config { path: self.config.clone(), source };
        let fail = |error: LoadError| match error {
            LoadError::Config(source) => bad(source),
            LoadError::Params(source) => HubError::Params { path: path.into(), source },
        };
        let text = &self.text;
        Ok(match self.class.as_str() {
            "CLIPTextModel" | "CLIPTextModelWithProjection" => {
                let config = ClipTextConfig::from_json(text).map_err(bad)?;
                Component::Text(Box::new(ClipTextModel::load(&config, source, device).map_err(fail)?))
            }
            ClipVisionConfig::CLASS | ClipVisionConfig::UNPROJECTED => {
                let config = ClipVisionConfig::from_json(text).map_err(bad)?;
                Component::Vision(Box::new(ClipVisionModel::load(&config, source, device).map_err(fail)?))
            }
            EmbeddingProjectionConfig::CLASS => {
                let config = EmbeddingProjectionConfig::from_json(text).map_err(bad)?;
                let projection = EmbeddingProjection::load(&config, source, device).map_err(fail)?;
                Component::Projection(Box::new(projection))
            }
            ControlNetConfig::CLASS => {
                let config = ControlNetConfig::from_json(text).map_err(bad)?;
                Component::Control(Box::new(ControlNetModel::load(&config, source, device).map_err(fail)?))
            }
            T2iAdapterConfig::CLASS => {
                let config = T2iAdapterConfig::from_json(text).map_err(bad)?;
                Component::Adapter(Box::new(T2iAdapter::load(&config, source, device).map_err(fail)?))
            }
            ClapTextConfig::CLASS => {
                let config = ClapTextConfig::from_json(text).map_err(bad)?;
                Component::Clap(Box::new(ClapTextModel::load(&config, source, device).map_err(fail)?))
            }
            HifiGanConfig::CLASS => {
                let config = HifiGanConfig::from_json(text).map_err(bad)?;
                Component::Vocoder(Box::new(HifiGan::load(&config, source, device).map_err(fail)?))
            }
            T5Config::CLASS => {
                let config = T5Config::from_json(text).map_err(bad)?;
                Component::T5(Box::new(T5Encoder::load(&config, source, device).map_err(fail)?))
            }
            T5Config::UMT5 => {
                let config = T5Config::from_umt5_json(text).map_err(bad)?;
                Component::T5(Box::new(T5Encoder::load(&config, source, device).map_err(fail)?))
            }
            StableAudioProjectionConfig::CLASS => {
                let config = StableAudioProjectionConfig::from_json(text).map_err(bad)?;
                let projection = StableAudioProjection::load(&config, source, device).map_err(fail)?;
                Component::SoundProjection(Box::new(projection))
            }
            class => match CODECS.iter().find(|entry| entry.class == class) {
                Some(entry) => Component::Codec((entry.load)(text, source, device).map_err(fail)?),
                None => {
                    let entry = registry::find(class).unwrap_or(&NETWORKS[0]);
                    Component::Network((entry.load)(text, source, device).map_err(fail)?)
                }
            },
        })
    }
}

/// Writes a network's folder: its configuration, and its weights in a file called `stem`. Weights that are not finite
/// are an error.
pub(crate) fn write<M: Module>(
    dir: &Path,
    stem: &str,
    module: &M,
    config: &str,
    precision: Precision,
) -> Result<(), HubError> {
    write_tensors(dir, stem, &export(module), config, precision)
}

/// The same for tensors.
pub(crate) fn write_tensors(
    dir: &Path,
    stem: &str,
    tensors: &BTreeMap<String, HostTensor>,
    config: &str,
    precision: Precision,
) -> Result<(), HubError> {
    files::create_dir(dir)?;
    files::write_atomic(&dir.join(CONFIG), config.as_bytes())?;
    let file = dir.join(format!("{stem}.safetensors"));
    let broken = tensors.iter().find_map(|(name, t)| Some((name, t.values.iter().find(|v| !v.is_finite())?)));
    if let Some((name, value)) = broken {
        return Err(HubError::tensor(&file, name, format!("has a value that is not finite ({value})")));
    }
    weights::write(&file, tensors, precision, &BTreeMap::new())
}

/// Writes the folder `path`, which Python opens with `AutoencoderKL.from_pretrained(path)`, and `tweedie.json` if
/// `extras` is not empty. A network at `path` is replaced as a whole.
///
/// # Errors
/// If a file cannot be written (then `path` is unchanged), or `path` is a folder with other content.
pub fn save_autoencoder(
    path: &Path,
    vae: &AutoencoderKl,
    extras: &Extras,
    precision: Precision,
) -> Result<(), HubError> {
    files::write_dir_with(path, CONFIG, |dir| {
        write(dir, WEIGHTS, vae, &vae.config().to_json(), precision)?;
        if *extras != Extras::default() {
            files::write_json(&dir.join(EXTRAS), extras)?;
        }
        Ok(())
    })
}
