//! Names that nobody uses give their space back, and none that somebody uses does: beside what else
//! goes on, over power cuts, failing and full disks.

use std::sync::Barrier;
use std::time::Duration;

use super::*;
use crate::disk::sim::{Call, Fault, Survival};
use crate::engine::{RenameMode, Store, TrimOptions};
use crate::format::key;
use crate::format::record::DentryRecord;
use crate::log::View;
use crate::store::{Read, StoreError};

/// Of the simulated disks, strings.dat.
const STRINGS: usize = 2;
const NODES: usize = 1;

/// A name of which sixteen take a block.
fn name(number: usize) -> String {
    format!("{number:0>250}")
}

fn trim(store: &Store) -> u64 {
    let done = store.trim(&TrimOptions::default(), &mut || true);
    done.unwrap().names_bytes
}

fn make_all(world: &World, numbers: std::ops::Range<usize>) {
    for number in numbers {
        world.make(ROOT, &name(number), FILE);
    }
}

fn remove(volume: &Volume, name: &str) {
    let ino = volume.lookup(ROOT, name.as_bytes()).unwrap().ino;
    volume.unlink(ROOT, name.as_bytes()).unwrap();
    volume.reclaim(ino).unwrap();
}

fn remove_all(world: &World, numbers: std::ops::Range<usize>) {
    for number in numbers {
        remove(&world.volume, &name(number));
    }
}

/// The names of a directory, as a view has them.
fn listed(view: &View, world: &World) -> Result<Vec<String>, StoreError> {
    let mut ids = Vec::new();
    let (start, end) = key::kind_range(ROOT, key::Kind::Dentry);
    view.scan(world.volume.tree(), &start, &end, &mut |_, value| {
        ids.push(DentryRecord::decode(value).unwrap().name);
        std::ops::ControlFlow::Continue(())
    })?;
    let mut names = Vec::new();
    for id in ids {
        names.push(String::from_utf8(view.name(id)?).unwrap());
    }
    names.sort();
    Ok(names)
}

fn is_known(world: &World, name: &str) -> bool {
    let journal = &world.volume.store().journal;
    let hash = crate::store::roots::name_hash(&journal.hash_seed(), name.as_bytes());
    let found = crate::store::roots::find_name(&journal.view(), hash, name.as_bytes());
    found.unwrap().is_some()
}

#[test]
fn deleting_everything_returns_to_the_size_of_an_empty_store() {
    let mut world = World::new();
    let store = Arc::clone(world.volume.store());
    let empty = (world.sim.disk_len(STRINGS), store.metadata_bytes());
    make_all(&world, 0..3000);
    remove_all(&world, 0..3000);
    store.checkpoint().unwrap();
    assert!(store.metadata_bytes() > empty.1 + 700_000);
    assert!(trim(&store) > 3000 * 250);
    assert!(
        store.metadata_bytes() < empty.1 + (64 << 10),
        "what is counted"
    );
    let held = world.sim.disk_len(STRINGS) - world.sim.holes(STRINGS);
    assert!(held <= empty.0 + (1 << 20), "what the disk has: {held}");
    assert!(!is_known(&world, &name(7)));
    assert_eq!(trim(&store), 0, "nothing is left");
    drop(store);
    // It is known when the store is opened again, and names go on.
    world.reopen();
    assert!(world.volume.store().metadata_bytes() < empty.1 + (64 << 10));
    make_all(&world, 0..20);
    assert_eq!(world.list(ROOT).len(), 20 + 2);
    world.finish();
}

