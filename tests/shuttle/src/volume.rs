//! A volume that several threads use: one file, names, a log that runs full, and its end.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use razorfs::disk::sim::{SimMedia, Survival};
use razorfs::engine::{
    Cred, EngineError, MkfsOptions, NewInode, OpenOptions, SetAttr, SetXattr, Time, Volume,
    WriteFlags, mkfs,
};
use razorfs::format::id::Ino;
use razorfs::sync;

use crate::disks::{Gate, SlowFlush, Store, errors};
use crate::model::{CELL, Op, Progress, cells, contents};
use crate::{choose, explore, together};

const NEW: NewInode<'static> = NewInode {
    mode: 0o100_644,
    umask: 0,
    rdev: 0,
    xattrs: &[],
    supplementary_gid: None,
};

fn clock() -> razorfs::engine::Clock {
    Arc::new(|| Time { sec: 1, nsec: 2 })
}

fn options() -> OpenOptions {
    OpenOptions {
        background: false,
        cache_bytes: 2 << 20,
        ..OpenOptions::default()
    }
}

fn open(sim: &SimMedia, options: OpenOptions) -> Arc<Volume> {
    Volume::open_media(sim.media(), options, clock()).unwrap()
}

/// Opens with threads in the background, or without: as the schedule has it.
fn open_either_way(sim: &SimMedia) -> Arc<Volume> {
    let background = choose(2) == 0;
    open(
        sim,
        OpenOptions {
            background,
            ..options()
        },
    )
}

/// A store with the smallest log, after `fill` has done something with it.
fn store(fill: impl Fn(&Volume) + Send + Sync + 'static) -> Store {
    Store::made(move |sim| {
        let how = MkfsOptions::reproducible();
        mkfs(sim.media(), &how, &clock()).unwrap();
        let volume = open(sim, options());
        fill(&volume);
        volume.store().close().unwrap();
    })
}

/// What is left when power is lost, recovered in memory.
fn crashed(sim: &SimMedia, at: usize) -> Arc<Volume> {
    let left = sim.recording().crash_at(at, Survival::None);
    let read_only = OpenOptions {
        read_only: true,
        ..options()
    };
    let volume = open(&left, read_only);
    assert!(volume.store().recovery_report().damage.is_none());
    volume
}

fn content(volume: &Volume, ino: Ino) -> Vec<u8> {
    let mut bytes = Vec::new();
    volume.read(ino, 0, 1 << 20, &mut bytes).unwrap();
    cells(&bytes)
}

fn write(volume: &Volume, ino: Ino, at: usize, bytes: &[u8]) -> Result<usize, EngineError> {
    let (offset, flags) = (at as u64, WriteFlags::default());
    volume.write(ino, offset, bytes.len(), &mut &*bytes, flags)
}

/// One file that several threads change.
struct File {
    sim: Arc<SimMedia>,
    volume: Arc<Volume>,
    ino: Ino,
    programs: Vec<Vec<Op>>,
    /// Operations begun and done by each thread. Never locked over a place to switch.
    progress: Mutex<(Progress, Progress)>,
    /// Events of the disks when an fsync had returned, with what was done before it began, and begun
    /// when it had returned.
    synced: Mutex<Vec<(usize, Progress, Progress)>>,
}

impl File {
    fn step(&self, thread: usize, op: Op) {
        let (volume, ino) = (&self.volume, self.ino);
        let done = {
            let mut progress = self.progress.lock().unwrap();
            progress.0[thread] += 1;
            progress.1.clone()
        };
        let begun = || self.progress.lock().unwrap().0.clone();
        match op {
            Op::Write { at, cells, byte } => {
                write(volume, ino, at * CELL, &vec![byte; cells * CELL]).unwrap();
            }
            Op::Truncate { cells } => {
                let size = Some((cells * CELL) as u64);
                let set = SetAttr {
                    size,
                    ..SetAttr::default()
                };
                volume.setattr(ino, &set).unwrap();
            }
            Op::Fsync => {
                volume.fsync(ino, false).unwrap();
                let events = self.sim.events();
                self.synced.lock().unwrap().push((events, done, begun()));
            }
            Op::Tick => volume.store().commit_tick().unwrap(),
            Op::Checkpoint => volume.store().checkpoint().unwrap(),
            Op::Beside => {
                let name = [b'0' + u8::try_from(done[thread]).unwrap()];
                volume
                    .create(Cred::default(), Ino::ROOT, &name, &NEW)
                    .unwrap();
                volume.fsync_dir(Ino::ROOT).unwrap();
            }
            Op::Read => {
                let read = content(volume, ino);
                let allowed = contents(&self.programs, &done, &begun());
                assert!(allowed.contains(&read), "read {read:?}, not of {allowed:?}");
            }
        }
        self.progress.lock().unwrap().1[thread] += 1;
    }

