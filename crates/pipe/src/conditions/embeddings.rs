//! What the decoder of DALL·E 2 reads: the embedding of an image, which the prior samples for the text, and the text.

use std::sync::Arc;

use tweedie_hub::{Model, UnClip};
use tweedie_models::{
    Conditions, Entry, HostTensor,
    conditions::{EMBEDDING, LENGTHS, TEXT},
};
use tweedie_ops::{Tensor, from_host};

use super::{Asked, Part, texts::Features};
use crate::{
    Inputs, PipelineError, Request,
    cascade::{Stage, StageNoise, run, stage},
};

/// The conditions of each image for the texts `given` and, with guidance, `null`.
pub(super) fn of_texts(
    asked: &Asked<'_>,
    (unclip, prior): (&UnClip, &Arc<Model>),
    given: &[Features],
    null: Option<&Features>,
) -> Result<Part, PipelineError> {
    let embeddings = sampled(asked, prior)?;
    let width = embeddings.shape[1];
    let rows = embeddings.values.chunks_exact(width).enumerate();
    let given = rows.map(|(row, values)| {
        let embedding = from_host::<2>(values.to_vec(), [1, width], asked.device);
        projected(unclip, embedding, &given[row % given.len()])
    });
    let null = null.map(|null| projected(unclip, unclip.projection.no_image(), null)).transpose()?;
    Ok(Part { given: given.collect::<Result<_, _>>()?, null: null.map(|null| vec![null]) })
}

pub(super) fn projected(
    unclip: &UnClip,
    image: Tensor<2>,
    text: &Features,
) -> Result<Conditions, PipelineError> {
    let fail = |reason: String| PipelineError::Model { reason };
    let Some(pooled) = text.pooled.clone() else {
        return Err(fail("the text encoder gives no embedding of the text".into()));
    };
    let made = unclip.projection.project(image, pooled, text.hidden.clone());
    let made = made.map_err(|e| fail(e.to_string()))?;
    let length = unclip.projection.config().clip_extra_context_tokens + text.length;
    Ok(Conditions::none()
        .with(TEXT, Entry::Tokens(made.tokens))
        .with(LENGTHS, Entry::Indices(vec![length]))
        .with(EMBEDDING, Entry::Vectors(made.embedding)))
}

/// An embedding for each image, `[count, width]`.
fn sampled(asked: &Asked<'_>, prior: &Arc<Model>) -> Result<HostTensor, PipelineError> {
    let whole = asked.request;
    let request = Request {
        count: whole.count,
        prompts: whole.prompts.clone(),
        negative_prompt: whole.negative_prompt.clone().filter(|text| !text.is_empty() && asked.guided),
        prompt_weights: whole.prompt_weights,
        steps: whole.prior_steps,
        guidance: whole.prior_guidance,
        chunk: whole.chunk,
        ..Request::default()
    };
    let draws = StageNoise { draws: asked.draws.clone(), stage: Stage::Prior, first: 0 };
    let inputs = Inputs { draws: Some(Arc::new(draws)), ..Inputs::default() };
    run(&stage(prior, asked.device, asked.context), &request, inputs).map_err(|e| match e {
        PipelineError::Request { field: "steps", reason } => PipelineError::request("prior_steps", reason),
        PipelineError::Request { field: "guidance", reason } => {
            PipelineError::request("prior_guidance", reason)
        }
        other => other,
    })
}
