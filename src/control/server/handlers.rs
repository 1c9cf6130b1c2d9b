//! Each path and method, and the document that describes them.
//!
//! A handler takes a request apart, has an operation carried out, and gives its result back. What
//! it is registered with is what the document says of it.

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::State;
use hyper::StatusCode;
use utoipa::openapi::{Content, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Served;
use super::exchange::{Answer, Json, Name, Options, Plain, method_not_allowed, not_found};
use crate::control::activity::Activity;
use crate::control::api::{
    ChangeDataset, ChangeSnapshot, ChangeStore, Compare, Dataset, DeleteDataset, Difference,
    ErrorKind, Export, Failure, Health, ListSnapshots, NewClone, NewDataset, NewSnapshot, Snapshot,
    Stats, StoreSettings, Trim, Trimmed,
};
use crate::control::operations::{self, Made};
use crate::control::prometheus;

type Result<T> = std::result::Result<T, Failure>;

/// Datasets, snapshots and clones of a razorfs store, while a daemon serves it to virtual machines.
#[derive(OpenApi)]
#[openapi(
    info(title = "razorfs", version = "1"),
    components(schemas(Failure, ErrorKind))
)]
struct Document;

/// The paths, for who serves them, and the document of them.
fn paths() -> OpenApiRouter<Served> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(health))
        .routes(routes!(list_datasets, create_dataset))
        .routes(routes!(get_dataset, change_dataset, delete_dataset))
        .routes(routes!(list_snapshots, take_snapshot))
        .routes(routes!(get_snapshot, change_snapshot, delete_snapshot))
        .routes(routes!(restore))
        .routes(routes!(promote))
        .routes(routes!(clone_dataset))
        .routes(routes!(differences))
        .routes(routes!(trim))
        .routes(routes!(list_exports))
        .routes(routes!(stats))
        .routes(routes!(get_activity))
        .routes(routes!(metrics))
        .routes(routes!(change_store))
        .routes(routes!(openapi))
}

/// The OpenAPI 3.1 document.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    paths().split_for_parts().1
}

/// What answers requests.
pub fn router(served: Served) -> Router {
    let (paths, _) = paths().split_for_parts();
    paths
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(served)
}

/// What every request may be answered with.
const ANY: [ErrorKind; 4] = [
    ErrorKind::BadRequest,
    ErrorKind::MethodNotAllowed,
    ErrorKind::Failed,
    ErrorKind::Overloaded,
];

/// Refusals of requests that only look.
struct Unreadable;

/// Refusals of requests that change something.
struct Refusals;

type Responses = BTreeMap<String, RefOr<utoipa::openapi::Response>>;

impl IntoResponses for Unreadable {
    fn responses() -> Responses {
        described(&[&ANY[..], &[ErrorKind::BadName, ErrorKind::NotFound]].concat())
    }
}

impl IntoResponses for Refusals {
    fn responses() -> Responses {
        described(&ErrorKind::ALL)
    }
}

fn described(kinds: &[ErrorKind]) -> Responses {
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for kind in kinds {
        let name = serde_json::to_value(kind).unwrap_or_default();
        let name = name.as_str().unwrap_or_default().to_owned();
        names
            .entry(kind.status().to_string())
            .or_default()
            .push(name);
    }
    let failure = || Content::new(Some(Ref::from_schema_name("Failure")));
    let response = |names: Vec<String>| {
        let description = format!("Refused: {}", names.join(", "));
        let response = ResponseBuilder::new().description(description);
        RefOr::T(response.content("application/json", failure()).build())
    };
    let all = names.into_iter();
    all.map(|(status, names)| (status, response(names)))
        .collect()
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

/// All datasets and snapshots, by number.
#[utoipa::path(
    get,
    path = "/api/v1/datasets",
    responses((status = OK, body = Vec<Dataset>), Unreadable),
)]
async fn list_datasets(State(served): State<Served>) -> Result<Answer<Vec<Dataset>>> {
    served.run(operations::datasets).await.map(Answer)
}

