//! The first half of the U-Net, down to its middle block. ControlNets are copies of it.

use burn::tensor::Tensor;
use tweedie_ops::{self as ops, Batch, ConvOptions, Precision};

pub(crate) use super::blocks::MidBlock;
use super::{
    AdditionEmbedType, CrossClassEmbedType, CrossTimeEmbedType, UNet2DConditionConfig,
    blocks::{DownBlock, Inputs},
    k_blocks::KDownBlock,
};
use crate::{
    conditions::{Conditions, EMBEDDING, GUIDANCE, INTRABLOCK, LENGTHS, POOLED, SIZES, WITH_TIME},
    config::ConfigError,
    layers::{Conv2d, Either, Embedding, Init, Linear},
    network::Mode,
    unet::{
        embed::{self, FourierProjection, TimestepEmbedding},
        positional,
        resnet::Time,
    },
};

/// Embeds the class: a number like a time, or a vector; a number by a table, or a vector by one layer.
pub(crate) type ClassLayer = Either<TimestepEmbedding, Either<Embedding, Linear>>;

/// A block of the down path.
pub(crate) type Down = Either<DownBlock, KDownBlock>;

/// The layers of a network, as they are built. Networks have them as fields, whose names are those of their parameters.
pub(crate) struct EncoderLayers {
    pub(crate) conv_in: Conv2d,
    pub(crate) time_proj: Option<FourierProjection>,
    pub(crate) time_embedding: TimestepEmbedding,
    pub(crate) class_embedding: Option<ClassLayer>,
    pub(crate) add_embedding: Option<TimestepEmbedding>,
    pub(crate) down_blocks: Vec<Down>,
    pub(crate) mid_block: Option<MidBlock>,
}

impl EncoderLayers {
    pub(crate) fn new(config: &UNet2DConditionConfig, init: &Init) -> Result<Self, ConfigError> {
        config.check_values()?;
        let widths = &config.block_out_channels;
        let (first, width) = (widths[0], config.time_width());
        let (time_proj, time_inputs) = match config.time_embedding_type {
            CrossTimeEmbedType::Positional => (None, first),
            CrossTimeEmbedType::Fourier => {
                (Some(FourierProjection::new(&init.at("time_proj"), width / 2, 1.0)), width)
            }
        };
        let at = init.at("class_embedding");
        let missing = |key: &str, because: &str| {
            ConfigError::value(key, (), format!("expected a width, because `{because}` is set"))
        };
        const PROJECTED: &str = "projection_class_embeddings_input_dim";
        let projected = |because: &str| {
            config.projection_class_embeddings_input_dim.ok_or_else(|| missing(PROJECTED, because))
        };
        let vector = || projected("class_embed_type");
        let class_embedding = match (config.class_embed_type, config.num_class_embeds) {
            (Some(CrossClassEmbedType::Timestep), _) => {
                Some(Either::A(TimestepEmbedding::new(&at, time_inputs, width)))
            }
            (Some(CrossClassEmbedType::Projection), _) => {
                Some(Either::A(TimestepEmbedding::new(&at, vector()?, width)))
            }
            (Some(CrossClassEmbedType::SimpleProjection), _) => {
                Some(Either::B(Either::B(Linear::new(&at, vector()?, width, true))))
            }
            (None, Some(n)) => Some(Either::B(Either::A(Embedding::new(&at, n, width)))),
            (Some(CrossClassEmbedType::Identity), _) | (None, None) => None,
        };
        let add_embedding = match config.addition_embed_type {
            None => None,
            Some(AdditionEmbedType::TextTime) => {
                let because = "addition_embed_type";
                let number = || missing("addition_time_embed_dim", because);
                config.addition_time_embed_dim.ok_or_else(number)?;
                Some(TimestepEmbedding::new(&init.at("add_embedding"), projected(because)?, width))
            }
        };
        let down = |i: usize| {
            let inputs = widths[i.saturating_sub(1)];
            let at = init.at("down_blocks").at(i);
            Ok(match config.down_block_types[i].is_k() {
                true => Either::B(KDownBlock::new(&at, config, i, inputs)?),
                false => Either::A(DownBlock::new(&at, config, i, inputs)?),
            })
        };
        let mid = |kind| MidBlock::new(&init.at("mid_block"), config, kind);
        let at = init.at("time_embedding");
        let time_embedding = TimestepEmbedding::new(&at, time_inputs, width);
        Ok(Self {
            conv_in: Conv2d::new(&init.at("conv_in"), config.in_channels, first, config.conv_in_kernel, true),
            time_proj,
            time_embedding: match config.time_cond_proj_dim {
                Some(condition) => time_embedding.with_condition(&at, condition, time_inputs),
                None => time_embedding,
            },
            class_embedding,
            add_embedding,
            down_blocks: (0..widths.len()).map(down).collect::<Result<_, ConfigError>>()?,
            mid_block: config.mid_block_type.map(mid).transpose()?,
        })
    }
}

/// The layers of a network.
pub(crate) struct Encoder<'a> {
    pub(crate) conv_in: &'a Conv2d,
    pub(crate) time_proj: Option<&'a FourierProjection>,
    pub(crate) time_embedding: &'a TimestepEmbedding,
    pub(crate) class_embedding: Option<&'a ClassLayer>,
    pub(crate) add_embedding: Option<&'a TimestepEmbedding>,
    pub(crate) down_blocks: &'a [Down],
    pub(crate) mid_block: Option<&'a MidBlock>,
    pub(crate) config: &'a UNet2DConditionConfig,
    pub(crate) precision: Precision,
}

