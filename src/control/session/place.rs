//! Where a store's daemon listens, and why a command cannot do what it is to do.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Result;
use crate::archive::ArchiveError;
use crate::control::api::Failure;
use crate::control::{Client, socket};
use crate::disk::dir::DiskError;
use crate::engine::{EngineError, OpenError, OpenOptions, Store};
use crate::progress::Terminal;
use crate::stream::StreamError;

/// A daemon that listens at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// `https://HOST:PORT`, or `http://` on the loopback interface.
    pub url: String,
    /// The file with the token that it knows its clients by.
    pub token_file: Option<PathBuf>,
    /// The file with the certificates, in PEM form, of those who may have signed its own.
    pub ca_file: Option<PathBuf>,
}

/// Where a daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlPlace {
    /// At `control.sock` in the store's directory.
    InStore,
    /// At this socket.
    Socket(PathBuf),
    /// At an address: the store itself is not looked at.
    Remote(Remote),
}

/// A store, and where its daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorePlace {
    /// The store's directory.
    pub store: PathBuf,
    /// Where its daemon listens.
    pub control: ControlPlace,
    /// Accept a store on a file system that does not survive a power cut.
    pub allow_volatile: bool,
}

/// Why a command cannot do what it is to do.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Who holds the store does not listen.
    #[error("{locked}, or let it listen: nobody does on {control}")]
    NotServed {
        /// Who holds it.
        locked: DiskError,
        /// Where a daemon would listen.
        control: PathBuf,
    },
    /// What takes a daemon has none.
    #[error(
        "{store}: no daemon serves it: nobody listens on {control}. Exports are what a running \
         razorfsd serves; start one, with --socket-dir for exports that come later"
    )]
    NoDaemon {
        /// The store.
        store: PathBuf,
        /// Where a daemon would listen.
        control: PathBuf,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What was asked for cannot be done.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// A stream cannot be written.
    #[error(transparent)]
    Stream(StreamError),
    /// What was to come in or go out did not, or not all of it.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The store was changed, and could not be closed.
    #[error("{0}")]
    Close(EngineError),
    /// A daemon at an address cannot be asked.
    #[error("{url}: {reason}")]
    Remote {
        /// The address.
        url: String,
        /// Why not.
        reason: String,
    },
    /// The connection to the daemon was lost; whether the request was carried out is not known.
    #[error("the daemon that listens on {path} does not answer: {reason}")]
    Lost {
        /// Its socket.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
}

/// The daemon of a store; `None` when nobody listens.
///
/// # Errors
/// When it may not be spoken to.
pub fn served(place: &StorePlace) -> Result<Option<Client>> {
    match &place.control {
        ControlPlace::Remote(remote) => Client::remote(remote).map(Some),
        _ => Client::find(&place.socket()),
    }
}

/// The daemon of a store, for what cannot be done without.
///
/// # Errors
/// When there is none, or it may not be spoken to.
pub fn daemon(place: &StorePlace) -> Result<Client> {
    served(place)?.ok_or_else(|| SessionError::NoDaemon {
        store: place.store.clone(),
        control: place.socket(),
    })
}

impl StorePlace {
    pub(super) fn socket(&self) -> PathBuf {
        match &self.control {
            ControlPlace::Socket(path) => path.clone(),
            _ => socket::default_path(&self.store),
        }
    }

    /// Opens the store.
    pub(super) fn open(
        &self,
        read_only: bool,
        background: bool,
    ) -> std::result::Result<Arc<Store>, OpenError> {
        let options = OpenOptions {
            read_only,
            allow_volatile: self.allow_volatile,
            background,
            ..OpenOptions::default()
        };
        let _shown = Terminal::show(&options.progress);
        Store::open(&self.store, options)
    }
}

/// For messages: which store it is about.
#[must_use]
pub fn named(store: &Path, error: &SessionError) -> String {
    match error {
        SessionError::Refused(_)
        | SessionError::Stream(_)
        | SessionError::Archive(_)
        | SessionError::Close(_) => {
            format!("{}: {error}", store.display())
        }
        // They name it themselves.
        SessionError::NotServed { .. }
        | SessionError::NoDaemon { .. }
        | SessionError::Open(_)
        | SessionError::Remote { .. }
        | SessionError::Lost { .. } => error.to_string(),
    }
}
