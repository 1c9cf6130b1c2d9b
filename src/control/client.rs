//! The other end of the socket, or of an address: one connection for each request.

mod bodies;

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::http::request;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::activity::Activity;
use super::api::{Dataset, Export, Failure, NewExport, NewScrub, Received, Scrub, Stats};
use super::operations::Made;
use super::pieces::Pieces;
use super::session::{Remote, SessionError, path};
use super::{secret, socket, tls};
use crate::stream::StreamError;
pub(super) use bodies::BodyWriter;

/// Bytes of a stream that are read together.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces of it that wait to be sent, at most.
const PIECES_MAX: usize = 4;

/// A daemon that can be asked.
pub struct Client {
    at: At,
    /// For messages: where it listens.
    path: PathBuf,
    runtime: Runtime,
}

/// Where it listens.
enum At {
    Socket(PathBuf),
    Address(Address),
}

/// An address of which the daemon knows its clients by a token.
struct Address {
    /// As it stands in the URL, with the port.
    authority: String,
    host: String,
    port: u16,
    /// `Bearer TOKEN`
    authorization: String,
    tls: Option<Arc<ClientConfig>>,
}

/// What requests go over.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

type Error = Box<dyn std::error::Error>;

impl Address {
    fn of(remote: &Remote) -> Result<Address, SessionError> {
        let bad = |reason: String| SessionError::Remote {
            url: remote.url.clone(),
            reason,
        };
        let form = || bad("it is to be https://HOST:PORT".into());
        let url: Uri = remote.url.parse().map_err(|_| form())?;
        let authority = url.authority().ok_or_else(form)?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if !matches!(url.path(), "" | "/") || url.query().is_some() {
            return Err(form());
        }
        let is_loopback = host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        let tls = match url.scheme_str() {
            Some("https") => {
                let file = remote.ca_file.as_deref();
                let file = file.ok_or_else(|| {
                    bad("say who signs its certificate with --control-ca FILE".into())
                })?;
                Some(tls::client(file).map_err(|error| bad(error.to_string()))?)
            }
            Some("http") if is_loopback || host == "localhost" => None,
            Some("http") => {
                return Err(bad(
                    "the token would be sent for all to read: use https".into()
                ));
            }
            _ => return Err(form()),
        };
        let token = remote.token_file.as_deref();
        let token =
            token.ok_or_else(|| bad("it takes a token: --control-token-file FILE".into()))?;
        let token = secret::read_token(token).map_err(|error| bad(error.to_string()))?;
        Ok(Address {
            authority: authority.to_string(),
            port: url.port_u16().ok_or_else(form)?,
            host,
            authorization: format!("Bearer {token}"),
            tls,
        })
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, Error> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let name = ServerName::try_from(self.host.clone())?;
        let connector = TlsConnector::from(Arc::clone(tls));
        Ok(Box::new(connector.connect(name, stream).await?))
    }
}

