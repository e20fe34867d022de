//! Lists that fill the menus of its clients. What this server does not have is empty.

use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use serde_json::{Value, json};
use tweedie_pipe::a1111::{SAMPLERS, SCHEDULES};

use super::{Web, extras::FILTERS};
use crate::{
    desk::Offer,
    metrics::resident,
    store::{Named, Part},
};

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

async fn upscalers(State(web): State<Web>) -> Json<Value> {
    let upscaler = |name: &str, model: Option<&str>, scale: usize| json!({ "name": name, "model_name": model, "model_path": null, "model_url": null, "scale": scale });
    // A filter has any scale; this is what clients show.
    let filters = FILTERS.iter().map(|(name, _)| upscaler(name, None, 4));
    let models = web.service.desk.offers().iter();
    let models = models.filter_map(|offer| Some(upscaler(&offer.name, Some(&offer.name), offer.enlarges?)));
    Json(filters.chain(models).collect())
}

async fn models(State(web): State<Web>) -> Json<Value> {
    let model = |Offer { name, about, .. }: &Offer| {
        json!({ "title": name, "model_name": name, "hash": null, "sha256": null, "filename": name, "config": null,
                "about": about })
    };
    // Those that enlarge are upscalers.
    Json(web.service.desk.offers().iter().filter(|offer| offer.enlarges.is_none()).map(model).collect())
}

async fn loras(State(web): State<Web>) -> Json<Value> {
    let lora =
        |Named { name, .. }: &Named| json!({ "name": name, "alias": name, "path": name, "metadata": {} });
    Json(web.service.store.named(Part::Lora).map(lora).collect())
}

async fn memory() -> Json<Value> {
    let (used, free) = (resident().unwrap_or(0), tweedie_system::memory::available().unwrap_or(0));
    Json(json!({
        "ram": { "free": free, "used": used, "total": free + used },
        "cuda": { "error": "this server does not report the memory of devices" },
    }))
}
