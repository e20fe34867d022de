//! OpenAI's video API: `/v1/videos`, for models that make clips. A video is a job for one clip.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, Query, Request, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tweedie_pipe::Pipeline;

use super::{
    asked::{own_fields, refuse},
    key, uploaded,
};
use crate::{
    Fault,
    api::body,
    asked::{Fields, random_seed, size},
    auth::Client,
    formats::{self, clip_as},
    order::State as Stage,
    service::{Draft, Found, Service, blocking},
};

/// Videos of one page.
const PAGE: usize = 20;
/// The longest video that can be asked for, in seconds; the limit on pixels is usually reached before.
const LONGEST: f64 = 3600.0;

/// Starts a video.
#[utoipa::path(
    post, path = "/v1/videos", operation_id = "create_video", tag = "openai",
    request_body(content(
        (super::schema::VideoRequest = "multipart/form-data"),
        (super::schema::VideoRequest = "application/json"),
    )),
    responses(
        (status = 200, description = "The video was accepted.", body = super::schema::Video),
        (status = "4XX", description = "The request is invalid, or too much is waiting (429).", body = super::super::answers::ErrorBody),
        (status = 503, description = "The server cannot accept jobs now.", body = super::super::answers::ErrorBody),
    ),
)]
pub async fn create(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    request: Request,
) -> Result<Json<Value>, Fault> {
    let fields = match body::is_form(&headers) {
        true => uploaded(&service, request).await?,
        false => Fields(body::json(request, body::most(&service)).await?),
    };
    let draft = Draft { key: key(&headers), ..draft(&service, fields).await? };
    let submitted = service.submit(&client.0, draft).await?;
    video(&submitted.found).map(Json).ok_or_else(|| Fault::internal("the video has no length"))
}

/// What a model makes by default.
struct Clip {
    frames: usize,
    sides: [usize; 2],
    rate: u32,
}

impl Clip {
    fn of(pipeline: &Pipeline) -> Option<Self> {
        let native = pipeline.native_size().filter(|_| pipeline.axes() == 3)?;
        let &[frames, height, width] = native.as_slice() else { return None };
        Some(Self { frames, sides: [height, width], rate: pipeline.rate().unwrap_or(10) })
    }
}

async fn draft(service: &Arc<Service>, mut fields: Fields) -> Result<Draft, Fault> {
    let model = fields.text("model")?.filter(|model| !model.is_empty());
    let number = service.desk.find(model.as_deref())?;
    let own = service.desk.ask(number, Clip::of).await?.ok_or_else(|| {
        let name = &service.desk.offers()[number].name;
        Fault::field("model", format!("`{name}`: this model does not make clips; name one that does"))
    })?;
    refuse(&mut fields, "count", "the answer is one video")?;
    let seconds = fields.number("seconds")?;
    let sides = fields.text("size")?.map(|text| size("size", &text)).transpose()?.unwrap_or(own.sides);
    let image = fields.take("input_reference");
    let mut request = Map::new();
    own_fields(&mut request, &mut fields)?;
    let whole = |name: &str| request.get(name).and_then(Value::as_u64);
    let rate = whole("fps").unwrap_or(own.rate.into());
    let frames = match (seconds, whole("frames")) {
        (Some(_), Some(_)) => {
            return Err(Fault::field("seconds", "conflicts with `frames`: give one of them"));
        }
        (Some(seconds), None) if seconds > 0.0 && seconds <= LONGEST => {
            ((seconds * rate as f64).round() as u64).max(1)
        }
        (Some(seconds), None) => {
            return Err(Fault::field("seconds", format!("{seconds}: expected > 0 and ≤ {LONGEST}")));
        }
        (None, Some(frames)) => frames,
        (None, None) => own.frames as u64,
    };
    for (name, value) in [("fps", rate.into()), ("frames", frames.into()), ("size", json!(sides))] {
        request.insert(name.into(), value);
    }
    if let Some(image) = image {
        request.insert("image".into(), image);
    }
    request.entry("seed").or_insert_with(|| random_seed().into());
    Ok(Draft { model, request, ..Draft::default() })
}

/// A video of this client, by the name of its job.
#[utoipa::path(
    get, path = "/v1/videos/{id}", operation_id = "video", tag = "openai", params(("id" = String, Path, description = "The video.")),
    responses(
        (status = 200, description = "How far it is.", body = super::schema::Video),
        (status = 404, description = "There is no such video.", body = super::super::answers::ErrorBody),
    ),
)]
pub async fn show(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Fault> {
    Ok(Json(find(&service, &client, &id).await?.1))
}

/// Which part of the list.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Part {
    after: Option<String>,
    limit: Option<usize>,
    order: Option<String>,
}

