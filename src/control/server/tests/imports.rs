//! Tar streams into a store that a daemon serves, and out of it.

use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::net::Shutdown;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::streams::{Server, begun, noise};
use super::*;
use crate::archive::{ImportHow, Summary, WalkHow, extract_to_tar, pack};
use crate::control::server::connections::Limits;
use crate::control::socket::connect;
use crate::control::{Archived, Client, ExtractTo, ImportFrom, Session, SessionError};
use crate::disk::sim::{Call, Fault};

static NEVER: AtomicBool = AtomicBool::new(false);

const FILES: usize = 12;
const FILE_BYTES: usize = 300_000;

fn served(server: &Server) -> Session {
    Session::Served(Client::find(&server.path()).unwrap().unwrap())
}

fn opened(server: &Server) -> Session {
    Session::Opened(Arc::clone(&server.world.store))
}

fn go_on(_: &Summary) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn content(number: usize) -> Vec<u8> {
    let mut bytes = noise(FILE_BYTES);
    bytes[0] = u8::try_from(number).unwrap();
    bytes
}

/// A directory of files that do not become smaller.
fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    for number in 0..FILES {
        fs::write(dir.path().join(format!("d/f{number:02}")), content(number)).unwrap();
    }
    dir
}

fn packed(dir: &Path) -> Vec<u8> {
    let mut stream = Vec::new();
    let done = pack(dir, WalkHow::default(), &mut stream, &mut go_on);
    done.1.unwrap();
    stream
}

fn into(to: &str, merge: bool) -> ImportHow {
    ImportHow {
        to: to.into(),
        merge,
        ..ImportHow::default()
    }
}

fn import(
    session: &Session,
    (dataset, to): (&str, &str),
    from: ImportFrom<'_>,
) -> Result<Archived, SessionError> {
    session.import(dataset, &into(to, false), from, &NEVER, &mut go_on)
}

/// What there is to say of it: what was done, and why not all.
fn told(done: Result<Archived, SessionError>) -> (Option<Summary>, String) {
    match done {
        Ok((summary, done)) => {
            let why = done.err().map(|error| error.to_string());
            (Some(summary), why.unwrap_or_default())
        }
        Err(error) => (None, error.to_string()),
    }
}

fn as_file(bytes: &[u8]) -> File {
    use std::io::Seek as _;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

fn extracted(session: &Session, name: &str, path: &str) -> Result<(Summary, Vec<u8>), String> {
    let mut stream = Vec::new();
    let to = ExtractTo::Stream(&mut stream);
    let done = session.extract(name, path.as_bytes(), to, &NEVER, &mut go_on);
    let (summary, done) = done.map_err(|error| error.to_string())?;
    done.map_err(|error| error.to_string())?;
    Ok((summary, stream))
}

/// How many files of the tree are there, each of them whole.
fn whole_files(server: &Server, dataset: &str, dir: &str) -> usize {
    let volume = server.world.store.volume(dataset).unwrap();
    let mut at = Ino::ROOT;
    for name in dir.split('/') {
        match volume.lookup(at, name.as_bytes()) {
            Ok(found) => at = found.ino,
            Err(_) => return 0,
        }
    }
    let found = (0..FILES).filter(|number| {
        let Ok(found) = volume.lookup(at, format!("f{number:02}").as_bytes()) else {
            return false;
        };
        let mut bytes = Vec::new();
        volume.read(found.ino, 0, 1 << 30, &mut bytes).unwrap();
        assert!(bytes == content(*number), "{number}");
        true
    });
    found.count()
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Nothing is left without a name, and an import can begin.
fn is_over(server: &Server, dataset: &str) {
    let volume = server.world.store.volume(dataset).unwrap();
    until("the import is over", || volume.begin_import().is_ok());
    assert_eq!(volume.orphans_for_tests(), []);
}

#[test]
fn what_a_daemon_imports_and_extracts_is_what_the_store_would() {
    let server = Server::start(Limits::default());
    let store = &server.world.store;
    let dir = tree();
    // As those of others are read, its times stay.
    packed(dir.path());
    for name in ["here", "there", "stream"] {
        store.create_dataset(name, (0, 0)).unwrap();
    }
    let from = ImportFrom::Directory(dir.path());
    let main = store.main().unwrap();
    let (here, there) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            (0..200).for_each(|number| {
                write(&main, &format!("beside {number}"), b"x");
            });
        });
        let here = told(import(&opened(&server), ("here", "a/b"), from));
        let there = told(import(&served(&server), ("there", "a/b"), from));
        writer.join().unwrap();
        (here, there)
    });
    assert_eq!(here, there);
    assert_eq!(here.0.unwrap().files, FILES as u64);
    let file = as_file(&packed(dir.path()));
    let by_stream = import(
        &served(&server),
        ("stream", "a/b"),
        ImportFrom::Stream(&file),
    );
    assert_eq!(told(by_stream), there);
    let (summary, stream) = extracted(&served(&server), "there", "a/b").unwrap();
    for name in ["here", "there", "stream"] {
        assert_eq!(whole_files(&server, name, "a/b/d"), FILES);
        for session in [opened(&server), served(&server)] {
            let again = extracted(&session, name, "/a/b").unwrap();
            assert!(again == (summary.clone(), stream.clone()), "{name}");
        }
    }
    assert_eq!(summary.bytes, (FILES * FILE_BYTES) as u64);
    store.snapshot("there@one").unwrap();
    let of_snapshot = extracted(&served(&server), "there@one", "a/b").unwrap();
    assert!(of_snapshot.1 == stream);
    let target = dir.path().join("target");
    let to = ExtractTo::Directory(&target);
    let done = served(&server).extract("there", b"a/b", to, &NEVER, &mut go_on);
    assert_eq!(told(done), (Some(summary), String::new()));
    assert!(fs::read(target.join("d/f07")).unwrap() == content(7));
    store.reap(&|| false).unwrap();
    drop(main);
    server.end();
}

