//! What a dataset uses, to the byte, and what its quota and its reservation do.

use super::*;
use crate::engine::data::extents::overlapping;
use crate::engine::{DatasetError, MkfsOptions, Settings, Store};
use crate::fsck;

const SPAN: usize = 200_000;

/// What a byte of a file stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Space {
    None,
    Reserved,
    Content,
}

#[derive(Debug, Clone, Default)]
struct File {
    space: Vec<Space>,
    size: usize,
}

impl File {
    fn used(&self) -> usize {
        used(&self.space)
    }

    fn part(&self, start: usize, end: usize) -> Vec<Space> {
        let at = |index: usize| self.space.get(index).copied().unwrap_or(Space::None);
        (start..end).map(at).collect()
    }

    fn set(&mut self, start: usize, part: &[Space]) {
        let end = start + part.len();
        if self.space.len() < end {
            self.space.resize(end, Space::None);
        }
        self.space[start..end].copy_from_slice(part);
    }
}

fn used(space: &[Space]) -> usize {
    space.iter().filter(|each| **each != Space::None).count()
}

/// Sets the quota of a dataset; 0 for none.
fn set_quota(store: &Arc<Store>, name: &str, bytes: u64) -> Result<(), DatasetError> {
    let settings = Settings {
        quota_bytes: Some(bytes),
        ..Settings::default()
    };
    store.change_settings(name, settings)
}

fn reserve(store: &Arc<Store>, name: &str, bytes: u64) -> Result<(), DatasetError> {
    let settings = Settings {
        reservation_bytes: Some(bytes),
        ..Settings::default()
    };
    store.change_settings(name, settings)
}

/// A dataset and a model of the space that its files take.
struct Bench {
    sim: SimMedia,
    /// Events of the disks when it was opened last.
    opened: usize,
    volume: Arc<Volume>,
    inos: Vec<Ino>,
    files: Vec<File>,
    /// 0 for none.
    quota: usize,
    /// The most that was used since the last opening.
    most: usize,
    snapshots: u32,
    refused: u32,
    rng: ChaCha8Rng,
}

