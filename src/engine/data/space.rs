//! Units of chunks.dat: which are free.
//!
//! Every unit below [`UNITS_END`] is in exactly one place: a
//! chunk, a free range (in both free trees), or a pending range. A pending range is freed by a
//! checkpoint not yet durable; or, marked with [`CLAIMED`], is being written to by a process: after
//! a crash nobody writes to it any more, and it is free; or, marked with [`PUNCHED`], its space went
//! back to the disk below: it is free only after it has been allocated again. So what is free can be
//! written to on a full disk too, and nobody writes to what is being punched.

use std::ops::ControlFlow;

use crate::format::id::Generation;
use crate::format::key::{self, TreeId, trailing_u64};
use crate::format::record::{PendingFree, UNITS_PUNCHED_KEY, UNITS_USED_KEY};
use crate::format::superblock::UNITS_END;
use crate::log::Tx;
use crate::store::{Read, StoreError};

/// The generation of a range that is being written to.
pub(super) const CLAIMED: Generation = PendingFree::CLAIMED;
/// The generation of a range whose space went back to the disk below.
pub(super) const PUNCHED: Generation = PendingFree::PUNCHED;

/// Units that are not free: chunks and pending ranges.
pub(in crate::engine) fn units_used(read: &impl Read) -> Result<u64, StoreError> {
    let found = read.get_u64(TreeId::Datasets, UNITS_USED_KEY)?;
    Ok(found.unwrap_or(0))
}

/// Ranges of a size and up to twice that are looked at to find one.
const FIT_MAX: usize = 512;

fn change_used(tx: &mut Tx<'_>, change: impl FnOnce(u64) -> u64) -> Result<(), StoreError> {
    let used = change(units_used(tx)?);
    tx.put(TreeId::Datasets, UNITS_USED_KEY, used.to_le_bytes())
}

/// Units in punched ranges: of [`units_used`].
pub(in crate::engine) fn units_punched(read: &impl Read) -> Result<u64, StoreError> {
    let found = read.get_u64(TreeId::Datasets, UNITS_PUNCHED_KEY)?;
    Ok(found.unwrap_or(0))
}

