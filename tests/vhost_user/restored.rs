//! Datasets that are restored while guests use them: guests go on with the same connection, memory
//! and rings, and whatever they know of the old tree never meets the new one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use razorfs::disk::sim::{Call, Fault, SimMedia, Survival};
use razorfs::engine::{
    DatasetError, EngineError, EventKind, MkfsOptions, OpenOptions, Store, mkfs, system_clock,
};
use razorfs::export::{Common, Defaults, Endpoint, ExportError, Exports, NewExport};
use razorfs::format::id::Ino;
use razorfs::transport::vhost_user::DeviceOptions;
use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::ROOT;
use vm_tests::frontend::{Client, Mount, Options, Request, WAIT};

use crate::control::{call, exchange};
use crate::daemon::Daemon;

const BEFORE: &[u8] = b"as it was";
const AFTER: &[u8] = b"as it is.";

fn make(client: &mut Client, name: &str, bytes: &[u8]) -> u64 {
    let (entry, open) = client.call(request::create(ROOT, name, 0o644)).unwrap();
    let write = request::write(entry.nodeid, open.fh, 0, bytes);
    client.call(write).unwrap();
    entry.nodeid
}

fn write(client: &mut Client, node: u64, bytes: &[u8]) {
    client.call(request::write(node, 0, 0, bytes)).unwrap();
}

fn read(client: &mut Client, node: u64) -> Result<Vec<u8>, i32> {
    let read = client.call(request::read(node, 0, 0, 100));
    read.map_err(|error| error.errno().unwrap())
}

fn names(client: &mut Client) -> Vec<String> {
    let all = client.call(request::readdir(ROOT, 0, 0, 4096)).unwrap();
    let all = all.into_iter().map(|entry| entry.name);
    let mut all: Vec<_> = all.map(|name| String::from_utf8(name).unwrap()).collect();
    all.retain(|name| !name.starts_with('.'));
    all.sort();
    all
}

/// Exports that Prometheus is told of as stale.
fn stale_in_metrics(daemon: &Daemon) -> usize {
    let (_, text) = exchange(&daemon.control(), "GET", "/metrics", "").unwrap();
    let lines = text.lines();
    let lines = lines.filter(|line| line.starts_with("razorfs_export_stale{"));
    lines.filter(|line| line.ends_with(" 1")).count()
}

/// Whether all that can be asked is refused as stale, of these nodes and of the root directory.
fn is_stale(mount: &mut Mount, nodes: &[u64]) {
    fn refused<T>(client: &mut Client, request: Request<T>) {
        let error = client.call(request).map(drop).unwrap_err();
        assert_eq!(error.errno(), Some(libc::ESTALE), "{error}");
    }
    for client in &mut mount.clients {
        for node in nodes.iter().copied().chain([ROOT]) {
            refused(client, request::getattr(node));
            refused(client, request::write(node, 0, 0, b"of the old tree"));
            refused(client, request::read(node, 0, 0, 10));
            refused(client, request::fsync(node, 0, 0));
            refused(client, request::release(node, 0));
            refused(client, request::lookup(node, "file"));
            refused(client, request::copy_file_range((node, 0), (node, 9), 9));
        }
        refused(client, request::create(ROOT, "new", 0o644));
        refused(client, request::unlink(ROOT, "file"));
        refused(client, request::readdir(ROOT, 0, 0, 4096));
        refused(client, request::syncfs());
        refused(client, request::statfs());
    }
    for node in nodes {
        mount.hiprio.call(request::forget(*node, 1)).unwrap();
    }
}

/// Writes to a file of its own until that is refused: with what.
fn load(client: &mut Client, name: &str, over: &AtomicBool) -> Option<i32> {
    let node = make(client, name, b"load");
    let (since, bytes) = (Instant::now(), vec![7; 8192]);
    for at in (0..).map(|turn| turn % 64 * 8192) {
        let written = client.call(request::write(node, 0, at, &bytes));
        if let Err(error) = written {
            return error.errno();
        }
        if over.load(Ordering::Relaxed) || since.elapsed() > WAIT {
            break;
        }
    }
    None
}

