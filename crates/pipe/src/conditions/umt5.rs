//! Prompts of Wan's pipelines, which UMT5 reads.

use burn::tensor::Tensor;
use tweedie_hub::{Umt5, model::TEXTS};
use tweedie_models::{Conditions, Entry, ExecContext, conditions::TEXT, params::non_finite};
use tweedie_ops::to_host;

use super::{Asked, Part, sounds::plain};
use crate::{PipelineError, error::broken, guidance::check_unused};

/// The texts of all clips.
pub(super) fn of_texts(asked: &Asked<'_>, reader: &Umt5) -> Result<Part, PipelineError> {
    let request = asked.request;
    check_unused(
        "this model of clips does not support it",
        &[
            ("prompt_weights", request.prompt_weights.is_some()),
            ("clip_skip", request.clip_skip.is_some()),
            ("aesthetic_score", request.aesthetic_score.is_some()),
            ("negative_aesthetic_score", request.negative_aesthetic_score.is_some()),
        ],
    )?;
    let prompts = request.prompts.iter().take(request.count.get());
    let given = prompts.map(|text| features(reader, "prompt", text)).collect::<Result<_, _>>()?;
    let negative = request.negative_prompt.as_deref().unwrap_or_default();
    let null = asked.guided.then(|| features(reader, "negative_prompt", negative)).transpose()?;
    Ok(Part { given, null: null.map(|null| vec![null]) })
}

/// The features of a text's tokens, filled up with zeros. Like in diffusers, white space is one space.
fn features(reader: &Umt5, field: &'static str, text: &str) -> Result<Conditions, PipelineError> {
    let fail = |reason: String| PipelineError::request(field, reason);
    let Umt5 { tokenizer, encoder } = reader;
    let text = plain(field, text)?.split_whitespace().collect::<Vec<_>>().join(" ");
    let (tokens, most) = (tokenizer.encode(&text), tokenizer.length());
    if tokens.len() > most {
        return Err(fail(format!("the text has {} tokens, expected at most {most}", tokens.len())));
    }
    let context = ExecContext { once: true, ..ExecContext::default() };
    let hidden = context.run(|| encoder.encode(&tokens)).map_err(|e| fail(e.to_string()))?;
    if !to_host(hidden.clone()).iter().all(|v| v.is_finite()) {
        return Err(broken(TEXTS[0].0, non_finite(&**encoder)));
    }
    let [_, used, width] = hidden.dims();
    let hidden = match most - used {
        0 => hidden,
        rest => Tensor::cat(vec![hidden.clone(), Tensor::zeros([1, rest, width], &hidden.device())], 1),
    };
    Ok(Conditions::none().with(TEXT, Entry::Tokens(hidden)))
}
