//! Stores whose datasets have a past: they went back to what they were, or go on from what is gone.

use std::ops::ControlFlow;
use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use razorfs::disk::sim::SimMedia;
use razorfs::engine::{SetXattr, Store, Volume};
use razorfs::format::id::Ino;
use razorfs::format::record::StreamPosition;
use razorfs::fsck::{self, Options};
use razorfs::stream;

use crate::store::{finish, fresh, grow, open, remove};

/// A new store, opened, and random numbers for it.
fn begin(seed: u64) -> (SimMedia, Arc<Volume>, Arc<Store>, ChaCha8Rng) {
    let sim = fresh();
    let main = open(&sim, false).unwrap();
    let store = Arc::clone(main.store());
    (sim, main, store, ChaCha8Rng::seed_from_u64(seed))
}

/// Gives some files another attribute, which changes the pages that they are on.
fn mark(volume: &Volume, files: impl Iterator<Item = u32>, value: &[u8]) {
    for index in files {
        let name = format!("image-{index}");
        let ino = volume.lookup(Ino::ROOT, name.as_bytes()).unwrap().ino;
        volume
            .setxattr(ino, b"user.long", value, SetXattr::Any, false)
            .unwrap();
    }
}

/// A dataset that went back to a snapshot before either was ever written, and the snapshot.
pub fn undone() -> SimMedia {
    let (sim, main, store, mut rng) = begin(19);
    grow(&main, &mut rng, 0, 180);
    store.snapshot("main@one").unwrap();
    drop(main);
    store.restore("main@one").unwrap();
    store.checkpoint().unwrap();
    let main = store.volume("main").unwrap();
    (0..180).for_each(|index| remove(&main, index));
    grow(&main, &mut rng, 2000, 150);
    finish(&sim, &main, true)
}

/// A dataset that went back to a snapshot, and what it had since is in no tree any more.
pub fn abandoned() -> SimMedia {
    let (sim, main, store, mut rng) = begin(20);
    grow(&main, &mut rng, 0, 180);
    // Which writes all out, so that what the next one is of is all on disk.
    store.snapshot("main@zero").unwrap();
    store.checkpoint().unwrap();
    store.snapshot("main@one").unwrap();
    grow(&main, &mut rng, 1000, 80);
    mark(&main, (0..180).step_by(4), b"abandoned");
    store.checkpoint().unwrap();
    drop(main);
    store.restore("main@one").unwrap();
    let main = store.volume("main").unwrap();
    mark(&main, 0..1, b"back");
    store.checkpoint().unwrap();
    store.reap(&|| false).unwrap();
    finish(&sim, &main, true)
}

/// A dataset that was changed between its snapshot and the checkpoint that wrote both, and again
/// since: of the same checkpoint there are pages of both. `deleted`, the snapshot is gone.
pub fn parted(deleted: bool) -> SimMedia {
    let (sim, main, store, mut rng) = begin(21);
    grow(&main, &mut rng, 0, 180);
    store.snapshot("main@one").unwrap();
    store.clone_dataset("main@one", "clone").unwrap();
    mark(&main, (0..180).step_by(2), b"first");
    store.checkpoint().unwrap();
    if deleted {
        store.delete("clone", false).unwrap();
        store.delete("main@one", false).unwrap();
        store.reap(&|| false).unwrap();
        return finish(&sim, &main, true);
    }
    mark(&main, 0..180, b"second");
    finish(&sim, &main, true)
}

/// Snapshots of which the first has pages that its dataset had replaced when both were written, and
/// the second those that took their place. `deleted`, the first is gone.
pub fn kept(deleted: bool) -> SimMedia {
    let (sim, main, store, mut rng) = begin(24);
    grow(&main, &mut rng, 0, 180);
    store.snapshot("main@one").unwrap();
    mark(&main, (0..180).step_by(2), b"first");
    store.checkpoint().unwrap();
    store.snapshot("main@two").unwrap();
    store.clone_dataset("main@two", "clone").unwrap();
    mark(&main, 0..3, b"second");
    mark(&store.volume("clone").unwrap(), 100..103, b"third");
    store.checkpoint().unwrap();
    if deleted {
        store.delete("main@one", false).unwrap();
        store.reap(&|| false).unwrap();
    }
    finish(&sim, &main, true)
}

