//! Wan's transformer for clips (Wan et al. 2025, arXiv:2503.20314), as diffusers' `WanTransformer3DModel`: patches of the latents
//! of all frames are tokens, which attend to each other and to the features of a text.

mod config;
mod layer;

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use tweedie_ops::{self as ops, Batch, ConvOptions, ExecContext, Precision, SampleShape};

pub use config::WanTransformerConfig;
use layer::{Given, Layer, MODULATIONS, Rotary};

use crate::{
    conditions::{Conditions, IMAGE, TEXT},
    config::ConfigError,
    dit::{normalize, parts, scale_shift},
    layers::{Activation, FeedForward, FeedForwardActivation, Init, LayerNorm, Linear},
    memory::transformer_row,
    network::{InputError, IoSpec, Mode, Network, module_object},
    params::constructors,
    unet::{
        embed::{self, TimestepEmbedding},
        positional,
    },
    unet_3d::time::{clips_of, frames_of},
};

/// Added to variances of an image's features, fixed in diffusers.
const IMAGE_EPS: f64 = 1e-5;

/// Converts patches to tokens.
#[derive(Module, Debug)]
pub struct PatchEmbedding {
    /// `[width, channels, 1, p, p]`.
    weight: Param<Tensor<5>>,
    /// `[width]`.
    bias: Param<Tensor<1>>,
}

/// Converts an image's features to the width of tokens.
#[derive(Module, Debug)]
pub struct ImageEmbedder {
    norm1: LayerNorm,
    ff: FeedForward,
    norm2: LayerNorm,
}

/// Embeds the time, the text and the image.
#[derive(Module, Debug)]
pub struct ConditionEmbedder {
    time_embedder: TimestepEmbedding,
    time_proj: Linear,
    text_embedder: TimestepEmbedding,
    image_embedder: Option<ImageEmbedder>,
}

/// The transformer. Parameters are named as in diffusers.
#[derive(Module, Debug)]
pub struct WanTransformer {
    patch_embedding: PatchEmbedding,
    condition_embedder: ConditionEmbedder,
    blocks: Vec<Layer>,
    proj_out: Linear,
    /// `[1, 2, width]`.
    scale_shift_table: Param<Tensor<3>>,
    #[module(skip)]
    config: WanTransformerConfig,
    #[module(skip)]
    context: ExecContext,
}

impl ConditionEmbedder {
    fn new(init: &Init, config: &WanTransformerConfig) -> Self {
        let width = config.width();
        let image = |from: usize| {
            let init = init.at("image_embedder");
            let activation = FeedForwardActivation::Plain(Activation::Gelu);
            ImageEmbedder {
                norm1: LayerNorm::new(&init.at("norm1"), from, IMAGE_EPS),
                ff: FeedForward::of_widths(&init.at("ff"), [from, from, width], activation),
                norm2: LayerNorm::new(&init.at("norm2"), width, IMAGE_EPS),
            }
        };
        Self {
            time_embedder: TimestepEmbedding::new(&init.at("time_embedder"), config.freq_dim, width),
            time_proj: Linear::new(&init.at("time_proj"), width, MODULATIONS * width, true),
            text_embedder: TimestepEmbedding::new(&init.at("text_embedder"), config.text_dim, width),
            image_embedder: config.image_dim.map(image),
        }
    }

    /// `[B, S, text_dim]` to `[B, S, width]`.
    fn text(&self, text: Tensor<3>) -> Tensor<3> {
        let [b, s, from] = text.dims();
        let rows = self.text_embedder.forward_with(Activation::GeluTanh, text.reshape([b * s, from]));
        let width = rows.dims()[1];
        rows.reshape([b, s, width])
    }
}

impl WanTransformer {
    constructors!(WanTransformerConfig);

    fn build(config: &WanTransformerConfig, init: &Init) -> Result<Self, ConfigError> {
        config.validate()?;
        let (width, p) = (config.width(), config.patch());
        let patch = init.at("patch_embedding");
        let bound = 1.0 / ((config.in_channels * p * p) as f64).sqrt();
        let layer = |i: usize| Layer::new(&init.at("blocks").at(i), config);
        let std = (width as f32).powf(-0.5);
        Ok(Self {
            patch_embedding: PatchEmbedding {
                weight: patch.uniform("weight", [width, config.in_channels, 1, p, p], bound),
                bias: patch.uniform("bias", [width], bound),
            },
            condition_embedder: ConditionEmbedder::new(&init.at("condition_embedder"), config),
            blocks: (0..config.num_layers).map(layer).collect(),
            proj_out: Linear::new(&init.at("proj_out"), width, config.out_channels * p * p, true),
            scale_shift_table: init.normal("scale_shift_table", [1, 2, width], std),
            config: config.clone(),
            context: ExecContext::default(),
        })
    }

    /// The same network, whose calls run in `context`; at any precision, the residual stream and the embeddings of patches and
    /// times stay in `f32`. Parameters are shared.
    #[must_use]
    pub fn with_context(mut self, context: ExecContext) -> Self {
        self.context = context;
        self
    }

