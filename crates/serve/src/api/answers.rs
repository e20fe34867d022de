//! The forms of answers, for the OpenAPI document.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::order::{Priority, State};

/// The form of errors.
#[derive(Serialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    error: ErrorFields,
}

/// An error.
#[derive(Serialize, ToSchema)]
pub struct ErrorFields {
    /// What is wrong and what was expected.
    message: String,
    /// The kind, as in OpenAI's API.
    r#type: String,
    /// The field at fault.
    param: Option<String>,
    /// A stable name for programs.
    code: String,
}

/// A job.
#[derive(Serialize, ToSchema)]
pub struct JobState {
    /// Its name.
    id: String,
    /// How far it is.
    state: State,
    /// The model.
    model: String,
    /// Its priority.
    priority: Priority,
    /// When it was accepted, in milliseconds since 1970.
    created: u64,
    /// When it fails unless it is finished.
    deadline: Option<u64>,
    /// When it ended.
    finished: Option<u64>,
    /// Number of jobs before it, while it is queued.
    position: Option<usize>,
    /// Finished steps.
    step: Option<usize>,
    /// All steps.
    steps: Option<usize>,
    /// Evaluations of the network so far.
    evaluations: Option<usize>,
    /// Estimate of the seconds until the end.
    seconds_left: Option<f64>,
    /// What was asked for.
    #[schema(value_type = Object)]
    request: Map<String, Value>,
    /// The results that are stored.
    images: Vec<ResultFile>,
    /// Why it has failed.
    error: Option<JobFault>,
    /// Paths.
    links: JobLinks,
}

/// A result of a job.
#[derive(Serialize, ToSchema)]
pub struct ResultFile {
    /// Its number in the job.
    image: usize,
    /// The path of the file.
    url: String,
    /// The SHA-256 of the file.
    sha256: String,
    /// Its length in bytes.
    bytes: u64,
}

/// Why a job has failed.
#[derive(Serialize, ToSchema)]
pub struct JobFault {
    /// A stable name for programs.
    code: String,
    /// What is wrong and what was expected.
    message: String,
}

/// Paths of a job.
#[derive(Serialize, ToSchema)]
pub struct JobLinks {
    /// Its state.
    #[serde(rename = "self")]
    own: String,
    /// Its events.
    events: String,
}

/// A server-sent event.
#[derive(Serialize, ToSchema)]
pub struct Event {
    /// Its kind.
    event: String,
    /// What a client that reconnects sends as `Last-Event-ID`.
    id: Option<String>,
    /// JSON.
    data: String,
}

/// Jobs, newest first.
#[derive(Serialize, ToSchema)]
pub struct Gallery {
    /// The jobs.
    jobs: Vec<JobState>,
}

/// A stored file.
#[derive(Serialize, ToSchema)]
pub struct Uploaded {
    /// Its SHA-256, by which requests refer to it.
    sha256: String,
    /// Its length in bytes.
    bytes: u64,
}

/// The models.
#[derive(Serialize, ToSchema)]
pub struct Models {
    /// Always `list`.
    object: String,
    /// The models, the default first.
    data: Vec<ModelOffer>,
}

/// A model.
#[derive(Serialize, ToSchema)]
pub struct ModelOffer {
    /// Its name.
    id: String,
    /// Always `model`.
    object: String,
    /// Always 0.
    created: u64,
    /// Always `tweedie`.
    owned_by: String,
    /// One line for people.
    about: String,
    /// How many times larger per side it makes an image, if that is what it does.
    enlarges: Option<usize>,
    /// Whether it is in memory.
    loaded: bool,
}

/// What a model takes.
#[derive(Serialize, ToSchema)]
pub struct ModelFacts {
    /// Its name.
    id: String,
    /// One line for people.
    about: String,
    /// How many times larger per side it makes an image, if that is what it does.
    enlarges: Option<usize>,
    /// The class of its network.
    network: String,
    /// `image`, `clip` or `audio`.
    medium: String,
    /// Whether it reads prompts.
    prompts: bool,
    /// Its classes: `number` and `name`.
    #[schema(value_type = Vec<Object>)]
    classes: Vec<Value>,
    /// The class that means none.
    null_class: Option<usize>,
    /// Whether it takes a guidance scale.
    guided: bool,
    /// Whether it changes images.
    changes: bool,
    /// Whether it restores images.
    restores: bool,
    /// Its voices.
    voices: Vec<String>,
    /// The words that it can say.
    words: Vec<String>,
    /// The number of its own ControlNets.
    controls: usize,
    /// The size that it makes unless a request has one: height and width, or the axes of other media.
    size: Option<Vec<usize>>,
    /// The size of its results at that size: larger, if it enlarges what it makes.
    result_size: Option<Vec<usize>>,
    /// Whether it makes no other size.
    fixed_size: bool,
    /// Its own `steps`, `solver` and `guidance`.
    #[schema(value_type = Object)]
    defaults: Value,
    /// Samplers that were learned for it: `steps` and `guidance`.
    #[schema(value_type = Vec<Object>)]
    learned_samplers: Vec<Value>,
}
