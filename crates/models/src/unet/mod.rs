//! `UNet2DModel`: the convolutional U-Net of DDPM (Ho et al. 2020, arXiv:2006.11239), ADM (Dhariwal & Nichol 2021,
//! arXiv:2105.05233) and NCSN++ (Song et al. 2021, arXiv:2011.13456), as in diffusers.

pub(crate) mod attention;
mod blocks;
mod check;
mod config;
pub(crate) mod embed;
mod legacy;
pub(crate) mod resample;
pub(crate) mod resnet;

use burn::{module::Module, tensor::Tensor};
use tweedie_ops::{self as ops, Batch, ConvOptions, ExecContext, Precision, SampleShape};

pub use config::{
    ClassEmbedType, ConfigError, DIFFUSERS_VERSION, DownBlockType, MidBlockType, ResampleType, SampleSize,
    TimeEmbeddingType, TimeScaleShift, UNet2DConfig, UpBlockType,
};
pub use embed::positional;
pub use legacy::CurrentNames;

use crate::{
    conditions::{CLASSES, Conditions, EMBEDDING},
    layers::{Activation, Conv2d, Either, Embedding, GroupNorm, Init},
    memory::unet_row,
    network::{Classes, InputError, IoSpec, Mode, Network, module_object},
    params::{self, ParamError, constructors},
};
use blocks::{DownBlock, MidBlock, UpBlock, UpChannels};
use check::{Flow, MAX_PARAMETERS, check_values};
use embed::{FourierProjection, TimestepEmbedding};
use resnet::{Time, check_groups};

/// The U-Net. Parameters are named as in diffusers' `UNet2DModel`.
#[derive(Module, Debug)]
pub struct UNet2DModel {
    conv_in: Conv2d,
    time_proj: Option<Either<FourierProjection, Embedding>>,
    time_embedding: TimestepEmbedding,
    class_embedding: Option<Either<TimestepEmbedding, Embedding>>,
    down_blocks: Vec<DownBlock>,
    mid_block: Option<MidBlock>,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    #[module(skip)]
    config: UNet2DConfig,
    #[module(skip)]
    context: ExecContext,
}

impl UNet2DModel {
    constructors!(UNet2DConfig, CurrentNames::new);

    /// The same network, whose calls run in `context`; at any precision, the first and the last convolution and the time embedding stay in `f32`.
    /// Parameters are shared.
    #[must_use]
    pub fn with_context(mut self, context: ExecContext) -> Self {
        self.context = context;
        self
    }

    /// What its calls run in.
    pub fn context(&self) -> &ExecContext {
        &self.context
    }

    /// Builds the network without computing its parameters, and checks channels and resolutions.
    fn build(config: &UNet2DConfig, init: &Init) -> Result<Self, ConfigError> {
        check_values(config)?;
        let widths = &config.block_out_channels;
        let (first, deepest) = (widths[0], widths[widths.len() - 1]);
        let time_width = config.time_width();

        let at = init.at("time_proj");
        let (time_proj, time_inputs) = match config.time_embedding_type {
            TimeEmbeddingType::Positional => (None, first),
            TimeEmbeddingType::Fourier => {
                (Some(Either::A(FourierProjection::new(&at, first, 16.0))), 2 * first)
            }
            TimeEmbeddingType::Learned => match config.num_train_timesteps {
                Some(n) if n > 0 => (Some(Either::B(Embedding::new(&at, n, first))), first),
                n => {
                    let reason = "expected a value, because `time_embedding_type` is \"learned\"";
                    return Err(ConfigError::value("num_train_timesteps", n, reason));
                }
            },
        };
        let at = init.at("class_embedding");
        let class_embedding = match (config.class_embed_type, config.num_class_embeds) {
            (Some(ClassEmbedType::Timestep), _) => {
                Some(Either::A(TimestepEmbedding::new(&at, time_inputs, time_width)))
            }
            (None, Some(0)) => {
                return Err(ConfigError::value("num_class_embeds", 0, "expected at least 1"));
            }
            (None, Some(n)) => Some(Either::B(Embedding::new(&at, n, time_width))),
            (Some(ClassEmbedType::Identity), _) | (None, None) => None,
        };

        let mut flow = Flow::new(first);
        let mut down_blocks = Vec::new();
        for (i, (&kind, &outputs)) in config.down_block_types.iter().zip(widths).enumerate() {
            let halves = i + 1 < widths.len();
            let init = init.at("down_blocks").at(i);
            down_blocks.push(DownBlock::new(&init, config, kind, flow.channels, outputs, halves)?);
            flow.down(config, kind, outputs, halves)?;
        }
        let mid_block = match config.mid_block_type {
            Some(MidBlockType::UNetMidBlock2D) => {
                Some(MidBlock::new(&init.at("mid_block"), config, deepest)?)
            }
            None => None,
        };
        let mut up_blocks = Vec::new();
        let mut previous = deepest;
        for (i, &kind) in config.up_block_types.iter().enumerate() {
            let level = widths.len() - 1 - i;
            let (outputs, next) = (widths[level], widths[level.saturating_sub(1)]);
            let channels = UpChannels { previous, outputs, next };
            let init = init.at("up_blocks").at(i);
            up_blocks.push(UpBlock::new(&init, config, kind, channels, level > 0)?);
            flow.up(config, kind, channels, level)?;
            previous = outputs;
        }
        flow.end(config, first)?;

        let at = init.at("conv_norm_out");
        let groups = config.norm_num_groups.unwrap_or((first / 4).min(32));
        check_groups(&at, "norm_num_groups", config.norm_num_groups, groups, first)?;
        let model = Self {
            conv_in: Conv2d::new(&init.at("conv_in"), config.in_channels, first, 3, true),
            time_proj,
            time_embedding: TimestepEmbedding::new(&init.at("time_embedding"), time_inputs, time_width),
            class_embedding,
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out: GroupNorm::new(&at, groups, first, config.norm_eps),
            conv_out: Conv2d::new(&init.at("conv_out"), first, config.out_channels, 3, true),
            config: config.clone(),
            context: ExecContext::default(),
        };
        let count = params::count(&model);
        if count > MAX_PARAMETERS {
            let reason =
                format!("the network has {count} parameters, more than the limit of {MAX_PARAMETERS}");
            return Err(ConfigError::value("block_out_channels", widths, reason));
        }
        Ok(model)
    }

