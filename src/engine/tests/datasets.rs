//! Datasets, snapshots and clones against plain maps, over changes, deletions, reopening and power
//! cuts.

use std::collections::BTreeMap;

use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::disk::sim::Survival;
use crate::engine::data::{units_punched, units_used};
use crate::engine::{DatasetError, Fallocate, Settings, Store, TrimOptions, WriteFlags};

type Files = BTreeMap<String, Vec<u8>>;

/// Random work on a store, and what must come of it.
struct Bench {
    sim: SimMedia,
    clock: Clock,
    store: Arc<Store>,
    model: BTreeMap<String, Files>,
    rng: ChaCha8Rng,
    made: u64,
}

fn open_store(sim: &SimMedia, clock: &Clock) -> Arc<Store> {
    let options = OpenOptions {
        background: false,
        ..OpenOptions::default()
    };
    Store::open_media(sim.media(), options, Arc::clone(clock)).unwrap()
}

/// Some bytes of a file.
struct Span {
    name: String,
    offset: usize,
    len: usize,
}

impl Bench {
    fn new(seed: u64) -> Bench {
        let sim = SimMedia::new();
        let clock = clock(&Arc::new(AtomicI64::new(1000)));
        mkfs(sim.media(), &MkfsOptions::reproducible(), &clock).unwrap();
        let store = open_store(&sim, &clock);
        let model = BTreeMap::from([("main".to_owned(), Files::new())]);
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Bench {
            sim,
            clock,
            store,
            model,
            rng,
            made: 0,
        }
    }

    fn new_name(&mut self, what: &str) -> String {
        self.made += 1;
        format!("{what}{}", self.made)
    }

    /// One of a few names, which come again, and which take many blocks together.
    fn file_name(&mut self) -> String {
        let number = self.rng.random_range(0..60);
        format!("f{number:0>200}")
    }

    /// Gives back what names have that nobody uses, while others go on.
    fn trim(&mut self) {
        let store = Arc::clone(&self.store);
        let mut left = self.rng.random_range(0..30);
        let mut go_on = || {
            if left > 0 {
                left -= 1;
                match self.rng.random_range(0..12) {
                    0 => self.store.checkpoint().unwrap(),
                    1..3 => self.arrange(),
                    3..9 => self.change(),
                    _ => {}
                }
            }
            true
        };
        store.trim(&TrimOptions::default(), &mut go_on).unwrap();
    }

    fn pick(&mut self, which: impl Fn(&str) -> bool) -> Option<String> {
        let names = self.model.keys().filter(|name| which(name));
        names.choose(&mut self.rng).cloned()
    }

    fn head(&mut self) -> String {
        self.pick(|name| !name.contains('@')).unwrap()
    }

    fn span(&mut self, files: &Files) -> Option<Span> {
        let name = files.keys().choose(&mut self.rng)?.clone();
        let offset = self.rng.random_range(0..200_000);
        let len = match self.rng.random_range(0..3) {
            0 => self.rng.random_range(1..100),
            1 => self.rng.random_range(1..20_000),
            _ => self.rng.random_range(1..150_000),
        };
        Some(Span { name, offset, len })
    }

    /// Changes a file of a dataset.
    fn change(&mut self) {
        let head = self.head();
        let mut files = self.model.remove(&head).unwrap();
        let volume = self.store.volume(&head).unwrap();
        if files.len() < 2 || self.rng.random_bool(0.1) {
            let name = self.file_name();
            let cred = Cred::default();
            files.entry(name).or_insert_with_key(|name| {
                let made = volume.create(cred, ROOT, name.as_bytes(), &new(FILE));
                made.map(|_| Vec::new()).unwrap()
            });
        }
        let span = self.span(&files).unwrap();
        let ino = volume.lookup(ROOT, span.name.as_bytes()).unwrap().ino;
        let end = span.offset + span.len;
        let content = files.get_mut(&span.name).unwrap();
        match self.rng.random_range(0..11) {
            10 => self.copy_back(&volume, ino, content),
            0..5 => {
                let byte: u8 = self.rng.random();
                let bytes: Vec<u8> = (0..span.len).map(|at| byte ^ (at % 251) as u8).collect();
                let mut from = bytes.as_slice();
                let flags = WriteFlags::default();
                volume
                    .write(ino, span.offset as u64, span.len, &mut from, flags)
                    .unwrap();
                content.resize(content.len().max(end), 0);
                content[span.offset..end].copy_from_slice(&bytes);
            }
            5 => {
                let set = SetAttr {
                    size: Some(span.offset as u64),
                    ..SetAttr::default()
                };
                volume.setattr(ino, &set).unwrap();
                content.resize(span.offset, 0);
            }
            6 => {
                let how = Fallocate::PunchHole;
                volume
                    .fallocate(ino, span.offset as u64, span.len as u64, how)
                    .unwrap();
                let end = end.min(content.len());
                if span.offset < end {
                    content[span.offset..end].fill(0);
                }
            }
            7 => volume.fsync(ino, false).unwrap(),
            8 => {
                let to = volume.lookup(ROOT, span.name.as_bytes()).unwrap().ino;
                let from_end = content.len().min(span.len);
                let copied = volume
                    .copy_range(ino, 0, to, 300_000, span.len as u64)
                    .unwrap();
                let copied = usize::try_from(copied).unwrap();
                assert!(copied <= from_end);
                if copied > 0 {
                    let bytes = content[..copied].to_vec();
                    content.resize(content.len().max(300_000 + copied), 0);
                    content[300_000..300_000 + copied].copy_from_slice(&bytes);
                }
            }
            _ => {
                volume.unlink(ROOT, span.name.as_bytes()).unwrap();
                volume.reclaim(ino).unwrap();
                files.remove(&span.name);
            }
        }
        drop(volume);
        self.model.insert(head, files);
    }

