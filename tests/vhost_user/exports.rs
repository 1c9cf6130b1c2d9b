//! Datasets, each exported to guests of its own.

use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::ROOT;
use vm_tests::frontend::{Mount, Options};

use crate::daemon::Daemon;

fn make(mount: &mut Mount, name: &str, bytes: &[u8]) -> u64 {
    let made = mount.client(0).call(request::create(ROOT, name, 0o644));
    let (entry, open) = made.unwrap();
    let write = request::write(entry.nodeid, open.fh, 0, bytes);
    mount.client(0).call(write).unwrap();
    entry.nodeid
}

fn content(mount: &mut Mount, name: &str) -> Option<Vec<u8>> {
    let found = mount.client(0).call(request::lookup(ROOT, name)).ok()?;
    // A number of 0 says that there is none, and is to be remembered.
    let found = Some(found).filter(|found| found.nodeid != 0)?;
    let read = request::read(found.nodeid, 0, 0, 100);
    Some(mount.client(0).call(read).unwrap())
}

#[test]
fn a_guest_reaches_its_own_dataset_only() {
    let prepare: &[&[&str]] = &[&["create", "web"]];
    let daemon = Daemon::start_prepared(prepare, &["--export", "web:w:files", "--export=web:v:ro"]);
    let mut main = daemon.mount(&Options::default());
    let (mut web, mut viewer) = (daemon.mount_at("w"), daemon.mount_at("v"));
    // The same number, and not the same file.
    let of_main = make(&mut main, "file", b"of main");
    let of_web = make(&mut web, "file", b"of web");
    assert_eq!(of_main, of_web);
    make(&mut main, "only here", b"x");
    assert_eq!(content(&mut main, "file").unwrap(), b"of main");
    for mount in [&mut web, &mut viewer] {
        assert_eq!(content(mount, "file").unwrap(), b"of web");
        assert!(content(mount, "only here").is_none());
    }
    let refused = viewer.client(0).call(request::create(ROOT, "new", 0o644));
    assert_eq!(refused.unwrap_err().errno(), Some(libc::EROFS));
    drop((main, web, viewer));
    daemon.terminate();
}

#[test]
fn a_snapshot_stays_as_it_was() {
    let daemon = Daemon::start(&[]);
    let mut main = daemon.mount(&Options::default());
    make(&mut main, "file", b"before");
    drop(main);
    let then: &[&[&str]] = &[&["snapshot", "main@then"], &["clone", "main@then", "other"]];
    let daemon = daemon.restart_after(then, &["--export=main@then:s", "--export=other:o"]);
    let mut main = daemon.mount(&Options::default());
    let (mut then, mut other) = (daemon.mount_at("s"), daemon.mount_at("o"));
    for (mount, bytes) in [(&mut main, b"main"), (&mut other, b"else")] {
        let found = mount.client(0).call(request::lookup(ROOT, "file")).unwrap();
        let write = request::write(found.nodeid, 0, 2, bytes);
        mount.client(0).call(write).unwrap();
    }
    assert_eq!(content(&mut main, "file").unwrap(), b"bemain");
    assert_eq!(content(&mut other, "file").unwrap(), b"beelse");
    assert_eq!(content(&mut then, "file").unwrap(), b"before");
    let unlink = request::unlink(ROOT, "file");
    let refused = then.client(0).call(unlink).unwrap_err();
    assert_eq!(refused.errno(), Some(libc::EROFS));
    drop((main, then, other));
    daemon.terminate();
}

#[test]
fn a_dataset_goes_back_to_a_snapshot() {
    let daemon = Daemon::start(&[]);
    let mut main = daemon.mount(&Options::default());
    make(&mut main, "file", b"before");
    drop(main);
    let daemon = daemon.restart_after(&[&["snapshot", "main@then"]], &[]);
    let mut main = daemon.mount(&Options::default());
    make(&mut main, "other", b"since");
    let found = main.client(0).call(request::lookup(ROOT, "file")).unwrap();
    let write = request::write(found.nodeid, 0, 2, b"main");
    main.client(0).call(write).unwrap();
    drop(main);
    let daemon = daemon.restart_after(&[&["restore", "main@then"]], &[]);
    let mut main = daemon.mount(&Options::default());
    assert_eq!(content(&mut main, "file").unwrap(), b"before");
    assert!(content(&mut main, "other").is_none());
    drop(main);
    daemon.terminate();
}

