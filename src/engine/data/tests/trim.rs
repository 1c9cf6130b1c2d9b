//! Space that goes back to the disk below: it comes back when it is needed, nothing is lost with it,
//! and a disk that refuses harms nobody.

use std::io;

use super::*;
use crate::disk::Disk;
use crate::disk::sim::{Call, Fault};
use crate::engine::data::space::units_punched;
use crate::engine::{TrimOptions, Trimmed};
use crate::fsck;
use crate::store::StoreError;
use crate::sync::Mutex;

/// Of the simulated disks, chunks.dat.
pub(super) const CHUNKS: usize = 3;

pub(super) fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random()).collect()
}

/// A store with two files that have names.
pub(super) fn make() -> SimMedia {
    let sim = make_empty(0);
    let volume = open(&sim);
    assert_eq!(
        [create(&volume, "file"), create(&volume, "other")],
        [FILE, OTHER]
    );
    volume.store().close().unwrap();
    sim
}

pub(super) fn trim(volume: &Volume) -> Trimmed {
    volume
        .store()
        .trim(&TrimOptions::default(), &mut || true)
        .unwrap()
}

/// Has the disks take no space back from inside of a file.
pub(super) fn refuse_holes(sim: &SimMedia) {
    sim.set_fault(Some(Fault {
        call: Call::Trim,
        after: 0,
        sticky: true,
        kind: io::ErrorKind::Unsupported,
    }));
}

/// Sees that what was done to the first file's chunks on a failing disk, which fails no more, has left
/// its content, or a store that is read-only and said so; and that content is there when it is opened
/// again, after the process was killed too.
pub(super) fn outlives<T>(
    sim: SimMedia,
    volume: &Volume,
    result: &Result<T, EngineError>,
    model: &[u8],
    context: &str,
) {
    if volume.store().is_writable() {
        assert!(content(volume, FILE) == model, "{context}");
        check_space(volume, context);
    } else {
        assert!(result.is_err(), "{context}");
    }
    for sim in [sim.killed(), sim] {
        let volume = open(&sim);
        assert!(content(&volume, FILE) == model, "{context}");
        volume.store().close().unwrap();
        check(&sim, context);
    }
}

/// While something is done, calls of the disk fail, one in each of many tries: an error at worst, and
/// the content of [`FILE`] is there, also after reopening.
pub(super) fn each_call_fails<T>(
    every: u64,
    prepare: impl Fn() -> (SimMedia, Arc<Volume>, Vec<u8>),
    act: impl Fn(&Volume) -> Result<T, EngineError>,
) {
    for call in [Call::Read, Call::Write, Call::Flush, Call::Allocate] {
        for after in (0..8).map(|n| n * every) {
            let context = format!("{call:?} {after}");
            let (sim, volume, model) = prepare();
            sim.set_fault(Some(Fault {
                call,
                after,
                sticky: after % 2 == 0,
                kind: io::ErrorKind::Other,
            }));
            let result = act(&volume);
            sim.set_fault(None);
            outlives(sim, &volume, &result, &model, &context);
        }
    }
}

pub(super) fn empty(volume: &Volume, ino: Ino) {
    volume.resize(ino, 0, &mut |_, _| Ok(())).unwrap();
}

pub(super) fn check(sim: &SimMedia, context: &str) {
    assert_eq!(fsck::errors(&sim.media()).unwrap(), [""; 0], "{context}");
}

fn punched_bytes(volume: &Volume) -> u64 {
    units_punched(&volume.store.journal.view()).unwrap() * 4096
}

/// Two files whose windows lie side by side in chunks.dat by turns, 128 KiB each. The content of the
/// first, and of the second.
pub(super) fn interleaved(volume: &Volume, windows: usize) -> [Vec<u8>; 2] {
    const WINDOW: usize = 128 << 10;
    let models = [random(1, windows * WINDOW), random(2, windows * WINDOW)];
    for index in 0..windows {
        for (ino, model) in [FILE, OTHER].into_iter().zip(&models) {
            let start = index * WINDOW;
            write(volume, ino, at(start), &model[start..start + WINDOW]);
            volume.write_out(ino).unwrap();
        }
    }
    models
}