#[test]
fn what_a_snapshot_or_a_clone_holds_stays() {
    let world = World::new();
    let store = Arc::clone(world.volume.store());
    make_all(&world, 0..200);
    store.snapshot("main@then").unwrap();
    store.clone_dataset("main@then", "copy").unwrap();
    remove_all(&world, 0..200);
    make_all(&world, 200..400);
    remove_all(&world, 200..400);
    let gone = trim(&store);
    assert!((40_000..60_000).contains(&gone), "{gone}");
    let count = |of: &str| {
        let volume = store.volume(of).unwrap();
        let mut names = Vec::new();
        let mut visit = |entry: crate::engine::DirEntry| {
            names.push(entry.name);
            true
        };
        volume.readdir(ROOT, 0, &mut visit).unwrap();
        names.retain(|name| name.len() == 250);
        names.len()
    };
    assert_eq!((count("main@then"), count("copy")), (200, 200));
    store.delete("copy", false).unwrap();
    trim(&store);
    assert_eq!(count("main@then"), 200);
    store.delete("main@then", false).unwrap();
    store.reap(&|| false).unwrap();
    assert!((45_000..60_000).contains(&trim(&store)));
    drop(store);
    world.finish();
}

/// Does something at one of a trim's steps; whether there was such a step.
fn at_step(world: &World, step: usize, act: &mut dyn FnMut(&World)) -> bool {
    let mut at = 0;
    let mut go_on = || {
        if at == step {
            act(world);
        }
        at += 1;
        true
    };
    let store = world.volume.store();
    store.trim(&TrimOptions::default(), &mut go_on).unwrap();
    at > step
}

/// At each step of a walk a name that nobody used when it began is used again: in every way in which
/// an entry comes to have one.
#[test]
fn a_name_that_is_used_again_while_the_walk_is_on_stays() {
    type Act = fn(&World);
    let acts: [Act; 4] = [
        |world| {
            world.make(ROOT, &name(0), FILE);
        },
        |world| {
            let replace = RenameMode::Replace;
            let renamed = world
                .volume
                .rename(ROOT, b"other", ROOT, name(0).as_bytes(), replace);
            renamed.unwrap();
        },
        |world| {
            let ino = world.find(ROOT, "other").unwrap();
            world.volume.link(ino, ROOT, name(0).as_bytes()).unwrap();
        },
        // Into a directory that the walk may have passed, in a snapshot that nobody else has.
        |world| {
            world.make(ROOT, &name(0), FILE);
            let store = world.volume.store();
            store.snapshot("main@now").unwrap();
            remove(&world.volume, &name(0));
        },
    ];
    for (which, act) in acts.iter().enumerate() {
        for step in 0.. {
            let world = World::new();
            make_all(&world, 0..64);
            world.make(ROOT, "other", FILE);
            remove_all(&world, 0..64);
            if !at_step(&world, step, &mut |world| act(world)) {
                assert!(step > 8, "{step}");
                break;
            }
            let store = Arc::clone(world.volume.store());
            let found = match which {
                3 => store
                    .volume("main@now")
                    .unwrap()
                    .lookup(ROOT, name(0).as_bytes()),
                _ => world.volume.lookup(ROOT, name(0).as_bytes()),
            };
            assert!(found.is_ok(), "act {which}, step {step}: {found:?}");
            drop(store);
            world.finish();
        }
    }
}

/// An entry that goes from a tree that is still to be read to one that was read already.
#[test]
fn a_name_that_moves_on_while_the_walk_is_on_stays() {
    for step in 0.. {
        let world = World::new();
        let store = Arc::clone(world.volume.store());
        make_all(&world, 0..64);
        store.snapshot("main@full").unwrap();
        remove_all(&world, 0..64);
        store.clone_dataset("main@full", "later").unwrap();
        let passed = at_step(&world, step, &mut |world| {
            let store = world.volume.store();
            store.clone_dataset("main@full", "copy").unwrap();
            store.delete("later", false).unwrap();
            store.snapshot("copy@own").unwrap();
        });
        if !passed {
            assert!(step > 3, "{step}");
            break;
        }
        let copy = store.volume("copy").unwrap();
        for number in 0..64 {
            copy.lookup(ROOT, name(number).as_bytes()).unwrap();
        }
        drop(copy);
        drop(store);
        world.finish();
    }
}

