//! Forgetting names that nobody uses: see [`NamesWalk`].

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use super::journal::{Journal, View};
use super::{Tx, recovery};
use crate::format::id::{NameId, PageNo};
use crate::format::key::{Key, TreeId, trailing_u64};
use crate::format::record::name_used;
use crate::store::roots::AtOneMoment;
use crate::store::strings::UsedNames;
use crate::store::tree::Walk;
use crate::store::{Read, StoreError};

/// Behind every key of [`TreeId::Names`].
const NAMES_END: [u8; 17] = [0xff; 17];
/// Names forgotten in one transaction, at most, and names looked at for one: others wait meanwhile.
const FORGET_MAX: usize = if cfg!(test) { 7 } else { 512 };
const LOOK_MAX: usize = if cfg!(test) { 20 } else { 8192 };

/// Names as the tree that finds them has them.
pub type Found = Vec<(Key, NameId)>;

/// Finds the names that no entry uses, and has the store forget them.
///
/// It reads the trees of all datasets and snapshots, as they were when it began, and marks the names
/// that their entries hold. What an entry holds later came from an entry of these trees (renamed,
/// copied with its tree), or was put by a transaction; each transaction that puts an entry while the
/// walk is on marks its name ([`super::Tx::put`]). It began when there was no transaction. So a name
/// that is not marked, when there is none again, is held by no entry, nor will it be: a transaction
/// that looks for it then does not find it, and gives it a new place.
///
/// Views from before may hold entries with names that were forgotten, and a crash may bring back
/// trees that find them. So nothing is punched until no such view is left, and both superblocks name
/// trees that do not find them: the gaps go the way of freed pages (`Retired`).
///
/// Dropped before its end it leaves a store in which some names were forgotten, which harms nothing.
pub struct NamesWalk<'a> {
    journal: &'a Journal,
    used: Arc<UsedNames>,
    /// The trees as they were.
    view: Option<View>,
    walk: Walk,
    /// Where to go on forgetting; `None` behind the last name.
    from: Option<Key>,
}

impl Journal {
    /// Begins a walk over the trees. One at a time; best behind a checkpoint, since it keeps what memory
    /// holds of the trees. It takes a bit for each 8 bytes of strings.dat and for each page.
    ///
    /// # Errors
    /// When the volume is read-only, or the datasets cannot be read.
    pub fn walk_names(&self) -> Result<NamesWalk<'_>, StoreError> {
        self.writable()?;
        let (view, used) = {
            // There is no transaction while this has the writer.
            let mut writer = self.writer.lock();
            let view = self.view();
            let used = Arc::new(UsedNames::new(view.strings_end()));
            writer.used_names = Some(Arc::clone(&used));
            (view, used)
        };
        let mut walk = NamesWalk {
            journal: self,
            used,
            view: None,
            walk: Walk::new(Vec::new(), PageNo(0)),
            from: Some(Key::new()),
        };
        let reading = view.reading();
        let mut roots = Vec::new();
        for (id, _) in recovery::datasets(&view)? {
            roots.push(reading.roots.root(reading.storage, TreeId::Fs(id))?);
        }
        walk.walk = Walk::new(roots, self.storage.pages.extent().0);
        walk.view = Some(view);
        Ok(walk)
    }

    /// Gives gaps between names back to the disk below that nobody reads any more: one, if there is
    /// one. How many bytes.
    ///
    /// # Errors
    /// When the volume is read-only; when the disk refuses, and nothing is lost then.
    pub fn punch_names(&self) -> Result<Option<u64>, StoreError> {
        self.writable()?;
        self.release_retired()?;
        self.storage.strings.give_back()
    }

    /// Whether the disk below is known to take no space back from inside of strings.dat.
    #[must_use]
    pub fn keeps_names(&self) -> bool {
        self.storage.strings.takes_no_holes()
    }

    /// Bytes of strings.dat that hold names or did, and have their space.
    #[must_use]
    pub fn names_backed_bytes(&self) -> u64 {
        let end = self.published.read().strings_end;
        end.saturating_sub(self.names_unbacked_bytes())
    }

    /// Bytes of strings.dat that take no space.
    #[must_use]
    pub fn names_unbacked_bytes(&self) -> u64 {
        self.storage.strings.unbacked_bytes()
    }
}

impl NamesWalk<'_> {
    /// Reads about `max` pages of the trees, and marks what is used; whether there are more.
    ///
    /// # Errors
    /// When something cannot be read or believed: nobody knows which names are used then, and none may
    /// be forgotten.
    pub fn read(&mut self, max: usize) -> Result<bool, StoreError> {
        let used = &self.used;
        let more = self
            .walk
            .step(&self.journal.storage.pages, max, &mut |key, value| {
                let name = name_used(key, value)
                    .map_err(|source| StoreError::format("an entry of a dataset's tree", source))?;
                name.into_iter().for_each(|id| used.mark(id));
                Ok(())
            })?;
        if !more {
            // What it freed can be written again.
            self.view = None;
        }
        Ok(more)
    }

    /// Names that are not used, some at a time: to be forgotten in one transaction. `None` when all
    /// were looked at. To be called when all trees were read.
    ///
    /// # Errors
    /// When the tree of names cannot be read.
    pub fn unused(&mut self) -> Result<Option<Found>, StoreError> {
        if self.view.is_some() {
            return Err(StoreError::Corrupt(
                "names cannot be forgotten before all trees were read".into(),
            ));
        }
        let Some(from) = self.from.take() else {
            return Ok(None);
        };
        let mut unused = Vec::new();
        let (mut looked, mut wrong) = (0, None);
        let view = self.journal.view();
        view.scan(TreeId::Names, &from, &NAMES_END, &mut |key, _| {
            if looked == LOOK_MAX || unused.len() == FORGET_MAX {
                self.from = Some(Key::from_slice(key));
                return ControlFlow::Break(());
            }
            looked += 1;
            match trailing_u64(key).map(NameId) {
                Ok(id) if self.used.has(id) => {}
                Ok(id) => unused.push((Key::from_slice(key), id)),
                Err(error) => {
                    wrong = Some(error);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        match wrong {
            Some(source) => Err(StoreError::format("the tree of names", source)),
            None => Ok(Some(unused)),
        }
    }

    /// Forgets those of the names that nobody has come to use since; how many. A transaction that is
    /// not committed ends the walk: the names that it was to forget are found, and may be used.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn forget(&self, tx: &mut Tx<'_>, unused: &Found) -> Result<u64, StoreError> {
        let mut count = 0;
        for (key, id) in unused {
            if !self.used.has(*id) {
                tx.remove(TreeId::Names, key)?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Leaves the gaps to the next checkpoint: what comes behind it may punch them, when nobody reads
    /// there any more. To be called when forgetting is done. Bytes in gaps that did not go back before.
    pub fn finish(self) -> u64 {
        let strings = &self.journal.storage.strings;
        let gaps = strings.not_gone(self.used.gaps(strings.block_bytes()));
        let bytes = gaps.iter().map(|gap: &Range<u64>| gap.end - gap.start);
        let bytes = bytes.sum();
        self.journal.writer.lock().gaps = gaps;
        bytes
    }
}

impl Drop for NamesWalk<'_> {
    fn drop(&mut self) {
        self.journal.writer.lock().used_names = None;
    }
}
