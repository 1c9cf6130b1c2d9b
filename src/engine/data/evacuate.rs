//! Compaction in the background.
//!
//! What is free in pieces of at least [`TrimOptions::min_bytes`] goes back to the disk where it lies
//! ([`super::trim`]), and nothing is moved for that. What is free in shorter pieces stays with the
//! store. When that is much, regions of chunks.dat in which little is left beside such pieces are
//! emptied: a region that holds nothing goes back as a whole. Where the disk below cannot take space
//! from inside of a file, the last chunks move forward, and the file gets shorter.
//!
//! What is moved is never more than what comes back is worth: [`CompactOptions::percent`] says it of
//! the file, and of each region. Chunks move as [`super::compact`] says.

use std::cmp::Reverse;
use std::ops::ControlFlow;
use std::time::Duration;

use super::compact::{Compacted, FILL_UNITS, MOVES_MAX, To};
use super::{TrimOptions, UNIT, chunks, space};
use crate::engine::{EngineError, Store};
use crate::format::id::ChunkId;
use crate::format::key::{self, TreeId, trailing_u64};
use crate::format::record::{CHUNK_MAX, ChunkRecord};
use crate::store::{Read, StoreError};

/// The smallest region: 1 MiB.
const REGION_MIN_UNITS: u64 = 256;
/// Regions of a file, at most: what memory has of each are 8 bytes.
const REGIONS_MAX: u64 = 1 << 18;
/// Regions that are looked at in a free range that begins in one that is being emptied.
const REGIONS_TRIED: u64 = 16;
/// Units that one compaction moves, at most.
const MOVED_MAX_UNITS: u64 = 1 << 18;
/// Records that are read while a view is held: pages it can reach are not written again meanwhile.
const RECORDS_MAX: usize = 16 << 10;
/// Free ranges that are read at a time.
const RANGES_MAX: usize = 16 << 10;

/// When chunks are moved and files defragmented in the background, and how fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactOptions {
    /// Percent of chunks.dat, without its holes, that must be free and not go back by itself, 1 to 99;
    /// and of what a region holds; and of what a part of a file takes.
    pub percent: u8,
    /// Bytes that must be free so, at least; and of files that must have been written over.
    pub min_bytes: u64,
    /// How often that is looked at.
    pub interval: Duration,
    /// How long it rests between two steps, each of at most 4 MiB. Guests that do something
    /// meanwhile have it wait longer, and in the end give up.
    pub pause: Duration,
}

impl Default for CompactOptions {
    fn default() -> Self {
        CompactOptions {
            percent: 25,
            min_bytes: 1 << 30,
            interval: Duration::from_secs(300),
            pause: Duration::from_millis(250),
        }
    }
}

/// Parts of chunks.dat of the same length.
pub(super) struct Regions {
    /// Units of each.
    units: u64,
    each: Vec<Region>,
}

/// What a region holds; a chunk or a free range counts where it begins.
#[derive(Default, Clone, Copy)]
struct Region {
    /// Units in chunks; [`LEFT`] for one that is being emptied.
    live: u32,
    /// Units in short free ranges.
    scattered: u32,
}

/// Says that a region is being emptied.
const LEFT: u32 = u32::MAX;

impl Regions {
    /// Those of a file of so many units.
    fn new(file_units: u64) -> Self {
        let units = file_units.div_ceil(REGIONS_MAX).max(REGION_MIN_UNITS);
        let count = usize::try_from(file_units.div_ceil(units)).unwrap_or(0);
        Regions {
            units,
            each: vec![Region::default(); count],
        }
    }

    fn index(&self, unit: u64) -> usize {
        usize::try_from(unit / self.units).unwrap_or(usize::MAX)
    }

    fn at(&mut self, unit: u64) -> Option<&mut Region> {
        let index = self.index(unit);
        self.each.get_mut(index)
    }

    /// Whether any of these units is in a region that is being emptied.
    fn are_left(&self, start: u64, end: u64) -> bool {
        let end = self.index(end.saturating_sub(1)).saturating_add(1);
        let end = end.min(self.each.len());
        let found = self.each.get(self.index(start)..end);
        found.is_some_and(|found| found.iter().any(|region| region.live == LEFT))
    }

