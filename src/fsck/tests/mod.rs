//! A small sound store, and for each issue the defect that is it.

mod names;
mod pages;
mod records;
mod shared;
mod space;

use super::{Issue, Options, Severity, check, repair};
use crate::disk::sim::SimMedia;
use crate::format::id::{ChunkId, DatasetId, Generation, Ino};
use crate::format::key::{self, Key, TreeId};
use crate::format::record::{
    ChunkRecord, Codec, DatasetCounters, DatasetRecord, DentryRecord, ExtentRecord, InodeRecord,
    PagePtr, PendingFree, Time, UNITS_PUNCHED_KEY, UNITS_USED_KEY, counters_key, dataset_key,
    dataset_name_key,
};
use crate::format::superblock::UNITS_END;
use crate::format::xattr;
use crate::log::recovery::{self, Format};
use crate::log::{Journal, Tx};
use crate::store::Read;

const FS: TreeId = TreeId::Fs(DatasetId::MAIN);
const SEED: [u8; 16] = [2; 16];
/// Where the disks stand in a [`SimMedia`].
const NODES: usize = 1;
const STRINGS: usize = 2;
const CHUNKS: usize = 3;
const WAL: usize = 4;

const FILE: Ino = Ino(2);
const DIR: Ino = Ino(3);
const SUB: Ino = Ino(4);
const LINK: Ino = Ino(5);
const ORPHAN: Ino = Ino(6);
const FIFO: Ino = Ino(7);

/// Units from here on are free.
const FREE_START: u64 = 5;

fn inode(mode: u32, nlink: u32) -> InodeRecord {
    let time = Time {
        sec: 1_700_000_000,
        nsec: 5,
    };
    InodeRecord {
        mode,
        nlink,
        uid: 0,
        gid: 0,
        rdev: 0,
        flags: 0,
        projid: 0,
        xattrs: 0,
        size: 0,
        allocated: 0,
        entries: 0,
        parent: Ino(0),
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
    }
}

fn dentry(tx: &mut Tx<'_>, dir: Ino, name: &[u8], ino: Ino, file_type: u8) {
    let record = DentryRecord {
        ino,
        name: tx.intern(name).unwrap(),
        name_len: u8::try_from(name.len()).unwrap(),
        file_type,
    };
    let cookie = key::name_cookies(&SEED, name).start;
    tx.put(FS, key::dentry(dir, cookie), record.encode())
        .unwrap();
}

fn chunk(id: u64, start_unit: u64, content: &[u8]) -> (Key, Vec<u8>) {
    let len = u32::try_from(content.len()).unwrap();
    let record = ChunkRecord {
        start_unit,
        refcount: 1,
        stored_len: len,
        raw_len: len,
        codec: Codec::Raw,
        hash: blake3::hash(content).into(),
        crcs: content.chunks(4096).map(crc32fast::hash).collect(),
    };
    (key::chunk(ChunkId(id)), record.encode())
}

fn extent(chunk: u64, len: u64) -> ExtentRecord {
    ExtentRecord {
        len,
        chunk: ChunkId(chunk),
        chunk_offset: 0,
        birth: Generation(1),
    }
}

