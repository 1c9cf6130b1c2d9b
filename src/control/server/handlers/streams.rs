//! Streams of snapshots: sent, and received.

use std::io::BufReader;
use std::ops::ControlFlow;

use axum::extract::{Request, State};
use axum::response::Response;
use hyper::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Refusals, Result};
use crate::control::api::{ReceiveSnapshot, Received, SendSnapshot, UnfinishedReceive};
use crate::control::operations::{self, Stream};
use crate::control::server::exchange::{Answer, Name, Options};
use crate::control::server::stream::Writer;
use crate::control::server::upload::Upload;
use crate::control::server::{GoOn, Served};
use crate::stream;

/// The paths.
pub(super) fn paths() -> OpenApiRouter<Served> {
    OpenApiRouter::new()
        .routes(routes!(receive, unfinished_receive, abort_receive))
        .routes(routes!(send))
        .routes(routes!(send_rest))
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
    // Also where there is no room for it: closing the connection on what is unread loses the refusal.
    let body = Upload::begin(request.into_body(), &served);
    let receive = move |store: &_, go_on: &mut GoOn<'_>| {
        let input = BufReader::with_capacity(1 << 20, body);
        let watch = &mut at_each_step(go_on);
        operations::receive(store, &name, how.snapshot.as_deref(), input, watch)
    };
    served.run_one_of_few(receive).await.map(Answer)
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
    served.write_out("a snapshot", open, write).await
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
    served.write_out("a snapshot", open, write).await
}

fn write(
    stream: Stream,
    out: &mut Writer,
    go_on: &mut GoOn<'_>,
) -> std::result::Result<(), String> {
    let watch = &mut at_each_step(go_on);
    let sent = stream::send(&stream.sending, stream.position, out, watch);
    sent.map(drop).map_err(|error| error.to_string())
}

/// Whether to go on, for who asks at each step.
fn at_each_step<T>(go_on: &mut GoOn<'_>) -> impl FnMut(T) -> ControlFlow<()> {
    move |_| match go_on() {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    }
}
