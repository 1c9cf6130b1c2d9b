//! Free pages of nodes.dat that go back to the disk below, and come from there again.
//!
//! What is free counts for what [`PageStore::reserve`] promises: it is to be written without asking
//! the disk for space. So what goes back is taken from there first, and only as much as nobody was
//! promised; and it is allocated again before it is free. Which pages are holes is not written down:
//! after opening, all free pages may be. To allocate what is allocated costs next to nothing.
//!
//! The end of the file is cut off when a durable superblock says that no tree is behind it. Until then
//! what is behind it counts for nobody.

use std::io;
use std::ops::Range;

use super::runs::Runs;
use super::{PageStore, RESERVE_PAGES, Space};
use crate::disk::Disk;
use crate::format::id::PageNo;
use crate::format::page::PAGE_BYTES;
use crate::store::StoreError;

const PAGE: u64 = PAGE_BYTES as u64;
/// The shortest run that is given back: 64 KiB.
const RUN_MIN: u64 = 16;
/// Pages that are given back at a time, at most.
const STEP_PAGES: u64 = 16 << 10;
/// The shortest end that is cut off.
const CUT_MIN: u64 = 256;
/// Pages beyond those that transactions count on that stay free, at least: checkpoints take as many
/// pages as they free, and take them first.
const AHEAD_MIN: u64 = 1024;
/// Pages between the first and the last that get their space with one call, at most: what is used
/// between them has it.
const SPAN_PAGES: u64 = 4096;

/// Free pages that nobody needs, on their way back to the disk: they are neither free nor used.
#[must_use]
pub struct Idle {
    runs: Vec<Range<u64>>,
}

impl Idle {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

impl Space {
    /// Pages that can be written without asking the disk for space, in a file of so many pages.
    pub(super) fn have(&self, length: u64) -> u64 {
        let behind = match self.cutting {
            Some(_) => 0,
            None => length.saturating_sub(self.end),
        };
        self.free.pages().saturating_add(behind)
    }

    /// Gives pages that may be holes their space again: about `wanted` of them, as far as there are
    /// as many and the disk has the space. How many.
    pub(super) fn fill(&mut self, disk: &dyn Disk, wanted: u64) -> Result<u64, StoreError> {
        let mut filled = 0;
        while filled < wanted {
            let is_found = self.found.pages() > 0;
            let (from, others) = match is_found {
                true => (&mut self.found, &self.holes),
                false => (&mut self.holes, &self.found),
            };
            let Some(first) = from.first() else { break };
            // What is a hole between them stays one.
            let end = others.next_from(first.start).unwrap_or(u64::MAX);
            let got = fill_some(disk, first.start..end, from, &mut self.free)?;
            filled += got;
            if got == 0 {
                // The disk is full, and this one is a hole.
                if !is_found {
                    break;
                }
                // Others may have their space.
                from.take(&(first.start..first.start + 1));
                self.holes.add(first.start, 1)?;
            }
        }
        Ok(filled)
    }

    /// Pages to leave free, of which transactions count on `wanted`; no more than that with `all`.
    fn kept(&self, wanted: u64, all: bool) -> u64 {
        let ahead = match all {
            true => 0,
            false => (self.used / 8).max(AHEAD_MIN),
        };
        wanted.saturating_add(RESERVE_PAGES).saturating_add(ahead)
    }

    /// The file keeps its end after all: more pages are wanted.
    pub(super) fn stop_cutting(&mut self) -> Result<(), StoreError> {
        if let Some((start, end)) = self.cutting.take() {
            // More than was promised may have been taken from there.
            let start = start.max(self.end);
            self.end = self.end.max(end);
            if start < end {
                self.holes.add(start, end - start)?;
            }
        }
        Ok(())
    }

