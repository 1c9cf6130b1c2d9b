//! What else is done to a dataset that streams are received into: restoring, promoting, limits.

use super::*;
use crate::engine::{EngineError, Fallocate, FsXattr, SetAttr, Settings};

fn sent() -> (World, World) {
    let (from, to) = (World::new(1), World::new(2));
    let file = from.make(ROOT, "file", FILE);
    from.write(file, 0, &[7; 500_000]);
    from.snapshot("main@a");
    to.receive("copy", &from.stream("main@a", None)).unwrap();
    (from, to)
}

/// Makes a file in `copy`.
fn make_in_copy(world: &World, name: &str) {
    let copy = world.volume("copy");
    copy.create(Cred::default(), ROOT, name.as_bytes(), &new(FILE))
        .unwrap();
}

#[test]
fn what_was_restored_goes_on_receiving() {
    let (from, mut to) = sent();
    for at in 0..20 {
        make_in_copy(&to, &format!("mistake{at}"));
    }
    to.store.restore("copy@a").unwrap();
    let mut base = "main@a".to_owned();
    for name in ["b", "c", "d"] {
        from.make(ROOT, name, FILE);
        let next = format!("main@{name}");
        from.snapshot(&next);
        to.receive("copy", &from.stream(&next, Some(&base)))
            .unwrap();
        base = next;
        to.reopen();
        assert_eq!(to.tree("copy"), from.tree("main"), "{name}");
    }
    // Numbers that were given before the restore do not come again.
    make_in_copy(&to, "own");
    let own = to.volume("copy").lookup(ROOT, b"own").unwrap().ino;
    assert!(own.0 > 22, "{own}");
    // And back.
    to.snapshot("copy@e");
    let back = to.stream("copy@e", Some("copy@d"));
    from.receive("main", &back).unwrap();
    assert_eq!(from.tree("main"), to.tree("copy"));
}

#[test]
fn a_quota_that_is_raised_lets_a_receive_go_on() {
    let (from, to) = sent();
    let more = from.make(ROOT, "more", FILE);
    let bytes: Vec<u8> = (0..400_000u32)
        .map(|at| (at.wrapping_mul(at) / 77) as u8)
        .collect();
    from.write(more, 0, &bytes);
    from.snapshot("main@b");
    let quota = |bytes| Settings {
        quota_bytes: Some(bytes),
        ..Settings::default()
    };
    to.store.change_settings("copy", quota(600_000)).unwrap();
    let stream = from.stream("main@b", Some("main@a"));
    let refused = to.receive("copy", &stream).unwrap_err();
    assert!(
        matches!(
            refused,
            StreamError::Store {
                source: DatasetError::Engine(EngineError::Quota),
                ..
            }
        ),
        "{refused}"
    );
    assert_eq!(to.tree("copy"), from.tree("main@a"));
    to.store.change_settings("copy", quota(1_000_000)).unwrap();
    let state = to.store.receive_record("copy").unwrap().unwrap();
    to.receive("copy", &from.rest(&state)).unwrap();
    assert_eq!(to.tree("copy"), from.tree("main@b"));
    assert_eq!(to.store.find("copy").unwrap().quota_bytes, 1_000_000);
}

#[test]
fn what_is_kept_is_right_behind_a_receive() {
    let (from, mut to) = sent();
    let reserve = Settings {
        reservation_bytes: Some(2_000_000),
        ..Settings::default()
    };
    to.store.change_settings("copy", reserve).unwrap();
    let more = from.make(ROOT, "more", FILE);
    from.write(more, 0, &[3; 400_000]);
    let keep = Fallocate::Allocate { keep_size: true };
    from.volume("main")
        .fallocate(more, 500_000, 70_000, keep)
        .unwrap();
    from.snapshot("main@b");
    let kept = |world: &World| world.store.sums_for_tests();
    to.receive("copy", &from.stream("main@b", Some("main@a")))
        .unwrap();
    let before = kept(&to);
    to.reopen();
    assert_eq!(kept(&to), before);
    // Less again, and while the dataset is known.
    let set = SetAttr {
        size: Some(0),
        ..SetAttr::default()
    };
    from.volume("main").setattr(more, &set).unwrap();
    from.snapshot("main@c");
    drop(to.volume("copy"));
    to.receive("copy", &from.stream("main@c", Some("main@b")))
        .unwrap();
    let before = kept(&to);
    to.reopen();
    assert_eq!(kept(&to), before);
}

