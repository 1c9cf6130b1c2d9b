//! What the operations do, where this layer has a say in it.

use std::collections::BTreeSet;

use zerocopy::IntoBytes;

use super::kernel::{Kernel, O_WRONLY, ROOT, decode, string};
use crate::fs::Options;
use crate::server::Error;
use crate::server::abi::{
    BatchForgetIn, CopyFileRangeIn, CreateIn, Dirent, EntryOut, FallocateIn, ForgetOne, GetxattrIn,
    GetxattrOut, InHeader, IoctlIn, IoctlOut, LinkIn, LseekIn, LseekOut, MknodIn, OpenIn, ReadIn,
    Rename2In, SetattrIn, SetxattrIn, StatfsOut, StatxIn, StatxOut, WriteOut,
};
use crate::server::consts::{FATTR_SIZE, WRITE_CACHE, opcode};

const O_EXCL: u32 = libc::O_EXCL.cast_unsigned();
const O_TRUNC: u32 = libc::O_TRUNC.cast_unsigned();

#[test]
fn what_is_unlinked_lives_until_it_is_forgotten() {
    let kernel = Kernel::new(Options::default());
    let (file, _) = kernel.create("file", 0o644, 0).unwrap();
    let again = kernel.lookup(ROOT, "file").unwrap();
    assert_eq!(again.nodeid, file.nodeid);
    kernel.write(file.nodeid, 0, b"content", 0).unwrap();
    kernel.unlink("file").unwrap();
    assert_eq!(kernel.getattr(file.nodeid).unwrap().attr.nlink, 0);
    assert_eq!(kernel.read(file.nodeid, 0, 100).unwrap(), b"content");
    // Two lookups were made: by CREATE and by LOOKUP.
    kernel.forget(file.nodeid, 1);
    assert!(kernel.getattr(file.nodeid).is_ok());
    kernel.forget(file.nodeid, 1);
    assert_eq!(kernel.getattr(file.nodeid).unwrap_err(), libc::ESTALE);
}

#[test]
fn what_nobody_knows_goes_with_its_last_name() {
    let kernel = Kernel::new(Options::default());
    let (file, _) = kernel.create("file", 0o644, 0).unwrap();
    kernel.forget(file.nodeid, 1);
    let source = LinkIn {
        oldnodeid: file.nodeid,
    };
    kernel
        .call(opcode::LINK, ROOT, &[source.as_bytes(), &string("second")])
        .unwrap();
    kernel.forget(file.nodeid, 1);
    kernel.unlink("file").unwrap();
    assert_eq!(kernel.getattr(file.nodeid).unwrap().attr.nlink, 1);
    kernel.unlink("second").unwrap();
    assert_eq!(kernel.getattr(file.nodeid).unwrap_err(), libc::ESTALE);
}

#[test]
fn a_kernel_that_is_gone_forgets_everything() {
    let kernel = Kernel::new(Options::default());
    let (file, _) = kernel.create("file", 0o644, 0).unwrap();
    kernel.unlink("file").unwrap();
    let how = CreateIn {
        mode: libc::S_IFREG | 0o600,
        flags: O_WRONLY,
        ..CreateIn::default()
    };
    let body = kernel
        .call(opcode::TMPFILE, ROOT, &[how.as_bytes(), &string("#1")])
        .unwrap();
    let nameless: EntryOut = decode(&body);
    assert_eq!(kernel.getattr(nameless.nodeid).unwrap().attr.nlink, 0);
    kernel.init(39, u64::MAX).unwrap();
    for nodeid in [file.nodeid, nameless.nodeid] {
        assert_eq!(kernel.getattr(nodeid).unwrap_err(), libc::ESTALE);
    }
}

#[test]
fn a_reply_that_is_lost_takes_its_lookup_along() {
    let kernel = Kernel::new(Options::default());
    let (file, _) = kernel.create("file", 0o644, 0).unwrap();
    kernel.forget(file.nodeid, 1);
    let header = InHeader {
        len: 45,
        opcode: opcode::LOOKUP,
        nodeid: 1,
        ..InHeader::default()
    };
    let request = [header.as_bytes(), b"file\0"].concat();
    assert!(matches!(kernel.raw(request, 100), Err(Error::Reply(_))));
    kernel.unlink("file").unwrap();
    assert_eq!(kernel.getattr(file.nodeid).unwrap_err(), libc::ESTALE);
}