    fn check_input(
        &self,
        rows: usize,
        shape: &SampleShape,
        times: &[f32],
        conditions: &Conditions,
    ) -> Result<(), InputError> {
        let (c, p) = (&self.config, self.config.patch());
        let fail = |reason: String| Err(InputError(reason));
        conditions.only(if c.image_dim.is_some() { &[TEXT, IMAGE] } else { &[TEXT] }, rows)?;
        let &[channels, frames, height, width] = shape.dims() else {
            let expected = "expected channels×frames×height×width";
            return fail(format!("the samples have the shape {shape}, {expected}"));
        };
        if channels != c.in_channels {
            return fail(format!("the sample has {channels} channels, expected {}", c.in_channels));
        }
        if frames == 0 || height == 0 || width == 0 || !height.is_multiple_of(p) || !width.is_multiple_of(p) {
            return fail(format!(
                "the frames have {width}×{height} latents, expected multiples of {p}, and at least one frame"
            ));
        }
        if let Some(n) = [frames, height / p, width / p].into_iter().find(|n| *n > c.rope_max_seq_len) {
            let most = c.rope_max_seq_len;
            return fail(format!("{n} tokens along an axis, expected at most {most} (`rope_max_seq_len`)"));
        }
        if times.len() != rows {
            return fail(format!("{} times for {rows} samples", times.len()));
        }
        let tokens = |name: &str, what: &str, width: usize| {
            let found = match conditions.get(name) {
                Some(crate::conditions::Entry::Tokens(all)) => Some(all.dims()),
                _ => None,
            };
            match found {
                Some([b, n, found]) if b == rows && n > 0 && found == width => Ok(()),
                Some(found) => Err(InputError(format!(
                    "the {what} features have shape {found:?}, expected [{rows}, tokens, {width}]"
                ))),
                None => Err(InputError(format!("this network needs {what} features"))),
            }
        };
        tokens(TEXT, "text", c.text_dim)?;
        c.image_dim.map_or(Ok(()), |width| tokens(IMAGE, "image", width))
    }

    /// The raw output `[B, out_channels, F, H, W]` for `x: [B, in_channels, F, H, W]` at `times`, one per row. See
    /// [`Network::forward`].
    ///
    /// # Panics
    /// For inputs that [`Network::check`] rejects.
    pub fn forward(&self, x: Tensor<5>, times: &[f32], conditions: &Conditions, _: Mode) -> Tensor<5> {
        let [rows, channels, frames, height, width] = x.dims();
        let shape = SampleShape::from([channels, frames, height, width]);
        let text = match (self.check_input(rows, &shape, times, conditions), conditions.text()) {
            (Ok(()), Some(text)) => text,
            (checked, _) => panic!("{checked:?}"),
        };
        self.context.run(|| self.run(x, times, text, conditions.tokens(IMAGE)))
    }

    fn run(&self, x: Tensor<5>, times: &[f32], text: &Tensor<3>, image: Option<&Tensor<3>>) -> Tensor<5> {
        let (c, precision, p) = (&self.config, self.context.precision, self.config.patch());
        let [b, _, frames, height, width] = x.dims();
        let (rows, columns, dim) = (height / p, width / p, c.width());
        let embedder = &self.condition_embedder;
        let device = embedder.time_embedder.device();
        let numbers = embed::rows(positional(times, c.freq_dim, 0.0, true), b, &device);
        let time = embedder.time_embedder.forward(numbers);
        let modulation = embedder.time_proj.forward(ops::silu(time.clone()));
        let text = embedder.text(precision.lower(text.clone()));
        let image = image.zip(embedder.image_embedder.as_ref()).map(|(image, layers)| {
            let h = precision.lower(layers.norm1.forward(image.clone()));
            layers.norm2.forward(layers.ff.forward(h))
        });

        let weight: Tensor<4> = self.patch_embedding.weight.val().reshape([dim, c.in_channels, p, p]);
        let bias = Some(self.patch_embedding.bias.val());
        let patches = ops::conv2d(frames_of(x), weight, bias, ConvOptions::strided(p, 0));
        let tokens = frames * rows * columns;
        let mut x: Tensor<3> = patches.permute([0, 2, 3, 1]).reshape([b, tokens, dim]);
        let rotary = Rotary::new([frames, rows, columns], c.attention_head_dim, &device);
        let given =
            Given { text: &text, image: image.as_ref(), time: &modulation, rotary: &rotary, precision };
        for layer in &self.blocks {
            x = layer.forward(x, &given);
        }
        let table: Tensor<2> = self.scale_shift_table.val().flatten(1, 2);
        let [shift, scale] = parts(Tensor::cat(vec![time.clone(), time], 1) + table);
        let y = self.proj_out.forward(scale_shift(normalize(x, c.eps), scale, shift));
        let y: Tensor<6> = y.reshape([b * frames, rows, columns, p, p, c.out_channels]);
        let y: Tensor<4> = y.permute([0, 5, 1, 3, 2, 4]).reshape([b * frames, c.out_channels, height, width]);
        clips_of(y, frames)
    }
}

impl Network for WanTransformer {
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
        Batch::of(WanTransformer::forward(self, x.tensor(), times, conditions, mode))
    }

    fn row_bytes(&self, shape: &SampleShape, precision: Precision) -> u64 {
        let area = self.config.patch().pow(2).max(1);
        let tokens = shape.axes().iter().product::<usize>() / area;
        transformer_row(tokens, [self.config.width(), self.config.ffn_dim], shape, precision)
    }

    module_object!(Network);
}
