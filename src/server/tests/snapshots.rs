//! The dataset's snapshots below `.snapshots`.

use std::collections::BTreeSet;

use zerocopy::IntoBytes;

use super::kernel::{Kernel, ROOT, decode, string};
use crate::fs::{CacheMode, Options};
use crate::server::abi::{
    CopyFileRangeIn, Dirent, EntryOut, GetxattrIn, LinkIn, MkdirIn, ReadIn, Rename2In, SetattrIn,
    WriteOut,
};
use crate::server::consts::{FATTR_MODE, opcode};

const DIR: &str = ".snapshots";

fn kernel() -> Kernel {
    Kernel::new(Options {
        cache: CacheMode::Always,
        ..Options::default()
    })
}

fn take(kernel: &Kernel, name: &str) {
    kernel.server.fs().volume().store().snapshot(name).unwrap();
}

/// A file in a snapshot, and the snapshot's root directory.
fn in_snapshot(kernel: &Kernel, snapshot: &str, name: &str) -> (EntryOut, EntryOut) {
    let dir = kernel.lookup(ROOT, DIR).unwrap();
    let root = kernel.lookup(dir.nodeid, snapshot).unwrap();
    (kernel.lookup(root.nodeid, name).unwrap(), root)
}

fn names(kernel: &Kernel, opcode: u32, nodeid: u64) -> BTreeSet<String> {
    let ask = ReadIn {
        size: 4096,
        ..ReadIn::default()
    };
    let body = kernel.call(opcode, nodeid, &[ask.as_bytes()]).unwrap();
    let mut rest = body.as_slice();
    let mut names = BTreeSet::new();
    while !rest.is_empty() {
        if opcode == opcode::READDIRPLUS {
            rest = &rest[size_of::<EntryOut>()..];
        }
        let len = decode::<Dirent>(rest).namelen as usize;
        let name = rest[size_of::<Dirent>()..][..len].to_vec();
        names.insert(String::from_utf8(name).unwrap());
        rest = &rest[(size_of::<Dirent>() + len).next_multiple_of(8)..];
    }
    names
}

#[test]
fn a_snapshot_is_read_below_its_name() {
    let kernel = kernel();
    let (file, _) = kernel.create("file", 0o644, 0).unwrap();
    kernel.write(file.nodeid, 0, b"before", 0).unwrap();
    take(&kernel, "main@one");
    kernel.write(file.nodeid, 0, b"beyond", 0).unwrap();
    kernel.unlink("file").unwrap();
    take(&kernel, "main@two");
    let dir = kernel.lookup(ROOT, DIR).unwrap();
    assert_eq!(dir.attr.mode, libc::S_IFDIR | 0o555);
    for opcode in [opcode::READDIR, opcode::READDIRPLUS] {
        let all = names(&kernel, opcode, dir.nodeid);
        assert!(all.iter().eq([".", "..", "one", "two"]), "{all:?}");
        assert!(!names(&kernel, opcode, ROOT).contains(DIR));
    }
    let (then, root) = in_snapshot(&kernel, "one", "file");
    assert_eq!(kernel.read(then.nodeid, 0, 100).unwrap(), b"before");
    assert_eq!(kernel.read(file.nodeid, 0, 100).unwrap(), b"beyond");
    assert!(names(&kernel, opcode::READDIR, root.nodeid).contains("file"));
    // Programs tell files apart by their numbers.
    assert_eq!(then.attr.ino, then.nodeid);
    assert!(then.nodeid != file.nodeid && root.nodeid != dir.nodeid);
    let again = kernel.getattr(then.nodeid).unwrap().attr;
    assert_eq!((again.ino, again.size), (then.nodeid, 6));
    let (_, two) = (dir, kernel.lookup(dir.nodeid, "two").unwrap());
    let gone = kernel.lookup(two.nodeid, "file").unwrap();
    assert_eq!(gone.nodeid, 0);
    kernel.forget(then.nodeid, 1);
    assert!(kernel.getattr(then.nodeid).is_ok());
    let list = GetxattrIn {
        size: 100,
        ..GetxattrIn::default()
    };
    for nodeid in [dir.nodeid, root.nodeid] {
        let listed = kernel.call(opcode::LISTXATTR, nodeid, &[list.as_bytes()]);
        assert_eq!(listed, Ok(Vec::new()));
        assert!(kernel.call(opcode::STATFS, nodeid, &[]).is_ok());
    }
}

