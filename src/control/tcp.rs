//! Where the daemon listens for other machines: never without a token, and without TLS only on the
//! loopback interface, where that was said.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::net::SocketType;
use rustix::net::sockopt::{socket_acceptconn, socket_type};
use tokio_rustls::rustls::ServerConfig;

use super::secret::{self, Expected, SecretError};
use super::tls::{self, TlsError};

/// A certificate and its key, in PEM form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate's file, with those above it if there are any.
    pub cert: PathBuf,
    /// The key's file, which others must not be able to read.
    pub key: PathBuf,
}

/// Where and how to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpOptions {
    /// The address.
    pub address: SocketAddr,
    /// The file with the token that each request must have.
    pub token_file: PathBuf,
    /// Who the daemon is; `None` for no TLS, on the loopback interface.
    pub identity: Option<Identity>,
}

/// Why the daemon cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum TcpError {
    /// The token's file.
    #[error(transparent)]
    Token(#[from] SecretError),
    /// The certificate or its key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// What goes over the network could be read by others, the token too.
    #[error("{0} is not an address of the loopback interface: it takes a certificate and its key")]
    Plaintext(SocketAddr),
    /// The system refuses.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Who may ask, and how that is kept from others.
#[derive(Clone)]
pub(super) struct Guard {
    pub(super) token: Expected,
    pub(super) tls: Option<Arc<ServerConfig>>,
}

impl Guard {
    fn read(options: &TcpOptions) -> Result<Guard, TcpError> {
        let address = options.address;
        let token = Expected::new(&secret::read_token(&options.token_file)?);
        let tls = match &options.identity {
            Some(identity) => Some(tls::server(&identity.cert, &identity.key)?),
            None if !address.ip().is_loopback() => return Err(TcpError::Plaintext(address)),
            None => None,
        };
        Ok(Guard { token, tls })
    }
}

/// A listening socket.
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    guard: Guard,
}

/// For messages: where it is.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.guard.tls {
            Some(_) => write!(f, "https://{}", self.address),
            None => write!(f, "http://{}", self.address),
        }
    }
}

impl Listener {
    /// Reads the secrets and listens. To be called before the process is confined.
    ///
    /// # Errors
    /// When a file cannot be used; when anybody could read what is sent; when the address is taken.
    pub fn bind(options: &TcpOptions) -> Result<Listener, TcpError> {
        Guard::read(options).and_then(|guard| Listener::bind_with(options.address, guard))
    }

    fn bind_with(address: SocketAddr, guard: Guard) -> Result<Listener, TcpError> {
        let failed = |source| TcpError::Listen { address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        Listener::on(listener, guard).map_err(failed)
    }

    fn on(listener: TcpListener, guard: Guard) -> io::Result<Listener> {
        listener.set_nonblocking(true)?;
        Ok(Listener {
            address: listener.local_addr()?,
            listener,
            guard,
        })
    }

    /// The socket, for another process that is to go on listening.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The same socket once more, for when this one's server has ended.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    pub fn try_clone(&self) -> io::Result<Listener> {
        Ok(Listener {
            listener: self.listener.try_clone()?,
            address: self.address,
            guard: self.guard.clone(),
        })
    }

    /// The address, with the port that the system chose if it was 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The socket itself, which does not block, and who may speak to it.
    pub(super) fn split(self) -> (TcpListener, Arc<Guard>) {
        (self.listener, Arc::new(self.guard))
    }
}

/// An address that another process may listen at, which hands its socket over.
pub struct Awaited {
    address: SocketAddr,
    guard: Guard,
    /// Nobody may be there, or what it hands over is somewhere else.
    own: Result<Listener, TcpError>,
}

impl Awaited {
    /// Reads the secrets and listens if the address is free. To be called before the process is
    /// confined.
    ///
    /// # Errors
    /// When a file cannot be used; when anybody could read what is sent.
    pub fn new(options: &TcpOptions) -> Result<Awaited, TcpError> {
        let guard = Guard::read(options)?;
        Ok(Awaited {
            address: options.address,
            own: Listener::bind_with(options.address, guard.clone()),
            guard,
        })
    }

