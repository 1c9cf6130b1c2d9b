//! The store that a command is about, whether a daemon serves it or not.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use clap::Args;
use razorfs::control::{
    Client, ControlPlace, Remote, Session, SessionError, StorePlace, daemon, named, served,
};
use razorfs::progress::{Progress, Terminal};
use serde::Serialize;

type Error = Box<dyn std::error::Error>;

/// Says whether to go on with what is done to the store, until a signal says that it is to stop. What
/// a daemon does goes on.
pub fn goes_on(session: &Session) -> impl FnMut() -> bool + use<> {
    let stop = match session {
        Session::Served(_) => None,
        Session::Opened(_) => crate::stop_on_signals().ok(),
    };
    move || {
        stop.as_ref()
            .is_none_or(|stop| !stop.load(Ordering::Relaxed))
    }
}

/// The store that a command is about. Where a daemon serves it, the daemon is asked.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// The store's directory. With an address for --control it is not looked at.
    store: PathBuf,
    #[command(flatten)]
    control: ControlArgs,
    /// Accept a store on a file system that does not survive a power cut.
    #[arg(long)]
    allow_volatile: bool,
    /// Print what is there then, as JSON.
    #[arg(long)]
    json: bool,
}

/// Where the daemon listens that serves the store.
#[derive(Debug, Args)]
pub struct ControlArgs {
    /// The control socket of the daemon that serves the store, if not control.sock in its directory;
    /// or where it listens with --control-tcp: https://HOST:PORT
    #[arg(long, value_name = "PATH|URL")]
    control: Option<PathBuf>,
    /// For an address: the file with the token that the daemon was given.
    #[arg(long, value_name = "FILE", requires = "control")]
    control_token_file: Option<PathBuf>,
    /// For an address: the certificate, in PEM form, that the daemon's was signed with.
    #[arg(long, value_name = "FILE", requires = "control")]
    control_ca: Option<PathBuf>,
}

impl ControlArgs {
    /// Where that is.
    pub fn place(&self) -> ControlPlace {
        let Some(control) = &self.control else {
            return ControlPlace::InStore;
        };
        let is_url = |text: &&str| text.starts_with("https://") || text.starts_with("http://");
        match control.to_str().filter(is_url) {
            Some(url) => ControlPlace::Remote(Remote {
                url: url.to_owned(),
                token_file: self.control_token_file.clone(),
                ca_file: self.control_ca.clone(),
            }),
            None => ControlPlace::Socket(control.clone()),
        }
    }
}

/// Does something that a terminal is to show while it goes on.
pub fn shown<T>(step: &'static str, act: impl FnOnce() -> T) -> T {
    let progress = Progress::default();
    progress.begin(step, 0);
    let _shown = Terminal::show(&progress);
    act()
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
        let ended = shown("closing the store", || session.end()).map_err(named);
        let done = done?;
        ended?;
        Ok(done)
    }

    /// The same for what may take long and prints nothing: a terminal shows that it is done.
    ///
    /// # Errors
    /// As there.
    pub fn with_shown<T>(
        &self,
        step: &'static str,
        read_only: bool,
        act: impl FnOnce(&Session) -> Result<T, SessionError>,
    ) -> Result<T, Error> {
        self.with(read_only, |session| shown(step, || act(session)))
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
            control: self.control.place(),
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
            crate::tell_json(value)?;
        }
        Ok(())
    }
}