/// The videos of the client, newest first.
#[utoipa::path(
    get, path = "/v1/videos", operation_id = "videos", tag = "openai",
    params(
        ("after" = Option<String>, Query, description = "Only videos that were accepted before this one."),
        ("limit" = Option<usize>, Query, description = "Number of jobs that are looked through, from 1 to 100; by default 20."),
        ("order" = Option<String>, Query, description = "Only `desc`."),
    ),
    responses(
        (status = 200, description = "The videos.", body = super::schema::Videos),
        (status = 400, description = "A parameter is invalid.", body = super::super::answers::ErrorBody),
    ),
)]
pub async fn list(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Client>,
    part: Result<Query<Part>, QueryRejection>,
) -> Result<Json<Value>, Fault> {
    let Query(part) = part.map_err(|e| Fault::invalid(e.body_text()))?;
    let limit = part.limit.unwrap_or(PAGE);
    if !(1..=100).contains(&limit) {
        return Err(Fault::field("limit", format!("{limit}: expected 1 to 100")));
    }
    if let Some(order) = part.order.filter(|order| order != "desc") {
        return Err(Fault::field("order", format!("`{order}`: expected `desc`")));
    }
    let records = service.list(&client.0, part.after, limit).await?;
    let more = records.len() == limit;
    let last = records.last().map(|record| record.order.id.clone());
    let found = |record: crate::journal::Record| match service.board.find(&record.order.id) {
        Some(live) => Found::Live(live),
        None => Found::Ended(Box::new(record)),
    };
    let data: Vec<Value> = records.into_iter().filter_map(|record| video(&found(record))).collect();
    let first = data.first().map(|video| video["id"].clone());
    Ok(Json(json!({ "object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more })))
}

/// Deletes a video that has ended.
#[utoipa::path(
    delete, path = "/v1/videos/{id}", operation_id = "delete_video", tag = "openai", params(("id" = String, Path, description = "The video.")),
    responses(
        (status = 200, description = "It is deleted.", body = super::schema::DeletedVideo),
        (status = 404, description = "There is no such video.", body = super::super::answers::ErrorBody),
        (status = 409, description = "It has not ended.", body = super::super::answers::ErrorBody),
    ),
)]
pub async fn remove(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Fault> {
    find(&service, &client, &id).await?;
    service.delete(&client.0, &id).await?;
    Ok(Json(json!({ "id": id, "object": "video.deleted", "deleted": true })))
}

/// What to download.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Content {
    variant: Option<String>,
}

/// The content of a video.
#[utoipa::path(
    get, path = "/v1/videos/{id}/content", operation_id = "video_content", tag = "openai",
    params(
        ("id" = String, Path, description = "The video."),
        ("variant" = Option<String>, Query, description = "`video` (default) or `thumbnail`, its first frame."),
    ),
    responses(
        (status = 200, description = "The file.", content((Vec<u8> = "video/mp4"), (Vec<u8> = "image/webp"))),
        (status = "4XX", description = "There is no such video, it has not ended or has failed, or the server cannot write MP4.", body = super::super::answers::ErrorBody),
    ),
)]
pub async fn content(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
    content: Result<Query<Content>, QueryRejection>,
) -> Result<Response, Fault> {
    let Query(content) = content.map_err(|e| Fault::invalid(e.body_text()))?;
    let still = match content.variant.as_deref() {
        None | Some("video") => false,
        Some("thumbnail") => true,
        Some(other) => {
            return Err(Fault::field("variant", format!("`{other}`: expected `video` or `thumbnail`")));
        }
    };
    let (found, video) = find(&service, &client, &id).await?;
    let state = &video["status"];
    let Found::Ended(record) = found else {
        return Err(Fault::invalid(format!("the video is {state}; wait until it is \"completed\"")));
    };
    let Some((_, stored)) = record.results.first() else {
        return Err(Fault::invalid(format!("the video is {state} and has no content")));
    };
    let path = service.store.result(&stored.sha256, stored.ending).ok_or_else(|| none(&id))?;
    let store = service.store.clone();
    let (kind, bytes) = match still {
        true => ("image/webp", blocking(move || formats::first_frame(&path)).await??),
        false => ("video/mp4", blocking(move || clip_as("mp4", &path, &store)).await??),
    };
    Ok(([(header::CONTENT_TYPE, kind)], bytes).into_response())
}

/// A video of this client, and its description.
async fn find(service: &Service, client: &Client, id: &str) -> Result<(Found, Value), Fault> {
    let found = service.find(&client.0, id).await;
    let found = found.map_err(|e| if e.status == StatusCode::NOT_FOUND { none(id) } else { e })?;
    let video = video(&found).ok_or_else(|| none(id))?;
    Ok((found, video))
}

fn none(id: &str) -> Fault {
    Fault::missing(format!("there is no video `{id}`"))
}

/// A job in OpenAI's form, if it was ordered as a video: such orders say how long it is.
fn video(found: &Found) -> Option<Value> {
    let (order, state, done) = match found {
        Found::Live(live) => {
            let progress = live.progress();
            (&live.order, live.state(), progress.step * 100 / progress.steps.max(1))
        }
        Found::Ended(record) => (&record.order, record.state, 100),
    };
    let whole = |name: &str| order.request.get(name).and_then(Value::as_u64);
    let sides = order.request.get("size").and_then(Value::as_array)?;
    let &[height, width] = sides.iter().filter_map(Value::as_u64).collect::<Vec<_>>().as_slice() else {
        return None;
    };
    let (frames, rate) = (whole("frames")?, whole("fps").filter(|rate| *rate > 0)?);
    let status = match state {
        Stage::Queued => "queued",
        Stage::Running => "in_progress",
        Stage::Finished => "completed",
        Stage::Failed | Stage::Cancelled => "failed",
    };
    let mut video = json!({
        "id": order.id, "object": "video", "model": order.model, "status": status, "progress": done,
        "created_at": order.created / 1000, "completed_at": null, "expires_at": null, "error": null,
        "prompt": order.request.get("prompt"), "size": format!("{width}x{height}"),
        "seconds": format!("{}", frames as f64 / rate as f64), "seed": order.request.get("seed"),
    });
    if let Found::Ended(record) = found {
        video["completed_at"] = record.finished.map(|at| at / 1000).into();
        if let Some((code, message)) = &record.error {
            video["error"] = json!({ "code": code, "message": message });
        }
    }
    Some(video)
}
