//! The store that a command is about, whether a daemon serves it or not.

use std::path::{Path, PathBuf};

use clap::Args;
use razorfs::control::{Client, Session, SessionError, StorePlace, daemon, named, served};
use serde::Serialize;

type Error = Box<dyn std::error::Error>;

/// The store that a command is about. Where a daemon serves it, the daemon is asked.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// The store's directory.
    store: PathBuf,
    /// The control socket of the daemon that serves the store, if not control.sock in its
    /// directory.
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Accept a store on a file system that does not survive a power cut.
    #[arg(long)]
    allow_volatile: bool,
    /// Print what is there then, as JSON.
    #[arg(long)]
    json: bool,
}

impl StoreArgs {
    /// Does something with the store: `read_only` when nothing is to be changed.
    ///
    /// # Errors
    /// When it cannot be done; when the store can be neither reached nor opened.
    pub fn with<T>(
        &self,
        read_only: bool,
        act: impl FnOnce(&Session) -> Result<T, SessionError>,
    ) -> Result<T, Error> {
        let named = |error: SessionError| named(&self.store, &error);
        let session = Session::begin(&self.place(), read_only).map_err(named)?;
        let done = act(&session).map_err(named);
        let ended = session.end().map_err(named);
        let done = done?;
        ended?;
        Ok(done)
    }

    /// Does something that takes a daemon that serves the store.
    ///
    /// # Errors
    /// When none does; when it cannot be done.
    pub fn with_daemon<T>(
        &self,
        act: impl FnOnce(&Client) -> Result<T, SessionError>,
    ) -> Result<T, Error> {
        let done = daemon(&self.place()).and_then(|daemon| act(&daemon));
        Ok(done.map_err(|error| named(&self.store, &error))?)
    }

    fn place(&self) -> StorePlace {
        StorePlace {
            store: self.store.clone(),
            control: self.control.clone(),
            allow_volatile: self.allow_volatile,
        }
    }

    /// The store's directory.
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// The daemon that serves the store; `None` when none does.
    ///
    /// # Errors
    /// When it may not be spoken to.
    pub fn daemon(&self) -> Result<Option<Client>, Error> {
        Ok(served(&self.place()).map_err(|error| named(&self.store, &error))?)
    }

    /// Whether JSON is to be printed.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints what there is now, if JSON is to be printed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn tell(&self, value: &impl Serialize) -> Result<(), Error> {
        if self.json {
            crate::tell(&format!("{}\n", serde_json::to_string_pretty(value)?));
        }
        Ok(())
    }
}
