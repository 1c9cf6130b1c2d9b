//! What takes long is stopped when it is asked to be, at any step: it says so, and leaves what it says
//! that it leaves.

use super::*;
use crate::engine::{DatasetError, RestorePath, Store, TrimOptions, WriteFlags, system_clock};

/// Says to go on so many times.
fn steps(mut left: u32) -> impl FnMut() -> bool {
    move || {
        let goes_on = left > 0;
        left = left.saturating_sub(1);
        goes_on
    }
}

fn is_stopped<T>(result: &Result<T, EngineError>) -> bool {
    matches!(result, Err(EngineError::Interrupted))
}

fn dataset<T>(result: Result<T, DatasetError>) -> Result<T, EngineError> {
    result.map_err(|error| match error {
        DatasetError::Engine(error) => error,
        other => panic!("{other}"),
    })
}

/// Stops `act` at each of its steps, and sees that it has several; `look` sees what that leaves.
fn at_each_step<T: std::fmt::Debug>(
    mut act: impl FnMut(&mut dyn FnMut() -> bool) -> Result<T, EngineError>,
    mut look: impl FnMut(u32),
) -> T {
    for step in 0.. {
        let done = act(&mut steps(step));
        if !is_stopped(&done) {
            assert!(step > 3, "{step}");
            return done.unwrap();
        }
        look(step);
    }
    unreachable!()
}

fn tree(world: &World) -> Ino {
    let top = world.make(ROOT, "top", DIR);
    for name in ["a", "b"] {
        let dir = world.make(top, name, DIR);
        for n in 0..4 {
            world.make(dir, &format!("f{n}"), FILE);
        }
    }
    top
}

/// The tree as it was in a snapshot, beside it.
fn tree_back() -> RestorePath {
    RestorePath {
        snapshot: "main@then".into(),
        source: b"top".to_vec(),
        destination: b"back".to_vec(),
        replace: false,
    }
}

fn write(world: &World, ino: Ino, bytes: usize) {
    let content = vec![7; bytes];
    let flags = WriteFlags::default();
    let written = world.volume.write(ino, 0, bytes, &mut &*content, flags);
    assert_eq!(written.unwrap(), bytes);
}

#[test]
fn a_tree_is_given_to_a_project_as_far_as_it_came() {
    let world = World::new();
    let top = tree(&world);
    let of = |ino| world.volume.get_fsxattr(ino).unwrap().projid;
    let volume = &world.volume;
    let given = at_each_step(
        |go_on| volume.assign_project(top, 7, go_on),
        |_| drop(volume.projects().unwrap()),
    );
    assert_eq!((given, of(top)), (11, 7));
    assert_eq!(volume.projects().unwrap()[0].used.inodes, 11);
    world.finish();
}

#[test]
fn a_path_is_restored_wholly_or_not_at_all() {
    let world = World::new();
    tree(&world);
    let store = Arc::clone(world.volume.store());
    store.snapshot("main@then").unwrap();
    let what = tree_back();
    let mut hidden = 0;
    let made = at_each_step(
        |go_on| dataset(store.restore_path(&what, go_on)),
        |_| {
            assert_eq!(world.list(ROOT), [".", "..", "top"]);
            hidden += u32::from(world.volume.has_staging());
        },
    );
    assert!(hidden > 0, "it takes its time to remove what it has made");
    assert_eq!((made, world.list(ROOT).len()), (11, 4));
    assert!(!world.volume.has_staging());
    world.finish();
}

#[test]
fn looking_for_differences_is_stopped() {
    let world = World::new();
    let store = Arc::clone(world.volume.store());
    store.snapshot("main@then").unwrap();
    let top = tree(&world);
    let found = at_each_step(
        |go_on| dataset(store.diff("main@then", "main", go_on)),
        |_| {},
    );
    assert_eq!(found.len(), 12);
    // A file that kept its name is looked for in all of the tree.
    store.snapshot("main@now").unwrap();
    world.tick();
    let file = world.find(world.find(top, "b").unwrap(), "f3").unwrap();
    write(&world, file, 5);
    let found = at_each_step(
        |go_on| dataset(store.diff("main@now", "main", go_on)),
        |_| {},
    );
    assert_eq!(found.len(), 1);
    world.finish();
}

#[test]
fn content_is_the_same_however_far_it_was_written_anew() {
    let world = World::new();
    let file = world.make(ROOT, "file", FILE);
    write(&world, file, 5 << 20);
    world.volume.fsync(file, false).unwrap();
    let bytes = at_each_step(
        |go_on| world.volume.rewrite(file, go_on),
        |_| {
            let mut content = Vec::new();
            world.volume.read(file, 0, 6 << 20, &mut content).unwrap();
            assert!(content == vec![7; 5 << 20]);
        },
    );
    assert_eq!(bytes, 5 << 20);
    world.finish();
}

#[test]
fn space_goes_back_as_far_as_it_came() {
    let world = World::new();
    let store = Arc::clone(world.volume.store());
    // Free ranges between what stays: more than one step takes.
    for n in 0..600 {
        let file = world.make(ROOT, &format!("f{n}"), FILE);
        let content: Vec<u8> = (0..70_000u32)
            .flat_map(|at| (at * 7 + n).to_le_bytes())
            .take(70_000)
            .collect();
        let flags = WriteFlags::default();
        let volume = &world.volume;
        volume
            .write(file, 0, 70_000, &mut &*content, flags)
            .unwrap();
        volume.fsync(file, false).unwrap();
    }
    for n in (0..600).step_by(2) {
        let name = format!("f{n}");
        let removed = world.volume.unlink(ROOT, name.as_bytes()).unwrap();
        world.volume.reclaim(removed.ino).unwrap();
    }
    let how = TrimOptions { min_bytes: 4096 };
    let mut free = 0;
    at_each_step(
        |go_on| store.trim(&how, go_on),
        |_| free = world.volume.statfs().unwrap().blocks_free,
    );
    assert!(free > 0);
    world.finish();
}

/// What was left hidden goes while the dataset is used already.
#[test]
fn what_is_left_hidden_goes_in_the_background() {
    let world = World::new();
    tree(&world);
    let store = Arc::clone(world.volume.store());
    store.snapshot("main@then").unwrap();
    let what = tree_back();
    let stopped = dataset(store.restore_path(&what, &mut steps(5)));
    assert!(is_stopped(&stopped) && world.volume.has_staging());
    let World { sim, volume, .. } = world;
    drop(volume);
    store.close().unwrap();
    drop(store);
    let store = Store::open_media(sim.media(), OpenOptions::default(), system_clock()).unwrap();
    let volume = store.volume("main").unwrap();
    let begin = std::time::Instant::now();
    while volume.has_staging() {
        assert!(begin.elapsed() < std::time::Duration::from_secs(20));
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    drop(volume);
    store.close().unwrap();
    assert_eq!(crate::fsck::errors(&sim.media()).unwrap(), [""; 0]);
}