#[test]
fn what_comes_and_goes_is_not_believed_for_long() {
    let kernel = kernel();
    kernel.create("file", 0o644, 0).unwrap();
    take(&kernel, "main@one");
    let dir = kernel.lookup(ROOT, DIR).unwrap();
    let (file, root) = in_snapshot(&kernel, "one", "file");
    for entry in [dir, root] {
        assert_eq!((entry.entry_valid, entry.attr_valid), (0, 0));
    }
    assert_eq!((file.entry_valid, file.attr_valid), (86_400, 86_400));
    assert_eq!(kernel.lookup(dir.nodeid, "none").unwrap_err(), libc::ENOENT);
    // Who has looked at one does not keep it.
    let store = kernel.server.fs().volume().store();
    store.delete("main@one", false).unwrap();
    for nodeid in [file.nodeid, root.nodeid] {
        assert_eq!(kernel.getattr(nodeid).unwrap_err(), libc::ESTALE);
        assert_eq!(kernel.read(nodeid, 0, 10).unwrap_err(), libc::ESTALE);
    }
    assert_eq!(kernel.lookup(dir.nodeid, "one").unwrap_err(), libc::ENOENT);
}

#[test]
fn nothing_changes_in_a_snapshot() {
    let kernel = kernel();
    let (own, _) = kernel.create("file", 0o644, 0).unwrap();
    take(&kernel, "main@one");
    let dir = kernel.lookup(ROOT, DIR).unwrap();
    let (file, root) = in_snapshot(&kernel, "one", "file");
    let how = MkdirIn {
        mode: 0o755,
        umask: 0,
    };
    for nodeid in [dir.nodeid, root.nodeid] {
        let made = kernel.call(opcode::MKDIR, nodeid, &[how.as_bytes(), &string("new")]);
        assert_eq!(made, Err(libc::EROFS));
        let gone = kernel.call(opcode::RMDIR, nodeid, &[&string("one")]);
        assert_eq!(gone, Err(libc::EROFS));
        let set = SetattrIn {
            valid: FATTR_MODE,
            ..SetattrIn::default()
        };
        assert_eq!(kernel.setattr(nodeid, set).unwrap_err(), libc::EROFS);
    }
    let written = kernel.write(file.nodeid, 0, b"x", 0);
    assert_eq!(written, Err(libc::EROFS));
    // Nor can anything be there and in the dataset.
    let link = LinkIn {
        oldnodeid: file.nodeid,
    };
    let linked = kernel.call(opcode::LINK, ROOT, &[link.as_bytes(), &string("l")]);
    assert_eq!(linked, Err(libc::EXDEV));
    let rename = Rename2In {
        newdir: root.nodeid,
        ..Rename2In::default()
    };
    let body = [rename.as_bytes(), &string("file"), &string("to")].concat();
    let renamed = kernel.call(opcode::RENAME2, ROOT, &[&body]);
    assert_eq!(renamed, Err(libc::EXDEV));
    // The name is taken, though nothing is there.
    let made = kernel.call(opcode::MKDIR, ROOT, &[how.as_bytes(), &string(DIR)]);
    assert_eq!(made, Err(libc::EPERM));
    let gone = kernel.call(opcode::RMDIR, ROOT, &[&string(DIR)]);
    assert_eq!(gone, Err(libc::EPERM));
    assert!(kernel.getattr(own.nodeid).is_ok());
}

