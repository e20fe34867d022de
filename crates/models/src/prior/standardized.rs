//! Embeddings, standardized for the diffusion.

use std::collections::BTreeMap;

use tweedie_ops::{Batch, ExecContext};

use crate::{
    codec::{Codec, CodecSpec, Encoded},
    network::InputError,
    params::HostTensor,
};

/// Diffusion uses `(z − mean)/std` of an embedding `z`.
#[derive(Clone, Debug)]
pub struct Standardized {
    scale: Vec<f64>,
    shift: Vec<f64>,
}

impl Standardized {
    /// The mean and the standard deviation of each value.
    pub fn new(mean: &[f32], std: &[f32]) -> Self {
        Self {
            scale: std.iter().map(|v| 1.0 / f64::from(*v)).collect(),
            shift: mean.iter().map(|v| f64::from(*v)).collect(),
        }
    }
}

impl Codec for Standardized {
    fn spec(&self) -> CodecSpec {
        let width = self.shift.len();
        CodecSpec {
            class: "PriorTransformer",
            media: width,
            latents: width,
            axes: 0,
            stride: 1,
            width: 1,
            scale: self.scale.clone(),
            shift: self.shift.clone(),
        }
    }

    fn encode(&self, media: Batch) -> Result<Encoded, InputError> {
        Ok(Encoded { mean: media, logvar: None })
    }

    fn decode(&self, latents: Batch) -> Result<Batch, InputError> {
        Ok(latents)
    }

    fn in_context(&self, _: &ExecContext) -> Box<dyn Codec> {
        Box::new(self.clone())
    }

    fn differentiable(&self) -> Box<dyn Codec> {
        Box::new(self.clone())
    }

    fn config_json(&self) -> String {
        "{}".into()
    }

    fn tensors(&self) -> BTreeMap<String, HostTensor> {
        BTreeMap::new()
    }

    fn non_finite(&self) -> Option<String> {
        None
    }
}