/// What others have filled is no matter to a dataset that has space reserved, and what is received
/// for it takes from there: cut off and gone on with, too.
#[test]
fn what_is_reserved_is_there_for_what_is_received() {
    let from = World::new(1);
    from.make(ROOT, "file", FILE);
    from.snapshot("main@a");
    let mut to = World::with(MkfsOptions {
        uuid: [2; 16],
        capacity_bytes: 24 << 20,
        ..MkfsOptions::reproducible()
    });
    to.receive("copy", &from.stream("main@a", None)).unwrap();
    to.receive("other", &from.stream("main@a", None)).unwrap();
    let reserve = Settings {
        reservation_bytes: Some(6 << 20),
        ..Settings::default()
    };
    to.store.change_settings("copy", reserve).unwrap();
    fill(&to);
    let more = from.make(ROOT, "more", FILE);
    let bytes: Vec<u8> = (0..4u32 << 20).map(|at| (at / 7 * 5) as u8).collect();
    from.write(more, 0, &bytes);
    from.snapshot("main@b");
    let stream = from.stream("main@b", Some("main@a"));
    let refused = error_of(to.receive("other", &stream));
    assert!(refused.contains("size is used up"), "{refused}");
    to.store.abort_receive("other").unwrap();

    let cut = &stream[..stream.len() / 2];
    to.receive("copy", cut).unwrap_err();
    // Others get nothing of what is left.
    fill(&to);
    to.reopen();
    fill(&to);
    let state = to.store.receive_record("copy").unwrap().unwrap();
    to.receive("copy", &from.rest(&state)).unwrap();
    assert_eq!(to.tree("copy"), from.tree("main@b"));
    fill(&to);
    let before = to.store.sums_for_tests();
    to.reopen();
    assert_eq!(to.store.sums_for_tests(), before);
    // And no more than what is reserved.
    for (name, len) in [("fits", 1 << 20), ("does not", 4 << 20)] {
        let file = from.make(ROOT, name, FILE);
        from.write(file, 0, &bytes[..len]);
    }
    from.snapshot("main@c");
    let refused = error_of(to.receive("copy", &from.stream("main@c", Some("main@b"))));
    assert!(refused.contains("size is used up"), "{refused}");
    to.store.abort_receive("copy").unwrap();
    to.store.reap(&|| false).unwrap();
    assert_eq!(to.store.sums_for_tests(), before);
}

/// Writes to `main` until there is no space for it.
fn fill(world: &World) {
    let main = world.volume("main");
    let name = format!("filler {}", world.store.now().sec);
    let made = main.create(Cred::default(), ROOT, name.as_bytes(), &new(FILE));
    let ino = made.unwrap().ino;
    for at in 0.. {
        let bytes = [(at % 251) as u8 + 1; 64 << 10];
        let mut source = &bytes[..];
        let flags = WriteFlags::default();
        let offset = at * bytes.len() as u64;
        if let Err(error) = main.write(ino, offset, bytes.len(), &mut source, flags) {
            assert!(error.to_string().contains("size is used up"), "{error}");
            break;
        }
    }
    main.fsync(ino, false).unwrap();
}

