//! Reading and writing the two copies of the superblock.

use super::StoreError;
use crate::disk::Disk;
use crate::format::FormatError;
use crate::format::superblock::{SUPERBLOCK_BYTES, Superblock};

/// The newest superblock, and what is wrong with a copy that does not count.
#[derive(Debug)]
pub struct Found {
    /// The newest copy that is whole.
    pub superblock: Superblock,
    /// Why a copy cannot be used: its number (0 or 1) and the reason.
    pub damaged: Vec<(u8, String)>,
    /// A copy that is damaged or older than the newest: a checkpoint was cut off, or it rotted.
    pub behind: Option<u8>,
}

/// Reads both copies and takes the newest whole one.
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
                Some(first) if first.generation < found.generation => {
                    newest = Some(found);
                    behind = Some(0);
                }
                Some(first) if first.generation > found.generation => behind = Some(copy),
                Some(_) => {}
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

/// Makes both copies the newest one: durable on return. To be done before anything that the newest
/// checkpoint does not need is overwritten, because the next checkpoint writes copy 0 first: torn,
/// it would leave only a copy whose pages and log are gone.
///
/// # Errors
/// When the disk refuses; the newest copy is as it was.
pub fn mend(disk: &dyn Disk, found: &Found) -> Result<(), StoreError> {
    match found.behind {
        Some(copy) => write_copy(disk, copy, &found.superblock),
        None => Ok(()),
    }
}

fn write_copy(disk: &dyn Disk, copy: u8, superblock: &Superblock) -> Result<(), StoreError> {
    let what = |doing: &str| format!("superblock copy {copy}, {doing}");
    let offset = u64::from(copy) * SUPERBLOCK_BYTES as u64;
    disk.write_at(offset, &superblock.encode())
        .map_err(|source| StoreError::io(what("writing"), source))?;
    // Between the copies: without it both could be torn at once. After them: without it what
    // the old checkpoint needs could be overwritten while it still counts.
    disk.flush()
        .map_err(|source| StoreError::io(what("flushing"), source))
}

/// Writes both copies, one after the other has become durable: durable on return.
///
/// # Errors
/// When the disk refuses; which of the two checkpoints counts is then unknown until reopening.
pub fn write(disk: &dyn Disk, superblock: &Superblock) -> Result<(), StoreError> {
    write_copy(disk, 0, superblock)?;
    write_copy(disk, 1, superblock)
}
