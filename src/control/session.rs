//! A store for commands: the one place that decides whether a daemon is asked, or the store opened.
//!
//! Each method has two arms that lead to the same function of [`super::operations`], one of them
//! through the socket. So what a command prints does not depend on whether a daemon serves the
//! store. How one is added stands in docs/DESIGN.md.

mod archive;
mod place;

use std::fmt::Write as _;
use std::io::{BufReader, Read, Write};
use std::sync::Arc;

use super::Client;
use super::api::{
    ChangeDataset, ChangeProject, ChangeSnapshot, ChangeStore, Compact, Compacted, Compare,
    Dataset, Difference, ErrorKind, Failure, NewClone, NewDataset, NewSnapshot, Project, Received,
    Restore, Restored, Rewrite, Rewritten, Snapshot, StoreSettings, Trim, Trimmed,
    UnfinishedReceive,
};
use super::operations::{self, Made, Stream};
use crate::disk::dir::DiskError;
use crate::engine::{OpenError, Store};
use crate::stream::send::Watch;
use crate::stream::{StreamError, receive};
pub use archive::{Archived, ExtractTo, ImportFrom, Input};
pub use place::{ControlPlace, Remote, SessionError, StorePlace, daemon, named, served};

/// How often a store is tried that is neither free nor served: a daemon may be about to come or go.
const TRIES: u32 = 20;
/// How long between that.
const BETWEEN_TRIES: std::time::Duration = std::time::Duration::from_millis(50);

/// What is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendWhat {
    /// A snapshot.
    Snapshot {
        /// DATASET@SNAPSHOT
        name: String,
        /// An earlier one, which the receiver has.
        from: Option<String>,
    },
    /// What a receiver is missing that was cut off.
    Rest {
        /// What it says that it has.
        token: String,
    },
}

/// A store that commands work on.
pub enum Session {
    /// By a daemon.
    Served(Client),
    /// By this process.
    Opened(Arc<Store>),
}

type Result<T> = std::result::Result<T, SessionError>;

impl Session {
    /// Finds the store's daemon, or opens the store: for reading only, or for changes too.
    ///
    /// # Errors
    /// When the store is neither served nor can be opened.
    pub fn begin(place: &StorePlace, read_only: bool) -> Result<Session> {
        Self::begin_with(place, read_only, false)
    }

    /// The same for changes that go on for long: a store that is opened here has the threads that a
    /// daemon's has.
    ///
    /// # Errors
    /// As there.
    pub fn begin_long(place: &StorePlace) -> Result<Session> {
        Self::begin_with(place, false, true)
    }

    fn begin_with(place: &StorePlace, read_only: bool, background: bool) -> Result<Session> {
        let mut tries = 0;
        loop {
            if let Some(client) = served(place)? {
                return Ok(Session::Served(client));
            }
            match place.open(read_only, background) {
                Ok(store) => return Ok(Session::Opened(store)),
                Err(OpenError::Disk(locked @ DiskError::Locked { .. })) => {
                    tries += 1;
                    if tries == TRIES {
                        return Err(SessionError::NotServed {
                            locked,
                            control: place.socket(),
                        });
                    }
                }
                Err(error) => return Err(error.into()),
            }
            std::thread::sleep(BETWEEN_TRIES);
        }
    }

    /// Ends it. What was changed is durable already.
    ///
    /// # Errors
    /// When the store cannot be closed.
    pub fn end(self) -> Result<()> {
        match self {
            Session::Served(_) => Ok(()),
            Session::Opened(store) => store.close().map_err(SessionError::Close),
        }
    }

    /// See [`operations::datasets`].
    ///
    /// # Errors
    /// As there.
    pub fn datasets(&self) -> Result<Vec<Dataset>> {
        match self {
            Session::Served(client) => client.datasets(),
            Session::Opened(store) => Ok(operations::datasets(store)?),
        }
    }

