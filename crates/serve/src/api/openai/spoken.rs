//! The sound of a text while it is made: its samples as they are, or OpenAI's events.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::header,
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
};
use futures_util::stream;
use serde_json::{Value, json};
use tweedie_media::wav_start;

use super::usage;
use crate::{Fault, formats::packed, journal::Record, waiter::Waiter};

/// How a sound is sent while it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamFormat {
    /// As it is.
    Audio,
    /// In events.
    Events,
}

/// A sound that is being sent.
struct Sending {
    waiter: Waiter,
    /// Whether nothing follows.
    over: bool,
    /// Bytes of the values that were sent.
    sent: usize,
    /// Whether a WAV header goes before them.
    header: bool,
}

impl Sending {
    /// The next part of the sound; `None` at its end.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        if self.over {
            return Ok(None);
        }
        loop {
            // Asked before, so that nothing is missed that comes in between.
            let outcome = self.waiter.outcome();
            let heard = self.waiter.heard(self.sent);
            if !heard.values.is_empty() {
                self.sent += heard.values.len();
                let mut bytes = Vec::new();
                if std::mem::take(&mut self.header) {
                    let start = wav_start(heard.channels, heard.rate);
                    bytes = start.ok_or_else(|| Fault::internal("the sound has too many channels"))?;
                }
                bytes.extend(heard.values);
                return Ok(Some(bytes));
            }
            if let Some(outcome) = outcome {
                self.over = true;
                return outcome.map(|()| None);
            }
            self.waiter.events().await?;
        }
    }
}

/// The response, once the first part of the sound is there; or the job at its end, if its sound is not made in parts.
///
/// # Errors
/// Why the job has failed before.
pub async fn response(
    waiter: Waiter,
    raw: bool,
    format: StreamFormat,
) -> Result<Result<Response, Record>, Fault> {
    let mut sending = Sending { waiter, over: false, sent: 0, header: !raw };
    let Some(first) = sending.next().await? else { return Ok(Err(sending.waiter.record().await?)) };
    Ok(Ok(of_parts(first, sending, raw, format)))
}

fn of_parts(first: Vec<u8>, sending: Sending, raw: bool, format: StreamFormat) -> Response {
    match format {
        StreamFormat::Audio => {
            let kind = if raw { "audio/pcm" } else { "audio/wav" };
            let parts = stream::unfold((Some(first), sending), |(first, mut sending)| async move {
                let part = match first {
                    Some(first) => Ok(Some(first)),
                    None => sending.next().await,
                };
                // A connection that breaks off tells that the sound is not whole.
                let part = part.map_err(|fault| std::io::Error::other(fault.message)).transpose()?;
                sending.over |= part.is_err();
                Some((part.map(Bytes::from), (None, sending)))
            });
            ([(header::CONTENT_TYPE, kind)], Body::from_stream(parts)).into_response()
        }
        StreamFormat::Events => {
            let ready = VecDeque::from([delta(&first)]);
            let events = stream::unfold((ready, sending), |(mut ready, mut sending)| async move {
                if ready.is_empty() && !sending.over {
                    ready.push_back(match sending.next().await {
                        Ok(Some(part)) => delta(&part),
                        Ok(None) => done(),
                        Err(fault) => {
                            sending.over = true;
                            let mut error = fault.json();
                            error["type"] = "error".into();
                            error
                        }
                    });
                }
                Some((Ok::<_, Infallible>(event(&ready.pop_front()?)), (ready, sending)))
            });
            Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response()
        }
    }
}

/// The events of a sound that was made before.
pub fn at_once(sound: &[u8]) -> Response {
    let events = [delta(sound), done()].map(|data| Ok::<_, Infallible>(event(&data)));
    Sse::new(stream::iter(events)).into_response()
}

fn delta(part: &[u8]) -> Value {
    json!({ "type": "speech.audio.delta", "audio": packed(part) })
}

fn done() -> Value {
    json!({ "type": "speech.audio.done", "usage": usage() })
}

fn event(data: &Value) -> sse::Event {
    sse::Event::default().event(data["type"].as_str().unwrap_or("error")).data(data.to_string())
}
