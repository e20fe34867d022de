//! `UNet1DModel`: the U-Net of Dance Diffusion for audio, as in diffusers.
//!
//! Its blocks for reinforcement learning are not supported.

mod blocks;
mod config;
mod conv;

use std::f32::consts::PI;

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use tweedie_ops::{Batch, ExecContext, Maps, Precision, SampleShape};

pub use config::{DownBlock1DType, UNet1DConfig, UpBlock1DType};

use self::blocks::Block;
use crate::{
    conditions::Conditions,
    config::ConfigError,
    layers::Init,
    memory::unet_row,
    network::{InputError, IoSpec, Mode, Network, module_object},
    params::constructors,
    unet::embed::rows,
};

/// Residual layers of a block, and of the block in the middle.
const LAYERS: [usize; 2] = [3, 6];

/// Sines and cosines of `2π·wᵢ·t` for fixed random `wᵢ` (Tancik et al. 2020).
#[derive(Module, Debug)]
pub struct TimeProjection {
    /// Half the width of the embedding; not trained.
    weight: Param<Tensor<1>>,
}

impl TimeProjection {
    pub(crate) fn new(init: &Init, width: usize) -> Self {
        Self { weight: init.normal("weight", [width / 2], 1.0).set_require_grad(false) }
    }

    /// `[B, width]` for `B` times.
    pub(crate) fn forward(&self, times: &[f32], cosines_first: bool) -> Tensor<2> {
        let weight = self.weight.val();
        let times = rows(times.to_vec(), times.len(), &weight.device());
        let phase = times.mul(weight.unsqueeze_dim(0)).mul_scalar(2.0f32).mul_scalar(PI);
        let mut parts = vec![phase.clone().sin(), phase.cos()];
        if cosines_first {
            parts.reverse();
        }
        Tensor::cat(parts, 1)
    }
}

/// The U-Net. Parameters are named as in diffusers' `UNet1DModel`, which stores its fixed filters too.
#[derive(Module, Debug)]
pub struct UNet1DModel {
    time_proj: TimeProjection,
    down_blocks: Vec<Block>,
    mid_block: Block,
    up_blocks: Vec<Block>,
    #[module(skip)]
    config: UNet1DConfig,
    #[module(skip)]
    context: ExecContext,
}

impl UNet1DModel {
    constructors!(UNet1DConfig);

    /// The same network, whose calls run in `context`; at any precision, the time embedding and changes of the length stay in `f32`. Parameters
    /// are shared.
    #[must_use]
    pub fn with_context(mut self, context: ExecContext) -> Self {
        self.context = context;
        self
    }

    fn build(config: &UNet1DConfig, init: &Init) -> Result<Self, ConfigError> {
        config.validate()?;
        let widths = &config.block_out_channels;
        let [layers, in_the_middle] = LAYERS;

        let mut from = config.in_channels + config.extra_in_channels;
        let mut down_blocks = Vec::new();
        for (i, (kind, &to)) in config.down_block_types.iter().zip(widths).enumerate() {
            let init = init.at("down_blocks").at(i);
            let block = Block::new(&init, [from, to, to], layers);
            down_blocks.push(match kind {
                DownBlock1DType::DownBlock1DNoSkip => block,
                DownBlock1DType::DownBlock1D => block.halving(&init),
                DownBlock1DType::AttnDownBlock1D => block.halving(&init).attending(&init, to, to),
            });
            from = to;
        }

        let at = init.at("mid_block");
        let mid_block = Block::new(&at, [from; 3], in_the_middle);
        let mid_block = mid_block.halving(&at).attending(&at, from, from).doubling(&at);

        let ends = widths.iter().rev().skip(1).copied().chain([config.out_channels]);
        let mut up_blocks = Vec::new();
        for (i, (kind, to)) in config.up_block_types.iter().zip(ends).enumerate() {
            let init = init.at("up_blocks").at(i);
            let block = |middle: usize| Block::new(&init, [2 * from, middle, to], layers);
            up_blocks.push(match kind {
                UpBlock1DType::AttnUpBlock1D => block(to).attending(&init, to, to).doubling(&init),
                UpBlock1DType::UpBlock1D => block(from).doubling(&init),
                UpBlock1DType::UpBlock1DNoSkip => block(from).ending(),
            });
            from = to;
        }

        Ok(Self {
            time_proj: TimeProjection::new(&init.at("time_proj"), config.extra_in_channels),
            down_blocks,
            mid_block,
            up_blocks,
            config: config.clone(),
            context: ExecContext::default(),
        })
    }