    /// Lets the file end earlier, if what is free at its end is worth it.
    fn begin_cutting(&mut self, keep: u64) {
        let mut end = self.end;
        loop {
            let free = self.free.ending_at(end);
            // What is kept is not cut off.
            let spare = self.free.pages().saturating_sub(keep);
            let run = match free.filter(|run| run.end - run.start <= spare) {
                Some(run) => {
                    self.free.take(&run);
                    run
                }
                None => {
                    let others = [&mut self.found, &mut self.holes];
                    let mut others = others.into_iter();
                    let Some(run) =
                        others.find_map(|runs| runs.ending_at(end).inspect(|run| runs.take(run)))
                    else {
                        break;
                    };
                    run
                }
            };
            end = run.start;
        }
        if end < self.end {
            self.cutting = Some((end, self.end));
            self.end = end;
        }
    }
}

/// Gives the runs that begin within these pages their space again, those that one call does for. How
/// many pages; none when the disk is full.
fn fill_some(
    disk: &dyn Disk,
    within: Range<u64>,
    from: &mut Runs,
    free: &mut Runs,
) -> Result<u64, StoreError> {
    for span in [SPAN_PAGES, 1] {
        let start = within.start;
        let end = within.end.min(start.saturating_add(span));
        let runs = from.iter().take_while(|run| run.start < end);
        let runs: Vec<_> = runs.map(|run| run.start..run.end.min(end)).collect();
        let end = runs.last().map_or(start, |last| last.end);
        match disk.allocate(start * PAGE, (end - start) * PAGE) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::StorageFull => continue,
            Err(source) => return Err(StoreError::io("nodes.dat, allocating", source)),
        }
        let mut got = 0;
        for run in runs {
            from.take(&run);
            free.add(run.start, run.end - run.start)?;
            got += run.end - run.start;
        }
        return Ok(got);
    }
    Ok(0)
}

impl PageStore {
    /// Takes free pages that nobody needed since this was last called, and leaves `wanted`, on which
    /// transactions count, and more; with `all` also those that somebody needed, and all but those.
    /// To be called while no transaction is under way; [`PageStore::give_back`] is to follow.
    pub fn take_idle(&self, wanted: u64, all: bool) -> Idle {
        let mut space = self.space.lock();
        if !space.known || space.searching || space.takes_no_holes {
            return Idle { runs: Vec::new() };
        }
        // After opening, what is behind the end is all that transactions count on.
        let behind = self.disk.len_bytes() / PAGE;
        let behind = space.have(behind).saturating_sub(space.free.pages());
        let keep = space.kept(wanted, all).saturating_sub(behind);
        let unneeded = match all {
            true => space.free.pages(),
            false => space.free.pages().min(space.least_free),
        };
        // What was found after opening counts for nobody, but comes first when pages run short.
        let short = keep.saturating_sub(space.free.pages());
        let spare = space.found.pages().saturating_sub(short);
        let mut runs = space.found.take_last(spare.min(STEP_PAGES), RUN_MIN);
        if runs.is_empty() {
            // Pages are taken from the beginning.
            let spare = unneeded.saturating_sub(keep);
            runs = space.free.take_last(spare.min(STEP_PAGES), RUN_MIN);
        }
        space.least_free = space.free.pages();
        Idle { runs }
    }

    /// Gives pages back to the disk below. How many bytes it got; `None` when it takes nothing from inside of
    /// a file.
    ///
    /// # Errors
    /// When the disk refuses; the pages can be used again later.
    pub fn give_back(&self, idle: Idle) -> Result<Option<u64>, StoreError> {
        let before = self.disk.held_bytes();
        let mut bytes = 0;
        let mut runs = idle.runs.into_iter();
        while let Some(run) = runs.next() {
            let len = run.end - run.start;
            let punched = self.disk.trim(run.start * PAGE, len * PAGE);
            let mut space = self.space.lock();
            space.holes.add(run.start, len)?;
            let Err(source) = punched else {
                bytes += len * PAGE;
                continue;
            };
            // Of this one a part may be gone. What is allocated again for nothing does no harm.
            for rest in runs {
                space.holes.add(rest.start, rest.end - rest.start)?;
            }
            if source.kind() == io::ErrorKind::Unsupported {
                space.takes_no_holes = true;
                return Ok(None);
            }
            return Err(StoreError::io("nodes.dat, giving space back", source));
        }
        Ok(Some(self.disk.given_back(&before, bytes)))
    }

    /// Cuts off what the file has behind its last page, when no page was taken from there since this
    /// was last called, and leaves what [`PageStore::take_idle`] leaves; with `all` in any case. How
    /// many bytes. To be called while neither a transaction nor a checkpoint is under way.
    ///
    /// # Errors
    /// When the disk refuses; nothing is lost.
    pub fn cut_ahead(&self, wanted: u64, all: bool) -> Result<u64, StoreError> {
        let mut space = self.space.lock();
        let end = space.end;
        let looked = std::mem::replace(&mut space.looked_end, end);
        if space.cutting.is_some() || !(all || looked == end) {
            return Ok(0);
        }
        let keep = space.kept(wanted, all).saturating_sub(space.free.pages());
        let new = end.saturating_add(keep).saturating_mul(PAGE);
        let spare = self.disk.len_bytes().saturating_sub(new);
        let worth = if all { 1 } else { CUT_MIN };
        if spare < worth * PAGE {
            return Ok(0);
        }
        match self.disk.cut(new) {
            Ok(()) => Ok(spare),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(0),
            Err(source) => Err(StoreError::io("nodes.dat, cutting its end off", source)),
        }
    }