#[test]
fn a_transaction_that_is_dropped_changes_nothing() {
    let world = World::new();
    let store = Arc::clone(world.volume.store());
    make_all(&world, 0..64);
    remove_all(&world, 0..64);
    let journal = &store.journal;
    let mut walk = journal.walk_names().unwrap();
    while walk.read(1).unwrap() {}
    let unused = walk.unused().unwrap().unwrap();
    // One that looked the name up, and one that was to forget it.
    let mut tx = journal.begin().unwrap();
    let id = tx.intern(name(3).as_bytes()).unwrap();
    drop(tx);
    let mut tx = journal.begin().unwrap();
    assert!(walk.forget(&mut tx, &unused).unwrap() > 0);
    drop(tx);
    drop(walk);
    assert!((0..64).all(|number| is_known(&world, &name(number))));
    let mut tx = journal.begin().unwrap();
    assert_eq!(tx.intern(name(3).as_bytes()).unwrap(), id);
    drop(tx);
    assert!(trim(&store) > 0);
    drop(store);
    world.finish();
}

#[test]
fn a_view_from_before_reads_its_names() {
    let world = World::new();
    let store = Arc::clone(world.volume.store());
    make_all(&world, 0..100);
    let view = store.journal.view();
    let before = listed(&view, &world).unwrap();
    remove_all(&world, 0..100);
    assert_eq!(trim(&store), 0, "somebody reads there");
    store.checkpoint().unwrap();
    assert_eq!(trim(&store), 0, "still");
    assert!(!is_known(&world, &name(3)));
    assert_eq!(listed(&view, &world).unwrap(), before);
    drop(view);
    assert!(trim(&store) > 20_000, "nobody reads there");
    drop(store);
    world.finish();
}

/// Ten names of each hundred stay, all over the file.
fn used_and_unused(world: &World) -> Vec<String> {
    make_all(world, 0..100);
    remove_all(world, 3..50);
    remove_all(world, 57..100);
    world.list(ROOT)
}

#[test]
fn a_power_cut_at_any_time_loses_no_name() {
    let made = World::new();
    let names = used_and_unused(&made);
    made.volume.store().close().unwrap();
    let sim = made.sim.killed();
    let world = World {
        volume: open(&sim, clock(&made.seconds)),
        sim,
        seconds: Arc::clone(&made.seconds),
    };
    let store = Arc::clone(world.volume.store());
    assert!(trim(&store) >= 8 << 10);
    // Forgotten, and not checkpointed.
    remove_all(&world, 0..1);
    world.make(ROOT, &name(0), FILE);
    let mut recording = world.sim.recording();
    let mut cuts = 0;
    for event in 0..=recording.len() {
        for survival in [
            Survival::None,
            Survival::All,
            Survival::Random(event as u64),
        ] {
            let sim = recording.crash_at(event, survival);
            assert_eq!(errors(&sim), [""; 0], "{event} {survival:?}");
            let cut = World {
                volume: open(&sim, clock(&made.seconds)),
                sim,
                seconds: Arc::clone(&made.seconds),
            };
            let mut found = cut.list(ROOT);
            if !found.contains(&name(0)) {
                found.push(name(0));
                found.sort();
            }
            assert_eq!(found, names, "{event} {survival:?}");
            // Names that were forgotten can be used again.
            make_all(&cut, 3..6);
            trim(cut.volume.store());
            assert_eq!(cut.list(ROOT).len(), cut.inodes() as usize + 1);
            cut.finish();
            cuts += 1;
        }
    }
    assert!(cuts > 40, "{cuts}");
}

