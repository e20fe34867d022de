//! Whether a configuration describes a network, and whether an input fits it.
//!
//! Layers check their own channels. Here channels and resolutions are followed through the network, since
//! not every way up can join what every way down left.

use burn::tensor::Device;

use super::{
    UNet2DModel,
    blocks::{SKIP_CHANNELS, UpBlock, UpChannels},
    config::{
        ClassEmbedType, ConfigError, DownBlockType, SampleSize, TimeEmbeddingType, UNet2DConfig, UpBlockType,
    },
};
use crate::{
    layers::Init,
    network::{Condition, InputError},
};

/// More are taken for a mistake.
pub(super) const MAX_PARAMETERS: usize = 1 << 33;

/// Channels of one layer, entries of a table and the like: more are taken for a mistake.
const MAX_WIDTH: usize = 1 << 20;

const MAX_BLOCKS: usize = 16;

const MAX_LAYERS: usize = 64;

impl UNet2DConfig {
    /// Whether a network can be built from this.
    ///
    /// # Errors
    /// Names the key and its value, and says what was expected: lists that differ in length, channels that
    /// do not divide into groups, blocks that do not fit together, values out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        UNet2DModel::build(self, &Init::new(0, &Device::flex())).map(drop)
    }

    /// How many pixels one pixel of the lowest resolution stands for, in each direction: heights and widths
    /// are multiples of it.
    pub fn stride(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    /// Whether the network takes images of `shape` (`[B, C, H, W]`) at `times` under `condition`.
    ///
    /// # Errors
    /// Says which input is wrong and what was expected.
    pub fn check_input(
        &self,
        shape: [usize; 4],
        times: &[f32],
        condition: &Condition,
    ) -> Result<(), InputError> {
        let [b, c, h, w] = shape;
        ensure(c == self.in_channels, || format!("images of {c} channels, expected {}", self.in_channels))?;
        let stride = self.stride();
        ensure(h > 0 && w > 0 && h.is_multiple_of(stride) && w.is_multiple_of(stride), || {
            format!("images of {h}×{w} pixels, expected multiples of {stride}")
        })?;
        let mirrored = self.up_block_types.iter().position(|t| *t == UpBlockType::KUpBlock2D);
        if let Some(i) = mirrored.filter(|i| i + 1 < self.up_block_types.len()) {
            let least = 2 * (stride >> i);
            ensure(h >= least && w >= least, || {
                format!("images of {h}×{w} pixels, expected at least {least}")
            })?;
        }
        ensure(times.len() == b, || format!("{} times for {b} images", times.len()))?;
        if self.time_embedding_type == TimeEmbeddingType::Learned {
            let n = self.num_train_timesteps.unwrap_or(0);
            for t in times {
                let known = t.fract() == 0.0 && *t >= 0.0 && (*t as usize) < n;
                ensure(known, || format!("time {t}, expected a whole number below {n}"))?;
            }
        }
        self.check_classes(b, condition)?;
        match condition.embedding.as_ref().map(|e| e.dims()) {
            Some(found) => ensure(found == [b, self.time_width()], || {
                format!("an embedding of shape {found:?}, expected {:?}", [b, self.time_width()])
            }),
            None => ensure(self.class_embed_type != Some(ClassEmbedType::Identity), || {
                "no embedding of the class, which this network expects".into()
            }),
        }
    }

    fn check_classes(&self, b: usize, condition: &Condition) -> Result<(), InputError> {
        let least_unknown = match (self.class_embed_type, self.num_class_embeds) {
            (Some(ClassEmbedType::Timestep), _) => match self.time_embedding_type {
                TimeEmbeddingType::Learned => self.num_train_timesteps,
                _ => Some(usize::MAX),
            },
            (Some(ClassEmbedType::Identity), _) => None,
            (None, entries) => entries,
        };
        match (least_unknown, &condition.classes) {
            (None, None) => Ok(()),
            (None, Some(_)) => Err(InputError("classes for a network that knows none".into())),
            (Some(_), None) => Err(InputError("no classes for a network that expects them".into())),
            (Some(n), Some(classes)) => {
                ensure(classes.len() == b, || format!("{} classes for {b} images", classes.len()))?;
                match classes.iter().find(|c| **c >= n) {
                    Some(c) => Err(InputError(format!("class {c}, expected one below {n}"))),
                    None => Ok(()),
                }
            }
        }
    }
}