    /// Nobody hands a socket over.
    ///
    /// # Errors
    /// When it does not listen then.
    pub fn alone(self) -> Result<Awaited, TcpError> {
        let own = Ok(self.own?);
        Ok(Awaited { own, ..self })
    }

    /// Listens: on the socket that was handed over, if that is at this address, or one of its own.
    ///
    /// # Errors
    /// When there is neither.
    pub fn listen(self, handed: Option<OwnedFd>) -> Result<Listener, TcpError> {
        let Some(listener) = handed.and_then(listening) else {
            return self.own;
        };
        let is_here = listener.local_addr().is_ok_and(|address| {
            // With port 0, the system chose one for the other process.
            let port = match self.address.port() {
                0 => address.port(),
                port => port,
            };
            address == SocketAddr::new(self.address.ip(), port)
        });
        match is_here {
            true => Listener::on(listener, self.guard).map_err(|source| TcpError::Listen {
                address: self.address,
                source,
            }),
            false => self.own,
        }
    }
}

/// A socket that was handed over, if it is one that listens for TCP.
fn listening(fd: OwnedFd) -> Option<TcpListener> {
    let is_stream = socket_type(&fd).is_ok_and(|kind| kind == SocketType::STREAM);
    let is_listening = socket_acceptconn(&fd).is_ok_and(|is| is);
    (is_stream && is_listening).then(|| TcpListener::from(fd))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpStream;
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    /// Somewhere on the loopback interface.
    fn options(dir: &tempfile::TempDir, address: &str) -> TcpOptions {
        let token_file = dir.path().join("token");
        std::fs::write(&token_file, "a-token-of-some-length").unwrap();
        std::fs::set_permissions(&token_file, std::fs::Permissions::from_mode(0o600)).unwrap();
        TcpOptions {
            address: address.parse().unwrap(),
            token_file,
            identity: None,
        }
    }

    fn handed(listener: &Listener) -> Option<OwnedFd> {
        Some(listener.as_fd().try_clone_to_owned().unwrap())
    }

    #[test]
    fn the_socket_that_another_process_has_is_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let old = Listener::bind(&options(&dir, "127.0.0.1:0")).unwrap();
        let waiting = TcpStream::connect(old.address()).unwrap();
        for address in [old.address().to_string(), "127.0.0.1:0".to_owned()] {
            let awaited = Awaited::new(&options(&dir, &address)).unwrap();
            assert_eq!(awaited.own.is_ok(), address.ends_with(":0"));
            let new = awaited.listen(handed(&old)).unwrap();
            assert_eq!(new.address(), old.address());
        }
        // Who came while nobody accepted is not lost.
        let awaited = Awaited::new(&options(&dir, &old.address().to_string())).unwrap();
        let new = awaited.listen(handed(&old)).unwrap();
        drop(old);
        let (accepted, from) = new.split().0.accept().unwrap();
        assert_eq!(from, waiting.local_addr().unwrap());
        drop(accepted);
        assert_eq!((&waiting).read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn another_address_is_listened_at_by_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let old = Listener::bind(&options(&dir, "127.0.0.1:0")).unwrap();
        let other = options(&dir, "127.0.0.2:0");
        let new = Awaited::new(&other).unwrap().listen(handed(&old)).unwrap();
        assert_eq!(new.address().ip(), other.address.ip());
        let none = Awaited::new(&other).unwrap().listen(None).unwrap();
        assert_eq!(none.address().ip(), other.address.ip());
    }

    #[test]
    fn what_does_not_listen_there_is_not_taken_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let old = Listener::bind(&options(&dir, "127.0.0.1:0")).unwrap();
        let at = options(&dir, &old.address().to_string());
        let connected = TcpStream::connect(old.address()).unwrap();
        let unix = UnixListener::bind(dir.path().join("socket")).unwrap();
        let (end, _other) = UnixStream::pair().unwrap();
        for fd in [connected.into(), unix.into(), OwnedFd::from(end)] {
            let refused = Awaited::new(&at).unwrap().listen(Some(fd));
            let refused = refused.err().unwrap().to_string();
            assert!(refused.contains("cannot listen"), "{refused}");
        }
        assert!(Awaited::new(&at).unwrap().listen(None).is_err());
        assert!(Awaited::new(&at).unwrap().alone().is_err());
    }
}
