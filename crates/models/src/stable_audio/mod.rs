//! Stable Audio's diffusion transformer (Evans et al. 2024, arXiv:2407.14358), diffusers' `StableAudioDiTModel`, and what it
//! reads of texts and moments. Each latent is a token; the time, and a vector of the conditions, are a token before them.

mod config;
mod layer;
mod projection;

use burn::{module::Module, tensor::Tensor};
use tweedie_ops::{Batch, ExecContext, Precision, SampleShape};

pub use config::{StableAudioDitConfig, StableAudioProjectionConfig};
pub use projection::{ProjectedSound, StableAudioProjection};

use self::layer::{Layer, Rotary};
use crate::{
    conditions::{Conditions, EMBEDDING, TEXT},
    config::ConfigError,
    layers::{Conv1d, Init, Linear},
    memory::unet_row,
    network::{InputError, IoSpec, Mode, Network, module_object},
    params::constructors,
    unet_1d::TimeProjection,
};

/// Two linear layers with SiLU in between, which is the second entry.
type Pair = Vec<Option<Linear>>;

fn pair(init: &Init, [from, inner, to]: [usize; 3], bias: bool) -> Pair {
    let linear = |i: usize, from, to| Some(Linear::new(&init.at(i), from, to, bias));
    vec![linear(0, from, inner), None, linear(2, inner, to)]
}

fn through<const D: usize>(pair: &Pair, x: Tensor<D>) -> Tensor<D> {
    pair.iter().fold(x, |x, layer| match layer {
        Some(linear) => linear.forward(x),
        None => tweedie_ops::silu(x),
    })
}

/// The transformer. Parameters are named as in diffusers' `StableAudioDiTModel`.
#[derive(Module, Debug)]
pub struct StableAudioDit {
    time_proj: TimeProjection,
    timestep_proj: Pair,
    global_proj: Pair,
    cross_attention_proj: Pair,
    preprocess_conv: Conv1d,
    proj_in: Linear,
    transformer_blocks: Vec<Layer>,
    proj_out: Linear,
    postprocess_conv: Conv1d,
    #[module(skip)]
    config: StableAudioDitConfig,
    #[module(skip)]
    context: ExecContext,
}

impl StableAudioDit {
    constructors!(StableAudioDitConfig);

    fn build(config: &StableAudioDitConfig, init: &Init) -> Result<Self, ConfigError> {
        config.validate()?;
        let c = config;
        let (width, text) = (c.width(), c.cross_attention_dim);
        let conv = |name: &str, channels| Conv1d::new(&init.at(name), [channels, channels, 1], false);
        let layer = |i: usize| Layer::new(&init.at("transformer_blocks").at(i), c);
        Ok(Self {
            time_proj: TimeProjection::new(&init.at("time_proj"), c.time_proj_dim),
            timestep_proj: pair(&init.at("timestep_proj"), [c.time_proj_dim, width, width], true),
            global_proj: pair(&init.at("global_proj"), [c.global_states_input_dim, width, width], false),
            cross_attention_proj: pair(
                &init.at("cross_attention_proj"),
                [c.cross_attention_input_dim, text, text],
                false,
            ),
            preprocess_conv: conv("preprocess_conv", c.in_channels),
            proj_in: Linear::new(&init.at("proj_in"), c.in_channels, width, false),
            transformer_blocks: (0..c.num_layers).map(layer).collect(),
            proj_out: Linear::new(&init.at("proj_out"), width, c.out_channels, false),
            postprocess_conv: conv("postprocess_conv", c.out_channels),
            config: c.clone(),
            context: ExecContext::default(),
        })
    }

    /// The same network, whose calls run in `context`; at any precision, the residual stream and the embeddings stay in `f32`.
    /// Parameters are shared.
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
        let c = &self.config;
        let ensure = |ok: bool, message: String| if ok { Ok(()) } else { Err(InputError(message)) };
        conditions.only(&[TEXT, EMBEDDING], rows)?;
        let expected = SampleShape::from([c.in_channels, c.sample_size]);
        ensure(*shape == expected, format!("the samples have the shape {shape}, expected {expected}"))?;
        ensure(times.len() == rows, format!("{} times for {rows} samples", times.len()))?;
        let text = conditions.text().map(Tensor::dims);
        let fits =
            |[b, tokens, width]: [usize; 3]| b == rows && tokens > 0 && width == c.cross_attention_input_dim;
        ensure(
            text.is_some_and(fits),
            format!(
                "the text features have the shape {text:?}, expected [{rows}, tokens, {}]",
                c.cross_attention_input_dim
            ),
        )?;
        let (vector, expected) = (conditions.vectors(EMBEDDING), [rows, c.global_states_input_dim]);
        let vector = vector.map(Tensor::dims);
        ensure(
            vector == Some(expected),
            format!("the embedding has the shape {vector:?}, expected {expected:?}"),
        )
    }

    /// `x: [B, C, T]`, `text: [B, S, width]`, `vector: [B, width]`.
    fn run(&self, x: Tensor<3>, times: &[f32], text: &Tensor<3>, vector: &Tensor<2>) -> Tensor<3> {
        let precision = self.context.precision;
        let (b, t, width) = (x.dims()[0], x.dims()[2], self.config.width());
        let text = precision.lower(through(&self.cross_attention_proj, text.clone()));
        let time = through(&self.timestep_proj, self.time_proj.forward(times, true));
        let first: Tensor<3> = (through(&self.global_proj, vector.clone()) + time).reshape([b, 1, width]);

        let x = self.preprocess_conv.forward(x.clone(), 1) + x;
        let tokens = self.proj_in.forward(x.swap_dims(1, 2));
        let mut x = Tensor::cat(vec![first, tokens], 1);
        let rotary = Rotary::new(t + 1, self.config.attention_head_dim, &x.device());
        for layer in &self.transformer_blocks {
            x = layer.forward(x, text.clone(), &rotary, precision);
        }
        let y = self.proj_out.forward(x).narrow(1, 1, t).swap_dims(1, 2);
        self.postprocess_conv.forward(y.clone(), 1) + y
    }
}

impl StableAudioDitConfig {
    /// What a network of this configuration takes and gives.
    pub fn spec(&self) -> IoSpec {
        IoSpec {
            native: Some(vec![self.sample_size]),
            fixed: true,
            patch: 1,
            text: Some(self.cross_attention_input_dim),
            embedding: Some(self.global_states_input_dim),
            ..IoSpec::new(Self::CLASS, 1, [self.in_channels, self.out_channels])
        }
    }
}

impl Network for StableAudioDit {
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
        let checked = self.check_input(x.len(), x.shape(), times, conditions);
        match (checked, conditions.text(), conditions.vectors(EMBEDDING)) {
            (Ok(()), Some(text), Some(vector)) => {
                Batch::of(self.context.run(|| self.run(x.tensor(), times, text, vector)))
            }
            (checked, ..) => panic!("{checked:?}"),
        }
    }

    fn row_bytes(&self, shape: &SampleShape, precision: Precision) -> u64 {
        unet_row(&[self.config.width()], |_| 0, true, shape, precision)
    }

    module_object!(Network);
}