    /// What fsync returned for is there when power is lost, then or later.
    fn check_synced(&self) {
        let (last, all) = (self.sim.events(), self.programs.iter().map(Vec::len));
        let all: Progress = all.collect();
        for (at, least, most) in self.synced.lock().unwrap().iter() {
            let rest = u64::try_from(last - at).unwrap();
            self.check_crash(*at, least, most);
            for _ in 0..3 {
                let later = at + usize::try_from(choose(rest + 1)).unwrap();
                self.check_crash(later, least, &all);
            }
        }
    }

    fn check_crash(&self, at: usize, least: &Progress, most: &Progress) {
        let found = content(&crashed(&self.sim, at), self.ino);
        let allowed = contents(&self.programs, least, most);
        // What is not synced may be old, new, or a hole, each cell by itself.
        let fits = |cell: usize| {
            let values: HashSet<_> = allowed.iter().map(|file| file.get(cell)).collect();
            values.contains(&found.get(cell)) || (values.len() > 1 && found[cell] == 0)
        };
        let length = allowed.iter().any(|file| file.len() == found.len());
        assert!(
            length && (0..found.len()).all(fits),
            "{found:?} at {at}, not of {allowed:?}"
        );
    }
}

fn same_inode(name: &'static str, cost: usize, programs: Vec<Vec<Op>>) {
    let store = store(|volume| {
        let file = volume.create(Cred::default(), Ino::ROOT, b"file", &NEW);
        file.unwrap();
    });
    explore(name, cost, move || {
        let sim = store.disks();
        let volume = open_either_way(&sim);
        let ino = volume.lookup(Ino::ROOT, b"file").unwrap().ino;
        let threads = programs.len();
        let file = Arc::new(File {
            sim,
            volume,
            ino,
            programs: programs.clone(),
            progress: Mutex::new((vec![0; threads], vec![0; threads])),
            synced: Mutex::default(),
        });
        let shared = Arc::clone(&file);
        together(threads, move |thread| {
            for op in shared.programs[thread].clone() {
                shared.step(thread, op);
            }
        });
        let all: Progress = programs.iter().map(Vec::len).collect();
        let last = content(&file.volume, ino);
        let allowed = contents(&programs, &all, &all);
        assert!(allowed.contains(&last), "{last:?}, not of {allowed:?}");
        file.volume.store().close().unwrap();
        file.check_synced();
        assert_eq!(content(&crashed(&file.sim, file.sim.events()), ino), last);
        assert_eq!(errors(&file.sim), Vec::<String>::new());
    });
}

fn put(at: usize, cells: usize, byte: u8) -> Op {
    Op::Write { at, cells, byte }
}

#[test]
fn writes_fsync_and_truncation_of_one_file() {
    let programs = vec![
        vec![put(0, 6, b'a'), Op::Fsync, put(1, 1, b'd'), Op::Fsync],
        vec![Op::Truncate { cells: 3 }, put(5, 2, b'b'), Op::Fsync],
        vec![put(2, 3, b'c'), Op::Truncate { cells: 4 }, Op::Read],
    ];
    same_inode("one file", 4, programs);
}

#[test]
fn the_timer_and_checkpoints_beside_writes_of_one_file() {
    let programs = vec![
        vec![put(0, 2, b'a'), Op::Fsync, Op::Truncate { cells: 1 }],
        vec![put(1, 6, b'b'), Op::Fsync, Op::Tick, Op::Read],
        vec![Op::Checkpoint, put(0, 1, b'c'), Op::Checkpoint],
    ];
    same_inode("one file, timer and checkpoints", 4, programs);
}

#[test]
fn bytes_that_were_carried_over_become_chunks_beside_an_fsync() {
    let programs = vec![
        vec![put(0, 3, b'a'), Op::Fsync, Op::Checkpoint, Op::Tick],
        vec![put(1, 1, b'b'), Op::Fsync, Op::Tick],
        vec![put(2, 1, b'c'), Op::Fsync, Op::Read],
        vec![Op::Beside, Op::Beside],
    ];
    same_inode("one file, carried over", 4, programs);
}

