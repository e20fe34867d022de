//! The class-conditional diffusion transformer (Peebles & Xie 2023, arXiv:2212.09748), diffusers'
//! `DiTTransformer2DModel`: patches of the latents are tokens, and time and class scale, shift and gate every layer.

mod config;

use burn::{
    module::Module,
    tensor::{DType, Device, Tensor, TensorData},
};
use tweedie_ops::{Batch, ConvOptions, ExecContext, Precision, SampleShape};

pub use config::DitConfig;

use crate::{
    conditions::{CLASSES, Conditions},
    config::ConfigError,
    layers::{Conv2d, Embedding, FeedForward, FeedForwardActivation, Init, Linear, TokenAttention},
    memory::unet_row,
    network::{Classes, InputError, IoSpec, Mode, Network, module_object},
    params::constructors,
    unet::{
        embed::{self, TimestepEmbedding},
        positional, shape_of,
    },
};

/// Width of the sinusoidal time embedding.
const TIME_WIDTH: usize = 256;
/// Added to variances in adaptive normalizations.
const EPS: f64 = 1e-6;

/// Converts patches to tokens.
#[derive(Module, Debug)]
pub struct PatchEmbed {
    proj: Conv2d,
}

/// The class embedding table.
#[derive(Module, Debug)]
pub struct ClassEmbedder {
    embedding_table: Embedding,
}

/// Embeds time and class in one vector.
#[derive(Module, Debug)]
pub struct TimeClass {
    timestep_embedder: TimestepEmbedding,
    class_embedder: ClassEmbedder,
}

impl TimeClass {
    fn forward(&self, times: &[f32], classes: &[usize]) -> Tensor<2> {
        let values = positional(times, TIME_WIDTH, 1.0, true);
        let time = embed::rows(values, times.len(), &self.timestep_embedder.device());
        self.timestep_embedder.forward(time) + self.class_embedder.embedding_table.forward(classes)
    }
}

/// Computes scales, shifts and gates of a layer.
#[derive(Module, Debug)]
pub struct AdaNormZero {
    emb: TimeClass,
    linear: Linear,
}

/// A transformer layer: attention and feed-forward.
#[derive(Module, Debug)]
pub struct DitLayer {
    norm1: AdaNormZero,
    attn1: TokenAttention,
    ff: FeedForward,
    eps: f64,
}

impl DitLayer {
    fn new(init: &Init, config: &DitConfig) -> Self {
        let (width, heads) = (config.width(), config.num_attention_heads);
        let norm = init.at("norm1");
        let emb = norm.at("emb");
        let table = emb.at("class_embedder.embedding_table");
        Self {
            norm1: AdaNormZero {
                emb: TimeClass {
                    timestep_embedder: TimestepEmbedding::new(
                        &emb.at("timestep_embedder"),
                        TIME_WIDTH,
                        width,
                    ),
                    class_embedder: ClassEmbedder {
                        embedding_table: Embedding::new(&table, config.num_embeds_ada_norm + 1, width),
                    },
                },
                linear: Linear::new(&norm.at("linear"), width, 6 * width, true),
            },
            attn1: TokenAttention::new(&init.at("attn1"), width, width, heads, config.attention_bias),
            ff: FeedForward::new(&init.at("ff"), width, FeedForwardActivation::Plain(config.activation_fn)),
            eps: config.norm_eps,
        }
    }

    /// The residual stream stays in `f32`.
    fn forward(&self, x: Tensor<3>, times: &[f32], classes: &[usize], precision: Precision) -> Tensor<3> {
        let modulation = self.norm1.linear.forward(tweedie_ops::silu(self.norm1.emb.forward(times, classes)));
        let [shift_a, scale_a, gate_a, shift_f, scale_f, gate_f] = parts(modulation);
        let h = precision.lower(scale_shift(normalize(x.clone(), EPS), scale_a, shift_a));
        let x = x + gate_a * precision.raise(self.attn1.forward(h.clone(), h));
        let h = precision.lower(scale_shift(normalize(x.clone(), self.eps), scale_f, shift_f));
        x + gate_f * precision.raise(self.ff.forward(h))
    }
}

