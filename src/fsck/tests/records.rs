//! Defects of datasets, inodes, extended attributes, symlinks and extents.

use super::*;
use crate::format::id::Lsn;
use crate::format::key::Kind;
use crate::format::record::{ProjectUse, ReceiveRecord, StreamPosition, Time, receive_key};
use crate::fsck::issue::Bytes;

const DATASETS: TreeId = TreeId::Datasets;

fn edit_counters(tx: &mut Tx<'_>, change: impl FnOnce(&mut DatasetCounters)) {
    let at = counters_key(DatasetId::MAIN);
    let mut counters = DatasetCounters::decode(&tx.get(DATASETS, &at).unwrap().unwrap()).unwrap();
    change(&mut counters);
    tx.put(DATASETS, at, counters.encode()).unwrap();
}

#[test]
fn datasets() {
    let main = DatasetId::MAIN;
    let found = planted(|tx| assert!(tx.delete(DATASETS, dataset_name_key("main")).unwrap()));
    let name = "main".to_owned();
    assert_eq!(
        found,
        [Issue::DatasetName {
            dataset: main,
            name
        }]
    );

    let found = planted(|tx| {
        let value = 9u64.to_le_bytes().to_vec();
        tx.put(DATASETS, dataset_name_key("gone"), value).unwrap();
    });
    let (name, id) = (Bytes(b"gone".to_vec()), DatasetId(9));
    assert_eq!(found, [Issue::DatasetNameStray { name, id }]);

    let found = planted(|tx| assert!(tx.delete(DATASETS, counters_key(main)).unwrap()));
    assert_eq!(found, [Issue::CountersMissing(main)]);

    let found = planted(|tx| {
        let counters = DatasetCounters::default().encode();
        tx.put(DATASETS, counters_key(DatasetId(9)), counters)
            .unwrap();
    });
    assert_eq!(found, [Issue::CountersStray(DatasetId(9))]);

    let found = planted(|tx| tx.put(DATASETS, vec![9, 9], vec![]).unwrap());
    let (tree, key) = (DATASETS, Bytes(vec![9, 9]));
    assert_eq!(found, [Issue::UnknownKey { tree, key }]);
}

#[test]
fn receives() {
    let record = ReceiveRecord {
        snapshot: [1; 16],
        base: [0; 16],
        sender: [2; 16],
        created: Time { sec: 3, nsec: 4 },
        position: StreamPosition::START,
        name: "a".into(),
    };
    let put = |id, value: &[u8]| {
        let (key, value) = (receive_key(DatasetId(id)), value.to_vec());
        planted(|tx| tx.put(DATASETS, &key, &value).unwrap())
    };
    assert_eq!(put(1, &record.encode()), []);
    let (tree, key) = (DATASETS, Bytes(receive_key(DatasetId(9)).to_vec()));
    assert_eq!(put(9, &record.encode()), [Issue::UnknownKey { tree, key }]);
    let found = put(1, &[5; 80]);
    let is_bad = matches!(found.as_slice(), [Issue::BadRecord { .. }]);
    assert!(is_bad, "{found:?}");
}

#[test]
fn a_store_without_its_main_dataset() {
    let main = DatasetId::MAIN;
    let found = planted(|tx| assert!(tx.delete(DATASETS, dataset_key(main)).unwrap()));
    assert!(found.contains(&Issue::DatasetMissing(main)), "{found:?}");
}

#[test]
fn counters() {
    let dataset = DatasetId::MAIN;
    let found = planted(|tx| edit_counters(tx, |counters| counters.inodes = 9));
    let what = "inodes";
    assert_eq!(
        found,
        [Issue::Counter {
            dataset,
            what,
            found: 7,
            recorded: 9
        }]
    );

    let found = planted(|tx| edit_counters(tx, |counters| counters.allocated_bytes = 1));
    assert!(
        matches!(
            found[..],
            [Issue::Counter {
                found: 9196,
                recorded: 1,
                ..
            }]
        ),
        "{found:?}"
    );

    let found = planted(|tx| edit_counters(tx, |counters| counters.reserved_bytes = 1));
    assert!(
        matches!(
            found[..],
            [Issue::Counter {
                found: 4096,
                recorded: 1,
                ..
            }]
        ),
        "{found:?}"
    );

    let found = planted(|tx| edit_counters(tx, |counters| counters.next_ino = 7));
    assert_eq!(
        found,
        [Issue::NextInode {
            dataset,
            next: 7,
            largest: FIFO
        }]
    );
}