impl Bench {
    fn new(seed: u64) -> Bench {
        let sim = make_as(&MkfsOptions {
            compression: compression_of(seed),
            dedup: dedup_of(seed),
            ..MkfsOptions::reproducible()
        });
        let volume = open(&sim);
        let inos: Vec<_> = ["a", "b", "c"]
            .iter()
            .map(|name| create(&volume, name))
            .collect();
        volume.sync_all().unwrap();
        Bench {
            files: vec![File::default(); inos.len()],
            opened: sim.events(),
            sim,
            volume,
            inos,
            quota: 0,
            most: 0,
            snapshots: 0,
            refused: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    fn open(&mut self) {
        self.volume = open(&self.sim);
        self.opened = self.sim.events();
    }

    fn used(&self) -> usize {
        self.files.iter().map(File::used).sum()
    }

    /// Whether the quota lets a part of a file become what it is to be.
    fn fits(&self, before: &[Space], after: &[Space]) -> bool {
        let (before, after) = (used(before), used(after));
        self.quota == 0 || after <= before || self.used() + after - before <= self.quota
    }

    /// Whether an answer is the one that the model expects.
    fn expect<T: std::fmt::Debug>(&mut self, done: Result<T, EngineError>, fits: bool) -> bool {
        match done {
            Ok(_) => assert!(fits, "it went over the quota"),
            Err(EngineError::Quota) => {
                assert!(!fits, "refused, and would fit");
                self.refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
        fits
    }

    fn step(&mut self) {
        let file = self.rng.random_range(0..self.inos.len());
        let ino = self.inos[file];
        let offset = self.rng.random_range(0..SPAN);
        let len = match self.rng.random_range(0..3) {
            0 => self.rng.random_range(1..200),
            1 => self.rng.random_range(1..20_000),
            _ => self.rng.random_range(1..SPAN / 2),
        };
        let volume = Arc::clone(&self.volume);
        match self.rng.random_range(0..20) {
            0..7 => {
                let append = self.rng.random_bool(0.2);
                let start = if append {
                    self.files[file].size
                } else {
                    offset
                };
                let bytes = bytes_of(&mut self.rng, len);
                let flags = WriteFlags {
                    append,
                    ..WriteFlags::default()
                };
                let done = volume.write(ino, at(offset), len, &mut &*bytes, flags);
                self.place(done, file, start, vec![Space::Content; len], true);
            }
            7 => {
                let before = self.files[file].part(offset, offset + len);
                let reserved = |space: &Space| match space {
                    Space::None => Space::Reserved,
                    other => *other,
                };
                let after = before.iter().map(reserved).collect();
                let keep_size = self.rng.random();
                let how = Fallocate::Allocate { keep_size };
                let done = volume.fallocate(ino, at(offset), at(len), how);
                self.place(done, file, offset, after, !keep_size);
            }
            8 => {
                let keep_size = self.rng.random();
                let how = Fallocate::ZeroRange { keep_size };
                let done = volume.fallocate(ino, at(offset), at(len), how);
                self.place(done, file, offset, vec![Space::Reserved; len], !keep_size);
            }
            9 => {
                let done = volume.fallocate(ino, at(offset), at(len), Fallocate::PunchHole);
                self.place(done, file, offset, vec![Space::None; len], false);
            }
            10 | 11 => {
                volume.resize(ino, at(offset), &mut |_, _| Ok(())).unwrap();
                let file = &mut self.files[file];
                if offset <= file.size {
                    file.space.truncate(offset);
                }
                file.size = offset;
            }
            12 | 13 => self.copy(file, offset, len),
            14 => {
                // Around what is used, below it, or none.
                self.quota = match self.rng.random_range(0..5) {
                    0 => 0,
                    1 => (self.used() / 2).max(1),
                    _ => self.used() + self.rng.random_range(1..SPAN),
                };
                set_quota(volume.store(), "main", at(self.quota)).unwrap();
            }
            15 => volume.fsync(ino, false).unwrap(),
            16 => volume.store().commit_tick().unwrap(),
            17 => volume.store().checkpoint().unwrap(),
            18 => {
                self.snapshots += 1;
                let name = format!("main@{}", self.snapshots);
                volume.store().snapshot(&name).unwrap();
            }
            _ => volume.write_out(ino).unwrap(),
        }
        self.check();
    }

    /// Notes what became of a part of a file, if the quota let it.
    fn place<T: std::fmt::Debug>(
        &mut self,
        done: Result<T, EngineError>,
        file: usize,
        start: usize,
        after: Vec<Space>,
        grows: bool,
    ) {
        let end = start + after.len();
        let before = self.files[file].part(start, end);
        let fits = self.fits(&before, &after);
        if self.expect(done, fits) {
            let file = &mut self.files[file];
            file.set(start, &after);
            if grows {
                file.size = file.size.max(end);
            }
        }
    }

    fn copy(&mut self, source: usize, offset: usize, len: usize) {
        let target = self.rng.random_range(0..self.inos.len());
        let start = self.rng.random_range(0..SPAN);
        if source == target && start < offset + len && offset < start + len {
            return;
        }
        let (from, to) = (self.inos[source], self.inos[target]);
        let done = self
            .volume
            .copy_range(from, at(offset), to, at(start), at(len));
        let there = self.files[source].size.saturating_sub(offset).min(len);
        let copied = |len: usize| {
            let content = |space: Space| match space {
                Space::Content => Space::Content,
                _ => Space::None,
            };
            let part = self.files[source].part(offset, offset + len);
            let after: Vec<_> = part.into_iter().map(content).collect();
            (self.files[target].part(start, start + len), after)
        };
        let fits = |len: usize| {
            let (before, after) = copied(len);
            self.fits(&before, &after)
        };
        match done {
            Ok(len) => {
                let len = usize::try_from(len).unwrap();
                assert!(fits(len), "it went over the quota");
                let (_, after) = copied(len);
                let file = &mut self.files[target];
                file.set(start, &after);
                if len > 0 {
                    file.size = file.size.max(start + len);
                }
            }
            Err(EngineError::Quota) => {
                // As much as there are extents for in a transaction.
                let refused = !fits(there) || (1..there).any(|len| !fits(len));
                assert!(refused, "refused, and would fit");
                self.refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// The engine counts what the model does.
    fn check(&mut self) {
        self.most = self.most.max(self.used());
        let usage = &self.volume.dataset.usage;
        if usage.is_exact() {
            assert_eq!(usage.used_bytes(), at(self.used()));
        }
        if self.quota != 0 {
            let stat = self.volume.statfs().unwrap();
            let block = u64::from(stat.block_bytes);
            let used = at(self.used()).div_ceil(block);
            assert_eq!(stat.blocks - stat.blocks_free, used);
            assert_eq!(stat.blocks, (at(self.quota) / block).max(used));
            assert_eq!(stat.blocks_free, stat.blocks_available);
        }
    }

    /// Cuts the power, and learns what is there.
    fn cut_power(&mut self) {
        let point = self.rng.random_range(self.opened..=self.sim.events());
        let survival = Survival::Random(self.rng.random());
        let crashed = self.sim.recording().crash_at(point, survival);
        assert_eq!(fsck::errors(&crashed.media()).unwrap(), [""; 0]);
        self.sim = crashed;
        self.open();
        let view = self.volume.store.journal.view();
        for (file, ino) in self.files.iter_mut().zip(&self.inos) {
            *file = File::default();
            file.size = usize::try_from(self.volume.getattr(*ino).unwrap().size).unwrap();
            let found =
                overlapping(&view, self.volume.tree(), *ino, 0, 1 << 40, usize::MAX).unwrap();
            for extent in found {
                let what = match extent.record.is_reserved() {
                    true => Space::Reserved,
                    false => Space::Content,
                };
                let start = usize::try_from(extent.start).unwrap();
                let len = usize::try_from(extent.record.len).unwrap();
                file.set(start, &vec![what; len]);
            }
        }
        let quota = self.volume.quota(&view).unwrap().bytes;
        self.quota = usize::try_from(quota).unwrap();
        assert!(self.used() <= self.most, "more than ever was");
        self.most = self.used();
        self.check();
    }

    fn reopen(&mut self) {
        self.volume.store().close().unwrap();
        assert_eq!(fsck::errors(&self.sim.media()).unwrap(), [""; 0]);
        self.open();
        self.most = self.used();
        self.check();
    }
}

#[test]
fn use_is_counted_to_the_byte_and_never_passes_the_quota() {
    let seeds = std::env::var("RAZORFS_SEEDS").map_or(16, |seeds| seeds.parse().unwrap());
    let mut refused = 0;
    for seed in 0..seeds {
        println!("seed {seed}");
        let mut bench = Bench::new(seed);
        for _ in 0..120 {
            match bench.rng.random_range(0..40) {
                0 => bench.cut_power(),
                1 => bench.reopen(),
                _ => bench.step(),
            }
        }
        bench.reopen();
        refused += bench.refused;
    }
    assert!(refused > 4 * u32::try_from(seeds).unwrap(), "{refused}");
}

fn two_datasets(capacity_bytes: u64) -> (SimMedia, Arc<Store>) {
    let sim = make_empty(capacity_bytes);
    let store = Arc::clone(open(&sim).store());
    store.create_dataset("other", (0, 0)).unwrap();
    (sim, store)
}

/// Writes pieces to a new file until one is refused: how many were not, and why it was.
fn fill(store: &Arc<Store>, dataset: &str, name: &str, len: usize) -> (u64, EngineError) {
    let volume = store.volume(dataset).unwrap();
    let ino = create(&volume, name);
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for count in 0..10_000 {
        let bytes: Vec<u8> = (0..len).map(|_| rng.random()).collect();
        if let Err(error) = try_write(&volume, ino, count * at(len), &bytes) {
            volume.fsync(ino, false).unwrap();
            return (count, error);
        }
    }
    panic!("nothing is refused");
}

fn remove(store: &Arc<Store>, dataset: &str, name: &str) {
    let volume = store.volume(dataset).unwrap();
    let gone = volume.unlink(Ino::ROOT, name.as_bytes()).unwrap();
    volume.reclaim(gone.ino).unwrap();
}

/// Bytes kept for all datasets.
fn kept(store: &Store) -> u64 {
    let kept = &store.data.kept_bytes;
    kept.load(crate::sync::atomic::Ordering::SeqCst)
}

fn is_full(error: &EngineError) -> bool {
    matches!(
        error,
        EngineError::Store(crate::store::StoreError::NoSpace(_))
    )
}

#[test]
fn what_is_unwritten_elsewhere_does_not_count() {
    let (_sim, store) = two_datasets(0);
    set_quota(&store, "other", 1 << 20).unwrap();
    let main = store.main().unwrap();
    let ino = create(&main, "f");
    write(&main, ino, 0, &vec![7; 2 << 20]);
    let (count, error) = fill(&store, "other", "f", 64 << 10);
    assert_eq!((count, error.to_string().as_str()), (16, "quota exceeded"));
    // At the limit, nothing needs room that gives some back or takes none.
    let other = store.volume("other").unwrap();
    let ino = other.lookup(Ino::ROOT, b"f").unwrap().ino;
    for written in [false, true] {
        if written {
            other.write_out(ino).unwrap();
        }
        write(&other, ino, 0, &vec![8; 1 << 20]);
        assert!(matches!(
            try_write(&other, ino, 1 << 20, b"x"),
            Err(EngineError::Quota)
        ));
    }
    let hole = Fallocate::PunchHole;
    other.fallocate(ino, 0, 1, hole).unwrap();
    write(&other, ino, 1 << 20, b"x");
    other.resize(ino, 1 << 19, &mut |_, _| Ok(())).unwrap();
    let how = Fallocate::Allocate { keep_size: true };
    let too_much = other.fallocate(ino, 0, (1 << 20) + 1, how);
    assert!(matches!(too_much, Err(EngineError::Quota)));
    assert_eq!(other.dataset.usage.used_bytes(), (1 << 19) - 1);
    other.fallocate(ino, 0, 1 << 20, how).unwrap();
    store.close().unwrap();
}

/// A write-out that fails, and one that is cut off, leave what is counted as it was.
#[test]
fn a_disk_that_fails_does_not_change_what_is_counted() {
    use crate::disk::sim::{Call, Fault};
    for count in 0..40 {
        let sim = make_empty(0);
        let volume = open(&sim);
        set_quota(volume.store(), "main", 1 << 20).unwrap();
        let ino = create(&volume, "f");
        for offset in 0..40 {
            write(&volume, ino, offset * 20_000, &[7; 10_000]);
        }
        sim.set_fault(Some(Fault {
            call: Call::Write,
            after: count,
            sticky: true,
            kind: std::io::ErrorKind::Other,
        }));
        let done = volume.write_out(ino).and_then(|()| volume.sync_all());
        let used = volume.dataset.usage.used_bytes();
        assert_eq!(used, 400_000, "after {count} writes");
        drop(volume);
        let sim = sim.killed();
        let volume = open(&sim);
        let used = volume.dataset.usage.used_bytes();
        assert!(used <= 400_000 && (done.is_err() || used == 400_000));
        volume.store().close().unwrap();
        assert_eq!(fsck::errors(&sim.media()).unwrap(), [""; 0]);
    }
}

#[test]
fn what_is_kept_for_a_dataset_no_other_gets() {
    let (sim, mut store) = two_datasets(16 << 20);
    reserve(&store, "other", 4 << 20).unwrap();
    for round in 0..2 {
        let free = |name: &str| store.volume(name).unwrap().free_bytes().unwrap();
        assert_eq!((free("main"), free("other")), (11 << 20, 16 << 20));
        let (count, error) = fill(&store, "main", "f", 64 << 10);
        assert!(is_full(&error), "{error}");
        assert!((11 * 16 - 1..=11 * 16).contains(&count), "{count}");
        // All of it, whatever the others do.
        let volume = store.volume("other").unwrap();
        let ino = create(&volume, "f");
        for offset in (0..4u64 << 20).step_by(64 << 10) {
            let mut rng = ChaCha8Rng::seed_from_u64(offset);
            let bytes: Vec<u8> = (0..64 << 10).map(|_| rng.random()).collect();
            write(&volume, ino, offset, &bytes);
            if offset % (1 << 20) == 0 {
                volume.write_out(ino).unwrap();
                assert_eq!(fill(&store, "main", "g", 1 << 20).0, 0);
                remove(&store, "main", "g");
            }
        }
        drop(volume);
        for (dataset, name) in [("main", "f"), ("other", "f")] {
            remove(&store, dataset, name);
        }
        store.checkpoint().unwrap();
        assert_eq!(kept(&store), 5 << 20);
        if round == 0 {
            store.close().unwrap();
            store = Arc::clone(open(&sim).store());
        }
    }
    store.delete("other", false).unwrap();
    store.reap(&|| false).unwrap();
    assert_eq!(store.main().unwrap().free_bytes().unwrap(), 16 << 20);
    store.close().unwrap();
    assert_eq!(fsck::errors(&sim.media()).unwrap(), [""; 0]);
}

#[test]
fn what_does_not_fit_is_not_kept() {
    let (sim, store) = two_datasets(16 << 20);
    let main = store.main().unwrap();
    let ino = create(&main, "f");
    write(&main, ino, 0, &vec![7; 4 << 20]);
    let refused = |done: Result<(), DatasetError>| match done {
        Err(DatasetError::NoRoom { more, free, .. }) => (more, free),
        other => panic!("{other:?}"),
    };
    let too_much = reserve(&store, "other", 12 << 20);
    assert_eq!(refused(too_much), (13 << 20, 12 << 20));
    assert_eq!(kept(&store), 0);
    reserve(&store, "other", 6 << 20).unwrap();
    // What it has used is its own.
    assert_eq!(
        refused(reserve(&store, "main", 9 << 20)),
        (6 << 20, 5 << 20)
    );
    reserve(&store, "main", 8 << 20).unwrap();
    assert_eq!(kept(&store), 12 << 20);
    let new = |name: &str, bytes: u64| {
        let settings = Settings {
            reservation_bytes: Some(bytes),
            ..Settings::default()
        };
        store.create_dataset_with(name, (0, 0), settings)
    };
    assert_eq!(refused(new("third", 1 << 20)), (2 << 20, 0));
    assert!(store.volume("third").is_err());
    reserve(&store, "other", 0).unwrap();
    new("third", 1 << 20).unwrap();
    assert_eq!(kept(&store), 7 << 20);
    // Not above its quota, whichever comes first.
    let above = set_quota(&store, "third", 1000).unwrap_err();
    assert!(
        above.to_string().contains("larger than its quota"),
        "{above}"
    );
    // Neither goes with a copy.
    store.clone_dataset("third", "copy").unwrap();
    store.snapshot("third@then").unwrap();
    let all = store.list().unwrap().into_iter();
    let all: Vec<_> = all
        .map(|info| (info.name, info.reservation_bytes))
        .collect();
    let named = |name: &str, bytes| (name.to_owned(), bytes);
    assert_eq!(
        all,
        [
            named("main", 8 << 20),
            named("other", 0),
            named("third", 1 << 20),
            named("copy", 0),
            named("third@then", 0),
        ]
    );
    store.delete("third", true).unwrap();
    assert_eq!(kept(&store), 5 << 20);
    drop(main);
    store.close().unwrap();
    let store = Arc::clone(open(&sim).store());
    assert_eq!(kept(&store), 5 << 20);
    assert!(fsck::errors(&sim.media()).unwrap().is_empty());
}

#[test]
fn df_tells_of_the_quota() {
    let (_sim, store) = two_datasets(16 << 20);
    let stat = |name: &str| store.volume(name).unwrap().statfs().unwrap();
    let blocks = |name: &str| {
        let stat = stat(name);
        let block = u64::from(stat.block_bytes);
        [stat.blocks, stat.blocks_free, stat.blocks_available].map(|blocks| (blocks * block) >> 20)
    };
    assert_eq!(blocks("other"), [16, 16, 16]);
    let settings = Settings {
        quota_bytes: Some(10 << 20),
        quota_inodes: Some(100),
        ..Settings::default()
    };
    store.change_settings("other", settings).unwrap();
    let other = store.volume("other").unwrap();
    let ino = create(&other, "f");
    write(&other, ino, 0, &vec![7; 3 << 20]);
    assert_eq!(blocks("other"), [10, 7, 7], "unwritten bytes too");
    let files = stat("other");
    assert_eq!((files.files, files.files_free), (100, 98));
    // The store has less than the quota leaves.
    let main = store.main().unwrap();
    let ino = create(&main, "f");
    write(&main, ino, 0, &vec![7; 9 << 20]);
    assert_eq!(blocks("other"), [10, 7, 4]);
    main.write_out(ino).unwrap();
    assert_eq!(blocks("main"), [13, 4, 4]);
    // Below what is used.
    set_quota(&store, "other", 1 << 20).unwrap();
    assert_eq!(blocks("other"), [3, 0, 0]);
    store.clone_dataset("other", "copy").unwrap();
    assert_eq!(blocks("copy"), [7, 4, 4], "no quota goes with it");
}