    /// Copies from a file of any snapshot.
    fn copy_back(&mut self, volume: &Volume, to: Ino, content: &mut Vec<u8>) {
        let Some(name) = self.pick(|name| name.contains('@')) else {
            return;
        };
        let Some((file, source)) = self.model[&name].iter().choose(&mut self.rng) else {
            return;
        };
        let snapshot = self.store.volume(&name).unwrap();
        let from = snapshot.lookup(ROOT, file.as_bytes()).unwrap().ino;
        let (at, len) = (50_000, self.rng.random_range(1..200_000));
        let done = volume.copy_range_of(&snapshot, (from, 0), (to, at), len);
        let done = usize::try_from(done.unwrap()).unwrap();
        if done > 0 {
            let at = usize::try_from(at).unwrap();
            content.resize(content.len().max(at + done), 0);
            content[at..at + done].copy_from_slice(&source[..done]);
        }
    }

    /// Makes, names or deletes a dataset or snapshot.
    fn arrange(&mut self) {
        match self.rng.random_range(0..11) {
            10 => self.promote(),
            9 => {
                let Some(name) = self.pick(|name| name.contains('@')) else {
                    return;
                };
                self.store.restore(&name).unwrap();
                let (dataset, _) = name.split_once('@').unwrap();
                let files = self.model[&name].clone();
                self.model.insert(dataset.to_owned(), files);
            }
            8 => {
                let head = self.head();
                let compression = ["off", "lz4", "zstd"][self.rng.random_range(0..3)];
                let dedup = ["off", "on", "verify"][self.rng.random_range(0..3)];
                let settings = Settings {
                    reservation_bytes: Some(self.rng.random_range(0..3) * 50_000),
                    compression: compression.parse().ok(),
                    dedup: dedup.parse().ok(),
                    ..Settings::default()
                };
                self.store.change_settings(&head, settings).unwrap();
            }
            0..3 => {
                let head = self.head();
                let name = format!("{head}@{}", self.new_name("s"));
                self.store.snapshot(&name).unwrap();
                self.model.insert(name, self.model[&head].clone());
            }
            3 if self.model.len() < 12 => {
                let source = self.pick(|_| true).unwrap();
                let name = self.new_name("c");
                self.store.clone_dataset(&source, &name).unwrap();
                self.model.insert(name, self.model[&source].clone());
            }
            4 if self.model.len() < 12 => {
                let name = self.new_name("d");
                self.store.create_dataset(&name, (0, 0)).unwrap();
                self.model.insert(name, Files::new());
            }
            5 => {
                let Some(name) = self.pick(|name| name != "main" && !name.contains('@')) else {
                    return;
                };
                let to = self.new_name("r");
                self.store.rename(&name, &to).unwrap();
                let moved: Vec<_> = self.model.keys().cloned().collect();
                for old in moved {
                    let rest = old.strip_prefix(&name);
                    let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with('@'))
                    else {
                        continue;
                    };
                    let files = self.model.remove(&old).unwrap();
                    self.model.insert(format!("{to}{rest}"), files);
                }
            }
            _ => {
                let Some(name) = self.pick(|name| name != "main") else {
                    return;
                };
                self.delete(&name);
            }
        }
    }

    /// Snapshots get another name, and nothing else changes.
    fn promote(&mut self) {
        let head = self.head();
        let names = |store: &Store| {
            let all = store.list().unwrap().into_iter();
            all.map(|info| (info.uuid, info.name)).collect()
        };
        let before: BTreeMap<_, _> = names(&self.store);
        let done = self.store.promote(&head);
        let after: BTreeMap<_, _> = names(&self.store);
        assert!(before.keys().eq(after.keys()));
        let changed = before.values().zip(after.values());
        let changed: Vec<_> = changed.filter(|(old, new)| old != new).collect();
        assert_eq!(done.is_ok(), !changed.is_empty(), "{done:?}");
        for (old, new) in changed {
            let own = old.split_once('@').map(|(_, own)| own);
            assert_eq!(new.split_once('@'), own.map(|own| (head.as_str(), own)));
            let files = self.model.remove(old).unwrap();
            self.model.insert(new.clone(), files);
        }
    }

    fn delete(&mut self, name: &str) {
        let snapshots = format!("{name}@");
        let has_snapshots = self.model.keys().any(|each| each.starts_with(&snapshots));
        let refused = self.store.delete(name, false).err();
        match refused {
            None => assert!(!has_snapshots),
            Some(DatasetError::HasSnapshots { .. }) => {
                assert!(has_snapshots);
                self.store.delete(name, true).unwrap();
            }
            Some(other) => panic!("{other}"),
        }
        self.model
            .retain(|each, _| each != name && !each.starts_with(&snapshots));
    }

    /// Time passes.
    fn pass(&mut self) {
        match self.rng.random_range(0..10) {
            8..10 => self.trim(),
            0 => self.store.commit_tick().unwrap(),
            1..3 => self.store.checkpoint().unwrap(),
            // Cut off behind its first step, and gone on with.
            3..5 => drop(self.store.reap(&|| true).unwrap()),
            5 => drop(self.store.reap(&|| false).unwrap()),
            6 if self.rng.random_bool(0.3) => self.repair(),
            6 => self.reopen(),
            _ => self.cut_power(),
        }
    }

    fn reopen(&mut self) {
        self.store.close().unwrap();
        assert_eq!(errors(&self.sim), [""; 0]);
        let kept = |store: &Store| {
            let sums = (&store.data.reserved_bytes, &store.data.kept_bytes);
            (sums.0.load(Ordering::SeqCst), sums.1.load(Ordering::SeqCst))
        };
        let before = kept(&self.store);
        self.store = open_store(&self.sim, &self.clock);
        assert_eq!(kept(&self.store), before);
        self.check();
    }

    /// A repair of what is not damaged changes nothing that anyone can see.
    fn repair(&mut self) {
        self.store.close().unwrap();
        let options = fsck::Options::default();
        let fixes = fsck::repair(&self.sim.media(), options, &mut |fix| panic!("{fix:?}"));
        assert_eq!(fixes.unwrap(), 0);
        assert_eq!(errors(&self.sim), [""; 0]);
        self.store = open_store(&self.sim, &self.clock);
        self.check();
    }

    /// All that was done is durable, and then the power goes.
    fn cut_power(&mut self) {
        for volume in self.store.volumes() {
            volume.sync_all().unwrap();
        }
        let survival = Survival::Random(self.rng.random());
        let now = self.sim.events();
        self.sim = self.sim.recording().crash_at(now, survival);
        self.store = open_store(&self.sim, &self.clock);
        self.check();
    }

    /// Everything reads as it should.
    fn check(&self) {
        let names = names(&self.store);
        assert!(names.iter().eq(self.model.keys()), "{names:?}");
        for (name, files) in &self.model {
            let volume = self.store.volume(name).unwrap();
            let mut found = Files::new();
            volume
                .readdir(ROOT, 0, &mut |entry| {
                    if entry.name.starts_with(b"f") {
                        let mut bytes = Vec::new();
                        volume.read(entry.ino, 0, 1 << 30, &mut bytes).unwrap();
                        found.insert(String::from_utf8(entry.name).unwrap(), bytes);
                    }
                    true
                })
                .unwrap();
            assert!(found == *files, "{name}");
        }
    }

    /// Deletes everything: nothing is left.
    fn finish(mut self) {
        self.check();
        let all: Vec<_> = self.model.keys().cloned().collect();
        for name in all.iter().filter(|name| name.starts_with("main@")) {
            self.delete(name);
        }
        while let Some(name) = self.pick(|name| name != "main") {
            self.delete(&name);
        }
        let volume = self.store.volume("main").unwrap();
        for name in self.model["main"].keys() {
            let ino = volume.lookup(ROOT, name.as_bytes()).unwrap().ino;
            volume.unlink(ROOT, name.as_bytes()).unwrap();
            volume.reclaim(ino).unwrap();
        }
        drop(volume);
        self.store.reap(&|| false).unwrap();
        self.store.checkpoint().unwrap();
        self.store.checkpoint().unwrap();
        let view = self.store.journal.view();
        // What was punched counts as used as long as the file goes on behind it.
        let punched = units_punched(&view).unwrap();
        assert_eq!(units_used(&view).unwrap(), punched);
        drop(view);
        let done = self.store.trim(&TrimOptions::default(), &mut || true);
        done.unwrap();
        let names = self.store.journal.names_backed_bytes();
        assert!(names <= 8192, "{names} bytes of names are left");
        self.store.close().unwrap();
        assert_eq!(errors(&self.sim), [""; 0]);
        let pages = self.store.journal.superblock().nodes_used;
        assert!(pages < 10, "{pages} pages are left");
    }
}