/// What projects have is counted where it arrives, whoever began; limits of the target's own would be
/// lost.
#[test]
fn a_limit_set_on_the_target_is_a_change() {
    let (from, mut to) = sent();
    let fsx = FsXattr {
        xflags: 0,
        projid: 7,
    };
    from.volume("main").set_fsxattr(ROOT, fsx).unwrap();
    from.snapshot("main@b");
    let refused = "it has changed since its newest snapshot";
    let stream = from.stream("main@b", Some("main@a"));
    let limit = |bytes| ProjectLimit { bytes, inodes: 0 };
    to.store.limit_project("copy", 7, limit(5)).unwrap();
    assert_eq!(refusal(to.receive("copy", &stream)), refused);
    // That it is counted here is none.
    to.store.limit_project("copy", 7, limit(0)).unwrap();
    to.receive("copy", &stream).unwrap();
    assert_eq!(to.tree("copy"), from.tree("main@b"));
    // Counting begins on the other side, and goes on here.
    let store = Arc::clone(&from.store);
    store.limit_project("main", 7, limit(1 << 30)).unwrap();
    from.make(ROOT, "more", FILE);
    from.snapshot("main@c");
    let stream = from.stream("main@c", Some("main@b"));
    to.receive("copy", &stream).unwrap();
    to.reopen();
    let projects = |world: &World, name: &str| world.volume(name).projects().unwrap();
    assert_eq!(projects(&to, "copy"), projects(&from, "main@c"));
    assert_eq!(projects(&to, "copy").len(), 1);
}

#[test]
fn reservations_behind_a_shorter_end_arrive() {
    let (from, to) = (World::new(1), World::new(2));
    let file = from.make(ROOT, "file", FILE);
    let keep = Fallocate::Allocate { keep_size: true };
    let main = from.volume("main");
    from.write(file, 0, &[7; 100_000]);
    main.fallocate(file, 131_072, 131_072, keep).unwrap();
    from.snapshot("main@a");
    to.receive("copy", &from.stream("main@a", None)).unwrap();
    let set = SetAttr {
        size: Some(50_000),
        ..SetAttr::default()
    };
    main.setattr(file, &set).unwrap();
    main.fallocate(file, 131_072, 131_072, keep).unwrap();
    drop(main);
    from.snapshot("main@b");
    to.receive("copy", &from.stream("main@b", Some("main@a")))
        .unwrap();
    assert_eq!(to.tree("copy"), from.tree("main"));
}

#[test]
fn what_is_being_received_is_nobodys() {
    let (from, to) = sent();
    let stream = from.stream("main@a", None);
    let at = records(&stream)[4].0;
    to.receive("other", &stream[..at]).unwrap_err();
    let hidden = "%other";
    let is_missing = |error: DatasetError| {
        matches!(error, DatasetError::NotFound(_) | DatasetError::Name { .. })
    };
    assert!(is_missing(to.store.find(hidden).unwrap_err()));
    let settings = [
        Settings {
            compression: Some("lz4".parse().unwrap()),
            ..Settings::default()
        },
        Settings {
            quota_bytes: Some(1),
            ..Settings::default()
        },
    ];
    for settings in settings {
        let set = to.store.change_settings(hidden, settings);
        assert!(is_missing(set.unwrap_err()));
    }
    assert!(is_missing(to.store.snapshot("%other@x").unwrap_err()));
    assert!(is_missing(to.store.clone_dataset(hidden, "x").unwrap_err()));
    assert!(is_missing(to.store.rename(hidden, "x").unwrap_err()));
    assert!(is_missing(to.store.rename("copy", hidden).unwrap_err()));
    assert!(is_missing(to.store.promote(hidden).unwrap_err()));
    assert!(is_missing(to.store.restore("%other@x").unwrap_err()));
    assert!(is_missing(
        to.store.diff(hidden, "copy", &mut || true).unwrap_err()
    ));
    let state = to.store.receive_record("other").unwrap().unwrap();
    to.receive("other", &from.rest(&state)).unwrap();
}

