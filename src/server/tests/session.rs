//! Sessions, framing, and requests no honest kernel sends.

use rand::{Rng, SeedableRng};
use zerocopy::IntoBytes;

use super::kernel::{Kernel, decode, string};
use crate::fs::{CacheMode, Options};
use crate::server::Error;
use crate::server::abi::{InHeader, InitIn, InitOut, ReadIn, WriteIn};
use crate::server::consts::{feature, opcode};

/// `struct fuse_getattr_in`
const GETATTR: [u8; 16] = [0; 16];

#[test]
fn features_are_those_both_sides_have() {
    let kernel = Kernel::without_session(Options::default());
    let all = kernel.init(45, u64::MAX).unwrap();
    assert_eq!(
        (all.major, all.minor, all.max_pages, all.time_gran),
        (7, 39, 256, 1)
    );
    assert_eq!(all.max_write, 1 << 20);
    let agreed = u64::from(all.flags) | u64::from(all.flags2) << 32;
    for bit in [
        feature::BIG_WRITES,
        feature::POSIX_ACL,
        feature::DONT_MASK,
        feature::INIT_EXT,
        feature::SECURITY_CTX,
        feature::CREATE_SUPP_GROUP,
    ] {
        assert_ne!(agreed & bit, 0, "{bit:#x}");
    }
    // The kernel's own locks; written data held back only when asked for.
    for bit in [1 << 1, 1 << 10, feature::WRITEBACK_CACHE, 1 << 33] {
        assert_eq!(agreed & bit, 0, "{bit:#x}");
    }
    let few = kernel
        .init(31, feature::BIG_WRITES | feature::POSIX_ACL)
        .unwrap();
    assert_eq!(
        u64::from(few.flags),
        feature::BIG_WRITES | feature::POSIX_ACL
    );
    assert_eq!(few.flags2, 0);
}

#[test]
fn options_switch_features_off() {
    let options = Options {
        posix_acl: false,
        readdirplus: false,
        ..Options::default()
    };
    let kernel = Kernel::without_session(options);
    let flags = u64::from(kernel.init(39, u64::MAX).unwrap().flags);
    assert_eq!(flags & (feature::POSIX_ACL | feature::DO_READDIRPLUS), 0);
    let kernel = Kernel::without_session(Options {
        writeback: true,
        ..Options::default()
    });
    let flags = u64::from(kernel.init(39, u64::MAX).unwrap().flags);
    assert_ne!(flags & feature::WRITEBACK_CACHE, 0);
}

#[test]
fn what_is_offered_depends_on_who_else_changes_the_export() {
    let agreed = |options: Options| {
        let init = Kernel::without_session(options).init(39, u64::MAX).unwrap();
        u64::from(init.flags) | u64::from(init.flags2) << 32
    };
    let spared = feature::NO_OPEN_SUPPORT | feature::NO_OPENDIR_SUPPORT;
    let listed = feature::DO_READDIRPLUS | feature::READDIRPLUS_AUTO;
    let mapped = feature::DIRECT_IO_ALLOW_MMAP;
    let looked_at = spared | listed | mapped | feature::AUTO_INVAL_DATA;
    for (cache, alone, together) in [
        (CacheMode::Auto, 0, 0),
        (CacheMode::Always, spared, 0),
        (CacheMode::Metadata, feature::NO_OPENDIR_SUPPORT, 0),
        (CacheMode::Never, 0, 0),
    ] {
        let listed = if cache == CacheMode::Never { 0 } else { listed };
        let mut options = Options {
            cache,
            without_open: true,
            ..Options::default()
        };
        let found = agreed(options) & looked_at;
        assert_eq!(found, alone | listed | mapped, "{cache:?} alone");
        options.shared = true;
        let wanted = together | listed | feature::AUTO_INVAL_DATA;
        assert_eq!(agreed(options) & looked_at, wanted, "{cache:?} together");
        options.allow_mmap = true;
        assert_eq!(agreed(options) & looked_at, wanted | mapped);
    }
    let always = Options {
        cache: CacheMode::Always,
        without_open: true,
        ..Options::default()
    };
    let writeback = Options {
        writeback: true,
        ..always
    };
    let read_only = Options {
        read_only: true,
        ..always
    };
    let by_default = Options {
        without_open: false,
        ..always
    };
    for options in [writeback, read_only, by_default] {
        assert_eq!(agreed(options) & spared, feature::NO_OPENDIR_SUPPORT);
    }
}