#[test]
fn a_file_is_freed_while_others_write_to_it() {
    let store = store(|volume| {
        let file = volume.create(Cred::default(), Ino::ROOT, b"file", &NEW);
        write(volume, file.unwrap().ino, 0, &[1; 5 * CELL]).unwrap();
    });
    explore("freeing a file", 4, move || {
        let sim = store.disks();
        let volume = open(&sim, options());
        let ino = volume.lookup(Ino::ROOT, b"file").unwrap().ino;
        let shared = Arc::clone(&volume);
        together(3, move |thread| match thread {
            0 => {
                assert!(shared.unlink(Ino::ROOT, b"file").unwrap().orphan);
                shared.reclaim(ino).unwrap();
            }
            1 => {
                let written = write(&shared, ino, 2 * CELL, &[2; 5 * CELL]);
                let synced = written.and_then(|_| shared.fsync(ino, false));
                assert!(
                    matches!(synced, Ok(()) | Err(EngineError::Stale)),
                    "{synced:?}"
                );
            }
            _ => {
                let size = Some(3);
                let set = SetAttr {
                    size,
                    ..SetAttr::default()
                };
                let cut = shared.setattr(ino, &set);
                assert!(matches!(cut, Ok(_) | Err(EngineError::Stale)), "{cut:?}");
                shared.store().checkpoint().unwrap();
            }
        });
        assert!(matches!(volume.getattr(ino), Err(EngineError::Stale)));
        assert_eq!(volume.store().dirty_bytes(), 0);
        volume.store().close().unwrap();
        assert_eq!(errors(&sim), Vec::<String>::new());
    });
}

/// Bytes of an attribute: with forty of them the log is so full that new
/// work must wait.
const LARGE: usize = 64 << 10;

#[test]
fn who_waits_for_room_in_the_log_gets_it() {
    let store = store(|volume| {
        for name in 0..3u8 {
            let file = volume.create(Cred::default(), Ino::ROOT, &[b'a' + name], &NEW);
            file.unwrap();
        }
    });
    explore("room in the log", 16, move || {
        let sim = store.disks();
        // The checkpoint that begins when the log is half full ends only after others have come to
        // wait for it.
        let gate = Gate::new(1);
        let media = SlowFlush::of_nodes(sim.media(), &gate);
        let background = OpenOptions {
            background: true,
            ..options()
        };
        let volume = Volume::open_media(media, background, clock()).unwrap();
        let set = |volume: &Volume, name: u8, fill: u8| {
            let ino = volume.lookup(Ino::ROOT, &[b'a' + name]).unwrap().ino;
            volume
                .setxattr(ino, b"user.a", &[fill; LARGE], SetXattr::Any, false)
                .unwrap();
        };
        for _ in 0..37 {
            set(&volume, 0, 0);
        }
        let shared = Arc::clone(&volume);
        together(4, move |thread| match u8::try_from(thread).unwrap() {
            3 => gate.pass(),
            name => {
                for step in 1..4 {
                    set(&shared, name, step);
                }
                if name == 0 {
                    shared.sync_all().unwrap();
                }
            }
        });
        volume.store().close().unwrap();
        assert_eq!(errors(&sim), Vec::<String>::new());
    });
}

/// Events of the disks when a name was known to be durable.
type Synced = (usize, Vec<u8>);

#[test]
fn a_volume_is_closed_while_threads_commit() {
    let store = store(|_| {});
    explore("closing", 4, move || {
        let sim = store.disks();
        let volume = open_either_way(&sim);
        let synced = Arc::new(Mutex::new(Vec::<Synced>::new()));
        let (disks, shared, told) = (Arc::clone(&sim), Arc::clone(&volume), Arc::clone(&synced));
        together(3, move |thread| {
            if thread == 0 {
                shared.store().close().unwrap();
                return;
            }
            for step in 0..2u8 {
                let name = vec![b'a' + u8::try_from(thread).unwrap(), b'0' + step];
                let made = shared.create(Cred::default(), Ino::ROOT, &name, &NEW);
                let written = made.and_then(|made| {
                    write(&shared, made.ino, 0, &[3; CELL])?;
                    shared.fsync(made.ino, false)
                });
                if written.is_ok() {
                    let events = disks.events();
                    told.lock().unwrap().push((events, name));
                }
                sync::thread::yield_now();
            }
        });
        // What comes too late to be closed over fails; what returned is not undone.
        drop(volume);
        for (at, name) in synced.lock().unwrap().iter() {
            for at in [*at, sim.events()] {
                let left = crashed(&sim, at);
                let found = left.lookup(Ino::ROOT, name).map(|found| found.ino);
                let ino = found.unwrap_or_else(|error| panic!("{name:?} at {at}: {error}"));
                assert_eq!(content(&left, ino), [3], "{name:?} at {at}");
            }
        }
        assert_eq!(errors(&sim), Vec::<String>::new());
    });
}
