//! Units of chunks.dat: which are free.
//!
//! Every unit below [`UNITS_END`](crate::format::superblock::UNITS_END) is in exactly one place: a
//! chunk, a free range (in both free trees), or a pending range. A pending range is freed by a
//! checkpoint not yet durable, or, marked with [`CLAIMED`], is being written to by a process; after
//! a crash nobody writes to it any more, and it is free.

use std::ops::ControlFlow;

use crate::format::id::Generation;
use crate::format::key::{self, TreeId, trailing_u64};
use crate::format::record::{PendingFree, UNITS_USED_KEY};
use crate::log::Tx;
use crate::store::{Read, StoreError};

/// The generation of a range that is being written to.
pub(super) const CLAIMED: Generation = PendingFree::CLAIMED;

/// Units that are not free: chunks and pending ranges.
pub(in crate::engine) fn units_used(read: &impl Read) -> Result<u64, StoreError> {
    let found = read.get_u64(TreeId::Datasets, UNITS_USED_KEY)?;
    Ok(found.unwrap_or(0))
}

fn change_used(tx: &mut Tx<'_>, change: impl FnOnce(u64) -> u64) -> Result<(), StoreError> {
    let used = change(units_used(tx)?);
    tx.put(TreeId::Datasets, UNITS_USED_KEY, used.to_le_bytes())
}

fn put_free(tx: &mut Tx<'_>, start: u64, len: u64) -> Result<(), StoreError> {
    tx.put(TreeId::FreeByStart, key::u64_key(start), len.to_le_bytes())?;
    tx.put(
        TreeId::FreeBySize,
        key::free_by_size(len, start),
        Vec::new(),
    )
}

fn delete_free(tx: &mut Tx<'_>, start: u64, len: u64) -> Result<(), StoreError> {
    let by_start = tx.delete(TreeId::FreeByStart, key::u64_key(start))?;
    let by_size = tx.delete(TreeId::FreeBySize, key::free_by_size(len, start))?;
    if by_start && by_size {
        return Ok(());
    }
    Err(StoreError::Corrupt(format!(
        "the free trees disagree about unit {start}; run razorfsck"
    )))
}

/// A free range.
#[derive(Debug, Clone, Copy)]
pub(super) struct Free {
    /// Its first unit.
    pub(super) start: u64,
    size: u64,
}

/// The smallest free range of at least `len` units, the one that comes first of those.
pub(super) fn best_fit(read: &impl Read, len: u64) -> Result<Free, StoreError> {
    let smallest = key::free_by_size(len, 0);
    let found = read.first(TreeId::FreeBySize, &smallest, &[0xff; 17])?;
    let Some((key, _)) = found else {
        return Err(StoreError::NoSpace(
            "no free range of chunks.dat is large enough",
        ));
    };
    let start = trailing_u64(&key).map_err(|source| StoreError::format("free range", source))?;
    let size = key
        .first_chunk::<8>()
        .map_or(0, |bytes| u64::from_be_bytes(*bytes));
    Ok(Free { start, size })
}

/// Claims the first `len` units of a free range for writing.
pub(super) fn claim(tx: &mut Tx<'_>, free: Free, len: u64) -> Result<(), StoreError> {
    let Free { start, size } = free;
    let rest = size.checked_sub(len).ok_or_else(|| {
        StoreError::Corrupt(format!(
            "free range at unit {start} is shorter than its key says"
        ))
    })?;
    delete_free(tx, start, size)?;
    if rest > 0 {
        put_free(tx, start + len, rest)?;
    }
    let pending = PendingFree {
        len_units: len,
        generation: CLAIMED,
    };
    tx.put(TreeId::FreePending, key::u64_key(start), pending.encode())?;
    change_used(tx, |used| used.saturating_add(len))
}

