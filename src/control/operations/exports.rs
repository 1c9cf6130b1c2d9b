//! What guests can reach.

use std::path::Path;
use std::sync::Arc;

use super::{Made, Result};
use crate::control::api::{ErrorKind, Export, Failure, NewExport};
use crate::engine::Store;
use crate::export::{self, ExportError, Exported, Exports};
use crate::transport::vhost_user::{VhostUserError, check_tag};

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        let kind = match &error {
            ExportError::Dataset(_) => ErrorKind::Failed,
            ExportError::Exists(_) => ErrorKind::Exists,
            ExportError::NotFound(_) => ErrorKind::NotFound,
            ExportError::Connected(_) | ExportError::Alone { .. } => ErrorKind::Busy,
            ExportError::Device(VhostUserError::InUse(_)) => ErrorKind::Busy,
            ExportError::Device(VhostUserError::NotSocket(_)) => ErrorKind::Exists,
            ExportError::OutOfReach { .. } | ExportError::Device(VhostUserError::Listen { .. }) => {
                ErrorKind::NotPossible
            }
            ExportError::Device(_)
            | ExportError::Thread { .. }
            | ExportError::CannotGoOn { .. }
            | ExportError::Handover(_) => ErrorKind::Failed,
            ExportError::Ending => ErrorKind::Interrupted,
        };
        match error {
            ExportError::Dataset(error) => error.into(),
            error => Failure::new(kind, error.to_string()),
        }
    }
}

/// What guests can reach.
///
/// # Errors
/// When the store cannot be read.
pub fn exports(store: &Arc<Store>, exports: &Exports) -> Result<Vec<Export>> {
    let all = exports.list();
    all.iter().map(|each| as_export(store, each)).collect()
}

/// Exports a dataset on a socket to be made.
///
/// # Errors
/// When there is no such dataset; when the socket is taken or cannot be made; when a guest that has
/// the dataset could not see what another writes.
pub fn add_export(
    store: &Arc<Store>,
    exports: &Arc<Exports>,
    new: &NewExport,
) -> Result<Made<Export>> {
    let bad = |reason: String| Failure::new(ErrorKind::BadRequest, reason);
    if !Path::new(&new.socket).is_absolute() {
        return Err(bad(format!("socket: '{}' is no absolute path", new.socket)));
    }
    if let Some(tag) = &new.tag {
        check_tag(tag).map_err(|reason| bad(format!("tag: {reason}")))?;
    }
    let (exported, is_new) = exports.attach(export::NewExport {
        dataset: new.dataset.clone(),
        endpoint: export::Endpoint::Path(new.socket.clone().into()),
        tag: new.tag.clone(),
        read_only: new.readonly,
        shared: new.shared,
        cache: None,
    })?;
    let it = as_export(store, &exported)?;
    Ok(Made { it, is_new })
}

/// Ends an export, given by its socket.
///
/// # Errors
/// When there is none; when a guest is connected, without `force`.
pub fn remove_export(exports: &Exports, socket: &str, force: bool) -> Result<()> {
    Ok(exports.detach(socket, force)?)
}

/// An export, by its dataset's name now.
pub(in crate::control) fn as_export(store: &Arc<Store>, exported: &Exported) -> Result<Export> {
    // It is in use, so it is there; somebody may have renamed it.
    let found = store.find_by_id(exported.dataset)?;
    Ok(Export {
        dataset: found.map(|found| found.name).unwrap_or_default(),
        socket: exported.socket.clone(),
        tag: exported.tag.clone(),
        is_readonly: exported.read_only,
        is_shared: exported.shared,
        is_connected: exported.connected,
        is_stale: exported.stale,
    })
}
