//! Rot anywhere in a store: what is read is right or an error, nothing panics, and the checker says
//! what is damaged whenever anything could not be read. A repaired store is clean, and all that
//! could be read before is still there.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod histories;
mod interrupted;
mod store;

use std::collections::{BTreeMap, BTreeSet};

use histories::{
    abandoned, cousins, heirs, is_strange, kept, often_restored, parted, received, repaired,
    restored, strangers, undone,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use razorfs::disk::sim::{Call, Fault, SimMedia};
use razorfs::format::id::{DatasetId, Ino};
use razorfs::format::key::TreeId;
use razorfs::fsck::{self, Fix, Options, RepairError, Severity};
use store::{
    Found, changed, cloned, contents, copied, damage, in_line, lived_in, moved, open, plain,
    went_on,
};

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
        let in_dataset = path.iter().position(|byte| *byte == b'/').unwrap_or(0);
        if path[in_dataset..].starts_with(b"/lost+found/") || older.contains(&found.ino) {
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
        check_repair(sound, &sim, &before, sound.batches == 0, seed);
    }
}

/// Repairs a damaged store of which `before` could be read. With `whole_log` no change is lost with
/// the log's end unless the repair says so.
fn check_repair(sound: &Sound, sim: &SimMedia, before: &Contents, mut whole_log: bool, seed: u64) {
    let mut fixes = Vec::new();
    let mut older = BTreeSet::new();
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
    if whole_log {
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
    for (maker, closed) in [(plain as fn(bool) -> SimMedia), lived_in, copied]
        .iter()
        .flat_map(|maker| [(maker, true), (maker, false)])
    {
        let sound = Sound::new(maker(closed));
        match number("RAZORFS_SEED") {
            Some(seed) => run(&sound, seed),
            None => {
                let runs = number("RAZORFS_RUNS").unwrap_or(RUNS) / 6;
                (0..runs).for_each(|seed| run(&sound, seed));
            }
        }
    }
}

/// The pages of a store's trees of which the loss is noticed, with their levels.
fn live_pages(sound: &Sound) -> Vec<(u64, u8)> {
    let pages = sound.sim.disk_len(1) / 4096;
    let live = (1..pages).filter_map(|page| {
        let mut header = [0; 28];
        sound.sim.peek(1, page * 4096, &mut header);
        if header == [0; 28] {
            return None;
        }
        let sim = sound.sim.killed();
        sim.corrupt(1, page * 4096, &[0; 4096]);
        (errors(&sim, page) > 0).then_some((page, header[24]))
    });
    live.collect()
}

/// Each page of the trees is lost in turn: of one that only leads to others nothing is gone, and
/// nothing comes back that was removed.
fn lose_each_page(sim: SimMedia) {
    let sound = Sound::new(sim);
    let mut unharmed = 0;
    for (page, level) in live_pages(&sound) {
        let sim = sound.sim.killed();
        sim.corrupt(1, page * 4096, &[0; 4096]);
        let readable = open(&sim, true).map(|volume| contents(&volume).0);
        check_repair(&sound, &sim, &readable.unwrap_or_default(), true, page);
        let (after, _) = contents(&open(&sim, true).unwrap());
        let all = after == sound.right;
        unharmed += u64::from(all);
        if level == 0 {
            continue;
        }
        for (path, right) in &sound.right {
            let kept = after.get(path) == Some(right);
            assert!(
                kept,
                "page {page} of level {level}: {}",
                path.escape_ascii()
            );
        }
        for path in after.keys() {
            let known = sound.right.contains_key(path);
            assert!(
                known,
                "page {page} of level {level}: {} is back",
                path.escape_ascii()
            );
        }
    }
    assert!(unharmed > 2, "{unharmed}");
}

#[test]
fn any_page_can_be_lost() {
    lose_each_page(lived_in(true));
}

#[test]
fn any_page_that_datasets_share_can_be_lost() {
    lose_each_page(copied(true));
    lose_each_page(in_line());
    lose_each_page(changed());
    lose_each_page(cousins());
}

#[test]
fn what_a_dataset_lost_is_not_looked_for_among_strangers() {
    for sim in [strangers(), heirs()] {
        lose_each_page(sim.killed());
        let sound = Sound::new(sim);
        for (page, _) in live_pages(&sound) {
            let sim = sound.sim.killed();
            sim.corrupt(1, page * 4096, &[0; 4096]);
            fsck::repair(&sim.media(), OPTIONS, &mut |_| {}).unwrap();
            let (after, _) = contents(&open(&sim, true).unwrap());
            for path in after.keys() {
                let strange = is_strange(path);
                assert!(!strange, "page {page}: {}", path.escape_ascii());
            }
        }
    }
}

#[test]
fn any_page_of_what_was_repaired_can_be_lost() {
    for sim in [copied(true), cousins(), strangers()] {
        fsck::repair(&sim.media(), OPTIONS, &mut |_| {}).unwrap();
        lose_each_page(sim.killed());
        let main = open(&sim, false).unwrap();
        store::go_on(&main);
        lose_each_page_again(sim.killed());
    }
    lose_each_page(repaired());
}

#[test]
fn any_page_of_what_was_restored_can_be_lost() {
    lose_each_page_again(restored());
    lose_each_page(undone());
    lose_each_page(abandoned());
    lose_each_page(often_restored());
    // Without its record it is what it was last, too.
    let sound = Sound::new(restored());
    let mut made = 0;
    for (page, _) in live_pages(&sound) {
        let sim = sound.sim.killed();
        sim.corrupt(1, page * 4096, &[0; 4096]);
        let mut is_made = false;
        fsck::repair(&sim.media(), OPTIONS, &mut |fix| {
            is_made |= matches!(fix, Fix::DatasetMade(_));
        })
        .unwrap();
        let (after, _) = contents(&open(&sim, true).unwrap());
        let right = sound.right.iter();
        let kept = right
            .filter(|(path, right)| after.get(*path) == Some(right))
            .count();
        assert!(
            !is_made || kept * 10 > sound.right.len() * 9,
            "page {page}: {kept} of {}",
            sound.right.len()
        );
        made += u64::from(is_made);
    }
    assert!(made > 0);
}

#[test]
fn any_page_that_was_written_with_a_snapshot_can_be_lost() {
    lose_each_page_again(parted(false));
    lose_each_page(parted(true));
    lose_each_page(kept(false));
    lose_each_page(kept(true));
}

#[test]
fn any_page_of_what_was_received_can_be_lost() {
    lose_each_page(received());
}

/// What a repair wrote does not say by its age which of several datasets had it, and what was
/// written together with a snapshot not whether it was in that: what is found is right, or said to
/// be old, and most of it is right.
fn lose_each_page_again(sim: SimMedia) {
    let sound = Sound::new(sim);
    let (mut kept, mut all) = (0, 0);
    for (page, level) in live_pages(&sound) {
        let sim = sound.sim.killed();
        sim.corrupt(1, page * 4096, &[0; 4096]);
        let readable = open(&sim, true).map(|volume| contents(&volume).0);
        check_repair(&sound, &sim, &readable.unwrap_or_default(), true, page);
        if level > 0 {
            let (after, _) = contents(&open(&sim, true).unwrap());
            let right = sound.right.iter();
            kept += right
                .filter(|(path, right)| after.get(*path) == Some(right))
                .count();
            all += sound.right.len();
        }
    }
    assert!(kept * 10 >= all * 9, "{kept} of {all}");
}

#[test]
fn any_page_can_be_lost_behind_which_the_log_goes_on() {
    lose_each_page(copied(false));
    lose_each_page(went_on());
}

#[test]
fn any_two_pages_that_datasets_share_can_be_lost() {
    let mut rng = ChaCha8Rng::seed_from_u64(77);
    for sim in [copied(true), cloned(), changed()] {
        let sound = Sound::new(sim);
        let pages = live_pages(&sound);
        for _ in 0..60 {
            let sim = sound.sim.killed();
            let mut seed = 0;
            for _ in 0..2 {
                let (page, _) = pages[rng.random_range(0..pages.len())];
                sim.corrupt(1, page * 4096, &[0; 4096]);
                seed = seed * 1000 + page;
            }
            check_repair(&sound, &sim, &Contents::new(), true, seed);
        }
    }
}

#[test]
fn what_the_log_moved_has_no_older_name() {
    let sound = Sound::new(moved());
    for (page, _) in live_pages(&sound) {
        let sim = sound.sim.killed();
        sim.corrupt(1, page * 4096, &[0; 4096]);
        fsck::repair(&sim.media(), OPTIONS, &mut |_| {}).unwrap();
        assert_eq!(errors(&sim, page), 0, "page {page}");
        let (after, _) = contents(&open(&sim, true).unwrap());
        let mut paths = after.keys();
        let older = paths.find(|path| !path.starts_with(b"/third") && !path.starts_with(b"/lost"));
        assert_eq!(older, None, "page {page}");
    }
}

#[test]
fn what_datasets_share_they_share_when_they_are_repaired() {
    for sim in [copied(true), copied(false), cloned()] {
        let pages = |sim: &SimMedia| {
            fsck::check(&sim.media(), OPTIONS, &mut |_| {})
                .unwrap()
                .pages
        };
        let before = pages(&sim);
        let right = contents(&open(&sim, true).unwrap()).0;
        fsck::repair(&sim.media(), OPTIONS, &mut |_| {}).unwrap();
        let after = pages(&sim);
        println!("{after} in place of {before}");
        assert!(after < before * 5 / 3 + 10, "{after} in place of {before}");
        assert_eq!(errors(&sim, 0), 0);
        assert!(contents(&open(&sim, true).unwrap()).0 == right);
    }
}

#[test]
fn datasets_whose_neighbours_in_the_table_are_lost_stay_whole() {
    let sound = Sound::new(cloned());
    let (mut some_gone, mut main_made) = (0, 0);
    for (page, _) in live_pages(&sound) {
        let sim = sound.sim.killed();
        sim.corrupt(1, page * 4096, &[0; 4096]);
        let (mut of_table, mut others, mut older) = (false, 0, BTreeSet::new());
        fsck::repair(&sim.media(), OPTIONS, &mut |fix| match fix {
            Fix::PagesLost {
                tree: TreeId::Datasets,
                ..
            } => of_table = true,
            Fix::PagesLost { tree, .. } if *tree != TreeId::Fs(DatasetId::MAIN) => others += 1,
            Fix::DatasetMade(_) => main_made += 1,
            Fix::Path {
                ino,
                may_be_old: true,
                ..
            } => drop(older.insert(*ino)),
            _ => {}
        })
        .unwrap();
        if !of_table {
            continue;
        }
        assert_eq!(others, 0, "page {page}");
        let volume = open(&sim, true).unwrap();
        let (after, _) = contents(&volume);
        let left: Vec<String> = volume
            .store()
            .list()
            .unwrap()
            .into_iter()
            .map(|of| of.name)
            .collect();
        some_gone += u64::from(left.len() > 1);
        // The main dataset is found without a record, by what its snapshot has.
        let main = after.iter().filter(|(path, _)| path.starts_with(b"/"));
        let main: Contents = main
            .map(|(path, found)| (path.clone(), found.clone()))
            .collect();
        assert!(main.len() >= 300, "page {page}: {}", main.len());
        assert_right(&sound, &main, &older, &format!("page {page}"));
        for (path, right) in &sound.right {
            let name = path.split(|byte| *byte == b'/').next().unwrap();
            if left
                .iter()
                .any(|left| left != "main" && left.as_bytes() == name)
            {
                let path_text = path.escape_ascii();
                assert!(after.get(path) == Some(right), "page {page}: {path_text}");
            }
        }
    }
    assert!(some_gone > 0 && main_made > 0, "{some_gone} {main_made}");
}

#[test]
fn a_page_that_can_be_read_only_once_is_a_lost_one() {
    [copied(true), changed()]
        .into_iter()
        .for_each(read_only_once);
}

fn read_only_once(sim: SimMedia) {
    let sound = Sound::new(sim);
    let (mut failed, mut unnoticed) = (0, 0);
    for after in (0..).map(|step| step * 11) {
        let sim = sound.sim.killed();
        sim.set_fault(Some(Fault {
            call: Call::Read,
            after,
            sticky: false,
            kind: std::io::ErrorKind::Other,
        }));
        let (mut fixes, mut older) = (Vec::new(), BTreeSet::new());
        let result = fsck::repair(&sim.media(), OPTIONS, &mut |fix| {
            fixes.push(fix.clone());
            if let Fix::Path {
                ino,
                may_be_old: true,
                ..
            } = fix
            {
                older.insert(*ino);
            }
        });
        sim.set_fault(None);
        let (found, _) = contents(&open(&sim, true).unwrap());
        let what = format!("read {after}, {fixes:#?}");
        assert_eq!(errors(&sim, after), 0, "{what}");
        assert_right(&sound, &found, &older, &what);
        if found != sound.right {
            assert!(result.is_ok() && !fixes.is_empty(), "{what}");
            failed += 1;
        }
        unnoticed = match result.is_ok() && fixes.is_empty() {
            true => unnoticed + 1,
            false => 0,
        };
        // Behind the last read.
        if unnoticed > 20 {
            break;
        }
    }
    assert!(failed > 5, "{failed}");
}
