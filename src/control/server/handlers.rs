//! Each path and method, and the document that describes them.
//!
//! A handler takes a request apart, has an operation carried out, and gives its result back. What
//! it is registered with is what the document says of it.

mod archive;
mod datasets;
mod exports;
mod projects;
mod snapshots;
mod streams;
mod whole;

use std::collections::BTreeMap;

use axum::Router;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Content, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;

use super::Served;
use super::exchange::{method_not_allowed, not_found};
use crate::control::api::{ErrorKind, Event, Failure};

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
        .merge(datasets::paths())
        .merge(snapshots::paths())
        .merge(streams::paths())
        .merge(archive::paths())
        .merge(exports::paths())
        .merge(projects::paths())
        .merge(whole::paths())
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