fn change_punched(tx: &mut Tx<'_>, change: impl FnOnce(u64) -> u64) -> Result<(), StoreError> {
    let punched = change(units_punched(tx)?);
    tx.put(TreeId::Datasets, UNITS_PUNCHED_KEY, punched.to_le_bytes())
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

/// A place in a free range.
#[derive(Debug, Clone, Copy)]
pub(super) struct Free {
    /// Its first unit.
    pub(super) start: u64,
    /// The range: first unit and length.
    range: (u64, u64),
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
    let range = (start, size);
    Ok(Free { start, range })
}

/// Where in a free range of at least `len` units `find` finds a place, given its first unit and length:
/// in a small one. `None` when there is none among the first few of each size that are large enough.
pub(super) fn fit(
    read: &impl Read,
    len: u64,
    find: impl Fn(u64, u64) -> Option<u64>,
) -> Result<Option<Free>, StoreError> {
    let mut at_least = len;
    while at_least < UNITS_END {
        let mut found = None;
        let mut seen = 0;
        let from = key::free_by_size(at_least, 0);
        read.scan(TreeId::FreeBySize, &from, &[0xff; 17], &mut |key, _| {
            let size = key.first_chunk::<8>().map(|size| u64::from_be_bytes(*size));
            if let (Ok(first), Some(size)) = (trailing_u64(key), size) {
                let range = (first, size);
                found = find(first, size).map(|start| Free { start, range });
            }
            seen += 1;
            match found.is_none() && seen < FIT_MAX {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        if found.is_some() || seen < FIT_MAX {
            return Ok(found);
        }
        // Many of this size are refused: larger ones may lie elsewhere.
        at_least = at_least.saturating_mul(2);
    }
    Ok(None)
}

/// Units in free ranges shorter than `below`, counted up to about `enough`.
pub(super) fn small_free_units(
    read: &impl Read,
    below: u64,
    enough: u64,
) -> Result<u64, StoreError> {
    let mut sum = 0u64;
    let (from, to) = (key::free_by_size(1, 0), key::free_by_size(below, 0));
    read.scan(TreeId::FreeBySize, &from, &to, &mut |key, _| {
        let len = key.first_chunk::<8>().map(|len| u64::from_be_bytes(*len));
        sum = sum.saturating_add(len.unwrap_or(0));
        match sum < enough {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    })?;
    Ok(sum)
}

/// Claims `len` units of a free range for writing.
pub(super) fn claim(tx: &mut Tx<'_>, free: Free, len: u64) -> Result<(), StoreError> {
    let start = free.start;
    let (first, size) = free.range;
    let before = start.saturating_sub(first);
    let rest = size.checked_sub(before.saturating_add(len));
    let rest = rest.ok_or_else(|| {
        StoreError::Corrupt(format!(
            "free range at unit {first} is shorter than its key says"
        ))
    })?;
    delete_free(tx, first, size)?;
    if before > 0 {
        put_free(tx, first, before)?;
    }
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
        found = PendingFree::decode(value).is_ok_and(|pending| pending.generation < PUNCHED);
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

/// Free ranges of at least `min` units that lie before unit `end`, or begin before it: at most `max`,
/// from the one on that begins at unit `from`. First unit and length; and where to go on.
pub(super) fn free_ranges(
    read: &impl Read,
    from: u64,
    end: u64,
    min: u64,
    max: usize,
) -> Result<Released, StoreError> {
    let mut found = Vec::new();
    let mut wrong = None;
    let mut next = None;
    let (from, end) = (key::u64_key(from), key::u64_key(end));
    read.scan(TreeId::FreeByStart, &from, &end, &mut |key, value| {
        match range_of(key, value) {
            Ok((start, _)) if found.len() == max => {
                next = Some(start);
                return ControlFlow::Break(());
            }
            Ok((start, len)) if len >= min => found.push((start, len)),
            Ok(_) => {}
            Err(error) => {
                wrong = Some(error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    wrong.map_or(Ok((found, next)), Err)
}

/// Free ranges of at least `min` units, at most `max`: first unit and length.
pub(super) fn large_free_ranges(
    read: &impl Read,
    min: u64,
    max: usize,
) -> Result<Vec<(u64, u64)>, StoreError> {
    let mut found = Vec::new();
    let from = key::free_by_size(min, 0);
    read.scan(TreeId::FreeBySize, &from, &[0xff; 17], &mut |key, _| {
        let len = key.first_chunk::<8>().map(|len| u64::from_be_bytes(*len));
        if let (Ok(start), Some(len)) = (trailing_u64(key), len) {
            found.push((start, len));
        }
        match found.len() < max {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    })?;
    Ok(found)
}

/// The length of the free range that begins at unit `start`; 0 when none does.
pub(super) fn free_len(read: &impl Read, start: u64) -> Result<u64, StoreError> {
    let at = key::u64_key(start);
    let found = read.get_with(TreeId::FreeByStart, &at, |value| range_of(&at, value))?;
    Ok(found.transpose()?.map_or(0, |(_, len)| len))
}

/// Where what is free to the end begins.
pub(super) fn tail(read: &impl Read) -> Result<u64, StoreError> {
    let last = key::u64_key(UNITS_END);
    let found = read.floor_with(TreeId::FreeByStart, &last, range_of)?;
    let tail = found
        .transpose()?
        .filter(|(start, len)| start + len == UNITS_END);
    Ok(tail.map_or(UNITS_END, |(start, _)| start))
}

/// The pending range that ends at unit `end`, when it is punched: first unit and length.
pub(super) fn punched_before(read: &impl Read, end: u64) -> Result<Option<(u64, u64)>, StoreError> {
    let Some(last) = end.checked_sub(1) else {
        return Ok(None);
    };
    let last = key::u64_key(last);
    let found = read.floor_with(TreeId::FreePending, &last, pending_of)?;
    let found = found.transpose()?.filter(|(start, pending)| {
        pending.generation == PUNCHED && start.checked_add(pending.len_units) == Some(end)
    });
    Ok(found.map(|(start, pending)| (start, pending.len_units)))
}

/// Punched ranges from the first on, at most `max` that have `units` together: first unit and length.
pub(super) fn punched_ranges(
    read: &impl Read,
    units: u64,
    max: usize,
) -> Result<Vec<(u64, u64)>, StoreError> {
    let mut found = Vec::new();
    let mut wrong = None;
    let mut missing = units;
    read.scan(TreeId::FreePending, &[], &[0xff; 9], &mut |key, value| {
        match pending_of(key, value) {
            Ok((start, pending)) if pending.generation == PUNCHED => {
                found.push((start, pending.len_units));
                missing = missing.saturating_sub(pending.len_units);
            }
            Ok(_) => {}
            Err(error) => {
                wrong = Some(error);
                return ControlFlow::Break(());
            }
        }
        if missing == 0 || found.len() == max {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    wrong.map_or(Ok(found), Err)
}

/// Punches the units from `start` on, part of the free range `of`: nobody may take them from here on.
pub(super) fn punch(
    tx: &mut Tx<'_>,
    of: (u64, u64),
    start: u64,
    len: u64,
) -> Result<(), StoreError> {
    let (free, free_len) = of;
    delete_free(tx, free, free_len)?;
    let (end, free_end) = (start.saturating_add(len), free.saturating_add(free_len));
    if start > free {
        put_free(tx, free, start - free)?;
    }
    if free_end > end {
        put_free(tx, end, free_end - end)?;
    }
    // What lies side by side is one range, so that there are few.
    let (mut first, mut joined) = (start, len);
    if let Some((before, before_len)) = punched_before(tx, start)? {
        tx.delete(TreeId::FreePending, key::u64_key(before))?;
        first = before;
        joined = joined.saturating_add(before_len);
    }
    let at = key::u64_key(end);
    let after = tx.get_with(TreeId::FreePending, &at, |value| pending_of(&at, value))?;
    if let Some((_, after)) = after.transpose()?
        && after.generation == PUNCHED
    {
        tx.delete(TreeId::FreePending, key::u64_key(end))?;
        joined = joined.saturating_add(after.len_units);
    }
    let pending = PendingFree {
        len_units: joined,
        generation: PUNCHED,
    };
    tx.put(TreeId::FreePending, key::u64_key(first), pending.encode())?;
    change_punched(tx, |punched| punched.saturating_add(len))?;
    change_used(tx, |used| used.saturating_add(len))
}

/// Makes units free that lie in a punched range: their space is allocated again.
pub(super) fn unpunch(tx: &mut Tx<'_>, start: u64, len: u64) -> Result<(), StoreError> {
    let at = key::u64_key(start);
    let found = tx.floor_with(TreeId::FreePending, &at, pending_of)?;
    let end = start.saturating_add(len);
    let (first, range_end) = match found.transpose()? {
        Some((first, pending)) if pending.generation == PUNCHED => {
            (first, first.saturating_add(pending.len_units))
        }
        _ => (0, 0),
    };
    if range_end < end {
        return Err(StoreError::Corrupt(format!(
            "unit {start} of chunks.dat is not punched"
        )));
    }
    tx.delete(TreeId::FreePending, key::u64_key(first))?;
    for (rest, rest_end) in [(first, start), (end, range_end)] {
        if rest < rest_end {
            let pending = PendingFree {
                len_units: rest_end - rest,
                generation: PUNCHED,
            };
            tx.put(TreeId::FreePending, key::u64_key(rest), pending.encode())?;
        }
    }
    change_punched(tx, |punched| punched.saturating_sub(len))?;
    give_back(tx, start, len)
}

fn pending_of(key: &[u8], value: &[u8]) -> Result<(u64, PendingFree), StoreError> {
    let at_fault = |source| StoreError::format("pending free range", source);
    let start = trailing_u64(key).map_err(at_fault)?;
    Ok((start, PendingFree::decode(value).map_err(at_fault)?))
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
