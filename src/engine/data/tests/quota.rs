//! What a dataset uses, to the byte, against a model.

use std::collections::BTreeMap;

use super::limits::set_quota;
use super::*;
use crate::engine::data::extents::overlapping;
use crate::engine::projects::{counted_below, limits_of, use_of};
use crate::engine::{FsXattr, MkfsOptions};
use crate::format::record::ProjectLimit;
use crate::fsck;

const SPAN: usize = 200_000;
const PROJECTS: u32 = 2;

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

/// A dataset and a model of the space that its files take.
struct Bench {
    sim: SimMedia,
    /// Events of the disks when it was opened last.
    opened: usize,
    volume: Arc<Volume>,
    inos: Vec<Ino>,
    files: Vec<File>,
    /// The project of each file.
    projects: Vec<u32>,
    /// 0 for none.
    quota: usize,
    /// Bytes and inodes that each project may have, from 1 on; 0 for no limit.
    limits: BTreeMap<u32, (usize, usize)>,
    /// Projects have been asked for.
    is_counted: bool,
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
            projects: vec![0; 3],
            quota: 0,
            limits: BTreeMap::new(),
            is_counted: false,
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

    /// Inodes and bytes of a project.
    fn used_by(&self, project: u32) -> (usize, usize) {
        let all = self.projects.iter().zip(&self.files);
        let own = all.filter(|(of, _)| **of == project);
        own.fold((0, 0), |(inodes, bytes), (_, file)| {
            (inodes + 1, bytes + file.used())
        })
    }

    fn limit_of(&self, project: u32) -> (usize, usize) {
        self.limits.get(&project).copied().unwrap_or_default()
    }

    /// Whether the quotas let a part of a file become what it is to be.
    fn fits(&self, file: usize, before: &[Space], after: &[Space]) -> bool {
        let (before, after) = (used(before), used(after));
        let project = self.projects[file];
        let within = |limit: usize, used: usize| limit == 0 || used + after - before <= limit;
        after <= before
            || within(self.quota, self.used())
                && within(self.limit_of(project).0, self.used_by(project).1)
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
        match self.rng.random_range(0..24) {
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
            19 => volume.write_out(ino).unwrap(),
            20 | 21 => self.limit_project(),
            _ => self.change_project(file),
        }
        self.check();
    }

    fn limit_project(&mut self) {
        let project = self.rng.random_range(1..=PROJECTS);
        let (inodes, bytes) = self.used_by(project);
        let limit = match self.rng.random_range(0..6) {
            0 => (0, 0),
            1 => ((bytes / 2).max(1), inodes),
            2 => (0, inodes),
            _ => (bytes + self.rng.random_range(1..SPAN), 0),
        };
        let record = ProjectLimit {
            bytes: at(limit.0),
            inodes: at(limit.1),
        };
        let store = Arc::clone(self.volume.store());
        store.limit_project("main", project, record).unwrap();
        self.limits.insert(project, limit);
        self.is_counted = true;
    }

