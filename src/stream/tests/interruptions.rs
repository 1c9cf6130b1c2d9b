//! Streams and stores that end in the middle.

use super::*;
use crate::disk::sim::{Call, Fault, Survival};

/// A store with two snapshots, and one that has the first.
fn setting() -> (World, World, Vec<u8>) {
    let (from, to) = (World::new(1), World::new(2));
    everything(&from);
    for at in 0..20 {
        from.make(ROOT, &format!("gone{at}"), FILE);
    }
    from.snapshot("main@a");
    to.receive("copy", &from.stream("main@a", None)).unwrap();
    let main = from.volume("main");
    for at in 0..10 {
        let gone = main.unlink(ROOT, format!("gone{at}").as_bytes()).unwrap();
        main.reclaim(gone.ino).unwrap();
    }
    let directory = main.lookup(ROOT, b"directory").unwrap().ino;
    let above = from.make(ROOT, "above", DIR);
    let mode = crate::engine::RenameMode::Replace;
    main.rename(ROOT, b"directory", above, b"below", mode)
        .unwrap();
    let file = main.lookup(directory, b"also").unwrap().ino;
    from.write(file, 100_000, &[8; 50_000]);
    drop(main);
    from.snapshot("main@b");
    let stream = from.stream("main@b", Some("main@a"));
    (from, to, stream)
}

/// Goes on from where a receive was cut off, or begins anew; and all of it is there.
fn complete(from: &World, to: &World, stream: &[u8]) {
    let rest = match to.store.receive_record("copy").unwrap() {
        Some(state) => from.rest(&state),
        None => stream.to_vec(),
    };
    to.receive("copy", &rest).unwrap();
    assert_eq!(to.names(), ["copy", "copy@a", "copy@b", "main"]);
    assert_eq!(to.tree("copy@b"), from.tree("main@b"));
    assert_eq!(to.tree("copy"), from.tree("main@b"));
    assert_eq!(to.tree("copy@a"), from.tree("main@a"));
}

#[test]
fn a_stream_may_end_anywhere() {
    let (from, to, stream) = setting();
    let mut cuts: Vec<_> = records(&stream).iter().map(|(at, _)| *at).collect();
    cuts.pop();
    let inside: Vec<_> = cuts
        .iter()
        .flat_map(|at| [at + 1, at + 20, at + 50])
        .collect();
    cuts.extend(inside);
    cuts.extend([0, 40, 130]);
    for cut in cuts.into_iter().filter(|cut| *cut < stream.len()) {
        let mut to = to.copy();
        let before = to.tree("copy");
        let error = error_of(to.receive("copy", &stream[..cut]));
        assert!(error.contains("ends here"), "{cut}: {error}");
        assert_eq!(to.names(), ["copy", "copy@a", "main"], "{cut}");
        assert_eq!(to.tree("copy"), before, "{cut}");
        to.reopen();
        complete(&from, &to, &stream);
        to.reopen();
    }
}

#[test]
fn the_power_may_go_at_any_moment() {
    let (from, to, stream) = setting();
    let start = to.sim.events();
    let mut steps = 0;
    let mut watch = |_: Progress| {
        steps += 1;
        match steps % 7 {
            0 => to.store.checkpoint().unwrap(),
            2 | 5 => to.store.commit_tick().unwrap(),
            _ => {}
        }
        ControlFlow::Continue(())
    };
    receive(&to.store, ("copy", None), stream.as_slice(), &mut watch).unwrap();
    let end = to.sim.events();
    assert!(end > start + 60, "{start} {end}");
    let mut recording = to.sim.recording();
    let step = ((end - start) / 60).max(1);
    for (seed, events) in (1..).zip((start..=end).step_by(step)) {
        let sim = recording.crash_at(events, Survival::Random(seed));
        let store = open(&sim, &to.clock);
        let clock = Arc::clone(&to.clock);
        let mut after = World { sim, clock, store };
        after.reopen();
        if !after.names().contains(&"copy@b".to_owned()) {
            complete(&from, &after, &stream);
        }
        assert_eq!(after.tree("copy@b"), from.tree("main@b"), "{events}");
        assert_eq!(after.tree("copy"), from.tree("main@b"), "{events}");
        after.reopen();
    }
}

#[test]
fn a_disk_that_fails_ends_a_receive_and_nothing_else() {
    let (from, to, stream) = setting();
    for call in [Call::Read, Call::Write, Call::Flush, Call::Allocate] {
        let count = {
            let to = to.copy();
            to.sim.set_fault(Some(fault(call, u64::MAX)));
            to.receive("copy", &stream).unwrap();
            to.sim.fault_calls()
        };
        let step = (count / 12).max(1) as usize;
        for after in (0..count).step_by(step) {
            let mut to = to.copy();
            to.sim.set_fault(Some(fault(call, after)));
            let done = to.receive("copy", &stream);
            to.sim.set_fault(None);
            to.sim = to.sim.killed();
            to.store = open(&to.sim, &to.clock);
            to.reopen();
            if done.is_err() && !to.names().contains(&"copy@b".to_owned()) {
                complete(&from, &to, &stream);
            }
            assert_eq!(to.tree("copy"), from.tree("main@b"), "{call:?} {after}");
        }
    }
}

fn fault(call: Call, after: u64) -> Fault {
    Fault {
        call,
        after,
        sticky: false,
        kind: std::io::ErrorKind::Other,
    }
}

#[test]
fn a_disk_that_fails_ends_a_send() {
    let (from, to, stream) = setting();
    let from = from.copy();
    let mut failed = 0;
    for after in 0..40 {
        let from = from.copy();
        from.sim.set_fault(Some(fault(Call::Read, after)));
        let mut out = Vec::new();
        let Ok(sending) = from.store.send("main@b", Some("main@a")) else {
            continue;
        };
        match send(&sending, StreamPosition::START, &mut out, &mut go_on) {
            Ok(_) => assert!(out == stream),
            Err(_) => {
                failed += 1;
                let to = to.copy();
                to.receive("copy", &out).unwrap_err();
                assert_eq!(to.names(), ["copy", "copy@a", "main"]);
            }
        }
    }
    assert!(failed > 0);
}

#[test]
fn who_watches_may_end_it() {
    let (from, to, stream) = setting();
    let mut left = 9;
    let mut watch = |_: Progress| {
        left -= 1;
        match left {
            0 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    };
    receive(&to.store, ("copy", None), stream.as_slice(), &mut watch).unwrap_err();
    complete(&from, &to, &stream);
}
