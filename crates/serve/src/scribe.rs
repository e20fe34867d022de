//! The scribe: a thread that decodes and stores what the engine has sampled, so that steps do not wait for files.
//!
//! Nothing that was accepted is given up because a disk is full: the scribe tries again until there is room.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};
use tweedie_media::{Image, MediaError};
use tweedie_models::HostTensor;
use tweedie_ops::Batch;
use tweedie_pipe::{
    Job, Media, Output, PipelineError, Preview, Request, Utterance,
    film::Show,
    flight::{FlightState, Snapshot},
    media::{write_picture, write_png, write_recording, write_sound, write_video},
};

use crate::{
    Fault, ServeError,
    feed::Kind,
    journal::Journal,
    live::{Board, Live, now},
    metrics::Metrics,
    order::State,
    stop::Stop,
    store::{Store, Stored},
};

/// The pause before something that failed is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Values of a channel of a clip's samples up to which there are previews: decoding long or large ones takes longer than a step.
const CLIP: usize = 1 << 16;

/// What the scribe is told.
pub enum Note {
    /// A preview, and which of the promised ones it is.
    Preview { live: Arc<Live>, job: Arc<Job>, snapshot: Box<Snapshot>, promised: Option<usize> },
    /// Samples of these images.
    Done { live: Arc<Live>, job: Arc<Job>, rows: Range<usize>, samples: Box<Batch> },
    /// States to be resumed from.
    Keep { live: Arc<Live>, states: Vec<FlightState> },
    /// A job has failed or was cancelled.
    End { live: Arc<Live>, fault: Fault },
    /// All results of a job are stored already.
    Complete { live: Arc<Live> },
    /// Nothing follows.
    Stop,
}

/// The fault of a job whose time is over.
pub fn late() -> Fault {
    Fault::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", "the job did not finish before its deadline")
}

/// The units of spoken texts that are decoded.
pub struct Gathered {
    /// By the number of the first unit: the number after the last one, and the sounds.
    parts: BTreeMap<usize, (usize, HostTensor)>,
    /// Number of units of which none before is missing.
    heard: usize,
    /// The sound that they make; `None` if it is not made in parts.
    utterance: Option<Utterance>,
}

/// What the scribe works with.
pub struct Scribe {
    /// The journal.
    pub journal: Arc<Journal>,
    /// The files.
    pub store: Store,
    /// The jobs.
    pub board: Arc<Board>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Disk space for results in bytes.
    pub budget: u64,
    /// Bytes of results that were stored since all of them were added up.
    pub fresh: AtomicU64,
    /// The spoken texts of which not all is decoded, by their jobs.
    pub gathered: Mutex<HashMap<String, Gathered>>,
    /// When the server stops, what fails is left to the next start.
    pub stop: Stop,
}

impl Scribe {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system starts no thread.
    pub fn start(self) -> Result<(Sender<Note>, JoinHandle<()>), ServeError> {
        let (notes, received) = channel();
        let thread = thread::Builder::new()
            .name("scribe".into())
            .spawn(move || self.run(&received))
            .map_err(ServeError::Thread)?;
        Ok((notes, thread))
    }

    fn run(&self, notes: &Receiver<Note>) {
        while let Ok(note) = notes.recv() {
            match note {
                Note::Preview { live, job, snapshot, promised } => {
                    let made =
                        catch_unwind(AssertUnwindSafe(|| self.preview(&live, &job, &snapshot, promised)));
                    live.previewing.store(false, Ordering::Relaxed);
                    if let Ok(Err(e)) = made {
                        tracing::warn!(job = live.order.id, error = %e, "a preview failed");
                    }
                }
                Note::Done { live, job, rows, samples } => self.done(&live, &job, rows, &samples),
                Note::Keep { live, states } => self.keep(&live, &states),
                Note::End { live, fault } => self.end(&live, Err(fault)),
                Note::Complete { live } => self.end(&live, Ok(())),
                Note::Stop => return,
            }
        }
    }

