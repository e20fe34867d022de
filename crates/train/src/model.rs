//! The network of a run, and its additional layers for training.

use burn::{
    module::Module,
    tensor::{DType, Device, Tensor, TensorData},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use tweedie_data::EDM_LABELS;
use tweedie_models::{
    conditions::{CLASSES, Conditions, EMBEDDING, Entry},
    layers::{Init, Linear},
    network::Mode,
    params::settle,
    unet::{DownBlockType, MidBlockType, SampleSize, TimeScaleShift, UNet2DConfig, UNet2DModel, UpBlockType},
};
use tweedie_ops::{Batch, ExecContext};

use crate::{batches::HostBatch, error::TrainError};

/// The `[model]` table: a few sizes, or in `[model.unet]` all keys of a diffusers `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelConfig {
    /// A few sizes.
    Compact(CompactUNet),
    /// Keys of `UNet2DModel`'s `config.json`; missing ones have diffusers' defaults, and null is written `"null"`.
    /// `sample_size` and `num_class_embeds` are filled in.
    UNet(toml::Table),
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self::Compact(CompactUNet::default())
    }
}

/// A DDPM U-Net defined by a few sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CompactUNet {
    /// Channels at full resolution, a multiple of `norm_groups`.
    pub base_channels: usize,
    /// Channels at each resolution, as multiples of `base_channels`; each resolution is half the previous one.
    pub multipliers: Vec<usize>,
    /// The resolutions with self-attention; 0 is the full resolution.
    pub attention_levels: Vec<usize>,
    /// Whether the middle block has self-attention.
    pub mid_attention: bool,
    /// Channels per attention head; 0 for one head over all channels.
    pub head_channels: usize,
    /// Residual layers per resolution in the down path; the up path has one more.
    pub layers_per_block: usize,
    /// Dropout probability of residual layers.
    pub dropout: f64,
    /// Groups of the normalizations.
    pub norm_groups: usize,
    /// Whether time and class also scale the normalized features instead of only shifting them.
    pub scale_shift: bool,
}

impl Default for CompactUNet {
    fn default() -> Self {
        Self {
            base_channels: 64,
            multipliers: vec![1, 2, 2],
            attention_levels: vec![2],
            mid_attention: true,
            head_channels: 32,
            layers_per_block: 2,
            dropout: 0.0,
            norm_groups: 32,
            scale_shift: false,
        }
    }
}

impl Serialize for ModelConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Compact(compact) => compact.serialize(serializer),
            Self::UNet(table) => std::collections::BTreeMap::from([("unet", table)]).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ModelConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut table = toml::Table::deserialize(deserializer)?;
        match table.remove("unet") {
            None => CompactUNet::deserialize(table).map(Self::Compact).map_err(D::Error::custom),
            Some(toml::Value::Table(unet)) => match table.keys().next() {
                None => Ok(Self::UNet(unet)),
                Some(key) => Err(D::Error::custom(format!(
                    "`{key}` cannot be combined with `model.unet`, which describes the whole network"
                ))),
            },
            Some(other) => Err(D::Error::custom(format!("unet = {other}: expected a table"))),
        }
    }
}

impl ModelConfig {
    /// The diffusers configuration for images of `size`×`size` with 3 channels or 1. With `classes`, the network has that many classes and a null
    /// class. With `learned_range` it has twice the output channels, the second half for the variance.
    ///
    /// # Errors
    /// [`TrainError::Config`] naming the key.
    pub fn unet(
        &self,
        size: usize,
        channels: usize,
        classes: Option<usize>,
        learned_range: bool,
    ) -> Result<UNet2DConfig, TrainError> {
        let mut config = match self {
            Self::Compact(compact) => {
                UNet2DConfig { in_channels: channels, out_channels: channels, ..compact.unet()? }
            }
            Self::UNet(table) => {
                let value = nulls(serde_json::to_value(table).unwrap_or_default());
                UNet2DConfig::from_json(&value.to_string())
                    .map_err(|e| TrainError::Model(format!("model.unet: {e}")))?
            }
        };
        config.sample_size = Some(SampleSize::Square(size));
        let images = format!("{channels}, as images have (data.channels)");
        if config.in_channels != channels {
            return Err(TrainError::config("model.unet.in_channels", config.in_channels, images));
        }
        let (answered, expected) = match learned_range {
            false => (channels, images),
            true => (
                2 * channels,
                format!(
                    "{channels} or {}, for images and their variances (diffusion.variance = learned-range)",
                    2 * channels
                ),
            ),
        };
        if ![channels, answered].contains(&config.out_channels) {
            return Err(TrainError::config("model.unet.out_channels", config.out_channels, expected));
        }
        config.out_channels = answered;
        let embeds = classes.map(|k| k + 1);
        if let Some(given) = config.num_class_embeds.filter(|&n| embeds.is_some_and(|e| e != n)) {
            let expected =
                format!("{}, the number of classes in the data plus the null class", embeds.unwrap_or(0));
            return Err(TrainError::config("model.unet.num_class_embeds", given, expected));
        }
        config.num_class_embeds = embeds.or(config.num_class_embeds);
        config.validate().map_err(|e| TrainError::Model(e.to_string()))?;
        let stride = config.stride();
        if size == 0 || !size.is_multiple_of(stride) {
            let expected =
                format!("a multiple of {stride}, because the network halves the resolution that often");
            return Err(TrainError::config("data.size", size, expected));
        }
        Ok(config)
    }
}

