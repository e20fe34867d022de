//! For whoever runs the server: `/healthz`, `/readyz`, `/metrics`.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};

use crate::{Fault, desk::stopped, metrics::resident, order, service::Service};

/// Whether the process is alive.
#[utoipa::path(get, path = "/healthz", tag = "operations", responses((status = 200, description = "It is.", body = String)))]
pub async fn health() -> &'static str {
    "ok\n"
}

/// Whether the server accepts jobs.
#[utoipa::path(
    get, path = "/readyz", tag = "operations",
    responses(
        (status = 200, description = "It does.", body = String),
        (status = 503, description = "It is stopping, or its queue is full.", body = super::answers::ErrorBody),
    ),
)]
pub async fn ready(State(service): State<Arc<Service>>) -> Result<&'static str, Fault> {
    if service.stop.is_set() {
        return Err(stopped());
    }
    if service.board.len() >= service.config.limits.queue {
        return Err(Fault { status: StatusCode::SERVICE_UNAVAILABLE, ..Fault::busy("the queue is full", 1) });
    }
    Ok("ready\n")
}

/// Figures for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses((status = 200, description = "Its text format.", body = String)))]
pub async fn metrics(State(service): State<Arc<Service>>) -> impl IntoResponse {
    let all = service.board.all();
    let running = all.iter().filter(|live| live.progress().state == order::State::Running).count();
    let gauges = [
        ("jobs_waiting", "Jobs that have not begun.", (all.len() - running) as f64),
        ("jobs_running", "Jobs that have begun and not ended.", running as f64),
        ("models_loaded", "Models in memory.", service.desk.loaded().len() as f64),
        ("resident_bytes", "Resident memory of the process.", resident().unwrap_or(0) as f64),
    ];
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], service.metrics.text(&gauges))
}
