//! Tar streams into datasets and out of them.

use std::io::BufReader;
use std::ops::ControlFlow;

use axum::extract::{Request, State};
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Refusals, Result};
use crate::archive::{Summary, extract_to_tar};
use crate::control::api::{ExtractFrom, ImportInto, Imported};
use crate::control::operations;
use crate::control::server::exchange::{Answer, Name, Options};
use crate::control::server::stream::Writer;
use crate::control::server::upload::Upload;
use crate::control::server::{GoOn, Served};
use crate::engine::Still;

/// The paths.
pub(super) fn paths() -> OpenApiRouter<Served> {
    OpenApiRouter::new()
        .routes(routes!(import))
        .routes(routes!(extract))
}

/// Imports a tar stream (ustar, PAX, GNU) into a dataset, which may be in use: by guests that do not
/// keep for long what they were told. What came before the body broke off, or before anything else
/// failed, stays, each file whole. The body may be of any size.
#[utoipa::path(
    post,
    path = "/api/v1/datasets/{name}/import",
    params(("name" = String, Path, description = "DATASET"), ImportInto),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = OK, description = "It is there", body = Imported), Refusals),
)]
async fn import(
    State(served): State<Served>,
    Name(name): Name,
    Options(into): Options<ImportInto>,
    request: Request,
) -> Result<Answer<Imported>> {
    // Also where there is no room for it: closing the connection on what is unread loses the refusal.
    let body = Upload::begin(request.into_body(), &served);
    let import = move |store: &_, go_on: &mut GoOn<'_>| {
        let mut input = BufReader::with_capacity(1 << 20, body);
        operations::import(store, &name, &into, &mut input, go_on)
    };
    served.run_one_of_few(import).await.map(Answer)
}

/// A dataset as it is now, or a snapshot, as a tar stream (PAX). An answer that breaks off is not all
/// of it.
#[utoipa::path(
    get,
    path = "/api/v1/datasets/{name}/extract",
    params(
        ("name" = String, Path, description = "DATASET or DATASET@SNAPSHOT"),
        ExtractFrom,
    ),
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
async fn extract(
    State(served): State<Served>,
    Name(name): Name,
    Options(from): Options<ExtractFrom>,
) -> Result<Response> {
    let open = move |store: &_| {
        let path = operations::path_to_extract(from.path.as_deref())?;
        Ok((operations::extract(store, &name, &path)?, path))
    };
    served.write_out("an extraction", open, write).await
}

fn write(
    (still, path): (Still, Vec<u8>),
    out: &mut Writer,
    go_on: &mut GoOn<'_>,
) -> std::result::Result<(), String> {
    let tell = &mut |_: &Summary| match go_on() {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    };
    let (_, done) = extract_to_tar(&still, &path, out, tell);
    done.map_err(|error| error.to_string())
}
