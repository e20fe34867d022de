//! The HTTP APIs.

mod a1111;
mod answers;
mod body;
mod description;
mod events;
mod files;
mod gallery;
mod jobs;
mod models;
mod openai;
mod operations;
mod schema;
mod uploads;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};

use crate::{
    Fault,
    auth::{self, Guard, Tokens},
    pages,
    service::Service,
};

/// All routes.
pub fn router(service: Arc<Service>, tokens: Tokens) -> Router {
    let guard = Guard { tokens: Arc::new(tokens), service: service.clone() };
    let guarded = Router::new()
        .route("/v1/jobs", post(jobs::create))
        .route("/v1/jobs/{id}", get(jobs::show).delete(jobs::cancel))
        .route("/v1/jobs/{id}/events", get(events::stream))
        .route("/v1/uploads", post(uploads::create))
        .route("/v1/uploads/{sha256}", get(uploads::show))
        .route("/v1/gallery", get(gallery::list))
        .route("/v1/gallery/{id}", delete(gallery::remove))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{name}", get(models::show))
        .route("/v1/limits", get(models::limits))
        .route("/v1/images/generations", post(openai::generations))
        .route("/v1/images/edits", post(openai::edits))
        .route("/v1/images/variations", post(openai::variations))
        .route("/v1/audio/speech", post(openai::speech))
        .route("/v1/videos", post(openai::videos::create).get(openai::videos::list))
        .route("/v1/videos/{id}", get(openai::videos::show).delete(openai::videos::remove))
        .route("/v1/videos/{id}/content", get(openai::videos::content))
        .nest("/sdapi/v1", a1111::router(service.clone()))
        .route("/metrics", get(operations::metrics))
        .layer(middleware::from_fn_with_state(guard.clone(), auth::check));
    let open = Router::new()
        .route("/", get(pages::index))
        .route("/studio/{name}", get(pages::file))
        .route("/healthz", get(operations::health))
        .route("/readyz", get(operations::ready))
        .route("/openapi.json", get(description::document))
        .route("/v1/files/{name}", get(files::show))
        .layer(middleware::from_fn_with_state(guard, known_host));
    guarded
        .merge(open)
        .fallback(nowhere)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(hardened))
        .with_state(service)
}

/// What needs no token is still not for pages of other sites.
async fn known_host(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    if guard.tokens.is_empty()
        && let Err(fault) = auth::check_origin(request.headers(), &guard.service.config.hosts)
    {
        return fault.into_response();
    }
    next.run(request).await
}

async fn nowhere(request: Request) -> Fault {
    Fault::missing(format!("there is no `{}`", request.uri().path()))
}

async fn wrong_method(request: Request) -> Fault {
    let message = format!("`{}` does not support the method {}", request.uri().path(), request.method());
    Fault::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}

/// Headers for browsers: nothing is guessed, framed or loaded from elsewhere.
async fn hardened(request: Request, next: Next) -> Response {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
                          connect-src 'self'; media-src 'self'; base-uri 'none'; form-action 'none'; \
                          frame-ancestors 'none'";
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
