//! Two kernels on one volume, whose requests race: what one has just found or made, the other cannot
//! free.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use razorfs::disk::sim::SimMedia;
use razorfs::engine::{Cred, MkfsOptions, NewInode, OpenOptions, Time, Volume, WriteFlags, mkfs};
use razorfs::format::id::Ino;
use razorfs::fs::{Export, FileSystem, Open};

/// How long each race is run.
const RACE: Duration = Duration::from_secs(4);

fn two_kernels() -> (FileSystem, FileSystem) {
    let clock = || -> razorfs::engine::Clock { Arc::new(|| Time { sec: 1, nsec: 2 }) };
    let sim = SimMedia::new();
    let format = MkfsOptions {
        log_bytes: 64 << 20,
        ..MkfsOptions::reproducible()
    };
    mkfs(sim.media(), &format, &clock()).unwrap();
    let volume = Volume::open_media(sim.media(), OpenOptions::default(), clock()).unwrap();
    let export = Export::new(volume);
    let options = razorfs::fs::Options::default();
    (export.kernel(options), export.kernel(options))
}

fn new() -> NewInode<'static> {
    NewInode {
        mode: libc::S_IFREG | 0o644,
        umask: 0,
        rdev: 0,
        xattrs: &[],
        supplementary_gid: None,
    }
}

const OPEN: Open = Open {
    flags: libc::O_RDWR | libc::O_CREAT,
    killed_by: None,
};

fn plain() -> WriteFlags {
    WriteFlags {
        append: false,
        sync: false,
        killed_by: None,
        taken: false,
    }
}

/// Runs `a` for some seconds while `b` does its thing again and again.
fn against(mut a: impl FnMut() -> Option<String>, b: impl Fn() + Sync) -> Vec<String> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    b();
                }
            });
        }
        let since = Instant::now();
        let mut failed = Vec::new();
        let mut rounds = 0u64;
        while since.elapsed() < RACE && failed.len() < 5 {
            failed.extend(a());
            rounds += 1;
        }
        over.store(true, Ordering::Relaxed);
        println!("{rounds} rounds");
        failed
    })
}

#[test]
fn what_one_has_created_another_cannot_free() {
    let (a, b) = two_kernels();
    let failed = against(
        || {
            let (attr, _) = a
                .create(Cred::default(), Ino::ROOT, b"f", &new(), OPEN)
                .ok()?;
            let mut data: &[u8] = b"data";
            let written = a.write(attr.ino, 0, 4, &mut data, plain());
            a.forget(attr.ino, 1);
            written.err().map(|error| error.to_string())
        },
        || drop(b.unlink(Ino::ROOT, b"f")),
    );
    assert!(
        failed.is_empty(),
        "a file just created and open: {failed:?}"
    );
}

#[test]
fn creating_does_not_say_that_there_is_no_such_file() {
    let (a, b) = two_kernels();
    let failed = against(
        || match a.create(Cred::default(), Ino::ROOT, b"f", &new(), OPEN) {
            Ok((attr, _)) => {
                a.forget(attr.ino, 1);
                None
            }
            Err(error) => Some(error.to_string()),
        },
        || {
            if let Ok((attr, _)) = b.create(Cred::default(), Ino::ROOT, b"f", &new(), OPEN) {
                b.forget(attr.ino, 1);
            }
            drop(b.unlink(Ino::ROOT, b"f"));
        },
    );
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn a_forget_of_what_one_does_not_know_frees_nothing() {
    let (a, b) = two_kernels();
    let last = AtomicU64::new(2);
    let failed = against(
        || {
            let (attr, _) = a.tmpfile(Cred::default(), Ino::ROOT, &new()).ok()?;
            let mut data: &[u8] = b"data";
            let written = a.write(attr.ino, 0, 4, &mut data, plain());
            last.store(attr.ino.0, Ordering::Relaxed);
            a.forget(attr.ino, 1);
            written.err().map(|error| error.to_string())
        },
        || b.forget(Ino(last.load(Ordering::Relaxed) + 1), 1),
    );
    assert!(failed.is_empty(), "a file just made and open: {failed:?}");
}

#[test]
fn two_that_let_go_at_once_free_it_once() {
    const ROUNDS: u64 = 3000;
    let (a, b) = two_kernels();
    let barrier = std::sync::Barrier::new(2);
    let ino = AtomicU64::new(0);

    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                barrier.wait();
                b.forget(Ino(ino.load(Ordering::SeqCst)), 1);
                barrier.wait();
            }
        });
        for round in 0..ROUNDS {
            let (attr, _) = a
                .create(Cred::default(), Ino::ROOT, b"f", &new(), OPEN)
                .unwrap();
            let bytes = vec![7u8; 70_000];
            let mut data: &[u8] = &bytes;
            a.write(attr.ino, 0, bytes.len(), &mut data, plain())
                .unwrap();
            if round % 16 == 0 {
                a.syncfs().unwrap();
            }
            b.lookup(Ino::ROOT, b"f").unwrap();
            a.unlink(Ino::ROOT, b"f").unwrap();
            ino.store(attr.ino.0, Ordering::SeqCst);
            barrier.wait();
            a.forget(attr.ino, 1);
            barrier.wait();
            assert!(!a.volume().is_orphan(attr.ino), "round {round}");
            assert!(a.volume().getattr(attr.ino).is_err(), "round {round}");
        }
    });
    a.volume().store().close().unwrap();
}
