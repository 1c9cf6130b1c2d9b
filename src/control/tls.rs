//! TLS 1.2 and 1.3, by rustls: HTTP/1.1 is all that is spoken over it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};

use super::secret::{self, SecretError};

/// What is spoken inside (RFC 7301).
const ALPN: &[u8] = b"http/1.1";

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The key's file.
    #[error(transparent)]
    Key(#[from] SecretError),
    /// A file of certificates.
    #[error("{path}: {reason}")]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// They do not go together.
    #[error("{cert} and {key}: {source}")]
    Refused {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
    /// There are none of the protocol's versions.
    #[error("TLS: {0}")]
    Versions(rustls::Error),
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |reason: String| TlsError::Certificates {
        path: path.to_owned(),
        reason,
    };
    let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let all = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|error| wrong(error.to_string()))?;
    match all.is_empty() {
        true => Err(wrong("there is no certificate in PEM form in it".into())),
        false => Ok(all),
    }
}

/// For a daemon: its certificate (and those above it), and the key of it, in PEM form.
///
/// # Errors
/// When a file cannot be used, or others may read the key.
pub fn server(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(cert)?;
    let private = PrivateKeyDer::from_pem_slice(&secret::read(key)?);
    let private = private.map_err(|error| SecretError::Content {
        path: key.to_owned(),
        reason: error.to_string(),
    })?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Versions)?
        .with_no_client_auth()
        .with_single_cert(chain, private);
    let mut config = config.map_err(|source| TlsError::Refused {
        cert: cert.to_owned(),
        key: key.to_owned(),
        source,
    })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// For a client, which believes what these authorities (in PEM form) have signed, and nothing else.
///
/// # Errors
/// When the file cannot be used.
pub fn client(authorities: &Path) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    for each in certificates(authorities)? {
        roots.add(each).map_err(|error| TlsError::Certificates {
            path: authorities.to_owned(),
            reason: error.to_string(),
        })?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Versions)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}
