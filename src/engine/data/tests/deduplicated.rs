//! Equal content is stored once: found, referred to, given up, and never where it is not equal.

use std::ops::ControlFlow;

use super::*;
use crate::disk::{Disk, Media};
use crate::engine::Settings;
use crate::engine::data::hashes;
use crate::engine::data::space::units_used;
use crate::format::record::{CHUNK_MAX, ChunkRecord};
use crate::sync::Mutex;

const WINDOW: usize = CHUNK_MAX as usize;

const BOTH: [Dedup; 2] = [Dedup::On, Dedup::Verify];

fn deduplicating(how: Dedup) -> SimMedia {
    let sim = make_as(&MkfsOptions {
        dedup: how,
        ..MkfsOptions::reproducible()
    });
    let volume = open(&sim);
    let made = ["file", "other"].map(|name| create(&volume, name));
    assert_eq!(made, [FILE, OTHER]);
    volume.store().close().unwrap();
    sim
}

fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ChaCha8Rng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}

fn entries(volume: &Volume) -> usize {
    let mut count = 0;
    let view = volume.store.journal.view();
    view.scan(TreeId::ChunkHashes, &[], &[0xff; 33], &mut |_, _| {
        count += 1;
        ControlFlow::Continue(())
    })
    .unwrap();
    count
}

fn units(volume: &Volume) -> u64 {
    units_used(&volume.store.journal.view()).unwrap()
}

/// Closes it, and sees that razorfsck finds nothing.
fn check(volume: &Volume, sim: &SimMedia) {
    check_space(volume, "deduplicated");
    volume.store().close().unwrap();
    assert_eq!(crate::fsck::errors(&sim.media()).unwrap(), [""; 0]);
}

#[test]
fn equal_content_is_stored_once() {
    for how in BOTH {
        let sim = deduplicating(how);
        let volume = open(&sim);
        let content_of_both = [random(1, 3 * WINDOW), vec![5; 100]].concat();
        write(&volume, FILE, 0, &content_of_both);
        volume.write_out(FILE).unwrap();
        let once = units(&volume);
        write(&volume, OTHER, 0, &content_of_both);
        volume.write_out(OTHER).unwrap();
        assert_eq!(units(&volume), once, "{how}");
        let counted = volume.store().activity();
        let bytes = content_of_both.len() as u64;
        assert_eq!(counted.stored_content_bytes, bytes, "each once");
        assert_eq!(counted.stored_bytes, bytes.next_multiple_of(4096));
        assert_eq!(counted.deduplicated_bytes, bytes);
        assert!(chunks(&volume).iter().all(|(_, chunk)| chunk.refcount == 2));
        assert_eq!(entries(&volume), 4);
        volume.store().close().unwrap();
        let volume = open(&sim);
        assert!(content(&volume, OTHER) == content_of_both);
        let resized = volume.resize(FILE, 0, &mut |_, _| Ok(()));
        resized.unwrap();
        volume.store().checkpoint().unwrap();
        assert!(content(&volume, OTHER) == content_of_both);
        assert_eq!(units(&volume), once);
        let resized = volume.resize(OTHER, 0, &mut |_, _| Ok(()));
        resized.unwrap();
        volume.store().checkpoint().unwrap();
        assert_eq!((units(&volume), entries(&volume)), (0, 0));
        check(&volume, &sim);
    }
}

#[test]
fn equal_runs_of_one_write_out_are_stored_once() {
    for how in BOTH {
        let sim = deduplicating(how);
        let volume = open(&sim);
        let model = random(2, WINDOW).repeat(100);
        write(&volume, FILE, 0, &model);
        volume.write_out(FILE).unwrap();
        let found = chunks(&volume);
        assert_eq!((found.len(), found[0].1.refcount), (1, 100), "{how}");
        assert!(content(&volume, FILE) == model);
        check(&volume, &sim);
    }
}

/// The chunk's last extent goes in the transaction that makes the next.
#[test]
fn the_same_content_can_be_written_in_place() {
    for how in BOTH {
        let sim = deduplicating(how);
        let volume = open(&sim);
        let model = random(3, 2 * WINDOW);
        for _ in 0..3 {
            write(&volume, FILE, 0, &model);
            volume.write_out(FILE).unwrap();
            assert_eq!(units(&volume), 64);
        }
        let changed = [random(4, 10), model[10..].to_vec()].concat();
        write(&volume, FILE, 0, &changed);
        volume.write_out(FILE).unwrap();
        write(&volume, FILE, 0, &model);
        volume.write_out(FILE).unwrap();
        assert!(content(&volume, FILE) == model);
        check(&volume, &sim);
    }
}

#[test]
fn a_run_over_many_extents_refers_once() {
    let sim = deduplicating(Dedup::On);
    let volume = open(&sim);
    let model = random(5, 20_000);
    write(&volume, OTHER, 0, &model);
    volume.write_out(OTHER).unwrap();
    for index in 0..10_000 {
        write(&volume, FILE, index * 2, &[1]);
    }
    volume.write_out(FILE).unwrap();
    write(&volume, FILE, 0, &model);
    volume.write_out(FILE).unwrap();
    let shared = |chunk: &ChunkRecord| chunk.raw_len == 20_000 && chunk.refcount == 2;
    assert_eq!(chunks(&volume).iter().filter(|(_, c)| shared(c)).count(), 1);
    assert!(content(&volume, FILE) == model);
    check(&volume, &sim);
}

