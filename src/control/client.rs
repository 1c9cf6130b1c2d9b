//! The other end of the socket: one connection for each request.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

use super::activity::Activity;
use super::api::{Dataset, Export, Failure, NewExport, Stats};
use super::operations::Made;
use super::session::{SessionError, path};
use super::socket;

/// A daemon's control socket.
pub struct Client {
    path: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// The daemon that listens at a path; `None` when nobody does.
    ///
    /// # Errors
    /// When it may not be spoken to.
    pub fn find(path: &Path) -> Result<Option<Client>, SessionError> {
        let lost = |error: io::Error| lost(path, &error);
        match socket::connect(path) {
            // It is known now that somebody listens: each request makes a connection of its own.
            Ok(_) => {}
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::NotFound
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::ConnectionRefused => Ok(None),
                    _ => Err(lost(error)),
                };
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(lost)?;
        Ok(Some(Client {
            path: path.to_owned(),
            runtime,
        }))
    }

    /// See [`super::operations::stats`].
    ///
    /// # Errors
    /// As there; when the daemon does not answer.
    pub fn stats(&self) -> Result<Stats, SessionError> {
        self.get("/api/v1/stats")
    }

    /// What happens in the store and at its exports.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn activity(&self) -> Result<Activity, SessionError> {
        self.get("/api/v1/activity")
    }

    /// What guests can reach.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn exports(&self) -> Result<Vec<Export>, SessionError> {
        self.get("/api/v1/exports")
    }

    /// See [`super::operations::add_export`].
    ///
    /// # Errors
    /// As there; when the daemon does not answer.
    pub fn add_export(&self, new: &NewExport) -> Result<Export, SessionError> {
        self.post("/api/v1/exports", new).map(|made| made.it)
    }

    /// See [`super::operations::remove_export`].
    ///
    /// # Errors
    /// As there; when the daemon does not answer.
    pub fn remove_export(&self, socket: &str, force: bool) -> Result<(), SessionError> {
        self.delete(&format!("{}?force={force}", path("exports", socket)))
    }

    /// See [`super::operations::datasets`].
    ///
    /// # Errors
    /// As there; when the daemon does not answer.
    pub fn datasets(&self) -> Result<Vec<Dataset>, SessionError> {
        self.get("/api/v1/datasets")
    }

    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, SessionError> {
        let (_, body) = self.request(Method::GET, path, None)?;
        self.understand(&body)
    }

    /// Makes something; whether it was there already is in the status.
    pub(super) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        new: &impl Serialize,
    ) -> Result<Made<T>, SessionError> {
        let (status, body) = self.request(Method::POST, path, Some(self.written(new)?))?;
        Ok(Made {
            it: self.understand(&body)?,
            is_new: status == StatusCode::CREATED,
        })
    }

    /// Does something that has nothing more to be told.
    pub(super) fn act<T: DeserializeOwned>(&self, path: &str) -> Result<T, SessionError> {
        let (_, body) = self.request(Method::POST, path, None)?;
        self.understand(&body)
    }

    pub(super) fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        change: &impl Serialize,
    ) -> Result<T, SessionError> {
        let (_, body) = self.request(Method::PATCH, path, Some(self.written(change)?))?;
        self.understand(&body)
    }

    pub(super) fn delete(&self, path: &str) -> Result<(), SessionError> {
        self.request(Method::DELETE, path, None).map(drop)
    }

    fn written(&self, body: &impl Serialize) -> Result<Bytes, SessionError> {
        let written = serde_json::to_vec(body);
        Ok(written.map_err(|error| lost(&self.path, &error))?.into())
    }

    fn understand<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, SessionError> {
        serde_json::from_slice(body).map_err(|error| lost(&self.path, &error))
    }

    /// One request, and the answer to it. A refusal is an error.
    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<(StatusCode, Bytes), SessionError> {
        let lost = |error: &dyn std::fmt::Display| lost(&self.path, error);
        let stream = socket::connect(&self.path).map_err(|error| lost(&error))?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "razorfs");
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body.unwrap_or_default()));
        let request = request.map_err(|error| lost(&error))?;
        let answer = self.runtime.block_on(exchange(stream, request));
        let (status, body) = answer.map_err(|error| lost(&*error))?;
        if status.is_success() {
            return Ok((status, body));
        }
        match serde_json::from_slice::<Failure>(&body) {
            Ok(failure) => Err(SessionError::Refused(failure)),
            Err(_) => Err(lost(&format!("it answered {status}"))),
        }
    }
}

async fn exchange(
    stream: UnixStream,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error>> {
    stream.set_nonblocking(true)?;
    let stream = TokioIo::new(tokio::net::UnixStream::from_std(stream)?);
    let (mut sender, connection) = http1::handshake(stream).await?;
    // What becomes of it is seen by who waits for the answer.
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    connection.abort();
    Ok((status, body))
}

fn lost(path: &Path, reason: &dyn std::fmt::Display) -> SessionError {
    SessionError::Lost {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}
