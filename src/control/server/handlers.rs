//! Each path and method, and the document that describes them.
//!
//! A handler takes a request apart, has an operation carried out, and gives its result back. What
//! it is registered with is what the document says of it.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::ops::ControlFlow;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use hyper::StatusCode;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Content, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::exchange::{
    Answer, Json, LastEvent, Name, Options, Plain, method_not_allowed, not_found,
};
use super::stream::Writer;
use super::upload::Upload;
use super::{GoOn, Served};
use crate::control::activity::Activity;
use crate::control::api::{
    ChangeDataset, ChangeProject, ChangeSnapshot, ChangeStore, Compact, Compacted, Compare,
    Dataset, DeleteDataset, DeleteExport, Difference, ErrorKind, Event, Export, Failure, Health,
    ListProjects, ListSnapshots, NewClone, NewDataset, NewExport, NewScrub, NewSnapshot, Project,
    ReceiveSnapshot, Received, Restore, RestoreDataset, Restored, Rewrite, Rewritten, Scrub,
    SendSnapshot, Snapshot, Stats, StoreSettings, Trim, Trimmed, UnfinishedReceive, Watch,
};
use crate::control::operations::{self, Made, Stream};
use crate::control::prometheus;
use crate::stream;

type Result<T> = std::result::Result<T, Failure>;

/// Datasets, snapshots and clones of a razorfs store, while a daemon serves it to virtual machines.
#[derive(OpenApi)]
#[openapi(
    info(title = "razorfs", version = "1"),
    security((), ("token" = [])),
    modifiers(&Token),
    components(schemas(Failure, ErrorKind, Event))
)]
struct Document;

/// Over TCP each request has it.
struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = Http::new(HttpAuthScheme::Bearer);
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(bearer));
    }
}

/// The paths, for who serves them, and the document of them.
fn paths() -> OpenApiRouter<Served> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(health))
        .routes(routes!(list_datasets, create_dataset))
        .routes(routes!(get_dataset, change_dataset, delete_dataset))
        .routes(routes!(list_snapshots, take_snapshot))
        .routes(routes!(get_snapshot, change_snapshot, delete_snapshot))
        .routes(routes!(restore))
        .routes(routes!(receive, unfinished_receive, abort_receive))
        .routes(routes!(restore_path))
        .routes(routes!(send))
        .routes(routes!(send_rest))
        .routes(routes!(promote))
        .routes(routes!(clone_dataset))
        .routes(routes!(differences))
        .routes(routes!(trim))
        .routes(routes!(compact))
        .routes(routes!(list_projects, change_project))
        .routes(routes!(list_exports, add_export))
        .routes(routes!(remove_export))
        .routes(routes!(rewrite))
        .routes(routes!(get_scrub, begin_scrub, stop_scrub))
        .routes(routes!(stats))
        .routes(routes!(get_activity))
        .routes(routes!(metrics))
        .routes(routes!(events))
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
const ANY: [ErrorKind; 6] = [
    ErrorKind::BadRequest,
    ErrorKind::Unauthorized,
    ErrorKind::MethodNotAllowed,
    ErrorKind::Failed,
    ErrorKind::Overloaded,
    ErrorKind::Interrupted,
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
    params(("name" = String, Path, description = "DATASET@SNAPSHOT"), RestoreDataset),
    responses((status = OK, description = "The dataset", body = Dataset), Refusals),
)]
async fn restore(
    State(served): State<Served>,
    Name(name): Name,
    Options(how): Options<RestoreDataset>,
) -> Result<Answer<Dataset>> {
    let exports = how.force.then(|| served.exports.clone());
    let restore = move |store: &_| operations::restore(store, exports.as_ref(), &name);
    served.run(restore).await.map(Answer)
}

