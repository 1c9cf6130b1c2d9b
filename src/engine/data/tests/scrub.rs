//! Scrubbing: what is damaged is found, what is not is not, and it goes on where it stopped.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::disk::sim::{Call, Fault};
use crate::engine::{ScrubEvent, ScrubOptions, ScrubProgress};
use crate::fsck;

/// A store with 200 files of 5,000 bytes, closed.
fn filled() -> SimMedia {
    let sim = make_empty(0);
    let volume = open(&sim);
    for index in 0..200u8 {
        let file = create(&volume, &format!("file number {index}"));
        write(&volume, file, 0, &[index; 5000]);
    }
    volume.store().close().unwrap();
    sim
}

fn scrub(volume: &Volume, restart: bool) -> (ScrubProgress, Vec<String>) {
    let mut damaged = Vec::new();
    let options = ScrubOptions {
        bytes_per_sec: 0,
        restart,
    };
    let progress = volume.store().scrub(options, &mut |event| {
        if let ScrubEvent::Damaged(what) = event {
            damaged.push(what.clone());
        }
        ControlFlow::Continue(())
    });
    (progress.unwrap(), damaged)
}

#[test]
fn a_sound_store_is_read_whole() {
    let sim = filled();
    let volume = open(&sim);
    let (progress, damaged) = scrub(&volume, false);
    assert!(progress.done && progress.errors == 0, "{damaged:?}");
    assert!(
        progress.bytes >= 200 * 5000 && progress.items > 400,
        "{progress:?}"
    );
    assert!(
        !volume
            .store()
            .scrub_is_due(std::time::Duration::from_secs(60))
            .unwrap()
    );
    assert!(
        volume
            .store()
            .scrub_is_due(std::time::Duration::ZERO)
            .unwrap()
    );
    volume.store().close().unwrap();
}

#[test]
fn damage_anywhere_is_found() {
    let used = (1..50u64).map(|page| page * 4096 + 4000).find(|offset| {
        let sim = filled();
        sim.corrupt(1, *offset, &[1; 50]);
        let summary = fsck::check(&sim.media(), fsck::Options::default(), &mut |_| {});
        summary.unwrap().errors > 0
    });
    for (disk, offset, word) in [
        (0, 4096 + 50, "superblock copy 1"),
        (1, used.unwrap(), "nodes.dat page"),
        (2, 40, "strings.dat"),
        (3, 100_000, "chunk"),
    ] {
        let sim = filled();
        let volume = open(&sim);
        let mut byte = [0];
        sim.peek(disk, offset, &mut byte);
        sim.corrupt(disk, offset, &[byte[0] ^ 4]);
        let (progress, damaged) = scrub(&volume, false);
        assert!(progress.done);
        assert_eq!(damaged.len(), 1, "{word}: {damaged:?}");
        assert!(damaged[0].contains(word), "{damaged:?}");
        assert_eq!(progress.errors, 1);
    }
}

#[test]
fn a_disk_that_cannot_be_read_is_no_end_of_it() {
    let sim = filled();
    let volume = open(&sim);
    for after in [5, 60, 150] {
        sim.set_fault(Some(Fault {
            call: Call::Read,
            after,
            sticky: false,
            kind: std::io::ErrorKind::Other,
        }));
        let (progress, damaged) = scrub(&volume, true);
        assert!(progress.done && damaged.len() == 1, "{damaged:?}");
    }
}

#[test]
fn an_interrupted_scrub_goes_on_where_it_stopped() {
    let sim = filled();
    let whole = scrub(&open(&sim.killed()), false).0;
    let (mut parts, mut last) = (0, ScrubProgress::default());
    while !last.done {
        let volume = open(&sim);
        let mut steps = 0;
        let next = volume.store().scrub(ScrubOptions::default(), &mut |event| {
            steps += usize::from(matches!(event, ScrubEvent::Progress(_)));
            match steps {
                4.. => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        let next = next.unwrap();
        assert!(next.items >= last.items, "{next:?} after {last:?}");
        last = next;
        parts += 1;
        volume.store().close().unwrap();
        assert!(parts < 1000);
    }
    assert!(parts > 3, "{parts}");
    // Checkpoints in between moved pages.
    assert!(last.bytes >= whole.bytes - 64 * 4096, "{last:?}, {whole:?}");
    assert_eq!(last.errors, 0);
}

#[test]
fn what_changes_meanwhile_is_not_damaged() {
    let sim = filled();
    let volume = open(&sim);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0u8;
            while !done.load(Ordering::Relaxed) {
                round = round.wrapping_add(1);
                for index in 0..20 {
                    let name = format!("file number {index}");
                    let file = volume.lookup(Ino::ROOT, name.as_bytes()).unwrap().ino;
                    write(&volume, file, 0, &[round; 5000]);
                    volume.write_out(file).unwrap();
                }
                volume.store().checkpoint().unwrap();
            }
        });
        for _ in 0..20 {
            let (progress, damaged) = scrub(&volume, true);
            assert!(progress.done && damaged.is_empty(), "{damaged:?}");
        }
        done.store(true, Ordering::Relaxed);
    });
    volume.store().close().unwrap();
}