    /// The first place for `units` units between `start` and `end` that is in no region that is being
    /// emptied, at the beginning or at that of one of the first regions.
    pub(super) fn place_out(&self, start: u64, end: u64, units: u64) -> Option<u64> {
        let next = (start / self.units).saturating_add(1);
        let regions =
            (next..next.saturating_add(REGIONS_TRIED)).map(|n| n.saturating_mul(self.units));
        let mut places = std::iter::once(start).chain(regions);
        places.find(|first| {
            let last = first.saturating_add(units);
            last <= end && !self.are_left(*first, last)
        })
    }

    /// Chooses regions to empty: those that give most for what has to be moved, as long as each gives
    /// `percent` of what it holds. Whether there are any.
    fn choose(&mut self, percent: u64) -> bool {
        let pays = |region: &Region| {
            let (live, scattered) = (u64::from(region.live), u64::from(region.scattered));
            live > 0 && scattered.saturating_mul(100) >= percent.saturating_mul(live + scattered)
        };
        let all = self.each.iter().enumerate();
        let mut worth: Vec<_> = all.filter(|(_, region)| pays(region)).collect();
        worth.sort_by_key(|(_, region)| {
            Reverse(u64::from(region.scattered) * 1000 / u64::from(region.live))
        });
        // What is moved needs room in what stays.
        let mut room: u64 = self
            .each
            .iter()
            .map(|region| u64::from(region.scattered))
            .sum();
        let mut moved = 0u64;
        let mut chosen = Vec::new();
        for (index, region) in worth {
            room = room.saturating_sub(region.scattered.into());
            moved = moved.saturating_add(region.live.into());
            if moved > room.min(MOVED_MAX_UNITS) && !chosen.is_empty() {
                break;
            }
            chosen.push(index);
        }
        for index in &chosen {
            if let Some(region) = self.each.get_mut(*index) {
                region.live = LEFT;
            }
        }
        !chosen.is_empty()
    }
}

