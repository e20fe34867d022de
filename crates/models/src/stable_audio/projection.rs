//! `StableAudioProjectionModel`: what the network reads of a text and of the seconds between which a sound lies.

use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor},
};

use super::StableAudioProjectionConfig;
use crate::{
    config::ConfigError,
    layers::{Either, Init, Linear},
    params::{self, TensorSource},
    unet::{LoadError, embed},
};

/// Width of the embedding of a number, without the number itself. It is not in the configuration.
const INNER: usize = 256;

/// A number, and sines and cosines of `2π·wᵢ` times the number.
#[derive(Module, Debug)]
pub struct Waves {
    weights: Param<Tensor<1>>,
}

/// The embedding of a number.
#[derive(Module, Debug)]
pub struct NumberConditioner {
    time_positional_embedding: Vec<Either<Waves, Linear>>,
}

impl NumberConditioner {
    fn new(init: &Init, width: usize) -> Self {
        let at = init.at("time_positional_embedding");
        let waves = Waves { weights: at.at(0).normal("weights", [INNER / 2], 1.0) };
        let linear = Linear::new(&at.at(1), INNER + 1, width, true);
        Self { time_positional_embedding: vec![Either::A(waves), Either::B(linear)] }
    }

    /// `[1, width]` for a number in 0..1.
    fn forward(&self, number: f32, device: &Device) -> Tensor<2> {
        let x = embed::rows(vec![number], 1, device);
        self.time_positional_embedding.iter().fold(x, |x, layer| match layer {
            Either::A(waves) => {
                let weights = waves.weights.val().unsqueeze::<2>();
                let phase = x.clone().mul(weights).mul_scalar(2.0f32).mul_scalar(std::f32::consts::PI);
                Tensor::cat(vec![x, phase.clone().sin(), phase.cos()], 1)
            }
            Either::B(linear) => linear.forward(x),
        })
    }
}

/// What the network reads of a text and two moments.
#[derive(Clone, Debug)]
pub struct ProjectedSound {
    /// Of the tokens of the text, `[1, tokens, conditioning_dim]`.
    pub text: Tensor<3>,
    /// Of the beginning, `[1, conditioning_dim]`.
    pub start: Tensor<2>,
    /// Of the end, `[1, conditioning_dim]`.
    pub end: Tensor<2>,
}

/// The layers. Parameters are named as in diffusers' `StableAudioProjectionModel`.
#[derive(Module, Debug)]
pub struct StableAudioProjection {
    text_projection: Option<Linear>,
    start_number_conditioner: NumberConditioner,
    end_number_conditioner: NumberConditioner,
    #[module(skip)]
    config: StableAudioProjectionConfig,
}

impl StableAudioProjection {
    /// Creates them with initial weights.
    ///
    /// # Errors
    /// Those of [`StableAudioProjectionConfig::validate`].
    pub fn new(
        config: &StableAudioProjectionConfig,
        seed: u64,
        device: &Device,
    ) -> Result<Self, ConfigError> {
        Ok(params::settle(Self::build(config, &Init::new(seed, device))?))
    }

    /// Creates them with the weights of `source`.
    ///
    /// # Errors
    /// Those of [`StableAudioProjectionConfig::validate`] and [`params::import`].
    pub fn load(
        config: &StableAudioProjectionConfig,
        source: &dyn TensorSource,
        device: &Device,
    ) -> Result<Self, LoadError> {
        Ok(params::import(Self::build(config, &Init::new(0, device))?, source)?)
    }

    fn build(config: &StableAudioProjectionConfig, init: &Init) -> Result<Self, ConfigError> {
        config.validate()?;
        let (from, to) = (config.text_encoder_dim, config.conditioning_dim);
        let number = |name: &str| NumberConditioner::new(&init.at(name), to);
        Ok(Self {
            text_projection: (from != to).then(|| Linear::new(&init.at("text_projection"), from, to, true)),
            start_number_conditioner: number("start_number_conditioner"),
            end_number_conditioner: number("end_number_conditioner"),
            config: config.clone(),
        })
    }

    /// The configuration.
    pub fn config(&self) -> &StableAudioProjectionConfig {
        &self.config
    }

    /// What the network reads of a text with features `[1, tokens, text_encoder_dim]` and a sound from one second to another.
    pub fn project(&self, text: Tensor<3>, [start, end]: [f64; 2]) -> ProjectedSound {
        let StableAudioProjectionConfig { min_value, max_value, .. } = self.config;
        let share = |second: f64| ((second - min_value) / (max_value - min_value)).clamp(0.0, 1.0) as f32;
        let device = text.device();
        ProjectedSound {
            start: self.start_number_conditioner.forward(share(start), &device),
            end: self.end_number_conditioner.forward(share(end), &device),
            text: match &self.text_projection {
                Some(linear) => linear.forward(text),
                None => text,
            },
        }
    }
}