#[test]
fn other_versions_are_answered_as_the_protocol_says() {
    let kernel = Kernel::without_session(Options::default());
    let newer = InitIn {
        major: 8,
        ..InitIn::default()
    };
    let reply: InitOut = decode(&kernel.call(opcode::INIT, 0, &[newer.as_bytes()]).unwrap());
    assert_eq!(reply.major, 7);
    // It begins again with ours; until then there is no session.
    let getattr = kernel.call(opcode::GETATTR, 1, &[&GETATTR]);
    assert_eq!(getattr, Err(libc::ENOTCONN));
    assert_eq!(kernel.init(26, 0).unwrap_err(), libc::EPROTO);
    let old = InitIn {
        major: 7,
        minor: 35,
        ..InitIn::default()
    };
    assert!(
        kernel
            .call(opcode::INIT, 0, &[&old.as_bytes()[..16]])
            .is_ok()
    );
    assert_eq!(
        kernel.call(opcode::INIT, 0, &[&old.as_bytes()[..15]]),
        Err(libc::EINVAL)
    );
}

#[test]
fn nothing_is_done_without_a_session() {
    let kernel = Kernel::without_session(Options::default());
    for opcode in 0..60 {
        if matches!(opcode, opcode::INIT | opcode::FORGET | opcode::BATCH_FORGET)
            || opcode == opcode::NOTIFY_REPLY
        {
            continue;
        }
        let answer = kernel.call(opcode, 1, &[&[0; 128]]);
        assert_eq!(answer, Err(libc::ENOTCONN), "opcode {opcode}");
    }
    kernel.init(39, 0).unwrap();
    assert!(kernel.call(opcode::GETATTR, 1, &[&GETATTR]).is_ok());
    kernel.server.reset();
    let getattr = kernel.call(opcode::GETATTR, 1, &[&GETATTR]);
    assert_eq!(getattr, Err(libc::ENOTCONN));
}

#[test]
fn lengths_that_lie_are_refused() {
    let kernel = Kernel::new(Options::default());
    let header = InHeader {
        opcode: opcode::LOOKUP,
        nodeid: 1,
        ..InHeader::default()
    };
    for len in [0, 39, 46, u32::MAX] {
        let header = InHeader { len, ..header };
        let request = [header.as_bytes(), b"name\0"].concat();
        assert_eq!(
            kernel.raw(request, 4096).unwrap(),
            Err(libc::EINVAL),
            "{len}"
        );
    }
    // Cut inside the name: no NUL is left.
    let header = InHeader { len: 43, ..header };
    let request = [header.as_bytes(), b"name\0"].concat();
    assert_eq!(kernel.raw(request, 4096).unwrap(), Err(libc::EINVAL));
    for len in 0..40 {
        let request = header.as_bytes()[..len].to_vec();
        assert!(matches!(kernel.raw(request, 4096), Err(Error::Short(found)) if found == len));
    }
}

#[test]
fn a_reply_that_does_not_fit_is_not_written() {
    let kernel = Kernel::new(Options::default());
    let header = InHeader {
        len: 56,
        opcode: opcode::GETATTR,
        nodeid: 1,
        ..InHeader::default()
    };
    for room in [0, 15, 16, 100] {
        let request = [header.as_bytes(), &GETATTR[..]].concat();
        assert!(
            matches!(kernel.raw(request, room), Err(Error::Reply(_))),
            "{room}"
        );
    }
    let read = InHeader {
        len: 80,
        opcode: opcode::READ,
        nodeid: 1,
        ..InHeader::default()
    };
    for room in [0, 15] {
        let request = [read.as_bytes(), ReadIn::default().as_bytes()].concat();
        assert!(
            matches!(kernel.raw(request, room), Err(Error::Reply(_))),
            "{room}"
        );
    }
}

