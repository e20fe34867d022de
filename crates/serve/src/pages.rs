//! The web studio: its files are part of the binary.

use axum::{
    extract::Path,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{Fault, store::hash};

/// Names, types and contents.
const FILES: [(&str, &str, &str); 11] = [
    ("index.html", "text/html; charset=utf-8", include_str!("../studio/index.html")),
    ("style.css", "text/css; charset=utf-8", include_str!("../studio/style.css")),
    ("icon.svg", "image/svg+xml", include_str!("../studio/icon.svg")),
    ("app.js", SCRIPT, include_str!("../studio/app.js")),
    ("api.js", SCRIPT, include_str!("../studio/api.js")),
    ("form.js", SCRIPT, include_str!("../studio/form.js")),
    ("control.js", SCRIPT, include_str!("../studio/control.js")),
    ("job.js", SCRIPT, include_str!("../studio/job.js")),
    ("gallery.js", SCRIPT, include_str!("../studio/gallery.js")),
    ("mask.js", SCRIPT, include_str!("../studio/mask.js")),
    ("compare.js", SCRIPT, include_str!("../studio/compare.js")),
];
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The page.
pub async fn index(headers: HeaderMap) -> Result<Response, Fault> {
    file(Path("index.html".into()), headers).await
}

/// A file of the page.
pub async fn file(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, Fault> {
    let found = FILES.iter().find(|(own, ..)| *own == name);
    let (_, kind, content) = found.ok_or_else(|| Fault::missing(format!("there is no `/studio/{name}`")))?;
    let tag = format!("\"{}\"", &hash(content.as_bytes())[..32]);
    if headers.get(header::IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == tag.as_bytes()) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    let headers = [
        (header::CONTENT_TYPE, (*kind).to_owned()),
        (header::ETAG, tag),
        (header::CACHE_CONTROL, "no-cache".into()),
    ];
    Ok((headers, *content).into_response())
}
