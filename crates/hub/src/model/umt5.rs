//! The text encoder of Wan's pipelines.

use std::path::Path;

use burn::tensor::Device;
use serde_json::Value;
use tweedie_models::{T5Config, T5Encoder};

use super::{PipelineKind, TEXTS, index::Index, sound::check_bound};
use crate::{component::Component, error::HubError, tokenizer::UnigramTokenizer};

/// The transformer of low noise levels of Wan 2.2.
const SECOND: &str = "transformer_2";
/// Tokens to which texts are filled up in diffusers.
const LENGTH: usize = 512;
/// Frames per second of the clips.
pub(super) const FPS: u32 = 16;

/// Reads texts with UMT5: gives features of each token.
#[derive(Debug)]
pub struct Umt5 {
    /// Converts texts to tokens.
    pub tokenizer: Box<UnigramTokenizer>,
    /// Converts tokens to features.
    pub encoder: Box<T5Encoder>,
}

/// Further components of the folder of a pipeline.
pub(super) fn components(kind: &PipelineKind) -> impl Iterator<Item = &'static str> {
    let (encoder, tokenizer) = TEXTS[0];
    kind.umt5.then_some([encoder, tokenizer, SECOND]).into_iter().flatten()
}

impl Umt5 {
    /// Loads it from the folder of a pipeline of one transformer.
    pub(super) fn load(index: &Index<'_>, device: &Device) -> Result<Self, HubError> {
        if index.has(SECOND) {
            let reason = "pipelines with two transformers (Wan 2.2) are not supported";
            return Err(HubError::key(&index.path, SECOND, reason));
        }
        for (key, usual) in [("boundary_ratio", Value::Null), ("expand_timesteps", Value::Bool(false))] {
            if let Some(value) = index.entries.get(key).filter(|value| **value != usual) {
                let reason = format!("{value} is not supported (Wan 2.2); expected {usual}");
                return Err(HubError::key(&index.path, key, reason));
            }
        }
        let (name, tokens) = TEXTS[0];
        let folder = index.folder(tokens)?;
        let tokenizer = UnigramTokenizer::open_for(&folder, LENGTH)?;
        let Component::T5(encoder) = index.load(name, device)? else {
            return index.wrong(name, T5Config::UMT5);
        };
        if !encoder.config().biased_layers {
            return index.wrong(name, T5Config::UMT5);
        }
        check_bound(&folder, tokenizer.bound(), encoder.config().vocab_size)?;
        Ok(Self { tokenizer: Box::new(tokenizer), encoder })
    }

    /// Checks that the network of a pipeline of this class, which reads features of width `expected`, reads these.
    pub(super) fn check_fit(
        &self,
        path: &Path,
        kind: &PipelineKind,
        expected: usize,
    ) -> Result<(), HubError> {
        let width = self.encoder.config().d_model;
        if width == expected {
            return Ok(());
        }
        let reason = format!("gives features of width {width}, but {} reads {expected}", kind.network.0);
        Err(HubError::key(path, TEXTS[0].0, reason))
    }
}
