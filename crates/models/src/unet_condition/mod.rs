//! `UNet2DConditionModel`: the text-conditional U-Net of latent diffusion (Rombach et al. 2022, arXiv:2112.10752; Podell
//! et al. 2023, arXiv:2307.01952), as in diffusers.

mod added;
mod blocks;
mod check;
mod config;
mod transformer;

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use tweedie_ops::{Batch, ConvOptions, ExecContext, Precision, SampleShape};

pub use config::{
    AdditionEmbedType, CrossDownBlockType, CrossMidBlockType, CrossUpBlockType, PerBlock,
    UNet2DConditionConfig,
};

use crate::{
    conditions::{CLASSES, Conditions, EMBEDDING, GUIDANCE, LENGTHS, POOLED, SIZES, TEXT},
    config::ConfigError,
    layers::{Conv2d, Either, Embedding, GroupNorm, Init},
    memory::unet_row,
    network::{Classes, InputError, IoSpec, Mode, Network, module_object},
    params::{self, TensorSource},
    unet::{
        ClassEmbedType, LoadError,
        embed::{self, TimestepEmbedding},
        positional,
        resnet::{Time, check_groups},
        shape_of,
    },
};
use blocks::{DownBlock, Inputs, MidBlock, UpBlock};

/// The text-conditional U-Net. Parameters are named as in diffusers' `UNet2DConditionModel`.
#[derive(Module, Debug)]
pub struct UNet2DConditionModel {
    conv_in: Conv2d,
    time_embedding: TimestepEmbedding,
    class_embedding: Option<Either<TimestepEmbedding, Embedding>>,
    add_embedding: Option<TimestepEmbedding>,
    down_blocks: Vec<DownBlock>,
    mid_block: Option<MidBlock>,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    #[module(skip)]
    config: UNet2DConditionConfig,
    #[module(skip)]
    context: ExecContext,
}

impl UNet2DConditionModel {
    /// Creates a network with initial weights drawn from PyTorch's default distributions.
    ///
    /// # Errors
    /// Those of [`UNet2DConditionConfig::validate`].
    pub fn new(config: &UNet2DConditionConfig, seed: u64, device: &Device) -> Result<Self, ConfigError> {
        Ok(params::settle(Self::build(config, &Init::new(seed, device))?))
    }

    /// Creates a network with the weights of `source`.
    ///
    /// # Errors
    /// Those of [`UNet2DConditionConfig::validate`] and [`params::import`].
    pub fn load(
        config: &UNet2DConditionConfig,
        source: &dyn TensorSource,
        device: &Device,
    ) -> Result<Self, LoadError> {
        Ok(params::import(Self::build(config, &Init::new(0, device))?, source)?)
    }

    /// The network's configuration.
    pub fn config(&self) -> &UNet2DConditionConfig {
        &self.config
    }

