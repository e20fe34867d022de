//! The OpenAPI document.

use std::sync::LazyLock;

use axum::Json;
use serde_json::{Value, json};
use utoipa::OpenApi;

use super::{a1111, answers, openai, schema};

/// Paths that need no token.
const OPEN: [&str; 4] = ["/healthz", "/readyz", "/v1/files/{name}", "/openapi.json"];

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
        super::uploads::show,
        super::gallery::list,
        super::gallery::remove,
        super::models::list,
        super::models::show,
        super::models::limits,
        super::openai::generations,
        super::openai::edits,
        super::openai::variations,
        super::openai::speech,
        super::openai::videos::create,
        super::openai::videos::list,
        super::openai::videos::show,
        super::openai::videos::remove,
        super::openai::videos::content,
        super::operations::health,
        super::operations::ready,
        super::operations::metrics,
    ),
    components(schemas(
        answers::ErrorBody,
        answers::JobState,
        answers::Event,
        answers::Gallery,
        answers::Uploaded,
        answers::Models,
        answers::ModelFacts,
        schema::JobRequest,
        schema::JobForm,
        openai::schema::ImageRequest,
        openai::schema::ImageForm,
        openai::schema::SpeechRequest,
        openai::schema::Images,
        openai::schema::VideoRequest,
        openai::schema::Video,
        openai::schema::Videos,
        openai::schema::DeletedVideo,
    ))
)]
struct Document;

/// The OpenAPI document.
pub async fn document() -> Json<Value> {
    static WHOLE: LazyLock<Value> = LazyLock::new(whole);
    Json(WHOLE.clone())
}

fn whole() -> Value {
    let mut document = serde_json::to_value(Document::openapi()).unwrap_or_default();
    for (name, schema) in [
        ("JobRequest", schema::JobRequest::schema()),
        ("ImageRequest", openai::schema::ImageRequest::schema()),
        ("ImageForm", openai::schema::ImageForm::schema()),
        ("SpeechRequest", openai::schema::SpeechRequest::schema()),
        ("VideoRequest", openai::schema::VideoRequest::schema()),
        ("Refusal", a1111::schema::refusal()),
    ] {
        document["components"]["schemas"][name] = schema;
    }
    document["components"]["securitySchemes"] = json!({ "token": { "type": "http", "scheme": "bearer" } });
    if let Value::Object(paths) = &mut document["paths"] {
        paths.extend(a1111::schema::paths());
        for (path, operations) in paths {
            for operation in operations.as_object_mut().into_iter().flat_map(|all| all.values_mut()) {
                guarded(path, operation);
            }
        }
    }
    document
}

/// Adds what all operations may answer.
fn guarded(path: &str, operation: &mut Value) {
    let kind = operation["tags"][0].as_str().unwrap_or_default();
    let makes = ["openai", "a1111"].contains(&kind);
    let (is_open, is_stored) = (OPEN.contains(&path), ["jobs", "files", "gallery", "models"].contains(&kind));
    if !is_open {
        // Without tokens in its configuration, the server needs none.
        operation["security"] = json!([{}, { "token": [] }]);
    }
    let Some(answers) = operation["responses"].as_object_mut() else { return };
    let error = json!({ "application/json": { "schema": { "$ref": "#/components/schemas/ErrorBody" } } });
    for (status, applies, about) in [
        ("401", !is_open, "The token is missing or unknown."),
        ("403", true, "The request names another host, or comes from a page of another site."),
        ("500", makes, "The model could not make it."),
        (
            "503",
            is_stored || makes,
            "The server cannot do it now: its disk is full, a model cannot be loaded, or it is stopping.",
        ),
        ("504", makes, "The job took longer than the server allows."),
    ] {
        let is_told = answers.contains_key(status) || (status < "500" && answers.contains_key("4XX"));
        if applies && !is_told {
            answers.insert(status.into(), json!({ "description": about, "content": error }));
        }
    }
}