#[test]
fn forgets_come_in_batches_and_lie() {
    let kernel = Kernel::new(Options::default());
    let nodes: Vec<u64> = (0..10)
        .map(|n| kernel.create(&format!("{n}"), 0o644, 0).unwrap().0.nodeid)
        .collect();
    (0..10).for_each(|n| kernel.unlink(&format!("{n}")).unwrap());
    let ones: Vec<u8> = nodes
        .iter()
        .flat_map(|nodeid| {
            ForgetOne {
                nodeid: *nodeid,
                nlookup: 1,
            }
            .as_bytes()
            .to_vec()
        })
        .collect();
    // It says a million and brings ten.
    let head = BatchForgetIn {
        count: 1_000_000,
        dummy: 0,
    };
    kernel
        .call(opcode::BATCH_FORGET, 0, &[head.as_bytes(), &ones])
        .unwrap();
    for nodeid in nodes {
        assert_eq!(kernel.getattr(nodeid).unwrap_err(), libc::ESTALE);
    }
    kernel.forget(12_345, u64::MAX);
    kernel.forget(ROOT, u64::MAX);
    assert!(kernel.getattr(ROOT).is_ok());
}

#[test]
fn handles_kept_by_an_nfs_server_are_found_again() {
    let kernel = Kernel::new(Options::default());
    let dir = kernel.mkdir(ROOT, "dir");
    let inner = kernel.mkdir(dir.nodeid, "inner");
    assert_eq!(
        kernel.lookup(inner.nodeid, ".").unwrap().nodeid,
        inner.nodeid
    );
    assert_eq!(
        kernel.lookup(inner.nodeid, "..").unwrap().nodeid,
        dir.nodeid
    );
    let (file, _) = kernel.create("file", 0o644, 0).unwrap();
    assert_eq!(kernel.lookup(file.nodeid, ".").unwrap().nodeid, file.nodeid);
    assert_eq!(kernel.lookup(99_999, ".").unwrap_err(), libc::ESTALE);
}

#[test]
fn create_makes_opens_or_refuses() {
    let kernel = Kernel::new(Options::default());
    let (made, _) = kernel.create("file", 0o644, O_EXCL).unwrap();
    kernel.write(made.nodeid, 0, b"content", 0).unwrap();
    assert_eq!(
        kernel.create("file", 0o644, O_EXCL).unwrap_err(),
        libc::EEXIST
    );
    let (found, _) = kernel.create("file", 0o600, 0).unwrap();
    assert_eq!(found.nodeid, made.nodeid);
    assert_eq!((found.attr.mode & 0o777, found.attr.size), (0o644, 7));
    let (emptied, _) = kernel.create("file", 0o600, O_TRUNC).unwrap();
    assert_eq!(emptied.attr.size, 0);
    kernel.mkdir(ROOT, "dir");
    assert_eq!(kernel.create("dir", 0o600, 0).unwrap_err(), libc::EISDIR);
}

#[test]
fn the_umask_is_applied_and_owner_is_the_caller() {
    let kernel = Kernel::new(Options::default());
    let how = MknodIn {
        mode: libc::S_IFIFO | 0o666,
        rdev: 0,
        umask: 0o027,
        padding: 0,
    };
    let body = kernel
        .call_as(
            (11, 22),
            opcode::MKNOD,
            ROOT,
            &[how.as_bytes(), &string("fifo")],
        )
        .unwrap();
    let attr = decode::<EntryOut>(&body).attr;
    assert_eq!(
        (attr.mode, attr.uid, attr.gid),
        (libc::S_IFIFO | 0o640, 11, 22)
    );
    let bad = MknodIn {
        mode: libc::S_IFMT | 0o666,
        ..how
    };
    let answer = kernel.call(opcode::MKNOD, ROOT, &[bad.as_bytes(), &string("bad")]);
    assert_eq!(answer, Err(libc::EINVAL));
    let device = MknodIn {
        mode: libc::S_IFCHR | 0o600,
        rdev: 0x1234_5678,
        ..how
    };
    let body = kernel
        .call(opcode::MKNOD, ROOT, &[device.as_bytes(), &string("device")])
        .unwrap();
    assert_eq!(decode::<EntryOut>(&body).attr.rdev, 0x1234_5678);
}

