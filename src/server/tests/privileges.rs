//! Set-uid and set-gid files: who changes them takes the bits from them.

use zerocopy::IntoBytes;

use super::kernel::{Kernel, O_WRONLY};
use crate::fs::Options;
use crate::server::abi::{CopyFileRangeIn, FallocateIn, OpenIn, SetattrIn};
use crate::server::consts::{FATTR_MODE, FATTR_UID, OPEN_KILL_SUIDGID, WRITE_KILL_SUIDGID, opcode};

const O_TRUNC: u32 = libc::O_TRUNC.cast_unsigned();

#[test]
fn writing_and_truncating_drop_suid_when_told() {
    let kernel = Kernel::new(Options::default());
    let (file, _) = kernel.create("file", 0o6755, 0).unwrap();
    let mode = |kernel: &Kernel| kernel.getattr(file.nodeid).unwrap().attr.mode & 0o7777;
    kernel.write(file.nodeid, 0, b"x", 0).unwrap();
    assert_eq!(mode(&kernel), 0o6755);
    kernel
        .write(file.nodeid, 0, b"x", WRITE_KILL_SUIDGID)
        .unwrap();
    assert_eq!(mode(&kernel), 0o755);
    let chmod = SetattrIn {
        valid: FATTR_MODE,
        mode: 0o4755,
        ..SetattrIn::default()
    };
    kernel.setattr(file.nodeid, chmod).unwrap();
    let how = OpenIn {
        flags: O_WRONLY | O_TRUNC,
        open_flags: OPEN_KILL_SUIDGID,
    };
    kernel
        .call(opcode::OPEN, file.nodeid, &[how.as_bytes()])
        .unwrap();
    assert_eq!(mode(&kernel), 0o755);
    kernel.setattr(file.nodeid, chmod).unwrap();
    let chown = SetattrIn {
        valid: FATTR_UID,
        uid: 5,
        ..SetattrIn::default()
    };
    kernel.setattr(file.nodeid, chown).unwrap();
    assert_eq!(mode(&kernel), 0o755);
}

#[test]
fn reserving_and_copying_drop_suid_unless_root_does_it() {
    let kernel = Kernel::new(Options::default());
    let (file, _) = kernel.create("file", 0o644, 0).unwrap();
    let (source, _) = kernel.create("source", 0o644, 0).unwrap();
    kernel.write(source.nodeid, 0, b"content", 0).unwrap();
    let range = FallocateIn {
        length: 9,
        ..FallocateIn::default()
    };
    let copy = CopyFileRangeIn {
        nodeid_out: file.nodeid,
        len: 7,
        ..CopyFileRangeIn::default()
    };
    let chmod = |mode| SetattrIn {
        valid: FATTR_MODE,
        mode,
        ..SetattrIn::default()
    };
    // Who, with which bits, and what is left: the file is of group 1000.
    for (who, before, after) in [
        ((0, 0), 0o6777, 0o6777),
        ((7, 7), 0o6777, 0o777),
        ((7, 7), 0o6767, 0o767),
        ((7, 1000), 0o6777, 0o777),
        ((7, 1000), 0o6767, 0o2767),
    ] {
        for (opcode, node, body) in [
            (opcode::FALLOCATE, file.nodeid, range.as_bytes()),
            (opcode::COPY_FILE_RANGE, source.nodeid, copy.as_bytes()),
        ] {
            kernel.setattr(file.nodeid, chmod(before)).unwrap();
            kernel.call_as(who, opcode, node, &[body]).unwrap();
            let mode = kernel.getattr(file.nodeid).unwrap().attr.mode & 0o7777;
            assert_eq!(mode, after, "{opcode} by {who:?} with {before:o}");
        }
    }
}
