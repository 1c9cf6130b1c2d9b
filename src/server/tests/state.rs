//! A mount that goes on with another server.

use rand::{Rng, SeedableRng};

use super::kernel::{Kernel, ROOT};
use crate::engine::{DatasetError, EngineError, RestorePath};
use crate::format::id::Ino;
use crate::fs::{CacheMode, Options};
use crate::server::consts::opcode;
use crate::server::state::{StateError, decodes_to_itself, made_stale, sealed};

const HEADER_BYTES: usize = 64;
const HASH_BYTES: usize = 32;

fn unlink(kernel: &Kernel, name: &str) {
    let name = super::kernel::string(name);
    kernel.call(opcode::UNLINK, ROOT, &[&name]).unwrap();
}

/// A kernel that has four files: one open and unlinked, one forgotten, one unlinked and forgotten.
fn mounted() -> (Kernel, [u64; 2]) {
    let kernel = Kernel::new(Options::default());
    let (named, _) = kernel.create("named", 0o644, 0).unwrap();
    kernel.lookup(ROOT, "named").unwrap();
    let (open, _) = kernel.create("open", 0o644, 0).unwrap();
    kernel.write(open.nodeid, 0, b"still here", 0).unwrap();
    unlink(&kernel, "open");
    let (forgotten, _) = kernel.create("forgotten", 0o644, 0).unwrap();
    let (gone, _) = kernel.create("gone", 0o644, 0).unwrap();
    unlink(&kernel, "gone");
    kernel.server.fs().forget(Ino(gone.nodeid), 1);
    kernel.server.fs().forget(Ino(forgotten.nodeid), 1);
    (kernel, [named.nodeid, open.nodeid])
}

#[test]
fn a_mount_goes_on_where_it_was() {
    let (kernel, [named, open]) = mounted();
    let state = kernel.server.save().unwrap();
    let session = kernel
        .server
        .session
        .load(std::sync::atomic::Ordering::Acquire);
    let kernel = kernel.served_anew(Options::default());
    kernel.server.restore(&state).unwrap();
    let fs = kernel.server.fs();
    let store = fs.volume().store();
    store.free_orphans_but(|_, ino| fs.knows(ino)).unwrap();
    // No INIT: what it agreed on holds.
    assert_eq!(
        kernel
            .server
            .session
            .load(std::sync::atomic::Ordering::Acquire),
        session
    );
    assert_eq!(kernel.read(open, 0, 100).unwrap(), b"still here");
    assert_eq!(fs.looked_up(), [(Ino(named), 2), (Ino(open), 1)]);
    // It is unlinked only now, and lives until it is forgotten as often as it was looked up.
    unlink(&kernel, "named");
    fs.forget(Ino(named), 1);
    kernel.getattr(named).unwrap();
    fs.forget(Ino(named), 1);
    assert_eq!(kernel.getattr(named).unwrap_err(), libc::ESTALE);
    fs.forget(Ino(open), 1);
    assert_eq!(kernel.getattr(open).unwrap_err(), libc::ESTALE);
}

#[test]
fn what_nobody_has_open_is_freed_once_that_is_known() {
    let (kernel, [_, open]) = mounted();
    // The other side knows nothing of it.
    let kernel = kernel.served_anew(Options::default());
    let volume = kernel.server.fs().volume();
    assert!(volume.has_no_name(Ino(open)).unwrap());
    volume.getattr(Ino(open)).unwrap();
    volume.store().free_orphans_but(|_, _| false).unwrap();
    let gone = volume.getattr(Ino(open)).unwrap_err();
    assert!(matches!(gone, EngineError::Stale), "{gone}");
    assert_eq!(volume.store().orphans_freed(), 1);
}

#[test]
fn a_guest_that_has_not_mounted_can_move_too() {
    let kernel = Kernel::without_session(Options::default());
    let state = kernel.server.save().unwrap();
    let kernel = kernel.served_anew(Options::default());
    kernel.server.restore(&state).unwrap();
    assert!(kernel.getattr(ROOT).is_err(), "there is no session");
    kernel.init(39, u64::MAX).unwrap();
    kernel.getattr(ROOT).unwrap();
}

