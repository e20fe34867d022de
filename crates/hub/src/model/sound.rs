//! diffusers' pipelines of sounds with texts: what reads their texts, and what makes sounds of their latents.

use std::{path::Path, sync::Arc};

use burn::tensor::Device;
use tweedie_models::{
    ClapTextConfig, ClapTextModel, Codec, HifiGanConfig, IoSpec, MelAutoencoder, StableAudioProjection,
    StableAudioProjectionConfig, T5Config, T5Encoder,
};

use super::{PipelineKind, Sounds, TEXTS, index::Index};
use crate::{
    component::Component,
    error::HubError,
    tokenizer::{RobertaTokenizer, UnigramTokenizer},
};

const VOCODER: &str = "vocoder";
const PROJECTION: &str = "projection_model";

/// Reads the texts of a model of sounds.
#[derive(Debug)]
pub enum SoundText {
    /// Gives one vector for a text.
    Clap {
        /// Converts texts to tokens.
        tokenizer: Box<RobertaTokenizer>,
        /// Converts tokens to a vector.
        encoder: Box<ClapTextModel>,
    },
    /// Gives features of each token, and of the seconds between which the sound lies.
    T5 {
        /// Converts texts to tokens.
        tokenizer: Box<UnigramTokenizer>,
        /// Converts tokens to features.
        encoder: Box<T5Encoder>,
        /// Converts features and seconds to what the network reads.
        projection: Box<StableAudioProjection>,
    },
}

impl Sounds {
    /// Default steps in diffusers.
    pub(super) fn steps(self) -> usize {
        match self {
            Self::AudioLdm => 10,
            Self::StableAudio => 100,
        }
    }
}

/// Further components of the folder of a pipeline.
pub(super) fn components(kind: &PipelineKind) -> impl Iterator<Item = &'static str> {
    let (encoder, tokenizer) = TEXTS[0];
    let names = kind.sounds.map(|sounds| match sounds {
        Sounds::AudioLdm => [encoder, tokenizer, VOCODER],
        Sounds::StableAudio => [encoder, tokenizer, PROJECTION],
    });
    names.into_iter().flatten()
}

/// The codec of a pipeline with this autoencoder: with a vocoder if it has one.
pub(super) fn codec(
    index: &Index<'_>,
    kind: &PipelineKind,
    autoencoder: Option<Arc<dyn Codec>>,
    device: &Device,
) -> Result<Option<Arc<dyn Codec>>, HubError> {
    let (Some(Sounds::AudioLdm), Some(autoencoder)) = (kind.sounds, &autoencoder) else {
        return Ok(autoencoder);
    };
    let Component::Vocoder(vocoder) = index.load(VOCODER, device)? else {
        return index.wrong(VOCODER, HifiGanConfig::CLASS);
    };
    let codec = MelAutoencoder::new(autoencoder.clone(), *vocoder);
    let codec = codec.map_err(|e| HubError::key(&index.path, VOCODER, e.to_string()))?;
    Ok(Some(Arc::new(codec)))
}

impl SoundText {
    /// What reads the texts of a pipeline of this class; `None` if it is not one of sounds.
    pub(super) fn load(
        index: &Index<'_>,
        kind: &PipelineKind,
        device: &Device,
    ) -> Result<Option<Self>, HubError> {
        let (name, tokens) = TEXTS[0];
        match kind.sounds {
            None => Ok(None),
            Some(Sounds::AudioLdm) => {
                let folder = index.folder(tokens)?;
                let tokenizer = Box::new(RobertaTokenizer::open(&folder)?);
                let Component::Clap(encoder) = index.load(name, device)? else {
                    return index.wrong(name, ClapTextConfig::CLASS);
                };
                check_bound(&folder, tokenizer.bound(), encoder.config().vocab_size)?;
                Ok(Some(Self::Clap { tokenizer, encoder }))
            }
            Some(Sounds::StableAudio) => {
                let folder = index.folder(tokens)?;
                let tokenizer = Box::new(UnigramTokenizer::open(&folder)?);
                let Component::T5(encoder) = index.load(name, device)? else {
                    return index.wrong(name, T5Config::CLASS);
                };
                check_bound(&folder, tokenizer.bound(), encoder.config().vocab_size)?;
                let Component::SoundProjection(projection) = index.load(PROJECTION, device)? else {
                    return index.wrong(PROJECTION, StableAudioProjectionConfig::CLASS);
                };
                Ok(Some(Self::T5 { tokenizer, encoder, projection }))
            }
        }
    }

    /// Checks that the network of a pipeline of this class reads what this gives.
    pub(super) fn check_fit(&self, path: &Path, kind: &PipelineKind, spec: &IoSpec) -> Result<(), HubError> {
        match self {
            Self::Clap { encoder, .. } => {
                let width = encoder.config().projection_dim;
                if spec.embedding == Some(width) && spec.text.is_none() {
                    return Ok(());
                }
                let reads = match (spec.text, spec.embedding) {
                    (Some(_), _) => "features of tokens".to_owned(),
                    (None, Some(expected)) => format!("one of width {expected}"),
                    (None, None) => "none".to_owned(),
                };
                let reason = format!("gives a vector of width {width}, but {} reads {reads}", kind.network.0);
                Err(HubError::key(path, TEXTS[0].0, reason))
            }
            Self::T5 { encoder, projection, .. } => {
                let (config, network) = (projection.config(), kind.network.0);
                let (from, to) = (config.text_encoder_dim, config.conditioning_dim);
                let (own, text, vector) = (encoder.config().d_model, spec.text, spec.embedding);
                let (name, reason) = if own != from {
                    (TEXTS[0].0, format!("gives features of width {own}, but {PROJECTION} reads {from}"))
                } else if text != Some(to) || vector != Some(2 * to) {
                    let reads = format!("{} and {}", text.unwrap_or(0), vector.unwrap_or(0));
                    let gives = format!("gives features of width {to} and vectors of width {}", 2 * to);
                    (PROJECTION, format!("{gives}, but {network} reads widths {reads}"))
                } else {
                    return Ok(());
                };
                Err(HubError::key(path, name, reason))
            }
        }
    }
}

/// Checks that the text encoder of this vocabulary knows all tokens of the tokenizer in `folder`.
pub(super) fn check_bound(folder: &Path, bound: u32, known: usize) -> Result<(), HubError> {
    if bound as usize <= known {
        return Ok(());
    }
    let name = TEXTS[0].0;
    let reason = format!("has token ids up to {}, but {name} has a vocabulary of {known}", bound - 1);
    Err(HubError::format(folder, reason))
}