#[test]
fn inode_records() {
    let found = planted(|tx| edit(tx, FIFO, |inode| inode.mode = 0o170_000));
    assert!(found.contains(&Issue::InodeMode {
        ino: FIFO,
        field: "mode",
        found: 0o170_000
    }));

    let found = planted(|tx| edit(tx, FIFO, |inode| inode.size = 3));
    assert_eq!(
        found,
        [Issue::InodeField {
            ino: FIFO,
            field: "size",
            found: 3
        }]
    );

    let found = planted(|tx| edit(tx, FIFO, |inode| inode.rdev = 3));
    assert_eq!(
        found,
        [Issue::InodeField {
            ino: FIFO,
            field: "device",
            found: 3
        }]
    );

    let found = planted(|tx| edit(tx, FILE, |inode| inode.size = u64::MAX));
    assert_eq!(
        found,
        [Issue::InodeField {
            ino: FILE,
            field: "size",
            found: u64::MAX
        }]
    );

    let found = planted(|tx| {
        let mut bytes = inode(0o010_600, 1).encode();
        bytes[64 + 8..64 + 12].copy_from_slice(&[0xff; 4]);
        tx.put(FS, key::inode(FIFO), bytes).unwrap();
    });
    assert!(matches!(found[..], [Issue::BadRecord { .. }]), "{found:?}");

    let found = planted(|tx| {
        tx.put(FS, key::extent(Ino(99), 0), extent(1, 1).encode())
            .unwrap()
    });
    assert_eq!(
        found,
        [Issue::InodeMissing {
            ino: Ino(99),
            kind: Kind::Extent
        }]
    );

    let found = planted(|tx| tx.put(FS, key::symlink(FIFO, 0), vec![1]).unwrap());
    assert_eq!(
        found,
        [Issue::WrongKind {
            ino: FIFO,
            kind: Kind::Symlink
        }]
    );

    let found = planted(|tx| tx.put(FS, vec![1, 2, 3], vec![]).unwrap());
    assert!(matches!(found[..], [Issue::UnknownKey { .. }]), "{found:?}");
}

#[test]
fn symlinks() {
    let found = planted(|tx| edit(tx, LINK, |inode| inode.size = 999));
    let ino = LINK;
    assert_eq!(
        found,
        [Issue::SymlinkLength {
            ino,
            found: 1000,
            recorded: 999
        }]
    );

    let found = planted(|tx| assert!(tx.delete(FS, key::symlink(LINK, 0)).unwrap()));
    assert!(
        found.contains(&Issue::SymlinkFragment { ino, index: 1 }),
        "{found:?}"
    );
}

#[test]
fn extended_attributes() {
    let ino = FILE;
    let found = planted(|tx| edit(tx, FILE, |inode| inode.xattrs = 3));
    assert_eq!(
        found,
        [Issue::XattrCount {
            ino,
            found: 2,
            recorded: 3
        }]
    );

    for index in [1, 2] {
        let at = key::xattr_more(FILE, b"user.big", index);
        let found = planted(|tx| assert!(tx.delete(FS, at.clone()).unwrap()));
        assert!(
            matches!(found[..], [Issue::XattrFragment { .. }]),
            "{found:?}"
        );
    }

    let found = planted(|tx| {
        let at = key::xattr_more(FILE, b"user.none", 1);
        tx.put(FS, at, vec![1]).unwrap();
    });
    let (name, index) = (Bytes(b"user.none".to_vec()), 1);
    assert_eq!(found, [Issue::XattrFragment { ino, name, index }]);

    let found = planted(|tx| tx.put(FS, key::xattr(FILE, b"user.a"), vec![9]).unwrap());
    assert!(matches!(found[..], [Issue::BadRecord { .. }]), "{found:?}");
}

