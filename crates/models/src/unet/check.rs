//! Checks whether a configuration describes a network, and whether an input suits it.
//!
//! Layers check their own channels. This module follows channels and resolutions through the network, because not every
//! up path matches every down path.

use burn::tensor::Device;

use super::{
    UNet2DModel,
    blocks::{SKIP_CHANNELS, UpBlock, UpChannels},
    config::{
        ClassEmbedType, ConfigError, DownBlockType, SampleSize, TimeEmbeddingType, UNet2DConfig, UpBlockType,
    },
};
use crate::{
    conditions::{Conditions, EMBEDDING},
    layers::Init,
    network::InputError,
};

/// Larger networks are considered a mistake.
pub(super) const MAX_PARAMETERS: usize = 1 << 33;

/// Limit for channels, table entries and similar; larger values are considered a mistake.
const MAX_WIDTH: usize = 1 << 20;

const MAX_BLOCKS: usize = 16;

const MAX_LAYERS: usize = 64;

impl UNet2DConfig {
    /// Checks that a network can be built from this.
    ///
    /// # Errors
    /// Names the key, its value and what was expected: for lists of different lengths, channels that are not divisible by
    /// groups, blocks that do not match, and values out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        UNet2DModel::build(self, &Init::new(0, &Device::flex())).map(drop)
    }

    /// The size in pixels that corresponds to one pixel at the lowest resolution. Heights and widths must be multiples of it.
    pub fn stride(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    /// Checks that the network supports images of `shape` (`[B, C, H, W]`) at `times` with `conditions`.
    ///
    /// # Errors
    /// Says which input is wrong and what was expected.
    pub fn check_input(
        &self,
        shape: [usize; 4],
        times: &[f32],
        conditions: &Conditions,
    ) -> Result<(), InputError> {
        let [b, c, h, w] = shape;
        ensure(c == self.in_channels, || {
            format!("the images have {c} channels, expected {}", self.in_channels)
        })?;
        let stride = self.stride();
        ensure(h > 0 && w > 0 && h.is_multiple_of(stride) && w.is_multiple_of(stride), || {
            format!("the images have {h}×{w} pixels, expected multiples of {stride}")
        })?;
        let mirrored = self.up_block_types.iter().position(|t| *t == UpBlockType::KUpBlock2D);
        if let Some(i) = mirrored.filter(|i| i + 1 < self.up_block_types.len()) {
            let least = 2 * (stride >> i);
            ensure(h >= least && w >= least, || {
                format!("the images have {h}×{w} pixels, expected at least {least}")
            })?;
        }
        ensure(times.len() == b, || format!("{} times for {b} images", times.len()))?;
        if self.time_embedding_type == TimeEmbeddingType::Learned {
            let n = self.num_train_timesteps.unwrap_or(0);
            for t in times {
                let known = t.fract() == 0.0 && *t >= 0.0 && (*t as usize) < n;
                ensure(known, || format!("time {t}, expected an integer in 0..{n}"))?;
            }
        }
        self.check_classes(b, conditions)?;
        match conditions.vectors(EMBEDDING).map(|e| e.dims()) {
            Some(found) => ensure(found == [b, self.time_width()], || {
                format!("the class embedding has shape {found:?}, expected {:?}", [b, self.time_width()])
            }),
            None => ensure(self.class_embed_type != Some(ClassEmbedType::Identity), || {
                "this network needs a class embedding".into()
            }),
        }
    }

    fn check_classes(&self, b: usize, conditions: &Conditions) -> Result<(), InputError> {
        let least_unknown = match (self.class_embed_type, self.num_class_embeds) {
            (Some(ClassEmbedType::Timestep), _) => match self.time_embedding_type {
                TimeEmbeddingType::Learned => self.num_train_timesteps,
                _ => Some(usize::MAX),
            },
            (Some(ClassEmbedType::Identity), _) => None,
            (None, entries) => entries,
        };
        match (least_unknown, conditions.classes()) {
            (None, None) => Ok(()),
            (None, Some(_)) => Err(InputError("this network has no classes".into())),
            (Some(_), None) => Err(InputError("this network needs classes".into())),
            (Some(n), Some(classes)) => {
                ensure(classes.len() == b, || format!("{} classes for {b} images", classes.len()))?;
                match classes.iter().find(|c| **c >= n) {
                    Some(c) => Err(InputError(format!("class {c} is out of range, expected 0..{n}"))),
                    None => Ok(()),
                }
            }
        }
    }
}