#[test]
fn reads_end_at_the_end_and_holes_are_zeros() {
    let kernel = Kernel::new(Options::default());
    let (file, _) = kernel.create("file", 0o644, 0).unwrap();
    assert_eq!(kernel.write(file.nodeid, 200_000, b"tail", 0), Ok(4));
    assert_eq!(
        kernel.read(file.nodeid, 199_990, 100).unwrap(),
        b"\0\0\0\0\0\0\0\0\0\0tail"
    );
    assert_eq!(kernel.read(file.nodeid, 200_004, 100).unwrap(), b"");
    assert_eq!(
        kernel.read(file.nodeid, u64::MAX, 100).unwrap_or_default(),
        b""
    );
    // More than the largest read: clamped, not refused.
    assert_eq!(
        kernel.read(file.nodeid, 0, u32::MAX).unwrap().len(),
        200_004
    );
    assert_eq!(kernel.getattr(file.nodeid).unwrap().attr.size, 200_004);
    assert!(kernel.write(file.nodeid, u64::MAX - 1, b"abc", 0).is_err());
}

#[test]
fn a_write_of_a_megabyte_comes_back() {
    let kernel = Kernel::new(Options::default());
    let (file, _) = kernel.create("file", 0o644, 0).unwrap();
    let bytes: Vec<u8> = (0..1u32 << 20).map(|n| (n % 251) as u8).collect();
    assert_eq!(kernel.write(file.nodeid, 3, &bytes, 0), Ok(1 << 20));
    assert!(kernel.read(file.nodeid, 3, 1 << 20).unwrap() == bytes);
}

#[test]
fn immutable_and_append_only_files_are_not_opened_for_more() {
    const SETFLAGS: u32 = 0x4008_6602;
    let kernel = Kernel::new(Options::default());
    let (file, _) = kernel.create("file", 0o644, 0).unwrap();
    let set = |flags: u32| {
        let how = IoctlIn {
            cmd: SETFLAGS,
            in_size: 4,
            ..IoctlIn::default()
        };
        let answer = kernel.call(
            opcode::IOCTL,
            file.nodeid,
            &[how.as_bytes(), flags.as_bytes()],
        );
        assert_eq!(decode::<IoctlOut>(&answer.unwrap()).result, 0);
    };
    let open = |flags: i32| {
        let how = OpenIn {
            flags: flags.cast_unsigned(),
            open_flags: 0,
        };
        kernel
            .call(opcode::OPEN, file.nodeid, &[how.as_bytes()])
            .map(drop)
    };
    let write = |flags| kernel.write(file.nodeid, 0, b"x", flags);
    set(0x10);
    assert_eq!(write(0), Err(libc::EPERM));
    // Who wrote that was told that it is in.
    assert_eq!(write(WRITE_CACHE), Ok(1));
    assert_eq!(open(libc::O_RDONLY), Ok(()));
    assert_eq!(open(libc::O_WRONLY), Err(libc::EPERM));
    assert_eq!(open(libc::O_RDWR | libc::O_APPEND), Err(libc::EPERM));
    set(0x20);
    assert_eq!(write(0), Err(libc::EPERM));
    assert_eq!(write(WRITE_CACHE), Ok(1));
    assert_eq!(open(libc::O_WRONLY | libc::O_APPEND), Ok(()));
    assert_eq!(open(libc::O_WRONLY), Err(libc::EPERM));
    assert_eq!(
        open(libc::O_WRONLY | libc::O_APPEND | libc::O_TRUNC),
        Err(libc::EPERM)
    );
    set(0);
    assert_eq!(open(libc::O_WRONLY | libc::O_TRUNC), Ok(()));
}

#[test]
fn ioctls_have_the_lengths_of_their_arguments() {
    let kernel = Kernel::new(Options::default());
    let (file, _) = kernel.create("file", 0o644, 0).unwrap();
    let ioctl = |cmd: u32, input: &[u8], out_size: u32| {
        let in_size = u32::try_from(input.len()).unwrap();
        let how = IoctlIn {
            cmd,
            in_size,
            out_size,
            ..IoctlIn::default()
        };
        let body = kernel.call(opcode::IOCTL, file.nodeid, &[how.as_bytes(), input])?;
        Ok(body[size_of::<IoctlOut>()..].to_vec())
    };
    assert_eq!(ioctl(0x8008_6601, &[], 4), Ok(vec![0; 4]));
    assert_eq!(ioctl(0x8008_6601, &[], 8), Ok(vec![0; 8]));
    assert_eq!(ioctl(0x8008_6601, &[], 2), Err(libc::EINVAL));
    assert_eq!(ioctl(0x8008_6601, &[], 1 << 20), Err(libc::EINVAL));
    assert_eq!(ioctl(0x801c_581f, &[], 28).map(|bytes| bytes.len()), Ok(28));
    assert_eq!(ioctl(0x401c_5820, &[0; 27], 0), Err(libc::EINVAL));
    assert_eq!(ioctl(0x401c_5820, &[0; 28], 0), Ok(Vec::new()));
    assert_eq!(ioctl(0x4008_6602, &[0; 3], 0), Err(libc::EINVAL));
    // TCGETS: what isatty(3) asks.
    assert_eq!(ioctl(0x5401, &[], 60), Err(libc::ENOTTY));
}