    /// See [`operations::create_dataset`].
    ///
    /// # Errors
    /// As there.
    pub fn create_dataset(&self, new: &NewDataset) -> Result<Made<Dataset>> {
        match self {
            Session::Served(client) => client.post("/api/v1/datasets", new),
            Session::Opened(store) => Ok(operations::create_dataset(store, new)?),
        }
    }

    /// See [`operations::change_dataset`].
    ///
    /// # Errors
    /// As there.
    pub fn change_dataset(&self, name: &str, change: &ChangeDataset) -> Result<Dataset> {
        match self {
            Session::Served(client) => client.patch(&path("datasets", name), change),
            Session::Opened(store) => Ok(operations::change_dataset(store, name, change)?),
        }
    }

    /// See [`operations::delete_dataset`].
    ///
    /// # Errors
    /// As there.
    pub fn delete_dataset(&self, name: &str, recursive: bool) -> Result<()> {
        match self {
            Session::Served(client) => {
                client.delete(&format!("{}?recursive={recursive}", path("datasets", name)))
            }
            Session::Opened(store) => {
                operations::delete_dataset(store, name, recursive)?;
                reap(store)
            }
        }
    }

    /// See [`operations::take_snapshot`].
    ///
    /// # Errors
    /// As there.
    pub fn take_snapshot(&self, new: &NewSnapshot) -> Result<Made<Snapshot>> {
        match self {
            Session::Served(client) => client.post("/api/v1/snapshots", new),
            Session::Opened(store) => Ok(operations::take_snapshot(store, new)?),
        }
    }

    /// See [`operations::change_snapshot`].
    ///
    /// # Errors
    /// As there.
    pub fn change_snapshot(&self, name: &str, change: &ChangeSnapshot) -> Result<Snapshot> {
        match self {
            Session::Served(client) => client.patch(&path("snapshots", name), change),
            Session::Opened(store) => Ok(operations::change_snapshot(store, name, change)?),
        }
    }

    /// See [`operations::delete_snapshot`].
    ///
    /// # Errors
    /// As there.
    pub fn delete_snapshot(&self, name: &str) -> Result<()> {
        match self {
            Session::Served(client) => client.delete(&path("snapshots", name)),
            Session::Opened(store) => {
                operations::delete_snapshot(store, name)?;
                reap(store)
            }
        }
    }

    /// See [`operations::restore`].
    ///
    /// # Errors
    /// As there.
    pub fn restore(&self, snapshot: &str, force: bool) -> Result<Dataset> {
        match self {
            Session::Served(client) => {
                let path = path("snapshots", snapshot);
                client.act(&format!("{path}/restore?force={force}"))
            }
            // Nobody else uses it.
            Session::Opened(store) => {
                let restored = operations::restore(store, None, snapshot)?;
                reap(store)?;
                Ok(restored)
            }
        }
    }

    /// See [`operations::restore_path`].
    ///
    /// # Errors
    /// As there.
    pub fn restore_path(&self, what: &Restore) -> Result<Restored> {
        match self {
            Session::Served(client) => {
                let made = client.post("/api/v1/snapshots/restore", what)?;
                Ok(made.it)
            }
            Session::Opened(store) => {
                let restored = operations::restore_path(store, None, what, &mut || true)?;
                reap(store)?;
                Ok(restored)
            }
        }
    }

    /// See [`operations::promote`].
    ///
    /// # Errors
    /// As there.
    pub fn promote(&self, clone: &str) -> Result<Dataset> {
        match self {
            Session::Served(client) => client.act(&(path("datasets", clone) + "/promote")),
            Session::Opened(store) => Ok(operations::promote(store, clone)?),
        }
    }

    /// See [`operations::differences`].
    ///
    /// # Errors
    /// As there.
    pub fn differences(&self, of: &Compare) -> Result<Vec<Difference>> {
        match self {
            Session::Served(client) => {
                let query = query(&[("old", &of.old), ("new", &of.new)]);
                client.get(&format!("/api/v1/differences?{query}"))
            }
            Session::Opened(store) => Ok(operations::differences(store, of, &mut || true)?),
        }
    }

