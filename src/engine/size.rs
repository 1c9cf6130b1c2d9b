//! The store's own size: how many bytes of content it may hold.
//!
//! Invariant: who wants room never sees more than what the superblock on the disk says. So a size
//! that grows counts once it is durable, and one that shrinks counts before it is written.

use super::data::UNIT;
use super::{EngineError, Store};
use crate::store::StoreError;
use crate::sync::atomic::Ordering;

impl Store {
    /// Bytes of content that the store may hold; 0 for as many as the disk gives.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.data.capacity_bytes.load(Ordering::SeqCst)
    }

    /// Bytes that a size must leave room for: what is used, what is not written out yet, and what is
    /// reserved.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn needed_bytes(&self) -> Result<u64, EngineError> {
        let kept = self.data.kept_bytes.load(Ordering::SeqCst);
        Ok(self.wanted_units(kept)?.1.saturating_mul(UNIT))
    }

    /// Changes how many bytes of content the store may hold; 0 for as many as the disk gives. Durable
    /// on return: it is in the superblock of a checkpoint.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] when more is used or reserved, and nothing has changed then; when the
    /// store refuses.
    pub fn change_size(&self, bytes: u64) -> Result<(), EngineError> {
        let _one = self.data.setting.lock();
        self.journal.writable()?;
        let own = &self.data.capacity_bytes;
        let before = own.load(Ordering::SeqCst);
        let is_less = bytes != 0 && (before == 0 || bytes < before);
        if is_less {
            // From here on nobody is promised more: who was, before, is counted.
            own.store(bytes, Ordering::SeqCst);
            let fits = self.fits(bytes);
            fits.inspect_err(|_| own.store(before, Ordering::SeqCst))?;
        }
        self.journal.set_capacity_bytes(bytes);
        self.checkpoint()?;
        own.store(bytes, Ordering::SeqCst);
        Ok(())
    }

    /// Whether all that is used and reserved fits a size.
    fn fits(&self, bytes: u64) -> Result<(), EngineError> {
        if self.needed_bytes()? <= bytes {
            return Ok(());
        }
        // What was deleted counts until a checkpoint.
        self.checkpoint()?;
        match self.needed_bytes()? <= bytes {
            true => Ok(()),
            false => Err(StoreError::NoSpace("more is used or reserved than that").into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::sync::Arc;

    use super::*;
    use crate::disk::sim::{Call, Fault, SimMedia, Survival};
    use crate::engine::{
        Cred, MkfsOptions, NewInode, OpenOptions, Settings, WriteFlags, mkfs, system_clock,
    };
    use crate::format::id::Ino;
    use crate::fsck;

    const MIB: u64 = 1 << 20;

    fn make(capacity_bytes: u64) -> SimMedia {
        let sim = SimMedia::new();
        let options = MkfsOptions {
            capacity_bytes,
            ..MkfsOptions::reproducible()
        };
        mkfs(sim.media(), &options, &system_clock()).unwrap();
        sim
    }

    fn open(sim: &SimMedia) -> Arc<Store> {
        let options = OpenOptions {
            background: false,
            ..OpenOptions::default()
        };
        Store::open_media(sim.media(), options, system_clock()).unwrap()
    }

    fn write(store: &Arc<Store>, name: &str, len: u64) -> Result<(), EngineError> {
        let main = store.main()?;
        let new = NewInode {
            mode: libc::S_IFREG | 0o644,
            umask: 0,
            rdev: 0,
            xattrs: &[],
            supplementary_gid: None,
        };
        let ino = match main.lookup(Ino::ROOT, name.as_bytes()) {
            Ok(found) => found.ino,
            Err(_) => {
                main.create(Cred::default(), Ino::ROOT, name.as_bytes(), &new)?
                    .ino
            }
        };
        let bytes: Vec<u8> = (0..len).map(|at| (at % 251).to_le_bytes()[0]).collect();
        main.write(ino, 0, bytes.len(), &mut &*bytes, WriteFlags::default())?;
        main.fsync(ino, false)
    }

    fn is_full(result: &Result<(), EngineError>) -> bool {
        matches!(result, Err(EngineError::Store(StoreError::NoSpace(_))))
    }

    #[test]
    fn a_store_grows_and_shrinks_down_to_what_is_used() {
        let sim = make(4 * MIB);
        let store = open(&sim);
        write(&store, "a", 2 * MIB).unwrap();
        assert!(is_full(&write(&store, "b", 4 * MIB)));
        store.change_size(16 * MIB).unwrap();
        write(&store, "b", 4 * MIB).unwrap();
        // What is used, and what is reserved, stays.
        assert!(is_full(&store.change_size(5 * MIB)));
        assert_eq!(store.size_bytes(), 16 * MIB);
        let reserve = |bytes| Settings {
            reservation_bytes: Some(bytes),
            ..Settings::default()
        };
        store.create_dataset("other", (0, 0)).unwrap();
        store.change_settings("other", reserve(6 * MIB)).unwrap();
        assert!(is_full(&store.change_size(8 * MIB)));
        store.change_settings("other", reserve(0)).unwrap();
        store.change_size(8 * MIB).unwrap();
        assert!(is_full(&write(&store, "c", 4 * MIB)));
        // What was deleted is room at once.
        let main = store.main().unwrap();
        let gone = main.unlink(Ino::ROOT, b"b").unwrap();
        main.reclaim(gone.ino).unwrap();
        drop(main);
        store.change_size(3 * MIB).unwrap();
        store.close().unwrap();
        let store = open(&sim);
        assert_eq!(store.size_bytes(), 3 * MIB);
        assert!(is_full(&write(&store, "c", 2 * MIB)));
        store.change_size(0).unwrap();
        write(&store, "c", 2 * MIB).unwrap();
        store.close().unwrap();
        assert_eq!(open(&sim).size_bytes(), 0);
        assert_eq!(fsck::errors(&sim.media()).unwrap(), [""; 0]);
    }

    /// Each call of the disk fails once: the size is the old one or the new one, and never more than
    /// what will be there after opening again.
    #[test]
    fn a_size_that_cannot_be_written_is_the_old_one_or_the_new_one() {
        for call in [Call::Write, Call::Flush, Call::Read, Call::Allocate] {
            for after in 0..40 {
                for (from, to) in [(8, 64), (64, 8)] {
                    let sim = make(from * MIB);
                    let store = open(&sim);
                    write(&store, "a", 2 * MIB).unwrap();
                    sim.set_fault(Some(Fault {
                        call,
                        after,
                        sticky: false,
                        kind: ErrorKind::Other,
                    }));
                    let changed = store.change_size(to * MIB);
                    let calls = sim.fault_calls();
                    sim.set_fault(None);
                    let context = format!("{call:?} {after}: {from} to {to}: {changed:?}");
                    if changed.is_ok() {
                        assert_eq!(store.size_bytes(), to * MIB, "{context}");
                    } else {
                        assert!(!store.is_writable() || calls <= after, "{context}");
                    }
                    drop(store);
                    let found = open(&sim).size_bytes() / MIB;
                    match changed {
                        Ok(()) => assert_eq!(found, to, "{context}"),
                        Err(_) => assert!(found == from || found == to, "{context}"),
                    }
                }
            }
        }
    }

    #[test]
    fn after_a_power_cut_the_size_is_the_old_one_or_the_new_one() {
        let made = make(8 * MIB);
        let sim = made.killed();
        let store = open(&sim);
        write(&store, "a", MIB).unwrap();
        let before = sim.events();
        store.change_size(64 * MIB).unwrap();
        let after = sim.events();
        store.change_size(4 * MIB).unwrap();
        let end = sim.events();
        assert!(before < after && after < end, "nothing was written");
        let mut recording = sim.recording();
        for point in before..=end {
            for seed in 0..4 {
                let crashed = recording.crash_at(point, Survival::Random(seed));
                let found = open(&crashed).size_bytes() / MIB;
                let allowed: &[u64] = match point {
                    point if point == before => &[8],
                    point if point < after => &[8, 64],
                    point if point == after => &[64],
                    point if point < end => &[64, 4],
                    _ => &[4],
                };
                assert!(allowed.contains(&found), "event {point}: {found} MiB");
                assert_eq!(fsck::errors(&crashed.media()).unwrap(), [""; 0]);
            }
        }
    }
}