/// A dataset that was repaired when its log told of a snapshot, and of what was changed since. The
/// snapshot is deleted.
pub fn repaired() -> SimMedia {
    let (sim, main, store, mut rng) = begin(25);
    grow(&main, &mut rng, 0, 180);
    store.checkpoint().unwrap();
    store.snapshot("main@one").unwrap();
    mark(&main, (0..180).step_by(2), b"later");
    let sim = finish(&sim, &main, false);
    fsck::repair(&sim.media(), Options::default(), &mut |_| {}).unwrap();
    let main = open(&sim, false).unwrap();
    main.store().delete("main@one", false).unwrap();
    main.store().reap(&|| false).unwrap();
    finish(&sim, &main, true)
}

/// A dataset that went back to snapshots again and again, so that it does not know all that it was.
pub fn often_restored() -> SimMedia {
    let (sim, mut main, store, mut rng) = begin(22);
    grow(&main, &mut rng, 0, 160);
    for round in 0..50 {
        store.snapshot("main@one").unwrap();
        mark(&main, 0..round % 9 + 3, b"gone");
        drop(main);
        store.restore("main@one").unwrap();
        main = store.volume("main").unwrap().into();
        mark(&main, 0..round % 7, b"stays");
        store.delete("main@one", false).unwrap();
        store.checkpoint().unwrap();
        store.reap(&|| false).unwrap();
    }
    finish(&sim, &main, true)
}

/// A copy of another store's dataset that got each of its snapshots as a stream, and a clone of it
/// that goes on.
pub fn received() -> SimMedia {
    let (there, sim) = (fresh(), fresh());
    let source = open(&there, false).unwrap();
    let main = open(&sim, false).unwrap();
    let store = Arc::clone(main.store());
    let mut rng = ChaCha8Rng::seed_from_u64(23);
    grow(&source, &mut rng, 0, 120);
    let mut base = None;
    for round in 0..4 {
        let name = format!("main@{round}");
        source.store().snapshot(&name).unwrap();
        transfer(source.store(), &name, base.as_deref(), &store);
        store.checkpoint().unwrap();
        mark(&source, round..round + 5, b"later");
        grow(&source, &mut rng, 1000 + round * 100, 10);
        (round * 10..round * 10 + 6).for_each(|index| remove(&source, index + 50));
        base = Some(name);
    }
    store.delete("copy@1", false).unwrap();
    store.clone_dataset("copy@2", "clone").unwrap();
    grow(&store.volume("clone").unwrap(), &mut rng, 2000, 10);
    store.reap(&|| false).unwrap();
    finish(&sim, &main, true)
}

fn transfer(from: &Arc<Store>, snapshot: &str, base: Option<&str>, to: &Arc<Store>) {
    let sending = from.send(snapshot, base).unwrap();
    let mut bytes = Vec::new();
    let mut go_on = |_| ControlFlow::Continue(());
    stream::send(&sending, StreamPosition::START, &mut bytes, &mut go_on).unwrap();
    stream::receive(to, ("copy", None), &bytes[..], &mut go_on).unwrap();
}

/// A dataset that went back to a snapshot which was deleted then: the snapshot kept what was changed
/// before it was ever written.
pub fn restored() -> SimMedia {
    let (sim, main, store, mut rng) = begin(18);
    grow(&main, &mut rng, 0, 180);
    store.snapshot("main@one").unwrap();
    (0..180).step_by(3).for_each(|index| remove(&main, index));
    store.checkpoint().unwrap();
    grow(&main, &mut rng, 1000, 40);
    store.checkpoint().unwrap();
    drop(main);
    store.restore("main@one").unwrap();
    store.delete("main@one", false).unwrap();
    store.reap(&|| false).unwrap();
    store.checkpoint().unwrap();
    let main = store.volume("main").unwrap();
    grow(&main, &mut rng, 2000, 3);
    finish(&sim, &main, true)
}

