//! Exports.

use axum::extract::State;
use hyper::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Refusals, Result, Unreadable};
use crate::control::api::{DeleteExport, Export, NewExport};
use crate::control::operations::{self, Made};
use crate::control::server::Served;
use crate::control::server::exchange::{Answer, Json, Name, Options};

/// The paths.
pub(super) fn paths() -> OpenApiRouter<Served> {
    OpenApiRouter::new()
        .routes(routes!(list_exports, add_export))
        .routes(routes!(remove_export))
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
