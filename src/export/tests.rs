//! Exports that come and go otherwise than by requests, of which
//! [`crate::control::server`]'s tests are.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::*;
use crate::disk::sim::SimMedia;
use crate::engine::{MkfsOptions, OpenOptions, mkfs, system_clock};
use crate::fs::Options;

/// A store with the datasets `main`, `web` and `db`, and a directory for sockets.
pub(crate) struct World {
    pub(crate) exports: Arc<Exports>,
    pub(crate) dir: tempfile::TempDir,
}

impl World {
    pub(crate) fn new(exit_on_disconnect: bool) -> World {
        let sim = SimMedia::new();
        mkfs(sim.media(), &MkfsOptions::reproducible(), &system_clock()).unwrap();
        let options = OpenOptions {
            background: false,
            ..OpenOptions::default()
        };
        let store = Store::open_media(sim.media(), options, system_clock()).unwrap();
        for name in ["web", "db"] {
            store.create_dataset(name, (0, 0)).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let common = Common {
            device: DeviceOptions {
                request_queues: 1,
                exit_on_disconnect,
                ..DeviceOptions::default()
            },
            defaults: Defaults {
                options: Options::default(),
                cache: None,
            },
            group: None,
            socket_dir: Some(dir.path().to_owned()),
        };
        World {
            exports: Exports::new(store, common),
            dir,
        }
    }

    pub(crate) fn new_export(&self, dataset: &str, socket: &str) -> NewExport {
        NewExport {
            dataset: dataset.into(),
            endpoint: Endpoint::Path(self.dir.path().join(socket)),
            tag: None,
            read_only: false,
            shared: false,
            cache: None,
        }
    }

    fn reload(&self, wanted: &[(&str, &str)]) -> Vec<String> {
        let wanted = wanted
            .iter()
            .map(|(dataset, socket)| self.new_export(dataset, socket));
        let failed = self.exports.reload(&wanted.collect::<Vec<_>>());
        failed.iter().map(ToString::to_string).collect()
    }

    /// Names of the sockets.
    fn sockets(&self) -> Vec<String> {
        let name = |one: Exported| {
            let path = PathBuf::from(one.socket);
            path.file_name().unwrap().to_str().unwrap().to_owned()
        };
        let mut names: Vec<_> = self.exports.list().into_iter().map(name).collect();
        names.sort();
        names
    }

    fn left(&self, dataset: &str, socket: &str) -> Left {
        let new = self.new_export(dataset, socket);
        let Endpoint::Path(path) = &new.endpoint else {
            unreachable!();
        };
        Left {
            options: Options::default(),
            configured: true,
            standing: Socket::bind(path, None).unwrap().into(),
            new,
        }
    }

    fn connect(&self, socket: &str) -> UnixStream {
        let stream = UnixStream::connect(self.dir.path().join(socket)).unwrap();
        self.until(|all| all.iter().any(|one| one.connected));
        stream
    }

    fn until(&self, is_so: impl Fn(&[Exported]) -> bool) {
        let begin = Instant::now();
        while !is_so(&self.exports.list()) {
            assert!(begin.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn finish(self) {
        self.exports.end();
        self.exports.wait().unwrap();
        assert_eq!(std::fs::read_dir(self.dir.path()).unwrap().count(), 0);
        let late = self.exports.attach(self.new_export("web", "late"));
        assert!(matches!(late, Err(ExportError::Ending)), "{late:?}");
        assert_eq!(Arc::strong_count(&self.exports), 1);
        self.exports.store.close().unwrap();
    }
}

#[test]
fn what_the_configuration_names_comes_and_what_it_named_goes() {
    let world = World::new(false);
    assert!(world.reload(&[("web", "w"), ("main", "m")]).is_empty());
    world.exports.attach(world.new_export("db", "own")).unwrap();
    assert_eq!(world.sockets(), ["m", "own", "w"]);
    // Another dataset on the same socket, and one less.
    assert!(world.reload(&[("web", "m")]).is_empty());
    assert_eq!(world.sockets(), ["m", "own"]);
    let of = |socket: &str| {
        let all = world.exports.list();
        let found = all.into_iter().find(|one| one.socket.ends_with(socket));
        found.unwrap().dataset
    };
    assert_eq!(of("/m"), world.exports.store.find("web").unwrap().id);
    // What was made by a request is the configuration's once that names it.
    assert!(world.reload(&[("db", "own")]).is_empty());
    assert_eq!(world.sockets(), ["own"]);
    assert!(world.reload(&[]).is_empty());
    assert!(world.sockets().is_empty());
    world.finish();
}

#[test]
fn exports_that_stay_are_not_touched_and_guests_are_not_disconnected() {
    let world = World::new(false);
    world.reload(&[("web", "w"), ("db", "d")]);
    let guest = world.connect("w");
    assert!(world.reload(&[("web", "w")]).is_empty());
    assert!(world.exports.list()[0].connected);
    let failed = world.reload(&[("none", "n"), ("main", "m")]);
    let [connected, none] = failed.as_slice() else {
        panic!("{failed:?}");
    };
    assert!(connected.contains("connected to") && none.contains("'none'"));
    // The rest was done.
    assert_eq!(world.sockets(), ["m", "w"]);
    drop(guest);
    world.until(|all| all.iter().all(|one| !one.connected));
    assert!(world.reload(&[("main", "m")]).is_empty());
    assert_eq!(world.sockets(), ["m"]);
    world.finish();
}

#[test]
fn guests_that_come_together_know_of_each_other() {
    let world = World::new(false);
    assert!(world.reload(&[("web", "a"), ("web", "b")]).is_empty());
    assert!(world.exports.list().iter().all(|one| one.shared));
    assert!(
        world.reload(&[("web", "a"), ("web", "b")]).is_empty(),
        "the same again"
    );
    assert_eq!(world.sockets(), ["a", "b"]);
    // One that was alone stays so.
    assert!(world.reload(&[("db", "d")]).is_empty());
    let failed = world.reload(&[("db", "d"), ("db", "e")]);
    assert!(failed[0].contains("shared"), "{failed:?}");
    assert_eq!(world.sockets(), ["d"]);
    world.finish();
}

#[test]
fn with_the_last_guest_the_daemon_ends_when_it_is_to() {
    let world = World::new(true);
    world.reload(&[("web", "a"), ("db", "b")]);
    drop(world.connect("a"));
    world.until(|all| all.len() == 1);
    assert!(!world.exports.state.lock().ending);
    drop(world.connect("b"));
    world.exports.wait().unwrap();
    world.finish();
    // What is taken away is no guest that went.
    let world = World::new(true);
    world.reload(&[("web", "a")]);
    world.reload(&[]);
    assert!(!world.exports.state.lock().ending);
    world.finish();
}

/// Behind the word that guests are this process's nothing can fail that their service needs: its threads
/// are there before.
#[test]
fn all_that_serving_needs_is_there_before_guests_are_taken() {
    let world = World::new(false);
    let left = || vec![world.left("web", "a"), world.left("db", "b")];
    let refused = world.exports.start(&mut left(), || {
        // The world's, and that of each thread.
        assert_eq!(Arc::strong_count(&world.exports), 3);
        Err(ExportError::Ending)
    });
    assert!(matches!(refused, Err(ExportError::Ending)));
    assert_eq!(world.sockets(), [""; 0]);
    // Nobody has the dataset in use after that.
    world.exports.store.delete("web", false).unwrap();
    world.exports.store.create_dataset("web", (0, 0)).unwrap();
    world.exports.start(&mut left(), || Ok(())).unwrap();
    assert_eq!(world.sockets(), ["a", "b"]);
    drop(world.connect("a"));
    world.exports.end();
    world.exports.wait().unwrap();
    world.finish();
}

#[test]
fn restoring_by_force_touches_no_other_export_and_ends_nothing() {
    let world = World::new(false);
    let restore = |snapshot: &str| world.exports.restore(snapshot);
    world.exports.store.snapshot("web@s").unwrap();
    // Of nobody, where nobody is.
    restore("web@s").unwrap();
    assert!(!world.exports.state.lock().ending);
    world.reload(&[("web", "w"), ("web", "v"), ("db", "d")]);
    let (guest, other) = (world.connect("w"), world.connect("d"));
    restore("web@s").unwrap();
    let missing = restore("web@none").unwrap_err();
    assert!(missing.to_string().contains("no dataset"), "{missing}");
    world.until(|all| all.iter().filter(|one| one.connected).count() == 2);
    // Nobody had mounted it: nobody has to again.
    assert!(world.exports.list().iter().all(|one| !one.stale));
    assert_eq!(world.sockets(), ["d", "v", "w"]);
    drop((guest, other));
    world.until(|all| all.iter().all(|one| !one.connected));
    restore("web@s").unwrap();
    assert_eq!(world.reload(&[]), [""; 0]);
    assert!(!world.exports.state.lock().ending);
    world.finish();
}

/// Who ends it while a dataset is restored finds all at its end, and who freezes it finds all that
/// there was.
#[test]
fn the_end_comes_while_a_dataset_is_restored() {
    for freezes in [false, true] {
        let world = World::new(false);
        world.exports.store.snapshot("web@s").unwrap();
        world.reload(&[("web", "w"), ("db", "d")]);
        let _guests = (world.connect("w"), world.connect("d"));
        std::thread::scope(|scope| {
            let restores = scope.spawn(|| {
                while world.exports.restore("web@s").is_ok() {
                    if world.exports.state.lock().ending {
                        break;
                    }
                }
            });
            std::thread::sleep(Duration::from_millis(30));
            match freezes {
                true => world.exports.freeze(),
                false => world.exports.end(),
            }
            restores.join().unwrap();
        });
        let left = world.exports.wait().unwrap();
        assert_eq!(left.len(), if freezes { 2 } else { 0 });
        drop(left);
        world.finish();
    }
}