/// Makes an empty dataset. Asking again for the same is answered with what is there.
#[utoipa::path(
    post,
    path = "/api/v1/datasets",
    request_body = NewDataset,
    responses(
        (status = CREATED, description = "It was made", body = Dataset),
        (status = OK, description = "It was there already", body = Dataset),
        Refusals,
    ),
)]
async fn create_dataset(
    State(served): State<Served>,
    Json(new): Json<NewDataset>,
) -> Result<Made<Dataset>> {
    let create = move |store: &_| operations::create_dataset(store, &new);
    served.run(create).await
}

/// A dataset or a snapshot.
#[utoipa::path(
    get,
    path = "/api/v1/datasets/{name}",
    params(("name" = String, Path, description = "DATASET or DATASET@SNAPSHOT")),
    responses((status = OK, body = Dataset), Unreadable),
)]
async fn get_dataset(State(served): State<Served>, Name(name): Name) -> Result<Answer<Dataset>> {
    let get = move |store: &_| operations::dataset(store, &name);
    served.run(get).await.map(Answer)
}

/// Changes a dataset's settings, or its name.
#[utoipa::path(
    patch,
    path = "/api/v1/datasets/{name}",
    params(("name" = String, Path, description = "DATASET")),
    request_body = ChangeDataset,
    responses((status = OK, body = Dataset), Refusals),
)]
async fn change_dataset(
    State(served): State<Served>,
    Name(name): Name,
    Json(change): Json<ChangeDataset>,
) -> Result<Answer<Dataset>> {
    let change = move |store: &_| operations::change_dataset(store, &name, &change);
    served.run(change).await.map(Answer)
}

/// Deletes a dataset that nobody uses. Its space comes back bit by bit.
#[utoipa::path(
    delete,
    path = "/api/v1/datasets/{name}",
    params(("name" = String, Path, description = "DATASET"), DeleteDataset),
    responses((status = NO_CONTENT, description = "It is gone"), Refusals),
)]
async fn delete_dataset(
    State(served): State<Served>,
    Name(name): Name,
    Options(how): Options<DeleteDataset>,
) -> Result<StatusCode> {
    let delete = move |store: &_| operations::delete_dataset(store, &name, how.recursive);
    served.run(delete).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// All snapshots by number, or those of a dataset.
#[utoipa::path(
    get,
    path = "/api/v1/snapshots",
    params(ListSnapshots),
    responses((status = OK, body = Vec<Snapshot>), Unreadable),
)]
async fn list_snapshots(
    State(served): State<Served>,
    Options(which): Options<ListSnapshots>,
) -> Result<Answer<Vec<Snapshot>>> {
    let list = move |store: &_| operations::snapshots(store, which.dataset.as_deref());
    served.run(list).await.map(Answer)
}

/// Takes a snapshot: all that guests were told is done is in it. Asking again for the same is
/// answered with what is there.
#[utoipa::path(
    post,
    path = "/api/v1/snapshots",
    request_body = NewSnapshot,
    responses(
        (status = CREATED, description = "It was taken", body = Snapshot),
        (status = OK, description = "It was there already", body = Snapshot),
        Refusals,
    ),
)]
async fn take_snapshot(
    State(served): State<Served>,
    Json(new): Json<NewSnapshot>,
) -> Result<Made<Snapshot>> {
    let take = move |store: &_| operations::take_snapshot(store, &new);
    served.run(take).await
}

/// A snapshot.
#[utoipa::path(
    get,
    path = "/api/v1/snapshots/{name}",
    params(("name" = String, Path, description = "DATASET@SNAPSHOT")),
    responses((status = OK, body = Snapshot), Unreadable),
)]
async fn get_snapshot(State(served): State<Served>, Name(name): Name) -> Result<Answer<Snapshot>> {
    let get = move |store: &_| operations::snapshot(store, &name);
    served.run(get).await.map(Answer)
}

