//! Reading and writing the two copies of the superblock.
//!
//! Three things write them: a checkpoint; an opening, to say that the store is in use; and closing,
//! whose checkpoint says that it no longer is. Each copy is durable before the other is written, so
//! that one is whole at any moment. A store counts as closed only where both copies say so.

use super::StoreError;
use crate::disk::Disk;
use crate::format::FormatError;
use crate::format::id::Generation;
use crate::format::superblock::{SUPERBLOCK_BYTES, Superblock};

/// The newest superblock, and what is wrong with a copy that does not count.
#[derive(Debug)]
pub struct Found {
    /// The newest copy that is whole.
    pub superblock: Superblock,
    /// Why a copy cannot be used: its number (0 or 1) and the reason.
    pub damaged: Vec<(u8, String)>,
    /// A copy that is damaged or not the same as the newest: writing them was cut off, or it
    /// rotted.
    pub behind: Option<u8>,
}

impl Found {
    /// Whether the store was closed and not written to since: the log holds nothing, and no page is
    /// of a later checkpoint.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.superblock.is_closed() && self.behind.is_none()
    }
}

/// Reads both copies and takes the newest whole one; of two of the same checkpoint the one that does
/// not say that the store was closed, because that is what an opening writes.
///
/// # Errors
/// When neither can be used: the reason of the first.
pub fn read(disk: &dyn Disk) -> Result<Found, StoreError> {
    let mut newest: Option<Superblock> = None;
    let mut behind = None;
    let mut damaged = Vec::new();
    let mut first_error = None;
    for copy in 0..2u8 {
        match read_copy(disk, copy) {
            Ok(found) => match &newest {
                None => newest = Some(found),
                Some(first) if *first == found => {}
                Some(first) if age(first) < age(&found) => {
                    newest = Some(found);
                    behind = Some(0);
                }
                Some(_) => behind = Some(copy),
            },
            Err(error) => {
                behind = Some(copy);
                damaged.push((copy, error.to_string()));
                first_error.get_or_insert(error);
            }
        }
    }
    match (newest, first_error) {
        (Some(superblock), _) => Ok(Found {
            superblock,
            damaged,
            behind,
        }),
        (None, Some(error)) => Err(error),
        (None, None) => Err(StoreError::Corrupt("superblock: no copy".into())),
    }
}

/// Of two copies the one counts for which this is larger.
fn age(superblock: &Superblock) -> (Generation, bool) {
    (superblock.generation, !superblock.clean)
}

fn read_copy(disk: &dyn Disk, copy: u8) -> Result<Superblock, StoreError> {
    let what = || format!("superblock copy {copy}");
    let mut bytes = [0; SUPERBLOCK_BYTES];
    let offset = u64::from(copy) * SUPERBLOCK_BYTES as u64;
    let length = disk.len_bytes();
    if length < offset + SUPERBLOCK_BYTES as u64 {
        let found = usize::try_from(length).unwrap_or(usize::MAX);
        let expected = 2 * SUPERBLOCK_BYTES;
        let source = FormatError::Length {
            what: "superblock file",
            expected,
            found,
        };
        return Err(StoreError::format(what(), source));
    }
    disk.read_at(offset, &mut bytes)
        .map_err(|source| StoreError::io(what(), source))?;
    Superblock::decode(&bytes).map_err(|source| StoreError::format(what(), source))
}

/// Makes both copies the newest one, and takes the mark from them that the store was closed: returns
/// what they are, durable on return. To be done before anything else of the store is written. The
/// next opening must not take what is written for nothing; and the next checkpoint writes copy 0
/// first: torn, it would leave only a copy whose pages and log may be gone.
///
/// # Errors
/// When the disk refuses; the newest copy is as it was, but perhaps for its mark.
pub fn begin_use(disk: &dyn Disk, found: &Found) -> Result<Superblock, StoreError> {
    let superblock = found.superblock.in_use();
    let marked = superblock != found.superblock;
    if marked || found.behind.is_some() {
        // Without it both could be torn at once: what was found may be in the page cache only, if
        // the process that wrote it was killed.
        flush(disk, "superblock, before it is written")?;
    }
    // The copy that counts is the last to be written: until then it is the whole one.
    let first = found.behind.unwrap_or(0);
    if marked || found.behind.is_some() {
        write_copy(disk, first, &superblock)?;
    }
    if marked {
        write_copy(disk, 1 - first, &superblock)?;
    }
    Ok(superblock)
}

fn write_copy(disk: &dyn Disk, copy: u8, superblock: &Superblock) -> Result<(), StoreError> {
    let offset = u64::from(copy) * SUPERBLOCK_BYTES as u64;
    disk.write_at(offset, &superblock.encode())
        .map_err(|source| StoreError::io(format!("superblock copy {copy}, writing"), source))?;
    // Between the copies: without it both could be torn at once. After them: without it what
    // the old checkpoint needs could be overwritten while it still counts, and log be written
    // while the store still counts as closed.
    flush(disk, &format!("superblock copy {copy}"))
}

fn flush(disk: &dyn Disk, what: &str) -> Result<(), StoreError> {
    disk.flush()
        .map_err(|source| StoreError::io(format!("{what}, flushing"), source))
}

/// Writes both copies, one after the other has become durable: durable on return.
///
/// # Errors
/// When the disk refuses; which of the two checkpoints counts is then unknown until reopening.
pub fn write(disk: &dyn Disk, superblock: &Superblock) -> Result<(), StoreError> {
    write_copy(disk, 0, superblock)?;
    write_copy(disk, 1, superblock)
}