    fn check_input(
        &self,
        rows: usize,
        shape: &SampleShape,
        times: &[f32],
        conditions: &Conditions,
    ) -> Result<(), InputError> {
        let c = &self.config;
        let ensure = |ok: bool, message: String| if ok { Ok(()) } else { Err(InputError(message)) };
        conditions.only(&[], rows)?;
        let [channels, length] = *shape.dims() else {
            return Err(InputError(format!("the samples have the shape {shape}, expected channels×length")));
        };
        let inputs = c.in_channels;
        ensure(channels == inputs, format!("the samples have {channels} channels, expected {inputs}"))?;
        let (stride, least) = (c.stride(), c.least());
        ensure(
            length.is_multiple_of(stride) && length >= least,
            format!(
                "the samples have a length of {length}, expected a multiple of {stride} of at least {least}"
            ),
        )?;
        ensure(times.len() == rows, format!("{} times for {rows} samples", times.len()))
    }

    /// The raw output `[B, out_channels, T]` for `x: [B, in_channels, T]` at `times`, one per row. See
    /// [`Network::forward`].
    pub fn forward(&self, x: Tensor<3>, times: &[f32], conditions: &Conditions, _: Mode) -> Tensor<3> {
        let [rows, channels, length] = x.dims();
        if let Err(e) = self.check_input(rows, &SampleShape::from([channels, length]), times, conditions) {
            panic!("{e}");
        }
        self.context.run(|| self.run(x, times))
    }

    fn run(&self, x: Tensor<3>, times: &[f32]) -> Tensor<3> {
        let [b, channels, length] = x.dims();
        let width = self.config.extra_in_channels;
        let time = self.time_proj.forward(times, self.config.flip_sin_to_cos);
        let time = time.reshape([b, width, 1, 1]).expand([b, width, 1, length]);
        let x = self.context.precision.lower(x.reshape([b, channels, 1, length]));

        let mut x = Maps { x, skip: Some(self.context.precision.lower(time)) };
        let mut skips = Vec::new();
        for block in &self.down_blocks {
            let y = block.forward(x);
            skips.push(y.clone());
            x = y.into();
        }
        let mut x = self.mid_block.forward(x);
        for (block, skip) in self.up_blocks.iter().zip(skips.into_iter().rev()) {
            x = block.forward(Maps { x, skip: Some(skip) });
        }
        self.context.precision.raise(x).reshape([b, self.config.out_channels, length])
    }
}

impl UNet1DConfig {
    /// What a network of this configuration takes and gives.
    pub fn spec(&self) -> IoSpec {
        IoSpec {
            native: Some(vec![self.sample_size]),
            multiple: self.stride(),
            patch: 1,
            rate: self.sample_rate.and_then(|rate| u32::try_from(rate).ok()).filter(|rate| *rate > 0),
            ..IoSpec::new(Self::CLASS, 1, [self.in_channels, self.out_channels])
        }
    }
}

impl Network for UNet1DModel {
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
        self.check_input(rows, shape, times, conditions)
    }

    fn forward(&self, x: Batch, times: &[f32], conditions: &Conditions, mode: Mode) -> Batch {
        Batch::of(UNet1DModel::forward(self, x.tensor(), times, conditions, mode))
    }

    fn row_bytes(&self, shape: &SampleShape, precision: Precision) -> u64 {
        // One skip connection per block.
        unet_row(&self.config.block_out_channels, |_| 0, false, shape, precision)
    }

    module_object!(Network);
}
