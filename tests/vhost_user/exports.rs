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

#[test]
fn an_export_of_nothing_is_named() {
    let output = Daemon::refused(&["--export=nobody:n"]);
    assert!(output.contains("'nobody'"), "{output}");
}