fn ensure(ok: bool, message: impl FnOnce() -> String) -> Result<(), InputError> {
    if ok { Ok(()) } else { Err(InputError(message())) }
}

/// Checks each value separately.
pub(super) fn check_values(config: &UNet2DConfig) -> Result<(), ConfigError> {
    let c = config;
    let blocks = c.block_out_channels.len();
    if blocks == 0 || blocks > MAX_BLOCKS {
        let reason = format!("expected 1 to {MAX_BLOCKS} entries");
        return Err(ConfigError::value("block_out_channels", &c.block_out_channels, reason));
    }
    let lists = [
        ("down_block_types", c.down_block_types.len(), serde_json::to_value(&c.down_block_types)),
        ("up_block_types", c.up_block_types.len(), serde_json::to_value(&c.up_block_types)),
    ];
    for (key, found, value) in lists {
        if found != blocks {
            let reason = format!("expected {blocks} blocks, one for each entry of `block_out_channels`");
            return Err(ConfigError::value(key, value.unwrap_or_default(), reason));
        }
    }
    if c.block_out_channels.iter().any(|n| *n == 0 || *n > MAX_WIDTH) {
        let reason = format!("expected channels between 1 and {MAX_WIDTH}");
        return Err(ConfigError::value("block_out_channels", &c.block_out_channels, reason));
    }
    let numbers = [
        ("in_channels", Some(c.in_channels), 1, MAX_WIDTH),
        ("out_channels", Some(c.out_channels), 1, MAX_WIDTH),
        ("layers_per_block", Some(c.layers_per_block), 1, MAX_LAYERS),
        ("time_embedding_dim", c.time_embedding_dim, 0, MAX_WIDTH),
        ("num_class_embeds", c.num_class_embeds, 1, 1 << 32),
        ("num_train_timesteps", c.num_train_timesteps, 0, 1 << 32),
    ];
    for (key, value, least, most) in numbers {
        if let Some(value) = value.filter(|v| *v < least || *v > most) {
            return Err(ConfigError::value(key, value, format!("expected between {least} and {most}")));
        }
    }
    let floats = [
        ("dropout", c.dropout, (0.0..=1.0).contains(&c.dropout), "expected a probability between 0 and 1"),
        ("norm_eps", c.norm_eps, c.norm_eps.is_finite() && c.norm_eps >= 0.0, "expected a finite value ≥ 0"),
        ("freq_shift", c.freq_shift, c.freq_shift.is_finite(), "expected a finite value"),
        (
            "mid_block_scale_factor",
            c.mid_block_scale_factor,
            c.mid_block_scale_factor.is_finite() && c.mid_block_scale_factor != 0.0,
            "expected a value other than 0",
        ),
    ];
    for (key, value, ok, reason) in floats {
        if !ok {
            return Err(ConfigError::value(key, value, reason));
        }
    }
    match c.sample_size.map(SampleSize::dims) {
        Some([h, w]) if h == 0 || w == 0 => {
            Err(ConfigError::value("sample_size", c.sample_size, "expected sizes of at least 1"))
        }
        _ => Ok(()),
    }
}

/// Channels, and the number of halvings of the resolution.
type Place = (usize, usize);

/// The state of activations while a network is built.
pub(super) struct Flow {
    /// Channels after the blocks so far.
    pub(super) channels: usize,
    level: usize,
    skips: Vec<Place>,
    /// Resolution of the skip blocks' image on the down path.
    image_down: usize,
    /// Resolution of the skip blocks' image on the up path, once it exists.
    image_up: Option<usize>,
}