/// Each is refused in the words that the store has for it, with what came before.
#[test]
fn what_cannot_be_imported_is_refused_as_by_the_store() {
    let server = Server::start(Limits::default());
    let store = &server.world.store;
    let dir = tree();
    let stream = packed(dir.path());
    let mut damaged = stream.clone();
    let far = damaged.len() / 2 / 512 * 512;
    let next = (far..)
        .step_by(512)
        .find(|at| damaged[at + 257..].starts_with(b"ustar"));
    damaged[next.unwrap()] ^= 1;
    // Within a file.
    let cut = &stream[..stream.len() / 2 - FILE_BYTES / 3];
    let mut unended = stream.as_slice();
    while let Some(rest) = unended.strip_suffix(&[0; 512]) {
        unended = rest;
    }
    store.create_dataset("web", (0, 0)).unwrap();
    let limit = crate::engine::Settings {
        quota_bytes: Some(FILE_BYTES as u64 * 3),
        ..crate::engine::Settings::default()
    };
    store.create_dataset_with("small", (0, 0), limit).unwrap();
    store.snapshot("web@one").unwrap();
    let cases: [(&str, &str, &[u8], &str); 12] = [
        ("none", "", &stream, "no dataset"),
        ("web@one", "", &stream, "read-only"),
        ("a/b", "", &stream, "cannot be a name"),
        (
            "main",
            "",
            &stream,
            "there are entries already: file, more; --merge",
        ),
        ("main", "file/x", &stream, "file: not a directory"),
        ("web", "x/../y", &stream, "'..'"),
        ("web", "x\0", &stream, "NUL"),
        ("web", "garbage", b"no stream", "cut off"),
        ("web", "empty", b"", "it is empty"),
        ("web", "damaged", &damaged, "checksum"),
        ("web", "cut", cut, "cut off"),
        ("small", "", &stream, "d/f03: quota exceeded"),
    ];
    for (dataset, to, bytes, why) in cases {
        let session = opened(&server);
        let offline = told(import(
            &session,
            (dataset, to),
            ImportFrom::Stream(&as_file(bytes)),
        ));
        assert!(offline.1.contains(why), "{offline:?}, not: {why}");
        let (to, dataset) = match dataset {
            "small" => (to.to_owned(), "again".to_owned()),
            _ if to.starts_with(char::is_alphabetic)
                && !to.starts_with('x')
                && dataset == "web" =>
            {
                (format!("{to}2"), dataset.to_owned())
            }
            _ => (to.to_owned(), dataset.to_owned()),
        };
        if dataset == "again" {
            store.create_dataset_with("again", (0, 0), limit).unwrap();
        }
        let from = as_file(bytes);
        let online = told(import(
            &served(&server),
            (&dataset, &to),
            ImportFrom::Stream(&from),
        ));
        assert_eq!(online, offline, "{why}");
        is_over(&server, "main");
    }
    // Nothing without its end mark is whole.
    let from = as_file(unended);
    let online = told(import(
        &served(&server),
        ("web", "u"),
        ImportFrom::Stream(&from),
    ));
    assert!(online.1.contains("without an end mark"), "{online:?}");
    assert_eq!(online.0.unwrap().files, FILES as u64);
    let none = dir.path().join("none");
    for session in [opened(&server), served(&server)] {
        let done = told(import(&session, ("web", "n"), ImportFrom::Directory(&none)));
        assert!(done.1.contains("none: opening: No such file"), "{done:?}");
        assert_eq!(done.0, Some(Summary::default()));
    }
    server.end();
}