/// A directory with a file of two names, a directory in it, a symlink, a FIFO and an orphan.
fn fill_namespace(tx: &mut Tx<'_>) {
    let mut root = inode(0o040_755, 3);
    (root.parent, root.entries) = (Ino::ROOT, 5);
    let mut dir = inode(0o040_755, 3);
    (dir.parent, dir.entries) = (Ino::ROOT, 1);
    let mut sub = inode(0o040_755, 2);
    sub.parent = DIR;
    let mut file = inode(0o100_644, 2);
    (file.size, file.allocated, file.xattrs) = (20_000, 5100 + 4096, 2);
    let mut link = inode(0o120_777, 1);
    link.size = 1000;
    let all = [
        (Ino::ROOT, root),
        (FILE, file),
        (DIR, dir),
        (SUB, sub),
        (LINK, link),
        (ORPHAN, inode(0o100_600, 0)),
        (FIFO, inode(0o010_600, 1)),
    ];
    for (ino, record) in all {
        tx.put(FS, key::inode(ino), record.encode()).unwrap();
    }
    dentry(tx, Ino::ROOT, b"file", FILE, 0o10);
    dentry(tx, Ino::ROOT, b"hard", FILE, 0o10);
    dentry(tx, Ino::ROOT, b"dir", DIR, 0o04);
    dentry(tx, Ino::ROOT, b"link", LINK, 0o12);
    dentry(tx, Ino::ROOT, b"fifo", FIFO, 0o01);
    dentry(tx, DIR, b"sub", SUB, 0o04);
    tx.put(FS, key::orphan(ORPHAN), Vec::new()).unwrap();
    tx.put(FS, key::symlink(LINK, 0), vec![b't'; key::VALUE_MAX])
        .unwrap();
    tx.put(FS, key::symlink(LINK, 1), vec![b't'; 1000 - key::VALUE_MAX])
        .unwrap();
    tx.put(FS, key::xattr(FILE, b"user.a"), xattr::encode_head(b"1"))
        .unwrap();
    let big = vec![7; 2000];
    tx.put(FS, key::xattr(FILE, b"user.big"), xattr::encode_head(&big))
        .unwrap();
    for (index, bytes) in xattr::more_fragments(&big) {
        let at = key::xattr_more(FILE, b"user.big", index);
        tx.put(FS, at, bytes).unwrap();
    }
}

/// Two chunks, their extents, a reserved extent, free space.
fn fill_space(tx: &mut Tx<'_>, journal: &Journal) {
    let contents = [(1, 0, vec![1u8; 5000]), (2, 2, vec![2u8; 100])];
    for (id, unit, content) in contents {
        journal.chunks().write_at(unit * 4096, &content).unwrap();
        let (key, value) = chunk(id, unit, &content);
        tx.put(TreeId::Chunks, key, value).unwrap();
    }
    tx.put(FS, key::extent(FILE, 0), extent(1, 5000).encode())
        .unwrap();
    tx.put(FS, key::extent(FILE, 8192), extent(2, 100).encode())
        .unwrap();
    tx.put(FS, key::extent(FILE, 16_384), extent(0, 4096).encode())
        .unwrap();
    let pending = PendingFree {
        len_units: 2,
        generation: Generation(1),
    };
    tx.put(TreeId::FreePending, key::u64_key(3), pending.encode())
        .unwrap();
    put_free(tx, FREE_START, UNITS_END - FREE_START);
}

fn put_free(tx: &mut Tx<'_>, start: u64, len: u64) {
    let value = len.to_le_bytes().to_vec();
    tx.put(TreeId::FreeByStart, key::u64_key(start), value)
        .unwrap();
    tx.put(
        TreeId::FreeBySize,
        key::free_by_size(len, start),
        Vec::new(),
    )
    .unwrap();
}

fn delete_free(tx: &mut Tx<'_>, start: u64, len: u64) {
    assert!(tx.delete(TreeId::FreeByStart, key::u64_key(start)).unwrap());
    assert!(
        tx.delete(TreeId::FreeBySize, key::free_by_size(len, start))
            .unwrap()
    );
}

/// A sound store, closed.
fn sound() -> SimMedia {
    let sim = SimMedia::new();
    let format = Format {
        hash_seed: SEED,
        ..Format::reproducible()
    };
    let journal = recovery::create(sim.media(), format, 1 << 20).unwrap();
    journal.find_free_pages().unwrap();
    let mut tx = journal.begin().unwrap();
    let id = DatasetId::MAIN;
    let dataset = DatasetRecord::new("main", [1; 16], Generation(1), Time::default());
    let counters = DatasetCounters {
        next_ino: 8,
        inodes: 7,
        allocated_bytes: 5100 + 4096,
        reserved_bytes: 4096,
    };
    tx.put(TreeId::Datasets, dataset_key(id), dataset.encode())
        .unwrap();
    let used = FREE_START.to_le_bytes().to_vec();
    tx.put(TreeId::Datasets, UNITS_USED_KEY, used).unwrap();
    let name = id.0.to_le_bytes().to_vec();
    tx.put(TreeId::Datasets, dataset_name_key("main"), name)
        .unwrap();
    tx.put(TreeId::Datasets, counters_key(id), counters.encode())
        .unwrap();
    fill_namespace(&mut tx);
    fill_space(&mut tx, &journal);
    tx.commit().unwrap();
    journal.checkpoint(true, &|_| Ok(())).unwrap();
    sim
}

