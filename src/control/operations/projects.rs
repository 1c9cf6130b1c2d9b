//! Projects: directory trees with limits of their own.

use std::sync::Arc;

use super::Result;
use crate::control::api::{ChangeProject, ErrorKind, Failure, Project};
use crate::engine::{EngineError, ProjectInfo, Store, Volume};
use crate::format::id::Ino;

/// The projects of a dataset that have inodes or limits, by number.
///
/// # Errors
/// When there is no such dataset; when the store cannot be read.
pub fn projects(store: &Arc<Store>, dataset: &str) -> Result<Vec<Project>> {
    let all = store.volume(dataset)?.projects()?;
    Ok(all.iter().map(|each| as_project(dataset, each)).collect())
}

/// Sets limits of a project, then gives a directory tree to it. Durable on return; what of the tree
/// was given to it before an error stays so. `go_on` is asked now and then.
///
/// # Errors
/// When there is no such dataset or path; when it is a snapshot, or 0 is to have limits; when the
/// store refuses, or it was stopped: asking again has it done to the end.
pub fn change_project(
    store: &Arc<Store>,
    change: &ChangeProject,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<Project> {
    let (dataset, id) = (change.dataset.as_str(), change.id);
    let volume = store.volume(dataset)?;
    let find = |volume: &Volume| -> Result<ProjectInfo> {
        let all = volume.projects()?;
        let found = all.into_iter().find(|project| project.id == id);
        Ok(found.unwrap_or(ProjectInfo {
            id,
            ..ProjectInfo::default()
        }))
    };
    // Before anything is done for a path that is not there.
    let path = change.path.as_deref();
    let ino = path.map(|path| at_path(&volume, path)).transpose()?;
    if change.quota_bytes.is_some() || change.quota_inodes.is_some() {
        volume.count_projects(go_on)?;
        let mut limit = find(&volume)?.limit;
        limit.bytes = change.quota_bytes.unwrap_or(limit.bytes);
        limit.inodes = change.quota_inodes.unwrap_or(limit.inodes);
        store.limit_project(dataset, id, limit)?;
    }
    if let Some(ino) = ino {
        volume.assign_project(ino, id, go_on)?;
    }
    Ok(as_project(dataset, &find(&volume)?))
}

fn at_path(volume: &Volume, path: &str) -> Result<Ino> {
    let mut ino = Ino::ROOT;
    for name in path.split('/').filter(|name| !matches!(*name, "" | ".")) {
        let found = volume.lookup(ino, name.as_bytes());
        let failed = |error: EngineError| {
            let kind = match error {
                EngineError::NotFound => ErrorKind::NotFound,
                _ => ErrorKind::NotPossible,
            };
            Failure::new(kind, format!("{path}: {error}"))
        };
        ino = found.map_err(failed)?.ino;
    }
    Ok(ino)
}

fn as_project(dataset: &str, info: &ProjectInfo) -> Project {
    Project {
        dataset: dataset.to_owned(),
        id: info.id,
        inodes: info.used.inodes,
        allocated_bytes: info.used.bytes,
        quota_bytes: info.limit.bytes,
        quota_inodes: info.limit.inodes,
    }
}