#[test]
fn what_is_deleted_goes_back_to_the_disk_and_comes_from_there_again() {
    let sim = make();
    let volume = open(&sim);
    let [first, second] = interleaved(&volume, 64);
    let full = sim.allocated();
    empty(&volume, OTHER);
    let trimmed = trim(&volume);
    // The last window is cut off, and eight are kept as they are.
    assert_eq!(trimmed.punched_bytes, 55 * (128 << 10), "{trimmed:?}");
    assert_eq!(trimmed.punched_bytes, punched_bytes(&volume));
    assert!(!trimmed.unsupported);
    let back = trimmed.punched_bytes + trimmed.cut_bytes + trimmed.metadata_bytes;
    assert_eq!(sim.allocated() + back, full, "{trimmed:?}");
    assert_eq!(trim(&volume), Trimmed::default(), "nothing is left");
    assert!(content(&volume, FILE) == first);
    check_space(&volume, "after a trim");
    volume.store().close().unwrap();
    check(&sim, "closed");

    let volume = open(&sim);
    assert_eq!(
        punched_bytes(&volume),
        trimmed.punched_bytes,
        "it is remembered"
    );
    assert!(content(&volume, FILE) == first);
    let length = sim.disk_len(CHUNKS);
    let second = &second[..6 << 20];
    write(&volume, OTHER, 0, second);
    volume.fsync(OTHER, false).unwrap();
    assert!(punched_bytes(&volume) < 1 << 20);
    assert_eq!(sim.disk_len(CHUNKS), length, "holes come first");
    volume.store().close().unwrap();
    check(&sim, "closed again");
    let volume = open(&sim);
    assert!(content(&volume, FILE) == first && content(&volume, OTHER) == *second);
}

#[test]
fn what_is_free_at_the_end_is_cut_off() {
    let sim = make();
    let volume = open(&sim);
    let [first, _] = interleaved(&volume, 16);
    let last = create(&volume, "last");
    write(&volume, last, 0, &random(3, 20 << 20));
    volume.fsync(last, false).unwrap();
    let full = sim.disk_len(CHUNKS);
    empty(&volume, last);
    let trimmed = trim(&volume);
    assert!(trimmed.cut_bytes >= 20 << 20, "{trimmed:?}");
    assert_eq!(sim.disk_len(CHUNKS), full - trimmed.cut_bytes);
    // A hole at the end goes with the end.
    empty(&volume, OTHER);
    trim(&volume);
    empty(&volume, FILE);
    let trimmed = trim(&volume);
    assert!(punched_bytes(&volume) <= 1 << 20, "{trimmed:?}");
    assert!(sim.disk_len(CHUNKS) <= 2 << 20, "{trimmed:?}");
    check_space(&volume, "after cutting");
    write(&volume, FILE, 0, &first);
    volume.store().close().unwrap();
    check(&sim, "closed");
    assert!(content(&open(&sim), FILE) == first);
}

/// What was acknowledged finds room, though the disk is full and space was given back.
#[test]
fn a_full_disk_keeps_its_promises_after_a_trim() {
    for seed in 0..8 {
        let sim = make();
        let volume = open(&sim);
        let [first, _] = interleaved(&volume, 48);
        empty(&volume, OTHER);
        trim(&volume);
        sim.set_capacity(Some(sim.allocated() + ((2 + seed) << 20)));
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut model = Vec::new();
        loop {
            let bytes = random(rng.random(), rng.random_range(1..200_000));
            match try_write(&volume, OTHER, at(model.len()), &bytes) {
                Ok(_) => model.extend(bytes),
                Err(EngineError::Store(StoreError::NoSpace(_))) => break,
                Err(error) => panic!("seed {seed}: {error}"),
            }
            if rng.random_bool(0.1) {
                volume.write_out(OTHER).unwrap();
            }
            if rng.random_bool(0.1) {
                trim(&volume);
            }
            assert!(model.len() < 64 << 20);
        }
        trim(&volume);
        volume.fsync(OTHER, false).unwrap();
        assert!(content(&volume, OTHER) == model, "seed {seed}");
        empty(&volume, OTHER);
        trim(&volume);
        // The disk keeps some for the trees of what it got back.
        sim.set_capacity(Some(sim.allocated() + (4 << 20)));
        write(&volume, OTHER, 0, &[1; 100_000]);
        volume.store().close().unwrap();
        check(&sim, &format!("seed {seed}"));
        assert!(content(&open(&sim), FILE) == first, "seed {seed}");
    }
}