/// Brings a file or a directory of a snapshot back into its dataset, which may be in use: by guests
/// that do not keep for long what they were told. Content is shared, and all of it appears at once.
#[utoipa::path(
    post,
    path = "/api/v1/snapshots/restore",
    request_body = Restore,
    responses((status = OK, description = "It is there", body = Restored), Refusals),
)]
async fn restore_path(
    State(served): State<Served>,
    Json(what): Json<Restore>,
) -> Result<Answer<Restored>> {
    let exports = served.exports.clone();
    let restore = move |store: &_, go_on: &mut GoOn<'_>| {
        operations::restore_path(store, Some(&exports), &what, go_on)
    };
    served.run_long(restore).await.map(Answer)
}

/// Receives a snapshot, as `razorfs send` writes it, into a new dataset, or into the one that has
/// the snapshot that the stream is based on. The dataset shows it once all of it is there. What
/// came before the body broke off, or before anything else failed, stays, and can be gone on with.
/// The body may be of any size.
#[utoipa::path(
    post,
    path = "/api/v1/datasets/{name}/receive",
    params(("name" = String, Path, description = "DATASET"), ReceiveSnapshot),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = OK, description = "It is there", body = Received), Refusals),
)]
async fn receive(
    State(served): State<Served>,
    Name(name): Name,
    Options(how): Options<ReceiveSnapshot>,
    request: Request,
) -> Result<Answer<Received>> {
    let room = served.take_long()?;
    let input = Upload::begin(request.into_body(), &served);
    let input = BufReader::with_capacity(1 << 20, input);
    let receive = move |store: &_, go_on: &mut GoOn<'_>| {
        let watch = &mut |_| match go_on() {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        };
        let received = operations::receive(store, &name, how.snapshot.as_deref(), input, watch);
        drop(room);
        received
    };
    served.run_long(receive).await.map(Answer)
}

/// What was received for a dataset before that was cut off.
#[utoipa::path(
    get,
    path = "/api/v1/datasets/{name}/receive",
    params(("name" = String, Path, description = "DATASET")),
    responses((status = OK, description = "There is something", body = UnfinishedReceive), Refusals),
)]
async fn unfinished_receive(
    State(served): State<Served>,
    Name(name): Name,
) -> Result<Answer<UnfinishedReceive>> {
    let unfinished = move |store: &_| operations::unfinished(store, &name);
    served.run(unfinished).await.map(Answer)
}

/// Drops that.
#[utoipa::path(
    delete,
    path = "/api/v1/datasets/{name}/receive",
    params(("name" = String, Path, description = "DATASET")),
    responses((status = NO_CONTENT, description = "It is gone"), Refusals),
)]
async fn abort_receive(State(served): State<Served>, Name(name): Name) -> Result<StatusCode> {
    let abort = move |store: &_| operations::abort_receive(store, &name);
    served.run(abort).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A snapshot as `razorfs send` writes it: what a `razorfs receive` reads. An answer that breaks off
/// is not all of it.
#[utoipa::path(
    get,
    path = "/api/v1/snapshots/{name}/stream",
    params(("name" = String, Path, description = "DATASET@SNAPSHOT"), SendSnapshot),
    responses(
        (
            status = OK,
            description = "The stream",
            body = Vec<u8>,
            content_type = "application/octet-stream",
        ),
        Refusals,
    ),
)]
async fn send(
    State(served): State<Served>,
    Name(name): Name,
    Options(how): Options<SendSnapshot>,
) -> Result<Response> {
    let open = move |store: &_| operations::send(store, &name, how.from.as_deref());
    served.write_out(open, write).await
}

/// The rest of such a stream for a receiver that was cut off.
#[utoipa::path(
    get,
    path = "/api/v1/streams/{token}",
    params(("token" = String, Path, description = "From `razorfs receive --resume-token`")),
    responses(
        (
            status = OK,
            description = "The stream",
            body = Vec<u8>,
            content_type = "application/octet-stream",
        ),
        Refusals,
    ),
)]
async fn send_rest(State(served): State<Served>, Name(token): Name) -> Result<Response> {
    let open = move |store: &_| operations::send_rest(store, &token);
    served.write_out(open, write).await
}

