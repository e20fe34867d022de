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
use tweedie_pipe::{Job, Pipeline};

use crate::{Fault, Model, ServeError, limits::Limiter, order, store::Store};

/// How often to look whether a model can be unloaded for one that waits.
const LOOK: Duration = Duration::from_millis(50);

/// What is asked about a loaded model.
type Asking = Box<dyn FnOnce(Result<&Pipeline, Fault>) + Send>;

/// A question to the desk.
enum Question {
    /// Prepares a request.
    Prepare { model: usize, request: Value, answer: oneshot::Sender<Result<Arc<Job>, Fault>> },
    /// Calls a function with a loaded model.
    Ask { model: usize, ask: Asking },
}

impl Question {
    fn model(&self) -> usize {
        match self {
            Self::Prepare { model, .. } | Self::Ask { model, .. } => *model,
        }
    }
}

/// A model and what it is doing.
struct Place {
    model: Model,
    pipeline: Option<Pipeline>,
    /// Its jobs; those that have ended are gone.
    jobs: Vec<Weak<Job>>,
    used: Instant,
}

impl Place {
    fn is_idle(&mut self) -> bool {
        self.jobs.retain(|job| job.strong_count() > 0);
        self.jobs.is_empty()
    }
}

/// Access to the desk.
#[derive(Clone)]
pub struct Desk {
    questions: Sender<Question>,
    names: Arc<[(String, String)]>,
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
        let names = models.iter().map(|model| (model.name.clone(), model.about.clone())).collect();
        let places = models
            .into_iter()
            .map(|model| Place { model, pipeline: None, jobs: Vec::new(), used: Instant::now() })
            .collect();
        let (questions, received) = channel();
        let loaded = Arc::<Mutex<Vec<usize>>>::default();
        let work = Work { places, budget, store, limiter, loaded: loaded.clone() };
        thread::Builder::new()
            .name("desk".into())
            .spawn(move || work.run(&received))
            .map_err(ServeError::Thread)?;
        Ok(Self { questions, names, loaded })
    }

    /// The names of the models, with a line for people.
    pub fn names(&self) -> &[(String, String)] {
        &self.names
    }

    /// The models in memory.
    pub fn loaded(&self) -> Vec<String> {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.iter().filter_map(|model| self.names.get(*model)).map(|(name, _)| name.clone()).collect()
    }

    /// The number of the model of this name, or of the first model.
    ///
    /// # Errors
    /// If there is none of this name; lists the names.
    pub fn find(&self, name: Option<&str>) -> Result<usize, Fault> {
        let Some(name) = name else { return Ok(0) };
        self.names.iter().position(|(own, _)| own == name).ok_or_else(|| {
            let names: Vec<_> = self.names.iter().map(|(name, _)| format!("`{name}`")).collect();
            let message = format!("`model`: unknown model `{name}`; expected {}", names.join(" or "));
            Fault { code: "model_not_found", param: Some("model".into()), ..Fault::missing(message) }
        })
    }

    /// Checks a request, loads its model and prepares it.
    pub fn prepare(&self, model: usize, request: Value) -> oneshot::Receiver<Result<Arc<Job>, Fault>> {
        let (answer, answered) = oneshot::channel();
        // Without a desk the answer is dropped, which the receiver notices.
        let _ = self.questions.send(Question::Prepare { model, request, answer });
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
        let _ = self.questions.send(Question::Ask { model, ask });
        answered.await.unwrap_or_else(|_| Err(stopped()))
    }
}

/// The fault of everything that is asked after the end.
pub fn stopped() -> Fault {
    Fault::unavailable("stopping", "the server is stopping")
}

struct Work {
    places: Vec<Place>,
    budget: u64,
    store: Store,
    limiter: Limiter,
    loaded: Arc<Mutex<Vec<usize>>>,
}