impl Store {
    /// Moves chunks, if that pays, so that what is free in short pieces can go back to the disk below
    /// with the trims to come. A bounded number of them: to be called now and then. `go_on` is asked
    /// before each step.
    ///
    /// # Errors
    /// As [`Store::compact`].
    pub fn compact_idle(
        &self,
        options: CompactOptions,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Compacted, EngineError> {
        let mut done = Compacted::default();
        if !self.pays(options)? {
            return Ok(done);
        }
        if self.takes_no_holes() {
            self.move_last(go_on, &mut done)?;
        } else {
            self.empty_regions(options.percent, go_on, &mut done)?;
        }
        if done.moved_chunks > 0 {
            // What they were moved from becomes free, for the next trim.
            self.checkpoint()?;
        }
        Ok(done)
    }

    /// Whether enough is free that does not go back by itself.
    fn pays(&self, options: CompactOptions) -> Result<bool, EngineError> {
        let view = self.journal.view();
        let backed = self.journal.chunks().len_bytes() / UNIT;
        let allocated = backed.saturating_sub(space::units_punched(&view)?);
        let enough = (allocated / 100 * u64::from(options.percent)).max(options.min_bytes / UNIT);
        let used = space::units_used(&view)?.saturating_add(self.claimed_units());
        let free = backed.saturating_sub(used);
        if free < enough || self.takes_no_holes() {
            return Ok(free >= enough.max(1));
        }
        let scattered = space::small_free_units(&view, short_units(), enough)?;
        Ok(scattered >= enough.max(1))
    }

    fn empty_regions(
        &self,
        percent: u8,
        go_on: &mut dyn FnMut() -> bool,
        done: &mut Compacted,
    ) -> Result<(), EngineError> {
        let mut regions = Regions::new(self.journal.chunks().len_bytes() / UNIT);
        let all = self.each_chunk(go_on, &mut |_, start, units| {
            if let Some(region) = regions.at(start) {
                let units = u32::try_from(units).unwrap_or(0);
                region.live = region.live.saturating_add(units).min(LEFT - 1);
            }
        })?;
        self.each_scattered(&mut |start, units| {
            if let Some(region) = regions.at(start) {
                let units = u32::try_from(units).unwrap_or(0);
                region.scattered = region.scattered.saturating_add(units);
            }
        })?;
        if !all || !regions.choose(u64::from(percent)) {
            return Ok(());
        }
        let mut found = Vec::new();
        self.each_chunk(go_on, &mut |id, start, _| {
            if regions.are_left(start, start.saturating_add(1)) {
                found.push((start, id));
            }
        })?;
        self.make_place(&regions)?;
        found.sort_unstable_by_key(|(start, _)| *start);
        for some in found.chunks(MOVES_MAX) {
            // What was cut off meanwhile has no space.
            let end = self.journal.chunks().len_bytes() / UNIT;
            let to = To::OutOf {
                regions: &regions,
                end,
            };
            if !go_on() || !self.move_some(some, &to, done)? {
                break;
            }
        }
        Ok(())
    }

    /// Where no free range takes a whole chunk, gives some holes their space again, or has chunks.dat
    /// grow a little: a region that is emptied gives more, and takes the chunks of the next.
    fn make_place(&self, regions: &Regions) -> Result<(), EngineError> {
        let units = u64::from(CHUNK_MAX) / UNIT;
        for filled in [false, true] {
            let end = self.journal.chunks().len_bytes() / UNIT;
            let to = To::OutOf { regions, end };
            let find = |first, len| to.place(0, units, (first, len));
            if space::fit(&self.journal.view(), units, find)?.is_some() {
                break;
            }
            let made = match filled {
                false => self.fill(FILL_UNITS).map(drop),
                true => self.grow_to(end.saturating_add(FILL_UNITS)),
            };
            match made {
                // Small ones may find a place.
                Err(EngineError::Store(StoreError::NoSpace(_))) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Goes through all chunks: number, first unit, units. False when it is not to go on.
    fn each_chunk(
        &self,
        go_on: &mut dyn FnMut() -> bool,
        see: &mut dyn FnMut(ChunkId, u64, u64),
    ) -> Result<bool, EngineError> {
        let mut from = Some(0);
        while let Some(first) = from.take() {
            if !go_on() {
                return Ok(false);
            }
            let mut wrong = None;
            let mut seen = 0;
            let view = self.journal.view();
            let first = key::chunk(ChunkId(first));
            view.scan(TreeId::Chunks, &first, &[0xff; 9], &mut |key, value| {
                match (trailing_u64(key), ChunkRecord::decode(value)) {
                    (Ok(id), Ok(record)) => {
                        let units = chunks::units(record.stored_len as usize);
                        see(ChunkId(id), record.start_unit, units);
                        seen += 1;
                        from = id.checked_add(1).filter(|_| seen == RECORDS_MAX);
                    }
                    (Err(source), _) | (_, Err(source)) => {
                        wrong = Some(StoreError::format("chunk", source));
                    }
                }
                match wrong.is_none() && seen < RECORDS_MAX {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })?;
            if let Some(error) = wrong {
                return Err(error.into());
            }
        }
        Ok(true)
    }

    /// Goes through the free ranges that are too short to go back to the disk: first unit and length.
    fn each_scattered(&self, see: &mut dyn FnMut(u64, u64)) -> Result<(), EngineError> {
        let mut from = Some(0);
        while let Some(first) = from {
            let end = self.journal.chunks().len_bytes() / UNIT;
            let view = self.journal.view();
            let (ranges, next) = space::free_ranges(&view, first, end, 1, RANGES_MAX)?;
            let short = ranges.iter().filter(|(_, len)| *len < short_units());
            short.for_each(|(start, len)| see(*start, *len));
            from = next;
        }
        Ok(())
    }
}

/// Units from which on a free range goes back to the disk by itself.
fn short_units() -> u64 {
    TrimOptions::default().min_bytes.div_ceil(UNIT)
}