/// Of what needs the dataset or the snapshot that it began with nothing is left when that goes.
#[test]
fn what_was_received_goes_with_its_dataset() {
    let (from, mut to) = sent();
    from.make(ROOT, "more", FILE);
    from.snapshot("main@b");
    let stream = from.stream("main@b", Some("main@a"));
    let cut = stream.len() * 2 / 3;
    to.receive("copy", &stream[..cut]).unwrap_err();
    // One for a dataset that is not there, which would be in the way, and needs none.
    to.receive("other", &from.stream("main@a", None)[..cut])
        .unwrap_err();
    let taken = to.store.rename("copy", "other").unwrap_err();
    assert!(taken.to_string().contains("drop one"), "{taken}");
    to.store.rename("copy", "new").unwrap();
    assert!(to.store.receive_record("copy").unwrap().is_none());
    let state = to.store.receive_record("new").unwrap().unwrap();
    to.receive("new", &from.rest(&state)).unwrap();
    assert_eq!(to.tree("new"), from.tree("main"));

    from.make(ROOT, "most", FILE);
    from.snapshot("main@c");
    let stream = from.stream("main@c", Some("main@b"));
    to.receive("third", &from.stream("main@b", None)).unwrap();
    to.receive("third", &stream[..cut]).unwrap_err();
    to.store.delete("third", true).unwrap();
    assert!(to.store.receive_record("third").unwrap().is_none());
    // It goes on from b.
    to.receive("new", &stream[..cut]).unwrap_err();
    to.store.delete("new@a", false).unwrap();
    let state = to.store.receive_record("new").unwrap().unwrap();
    to.receive("new", &from.rest(&state)).unwrap();
    to.store.delete("new@c", false).unwrap();
    to.store.restore("new@b").unwrap();
    to.receive("new", &stream[..cut]).unwrap_err();
    to.store.delete("new@b", false).unwrap();
    assert!(to.store.receive_record("new").unwrap().is_none());
    let missing = to.receive("new", &stream).unwrap_err();
    assert!(missing.to_string().contains("based on"), "{missing}");
    to.store.delete("new", false).unwrap();
    to.store.create_dataset("other", (0, 0)).unwrap();
    to.store.rename("other", "else").unwrap();
    to.store.rename("else", "other").unwrap();
    to.store.delete("other", false).unwrap();
    to.store.abort_receive("other").unwrap();
    to.store.reap(&|| false).unwrap();
    to.reopen();
    assert_eq!(to.names(), ["main"]);
    assert_eq!(to.store.sums_for_tests(), (0, 0));
    assert_eq!(to.store.units_used_for_tests(), 0);
}

#[test]
fn a_promoted_clone_takes_streams_and_gives_them() {
    let (from, mut to) = sent();
    to.store.clone_dataset("copy@a", "clone").unwrap();
    to.store.promote("clone").unwrap();
    from.make(ROOT, "more", FILE);
    from.snapshot("main@b");
    let stream = from.stream("main@b", Some("main@a"));
    to.receive("copy", &stream).unwrap_err();
    to.receive("clone", &stream).unwrap();
    assert_eq!(to.names(), ["clone", "clone@a", "clone@b", "copy", "main"]);
    assert_eq!(to.tree("clone"), from.tree("main"));
    assert_eq!(to.tree("copy"), from.tree("main@a"));
    to.reopen();
    // Back to the older one, with the newer one there, and on from it.
    to.store.restore("clone@a").unwrap();
    from.store.restore("main@a").unwrap();
    from.make(ROOT, "another", FILE);
    from.snapshot("main@c");
    to.receive("clone", &from.stream("main@c", Some("main@a")))
        .unwrap();
    assert_eq!(to.tree("clone"), from.tree("main"));
    to.reopen();
    // A deleted snapshot, and one of a clone that nobody sees, stand between.
    to.snapshot("clone@x");
    to.store.clone_dataset("clone", "second").unwrap();
    to.store.delete("clone@x", false).unwrap();
    from.make(ROOT, "last", FILE);
    from.snapshot("main@d");
    to.receive("clone", &from.stream("main@d", Some("main@c")))
        .unwrap();
    assert_eq!(to.tree("clone"), from.tree("main"));
    to.reopen();
    assert_eq!(to.tree("clone"), from.tree("main"));
}

/// Whether it could be done.
type Act = fn(&World) -> bool;

