//! The OpenAPI document.

use axum::Json;
use serde::Serialize;
use serde_json::json;
use utoipa::{
    OpenApi, PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

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

/// What to make: all fields are optional.
pub struct JobRequest;

impl PartialSchema for JobRequest {
    fn schema() -> RefOr<Schema> {
        let file = |about: &str| {
            json!({ "type": "object", "required": ["sha256"], "additionalProperties": false, "description": about,
                "properties": { "sha256": { "type": "string", "pattern": "^[0-9a-f]{64}$" } } })
        };
        let number = |least: f64, most: f64, about: &str| json!({ "type": "number", "minimum": least, "maximum": most, "description": about });
        let whole =
            |least: u64, about: &str| json!({ "type": "integer", "minimum": least, "description": about });
        let schema = json!({
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "model": { "type": "string", "description": "One of `/v1/models`; by default the first." },
                "priority": { "type": "string", "enum": ["high", "normal", "low"] },
                "deadline": { "type": "number", "exclusiveMinimum": 0, "description": "Seconds until the job fails." },
                "prompt": {
                    "oneOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }],
                    "description": "Prompts, used in turn. Text-to-image models only."
                },
                "negative_prompt": { "type": "string" },
                "voice": { "type": "string" },
                "classes": {
                    "type": "array", "items": { "oneOf": [{ "type": "integer", "minimum": 0 }, { "type": "string" }] },
                    "description": "Classes by number or name, used in turn."
                },
                "count": whole(1, "Number of images."),
                "seed": whole(0, "Image `i` is a function of the seed, `i` and the other settings."),
                "steps": whole(1, "Number of solver steps."),
                "solver": { "type": "string", "description": "One of `/v1/limits`." },
                "spacing": { "description": "Which noise levels to visit: a name like `trailing`, or `{\"karras\": {\"rho\": 7}}`." },
                "eta": number(0.0, 1.0, "Amount of fresh noise."),
                "mu": { "type": "number", "description": "The shift of models whose noise levels depend on the image size." },
                "guidance": { "type": "number", "minimum": 0, "description": "Guidance scale; 1 or less means none." },
                "guidance_interval": {
                    "type": "array", "items": { "type": "number" }, "minItems": 2, "maxItems": 2,
                    "description": "The range of noise levels with guidance."
                },
                "guidance_rescale": number(0.0, 1.0, "How much guided predictions are rescaled."),
                "dynamic_threshold": number(0.0, 1.0, "Quantile of magnitudes."),
                "clip_skip": whole(0, "Number of the text encoder's last layers to skip."),
                "prior_steps": whole(1, "Number of solver steps of the prior of a DALL-E 2 model."),
                "prior_guidance": { "type": "number", "minimum": 0, "description": "Guidance scale of the prior." },
                "loras": {
                    "type": "array",
                    "items": {
                        "type": "object", "additionalProperties": false,
                        "properties": {
                            "name": { "type": "string", "description": "One of the LoRAs of `/v1/limits`." },
                            "file": file("An uploaded LoRA."),
                            "scale": { "type": "number", "description": "How strongly it is merged; 1 by default with a name." }
                        }
                    },
                    "description": "LoRAs that are merged into the weights. Requests with the same LoRAs share calls."
                },
                "prompt_weights": { "type": "string", "description": "Convention for word weights." },
                "untuned": { "type": "boolean", "description": "Ignore learned samplers." },
                "image": file("The initial image: an upload or a result."),
                "known": {
                    "type": "object", "required": ["image"],
                    "description": "An existing image that is edited or restored: `image`, `mask`, `degradations`, `noise`, `method`.",
                    "properties": { "image": file("The image."), "mask": { "type": "object" } }
                },
                "strength": number(0.0, 1.0, "How much of the initial image is replaced."),
                "noise": file("The initial noise: an uploaded safetensors file."),
                "size": {
                    "type": "array", "items": { "type": "integer", "minimum": 1 },
                    "description": "Height and width, or the axes of other media."
                },
                "frames": whole(1, "Number of frames of clips."),
                "fps": whole(1, "Frames of clips per second."),
                "vae_tile": whole(1, "Pixels of tiles of the autoencoder."),
                "chunk": whole(1, "Maximum batch size of this job."),
                "precision": { "type": "string", "enum": ["f32", "bf16", "int8"] }
            }
        });
        serde_json::from_value::<Schema>(schema).map_or_else(|_| RefOr::T(Schema::default()), RefOr::T)
    }
}

impl ToSchema for JobRequest {}

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