/// Whether anything was freed that a checkpoint would make usable.
pub(super) fn has_freed(read: &impl Read) -> Result<bool, StoreError> {
    let mut found = false;
    read.scan(TreeId::FreePending, &[], &[0xff; 9], &mut |_, value| {
        found = PendingFree::decode(value).is_ok_and(|pending| pending.generation != CLAIMED);
        if found {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    Ok(found)
}

/// A claimed range now belongs to a chunk.
pub(super) fn settle_claim(tx: &mut Tx<'_>, start: u64) -> Result<(), StoreError> {
    if tx.delete(TreeId::FreePending, key::u64_key(start))? {
        return Ok(());
    }
    Err(StoreError::Corrupt(format!(
        "unit {start} of chunks.dat was not claimed"
    )))
}

/// Frees a chunk's units: reusable once the checkpoint that holds this is durable.
pub(super) fn free(tx: &mut Tx<'_>, start: u64, len: u64) -> Result<(), StoreError> {
    let pending = PendingFree {
        len_units: len,
        generation: tx.generation(),
    };
    tx.put(TreeId::FreePending, key::u64_key(start), pending.encode())
}

/// Ranges that were released: first unit and length; and where to go on.
pub(super) type Released = (Vec<(u64, u64)>, Option<u64>);

/// Moves at most `max` pending ranges that `may_release` accepts to the free ones, from unit `from`
/// on. Returns the ranges, and where to go on.
pub(super) fn release(
    tx: &mut Tx<'_>,
    from: u64,
    max: usize,
    may_release: impl Fn(Generation) -> bool,
) -> Result<Released, StoreError> {
    let mut raw = Vec::new();
    tx.scan(
        TreeId::FreePending,
        &key::u64_key(from),
        &[0xff; 9],
        &mut |key, value| {
            raw.push((trailing_u64(key), PendingFree::decode(value)));
            if raw.len() < max {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        },
    )?;
    let mut next = None;
    let full = raw.len() == max;
    let mut released = Vec::new();
    for (start, pending) in raw {
        let what = "pending free range";
        let start = start.map_err(|source| StoreError::format(what, source))?;
        let pending = pending.map_err(|source| StoreError::format(what, source))?;
        next = start.checked_add(1);
        if may_release(pending.generation) {
            tx.delete(TreeId::FreePending, key::u64_key(start))?;
            give_back(tx, start, pending.len_units)?;
            released.push((start, pending.len_units));
        }
    }
    Ok((released, if full { next } else { None }))
}

/// Adds a range to the free ones, joined with its neighbours.
fn give_back(tx: &mut Tx<'_>, start: u64, len: u64) -> Result<(), StoreError> {
    let corrupt = || StoreError::Corrupt(format!("unit {start} of chunks.dat is freed twice"));
    let (mut first, mut end) = (start, start.checked_add(len).ok_or_else(corrupt)?);
    let at = key::u64_key(start);
    if let Some(found) = tx.floor_with(TreeId::FreeByStart, &at, range_of)? {
        let (before, before_len) = found?;
        if before + before_len > start {
            return Err(corrupt());
        }
        if before + before_len == start {
            delete_free(tx, before, before_len)?;
            first = before;
        }
    }
    let at = key::u64_key(end);
    let found = tx.get_with(TreeId::FreeByStart, &at, |value| range_of(&at, value))?;
    if let Some(found) = found {
        let (after, after_len) = found?;
        delete_free(tx, after, after_len)?;
        end = after.checked_add(after_len).ok_or_else(corrupt)?;
    }
    put_free(tx, first, end - first)?;
    change_used(tx, |used| used.saturating_sub(len))
}

fn range_of(key: &[u8], value: &[u8]) -> Result<(u64, u64), StoreError> {
    let start = trailing_u64(key).map_err(|source| StoreError::format("free range", source))?;
    let len = value
        .first_chunk::<8>()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes));
    if len == 0 || start.checked_add(len).is_none() {
        return Err(StoreError::Corrupt(format!(
            "free range at unit {start} has length {len}"
        )));
    }
    Ok((start, len))
}