    /// See [`operations::clone_dataset`].
    ///
    /// # Errors
    /// As there.
    pub fn clone_dataset(&self, new: &NewClone) -> Result<Made<Dataset>> {
        match self {
            Session::Served(client) => client.post("/api/v1/clones", new),
            Session::Opened(store) => Ok(operations::clone_dataset(store, new)?),
        }
    }

    /// Writes a snapshot to `out`: see [`operations::send`]. Of a daemon, what it sends; `write` writes
    /// that of a store that is not served.
    ///
    /// # Errors
    /// As there; when the stream cannot be written.
    pub fn send(
        &self,
        what: &SendWhat,
        out: &mut dyn Write,
        write: impl FnOnce(Stream, &mut dyn Write) -> std::result::Result<(), StreamError>,
    ) -> Result<()> {
        match (self, what) {
            (Session::Served(client), SendWhat::Rest { token }) => {
                client.stream(&path("streams", token), out)
            }
            (Session::Served(client), SendWhat::Snapshot { name, from }) => {
                let query = from.as_ref().map(|from| query(&[("from", from)]));
                let query = query.map_or(String::new(), |query| format!("?{query}"));
                client.stream(&format!("{}/stream{query}", path("snapshots", name)), out)
            }
            (Session::Opened(store), what) => {
                let stream = match what {
                    SendWhat::Rest { token } => operations::send_rest(store, token)?,
                    SendWhat::Snapshot { name, from } => {
                        operations::send(store, name, from.as_deref())?
                    }
                };
                write(stream, out).map_err(SessionError::Stream)
            }
        }
    }

    /// See [`operations::receive`]. To a daemon `input` is read in a thread; here `watch` is told how
    /// far it got.
    ///
    /// # Errors
    /// As there; when the stream cannot be read.
    pub fn receive(
        &self,
        dataset: &str,
        snapshot: Option<&str>,
        input: impl Read + Send + 'static,
        watch: &mut Watch<'_>,
    ) -> Result<Received> {
        match self {
            Session::Served(client) => {
                let query = snapshot.map(|snapshot| query(&[("snapshot", snapshot)]));
                let query = query.map_or(String::new(), |query| format!("?{query}"));
                let path = path("datasets", dataset) + "/receive" + &query;
                client.upload(&path, input)
            }
            Session::Opened(store) => {
                let input = BufReader::with_capacity(1 << 20, input);
                let done = receive(store, (dataset, snapshot), input, watch);
                let done = done.map_err(SessionError::Stream)?;
                Ok(operations::received(dataset, done))
            }
        }
    }

    /// See [`operations::unfinished`].
    ///
    /// # Errors
    /// As there.
    pub fn unfinished(&self, dataset: &str) -> Result<UnfinishedReceive> {
        match self {
            Session::Served(client) => client.get(&(path("datasets", dataset) + "/receive")),
            Session::Opened(store) => Ok(operations::unfinished(store, dataset)?),
        }
    }

    /// See [`operations::abort_receive`].
    ///
    /// # Errors
    /// As there.
    pub fn abort_receive(&self, dataset: &str) -> Result<()> {
        match self {
            Session::Served(client) => client.delete(&(path("datasets", dataset) + "/receive")),
            Session::Opened(store) => {
                operations::abort_receive(store, dataset)?;
                reap(store)
            }
        }
    }

