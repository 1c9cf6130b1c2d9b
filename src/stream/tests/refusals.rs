//! Streams that do not go with what is there, and what holds for what is received.

use super::*;
use crate::engine::{EngineError, Settings};

fn sent() -> (World, World) {
    let (from, to) = (World::new(1), World::new(2));
    let file = from.make(ROOT, "file", FILE);
    from.write(file, 0, &[7; 500_000]);
    from.snapshot("main@a");
    to.receive("copy", &from.stream("main@a", None)).unwrap();
    from.make(ROOT, "more", FILE);
    from.snapshot("main@b");
    (from, to)
}

#[test]
fn a_stream_goes_only_where_its_base_is_the_newest() {
    let (from, to) = sent();
    from.make(ROOT, "most", FILE);
    from.snapshot("main@c");
    let (second, third) = (
        from.stream("main@b", Some("main@a")),
        from.stream("main@c", Some("main@b")),
    );
    let full = from.stream("main@b", None);
    assert!(error_of(to.receive("copy", &full)).contains("exists already"));
    assert!(error_of(to.receive("other", &second)).contains("no dataset"));
    assert!(refusal(to.receive("copy", &third)).contains("does not have the snapshot"));
    assert!(refusal(to.receive("main", &second)).contains("does not have the snapshot"));
    to.receive("copy", &second).unwrap();
    assert!(error_of(to.receive("copy", &second)).contains("exists already"));
    let again = receive(
        &to.store,
        ("copy", Some("x")),
        second.as_slice(),
        &mut go_on,
    );
    assert!(refusal(again).contains("does not go on from"));
    to.receive("copy", &third).unwrap();
    assert_eq!(to.tree("copy@c"), from.tree("main@c"));
    for wrong in ["a@b", "", ".x", "a%b"] {
        to.receive(wrong, &full).unwrap_err();
    }
}

#[test]
fn what_was_changed_is_not_overwritten() {
    let (from, to) = sent();
    let stream = from.stream("main@b", Some("main@a"));
    let copy = to.volume("copy");
    let file = copy.lookup(ROOT, b"file").unwrap().ino;
    // Somebody looked at it.
    copy.note_access(file);
    drop(copy);
    let other = to.copy();
    other.receive("copy", &stream).unwrap();
    let copy = to.volume("copy");
    copy.unlink(ROOT, b"file").unwrap();
    drop(copy);
    assert!(refusal(to.receive("copy", &stream)).contains("has changed"));
    assert_eq!(to.names(), ["copy", "copy@a", "main"]);
}

#[test]
fn what_changes_during_a_receive_is_not_overwritten() {
    let (from, to) = sent();
    let stream = from.stream("main@b", Some("main@a"));
    let copy = to.volume("copy");
    let busy = error_of(to.receive("copy", &stream));
    assert!(busy.contains("in use"), "{busy}");
    copy.unlink(ROOT, b"file").unwrap();
    drop(copy);
    let state = to.store.receive_record("copy").unwrap().unwrap();
    let changed = error_of(to.receive("copy", &from.rest(&state)));
    assert!(changed.contains("has changed"), "{changed}");
    to.store.abort_receive("copy").unwrap();
    assert_eq!(to.store.receive_record("copy").unwrap(), None);
    assert_eq!(to.names(), ["copy", "copy@a", "main"]);
}

#[test]
fn a_receive_that_was_cut_off_is_gone_on_with_or_dropped() {
    let (from, mut to) = sent();
    let stream = from.stream("main@b", Some("main@a"));
    let cut = stream.len() - 10;
    to.receive("copy", &stream[..cut]).unwrap_err();
    assert!(refusal(to.receive("copy", &stream)).contains("cut off elsewhere"));
    let other = from.stream("main@b", None);
    assert!(refusal(to.receive("copy", &other)).contains("another snapshot"));
    let state = to.store.receive_record("copy").unwrap().unwrap();
    let rest = from.rest(&state);
    assert!(refusal(to.receive("new", &rest)).contains("nothing that this stream"));
    // Nobody can use it, nor what it stands on go.
    assert!(to.store.volume("%copy").is_err());
    assert!(to.store.snapshot("%copy@x").is_err());
    assert!(to.store.clone_dataset("%copy", "x").is_err());
    to.reopen();
    to.store.abort_receive("copy").unwrap();
    assert!(to.store.abort_receive("copy").is_err());
    to.store.reap(&|| false).unwrap();
    to.reopen();
    to.receive("copy", &stream).unwrap();
    assert_eq!(to.tree("copy"), from.tree("main@b"));
    // A repair may have changed it: then it only goes.
    to.receive("other", &other[..other.len() / 2]).unwrap_err();
    to.store.close().unwrap();
    let options = fsck::Options::default();
    let fixes = fsck::repair(&to.sim.media(), options, &mut |fix| panic!("{fix:?}"));
    assert_eq!(fixes.unwrap(), 0);
    to.store = open(&to.sim, &to.clock);
    assert!(refusal(to.receive("other", &other)).contains("cannot be gone on with"));
    to.store.abort_receive("other").unwrap();
    to.receive("other", &other).unwrap();
    to.reopen();
}

