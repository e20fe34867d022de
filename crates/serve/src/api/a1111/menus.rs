//! Lists that fill the menus of its clients. What this server does not have is empty.

use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use serde_json::{Value, json};
use tweedie_pipe::a1111::{SAMPLERS, SCHEDULES};

use super::{Web, images::UPSCALERS};
use crate::metrics::resident;

/// Lists of things that this server does not have.
const EMPTY: [&str; 10] = [
    "hypernetworks",
    "face-restorers",
    "realesrgan-models",
    "prompt-styles",
    "sd-vae",
    "sd-modules",
    "latent-upscale-modes",
    "script-info",
    "extensions",
    "artists",
];

/// The routes.
pub fn router() -> Router<Web> {
    let mut router = Router::new()
        .route("/samplers", get(samplers))
        .route("/schedulers", get(schedulers))
        .route("/upscalers", get(upscalers))
        .route("/sd-models", get(models))
        .route("/loras", get(loras))
        .route("/refresh-loras", post(|| async { Json(Value::Null) }))
        .route("/refresh-checkpoints", post(|| async { Json(Value::Null) }))
        .route("/embeddings", get(|| async { Json(json!({ "loaded": {}, "skipped": {} })) }))
        .route("/scripts", get(|| async { Json(json!({ "txt2img": [], "img2img": [] })) }))
        .route("/cmd-flags", get(|| async { Json(json!({})) }))
        .route("/memory", get(memory));
    for name in EMPTY {
        router = router.route(&format!("/{name}"), get(|| async { Json(json!([])) }));
    }
    router
}

async fn samplers() -> Json<Value> {
    let sampler = |(name, solver): &(&str, &str)| json!({ "name": name, "aliases": [solver], "options": {} });
    Json(SAMPLERS.iter().map(sampler).collect())
}

async fn schedulers() -> Json<Value> {
    let schedule = |(name, label, _): &(&str, &str, _)| json!({ "name": name, "label": label, "aliases": null, "default_rho": -1.0, "need_inner_model": false });
    Json(SCHEDULES.iter().map(schedule).collect())
}

async fn upscalers() -> Json<Value> {
    let upscaler = |(name, _): &(&str, _)| json!({ "name": name, "model_name": null, "model_path": null, "model_url": null, "scale": 4 });
    Json(UPSCALERS.iter().map(upscaler).collect())
}

async fn models(State(web): State<Web>) -> Json<Value> {
    let model = |(name, about): &(String, String)| {
        json!({ "title": name, "model_name": name, "hash": null, "sha256": null, "filename": name, "config": null,
                "about": about })
    };
    Json(web.service.desk.names().iter().map(model).collect())
}

async fn loras(State(web): State<Web>) -> Json<Value> {
    let lora = |name| json!({ "name": name, "alias": name, "path": name, "metadata": {} });
    Json(web.service.store.loras().map(lora).collect())
}

async fn memory() -> Json<Value> {
    let (used, free) = (resident().unwrap_or(0), tweedie_system::memory::available().unwrap_or(0));
    Json(json!({
        "ram": { "free": free, "used": used, "total": free + used },
        "cuda": { "error": "this server does not report the memory of devices" },
    }))
}
