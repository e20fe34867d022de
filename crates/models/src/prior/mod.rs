//! `PriorTransformer`: the prior of DALL·E 2 (Ramesh et al. 2022, arXiv:2204.06125, section 2.2), as in diffusers. It samples
//! CLIP's embedding of an image for a text: a sequence of the text's tokens, the text's embedding, the time and the noisy
//! embedding goes through a causal transformer, whose last token gives the clean embedding.

mod config;
mod projection;
mod standardized;

use burn::{
    module::{Module, Param},
    tensor::{DType, Device, Tensor, TensorData},
};
use tweedie_ops::{Batch, ExecContext, Precision, SampleShape, from_host};

pub use config::{AddedToken, InputNorm, PriorConfig, TextProjection};
pub use projection::{EmbeddingProjection, EmbeddingProjectionConfig, Projected};
pub use standardized::Standardized;

use crate::{
    conditions::{Conditions, LENGTHS, POOLED, TEXT},
    config::ConfigError,
    layers::{Activation, FeedForward, FeedForwardActivation, Init, LayerNorm, Linear, TokenAttention},
    network::{InputError, IoSpec, Mode, Network, module_object},
    params::constructors,
    unet::{
        embed::{self, TimestepEmbedding},
        positional,
    },
};

/// Added to variances, fixed in the published networks.
const EPS: f64 = 1e-5;
/// Added to the scores of tokens that are not attended to, as in diffusers.
const HIDDEN: f32 = -10_000.0;

/// Attention and feed-forward, each with a preceding normalization and a residual connection.
#[derive(Module, Debug)]
pub struct PriorLayer {
    norm1: LayerNorm,
    attn1: TokenAttention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl PriorLayer {
    fn new(init: &Init, width: usize, heads: usize) -> Self {
        let norm = |name: &str| LayerNorm::new(&init.at(name), width, EPS);
        let gelu = FeedForwardActivation::Plain(Activation::Gelu);
        Self {
            norm1: norm("norm1"),
            attn1: TokenAttention::new(&init.at("attn1"), width, width, heads, true),
            norm3: norm("norm3"),
            ff: FeedForward::new(&init.at("ff"), width, gelu),
        }
    }

    fn forward(&self, x: Tensor<3>, mask: Tensor<4>) -> Tensor<3> {
        let x = self.attn1.forward_masked(self.norm1.forward(x.clone()), mask, x);
        self.ff.forward_onto(self.norm3.forward(x.clone()), x)
    }
}

/// The prior. Parameters are named as in diffusers' `PriorTransformer`.
#[derive(Module, Debug)]
pub struct PriorTransformer {
    time_embedding: TimestepEmbedding,
    proj_in: Linear,
    embedding_proj_norm: Option<LayerNorm>,
    embedding_proj: Linear,
    encoder_hidden_states_proj: Option<Linear>,
    positional_embedding: Param<Tensor<3>>,
    prd_embedding: Option<Param<Tensor<3>>>,
    transformer_blocks: Vec<PriorLayer>,
    norm_in: Option<LayerNorm>,
    norm_out: LayerNorm,
    proj_to_clip_embeddings: Linear,
    /// With this mean and standard deviation embeddings are standardized for the diffusion: [`Standardized`].
    clip_mean: Param<Tensor<2>>,
    clip_std: Param<Tensor<2>>,
    #[module(skip)]
    config: PriorConfig,
    #[module(skip)]
    context: ExecContext,
}

impl PriorTransformer {
    constructors!(PriorConfig);

    /// The same network with the mean and the standard deviation of each value of the embeddings, by which they are
    /// standardized for the diffusion.
    ///
    /// # Panics
    /// If there are not `embedding_dim` values of each.
    #[must_use]
    pub fn with_statistics(mut self, mean: &[f32], std: &[f32]) -> Self {
        let set = |param: Param<Tensor<2>>, values: &[f32]| {
            let (id, old, mapper) = param.consume();
            let new = from_host::<2>(values.to_vec(), [1, values.len()], &old.device().inner());
            assert_eq!(new.dims(), old.dims(), "one value for each of an embedding");
            // They are not trained.
            let new = if old.is_autodiff() { new.autodiff() } else { new };
            Param::from_mapped_value(id, new, mapper)
        };
        self.clip_mean = set(self.clip_mean, mean);
        self.clip_std = set(self.clip_std, std);
        self
    }

    /// The same network, whose calls run in `context`, but in `f32` at any precision. Parameters are shared.
    #[must_use]
    pub fn with_context(mut self, context: ExecContext) -> Self {
        self.context = context;
        self
    }

