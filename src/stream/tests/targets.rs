//! What else is done to a dataset that streams are received into: restoring, promoting, limits.

use super::*;
use crate::engine::Settings;

fn sent() -> (World, World) {
    let (from, to) = (World::new(1), World::new(2));
    let file = from.make(ROOT, "file", FILE);
    from.write(file, 0, &[7; 500_000]);
    from.snapshot("main@a");
    to.receive("copy", &from.stream("main@a", None)).unwrap();
    (from, to)
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
