//! Listening sockets that a daemon was given or has for other machines, and another process goes on
//! with.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::ROOT;
use vm_tests::frontend::{Mount, Options, WAIT};

use crate::control_remote::Secrets;
use crate::daemon::{Daemon, ended, make_store, wait_for_handover};

#[test]
fn who_connects_over_the_network_meanwhile_is_not_refused() {
    let secrets = Secrets::new();
    let flags = secrets.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut daemon = Daemon::start(&flags);
    let mut guest = daemon.mount(&Options::default());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let connecting = scope.spawn(|| {
            let (mut connections, since) = (0, Instant::now());
            // Where a process does not end as it should, that is what is told.
            while !is_over.load(Ordering::Relaxed) && since.elapsed() < WAIT {
                TcpStream::connect(("127.0.0.1", secrets.port())).unwrap();
                connections += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            connections
        });
        for _ in 0..3 {
            daemon.take_over();
            let listed = secrets.command("list", &[]);
            assert!(listed.status.success(), "{listed:?}");
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(connecting.join().unwrap() > 10);
    });
    guest.client(0).call(request::getattr(ROOT)).unwrap();
    drop(guest);
    daemon.is_well("being taken over with connections from the network");
    daemon.terminate();
}

#[test]
fn who_cannot_listen_there_does_not_take_over() {
    let secrets = Secrets::new();
    let flags = secrets.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut daemon = Daemon::start(&flags);
    let mut guest = daemon.mount(&Options::default());
    // Somebody else's, which is neither free nor handed over.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = format!("--control-tcp={}", other.local_addr().unwrap());
    let refused = daemon.keeps(&[&[other.as_str()], &flags[1..]].concat());
    assert!(refused.contains("cannot listen on"), "{refused}");
    let forgotten = daemon.keeps(&[]);
    assert!(forgotten.contains("--control-tcp"), "{forgotten}");
    guest.client(0).call(request::getattr(ROOT)).unwrap();
    let listed = secrets.command("list", &[]);
    assert!(listed.status.success(), "{listed:?}");
    drop(guest);
    daemon.terminate();
}

/// A daemon that was given a socket as descriptor 3, or is told that it would have been.
fn start(dir: &Path, listener: Option<UnixListener>, flags: &[&str]) -> Child {
    let log = std::fs::File::options();
    let log = log.clone().create(true).append(true).open(dir.join("log"));
    let script = match listener {
        Some(_) => "exec \"$0\" \"$@\" 3<&0 </dev/null",
        None => "exec \"$0\" \"$@\"",
    };
    let stdin = listener.map_or_else(Stdio::null, |socket| OwnedFd::from(socket).into());
    Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_razorfsd")])
        .args(["--allow-volatile", "--fd", "3", "--store"])
        .arg(dir.join("store"))
        .args(flags)
        .stdin(stdin)
        .stderr(log.unwrap())
        .spawn()
        .unwrap()
}

#[test]
fn a_guest_of_a_socket_that_came_as_a_descriptor_goes_on() {
    let dir = make_store(&[]);
    let path = dir.path().join("given");
    let listener = UnixListener::bind(&path).unwrap();
    let mut old = start(dir.path(), Some(listener), &[]);
    let mut guest = Mount::new(&path, &Options::default()).unwrap();
    guest
        .client(0)
        .call(request::mkdir(ROOT, "dir", 0o755))
        .unwrap();
    wait_for_handover(dir.path());
    let mut new = start(dir.path(), None, &["--take-over"]);
    let log = || std::fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(ended(&mut old).success(), "{}", log());
    guest.client(1).call(request::lookup(ROOT, "dir")).unwrap();
    assert!(new.try_wait().unwrap().is_none(), "{}", log());
    // It ends with its guest, as the first one would have, and whoever made the socket has it.
    drop(guest);
    assert!(ended(&mut new).success(), "{}", log());
    assert!(path.exists());
    let checked = Command::new(env!("CARGO_BIN_EXE_razorfsck"))
        .arg(dir.path().join("store"))
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
}