#[test]
fn a_dataset_goes_back_below_all_its_guests() {
    let daemon = Daemon::start_prepared(
        &[&["create", "db"]],
        &["--export=main:other", "--export=db:db", "--cache=auto"],
    );
    let mut guest = daemon.mount(&Options::default());
    let mut other = daemon.mount_at("other");
    let mut db = daemon.mount_at("db");
    let file = make(guest.client(0), "file", BEFORE);
    assert!(daemon.command("snapshot", &["main@then"]).status.success());
    write(guest.client(0), file, AFTER);
    let gone = make(guest.client(0), "open and unlinked", AFTER);
    let unlink = request::unlink(ROOT, "open and unlinked");
    guest.client(0).call(unlink).unwrap();
    let lookup = request::lookup(ROOT, "file");
    assert_eq!(other.client(0).call(lookup).unwrap().nodeid, file);
    let dir = request::lookup(ROOT, ".snapshots");
    let dir = guest.client(0).call(dir).unwrap().nodeid;
    let then = guest.client(0).call(request::lookup(dir, "then")).unwrap();
    let then = request::lookup(then.nodeid, "file");
    let then = guest.client(0).call(then).unwrap().nodeid;
    assert_eq!(read(guest.client(0), then).unwrap(), BEFORE);
    // Not without force; and nobody notices.
    let refused = daemon.command("restore", &["main@then"]);
    assert!(!refused.status.success(), "{refused:?}");
    let refused = daemon.command("restore", &["main@none", "--force"]);
    assert!(!refused.status.success(), "{refused:?}");
    assert_eq!(read(guest.client(0), file).unwrap(), AFTER);

    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = &over;
        let mut loads = Vec::new();
        let clients = guest.clients.iter_mut().chain(&mut other.clients);
        for (number, client) in clients.enumerate() {
            let name = format!("load {number}");
            loads.push(scope.spawn(move || load(client, &name, over)));
        }
        let elsewhere = scope.spawn(|| load(db.client(0), "load", over));
        std::thread::sleep(Duration::from_millis(200));
        let done = daemon.command("restore", &["main@then", "--force", "--json"]);
        assert!(done.status.success(), "{done:?}\n{}", daemon.log());
        for one in loads {
            assert_eq!(one.join().unwrap(), Some(libc::ESTALE));
        }
        over.store(true, Ordering::Relaxed);
        assert_eq!(elsewhere.join().unwrap(), None, "another dataset's guest");
    });
    is_stale(&mut guest, &[file, gone, dir, then]);
    is_stale(&mut other, &[file]);
    let stale = || {
        let (_, all) = call(&daemon.control(), "GET", "/api/v1/exports", "").unwrap();
        let all = all.as_array().unwrap().iter();
        let count = all.filter(|one| one["is_stale"] == true).count();
        assert_eq!(stale_in_metrics(&daemon), count);
        count
    };
    assert_eq!(stale(), 2);
    // A guest mounts again; the other one goes on to be refused.
    guest.client(1).call(request::destroy()).unwrap();
    guest.client(1).call(request::init(u64::MAX)).unwrap();
    assert_eq!(stale(), 1);
    assert_eq!(names(guest.client(2)), ["file"]);
    let found = guest.client(0).call(request::lookup(ROOT, "file")).unwrap();
    assert_eq!(read(guest.client(2), found.nodeid).unwrap(), BEFORE);
    let gone = read(guest.client(2), gone);
    assert_eq!(gone.unwrap_err(), libc::ESTALE);
    is_stale(&mut other, &[file]);
    write(guest.client(0), found.nodeid, AFTER);
    assert_eq!(read(guest.client(1), found.nodeid).unwrap(), AFTER);
    assert_eq!(stale(), 1);
    drop((guest, other, db));
    daemon.terminate();
}

