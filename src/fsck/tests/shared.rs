//! A dataset and the snapshot that it goes on from: what they share is read once, and whatever is
//! wrong with either is found as if both were read wholly.

use super::*;
use crate::format::id::PageNo;
use crate::format::page::{PAGE_BYTES, Page};
use crate::format::record::{
    DATASET_READ_ONLY, HistoryRecord, LineageRecord, NEXT_DATASET_KEY, Past, ProjectUse,
    UNREACHED_KEY, Until, history_key, lineage_key,
};
use crate::fsck::{Summary, Trees, check_how};
use crate::progress::Progress;
use crate::store::roots::{name_hash, name_key};

const SNAPSHOT: DatasetId = DatasetId(2);
/// That of a file of the snapshot.
const PROJECT: u32 = 7;

/// The sound store, with a snapshot, and with `more` files in both.
fn with_snapshot(more: u64) -> SimMedia {
    let sim = sound();
    let journal = open(&sim);
    let mut tx = journal.begin().unwrap();
    let main = DatasetId::MAIN;
    for ino in (8..).map(Ino).take(usize::try_from(more).unwrap()) {
        tx.put(FS, key::inode(ino), inode(0o100_600, 1).encode())
            .unwrap();
        dentry(&mut tx, DIR, ino.to_string().as_bytes(), ino, 0o10);
    }
    edit(&mut tx, DIR, |dir| dir.entries += more);
    edit(&mut tx, FIFO, |fifo| fifo.projid = PROJECT);
    let used = ProjectUse {
        inodes: 1,
        bytes: 0,
    };
    tx.put(FS, key::project_use(PROJECT), used.encode())
        .unwrap();
    tx.put(FS, key::projects_counted(), u64::MAX.to_le_bytes())
        .unwrap();
    let counters = counters_key(main);
    let value = tx.get(TreeId::Datasets, &counters).unwrap().unwrap();
    let mut counted = DatasetCounters::decode(&value).unwrap();
    (counted.inodes, counted.next_ino) = (counted.inodes + more, counted.next_ino + more);
    for id in [main, SNAPSHOT] {
        tx.put(TreeId::Datasets, counters_key(id), counted.encode())
            .unwrap();
    }
    let birth = tx.generation();
    let mut record = DatasetRecord::new("main@one", [3; 16], birth, Time::default());
    (record.flags, record.snapshot_of) = (DATASET_READ_ONLY, main);
    let put = |tx: &mut Tx<'_>, key: &[u8], value: &[u8]| {
        tx.put(TreeId::Datasets, key, value).unwrap();
    };
    put(&mut tx, &dataset_key(SNAPSHOT), &record.encode());
    let id = SNAPSHOT.0.to_le_bytes();
    put(&mut tx, &dataset_name_key("main@one"), &id);
    put(&mut tx, NEXT_DATASET_KEY, &3u64.to_le_bytes());
    let first = LineageRecord {
        shared: LineageRecord::PENDING,
        ..LineageRecord::default()
    };
    put(&mut tx, &lineage_key(SNAPSHOT), &first.encode());
    let behind = LineageRecord::behind(SNAPSHOT, birth);
    put(&mut tx, &lineage_key(main), &behind.encode());
    put(&mut tx, UNREACHED_KEY, &[]);
    tx.copy_tree(main, SNAPSHOT, crate::log::CopyAs::Same)
        .unwrap();
    tx.commit().unwrap();
    journal.checkpoint(true, &|_| Ok(())).unwrap();
    sim
}

/// What is found in a store, and how many records were read for it.
fn found(sim: &SimMedia, trees: Trees) -> (Vec<Issue>, Summary, u64) {
    let mut found = Vec::new();
    let progress = Progress::default();
    let options = Options {
        progress: Some(&progress),
        ..Options::default()
    };
    let report = &mut |issue: &Issue| found.push(issue.clone());
    let summary = check_how(&sim.media(), options, trees, report).unwrap();
    // The last step is that of the records.
    (found, summary, progress.look().done)
}

