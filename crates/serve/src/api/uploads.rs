//! Files that requests refer to: `/v1/uploads`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::body;
use crate::{
    Fault,
    service::{Service, blocking},
};

/// Stores a file. A request refers to it by `{"sha256": "…"}`; without one, it is deleted after a day.
#[utoipa::path(
    post, path = "/v1/uploads", operation_id = "upload", tag = "files",
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "It is stored.", body = super::answers::Uploaded,
            links(("file" = (operation_id = "uploaded", parameters(("sha256" = "$response.body#/sha256")))))),
        (status = "4XX", description = "It is empty or too large.", body = super::answers::ErrorBody),
    ),
)]
pub async fn create(
    State(service): State<Arc<Service>>,
    request: Request,
) -> Result<(StatusCode, Json<Value>), Fault> {
    let bytes = body::bytes(request.into_body(), body::most(&service)).await?;
    if bytes.is_empty() {
        return Err(Fault::invalid("the body is empty, expected a file"));
    }
    let length = bytes.len();
    let hash = service.upload(bytes).await?;
    Ok((StatusCode::CREATED, Json(json!({ "sha256": hash, "bytes": length }))))
}

/// An upload, or a result. What it is, its reader must know.
#[utoipa::path(
    get, path = "/v1/uploads/{sha256}", operation_id = "uploaded", tag = "files",
    params(("sha256" = String, Path, description = "The SHA-256 of its content.")),
    responses(
        (status = 200, description = "The file.", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 404, description = "There is no such file.", body = super::answers::ErrorBody),
    ),
)]
pub async fn show(
    State(service): State<Arc<Service>>,
    Path(sha256): Path<String>,
) -> Result<Response, Fault> {
    let missing = || Fault::missing(format!("no uploaded file or result has the SHA-256 `{sha256}`"));
    let path = service.store.of_clients(&sha256).ok_or_else(missing)?;
    let bytes = blocking(move || std::fs::read(path)).await?.map_err(|_| missing())?;
    let headers =
        [(header::CONTENT_TYPE, "application/octet-stream"), (header::CONTENT_DISPOSITION, "attachment")];
    Ok((headers, bytes).into_response())
}
