//! A dataset as it is at a moment, to be read for as long as that takes.
//!
//! Of a dataset that others may change it is a snapshot without a name, which nobody else finds and
//! which counts as deleted from the beginning: so it goes when its reader is done, and after a crash
//! as any deleted one does.
//!
//! Invariant: what has no name is not taken away while somebody reads it. It is in use before the
//! table of those in use is let go of, and who takes trees away looks there.

use std::ops::Deref;
use std::sync::Arc;

use super::DatasetError;
use super::records::found;
use crate::engine::{Store, Volume};
use crate::format::id::DatasetId;
use crate::store::pages::Need;

/// A dataset or a snapshot that does not change.
pub struct Still {
    volume: Volume,
    /// Whether it is there for this reader alone.
    is_own: bool,
}

impl Deref for Still {
    type Target = Volume;

    fn deref(&self) -> &Volume {
        &self.volume
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        if self.is_own {
            let store = &self.volume.store;
            store.datasets.write().remove(&self.volume.dataset.id);
            store.background.reap();
        }
    }
}

impl Store {
    /// A dataset or a snapshot as it is now: all that was acknowledged before is in it, and nothing of
    /// what comes after. What it keeps takes space until it is dropped, and is taken away then.
    ///
    /// # Errors
    /// When there is none of that name; when a path is being restored into it; when its files cannot
    /// be written out; when the store refuses.
    pub fn still(self: &Arc<Self>, name: &str) -> Result<Still, DatasetError> {
        let volume = self.volume(name)?;
        if !volume.is_writable() {
            let is_own = false;
            return Ok(Still { volume, is_own });
        }
        let volume = self.with_all_written(name, |id| self.take_nameless(id, name))?;
        let is_own = true;
        Ok(Still { volume, is_own })
    }

    fn take_nameless(
        self: &Arc<Self>,
        from: DatasetId,
        name: &str,
    ) -> Result<Volume, DatasetError> {
        // Nobody takes it away before it is in use.
        let (mut datasets, mut tx) = self.begin_with_datasets(Need::Space)?;
        if found(&tx, name)?.0 != from {
            // It was renamed meanwhile, and the name given to another.
            return Err(DatasetError::NotFound(name.to_owned()));
        }
        let id = self.put_nameless(&mut tx, from)?;
        // That it is not durable loses nothing: nobody needs it after a crash.
        tx.commit()?;
        Ok(self.attach_in(&mut datasets, id)?)
    }
}
