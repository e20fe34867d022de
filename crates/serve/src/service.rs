//! What all APIs do: accept, find, cancel and list jobs.

use std::{
    sync::{Arc, atomic::Ordering, mpsc::Sender},
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};
use tokio::{sync::oneshot, task::spawn_blocking};
use tweedie_pipe::{Job, flight::FlightState};

use crate::{
    Config, Fault,
    desk::{Desk, stopped},
    engine::Message,
    feed::Kind,
    journal::{Accepted, Journal, Record},
    limits::Limiter,
    live::{Board, Live, now},
    metrics::Metrics,
    order::{Order, Priority, State, checked},
    scribe::{Note, delete},
    stop::Stop,
    store::{Store, hash},
};

/// How long a request waits for its check. If its model takes longer to load, it is accepted first and fails later if it is
/// invalid.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a client wants, before it is checked.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// The name of the model; by default the first.
    pub model: Option<String>,
    /// The request.
    pub request: Map<String, Value>,
    /// The priority.
    pub priority: Priority,
    /// Seconds until the job fails.
    pub seconds: Option<f64>,
    /// Number of previews that are made in any case.
    pub partials: usize,
    /// The client's own name for the order.
    pub key: Option<String>,
}

/// A job that was accepted.
pub struct Submitted {
    /// The job.
    pub found: Found,
    /// Whether this request made it, and not an earlier one with the same key.
    pub fresh: bool,
}

/// A job that was found, running or not.
pub enum Found {
    /// It has not ended.
    Live(Arc<Live>),
    /// It has ended.
    Ended(Box<Record>),
}

/// The server's parts.
pub struct Service {
    /// The configuration.
    pub config: Config,
    /// Files.
    pub store: Store,
    /// What was accepted.
    pub journal: Arc<Journal>,
    /// Jobs that have not ended.
    pub board: Arc<Board>,
    /// Models.
    pub desk: Desk,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// The end of the server.
    pub stop: Stop,
    /// The engine.
    pub engine: Sender<Message>,
    /// The scribe.
    pub scribe: Sender<Note>,
    /// The start of the numbers of events: other in every run of the server.
    pub run: Arc<str>,
}

impl Service {
    /// Accepts a job: from now on it is in the journal, and will be finished even if the server is killed.
    ///
    /// # Errors
    /// If the request is invalid, or too much is waiting.
    pub async fn submit(self: &Arc<Self>, client: &str, draft: Draft) -> Result<Submitted, Fault> {
        if self.stop.is_set() {
            return Err(stopped());
        }
        let model = self.desk.find(draft.model.as_deref())?;
        let fingerprint = fingerprint(model, &draft);
        let store = self.store.clone();
        let (json, request) = blocking(move || checked(draft.request, &store)).await??;
        let limiter = Limiter(self.config.limits.clone());
        limiter.check(&request, draft.priority)?;
        if draft.key.as_ref().is_some_and(|key| key.is_empty() || key.len() > 255) {
            return Err(Fault::field("Idempotency-Key", "expected 1 to 255 bytes"));
        }
        let created = now();
        let order = Order {
            id: uuid::Uuid::new_v4().simple().to_string(),
            client: client.into(),
            model: self.desk.offers()[model].name.clone(),
            request: json.clone(),
            priority: draft.priority,
            created,
            deadline: self.deadline(draft.seconds, created)?,
            partials: draft.partials,
            idempotency: draft.key.map(|key| (key, fingerprint)),
        };
        let live = Arc::new(Live::new(order, request.count.get()));
        let entered = self.board.enter(&live, &self.config.limits);
        entered.inspect_err(|_| self.metrics.rejected.add(1))?;
        let accepted = self.accept(&live, model, json).await;
        if !matches!(accepted, Ok(Submitted { fresh: true, .. })) {
            self.board.leave(&live.order.id);
        }
        accepted
    }