#[test]
fn a_failing_disk_loses_no_name() {
    let mut failed = 0;
    for call in [
        Call::Read,
        Call::Write,
        Call::Flush,
        Call::Allocate,
        Call::Trim,
        Call::Cut,
    ] {
        for kind in [std::io::ErrorKind::Other, std::io::ErrorKind::StorageFull] {
            for after in 0.. {
                let mut world = World::new();
                let names = used_and_unused(&world);
                world.reopen();
                let store = Arc::clone(world.volume.store());
                world.sim.set_fault(Some(Fault {
                    call,
                    after,
                    sticky: false,
                    kind,
                }));
                let done = store.trim(&TrimOptions::default(), &mut || true);
                let calls = world.sim.fault_calls();
                world.sim.set_fault(None);
                let context = format!("{call:?} {after} {kind:?}: {done:?}");
                failed += usize::from(done.is_err());
                assert_eq!(world.list(ROOT), names, "{context}");
                if store.is_writable() {
                    make_all(&world, 3..6);
                    assert_eq!(world.list(ROOT).len(), names.len() + 3, "{context}");
                    remove_all(&world, 3..6);
                    trim(&store);
                } else {
                    assert!(done.is_err(), "{context}");
                }
                drop(store);
                let killed = world.sim.killed();
                assert_eq!(errors(&killed), [""; 0], "{context}");
                let volume = open(&killed, clock(&world.seconds));
                let other = World {
                    sim: killed,
                    volume,
                    seconds: Arc::clone(&world.seconds),
                };
                assert_eq!(other.list(ROOT), names, "{context}");
                other.finish();
                if calls <= after {
                    break;
                }
            }
        }
    }
    assert!(failed > 15, "{failed}");
}

#[test]
fn where_the_disk_takes_nothing_back_names_stay() {
    let world = World::new();
    make_all(&world, 0..100);
    remove_all(&world, 0..100);
    world.sim.set_fault(Some(Fault {
        call: Call::Trim,
        after: 0,
        sticky: true,
        kind: std::io::ErrorKind::Unsupported,
    }));
    assert_eq!(trim(world.volume.store()), 0);
    make_all(&world, 0..3);
    assert_eq!(trim(world.volume.store()), 0);
    world.finish();
}

#[test]
fn a_full_disk_gets_space_back() {
    let world = World::new();
    let store = Arc::clone(world.volume.store());
    make_all(&world, 0..2000);
    world.sim.set_capacity(Some(world.sim.allocated()));
    let mut more = 2000;
    while world.try_make(ROOT, &name(more), FILE).is_ok() {
        more += 1;
    }
    remove_all(&world, 0..more);
    assert!(trim(&store) > 400_000);
    make_all(&world, 0..1000);
    drop(store);
    world.sim.set_capacity(None);
    world.finish();
}

/// Where a tree cannot be read nobody knows which names it has.
#[test]
fn a_damaged_tree_keeps_all_names() {
    let mut world = World::new();
    make_all(&world, 0..600);
    remove_all(&world, 0..300);
    world.reopen();
    let store = Arc::clone(world.volume.store());
    let pages = world.sim.disk_len(NODES) / 4096;
    let mut refused = 0;
    for page in 1..pages {
        let mut was = [0; 2];
        world.sim.peek(NODES, page * 4096 + 2000, &mut was);
        let other = was.map(|byte| !byte);
        world.sim.corrupt(NODES, page * 4096 + 2000, &other);
        let walked = (|| {
            let mut walk = store.journal.walk_names()?;
            while walk.read(8)? {}
            Ok::<_, StoreError>(())
        })();
        world.sim.corrupt(NODES, page * 4096 + 2000, &was);
        refused += u32::from(walked.is_err());
    }
    assert!(refused > 5, "{refused}");
    assert!((0..600).all(|number| is_known(&world, &name(number))));
    drop(store);
    world.finish();
}

#[test]
fn it_is_stopped_at_each_step_and_done_by_the_next() {
    let world = World::new();
    let store = Arc::clone(world.volume.store());
    let names = used_and_unused(&world);
    for step in 0.. {
        let mut left = step;
        let mut go_on = || {
            left -= 1;
            left >= 0
        };
        match store.trim(&TrimOptions::default(), &mut go_on) {
            Err(EngineError::Interrupted) => assert_eq!(world.list(ROOT), names, "{step}"),
            done => {
                done.unwrap();
                assert!(step > 4, "{step}");
                break;
            }
        }
    }
    assert!(world.sim.holes(STRINGS) >= 8 << 10);
    drop(store);
    world.finish();
}