#[test]
fn compressed_chunks_are_found_by_their_content() {
    let sim = deduplicating(Dedup::Verify);
    let volume = open(&sim);
    for (ino, how) in [(FILE, "lz4"), (OTHER, "zstd")] {
        let compression = Some(how.parse().unwrap());
        let settings = Settings {
            compression,
            ..Settings::default()
        };
        volume.store().change_settings("main", settings).unwrap();
        write(&volume, ino, 0, &b"0123456789".repeat(10_000));
        volume.write_out(ino).unwrap();
    }
    let found = chunks(&volume);
    assert_eq!((found.len(), found[0].1.refcount), (1, 2));
    check(&volume, &sim);
}

/// Rot in what is stored must not become the only copy of what is written.
#[test]
fn what_is_compared_is_not_shared_when_it_has_rotted() {
    for (how, copies) in [(Dedup::On, 1), (Dedup::Verify, 2)] {
        let sim = deduplicating(how);
        let volume = open(&sim);
        let model = random(6, WINDOW);
        write(&volume, OTHER, 0, &model);
        volume.write_out(OTHER).unwrap();
        let place = chunks(&volume)[0].1.start_unit * 4096 + 9;
        sim.corrupt(3, place, &[model[9] ^ 1]);
        write(&volume, FILE, 0, &model);
        volume.write_out(FILE).unwrap();
        assert_eq!(chunks(&volume).len(), copies, "{how}");
        if how == Dedup::Verify {
            assert!(content(&volume, FILE) == model);
            // The next one finds the copy that is whole.
            write(&volume, FILE, at(WINDOW), &model);
            volume.write_out(FILE).unwrap();
            assert_eq!(chunks(&volume).len(), 2);
        }
    }
}

type Act = Box<dyn FnOnce() + Send>;

/// Does something, once, when it is written to.
struct Meanwhile(Arc<dyn Disk>, Arc<Mutex<Option<Act>>>);

impl Disk for Meanwhile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.0.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> std::io::Result<()> {
        let act = self.1.lock().take();
        act.into_iter().for_each(|act| act());
        self.0.write_at(offset, buf)
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
fn a_chunk_that_goes_before_it_is_referred_to_is_written_anew() {
    for how in BOTH {
        let sim = deduplicating(how);
        let meanwhile = Arc::<Mutex<Option<Act>>>::default();
        let media = sim.media();
        let chunks_disk = Arc::new(Meanwhile(media.chunks.clone(), meanwhile.clone()));
        let media = Media {
            chunks: chunks_disk,
            ..media
        };
        let options = OpenOptions {
            background: false,
            ..OpenOptions::default()
        };
        let volume = Volume::open_media(media, options, clock()).unwrap();
        let equal = random(7, WINDOW);
        write(&volume, OTHER, 0, &equal);
        volume.write_out(OTHER).unwrap();
        // Of the first no more is left, when the second is written.
        let model = [&equal[..], &random(8, WINDOW)].concat();
        write(&volume, FILE, 0, &model);
        let other = Arc::downgrade(&volume);
        *meanwhile.lock() = Some(Box::new(move || {
            let volume = other.upgrade().unwrap();
            let resized = volume.resize(OTHER, 0, &mut |_, _| Ok(()));
            resized.unwrap();
            volume.store().checkpoint().unwrap();
        }));
        volume.write_out(FILE).unwrap();
        assert!(meanwhile.lock().is_none(), "{how}");
        assert_eq!(volume.store().dirty_bytes(), 0, "{how}");
        assert!(content(&volume, FILE) == model, "{how}");
        assert_eq!(chunks(&volume).len(), 2, "{how}");
        check(&volume, &sim);
    }
}

/// The entry goes with the chunk that it names, not with another of the same content.
#[test]
fn an_entry_stays_when_another_chunk_of_the_content_goes() {
    let sim = deduplicating(Dedup::Off);
    let volume = open(&sim);
    let model = random(9, 5000);
    write(&volume, OTHER, 0, &model);
    volume.write_out(OTHER).unwrap();
    let settings = Settings {
        dedup: Some(Dedup::On),
        ..Settings::default()
    };
    volume.store().change_settings("main", settings).unwrap();
    write(&volume, FILE, 0, &model);
    volume.write_out(FILE).unwrap();
    let found = chunks(&volume);
    assert_eq!(found.len(), 2);
    let entered = || hashes::find(&volume.store.journal.view(), &found[0].1.hash).unwrap();
    assert_eq!(entered(), Some(found[1].0));
    volume.resize(OTHER, 0, &mut |_, _| Ok(())).unwrap();
    assert_eq!(entered(), Some(found[1].0));
    volume.resize(FILE, 0, &mut |_, _| Ok(())).unwrap();
    assert_eq!(entered(), None);
    check(&volume, &sim);
}

#[test]
fn a_full_disk_in_pieces_takes_equal_content_in_parts() {
    let sim = make_storing(Compression::OFF, Dedup::On);
    super::space::fill_fragmented(&sim, &random(10, 128 << 10));
}
