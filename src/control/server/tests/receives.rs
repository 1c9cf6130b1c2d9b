//! Snapshots received by the daemon.

use std::io::{Cursor, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::streams::{Server, noise, of, take};
use super::*;
use crate::control::server::connections::Limits;
use crate::control::{Client, SendWhat, Session};
use crate::stream::token;

/// Streams of another store: its first snapshot, and what changed until the second.
struct Sent {
    one: Vec<u8>,
    two: Vec<u8>,
}

impl Sent {
    fn new() -> Sent {
        let server = Server::start(Limits::default());
        let one = server.send(&of("main@one", None)).unwrap();
        let two = server.send(&of("main@two", Some("main@one"))).unwrap();
        server.end();
        Sent { one, two }
    }
}

/// A store of its own that is served.
fn target() -> Server {
    Server::start(Limits::default())
}

fn session(server: &Server) -> Session {
    Session::Served(Client::find(&server.path()).unwrap().unwrap())
}

fn receive(
    server: &Server,
    (dataset, snapshot): (&str, Option<&str>),
    input: impl Read + Send + 'static,
) -> Result<(), String> {
    let watch = &mut |_| std::ops::ControlFlow::Continue(());
    let done = session(server).receive(dataset, snapshot, input, watch);
    done.map(drop).map_err(|error| error.to_string())
}

/// A request whose body goes on: only this much of it has come.
fn begun(server: &Server, dataset: &str, bytes: &[u8]) -> UnixStream {
    let path = format!("/api/v1/datasets/{dataset}/receive");
    super::streams::begun(server, &path, bytes)
}

fn has(server: &Server, snapshot: &str, name: &str, len: usize) {
    let volume = server.world.store.volume(snapshot).unwrap();
    let ino = volume.lookup(Ino::ROOT, name.as_bytes()).unwrap().ino;
    let mut content = Vec::new();
    volume.read(ino, 0, 1 << 30, &mut content).unwrap();
    assert!(content == noise(len), "{snapshot}: {name}");
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a receive that was cut off tells the sender.
fn token_of(server: &Server, dataset: &str) -> String {
    until("the receive is over", || {
        // While it goes on, nobody else can.
        let again = server.world.store.abort_receive("nobody");
        again.is_err() && session(server).unfinished(dataset).is_ok()
    });
    session(server).unfinished(dataset).unwrap().token
}

#[test]
fn what_a_daemon_receives_is_what_the_store_would() {
    let (sent, server) = (Sent::new(), target());
    let main = server.world.store.main().unwrap();
    std::thread::scope(|scope| {
        // A guest of another dataset goes on.
        let writer = scope.spawn(|| {
            (0..200).for_each(|number| {
                write(&main, &format!("beside {number}"), b"x");
            });
        });
        receive(&server, ("copy", None), Cursor::new(sent.one.clone())).unwrap();
        receive(
            &server,
            ("copy", Some("then")),
            Cursor::new(sent.two.clone()),
        )
        .unwrap();
        writer.join().unwrap();
    });
    drop(main);
    has(&server, "copy@one", "file", 6 << 20);
    has(&server, "copy@then", "file", 6 << 20);
    has(&server, "copy", "more", 100_000);
    server.end();
}

/// Each is refused in the words that the store has for it.
#[test]
fn what_cannot_be_received_is_refused_as_by_the_store() {
    let (sent, server) = (Sent::new(), target());
    let store = &server.world.store;
    let mut damaged = sent.one.clone();
    damaged[3 << 20] ^= 1;
    for (dataset, stream) in [
        ("main", sent.one.clone()),
        ("none", sent.two.clone()),
        ("other", b"no stream".to_vec()),
        ("other", Vec::new()),
        ("broken", damaged),
        ("cut", sent.one[..4 << 20].to_vec()),
        ("a@b", sent.one.clone()),
    ] {
        let offline = take(store, dataset, &stream).unwrap_err();
        let _ = store.abort_receive(dataset);
        let served = receive(&server, (dataset, None), Cursor::new(stream)).unwrap_err();
        let _ = store.abort_receive(dataset);
        let is_name = dataset.contains('@');
        assert!(is_name || served.contains(&offline), "{served}\n{offline}");
    }
    let nothing = session(&server).unfinished("other").unwrap_err();
    assert!(nothing.to_string().contains("no receive was cut off"));
    let nothing = session(&server).abort_receive("other").unwrap_err();
    assert!(nothing.to_string().contains("no receive was cut off"));
    server.end();
}

/// The daemon has what a store has whose stream ends there, and goes on with it.
#[test]
fn a_connection_that_is_cut_leaves_what_can_be_gone_on_with() {
    let (sent, server) = (Sent::new(), target());
    let stream = begun(&server, "copy", &sent.one[..4 << 20]);
    until("it has begun", || {
        session(&server).unfinished("copy").is_ok()
    });
    // By no other meanwhile.
    let again = receive(&server, ("copy", None), Cursor::new(sent.one.clone()));
    let again = again.unwrap_err();
    assert!(
        again.contains("already") || again.contains("cut off"),
        "{again}"
    );
    stream.shutdown(Shutdown::Both).unwrap();
    drop(stream);
    let source = Server::start(Limits::default());
    until("it goes on", || {
        let token = token_of(&server, "copy");
        let rest = source.send(&SendWhat::Rest { token });
        // The one before may not be over yet.
        rest.is_ok_and(|rest| receive(&server, ("copy", None), Cursor::new(rest)).is_ok())
    });
    has(&server, "copy@one", "file", 6 << 20);
    source.end();
    // Cut off and dropped.
    drop(begun(&server, "gone", &sent.one[..4 << 20]));
    until("it is dropped", || {
        session(&server).abort_receive("gone").is_ok()
    });
    assert!(session(&server).unfinished("gone").is_err());
    server.end();
}

/// Whoever cannot read on says so, and the daemon knows that it is not the end.
#[test]
fn an_input_that_fails_is_told() {
    struct Fails(Cursor<Vec<u8>>);
    impl Read for Fails {
        fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(bytes)? {
                0 => Err(std::io::Error::other("unplugged")),
                len => Ok(len),
            }
        }
    }
    let (sent, server) = (Sent::new(), target());
    let part = Fails(Cursor::new(sent.one[..4 << 20].to_vec()));
    let failed = receive(&server, ("copy", None), part).unwrap_err();
    assert!(failed.contains("unplugged"), "{failed}");
    assert!(!token_of(&server, "copy").is_empty());
    assert!(server.world.store.find("copy").is_err());
    server.end();
}

#[test]
fn the_end_does_not_wait_for_a_sender() {
    let (sent, server) = (Sent::new(), Server::start(patient()));
    let mut silent = begun(&server, "copy", &sent.one[..4 << 20]);
    until("it has begun", || {
        session(&server).unfinished("copy").is_ok()
    });
    let media = server.world.sim.media();
    let begin = Instant::now();
    server.end();
    assert!(begin.elapsed() < PATIENCE);
    let _ = silent.read_to_end(&mut Vec::new());
    // Marked when it ended, and durable.
    let options = OpenOptions {
        background: false,
        ..OpenOptions::default()
    };
    let store = Store::open_media(media, options, clock()).unwrap();
    let state = store.receive_record("copy").unwrap().unwrap();
    assert!(!token::encode(&state).is_empty());
    store.close().unwrap();
}

/// It holds up nobody for ever.
#[test]
fn a_sender_that_is_silent_is_cut_off() {
    let (sent, server) = (Sent::new(), Server::start(short_of_patience()));
    let mut silent = begun(&server, "copy", &sent.one[..4 << 20]);
    let mut answer = String::new();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    silent.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("nothing comes any more"), "{answer}");
    server.end();
}

