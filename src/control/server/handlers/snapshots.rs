//! Snapshots, what differs between them, and what is brought back from them.

use axum::extract::State;
use hyper::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Refusals, Result, Unreadable};
use crate::control::api::{
    ChangeSnapshot, Compare, Dataset, Difference, ListSnapshots, NewSnapshot, Restore,
    RestoreDataset, Restored, Snapshot,
};
use crate::control::operations::{self, Made};
use crate::control::server::exchange::{Answer, Json, Name, Options};
use crate::control::server::{GoOn, Served};

/// The paths.
pub(super) fn paths() -> OpenApiRouter<Served> {
    OpenApiRouter::new()
        .routes(routes!(list_snapshots, take_snapshot))
        .routes(routes!(get_snapshot, change_snapshot, delete_snapshot))
        .routes(routes!(restore))
        .routes(routes!(restore_path))
        .routes(routes!(differences))
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
