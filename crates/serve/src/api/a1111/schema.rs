//! Its paths for the OpenAPI document.

use serde_json::{Map, Value, json};

/// The form of its errors. Those of tokens and hosts have the form of all others.
pub fn refusal() -> Value {
    let text = json!({ "type": "string" });
    json!({ "type": "object", "required": ["error", "detail", "body", "errors"],
            "properties": { "error": text, "detail": text, "body": text, "errors": text } })
}

/// Its operations. What clients send without an effect here is not listed.
pub fn paths() -> Map<String, Value> {
    let answer = |fields: &[&str]| json!({ "type": "object", "required": fields });
    let list = json!({ "type": "array", "items": { "type": "object" } });
    let mut paths = Map::new();
    for (method, name, about, body, answer) in [
        (
            "post",
            "txt2img",
            "Images from a prompt.",
            Some(making()),
            answer(&["images", "parameters", "info"]),
        ),
        ("post", "img2img", "Changes an image.", Some(changing()), answer(&["images", "parameters", "info"])),
        (
            "post",
            "extra-single-image",
            "Enlarges an image.",
            Some(enlarging()),
            answer(&["html_info", "image"]),
        ),
        (
            "post",
            "png-info",
            "The texts in a PNG.",
            Some(with_image(&json!({}))),
            answer(&["info", "items", "parameters"]),
        ),
        (
            "get",
            "progress",
            "How far the client's jobs are.",
            None,
            answer(&["progress", "eta_relative", "state"]),
        ),
        ("post", "interrupt", "Cancels the client's jobs.", None, answer(&[])),
        ("post", "skip", "Cancels the first of the client's jobs.", None, answer(&[])),
        ("get", "options", "The client's options.", None, answer(&["sd_model_checkpoint"])),
        ("post", "options", "Selects the client's model.", Some(selecting()), json!({ "type": "null" })),
        ("get", "samplers", "Samplers.", None, list.clone()),
        ("get", "schedulers", "Spacings of noise levels.", None, list.clone()),
        ("get", "upscalers", "What enlarges.", None, list.clone()),
        ("get", "sd-models", "Models.", None, list.clone()),
        ("get", "loras", "LoRAs.", None, list),
        (
            "get",
            "embeddings",
            "Learned words, of which this server has none.",
            None,
            answer(&["loaded", "skipped"]),
        ),
        ("get", "memory", "Memory of the machine.", None, answer(&["ram", "cuda"])),
    ] {
        let mut operation = json!({
            "tags": ["a1111"], "operationId": format!("a1111_{method}_{}", name.replace('-', "_")), "summary": about,
            "responses": {
                "200": { "description": about, "content": { "application/json": { "schema": answer } } },
                "4XX": {
                    "description": "The request is invalid, or too much is waiting (429).",
                    "content": { "application/json": { "schema": { "anyOf": [
                        { "$ref": "#/components/schemas/Refusal" }, { "$ref": "#/components/schemas/ErrorBody" },
                    ] } } },
                },
                "503": {
                    "description": "The server cannot do it now.",
                    "content": { "application/json": { "schema": { "anyOf": [
                        { "$ref": "#/components/schemas/Refusal" }, { "$ref": "#/components/schemas/ErrorBody" },
                    ] } } },
                },
            },
        });
        if let Some(schema) = body {
            operation["requestBody"] =
                json!({ "required": true, "content": { "application/json": { "schema": schema } } });
        }
        let path = paths.entry(format!("/sdapi/v1/{name}")).or_insert_with(|| json!({}));
        path[method] = operation;
    }
    paths
}

fn whole(least: i64, most: i64) -> Value {
    json!({ "type": "integer", "minimum": least, "maximum": most })
}

/// The fields of `txt2img`.
fn making() -> Value {
    json!({ "type": "object", "properties": {
        "prompt": { "type": "string" },
        "negative_prompt": { "type": "string" },
        "steps": whole(1, 1 << 16),
        "cfg_scale": { "type": "number" },
        "width": whole(1, 1 << 16),
        "height": whole(1, 1 << 16),
        "seed": whole(-1, i64::MAX),
        "batch_size": whole(1, 1 << 16),
        "n_iter": whole(1, 1 << 16),
        "sampler_name": { "type": "string", "description": "One of `/sdapi/v1/samplers`." },
        "scheduler": { "type": "string", "description": "One of `/sdapi/v1/schedulers`." },
        "eta": { "type": "number" },
        "send_images": { "type": "boolean" },
        "override_settings": { "type": "object", "properties": { "sd_model_checkpoint": { "type": "string" } } },
    } })
}

/// The fields of `img2img`.
fn changing() -> Value {
    let mut schema = making();
    schema["required"] = json!(["init_images"]);
    for (name, field) in [
        (
            "init_images",
            json!({ "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": 1, "description": "An image in base 64." }),
        ),
        ("denoising_strength", json!({ "type": "number", "minimum": 0, "maximum": 1 })),
        ("mask", json!({ "type": "string", "description": "White where the image is changed, in base 64." })),
        ("mask_blur", whole(0, 256)),
        ("inpainting_fill", whole(0, 3)),
        ("inpainting_mask_invert", whole(0, 1)),
    ] {
        schema["properties"][name] = field;
    }
    schema
}

/// An image in base 64, and other fields.
fn with_image(others: &Value) -> Value {
    let mut schema = json!({ "type": "object", "required": ["image"], "properties": others });
    schema["properties"]["image"] = json!({ "type": "string", "description": "An image in base 64." });
    schema
}

/// The fields of `extra-single-image`.
fn enlarging() -> Value {
    with_image(&json!({
        "upscaler_1": { "type": "string", "description": "One of `/sdapi/v1/upscalers`." },
        "resize_mode": whole(0, 1),
        "upscaling_resize": { "type": "number", "description": "How many times larger per side." },
        "upscaling_resize_w": whole(0, 1 << 15),
        "upscaling_resize_h": whole(0, 1 << 15),
    }))
}

/// The option that this server has.
fn selecting() -> Value {
    json!({ "type": "object", "properties": { "sd_model_checkpoint": { "type": "string" } }, "additionalProperties": false })
}
