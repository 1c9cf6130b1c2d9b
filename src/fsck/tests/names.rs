//! Defects of directories, links, the orphan list and interned names.

use super::*;
use crate::format::id::NameId;
use crate::fsck::issue::Bytes;
use crate::store::roots::name_hash;

fn bytes(text: &str) -> Bytes {
    Bytes(text.as_bytes().to_vec())
}

fn cookie(name: &[u8]) -> u64 {
    key::name_cookies(&SEED, name).start
}

fn edit_dentry(tx: &mut Tx<'_>, name: &[u8], change: impl FnOnce(&mut DentryRecord)) {
    let at = key::dentry(Ino::ROOT, cookie(name));
    let mut record = DentryRecord::decode(&tx.get(FS, &at).unwrap().unwrap()).unwrap();
    change(&mut record);
    tx.put(FS, at, record.encode()).unwrap();
}

#[test]
fn entries() {
    let dir = Ino::ROOT;
    let found = planted(|tx| edit_dentry(tx, b"hard", |entry| entry.ino = Ino(99)));
    let missing = Issue::DentryInode {
        dir,
        name: bytes("hard"),
        ino: Ino(99),
    };
    assert_eq!(
        found,
        [
            missing,
            Issue::Links {
                ino: FILE,
                found: 1,
                recorded: 2
            }
        ]
    );

    let found = planted(|tx| edit_dentry(tx, b"fifo", |entry| entry.file_type = 0o14));
    let name = bytes("fifo");
    let (recorded, found_type) = (0o14, 0o01);
    assert_eq!(
        found,
        [Issue::DentryType {
            dir,
            name,
            ino: FIFO,
            recorded,
            found: found_type
        }]
    );

    let found = planted(|tx| edit_dentry(tx, b"fifo", |entry| entry.name = NameId(2)));
    assert!(matches!(found[..], [Issue::DentryName { .. }]), "{found:?}");

    let found = planted(|tx| edit_dentry(tx, b"fifo", |entry| entry.name_len = 9));
    assert!(matches!(found[..], [Issue::DentryName { .. }]), "{found:?}");

    let found = planted(|tx| edit(tx, Ino::ROOT, |inode| inode.entries = 6));
    assert_eq!(
        found,
        [Issue::Entries {
            dir,
            found: 5,
            recorded: 6
        }]
    );

    let found = planted(|tx| tx.put(FS, key::dentry(DIR, 1 << 40), vec![1]).unwrap());
    assert!(
        matches!(found[..], [Issue::BadRecord { .. }, Issue::Entries { .. }]),
        "{found:?}"
    );
}

#[test]
fn names_in_directories() {
    let found = planted(|tx| {
        dentry(tx, Ino::ROOT, b"a/b", FILE, 0o10);
        edit(tx, Ino::ROOT, |inode| inode.entries = 6);
        edit(tx, FILE, |inode| inode.nlink = 3);
    });
    assert_eq!(
        found,
        [Issue::NameInvalid {
            dir: Ino::ROOT,
            name: bytes("a/b")
        }]
    );

    let found = planted(|tx| {
        let at = key::dentry(Ino::ROOT, cookie(b"fifo"));
        let value = tx.get(FS, &at).unwrap().unwrap();
        assert!(tx.delete(FS, at).unwrap());
        tx.put(FS, key::dentry(Ino::ROOT, cookie(b"other")), value)
            .unwrap();
    });
    assert!(matches!(found[..], [Issue::Cookie { .. }]), "{found:?}");

    let found = planted(|tx| {
        let value = tx
            .get(FS, &key::dentry(Ino::ROOT, cookie(b"file")))
            .unwrap()
            .unwrap();
        tx.put(FS, key::dentry(Ino::ROOT, cookie(b"file") + 1), value)
            .unwrap();
        edit(tx, Ino::ROOT, |inode| inode.entries = 6);
        edit(tx, FILE, |inode| inode.nlink = 3);
    });
    assert_eq!(
        found,
        [Issue::NameTwice {
            dir: Ino::ROOT,
            name: bytes("file")
        }]
    );
}

