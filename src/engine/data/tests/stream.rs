//! Writing behind those who write much in order.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::disk::{Disk, Media};
use crate::sync::{Condvar, Mutex};

/// Bytes of a file that is written in order.
const BYTES: usize = 24 << 20;
const PART: usize = 256 << 10;

/// Opens with the threads, of which the timer has long to sleep.
fn open_with_threads(sim: &SimMedia) -> Arc<Volume> {
    let options = OpenOptions {
        commit_interval: Duration::from_secs(3600),
        ..OpenOptions::default()
    };
    Volume::open_media(sim.media(), options, clock()).unwrap()
}

/// Waits for something that a thread of the volume does.
fn comes_true(volume: &Volume, what: impl Fn(&Volume) -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(20);
    while !what(volume) {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

#[test]
fn who_writes_in_order_is_written_behind() {
    let sim = make();
    let volume = open_with_threads(&sim);
    let mut model = Vec::new();
    for part in 0..BYTES / PART {
        let bytes = vec![u8::try_from(part % 251).unwrap(); PART];
        write(&volume, FILE, at(model.len()), &bytes);
        model.extend_from_slice(&bytes);
    }
    assert!(comes_true(&volume, |volume| volume.store().dirty_bytes() < 4 << 20));
    assert!(content(&volume, FILE) == model);
    volume.store().close().unwrap();
    drop(volume);
    let volume = open(&sim);
    assert!(content(&volume, FILE) == model);
    check_space(&volume, "written behind");
}

#[test]
fn who_writes_anywhere_is_left_alone() {
    let sim = make();
    let volume = open_with_threads(&sim);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..400 {
        let window = rng.random_range(0..200u64);
        write(&volume, FILE, window << 20, &[1; 64 << 10]);
        write(&volume, FILE, (window << 20) + (64 << 10), &[1; 64 << 10]);
    }
    assert!(volume.store().dirty_bytes() > 8 << 20);
    let before = volume.store().dirty_bytes();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(volume.store().dirty_bytes(), before);
}

/// Counts the calls that write, and the bytes that are read.
struct Counting(Arc<dyn Disk>, Arc<Counts>);

#[derive(Default)]
struct Counts {
    writes: AtomicU64,
    read_bytes: AtomicU64,
    /// How many writes are to be on their way together: each waits a while for the others.
    together: AtomicU64,
    /// How many are, and the most that were.
    under_way: Mutex<(u64, u64)>,
    another: Condvar,
    /// The write that fails, from 1 on.
    fails: AtomicU64,
}

impl Counts {
    fn write(&self, write: impl FnOnce() -> std::io::Result<()>) -> std::io::Result<()> {
        let number = self.writes.fetch_add(1, Ordering::Relaxed) + 1;
        let mut under_way = self.under_way.lock();
        under_way.0 += 1;
        under_way.1 = under_way.1.max(under_way.0);
        self.another.notify_all();
        let end = Instant::now() + Duration::from_millis(500);
        while under_way.1 < self.together.load(Ordering::Relaxed)
            && !self.another.wait_until(&mut under_way, end).timed_out()
        {}
        under_way.0 -= 1;
        drop(under_way);
        if number == self.fails.load(Ordering::Relaxed) {
            return Err(std::io::Error::other("injected"));
        }
        write()
    }
}

/// A volume whose chunks are counted.
fn counted(sim: &SimMedia, background: bool) -> (Arc<Volume>, Arc<Counts>) {
    let counts = Arc::<Counts>::default();
    let media = sim.media();
    let chunks = Arc::new(Counting(media.chunks.clone(), counts.clone()));
    let media = Media { chunks, ..media };
    let options = OpenOptions {
        background,
        commit_interval: Duration::from_secs(3600),
        ..OpenOptions::default()
    };
    let volume = Volume::open_media(media, options, clock()).unwrap();
    (volume, counts)
}

impl Disk for Counting {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.1
            .read_bytes
            .fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.0.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> std::io::Result<()> {
        self.1.write(|| self.0.write_at(offset, buf))
    }

    fn write_all_at(&self, offset: u64, bufs: &[&[u8]]) -> std::io::Result<()> {
        self.1.write(|| self.0.write_all_at(offset, bufs))
    }

    fn flush(&self) -> std::io::Result<()> {
        self.0.flush()
    }

    fn allocate(&self, offset: u64, len: u64) -> std::io::Result<()> {
        self.0.allocate(offset, len)
    }

    fn trim(&self, offset: u64, len: u64) -> std::io::Result<()> {
        self.0.trim(offset, len)
    }

    fn len_bytes(&self) -> u64 {
        self.0.len_bytes()
    }

    fn available_bytes(&self) -> std::io::Result<u64> {
        self.0.available_bytes()
    }
}

#[test]
fn what_lies_side_by_side_is_written_at_once() {
    let sim = make();
    let (volume, counts) = counted(&sim, false);
    let model = vec![7; 2 << 20];
    write(&volume, FILE, 0, &model);
    volume.fsync(FILE, false).unwrap();
    let writes = counts.writes.load(Ordering::Relaxed);
    assert!((1..=2).contains(&writes), "{writes} writes");
    assert!(content(&volume, FILE) == model);
}

/// Writes much, and jumps: nobody writes behind that.
fn write_jumping(volume: &Volume) -> Vec<u8> {
    const JUMP: usize = 6;
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let model: Vec<u8> = (0..BYTES).map(|_| rng.random()).collect();
    for first in 0..JUMP {
        let parts = model.chunks(4 * PART).enumerate();
        for (part, bytes) in parts.skip(first).step_by(JUMP) {
            write(volume, FILE, at(part * 4 * PART), bytes);
        }
    }
    model
}

#[test]
fn two_writes_are_on_their_way_at_a_time() {
    let sim = make();
    let (volume, counts) = counted(&sim, true);
    let model = write_jumping(&volume);
    counts.writes.store(0, Ordering::Relaxed);
    *counts.under_way.lock() = (0, 0);
    counts.together.store(2, Ordering::Relaxed);
    volume.fsync(FILE, false).unwrap();
    assert_eq!(counts.under_way.lock().1, 2);
    assert!(content(&volume, FILE) == model);
    volume.store().close().unwrap();
    drop(volume);
    let volume = open(&sim);
    assert!(content(&volume, FILE) == model);
    check_space(&volume, "two at a time");
}

#[test]
fn a_write_that_fails_beside_others_fails_the_fsync_and_loses_nothing() {
    for fails in 1..=5 {
        let sim = make().killed();
        let (volume, counts) = counted(&sim, true);
        write(&volume, FILE, 0, &[1; PART]);
        volume.fsync(FILE, false).unwrap();
        let model = write_jumping(&volume);
        counts.writes.store(0, Ordering::Relaxed);
        counts.fails.store(fails, Ordering::Relaxed);
        assert!(volume.fsync(FILE, false).is_err(), "write {fails}");
        assert!(!volume.is_writable(), "write {fails}");
        assert!(volume.fsync(FILE, false).is_err(), "write {fails}");
        assert!(content(&volume, FILE) == model, "write {fails}");
        drop(volume);
        let mut recording = sim.recording();
        let volume = open(&recording.crash_at(recording.len(), Survival::None));
        assert!(content(&volume, FILE) == [1; PART], "write {fails}");
        check_space(&volume, "after a failed write");
    }
}

#[test]
fn who_reads_here_and_there_has_no_more_read_than_that() {
    const READS: usize = 50;
    let sim = make();
    let volume = open(&sim);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let model: Vec<u8> = (0..4 << 20).map(|_| rng.random()).collect();
    write(&volume, FILE, 0, &model);
    volume.store().close().unwrap();
    drop(volume);
    let (volume, counts) = counted(&sim, false);
    let read_bytes = || counts.read_bytes.swap(0, Ordering::Relaxed);
    let check = |offset: usize, len: usize| {
        let mut found = Vec::new();
        volume.read(FILE, at(offset), len, &mut found).unwrap();
        assert!(found == model[offset..offset + len], "{len} at {offset}");
    };
    let places: Vec<_> = (0..READS).map(|n| n * 20 * 4096).collect();
    for wanted in [at(READS * 4096), 0] {
        places.iter().for_each(|place| check(*place, 4096));
        assert_eq!(read_bytes(), wanted);
    }
    // Not at a block's beginning, over its end, and all of it.
    check(100, 50);
    check(4000, 5000);
    check(4096 * 7, 4096 * 2);
    check(0, model.len());
    read_bytes();
    check(0, model.len());
    assert_eq!(read_bytes(), 0);
}
