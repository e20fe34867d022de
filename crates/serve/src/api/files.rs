//! Results: `/v1/files/SHA256.ENDING`. Their names are unguessable, so whoever has a name may read the file.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{
    Fault,
    formats::Format,
    service::{Service, blocking},
};

/// A result.
#[utoipa::path(
    get, path = "/v1/files/{name}", tag = "files",
    params(("name" = String, Path, description = "SHA-256 of the content and an ending: `….png` or `….wav`. `.webp` and `.jpeg` convert the PNG.")),
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
    // Other formats are made from the stored PNG.
    let format = Format::named(ending).filter(|format| *format != Format::Png);
    let found = service.store.result(hash, if format.is_some() { "png" } else { ending });
    let path = found.ok_or_else(|| Fault::missing(format!("there is no file `{name}`")))?;
    let tag = format!("\"{name}\"");
    if headers.get(header::IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == tag.as_bytes()) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    let kind = match format {
        Some(format) => format!("image/{}", format.name()),
        None if ending == "wav" => "audio/wav".to_owned(),
        None => "image/png".to_owned(),
    };
    let read = move || {
        let bytes = std::fs::read(path).map_err(|_| Fault::missing(format!("there is no file `{name}`")))?;
        format.unwrap_or_default().of_png(bytes)
    };
    let bytes = blocking(read).await??;
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "private, max-age=31536000, immutable".to_owned()),
        (header::ETAG, tag),
    ];
    Ok((headers, bytes).into_response())
}
