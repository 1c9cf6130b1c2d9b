//! What quotas and reservations do.

use super::*;
use crate::engine::{DatasetError, Settings, Store};
use crate::fsck;

/// Sets the quota of a dataset; 0 for none.
pub(super) fn set_quota(store: &Arc<Store>, name: &str, bytes: u64) -> Result<(), DatasetError> {
    let settings = Settings {
        quota_bytes: Some(bytes),
        ..Settings::default()
    };
    store.change_settings(name, settings)
}

fn reserve(store: &Arc<Store>, name: &str, bytes: u64) -> Result<(), DatasetError> {
    let settings = Settings {
        reservation_bytes: Some(bytes),
        ..Settings::default()
    };
    store.change_settings(name, settings)
}

fn two_datasets(capacity_bytes: u64) -> (SimMedia, Arc<Store>) {
    let sim = make_empty(capacity_bytes);
    let store = Arc::clone(open(&sim).store());
    store.create_dataset("other", (0, 0)).unwrap();
    (sim, store)
}

/// Writes pieces to a new file until one is refused: how many were not, and why it was.
fn fill(store: &Arc<Store>, dataset: &str, name: &str, len: usize) -> (u64, EngineError) {
    let volume = store.volume(dataset).unwrap();
    let ino = create(&volume, name);
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for count in 0..10_000 {
        let bytes: Vec<u8> = (0..len).map(|_| rng.random()).collect();
        if let Err(error) = try_write(&volume, ino, count * at(len), &bytes) {
            volume.fsync(ino, false).unwrap();
            return (count, error);
        }
    }
    panic!("nothing is refused");
}

fn remove(store: &Arc<Store>, dataset: &str, name: &str) {
    let volume = store.volume(dataset).unwrap();
    let gone = volume.unlink(Ino::ROOT, name.as_bytes()).unwrap();
    volume.reclaim(gone.ino).unwrap();
}

/// Bytes kept for all datasets.
fn kept(store: &Store) -> u64 {
    let kept = &store.data.kept_bytes;
    kept.load(crate::sync::atomic::Ordering::SeqCst)
}

fn is_full(error: &EngineError) -> bool {
    matches!(
        error,
        EngineError::Store(crate::store::StoreError::NoSpace(_))
    )
}

#[test]
fn what_is_unwritten_elsewhere_does_not_count() {
    let (_sim, store) = two_datasets(0);
    set_quota(&store, "other", 1 << 20).unwrap();
    let main = store.main().unwrap();
    let ino = create(&main, "f");
    write(&main, ino, 0, &vec![7; 2 << 20]);
    let (count, error) = fill(&store, "other", "f", 64 << 10);
    assert_eq!((count, error.to_string().as_str()), (16, "quota exceeded"));
    // At the limit, nothing needs room that gives some back or takes none.
    let other = store.volume("other").unwrap();
    let ino = other.lookup(Ino::ROOT, b"f").unwrap().ino;
    for written in [false, true] {
        if written {
            other.write_out(ino).unwrap();
        }
        write(&other, ino, 0, &vec![8; 1 << 20]);
        assert!(matches!(
            try_write(&other, ino, 1 << 20, b"x"),
            Err(EngineError::Quota)
        ));
    }
    let hole = Fallocate::PunchHole;
    other.fallocate(ino, 0, 1, hole).unwrap();
    write(&other, ino, 1 << 20, b"x");
    other.resize(ino, 1 << 19, &mut |_, _| Ok(())).unwrap();
    let how = Fallocate::Allocate { keep_size: true };
    let too_much = other.fallocate(ino, 0, (1 << 20) + 1, how);
    assert!(matches!(too_much, Err(EngineError::Quota)));
    assert_eq!(other.dataset.usage.used_bytes(), (1 << 19) - 1);
    other.fallocate(ino, 0, 1 << 20, how).unwrap();
    store.close().unwrap();
}

/// A write-out that fails, and one that is cut off, leave what is counted as it was.
#[test]
fn a_disk_that_fails_does_not_change_what_is_counted() {
    use crate::disk::sim::{Call, Fault};
    for count in 0..40 {
        let sim = make_empty(0);
        let volume = open(&sim);
        set_quota(volume.store(), "main", 1 << 20).unwrap();
        let ino = create(&volume, "f");
        for offset in 0..40 {
            write(&volume, ino, offset * 20_000, &[7; 10_000]);
        }
        sim.set_fault(Some(Fault {
            call: Call::Write,
            after: count,
            sticky: true,
            kind: std::io::ErrorKind::Other,
        }));
        let done = volume.write_out(ino).and_then(|()| volume.sync_all());
        let used = volume.dataset.usage.used_bytes();
        assert_eq!(used, 400_000, "after {count} writes");
        drop(volume);
        let sim = sim.killed();
        let volume = open(&sim);
        let used = volume.dataset.usage.used_bytes();
        assert!(used <= 400_000 && (done.is_err() || used == 400_000));
        volume.store().close().unwrap();
        assert_eq!(fsck::errors(&sim.media()).unwrap(), [""; 0]);
    }
}

