//! The events of a job as server-sent events.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{Path, Query, State},
    http::HeaderMap,
    response::sse::{self, KeepAlive, Sse},
};
use futures_util::stream::{self, Stream};
use serde::Deserialize;

use crate::{
    Fault,
    auth::Client,
    feed::{Event, Reader},
    service::{Found, Service, described},
};

/// How often an empty line keeps an idle connection open.
const ALIVE: Duration = Duration::from_secs(15);

/// What a reader of events wants.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wanted {
    /// Whether previews are sent.
    previews: bool,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { previews: true }
    }
}

/// The events of a job as they happen: `queued`, `step`, `preview`, `sound`, `image`, `finished`, `failed`, `cancelled`.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/events", operation_id = "events", tag = "jobs",
    params(
        ("id" = String, Path, description = "The job."),
        ("previews" = Option<bool>, Query, description = "Whether images of the denoising are sent."),
        ("Last-Event-ID" = Option<String>, Header, description = "Events after this one are sent."),
    ),
    responses(
        (status = 200, description = "Server-sent events until the job ends.", content_type = "text/event-stream", body = super::answers::Event),
        (status = 400, description = "A parameter is invalid.", body = super::answers::ErrorBody),
        (status = 404, description = "There is no such job.", body = super::answers::ErrorBody),
    ),
)]
pub async fn stream(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
    wanted: Result<Query<Wanted>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Fault> {
    let Query(wanted) = wanted.map_err(|e| Fault::invalid(e.body_text()))?;
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let run = service.run.clone();
    // Numbers of an earlier run mean nothing in this one.
    let seen = last.strip_prefix(&*run).and_then(|rest| rest.strip_prefix('-')?.parse().ok()).unwrap_or(0);
    let source = match service.find(&client.0, &id).await? {
        Found::Live(live) => Source::Feed(Reader::new(&live.feed, seen, wanted.previews)),
        found @ Found::Ended(_) => Source::Only(Some(Box::new(described(&service, &found)))),
    };
    let events =
        stream::unfold((source, Vec::new()), move |(mut source, mut ready): (Source, Vec<Event>)| {
            let run = run.clone();
            async move {
                if ready.is_empty() {
                    ready = match &mut source {
                        Source::Feed(reader) => reader.next().await,
                        Source::Only(found) => {
                            let found = found.take()?;
                            let name = found["state"].as_str().unwrap_or("failed").to_owned();
                            let event = sse::Event::default()
                                .event(name)
                                .id(format!("{run}-end"))
                                .data(found.to_string());
                            return Some((Ok(event), (Source::Over, Vec::new())));
                        }
                        Source::Over => return None,
                    };
                    ready.reverse();
                }
                let event = ready.pop()?;
                if event.kind.is_last() {
                    (source, ready) = (Source::Over, Vec::new());
                }
                let sent = sse::Event::default()
                    .event(event.kind.name())
                    .id(format!("{run}-{}", event.id))
                    .data(&*event.data);
                Some((Ok(sent), (source, ready)))
            }
        });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE)))
}

/// Where events come from.
enum Source {
    /// A job that has not ended.
    Feed(Reader),
    /// A job that has ended: one event.
    Only(Option<Box<serde_json::Value>>),
    /// Nothing follows.
    Over,
}