#[test]
fn extents() {
    let ino = FILE;
    let found = planted(|tx| edit(tx, FILE, |inode| inode.allocated = 1));
    assert_eq!(
        found,
        [Issue::Allocated {
            ino,
            found: 9196,
            recorded: 1
        }]
    );

    let put = |tx: &mut Tx<'_>, offset: u64, record: ExtentRecord| {
        tx.put(FS, key::extent(FILE, offset), record.encode())
            .unwrap();
    };
    let found = planted(|tx| put(tx, 4999, extent(0, 1)));
    assert!(
        found.contains(&Issue::ExtentOverlap {
            ino,
            offset: 4999,
            end: 5000
        }),
        "{found:?}"
    );

    let offset = i64::MAX.unsigned_abs();
    let found = planted(|tx| put(tx, offset, extent(0, 1)));
    assert!(
        found.contains(&Issue::ExtentRange {
            ino,
            offset,
            len: 1
        }),
        "{found:?}"
    );

    let found = planted(|tx| edit(tx, FILE, |inode| inode.size = 8200));
    let (offset, len, size) = (8192, 100, 8200);
    assert_eq!(
        found,
        [Issue::ExtentBeyondSize {
            ino,
            offset,
            len,
            size
        }]
    );

    let found = planted(|tx| put(tx, 8192, extent(77, 100)));
    let chunk = ChunkId(77);
    assert!(
        found.contains(&Issue::ExtentChunk {
            ino,
            offset: 8192,
            chunk
        }),
        "{found:?}"
    );

    let mut slice = extent(2, 100);
    slice.chunk_offset = 1;
    let found = planted(|tx| put(tx, 8192, slice));
    assert!(matches!(
        found[..],
        [Issue::ExtentSlice {
            start: 1,
            end: 101,
            len: 100,
            ..
        }]
    ));

    let mut early = extent(2, 100);
    early.birth = Generation(1 << 40);
    let found = planted(|tx| put(tx, 8192, early));
    let birth = Generation(1 << 40);
    assert_eq!(
        found,
        [Issue::ExtentBirth {
            ino,
            offset: 8192,
            birth
        }]
    );

    let found = planted(|tx| tx.put(FS, key::extent(FILE, 12_000), vec![1]).unwrap());
    assert!(matches!(found[..], [Issue::BadRecord { .. }]), "{found:?}");
}

#[test]
fn log_damage() {
    let sim = sound();
    let options = recovery::Options {
        read_only: false,
        discard_damaged_log: false,
        cache_bytes: 1 << 20,
    };
    let journal = recovery::open(sim.media(), options).unwrap().journal;
    let at = journal.end_lsn();
    for size in 1..5 {
        let mut tx = journal.begin().unwrap();
        edit(&mut tx, FILE, |inode| inode.uid = size);
        let lsn = tx.commit().unwrap();
        journal.sync(lsn).unwrap();
    }
    assert_eq!(issues_of(&sim), []);
    sim.corrupt(WAL, 8192 + at.0 + 100, &[0xa5; 8]);
    let found = issues_of(&sim);
    assert!(
        matches!(found[..], [Issue::LogDamaged { at: place, durable }] if place == at && durable > Lsn(at.0)),
        "{found:?}"
    );
}

#[test]
fn projects() {
    let dataset = DatasetId::MAIN;
    let counted = |tx: &mut Tx<'_>, below: u64| {
        edit(tx, FILE, |record| record.projid = 7);
        let below = below.to_le_bytes();
        tx.put(FS, key::projects_counted(), below).unwrap();
    };
    let issue = |what, found, recorded| Issue::ProjectUse {
        dataset,
        project: 7,
        what,
        found,
        recorded,
    };
    let sim = sound();
    let journal = open(&sim);
    let record = journal.view().get(FS, &key::inode(FILE)).unwrap().unwrap();
    let bytes = InodeRecord::decode(&record).unwrap().allocated;
    assert!(bytes > 0);
    drop(journal);
    let found = planted(|tx| counted(tx, u64::MAX));
    let both = [issue("inodes", 1, 0), issue("bytes in extents", bytes, 0)];
    assert_eq!(found, both);
    let put = |tx: &mut Tx<'_>, inodes, bytes| {
        let used = ProjectUse { inodes, bytes }.encode();
        tx.put(FS, key::project_use(7), used).unwrap();
    };
    let found = planted(|tx| {
        counted(tx, u64::MAX);
        put(tx, 1, bytes + 1);
    });
    assert_eq!(found, [issue("bytes in extents", bytes, bytes + 1)]);
    // Which are not counted yet.
    assert_eq!(planted(|tx| counted(tx, FILE.0)), []);
    let found = planted(|tx| {
        counted(tx, FILE.0);
        put(tx, 1, 0);
    });
    assert_eq!(found, [issue("inodes", 0, 1)]);
    // There is no project 0, and no other number that inodes are counted by.
    for (key, value) in [
        (key::project_use(0), vec![0; 16]),
        (key::project_limit(0), vec![0; 16]),
        (key::projects_counted(), vec![0; 4]),
    ] {
        let found = planted(|tx| tx.put(FS, key.clone(), value.clone()).unwrap());
        let (tree, key) = (FS, Bytes(key.to_vec()));
        assert_eq!(found, [Issue::UnknownKey { tree, key }]);
    }
}