#[test]
fn listings_of_any_buffer_size_have_each_name_once() {
    let kernel = Kernel::new(Options::default());
    let dir = kernel.mkdir(ROOT, "dir").nodeid;
    let mut expected = BTreeSet::from([".".to_owned(), "..".to_owned()]);
    for n in 0..50 {
        let name = "x".repeat(n % 40 + 1) + &n.to_string();
        kernel.mkdir(dir, &name);
        expected.insert(name);
    }
    for (opcode, size) in [
        (opcode::READDIR, 100),
        (opcode::READDIR, 4096),
        (opcode::READDIR, 1 << 30),
        (opcode::READDIRPLUS, 300),
        (opcode::READDIRPLUS, 4096),
    ] {
        let mut names = BTreeSet::new();
        let mut offset = 0;
        loop {
            let how = ReadIn {
                offset,
                size,
                ..ReadIn::default()
            };
            let body = kernel.call(opcode, dir, &[how.as_bytes()]).unwrap();
            assert!(body.len() <= size as usize);
            let mut rest = body.as_slice();
            if rest.is_empty() {
                break;
            }
            while !rest.is_empty() {
                if opcode == opcode::READDIRPLUS {
                    rest = &rest[size_of::<EntryOut>()..];
                }
                let entry: Dirent = decode(rest);
                let len = entry.namelen as usize;
                let name = rest[size_of::<Dirent>()..][..len].to_vec();
                assert!(
                    names.insert(String::from_utf8(name).unwrap()),
                    "a name twice"
                );
                assert_eq!(entry.kind, 4);
                offset = entry.off;
                rest = &rest[(size_of::<Dirent>() + len).next_multiple_of(8)..];
            }
        }
        assert_eq!(names, expected, "opcode {opcode} with {size}");
    }
}

#[test]
fn readdirplus_counts_a_lookup_for_what_it_tells() {
    let kernel = Kernel::new(Options::default());
    let (file, _) = kernel.create("file", 0o644, 0).unwrap();
    kernel.forget(file.nodeid, 1);
    let how = ReadIn {
        size: 4096,
        ..ReadIn::default()
    };
    let body = kernel
        .call(opcode::READDIRPLUS, ROOT, &[how.as_bytes()])
        .unwrap();
    let dot: EntryOut = decode(&body);
    assert_eq!(dot.nodeid, 0, "`.` is known without a lookup");
    kernel.unlink("file").unwrap();
    assert!(
        kernel.getattr(file.nodeid).is_ok(),
        "the listing told of it"
    );
    kernel.forget(file.nodeid, 1);
    assert_eq!(kernel.getattr(file.nodeid).unwrap_err(), libc::ESTALE);
}

#[test]
fn xattrs_tell_their_size_and_do_not_overflow() {
    let kernel = Kernel::new(Options::default());
    let (file, _) = kernel.create("file", 0o644, 0).unwrap();
    let set = SetxattrIn {
        size: 5,
        ..SetxattrIn::default()
    };
    let name = string("user.name");
    kernel
        .call(
            opcode::SETXATTR,
            file.nodeid,
            &[set.as_bytes(), &name, b"value"],
        )
        .unwrap();
    let get = |opcode, size: u32| {
        let how = GetxattrIn { size, padding: 0 };
        kernel.call(opcode, file.nodeid, &[how.as_bytes(), &name])
    };
    let size = |body: Vec<u8>| decode::<GetxattrOut>(&body).size;
    assert_eq!(get(opcode::GETXATTR, 0).map(size), Ok(5));
    assert_eq!(get(opcode::GETXATTR, 4), Err(libc::ERANGE));
    assert_eq!(get(opcode::GETXATTR, 5), Ok(b"value".to_vec()));
    assert_eq!(get(opcode::LISTXATTR, 0).map(size), Ok(10));
    assert_eq!(get(opcode::LISTXATTR, 9), Err(libc::ERANGE));
    assert_eq!(get(opcode::LISTXATTR, 4096), Ok(b"user.name\0".to_vec()));
    // The value is shorter than announced.
    let long = SetxattrIn {
        size: 6,
        ..SetxattrIn::default()
    };
    let answer = kernel.call(
        opcode::SETXATTR,
        file.nodeid,
        &[long.as_bytes(), &name, b"value"],
    );
    assert_eq!(answer, Err(libc::EINVAL));
    kernel
        .call(opcode::REMOVEXATTR, file.nodeid, &[&name])
        .unwrap();
    assert_eq!(get(opcode::GETXATTR, 100), Err(libc::ENODATA));
}

