//! What the kernel may keep, and for how long.

use super::kernel::{Kernel, ROOT};
use crate::fs::{CacheMode, Options};
use crate::server::consts::WRITE_KILL_SUIDGID;

#[test]
fn names_that_are_not_there_may_be_remembered() {
    let kernel = Kernel::new(Options::default());
    let none = kernel.lookup(ROOT, "none").unwrap();
    assert_eq!((none.nodeid, none.entry_valid), (0, 1));
    let options = Options {
        cache: CacheMode::Never,
        ..Options::default()
    };
    let kernel = Kernel::new(options);
    assert_eq!(kernel.lookup(ROOT, "none").unwrap_err(), libc::ENOENT);
}

#[test]
fn the_cache_mode_sets_timeouts_and_open_flags() {
    for (cache, seconds, flags) in [
        (CacheMode::Auto, 1, 0x40),
        (CacheMode::Always, 86_400, 0x42),
        (CacheMode::Metadata, 86_400, 0x41),
        (CacheMode::Never, 0, 0x41),
    ] {
        let kernel = Kernel::new(Options {
            cache,
            ..Options::default()
        });
        let (file, open) = kernel.create("file", 0o644, 0).unwrap();
        assert_eq!((file.attr_valid, file.entry_valid), (seconds, seconds));
        assert_eq!(open.open_flags, flags);
    }
}

#[test]
fn a_mode_that_a_write_may_change_is_not_believed() {
    const DAY: u64 = 86_400;
    let kernel = Kernel::new(Options {
        cache: CacheMode::Always,
        ..Options::default()
    });
    for (name, mode, wanted) in [
        ("plain", 0o755, DAY),
        ("suid", 0o4755, 0),
        ("sgid", 0o2755, 0),
        ("both", 0o6755, 0),
    ] {
        let (entry, _) = kernel.create(name, mode, 0).unwrap();
        assert_eq!((entry.entry_valid, entry.attr_valid), (DAY, wanted));
        let found = kernel.lookup(ROOT, name).unwrap();
        assert_eq!((found.entry_valid, found.attr_valid), (DAY, wanted));
        assert_eq!(kernel.getattr(entry.nodeid).unwrap().attr_valid, wanted);
        kernel
            .write(entry.nodeid, 0, b"x", WRITE_KILL_SUIDGID)
            .unwrap();
        let after = kernel.getattr(entry.nodeid).unwrap();
        // For a second: what it takes changes when the byte is written out.
        assert_eq!((after.attr.mode & 0o7777, after.attr_valid), (0o755, 1));
    }
}

#[test]
fn that_a_name_is_not_there_is_believed_where_nobody_else_can_make_it() {
    let negative = |cache, shared| {
        let kernel = Kernel::new(Options {
            cache,
            shared,
            ..Options::default()
        });
        let found = kernel.lookup(ROOT, "missing");
        found.map(|entry| (entry.nodeid, entry.entry_valid))
    };
    assert_eq!(negative(CacheMode::Always, false), Ok((0, 86_400)));
    assert_eq!(negative(CacheMode::Auto, false), Ok((0, 1)));
    assert_eq!(negative(CacheMode::Never, false), Err(libc::ENOENT));
    for cache in [CacheMode::Always, CacheMode::Auto] {
        assert_eq!(negative(cache, true), Err(libc::ENOENT));
    }
}