#[test]
fn datasets_agree_with_a_model() {
    let seeds = std::env::var("RAZORFS_SEEDS").map_or(12, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        println!("seed {seed}");
        let mut bench = Bench::new(seed);
        for _ in 0..160 {
            match bench.rng.random_range(0..10) {
                0..6 => bench.change(),
                6..8 => bench.arrange(),
                _ => bench.pass(),
            }
        }
        bench.finish();
    }
}

#[test]
fn what_a_dataset_has_reserved_no_other_takes() {
    let sim = SimMedia::new();
    let clock = clock(&Arc::new(AtomicI64::new(1000)));
    let how = MkfsOptions {
        capacity_bytes: 4 << 20,
        ..MkfsOptions::reproducible()
    };
    mkfs(sim.media(), &how, &clock).unwrap();
    let mut store = open_store(&sim, &clock);
    store.create_dataset("other", (0, 0)).unwrap();
    let make = |store: &Arc<Store>, name: &str| {
        let volume = store.volume(name).unwrap();
        let made = volume.create(Cred::default(), ROOT, b"f", &new(FILE));
        (made.unwrap().ino, volume)
    };
    let (ino, main) = make(&store, "main");
    main.fallocate(ino, 0, 3 << 20, Fallocate::Allocate { keep_size: false })
        .unwrap();
    make(&store, "other");
    drop(main);
    let write = |store: &Arc<Store>, name: &str| {
        let volume = store.volume(name).unwrap();
        let bytes = vec![7; 1 << 20];
        let flags = WriteFlags::default();
        let steps = (0..3).map(|at| {
            let mut from = bytes.as_slice();
            volume.write(ino, at << 20, bytes.len(), &mut from, flags)
        });
        let done = steps.collect::<Result<Vec<_>, _>>();
        done.and_then(|_| volume.fsync(ino, false))
    };
    for _ in 0..2 {
        assert_eq!(error(write(&store, "other")), "Store", "it is full");
        // Reopened, too.
        store.close().unwrap();
        store = open_store(&sim, &clock);
    }
    store.delete("other", false).unwrap();
    store.reap(&|| false).unwrap();
    write(&store, "main").unwrap();
    store.close().unwrap();
    assert_eq!(errors(&sim), [""; 0]);
}

