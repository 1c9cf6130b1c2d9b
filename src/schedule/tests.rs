//! Schedules on a store in memory, with clocks of their own.

use std::sync::Arc;
use std::time::Duration;

use super::due::Moment;
use super::names::name_of;
use super::{Keep, Schedule, Which, Work};
use crate::disk::sim::{Call, Fault, SimMedia};
use crate::engine::{
    Clock, Cred, MkfsOptions, NewInode, OpenOptions, Store, Time, Volume, WriteFlags, mkfs,
};
use crate::format::id::Ino;
use crate::fsck;

/// 2026-11-21T15:00:00Z
const NOW: i64 = 1_795_273_200;
const MINUTE: i64 = 60;
const HOUR: i64 = 3_600;

struct World {
    sim: SimMedia,
    store: Arc<Store>,
    work: Work,
    wall: i64,
    running: u64,
}

fn every(dataset: &str, minutes: u64, keep: Option<Keep>) -> Schedule {
    Schedule {
        which: match dataset {
            "*" => Which::All,
            name => Which::Named(name.to_owned()),
        },
        every: Duration::from_secs(minutes * 60),
        keep,
        prefix: "auto-".to_owned(),
    }
}

fn last(last: u32) -> Option<Keep> {
    Some(Keep {
        last,
        ..Keep::default()
    })
}

impl World {
    fn new(schedules: Vec<Schedule>) -> World {
        let sim = SimMedia::new();
        let clock: Clock = Arc::new(|| Time {
            sec: 1_000_000_000,
            nsec: 0,
        });
        mkfs(sim.media(), &MkfsOptions::reproducible(), &clock).unwrap();
        World::on(sim, schedules, false)
    }

    fn on(sim: SimMedia, schedules: Vec<Schedule>, read_only: bool) -> World {
        let clock: Clock = Arc::new(|| Time {
            sec: 1_000_000_000,
            nsec: 0,
        });
        let options = OpenOptions {
            background: false,
            read_only,
            ..OpenOptions::default()
        };
        World {
            store: Store::open_media(sim.media(), options, clock).unwrap(),
            sim,
            work: Work::new(schedules),
            wall: NOW,
            running: 0,
        }
    }

    fn write(&self, dataset: &str, name: &str) {
        let volume = self.store.volume(dataset).unwrap();
        write(&volume, name);
    }

    fn tick(&mut self) {
        let now = Moment {
            wall: self.wall,
            running: Duration::from_secs(self.running),
        };
        self.work.tick(&self.store, now, &|| false);
    }

    /// Time passes.
    fn pass(&mut self, seconds: i64) {
        self.wall += seconds;
        self.running += u64::try_from(seconds).unwrap();
        self.tick();
    }

    /// Snapshots of a dataset, without its name.
    fn snapshots(&self, dataset: &str) -> Vec<String> {
        let all = self.store.list().unwrap();
        let own = all.iter().filter_map(|each| {
            let (of, name) = each.name.split_once('@')?;
            (of == dataset).then(|| name.to_owned())
        });
        let mut own: Vec<_> = own.collect();
        own.sort();
        own
    }

    fn count(&self, dataset: &str) -> usize {
        self.snapshots(dataset).len()
    }

    fn finish(self) {
        self.store.close().unwrap();
        assert_eq!(fsck::errors(&self.sim.media()).unwrap(), [""; 0]);
    }
}

fn write(volume: &Volume, name: &str) {
    let new = NewInode {
        mode: libc::S_IFREG | 0o644,
        umask: 0,
        rdev: 0,
        xattrs: &[],
        supplementary_gid: None,
    };
    let made = volume.create(Cred::default(), Ino::ROOT, name.as_bytes(), &new);
    let mut bytes = name.as_bytes();
    let (ino, len) = (made.unwrap().ino, bytes.len());
    let flags = WriteFlags::default();
    volume.write(ino, 0, len, &mut bytes, flags).unwrap();
}