    fn build(config: &UNet2DConditionConfig, init: &Init) -> Result<Self, ConfigError> {
        config.check_values()?;
        let widths = &config.block_out_channels;
        let (first, width) = (widths[0], config.time_width());
        let at = init.at("class_embedding");
        let class_embedding = match (config.class_embed_type, config.num_class_embeds) {
            (Some(ClassEmbedType::Timestep), _) => Some(Either::A(TimestepEmbedding::new(&at, first, width))),
            (None, Some(n)) => Some(Either::B(Embedding::new(&at, n, width))),
            (Some(ClassEmbedType::Identity), _) | (None, None) => None,
        };
        let add_embedding = match config.addition_embed_type {
            None => None,
            Some(AdditionEmbedType::TextTime) => {
                let missing = |key: &str| {
                    ConfigError::value(key, (), "expected a width, because `addition_embed_type` is set")
                };
                config.addition_time_embed_dim.ok_or_else(|| missing("addition_time_embed_dim"))?;
                let inputs = config
                    .projection_class_embeddings_input_dim
                    .ok_or_else(|| missing("projection_class_embeddings_input_dim"))?;
                Some(TimestepEmbedding::new(&init.at("add_embedding"), inputs, width))
            }
        };
        let down = |i: usize| {
            let inputs = widths[i.saturating_sub(1)];
            DownBlock::new(&init.at("down_blocks").at(i), config, i, inputs)
        };
        let up = |i: usize| UpBlock::new(&init.at("up_blocks").at(i), config, i);
        let mid = |kind| MidBlock::new(&init.at("mid_block"), config, kind);
        let at = init.at("conv_norm_out");
        let groups = config.norm_num_groups;
        check_groups(&at, "norm_num_groups", groups, groups, first)?;
        let at = init.at("time_embedding");
        let time_embedding = TimestepEmbedding::new(&at, first, width);
        Ok(Self {
            conv_in: Conv2d::new(&init.at("conv_in"), config.in_channels, first, 3, true),
            time_embedding: match config.time_cond_proj_dim {
                Some(condition) => time_embedding.with_condition(&at, condition, first),
                None => time_embedding,
            },
            class_embedding,
            add_embedding,
            down_blocks: (0..widths.len()).map(down).collect::<Result<_, _>>()?,
            mid_block: config.mid_block_type.map(mid).transpose()?,
            up_blocks: (0..widths.len()).map(up).collect::<Result<_, _>>()?,
            conv_norm_out: GroupNorm::new(&at, groups, first, config.norm_eps),
            conv_out: Conv2d::new(&init.at("conv_out"), first, config.out_channels, 3, true),
            config: config.clone(),
            context: ExecContext::default(),
        })
    }

    /// The same network, whose calls run in `context`; at any precision, the first and the last convolution and the time embedding stay in `f32`.
    /// Parameters are shared.
    #[must_use]
    pub fn with_context(mut self, context: ExecContext) -> Self {
        self.context = context;
        self
    }

    /// Values as sines and cosines, `width` for each.
    fn project(&self, numbers: &[f32], width: usize) -> Tensor<2> {
        let values = positional(numbers, width, self.config.freq_shift, self.config.flip_sin_to_cos);
        embed::rows(values, numbers.len(), &self.time_embedding.device())
    }

    /// Embeds time, class and additional conditions in one vector per row, `[B, time width]`.
    fn embed(&self, times: &[f32], conditions: &Conditions) -> Tensor<2> {
        let (first, act) = (self.config.block_out_channels[0], self.config.act_fn);
        let mut numbers = self.project(times, first);
        if let (Some(width), Some(scales)) = (self.config.time_cond_proj_dim, conditions.numbers(GUIDANCE)) {
            // Meng et al. 2023, arXiv:2210.03142, with the constants of published networks.
            let beyond: Vec<f32> = scales.iter().flatten().map(|scale| 1000.0 * (scale - 1.0)).collect();
            let embedded =
                embed::rows(positional(&beyond, width, 1.0, false), beyond.len(), &numbers.device());
            numbers = self.time_embedding.joined(numbers, embedded);
        }
        let mut sum = self.time_embedding.forward_with(act, numbers);
        if let (Some(embedding), Some(classes)) = (&self.class_embedding, conditions.classes()) {
            sum = sum
                + match embedding {
                    Either::A(maps) => {
                        let classes: Vec<f32> = classes.iter().map(|&c| c as f32).collect();
                        maps.forward_with(act, self.project(&classes, first))
                    }
                    Either::B(table) => table.forward(classes),
                };
        }
        if let Some(given) = conditions.vectors(EMBEDDING) {
            sum = sum + given.clone();
        }
        let added = (conditions.vectors(POOLED), conditions.numbers(SIZES));
        if let (Some(maps), (Some(pooled), Some(ids))) = (&self.add_embedding, added) {
            let rows = ids.len();
            let numbers = ids.concat();
            let width = self.config.addition_time_embed_dim.unwrap_or(0);
            let ids = self.project(&numbers, width).reshape([rows, numbers.len() / rows.max(1) * width]);
            sum = sum + maps.forward(Tensor::cat(vec![pooled.clone(), ids], 1));
        }
        sum
    }
}

