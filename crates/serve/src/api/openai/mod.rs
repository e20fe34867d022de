//! OpenAI's image API: `/v1/images/…`, for clients that know it.
//!
//! A request is one job. Further fields of our requests (`seed`, `steps`, `guidance`, `negative_prompt`, `solver` …) may stand
//! beside OpenAI's.

mod asked;
pub mod schema;
mod speech;
mod spoken;
mod stream;
pub mod videos;

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Request, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use self::asked::{Asked, Kind};
pub use self::speech::{__path_speech, speech};
use super::body;
use crate::{
    Fault,
    asked::Fields,
    auth::Client,
    formats::{Format, packed},
    journal::Record,
    scribe::url,
    service::{Draft, Found, Service, Submitted, blocking},
    waiter::Waiter,
};

/// Makes images.
#[utoipa::path(
    post, path = "/v1/images/generations", tag = "openai",
    request_body(content = schema::ImageRequest, content_type = "application/json"),
    responses(
        (status = 200, description = "The images; or events, with `stream`.", content((schema::Images = "application/json"), (super::answers::Event = "text/event-stream"))),
        (status = "4XX", description = "The request is invalid, or too much is waiting (429).", body = super::answers::ErrorBody),
        (status = 503, description = "The server cannot accept jobs now.", body = super::answers::ErrorBody),
    ),
)]
pub async fn generations(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Fault> {
    let fields = Fields(body::json(request, body::most(&service)).await?);
    answer(&service, &client, &headers, fields, Kind::Generation).await
}

/// Changes an image, or the transparent part of a mask.
#[utoipa::path(
    post, path = "/v1/images/edits", tag = "openai",
    request_body(content = schema::ImageForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "As for generations.", content((schema::Images = "application/json"), (super::answers::Event = "text/event-stream"))),
        (status = "4XX", description = "The request is invalid, or too much is waiting (429).", body = super::answers::ErrorBody),
        (status = 503, description = "The server cannot accept jobs now.", body = super::answers::ErrorBody),
    ),
)]
pub async fn edits(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Fault> {
    let fields = uploaded(&service, request).await?;
    answer(&service, &client, &headers, fields, Kind::Edit).await
}

/// Makes variations of an image.
#[utoipa::path(
    post, path = "/v1/images/variations", tag = "openai",
    request_body(content = schema::ImageForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "As for generations.", content((schema::Images = "application/json"), (super::answers::Event = "text/event-stream"))),
        (status = "4XX", description = "The request is invalid, or too much is waiting (429).", body = super::answers::ErrorBody),
        (status = 503, description = "The server cannot accept jobs now.", body = super::answers::ErrorBody),
    ),
)]
pub async fn variations(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Fault> {
    let fields = uploaded(&service, request).await?;
    answer(&service, &client, &headers, fields, Kind::Variation).await
}

/// The fields of a form, with the hashes of its files.
async fn uploaded(service: &Service, request: Request) -> Result<Fields, Fault> {
    let form = body::form(request, body::most(service)).await?;
    let mut fields = Fields(form.texts);
    for (name, bytes) in form.files {
        let name = name.trim_end_matches("[]").to_owned();
        let file = json!({ "sha256": service.upload(bytes).await? });
        if fields.0.insert(name.clone(), file).is_some() {
            return Err(Fault::field(&name, "this server takes one file"));
        }
    }
    Ok(fields)
}

async fn answer(
    service: &Arc<Service>,
    client: &Client,
    headers: &HeaderMap,
    fields: Fields,
    kind: Kind,
) -> Result<Response, Fault> {
    let asked = Asked::of(service, fields, kind).await?;
    let draft = Draft {
        model: asked.model.clone(),
        request: asked.request.clone(),
        partials: asked.partials,
        key: key(headers),
        ..Draft::default()
    };
    let Submitted { found, fresh } = service.submit(&client.0, draft).await?;
    match found {
        Found::Live(live) if asked.stream => {
            let waiter = Waiter::new(service, live, fresh, asked.partials > 0);
            Ok(stream::response(service.clone(), waiter, asked))
        }
        Found::Live(live) => {
            let record = Waiter::new(service, live, fresh, false).record().await?;
            finished(service, headers, &record, &asked).await
        }
        Found::Ended(record) => finished(service, headers, &record, &asked).await,
    }
}

/// The client's own name for a request.
fn key(headers: &HeaderMap) -> Option<String> {
    headers.get("idempotency-key").map(|key| String::from_utf8_lossy(key.as_bytes()).into_owned())
}

async fn finished(
    service: &Arc<Service>,
    headers: &HeaderMap,
    record: &Record,
    asked: &Asked,
) -> Result<Response, Fault> {
    let mut data = Vec::new();
    for (row, stored) in &record.results {
        let mut image = json!({ "image": row });
        if asked.url {
            let path = url(stored);
            let path = match (asked.format, path.strip_suffix(".png")) {
                (Format::Png, _) | (_, None) => path,
                (format, Some(stem)) => format!("{stem}.{}", format.name()),
            };
            image["url"] = format!("{}{path}", origin(headers)).into();
        } else {
            image["b64_json"] = packed(&bytes(service, record, *row, asked.format).await?).into();
        }
        data.push(image);
    }
    Ok(Json(json!({
        "created": record.order.created / 1000, "data": data, "output_format": asked.format.name(),
        "background": "opaque", "quality": "auto", "size": asked.size(), "usage": usage(),
        "seed": record.order.request["seed"], "job": record.order.id, "ignored": asked.ignored,
    }))
    .into_response())
}

/// The content of a result in a format.
async fn bytes(
    service: &Arc<Service>,
    record: &Record,
    row: usize,
    format: Format,
) -> Result<Vec<u8>, Fault> {
    let gone = || Fault::missing("the result was deleted");
    let stored = record.results.iter().find(|(own, _)| *own == row).map(|(_, stored)| stored);
    let stored = stored.ok_or_else(gone)?;
    let path = service.store.result(&stored.sha256, stored.ending).ok_or_else(gone)?;
    blocking(move || format.of_png(std::fs::read(path).map_err(|_| gone())?)).await?
}

/// Where the client has found this server.
fn origin(headers: &HeaderMap) -> String {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let scheme = text("x-forwarded-proto").filter(|scheme| *scheme == "https").unwrap_or("http");
    format!("{scheme}://{}", text("host").unwrap_or("localhost"))
}

/// Clients expect counts of tokens; images have none.
fn usage() -> Value {
    json!({ "input_tokens": 0, "input_tokens_details": { "text_tokens": 0, "image_tokens": 0 },
            "output_tokens": 0, "total_tokens": 0 })
}