/// Converts `"null"` to null, which TOML does not have.
pub(crate) fn nulls(value: serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::String(s) if s == "null" => serde_json::Value::Null,
        serde_json::Value::Object(map) => map.into_iter().map(|(k, v)| (k, nulls(v))).collect(),
        other => other,
    }
}

impl CompactUNet {
    pub(crate) fn unet(&self) -> Result<UNet2DConfig, TrainError> {
        let levels = self.multipliers.len();
        if self.base_channels == 0 {
            return Err(TrainError::config("model.base_channels", 0, "at least 1"));
        }
        if levels == 0 || self.multipliers.contains(&0) {
            let found = format!("{:?}", self.multipliers);
            return Err(TrainError::config("model.multipliers", found, "at least one value, all > 0"));
        }
        if let Some(level) = self.attention_levels.iter().find(|&&l| l >= levels) {
            let expected = format!("resolutions from 0 to {}", levels - 1);
            return Err(TrainError::config("model.attention_levels", level, expected));
        }
        let attention = |level| self.attention_levels.contains(&level);
        let channels: Option<Vec<usize>> =
            self.multipliers.iter().map(|m| self.base_channels.checked_mul(*m)).collect();
        Ok(UNet2DConfig {
            block_out_channels: channels.ok_or_else(|| {
                TrainError::config("model.base_channels", self.base_channels, "a smaller value")
            })?,
            down_block_types: (0..levels)
                .map(
                    |l| {
                        if attention(l) { DownBlockType::AttnDownBlock2D } else { DownBlockType::DownBlock2D }
                    },
                )
                .collect(),
            up_block_types: (0..levels)
                .rev()
                .map(|l| if attention(l) { UpBlockType::AttnUpBlock2D } else { UpBlockType::UpBlock2D })
                .collect(),
            mid_block_type: Some(MidBlockType::UNetMidBlock2D),
            add_attention: self.mid_attention,
            attention_head_dim: (self.head_channels > 0).then_some(self.head_channels),
            layers_per_block: self.layers_per_block,
            dropout: self.dropout,
            norm_num_groups: Some(self.norm_groups),
            resnet_time_scale_shift: if self.scale_shift {
                TimeScaleShift::ScaleShift
            } else {
                TimeScaleShift::Default
            },
            ..UNet2DConfig::default()
        })
    }
}

/// The network and layers that are only used in training.
#[derive(Module, Debug)]
pub(crate) struct TrainModel {
    /// The network.
    pub unet: UNet2DModel,
    /// Maps augmentation labels `[B, 9]` to the width of the time embedding, to which the result is added; at most one. It has
    /// no bias and starts at zero, so that the label of an unchanged image has no effect and the network alone is the whole
    /// model after training (Karras et al. 2022, appendix F.2).
    pub augment: Vec<Linear>,
}

impl TrainModel {
    /// Creates it with initial weights drawn from `seed`.
    ///
    /// # Errors
    /// If the configuration does not describe a network.
    pub fn new(config: &UNet2DConfig, labels: bool, seed: u64, device: &Device) -> Result<Self, TrainError> {
        let unet = UNet2DModel::new(config, seed, device).map_err(|e| TrainError::Model(e.to_string()))?;
        let init = Init::new(seed, device).at("augment.0");
        let shape = [config.time_width(), EDM_LABELS];
        let augment = if labels {
            vec![Linear { weight: init.constant("weight", shape, 0.0), bias: None }]
        } else {
            Vec::new()
        };
        Ok(settle(Self { unet, augment }))
    }

    /// The same, with calls of the U-Net in `context`.
    #[must_use]
    pub fn with_context(mut self, context: ExecContext) -> Self {
        self.unet = self.unet.with_context(context);
        self
    }

    /// The raw output for a batch's input.
    pub(crate) fn of_batch(&self, x: Batch, batch: &HostBatch, mode: Mode) -> Batch {
        let classes = (!batch.classes.is_empty()).then(|| batch.classes.clone());
        let labels = (!batch.labels.is_empty()).then_some(batch.labels.as_slice());
        let x = match batch.maps.is_empty() {
            true => x,
            false => {
                let maps = Batch::from_host(batch.maps.clone(), x.len(), x.shape(), &x.device());
                Batch::cat_channels(&[x, maps])
            }
        };
        Batch::of(self.forward(x.tensor(), &batch.times, classes, labels, mode))
    }

    /// The raw output for a batch. `labels` contains nine values per row, or is empty.
    pub fn forward(
        &self,
        x: Tensor<4>,
        times: &[f32],
        classes: Option<Vec<usize>>,
        labels: Option<&[f32]>,
        mode: Mode,
    ) -> Tensor<4> {
        let embedding = self.augment.first().zip(labels).map(|(linear, labels)| {
            let shape = [times.len(), EDM_LABELS];
            let labels = TensorData::new(labels.to_vec(), shape);
            linear.forward(Tensor::<2>::from_data(labels, (&x.device(), DType::F32)))
        });
        let conditions = Conditions::none()
            .with_some(CLASSES, classes.map(Entry::Indices))
            .with_some(EMBEDDING, embedding.map(Entry::Vectors));
        self.unet.forward(x, times, &conditions, mode)
    }
}