impl UNet2DConditionConfig {
    /// What a network of this configuration takes and gives.
    pub fn spec(&self) -> IoSpec {
        let c = self;
        IoSpec {
            native: c.sample_size.map(|size| size.dims().to_vec()),
            multiple: 1 << c.block_out_channels.len().saturating_sub(1),
            classes: match c.class_embed_type {
                Some(ClassEmbedType::Identity) => Classes { other: Some("vectors"), ..Classes::default() },
                _ => Classes { count: c.num_class_embeds, ..Classes::default() },
            },
            text: Some(c.text_width().unwrap_or(0)),
            pooled: c.addition_embed_type.is_some(),
            takes_guidance: c.time_cond_proj_dim.is_some(),
            ..IoSpec::new("UNet2DConditionModel", 2, [c.in_channels, c.out_channels])
        }
    }
}

impl Network for UNet2DConditionModel {
    fn spec(&self) -> IoSpec {
        self.config.spec()
    }

    fn check(
        &self,
        rows: usize,
        shape: &SampleShape,
        times: &[f32],
        conditions: &Conditions,
    ) -> Result<(), InputError> {
        let mut known = vec![TEXT, CLASSES, EMBEDDING, POOLED, SIZES, GUIDANCE];
        known.extend(self.config.skips_padding().then_some(LENGTHS));
        conditions.only(&known, rows)?;
        self.config.check_input(shape_of(rows, shape)?, times, conditions)
    }

    fn forward(&self, x: Batch, times: &[f32], conditions: &Conditions, mode: Mode) -> Batch {
        Batch::of(UNet2DConditionModel::forward(self, x.tensor(), times, conditions, mode))
    }

    fn row_bytes(&self, shape: &SampleShape, precision: Precision) -> u64 {
        let c = &self.config;
        let layers = |level| c.layers_per_block.get(level).unwrap_or(1);
        unet_row(&c.block_out_channels, layers, true, shape, precision)
    }

    module_object!(Network);
}

impl UNet2DConditionModel {
    /// The raw output `[B, out_channels, H, W]` for `x: [B, in_channels, H, W]` at `times`, one per row. See
    /// [`Network::forward`].
    pub fn forward(&self, x: Tensor<4>, times: &[f32], conditions: &Conditions, mode: Mode) -> Tensor<4> {
        let text = match (self.config.check_input(x.dims(), times, conditions), conditions.text()) {
            (Ok(()), Some(text)) => text,
            (checked, _) => panic!("{checked:?}"),
        };
        self.context.run(|| self.run(x, times, text, conditions, mode))
    }

    fn run(
        &self,
        x: Tensor<4>,
        times: &[f32],
        text: &Tensor<3>,
        conditions: &Conditions,
        mode: Mode,
    ) -> Tensor<4> {
        let x = if self.config.center_input_sample { x.mul_scalar(2.0f32).sub_scalar(1.0f32) } else { x };
        let raw = self.embed(times, conditions);
        let time = Time { active: self.config.act_fn.apply(raw.clone()), raw };
        let text = self.context.precision.lower(text.clone());
        let lengths = conditions.indices(LENGTHS);
        let inputs = Inputs { time: &time, text: &text, lengths, mode };

        let mut x = self.context.precision.lower(self.conv_in.forward(x, ConvOptions::same(1)));
        let mut skips = vec![x.clone()];
        for block in &self.down_blocks {
            x = block.forward(x, &mut skips, &inputs);
        }
        if let Some(block) = &self.mid_block {
            x = block.forward(x, &inputs);
        }
        for block in &self.up_blocks {
            x = block.forward(x, &mut skips, &inputs);
        }
        self.conv_norm_out.then_last_conv(self.config.act_fn, x, &self.conv_out, self.context.precision)
    }
}