#[test]
fn without_xattrs_the_kernel_is_told_not_to_ask() {
    let kernel = Kernel::new(Options {
        xattr: false,
        ..Options::default()
    });
    let how = GetxattrIn {
        size: 100,
        padding: 0,
    };
    let answer = kernel.call(opcode::GETXATTR, ROOT, &[how.as_bytes(), &string("user.x")]);
    assert_eq!(answer, Err(libc::ENOSYS));
}

#[test]
fn statx_has_the_time_of_birth() {
    let kernel = Kernel::new(Options::default());
    let (file, _) = kernel.create("file", 0o644, 0).unwrap();
    let how = StatxIn {
        sx_mask: 0xfff,
        ..StatxIn::default()
    };
    let body = kernel
        .call(opcode::STATX, file.nodeid, &[how.as_bytes()])
        .unwrap();
    let found: StatxOut = decode(&body);
    assert_eq!(found.stat.mask & 0x800, 0x800, "STATX_BTIME");
    assert!(found.stat.btime.sec > 0);
    assert_eq!(found.stat.ino, file.nodeid);
}

#[test]
fn renames_take_the_flags_of_the_system_call() {
    let kernel = Kernel::new(Options::default());
    let (first, _) = kernel.create("first", 0o644, 0).unwrap();
    kernel.create("second", 0o644, 0).unwrap();
    let rename = |flags| {
        let how = Rename2In {
            newdir: ROOT,
            flags,
            padding: 0,
        };
        let names = [string("first"), string("second")].concat();
        kernel
            .call(opcode::RENAME2, ROOT, &[how.as_bytes(), &names])
            .map(drop)
    };
    assert_eq!(rename(libc::RENAME_NOREPLACE), Err(libc::EEXIST));
    assert_eq!(
        rename(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE),
        Err(libc::EINVAL)
    );
    assert_eq!(rename(1 << 20), Err(libc::EINVAL));
    assert_eq!(rename(libc::RENAME_EXCHANGE), Ok(()));
    assert_eq!(kernel.lookup(ROOT, "second").unwrap().nodeid, first.nodeid);
}

#[test]
fn a_rename_that_would_wait_is_not_answered_at_once() {
    let kernel = Kernel::new(Options::default());
    let (file, _) = kernel.create("first", 0o644, 0).unwrap();
    kernel.write(file.nodeid, 0, b"content", 0).unwrap();
    let how = Rename2In {
        newdir: ROOT,
        flags: 0,
        padding: 0,
    };
    let names = [string("first"), string("second")].concat();
    let body: [&[u8]; 2] = [how.as_bytes(), &names];
    let waits = kernel.call_at_once(opcode::RENAME2, ROOT, &body);
    assert!(matches!(waits, Err(Error::WouldWait)), "{waits:?}");
    assert_eq!(kernel.lookup(ROOT, "first").unwrap().nodeid, file.nodeid);
    kernel.call(opcode::RENAME2, ROOT, &body).unwrap();
    assert_eq!(kernel.lookup(ROOT, "second").unwrap().nodeid, file.nodeid);
}

