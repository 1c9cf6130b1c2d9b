//! Datasets and clones.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use super::{
    Made, Result, as_dataset, dataset_name, described, described_by_id, described_made, make_once,
};
use crate::control::api::{ChangeDataset, Dataset, ErrorKind, Failure, NewClone, NewDataset};
use crate::engine::{DatasetInfo, Settings, Store};
use crate::format::id::DatasetId;

/// All datasets and snapshots, by number.
///
/// # Errors
/// When the store cannot be read.
pub fn datasets(store: &Arc<Store>) -> Result<Vec<Dataset>> {
    let all = store.list()?;
    let names: HashMap<_, _> = all.iter().map(|each| (each.id, &each.name)).collect();
    let name_of = |id: DatasetId| names.get(&id).map(ToString::to_string);
    Ok(all.iter().map(|each| as_dataset(each, name_of)).collect())
}

/// The dataset or snapshot of a name.
///
/// # Errors
/// When there is none; when the store cannot be read.
pub fn dataset(store: &Arc<Store>, name: &str) -> Result<Dataset> {
    described(store, &store.find(name)?)
}

/// Makes an empty dataset. Durable on return.
///
/// # Errors
/// When the name is taken or cannot be one, or a setting is not known; when the store refuses.
pub fn create_dataset(store: &Arc<Store>, new: &NewDataset) -> Result<Made<Dataset>> {
    let settings = Settings {
        quota_bytes: new.quota_bytes,
        quota_inodes: new.quota_inodes,
        reservation_bytes: new.reservation_bytes,
        ..settings(new.compression.as_deref(), new.dedup.as_deref())?
    };
    let owner = (new.uid.unwrap_or(0), new.gid.unwrap_or(0));
    let is_the_same = |found: &DatasetInfo| {
        found.snapshot_of.is_none()
            && found.origin.is_none()
            && settings
                .compression
                .is_none_or(|set| set == found.compression)
            && settings.dedup.is_none_or(|set| set == found.dedup)
            && settings
                .quota_bytes
                .is_none_or(|set| set == found.quota_bytes)
            && settings
                .quota_inodes
                .is_none_or(|set| set == found.quota_inodes)
            && settings
                .reservation_bytes
                .is_none_or(|set| set == found.reservation_bytes)
    };
    let make = || store.create_dataset_with(&new.name, owner, settings);
    let made = make_once(store, &new.name, make, is_the_same)?;
    described_made(store, &made)
}

/// Changes a dataset's settings, or its name. Durable on return.
///
/// # Errors
/// When there is no such dataset; when the change is not possible; when the store refuses.
pub fn change_dataset(store: &Arc<Store>, name: &str, change: &ChangeDataset) -> Result<Dataset> {
    let settings = Settings {
        quota_bytes: change.quota_bytes,
        quota_inodes: change.quota_inodes,
        reservation_bytes: change.reservation_bytes,
        ..settings(change.compression.as_deref(), change.dedup.as_deref())?
    };
    // By its number: who comes between may give the name to another.
    let id = store.find(name)?.id;
    match &change.name {
        // One transaction each: a crash between them would leave half of what was asked for.
        Some(_) if settings != Settings::default() => {
            let message = "a name and settings are not changed at once";
            return Err(Failure::new(ErrorKind::BadRequest, message));
        }
        Some(to) => {
            dataset_name(name)?;
            store.rename(name, to)?;
        }
        None => store.change_settings(name, settings)?,
    }
    described_by_id(store, id)
}

/// Deletes a dataset, with its snapshots if `recursive`. Durable on return; its space comes back
/// bit by bit.
///
/// # Errors
/// When there is none; when it is in use or has snapshots; when the store refuses.
pub fn delete_dataset(store: &Arc<Store>, name: &str, recursive: bool) -> Result<()> {
    dataset_name(name)?;
    Ok(store.delete(name, recursive)?)
}

/// Makes a dataset that begins as what its source is now. Durable on return.
///
/// # Errors
/// When the source is not there; when the name is taken or cannot be one; when the store refuses.
pub fn clone_dataset(store: &Arc<Store>, new: &NewClone) -> Result<Made<Dataset>> {
    let source = store.find(&new.source)?.id;
    let is_the_same =
        |found: &DatasetInfo| found.snapshot_of.is_none() && found.origin == Some(source);
    let make = || store.clone_dataset(&new.source, &new.name);
    let made = make_once(store, &new.name, make, is_the_same)?;
    described_made(store, &made)
}

/// Gives a clone the snapshots that it has in common with the dataset that it was cloned from.
/// Durable on return.
///
/// # Errors
/// When it is no clone, or the names of its snapshots are in the way; when the store refuses.
pub fn promote(store: &Arc<Store>, clone: &str) -> Result<Dataset> {
    let id = store.find(clone)?.id;
    store.promote(clone)?;
    described_by_id(store, id)
}

fn settings(compression: Option<&str>, dedup: Option<&str>) -> Result<Settings> {
    fn parsed<T: FromStr<Err: std::fmt::Display>>(
        key: &str,
        value: Option<&str>,
    ) -> Result<Option<T>> {
        let value = value.map(str::parse).transpose();
        value.map_err(|error| Failure::new(ErrorKind::BadRequest, format!("{key}: {error}")))
    }
    Ok(Settings {
        compression: parsed("compression", compression)?,
        dedup: parsed("dedup", dedup)?,
        ..Settings::default()
    })
}
