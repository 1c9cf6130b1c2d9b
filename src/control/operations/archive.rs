//! Tar streams into datasets and out of them.

use std::io::Read;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::snapshots::unescaped;
use super::{Result, kind_of};
use crate::archive::{self, ArchiveError, ImportHow, Summary, import_tar};
use crate::control::api::{ErrorKind, Failure, ImportInto, Imported};
use crate::engine::{DatasetError, EngineError, Still, Store, Volume, split_name};

impl From<ArchiveError> for Failure {
    fn from(error: ArchiveError) -> Self {
        let message = error.to_string();
        let kind = match &error {
            ArchiveError::Store { source, .. } | ArchiveError::NotDurable(source) => {
                kind_of_archived(source)
            }
            ArchiveError::NotEmpty { .. } => ErrorKind::Exists,
            ArchiveError::Refused { .. } => ErrorKind::NotPossible,
            // What was sent is no stream, or not all of it.
            ArchiveError::Read { .. } | ArchiveError::Damaged { .. } => ErrorKind::BadRequest,
            ArchiveError::Stopped => ErrorKind::Interrupted,
            ArchiveError::Host { .. } | ArchiveError::Write(_) => ErrorKind::Failed,
        };
        Failure::new(kind, message)
    }
}

/// What the engine refuses is mostly the stream's doing, or that of a guest who is beside it: only
/// what it cannot read or write is the store's.
fn kind_of_archived(error: &EngineError) -> ErrorKind {
    match (kind_of(error), error) {
        (ErrorKind::Failed, EngineError::Store(_) | EngineError::Buffer(_)) => ErrorKind::Failed,
        (ErrorKind::Failed, _) => ErrorKind::NotPossible,
        (kind, _) => kind,
    }
}

/// The dataset to import into.
///
/// # Errors
/// When there is none of that name, or it is a snapshot; when the store cannot be read.
pub fn importable(store: &Arc<Store>, name: &str) -> Result<Volume> {
    if let (_, Some(_)) = split_name(name)? {
        let (name, reason) = (name.to_owned(), "a snapshot is read-only");
        return Err(DatasetError::Refused { name, reason }.into());
    }
    Ok(store.volume(name)?)
}

/// Imports a tar stream into a dataset, which may be in use: see [`import_tar`]. Durable on return, also
/// what was imported before an error. `go_on` is asked at each step.
///
/// # Errors
/// As there, with what was imported; when the stream breaks off, or it was stopped.
pub fn import(
    store: &Arc<Store>,
    dataset: &str,
    into: &ImportInto,
    stream: &mut dyn Read,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Imported> {
    let how = ImportHow {
        to: unescaped(into.to.as_deref().unwrap_or_default())?,
        merge: into.merge,
        ..ImportHow::default()
    };
    let volume = importable(store, dataset)?;
    let tell = &mut |_: &Summary| match go_on() {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    };
    let (summary, done) = import_tar(&volume, &how, stream, tell);
    let imported = Imported::from(summary);
    let Err(error) = done else {
        return Ok(imported);
    };
    let is_durable = !matches!(error, ArchiveError::NotDurable(_));
    let mut failure = match error {
        // The stream breaks off when the daemon ends.
        ArchiveError::Read { .. } if !go_on() => Failure::from(ArchiveError::Stopped),
        error => Failure::from(error),
    };
    failure.imported = is_durable.then_some(imported);
    Err(failure)
}

/// A dataset or a snapshot as it is now, of which what is at `path` is to be extracted.
///
/// # Errors
/// When there is no such dataset or path; while a path is being restored into it; when the store
/// refuses.
pub fn extract(store: &Arc<Store>, name: &str, path: &[u8]) -> Result<Still> {
    // Before the work that it takes to keep it still.
    find(&store.volume(name)?, path)?;
    let still = store.still(name)?;
    find(&still, path)?;
    Ok(still)
}

fn find(volume: &Volume, path: &[u8]) -> Result<()> {
    let found = archive::find(volume, path);
    found.map(drop).map_err(|error| match &error {
        ArchiveError::Store {
            source: EngineError::NotFound | EngineError::NotDirectory,
            ..
        } => Failure::new(ErrorKind::NotFound, error.to_string()),
        _ => error.into(),
    })
}

/// The bytes of a path of what is to be extracted.
///
/// # Errors
/// When it cannot be understood.
pub fn path_to_extract(path: Option<&str>) -> Result<Vec<u8>> {
    unescaped(path.unwrap_or_default())
}
