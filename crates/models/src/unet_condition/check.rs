//! Checks whether a configuration describes a network, and whether an input suits it.

use burn::tensor::{Device, Tensor};

use super::{CrossClassEmbedType, CrossTimeEmbedType, UNet2DConditionConfig, UNet2DConditionModel};
use crate::{
    conditions::{Conditions, EMBEDDING, GUIDANCE, INTRABLOCK, LENGTHS, POOLED, RESIDUALS, SIZES, WITH_TIME},
    config::{ConfigError, in_range},
    layers::Init,
    network::InputError,
    unet::SampleSize,
};

const MAX_WIDTH: usize = 1 << 20;
const MAX_BLOCKS: usize = 16;

impl UNet2DConditionConfig {
    /// Checks that a network can be built from this.
    ///
    /// # Errors
    /// Names the key, its value and what was expected.
    pub fn validate(&self) -> Result<(), ConfigError> {
        UNet2DConditionModel::build(self, &Init::new(0, &Device::flex())).map(drop)
    }

    /// Checks each value separately.
    pub(crate) fn check_values(&self) -> Result<(), ConfigError> {
        let widths = &self.block_out_channels;
        let blocks = widths.len();
        let fits = (1..=MAX_BLOCKS).contains(&blocks) && widths.iter().all(|w| (1..=MAX_WIDTH).contains(w));
        if !fits {
            let reason = format!("expected 1 to {MAX_BLOCKS} entries between 1 and {MAX_WIDTH}");
            return Err(ConfigError::value("block_out_channels", widths, reason));
        }
        for (key, found) in
            [("down_block_types", self.down_block_types.len()), ("up_block_types", self.up_block_types.len())]
        {
            if found != blocks {
                let reason = format!("expected {blocks} blocks, one for each entry of `block_out_channels`");
                return Err(ConfigError::value(key, found, reason));
            }
        }
        in_range(&[
            ("in_channels", self.in_channels, 1, MAX_WIDTH),
            ("out_channels", self.out_channels, 1, MAX_WIDTH),
            ("norm_num_groups", self.norm_num_groups.unwrap_or(1), 1, MAX_WIDTH),
            ("downsample_padding", self.downsample_padding, 0, 1),
            ("time_embedding_dim", self.time_embedding_dim.unwrap_or(1), 1, MAX_WIDTH),
            ("time_cond_proj_dim", self.time_cond_proj_dim.unwrap_or(4), 4, MAX_WIDTH),
            ("num_class_embeds", self.num_class_embeds.unwrap_or(1), 1, 1 << 32),
            (
                "projection_class_embeddings_input_dim",
                self.projection_class_embeddings_input_dim.unwrap_or(1),
                1,
                MAX_WIDTH,
            ),
        ])?;
        for (key, value, ok) in [
            ("dropout", self.dropout, (0.0..=1.0).contains(&self.dropout)),
            ("norm_eps", self.norm_eps, self.norm_eps >= 0.0 && self.norm_eps.is_finite()),
            ("freq_shift", self.freq_shift, self.freq_shift.is_finite()),
            (
                "mid_block_scale_factor",
                self.mid_block_scale_factor,
                self.mid_block_scale_factor.is_finite() && self.mid_block_scale_factor != 0.0,
            ),
        ] {
            if !ok {
                return Err(ConfigError::value(key, value, "out of range"));
            }
        }
        self.check_k_blocks()?;
        for (key, side) in
            [("conv_in_kernel", self.conv_in_kernel), ("conv_out_kernel", self.conv_out_kernel)]
        {
            if side > 15 || side.is_multiple_of(2) {
                return Err(ConfigError::value(key, side, "expected an odd number of at most 15"));
            }
        }
        let width = self.time_width();
        if self.time_embedding_type == CrossTimeEmbedType::Fourier && !width.is_multiple_of(2) {
            return Err(ConfigError::value("time_embedding_dim", width, "expected an even number"));
        }
        if self.class_embeddings_concat {
            let class = self.class_embed_type.is_some() || self.num_class_embeds.is_some();
            if !class || self.addition_embed_type.is_some() {
                let reason =
                    "expected a `class_embed_type` or `num_class_embeds`, and no `addition_embed_type`";
                return Err(ConfigError::value("class_embeddings_concat", true, reason));
            }
        }
        match self.sample_size.map(SampleSize::dims) {
            Some([h, w]) if h == 0 || w == 0 => {
                Err(ConfigError::value("sample_size", self.sample_size, "expected sizes of at least 1"))
            }
            _ => Ok(()),
        }
    }

