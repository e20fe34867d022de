//! Results: `/v1/files/SHA256.ENDING`. Their names are unguessable, so whoever has a name may read the file.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{
    Fault,
    service::{Service, blocking},
};

/// A result.
#[utoipa::path(
    get, path = "/v1/files/{name}", tag = "files",
    params(("name" = String, Path, description = "SHA-256 of the content and an ending: `….png` or `….wav`.")),
    responses(
        (status = 200, description = "The file. It never changes.", content_type = "image/png", body = Vec<u8>),
        (status = 304, description = "The client has it already."),
        (status = 404, description = "There is no such file.", body = super::description::ErrorBody),
    ),
)]
pub async fn show(
    State(service): State<Arc<Service>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let (hash, ending) = name.rsplit_once('.').unwrap_or((&name, ""));
    let found = service.store.result(hash, ending);
    let path = found.ok_or_else(|| Fault::missing(format!("there is no file `{name}`")))?;
    let tag = format!("\"{hash}\"");
    if headers.get(header::IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == tag.as_bytes()) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    let kind = if ending == "wav" { "audio/wav" } else { "image/png" };
    let read = blocking(move || std::fs::read(path)).await?;
    let bytes = read.map_err(|_| Fault::missing(format!("there is no file `{name}`")))?;
    let headers = [
        (header::CONTENT_TYPE, kind.to_owned()),
        (header::CACHE_CONTROL, "private, max-age=31536000, immutable".to_owned()),
        (header::ETAG, tag),
    ];
    Ok((headers, bytes).into_response())
}
