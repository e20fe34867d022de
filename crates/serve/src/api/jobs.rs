//! Jobs: `/v1/jobs`.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::body;
use crate::{
    Fault,
    auth::Client,
    order::Priority,
    service::{Draft, Found, Service, Submitted, described},
};

/// The settings of a job beside its request.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Settings {
    model: Option<String>,
    priority: Priority,
    deadline: Option<f64>,
    #[serde(flatten)]
    request: Map<String, Value>,
}

/// Accepts a job.
#[utoipa::path(
    post, path = "/v1/jobs", operation_id = "create_job", tag = "jobs",
    request_body(content(
        (super::schema::JobRequest = "application/json"),
        (super::schema::JobForm = "multipart/form-data"),
    )),
    params(("Idempotency-Key" = Option<String>, Header, description = "A repeated request with the same key returns the first job.")),
    responses(
        (status = 202, description = "The job was accepted: it will be finished even if the server is killed.", body = super::answers::JobState,
            links(
                ("state" = (operation_id = "job", parameters(("id" = "$response.body#/id")))),
                ("events" = (operation_id = "events", parameters(("id" = "$response.body#/id")))),
                ("cancel" = (operation_id = "cancel_job", parameters(("id" = "$response.body#/id")))),
                ("delete" = (operation_id = "delete_job", parameters(("id" = "$response.body#/id")))),
            )),
        (status = 200, description = "The job was accepted before, under this Idempotency-Key.", body = super::answers::JobState),
        (status = "4XX", description = "The request is invalid, or too much is waiting (429).", body = super::answers::ErrorBody),
        (status = 503, description = "The server cannot accept jobs now.", body = super::answers::ErrorBody),
    ),
)]
pub async fn create(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Fault> {
    let most = body::most(&service);
    let settings = if body::is_form(&headers) {
        let mut form = body::form(request, most).await?;
        let text = form.texts.remove("request");
        if let Some((name, _)) = form.texts.iter().next() {
            return Err(Fault::field(name, "unknown text in the form; put it into the JSON of `request`"));
        }
        let text = text.as_ref().and_then(Value::as_str).unwrap_or("{}");
        let mut settings: Settings = body::parse(text.as_bytes())?;
        for (name, bytes) in form.files {
            let hash = service.upload(bytes).await?;
            if settings.request.insert(name.clone(), json!({ "sha256": hash })).is_some() {
                return Err(Fault::field(&name, "the form has it twice"));
            }
        }
        settings
    } else {
        body::json(request, most).await?
    };
    let Settings { model, priority, deadline, request } = settings;
    let key = headers.get("idempotency-key").map(|key| String::from_utf8_lossy(key.as_bytes()).into_owned());
    let draft = Draft { model, request, priority, seconds: deadline, partials: 0, key };
    let Submitted { found, fresh } = service.submit(&client.0, draft).await?;
    let json = described(&service, &found);
    let status = if fresh { StatusCode::ACCEPTED } else { StatusCode::OK };
    let mut response = (status, Json(&json)).into_response();
    if let Some(place) = json["links"]["self"].as_str().and_then(|text| HeaderValue::from_str(text).ok()) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

/// The state of a job.
#[utoipa::path(
    get, path = "/v1/jobs/{id}", operation_id = "job", tag = "jobs", params(("id" = String, Path, description = "The job.")),
    responses(
        (status = 200, description = "Its state, place in the queue, step, and results.", body = super::answers::JobState),
        (status = 404, description = "There is no such job.", body = super::answers::ErrorBody),
    ),
)]
pub async fn show(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Fault> {
    let found = service.find(&client.0, &id).await?;
    Ok(Json(described(&service, &found)))
}

/// Cancels a job, within one step. A job that has ended stays as it is.
#[utoipa::path(
    delete, path = "/v1/jobs/{id}", operation_id = "cancel_job", tag = "jobs", params(("id" = String, Path, description = "The job.")),
    responses(
        (status = 200, description = "It is cancelled, or had ended.", body = super::answers::JobState),
        (status = 404, description = "There is no such job.", body = super::answers::ErrorBody),
    ),
)]
pub async fn cancel(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Fault> {
    let found = service.cancel(&client.0, &id).await?;
    let mut json = described(&service, &found);
    if matches!(found, Found::Live(_)) {
        json["state"] = "cancelled".into();
    }
    Ok(Json(json))
}
