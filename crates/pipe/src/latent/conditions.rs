//! Converts prompts and classes to conditions of the network.

use std::collections::{BTreeMap, btree_map::Entry};

use burn::tensor::{Tensor, TensorData};
use tweedie_hub::{LatentClass, LatentModel, LatentNetwork, TextPart, latent_dir::TEXTS};
use tweedie_models::{Added, Condition, params::non_finite};

use super::prompt::{self, Encoded, Layer, Weighted, Weighting};
use crate::{PipelineError, Request, class::Classes, error::broken};

/// The conditions of all images, and the unconditional ones for guidance.
pub(super) struct Conditions {
    given: Source,
    null: Option<Source>,
    /// The guidance scale, for networks that take it as an input.
    pub(super) scale: Option<f32>,
}

enum Source {
    Nothing,
    /// One class per image.
    Classes(Vec<usize>),
    /// Image `i` has text `i mod n` of these.
    Texts(Vec<Text>),
}

#[derive(Clone)]
struct Text {
    hidden: Tensor<3>,
    added: Option<(Tensor<2>, Vec<f32>)>,
}

impl Source {
    fn rows(&self, rows: std::ops::Range<usize>) -> Condition {
        match self {
            Self::Nothing => Condition::default(),
            Self::Classes(all) => Condition::classes(all[rows].to_vec()),
            Self::Texts(all) => {
                let texts: Vec<&Text> = rows.map(|row| &all[row % all.len()]).collect();
                let added: Option<Vec<_>> = texts.iter().map(|text| text.added.as_ref()).collect();
                Condition {
                    text: Some(Tensor::cat(texts.iter().map(|text| text.hidden.clone()).collect(), 0)),
                    added: added.map(|all| Added {
                        text_embeds: Tensor::cat(all.iter().map(|(pooled, _)| pooled.clone()).collect(), 0),
                        time_ids: all.iter().map(|(_, ids)| ids.clone()).collect(),
                    }),
                    ..Condition::default()
                }
            }
        }
    }
}

impl Conditions {
    /// The conditions of these images, and the unconditional ones.
    pub(super) fn rows(&self, rows: std::ops::Range<usize>) -> (Condition, Option<Condition>) {
        let guidance = self.scale.map(|scale| vec![scale; rows.len()]);
        let given = Condition { guidance, ..self.given.rows(rows.clone()) };
        (given, self.null.as_ref().map(|null| null.rows(rows)))
    }

    /// The class of each image, if the model has classes.
    pub(super) fn classes(&self) -> Option<Vec<usize>> {
        match &self.given {
            Source::Classes(classes) => Some(classes.clone()),
            _ => None,
        }
    }

    /// Whether images have texts of different lengths, which cannot share a call of the network.
    pub(super) fn is_ragged(&self) -> bool {
        let Source::Texts(texts) = &self.given else { return false };
        texts.windows(2).any(|pair| pair[0].hidden.dims() != pair[1].hidden.dims())
    }
}

/// Encodes the request's prompts or classes. `size` is that of the images.
pub(super) fn conditions(
    model: &LatentModel,
    request: &Request,
    size: [usize; 2],
    guided: bool,
) -> Result<Conditions, PipelineError> {
    let fail = PipelineError::request;
    let reads = model.class.reads_texts();
    for (field, set) in [
        ("prompt", !request.prompts.is_empty()),
        ("negative_prompt", request.negative_prompt.is_some()),
        ("prompt_weights", request.prompt_weights.is_some()),
        ("clip_skip", request.clip_skip.is_some()),
    ] {
        if set && !reads {
            return Err(fail(field, "this model does not support prompts"));
        }
    }
    if let LatentNetwork::Dit(dit) = &model.network {
        let known = dit.config().num_embeds_ada_norm;
        let classes = chosen_classes(model, request, known)?;
        let null = guided.then(|| Source::Classes(vec![known; classes.len()]));
        return Ok(Conditions { given: Source::Classes(classes), null, scale: None });
    }
    if request.classes.is_some() {
        return Err(fail("classes", "this model has no classes"));
    }
    if !reads {
        return Ok(Conditions { given: Source::Nothing, null: None, scale: None });
    }
    texts(model, request, size, guided)
}

/// The classes that requests can select.
pub(super) fn classes(model: &LatentModel) -> Classes<'_> {
    let count = match &model.network {
        LatentNetwork::Dit(dit) => dit.config().num_embeds_ada_norm,
        _ => 0,
    };
    Classes { count, names: &model.class_names, listed: true }
}

