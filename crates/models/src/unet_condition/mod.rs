//! `UNet2DConditionModel`: the text-conditional U-Net of latent diffusion (Rombach et al. 2022, arXiv:2112.10752; Podell
//! et al. 2023, arXiv:2307.01952), as in diffusers.

mod added;
pub(crate) mod blocks;
mod check;
mod config;
pub(crate) mod encoder;
mod k_blocks;
pub(crate) mod transformer;

use burn::{module::Module, tensor::Tensor};
use tweedie_ops::{Batch, ConvOptions, ExecContext, Precision, SampleShape};

pub use config::{
    AdditionEmbedType, CrossClassEmbedType, CrossDownBlockType, CrossMidBlockType, CrossTimeEmbedType,
    CrossUpBlockType, PerBlock, UNet2DConditionConfig,
};

use crate::{
    conditions::{
        CLASSES, Conditions, EMBEDDING, GUIDANCE, INTRABLOCK, LENGTHS, POOLED, RESIDUALS, SIZES, TEXT,
        WITH_TIME,
    },
    config::ConfigError,
    layers::{Conv2d, Either, GroupNorm, Init},
    memory::unet_row,
    network::{Classes, InputError, IoSpec, Mode, Network, module_object},
    params::constructors,
    unet::{
        embed::{FourierProjection, TimestepEmbedding},
        resnet::check_groups,
        shape_of,
    },
};
use blocks::{Inputs, MidBlock, UpBlock};
use encoder::{ClassLayer, Down, Encoder, EncoderLayers, Given, Halfway};
use k_blocks::KUpBlock;

/// The text-conditional U-Net. Parameters are named as in diffusers' `UNet2DConditionModel`.
#[derive(Module, Debug)]
pub struct UNet2DConditionModel {
    conv_in: Conv2d,
    time_proj: Option<FourierProjection>,
    time_embedding: TimestepEmbedding,
    class_embedding: Option<ClassLayer>,
    add_embedding: Option<TimestepEmbedding>,
    down_blocks: Vec<Down>,
    mid_block: Option<MidBlock>,
    up_blocks: Vec<Either<UpBlock, KUpBlock>>,
    conv_norm_out: Option<GroupNorm>,
    conv_out: Conv2d,
    #[module(skip)]
    config: UNet2DConditionConfig,
    #[module(skip)]
    context: ExecContext,
}

impl UNet2DConditionModel {
    constructors!(UNet2DConditionConfig);

    fn build(config: &UNet2DConditionConfig, init: &Init) -> Result<Self, ConfigError> {
        let EncoderLayers {
            conv_in,
            time_proj,
            time_embedding,
            class_embedding,
            add_embedding,
            down_blocks,
            mid_block,
        } = EncoderLayers::new(config, init)?;
        let widths = &config.block_out_channels;
        let up = |i: usize| {
            let at = init.at("up_blocks").at(i);
            Ok(match config.up_block_types[i].is_k() {
                true => Either::B(KUpBlock::new(&at, config, i)?),
                false => Either::A(UpBlock::new(&at, config, i)?),
            })
        };
        let at = init.at("conv_norm_out");
        let norm = |groups| {
            check_groups(&at, "norm_num_groups", groups, groups, widths[0])?;
            Ok(GroupNorm::new(&at, groups, widths[0], config.norm_eps))
        };
        let (outputs, side) = (config.out_channels, config.conv_out_kernel);
        Ok(Self {
            conv_in,
            time_proj,
            time_embedding,
            class_embedding,
            add_embedding,
            down_blocks,
            mid_block,
            up_blocks: (0..widths.len()).map(up).collect::<Result<_, ConfigError>>()?,
            conv_norm_out: config.norm_num_groups.map(norm).transpose()?,
            conv_out: Conv2d::new(&init.at("conv_out"), widths[0], outputs, side, true),
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

    fn encoder(&self) -> Encoder<'_> {
        Encoder {
            conv_in: &self.conv_in,
            time_proj: self.time_proj.as_ref(),
            time_embedding: &self.time_embedding,
            class_embedding: self.class_embedding.as_ref(),
            add_embedding: self.add_embedding.as_ref(),
            down_blocks: &self.down_blocks,
            mid_block: self.mid_block.as_ref(),
            config: &self.config,
            precision: self.context.precision,
        }
    }
}

impl UNet2DConditionConfig {
    /// What a network of this configuration takes and gives.
    pub fn spec(&self) -> IoSpec {
        let c = self;
        IoSpec {
            native: c.sample_size.map(|size| size.dims().to_vec()),
            multiple: 1 << c.block_out_channels.len().saturating_sub(1),
            classes: match c.embedding_width() {
                Some(_) => Classes { other: Some("vectors"), ..Classes::default() },
                None => Classes { count: c.num_class_embeds, ..Classes::default() },
            },
            embedding: c.embedding_width(),
            text: c.reads_text().then(|| c.text_width().unwrap_or(0)),
            pooled: c.addition_embed_type.is_some(),
            with_time: c.with_time(),
            takes_guidance: c.guidance_width().is_some(),
            residuals: c.residuals(),
            intrablock: c.intrablock(),
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
        let mut known =
            vec![TEXT, CLASSES, EMBEDDING, POOLED, SIZES, GUIDANCE, RESIDUALS, INTRABLOCK, WITH_TIME];
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
        if let Err(e) = self.config.check_input(x.dims(), times, conditions) {
            panic!("{e}");
        }
        self.context.run(|| self.run(x, times, conditions, mode))
    }

    fn run(&self, x: Tensor<4>, times: &[f32], conditions: &Conditions, mode: Mode) -> Tensor<4> {
        let encoder = self.encoder();
        let mut halfway = encoder.run(Given { x, times, conditions, mode, hint: None });
        if let Some(residuals) = conditions.features(RESIDUALS) {
            halfway.add(residuals, self.context.precision);
        }
        let Halfway { mut x, mut skips, time, text } = halfway;
        let inputs = Inputs { time: &time, text: text.as_ref(), lengths: conditions.indices(LENGTHS), mode };
        for block in &self.up_blocks {
            x = match block {
                Either::A(block) => block.forward(x, &mut skips, &inputs),
                Either::B(block) => block.forward(x, &mut skips, &inputs),
            };
        }
        let (act, precision) = (self.config.act_fn, self.context.precision);
        match &self.conv_norm_out {
            // The fused layer has a kernel of 3×3.
            Some(norm) if self.config.conv_out_kernel == 3 => {
                norm.then_last_conv(act, x, &self.conv_out, precision)
            }
            norm => {
                let x = norm.iter().fold(x, |x, norm| norm.then(act, x));
                self.conv_out.forward(precision.raise(x), ConvOptions::same(self.config.conv_out_kernel / 2))
            }
        }
    }
}