#[test]
fn a_file_is_copied_back_without_its_bytes() {
    let kernel = kernel();
    let (file, _) = kernel.create("file", 0o644, 0).unwrap();
    let bytes: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
    kernel.write(file.nodeid, 0, &bytes, 0).unwrap();
    take(&kernel, "main@one");
    let truncated = SetattrIn {
        valid: crate::server::consts::FATTR_SIZE,
        ..SetattrIn::default()
    };
    kernel.setattr(file.nodeid, truncated).unwrap();
    let (then, _) = in_snapshot(&kernel, "one", "file");
    let store = kernel.server.fs().volume().store();
    let used = || {
        store.checkpoint().unwrap();
        kernel
            .server
            .fs()
            .statfs(crate::format::id::Ino::ROOT)
            .unwrap()
            .blocks_free
    };
    let before = used();
    let copy = |from: u64, to: u64| {
        let range = CopyFileRangeIn {
            nodeid_out: to,
            len: 1 << 20,
            ..CopyFileRangeIn::default()
        };
        let body = kernel.call(opcode::COPY_FILE_RANGE, from, &[range.as_bytes()]);
        body.map(|body| decode::<WriteOut>(&body).size)
    };
    assert_eq!(copy(then.nodeid, file.nodeid), Ok(200_000));
    assert_eq!(kernel.read(file.nodeid, 0, 1 << 20).unwrap(), bytes);
    assert!(before.abs_diff(used()) < 8, "its content is there twice");
    assert_eq!(copy(then.nodeid, then.nodeid), Err(libc::EROFS));
    // It is the file's own then.
    store.delete("main@one", false).unwrap();
    store.reap(&|| false).unwrap();
    assert_eq!(kernel.read(file.nodeid, 0, 1 << 20).unwrap(), bytes);
}

#[test]
fn only_the_datasets_own_snapshots_are_there() {
    let kernel = kernel();
    kernel.create("file", 0o644, 0).unwrap();
    take(&kernel, "main@one");
    let (file, root) = in_snapshot(&kernel, "one", "file");
    let store = kernel.server.fs().volume().store();
    let other = store.clone_dataset("main@one", "other").unwrap();
    let secret = store.snapshot("other@two").unwrap();
    let dir = kernel.lookup(ROOT, DIR).unwrap();
    for name in ["two", "other@two", "../other@two"] {
        assert!(kernel.lookup(dir.nodeid, name).is_err(), "{name}");
    }
    // A node id can be made up.
    let own = 2_u64 << 40;
    assert_eq!(root.nodeid & own, own);
    for id in [other.0, secret.0, 1, 0x7f_ffff] {
        let forged = root.nodeid & !(0x7f_ffff << 40) | id << 40;
        assert_eq!(kernel.getattr(forged).unwrap_err(), libc::ESTALE);
    }
    let forged = file.nodeid | 0xff_ffff_ff00;
    assert_eq!(kernel.getattr(forged).unwrap_err(), libc::ESTALE);
}

#[test]
fn an_entry_of_that_name_takes_precedence_and_it_can_be_switched_off() {
    let off = Kernel::new(Options {
        snapshots: false,
        ..Options::default()
    });
    take(&off, "main@one");
    assert_eq!(off.lookup(ROOT, DIR).unwrap().nodeid, 0);
    assert_eq!(off.getattr(1 << 63 | 1).unwrap_err(), libc::ESTALE);
    assert_eq!(
        off.getattr(1 << 63 | 2 << 40 | 1).unwrap_err(),
        libc::ESTALE
    );
    let own = off.mkdir(ROOT, DIR);
    let volume = std::sync::Arc::clone(off.server.fs().volume());
    let on = crate::fs::FileSystem::new(volume, Options::default());
    let found = on
        .lookup(crate::format::id::Ino::ROOT, DIR.as_bytes())
        .unwrap();
    assert_eq!(found.ino.0, own.nodeid);
}
