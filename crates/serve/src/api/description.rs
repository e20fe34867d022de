//! The OpenAPI document.

use axum::Json;
use serde::Serialize;
use utoipa::{OpenApi, ToSchema};

pub use super::schema::JobRequest;
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
    /// Estimate of the seconds until the end.
    seconds_left: Option<f64>,
    /// The results that are stored: `image` (its number), `url`, `sha256`, `bytes`.
    images: Vec<serde_json::Value>,
    /// Why it has failed: `code` and `message`.
    error: Option<serde_json::Value>,
}

/// A job with files: each file is a part with the name of its field, such as `image`.
#[derive(Serialize, ToSchema)]
pub struct JobForm {
    /// The JSON of the request.
    request: String,
    /// The initial image.
    #[schema(value_type = Option<String>, format = Binary)]
    image: Option<Vec<u8>>,
}

/// The document.
#[derive(OpenApi)]
#[openapi(
    info(title = "tweedie serve", description = "Images and other media from diffusion models."),
    paths(
        super::jobs::create,
        super::jobs::show,
        super::jobs::cancel,
        super::events::stream,
        super::files::show,
        super::uploads::create,
        super::gallery::list,
        super::gallery::remove,
        super::models::list,
        super::models::show,
        super::models::limits,
        super::openai::generations,
        super::openai::edits,
        super::openai::variations,
        super::openai::speech,
        super::operations::health,
        super::operations::ready,
        super::operations::metrics,
    ),
    components(schemas(ErrorBody, JobState, JobRequest, JobForm))
)]
struct Document;

/// The OpenAPI document.
pub async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}
