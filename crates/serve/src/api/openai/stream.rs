//! A job as OpenAI's events: partial images, then the images.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::response::{
    IntoResponse, Response,
    sse::{self, KeepAlive, Sse},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::stream;
use serde_json::{Value, json};

use super::{Asked, bytes, usage};
use crate::{
    Fault,
    feed::{self, Kind},
    formats::packed,
    service::Service,
    waiter::Waiter,
};

/// A stream that is being sent.
struct Sending {
    service: Arc<Service>,
    asked: Asked,
    /// `None` once the job has ended.
    waiter: Option<Waiter>,
    ready: VecDeque<(String, Value)>,
}

/// The response with the events.
pub fn response(service: Arc<Service>, waiter: Waiter, asked: Asked) -> Response {
    let sending = Sending { service, asked, waiter: Some(waiter), ready: VecDeque::new() };
    let events = stream::unfold(sending, |mut sending| async move {
        let (name, data) = sending.next().await?;
        let event = sse::Event::default().event(name).data(data.to_string());
        Some((Ok::<_, Infallible>(event), sending))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response()
}

impl Sending {
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let events = self.waiter.as_mut()?.events().await;
            if let Err(fault) = self.take(events).await {
                self.waiter = None;
                let mut error = fault.json();
                error["type"] = "error".into();
                self.ready.push_back(("error".into(), error));
            }
        }
    }

    async fn take(&mut self, events: Result<Vec<feed::Event>, Fault>) -> Result<(), Fault> {
        for event in events? {
            if event.kind == Kind::Preview {
                self.partial(&event)?;
            } else if event.kind.is_last()
                && let Some(waiter) = self.waiter.take()
            {
                let record = waiter.record().await?;
                for (row, _) in &record.results {
                    let content = bytes(&self.service, &record, *row, self.asked.format).await?;
                    let name = format!("{}.completed", self.asked.kind.event());
                    let mut data = self.event(&name, record.order.created, packed(&content), *row);
                    data["usage"] = usage();
                    data["seed"] = record.order.request["seed"].clone();
                    data["ignored"] = json!(self.asked.ignored);
                    self.ready.push_back((name, data));
                }
            }
        }
        Ok(())
    }

    fn partial(&mut self, event: &feed::Event) -> Result<(), Fault> {
        let preview: Value = serde_json::from_str(&event.data).map_err(|e| Fault::internal(e.to_string()))?;
        // Previews that somebody else wanted have no number.
        let Some(index) = preview.get("partial_image_index") else { return Ok(()) };
        let png =
            preview["b64_json"].as_str().and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
        let content = packed(&self.asked.format.of_png(png)?);
        let name = format!("{}.partial_image", self.asked.kind.event());
        let row = preview["image"].as_u64().unwrap_or(0) as usize;
        let mut data = self.event(&name, crate::live::now(), content, row);
        data["partial_image_index"] = index.clone();
        data["step"] = preview["step"].clone();
        self.ready.push_back((name, data));
        Ok(())
    }

    fn event(&self, name: &str, at: u64, content: String, row: usize) -> Value {
        json!({
            "type": name, "b64_json": content, "created_at": at / 1000, "size": self.asked.size(), "quality": "auto",
            "background": "opaque", "output_format": self.asked.format.name(), "image": row,
        })
    }
}
