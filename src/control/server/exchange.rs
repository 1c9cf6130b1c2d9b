//! From requests to types, and from results to answers. Whatever is wrong with a request, the
//! answer is a [`Failure`].

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::http::request::Parts;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::control::api::{ErrorKind, Failure};
use crate::control::operations::Made;

/// Bytes of a request's body at most.
pub(super) const BODY_BYTES_MAX: usize = 64 << 10;
/// How long a request's body may take to come.
const BODY_TIME_MAX: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

/// A request's body.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect();
        let Ok(body) = tokio::time::timeout(BODY_TIME_MAX, body).await else {
            let message = "the body did not come in time";
            return Err(Failure::new(ErrorKind::TimedOut, message));
        };
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => {
                let message = format!("a body has at most {BODY_BYTES_MAX} bytes");
                Failure::new(ErrorKind::TooLarge, message)
            }
            false => bad_request(&error),
        })?;
        let body = body.to_bytes();
        // What is read into a structure may be an array too, with its fields in their order.
        if !body.trim_ascii_start().starts_with(b"{") {
            return Err(bad_request(&"the body is to be a JSON object"));
        }
        let parsed = serde_json::from_slice(&body);
        parsed.map(Json).map_err(|error| bad_request(&error))
    }
}

/// The name in a path.
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let name = Path::from_request_parts(parts, state).await;
        name.map(|Path(name)| Name(name))
            .map_err(|error| bad_request(&error))
    }
}

/// What stands behind the path.
pub(super) struct Options<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Options<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let options = Query::from_request_parts(parts, state).await;
        options
            .map(|Query(options)| Options(options))
            .map_err(|error| bad_request(&error))
    }
}

/// The last event that a client was told before its connection was cut.
pub(super) struct LastEvent(pub(super) Option<u64>);

impl<S: Sync> FromRequestParts<S> for LastEvent {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let Some(value) = parts.headers.get("last-event-id") else {
            return Ok(LastEvent(None));
        };
        let id = value.to_str().ok().and_then(|text| text.parse().ok());
        match id {
            Some(id) => Ok(LastEvent(Some(id))),
            None => Err(bad_request(&"Last-Event-ID is not the number of an event")),
        }
    }
}

fn bad_request(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(ErrorKind::BadRequest, error.to_string())
}

/// An answer that has something to say.
pub(super) struct Answer<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        answer(StatusCode::OK, &self.0)
    }
}

/// An answer that is text of a type.
pub(super) struct Plain(pub(super) &'static str, pub(super) String);

impl IntoResponse for Plain {
    fn into_response(self) -> Response {
        let Plain(kind, text) = self;
        let mut response = Response::new(Body::from(text));
        let kind = HeaderValue::from_static(kind);
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }
}

impl<T: Serialize> IntoResponse for Made<T> {
    fn into_response(self) -> Response {
        let status = match self.is_new {
            true => StatusCode::CREATED,
            false => StatusCode::OK,
        };
        answer(status, &self.it)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.error.status());
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            log::warn!("a request to the control socket failed: {self}");
        }
        answer(status, &self)
    }
}

fn answer(status: StatusCode, value: &impl Serialize) -> Response {
    let Ok(body) = serde_json::to_vec(value) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let json = HeaderValue::from_static("application/json");
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// Of an answer that goes on for as long as there is something to say: see the module of connections.
#[derive(Debug, Clone)]
pub(super) struct Lasting;

/// For who has no token, or not the right one.
pub(super) fn unauthorized() -> Response {
    let message = "this takes the token: 'Authorization: Bearer TOKEN'";
    let mut response = Failure::new(ErrorKind::Unauthorized, message).into_response();
    let bearer = HeaderValue::from_static("Bearer");
    response.headers_mut().insert(WWW_AUTHENTICATE, bearer);
    response
}

/// For a path that is not there.
pub(super) async fn not_found() -> Failure {
    let message = "there is no such path: see /api/v1/openapi.json";
    Failure::new(ErrorKind::NotFound, message)
}

/// For a method that a path does not have.
pub(super) async fn method_not_allowed() -> Failure {
    let message = "the path has no such method: see /api/v1/openapi.json";
    Failure::new(ErrorKind::MethodNotAllowed, message)
}
