//! The store that a command is about, whether a daemon serves it or not.

use std::path::PathBuf;

use clap::Args;
use razorfs::control::{Session, SessionError, StorePlace, named};
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
        let place = StorePlace {
            store: self.store.clone(),
            control: self.control.clone(),
            allow_volatile: self.allow_volatile,
        };
        let session = Session::begin(&place, read_only).map_err(named)?;
        let done = act(&session).map_err(named);
        let ended = session.end().map_err(named);
        let done = done?;
        ended?;
        Ok(done)
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