/// Nobody sends terabytes to learn that the name is taken.
#[test]
fn a_refusal_does_not_wait_for_the_rest() {
    struct Endless(Cursor<Vec<u8>>, Arc<AtomicU64>);
    impl Read for Endless {
        fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
            let len = match self.0.read(bytes)? {
                0 => bytes.len(),
                len => len,
            };
            self.1.fetch_add(len as u64, Ordering::Relaxed);
            Ok(len)
        }
    }
    let (sent, server) = (Sent::new(), target());
    for stream in [sent.one.clone(), b"garbage".to_vec()] {
        let begin = Instant::now();
        let count = Arc::<AtomicU64>::default();
        let endless = Endless(Cursor::new(stream), Arc::clone(&count));
        let refused = receive(&server, ("main", None), endless).unwrap_err();
        assert!(!refused.contains("does not answer"), "{refused}");
        assert!(begin.elapsed() < Duration::from_secs(10));
        println!("{} bytes were read", count.load(Ordering::Relaxed));
    }
    server.end();
}

#[test]
fn as_many_are_received_at_a_time_as_there_is_room_for() {
    let (sent, server) = (Sent::new(), target());
    let all = 0..crate::control::server::STREAMS_MAX;
    let idle: Vec<_> = all
        .map(|number| begun(&server, &format!("d{number}"), &sent.one[..4 << 20]))
        .collect();
    for number in 0..idle.len() {
        let name = format!("d{number}");
        until("it has begun", || {
            session(&server).unfinished(&name).is_ok()
        });
    }
    let refused = receive(&server, ("copy", None), Cursor::new(sent.one.clone()));
    assert!(refused.unwrap_err().contains("try again"));
    drop(idle);
    until("there is room", || {
        receive(&server, ("copy", None), Cursor::new(sent.one.clone())).is_ok()
    });
    server.end();
}