    async fn accept(
        self: &Arc<Self>,
        live: &Arc<Live>,
        model: usize,
        request: Value,
    ) -> Result<Submitted, Fault> {
        let mut prepared = self.desk.prepare(model, request);
        let job = match tokio::time::timeout(PATIENCE, &mut prepared).await {
            Ok(answer) => Some(answer.unwrap_or_else(|_| Err(stopped()))?),
            Err(_) => None,
        };
        let (journal, order) = (self.journal.clone(), live.order.clone());
        match blocking(move || journal.accept(&order)).await?? {
            Accepted::New => {}
            Accepted::Before(id) => {
                let found = self.find(&live.order.client, &id).await?;
                return Ok(Submitted { found, fresh: false });
            }
            Accepted::Conflict => {
                return Err(Fault {
                    param: Some("Idempotency-Key".into()),
                    ..Fault::new(
                        axum::http::StatusCode::UNPROCESSABLE_ENTITY,
                        "idempotency_conflict",
                        "this Idempotency-Key was used for another request",
                    )
                });
            }
        }
        self.metrics.accepted.add(1);
        tracing::info!(
            job = live.order.id,
            client = live.order.client,
            model = live.order.model,
            "accepted a job"
        );
        live.feed.push(
            Kind::Queued,
            &json!({
                "id": live.order.id, "state": "queued", "position": self.board.place(live),
            }),
        );
        match job {
            Some(job) => self.begin(live.clone(), job, Vec::new(), Vec::new()),
            None => self.begin_later(live.clone(), prepared, Vec::new(), Vec::new()),
        }
        Ok(Submitted { found: Found::Live(live.clone()), fresh: true })
    }

    fn begin(&self, live: Arc<Live>, job: Arc<Job>, states: Vec<FlightState>, stored: Vec<usize>) {
        let _ = self.engine.send(Message::Start { live, job, states, stored });
    }

    /// Begins a job once it is prepared.
    fn begin_later(
        self: &Arc<Self>,
        live: Arc<Live>,
        prepared: oneshot::Receiver<Result<Arc<Job>, Fault>>,
        states: Vec<FlightState>,
        stored: Vec<usize>,
    ) {
        let service = self.clone();
        tokio::spawn(async move {
            match prepared.await {
                Ok(Ok(job)) => service.begin(live, job, states, stored),
                Ok(Err(fault)) => {
                    let _ = service.scribe.send(Note::End { live, fault });
                }
                // The server stops; the job is in the journal.
                Err(_) => {}
            }
        });
    }