#[test]
fn what_is_kept_for_a_dataset_no_other_gets() {
    let (sim, mut store) = two_datasets(16 << 20);
    reserve(&store, "other", 4 << 20).unwrap();
    for round in 0..2 {
        let free = |name: &str| store.volume(name).unwrap().free_bytes().unwrap();
        assert_eq!((free("main"), free("other")), (10 << 20, 16 << 20));
        let (count, error) = fill(&store, "main", "f", 64 << 10);
        assert!(is_full(&error), "{error}");
        assert!((10 * 16 - 1..=10 * 16).contains(&count), "{count}");
        // All of it, whatever the others do.
        let volume = store.volume("other").unwrap();
        let ino = create(&volume, "f");
        for offset in (0..4u64 << 20).step_by(64 << 10) {
            let mut rng = ChaCha8Rng::seed_from_u64(offset);
            let bytes: Vec<u8> = (0..64 << 10).map(|_| rng.random()).collect();
            write(&volume, ino, offset, &bytes);
            if offset % (1 << 20) == 0 {
                volume.write_out(ino).unwrap();
                assert_eq!(fill(&store, "main", "g", 1 << 20).0, 0);
                remove(&store, "main", "g");
            }
        }
        drop(volume);
        for (dataset, name) in [("main", "f"), ("other", "f")] {
            remove(&store, dataset, name);
        }
        store.checkpoint().unwrap();
        assert_eq!(kept(&store), 6 << 20);
        if round == 0 {
            store.close().unwrap();
            store = Arc::clone(open(&sim).store());
        }
    }
    store.delete("other", false).unwrap();
    store.reap(&|| false).unwrap();
    assert_eq!(store.main().unwrap().free_bytes().unwrap(), 16 << 20);
    store.close().unwrap();
    assert_eq!(fsck::errors(&sim.media()).unwrap(), [""; 0]);
}

#[test]
fn what_does_not_fit_is_not_kept() {
    let (sim, store) = two_datasets(16 << 20);
    let main = store.main().unwrap();
    let ino = create(&main, "f");
    write(&main, ino, 0, &vec![7; 4 << 20]);
    let refused = |done: Result<(), DatasetError>| match done {
        Err(DatasetError::NoRoom { more, free, .. }) => (more, free),
        other => panic!("{other:?}"),
    };
    let too_much = reserve(&store, "other", 12 << 20);
    assert_eq!(refused(too_much), (14 << 20, 12 << 20));
    assert_eq!(kept(&store), 0);
    reserve(&store, "other", 5 << 20).unwrap();
    // What it has used is its own.
    assert_eq!(
        refused(reserve(&store, "main", 9 << 20)),
        (7 << 20, 5 << 20)
    );
    reserve(&store, "main", 7 << 20).unwrap();
    assert_eq!(kept(&store), 12 << 20);
    let new = |name: &str, bytes: u64| {
        let settings = Settings {
            reservation_bytes: Some(bytes),
            ..Settings::default()
        };
        let made = store.create_dataset_with(name, (0, 0), settings);
        made.map(drop)
    };
    assert_eq!(refused(new("third", 1 << 20)), (3 << 20, 0));
    assert!(store.volume("third").is_err());
    reserve(&store, "other", 0).unwrap();
    new("third", 1 << 20).unwrap();
    assert_eq!(kept(&store), 8 << 20);
    // Not above its quota, whichever comes first.
    let above = set_quota(&store, "third", 1000).unwrap_err();
    assert!(
        above.to_string().contains("larger than its quota"),
        "{above}"
    );
    for bytes in [1 << 62, (1 << 62) + 1, u64::MAX] {
        assert!(reserve(&store, "main", bytes).is_err(), "{bytes}");
        assert_eq!(kept(&store), 8 << 20);
    }
    // Neither goes with a copy.
    store.clone_dataset("third", "copy").unwrap();
    store.snapshot("third@then").unwrap();
    let all = store.list().unwrap().into_iter();
    let all: Vec<_> = all
        .map(|info| (info.name, info.reservation_bytes))
        .collect();
    let named = |name: &str, bytes| (name.to_owned(), bytes);
    assert_eq!(
        all,
        [
            named("main", 7 << 20),
            named("other", 0),
            named("third", 1 << 20),
            named("copy", 0),
            named("third@then", 0),
        ]
    );
    store.delete("third", true).unwrap();
    assert_eq!(kept(&store), 5 << 20);
    drop(main);
    store.close().unwrap();
    let store = Arc::clone(open(&sim).store());
    assert_eq!(kept(&store), 5 << 20);
    assert!(fsck::errors(&sim.media()).unwrap().is_empty());
}