impl Flow {
    /// After the first convolution.
    pub(super) fn new(channels: usize) -> Self {
        Self { channels, level: 0, skips: vec![(channels, 0)], image_down: 0, image_up: None }
    }

    /// After a block of the down path.
    pub(super) fn down(
        &mut self,
        config: &UNet2DConfig,
        kind: DownBlockType,
        outputs: usize,
        halves: bool,
    ) -> Result<(), ConfigError> {
        use DownBlockType as T;
        self.channels = outputs;
        self.skips.extend(vec![(outputs, self.level); config.layers_per_block]);
        if !halves {
            return Ok(());
        }
        if matches!(kind, T::SkipDownBlock2D | T::AttnSkipDownBlock2D) {
            if self.image_down != self.level {
                let reason = "a skip block needs its image at its own resolution, so all \
                              blocks before it must be skip blocks";
                return Err(ConfigError::value("down_block_types", &config.down_block_types, reason));
            }
            if config.in_channels != SKIP_CHANNELS {
                let reason = format!("expected {SKIP_CHANNELS} for skip blocks");
                return Err(ConfigError::value("in_channels", config.in_channels, reason));
            }
            self.image_down += 1;
        }
        self.level += 1;
        if kind != T::KDownBlock2D {
            self.skips.push((outputs, self.level));
        }
        Ok(())
    }

    /// After the block of the up path at `level`.
    pub(super) fn up(
        &mut self,
        config: &UNet2DConfig,
        kind: UpBlockType,
        channels: UpChannels,
        level: usize,
    ) -> Result<(), ConfigError> {
        use UpBlockType as T;
        let UpChannels { previous, outputs, next } = channels;
        let conditioned = kind == T::KUpBlock2D;
        let wrong = |reason: String| {
            let reason = format!("the block at level {level} {reason}");
            Err(ConfigError::value("up_block_types", &config.up_block_types, reason))
        };

        let entering = if conditioned { outputs } else { previous };
        if self.channels != entering {
            return wrong(format!("has {} input channels, expected {entering}", self.channels));
        }
        let reads = UpBlock::reads(kind, config);
        if reads > self.skips.len() {
            return wrong("has no skip connection left from the down path".into());
        }
        let mut taken = self.skips.split_off(self.skips.len() - reads);
        if conditioned {
            taken.drain(..reads - 1);
        }
        for (i, found) in taken.iter().rev().enumerate() {
            let last = i + 1 == reads && !conditioned;
            let expected = (if last { next } else { outputs }, level);
            if *found != expected {
                let (c, l) = expected;
                return wrong(format!(
                    "has a skip connection with {} channels from level {}, expected {c} channels from level {l}",
                    found.0, found.1
                ));
            }
        }
        self.channels = if conditioned { next } else { outputs };

        if matches!(kind, T::SkipUpBlock2D | T::AttnSkipUpBlock2D) {
            if self.image_up.is_some_and(|at| at != level + 1) {
                return wrong(
                    "is a skip block after a block that is not; skip blocks must be consecutive".into(),
                );
            }
            if self.image_up.is_some() || level > 0 {
                self.image_up = Some(level);
            }
        }
        self.level = level.saturating_sub(1);
        Ok(())
    }

    /// Before the last convolution, which has `first` channels.
    pub(super) fn end(&self, config: &UNet2DConfig, first: usize) -> Result<(), ConfigError> {
        if self.channels != first {
            let reason = format!("the up path ends with {} channels, expected {first}", self.channels);
            return Err(ConfigError::value("up_block_types", &config.up_block_types, reason));
        }
        match self.image_up {
            None => Ok(()),
            Some(0) if config.out_channels == SKIP_CHANNELS => Ok(()),
            Some(0) => {
                let reason = format!("expected {SKIP_CHANNELS} for skip blocks");
                Err(ConfigError::value("out_channels", config.out_channels, reason))
            }
            Some(_) => {
                let reason = "all blocks after a skip block must be skip blocks";
                Err(ConfigError::value("up_block_types", &config.up_block_types, reason))
            }
        }
    }
}