#[test]
fn space_is_made_found_and_shared() {
    let kernel = Kernel::new(Options::default());
    let (file, _) = kernel.create("file", 0o644, 0).unwrap();
    kernel.write(file.nodeid, 1 << 20, &[7; 8192], 0).unwrap();
    let fallocate = |mode: i32, offset, length| {
        let mode = mode.cast_unsigned();
        let how = FallocateIn {
            offset,
            length,
            mode,
            ..FallocateIn::default()
        };
        kernel
            .call(opcode::FALLOCATE, file.nodeid, &[how.as_bytes()])
            .map(drop)
    };
    assert_eq!(
        fallocate(libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096),
        Err(libc::EOPNOTSUPP)
    );
    assert_eq!(
        fallocate(libc::FALLOC_FL_PUNCH_HOLE, 0, 4096),
        Err(libc::EOPNOTSUPP)
    );
    assert_eq!(fallocate(0, 0, 0), Err(libc::EINVAL));
    assert_eq!(fallocate(0, u64::MAX, 2), Err(libc::EFBIG));
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    assert_eq!(fallocate(punch, 1 << 20, 4096), Ok(()));
    let seek = |whence: i32| {
        let how = LseekIn {
            whence: whence.cast_unsigned(),
            ..LseekIn::default()
        };
        let body = kernel.call(opcode::LSEEK, file.nodeid, &[how.as_bytes()])?;
        Ok(decode::<LseekOut>(&body).offset)
    };
    assert_eq!(seek(libc::SEEK_HOLE), Ok(0));
    assert_eq!(seek(libc::SEEK_DATA), Ok((1 << 20) + 4096));
    assert_eq!(seek(libc::SEEK_END), Err(libc::EINVAL));
    let (copy, _) = kernel.create("copy", 0o644, 0).unwrap();
    let how = CopyFileRangeIn {
        off_in: (1 << 20) + 4096,
        nodeid_out: copy.nodeid,
        len: u64::MAX,
        ..CopyFileRangeIn::default()
    };
    let body = kernel
        .call(opcode::COPY_FILE_RANGE, file.nodeid, &[how.as_bytes()])
        .unwrap();
    assert_eq!(decode::<WriteOut>(&body).size, 4096);
    assert_eq!(kernel.read(copy.nodeid, 0, 5000).unwrap(), [7; 4096]);
    let body = kernel.call(opcode::STATFS, ROOT, &[]).unwrap();
    let space: StatfsOut = decode(&body);
    assert!(space.blocks >= space.bfree && space.bfree >= space.bavail && space.namelen == 255);
}

#[test]
fn a_read_only_export_refuses_changes() {
    let kernel = Kernel::new(Options {
        read_only: true,
        ..Options::default()
    });
    let one = string("user.a");
    let two = [string("user.a"), string("b")].concat();
    for (opcode, head, names) in [
        (opcode::CREATE, 16, &one),
        (opcode::TMPFILE, 16, &one),
        (opcode::MKNOD, 16, &one),
        (opcode::MKDIR, 8, &one),
        (opcode::SYMLINK, 0, &two),
        (opcode::LINK, 8, &one),
        (opcode::UNLINK, 0, &one),
        (opcode::RMDIR, 0, &one),
        (opcode::RENAME, 8, &two),
        (opcode::RENAME2, 16, &two),
        (opcode::SETXATTR, 16, &one),
        (opcode::REMOVEXATTR, 0, &one),
    ] {
        let answer = kernel.call(opcode, ROOT, &[&vec![0; head], names]);
        assert_eq!(answer, Err(libc::EROFS), "opcode {opcode}");
    }
    let set = SetattrIn {
        valid: FATTR_SIZE,
        ..SetattrIn::default()
    };
    assert_eq!(kernel.setattr(ROOT, set).unwrap_err(), libc::EROFS);
    assert_eq!(kernel.write(ROOT, 0, b"x", 0), Err(libc::EROFS));
    for opcode in [opcode::FALLOCATE, opcode::COPY_FILE_RANGE] {
        let mut body = [0; 56];
        body[16] = 1;
        assert_eq!(
            kernel.call(opcode, ROOT, &[&body]),
            Err(libc::EROFS),
            "opcode {opcode}"
        );
    }
}

#[test]
fn a_write_that_would_pass_the_limit_is_told_before() {
    const LIMIT: u64 = 1 << 20;
    let kernel = Kernel::with_dirty_limit(Options::default(), LIMIT);
    kernel.init(39, u64::MAX).unwrap();
    let volume = kernel.server.fs().volume();
    let (file, _) = kernel.create("file", 0o644, 0).unwrap();
    let bytes = vec![7; 1 << 15];
    for step in 0..64 {
        let (told, before) = (volume.writes_may_wait(), volume.store().dirty_bytes());
        let offset = step * bytes.len() as u64;
        kernel.write(file.nodeid, offset, &bytes, 0).unwrap();
        if volume.store().dirty_bytes() < before {
            assert!(told, "it had to wait until something was written out");
            return;
        }
        assert_eq!(told, before > LIMIT - LIMIT / 16 - 8192);
    }
    panic!("no write has waited");
}
