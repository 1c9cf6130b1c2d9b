//! Repairs that are cut off: by power, or by an error of the disk.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use razorfs::disk::sim::{Call, Fault, SimMedia, Survival};
use razorfs::fsck;

use super::store::{contents, damage, lived_in, open};
use super::{Contents, OPTIONS, errors};

/// Damaged stores whose repair is interrupted.
const STORES: u64 = 4;
/// Power cuts in each.
const CUTS: usize = 40;

/// A damaged store, and what can be read of it.
fn damaged(sound: &SimMedia, seed: u64) -> Option<(SimMedia, Contents)> {
    let sim = sound.killed();
    damage(&sim, &mut ChaCha8Rng::seed_from_u64(seed));
    let readable = match open(&sim, true) {
        Ok(volume) => contents(&volume).0,
        Err(_) => Contents::new(),
    };
    let repaired = fsck::repair(&sim.killed().media(), OPTIONS, &mut |_| {}).is_ok();
    (repaired && errors(&sim, seed) > 0).then_some((sim, readable))
}

/// Repairs what an interrupted repair left, and sees that nothing more is gone.
fn finish(sim: &SimMedia, readable: &Contents, what: &str) {
    if let Err(error) = fsck::repair(&sim.media(), OPTIONS, &mut |_| {}) {
        panic!("{what}: not repaired: {error}");
    }
    assert_eq!(errors(sim, 0), 0, "{what}");
    let (after, _) = contents(&open(sim, true).unwrap());
    for (path, found) in readable {
        let path_text = path.escape_ascii();
        assert!(
            after.get(path).is_some_and(|after| after.keeps(found)),
            "{what}: {path_text} is gone"
        );
    }
}

#[test]
fn a_repair_cut_off_by_power_is_made_again() {
    let sound = lived_in(true);
    let stores = (0..).filter_map(|seed| Some((seed, damaged(&sound, seed)?)));
    for (seed, (sim, readable)) in stores.take(usize::try_from(STORES).unwrap()) {
        let run = sim.killed();
        fsck::repair(&run.media(), OPTIONS, &mut |_| {}).unwrap();
        let mut recording = run.recording();
        let events = recording.len();
        assert!(events > 50, "{events}");
        for cut in 0..CUTS {
            let at = events * (cut + 1) / CUTS;
            for survival in [Survival::None, Survival::All, Survival::Random(seed)] {
                let crashed = recording.crash_at(at, survival);
                finish(
                    &crashed,
                    &readable,
                    &format!("seed {seed}, event {at}, {survival:?}"),
                );
            }
        }
    }
}

#[test]
fn a_repair_that_the_disk_refuses_leaves_the_store_as_it_was() {
    let sound = lived_in(false);
    let stores = (0..).filter_map(|seed| Some((seed, damaged(&sound, seed)?)));
    for (seed, (sim, readable)) in stores.take(2) {
        for call in [Call::Write, Call::Flush, Call::Allocate] {
            for after in 0.. {
                let run = sim.killed();
                run.set_fault(Some(Fault {
                    call,
                    after,
                    sticky: true,
                    kind: std::io::ErrorKind::Other,
                }));
                let result = fsck::repair(&run.media(), OPTIONS, &mut |_| {});
                let failed = result.is_err();
                if failed && after % 7 == 0 || after < 5 {
                    run.set_fault(None);
                    finish(
                        &run.killed(),
                        &readable,
                        &format!("seed {seed}, {call:?} {after}"),
                    );
                }
                if !failed {
                    break;
                }
            }
        }
    }
}
