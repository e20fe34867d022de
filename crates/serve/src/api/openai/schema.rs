//! OpenAI's fields for the OpenAPI document.

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::api::schema::{fields, map, model, object};

/// An image from a prompt: OpenAI's fields, and those of our requests.
#[derive(ToSchema)]
pub struct ImageRequest;

impl ImageRequest {
    /// Its schema, which takes the place of the derived one.
    pub fn schema() -> Value {
        let mut all = fields();
        for other in ["count", "image", "known"] {
            all.remove(other);
        }
        all.extend(images());
        object(all, &[])
    }
}

/// A change or a variation of an image, as a form. Numbers and objects are texts.
#[derive(ToSchema)]
pub struct ImageForm;

impl ImageForm {
    /// Its schema, which takes the place of the derived one.
    pub fn schema() -> Value {
        let mut all = images();
        all.insert("image".into(), file("The image."));
        all.insert("mask".into(), file("Transparent where the image is changed. For edits."));
        let texts = ["seed", "steps", "guidance", "strength", "negative_prompt", "solver", "classes"];
        all.extend(texts.map(|name| (name.to_owned(), json!({ "type": "string" }))));
        object(all, &["image"])
    }
}

/// A text to speak: OpenAI's fields, and those of our requests.
#[derive(ToSchema)]
pub struct SpeechRequest;

impl SpeechRequest {
    /// Its schema, which takes the place of the derived one.
    pub fn schema() -> Value {
        let mut all = fields();
        all.remove("count");
        all.remove("prompt");
        all.extend(map(json!({
            "model": model(),
            "input": { "type": "string", "description": "The text." },
            "voice": { "type": "string", "description": "One of the model's voices." },
            "response_format": { "type": "string", "enum": ["wav", "pcm"] },
            "speed": { "type": "number", "enum": [1], "description": "These models speak at one speed." },
            "stream_format": {
                "type": "string", "enum": ["audio", "sse"],
                "description": "Send the sound while it is made: as it is, or in events.",
            },
            "instructions": { "type": "string", "description": "Has no effect." },
            "user": { "type": "string", "description": "Has no effect." },
        })));
        object(all, &["input"])
    }
}

/// A video from a prompt: OpenAI's fields, and those of our requests. In a form, numbers and objects are texts.
#[derive(ToSchema)]
pub struct VideoRequest;

impl VideoRequest {
    /// Its schema, which takes the place of the derived one.
    pub fn schema() -> Value {
        let mut all = fields();
        for other in ["count", "image", "known"] {
            all.remove(other);
        }
        all.extend(map(json!({
            "model": model(),
            "prompt": { "type": "string", "description": "What happens." },
            "seconds": { "type": "string", "description": "The length in seconds, instead of `frames`." },
            "size": { "type": "string", "pattern": "^[0-9]+x[0-9]+$", "description": "Width and height like `64x64`." },
            "input_reference": file("The image of which the clip is made, for models that do so."),
        })));
        object(all, &[])
    }
}

/// A video.
#[derive(Serialize, ToSchema)]
pub struct Video {
    /// Its name, which is that of its job.
    id: String,
    /// Always `video`.
    object: String,
    /// The model.
    model: String,
    /// `queued`, `in_progress`, `completed` or `failed`.
    status: String,
    /// How much is done, in percent.
    progress: usize,
    /// When it was accepted, in seconds since 1970.
    created_at: u64,
    /// When it ended.
    completed_at: Option<u64>,
    /// Always null: results stay until the gallery is full.
    expires_at: Option<u64>,
    /// Why it has failed: `code` and `message`.
    #[schema(value_type = Option<Object>)]
    error: Option<Map<String, Value>>,
    /// The prompt.
    prompt: Option<String>,
    /// Width and height like `64x64`.
    size: String,
    /// The length in seconds.
    seconds: String,
    /// The seed.
    seed: u64,
}

/// Videos, newest first.
#[derive(Serialize, ToSchema)]
pub struct Videos {
    /// Always `list`.
    object: String,
    /// The videos.
    data: Vec<Video>,
    /// The name of the first.
    first_id: Option<String>,
    /// Where the next page begins.
    last_id: Option<String>,
    /// Whether there may be more.
    has_more: bool,
}

/// A video that was deleted.
#[derive(Serialize, ToSchema)]
pub struct DeletedVideo {
    /// Its name.
    id: String,
    /// Always `video.deleted`.
    object: String,
    /// Always true.
    deleted: bool,
}

/// Finished images.
#[derive(Serialize, ToSchema)]
pub struct Images {
    /// When the request was accepted, in seconds since 1970.
    created: u64,
    /// The images.
    data: Vec<OneImage>,
    /// `png`, `webp` or `jpeg`.
    output_format: String,
    /// Always `opaque`.
    background: String,
    /// Always `auto`.
    quality: String,
    /// The size that was asked for, or `auto`.
    size: String,
    /// Counts of tokens, which are all 0.
    #[schema(value_type = Object)]
    usage: Map<String, Value>,
    /// The seed.
    seed: u64,
    /// The name of the job.
    job: String,
    /// Fields of the request that had no effect.
    ignored: Vec<String>,
}

/// A finished image.
#[derive(Serialize, ToSchema)]
pub struct OneImage {
    /// Its number.
    image: usize,
    /// The file in base 64.
    b64_json: Option<String>,
    /// Its address, with `response_format` `url`.
    url: Option<String>,
}

fn file(about: &str) -> Value {
    json!({ "type": "string", "format": "binary", "description": about })
}

/// What requests for images have in common.
fn images() -> Map<String, Value> {
    let mut all = map(json!({
        "model": model(),
        "prompt": { "type": "string", "description": "A text, or the names of classes separated by commas." },
        "n": { "type": "integer", "minimum": 1, "description": "Number of images." },
        "size": { "type": "string", "pattern": "^(auto|[0-9]+x[0-9]+)$", "description": "Width and height like `512x768`." },
        "stream": { "type": "boolean", "description": "Answer with server-sent events." },
        "partial_images": { "type": "integer", "minimum": 0, "maximum": 3, "description": "Number of previews in the stream." },
        "response_format": { "type": "string", "enum": ["b64_json", "url"] },
        "output_format": { "type": "string", "enum": ["png", "webp", "jpeg"] },
        "output_compression": { "type": "integer", "minimum": 0, "maximum": 100, "description": "Quality of a JPEG." },
        "background": { "type": "string", "enum": ["auto", "opaque"] },
    }));
    let ignored = super::asked::IGNORED
        .map(|name| (name.to_owned(), json!({ "type": "string", "description": "Has no effect." })));
    all.extend(ignored);
    all
}