    /// See [`operations::rewrite`]. A daemon goes on though nobody waits for it.
    ///
    /// # Errors
    /// As there.
    pub fn rewrite(
        &self,
        dataset: &str,
        what: &Rewrite,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Rewritten> {
        match self {
            Session::Served(client) => {
                let made = client.post(&(path("datasets", dataset) + "/rewrite"), what)?;
                Ok(made.it)
            }
            Session::Opened(store) => Ok(operations::rewrite(store, dataset, what, go_on)?),
        }
    }

    /// Writes what happens to `out`, as server-sent events, until the daemon ends.
    ///
    /// # Errors
    /// When no daemon serves the store; when it ends.
    pub fn events(&self, after: Option<u64>, out: &mut dyn Write) -> Result<()> {
        match self {
            Session::Served(client) => {
                let query = after.map(|after| format!("?after={after}"));
                client.stream(&format!("/api/v1/events{}", query.unwrap_or_default()), out)
            }
            Session::Opened(_) => {
                let message = "no daemon serves the store, so nothing happens to it";
                Err(Failure::new(ErrorKind::NotPossible, message).into())
            }
        }
    }

    /// See [`operations::change_store`].
    ///
    /// # Errors
    /// As there.
    pub fn change_store(&self, change: &ChangeStore) -> Result<StoreSettings> {
        match self {
            Session::Served(client) => client.patch("/api/v1/store", change),
            Session::Opened(store) => Ok(operations::change_store(store, change)?),
        }
    }

    /// See [`operations::compact`]. A daemon goes on though nobody waits for it.
    ///
    /// # Errors
    /// As there.
    pub fn compact(&self, go_on: &mut dyn FnMut() -> bool) -> Result<Compacted> {
        let how = Compact::default();
        match self {
            Session::Served(client) => client.post("/api/v1/compact", &how).map(|made| made.it),
            Session::Opened(store) => Ok(operations::compact(store, &how, go_on)?),
        }
    }

    /// See [`operations::trim`].
    ///
    /// # Errors
    /// As there.
    pub fn trim(&self, how: &Trim) -> Result<Trimmed> {
        match self {
            Session::Served(client) => client.post("/api/v1/trim", how).map(|made| made.it),
            Session::Opened(store) => Ok(operations::trim(store, how, &mut || true)?),
        }
    }
}

impl Session {
    /// See [`operations::projects`].
    ///
    /// # Errors
    /// As there.
    pub fn projects(&self, dataset: &str) -> Result<Vec<Project>> {
        match self {
            Session::Served(client) => {
                let query = query(&[("dataset", dataset)]);
                client.get(&format!("/api/v1/projects?{query}"))
            }
            Session::Opened(store) => Ok(operations::projects(store, dataset)?),
        }
    }

    /// See [`operations::change_project`].
    ///
    /// # Errors
    /// As there.
    pub fn change_project(&self, change: &ChangeProject) -> Result<Project> {
        match self {
            Session::Served(client) => client.post("/api/v1/projects", change).map(|made| made.it),
            Session::Opened(store) => Ok(operations::change_project(store, change, &mut || true)?),
        }
    }
}

/// The text behind a path (RFC 3986, 3.4).
fn query(fields: &[(&str, &str)]) -> String {
    let fields = fields
        .iter()
        .map(|(name, value)| format!("{name}={}", escaped(value)));
    fields.collect::<Vec<_>>().join("&")
}

/// Frees what was deleted. A daemon does it in the background; here nobody else will, soon.
fn reap(store: &Store) -> Result<()> {
    store.reap(&|| false).map_err(Failure::from)?;
    Ok(())
}

/// The path of a resource (RFC 3986, 3.3).
pub(super) fn path(kind: &str, name: &str) -> String {
    format!("/api/v1/{kind}/{}", escaped(name))
}

/// A user may have typed anything for a name.
fn escaped(name: &str) -> String {
    let mut escaped = String::new();
    for byte in name.bytes() {
        match byte {
            b'@' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            _ if byte.is_ascii_alphanumeric() => escaped.push(byte.into()),
            _ => {
                // Writing to a string does not fail.
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_can_stand_in_a_path() {
        assert_eq!(path("datasets", "web-1.0"), "/api/v1/datasets/web-1.0");
        assert_eq!(path("snapshots", "a@b"), "/api/v1/snapshots/a@b");
        assert_eq!(
            path("datasets", "a/b?c d%é"),
            "/api/v1/datasets/a%2Fb%3Fc%20d%25%C3%A9"
        );
    }
}