fn write(
    stream: Stream,
    out: &mut Writer,
    go_on: &mut GoOn<'_>,
) -> std::result::Result<(), String> {
    let watch = &mut |_| match go_on() {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    };
    let sent = stream::send(&stream.sending, stream.position, out, watch);
    sent.map(drop).map_err(|error| error.to_string())
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
    let compare = move |store: &_, go_on: &mut GoOn<'_>| operations::differences(store, &of, go_on);
    served.run_long(compare).await.map(Answer)
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
    let room = served.take_long()?;
    let compact = move |store: &_, go_on: &mut GoOn<'_>| {
        let done = operations::compact(store, &how, go_on);
        drop(room);
        done
    };
    served.run_long(compact).await.map(Answer)
}

/// Writes the content of a file anew, as the dataset's settings are now, in few extents.
#[utoipa::path(
    post,
    path = "/api/v1/datasets/{name}/rewrite",
    params(("name" = String, Path, description = "DATASET")),
    request_body = Rewrite,
    responses((status = OK, description = "It was written", body = Rewritten), Refusals),
)]
async fn rewrite(
    State(served): State<Served>,
    Name(name): Name,
    Json(what): Json<Rewrite>,
) -> Result<Answer<Rewritten>> {
    let room = served.take_long()?;
    let rewrite = move |store: &_, go_on: &mut GoOn<'_>| {
        let done = operations::rewrite(store, &name, &what, go_on);
        drop(room);
        done
    };
    served.run_long(rewrite).await.map(Answer)
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

/// What guests can reach.
#[utoipa::path(
    get,
    path = "/api/v1/exports",
    responses((status = OK, body = Vec<Export>), Unreadable),
)]
async fn list_exports(State(served): State<Served>) -> Result<Answer<Vec<Export>>> {
    let exports = served.exports.clone();
    let list = move |store: &_| operations::exports(store, &exports);
    served.run(list).await.map(Answer)
}

/// Exports a dataset or snapshot on a socket that is made for it. Asking again for the same is
/// answered with what is there.
#[utoipa::path(
    post,
    path = "/api/v1/exports",
    request_body = NewExport,
    responses(
        (status = CREATED, description = "It was exported", body = Export),
        (status = OK, description = "It was exported already", body = Export),
        Refusals,
    ),
)]
async fn add_export(
    State(served): State<Served>,
    Json(new): Json<NewExport>,
) -> Result<Made<Export>> {
    let exports = served.exports.clone();
    let add = move |store: &_| operations::add_export(store, &exports, &new);
    served.run(add).await
}

/// Ends an export, and removes its socket.
#[utoipa::path(
    delete,
    path = "/api/v1/exports/{socket}",
    params(
        ("socket" = String, Path, description = "The socket's path, with %2F for each slash"),
        DeleteExport,
    ),
    responses((status = NO_CONTENT, description = "It is gone"), Refusals),
)]
async fn remove_export(
    State(served): State<Served>,
    Name(socket): Name,
    Options(how): Options<DeleteExport>,
) -> Result<StatusCode> {
    let exports = served.exports.clone();
    let remove = move |_: &_| operations::remove_export(&exports, &socket, how.force);
    served.run(remove).await?;
    Ok(StatusCode::NO_CONTENT)
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

/// The projects of a dataset that have inodes or limits, by number.
#[utoipa::path(
    get,
    path = "/api/v1/projects",
    params(ListProjects),
    responses((status = OK, body = Vec<Project>), Unreadable),
)]
async fn list_projects(
    State(served): State<Served>,
    Options(of): Options<ListProjects>,
) -> Result<Answer<Vec<Project>>> {
    let list = move |store: &_| operations::projects(store, &of.dataset);
    served.run(list).await.map(Answer)
}

/// Sets limits of a project, and gives a directory tree to it.
#[utoipa::path(
    post,
    path = "/api/v1/projects",
    request_body = ChangeProject,
    responses((status = OK, description = "The project", body = Project), Refusals),
)]
async fn change_project(
    State(served): State<Served>,
    Json(change): Json<ChangeProject>,
) -> Result<Answer<Project>> {
    let change =
        move |store: &_, go_on: &mut GoOn<'_>| operations::change_project(store, &change, go_on);
    served.run_long(change).await.map(Answer)
}