/// One golden image serves a hundred guests at once.
#[test]
fn a_hundred_clones_serve_a_hundred_guests() {
    const GUESTS: usize = 100;
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let all = rustix::process::Rlimit {
        current: limits.maximum,
        ..limits
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, all).unwrap();
    let daemon = Daemon::start(&[]);
    let mut main = daemon.mount(&Options::default());
    make(&mut main, "file", b"golden");
    drop(main);
    let done = daemon.command("snapshot", &["main@golden"]);
    assert!(done.status.success(), "{done:?}");
    for guest in 0..GUESTS {
        let done = daemon.command("clone", &["main@golden", &format!("c{guest}")]);
        assert!(done.status.success(), "{done:?}");
    }
    let exports: Vec<_> = (0..GUESTS)
        .map(|guest| format!("--export=c{guest}:s{guest}"))
        .collect();
    let exports: Vec<_> = exports.iter().map(String::as_str).collect();
    let daemon = daemon.restart_after(&[], &exports);
    let mounts = (0..GUESTS).map(|guest| daemon.mount_at(&format!("s{guest}")));
    let mut mounts: Vec<_> = mounts.collect();
    std::thread::scope(|scope| {
        for (guest, mount) in mounts.iter_mut().enumerate() {
            scope.spawn(move || {
                assert_eq!(content(mount, "file").unwrap(), b"golden");
                let found = mount.client(0).call(request::lookup(ROOT, "file")).unwrap();
                let own = format!("{guest:6}");
                let write = request::write(found.nodeid, 0, 0, own.as_bytes());
                mount.client(0).call(write).unwrap();
                make(mount, &format!("only {guest}"), own.as_bytes());
                let sync = request::fsync(found.nodeid, 0, 0);
                mount.client(0).call(sync).unwrap();
            });
        }
    });
    for (guest, mount) in mounts.iter_mut().enumerate() {
        let own = format!("{guest:6}");
        assert_eq!(content(mount, "file").unwrap(), own.as_bytes());
        assert!(content(mount, &format!("only {guest}")).is_some());
        let next = format!("only {}", (guest + 1) % GUESTS);
        assert!(content(mount, &next).is_none());
    }
    let mut main = daemon.mount(&Options::default());
    assert_eq!(content(&mut main, "file").unwrap(), b"golden");
    drop((main, mounts));
    daemon.terminate();
}

#[test]
fn an_export_of_nothing_is_named() {
    let output = Daemon::refused(&["--export=nobody:n"]);
    assert!(output.contains("'nobody'"), "{output}");
}

/// Refusals of writes and of new files, told apart from a full store; what gives room back works.
#[test]
fn a_dataset_at_its_quota_stops_no_other() {
    let prepare: &[&[&str]] = &[
        &["create", "web", "--quota", "4M", "--quota-inodes", "10"],
        &["create", "db", "--reservation", "1M"],
        &["set", "--dataset", "web", "quota=1M", "quota-inodes=4"],
    ];
    let daemon = Daemon::start_prepared(prepare, &["--export", "web:w", "--export=db:d"]);
    let (mut web, mut db) = (daemon.mount_at("w"), daemon.mount_at("d"));
    let block = vec![7; 128 << 10];
    let write = |mount: &mut Mount, node: u64, at: u64| {
        let write = request::write(node, 0, at * block.len() as u64, &block);
        let done = mount.client(0).call(write);
        done.map(drop).map_err(|error| error.errno())
    };
    let node = make(&mut web, "file", b"");
    let of_db = make(&mut db, "file", b"");
    for at in 0..8 {
        assert_eq!(write(&mut web, node, at), Ok(()), "{at}");
        assert_eq!(write(&mut db, of_db, at), Ok(()), "{at}");
    }
    let refused = Err(Some(libc::EDQUOT));
    assert_eq!(write(&mut web, node, 8), refused);
    assert_eq!(write(&mut db, of_db, 8), Ok(()));
    // In place, before it is on the disk and then.
    for _ in 0..2 {
        assert_eq!(write(&mut web, node, 3), Ok(()));
        web.client(0).call(request::fsync(node, 0, 0)).unwrap();
    }
    assert_eq!(write(&mut web, node, 8), refused);
    let stat = |mount: &mut Mount| mount.client(0).call(request::statfs()).unwrap();
    let full = stat(&mut web);
    let bytes = |blocks: u64| blocks * u64::from(full.frsize);
    assert_eq!(
        (bytes(full.blocks), full.bfree, full.bavail),
        (1 << 20, 0, 0)
    );
    assert_eq!((full.files, full.ffree), (4, 2));
    assert!(stat(&mut db).bavail > full.blocks);
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let punch = u32::try_from(punch).unwrap();
    let hole = request::fallocate(node, 0, punch, 0, block.len() as u64);
    web.client(0).call(hole).unwrap();
    assert_eq!(write(&mut web, node, 8), Ok(()));
    assert_eq!(write(&mut web, node, 0), refused);
    // The root is one of the four.
    make(&mut web, "second", b"");
    make(&mut web, "third", b"");
    let fifth = web.client(0).call(request::create(ROOT, "fifth", 0o644));
    assert_eq!(fifth.unwrap_err().errno(), Some(libc::EDQUOT));
    make(&mut db, "second", b"");
    web.client(0).call(request::unlink(ROOT, "second")).unwrap();
    web.client(0).call(request::unlink(ROOT, "file")).unwrap();
    drop((web, db));
    // What was unlinked goes with its last user.
    let daemon = daemon.restart_after(&[], &["--export=web:w"]);
    let mut web = daemon.mount_at("w");
    let node = make(&mut web, "file", b"");
    for at in 0..8 {
        assert_eq!(write(&mut web, node, at), Ok(()), "{at}");
    }
    assert_eq!(write(&mut web, node, 8), refused);
    drop(web);
    daemon.terminate();
}