    /// Lets the file end earlier with the next checkpoint, if what is free at its end is worth it. As
    /// [`PageStore::take_idle`]; [`PageStore::cut`] is to follow.
    pub fn shorten(&self, wanted: u64, all: bool) {
        let mut space = self.space.lock();
        let keep = space.kept(wanted, all);
        if !space.known || space.searching || space.cutting.is_some() {
            return;
        }
        // What is behind the end counts for nobody from here on.
        let Some(spare) = space.free.pages().checked_sub(keep) else {
            return;
        };
        let at_end = space.free.ending_at(space.end);
        let others = [&space.found, &space.holes].map(|runs| runs.ending_at(space.end));
        let len = |run: Option<Range<u64>>| run.map_or(0, |run| run.end - run.start);
        let longest = others.map(len).into_iter().max().unwrap_or(0);
        if len(at_end).min(spare).max(longest) >= CUT_MIN {
            space.begin_cutting(keep);
        }
    }

    /// Cuts the end of the file off, if the newest checkpoint, which is durable, has nothing there:
    /// its pages end at `durable_end`. How many bytes. To be called while no checkpoint is under way.
    ///
    /// # Errors
    /// When the disk refuses; the pages can be used again later.
    pub fn cut(&self, durable_end: PageNo) -> Result<u64, StoreError> {
        let mut space = self.space.lock();
        let Some((start, _)) = space.cutting.filter(|(start, _)| durable_end.0 <= *start) else {
            return Ok(0);
        };
        let before = self.disk.len_bytes();
        match self.disk.cut(start * PAGE) {
            Ok(()) => {
                space.cutting = None;
                Ok(before.saturating_sub(start * PAGE))
            }
            Err(error) => {
                space.stop_cutting()?;
                match error.kind() {
                    io::ErrorKind::Unsupported => Ok(0),
                    _ => Err(StoreError::io("nodes.dat, cutting its end off", error)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SimMedia;
    use crate::format::id::Generation;

    /// A file of so many pages, and a disk that has no space left but what is in it.
    fn full(pages: u64, holes: Range<u64>) -> (SimMedia, PageStore) {
        let sim = SimMedia::new();
        let disk = sim.media().nodes;
        disk.allocate(0, pages * PAGE).unwrap();
        disk.trim(holes.start * PAGE, (holes.end - holes.start) * PAGE)
            .unwrap();
        sim.set_capacity(Some(sim.allocated()));
        let store = PageStore::new(disk, PageNo(pages), 0, 0);
        store.space.lock().known = true;
        (sim, store)
    }

    fn bounds(runs: &Runs) -> Vec<(u64, u64)> {
        runs.iter().map(|run| (run.start, run.end)).collect()
    }

    #[test]
    fn on_a_full_disk_what_has_its_space_is_found_behind_holes() {
        let (sim, store) = full(101, 1..41);
        let mut space = store.space.lock();
        space.found.add(1, 100).unwrap();
        assert_eq!(space.fill(&*store.disk, 60).unwrap(), 60);
        assert_eq!(bounds(&space.free), [(41, 101)]);
        assert_eq!(space.fill(&*store.disk, 1).unwrap(), 0);
        sim.set_capacity(None);
        assert_eq!(space.fill(&*store.disk, 1).unwrap(), 40);
        assert_eq!(space.free.pages(), 100);
    }

    #[test]
    fn an_end_that_is_not_cut_off_gives_no_page_twice() {
        let (_sim, store) = full(1001, 0..1);
        let mut space = store.space.lock();
        space.free.add(501, 500).unwrap();
        space.begin_cutting(0);
        assert_eq!((space.end, space.cutting), (501, Some((501, 1001))));
        drop(space);
        // Nothing is free: it comes from the end, whatever was promised.
        let taken = store.allocate(Generation(1)).page;
        let mut space = store.space.lock();
        space.stop_cutting().unwrap();
        assert_eq!((taken, space.end), (PageNo(501), 1001));
        assert_eq!(bounds(&space.holes), [(502, 1001)]);
    }
}