/// Unwritten bytes were promised space: none of it goes back.
#[test]
fn unwritten_bytes_keep_the_space_that_they_were_promised() {
    let sim = make();
    let volume = open(&sim);
    let [_, second] = interleaved(&volume, 64);
    empty(&volume, OTHER);
    volume.store().checkpoint().unwrap();
    write(&volume, OTHER, 0, &second);
    trim(&volume);
    sim.set_capacity(Some(sim.allocated() + (1 << 20)));
    volume.fsync(OTHER, false).unwrap();
    assert!(content(&volume, OTHER) == second);
}

#[test]
fn a_store_of_a_size_counts_what_it_stores() {
    let sim = make_empty(16 << 20);
    let volume = open(&sim);
    let [file, other] = ["file", "other"].map(|name| create(&volume, name));
    let model = random(4, 6 << 20);
    write(&volume, other, 0, &model);
    volume.fsync(other, false).unwrap();
    write(&volume, file, 0, &model);
    volume.fsync(file, false).unwrap();
    empty(&volume, other);
    let before = volume.statfs().unwrap().blocks_free;
    assert!(trim(&volume).punched_bytes >= 5 << 20);
    assert!(volume.statfs().unwrap().blocks_free >= before);
    write(&volume, other, 0, &model);
    volume.fsync(other, false).unwrap();
    assert!(content(&volume, other) == model);
}

#[test]
fn space_that_was_touched_since_the_last_look_stays() {
    let sim = make();
    let volume = open(&sim);
    interleaved(&volume, 64);
    empty(&volume, OTHER);
    volume.store().checkpoint().unwrap();
    let look = || volume.store.trim_idle().unwrap().punched_bytes;
    assert_eq!(look(), 0, "it may be used at once");
    write(&volume, OTHER, 0, &random(5, 128 << 10));
    volume.write_out(OTHER).unwrap();
    assert_eq!(look(), 62 * (128 << 10));
    assert_eq!(look(), 0);
    check_space(&volume, "after looks");
}

#[test]
fn a_disk_that_takes_nothing_back_is_asked_once() {
    let sim = make();
    let volume = open(&sim);
    let [first, _] = interleaved(&volume, 16);
    empty(&volume, OTHER);
    refuse_holes(&sim);
    for _ in 0..2 {
        let trimmed = trim(&volume);
        assert!(
            trimmed.unsupported && trimmed.punched_bytes == 0,
            "{trimmed:?}"
        );
        assert_eq!(sim.fault_calls(), 1);
    }
    assert_eq!(punched_bytes(&volume), 0);
    assert!(content(&volume, FILE) == first);
    volume.store().close().unwrap();
    check(&sim, "closed");
}

/// A part of what was to be punched is gone, which one nobody knows: it must be allocated again.
#[test]
fn a_punch_that_fails_harms_nobody() {
    let kinds = [io::ErrorKind::Other, io::ErrorKind::StorageFull];
    for (kind, after) in kinds.into_iter().flat_map(|kind| [(kind, 0), (kind, 5)]) {
        let sim = make();
        let volume = open(&sim);
        let [first, second] = interleaved(&volume, 16);
        empty(&volume, OTHER);
        let sticky = false;
        let call = Call::Trim;
        sim.set_fault(Some(Fault {
            call,
            after,
            sticky,
            kind,
        }));
        let failed = volume.store().trim(&TrimOptions::default(), &mut || true);
        assert!(failed.is_err(), "{kind:?}");
        assert!(volume.store().is_writable());
        assert_eq!(
            punched_bytes(&volume),
            after * (128 << 10),
            "the rest is free again"
        );
        assert!(content(&volume, FILE) == first);
        write(&volume, OTHER, 0, &second);
        // All that is acknowledged has its space.
        sim.set_capacity(Some(sim.allocated() + (2 << 20)));
        volume.fsync(OTHER, false).unwrap();
        check_space(&volume, "after a failed punch");
        empty(&volume, OTHER);
        assert!(trim(&volume).punched_bytes > 0);
        volume.store().close().unwrap();
        check(&sim, "closed");
        assert!(content(&open(&sim), FILE) == first);
    }
}

