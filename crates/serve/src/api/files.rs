//! Results: `/v1/files/SHA256.ENDING`. Their names are unguessable, so whoever has a name may read the file.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{
    Fault,
    formats::{CLIPS, Format, clip_as, is_clip},
    service::{Service, blocking},
    store::ENDINGS,
};

/// Endings and their types. Files that are not stored are made from the stored PNG.
const TYPES: [(&str, &str); 7] = [
    ("png", "image/png"),
    ("wav", "audio/wav"),
    ("webp", "image/webp"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("gif", "image/gif"),
    ("mp4", "video/mp4"),
];

/// A result.
#[utoipa::path(
    get, path = "/v1/files/{name}", operation_id = "file", tag = "files",
    params(("name" = String, Path, description = "SHA-256 of the content and an ending: `….png` or `….wav`. `.webp` and `.jpeg` convert an image, `.webp`, `.gif` and, where `ffmpeg` is installed, `.mp4` a clip.")),
    responses(
        (status = 200, description = "The file. It never changes.", content(
            (Vec<u8> = "image/png"), (Vec<u8> = "audio/wav"), (Vec<u8> = "image/webp"), (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/gif"), (Vec<u8> = "video/mp4"),
        )),
        (status = 304, description = "The client has it already."),
        (status = 400, description = "The file cannot be converted to this format.", body = super::answers::ErrorBody),
        (status = 404, description = "There is no such file.", body = super::answers::ErrorBody),
    ),
)]
pub async fn show(
    State(service): State<Arc<Service>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let missing = || Fault::missing(format!("there is no file `{name}`"));
    let (hash, ending) = name.rsplit_once('.').unwrap_or((&name, ""));
    let (ending, kind) = *TYPES.iter().find(|(own, _)| *own == ending).ok_or_else(missing)?;
    let is_stored = ENDINGS.contains(&ending);
    let path = service.store.result(hash, if is_stored { ending } else { "png" }).ok_or_else(missing)?;
    let tag = format!("\"{name}\"");
    if headers.get(header::IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == tag.as_bytes()) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    let (store, gone) = (service.store.clone(), missing());
    let read = move || {
        let bytes = std::fs::read(&path).map_err(|_| gone)?;
        match Format::named(ending) {
            _ if is_stored => Ok(bytes),
            _ if is_clip(&bytes) && CLIPS.contains(&ending) => clip_as(ending, &path, &store),
            Some(format) => format.of_png(bytes),
            None => Err(Fault::invalid(format!("`{ending}` is for clips; this is an image"))),
        }
    };
    let bytes = blocking(read).await??;
    let headers = [
        (header::CONTENT_TYPE, kind.to_owned()),
        (header::CACHE_CONTROL, "private, max-age=31536000, immutable".to_owned()),
        (header::ETAG, tag),
    ];
    Ok((headers, bytes).into_response())
}