    fn preview(
        &self,
        live: &Live,
        job: &Job,
        snapshot: &Snapshot,
        promised: Option<usize>,
    ) -> Result<(), PipelineError> {
        let axes = job.shape().axes();
        if live.outcome().is_some() || axes.len() == 3 && axes.iter().product::<usize>() > CLIP {
            return Ok(());
        }
        let path = Path::new("preview.png");
        let media = Preview::new(job, snapshot).media(Show::Clean)?;
        let pngs: Vec<(&Image, Vec<u8>)> = match &media {
            Media::Images(images) => images
                .iter()
                .map(|image| Ok((image, image.to_png(path)?)))
                .collect::<Result<_, MediaError>>()?,
            Media::Clips(clips) => (clips.iter())
                .filter_map(|clip| Some((clip.frames.first()?, clip)))
                .map(|(first, clip)| Ok((first, clip.to_png(path)?)))
                .collect::<Result<_, MediaError>>()?,
            _ => Vec::new(),
        };
        for (row, (image, png)) in snapshot.rows.clone().zip(pngs) {
            let mut data = json!({
                "id": live.order.id, "image": row, "step": snapshot.step, "width": image.width, "height": image.height,
                "b64_json": STANDARD.encode(png),
            });
            if let Some(index) = promised {
                data["partial_image_index"] = index.into();
            }
            live.feed.push(Kind::Preview, &data);
        }
        Ok(())
    }

    fn done(&self, live: &Arc<Live>, job: &Job, rows: Range<usize>, samples: &Batch) {
        if live.is_cancelled() || live.outcome().is_some() {
            return;
        }
        let begun = Instant::now();
        let decoded = catch_unwind(AssertUnwindSafe(|| job.finish(rows.clone(), samples)));
        let decoded = match decoded {
            Ok(Ok(decoded)) => decoded,
            Ok(Err(error)) => return self.end(live, Err(Fault::from(error).without_folders())),
            Err(_) => return self.end(live, Err(Fault::unexpected("decoding"))),
        };
        let parts = match job.is_joined() {
            true => match self.gather(live, job, rows.clone(), decoded) {
                Some(parts) => parts,
                // Others are to come.
                None => return,
            },
            false => vec![decoded],
        };
        let output = Output::of(job, parts, 0);
        let rows = job.results_of(rows);
        let Ok(request) = Request::deserialize(&live.order.request) else {
            return self.end(live, Err(Fault::internal("the stored request cannot be read")));
        };
        let written = self.until_it_works(|| {
            let files = self.write(&output, &request)?;
            let results: Vec<(usize, Stored)> = rows.clone().zip(files).collect();
            self.journal.add_results(&live.order.id, &results).map_err(io::Error::other)?;
            Ok(results)
        });
        let Some(results) = written else { return };
        if results.len() != rows.len() {
            return self
                .end(live, Err(Fault::internal("the samples of this model are not images, audio or clips")));
        }
        self.metrics.storing.note(begun.elapsed().as_secs_f64());
        self.metrics.images.add(results.len());
        self.fresh.fetch_add(results.iter().map(|(_, stored)| stored.bytes).sum(), Ordering::Relaxed);
        for (row, stored) in &results {
            live.feed.push(Kind::Image, &told(*row, stored));
        }
        if live.missing.fetch_sub(rows.len(), Ordering::AcqRel) == rows.len() {
            self.end(live, Ok(()));
        }
    }

    /// Adds decoded units of texts, and lets be heard what follows what was. Returns all of them once they are there.
    fn gather(
        &self,
        live: &Arc<Live>,
        job: &Job,
        rows: Range<usize>,
        decoded: HostTensor,
    ) -> Option<Vec<HostTensor>> {
        let mut all = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.entry(live.order.id.clone()).or_insert_with(|| Gathered {
            parts: BTreeMap::new(),
            heard: 0,
            utterance: job.utterance().ok(),
        });
        own.parts.insert(rows.start, (rows.end, decoded));
        while let Some((end, decoded)) = own.parts.get(&own.heard) {
            if let Some(sound) =
                own.utterance.as_mut().and_then(|so_far| job.uttered(so_far, decoded.clone()))
            {
                live.hear(&sound);
            }
            own.heard = *end;
        }
        (own.heard == job.count())
            .then(|| std::mem::take(&mut own.parts).into_values().map(|(_, part)| part).collect())
    }

    /// One file for each sample.
    fn write(&self, output: &Output, request: &Request) -> io::Result<Vec<Stored>> {
        fn file(
            store: &Store,
            ending: &'static str,
            write: impl Fn(&Path) -> Result<(), PipelineError>,
        ) -> io::Result<Stored> {
            store.put_result(ending, |path| write(path).map_err(io::Error::other))
        }
        let store = &self.store;
        match &output.media {
            // An existing image in which a part was changed.
            _ if !output.edited.is_empty() => (output.edited.iter())
                .map(|edited| file(store, "png", |path| write_picture(path, &edited.picture, Some(request))))
                .collect(),
            // An existing sound.
            _ if !output.mended.is_empty() => (output.mended.iter())
                .map(|one| file(store, "wav", |path| write_recording(path, &one.recording, Some(request))))
                .collect(),
            Media::Images(images) => {
                let png = |image: &Image| file(store, "png", |path| write_png(path, image, Some(request)));
                images.iter().map(png).collect()
            }
            Media::Audio(signals) => signals
                .iter()
                .map(|signal| file(store, "wav", |path| write_sound(path, signal, Some(request)).map(drop)))
                .collect(),
            Media::Clips(clips) => clips
                .iter()
                .map(|clip| file(store, "png", |path| write_video(path, clip, Some(request))))
                .collect(),
            _ => Ok(Vec::new()),
        }
    }