/// What cannot be allocated again stays punched, until it can be.
#[test]
fn a_punch_that_fails_on_a_full_disk_leaves_the_range_aside() {
    let sim = make();
    let volume = open(&sim);
    interleaved(&volume, 16);
    empty(&volume, OTHER);
    let sticky = true;
    let (media, kind) = (sim.media(), io::ErrorKind::Other);
    volume.store().checkpoint().unwrap();
    sim.set_fault(Some(Fault {
        call: Call::Trim,
        after: 0,
        sticky,
        kind,
    }));
    sim.set_capacity(Some(1));
    assert!(
        volume
            .store()
            .trim(&TrimOptions::default(), &mut || true)
            .is_err()
    );
    sim.set_capacity(None);
    assert!(punched_bytes(&volume) > 0);
    drop(media);
    check_space(&volume, "after a failed punch");
    check(&sim.killed(), "killed");
}

#[test]
fn an_end_that_cannot_be_cut_off_harms_nobody() {
    for kind in [io::ErrorKind::Other, io::ErrorKind::Unsupported] {
        let sim = make();
        let volume = open(&sim);
        let [first, second] = interleaved(&volume, 16);
        empty(&volume, OTHER);
        trim(&volume);
        empty(&volume, FILE);
        let (call, after, sticky) = (Call::Cut, 0, true);
        sim.set_fault(Some(Fault {
            call,
            after,
            sticky,
            kind,
        }));
        let result = volume.store().trim(&TrimOptions::default(), &mut || true);
        assert_eq!(
            result.is_ok(),
            kind == io::ErrorKind::Unsupported,
            "{kind:?}"
        );
        sim.set_fault(None);
        for (ino, model) in [(FILE, &first), (OTHER, &second)] {
            write(&volume, ino, 0, model);
            volume.fsync(ino, false).unwrap();
            assert!(content(&volume, ino) == *model);
        }
        volume.store().close().unwrap();
        check(&sim, "closed");
    }
}

pub(super) type Act = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// Does things once, just before a call of a kind reaches chunks.dat.
#[derive(Default, Clone)]
pub(super) struct Before {
    pub(super) read: Act,
    pub(super) write: Act,
    pub(super) trim: Act,
}

/// The disk of chunks.dat, with things to do before its calls. It cannot be cut, so that there is
/// space for what is written in the middle of a trim, which holds what allocates holes.
struct Hooked(Arc<dyn Disk>, Before);

fn act(act: &Act) {
    let taken = act.lock().take();
    if let Some(act) = taken {
        act();
    }
}

impl Disk for Hooked {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        act(&self.1.read);
        self.0.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        act(&self.1.write);
        self.0.write_at(offset, buf)
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.allocate(offset, len)
    }

    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        act(&self.1.trim);
        self.0.trim(offset, len)
    }

    fn len_bytes(&self) -> u64 {
        self.0.len_bytes()
    }

    fn available_bytes(&self) -> io::Result<u64> {
        self.0.available_bytes()
    }
}

/// Opens a store, with things to be done before calls of chunks.dat.
pub(super) fn open_hooked(sim: &SimMedia) -> (Arc<Volume>, Before) {
    let before = Before::default();
    let mut media = sim.media();
    media.chunks = Arc::new(Hooked(media.chunks, before.clone()));
    let options = OpenOptions {
        background: false,
        ..OpenOptions::default()
    };
    let volume = Volume::open_media(media, options, clock()).unwrap();
    (volume, before)
}

#[test]
fn nobody_writes_to_what_is_being_punched() {
    let sim = make();
    let (volume, before) = open_hooked(&sim);
    let [first, second] = interleaved(&volume, 16);
    empty(&volume, OTHER);
    let (writer, bytes) = (Arc::clone(&volume), second[..128 << 10].to_vec());
    *before.trim.lock() = Some(Box::new(move || {
        write(&writer, OTHER, 0, &bytes);
        writer.fsync(OTHER, false).unwrap();
    }));
    trim(&volume);
    assert!(before.trim.lock().is_none(), "something was punched");
    volume.store().close().unwrap();
    check(&sim, "closed");
    let volume = open(&sim);
    assert!(content(&volume, FILE) == first);
    assert!(content(&volume, OTHER) == second[..128 << 10]);
}