impl At {
    async fn connect(&self) -> Result<Box<dyn Stream>, Error> {
        match self {
            At::Socket(path) => {
                let stream = socket::connect(path)?;
                stream.set_nonblocking(true)?;
                Ok(Box::new(tokio::net::UnixStream::from_std(stream)?))
            }
            At::Address(address) => address.connect().await,
        }
    }
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
        Ok(Some(Client {
            at: At::Socket(path.to_owned()),
            path: path.to_owned(),
            runtime: runtime().map_err(lost)?,
        }))
    }

    /// The daemon that listens at an address.
    ///
    /// # Errors
    /// When it cannot be spoken to: the address, the token or the authorities cannot be used.
    pub fn remote(remote: &Remote) -> Result<Client, SessionError> {
        let path = PathBuf::from(&remote.url);
        let address = Address::of(remote)?;
        Ok(Client {
            runtime: runtime().map_err(|error| lost(&path, &error))?,
            at: At::Address(address),
            path,
        })
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

    /// What the scrub under way has done, or the last one.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn scrub(&self) -> Result<Scrub, SessionError> {
        self.get("/api/v1/scrub")
    }

    /// Begins a scrub; what is under way goes on.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn begin_scrub(&self, how: &NewScrub) -> Result<Made<Scrub>, SessionError> {
        self.post("/api/v1/scrub", how)
    }

    /// Has the scrub under way stop soon.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn stop_scrub(&self) -> Result<(), SessionError> {
        self.delete("/api/v1/scrub")
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
        let mut request = self.asked(method, path);
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body.unwrap_or_default()));
        let request = request.map_err(|error| lost(&error))?;
        let answer = self.runtime.block_on(exchange(&self.at, request));
        let (status, body) = answer.map_err(|error| lost(&*error))?;
        self.succeeded(status, &body)?;
        Ok((status, body))
    }

    /// Asks for something that is written to `out` as it comes.
    ///
    /// # Errors
    /// When it is refused, breaks off, or cannot be written.
    pub(super) fn stream(&self, path: &str, out: &mut dyn Write) -> Result<(), SessionError> {
        let lost = |error: &dyn std::fmt::Display| lost(&self.path, error);
        let request = self.asked(Method::GET, path).body(Full::<Bytes>::default());
        let request = request.map_err(|error| lost(&error))?;
        let taken = self.runtime.block_on(async {
            let stream = TokioIo::new(self.at.connect().await?);
            let (mut sender, connection) = http1::handshake(stream).await?;
            let connection = tokio::spawn(connection);
            let mut answer = sender.send_request(request).await?;
            let status = answer.status();
            let mut refusal = Vec::new();
            while let Some(frame) = answer.frame().await {
                let Ok(piece) = frame?.into_data() else {
                    continue;
                };
                match status.is_success() {
                    true => out.write_all(&piece)?,
                    false => refusal.extend_from_slice(&piece),
                }
            }
            connection.abort();
            Ok::<_, Error>((status, refusal))
        });
        let (status, refusal) = taken.map_err(|error| lost(&*error))?;
        self.succeeded(status, &refusal)?;
        out.flush().map_err(|error| lost(&error))
    }

    /// Sends what `input` has, read in a thread, until it is answered.
    ///
    /// # Errors
    /// When it is refused, or cannot be read; when the daemon does not answer.
    pub(super) fn upload(
        &self,
        path: &str,
        input: impl Read + Send + 'static,
    ) -> Result<Received, SessionError> {
        let lost = |error: &dyn std::fmt::Display| lost(&self.path, error);
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        let request = self.asked(Method::POST, path);
        let request = request.header(CONTENT_TYPE, "application/octet-stream");
        let request = request.body(Pieces(pieces)).map_err(|error| lost(&error))?;
        let failed = Arc::<Mutex<Option<StreamError>>>::default();
        let theirs = Arc::clone(&failed);
        let reader = std::thread::Builder::new().name("razorfs-upload".into());
        // Nobody waits for its end: it may read for ever though it is answered.
        let reader = reader.spawn(move || read_pieces(input, &sender, &theirs));
        reader.map_err(|error| lost(&error))?;
        let answer = self.runtime.block_on(exchange(&self.at, request));
        let (status, body) = answer.map_err(|error| match failed.lock().take() {
            Some(failed) => SessionError::Stream(failed),
            None => lost(&*error),
        })?;
        self.succeeded(status, &body)?;
        self.understand(&body)
    }

    /// A request without a body.
    fn asked(&self, method: Method, path: &str) -> request::Builder {
        let request = Request::builder().method(method).uri(path);
        match &self.at {
            At::Socket(_) => request.header(HOST, "razorfs"),
            At::Address(address) => request
                .header(HOST, &address.authority)
                .header(AUTHORIZATION, &address.authorization),
        }
    }

    fn succeeded(&self, status: StatusCode, body: &[u8]) -> Result<(), SessionError> {
        if status.is_success() {
            return Ok(());
        }
        match serde_json::from_slice::<Failure>(body) {
            Ok(failure) => Err(SessionError::Refused(failure)),
            Err(_) => Err(lost(&self.path, &format!("it answered {status}"))),
        }
    }
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Reads to the end, or for as long as somebody takes it; says why it cannot.
fn read_pieces(
    mut input: impl Read,
    pieces: &mpsc::Sender<io::Result<Bytes>>,
    failed: &Mutex<Option<StreamError>>,
) {
    let mut offset = 0u64;
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        let len = match input.read(&mut piece) {
            Ok(0) => return,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => {
                let kind = source.kind();
                *failed.lock() = Some(StreamError::Input { offset, source });
                // The daemon is to see that it is not the end.
                let _ = pieces.blocking_send(Err(kind.into()));
                return;
            }
        };
        offset = offset.saturating_add(len as u64);
        piece.truncate(len);
        if pieces.blocking_send(Ok(piece.into())).is_err() {
            return;
        }
    }
}

async fn exchange<B>(at: &At, request: Request<B>) -> Result<(StatusCode, Bytes), Error>
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    let stream = TokioIo::new(at.connect().await?);
    let (mut sender, connection) = http1::handshake(stream).await?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        Ok((status, body))
    };
    beside(connection, answer).await
}

/// What comes over a connection, which goes with it: whoever writes the request's body sees that.
async fn beside<T>(connection: impl Future, answer: impl Future<Output = T>) -> T {
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        answered = &mut answer => answered,
        // What became of it is seen by who waits for the answer.
        _ = connection => answer.await,
    }
}

fn lost(path: &Path, reason: &dyn std::fmt::Display) -> SessionError {
    SessionError::Lost {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}