impl Work {
    fn run(mut self, questions: &Receiver<Question>) {
        let mut waiting: VecDeque<Question> = VecDeque::new();
        loop {
            let next = if waiting.is_empty() {
                questions.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                questions.recv_timeout(LOOK)
            };
            match next {
                Ok(question) => waiting.push_back(question),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // In order, so that a model that waits for memory gets it once the jobs before it have ended.
            while let Some(question) = waiting.front()
                && self.has_room(question.model())
            {
                if let Some(question) = waiting.pop_front() {
                    self.answer(question);
                }
            }
        }
    }

    /// Unloads models that are idle, the least recently used first, until there is room for this one.
    fn has_room(&mut self, model: usize) -> bool {
        if self.places[model].pipeline.is_some() {
            return true;
        }
        loop {
            let in_memory = self.places.iter().filter(|place| place.pipeline.is_some());
            let used: u64 = in_memory.map(|place| place.model.bytes).sum();
            // A model that is larger than the budget is loaded alone.
            if used == 0 || used + self.places[model].model.bytes <= self.budget {
                return true;
            }
            let loaded = self.places.iter_mut().enumerate().filter(|(_, place)| place.pipeline.is_some());
            let mut idle: Vec<(Instant, usize)> =
                loaded.filter_map(|(i, place)| place.is_idle().then_some((place.used, i))).collect();
            idle.sort_unstable();
            let Some((_, oldest)) = idle.first() else { return false };
            self.places[*oldest].pipeline = None;
            tracing::info!(model = self.places[*oldest].model.name, "unloaded a model");
            self.tell();
        }
    }

    fn tell(&self) {
        let loaded = self.places.iter().enumerate().filter(|(_, place)| place.pipeline.is_some());
        *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = loaded.map(|(i, _)| i).collect();
    }

    fn answer(&mut self, question: Question) {
        let loaded = self.load(question.model());
        match question {
            Question::Prepare { answer, .. } if answer.is_closed() => {}
            Question::Prepare { model, request, answer } => {
                let job = loaded.and_then(|()| self.prepare(model, &request));
                let _ = answer.send(job);
            }
            Question::Ask { model, ask } => match (&self.places[model].pipeline, loaded) {
                (_, Err(fault)) => ask(Err(fault)),
                (Some(pipeline), Ok(())) => ask(Ok(pipeline)),
                (None, Ok(())) => ask(Err(Fault::internal("the model is not in memory"))),
            },
        }
    }

    fn load(&mut self, model: usize) -> Result<(), Fault> {
        let place = &mut self.places[model];
        place.used = Instant::now();
        if place.pipeline.is_some() {
            return Ok(());
        }
        let begun = Instant::now();
        let name = &place.model.name;
        let failed = |reason: String| {
            tracing::error!(model = name, reason, "a model cannot be loaded");
            Fault::unavailable("model_failed", format!("the model `{name}` cannot be loaded"))
        };
        let loaded = catch_unwind(AssertUnwindSafe(|| (place.model.load)()));
        let loaded = loaded.map_err(|_| failed("it failed unexpectedly".into()))?;
        let pipeline = loaded.map_err(|e| failed(e.to_string()))?;
        for remark in &pipeline.model().remarks {
            tracing::warn!(model = name, remark, "a remark about a model");
        }
        tracing::info!(model = name, seconds = begun.elapsed().as_secs_f64(), "loaded a model");
        place.pipeline = Some(pipeline);
        self.tell();
        Ok(())
    }

    fn prepare(&mut self, model: usize, request: &Value) -> Result<Arc<Job>, Fault> {
        let place = &mut self.places[model];
        let pipeline =
            place.pipeline.as_ref().ok_or_else(|| Fault::internal("the model is not in memory"))?;
        let request = order::resolved(request, &self.store)?;
        let prepared = catch_unwind(AssertUnwindSafe(|| pipeline.prepare(&request)));
        let prepared = prepared.map_err(|_| Fault::internal("preparing the request failed unexpectedly"))?;
        let job = prepared.map_err(|e| Fault::from(e).without_folders())?;
        self.limiter.check_job(&job)?;
        let job = Arc::new(job);
        place.jobs.push(Arc::downgrade(&job));
        Ok(job)
    }
}
