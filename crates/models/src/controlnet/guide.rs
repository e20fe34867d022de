//! What reads an image that the result follows.

use std::collections::BTreeMap;

use burn::{module::Module, tensor::Tensor};
use tweedie_ops::{Batch, ExecContext};

use super::{ControlNetConfig, ControlNetModel};
use crate::{
    adapter::{T2iAdapter, T2iAdapterConfig},
    network::{InputError, IoSpec},
    params::{self, HostTensor},
};

/// A network that reads an image which the result follows.
#[derive(Clone, Debug)]
pub enum Guide {
    /// It reads the noisy sample, too, and so runs in each step.
    ControlNet(Box<ControlNetModel>),
    /// It reads the image alone, once.
    Adapter(Box<T2iAdapter>),
}

impl Guide {
    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ControlNet(_) => "ControlNet",
            Self::Adapter(_) => "T2I-Adapter",
        }
    }

    /// Channels of the image.
    pub fn channels(&self) -> usize {
        match self {
            Self::ControlNet(net) => net.config().conditioning_channels,
            Self::Adapter(adapter) => adapter.config().in_channels,
        }
    }

    /// The sides of the image must be multiples of this.
    pub fn multiple(&self) -> usize {
        match self {
            Self::ControlNet(net) => net.config().stride(),
            Self::Adapter(adapter) => adapter.config().downscale_factor,
        }
    }

    /// Checks whether it was made for networks with this spec, whose samples have sides of 1/`stride` of the images'.
    ///
    /// # Errors
    /// Says what differs.
    pub fn check_fit(&self, spec: &IoSpec, stride: usize) -> Result<(), InputError> {
        let net = match self {
            Self::ControlNet(net) => net,
            Self::Adapter(adapter) => return adapter.check_fit(spec, stride),
        };
        net.check_fit(spec)?;
        let own = net.config().stride();
        match own == stride {
            true => Ok(()),
            false => Err(InputError(format!(
                "it reads images {own} times as large as latents, but the autoencoder of the model makes them {stride} times as \
                 large"
            ))),
        }
    }

    /// The maps of an image, `[B, channels, H, W]` in `0..=1`, that [`Controlled`](super::Controlled) reads as
    /// [`CONTROL`](crate::conditions::CONTROL): its embedding for a ControlNet, or the outputs of an adapter.
    ///
    /// # Panics
    /// If the image has other channels, or sides that are no [multiples](Self::multiple).
    pub fn embed(&self, image: Tensor<4>) -> Vec<Batch> {
        match self {
            Self::ControlNet(net) => vec![Batch::of(net.embed(image))],
            Self::Adapter(adapter) => adapter.forward(image).into_iter().map(Batch::of).collect(),
        }
    }

    /// Number of these maps.
    pub fn maps(&self) -> usize {
        match self {
            Self::ControlNet(_) => 1,
            Self::Adapter(adapter) => adapter.config().outputs().len(),
        }
    }

    /// Number of its outputs, each of which has a factor.
    pub fn outputs(&self) -> usize {
        match self {
            Self::ControlNet(net) => net.outputs(),
            Self::Adapter(adapter) => adapter.config().outputs().len(),
        }
    }

    /// The name of its class in diffusers.
    pub fn class(&self) -> &'static str {
        match self {
            Self::ControlNet(_) => ControlNetConfig::CLASS,
            Self::Adapter(_) => T2iAdapterConfig::CLASS,
        }
    }

    /// The `config.json` for diffusers.
    pub fn config_json(&self) -> String {
        match self {
            Self::ControlNet(net) => net.config().to_json(),
            Self::Adapter(adapter) => adapter.config().to_json(),
        }
    }

    /// All parameters by name.
    pub fn tensors(&self) -> BTreeMap<String, HostTensor> {
        match self {
            Self::ControlNet(net) => params::export(&**net),
            Self::Adapter(adapter) => params::export(&**adapter),
        }
    }

    pub(super) fn in_context(&self, context: &ExecContext) -> Self {
        match self {
            Self::ControlNet(net) => {
                Self::ControlNet(Box::new((**net).clone().with_context(context.clone())))
            }
            Self::Adapter(adapter) => {
                Self::Adapter(Box::new((**adapter).clone().with_context(context.clone())))
            }
        }
    }

    pub(super) fn differentiable(&self) -> Self {
        match self {
            Self::ControlNet(net) => Self::ControlNet(Box::new((**net).clone().train().no_grad())),
            Self::Adapter(adapter) => Self::Adapter(Box::new((**adapter).clone().train().no_grad())),
        }
    }

    pub(super) fn non_finite(&self) -> Option<String> {
        match self {
            Self::ControlNet(net) => params::non_finite(&**net),
            Self::Adapter(adapter) => params::non_finite(&**adapter),
        }
    }
}