#[test]
fn each_slot_has_one_snapshot_of_what_changed() {
    let mut world = World::new(vec![every("main", 15, None)]);
    world.tick();
    assert_eq!(world.snapshots("main"), ["auto-20261121T1500Z"]);
    world.write("main", "a");
    world.pass(14 * MINUTE);
    assert_eq!(world.count("main"), 1);
    world.pass(MINUTE);
    assert_eq!(
        world.snapshots("main"),
        ["auto-20261121T1500Z", "auto-20261121T1515Z"]
    );
    // Nothing has changed; reading is no change.
    let main = world.store.main().unwrap();
    main.note_access(Ino::ROOT);
    drop(main);
    world.pass(15 * MINUTE);
    world.pass(15 * MINUTE);
    assert_eq!(world.count("main"), 2);
    // What is in memory only is a change too.
    world.write("main", "b");
    world.pass(15 * MINUTE);
    assert_eq!(world.snapshots("main")[2], "auto-20261121T1600Z");
    let then = world.store.volume("main@auto-20261121T1600Z").unwrap();
    assert!(then.lookup(Ino::ROOT, b"b").is_ok());
    drop(then);
    world.finish();
}

#[test]
fn what_was_missed_is_made_up_for_by_one() {
    let mut world = World::new(vec![every("main", 15, None)]);
    world.write("main", "a");
    world.tick();
    // A daemon that starts anew, in the same slot and days later.
    world.work = Work::new(vec![every("main", 15, None)]);
    world.write("main", "b");
    world.pass(10 * MINUTE);
    assert_eq!(world.count("main"), 1);
    world.work = Work::new(vec![every("main", 15, None)]);
    world.pass(50 * HOUR);
    assert_eq!(
        world.snapshots("main"),
        ["auto-20261121T1500Z", "auto-20261123T1710Z"]
    );
    world.write("main", "c");
    world.pass(4 * MINUTE);
    assert_eq!(world.count("main"), 2);
    world.pass(MINUTE);
    assert_eq!(world.count("main"), 3);
    world.finish();
}

#[test]
fn a_clock_that_is_set_takes_nothing_away_and_adds_little() {
    let mut world = World::new(vec![every("main", 15, last(3))]);
    let mut n = 0;
    let mut change = |world: &World| {
        n += 1;
        world.write("main", &format!("{n}"));
    };
    for _ in 0..4 {
        change(&world);
        world.pass(15 * MINUTE);
    }
    let before = world.snapshots("main");
    assert_eq!(before.len(), 3);
    // An hour back: the same times come again, and no snapshot before as much time has passed.
    world.wall -= HOUR;
    change(&world);
    world.pass(MINUTE);
    assert_eq!(world.snapshots("main"), before);
    for _ in 0..6 {
        change(&world);
        world.pass(15 * MINUTE);
    }
    assert_eq!(world.count("main"), 3);
    // A year ahead, for one look, and back: what was taken there stays and counts for nothing.
    world.wall += 365 * 24 * HOUR;
    change(&world);
    world.pass(MINUTE);
    let wrong = world.snapshots("main").pop().unwrap();
    assert!(wrong.starts_with("auto-2027"), "{wrong}");
    world.wall -= 365 * 24 * HOUR;
    for _ in 0..5 {
        change(&world);
        world.pass(15 * MINUTE);
    }
    let mut after = world.snapshots("main");
    assert_eq!(after.pop().unwrap(), wrong);
    assert_eq!(after.len(), 3, "{after:?}");
    let newest = name_of("auto-", world.wall).unwrap();
    assert_eq!(after.pop().unwrap(), newest, "it goes on");
    world.finish();
}