/// Copies of a snapshot that was deleted and stays for them: what they share is written when they
/// are there.
pub fn cousins() -> SimMedia {
    let (sim, main, store, mut rng) = begin(16);
    grow(&main, &mut rng, 0, 150);
    store.snapshot("main@one").unwrap();
    for name in ["one", "two"] {
        store.clone_dataset("main@one", name).unwrap();
    }
    store.checkpoint().unwrap();
    store.delete("main@one", false).unwrap();
    (0..150).step_by(3).for_each(|index| remove(&main, index));
    grow(&store.volume("one").unwrap(), &mut rng, 2000, 1);
    finish(&sim, &main, true)
}

/// Whether the dataset of a path in [`strangers`] or [`heirs`] never had such a file.
pub fn is_strange(path: &[u8]) -> bool {
    let path = String::from_utf8_lossy(path);
    let Some((dataset, name)) = path.split_once('/') else {
        return false;
    };
    let digits = name.strip_prefix("image-").map(|rest| {
        let end = rest.find(|of: char| !of.is_ascii_digit());
        &rest[..end.unwrap_or(rest.len())]
    });
    let number: Option<u32> = digits.and_then(|digits| digits.parse().ok());
    number.is_some_and(|number| match dataset {
        "stranger" => number < 50_000,
        "later" | "later@one" => !(3000..5000).contains(&number),
        _ => number >= 150,
    })
}

/// Two datasets that were never one, with the same numbers of inodes, of which the second was
/// changed again and again since the first was.
pub fn strangers() -> SimMedia {
    let (sim, main, store, mut rng) = begin(14);
    grow(&main, &mut rng, 0, 150);
    store.checkpoint().unwrap();
    store.create_dataset("stranger", (0, 0)).unwrap();
    let stranger = store.volume("stranger").unwrap();
    for from in [0, 60, 120, 170] {
        grow(&stranger, &mut rng, 50_000 + from, 50);
        store.checkpoint().unwrap();
    }
    (50_000..50_050).step_by(7).for_each(|index| {
        remove(&stranger, index);
        store.checkpoint().unwrap();
    });
    drop(stranger);
    finish(&sim, &main, true)
}

/// A dataset that has most of its pages from one that was deleted, and one whose inodes have the
/// numbers that those of another had which was deleted before it was made.
pub fn heirs() -> SimMedia {
    let (sim, main, store, mut rng) = begin(15);
    let made = |name: &str| {
        store.create_dataset(name, (0, 0)).unwrap();
        store.volume(name).unwrap()
    };
    grow(&made("stranger"), &mut rng, 50_000, 100);
    grow(&made("origin"), &mut rng, 0, 150);
    (0..3).for_each(|_| store.checkpoint().unwrap());
    store.snapshot("origin@one").unwrap();
    store.clone_dataset("origin@one", "heir").unwrap();
    // The only page above its leaves that it ever wrote.
    let heir = store.volume("heir").unwrap();
    let ino = heir.lookup(Ino::ROOT, b"image-7").unwrap().ino;
    heir.setxattr(ino, b"user.long", b"heir", SetXattr::Any, false)
        .unwrap();
    drop(heir);
    store.checkpoint().unwrap();
    store.promote("heir").unwrap();
    for name in ["origin", "stranger", "heir@one"] {
        store.delete(name, false).unwrap();
    }
    store.reap(&|| false).unwrap();
    store.checkpoint().unwrap();
    let later = made("later");
    grow(&later, &mut rng, 3000, 150);
    store.snapshot("later@one").unwrap();
    store.checkpoint().unwrap();
    grow(&later, &mut rng, 4000, 10);
    drop(later);
    finish(&sim, &main, true)
}
