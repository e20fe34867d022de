//! Motion adapters, which make a model of clips of a model of images (AnimateDiff, Guo et al. 2023, arXiv:2307.04725).

use std::{collections::BTreeMap, path::Path};

use burn::tensor::Device;
use serde_json::{Map, Value, json};
use tweedie_models::{
    HostTensor, TensorSource, UNet2DConditionConfig, UNetMotionConfig, VideoUNet, params::ParamError,
};

use super::{Model, kinds::ANIMATED};
use crate::{error::HubError, files, model_dir::WEIGHTS, weights::SafetensorsFile};

/// The folder of the adapter in pipelines.
pub(super) const ADAPTER: &str = "motion_adapter";
const CLASS: &str = "MotionAdapter";

/// Keys of an adapter's configuration with those of the network.
const KEYS: [(&str, &str); 6] = [
    ("motion_layers_per_block", "layers_per_block"),
    ("motion_max_seq_length", "motion_max_seq_length"),
    ("motion_num_attention_heads", "motion_num_attention_heads"),
    ("motion_transformer_layers_per_block", "temporal_transformer_layers_per_block"),
    ("motion_transformer_layers_per_mid_block", "temporal_transformer_layers_per_mid_block"),
    ("use_motion_mid_block", "use_motion_mid_block"),
];

impl Model {
    /// The model of clips that this model of images becomes with the motion adapter in the folder `adapter`: an
    /// `AnimateDiffPipeline`.
    ///
    /// # Errors
    /// If this is not a model with a `UNet2DConditionModel` and one text encoder, `adapter` is not the folder of a
    /// `MotionAdapter`, or does not fit the network.
    pub fn animated(self, adapter: &Path, device: &Device) -> Result<Self, HubError> {
        if self.network.spec().class != UNet2DConditionConfig::CLASS || self.texts.len() != 1 || self.kind.xl
        {
            let reason =
                format!("a motion adapter needs a StableDiffusionPipeline, not a {}", self.kind.name);
            return Err(HubError::format(adapter, reason));
        }
        let path = adapter.join("config.json");
        let keys: Map<String, Value> = files::read_json(&path)?;
        match keys.get("_class_name").and_then(Value::as_str) {
            Some(CLASS) => {}
            found => {
                let found = found.unwrap_or("missing");
                return Err(HubError::key(&path, "_class_name", format!("{found}; expected {CLASS}")));
            }
        }
        if let Some(channels) = keys.get("conv_in_channels").filter(|value| !value.is_null()) {
            let reason = format!("{channels}: adapters with their own first layer are not supported");
            return Err(HubError::key(&path, "conv_in_channels", reason));
        }
        let config = config(&self.network.config_json(), &keys);
        let config = UNetMotionConfig::from_json(&config.to_string())
            .map_err(|source| HubError::Config { path, source })?;
        // An adapter is not a network by itself, so its tensors are added to those of the network.
        let file = SafetensorsFile::open_in(adapter, WEIGHTS, None)?;
        let mut tensors: BTreeMap<String, HostTensor> = self.network.tensors();
        for name in file.names() {
            let value = read(&file, &name)?;
            tensors.insert(name, value);
        }
        let network = VideoUNet::load(&config, &tensors, device).map_err(|e| {
            HubError::format(file.path(), format!("does not fit the network of the model: {e}"))
        })?;
        Ok(Self { kind: &ANIMATED, network: Box::new(network), ..self })
    }
}

fn read(file: &SafetensorsFile, name: &str) -> Result<HostTensor, HubError> {
    file.read(name).map_err(|reason| HubError::Params {
        path: file.path().into(),
        source: ParamError::Read { name: name.into(), reason },
    })
}

/// The configuration of a `UNetMotionModel` from that of the image model's network and the keys of an adapter.
fn config(network: &str, adapter: &Map<String, Value>) -> Value {
    let plain: Map<String, Value> = serde_json::from_str(network).unwrap_or_default();
    let mut config = Map::from_iter([("_class_name".to_owned(), json!(UNetMotionConfig::CLASS))]);
    const KEPT: [&str; 12] = [
        "sample_size",
        "in_channels",
        "out_channels",
        "block_out_channels",
        "downsample_padding",
        "mid_block_scale_factor",
        "act_fn",
        "norm_num_groups",
        "norm_eps",
        "cross_attention_dim",
        "transformer_layers_per_block",
        "use_linear_projection",
    ];
    for key in KEPT {
        config.extend(plain.get(key).map(|value| (key.to_owned(), value.clone())));
    }
    // The misleading name is that of the published files.
    config.extend(
        plain.get("attention_head_dim").map(|heads| ("num_attention_heads".to_owned(), heads.clone())),
    );
    for side in ["down", "up"] {
        let key = format!("{side}_block_types");
        let motion = |kind: &Value| Value::from(kind.as_str().unwrap_or_default().replace("2D", "Motion"));
        let kinds = plain.get(&key).and_then(Value::as_array).map(|kinds| kinds.iter().map(motion).collect());
        config.extend(kinds.map(|kinds: Vec<Value>| (key, kinds.into())));
    }
    for (theirs, ours) in KEYS {
        config.extend(adapter.get(theirs).map(|value| (ours.to_owned(), value.clone())));
    }
    config.into()
}
