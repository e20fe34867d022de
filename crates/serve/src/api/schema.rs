//! The fields of a request for the OpenAPI document.

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

/// What to make: all fields are optional.
#[derive(ToSchema)]
pub struct JobRequest;

impl JobRequest {
    /// Its schema, which takes the place of the derived one.
    pub fn schema() -> Value {
        let mut fields = fields();
        fields.extend(map(json!({
            "model": model(),
            "priority": { "type": "string", "enum": ["high", "normal", "low"] },
            "deadline": { "type": "number", "exclusiveMinimum": 0, "description": "Seconds until the job fails." },
        })));
        object(fields, &[])
    }
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

/// The fields of our requests.
pub fn fields() -> Map<String, Value> {
    [sampling(), inputs()].into_iter().flat_map(map).collect()
}

/// The entries of an object.
pub fn map(object: Value) -> Map<String, Value> {
    if let Value::Object(entries) = object { entries } else { Map::new() }
}

/// The schema of an object with these fields and no others.
pub fn object(fields: Map<String, Value>, required: &[&str]) -> Value {
    json!({ "type": "object", "additionalProperties": false, "properties": fields, "required": required })
}

/// The name of a model.
pub fn model() -> Value {
    json!({ "type": "string", "description": "One of `/v1/models`; by default the first." })
}

fn file(about: &str) -> Value {
    json!({ "type": "object", "required": ["sha256"], "additionalProperties": false, "description": about,
        "properties": { "sha256": { "type": "string", "pattern": "^[0-9a-f]{64}$" } } })
}

fn number(least: f64, most: f64, about: &str) -> Value {
    json!({ "type": "number", "minimum": least, "maximum": most, "description": about })
}

fn whole(least: u64, about: &str) -> Value {
    json!({ "type": "integer", "minimum": least, "description": about })
}

fn four(about: &str) -> Value {
    json!({ "type": "array", "items": { "type": "integer", "minimum": 0 }, "minItems": 4, "maxItems": 4,
        "description": about })
}

fn two(items: &Value, about: &str) -> Value {
    json!({ "type": "array", "items": items, "minItems": 2, "maxItems": 2, "description": about })
}

/// What is sampled, and how.
fn sampling() -> Value {
    json!({
        "prompt": {
            "oneOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }],
            "description": "Prompts, used in turn. Text-to-image models only."
        },
        "negative_prompt": { "type": "string" },
        "voice": { "type": "string" },
        "loudness": number(-70.0, 0.0, "Integrated loudness of sounds in LUFS."),
        "seconds": { "type": "number", "exclusiveMinimum": 0, "description": "Length of sounds, instead of `size`." },
        "start": number(0.0, 86_400.0, "Second at which the sound begins, as a part of a longer one."),
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
        "min_guidance": { "type": "number", "minimum": 0, "description": "Guidance scale of the first frame of a clip of an image." },
        "guidance_interval": two(&json!({ "type": "number" }), "The range of noise levels with guidance."),
        "guidance_rescale": number(0.0, 1.0, "How much guided predictions are rescaled."),
        "dynamic_threshold": number(0.0, 1.0, "Quantile of magnitudes."),
        "clip_skip": whole(0, "Number of the text encoder's last layers to skip."),
        "prior_steps": whole(1, "Number of solver steps of the prior of a DALL-E 2 model."),
        "prior_guidance": { "type": "number", "minimum": 0, "description": "Guidance scale of the prior." }
    })
}

/// Files and the size of the result.
fn inputs() -> Value {
    json!({
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
        "embeddings": {
            "type": "array",
            "items": {
                "type": "object", "required": ["file"], "additionalProperties": false,
                "properties": { "file": file("An uploaded textual inversion."), "token": { "type": "string", "description": "Its word in prompts." } }
            },
            "description": "Learned words of prompts."
        },
        "aesthetic_score": number(1.0, 10.0, "How beautiful the result should be. For SDXL's refiner."),
        "negative_aesthetic_score": number(1.0, 10.0, "The same for unconditional predictions."),
        "prompt_weights": { "type": "string", "description": "Convention for word weights." },
        "untuned": { "type": "boolean", "description": "Ignore learned samplers." },
        "image": file("The initial image or sound, or the image that is enlarged: an upload or a result."),
        "noise_level": whole(0, "Noise on the image that is enlarged or of which a clip is made, in thousandths of its standard deviation."),
        "known": known(),
        "controls": controls(),
        "guess": { "type": "boolean", "description": "ControlNets only act on the prediction for the prompt." },
        "strength": number(0.0, 1.0, "How much of the initial image is replaced."),
        "noise": file("The initial noise: an uploaded safetensors file."),
        "size": {
            "type": "array", "items": { "type": "integer", "minimum": 1 },
            "description": "Height and width, or the axes of other media."
        },
        "seconds": { "type": "number", "exclusiveMinimum": 0, "description": "Length of sounds." },
        "frames": whole(1, "Number of frames of clips."),
        "fps": whole(1, "Frames of clips per second."),
        "motion": whole(0, "How much moves in a clip of an image, 127 by default."),
        "vae_frames": whole(1, "Frames of clips that are decoded together."),
        "vae_tile": whole(1, "Pixels of tiles of the autoencoder."),
        "chunk": whole(1, "Maximum batch size of this job."),
        "precision": { "type": "string", "enum": ["f32", "bf16", "int8"] }
    })
}

/// An existing image.
fn known() -> Value {
    json!({
        "type": "object", "required": ["image"], "additionalProperties": false,
        "description": "An existing image or sound that is edited or restored.",
        "properties": {
            "image": file("The image or sound."),
            "mask": {
                "type": "object", "additionalProperties": false,
                "description": "The part to change: the union of all that is given. With degradations, the part that is not known.",
                "properties": {
                    "files": { "type": "array", "items": file("White is changed, black is kept.") },
                    "rectangles": { "type": "array", "items": four("Left, top, width and height in pixels.") },
                    "ellipses": { "type": "array", "items": four("Ellipses that fill such rectangles.") },
                    "transparent": { "type": "boolean", "description": "The transparent pixels of the image." },
                    "extend": four("New pixels beyond the left, top, right and bottom border."),
                    "gaps": {
                        "type": "array",
                        "items": { "type": "array", "items": { "type": "number" }, "minItems": 2, "maxItems": 2 },
                        "description": "Parts of a sound: beginning and end in seconds."
                    },
                    "feather": whole(0, "Width in pixels over which the change sets in.")
                }
            },
            "degradations": {
                "type": "array", "items": {
                    "type": "object", "required": ["kind"], "additionalProperties": false,
                    "properties": {
                        "kind": { "type": "string", "enum": ["bicubic", "box", "blur", "kernel", "grey", "jpeg", "lowpass", "clip"] },
                        "factor": whole(2, "Of `bicubic` and `box`: the image was shrunk to `1/factor` of each side."),
                        "sigma": { "type": "number", "exclusiveMinimum": 0, "description": "Of `blur`: standard deviation in pixels." },
                        "file": file("Of `kernel`: a grey image with odd sides."),
                        "quality": { "type": "integer", "minimum": 1, "maximum": 100, "description": "Of `jpeg`." },
                        "hertz": { "type": "number", "exclusiveMinimum": 0, "description": "Of `lowpass`: what is below is known." },
                        "level": { "type": "number", "exclusiveMinimum": 0, "maximum": 1, "description": "Of `clip`; by default the largest." }
                    }
                },
                "description": "What has happened to it, in this order, if all of it is restored."
            },
            "noise": { "type": "number", "minimum": 0, "description": "Standard deviation of the noise: of an image in 1/255, of a sound as a part of the largest value." },
            "method": { "description": "How the change follows from what is known: `repaint=5,3`, `ddrm` …" }
        }
    })
}

/// Images for ControlNets.
fn controls() -> Value {
    json!({
        "type": "array", "items": {
            "type": "object", "required": ["image"], "additionalProperties": false,
            "properties": {
                "image": file("The image that it follows, such as edges, depth or a pose."),
                "canny": two(&json!({ "type": "number" }), "Follow the edges of the image, found with these thresholds."),
                "scale": { "type": "number", "description": "The factor of its outputs, 1 by default." },
                "range": two(&number(0.0, 1.0, "A part of the steps."), "The part of the steps in which it acts."),
                "net": { "type": "string", "description": "One of the ControlNets of `/v1/limits`, unless the model has its own." }
            }
        },
        "description": "An image for each ControlNet."
    })
}
