//! The space of chunks.dat: chunks, free ranges and ranges yet to be free make up all of it, each
//! unit once.

use super::chunks::Table;
use super::{Bytes, Context, Issue, Issues, split_u64, walk_all};
use crate::format::id::Generation;
use crate::format::key::TreeId;
use crate::format::record::PendingFree;
use crate::format::superblock::UNITS_END;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Chunk(u64),
    Free,
    Pending,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Owner::Chunk(id) => write!(f, "chunk {id}"),
            Owner::Free => f.write_str("free space"),
            Owner::Pending => f.write_str("space freed but not yet reusable"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    start: u64,
    len: u64,
    owner: Owner,
}

/// What is written down of units.
#[derive(Clone, Copy)]
pub(super) struct Recorded {
    /// Units in chunks and in pending ranges.
    pub(super) used: u64,
    /// Units in punched ranges.
    pub(super) punched: u64,
}

/// Checks the free trees against each other and against the chunks.
pub(super) fn check(
    context: &Context<'_>,
    chunks: Table,
    recorded: Option<Recorded>,
    issues: &mut Issues<'_>,
) {
    let (free, free_complete) = load_free(context, issues);
    let (pending, punched, pending_complete) = load_pending(context, issues);
    let complete = chunks.complete && free_complete && pending_complete;
    let taken = pending
        .iter()
        .fold(0u64, |sum, range| sum.saturating_add(range.len));
    let found = chunks
        .chunks
        .iter()
        .fold(taken, |sum, chunk| sum.saturating_add(chunk.units()));
    if let Some(Recorded { used, .. }) = recorded.filter(|units| units.used != found && complete) {
        let recorded = used;
        issues.add(Issue::UnitsUsed { found, recorded });
    }
    let differs = |units: &Recorded| units.punched != punched && pending_complete;
    if let Some(recorded) = recorded.filter(differs) {
        issues.add(Issue::UnitsPunched {
            found: punched,
            recorded: recorded.punched,
        });
    }
    let mut ranges = free;
    ranges.extend(pending);
    ranges.extend(chunks.chunks.iter().map(|chunk| Range {
        start: chunk.start_unit,
        len: chunk.units(),
        owner: Owner::Chunk(chunk.id.0),
    }));
    drop(chunks);
    ranges.sort_unstable();
    check_partition(&ranges, complete, issues);
}

/// What lies side by side must neither overlap nor leave a gap. Gaps count when all was read.
fn check_partition(ranges: &[Range], complete: bool, issues: &mut Issues<'_>) {
    let mut end = 0;
    let mut last: Option<Range> = None;
    for range in ranges {
        let range_end = range.start.saturating_add(range.len);
        if range_end > UNITS_END {
            issues.add(Issue::SpaceBeyondEnd {
                what: format!("{} at unit {}", range.owner, range.start),
            });
        }
        if range.start > end && complete {
            issues.add(Issue::SpaceLeak {
                start: end,
                end: range.start,
            });
        }
        if let Some(last) = last.filter(|_| range.start < end) {
            issues.add(Issue::SpaceOverlap {
                start: range.start,
                end: end.min(range_end),
                first: last.owner.to_string(),
                second: range.owner.to_string(),
            });
        }
        let neighbours = last.is_some_and(|last| {
            last.owner == Owner::Free && range.owner == Owner::Free && range.start == end
        });
        if neighbours {
            issues.add(Issue::FreeNeighbours { at: range.start });
        }
        if range_end >= end {
            end = range_end;
            last = Some(*range);
        }
    }
    if end < UNITS_END && complete {
        issues.add(Issue::SpaceLeak {
            start: end,
            end: UNITS_END,
        });
    }
}

fn unknown(tree: TreeId, key: &[u8]) -> Issue {
    let key = Bytes(key.to_vec());
    Issue::UnknownKey { tree, key }
}

/// Reads both trees of free ranges and compares them.
fn load_free(context: &Context<'_>, issues: &mut Issues<'_>) -> (Vec<Range>, bool) {
    let mut by_start = Vec::new();
    let tree = TreeId::FreeByStart;
    let first = walk_all(context, tree, issues, &mut |issues, key, value| {
        let len = value.try_into().map(u64::from_le_bytes);
        match (split_u64(key), len) {
            (Some((start, [])), Ok(len)) if len > 0 => by_start.push((start, len)),
            _ => issues.add(unknown(tree, key)),
        }
    });
    let mut by_size = Vec::new();
    let tree = TreeId::FreeBySize;
    let second = walk_all(context, tree, issues, &mut |issues, key, value| {
        let range = split_u64(key).and_then(|(len, rest)| Some((len, split_u64(rest)?)));
        match range {
            Some((len, (start, []))) if len > 0 && value.is_empty() => by_size.push((start, len)),
            _ => issues.add(unknown(tree, key)),
        }
    });
    by_size.sort_unstable();
    if first && second {
        compare(&by_start, &by_size, issues);
    }
    let ranges = by_start
        .into_iter()
        .map(|(start, len)| Range {
            start,
            len,
            owner: Owner::Free,
        })
        .collect();
    (ranges, first)
}

fn compare(by_start: &[(u64, u64)], by_size: &[(u64, u64)], issues: &mut Issues<'_>) {
    let mut only = |(start, len): (u64, u64), known| {
        issues.add(Issue::FreeTrees { start, len, known });
    };
    let (mut left, mut right) = (by_start.iter().peekable(), by_size.iter().peekable());
    loop {
        match (left.peek(), right.peek()) {
            (Some(a), Some(b)) if a == b => {
                left.next();
                right.next();
            }
            (Some(a), Some(b)) if a < b => {
                only(**a, "start");
                left.next();
            }
            (_, Some(b)) => {
                only(**b, "size");
                right.next();
            }
            (Some(a), None) => {
                only(**a, "start");
                left.next();
            }
            (None, None) => break,
        }
    }
}

/// The pending ranges; how many units of them are punched; and whether these are all.
fn load_pending(context: &Context<'_>, issues: &mut Issues<'_>) -> (Vec<Range>, u64, bool) {
    let mut ranges = Vec::new();
    let mut punched = 0u64;
    let tree = TreeId::FreePending;
    let newest = Generation(context.newest_generation());
    let complete = walk_all(context, tree, issues, &mut |issues, key, value| {
        let Some((start, [])) = split_u64(key) else {
            return issues.add(unknown(tree, key));
        };
        let pending = match PendingFree::decode(value) {
            Ok(pending) => pending,
            Err(error) => return issues.bad_record(tree, format!("range at {start}"), &error),
        };
        match pending.generation {
            PendingFree::CLAIMED => {}
            PendingFree::PUNCHED => punched = punched.saturating_add(pending.len_units),
            generation if generation > newest => {
                issues.add(Issue::PendingGeneration { start, generation });
            }
            _ => {}
        }
        ranges.push(Range {
            start,
            len: pending.len_units,
            owner: Owner::Pending,
        });
    });
    (ranges, punched, complete)
}