fn names(store: &Store) -> Vec<String> {
    let all = store.list().unwrap().into_iter();
    let mut names: Vec<_> = all.map(|info| info.name).collect();
    names.sort();
    names
}

#[test]
fn a_clone_takes_over_the_snapshots_that_it_has_too() {
    let bench = Bench::new(1);
    let store = &bench.store;
    for name in ["main@1", "main@2", "main@3"] {
        store.snapshot(name).unwrap();
    }
    store.clone_dataset("main@2", "c").unwrap();
    store.snapshot("c@4").unwrap();
    store.clone_dataset("c@4", "d").unwrap();
    store.clone_dataset("main", "e").unwrap();
    assert_eq!(error(store.promote("main")), "Refused");
    store.snapshot("c@1").unwrap();
    assert_eq!(error(store.promote("c")), "Exists");
    store.delete("c@1", false).unwrap();
    store.promote("c").unwrap();
    let all = ["c", "c@1", "c@2", "c@4", "d", "e", "main", "main@3"];
    assert_eq!(names(store), all);
    store.promote("d").unwrap();
    // What it has in common with `c` is all that `c` has.
    let all = ["c", "d", "d@1", "d@2", "d@4", "e", "main", "main@3"];
    assert_eq!(names(store), all);
    let info = store.list().unwrap();
    let origin = |name: &str| {
        let found = info.iter().find(|info| info.name == name).unwrap();
        let origin = info.iter().find(|info| Some(info.id) == found.origin);
        origin.map(|origin| origin.name.as_str())
    };
    assert_eq!((origin("d"), origin("c")), (None, Some("d@4")));
    assert_eq!((origin("main"), origin("e")), (Some("d@2"), Some("main")));
    store.promote("e").unwrap();
    assert!(names(store).contains(&"e@3".to_owned()));
    store.delete("c", false).unwrap();
    store.delete("d", true).unwrap();
    store.reap(&|| false).unwrap();
    assert_eq!(names(store), ["e", "e@3", "main"]);
    store.close().unwrap();
    assert_eq!(errors(&bench.sim), [""; 0]);
}

