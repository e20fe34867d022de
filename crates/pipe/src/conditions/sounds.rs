//! Prompts of diffusers' pipelines of sounds.

use burn::tensor::Tensor;
use tweedie_hub::{Model, RobertaTokenizer, SoundText, model::TEXTS};
use tweedie_models::{
    ClapTextModel, Conditions, Entry, ExecContext, InputError,
    conditions::{EMBEDDING, TEXT},
    params::non_finite,
    stable_audio::ProjectedSound,
};
use tweedie_ops::to_host;

use super::{Asked, Part};
use crate::{PipelineError, error::broken, guidance::check_unused, prompt};

/// Whether the model makes sounds that are parts of longer ones.
pub(crate) fn reads_start(model: &Model) -> bool {
    matches!(model.sound, Some(SoundText::T5 { .. }))
}

/// Norms below this are not divided by, as in PyTorch.
const LEAST_NORM: f32 = 1e-12;

/// The texts of all sounds.
pub(super) fn of_texts(asked: &Asked<'_>, sound: &SoundText) -> Result<Part, PipelineError> {
    let request = asked.request;
    check_unused(
        "this model of sounds does not support it",
        &[
            ("prompt_weights", request.prompt_weights.is_some()),
            ("clip_skip", request.clip_skip.is_some()),
            ("aesthetic_score", request.aesthetic_score.is_some()),
            ("negative_aesthetic_score", request.negative_aesthetic_score.is_some()),
        ],
    )?;
    let prompts = request.prompts.iter().take(request.count.get());
    let negative = request.negative_prompt.as_deref().unwrap_or_default();
    match sound {
        SoundText::Clap { tokenizer, encoder } => {
            let embed = |field: &'static str, text: &str| -> Result<Conditions, PipelineError> {
                let vector = embedding(tokenizer, encoder, &plain(field, text)?, field)?;
                Ok(Conditions::none().with(EMBEDDING, Entry::Vectors(vector)))
            };
            let given = prompts.map(|text| embed("prompt", text)).collect::<Result<_, _>>()?;
            let null = asked.guided.then(|| embed("negative_prompt", negative)).transpose()?;
            Ok(Part { given, null: null.map(|null| vec![null]) })
        }
        SoundText::T5 { .. } => {
            let seconds = seconds(asked)?;
            let of = |field, text: &str| features(sound, field, &plain(field, text)?, seconds);
            let given = prompts.map(|text| of("prompt", text)).collect::<Result<Vec<_>, _>>()?;
            let null = match &request.negative_prompt {
                _ if !asked.guided => None,
                Some(text) => Some(vec![of("negative_prompt", text)?]),
                // As in diffusers, nothing is known of the text and the tokens of the seconds then.
                None => Some(given.iter().map(without_text).collect()),
            };
            Ok(Part { given, null })
        }
    }
}

/// The seconds between which the sounds lie.
fn seconds(asked: &Asked<'_>) -> Result<[f64; 2], PipelineError> {
    let (request, codec) = (asked.request, asked.model.codec.as_ref());
    let rate = codec.and_then(|codec| codec.rate()).map_or(1.0, f64::from);
    let start = request.start.unwrap_or(0.0);
    let whole = asked.size.iter().product::<usize>() as f64 / rate;
    Ok([start, request.seconds.map_or(whole, |seconds| start + seconds)])
}

/// What a network reads of a text and of these seconds: the features of tokens, filled up with zeros, and those of the seconds.
fn features(
    sound: &SoundText,
    field: &'static str,
    text: &str,
    seconds: [f64; 2],
) -> Result<Conditions, PipelineError> {
    let SoundText::T5 { tokenizer, encoder, projection } = sound else { return Ok(Conditions::none()) };
    let fail = |field, reason: String| PipelineError::request(field, reason);
    let (tokens, most) = (tokenizer.encode(text), tokenizer.length());
    if tokens.len() > most {
        let reason = format!("the text has {} tokens, expected at most {most}", tokens.len());
        return Err(fail(field, reason));
    }
    let [least, last] = [projection.config().min_value, projection.config().max_value];
    if let Some(second) = seconds.iter().find(|second| !(least..=last).contains(*second)) {
        let field = if seconds[0] == *second { "start" } else { "seconds" };
        return Err(fail(field, format!("second {second}: this model knows those from {least} to {last}")));
    }
    let context = ExecContext { once: true, ..ExecContext::default() };
    let made = context.run(|| Ok(projection.project(encoder.encode(&tokens)?, seconds)));
    let ProjectedSound { text, start, end } = made.map_err(|e: InputError| fail(field, e.to_string()))?;
    for (part, name, broken_in) in [
        (to_host(text.clone()), TEXTS[0].0, non_finite(&**encoder)),
        (to_host(start.clone()), "projection_model", non_finite(&**projection)),
        (to_host(end.clone()), "projection_model", non_finite(&**projection)),
    ] {
        if !part.iter().all(|v| v.is_finite()) {
            return Err(broken(name, broken_in));
        }
    }
    let [_, used, width] = text.dims();
    let mut parts = vec![text];
    if used < most {
        parts.push(Tensor::zeros([1, most - used, width], &start.device()));
    }
    parts.extend([&start, &end].map(|second| second.clone().reshape([1, 1, width])));
    Ok(Conditions::none()
        .with(TEXT, Entry::Tokens(Tensor::cat(parts, 1)))
        .with(EMBEDDING, Entry::Vectors(Tensor::cat(vec![start, end], 1))))
}

/// The same conditions with zeros for all tokens.
fn without_text(given: &Conditions) -> Conditions {
    match given.text() {
        Some(text) => given.clone().with(TEXT, Entry::Tokens(text.zeros_like())),
        None => given.clone(),
    }
}

/// A text without weights, which T5 and CLAP do not support.
pub(super) fn plain(field: &'static str, text: &str) -> Result<String, PipelineError> {
    let fail = |reason: String| PipelineError::request(field, reason);
    let parts = prompt::parse(text).map_err(fail)?;
    if let Some(part) = parts.iter().find(|part| part.weight != 1.0) {
        let reason = format!(
            "`{}` has the weight {}, but this model does not support weights of words",
            part.text, part.weight
        );
        return Err(fail(reason));
    }
    Ok(parts.into_iter().map(|part| part.text).collect())
}

/// CLAP's vector of a text, of length 1.
fn embedding(
    tokenizer: &RobertaTokenizer,
    encoder: &ClapTextModel,
    text: &str,
    field: &'static str,
) -> Result<Tensor<2>, PipelineError> {
    let context = ExecContext { once: true, ..ExecContext::default() };
    let vector = context.run(|| encoder.encode(&tokenizer.encode(text)));
    let vector = vector.map_err(|e| PipelineError::request(field, e.to_string()))?;
    if !to_host(vector.clone()).iter().all(|v| v.is_finite()) {
        return Err(broken(TEXTS[0].0, non_finite(encoder)));
    }
    let norm = (vector.clone() * vector.clone()).sum_dim(1).sqrt().clamp_min(LEAST_NORM);
    Ok(vector / norm)
}