/// Its own faults are what a server answers with 5xx, and nothing else.
#[test]
fn refusals_have_their_kinds() {
    let world = World::new();
    let garbage = |path: &str| world.send("POST", path, "garbage".into());
    let cases = [
        ("/api/v1/datasets/none/import", 404, "not_found"),
        ("/api/v1/datasets/main/import", 400, "bad_request"),
        ("/api/v1/datasets/main/import?merge=x", 400, "bad_request"),
        ("/api/v1/datasets/main/import?also=x", 400, "bad_request"),
        ("/api/v1/datasets/main/import?to=%5Cq", 400, "bad_request"),
        ("/api/v1/datasets/main/import?to=..", 422, "not_possible"),
        ("/api/v1/datasets/main/import?to=%00", 422, "not_possible"),
        ("/api/v1/datasets/main@x/import", 422, "not_possible"),
        ("/api/v1/datasets/a%2Fb/import", 400, "bad_name"),
    ];
    for (path, status, name) in cases {
        let answer = garbage(path);
        assert_eq!((answer.0, kind(&answer)), (status, name), "{path}");
    }
    let cases = [
        ("/api/v1/datasets/none/extract", 404, "not_found"),
        ("/api/v1/datasets/main/extract?path=none", 404, "not_found"),
        ("/api/v1/datasets/main/extract?path=f%2Fx", 404, "not_found"),
        ("/api/v1/datasets/main/extract?path=..", 422, "not_possible"),
        (
            "/api/v1/datasets/main/extract?path=%5Cq",
            400,
            "bad_request",
        ),
        ("/api/v1/datasets/main@x/extract", 404, "not_found"),
    ];
    let main = world.store.main().unwrap();
    write(&main, "f", b"x");
    for (path, status, name) in cases {
        let answer = world.get(path);
        assert_eq!((answer.0, kind(&answer)), (status, name), "{path}");
    }
    let taken = garbage("/api/v1/datasets/main/import");
    assert_eq!((taken.0, kind(&taken)), (409, "exists"));
    let believing = main.begin_believing();
    let busy = garbage("/api/v1/datasets/main/import?merge=true");
    assert_eq!((busy.0, kind(&busy)), (409, "busy"));
    drop(believing);
    let import = main.begin_import().unwrap();
    let busy = garbage("/api/v1/datasets/main/import?merge=true");
    assert_eq!((busy.0, kind(&busy)), (409, "busy"));
    drop((import, main));
    world.finish();
    let read_only = World::on(make(), true);
    let refused = read_only.send("POST", "/api/v1/datasets/main/import?to=x", "x".into());
    assert_eq!((refused.0, kind(&refused)), (503, "read_only"));
    read_only.finish();
}

#[test]
fn a_connection_that_is_cut_leaves_whole_files() {
    let server = Server::start(Limits::default());
    let stream = packed(tree().path());
    let path = "/api/v1/datasets/main/import?to=in";
    let half = begun(&server, path, &stream[..stream.len() / 2]);
    until("some of it is there", || {
        whole_files(&server, "main", "in/d") > 2
    });
    // By no other meanwhile.
    let from = as_file(&stream);
    let other = told(import(
        &served(&server),
        ("main", "x"),
        ImportFrom::Stream(&from),
    ));
    assert!(other.1.contains("already: try again"), "{other:?}");
    half.shutdown(Shutdown::Both).unwrap();
    is_over(&server, "main");
    assert!((3..FILES).contains(&whole_files(&server, "main", "in/d")));
    let from = as_file(&stream);
    let how = into("in", true);
    let again = served(&server);
    let again = again.import("main", &how, ImportFrom::Stream(&from), &NEVER, &mut go_on);
    assert_eq!(told(again).1, "");
    assert_eq!(whole_files(&server, "main", "in/d"), FILES);
    server.end();
}