    /// Takes up the jobs that an earlier run has accepted but not finished.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn take_up(self: &Arc<Self>) -> Result<usize, crate::ServeError> {
        let unfinished = self.journal.unfinished()?;
        let count = unfinished.len();
        for (record, states) in unfinished {
            let rows = record.order.request.get("count").and_then(Value::as_u64).unwrap_or(1) as usize;
            let stored: Vec<usize> = record.results.iter().map(|(row, _)| *row).collect();
            let missing = rows.saturating_sub(stored.len());
            let live = Arc::new(Live::new(record.order, missing));
            self.board.restore(&live);
            live.feed.push(Kind::Queued, &json!({ "id": live.order.id, "state": "queued", "resumed": true }));
            if missing == 0 {
                let _ = self.scribe.send(Note::Complete { live });
                continue;
            }
            match self.desk.find(Some(&live.order.model)) {
                Ok(model) => {
                    let prepared = self.desk.prepare(model, live.order.request.clone());
                    self.begin_later(live, prepared, states, stored);
                }
                Err(fault) => {
                    let _ = self.scribe.send(Note::End { live, fault });
                }
            }
        }
        Ok(count)
    }

    fn deadline(&self, seconds: Option<f64>, created: u64) -> Result<Option<u64>, Fault> {
        let most = self.config.limits.seconds;
        if let Some(seconds) = seconds
            && !(seconds > 0.0 && seconds <= 1e9)
        {
            return Err(Fault::field(
                "deadline",
                format!("{seconds}: expected a number of seconds > 0 and ≤ 1e9"),
            ));
        }
        let most = (most > 0).then_some(most as f64);
        let seconds = seconds.map(|own| most.map_or(own, |most| own.min(most))).or(most);
        Ok(seconds.map(|seconds| created + (seconds * 1000.0) as u64))
    }

    /// A job of this client.
    ///
    /// # Errors
    /// If there is none of this name.
    pub async fn find(&self, client: &str, id: &str) -> Result<Found, Fault> {
        if let Some(live) = self.board.find(id).filter(|live| live.order.client == client) {
            return Ok(Found::Live(live));
        }
        let (journal, name) = (self.journal.clone(), id.to_owned());
        let found = blocking(move || journal.find(&name)).await??;
        match found.filter(|record| record.order.client == client) {
            Some(record) if record.state.is_last() => Ok(Found::Ended(Box::new(record))),
            // Accepted by a request that has not returned yet.
            Some(_) | None => Err(Fault::missing(format!("there is no job `{id}`"))),
        }
    }

    /// Cancels a job of this client. A job that has ended stays as it is.
    ///
    /// # Errors
    /// If there is none of this name.
    pub async fn cancel(&self, client: &str, id: &str) -> Result<Found, Fault> {
        let found = self.find(client, id).await?;
        if let Found::Live(live) = &found {
            self.drop_job(live);
        }
        Ok(found)
    }

    /// Cancels a job.
    pub fn drop_job(&self, live: &Arc<Live>) {
        if !live.cancelled.swap(true, Ordering::Relaxed) {
            let _ = self.engine.send(Message::Cancel(live.order.id.clone(), Instant::now()));
            let fault = Fault::from(tweedie_pipe::PipelineError::Cancelled);
            let _ = self.scribe.send(Note::End { live: live.clone(), fault });
        }
    }

    /// The last jobs of a client, newest first.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub async fn list(
        &self,
        client: &str,
        before: Option<String>,
        most: usize,
    ) -> Result<Vec<Record>, Fault> {
        let (journal, client) = (self.journal.clone(), client.to_owned());
        blocking(move || journal.list(&client, before.as_deref(), most)).await?
    }

    /// Deletes a job of this client that has ended, with its results.
    ///
    /// # Errors
    /// If there is none of this name, or it has not ended.
    pub async fn delete(&self, client: &str, id: &str) -> Result<(), Fault> {
        match self.find(client, id).await? {
            Found::Live(_) => Err(Fault::new(
                axum::http::StatusCode::CONFLICT,
                "not_ended",
                "the job has not ended; cancel it first",
            )),
            Found::Ended(_) => {
                let (journal, store, id) = (self.journal.clone(), self.store.clone(), id.to_owned());
                blocking(move || delete(&journal, &store, &id)).await?
            }
        }
    }

    /// Stores an uploaded file and returns its hash.
    ///
    /// # Errors
    /// If it is an image with too many pixels, or cannot be written.
    pub async fn upload(&self, bytes: axum::body::Bytes) -> Result<String, Fault> {
        let (store, most) = (self.store.clone(), self.config.limits.pixels as u64);
        if let Some((width, height)) = crate::formats::sides(&bytes)
            && u64::from(width) * u64::from(height) > most
        {
            let reason = format!("{width} × {height} pixels: this server allows at most {most}");
            return Err(Fault::field("image", reason));
        }
        let stored = blocking(move || store.put_input(&bytes)).await?;
        stored.map_err(|e| {
            tracing::error!(error = %e, "an upload cannot be stored");
            Fault::unavailable("disk_failed", "the server cannot store the upload")
        })
    }
}

/// Runs what may wait for the disk, apart from the threads of HTTP.
///
/// # Errors
/// If it fails unexpectedly.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
    spawn_blocking(work).await.map_err(|_| Fault::internal("the request failed unexpectedly"))
}

/// A hash of everything that determines what a draft makes.
fn fingerprint(model: usize, draft: &Draft) -> String {
    hash(json!([model, draft.request, draft.priority, draft.seconds, draft.partials]).to_string().as_bytes())
}

/// The state of a job as JSON, in every API of our own.
pub fn described(service: &Service, found: &Found) -> Value {
    let (order, state) = match found {
        Found::Live(live) => (&live.order, live.state()),
        Found::Ended(record) => (&record.order, record.state),
    };
    let mut json = json!({
        "id": order.id, "state": state.name(), "model": order.model, "priority": order.priority,
        "created": order.created, "deadline": order.deadline, "request": order.request, "images": [],
        "links": { "self": format!("/v1/jobs/{}", order.id), "events": format!("/v1/jobs/{}/events", order.id) },
    });
    match found {
        Found::Live(live) => {
            let progress = live.progress();
            json["step"] = progress.step.into();
            json["steps"] = progress.steps.into();
            json["evaluations"] = progress.evaluations.into();
            json["seconds_left"] = progress.left.into();
            if state == State::Queued {
                json["position"] = service.board.place(live).into();
            }
        }
        Found::Ended(record) => {
            json["finished"] = record.finished.into();
            json["images"] =
                record.results.iter().map(|(row, file)| crate::scribe::told(*row, file)).collect();
            if let Some((code, message)) = &record.error {
                json["error"] = json!({ "code": code, "message": message });
            }
        }
    }
    json
}
