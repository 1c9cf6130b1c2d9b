//! Datasets, snapshots and clones against plain maps, over changes, deletions, reopening and power
//! cuts.

use std::collections::BTreeMap;

use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::disk::sim::Survival;
use crate::engine::data::units_used;
use crate::engine::{DatasetError, Fallocate, Settings, Store, WriteFlags};

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
            let name = self.new_name("f");
            let cred = Cred::default();
            volume
                .create(cred, ROOT, name.as_bytes(), &new(FILE))
                .unwrap();
            files.insert(name, Vec::new());
        }
        let span = self.span(&files).unwrap();
        let ino = volume.lookup(ROOT, span.name.as_bytes()).unwrap().ino;
        let end = span.offset + span.len;
        let content = files.get_mut(&span.name).unwrap();
        match self.rng.random_range(0..10) {
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

    /// Makes, names or deletes a dataset or snapshot.
    fn arrange(&mut self) {
        match self.rng.random_range(0..9) {
            8 => {
                let head = self.head();
                let compression = ["off", "lz4", "zstd"][self.rng.random_range(0..3)];
                let dedup = ["off", "on", "verify"][self.rng.random_range(0..3)];
                let settings = Settings {
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
        match self.rng.random_range(0..8) {
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
        self.store = open_store(&self.sim, &self.clock);
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
        let names: Vec<_> = self.store.list().unwrap();
        let mut names: Vec<_> = names.into_iter().map(|info| info.name).collect();
        names.sort();
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
        assert_eq!(units_used(&self.store.journal.view()).unwrap(), 0);
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