#[test]
fn only_its_own_are_deleted_and_none_that_is_held_or_in_use() {
    let mut world = World::new(vec![every("main", 15, last(1))]);
    let others = [
        "monday",
        "auto-",
        "auto-x",
        "auto-20261121T1500",
        "auto-20261121T1500Z-kept",
        "hand-20261121T1500Z",
    ];
    for other in others {
        world.store.snapshot(&format!("main@{other}")).unwrap();
    }
    for n in 0..4 {
        world.write("main", &format!("{n}"));
        world.pass(15 * MINUTE);
        let newest = world.snapshots("main");
        let newest = newest.iter().rfind(|name| name.ends_with('Z')).unwrap();
        match n {
            0 => world
                .store
                .hold(&format!("main@{}", own(&world)[0]))
                .unwrap(),
            _ => assert!(!newest.is_empty()),
        }
    }
    let held = "auto-20261121T1515Z";
    let newest = "auto-20261121T1600Z";
    assert_eq!(own(&world), [held, newest]);
    for other in others {
        assert!(
            world.store.find(&format!("main@{other}")).is_ok(),
            "{other}"
        );
    }
    // In use.
    let user = world.store.volume(&format!("main@{newest}")).unwrap();
    world.write("main", "more");
    world.pass(15 * MINUTE);
    assert_eq!(own(&world), [held, newest, "auto-20261121T1615Z"]);
    drop(user);
    world.store.release(&format!("main@{held}")).unwrap();
    assert_eq!(world.work.failing(), 0);
    world.pass(15 * MINUTE);
    assert_eq!(
        own(&world),
        ["auto-20261121T1615Z"],
        "they go when they can"
    );
    world.finish();
}

/// Scheduled ones of `main`.
fn own(world: &World) -> Vec<String> {
    let all = world.snapshots("main").into_iter();
    all.filter(|name| super::names::time_of("auto-", name).is_some())
        .collect()
}

#[test]
fn a_schedule_of_its_own_comes_before_that_of_all() {
    let hourly = every("web", 60, None);
    let mut world = World::new(vec![every("*", 15, None), hourly]);
    for name in ["web", "db"] {
        world.store.create_dataset(name, (0, 0)).unwrap();
    }
    world.store.snapshot("db@manual").unwrap();
    for n in 0..4 {
        for name in ["main", "web", "db"] {
            world.write(name, &format!("{n}"));
        }
        world.tick();
        world.pass(15 * MINUTE - 1);
        world.wall += 1;
    }
    assert_eq!(
        (world.count("main"), world.count("db"), world.count("web")),
        (4, 5, 1)
    );
    world.finish();
}

#[test]
fn a_failure_is_told_once_and_tried_again() {
    let mut world = World::new(vec![every("none", 15, None), every("main", 15, None)]);
    world.tick();
    assert_eq!((world.work.failing(), world.count("main")), (1, 1));
    world.store.create_dataset("none", (0, 0)).unwrap();
    world.pass(59);
    assert_eq!(world.count("none"), 0, "not at each look");
    world.pass(1);
    assert_eq!((world.work.failing(), world.count("none")), (0, 1));
    world.finish();
    // A disk that refuses.
    let mut world = World::new(vec![every("main", 15, None)]);
    world.write("main", "a");
    world.store.checkpoint().unwrap();
    world.sim.set_fault(Some(Fault {
        call: Call::Write,
        after: 0,
        sticky: true,
        kind: std::io::ErrorKind::Other,
    }));
    world.tick();
    assert_eq!(world.work.failing(), 1);
    world.pass(15 * MINUTE);
    assert_eq!(world.work.failing(), 1);
    // What the disk has is a state that was.
    assert_eq!(fsck::errors(&world.sim.killed().media()).unwrap(), [""; 0]);
}

#[test]
fn schedules_that_stay_go_on_where_they_are() {
    let mut world = World::new(vec![every("main", 15, None)]);
    world.tick();
    world.write("main", "a");
    let other = every("web", 60, None);
    world.work.replace(vec![other, every("main", 15, None)]);
    world.pass(MINUTE);
    assert_eq!(world.count("main"), 1);
    world.work.replace(Vec::new());
    world.pass(15 * MINUTE);
    assert!(world.work.is_empty());
    assert_eq!(world.count("main"), 1);
    world.finish();
}