/// The inputs of a pass.
pub(crate) struct Given<'a> {
    /// `[B, in_channels, H, W]`.
    pub(crate) x: Tensor<4>,
    pub(crate) times: &'a [f32],
    pub(crate) conditions: &'a Conditions,
    pub(crate) mode: Mode,
    /// Added to the output of the first convolution.
    pub(crate) hint: Option<Tensor<4>>,
}

/// What the second half needs.
pub(crate) struct Halfway {
    /// The output of the middle block.
    pub(crate) x: Tensor<4>,
    /// The skip connections, from the highest resolution.
    pub(crate) skips: Vec<Tensor<4>>,
    pub(crate) time: Time,
    pub(crate) text: Option<Tensor<3>>,
}

impl Halfway {
    /// Adds a map to each skip connection and, last, to the output of the middle block.
    pub(crate) fn add(&mut self, residuals: &[Batch], precision: Precision) {
        let all = self.skips.iter_mut().chain([&mut self.x]);
        for (map, residual) in all.zip(residuals) {
            *map = ops::add(map.clone(), precision.lower(residual.tensor()));
        }
    }
}

impl Encoder<'_> {
    pub(crate) fn run(&self, given: Given<'_>) -> Halfway {
        let Given { x, times, conditions, mode, hint } = given;
        let x = if self.config.center_input_sample { x.mul_scalar(2.0f32).sub_scalar(1.0f32) } else { x };
        let raw = self.embed(times, conditions);
        let time = Time { active: self.config.act_fn.apply(raw.clone()), raw };
        let text = conditions.text().map(|text| self.precision.lower(text.clone()));
        let inputs = Inputs { time: &time, text: text.as_ref(), lengths: conditions.indices(LENGTHS), mode };

        let mut x = self.conv_in.forward(x, ConvOptions::same(self.config.conv_in_kernel / 2));
        if let Some(hint) = hint {
            x = ops::add(x, hint);
        }
        let mut x = self.precision.lower(x);
        let mut skips = vec![x.clone()];
        let maps = conditions.features(INTRABLOCK).unwrap_or_default();
        let mut maps = maps.iter().map(|map| self.precision.lower(map.tensor()));
        for block in self.down_blocks {
            x = match block {
                Either::A(block) => block.forward(x, maps.next(), &mut skips, &inputs),
                Either::B(block) => block.forward(x, &mut skips, &inputs),
            };
        }
        if let Some(block) = self.mid_block {
            x = block.forward(x, &inputs);
            x = maps.next().into_iter().fold(x, ops::add);
        }
        Halfway { x, skips, time, text }
    }

    /// Values as sines and cosines, `width` for each.
    fn project(&self, numbers: &[f32], width: usize) -> Tensor<2> {
        let values = positional(numbers, width, self.config.freq_shift, self.config.flip_sin_to_cos);
        embed::rows(values, numbers.len(), &self.time_embedding.device())
    }

    /// Embeds time, class and additional conditions in one vector per row, `[B, time width]`.
    fn embed(&self, times: &[f32], conditions: &Conditions) -> Tensor<2> {
        let (first, act) = (self.config.block_out_channels[0], self.config.act_fn);
        let waves = |numbers: &[f32]| match self.time_proj {
            Some(fourier) => fourier.forward_plain(numbers, self.config.flip_sin_to_cos),
            None => self.project(numbers, first),
        };
        let mut numbers = waves(times);
        if let Some(vector) = conditions.vectors(WITH_TIME) {
            numbers = self.time_embedding.joined(numbers, vector.clone());
        }
        if let (Some(width), Some(scales)) = (self.config.guidance_width(), conditions.numbers(GUIDANCE)) {
            // Meng et al. 2023, arXiv:2210.03142, with the constants of published networks.
            let beyond: Vec<f32> = scales.iter().flatten().map(|scale| 1000.0 * (scale - 1.0)).collect();
            let embedded =
                embed::rows(positional(&beyond, width, 1.0, false), beyond.len(), &numbers.device());
            numbers = self.time_embedding.joined(numbers, embedded);
        }
        let mut sum = self.time_embedding.forward_with(act, numbers);
        if let Some(post) = self.config.timestep_post_act {
            sum = post.apply(sum);
        }
        let class = match (self.class_embedding, conditions.classes(), conditions.vectors(EMBEDDING)) {
            (Some(Either::A(maps)), Some(classes), _) => {
                let classes: Vec<f32> = classes.iter().map(|&c| c as f32).collect();
                Some(maps.forward_with(act, waves(&classes)))
            }
            (Some(Either::B(Either::A(table))), Some(classes), _) => Some(table.forward(classes)),
            (Some(Either::A(maps)), None, Some(given)) => Some(maps.forward(given.clone())),
            (Some(Either::B(Either::B(map))), _, Some(given)) => Some(map.forward(given.clone())),
            (None, _, given) => given.cloned(),
            _ => None,
        };
        sum = match class {
            Some(class) if self.config.class_embeddings_concat => Tensor::cat(vec![sum, class], 1),
            Some(class) => sum + class,
            None => sum,
        };
        let added = (conditions.vectors(POOLED), conditions.numbers(SIZES));
        if let (Some(maps), (Some(pooled), Some(ids))) = (self.add_embedding, added) {
            let rows = ids.len();
            let numbers = ids.concat();
            let width = self.config.addition_time_embed_dim.unwrap_or(0);
            let ids = self.project(&numbers, width).reshape([rows, numbers.len() / rows.max(1) * width]);
            sum = sum + maps.forward(Tensor::cat(vec![pooled.clone(), ids], 1));
        }
        sum
    }
}