    /// Embeds times, before the learned layers.
    fn project(&self, times: &[f32]) -> Tensor<2> {
        match &self.time_proj {
            Some(Either::A(fourier)) => fourier.forward(times),
            Some(Either::B(table)) => table.forward(&times.iter().map(|&t| t as usize).collect::<Vec<_>>()),
            None => {
                let c = &self.config;
                let width = c.block_out_channels[0];
                let values = positional(times, width, c.freq_shift, c.flip_sin_to_cos);
                embed::rows(values, times.len(), &self.time_embedding.device())
            }
        }
    }

    /// Embeds time and condition in one vector per row, `[B, time width]`.
    fn embed(&self, times: &[f32], conditions: &Conditions) -> Tensor<2> {
        let mut sum = self.time_embedding.forward(self.project(times));
        if let (Some(embedding), Some(classes)) = (&self.class_embedding, conditions.classes()) {
            sum = sum
                + match embedding {
                    Either::A(maps) => {
                        let classes: Vec<f32> = classes.iter().map(|&c| c as f32).collect();
                        maps.forward(self.project(&classes))
                    }
                    Either::B(table) => table.forward(classes),
                };
        }
        match conditions.vectors(EMBEDDING) {
            Some(e) => sum + e.clone(),
            None => sum,
        }
    }

    /// The raw output `[B, out_channels, H, W]` for `x: [B, in_channels, H, W]` at `times`, one per row. See
    /// [`Network::forward`].
    pub fn forward(&self, x: Tensor<4>, times: &[f32], conditions: &Conditions, mode: Mode) -> Tensor<4> {
        if let Err(e) = self.config.check_input(x.dims(), times, conditions) {
            panic!("{e}");
        }
        self.context.run(|| self.run(x, times, conditions, mode))
    }

    fn run(&self, x: Tensor<4>, times: &[f32], conditions: &Conditions, mode: Mode) -> Tensor<4> {
        let x = if self.config.center_input_sample { x.mul_scalar(2.0f32).sub_scalar(1.0f32) } else { x };
        let raw = self.embed(times, conditions);
        let time = Time { active: self.config.act_fn.apply(raw.clone()), raw };

        let mut image = x.clone();
        let mut x = self.context.precision.lower(self.conv_in.forward(x, ConvOptions::same(1)));
        let mut skips = vec![x.clone()];
        for block in &self.down_blocks {
            x = block.forward(x, &mut image, &mut skips, &time, mode);
        }
        drop(image);
        if let Some(block) = &self.mid_block {
            x = block.forward(x, &time, mode);
        }
        let mut image = None;
        for block in &self.up_blocks {
            x = block.forward(x, &mut image, &mut skips, &time, mode);
        }

        x = self.conv_norm_out.then_last_conv(Activation::Silu, x, &self.conv_out, self.context.precision);
        if let Some(image) = image {
            x = ops::add(x, image);
        }
        if self.config.time_embedding_type == TimeEmbeddingType::Fourier {
            let times = embed::rows(times.to_vec(), times.len(), &x.device());
            x = x.div(times.reshape([-1, 1, 1, 1]));
        }
        x
    }
}

/// Why a network cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The configuration does not describe a network.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tensors do not match the network.
    #[error(transparent)]
    Params(#[from] ParamError),
}

impl UNet2DConfig {
    /// What a network of this configuration takes and gives.
    pub fn spec(&self) -> IoSpec {
        let c = self;
        let classes = match (c.class_embed_type, c.num_class_embeds) {
            (None, count) => Classes { count, ..Classes::default() },
            (Some(ClassEmbedType::Timestep), _) => Classes { other: Some("times"), ..Classes::default() },
            (Some(ClassEmbedType::Identity), _) => Classes { other: Some("vectors"), ..Classes::default() },
        };
        IoSpec {
            native: c.sample_size.map(|size| size.dims().to_vec()),
            multiple: c.stride(),
            classes,
            ..IoSpec::new("UNet2DModel", 2, [c.in_channels, c.out_channels])
        }
    }
}

impl Network for UNet2DModel {
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
        conditions.only(&[CLASSES, EMBEDDING], rows)?;
        self.config.check_input(shape_of(rows, shape)?, times, conditions)
    }

    fn forward(&self, x: Batch, times: &[f32], conditions: &Conditions, mode: Mode) -> Batch {
        Batch::of(UNet2DModel::forward(self, x.tensor(), times, conditions, mode))
    }

    fn row_bytes(&self, shape: &SampleShape, precision: Precision) -> u64 {
        let c = &self.config;
        unet_row(&c.block_out_channels, |_| c.layers_per_block, false, shape, precision)
    }

    module_object!(Network);
}

/// `[B, C, H, W]`, if that is the rank of the samples.
pub(crate) fn shape_of(rows: usize, shape: &SampleShape) -> Result<[usize; 4], InputError> {
    match *shape.dims() {
        [c, h, w] => Ok([rows, c, h, w]),
        _ => Err(InputError(format!("the samples have the shape {shape}, expected channels×height×width"))),
    }
}
