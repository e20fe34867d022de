//! Reads bodies: within a limit and a time, as JSON or as a form with files.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, Multipart, Request},
    http::{HeaderMap, StatusCode, header},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Fault, service::Service};

/// How long a client may take to send a body.
const PATIENCE: Duration = Duration::from_secs(60);
/// Maximum number of parts of a form.
const PARTS: usize = 32;

/// The whole body.
///
/// # Errors
/// If it is longer than `most`, comes too slowly or ends early.
pub async fn bytes(body: Body, most: usize) -> Result<Bytes, Fault> {
    let read = axum::body::to_bytes(body, most);
    match tokio::time::timeout(PATIENCE, read).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(e)) if is_limit(&e) => Err(Fault::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("the body has more than {most} bytes, the maximum"),
        )),
        Ok(Err(_)) => Err(Fault::invalid("the body is incomplete")),
        Err(_) => Err(Fault::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the body took too long to arrive")),
    }
}

fn is_limit(error: &axum::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.to_string().contains("length limit exceeded") {
            return true;
        }
        cause = error.source();
    }
    false
}

fn content_type(headers: &HeaderMap) -> &str {
    headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Whether the body is a form with files.
pub fn is_form(headers: &HeaderMap) -> bool {
    content_type(headers).trim_start().to_ascii_lowercase().starts_with("multipart/form-data")
}

/// The body as JSON.
///
/// # Errors
/// If its type is another one, or the JSON is invalid.
pub async fn json<T: DeserializeOwned>(request: Request, most: usize) -> Result<T, Fault> {
    let kind = content_type(request.headers());
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence != "application/json" && !(essence.starts_with("application/") && essence.ends_with("+json")) {
        return Err(Fault::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            format!("`Content-Type` is `{kind}`, expected `application/json`"),
        ));
    }
    let bytes = bytes(request.into_body(), most).await?;
    parse(&bytes)
}

/// JSON from bytes.
///
/// # Errors
/// If it is invalid.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(bytes).map_err(|e| Fault::invalid(format!("the JSON is invalid: {e}")))
}

/// A form: texts by name, and files by name.
#[derive(Debug, Default)]
pub struct Form {
    /// Parts without a file name.
    pub texts: Map<String, Value>,
    /// Parts with a file name, in order.
    pub files: Vec<(String, Bytes)>,
}

/// The body as a form.
///
/// # Errors
/// If it is none, or has two texts of one name.
pub async fn form(request: Request, most: usize) -> Result<Form, Fault> {
    let (head, body) = request.into_parts();
    let bytes = bytes(body, most).await?;
    let request = Request::from_parts(head, Body::from(bytes));
    let wrong = |e: String| Fault::invalid(format!("the form is invalid: {e}"));
    // The body has the right length already.
    let request = axum::RequestExt::with_limited_body(request).map(Body::new);
    let mut parts = Multipart::from_request(request, &()).await.map_err(|e| wrong(e.body_text()))?;
    let mut form = Form::default();
    while let Some(part) = parts.next_field().await.map_err(|e| wrong(e.body_text()))? {
        if form.texts.len() + form.files.len() >= PARTS {
            return Err(Fault::invalid(format!("the form has more than {PARTS} parts")));
        }
        let name = part.name().map(str::to_owned).ok_or_else(|| wrong("a part has no name".into()))?;
        if part.file_name().is_some() {
            form.files.push((name, part.bytes().await.map_err(|e| wrong(e.body_text()))?));
        } else {
            let text = part.text().await.map_err(|e| wrong(e.body_text()))?;
            if form.texts.insert(name.clone(), text.into()).is_some() {
                return Err(Fault::field(&name, "the form has it twice"));
            }
        }
    }
    Ok(form)
}

/// The limit of bodies.
pub fn most(service: &Service) -> usize {
    service.config.limits.body
}
