//! The store as a whole, and the daemon.

use axum::extract::State;
use axum::response::Response;
use hyper::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::document;
use super::{Refusals, Result, Unreadable};
use crate::control::activity::Activity;
use crate::control::api::{
    ChangeStore, Compact, Compacted, ErrorKind, Failure, Health, NewScrub, Scrub, Stats,
    StoreSettings, Trim, Trimmed, Watch,
};
use crate::control::operations::{self, Made};
use crate::control::prometheus;
use crate::control::server::exchange::{Answer, Json, LastEvent, Options, Plain};
use crate::control::server::{GoOn, Served};

/// The paths.
pub(super) fn paths() -> OpenApiRouter<Served> {
    OpenApiRouter::new()
        .routes(routes!(health))
        .routes(routes!(trim))
        .routes(routes!(compact))
        .routes(routes!(get_scrub, begin_scrub, stop_scrub))
        .routes(routes!(stats))
        .routes(routes!(get_activity))
        .routes(routes!(metrics))
        .routes(routes!(events))
        .routes(routes!(change_store))
        .routes(routes!(openapi))
}

/// Whether the daemon serves, and the store takes changes.
#[utoipa::path(get, path = "/health", responses((status = OK, body = Health), Unreadable))]
async fn health(State(served): State<Served>) -> Answer<Health> {
    let status = match served.store.is_writable() {
        true => "ok",
        false => "read-only",
    };
    Answer(Health {
        status: status.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
    })
}

/// Gives free space back to the disk below. While the daemon runs it does so by itself with what has
/// stayed free for a while.
#[utoipa::path(
    post,
    path = "/api/v1/trim",
    request_body = Trim,
    responses((status = OK, description = "What went back", body = Trimmed), Refusals),
)]
async fn trim(State(served): State<Served>, Json(how): Json<Trim>) -> Result<Answer<Trimmed>> {
    let trim = move |store: &_, go_on: &mut GoOn<'_>| operations::trim(store, &how, go_on);
    served.run_long(trim).await.map(Answer)
}

/// Makes chunks.dat shorter: moves what lies at its end to free space before it, while guests go
/// on, and gives back what is free then. Where the disk below knows holes in files, space goes back
/// without it.
#[utoipa::path(
    post,
    path = "/api/v1/compact",
    request_body = Compact,
    responses((status = OK, description = "What was moved", body = Compacted), Refusals),
)]
async fn compact(
    State(served): State<Served>,
    Json(how): Json<Compact>,
) -> Result<Answer<Compacted>> {
    let compact = move |store: &_, go_on: &mut GoOn<'_>| operations::compact(store, &how, go_on);
    served.run_one_of_few(compact).await.map(Answer)
}

/// What the scrub under way has done, or the last one.
#[utoipa::path(
    get,
    path = "/api/v1/scrub",
    responses((status = OK, body = Scrub), Unreadable),
)]
async fn get_scrub(State(served): State<Served>) -> Answer<Scrub> {
    Answer(operations::scrub_status(&served.store))
}

/// Begins to read everything that is stored, to find what is damaged. One that is under way goes on.
#[utoipa::path(
    post,
    path = "/api/v1/scrub",
    request_body = NewScrub,
    responses(
        (status = CREATED, description = "It has begun", body = Scrub),
        (status = OK, description = "One was under way", body = Scrub),
        Refusals,
    ),
)]
async fn begin_scrub(State(served): State<Served>, Json(how): Json<NewScrub>) -> Made<Scrub> {
    Made {
        is_new: served.scrub(how),
        it: operations::scrub_status(&served.store),
    }
}

/// Has the scrub under way stop soon, if there is one. The next one goes on there.
#[utoipa::path(
    delete,
    path = "/api/v1/scrub",
    responses((status = NO_CONTENT, description = "It stops"), Refusals),
)]
async fn stop_scrub(State(served): State<Served>) -> StatusCode {
    served.store.stop_scrub();
    StatusCode::NO_CONTENT
}

/// Changes the store's own size. It becomes larger at any time, and smaller down to what is used and
/// reserved.
#[utoipa::path(
    patch,
    path = "/api/v1/store",
    request_body = ChangeStore,
    responses((status = OK, body = StoreSettings), Refusals),
)]
async fn change_store(
    State(served): State<Served>,
    Json(change): Json<ChangeStore>,
) -> Result<Answer<StoreSettings>> {
    let change = move |store: &_| operations::change_store(store, &change);
    served.run(change).await.map(Answer)
}

/// Numbers of the store.
#[utoipa::path(
    get,
    path = "/api/v1/stats",
    responses((status = OK, body = Stats), Unreadable),
)]
async fn stats(State(served): State<Served>) -> Result<Answer<Stats>> {
    served.run(operations::stats).await.map(Answer)
}

/// What happens in the store and at its exports, as numbers since the daemon began: what happened in a
/// while is the difference of two answers.
#[utoipa::path(
    get,
    path = "/api/v1/activity",
    responses((status = OK, body = Activity), Unreadable),
)]
async fn get_activity(State(served): State<Served>) -> Result<Answer<Activity>> {
    served.activity().await.map(Answer)
}

/// The same for Prometheus, in its text format.
#[utoipa::path(
    get,
    path = "/metrics",
    responses((status = OK, body = String, content_type = "text/plain"), Unreadable),
)]
async fn metrics(State(served): State<Served>) -> Result<Plain> {
    let activity = served.activity().await?;
    let text = prometheus::text(&activity);
    let text = text.map_err(|error| Failure::new(ErrorKind::Failed, error.to_string()))?;
    Ok(Plain(prometheus::CONTENT_TYPE, text))
}

/// What happens, from now on or behind an event, as server-sent events: each has a number, a kind and
/// an `Event` as its data. Of kind `missed` it says how many are not known any more.
#[utoipa::path(
    get,
    path = "/api/v1/events",
    params(
        Watch,
        ("Last-Event-ID" = Option<u64>, Header, description = "As `after`, when that is not said"),
    ),
    responses(
        (
            status = OK,
            description = "It does not end",
            body = String,
            content_type = "text/event-stream",
        ),
        Unreadable,
    ),
)]
async fn events(
    State(served): State<Served>,
    Options(watch): Options<Watch>,
    LastEvent(last): LastEvent,
) -> Result<Response> {
    served.watch(watch.after.or(last))
}

/// This document.
#[utoipa::path(
    get,
    path = "/api/v1/openapi.json",
    responses((status = OK, body = serde_json::Value), Unreadable),
)]
async fn openapi() -> Answer<utoipa::openapi::OpenApi> {
    Answer(document())
}