    /// Checks that blocks with fixed filters come alone, and that others have their groups.
    fn check_k_blocks(&self) -> Result<(), ConfigError> {
        let down = self.down_block_types.iter().filter(|kind| kind.is_k()).count();
        let up = self.up_block_types.iter().filter(|kind| kind.is_k()).count();
        match (down + up, self.norm_num_groups) {
            (0, Some(_)) => Ok(()),
            (0, None) => {
                let reason = "expected a number; only networks of the blocks `KDownBlock2D`, `KCrossAttnDownBlock2D` and so on \
                              need none";
                Err(ConfigError::value("norm_num_groups", (), reason))
            }
            (found, _) if found < 2 * self.block_out_channels.len() => {
                let key =
                    if down < self.block_out_channels.len() { "down_block_types" } else { "up_block_types" };
                let reason =
                    format!("{down} of the blocks down and {up} of those up have names with K; expected all");
                Err(ConfigError::value(key, self.block_out_channels.len(), reason))
            }
            _ => match self.mid_block_type {
                Some(kind) => {
                    let reason = "expected null: networks of blocks with names with K have no middle block";
                    Err(ConfigError::value("mid_block_type", kind, reason))
                }
                None => Ok(()),
            },
        }
    }

    /// Number of residual layers in block `level`.
    pub(crate) fn layers(&self, level: usize) -> Result<usize, ConfigError> {
        listed("layers_per_block", self.layers_per_block.get(level), level)
    }

    /// Number of transformer layers in block `level` of the down path.
    pub(crate) fn transformer_layers(&self, level: usize) -> Result<usize, ConfigError> {
        listed("transformer_layers_per_block", self.transformer_layers_per_block.get(level), level)
    }

    /// Number of transformer layers in block `i` of the up path, which is at `level`.
    pub(crate) fn transformer_layers_up(&self, i: usize, level: usize) -> Result<usize, ConfigError> {
        match &self.reverse_transformer_layers_per_block {
            Some(list) => listed("reverse_transformer_layers_per_block", list.get(i).copied(), i),
            None => self.transformer_layers(level),
        }
    }

    pub(super) fn only_cross(&self, level: usize) -> Result<bool, ConfigError> {
        let missing = || {
            ConfigError::value(
                "only_cross_attention",
                level,
                "is the index of a block without an entry in the list",
            )
        };
        self.only_cross_attention.get(level).ok_or_else(missing)
    }