fn issues_of(sim: &SimMedia) -> Vec<Issue> {
    let mut found = Vec::new();
    let options = Options {
        data: true,
        ..Options::default()
    };
    check(&sim.media(), options, &mut |issue| {
        assert!(!issue.to_string().is_empty());
        found.push(issue.clone());
    })
    .unwrap();
    found
}

/// Opens for writing.
fn open(sim: &SimMedia) -> Journal {
    let options = recovery::Options {
        read_only: false,
        discard_damaged_log: false,
        cache_bytes: 1 << 20,
    };
    recovery::open(sim.media(), options).unwrap().journal
}

/// What is found in the sound store after a transaction that breaks it, in the log alone and after
/// a checkpoint.
fn planted(defect: impl Fn(&mut Tx<'_>)) -> Vec<Issue> {
    let sim = sound();
    let journal = open(&sim);
    let mut tx = journal.begin().unwrap();
    defect(&mut tx);
    let lsn = tx.commit().unwrap();
    journal.sync(lsn).unwrap();
    let in_log = issues_of(&sim.killed());
    repaired(&sim.killed(), &in_log);
    journal.checkpoint(true, &|_| Ok(())).unwrap();
    let on_disk = issues_of(&sim);
    // A checkpoint may leave behind pages that nothing reaches any more.
    let reached: Vec<Issue> = on_disk
        .into_iter()
        .filter(|issue| !matches!(issue, Issue::PageCount { .. }))
        .collect();
    assert_eq!(in_log, reached);
    repaired(&sim, &reached);
    reached
}

/// Repairs a store, and sees that no error is left.
fn repaired(sim: &SimMedia, issues: &[Issue]) {
    let options = Options {
        data: true,
        ..Options::default()
    };
    let mut fixes = Vec::new();
    repair(&sim.media(), options, &mut |fix| {
        assert!(!fix.to_string().is_empty());
        fixes.push(fix.clone());
    })
    .unwrap();
    let left: Vec<Issue> = issues_of(sim)
        .into_iter()
        .filter(|issue| issue.severity() == Severity::Error)
        .collect();
    assert_eq!(left, [], "after {issues:?}\nand {fixes:?}");
}

/// Changes an inode's record.
fn edit(tx: &mut Tx<'_>, ino: Ino, change: impl FnOnce(&mut InodeRecord)) {
    let bytes = tx.get(FS, &key::inode(ino)).unwrap().unwrap();
    let mut record = InodeRecord::decode(&bytes).unwrap();
    change(&mut record);
    tx.put(FS, key::inode(ino), record.encode()).unwrap();
}

#[test]
fn sound_store_has_no_issues() {
    let sim = sound();
    assert_eq!(issues_of(&sim), []);
    let summary = check(&sim.media(), Options::default(), &mut |_| {}).unwrap();
    assert_eq!(
        (summary.inodes, summary.dentries, summary.extents),
        (7, 6, 3)
    );
    assert_eq!((summary.chunks, summary.names, summary.datasets), (2, 6, 1));
}

#[test]
fn checking_writes_nothing() {
    let sim = sound();
    let before = sim.events();
    issues_of(&sim);
    assert_eq!(sim.events(), before);
}

#[test]
fn issues_have_names_for_programs() {
    assert_eq!(Issue::RootMissing.code(), "RootMissing");
    assert_eq!(Issue::NoName { ino: FILE }.code(), "NoName");
}
