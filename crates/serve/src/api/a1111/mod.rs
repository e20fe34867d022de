//! The API of AUTOMATIC1111's Stable Diffusion web UI, `/sdapi/v1/…`, for programs that know it.
//!
//! Every image is a job of its own with its own seed, as its users expect; jobs share calls of the network anyway. Progress,
//! interruption and the selected model belong to a client, not to the whole server.

mod asked;
mod extras;
mod images;
mod menus;
pub mod schema;
mod tasks;

use std::sync::{Arc, Mutex};

use axum::{
    Extension, Json, Router,
    extract::{Query, Request, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use self::{asked::Asked, tasks::Tasks};
use super::body;
use crate::{
    Fault,
    asked::Fields,
    auth::Client,
    service::{Draft, Found, Service},
    waiter::Waiter,
};

/// What the handlers share.
#[derive(Clone)]
struct Web {
    service: Arc<Service>,
    tasks: Arc<Mutex<Tasks>>,
}

/// A fault in the form that its clients expect.
struct Refusal(Fault);

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self(fault)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(fault) = self;
        // A field at fault has the status 422 there.
        let status =
            if fault.code == "invalid_value" { StatusCode::UNPROCESSABLE_ENTITY } else { fault.status };
        let json =
            json!({ "error": fault.code, "detail": fault.message, "body": "", "errors": fault.message });
        let mut response = fault.into_response();
        let (head, _) = std::mem::take(&mut response).into_parts();
        let mut response = (status, Json(json)).into_response();
        for (name, value) in &head.headers {
            response.headers_mut().entry(name).or_insert_with(|| value.clone());
        }
        response
    }
}

/// All of its routes.
pub fn router(service: Arc<Service>) -> Router<Arc<Service>> {
    let web = Web { service, tasks: Arc::default() };
    Router::new()
        .route("/txt2img", post(txt2img))
        .route("/img2img", post(img2img))
        .route("/extra-single-image", post(extras::extra))
        .route("/png-info", post(images::png_info))
        .route("/progress", get(progress))
        .route("/interrupt", post(interrupt))
        .route("/skip", post(skip))
        .route("/options", get(options).post(set_options))
        .merge(menus::router())
        .with_state(web)
}

async fn txt2img(
    State(web): State<Web>,
    Extension(client): Extension<Client>,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    make(&web, &client, request, false).await
}

async fn img2img(
    State(web): State<Web>,
    Extension(client): Extension<Client>,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    make(&web, &client, request, true).await
}

async fn make(web: &Web, client: &Client, request: Request, image: bool) -> Result<Json<Value>, Refusal> {
    let fields: Map<String, Value> = body::json(request, body::most(&web.service)).await?;
    let parameters = Value::Object(fields.clone());
    let model = tasks::of(&web.tasks).model(&client.0);
    let asked = Asked::of(&web.service, Fields(fields), model, image).await?;
    let mut waiters = Vec::new();
    // If one is rejected, the others are dropped, which cancels them.
    for request in &asked.requests {
        let draft = Draft { model: asked.model.clone(), request: request.clone(), ..Draft::default() };
        let Found::Live(live) = web.service.submit(&client.0, draft).await?.found else { continue };
        tasks::of(&web.tasks).add(&client.0, &live);
        waiters.push(Waiter::new(&web.service, live, true, false));
    }
    let mut records = Vec::new();
    let mut interrupted = false;
    for waiter in waiters {
        match waiter.record().await {
            Ok(record) => records.push(record),
            // What is there is returned, as there.
            Err(fault) if fault.code == "cancelled" => interrupted = true,
            Err(fault) => return Err(fault.into()),
        }
    }
    let mut answer = images::answer(&web.service, &asked, &records, interrupted).await?;
    answer["parameters"] = parameters;
    Ok(Json(answer))
}

/// Whether an image of the denoising is wanted.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Wanted {
    skip_current_image: bool,
}

async fn progress(
    State(web): State<Web>,
    Extension(client): Extension<Client>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Value>, Refusal> {
    let Query(wanted) = wanted.map_err(|e| Fault::invalid(e.body_text()))?;
    let jobs = tasks::of(&web.tasks).present(&client.0);
    let (mut step, mut steps, mut left) = (0, 0, 0.0f64);
    for live in &jobs {
        let progress = live.progress();
        step += progress.step;
        steps += progress.steps.max(1);
        left = left.max(progress.left.unwrap_or(0.0));
    }
    let first = jobs.first();
    let image = first.filter(|_| !wanted.skip_current_image).and_then(|live| live.feed.preview());
    let image = image.and_then(|event| serde_json::from_str::<Value>(&event.data).ok());
    let now = first.map(|live| live.progress());
    Ok(Json(json!({
        "progress": if steps == 0 { 0.0 } else { step as f64 / steps as f64 },
        "eta_relative": left,
        "state": {
            "skipped": false, "interrupted": false, "stopping_generation": false,
            "job": first.map_or("", |live| live.order.id.as_str()), "job_count": jobs.len(), "job_no": 0,
            "job_timestamp": first.map_or(0, |live| live.order.created).to_string(),
            "sampling_step": now.map_or(0, |p| p.step), "sampling_steps": now.map_or(0, |p| p.steps),
        },
        "current_image": image.map(|image| image["b64_json"].clone()),
        "textinfo": null,
    })))
}

async fn interrupt(State(web): State<Web>, Extension(client): Extension<Client>) -> Json<Value> {
    let jobs = tasks::of(&web.tasks).present(&client.0);
    jobs.iter().for_each(|live| web.service.drop_job(live));
    Json(json!({}))
}

async fn skip(State(web): State<Web>, Extension(client): Extension<Client>) -> Json<Value> {
    let jobs = tasks::of(&web.tasks).present(&client.0);
    jobs.iter().take(1).for_each(|live| web.service.drop_job(live));
    Json(json!({}))
}

async fn options(State(web): State<Web>, Extension(client): Extension<Client>) -> Json<Value> {
    let model = tasks::of(&web.tasks).model(&client.0);
    let model = model.or_else(|| web.service.desk.offers().first().map(|offer| offer.name.clone()));
    Json(json!({
        "sd_model_checkpoint": model, "sd_checkpoint_hash": "", "sd_vae": "Automatic", "samples_format": "png",
        "CLIP_stop_at_last_layers": 1, "live_previews_enable": true,
    }))
}

async fn set_options(
    State(web): State<Web>,
    Extension(client): Extension<Client>,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    let mut fields = Fields(body::json(request, body::most(&web.service)).await?);
    if let Some(model) = fields.text("sd_model_checkpoint")? {
        web.service.desk.find(Some(&model))?;
        tasks::of(&web.tasks).select(&client.0, model);
    }
    if let Some((name, _)) = fields.0.iter().next() {
        return Err(Fault::field(name, "this server only has the option `sd_model_checkpoint`").into());
    }
    Ok(Json(Value::Null))
}
