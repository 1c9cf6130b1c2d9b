//! What else is done to a dataset that streams are received into: restoring, promoting, limits.

use super::*;
use crate::engine::{EngineError, Settings};

fn sent() -> (World, World) {
    let (from, to) = (World::new(1), World::new(2));
    let file = from.make(ROOT, "file", FILE);
    from.write(file, 0, &[7; 500_000]);
    from.snapshot("main@a");
    to.receive("copy", &from.stream("main@a", None)).unwrap();
    (from, to)
}

#[test]
fn a_quota_that_is_raised_lets_a_receive_go_on() {
    let (from, to) = sent();
    let more = from.make(ROOT, "more", FILE);
    let bytes: Vec<u8> = (0..400_000u32)
        .map(|at| (at.wrapping_mul(at) / 77) as u8)
        .collect();
    from.write(more, 0, &bytes);
    from.snapshot("main@b");
    let quota = |bytes| Settings {
        quota_bytes: Some(bytes),
        ..Settings::default()
    };
    to.store.change_settings("copy", quota(600_000)).unwrap();
    let stream = from.stream("main@b", Some("main@a"));
    let refused = to.receive("copy", &stream).unwrap_err();
    assert!(
        matches!(
            refused,
            StreamError::Store {
                source: DatasetError::Engine(EngineError::Quota),
                ..
            }
        ),
        "{refused}"
    );
    assert_eq!(to.tree("copy"), from.tree("main@a"));
    to.store.change_settings("copy", quota(1_000_000)).unwrap();
    let state = to.store.receive_record("copy").unwrap().unwrap();
    to.receive("copy", &from.rest(&state)).unwrap();
    assert_eq!(to.tree("copy"), from.tree("main@b"));
    assert_eq!(to.store.find("copy").unwrap().quota_bytes, 1_000_000);
}

#[test]
fn what_is_being_received_is_nobodys() {
    let (from, to) = sent();
    let stream = from.stream("main@a", None);
    let at = records(&stream)[4].0;
    to.receive("other", &stream[..at]).unwrap_err();
    let hidden = "%other";
    let is_missing = |error: DatasetError| {
        matches!(error, DatasetError::NotFound(_) | DatasetError::Name { .. })
    };
    assert!(is_missing(to.store.find(hidden).unwrap_err()));
    let settings = [
        Settings {
            compression: Some("lz4".parse().unwrap()),
            ..Settings::default()
        },
        Settings {
            quota_bytes: Some(1),
            ..Settings::default()
        },
    ];
    for settings in settings {
        let set = to.store.change_settings(hidden, settings);
        assert!(is_missing(set.unwrap_err()));
    }
    assert!(is_missing(to.store.snapshot("%other@x").unwrap_err()));
    assert!(is_missing(to.store.clone_dataset(hidden, "x").unwrap_err()));
    assert!(is_missing(to.store.rename(hidden, "x").unwrap_err()));
    assert!(is_missing(to.store.rename("copy", hidden).unwrap_err()));
    assert!(is_missing(to.store.promote(hidden).unwrap_err()));
    assert!(is_missing(to.store.restore("%other@x").unwrap_err()));
    assert!(is_missing(to.store.diff(hidden, "copy").unwrap_err()));
    let state = to.store.receive_record("other").unwrap().unwrap();
    to.receive("other", &from.rest(&state)).unwrap();
}
