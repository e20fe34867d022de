//! Prompts.

use std::collections::{BTreeMap, btree_map::Entry};

use burn::tensor::{Tensor, TensorData};
use tweedie_hub::{Maps, Model, TextPart, model::NO_NOISE};
use tweedie_models::{
    Conditions, Entry as Given,
    conditions::{LENGTHS, POOLED, SIZES, TEXT, WITH_TIME},
    params::non_finite,
};
use tweedie_ops::from_host;

use super::{Asked, Conditioner, Part, embeddings, sounds, umt5};
use crate::{
    PipelineError, Request,
    error::broken,
    prompt::{self, Encoded, Layer, Weighted},
    weighting::Weighting,
};

/// The text of each image: the prompts in turn.
pub(super) struct ByText;

impl Conditioner for ByText {
    fn fields(&self, request: &Request) -> Vec<(&'static str, bool)> {
        vec![
            ("prompt", !request.prompts.is_empty()),
            ("negative_prompt", request.negative_prompt.is_some()),
            ("prompt_weights", request.prompt_weights.is_some()),
            ("clip_skip", request.clip_skip.is_some()),
            ("aesthetic_score", request.aesthetic_score.is_some()),
            ("negative_aesthetic_score", request.negative_aesthetic_score.is_some()),
        ]
    }

    fn unsupported(&self) -> &'static str {
        "this model does not support prompts"
    }

    fn is_read(&self, asked: &Asked<'_>) -> bool {
        asked.model.reads_texts() && !asked.varies
    }

    fn prepare(&self, asked: &Asked<'_>) -> Result<Part, PipelineError> {
        texts(asked)
    }
}

fn texts(asked: &Asked<'_>) -> Result<Part, PipelineError> {
    let &Asked { model, request, size, guided, .. } = asked;
    let fail = |field: &'static str, reason: String| PipelineError::request(field, reason);
    if request.prompts.is_empty() {
        let what = match model.network.spec().axes {
            _ if model.sound.is_some() => "a model of sounds with texts",
            3 => "a model of clips with texts",
            _ => "a text-to-image model",
        };
        return Err(fail("prompt", format!("this is {what}; expected a prompt")));
    }
    if let Some(sound) = &model.sound {
        return sounds::of_texts(asked, sound);
    }
    if let Some(reader) = &model.umt5 {
        return umt5::of_texts(asked, reader);
    }
    if model.unclip.is_some() && request.clip_skip.is_some() {
        return Err(fail("clip_skip", "this model was trained with the text encoder's last layer".into()));
    }
    let [score, null_score] = scores(model, request)?;
    let wrong = |field| move |e: EncodeError| e.of_field(field);
    let layer = layer_of(model, request.clip_skip)?;
    let weighting = request.prompt_weights.unwrap_or_default();
    // As in diffusers, `clip_skip` only applies to the prompt.
    let null_layer = layer_of(model, None)?;
    let negative = request.negative_prompt.as_deref().unwrap_or_default();
    let negative = prompt::parse(negative).map_err(|e| fail("negative_prompt", e))?;
    let least = chunks_of(model, &negative).map_err(|e| fail("negative_prompt", e))?;
    let mut given = Vec::new();
    // A prompt and its negative prompt must have the same length.
    let mut nulls: BTreeMap<usize, Features> = BTreeMap::new();
    let mut null = Vec::new();
    for text in request.prompts.iter().take(request.count.get()) {
        let parsed = prompt::parse(text).map_err(|e| fail("prompt", e))?;
        let chunks = chunks_of(model, &parsed).map_err(|e| fail("prompt", e))?.max(least);
        if chunks > 1 && (model.unclip.is_some() || model.network.spec().lengths) {
            let most = model.texts.iter().map(|text| text.encoder.config().max_position_embeddings).min();
            let reason = format!(
                "a text has more tokens than this model reads, {} with those at both ends",
                most.unwrap_or(0)
            );
            return Err(fail("prompt", reason));
        }
        let text = encoded(model, &parsed, chunks, layer, weighting).map_err(wrong("prompt"))?;
        given.push(text);
        if !guided {
            continue;
        }
        let text = match nulls.entry(chunks) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => {
                let text = encoded(model, &negative, chunks, null_layer, weighting);
                let mut text = text.map_err(wrong("negative_prompt"))?;
                if model.zeros_for_no_negative && request.negative_prompt.is_none() {
                    text.hidden = text.hidden.zeros_like();
                    text.pooled = text.pooled.map(|pooled| pooled.zeros_like());
                }
                free.insert(text)
            }
        };
        null.push(text.clone());
    }
    if let Some(unclip) = &model.unclip
        && let Some(prior) = &unclip.prior
    {
        return embeddings::of_texts(asked, (unclip, prior), &given, null.first());
    }
    let all = |texts: Vec<Features>, score| {
        texts.into_iter().map(|text| conditions_of(model, text, size, score)).collect()
    };
    Ok(Part { given: all(given, score), null: guided.then(|| all(null, null_score)) })
}

/// Features of a text.
#[derive(Clone)]
pub(super) struct Features {
    /// Of its tokens, `[1, tokens, width]`.
    pub(super) hidden: Tensor<3>,
    /// Of the whole, `[1, width]`.
    pub(super) pooled: Option<Tensor<2>>,
    /// Number of tokens that are not padding, if there is one chunk.
    pub(super) length: usize,
}