fn chosen_classes(model: &LatentModel, request: &Request, known: usize) -> Result<Vec<usize>, PipelineError> {
    let fail = |reason: String| PipelineError::request("classes", reason);
    let count = request.count.get();
    let chosen: Vec<usize> = match &request.classes {
        None => (0..known.min(count)).collect(),
        Some(list) => {
            let classes = classes(model);
            list.iter().map(|class| classes.find(class).map_err(fail)).collect::<Result<_, _>>()?
        }
    };
    match chosen.is_empty() {
        true => Err(fail("the list is empty; expected at least one class".into())),
        false => Ok(chosen.iter().copied().cycle().take(count).collect()),
    }
}

fn texts(
    model: &LatentModel,
    request: &Request,
    size: [usize; 2],
    guided: bool,
) -> Result<Conditions, PipelineError> {
    let fail = |field: &'static str, reason: String| PipelineError::request(field, reason);
    if request.prompts.is_empty() {
        return Err(fail("prompt", "this is a text-to-image model; expected a prompt".into()));
    }
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
    let mut nulls: BTreeMap<usize, Text> = BTreeMap::new();
    let mut null = Vec::new();
    for text in request.prompts.iter().take(request.count.get()) {
        let parsed = prompt::parse(text).map_err(|e| fail("prompt", e))?;
        let chunks = chunks_of(model, &parsed).map_err(|e| fail("prompt", e))?.max(least);
        given.push(encoded(model, &parsed, chunks, layer, size, weighting).map_err(wrong("prompt"))?);
        if !guided {
            continue;
        }
        let text = match nulls.entry(chunks) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => {
                let text = encoded(model, &negative, chunks, null_layer, size, weighting);
                let mut text = text.map_err(wrong("negative_prompt"))?;
                if model.zeros_for_no_negative && request.negative_prompt.is_none() {
                    text.hidden = text.hidden.zeros_like();
                    text.added = text.added.take().map(|(pooled, ids)| (pooled.zeros_like(), ids));
                }
                free.insert(text)
            }
        };
        null.push(text.clone());
    }
    Ok(Conditions { given: Source::Texts(given), null: guided.then_some(Source::Texts(null)), scale: None })
}

/// Number of chunks that the encoder with the smallest limit needs.
fn chunks_of(model: &LatentModel, prompt: &[Weighted]) -> Result<usize, String> {
    model.texts.iter().try_fold(1, |most, part| Ok(prompt::chunks_of(part, prompt)?.max(most)))
}

/// SDXL uses the output of the last layer but one, not normalized; older models use the last.
fn layer_of(model: &LatentModel, skip: Option<usize>) -> Result<Layer, PipelineError> {
    let xl = model.class == LatentClass::StableDiffusionXl;
    let layers = model.texts.iter().map(|text| text.encoder.config().num_hidden_layers).min().unwrap_or(0);
    let skip = skip.unwrap_or(0) + usize::from(xl);
    if skip >= layers.max(1) {
        let reason = format!("{skip}: cannot skip {skip} of {layers} layers");
        return Err(PipelineError::request("clip_skip", reason));
    }
    Ok(Layer { skip, normalize: !xl })
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
    model: &LatentModel,
    prompt: &[Weighted],
    chunks: usize,
    layer: Layer,
    size: [usize; 2],
    weighting: Weighting,
) -> Result<Text, EncodeError> {
    let encode = |(part, (name, _)): (&TextPart, (&str, &str))| {
        let encoded = prompt::encode(part, prompt, chunks, layer, weighting).map_err(EncodeError::Input)?;
        let finite = |values: TensorData| values.iter::<f32>().all(f32::is_finite);
        let hidden = encoded.hidden.clone().into_data();
        match finite(hidden) && finite(encoded.pooled.clone().into_data()) {
            true => Ok(encoded),
            false => Err(EncodeError::Broken(broken(name, non_finite(&part.encoder)))),
        }
    };
    let encoded: Vec<Encoded> = model.texts.iter().zip(TEXTS).map(encode).collect::<Result<_, _>>()?;
    let hidden = Tensor::cat(encoded.iter().map(|e| e.hidden.clone()).collect(), 2);
    let pooled = encoded.last().map(|e| e.pooled.clone());
    let [h, w] = size.map(|n| n as f32);
    let added = pooled.filter(|_| model.class == LatentClass::StableDiffusionXl);
    Ok(Text { hidden, added: added.map(|pooled| (pooled, vec![h, w, 0.0, 0.0, h, w])) })
}
