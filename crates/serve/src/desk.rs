//! The desk: a thread that loads and unloads models and checks requests against them, so that neither HTTP nor the steps of
//! running jobs wait for it.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::sync::oneshot;
use tweedie_pipe::{Job, Pipeline, Request};

use crate::{Changes, Fault, Model, ServeError, limits::Limiter, order, store::Store};

/// How often to look whether a model can be unloaded for one that waits.
const LOOK: Duration = Duration::from_millis(50);

/// What is asked about a loaded model.
type Asking = Box<dyn FnOnce(Result<&Pipeline, Fault>) + Send>;

/// A question to the desk.
enum Question {
    /// Prepares a request.
    Prepare { request: Box<Request>, answer: oneshot::Sender<Result<Arc<Job>, Fault>> },
    /// Calls a function with a loaded model.
    Ask(Asking),
}

/// A question about a model with some changes.
struct Asked {
    model: usize,
    changes: Changes,
    question: Question,
}

/// A message to the desk.
enum Message {
    Prepare { model: usize, request: Value, answer: oneshot::Sender<Result<Arc<Job>, Fault>> },
    Ask { model: usize, ask: Asking },
}

/// A model in memory, with what a request adds, and what it is doing.
struct Loaded {
    model: usize,
    changes: Changes,
    bytes: u64,
    pipeline: Pipeline,
    /// Its jobs; those that have ended are gone.
    jobs: Vec<Weak<Job>>,
    used: Instant,
}

impl Loaded {
    fn is_idle(&mut self) -> bool {
        self.jobs.retain(|job| job.strong_count() > 0);
        self.jobs.is_empty()
    }
}

/// A model that requests can name.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Its name.
    pub name: String,
    /// One line for people.
    pub about: String,
    /// How many times larger per side it makes an image, if that is what it does.
    pub enlarges: Option<usize>,
}

/// Access to the desk.
#[derive(Clone)]
pub struct Desk {
    messages: Sender<Message>,
    offers: Arc<[Offer]>,
    loaded: Arc<Mutex<Vec<usize>>>,
}

impl Desk {
    /// Starts the thread. Weights may use `budget` bytes.
    ///
    /// # Errors
    /// If the system starts no thread.
    pub fn start(
        models: Vec<Model>,
        budget: u64,
        store: Store,
        limiter: Limiter,
    ) -> Result<Self, ServeError> {
        let offer = |model: &Model| Offer {
            name: model.name.clone(),
            about: model.about.clone(),
            enlarges: model.enlarges,
        };
        let offers = models.iter().map(offer).collect();
        let (messages, received) = channel();
        let loaded = Arc::<Mutex<Vec<usize>>>::default();
        let work = Work { models, loaded: Vec::new(), budget, store, limiter, told: loaded.clone() };
        thread::Builder::new()
            .name("desk".into())
            .spawn(move || work.run(&received))
            .map_err(ServeError::Thread)?;
        Ok(Self { messages, offers, loaded })
    }

    /// The models.
    pub fn offers(&self) -> &[Offer] {
        &self.offers
    }

    /// The models in memory.
    pub fn loaded(&self) -> Vec<String> {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.iter().filter_map(|model| self.offers.get(*model)).map(|offer| offer.name.clone()).collect()
    }

    /// The number of the model of this name, or of the first model.
    ///
    /// # Errors
    /// If there is none of this name; lists the names.
    pub fn find(&self, name: Option<&str>) -> Result<usize, Fault> {
        let Some(name) = name else { return Ok(0) };
        self.offers.iter().position(|offer| offer.name == name).ok_or_else(|| {
            let names: Vec<_> = self.offers.iter().map(|offer| format!("`{}`", offer.name)).collect();
            let message = format!("`model`: unknown model `{name}`; expected {}", names.join(" or "));
            Fault { code: "model_not_found", param: Some("model".into()), ..Fault::missing(message) }
        })
    }

    /// Checks a request, loads its model and prepares it.
    pub fn prepare(&self, model: usize, request: Value) -> oneshot::Receiver<Result<Arc<Job>, Fault>> {
        let (answer, answered) = oneshot::channel();
        // Without a desk the answer is dropped, which the receiver notices.
        let _ = self.messages.send(Message::Prepare { model, request, answer });
        answered
    }

    /// What `ask` says about a model, which is loaded for it.
    ///
    /// # Errors
    /// If the model cannot be loaded.
    pub async fn ask<T: Send + 'static>(
        &self,
        model: usize,
        ask: impl FnOnce(&Pipeline) -> T + Send + 'static,
    ) -> Result<T, Fault> {
        let (answer, answered) = oneshot::channel();
        let ask = Box::new(move |pipeline: Result<&Pipeline, Fault>| {
            let _ = answer.send(pipeline.map(ask));
        });
        let _ = self.messages.send(Message::Ask { model, ask });
        answered.await.unwrap_or_else(|_| Err(stopped()))
    }
}

/// The fault of everything that is asked after the end.
pub fn stopped() -> Fault {
    Fault::unavailable("stopping", "the server is stopping")
}

struct Work {
    models: Vec<Model>,
    loaded: Vec<Loaded>,
    budget: u64,
    store: Store,
    limiter: Limiter,
    told: Arc<Mutex<Vec<usize>>>,
}