#[test]
fn links() {
    let found = planted(|tx| edit(tx, FILE, |inode| inode.nlink = 3));
    assert_eq!(
        found,
        [Issue::Links {
            ino: FILE,
            found: 2,
            recorded: 3
        }]
    );

    let found = planted(|tx| edit(tx, DIR, |inode| inode.nlink = 2));
    assert_eq!(
        found,
        [Issue::Links {
            ino: DIR,
            found: 3,
            recorded: 2
        }]
    );

    let found = planted(|tx| edit(tx, SUB, |inode| inode.parent = Ino::ROOT));
    let parent = Issue::Parent {
        dir: SUB,
        found: DIR,
        recorded: Ino::ROOT,
    };
    assert_eq!(found, [parent]);

    let found = planted(|tx| {
        dentry(tx, Ino::ROOT, b"again", SUB, 0o04);
        edit(tx, Ino::ROOT, |inode| (inode.entries, inode.nlink) = (6, 4));
    });
    assert_eq!(found, [Issue::DirectoryNames { dir: SUB, found: 2 }]);
}

#[test]
fn circles() {
    // `dir` is taken out of the root and put into `sub`, which lies in it.
    let found = planted(|tx| {
        assert!(
            tx.delete(FS, key::dentry(Ino::ROOT, cookie(b"dir")))
                .unwrap()
        );
        edit(tx, Ino::ROOT, |inode| (inode.entries, inode.nlink) = (4, 2));
        dentry(tx, SUB, b"dir", DIR, 0o04);
        edit(tx, SUB, |inode| (inode.entries, inode.nlink) = (1, 3));
        edit(tx, DIR, |inode| inode.parent = SUB);
    });
    assert_eq!(found, [Issue::Circle { dir: DIR }]);
}

#[test]
fn orphans() {
    let found = planted(|tx| assert!(tx.delete(FS, key::orphan(ORPHAN)).unwrap()));
    assert_eq!(found, [Issue::NoName { ino: ORPHAN }]);

    let found = planted(|tx| tx.put(FS, key::orphan(FIFO), vec![]).unwrap());
    assert_eq!(
        found,
        [Issue::OrphanLinked {
            ino: FIFO,
            links: 1
        }]
    );

    let found = planted(|tx| tx.put(FS, key::orphan(Ino(99)), vec![]).unwrap());
    assert_eq!(found, [Issue::OrphanMissing { ino: Ino(99) }]);

    let found = planted(|tx| {
        assert!(tx.delete(FS, key::inode(Ino::ROOT)).unwrap());
    });
    assert!(found.contains(&Issue::RootMissing), "{found:?}");
}

#[test]
fn interned_names() {
    let sim = sound();
    sim.corrupt(STRINGS, 6, b"?");
    let found = issues_of(&sim);
    assert!(matches!(found[0], Issue::DentryName { .. }), "{found:?}");
    assert!(
        found
            .iter()
            .any(|issue| matches!(issue, Issue::NameDamaged { id: NameId(0), .. }))
    );

    let name_key = |name: &[u8], id: u64| {
        let mut at = key::u64_key(name_hash(&SEED, name));
        at.extend_from_slice(&id.to_be_bytes());
        at
    };
    let tree = TreeId::Names;
    // `file` is the first name: 12 bytes.
    let found = planted(|tx| assert!(tx.delete(tree, name_key(b"file", 0)).unwrap()));
    assert_eq!(found, [Issue::NameUnknown { id: NameId(0) }]);

    let found = planted(|tx| {
        assert!(tx.delete(tree, name_key(b"file", 0)).unwrap());
        tx.put(tree, name_key(b"other", 0), vec![]).unwrap();
    });
    assert_eq!(found, [Issue::NameHash { id: NameId(0) }]);

    let found = planted(|tx| tx.put(tree, name_key(b"file", 4), vec![]).unwrap());
    assert!(
        found.contains(&Issue::NameOverlap { id: NameId(4) }),
        "{found:?}"
    );

    // A transaction that cannot see the name makes it a second time.
    let found = planted(|tx| {
        assert!(tx.delete(tree, name_key(b"file", 0)).unwrap());
        tx.intern(b"file").unwrap();
        tx.put(tree, name_key(b"file", 0), vec![]).unwrap();
    });
    assert!(
        matches!(
            found[..],
            [Issue::NameAgain {
                first: NameId(0),
                ..
            }]
        ),
        "{found:?}"
    );
}
