//! A network whose last output channels are not used.

use std::collections::BTreeMap;

use tweedie_ops::{Batch, ExecContext, Precision, SampleShape};

use crate::{
    conditions::Conditions,
    network::{InputError, IoSpec, Mode, Network},
    params::HostTensor,
};

/// A network of which only the first output channels are used: the upscaler of latents also gives a variance, which its sampler
/// does not need.
#[derive(Debug)]
pub struct FirstChannels {
    network: Box<dyn Network>,
    channels: usize,
}

impl FirstChannels {
    /// The first `channels` outputs of `network`, which has at least as many.
    pub fn new(network: Box<dyn Network>, channels: usize) -> Self {
        Self { network, channels }
    }
}

impl Network for FirstChannels {
    fn spec(&self) -> IoSpec {
        IoSpec { outputs: self.channels, ..self.network.spec() }
    }

    fn check(
        &self,
        rows: usize,
        shape: &SampleShape,
        times: &[f32],
        conditions: &Conditions,
    ) -> Result<(), InputError> {
        self.network.check(rows, shape, times, conditions)
    }

    fn forward(&self, x: Batch, times: &[f32], conditions: &Conditions, mode: Mode) -> Batch {
        self.network.forward(x, times, conditions, mode).channels(0..self.channels)
    }

    fn row_bytes(&self, shape: &SampleShape, precision: Precision) -> u64 {
        self.network.row_bytes(shape, precision)
    }

    fn in_context(&self, context: &ExecContext) -> Box<dyn Network> {
        Box::new(Self { network: self.network.in_context(context), channels: self.channels })
    }

    fn differentiable(&self) -> Box<dyn Network> {
        Box::new(Self { network: self.network.differentiable(), channels: self.channels })
    }

    fn config_json(&self) -> String {
        self.network.config_json()
    }

    fn tensors(&self) -> BTreeMap<String, HostTensor> {
        self.network.tensors()
    }

    fn non_finite(&self) -> Option<String> {
        self.network.non_finite()
    }
}