#[test]
fn every_opcode_survives_every_cut_of_its_body() {
    let kernel = Kernel::new(Options::default());
    for opcode in 0..60 {
        if opcode == opcode::DESTROY {
            continue;
        }
        for len in 0..140 {
            // Zeros, ones and text: neither may do more than fail.
            for fill in [0, 0xff, b'a'] {
                for nodeid in [0, 1, 2, u64::MAX] {
                    let _ = kernel.call(opcode, nodeid, &[&vec![fill; len]]);
                }
            }
        }
    }
    kernel.init(39, u64::MAX).unwrap();
    assert!(kernel.call(opcode::GETATTR, 1, &[&GETATTR]).is_ok());
}

#[test]
fn random_requests_are_answered_or_dropped() {
    let kernel = Kernel::new(Options {
        cache: CacheMode::Never,
        ..Options::default()
    });
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    for _ in 0..20_000 {
        let mut request = vec![0; random.random_range(0..300)];
        random.fill(request.as_mut_slice());
        let len = u32::try_from(request.len()).unwrap();
        if request.len() >= 24 && random.random_bool(0.9) {
            request[..4].copy_from_slice(&len.to_ne_bytes());
            let opcode: u32 = random.random_range(0..56);
            request[4..8].copy_from_slice(&opcode.to_ne_bytes());
            request[16..24].copy_from_slice(&random.random_range(0u64..6).to_ne_bytes());
        }
        let _ = kernel.raw(request, random.random_range(0..5000));
    }
}

#[test]
fn a_write_cannot_claim_more_than_it_brings() {
    let kernel = Kernel::new(Options::default());
    for size in [5, 1 << 20, u32::MAX] {
        let write = WriteIn {
            size,
            ..WriteIn::default()
        };
        let answer = kernel.call(opcode::WRITE, 1, &[write.as_bytes(), b"four"]);
        assert_eq!(answer, Err(libc::EINVAL), "{size}");
    }
}

#[test]
fn names_that_are_none_are_refused() {
    let kernel = Kernel::new(Options::default());
    let long = "x".repeat(256);
    for (name, errno) in [
        ("", libc::EINVAL),
        ("a/b", libc::EINVAL),
        (".", libc::EINVAL),
        ("..", libc::EINVAL),
        (long.as_str(), libc::ENAMETOOLONG),
    ] {
        for opcode in [opcode::UNLINK, opcode::RMDIR] {
            let answer = kernel.call(opcode, 1, &[&string(name)]);
            assert_eq!(answer, Err(errno), "opcode {opcode} of {name:?}");
        }
        let answer = kernel.call(opcode::MKDIR, 1, &[&[0; 8], &string(name)]);
        assert_eq!(answer, Err(errno), "mkdir {name:?}");
        let answer = kernel.call(opcode::RENAME, 1, &[&[0; 8], &string("a"), &string(name)]);
        assert_eq!(answer, Err(errno), "rename to {name:?}");
    }
}

#[test]
fn what_is_not_carried_out_says_so() {
    let kernel = Kernel::new(Options::default());
    for opcode in [
        opcode::GETLK,
        opcode::SETLK,
        opcode::SETLKW,
        opcode::ACCESS,
        opcode::INTERRUPT,
        opcode::BMAP,
        opcode::POLL,
        opcode::SETUPMAPPING,
        opcode::REMOVEMAPPING,
        0,
        7,
        53,
        u32::MAX,
    ] {
        assert_eq!(
            kernel.call(opcode, 1, &[&[0; 64]]),
            Err(libc::ENOSYS),
            "opcode {opcode}"
        );
    }
}
