//! Where the daemon listens for other machines: never without a token, and without TLS only on the
//! loopback interface, where that was said.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

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
        let address = options.address;
        let token = Expected::new(&secret::read_token(&options.token_file)?);
        let tls = match &options.identity {
            Some(identity) => Some(tls::server(&identity.cert, &identity.key)?),
            None if !address.ip().is_loopback() => return Err(TcpError::Plaintext(address)),
            None => None,
        };
        let failed = |source| TcpError::Listen { address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Listener {
            address: listener.local_addr().map_err(failed)?,
            listener,
            guard: Guard { token, tls },
        })
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