/// Changes the dataset as `defect` does, and the same in both ways of checking is found.
fn planted(defect: impl Fn(&mut Tx<'_>)) -> Vec<Issue> {
    let sim = with_snapshot(40);
    let journal = open(&sim);
    let mut tx = journal.begin().unwrap();
    defect(&mut tx);
    let lsn = tx.commit().unwrap();
    journal.sync(lsn).unwrap();
    let killed = sim.killed();
    let (whole, summary, _) = found(&killed, Trees::Alone);
    let (shared, summary_of_shared, _) = found(&killed, Trees::Shared);
    assert_eq!(shared, whole);
    assert_eq!(summary_of_shared, summary);
    shared
}

#[test]
fn what_is_shared_is_read_once() {
    let sim = with_snapshot(1000);
    let (issues, alone, read_alone) = found(&sim, Trees::Alone);
    assert_eq!(issues, []);
    let (issues, shared, read_shared) = found(&sim, Trees::Shared);
    assert_eq!((issues, shared), (vec![], alone));
    // Inode and name of each, twice for each of two trees, or for one.
    assert!(
        read_alone - read_shared > 2900,
        "{read_alone} {read_shared}"
    );
}

#[test]
fn a_dataset_that_went_on_soundly_is_sound() {
    let found = planted(|tx| {
        // A file more, one less, and one with another name.
        tx.put(FS, key::inode(Ino(100)), inode(0o100_600, 1).encode())
            .unwrap();
        dentry(tx, SUB, b"new", Ino(100), 0o10);
        edit(tx, SUB, |dir| dir.entries += 1);
        let cookie = |name: &[u8]| key::name_cookies(&SEED, name).start;
        assert!(tx.delete(FS, key::inode(Ino(8))).unwrap());
        for name in [b"8".as_slice(), b"9"] {
            let key = key::dentry(DIR, cookie(name));
            assert!(tx.delete(FS, key).unwrap());
        }
        dentry(tx, DIR, b"nine", Ino(9), 0o10);
        edit(tx, DIR, |dir| dir.entries -= 1);
        edit_counters(tx, |counters| counters.next_ino = 101);
    });
    assert_eq!(found, []);
}

fn edit_counters(tx: &mut Tx<'_>, change: impl FnOnce(&mut DatasetCounters)) {
    let at = counters_key(DatasetId::MAIN);
    let value = tx.get(TreeId::Datasets, &at).unwrap().unwrap();
    let mut counters = DatasetCounters::decode(&value).unwrap();
    change(&mut counters);
    tx.put(TreeId::Datasets, at, counters.encode()).unwrap();
}

#[test]
fn what_is_wrong_with_one_is_found() {
    let cookie = |name: &[u8]| key::name_cookies(&SEED, name).start;
    let planted = |defect: &dyn Fn(&mut Tx<'_>)| assert_ne!(planted(defect), []);
    // An inode that directories name which are the same in both.
    planted(&|tx| assert!(tx.delete(FS, key::inode(FIFO)).unwrap()));
    planted(&|tx| edit(tx, FIFO, |fifo| fifo.mode = 0o140_600));
    planted(&|tx| edit(tx, FILE, |file| file.nlink = 3));
    planted(&|tx| edit(tx, FILE, |file| file.allocated = 0));
    planted(&|tx| edit(tx, SUB, |dir| dir.parent = Ino::ROOT));
    // A name less, one more, one of what is not there.
    let key = key::dentry(DIR, cookie(b"sub"));
    planted(&|tx| assert!(tx.delete(FS, &key).unwrap()));
    planted(&|tx| {
        assert!(tx.delete(FS, &key).unwrap());
        edit(tx, DIR, |dir| (dir.entries, dir.nlink) = (40, 2));
    });
    planted(&|tx| dentry(tx, SUB, b"again", FIFO, 0o01));
    planted(&|tx| {
        dentry(tx, SUB, b"nobody", Ino(900), 0o10);
        edit(tx, SUB, |dir| dir.entries = 1);
    });
    // A name that nobody would find again.
    planted(&|tx| {
        dentry(tx, SUB, b"unknown", FIFO, 0o01);
        edit(tx, SUB, |dir| dir.entries = 1);
        edit(tx, FIFO, |fifo| fifo.nlink = 2);
        let id = tx.intern(b"unknown").unwrap();
        let key = name_key(name_hash(&SEED, b"unknown"), id);
        assert!(tx.delete(TreeId::Names, key).unwrap());
    });
    // A directory below itself, where its own names and those above are as many as they were.
    planted(&|tx| {
        assert!(
            tx.delete(FS, key::dentry(Ino::ROOT, cookie(b"dir")))
                .unwrap()
        );
        dentry(tx, SUB, b"dir", DIR, 0o04);
        edit(tx, Ino::ROOT, |dir| (dir.entries, dir.nlink) = (4, 2));
        edit(tx, SUB, |dir| (dir.entries, dir.nlink) = (1, 3));
        edit(tx, DIR, |dir| dir.parent = SUB);
    });
    // Orphans.
    planted(&|tx| assert!(tx.delete(FS, key::orphan(ORPHAN)).unwrap()));
    planted(&|tx| tx.put(FS, key::orphan(FIFO), []).unwrap());
    planted(&|tx| tx.put(FS, key::orphan(Ino(900)), []).unwrap());
    planted(&|tx| assert!(tx.delete(FS, key::inode(ORPHAN)).unwrap()));
    // Counters, of a dataset that is otherwise the same.
    planted(&|tx| edit_counters(tx, |counters| counters.inodes += 1));
    planted(&|tx| edit_counters(tx, |counters| counters.allocated_bytes += 1));
    planted(&|tx| edit_counters(tx, |counters| counters.next_ino = 8));
    // Content: an extent that nobody counts, and one that is counted twice.
    let new = |birth| ExtentRecord {
        birth,
        ..extent(1, 100)
    };
    planted(&|tx| {
        let extent = new(tx.generation());
        tx.put(FS, key::extent(Ino(9), 0), extent.encode()).unwrap();
        edit(tx, Ino(9), |file| (file.size, file.allocated) = (100, 100));
        edit_counters(tx, |counters| counters.allocated_bytes += 100);
    });
    planted(&|tx| {
        let lineage = LineageRecord::default().encode();
        tx.put(TreeId::Datasets, lineage_key(DatasetId::MAIN), lineage)
            .unwrap();
    });
    // Projects.
    planted(&|tx| edit(tx, FIFO, |fifo| fifo.projid = 8));
    planted(&|tx| edit(tx, Ino(9), |file| file.projid = PROJECT));
}

#[test]
fn projects_are_counted_over_both() {
    let put = |tx: &mut Tx<'_>, project, inodes| {
        let used = ProjectUse { inodes, bytes: 0 };
        tx.put(FS, key::project_use(project), used.encode())
            .unwrap();
    };
    let found = planted(|tx| {
        edit(tx, Ino(9), |file| file.projid = PROJECT);
        edit(tx, Ino(10), |file| file.projid = 8);
        put(tx, PROJECT, 2);
        put(tx, 8, 1);
    });
    assert_eq!(found, []);
}

/// The store with a snapshot that goes on from a timeline as this says.
fn with_history(timeline: u64, newest: u64, earlier: u64) -> SimMedia {
    let past = Past {
        timeline,
        until: Until {
            newest: Generation(newest),
            sure: Generation(0),
        },
    };
    let history = HistoryRecord {
        timeline: 2,
        earlier: Generation(earlier),
        past: vec![past],
    };
    let sim = with_snapshot(0);
    let journal = open(&sim);
    let mut tx = journal.begin().unwrap();
    tx.put(TreeId::Datasets, history_key(SNAPSHOT), history.encode())
        .unwrap();
    tx.commit().unwrap();
    journal.checkpoint(true, &|_| Ok(())).unwrap();
    sim
}

/// Makes the history in the pages of a store one that waits for a checkpoint.
fn make_pending(sim: &SimMedia) {
    let pages = sim.disk_len(NODES) / PAGE_BYTES as u64;
    for number in 1..pages {
        let mut bytes = Box::new([0; PAGE_BYTES]);
        let at = number * PAGE_BYTES as u64;
        sim.peek(NODES, at, bytes.as_mut_slice());
        let Ok((mut page, generation)) = Page::decode_stray(bytes, PageNo(number)) else {
            continue;
        };
        let Ok(index) = page.search(&history_key(SNAPSHOT)) else {
            continue;
        };
        let mut history = HistoryRecord::decode(page.value(index)).unwrap();
        let past = history.past.iter_mut();
        past.for_each(|past| past.until.newest = Until::PENDING);
        page.overwrite(index, &history.encode());
        let place = PagePtr {
            page: PageNo(number),
            generation,
        };
        let tag = page.tag();
        sim.corrupt(NODES, at, page.encode(place, tag).as_slice());
    }
}

#[test]
fn a_history_that_cannot_be_is_found() {
    let is_mended = |sim: &SimMedia| {
        let found = issues_of(sim);
        repair(&sim.media(), Options::default(), &mut |_| {}).unwrap();
        assert_eq!(issues_of(sim), []);
        let dataset = SNAPSHOT;
        matches!(found[..], [Issue::History { dataset: of, .. }] if of == dataset)
    };
    assert_eq!(issues_of(&with_history(1, 1, 1)), []);
    let far = u64::MAX >> 2;
    for (timeline, newest, earlier) in [(3, 1, 0), (1, far, 0), (1, 1, far)] {
        let sim = with_history(timeline, newest, earlier);
        assert!(is_mended(&sim), "{timeline} {newest} {earlier}");
    }
    let sim = with_history(1, 1, 1);
    make_pending(&sim);
    assert!(is_mended(&sim));
}
