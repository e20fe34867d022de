//! Prompts of diffusers' pipelines of sounds.

use burn::tensor::Tensor;
use tweedie_hub::{RobertaTokenizer, SoundText, model::TEXTS};
use tweedie_models::{
    ClapTextModel, Conditions, Entry, ExecContext, conditions::EMBEDDING, params::non_finite,
};
use tweedie_ops::to_host;

use super::{Asked, Part};
use crate::{PipelineError, error::broken, guidance::check_unused, prompt};

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
    }
}

/// A text without weights, which the encoders of these models do not support.
fn plain(field: &'static str, text: &str) -> Result<String, PipelineError> {
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