impl Work {
    fn run(mut self, messages: &Receiver<Message>) {
        let mut waiting: VecDeque<Asked> = VecDeque::new();
        loop {
            let next = if waiting.is_empty() {
                messages.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                messages.recv_timeout(LOOK)
            };
            match next {
                Ok(message) => waiting.extend(self.asked(message)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // In order, so that a model that waits for memory gets it once the jobs before it have ended.
            while let Some(asked) = waiting.front()
                && self.has_room(asked.model, &asked.changes)
            {
                if let Some(asked) = waiting.pop_front() {
                    self.answer(asked);
                }
            }
        }
    }

    /// What a message asks; `None` if it was answered with an error.
    fn asked(&self, message: Message) -> Option<Asked> {
        match message {
            Message::Ask { model, ask } => {
                Some(Asked { model, changes: Changes::default(), question: Question::Ask(ask) })
            }
            Message::Prepare { model, request, answer } => match order::resolved(&request, &self.store) {
                Ok(request) => {
                    let changes = Changes::of(&request);
                    let question = Question::Prepare { request: Box::new(request), answer };
                    Some(Asked { model, changes, question })
                }
                Err(fault) => {
                    let _ = answer.send(Err(fault));
                    None
                }
            },
        }
    }

    fn place(&self, model: usize, changes: &Changes) -> Option<usize> {
        self.loaded.iter().position(|loaded| loaded.model == model && loaded.changes == *changes)
    }

    /// Unloads models that are idle, the least recently used first, until there is room for this one.
    fn has_room(&mut self, model: usize, changes: &Changes) -> bool {
        if self.place(model, changes).is_some() {
            return true;
        }
        let needed = self.models[model].bytes + changes.bytes();
        loop {
            let used: u64 = self.loaded.iter().map(|loaded| loaded.bytes).sum();
            // A model that is larger than the budget is loaded alone.
            if self.loaded.is_empty() || used + needed <= self.budget {
                return true;
            }
            let idle = self.loaded.iter_mut().enumerate();
            let oldest = idle.filter_map(|(i, loaded)| loaded.is_idle().then_some((loaded.used, i))).min();
            let Some((_, oldest)) = oldest else { return false };
            let unloaded = self.loaded.remove(oldest);
            tracing::info!(model = self.models[unloaded.model].name, "unloaded a model");
            self.tell();
        }
    }

    fn tell(&self) {
        let mut models: Vec<usize> = self.loaded.iter().map(|loaded| loaded.model).collect();
        models.sort_unstable();
        models.dedup();
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = models;
    }

    fn answer(&mut self, asked: Asked) {
        let Asked { model, changes, question } = asked;
        let loaded = self.load(model, &changes);
        match question {
            Question::Prepare { answer, .. } if answer.is_closed() => {}
            Question::Prepare { request, answer } => {
                let job = loaded.and_then(|place| self.prepare(place, &request));
                let _ = answer.send(job);
            }
            Question::Ask(ask) => ask(loaded.map(|place| &self.loaded[place].pipeline)),
        }
    }

    fn load(&mut self, model: usize, changes: &Changes) -> Result<usize, Fault> {
        if let Some(place) = self.place(model, changes) {
            self.loaded[place].used = Instant::now();
            return Ok(place);
        }
        let begun = Instant::now();
        let Model { name, load, .. } = &self.models[model];
        let failed = |reason: String| {
            tracing::error!(model = name, reason, "a model cannot be loaded");
            Fault::unavailable("model_failed", format!("the model `{name}` cannot be loaded"))
        };
        let loaded = catch_unwind(AssertUnwindSafe(|| load(changes)));
        let loaded = loaded.map_err(|_| failed("it failed unexpectedly".into()))?;
        let pipeline = loaded.map_err(|e| match changes.is_empty() {
            true => failed(e.to_string()),
            // Files that a client has chosen.
            false => Fault::from(e).without_folders(),
        })?;
        for remark in &pipeline.model().remarks {
            tracing::warn!(model = name, remark, "a remark about a model");
        }
        let changed = changes.len();
        tracing::info!(model = name, changed, seconds = begun.elapsed().as_secs_f64(), "loaded a model");
        let (changes, used) = (changes.clone(), Instant::now());
        let bytes = self.models[model].bytes + changes.bytes();
        self.loaded.push(Loaded { model, changes, bytes, pipeline, jobs: Vec::new(), used });
        self.tell();
        Ok(self.loaded.len() - 1)
    }

    fn prepare(&mut self, place: usize, request: &Request) -> Result<Arc<Job>, Fault> {
        let loaded = &mut self.loaded[place];
        let prepared = catch_unwind(AssertUnwindSafe(|| loaded.pipeline.prepare(request)));
        let prepared = prepared.map_err(|_| Fault::unexpected("preparing the request"))?;
        let job = prepared.map_err(|e| Fault::from(e).without_folders())?;
        self.limiter.check_job(&job)?;
        let job = Arc::new(job);
        // What has ended would keep its memory as long as it is listed.
        loaded.jobs.retain(|job| job.strong_count() > 0);
        loaded.jobs.push(Arc::downgrade(&job));
        Ok(job)
    }
}