    fn keep(&self, live: &Live, states: &[FlightState]) {
        // A device that has failed returns no values.
        if live.outcome().is_some() || tweedie_ops::failure().is_some() {
            return;
        }
        let text = |state: &FlightState| Some((state.rows.start, serde_json::to_string(state).ok()?));
        let states: Vec<(usize, String)> = states.iter().filter_map(text).collect();
        // Not tried again: without it the job only begins earlier after a crash.
        if let Err(e) = self.journal.keep(&live.order.id, &states) {
            tracing::warn!(job = live.order.id, error = %e, "the state of a job is not stored");
        }
    }

    fn end(&self, live: &Arc<Live>, outcome: Result<(), Fault>) {
        if live.outcome().is_some() {
            return;
        }
        let (state, metric) = match &outcome {
            Ok(()) => (State::Finished, &self.metrics.finished),
            Err(fault) if fault.code == "cancelled" => (State::Cancelled, &self.metrics.cancelled),
            Err(_) => (State::Failed, &self.metrics.failed),
        };
        let id = &live.order.id;
        let fault = outcome.as_ref().err();
        let stored = self.until_it_works(|| {
            self.journal.end(id, state, fault, now()).map_err(io::Error::other)?;
            self.journal.find(id).map_err(io::Error::other)
        });
        // Stopping with a full disk: the job is still in the journal.
        let Some(record) = stored else { return };
        let mut data = json!({ "id": id, "state": state.name() });
        match fault {
            Some(fault) => data["error"] = fault.json()["error"].clone(),
            None => {
                let results = record.map(|record| record.results).unwrap_or_default();
                data["images"] = results.iter().map(|(row, stored)| told(*row, stored)).collect();
            }
        }
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        let seconds = live.arrived.elapsed().as_secs_f64();
        tracing::info!(
            job = id,
            client = live.order.client,
            model = live.order.model,
            state = state.name(),
            seconds,
            error = fault.map(|f| f.message.as_str()),
            "a job ended"
        );
        metric.add(1);
        self.metrics.whole.note(seconds);
        // Whoever asks from now on is told by the journal, which has the results.
        self.board.leave(id);
        live.end(outcome, data);
        self.prune();
    }

    /// Deletes uploads that no job has used for a day, and the oldest jobs while results need more than the budget.
    fn prune(&self) {
        self.store.sweep_inputs(|hash| self.journal.uses(hash));
        // Adding up a large gallery takes time.
        if self.fresh.load(Ordering::Relaxed) < self.budget / 64 {
            return;
        }
        self.fresh.store(0, Ordering::Relaxed);
        let old = self.journal.over_budget(self.budget).unwrap_or_default();
        for id in old {
            if delete(&self.journal, &self.store, &id).is_ok() {
                tracing::info!(job = id, "deleted an old job: the gallery is full");
            }
        }
    }

    /// Tries until it works; `None` if the server stops before.
    fn until_it_works<T>(&self, mut work: impl FnMut() -> io::Result<T>) -> Option<T> {
        loop {
            match work() {
                Ok(done) => return Some(done),
                Err(e) => {
                    tracing::error!(error = %e, "cannot write to the data folder; trying again");
                    if self.stop.is_set() {
                        return None;
                    }
                    thread::sleep(PAUSE);
                }
            }
        }
    }
}

/// A result as JSON.
pub fn told(row: usize, stored: &Stored) -> Value {
    json!({ "image": row, "url": url(stored), "sha256": stored.sha256, "bytes": stored.bytes })
}

/// The path of a result in the API.
pub fn url(stored: &Stored) -> String {
    format!("/v1/files/{}.{}", stored.sha256, stored.ending)
}

/// Deletes a job that has ended, and its files.
///
/// # Errors
/// If the journal cannot be written.
pub fn delete(journal: &Journal, store: &Store, id: &str) -> Result<(), Fault> {
    let unused = journal.delete(id)?;
    unused.results.iter().for_each(|(hash, ending)| store.delete_result(hash, ending));
    unused.inputs.iter().for_each(|hash| store.delete_input(hash));
    Ok(())
}
