//! Rot anywhere in a store: what is read is right or an error, nothing panics, and the checker says
//! what is damaged whenever anything could not be read. A repaired store is clean, and all that
//! could be read before is still there.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod interrupted;
mod store;

use std::collections::{BTreeMap, BTreeSet};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use razorfs::disk::sim::SimMedia;
use razorfs::format::id::Ino;
use razorfs::fsck::{self, Fix, Options, RepairError, Severity};
use store::{Found, contents, damage, lived_in, open, plain};

/// Damaged stores without `RAZORFS_RUNS`.
const RUNS: u64 = 2000;

const OPTIONS: Options = Options {
    data: true,
    cache_bytes: 64 << 20,
    progress: None,
};

type Contents = BTreeMap<Vec<u8>, Found>;

/// A sound store, what it holds, and up to where its log was read.
struct Sound {
    sim: SimMedia,
    right: Contents,
    batches: u64,
}

fn errors(sim: &SimMedia, seed: u64) -> u64 {
    let mut told = 0;
    let result = fsck::check(&sim.media(), OPTIONS, &mut |issue| {
        told += u64::from(issue.severity() == Severity::Error);
    });
    match result {
        Ok(summary) => assert_eq!(summary.errors, told, "seed {seed}"),
        Err(_) => told += 1,
    }
    told
}

fn assert_right(sound: &Sound, found: &Contents, older: &BTreeSet<Ino>, what: &str) {
    for (path, found) in found {
        if path.starts_with(b"/lost+found/") || older.contains(&found.ino) {
            continue;
        }
        assert!(
            sound
                .right
                .get(path)
                .is_some_and(|right| found.agrees(right)),
            "{what}: {} of {} bytes is wrong, it was of {:?}",
            path.escape_ascii(),
            found.bytes.len(),
            sound.right.get(path).map(|found| found.bytes.len())
        );
    }
}

fn run(sound: &Sound, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let sim = sound.sim.killed();
    damage(&sim, &mut rng);
    let errors = errors(&sim, seed);
    let mut before = Contents::new();
    let mut cut_off = None;
    match open(&sim, true) {
        Err(error) => assert!(
            errors > 0,
            "seed {seed}: does not open ({error}), and the checker found nothing"
        ),
        Ok(volume) => {
            cut_off = Some(volume.store().recovery_report().batches);
            let (found, whole) = contents(&volume);
            assert!(
                errors > 0 || whole,
                "seed {seed}: not all can be read, and the checker found nothing"
            );
            before = found;
        }
    }
    // Damage in the log's last batch cannot be told from its end: an older state is right then.
    if cut_off == Some(sound.batches) {
        assert_right(sound, &before, &BTreeSet::new(), &format!("seed {seed}"));
    }
    // To open it for writing must not panic either, and what it writes is its own affair.
    if let Ok(volume) = open(&sim.killed(), false) {
        drop(volume.store().close());
    }
    if errors > 0 {
        check_repair(sound, &sim, &before, seed);
    }
}

/// Repairs a damaged store of which `before` could be read.
fn check_repair(sound: &Sound, sim: &SimMedia, before: &Contents, seed: u64) {
    let mut fixes = Vec::new();
    let mut older = BTreeSet::new();
    let mut whole_log = true;
    let result = fsck::repair(&sim.media(), OPTIONS, &mut |fix| {
        match fix {
            Fix::Path {
                ino,
                may_be_old: true,
                ..
            } => drop(older.insert(*ino)),
            Fix::LogCut { .. } | Fix::LogHeadersLost => whole_log = false,
            _ => {}
        }
        fixes.push(fix.clone());
    });
    match result {
        Ok(_) => {}
        // Up to three places may hit both copies.
        Err(RepairError::Superblock(_)) => return,
        Err(error) => panic!("seed {seed}: not repaired: {error}"),
    }
    let mut left = Vec::new();
    fsck::check(&sim.media(), OPTIONS, &mut |issue| {
        if issue.severity() == Severity::Error {
            left.push(issue.clone());
        }
    })
    .unwrap();
    left.truncate(20);
    fixes.truncate(40);
    assert!(left.is_empty(), "seed {seed}: {left:#?} after {fixes:#?}");
    let volume = open(sim, false).unwrap();
    let (after, _) = contents(&volume);
    for (path, found) in before {
        assert!(
            after.get(path).is_some_and(|after| after.keeps(found)),
            "seed {seed}: {} could be read before it was repaired\n{fixes:#?}",
            path.escape_ascii()
        );
    }
    if whole_log && sound.batches == 0 {
        let what = format!("seed {seed} repaired: {fixes:#?}");
        assert_right(sound, &after, &older, &what);
    }
    volume.store().close().unwrap();
    assert_eq!(errors(sim, seed), 0, "seed {seed}: after it was used");
}

impl Sound {
    fn new(sim: SimMedia) -> Self {
        assert_eq!(errors(&sim, 0), 0);
        let volume = open(&sim, true).unwrap();
        let (right, whole) = contents(&volume);
        assert!(whole && right.len() > 300, "{}", right.len());
        let batches = volume.store().recovery_report().batches;
        Sound {
            sim,
            right,
            batches,
        }
    }
}

#[test]
fn rot_is_found_and_repaired_and_never_becomes_data() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().unwrap());
    for (maker, closed) in [(plain as fn(bool) -> SimMedia), lived_in]
        .iter()
        .flat_map(|maker| [(maker, true), (maker, false)])
    {
        let sound = Sound::new(maker(closed));
        match number("RAZORFS_SEED") {
            Some(seed) => run(&sound, seed),
            None => {
                let runs = number("RAZORFS_RUNS").unwrap_or(RUNS) / 4;
                (0..runs).for_each(|seed| run(&sound, seed));
            }
        }
    }
}

/// Each page of the trees is lost in turn: of one that only leads to others nothing is gone.
#[test]
fn any_page_can_be_lost() {
    let sound = Sound::new(lived_in(true));
    let pages = sound.sim.disk_len(1) / 4096;
    let mut unharmed = 0;
    for page in 1..pages.min(1000) {
        let mut header = [0; 28];
        sound.sim.peek(1, page * 4096, &mut header);
        if header == [0; 28] {
            continue;
        }
        let sim = sound.sim.killed();
        sim.corrupt(1, page * 4096, &[0; 4096]);
        if errors(&sim, page) == 0 {
            continue;
        }
        let readable = open(&sim, true).map(|volume| contents(&volume).0);
        check_repair(&sound, &sim, &readable.unwrap_or_default(), page);
        let (after, _) = contents(&open(&sim, true).unwrap());
        let all = after == sound.right;
        unharmed += u64::from(all);
        let level = header[24];
        assert!(all || level == 0, "page {page} of level {level}");
    }
    assert!(unharmed > 5, "{unharmed}");
}
