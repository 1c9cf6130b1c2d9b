//! strings.dat and the tree that finds its names.
//!
//! A name says where it stands, so all that are whole are found without any tree. Places of names
//! that cannot be read are filled with names that no directory can hold, so that they follow one
//! another without gaps again; entries that had them lose their place.

use std::sync::Arc;

use super::Fixes;
use super::build::Builder;
use super::fix::Fix;
use super::lenient::Lenient;
use crate::disk::Disk;
use crate::format::id::NameId;
use crate::format::key::TreeId;
use crate::format::name::{self, RECORD_MAX_BYTES, record_bytes};
use crate::store::StoreError;
use crate::store::roots::{name_hash, name_key};

/// Bytes read at a time.
const WINDOW: usize = 1 << 20;
/// Records begin at multiples of it.
const ALIGN: u64 = 4;

/// Enters every name that can be read, and fills the gaps.
pub(super) fn rebuild(builder: &mut Builder, fixes: &mut Fixes<'_>) -> Result<(), StoreError> {
    let strings = Arc::clone(&builder.media().strings);
    let end = builder.superblock().strings_end;
    let mut window = Window {
        disk: Lenient(Arc::clone(&strings)),
        end,
        start: 0,
        bytes: Vec::new(),
    };
    let (mut at, mut gap, mut filled) = (0, None, false);
    while at < end {
        let found = name::decode(NameId(at), window.at(at)?).map(<[u8]>::to_vec);
        let Ok(found) = found else {
            gap.get_or_insert(at);
            at += ALIGN;
            continue;
        };
        if let Some(start) = gap.take() {
            filled = true;
            fill(builder, start, at, fixes)?;
        }
        enter(builder, NameId(at), &found)?;
        at += record_bytes(found.len()) as u64;
    }
    if let Some(start) = gap {
        filled = true;
        fill(builder, start, end, fixes)?;
    }
    if filled {
        // Without it the new trees could refer to names that a power cut took.
        strings
            .flush()
            .map_err(|source| StoreError::io("strings.dat, flushing", source))?;
    }
    Ok(())
}

fn enter(builder: &mut Builder, id: NameId, name: &[u8]) -> Result<(), StoreError> {
    let key = name_key(name_hash(&builder.superblock().hash_seed, name), id);
    builder.put(TreeId::Names, &key, &[])
}

/// Fills a gap with records.
fn fill(
    builder: &mut Builder,
    start: u64,
    end: u64,
    fixes: &mut Fixes<'_>,
) -> Result<(), StoreError> {
    const SMALLEST: usize = record_bytes(1);
    fixes.add(Fix::NamesLost { start, end });
    let strings = Arc::clone(&builder.media().strings);
    let what = || format!("strings.dat, filling {start}..{end}");
    let missing = end.saturating_sub(strings.len_bytes());
    if missing > 0 {
        strings
            .allocate(strings.len_bytes(), missing)
            .map_err(|source| StoreError::io(what(), source))?;
    }
    let mut at = start;
    while at < end {
        let left = usize::try_from(end - at).unwrap_or(usize::MAX);
        let mut bytes = left.min(RECORD_MAX_BYTES);
        if (1..SMALLEST).contains(&(left - bytes)) {
            bytes -= SMALLEST;
        }
        let name = filler(at, bytes - name::HEAD);
        let mut record = Vec::new();
        name::encode(NameId(at), &name, &mut record)
            .map_err(|source| StoreError::format(what(), source))?;
        strings
            .write_at(at, &record)
            .map_err(|source| StoreError::io(what(), source))?;
        enter(builder, NameId(at), &name)?;
        at += record.len() as u64;
    }
    Ok(())
}

/// A name of `len` bytes or a few more that no directory can hold, different for each place as far
/// as there is room.
fn filler(at: u64, len: usize) -> Vec<u8> {
    let mut name = format!("/{:x}", at / ALIGN).into_bytes();
    name.resize(len.clamp(1, name::NAME_MAX), b'/');
    name
}

/// strings.dat, read in large pieces.
struct Window {
    disk: Lenient,
    end: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// What stands at `at`, which never falls: at least one record if there is one.
    fn at(&mut self, at: u64) -> Result<&[u8], StoreError> {
        let held = self.start + self.bytes.len() as u64;
        if at + RECORD_MAX_BYTES as u64 > held && held < self.end || self.bytes.is_empty() {
            let len = usize::try_from(self.end - at).unwrap_or(WINDOW).min(WINDOW);
            self.bytes.resize(len, 0);
            self.start = at;
            self.disk
                .read_at(at, &mut self.bytes)
                .map_err(|source| StoreError::io("strings.dat, reading", source))?;
        }
        let from = usize::try_from(at - self.start).unwrap_or(usize::MAX);
        Ok(self.bytes.get(from..).unwrap_or_default())
    }
}