    fn build(config: &PriorConfig, init: &Init) -> Result<Self, ConfigError> {
        config.validate()?;
        let (width, samples) = (config.width(), config.embedding_dim);
        let linear = |name: &str, inputs, outputs| Linear::new(&init.at(name), inputs, outputs, true);
        let norm = |name: &str, width| LayerNorm::new(&init.at(name), width, EPS);
        let layer = |i: usize| {
            PriorLayer::new(&init.at("transformer_blocks").at(i), width, config.num_attention_heads)
        };
        let tokens = config.num_embeddings + config.additional_embeddings;
        let time = config.time_embed_dim.unwrap_or(width);
        let text = config.text_embedding();
        Ok(Self {
            time_embedding: TimestepEmbedding::between(&init.at("time_embedding"), width, time, width),
            proj_in: linear("proj_in", samples, width),
            embedding_proj_norm: config.embedding_proj_norm_type.map(|_| norm("embedding_proj_norm", text)),
            embedding_proj: linear("embedding_proj", text, width),
            encoder_hidden_states_proj: config
                .encoder_hid_proj_type
                .map(|_| linear("encoder_hidden_states_proj", samples, width)),
            positional_embedding: init.constant("positional_embedding", [1, tokens, width], 0.0),
            prd_embedding: config.added_emb_type.map(|_| init.constant("prd_embedding", [1, 1, width], 0.0)),
            transformer_blocks: (0..config.num_layers).map(layer).collect(),
            norm_in: config.norm_in_type.map(|_| norm("norm_in", width)),
            norm_out: norm("norm_out", width),
            proj_to_clip_embeddings: linear("proj_to_clip_embeddings", width, samples),
            clip_mean: init.constant("clip_mean", [1, samples], 0.0),
            clip_std: init.constant("clip_std", [1, samples], 0.0),
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
        conditions.only(&[TEXT, POOLED, LENGTHS], rows)?;
        let width = c.embedding_dim;
        ensure(shape.dims() == [width], format!("the samples have the shape {shape}, expected {width}"))?;
        ensure(times.len() == rows, format!("{} times for {rows} samples", times.len()))?;
        let text = conditions.text().map(Tensor::dims);
        let expected = [rows, c.num_embeddings, width];
        ensure(
            text == Some(expected),
            format!("the text features have the shape {:?}, expected {expected:?}", text.unwrap_or_default()),
        )?;
        let pooled = conditions.vectors(POOLED).map(Tensor::dims);
        let expected = [rows, c.text_embedding()];
        ensure(
            pooled == Some(expected),
            format!(
                "the text's embedding has the shape {:?}, expected {expected:?}",
                pooled.unwrap_or_default()
            ),
        )?;
        let lengths = conditions.indices(LENGTHS).unwrap_or_default();
        let fits = |n: &usize| (1..=c.num_embeddings).contains(n);
        ensure(
            lengths.len() == rows && lengths.iter().all(fits),
            format!(
                "the lengths of the texts are {lengths:?}, expected {rows} from 1 to {}",
                c.num_embeddings
            ),
        )
    }

    /// Added to the scores: later tokens and the padding of the text are hidden. `[B, 1, T, T]`.
    fn mask(&self, lengths: &[usize], device: &Device) -> Tensor<4> {
        let (text, tokens) =
            (self.config.num_embeddings, self.config.num_embeddings + self.config.additional_embeddings);
        let mut values = Vec::with_capacity(lengths.len() * tokens * tokens);
        for &length in lengths {
            for i in 0..tokens {
                values.extend((0..tokens).map(|j| {
                    let padding = (length..text).contains(&j);
                    HIDDEN * (f32::from(u8::from(j > i)) + f32::from(u8::from(padding)))
                }));
            }
        }
        let shape = [lengths.len(), 1, tokens, tokens];
        Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
    }

    fn run(&self, x: Tensor<2>, times: &[f32], text: &Tensor<3>, given: &Conditions) -> Tensor<2> {
        let (rows, width, device) = (x.dims()[0], self.config.width(), x.device());
        let token = |x: Tensor<2>| -> Tensor<3> { x.reshape([rows, 1, width]) };
        let time = embed::rows(positional(times, width, 0.0, true), rows, &device);
        let time = self.time_embedding.forward_with(self.config.time_embed_act_fn, time);
        let pooled = given.vectors(POOLED).expect("checked").clone();
        let pooled = self.embedding_proj_norm.iter().fold(pooled, |x, norm| norm.forward(x));
        let text = self.encoder_hidden_states_proj.iter().fold(text.clone(), |x, map| map.forward(x));
        let mut all = vec![
            text,
            token(self.embedding_proj.forward(pooled)),
            token(time),
            token(self.proj_in.forward(x)),
        ];
        all.extend(self.prd_embedding.as_ref().map(|added| added.val().expand([rows, 1, width])));
        let mut x = Tensor::cat(all, 1) + self.positional_embedding.val();
        if let Some(norm) = &self.norm_in {
            x = norm.forward(x);
        }
        let mask = self.mask(given.indices(LENGTHS).unwrap_or_default(), &device);
        for layer in &self.transformer_blocks {
            x = layer.forward(x, mask.clone());
        }
        let tokens = x.dims()[1];
        let last: Tensor<2> = x.narrow(1, tokens - 1, 1).reshape([rows, width]);
        self.proj_to_clip_embeddings.forward(self.norm_out.forward(last))
    }
}

impl Network for PriorTransformer {
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

    fn forward(&self, x: Batch, times: &[f32], conditions: &Conditions, _: Mode) -> Batch {
        let text = match (self.check_input(x.len(), x.shape(), times, conditions), conditions.text()) {
            (Ok(()), Some(text)) => text,
            (checked, _) => panic!("{checked:?}"),
        };
        let x = x.rows().clone();
        let run = || self.run(x, times, text, conditions);
        Batch::of(self.context.clone().with_precision(Precision::F32).run(run))
    }

    fn row_bytes(&self, _: &SampleShape, _: Precision) -> u64 {
        let c = &self.config;
        let tokens = (c.num_embeddings + c.additional_embeddings) as u64;
        let (width, heads) = (c.width() as u64, c.num_attention_heads as u64);
        // The inner layer of a feed-forward layer, and the scores of attention and their exponentials.
        4 * tokens.saturating_mul(8 * width + 3 * heads * tokens)
    }

    module_object!(Network);
}
