//! The jobs of a client, past ones included: `/v1/gallery`.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::StatusCode,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Fault,
    auth::Client,
    service::{Found, Service, described},
};

/// Jobs of one page.
const PAGE: usize = 50;

/// Which part of the gallery.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Part {
    before: Option<String>,
    limit: Option<usize>,
}

/// The jobs of the client, newest first.
#[utoipa::path(
    get, path = "/v1/gallery", operation_id = "gallery", tag = "gallery",
    params(
        ("before" = Option<String>, Query, description = "Only jobs that were accepted before this one."),
        ("limit" = Option<usize>, Query, description = "Maximum number of jobs, from 1 to 200; by default 50."),
    ),
    responses(
        (status = 200, description = "The jobs, each like `/v1/jobs/{id}`.", body = super::answers::Gallery),
        (status = 400, description = "A parameter is invalid.", body = super::answers::ErrorBody),
    ),
)]
pub async fn list(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Client>,
    part: Result<Query<Part>, QueryRejection>,
) -> Result<Json<Value>, Fault> {
    let Query(part) = part.map_err(|e| Fault::invalid(e.body_text()))?;
    let limit = part.limit.unwrap_or(PAGE);
    if !(1..=200).contains(&limit) {
        return Err(Fault::field("limit", format!("{limit}: expected 1 to 200")));
    }
    let records = service.list(&client.0, part.before, limit).await?;
    let live = |id: &str| service.board.find(id);
    let jobs: Vec<Value> = records
        .into_iter()
        .map(|record| match live(&record.order.id) {
            Some(live) => described(&service, &Found::Live(live)),
            None => described(&service, &Found::Ended(Box::new(record))),
        })
        .collect();
    Ok(Json(json!({ "jobs": jobs })))
}

/// Deletes a job that has ended, with its results.
#[utoipa::path(
    delete, path = "/v1/gallery/{id}", operation_id = "delete_job", tag = "gallery", params(("id" = String, Path, description = "The job.")),
    responses(
        (status = 204, description = "It is deleted."),
        (status = 404, description = "There is no such job.", body = super::answers::ErrorBody),
        (status = 409, description = "It has not ended.", body = super::answers::ErrorBody),
    ),
)]
pub async fn remove(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
) -> Result<StatusCode, Fault> {
    service.delete(&client.0, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
