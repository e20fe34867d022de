//! Files that requests refer to: `/v1/uploads`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
};
use serde_json::{Value, json};

use super::body;
use crate::{Fault, service::Service};

/// Stores a file. A request refers to it by `{"sha256": "…"}`; without one, it is deleted after a day.
#[utoipa::path(
    post, path = "/v1/uploads", tag = "files",
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "`sha256` and `bytes`.", body = Object),
        (status = "4XX", description = "It is empty or too large.", body = super::description::ErrorBody),
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
