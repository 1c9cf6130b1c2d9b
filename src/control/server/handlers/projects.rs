//! Projects.

use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Refusals, Result, Unreadable};
use crate::control::api::{ChangeProject, ListProjects, Project};
use crate::control::operations;
use crate::control::server::exchange::{Answer, Json, Options};
use crate::control::server::{GoOn, Served};

/// The paths.
pub(super) fn paths() -> OpenApiRouter<Served> {
    OpenApiRouter::new().routes(routes!(list_projects, change_project))
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
