//! The models and what they take: `/v1/models`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
};
use serde_json::{Value, json};
use tweedie_core::{solver::SOLVERS, spacing::SPACINGS};
use tweedie_pipe::{Pipeline, Request};

use crate::{Fault, desk::Offer, service::Service, store::Part};

/// The models, in the form of OpenAI's API.
#[utoipa::path(
    get, path = "/v1/models", operation_id = "models", tag = "models",
    responses((status = 200, description = "The models.", body = super::answers::Models,
            links(("facts" = (operation_id = "model", parameters(("name" = "$response.body#/data/0/id"))))))),
)]
pub async fn list(State(service): State<Arc<Service>>) -> Json<Value> {
    let loaded = service.desk.loaded();
    let models: Vec<Value> =
        service.desk.offers().iter().map(|offer| model(offer, loaded.contains(&offer.name))).collect();
    Json(json!({ "object": "list", "data": models }))
}

fn model(Offer { name, about, enlarges }: &Offer, loaded: bool) -> Value {
    json!({ "id": name, "object": "model", "created": 0, "owned_by": "tweedie", "about": about,
            "enlarges": enlarges, "loaded": loaded })
}

/// What a model takes. Loads it.
#[utoipa::path(
    get, path = "/v1/models/{name}", operation_id = "model", tag = "models", params(("name" = String, Path, description = "The model.")),
    responses(
        (status = 200, description = "Its conditions, sizes and defaults.", body = super::answers::ModelFacts),
        (status = 404, description = "There is no such model.", body = super::answers::ErrorBody),
    ),
)]
pub async fn show(
    State(service): State<Arc<Service>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Fault> {
    let number = service.desk.find(Some(&name))?;
    let mut json = service.desk.ask(number, facts).await?;
    if let Some(offer) = service.desk.offers().get(number)
        && let (Some(all), Value::Object(own)) = (json.as_object_mut(), model(offer, true))
    {
        all.extend(own);
    }
    Ok(Json(json))
}

/// What a page or program needs to know to ask a model for something.
fn facts(pipeline: &Pipeline) -> Value {
    let (spec, extras, classes) = (pipeline.network().spec(), pipeline.extras(), pipeline.classes());
    let model = pipeline.model();
    let sampling = Request::default().sampling(&extras.sampling);
    let null = model.null_class();
    let names = |count: usize| -> Vec<Value> {
        let name = |i: usize| classes.names.get(i).cloned().unwrap_or_else(|| i.to_string());
        (0..count).filter(|i| Some(*i) != null).map(|i| json!({ "number": i, "name": name(i) })).collect()
    };
    // Models that enlarge, and those of several stages, do not change images.
    let changes = pipeline.axes() == 2 && model.small.is_none() && model.unclip.is_none();
    json!({
        "network": spec.class,
        "prompts": pipeline.reads_texts(),
        "classes": names(if spec.classes.count.is_some() { classes.count } else { 0 }),
        "guided": pipeline.reads_texts() || null.is_some() || spec.takes_guidance,
        "medium": match pipeline.axes() { 1 => "audio", 2 => "image", _ => "clip" },
        "changes": changes,
        "animates": model.picture.is_some(),
        "restores": changes && model.codec.is_none(),
        "voices": extras.speech.as_ref().map(|speech| &*speech.voices).unwrap_or_default(),
        "words": extras.speech.as_ref().map(|speech| &*speech.words).unwrap_or_default(),
        "null_class": model.null_class(),
        "controls": model.controls.len(),
        "size": pipeline.native_size(),
        "result_size": pipeline.result_size(),
        "fixed_size": spec.fixed,
        "defaults": {
            "steps": sampling.steps,
            "solver": sampling.solver,
            "guidance": extras.sampling.guidance.unwrap_or(model.kind.guidance),
        },
        "learned_samplers": extras.tuned.iter()
            .map(|t| json!({ "steps": t.sampler.evaluations(), "guidance": t.guidance })).collect::<Vec<_>>(),
    })
}

/// The limits of this server, its solvers and spacings.
#[utoipa::path(
    get, path = "/v1/limits", tag = "models",
    responses((status = 200, description = "Limits, solvers and spacings.", body = Object)),
)]
pub async fn limits(State(service): State<Arc<Service>>) -> Json<Value> {
    let limits = &service.config.limits;
    let solvers: Vec<Value> = SOLVERS
        .iter()
        .map(|s| {
            json!({ "name": s.name, "aliases": s.aliases, "summary": s.summary, "order": s.order,
                         "evaluations": s.evaluations, "deterministic": s.is_deterministic() })
        })
        .collect();
    let names = |part| service.store.named(part).map(|named| named.name.as_str()).collect::<Vec<_>>();
    Json(json!({
        "count": limits.count, "steps": limits.steps, "pixels": limits.pixels, "body": limits.body,
        "jobs": limits.jobs, "queue": limits.queue, "seconds": limits.seconds,
        "loras": names(Part::Lora), "controlnets": names(Part::ControlNet),
        "solvers": solvers, "spacings": SPACINGS.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
    }))
}