#[test]
fn who_was_restored_counts_as_a_clone_of_what_it_goes_on_from() {
    let bench = Bench::new(1);
    let store = &bench.store;
    store.snapshot("main@1").unwrap();
    store.snapshot("main@2").unwrap();
    store.clone_dataset("main@2", "c").unwrap();
    store.restore("main@1").unwrap();
    store.promote("c").unwrap();
    let all = store.list().unwrap();
    let of = |name: &str| all.iter().find(|info| info.name == name).unwrap();
    assert_eq!(of("main").origin, Some(of("c@1").id));
    assert_eq!(of("c").origin, None);
    store.close().unwrap();
    assert_eq!(errors(&bench.sim), [""; 0]);
}

#[test]
fn a_snapshot_that_is_held_stays() {
    let bench = Bench::new(1);
    let store = &bench.store;
    store.create_dataset("d", (0, 0)).unwrap();
    store.snapshot("d@s").unwrap();
    store.snapshot("d@t").unwrap();
    assert_eq!(error(store.hold("d")), "Name");
    assert_eq!(error(store.hold("d@u")), "NotFound");
    for _ in 0..2 {
        store.hold("d@s").unwrap();
    }
    assert!(store.list().unwrap().iter().any(|info| info.held));
    assert_eq!(error(store.delete("d@s", false)), "Held");
    assert_eq!(error(store.delete("d", true)), "Held");
    assert_eq!(error(store.delete("d", false)), "HasSnapshots");
    store.delete("d@t", false).unwrap();
    store.release("d@s").unwrap();
    store.delete("d", true).unwrap();
    assert_eq!(names(store), ["main"]);
}

#[test]
fn a_clone_of_what_is_held_is_not_held() {
    let bench = Bench::new(1);
    let store = &bench.store;
    store.snapshot("main@s").unwrap();
    store.hold("main@s").unwrap();
    store.clone_dataset("main@s", "c").unwrap();
    assert!(!store.find("c").unwrap().held);
    store.delete("c", false).unwrap();
    assert_eq!(names(store), ["main", "main@s"]);
}

#[test]
fn what_is_in_use_is_not_restored() {
    let bench = Bench::new(1);
    let store = &bench.store;
    store.snapshot("main@s").unwrap();
    let main = store.main().unwrap();
    assert_eq!(error(store.restore("main@s")), "Busy");
    drop(main);
    store.restore("main@s").unwrap();
    assert_eq!(error(store.restore("main")), "Name");
    assert_eq!(error(store.restore("main@t")), "NotFound");
    // Inode numbers are not given twice: guests may remember them.
    let make = || {
        let main = store.main().unwrap();
        let made = main.create(Cred::default(), ROOT, b"f", &new(FILE));
        made.unwrap().ino
    };
    let first = make();
    store.restore("main@s").unwrap();
    assert!(make() > first);
}

#[test]
fn births_do_not_go_back_when_the_power_does_with_nothing_done() {
    for seed in 0..12 {
        let mut bench = Bench::new(seed);
        bench.cut_power();
        let main = bench.store.main().unwrap();
        let made = main.create(Cred::default(), ROOT, b"f", &new(FILE));
        let (ino, bytes) = (made.unwrap().ino, [7; 100_000]);
        let mut source = bytes.as_slice();
        let flags = WriteFlags::default();
        main.write(ino, 0, bytes.len(), &mut source, flags).unwrap();
        main.fsync(ino, false).unwrap();
        drop(main);
        let files = bench.model.get_mut("main").unwrap();
        files.insert("f".into(), bytes.to_vec());
        bench.cut_power();
        bench.store.clone_dataset("main", "c").unwrap();
        bench.model.insert("c".into(), bench.model["main"].clone());
        bench.finish();
    }
}