#[test]
fn df_tells_of_the_quota() {
    let (_sim, store) = two_datasets(16 << 20);
    let stat = |name: &str| store.volume(name).unwrap().statfs().unwrap();
    let blocks = |name: &str| {
        let stat = stat(name);
        let block = u64::from(stat.block_bytes);
        [stat.blocks, stat.blocks_free, stat.blocks_available].map(|blocks| (blocks * block) >> 20)
    };
    assert_eq!(blocks("other"), [16, 16, 16]);
    let settings = Settings {
        quota_bytes: Some(10 << 20),
        quota_inodes: Some(100),
        ..Settings::default()
    };
    store.change_settings("other", settings).unwrap();
    let other = store.volume("other").unwrap();
    let ino = create(&other, "f");
    write(&other, ino, 0, &vec![7; 3 << 20]);
    assert_eq!(blocks("other"), [10, 7, 7], "unwritten bytes too");
    let files = stat("other");
    assert_eq!((files.files, files.files_free), (100, 98));
    // The store has less than the quota leaves.
    let main = store.main().unwrap();
    let ino = create(&main, "f");
    write(&main, ino, 0, &vec![7; 9 << 20]);
    assert_eq!(blocks("other"), [10, 7, 4]);
    main.write_out(ino).unwrap();
    assert_eq!(blocks("main"), [13, 4, 4]);
    // Below what is used.
    set_quota(&store, "other", 1 << 20).unwrap();
    assert_eq!(blocks("other"), [3, 0, 0]);
    store.clone_dataset("other", "copy").unwrap();
    assert_eq!(blocks("copy"), [7, 4, 4], "no quota goes with it");
}

/// A store without a size, on a disk that others fill: what is kept is on the disk already.
#[test]
fn what_is_kept_is_there_on_a_full_disk() {
    let (sim, store) = two_datasets(0);
    reserve(&store, "other", 8 << 20).unwrap();
    store.checkpoint().unwrap();
    sim.set_capacity(Some(sim.allocated() + (3 << 20)));
    let (_, error) = fill(&store, "main", "f", 64 << 10);
    assert!(is_full(&error), "{error}");
    let other = store.volume("other").unwrap();
    let ino = create(&other, "f");
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for offset in (0..8u64 << 20).step_by(64 << 10) {
        let bytes: Vec<u8> = (0..64 << 10).map(|_| rng.random()).collect();
        write(&other, ino, offset, &bytes);
    }
    other.fsync(ino, false).unwrap();
    drop(other);
    let none = reserve(&store, "main", 64 << 20);
    assert!(matches!(none, Err(DatasetError::NoRoom { .. })), "{none:?}");
    store.close().unwrap();
    assert_eq!(fsck::errors(&sim.media()).unwrap(), [""; 0]);
}

/// Restoring changes what is used, with nothing written.
#[test]
fn what_is_restored_counts_and_what_is_kept_follows() {
    let (sim, store) = two_datasets(32 << 20);
    let other = store.volume("other").unwrap();
    let ino = create(&other, "f");
    write(&other, ino, 0, &vec![7; 6 << 20]);
    drop(other);
    store.snapshot("other@full").unwrap();
    let other = store.volume("other").unwrap();
    other.resize(ino, 1 << 20, &mut |_, _| Ok(())).unwrap();
    drop(other);
    store.snapshot("other@less").unwrap();
    reserve(&store, "other", 8 << 20).unwrap();
    set_quota(&store, "other", 8 << 20).unwrap();
    for (snapshot, used) in [("other@full", 6), ("other@less", 1), ("other@full", 6)] {
        store.restore(snapshot).unwrap();
        assert_eq!(kept(&store), (8 - used + 2) << 20);
        let other = store.volume("other").unwrap();
        assert_eq!(other.dataset.usage.used_bytes(), used << 20);
        let too_much = try_write(&other, ino, used << 20, &vec![7; 9 << 20]);
        assert!(matches!(too_much, Err(EngineError::Quota)));
        let rest = usize::try_from(8 - used).unwrap() << 20;
        write(&other, ino, used << 20, &vec![7; rest]);
    }
    // More than the quota, which was made smaller since.
    let none = reserve(&store, "other", 0);
    none.and_then(|()| set_quota(&store, "other", 2 << 20))
        .unwrap();
    store.restore("other@full").unwrap();
    let other = store.volume("other").unwrap();
    assert!(matches!(
        try_write(&other, ino, 6 << 20, b"x"),
        Err(EngineError::Quota)
    ));
    write(&other, ino, 0, b"x");
    assert_eq!(kept(&store), 0);
    drop(other);
    store.close().unwrap();
    assert_eq!(fsck::errors(&sim.media()).unwrap(), [""; 0]);
}
