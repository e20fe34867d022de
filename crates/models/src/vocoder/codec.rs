//! The codec of AudioLDM (Liu et al. 2023, arXiv:2301.12503): an autoencoder of mel spectrograms, pictures of one channel whose
//! rows are times and whose columns are bands, and a vocoder.

use std::{collections::BTreeMap, sync::Arc};

use tweedie_ops::{Batch, ExecContext};

use super::HifiGan;
use crate::{
    codec::{Codec, CodecSpec, Encoded},
    network::InputError,
    params::{HostTensor, export, non_finite},
};

/// Converts latents `[C, T/stride, bands/stride]` to waveforms `[1, T·hop]`. The files of published models do not say how
/// spectrograms are made, so that sounds cannot be encoded.
#[derive(Clone, Debug)]
pub struct MelAutoencoder {
    pictures: Arc<dyn Codec>,
    vocoder: HifiGan,
}

impl MelAutoencoder {
    /// The codec of an autoencoder and a vocoder, which must fit.
    ///
    /// # Errors
    /// If the autoencoder is not one of pictures of one channel, or the bands of the vocoder are no multiple of its stride.
    pub fn new(pictures: Arc<dyn Codec>, vocoder: HifiGan) -> Result<Self, InputError> {
        let CodecSpec { media, axes, stride, .. } = pictures.spec();
        if (media, axes) != (1, 2) {
            return Err(InputError(format!(
                "the autoencoder is one of media with {media} channels and {axes} axes; expected spectrograms, with 1 channel and 2 axes"
            )));
        }
        let bands = vocoder.config().model_in_dim;
        if !bands.is_multiple_of(stride) {
            return Err(InputError(format!(
                "the vocoder reads {bands} bands, expected a multiple of {stride}, the stride of the autoencoder"
            )));
        }
        Ok(Self { pictures, vocoder })
    }

    /// The axes of the latents of a sound with this number of values.
    fn latents(&self, values: usize) -> [usize; 2] {
        let CodecSpec { stride, .. } = self.pictures.spec();
        let config = self.vocoder.config();
        [values / (stride * config.stride()), config.model_in_dim / stride]
    }
}

impl Codec for MelAutoencoder {
    fn spec(&self) -> CodecSpec {
        let pictures = self.pictures.spec();
        let config = self.vocoder.config();
        let hop = config.stride();
        CodecSpec {
            media: 1,
            axes: 1,
            stride: pictures.stride * hop,
            width: config.width().max((pictures.width * config.model_in_dim).div_ceil(hop)),
            ..pictures
        }
    }

    fn latent_axes(&self, media: &[usize]) -> Vec<usize> {
        self.latents(media.iter().product()).to_vec()
    }

    fn media_axes(&self, latents: &[usize]) -> Vec<usize> {
        let stride = self.pictures.spec().stride * self.vocoder.config().stride();
        vec![latents.first().map_or(0, |rows| rows.saturating_mul(stride))]
    }

    fn rate(&self) -> Option<u32> {
        Some(self.vocoder.config().sampling_rate)
    }

    fn encode(&self, _: Batch) -> Result<Encoded, InputError> {
        Err(InputError(
            "this model cannot begin with a sound, since its files do not say how it hears one".into(),
        ))
    }

    fn decode(&self, latents: Batch) -> Result<Batch, InputError> {
        let spectrograms = self.pictures.decode(latents)?;
        let &[1, columns, bands] = spectrograms.shape().dims() else {
            return Err(InputError(format!(
                "spectrograms of shape {}, expected 1×times×bands",
                spectrograms.shape()
            )));
        };
        let rows = spectrograms.len();
        let waveforms = self.vocoder.forward(spectrograms.tensor::<4>().reshape([rows, columns, bands]))?;
        Ok(Batch::of(waveforms))
    }

    fn in_context(&self, context: &ExecContext) -> Box<dyn Codec> {
        Box::new(Self { pictures: self.pictures.in_context(context).into(), vocoder: self.vocoder.clone() })
    }

    fn differentiable(&self) -> Box<dyn Codec> {
        let vocoder = burn::module::Module::no_grad(burn::module::Module::train(self.vocoder.clone()));
        Box::new(Self { pictures: self.pictures.differentiable().into(), vocoder })
    }

    /// That of the autoencoder.
    fn config_json(&self) -> String {
        self.pictures.config_json()
    }

    fn tensors(&self) -> BTreeMap<String, HostTensor> {
        let named = |of: &str, all: BTreeMap<String, HostTensor>| -> Vec<(String, HostTensor)> {
            all.into_iter().map(|(name, tensor)| (format!("{of}.{name}"), tensor)).collect()
        };
        let all = [named("vae", self.pictures.tensors()), named("vocoder", export(&self.vocoder))];
        all.into_iter().flatten().collect()
    }

    fn non_finite(&self) -> Option<String> {
        let vocoder = || non_finite(&self.vocoder).map(|name| format!("vocoder.{name}"));
        self.pictures.non_finite().or_else(vocoder)
    }
}