/// That a guest has to mount again is known to the process that takes over.
#[test]
fn what_takes_over_refuses_what_is_stale() {
    let mut daemon = Daemon::start(&[]);
    let mut guest = daemon.mount(&Options::default());
    let file = make(guest.client(0), "file", BEFORE);
    assert!(daemon.command("snapshot", &["main@then"]).status.success());
    let done = daemon.command("restore", &["main@then", "--force"]);
    assert!(done.status.success(), "{done:?}\n{}", daemon.log());
    daemon.take_over();
    is_stale(&mut guest, &[file]);
    guest.client(0).call(request::init(u64::MAX)).unwrap();
    let found = guest.client(0).call(request::lookup(ROOT, "file")).unwrap();
    assert_eq!(read(guest.client(0), found.nodeid).unwrap(), BEFORE);
    drop(guest);
    daemon.terminate();
}

/// A store on a simulated disk, exported in this process.
struct World {
    sim: SimMedia,
    store: Arc<Store>,
    exports: Arc<Exports>,
    _dir: tempfile::TempDir,
    guest: Mount,
    /// A file that has changed since the snapshot, and one that is open and unlinked.
    file: u64,
    gone: u64,
}

fn opened(sim: &SimMedia) -> Arc<Store> {
    let options = OpenOptions {
        background: false,
        ..OpenOptions::default()
    };
    Store::open_media(sim.media(), options, system_clock()).unwrap()
}

impl World {
    fn new() -> World {
        let sim = SimMedia::new();
        mkfs(sim.media(), &MkfsOptions::reproducible(), &system_clock()).unwrap();
        let store = opened(&sim);
        let dir = tempfile::tempdir().unwrap();
        let common = Common {
            device: DeviceOptions {
                request_queues: 3,
                pool_threads_max: 2,
                ..DeviceOptions::default()
            },
            defaults: Defaults {
                options: razorfs::fs::Options::default(),
                cache: None,
            },
            group: None,
            socket_dir: Some(dir.path().to_owned()),
        };
        let exports = Exports::new(Arc::clone(&store), common);
        let socket = dir.path().join("socket");
        let new = NewExport {
            dataset: "main".into(),
            endpoint: Endpoint::Path(socket.clone()),
            tag: None,
            read_only: false,
            shared: false,
            cache: None,
        };
        exports.attach(new).unwrap();
        let mut guest = Mount::new(&socket, &Options::default()).unwrap();
        let file = make(guest.client(0), "file", BEFORE);
        store.snapshot("main@then").unwrap();
        write(guest.client(0), file, AFTER);
        let gone = make(guest.client(0), "gone", AFTER);
        guest.client(0).call(request::unlink(ROOT, "gone")).unwrap();
        World {
            sim,
            store,
            exports,
            _dir: dir,
            guest,
            file,
            gone,
        }
    }

    fn is_stale(&self) -> bool {
        self.exports.list()[0].stale
    }

    /// The guest has what it had, and goes on.
    fn is_unharmed(&mut self) {
        for client in &mut self.guest.clients {
            assert_eq!(read(client, self.file).unwrap(), AFTER);
            assert_eq!(read(client, self.gone).unwrap(), AFTER);
        }
    }

    /// The guest gets nothing until it mounts again, and then what the snapshot has.
    fn is_the_snapshot(&mut self) {
        is_stale(&mut self.guest, &[self.file, self.gone]);
        let client = self.guest.client(0);
        client.call(request::init(u64::MAX)).unwrap();
        let found = client.call(request::lookup(ROOT, "file")).unwrap();
        assert_eq!(read(client, found.nodeid).unwrap(), BEFORE);
        assert_eq!(names(client), ["file"]);
        assert!(!self.is_stale());
    }

    fn finish(self) {
        drop(self.guest);
        self.exports.end();
        self.exports.wait().unwrap();
    }
}