#[test]
fn nothing_is_done_by_itself_that_is_not_worth_it() {
    let world = World::new();
    let store = Arc::clone(world.volume.store());
    make_all(&world, 0..1000);
    remove_all(&world, 0..1000);
    let idle = || store.forget_names_idle(&mut |_| true).unwrap();
    assert_eq!(idle(), 0, "a walk for so little");
    make_all(&world, 1000..10_000);
    remove_all(&world, 1000..2000);
    assert_eq!(idle(), 0, "few entries went");
    // As if more had.
    store.names.note_removed(8 << 20);
    assert!(idle() > 400_000);
    assert_eq!(idle(), 0);
    drop(store);
    world.finish();
}

/// How much went before the store was opened is not written down.
#[test]
fn what_went_before_opening_is_guessed() {
    for kept in [false, true] {
        let mut world = World::new();
        make_all(&world, 0..12_000);
        if !kept {
            remove_all(&world, 0..12_000);
        }
        world.reopen();
        let store = Arc::clone(world.volume.store());
        let bytes = store.forget_names_idle(&mut |_| true).unwrap();
        assert_eq!(bytes > 2 << 20, !kept, "{bytes}");
        drop(store);
        world.finish();
    }
}

/// Threads make, rename and remove files of few names while others have names forgotten.
#[test]
fn names_come_and_go_beside_trims() {
    let world = World::new();
    let store = world.volume.store();
    let all_there = Barrier::new(4);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (volume, all_there) = (&world.volume, &all_there);
            scope.spawn(move || {
                all_there.wait();
                for round in 0..150 {
                    let own = name(thread * 100 + round % 7);
                    let other = name(thread * 100 + 50 + round % 5);
                    let made = volume.create(Cred::default(), ROOT, own.as_bytes(), &new(FILE));
                    made.unwrap();
                    let renamed = volume.rename(
                        ROOT,
                        own.as_bytes(),
                        ROOT,
                        other.as_bytes(),
                        RenameMode::Replace,
                    );
                    renamed.unwrap();
                    volume.lookup(ROOT, other.as_bytes()).unwrap();
                    remove(volume, &other);
                }
            });
        }
        all_there.wait();
        for _ in 0..25 {
            trim(store);
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    trim(store);
    assert_eq!(world.list(ROOT).len(), 2);
    world.finish();
}

/// What must never be: a name that is used was punched. It is found, and its file is not lost with it.
#[test]
fn a_used_name_without_its_record_is_found_and_mended() {
    let world = World::new();
    make_all(&world, 0..40);
    remove_all(&world, 20..40);
    trim(world.volume.store());
    world.volume.store().close().unwrap();
    assert_eq!(errors(&world.sim), [""; 0], "gaps are in order");
    world.sim.media().strings.trim(0, 4096).unwrap();
    let found = errors(&world.sim);
    assert!(
        found
            .iter()
            .any(|issue| issue.contains("strings.dat: name 0")),
        "{found:?}"
    );
    assert!(
        found.iter().any(|issue| issue.contains("directory 1")),
        "{found:?}"
    );
    let options = fsck::Options::default();
    fsck::repair(&world.sim.media(), options, &mut |_| {}).unwrap();
    assert_eq!(errors(&world.sim), [""; 0]);
    let volume = open(&world.sim, clock(&world.seconds));
    let lost = volume.lookup(ROOT, b"lost+found").unwrap().ino;
    let mut files = 0;
    for dir in [ROOT, lost] {
        let mut visit = |entry: crate::engine::DirEntry| {
            files += u32::from(entry.file_type == 8);
            true
        };
        volume.readdir(dir, 0, &mut visit).unwrap();
    }
    assert_eq!(files, 20);
    volume.store().close().unwrap();
    assert_eq!(errors(&world.sim), [""; 0]);
}
