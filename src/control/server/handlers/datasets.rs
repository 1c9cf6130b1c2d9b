//! Datasets and clones.

use axum::extract::State;
use hyper::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Refusals, Result, Unreadable};
use crate::control::api::{
    ChangeDataset, Dataset, DeleteDataset, NewClone, NewDataset, Rewrite, Rewritten,
};
use crate::control::operations::{self, Made};
use crate::control::server::exchange::{Answer, Json, Name, Options};
use crate::control::server::{GoOn, Served};

/// The paths.
pub(super) fn paths() -> OpenApiRouter<Served> {
    OpenApiRouter::new()
        .routes(routes!(list_datasets, create_dataset))
        .routes(routes!(get_dataset, change_dataset, delete_dataset))
        .routes(routes!(promote))
        .routes(routes!(clone_dataset))
        .routes(routes!(rewrite))
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
    let rewrite =
        move |store: &_, go_on: &mut GoOn<'_>| operations::rewrite(store, &name, &what, go_on);
    served.run_one_of_few(rewrite).await.map(Answer)
}