#[test]
fn who_cannot_be_restored_notices_nothing() {
    let mut world = World::new();
    let user = world.store.volume("main").unwrap();
    for _ in 0..3 {
        let refused = world.exports.restore("main@then");
        let busy = matches!(&refused, Err(ExportError::Dataset(DatasetError::Busy(_))));
        assert!(busy, "{refused:?}");
        assert!(!world.is_stale());
        world.is_unharmed();
    }
    drop(user);
    let latest = *world.store.latest_event().borrow();
    world.exports.restore("main@then").unwrap();
    assert!(world.is_stale());
    let events = world.store.events_after(latest, 10).events;
    let events: Vec<_> = events.into_iter().map(|event| event.kind).collect();
    assert_eq!(events, [EventKind::DatasetRestored, EventKind::GuestStale]);
    world.is_the_snapshot();
    world.finish();
}

/// Whatever call fails: the guest has the old dataset as it was, or nothing until it mounts the new.
#[test]
fn a_disk_that_fails_leaves_the_old_or_the_new() {
    let (mut old, mut new) = (0, 0);
    for call in [Call::Read, Call::Write, Call::Flush] {
        for after in 0.. {
            let mut world = World::new();
            world.sim.set_fault(Some(Fault {
                call,
                after,
                sticky: false,
                kind: std::io::ErrorKind::Other,
            }));
            let done = world.exports.restore("main@then");
            let failed = world.sim.fault_calls() > after;
            world.sim.set_fault(None);
            println!("{call:?} {after}: {done:?}, stale: {}", world.is_stale());
            assert!(done.is_err() || world.is_stale());
            match world.is_stale() {
                true => {
                    new += u32::from(done.is_err());
                    world.is_the_snapshot();
                }
                false => {
                    old += 1;
                    world.is_unharmed();
                }
            }
            world.finish();
            if !failed {
                break;
            }
        }
    }
    assert!(old > 0, "no failure came in time");
    assert!(new > 0, "the last flush never failed");
}

#[test]
fn power_that_is_cut_leaves_the_old_or_the_new() {
    const SEED: u64 = 31;
    println!("seed {SEED}");
    let mut world = World::new();
    let file = world.file;
    world
        .guest
        .client(0)
        .call(request::fsync(file, 0, 0))
        .unwrap();
    let begin = world.sim.events();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (exports, over) = (&world.exports, &over);
        for (number, client) in world.guest.clients.iter_mut().enumerate() {
            let name = format!("load {number}");
            scope.spawn(move || assert_eq!(load(client, &name, over), Some(libc::ESTALE)));
        }
        std::thread::sleep(Duration::from_millis(50));
        exports.restore("main@then").unwrap();
    });
    world.is_the_snapshot();
    let end = world.sim.events();
    let mut recording = world.sim.recording();
    world.finish();
    let (mut old, mut new) = (0, 0);
    let step = ((end - begin) / 150).max(1);
    // The restore is at the end.
    let near = end.saturating_sub(60).max(begin);
    let positions = (begin..near).step_by(step).chain(near..=end);
    for at in positions {
        let crashed = recording.crash_at(at, Survival::Random(SEED ^ at as u64));
        let store = opened(&crashed);
        let main = store.volume("main").unwrap();
        let found = main.lookup(Ino::ROOT, b"file").unwrap();
        let mut bytes = Vec::new();
        main.read(found.ino, 0, 100, &mut bytes).unwrap();
        // Of the load's files all that was made before, or none.
        let loads = (0..3).filter(|number| {
            let name = format!("load {number}");
            !matches!(
                main.lookup(Ino::ROOT, name.as_bytes()),
                Err(EngineError::NotFound)
            )
        });
        match bytes.as_slice() {
            AFTER => old += 1,
            BEFORE => {
                assert_eq!(loads.count(), 0, "at {at}");
                new += 1;
            }
            other => panic!("at {at}: {other:?}"),
        }
        drop(main);
        store.close().unwrap();
        drop(store);
        assert_eq!(razorfs::fsck::errors(&crashed.media()).unwrap(), [""; 0]);
    }
    println!("{old} old, {new} new");
    assert!(old > 0 && new > 0);
}