    /// Checks that the network supports latents of `shape` (`[B, C, H, W]`) at `times` with `conditions`.
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
            format!("the sample has {c} channels, expected {}", self.in_channels)
        })?;
        ensure(h > 0 && w > 0, || format!("the sample has {h}×{w} pixels, expected at least 1×1"))?;
        ensure(times.len() == b, || format!("{} times for {b} samples", times.len()))?;
        if self.has_k_blocks() {
            let halved = 1 << self.block_out_channels.len().saturating_sub(1);
            let fits = |n: usize| n.is_multiple_of(halved) && (halved == 1 || n >= 2 * halved);
            ensure(fits(h) && fits(w), || {
                format!(
                    "the sample has {h}×{w} pixels, expected multiples of {halved}, and at least {}",
                    2 * halved
                )
            })?;
        }

        let tokens = self.check_text(b, conditions)?;

        let least_unknown = match (self.class_embed_type, self.num_class_embeds) {
            (Some(CrossClassEmbedType::Timestep), _) => Some(usize::MAX),
            (Some(_), _) => None,
            (None, entries) => entries,
        };
        match (least_unknown, conditions.classes()) {
            (None, None) => {}
            (None, Some(_)) => return Err(InputError("this network has no classes".into())),
            (Some(_), None) => return Err(InputError("this network needs classes".into())),
            (Some(n), Some(classes)) => {
                ensure(classes.len() == b, || format!("{} classes for {b} samples", classes.len()))?;
                if let Some(c) = classes.iter().find(|c| **c >= n) {
                    return Err(InputError(format!("class {c} is out of range, expected 0..{n}")));
                }
            }
        }
        let given = conditions.vectors(EMBEDDING).map(Tensor::dims);
        let expected = self.embedding_width().map(|width| [b, width]);
        ensure(given == expected, || match (expected, given) {
            (None, _) => "this network does not read an embedding".into(),
            (Some(_), None) => "this network needs an embedding".into(),
            (Some(expected), Some(given)) => {
                format!("the embedding has the shape {given:?}, expected {expected:?}")
            }
        })?;
        if let Some(lengths) = conditions.indices(LENGTHS) {
            let fits = lengths.iter().all(|n| (1..=tokens).contains(n));
            ensure(fits, || format!("the lengths of the texts are {lengths:?}, expected 1 to {tokens}"))?;
        }
        match (self.guidance_width(), conditions.numbers(GUIDANCE)) {
            (None, None) => {}
            (None, Some(_)) => {
                return Err(InputError("this network does not take a guidance scale".into()));
            }
            (Some(_), None) => {
                return Err(InputError("this network needs a guidance scale".into()));
            }
            (Some(_), Some(scales)) => {
                ensure(scales.len() == b, || format!("{} guidance scales for {b} samples", scales.len()))?;
            }
        }
        let (given, expected) =
            (conditions.vectors(WITH_TIME).map(Tensor::dims), self.with_time().map(|width| [b, width]));
        ensure(given == expected, || match expected {
            None => "this network does not read a vector with the time".into(),
            Some(expected) => {
                format!("the vector with the time has the shape {given:?}, expected {expected:?}")
            }
        })?;
        if let Some(maps) = conditions.features(RESIDUALS) {
            let (found, expected) = (maps.len(), self.residuals().len());
            ensure(found == expected, || format!("{found} residuals, expected {expected}"))?;
        }
        if let Some(maps) = conditions.features(INTRABLOCK) {
            let expected = self.intrablock();
            ensure(maps.len() <= expected.len(), || {
                format!("{} maps for the blocks, expected at most {}", maps.len(), expected.len())
            })?;
            for (i, (map, (width, side))) in maps.iter().zip(expected).enumerate() {
                let axes = [h.div_ceil(side), w.div_ceil(side)];
                ensure(map.shape().dims() == [width, axes[0], axes[1]], || {
                    let found = map.shape();
                    format!(
                        "map {i} for the blocks has the shape {found}, expected {width}×{}×{}",
                        axes[0], axes[1]
                    )
                })?;
            }
        }
        self.check_added(b, conditions)
    }

    /// The number of tokens of the text.
    fn check_text(&self, b: usize, conditions: &Conditions) -> Result<usize, InputError> {
        let text = match (conditions.text(), self.reads_text()) {
            (Some(text), true) => text,
            (None, false) => return Ok(0),
            (None, true) => return Err(InputError("this network needs text features".into())),
            (Some(_), false) => return Err(InputError("this network does not read text features".into())),
        };
        let [rows, tokens, width] = text.dims();
        let expected = self.text_width().unwrap_or(0);
        ensure(rows == b && tokens > 0 && width == expected, || {
            let found = text.dims();
            format!("the text features have shape {found:?}, expected [{b}, tokens, {expected}]")
        })?;
        Ok(tokens)
    }

    fn check_added(&self, b: usize, conditions: &Conditions) -> Result<(), InputError> {
        let (pooled, ids) = (conditions.vectors(POOLED), conditions.numbers(SIZES));
        if self.addition_embed_type.is_none() {
            return match (pooled, ids) {
                (None, None) => Ok(()),
                _ => {
                    Err(InputError("this network does not support pooled text features and time ids".into()))
                }
            };
        }
        let (Some(pooled), Some(ids)) = (pooled, ids) else {
            return Err(InputError("this network needs pooled text features and time ids".into()));
        };
        let [rows, pooled] = pooled.dims();
        ensure(rows == b, || format!("pooled text features for {rows} samples, expected {b}"))?;
        ensure(ids.len() == b, || format!("time ids for {} samples, expected {b}", ids.len()))?;
        let expected = self.added_numbers(pooled);
        let found = ids.iter().map(Vec::len).find(|n| Some(*n) != expected);
        ensure(found.is_none(), || {
            let all = self.projection_class_embeddings_input_dim.unwrap_or(0);
            let each = self.addition_time_embed_dim.unwrap_or(0);
            let n = found.unwrap_or(0);
            format!(
                "pooled text features of width {pooled} and {n} time ids of width {each}, expected a total width of {all}"
            )
        })
    }
}

fn listed(key: &str, value: Option<usize>, block: usize) -> Result<usize, ConfigError> {
    match value {
        Some(n) if (1..=256).contains(&n) => Ok(n),
        Some(n) => Err(ConfigError::value(key, n, "expected 1 to 256")),
        None => Err(ConfigError::value(key, block, "is the index of a block without an entry in the list")),
    }
}

fn ensure(ok: bool, message: impl FnOnce() -> String) -> Result<(), InputError> {
    if ok { Ok(()) } else { Err(InputError(message())) }
}
