//! Converts prompts and classes to conditions of the network.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Range,
};

use burn::tensor::{Tensor, TensorData};
use tweedie_hub::{Model, TextPart, model::TEXTS};
use tweedie_models::{
    Conditions, Entry as Given,
    conditions::{GUIDANCE, POOLED, SIZES, TEXT},
    params::non_finite,
};

use crate::{
    PipelineError, Request,
    class::Classes,
    error::broken,
    prompt::{self, Encoded, Layer, Weighted},
    weighting::Weighting,
};

/// The conditions of all images, and the unconditional ones for guidance.
#[derive(Debug)]
pub(crate) struct Prepared {
    given: Source,
    null: Option<Source>,
    /// The guidance scale, for networks that take it as an input.
    pub(crate) scale: Option<f32>,
}

#[derive(Debug)]
enum Source {
    Nothing,
    /// One class per image.
    Classes(Vec<usize>),
    /// Image `i` has text `i mod n` of these.
    Texts(Vec<Conditions>),
}

impl Source {
    fn rows(&self, rows: Range<usize>) -> Conditions {
        match self {
            Self::Nothing => Conditions::none(),
            Self::Classes(all) => Conditions::of_classes(all[rows].to_vec()),
            Self::Texts(all) => {
                let texts: Vec<&Conditions> = rows.map(|row| &all[row % all.len()]).collect();
                Conditions::cat(&texts).expect("rows with texts of one length")
            }
        }
    }
}

impl Prepared {
    /// The conditions of these images, and the unconditional ones.
    pub(crate) fn rows(&self, rows: Range<usize>) -> (Conditions, Option<Conditions>) {
        let guidance = self.scale.map(|scale| Given::Numbers(vec![vec![scale]; rows.len()]));
        let given = self.given.rows(rows.clone()).with_some(GUIDANCE, guidance);
        (given, self.null.as_ref().map(|null| null.rows(rows)))
    }

    /// The class of each image, if the model has classes.
    pub(crate) fn classes(&self) -> Option<&[usize]> {
        match &self.given {
            Source::Classes(classes) => Some(classes),
            _ => None,
        }
    }

    /// Whether images have texts of different lengths, which cannot share a call of the network.
    pub(crate) fn is_ragged(&self) -> bool {
        let Source::Texts(texts) = &self.given else { return false };
        texts.windows(2).any(|pair| !pair[0].fits(&pair[1]))
    }
}

/// Encodes the request's prompts or classes. `size` is that of the images.
pub(crate) fn prepare(
    model: &Model,
    request: &Request,
    size: &[usize],
    guided: bool,
) -> Result<Prepared, PipelineError> {
    for (field, set) in [
        ("prompt", !request.prompts.is_empty()),
        ("negative_prompt", request.negative_prompt.is_some()),
        ("prompt_weights", request.prompt_weights.is_some()),
        ("clip_skip", request.clip_skip.is_some()),
    ] {
        if set && !model.reads_texts() {
            return Err(PipelineError::request(field, "this model does not support prompts"));
        }
    }
    if let Some(classes) = chosen_classes(model, request)? {
        let null = model.null_class().filter(|_| guided);
        let null = null.map(|null| Source::Classes(vec![null; classes.len()]));
        return Ok(Prepared { given: Source::Classes(classes), null, scale: None });
    }
    if !model.reads_texts() {
        return Ok(Prepared { given: Source::Nothing, null: None, scale: None });
    }
    texts(model, request, size, guided)
}

/// The classes that requests can select.
pub(crate) fn classes(model: &Model) -> Classes<'_> {
    let count = model.network.spec().classes.count.unwrap_or(0);
    Classes { count, names: &model.extras.class_names, listed: model.kind.listed }
}

/// The class of each image: the selected ones in turn, by default all but the null class.
fn chosen_classes(model: &Model, request: &Request) -> Result<Option<Vec<usize>>, PipelineError> {
    let fail = |reason: String| PipelineError::request("classes", reason);
    let spec = model.network.spec().classes;
    if let Some(other) = spec.other {
        return Err(fail(format!("this model's classes are {other}, which requests do not support")));
    }
    let Some(known) = spec.count else {
        return match request.classes {
            Some(_) => Err(fail("this model has no classes".into())),
            None => Ok(None),
        };
    };
    let chosen: Vec<usize> = match &request.classes {
        None => (0..known).filter(|class| Some(*class) != model.null_class()).collect(),
        Some(list) => {
            let classes = classes(model);
            list.iter().map(|class| classes.find(class).map_err(fail)).collect::<Result<_, _>>()?
        }
    };
    match chosen.is_empty() {
        true => Err(fail("the list is empty; expected at least one class".into())),
        false => Ok(Some(chosen.iter().copied().cycle().take(request.count.get()).collect())),
    }
}

fn texts(model: &Model, request: &Request, size: &[usize], guided: bool) -> Result<Prepared, PipelineError> {
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
    let mut nulls: BTreeMap<usize, Conditions> = BTreeMap::new();
    let mut null = Vec::new();
    for text in request.prompts.iter().take(request.count.get()) {
        let parsed = prompt::parse(text).map_err(|e| fail("prompt", e))?;
        let chunks = chunks_of(model, &parsed).map_err(|e| fail("prompt", e))?.max(least);
        let text = encoded(model, &parsed, chunks, layer, weighting).map_err(wrong("prompt"))?;
        given.push(conditions_of(model, text, size));
        if !guided {
            continue;
        }
        let text = match nulls.entry(chunks) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => {
                let text = encoded(model, &negative, chunks, null_layer, weighting);
                let mut text = text.map_err(wrong("negative_prompt"))?;
                if model.zeros_for_no_negative && request.negative_prompt.is_none() {
                    text = (text.0.zeros_like(), text.1.map(|pooled| pooled.zeros_like()));
                }
                free.insert(conditions_of(model, text, size))
            }
        };
        null.push(text.clone());
    }
    Ok(Prepared { given: Source::Texts(given), null: guided.then_some(Source::Texts(null)), scale: None })
}

/// Features of a text, `[1, tokens, width]`, and pooled features, `[1, width]`.
type Features = (Tensor<3>, Option<Tensor<2>>);

/// The features of a text as conditions.
fn conditions_of(model: &Model, (hidden, pooled): Features, size: &[usize]) -> Conditions {
    let given = Conditions::none().with(TEXT, Given::Tokens(hidden));
    let (Some(pooled), &[h, w]) = (pooled.filter(|_| model.kind.xl), size) else { return given };
    let [h, w] = [h, w].map(|n| n as f32);
    let sizes = Given::Numbers(vec![vec![h, w, 0.0, 0.0, h, w]]);
    given.with(POOLED, Given::Vectors(pooled)).with(SIZES, sizes)
}

/// Number of chunks that the encoder with the smallest limit needs.
fn chunks_of(model: &Model, prompt: &[Weighted]) -> Result<usize, String> {
    model.texts.iter().try_fold(1, |most, part| Ok(prompt::chunks_of(part, prompt)?.max(most)))
}

/// SDXL uses the output of the last layer but one, not normalized; older models use the last.
fn layer_of(model: &Model, skip: Option<usize>) -> Result<Layer, PipelineError> {
    let xl = model.kind.xl;
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
    model: &Model,
    prompt: &[Weighted],
    chunks: usize,
    layer: Layer,
    weighting: Weighting,
) -> Result<Features, EncodeError> {
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
    Ok((hidden, encoded.last().map(|e| e.pooled.clone())))
}