/// Neither of them waits for who sends nothing; the files that came are durable.
#[test]
fn a_silent_sender_is_cut_off_and_not_waited_for_at_the_end() {
    let server = Server::start(short_of_patience());
    let stream = packed(tree().path());
    let path = "/api/v1/datasets/main/import?to=";
    let half = &stream[..stream.len() / 2];
    let mut silent = begun(&server, &format!("{path}in"), half);
    let mut answer = String::new();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    silent.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("nothing comes any more"), "{answer}");
    assert!(answer.contains("\"imported\""), "{answer}");
    is_over(&server, "main");
    server.end();
    let server = Server::start(patient());
    let mut silent = begun(&server, &format!("{path}later"), half);
    until("some of it is there", || {
        whole_files(&server, "main", "later/d") > 2
    });
    let media = server.world.sim.media();
    let begin = Instant::now();
    server.end();
    assert!(begin.elapsed() < PATIENCE);
    let mut answer = String::new();
    let _ = silent.read_to_string(&mut answer);
    assert!(answer.contains("interrupted"), "{answer}");
    let options = OpenOptions {
        background: false,
        ..OpenOptions::default()
    };
    let store = Store::open_media(media, options, clock()).unwrap();
    let main = store.main().unwrap();
    let more = main.lookup(Ino::ROOT, b"later").unwrap().ino;
    let dir = main.lookup(more, b"d").unwrap().ino;
    assert!(main.lookup(dir, b"f02").is_ok());
    drop(main);
    store.close().unwrap();
}

/// Nobody sends terabytes to learn that there is something already, nor waits for who sends nothing.
#[test]
fn a_refusal_does_not_wait_for_the_rest() {
    let server = Server::start(Limits::default());
    let dir = tree();
    fs::write(dir.path().join("large"), noise(64 << 20)).unwrap();
    let begin = Instant::now();
    let full = told(import(
        &served(&server),
        ("main", ""),
        ImportFrom::Directory(dir.path()),
    ));
    assert!(full.1.contains("entries already"), "{full:?}");
    let (silent, _writer) = std::io::pipe().unwrap();
    let silent = File::from(std::os::fd::OwnedFd::from(silent));
    let none = told(import(
        &served(&server),
        ("none", ""),
        ImportFrom::Stream(&silent),
    ));
    assert!(none.1.contains("no dataset"), "{none:?}");
    assert!(begin.elapsed() < PATIENCE);
    server.end();
}

/// A signal while nothing comes, or while the directory is read: what is there is told.
#[test]
fn an_import_that_is_interrupted_says_what_is_there() {
    let server = Server::start(Limits::default());
    let dir = tree();
    let stream = packed(dir.path());
    let (silent, mut writer) = std::io::pipe().unwrap();
    let silent = File::from(std::os::fd::OwnedFd::from(silent));
    let stop = AtomicBool::new(false);
    let (session, how) = (served(&server), into("in", false));
    let done = std::thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&stream[..stream.len() / 2]).unwrap();
            until("some of it is there", || {
                whole_files(&server, "main", "in/d") > 2
            });
            stop.store(true, Ordering::Relaxed);
        });
        session.import("main", &how, ImportFrom::Stream(&silent), &stop, &mut go_on)
    });
    let (summary, why) = told(done);
    assert!(why.contains("broken off by a signal"), "{why}");
    let files = whole_files(&server, "main", "in/d");
    assert_eq!(summary.unwrap().files, files as u64);
    assert!((3..FILES).contains(&files));
    let mut tell = |summary: &Summary| match summary.files < 5 {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    };
    let from = ImportFrom::Directory(dir.path());
    let (summary, why) = told(session.import("main", &into("dir", false), from, &NEVER, &mut tell));
    assert_eq!(why, "interrupted");
    assert_eq!(summary.unwrap().files, 5);
    assert_eq!(whole_files(&server, "main", "dir/d"), 5);
    is_over(&server, "main");
    server.end();
}

/// Each write and flush fails from some moment on: it is told, and nothing with a name is half there.
#[test]
fn a_disk_that_fails_while_something_is_imported() {
    let stream = packed(tree().path());
    let mut failed = 0;
    for call in [Call::Write, Call::Flush, Call::Allocate] {
        for after in [0, 1, 3, 8, 20] {
            let server = Server::start(Limits::default());
            server.world.sim.set_fault(Some(Fault {
                call,
                after,
                sticky: true,
                kind: std::io::ErrorKind::Other,
            }));
            let from = as_file(&stream);
            let done = import(&served(&server), ("main", "in"), ImportFrom::Stream(&from));
            let is_hit = server.world.sim.fault_calls() > after;
            server.world.sim.set_fault(None);
            let (_, why) = told(done);
            assert_eq!(!why.is_empty(), is_hit, "{call:?} {after}: {why}");
            failed += usize::from(is_hit);
            whole_files(&server, "main", "in/d");
            drop(server);
        }
    }
    assert!(failed > 4, "{failed}");
}