/// Gives a snapshot another name, holds or releases it.
#[utoipa::path(
    patch,
    path = "/api/v1/snapshots/{name}",
    params(("name" = String, Path, description = "DATASET@SNAPSHOT")),
    request_body = ChangeSnapshot,
    responses((status = OK, body = Snapshot), Refusals),
)]
async fn change_snapshot(
    State(served): State<Served>,
    Name(name): Name,
    Json(change): Json<ChangeSnapshot>,
) -> Result<Answer<Snapshot>> {
    let change = move |store: &_| operations::change_snapshot(store, &name, &change);
    served.run(change).await.map(Answer)
}

/// Deletes a snapshot that nobody uses. Its space comes back bit by bit.
#[utoipa::path(
    delete,
    path = "/api/v1/snapshots/{name}",
    params(("name" = String, Path, description = "DATASET@SNAPSHOT")),
    responses((status = NO_CONTENT, description = "It is gone"), Refusals),
)]
async fn delete_snapshot(State(served): State<Served>, Name(name): Name) -> Result<StatusCode> {
    let delete = move |store: &_| operations::delete_snapshot(store, &name);
    served.run(delete).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a dataset that nobody uses what a snapshot of it is. What it was is gone, but for its
/// snapshots.
#[utoipa::path(
    post,
    path = "/api/v1/snapshots/{name}/restore",
    params(("name" = String, Path, description = "DATASET@SNAPSHOT")),
    responses((status = OK, description = "The dataset", body = Dataset), Refusals),
)]
async fn restore(State(served): State<Served>, Name(name): Name) -> Result<Answer<Dataset>> {
    let restore = move |store: &_| operations::restore(store, &name);
    served.run(restore).await.map(Answer)
}

/// Gives a clone the snapshots that it has in common with the dataset that it was cloned from,
/// which counts as a clone of it from then on.
#[utoipa::path(
    post,
    path = "/api/v1/datasets/{name}/promote",
    params(("name" = String, Path, description = "DATASET")),
    responses((status = OK, body = Dataset), Refusals),
)]
async fn promote(State(served): State<Served>, Name(name): Name) -> Result<Answer<Dataset>> {
    let promote = move |store: &_| operations::promote(store, &name);
    served.run(promote).await.map(Answer)
}

/// Which paths differ between two snapshots, or a snapshot and a dataset as it is now.
#[utoipa::path(
    get,
    path = "/api/v1/differences",
    params(Compare),
    responses((status = OK, body = Vec<Difference>), Refusals),
)]
async fn differences(
    State(served): State<Served>,
    Options(of): Options<Compare>,
) -> Result<Answer<Vec<Difference>>> {
    let compare = move |store: &_| operations::differences(store, &of);
    served.run(compare).await.map(Answer)
}

/// Makes a dataset that begins as what its source is now. Asking again for the same is answered
/// with what is there.
#[utoipa::path(
    post,
    path = "/api/v1/clones",
    request_body = NewClone,
    responses(
        (status = CREATED, description = "It was made", body = Dataset),
        (status = OK, description = "It was there already", body = Dataset),
        Refusals,
    ),
)]
async fn clone_dataset(
    State(served): State<Served>,
    Json(new): Json<NewClone>,
) -> Result<Made<Dataset>> {
    let clone = move |store: &_| operations::clone_dataset(store, &new);
    served.run(clone).await
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
    let trim = move |store: &_| operations::trim(store, &how);
    served.run(trim).await.map(Answer)
}

/// What guests can reach.
#[utoipa::path(
    get,
    path = "/api/v1/exports",
    responses((status = OK, body = Vec<Export>), Unreadable),
)]
async fn list_exports(State(served): State<Served>) -> Result<Answer<Vec<Export>>> {
    let exports = served.exports.clone();
    let list = move |store: &_| exports.iter().map(|each| each.describe(store)).collect();
    served.run(list).await.map(Answer)
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

/// This document.
#[utoipa::path(
    get,
    path = "/api/v1/openapi.json",
    responses((status = OK, body = serde_json::Value), Unreadable),
)]
async fn openapi() -> Answer<utoipa::openapi::OpenApi> {
    Answer(document())
}