    /// By a guest, who is refused at the limit, or by an operator, who is not.
    fn change_project(&mut self, file: usize) {
        let project = self.rng.random_range(0..=PROJECTS);
        let (ino, before) = (self.inos[file], self.projects[file]);
        let (inodes, bytes) = self.used_by(project);
        let (bytes_max, inodes_max) = self.limit_of(project);
        let own = self.files[file].used();
        let fits = project == before
            || (bytes_max == 0 || own == 0 || bytes + own <= bytes_max)
                && (inodes_max == 0 || inodes < inodes_max);
        let volume = Arc::clone(&self.volume);
        if self.rng.random_bool(0.2) {
            volume.assign_project(ino, project, &mut || true).unwrap();
            self.is_counted = true;
        } else {
            let fsx = FsXattr {
                xflags: 0,
                projid: project,
            };
            let done = volume.set_fsxattr(ino, fsx);
            if !self.expect(done, fits) {
                return;
            }
        }
        self.projects[file] = project;
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
        let fits = self.fits(file, &before, &after);
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
            self.fits(target, &before, &after)
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
        let mut told = Vec::new();
        for project in 1..=PROJECTS {
            let (inodes, bytes) = self.used_by(project);
            if let Some(counted) = usage.project_bytes(project) {
                assert_eq!(counted, at(bytes), "project {project}");
            }
            let (bytes_max, inodes_max) = self.limit_of(project);
            let limit = ProjectLimit {
                bytes: at(bytes_max),
                inodes: at(inodes_max),
            };
            if self.is_counted && (inodes > 0 || limit != ProjectLimit::default()) {
                told.push((project, at(inodes), limit));
            }
        }
        let found = self.volume.projects().unwrap().into_iter();
        let found: Vec<_> = found
            .map(|each| (each.id, each.used.inodes, each.limit))
            .collect();
        assert_eq!(found, told);
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
        for (project, ino) in self.projects.iter_mut().zip(&self.inos) {
            *project = self.volume.get_fsxattr(*ino).unwrap().projid;
        }
        let tree = self.volume.tree();
        let counted = counted_below(&view, tree).unwrap();
        if counted != 0 && counted != u64::MAX {
            self.volume.count_projects(&mut || true).unwrap();
        }
        self.is_counted = counted != 0;
        let limits = limits_of(&view, tree).unwrap();
        let size = |bytes: u64| usize::try_from(bytes).unwrap();
        let limit = |(id, of): (u32, ProjectLimit)| (id, (size(of.bytes), size(of.inodes)));
        self.limits = limits.into_iter().map(limit).collect();
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

/// Threads that race for the last bytes of two datasets, with all that goes on in the background.
#[test]
fn threads_that_race_never_pass_the_quota() {
    const PIECE: u64 = 50_000;
    let sim = make_empty(0);
    let options = OpenOptions {
        background: true,
        commit_interval: std::time::Duration::from_millis(5),
        ..OpenOptions::default()
    };
    let main = Volume::open_media(sim.media(), options, clock()).unwrap();
    let store = Arc::clone(main.store());
    store.create_dataset("other", (0, 0)).unwrap();
    let other = Arc::new(store.volume("other").unwrap());
    let limits = [(&main, 3 << 20), (&other, 1 << 20)];
    for ((volume, limit), name) in limits.iter().zip(["main", "other"]) {
        set_quota(&store, name, *limit).unwrap();
        assert_eq!(volume.dataset.usage.used_bytes(), 0);
    }
    const OF_PROJECT: u64 = 1 << 20;
    let limit = ProjectLimit {
        bytes: OF_PROJECT,
        inodes: 0,
    };
    store.limit_project("main", 5, limit).unwrap();
    let refused = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..6u64 {
            let (volume, limit) = limits[usize::try_from(thread % 2).unwrap()];
            let refused = &refused;
            scope.spawn(move || {
                let mut rng = ChaCha8Rng::seed_from_u64(thread);
                let ino = create(volume, &format!("f{thread}"));
                let mut in_project = thread == 0;
                for _ in 0..400 {
                    // One stays in the project, one comes and goes.
                    in_project ^= thread == 2 && rng.random_bool(0.05);
                    let fsx = FsXattr {
                        xflags: 0,
                        projid: if in_project { 5 } else { 0 },
                    };
                    match volume.set_fsxattr(ino, fsx) {
                        Err(EngineError::Quota) => in_project = false,
                        other => other.unwrap(),
                    }
                    let of_project = volume.dataset.usage.project_bytes(5);
                    assert!(of_project.unwrap_or(0) <= OF_PROJECT);
                    let offset = rng.random_range(0..40) * PIECE / 2;
                    let bytes = bytes_of(&mut rng, usize::try_from(PIECE).unwrap());
                    let done = match rng.random_range(0..12) {
                        0 => volume.resize(ino, offset, &mut |_, _| Ok(())).map(drop),
                        1 => volume.fallocate(ino, offset, 3 * PIECE, Fallocate::PunchHole),
                        2 => {
                            let how = Fallocate::Allocate { keep_size: false };
                            volume.fallocate(ino, offset, 2 * PIECE, how)
                        }
                        3 => volume.fsync(ino, false),
                        4 => {
                            let target = offset + 60 * PIECE;
                            let copied = volume.copy_range(ino, offset, ino, target, PIECE);
                            copied.map(drop)
                        }
                        _ => try_write(volume, ino, offset, &bytes).map(drop),
                    };
                    match done {
                        Err(EngineError::Quota) => {
                            refused.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        }
                        other => other.unwrap(),
                    }
                    assert!(volume.dataset.usage.used_bytes() <= limit);
                    let view = volume.store.journal.view();
                    let counters = volume.load_counters(&view).unwrap();
                    assert!(counters.allocated_bytes <= limit);
                }
            });
        }
    });
    assert!(refused.into_inner() > 100);
    store.write_out_all().unwrap();
    for (volume, _) in limits {
        let view = volume.store.journal.view();
        let counters = volume.load_counters(&view).unwrap();
        assert_eq!(volume.dataset.usage.used_bytes(), counters.allocated_bytes);
        let of_project = use_of(&view, volume.tree(), 5).unwrap().bytes;
        let counted = volume.dataset.usage.project_bytes(5);
        assert_eq!(counted.unwrap_or(0), of_project);
    }
    store.close().unwrap();
    assert_eq!(fsck::errors(&sim.media()).unwrap(), [""; 0]);
}