#[test]
fn only_the_store_that_began_a_stream_goes_on_with_it() {
    let (from, to) = sent();
    let third = World::new(3);
    third
        .receive("main2", &from.stream("main@a", None))
        .unwrap();
    third
        .receive("main2", &from.stream("main@b", Some("main@a")))
        .unwrap();
    let stream = from.stream("main@b", Some("main@a"));
    to.receive("copy", &stream[..stream.len() - 10])
        .unwrap_err();
    let state = to.store.receive_record("copy").unwrap().unwrap();
    assert_ne!(state.position, StreamPosition::START);
    // It has the same snapshots, and their names in another order.
    let refused = third.store.send_rest(&state).err().unwrap().to_string();
    assert!(refused.contains("another store"), "{refused}");
    let sending = third.store.send("main2@b", Some("main2@a")).unwrap();
    let mut rest = Vec::new();
    send(&sending, state.position, &mut rest, &mut go_on).unwrap();
    assert!(refusal(to.receive("copy", &rest)).contains("cut off elsewhere"));
    to.receive("copy", &from.rest(&state)).unwrap();
    assert_eq!(to.tree("copy"), third.tree("main2@b"));
}

#[test]
fn only_snapshots_are_sent_and_from_earlier_ones_of_the_same() {
    let (from, _) = sent();
    from.store.clone_dataset("main", "clone").unwrap();
    from.snapshot("clone@x");
    let refused = |snapshot: &str, base: Option<&str>| {
        let error = from.store.send(snapshot, base).err().unwrap();
        error.to_string()
    };
    assert!(refused("main", None).contains("only a snapshot"));
    assert!(refused("main@b", Some("main")).contains("only a snapshot"));
    assert!(refused("main@a", Some("main@b")).contains("not older"));
    assert!(refused("main@a", Some("main@a")).contains("not older"));
    assert!(refused("clone@x", Some("main@a")).contains("another dataset"));
    assert!(refused("main@z", None).contains("no dataset or snapshot"));
    // Nor are they deleted meanwhile.
    let sending = from.store.send("main@b", Some("main@a")).unwrap();
    assert!(from.store.delete("main@a", false).is_err());
    drop(sending);
    from.store.delete("main@a", false).unwrap();
}

#[test]
fn compressed_content_stays_as_it_is_unless_the_dataset_is_set_otherwise() {
    let (from, mut to) = (World::new(1), World::new(2));
    let set = |world: &World, name: &str, codec: &str| {
        let settings = Settings {
            compression: codec.parse().ok(),
            dedup: "on".parse().ok(),
            ..Settings::default()
        };
        world.store.change_settings(name, settings).unwrap();
    };
    set(&from, "main", "zstd:9");
    let file = from.make(ROOT, "file", FILE);
    from.write(file, 0, &[7; 500_000]);
    from.snapshot("main@a");
    let stream = from.stream("main@a", None);
    assert!(stream.len() < 3000, "{}", stream.len());
    to.receive("copy", &stream).unwrap();
    let units = to.store.units_used_for_tests();
    // Three windows of one content, and what is left.
    assert_eq!(units, 2);
    // A second dataset with the same content takes nothing.
    to.receive("again", &stream).unwrap();
    assert_eq!(to.store.units_used_for_tests(), units);
    set(&to, "copy", "off");
    from.write(file, 0, &[8; 128 << 10]);
    from.snapshot("main@b");
    to.receive("copy", &from.stream("main@b", Some("main@a")))
        .unwrap();
    assert_eq!(to.tree("copy"), from.tree("main@b"));
    assert_eq!(to.store.units_used_for_tests(), units + 32);
    to.reopen();
}

#[test]
fn a_full_store_receives_no_more_and_goes_on_when_there_is_room() {
    let from = World::new(1);
    let file = from.make(ROOT, "file", FILE);
    from.write(file, 0, &[7; 3_000_000]);
    from.snapshot("main@a");
    let stream = from.stream("main@a", None);
    let mut to = World::with(MkfsOptions {
        capacity_bytes: 4 << 20,
        uuid: [2; 16],
        ..MkfsOptions::reproducible()
    });
    let ballast = to.make(ROOT, "ballast", FILE);
    to.write(ballast, 0, &[1; 2 << 20]);
    let error = to.receive("copy", &stream).unwrap_err();
    let is_full = |error: &StreamError| match error {
        StreamError::Store { source, .. } => {
            matches!(source, DatasetError::Engine(EngineError::Store(_)))
        }
        _ => false,
    };
    assert!(is_full(&error), "{error}");
    let main = to.volume("main");
    main.unlink(ROOT, b"ballast").unwrap();
    main.reclaim(ballast).unwrap();
    drop(main);
    to.reopen();
    let state = to.store.receive_record("copy").unwrap().unwrap();
    to.receive("copy", &from.rest(&state)).unwrap();
    assert_eq!(to.tree("copy"), from.tree("main@a"));
    to.reopen();
}