/// The client sees that it is not all of it; what it made of it is whole.
#[test]
fn a_disk_that_cannot_be_read_while_something_is_extracted() {
    let server = Server::start(Limits::default());
    let dir = tree();
    let from = ImportFrom::Directory(dir.path());
    told(import(&served(&server), ("main", "in"), from));
    let sim = server.world.sim.killed();
    server.end();
    let mut failed = 0;
    for after in [0, 2, 5, 9, 14] {
        let server = Server::on(sim.killed(), Limits::default());
        server.world.sim.set_fault(Some(Fault {
            call: Call::Read,
            after,
            sticky: true,
            kind: std::io::ErrorKind::Other,
        }));
        let target = dir.path().join(format!("out{after}"));
        let to = ExtractTo::Directory(&target);
        let done = served(&server).extract("main", b"in", to, &NEVER, &mut go_on);
        let is_hit = server.world.sim.fault_calls() > after;
        server.world.sim.set_fault(None);
        let (_, why) = told(done);
        assert_eq!(!why.is_empty(), is_hit, "{after}: {why}");
        // Whether the answer had begun to come by then is not known: the words differ.
        failed += usize::from(is_hit);
        for number in 0..FILES {
            if let Ok(found) = fs::read(target.join(format!("d/f{number:02}"))) {
                assert!(found == content(number), "{after}: {number}");
            }
        }
        server.end();
    }
    assert!(failed > 1, "{failed}");
}

/// What changes behind the beginning of an extraction is not in it, however slowly it is taken.
#[test]
fn a_dataset_is_extracted_as_it_was_at_the_beginning() {
    let server = Server::start(Limits::default());
    let store = &server.world.store;
    let main = store.main().unwrap();
    let (_, before) = extracted(&opened(&server), "main", "").unwrap();
    let mut changed = false;
    let mut tell = |_: &Summary| {
        if !std::mem::replace(&mut changed, true) {
            for name in ["file", "more"] {
                let ino = main.lookup(Ino::ROOT, name.as_bytes()).unwrap().ino;
                let set = crate::engine::SetAttr {
                    size: Some(7),
                    ..crate::engine::SetAttr::default()
                };
                main.setattr(ino, &set).unwrap();
            }
            write(&main, "later", b"x");
        }
        ControlFlow::Continue(())
    };
    let mut stream = Vec::new();
    let to = ExtractTo::Stream(&mut stream);
    let done = served(&server).extract("main", b"", to, &NEVER, &mut tell);
    assert_eq!(told(done).1, "");
    assert!(stream == before);
    // Names of which nothing is told, and space that comes back.
    assert_eq!(store.list().unwrap().len(), 3);
    until("nobody reads it any more", || {
        store.reap(&|| false).unwrap()
    });
    let after = extracted(&served(&server), "main", "").unwrap().1;
    assert!(after.len() < 100_000);
    drop(main);
    server.end();
}

/// Where nobody takes it, and where the client is interrupted.
#[test]
fn an_extraction_ends_with_who_takes_it() {
    let server = Server::start(Limits {
        answer_time: Duration::from_millis(300),
        ..Limits::default()
    });
    let store = &server.world.store;
    let mut stream = connect(&server.path()).unwrap();
    let request = "GET /api/v1/datasets/main/extract HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    stream.read_exact(&mut [0; 12]).unwrap();
    until("it is cut off", || store.reap(&|| false).unwrap());
    server.end();
    // From here on a client may be slow.
    let server = Server::start(Limits::default());
    let store = &server.world.store;
    let mut tell = |_: &Summary| ControlFlow::Break(());
    let to = std::env::temp_dir().join("razorfs-is-not-made");
    let session = served(&server);
    let mut sink = std::io::sink();
    let done = session.extract("main", b"", ExtractTo::Stream(&mut sink), &NEVER, &mut tell);
    assert_eq!(told(done).1, "interrupted");
    until("it is given up", || store.reap(&|| false).unwrap());
    // What is refused makes nothing.
    let refused = session.extract("main", b"no", ExtractTo::Directory(&to), &NEVER, &mut go_on);
    assert!(told(refused).1.contains("no: no such file"));
    assert!(!to.exists());
    let mut direct = Vec::new();
    let still = store.still("main").unwrap();
    extract_to_tar(&still, b"", &mut direct, &mut go_on)
        .1
        .unwrap();
    drop(still);
    assert!(extracted(&session, "main", "").unwrap().1 == direct);
    store.reap(&|| false).unwrap();
    server.end();
}