/// Whatever it asks, and of whatever: all requests there are, and some that there are not.
#[test]
fn a_mount_that_is_stale_gets_nothing_until_it_begins_anew() {
    let (kernel, [named, open]) = mounted();
    let store = kernel.server.fs().volume().store().clone();
    store.snapshot("main@then").unwrap();
    let dir = kernel.lookup(ROOT, ".snapshots").unwrap().nodeid;
    let then = kernel.lookup(dir, "then").unwrap().nodeid;
    let state = made_stale(&kernel.server.save().unwrap()).unwrap();
    assert_eq!(decodes_to_itself(&state), Some(true));
    // It stays so from one process to the next.
    let mut kernel = kernel;
    for _ in 0..2 {
        kernel = kernel.served_anew(Options::default());
        kernel.server.restore(&state).unwrap();
        assert!(kernel.server.is_stale());
        assert_eq!(kernel.server.save().unwrap(), state);
        assert_eq!(made_stale(&state).unwrap(), state);
    }
    let silent = [
        opcode::INIT,
        opcode::DESTROY,
        opcode::FORGET,
        opcode::BATCH_FORGET,
        opcode::NOTIFY_REPLY,
    ];
    for code in (0..=60).chain([4096, u32::MAX]) {
        for node in [ROOT, named, open, dir, then, 12345, u64::MAX] {
            if !silent.contains(&code) {
                let answer = kernel.call(code, node, &[&[0; 64]]);
                assert_eq!(answer, Err(libc::ESTALE), "opcode {code} of {node:#x}");
            }
        }
    }
    kernel.forget(named, 1);
    kernel.init(39, u64::MAX).unwrap();
    assert!(!kernel.server.is_stale());
    kernel.lookup(ROOT, "named").unwrap();
    // Without a new session nothing is as before either, but it is unmounted.
    let kernel = kernel.served_anew(Options::default());
    kernel.server.restore(&state).unwrap();
    kernel.call(opcode::DESTROY, ROOT, &[]).unwrap();
    assert!(!kernel.server.is_stale());
    assert_eq!(kernel.getattr(ROOT).unwrap_err(), libc::ENOTCONN);
}

#[test]
fn what_was_not_mounted_is_not_made_stale() {
    assert!(made_stale(&[]).unwrap().is_empty());
    let kernel = Kernel::without_session(Options::default());
    let state = kernel.server.save().unwrap();
    assert_eq!(made_stale(&state).unwrap(), state);
    made_stale(b"no state").unwrap_err();
    // Nor does one that is stale know anything.
    let (kernel, _) = mounted();
    let mut state = kernel.server.save().unwrap();
    state.truncate(state.len() - HASH_BYTES);
    state[47] |= 0x40;
    let refused = kernel.server.restore(&sealed(state)).unwrap_err();
    assert!(matches!(refused, StateError::Malformed(_)), "{refused}");
}

#[test]
fn an_export_that_is_another_is_refused() {
    let (kernel, _) = mounted();
    let state = kernel.server.save().unwrap();
    let other = Kernel::new(Options::default());
    other
        .server
        .fs()
        .volume()
        .store()
        .create_dataset("b", (0, 0))
        .unwrap();
    let elsewhere = other.server.fs().volume().store().volume("b").unwrap();
    let elsewhere = crate::fs::FileSystem::new(elsewhere.into(), Options::default());
    let refused = crate::server::Server::new(elsewhere).restore(&state);
    assert!(matches!(refused, Err(StateError::OtherDataset { .. })));
    let kernel = kernel.served_anew(Options {
        cache: CacheMode::Always,
        read_only: true,
        ..Options::default()
    });
    let refused = kernel.server.restore(&state).unwrap_err().to_string();
    assert!(
        refused.contains("read-only") && refused.contains("--cache auto"),
        "{refused}"
    );
    assert!(kernel.server.fs().looked_up().is_empty());
}

/// A state of a few inodes, without what its hash covers being right.
fn body(kernel: &Kernel) -> Vec<u8> {
    let mut state = kernel.server.save().unwrap();
    state.truncate(state.len() - HASH_BYTES);
    state
}

