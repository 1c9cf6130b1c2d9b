//! Space of nodes.dat that goes back to the disk below: see [`crate::store::pages`].

use super::journal::Journal;
use crate::store::StoreError;

impl Journal {
    /// Gives the space of free pages back that nobody needed since the last time, with `all` that of
    /// all but those that transactions count on; and cuts off what the file has behind its last page
    /// and the last checkpoint behind its end. How many bytes. To be called without a transaction,
    /// now and then: what is free at the end goes behind the checkpoint that follows.
    ///
    /// # Errors
    /// When the disk refuses; nothing is lost. When the volume is read-only.
    pub fn trim_pages(&self, all: bool) -> Result<u64, StoreError> {
        let mut sum = self.cut_pages()?.saturating_add(self.cut_ahead(all)?);
        loop {
            let pages = &self.storage.pages;
            let idle = {
                let writer = self.writer.lock();
                let wanted = writer.wanted_pages();
                pages.shorten(wanted, all);
                pages.take_idle(wanted, all)
            };
            if idle.is_empty() {
                return Ok(sum);
            }
            match pages.give_back(idle)? {
                Some(bytes) => sum = sum.saturating_add(bytes),
                None => return Ok(sum),
            }
            if !all {
                return Ok(sum);
            }
        }
    }

    fn cut_ahead(&self, all: bool) -> Result<u64, StoreError> {
        // No copy of the superblock has more pages than there are: no checkpoint is under way, and
        // none has failed.
        let _newest = self.checkpoint.lock();
        self.writable()?;
        let writer = self.writer.lock();
        self.storage.pages.cut_ahead(writer.wanted_pages(), all)
    }

    /// Cuts off what the newest checkpoint has behind its end, if that was left for it. How many
    /// bytes.
    ///
    /// # Errors
    /// As [`Journal::trim_pages`].
    pub fn cut_pages(&self) -> Result<u64, StoreError> {
        let newest = self.checkpoint.lock();
        // One that failed may have left a copy of a superblock that has more.
        self.writable()?;
        self.storage.pages.cut(newest.nodes_end)
    }
}