/// The diffusion transformer. Parameters are named as in diffusers' `DiTTransformer2DModel`.
#[derive(Module, Debug)]
pub struct DitTransformer {
    pos_embed: PatchEmbed,
    transformer_blocks: Vec<DitLayer>,
    proj_out_1: Linear,
    proj_out_2: Linear,
    #[module(skip)]
    config: DitConfig,
    #[module(skip)]
    context: ExecContext,
}

impl DitTransformer {
    constructors!(DitConfig);

    /// The same network, whose calls run in `context`; at any precision, the residual stream and the embeddings stay in `f32`.
    /// Parameters are shared.
    #[must_use]
    pub fn with_context(mut self, context: ExecContext) -> Self {
        self.context = context;
        self
    }

    fn build(config: &DitConfig, init: &Init) -> Result<Self, ConfigError> {
        config.validate()?;
        let (width, p) = (config.width(), config.patch_size);
        let layer = |i: usize| DitLayer::new(&init.at("transformer_blocks").at(i), config);
        Ok(Self {
            pos_embed: PatchEmbed {
                proj: Conv2d::new(&init.at("pos_embed.proj"), config.in_channels, width, p, true),
            },
            transformer_blocks: (0..config.num_layers).map(layer).collect(),
            proj_out_1: Linear::new(&init.at("proj_out_1"), width, 2 * width, true),
            proj_out_2: Linear::new(&init.at("proj_out_2"), width, p * p * config.outputs(), true),
            config: config.clone(),
            context: ExecContext::default(),
        })
    }

    fn run(&self, x: Tensor<4>, times: &[f32], classes: &[usize]) -> Tensor<4> {
        let c = &self.config;
        let (b, p, width) = (x.dims()[0], c.patch_size, c.width());
        let side = c.sample_size / p;
        let patches = self.pos_embed.proj.forward(x, ConvOptions::strided(p, 0));
        let places = positions(side, width, &patches.device());
        let mut x: Tensor<3> = patches.permute([0, 2, 3, 1]).reshape([b, side * side, width]) + places;
        for layer in &self.transformer_blocks {
            x = layer.forward(x, times, classes, self.context.precision);
        }
        let modulation = tweedie_ops::silu(self.transformer_blocks[0].norm1.emb.forward(times, classes));
        let [shift, scale] = parts(self.proj_out_1.forward(modulation));
        let y = self.proj_out_2.forward(scale_shift(normalize(x, EPS), scale, shift));
        let channels = c.outputs();
        let y: Tensor<6> = y.reshape([b, side, side, p, p, channels]).permute([0, 5, 1, 3, 2, 4]);
        y.reshape([b, channels, side * p, side * p])
    }
}

impl DitConfig {
    /// What a network of this configuration takes and gives.
    pub fn spec(&self) -> IoSpec {
        let c = self;
        IoSpec {
            native: Some(vec![c.sample_size; 2]),
            fixed: true,
            patch: c.patch_size.max(1),
            classes: Classes {
                count: Some(c.num_embeds_ada_norm),
                null: Some(c.num_embeds_ada_norm),
                other: None,
            },
            ..IoSpec::new(DitConfig::CLASS, 2, [c.in_channels, c.outputs()])
        }
    }
}