#[test]
fn lies_are_refused_and_change_nothing() {
    let (kernel, _) = mounted();
    let body = body(&kernel);
    let kernel = kernel.served_anew(Options::default());
    let lie = |at: usize, bytes: &[u8]| {
        let mut body = body.clone();
        body[at..at + bytes.len()].copy_from_slice(bytes);
        kernel
            .server
            .restore(&sealed(body))
            .unwrap_err()
            .to_string()
    };
    assert!(lie(0, b"X").contains("begins"));
    assert!(lie(8, &2u32.to_le_bytes()).contains("version 2"));
    assert!(lie(12, &1u32.to_le_bytes()).contains("features 0x1"));
    assert!(lie(24, &[9; 16]).contains("dataset"));
    assert!(lie(40, &0u64.to_le_bytes()).contains("not mounted"));
    assert!(lie(40, &(1u64 << 63 | 1 << 61).to_le_bytes()).contains("not offered"));
    assert!(lie(48, &u32::MAX.to_le_bytes()).contains("write"));
    assert!(lie(52, &0u32.to_le_bytes()).contains("told"));
    assert!(lie(56, &u64::MAX.to_le_bytes()).contains("more inodes"));
    assert!(lie(56, &1u64.to_le_bytes()).contains("follows"));
    // An inode twice; one that nobody knows.
    assert!(lie(HEADER_BYTES + 2, &[0]).contains("twice"));
    assert!(lie(HEADER_BYTES + 1, &[0]).contains("twice"));
    let mut long = body.clone();
    long.truncate(HEADER_BYTES);
    long[56..64].copy_from_slice(&1000u64.to_le_bytes());
    long.extend([1, 1].repeat(1000));
    let refused = kernel.server.restore(&sealed(long)).unwrap_err();
    assert!(
        matches!(refused, StateError::TooMany { known: 1000, .. }),
        "{refused}"
    );
    assert!(kernel.server.fs().looked_up().is_empty());
}

#[test]
fn no_byte_can_change_unseen() {
    let (kernel, _) = mounted();
    let state = kernel.server.save().unwrap();
    let kernel = kernel.served_anew(Options::default());
    for at in 0..state.len() {
        let mut changed = state.clone();
        changed[at] ^= 1;
        assert!(kernel.server.restore(&changed).is_err(), "byte {at}");
        assert!(kernel.server.restore(&state[..at]).is_err(), "{at} bytes");
    }
    assert!(kernel.server.fs().looked_up().is_empty());
    kernel.server.restore(&state).unwrap();
}

#[test]
fn whatever_is_decoded_is_what_was_encoded() {
    let (kernel, _) = mounted();
    let body = body(&kernel);
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let mut taken = 0;
    for _ in 0..20_000 {
        let mut lie = body.clone();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..lie.len());
            lie[at] = rng.random();
        }
        if let Some(same) = decodes_to_itself(&sealed(lie)) {
            assert!(same);
            taken += 1;
        }
    }
    assert!(taken > 0);
}

#[test]
fn a_kernel_that_keeps_names_still_does() {
    let options = Options {
        cache: CacheMode::Always,
        ..Options::default()
    };
    let kernel = Kernel::new(options);
    kernel.create("file", 0o644, 0).unwrap();
    let store = kernel.server.fs().volume().store();
    store.snapshot("main@one").unwrap();
    let state = kernel.server.save().unwrap();
    let kernel = kernel.served_anew(options);
    kernel.server.restore(&state).unwrap();
    unlink(&kernel, "file");
    let store = kernel.server.fs().volume().store();
    // It would not see it.
    let back = RestorePath {
        snapshot: "main@one".into(),
        source: b"file".to_vec(),
        destination: b"file".to_vec(),
        replace: false,
    };
    let refused = store.restore_path(&back, &mut || true).unwrap_err();
    assert!(matches!(refused, DatasetError::Believed(_)), "{refused}");
    kernel.server.reset();
    store.restore_path(&back, &mut || true).unwrap();
}