fn ensure(ok: bool, message: impl FnOnce() -> String) -> Result<(), InputError> {
    if ok { Ok(()) } else { Err(InputError(message())) }
}

/// Checks each value by itself.
pub(super) fn check_values(config: &UNet2DConfig) -> Result<(), ConfigError> {
    let c = config;
    let blocks = c.block_out_channels.len();
    if blocks == 0 || blocks > MAX_BLOCKS {
        let reason = format!("expected 1 to {MAX_BLOCKS} numbers of channels");
        return Err(ConfigError::value("block_out_channels", &c.block_out_channels, reason));
    }
    let lists = [
        ("down_block_types", c.down_block_types.len(), serde_json::to_value(&c.down_block_types)),
        ("up_block_types", c.up_block_types.len(), serde_json::to_value(&c.up_block_types)),
    ];
    for (key, found, value) in lists {
        if found != blocks {
            let reason = format!("expected {blocks} blocks, as many as `block_out_channels` has entries");
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
        ("norm_eps", c.norm_eps, c.norm_eps.is_finite() && c.norm_eps >= 0.0, "expected a small number ≥ 0"),
        ("freq_shift", c.freq_shift, c.freq_shift.is_finite(), "expected a number"),
        (
            "mid_block_scale_factor",
            c.mid_block_scale_factor,
            c.mid_block_scale_factor.is_finite() && c.mid_block_scale_factor != 0.0,
            "expected a number other than 0",
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

/// Channels, and how often the resolution has been halved.
type Place = (usize, usize);

/// Follows the activations through a network while it is built.
pub(super) struct Flow {
    /// Channels after the blocks so far.
    pub(super) channels: usize,
    level: usize,
    skips: Vec<Place>,
    /// Where the image of the skip blocks is on the way down.
    image_down: usize,
    /// And on the way up, once there is one.
    image_up: Option<usize>,
}

impl Flow {
    /// After the first convolution.
    pub(super) fn new(channels: usize) -> Self {
        Self { channels, level: 0, skips: vec![(channels, 0)], image_down: 0, image_up: None }
    }

    /// Through a block on the way down.
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
                let reason = "the image of a skip block has a higher resolution than the block, since the \
                              blocks before are not all skip blocks";
                return Err(ConfigError::value("down_block_types", &config.down_block_types, reason));
            }
            if config.in_channels != SKIP_CHANNELS {
                let reason = format!("expected {SKIP_CHANNELS}, which the skip blocks read");
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

    /// Through the block on the way up at `level`.
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
            return wrong(format!("is entered by {} channels, expected {entering}", self.channels));
        }
        let reads = UpBlock::reads(kind, config);
        if reads > self.skips.len() {
            return wrong("finds nothing left to join from the way down".into());
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
                    "joins {} channels of level {} from the way down, expected {c} channels of level {l}",
                    found.0, found.1
                ));
            }
        }
        self.channels = if conditioned { next } else { outputs };

        if matches!(kind, T::SkipUpBlock2D | T::AttnSkipUpBlock2D) {
            if self.image_up.is_some_and(|at| at != level + 1) {
                return wrong("is a skip block, but the one before, which follows another, is not".into());
            }
            if self.image_up.is_some() || level > 0 {
                self.image_up = Some(level);
            }
        }
        self.level = level.saturating_sub(1);
        Ok(())
    }

    /// Into the last convolution, which has `first` channels.
    pub(super) fn end(&self, config: &UNet2DConfig, first: usize) -> Result<(), ConfigError> {
        if self.channels != first {
            let reason = format!("{} channels come out, expected {first}", self.channels);
            return Err(ConfigError::value("up_block_types", &config.up_block_types, reason));
        }
        match self.image_up {
            None => Ok(()),
            Some(0) if config.out_channels == SKIP_CHANNELS => Ok(()),
            Some(0) => {
                let reason = format!("expected {SKIP_CHANNELS}, which the skip blocks make");
                Err(ConfigError::value("out_channels", config.out_channels, reason))
            }
            Some(_) => {
                let reason = "after a skip block only skip blocks can bring its image to full resolution";
                Err(ConfigError::value("up_block_types", &config.up_block_types, reason))
            }
        }
    }
}