/// What may be done to the target of a receive that is under way.
const MEANWHILE: [(&str, Act); 12] = [
    ("rename", |to| to.store.rename("copy", "moved").is_err()),
    ("delete", |to| to.store.delete("copy", true).is_err()),
    ("delete the base", |to| {
        to.store.delete("copy@a", false).is_err()
    }),
    ("restore", |to| to.store.restore("copy@a").is_ok()),
    ("snapshot", |to| to.store.snapshot("copy@x").is_ok()),
    ("clone", |to| to.store.clone_dataset("copy", "x").is_ok()),
    ("promote", |to| {
        to.store.clone_dataset("copy@a", "x").is_ok() && to.store.promote("x").is_ok()
    }),
    ("rename the base", |to| {
        to.store.rename("copy@a", "copy@x").is_ok()
    }),
    ("hold", |to| to.store.hold("copy@a").is_ok()),
    ("abort", |to| to.store.abort_receive("copy").is_err()),
    ("checkpoint", |to| to.store.checkpoint().is_ok()),
    ("change", |to| {
        make_in_copy(to, "own");
        true
    }),
];

#[test]
fn whatever_is_done_meanwhile_nothing_is_lost() {
    for (what, act) in MEANWHILE {
        let (from, mut to) = sent();
        let more = from.make(ROOT, "more", FILE);
        from.write(more, 0, &[3; 300_000]);
        let keep = Fallocate::Allocate { keep_size: true };
        from.volume("main")
            .fallocate(more, 500_000, 70_000, keep)
            .unwrap();
        from.snapshot("main@b");
        let reserve = Settings {
            reservation_bytes: Some(2_000_000),
            ..Settings::default()
        };
        to.store.change_settings("copy", reserve).unwrap();
        let stream = from.stream("main@b", Some("main@a"));
        let mut watch = |progress: Progress| {
            if progress.records == 3 {
                assert!(act(&to), "{what}");
            }
            ControlFlow::Continue(())
        };
        let done = receive(&to.store, ("copy", None), stream.as_slice(), &mut watch);
        let sums = to.store.sums_for_tests();
        to.reopen();
        assert_eq!(to.store.sums_for_tests(), sums, "{what}");
        if done.is_ok() {
            assert_eq!(to.tree("copy"), from.tree("main"), "{what}");
        } else {
            to.store.abort_receive("copy").unwrap();
        }
        for name in ["x", "copy", "moved"] {
            if to.store.find("copy@a").is_ok_and(|found| found.held) {
                to.store.release("copy@a").unwrap();
            }
            let _ = to.store.delete(name, true);
        }
        assert_eq!(to.names(), ["main"], "{what}");
        to.store.reap(&|| false).unwrap();
        to.reopen();
        assert_eq!(to.store.sums_for_tests(), (0, 0), "{what}");
        assert_eq!(to.store.units_used_for_tests(), 0, "{what}");
    }
}

#[test]
fn what_the_log_has_of_a_number_does_not_come_into_a_received_file() {
    for how in 0..3 {
        let (from, to) = sent();
        let copy = to.volume("copy");
        let made = copy.create(Cred::default(), ROOT, b"own", &new(FILE));
        let own = made.unwrap().ino;
        let flags = WriteFlags::default();
        copy.write(own, 0, 5000, &mut &[9; 5000][..], flags)
            .unwrap();
        copy.fsync(own, false).unwrap();
        if how == 1 {
            copy.unlink(ROOT, b"own").unwrap();
            copy.reclaim(own).unwrap();
        }
        if how == 2 {
            let set = SetAttr {
                size: Some(0),
                ..SetAttr::default()
            };
            copy.setattr(own, &set).unwrap();
        }
        drop(copy);
        to.store.restore("copy@a").unwrap();
        // Another of the same number.
        let other = from.make(ROOT, "other", FILE);
        assert_eq!(other, own);
        from.write(other, 0, &[1; 20_000]);
        from.snapshot("main@b");
        to.receive("copy", &from.stream("main@b", Some("main@a")))
            .unwrap();
        let killed = to.copy();
        assert_eq!(killed.tree("copy"), from.tree("main"), "{how}");
        assert_eq!(killed.tree("copy@b"), from.tree("main"), "{how}");
    }
}