/// The features of an empty text.
pub(super) fn of_nothing(model: &Model) -> Result<Features, PipelineError> {
    let layer = Layer { skip: 0, normalize: true };
    encoded(model, &[], 1, layer, Weighting::default()).map_err(|e| e.of_field("prompt"))
}

/// The aesthetic scores of the conditional and of the unconditional predictions.
fn scores(model: &Model, request: &Request) -> Result<[f32; 2], PipelineError> {
    let fields = [
        ("aesthetic_score", request.aesthetic_score, 6.0),
        ("negative_aesthetic_score", request.negative_aesthetic_score, 2.5),
    ];
    for (field, value, _) in fields {
        match value {
            Some(_) if !model.aesthetic => {
                return Err(PipelineError::request(field, "only refiners of SDXL read an aesthetic score"));
            }
            Some(value) if !value.is_finite() => {
                return Err(PipelineError::request(field, format!("{value}: expected a finite value")));
            }
            _ => {}
        }
    }
    Ok(fields.map(|(_, value, own)| value.unwrap_or(own) as f32))
}

/// The features of a text as conditions, with this aesthetic score if the model reads one.
fn conditions_of(model: &Model, text: Features, size: &[usize], score: f32) -> Conditions {
    let Features { hidden, pooled, length } = text;
    let given = Conditions::none().with(TEXT, Given::Tokens(hidden));
    let Some(pooled) = pooled else { return given };
    let spec = model.network.spec();
    if spec.with_time.is_some() {
        // The noise on the small image, then the text.
        let none: Tensor<2> = from_host(NO_NOISE.to_vec(), [1, NO_NOISE.len()], &pooled.device());
        return given.with(WITH_TIME, Given::Vectors(Tensor::cat(vec![none, pooled], 1)));
    }
    if spec.lengths {
        let lengths = Given::Indices(vec![length]);
        return given.with(POOLED, Given::Vectors(pooled)).with(LENGTHS, lengths);
    }
    let &[h, w] = size else { return given };
    if !model.kind.xl {
        return given;
    }
    let [h, w] = [h, w].map(|n| n as f32);
    let target = if model.aesthetic { vec![score] } else { vec![h, w] };
    let sizes = Given::Numbers(vec![[vec![h, w, 0.0, 0.0], target].concat()]);
    given.with(POOLED, Given::Vectors(pooled)).with(SIZES, sizes)
}

/// Number of chunks that the encoder with the smallest limit needs.
fn chunks_of(model: &Model, prompt: &[Weighted]) -> Result<usize, String> {
    model.texts.iter().try_fold(1, |most, part| Ok(prompt::chunks_of(part, prompt)?.max(most)))
}

/// SDXL uses the output of the last layer but one, not normalized, the upscaler of latents that of the last, not normalized, and
/// older models that of the last.
fn layer_of(model: &Model, skip: Option<usize>) -> Result<Layer, PipelineError> {
    let xl = model.kind.xl;
    let layers = model.texts.iter().map(|text| text.encoder.config().num_hidden_layers).min().unwrap_or(0);
    let skip = skip.unwrap_or(0) + usize::from(xl);
    if skip >= layers.max(1) {
        let reason = format!("{skip}: cannot skip {skip} of {layers} layers");
        return Err(PipelineError::request("clip_skip", reason));
    }
    Ok(Layer { skip, normalize: !xl && model.kind.maps != Maps::SmallLatents })
}

/// Why a text could not be encoded.
enum EncodeError {
    /// The text is invalid for the encoder.
    Input(String),
    /// The encoder is damaged.
    Broken(PipelineError),
}

impl EncodeError {
    /// The error for a text in this field of a request.
    fn of_field(self, field: &'static str) -> PipelineError {
        match self {
            Self::Input(reason) => PipelineError::request(field, reason),
            Self::Broken(error) => error,
        }
    }
}

/// The features of a prompt by all encoders, in the given number of chunks.
fn encoded(
    model: &Model,
    prompt: &[Weighted],
    chunks: usize,
    layer: Layer,
    weighting: Weighting,
) -> Result<Features, EncodeError> {
    let encode = |(part, (name, _)): (&TextPart, (&'static str, &str))| {
        let encoded = prompt::encode(part, prompt, chunks, layer, weighting).map_err(EncodeError::Input)?;
        let finite = |values: TensorData| values.iter::<f32>().all(f32::is_finite);
        let hidden = encoded.hidden.clone().into_data();
        match finite(hidden) && finite(encoded.pooled.clone().into_data()) {
            true => Ok(encoded),
            false => Err(EncodeError::Broken(broken(name, non_finite(&part.encoder)))),
        }
    };
    let encoded: Vec<Encoded> =
        model.texts.iter().zip(model.text_names()).map(encode).collect::<Result<_, _>>()?;
    let hidden = Tensor::cat(encoded.iter().map(|e| e.hidden.clone()).collect(), 2);
    let length = encoded.first().map_or(0, |e| e.length);
    Ok(Features { hidden, pooled: encoded.last().map(|e| e.pooled.clone()), length })
}