/// Power cut at any moment: what was fsynced is there, whatever was freed, punched, cut off and
/// written again around it.
#[test]
fn a_power_cut_around_trims_takes_nothing_that_was_fsynced() {
    const ROUNDS: u8 = 6;
    for seed in 0..24 {
        let sim = make();
        let volume = open(&sim);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let [first, _] = interleaved(&volume, 6);
        for ino in [FILE, OTHER] {
            volume.fsync(ino, false).unwrap();
        }
        // How many events there were when this round's content was there.
        let mut synced = Vec::new();
        for round in 1..=ROUNDS {
            let len = rng.random_range(100_000..600_000);
            empty(&volume, OTHER);
            if rng.random() {
                volume.store().checkpoint().unwrap();
            }
            let trimmed = volume
                .store()
                .trim(&TrimOptions { min_bytes: 4096 }, &mut || true);
            trimmed.unwrap();
            let begun = sim.events();
            write(&volume, OTHER, 0, &vec![round; len]);
            volume.fsync(OTHER, false).unwrap();
            synced.push((begun, sim.events(), len));
        }
        let mut recording = sim.recording();
        let start = synced[0].1;
        for point in (start..=recording.len()).step_by(3) {
            let context = format!("seed {seed}, point {point}");
            let survival = match point % 4 {
                0 => Survival::None,
                1 => Survival::All,
                _ => Survival::Random(rng.random()),
            };
            let crashed = recording.crash_at(point, survival);
            check(&crashed, &context);
            let volume = open(&crashed);
            assert!(content(&volume, FILE) == first, "{context}");
            let done = synced
                .iter()
                .rposition(|(_, end, _)| *end <= point)
                .unwrap();
            let next = synced
                .get(done + 1)
                .is_some_and(|(begun, ..)| *begun < point);
            let found = content(&volume, OTHER);
            let round = u8::try_from(done + 1).unwrap();
            let is_next = next || synced.get(done + 1).is_some();
            let sound = found == vec![round; synced[done].2]
                || is_next
                    && found
                        .iter()
                        .all(|byte| [0, round, round + 1].contains(byte));
            assert!(
                sound,
                "{context}: {} bytes after round {round}",
                found.len()
            );
            trim(&volume);
            assert!(content(&volume, FILE) == first, "{context}");
            check_space(&volume, &context);
        }
    }
}

/// The log could know of an end that was cut off, and the disk below not: what counts as free there
/// would have no space.
#[test]
fn what_is_free_after_a_power_cut_has_its_space() {
    for survival in [Survival::None, Survival::All] {
        let sim = make();
        let volume = open(&sim);
        interleaved(&volume, 64);
        empty(&volume, OTHER);
        trim(&volume);
        volume.store().close().unwrap();
        let volume = open(&sim);
        // Most holes go with the end.
        let length = sim.disk_len(CHUNKS);
        empty(&volume, FILE);
        trim(&volume);
        assert!(sim.disk_len(CHUNKS) < length / 2);
        let journal = &volume.store().journal;
        journal.sync(journal.end_lsn()).unwrap();
        let mut recording = sim.recording();
        let end = recording.len();
        let crashed = recording.crash_at(end, survival);
        let volume = open(&crashed);
        let holes = crashed.holes(CHUNKS);
        let punched = punched_bytes(&volume);
        assert!(holes <= punched, "{survival:?}: {holes} of {punched}");
    }
}

/// A repair does not know what has space, but for what was noted.
#[test]
fn what_is_free_after_a_repair_has_its_space() {
    let sim = make();
    let volume = open(&sim);
    interleaved(&volume, 64);
    empty(&volume, OTHER);
    trim(&volume);
    volume.store().close().unwrap();
    drop(volume);
    let fixes = fsck::repair(&sim.media(), fsck::Options::default(), &mut |_| {});
    assert_eq!(fixes.unwrap(), 0);
    check(&sim, "repaired");
    let holes = sim.holes(CHUNKS);
    assert!(holes > 1 << 20);
    let volume = open(&sim);
    assert_eq!(punched_bytes(&volume), holes);
    check_space(&volume, "after a repair");
}
