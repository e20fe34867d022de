//! OpenAI's speech API: `/v1/audio/speech`, for models that speak.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Request, State},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use serde_json::Value;

use super::{
    asked::{own_fields, refuse},
    key,
    spoken::{self, StreamFormat},
};
use crate::{
    Fault,
    api::body,
    asked::{Fields, random_seed},
    auth::Client,
    formats::pcm,
    service::{Draft, Found, Service, Submitted, blocking},
    waiter::Waiter,
};

/// Fields that tell OpenAI's models what ours have no word for. The header `x-ignored` lists those that were set.
const IGNORED: [&str; 2] = ["instructions", "user"];

/// Speaks a text.
#[utoipa::path(
    post, path = "/v1/audio/speech", tag = "openai",
    request_body(content = super::schema::SpeechRequest, content_type = "application/json"),
    responses(
        (status = 200, description = "The sound; 16-bit samples with `response_format` `pcm`; in events with `stream_format` `sse`.", content((Vec<u8> = "audio/wav"), (Vec<u8> = "audio/pcm"), (super::super::answers::Event = "text/event-stream"))),
        (status = "4XX", description = "The request is invalid, or too much is waiting (429).", body = super::super::answers::ErrorBody),
        (status = 503, description = "The server cannot accept jobs now.", body = super::super::answers::ErrorBody),
    ),
)]
pub async fn speech(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Fault> {
    let mut fields = Fields(body::json(request, body::most(&service)).await?);
    let raw = match fields.text("response_format")?.as_deref() {
        None | Some("wav") => false,
        Some("pcm") => true,
        Some(other) => {
            return Err(Fault::field("response_format", format!("`{other}`: expected `wav` or `pcm`")));
        }
    };
    let asked = fields.text("stream_format")?;
    let format = match asked.as_deref() {
        // Samples are the same bytes in either way.
        None => raw.then_some(StreamFormat::Audio),
        Some("audio") => Some(StreamFormat::Audio),
        Some("sse") => Some(StreamFormat::Events),
        Some(other) => {
            return Err(Fault::field("stream_format", format!("`{other}`: expected `audio` or `sse`")));
        }
    };
    let ignored = fields.ignored(&IGNORED).join(", ");
    let draft = draft(&mut fields)?;
    // The loudness of a whole sound is set at its end.
    let loud = draft.request.get("loudness").is_some_and(|loudness| !loudness.is_null());
    if loud && asked.is_some() {
        return Err(Fault::field("loudness", "needs the whole sound; leave out `stream_format`"));
    }
    let draft = Draft { key: key(&headers), ..draft };
    let Submitted { found, fresh } = service.submit(&client.0, draft).await?;
    let record = match (found, format) {
        (Found::Live(live), Some(format)) if !loud => {
            match spoken::response(Waiter::new(&service, live, fresh, false), raw, format).await? {
                Ok(response) => return Ok(with_ignored(response, &ignored)),
                Err(record) => record,
            }
        }
        (Found::Live(live), _) => Waiter::new(&service, live, fresh, false).record().await?,
        (Found::Ended(record), _) => *record,
    };
    let gone = || Fault::missing("the result was deleted");
    let (_, stored) = record.results.first().ok_or_else(gone)?;
    if stored.ending != "wav" {
        let reason = format!("`{}`: this model does not make sounds", record.order.model);
        return Err(Fault::field("model", reason));
    }
    let path = service.store.result(&stored.sha256, stored.ending).ok_or_else(gone)?;
    let sound = blocking(move || {
        let bytes = std::fs::read(path).map_err(|_| gone())?;
        if raw { pcm(&bytes) } else { Ok(bytes) }
    });
    let kind = if raw { "audio/pcm" } else { "audio/wav" };
    let sound = sound.await??;
    let response = match format {
        Some(StreamFormat::Events) => spoken::at_once(&sound),
        _ => ([(header::CONTENT_TYPE, kind)], sound).into_response(),
    };
    Ok(with_ignored(response, &ignored))
}

fn with_ignored(mut response: Response, names: &str) -> Response {
    if !names.is_empty()
        && let Ok(names) = names.parse()
    {
        response.headers_mut().insert("x-ignored", names);
    }
    response
}

fn draft(fields: &mut Fields) -> Result<Draft, Fault> {
    let text = fields.text("input")?.filter(|text| !text.trim().is_empty());
    let text = text.ok_or_else(|| Fault::field("input", "missing: expected a text"))?;
    if let Some(speed) = fields.number("speed")?.filter(|speed| *speed != 1.0) {
        return Err(Fault::field("speed", format!("{speed}: these models speak at one speed, 1")));
    }
    refuse(fields, "prompt", "use `input`")?;
    refuse(fields, "count", "the answer is one sound")?;
    let model = fields.text("model")?.filter(|model| !model.is_empty());
    let voice = fields.text("voice")?.filter(|voice| !voice.is_empty());
    let mut request = serde_json::Map::new();
    own_fields(&mut request, fields)?;
    request.insert("prompt".into(), text.into());
    if let Some(voice) = voice {
        request.insert("voice".into(), voice.into());
    }
    request.entry("seed").or_insert_with(|| Value::from(random_seed()));
    Ok(Draft { model, request, ..Draft::default() })
}