impl Network for DitTransformer {
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
        conditions.only(&[CLASSES], rows)?;
        self.check_input(shape_of(rows, shape)?, times, conditions)
    }

    fn forward(&self, x: Batch, times: &[f32], conditions: &Conditions, mode: Mode) -> Batch {
        Batch::of(DitTransformer::forward(self, x.tensor(), times, conditions, mode))
    }

    fn row_bytes(&self, shape: &SampleShape, precision: Precision) -> u64 {
        let patch = self.config.patch_size.max(1);
        let axes: Vec<usize> = shape.axes().iter().map(|n| n / patch).collect();
        let tokens = SampleShape::new(shape.channels(), &axes);
        unet_row(&[self.config.width()], |_| 0, true, &tokens, precision)
    }

    module_object!(Network);
}

impl DitTransformer {
    fn check_input(
        &self,
        shape: [usize; 4],
        times: &[f32],
        conditions: &Conditions,
    ) -> Result<(), InputError> {
        let (c, [b, channels, h, w]) = (&self.config, shape);
        let side = c.sample_size;
        ensure(channels == c.in_channels && h == side && w == side, || {
            format!(
                "the sample has {channels} channels and {h}×{w} pixels, expected {} channels and {side}×{side} pixels",
                c.in_channels
            )
        })?;
        ensure(times.len() == b, || format!("{} times for {b} samples", times.len()))?;
        let Some(classes) = conditions.classes() else {
            return Err(InputError("this network needs classes".into()));
        };
        ensure(classes.len() == b, || format!("{} classes for {b} samples", classes.len()))?;
        match classes.iter().find(|class| **class > c.num_embeds_ada_norm) {
            Some(class) => {
                Err(InputError(format!("class {class}, expected at most {}", c.num_embeds_ada_norm)))
            }
            None => Ok(()),
        }
    }

    /// The raw output `[B, out_channels, H, W]` for `x: [B, in_channels, H, W]` at `times`, one per row. See
    /// [`Network::forward`].
    pub fn forward(&self, x: Tensor<4>, times: &[f32], conditions: &Conditions, _: Mode) -> Tensor<4> {
        let classes = match (self.check_input(x.dims(), times, conditions), conditions.classes()) {
            (Ok(()), Some(classes)) => classes,
            (checked, _) => panic!("{checked:?}"),
        };
        self.context.run(|| self.run(x, times, classes))
    }
}

/// Normalizes to mean 0 and variance 1 over the last dimension.
pub(crate) fn normalize(x: Tensor<3>, eps: f64) -> Tensor<3> {
    let options = (&x.device(), DType::F32);
    let width = [x.dims()[2]];
    tweedie_ops::layer_norm(x, Tensor::ones(width, options), Tensor::zeros(width, options), eps)
}

pub(crate) fn scale_shift(x: Tensor<3>, scale: Tensor<3>, shift: Tensor<3>) -> Tensor<3> {
    x * scale.add_scalar(1.0f32) + shift
}

/// Splits `[B, N·width]` into `N` tensors `[B, 1, width]`.
pub(crate) fn parts<const N: usize>(x: Tensor<2>) -> [Tensor<3>; N] {
    let [b, all] = x.dims();
    let width = all / N;
    std::array::from_fn(|i| x.clone().narrow(1, i * width, width).reshape([b, 1, width]))
}

/// Sines and cosines of column and row, a quarter of `width` each: `[1, side², width]`.
fn positions(side: usize, width: usize, device: &Device) -> Tensor<3> {
    let quarter = width / 4;
    let frequency = |i: usize| 10000f64.powf(-(i as f64) / quarter as f64);
    let mut values = Vec::with_capacity(side * side * width);
    for row in 0..side {
        for column in 0..side {
            for place in [column, row] {
                let phases = || (0..quarter).map(|i| place as f64 * frequency(i));
                values.extend(phases().map(|p| p.sin() as f32));
                values.extend(phases().map(|p| p.cos() as f32));
            }
        }
    }
    Tensor::from_data(TensorData::new(values, [1, side * side, width]), (device, DType::F32))
}

fn ensure(ok: bool, message: impl FnOnce() -> String) -> Result<(), InputError> {
    if ok { Ok(()) } else { Err(InputError(message())) }
}
