//! Random trees, sent whole and by what changed, cut off and gone on with, there and back.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::work::Work;
use super::*;
use crate::disk::sim::Survival;
use crate::engine::Settings;
use crate::stream::token;

struct Bench {
    from: World,
    to: World,
    random: ChaCha8Rng,
    rounds: usize,
}

/// Its content is the same, wherever it is.
fn assert_same(one: &World, name: &str, other: &World, as_name: &str) {
    let limits = |world: &World, name: &str| -> Vec<_> {
        let all = world.volume(name).projects().unwrap().into_iter();
        let limits = all.map(|project| (project.id, project.limit));
        limits
            .filter(|(_, limit)| *limit != ProjectLimit::default())
            .collect()
    };
    assert_eq!(limits(one, name), limits(other, as_name));
    let (one, other) = (one.tree(name), other.tree(as_name));
    for (path, node) in &one {
        let path = String::from_utf8_lossy(path);
        let found = other.get(path.as_bytes());
        let (node, found) = (node, found.unwrap_or_else(|| panic!("{path} is not there")));
        assert_eq!(node.attr, found.attr, "{path}");
        assert_eq!(node.data, found.data, "{path}");
        assert!(node == found, "{path}");
    }
    assert_eq!(one.len(), other.len());
}

impl Bench {
    fn new(seed: u64) -> Bench {
        let mut bench = Bench {
            from: World::new(1),
            to: World::new(2),
            random: ChaCha8Rng::seed_from_u64(seed),
            rounds: 0,
        };
        let from = Arc::clone(&bench.from.store);
        bench.set(&from, "main");
        bench
    }

    fn set(&mut self, store: &Arc<Store>, name: &str) {
        let compression = ["off", "lz4", "zstd"][self.random.random_range(0..3)];
        let dedup = ["off", "on", "verify"][self.random.random_range(0..3)];
        let settings = Settings {
            compression: compression.parse().ok(),
            dedup: dedup.parse().ok(),
            ..Settings::default()
        };
        store.change_settings(name, settings).unwrap();
    }

    fn work(&mut self, from: bool, name: &str, changes: usize) {
        let world = if from { &self.from } else { &self.to };
        let volume = world.volume(name);
        let mut work = Work {
            volume: &volume,
            random: &mut self.random,
        };
        for _ in 0..changes {
            work.change();
        }
        drop(volume);
        if self.random.random_bool(0.4) {
            let limit = ProjectLimit {
                bytes: self.random.random_range(0..2) << 40,
                inodes: self.random.random_range(0..2) << 30,
            };
            let project = self.random.random_range(1..4);
            world.store.limit_project(name, project, limit).unwrap();
        }
        self.rounds += 1;
        world.snapshot(&format!("{name}@s{}", self.rounds));
    }

    /// Sends to a store, with interruptions.
    fn transfer(&mut self, back: bool, stream: Vec<u8>, to: &str, seen: &[String]) {
        let mut stream = stream;
        while self.random.random_bool(0.6) {
            let cut = self.random.random_range(0..stream.len());
            let target = if back { &mut self.from } else { &mut self.to };
            target.receive(to, &stream[..cut]).unwrap_err();
            assert_eq!(target.names(), seen, "nothing is to be seen");
            match self.random.random_range(0..4) {
                0 => target.reopen(),
                1 => {
                    let now = target.sim.events();
                    let survival = Survival::Random(self.random.random());
                    target.sim = target.sim.recording().crash_at(now, survival);
                    target.store = open(&target.sim, &target.clock);
                }
                2 => target.store.checkpoint().unwrap(),
                _ => {}
            }
            let Some(state) = target.store.receive_record(to).unwrap() else {
                continue;
            };
            if self.random.random_bool(0.1) {
                target.store.abort_receive(to).unwrap();
                target.store.reap(&|| false).unwrap();
                if state.position == StreamPosition::START {
                    continue;
                }
                let sending = if back { &self.to } else { &self.from };
                let start = ReceiveRecord {
                    position: StreamPosition::START,
                    ..state
                };
                stream = sending.rest(&start);
                continue;
            }
            let state = token::decode(&token::encode(&state)).unwrap();
            let sending = if back { &self.to } else { &self.from };
            stream = sending.rest(&state);
        }
        let target = if back { &self.from } else { &self.to };
        target.receive(to, &stream).unwrap();
    }

    fn there(&mut self, base: Option<&str>) -> String {
        let name = format!("s{}", self.rounds);
        let stream = self.from.stream(
            &format!("main@{name}"),
            base.map(|base| format!("main@{base}")).as_deref(),
        );
        let seen = self.to.names();
        self.transfer(false, stream, "copy", &seen);
        self.to.reopen();
        let (sent, got) = (format!("main@{name}"), format!("copy@{name}"));
        assert_same(&self.from, &sent, &self.to, &got);
        assert_same(&self.from, &sent, &self.to, "copy");
        name
    }
}

#[test]
fn trees_arrive_as_they_are() {
    let seeds = std::env::var("RAZORFS_SEEDS").map_or(10, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        println!("seed {seed}");
        let mut bench = Bench::new(seed);
        bench.work(true, "main", 120);
        let mut base = bench.there(None);
        for _ in 0..4 {
            if bench.random.random_bool(0.3) {
                let to = Arc::clone(&bench.to.store);
                bench.set(&to, "copy");
                bench.set(&to, "copy");
            }
            let changes = bench.random.random_range(1..60);
            bench.work(true, "main", changes);
            base = bench.there(Some(&base));
        }
        // And back: what was changed there.
        let changes = bench.random.random_range(1..60);
        bench.work(false, "copy", changes);
        let name = format!("s{}", bench.rounds);
        let (sent, before) = (format!("copy@{name}"), format!("copy@{base}"));
        let stream = bench.to.stream(&sent, Some(&before));
        let seen = bench.from.names();
        bench.transfer(true, stream, "main", &seen);
        bench.from.reopen();
        assert_same(&bench.to, &sent, &bench.from, &format!("main@{name}"));
        assert_same(&bench.to, &sent, &bench.from, "main");
        assert_same(&bench.to, &before, &bench.from, &format!("main@{base}"));
        // Both are alive: what is deleted comes back.
        bench.to.store.delete("copy", true).unwrap();
        bench.to.store.reap(&|| false).unwrap();
        bench.to.reopen();
        bench.to.store.checkpoint().unwrap();
        bench.to.store.checkpoint().unwrap();
        assert_eq!(bench.to.store.units_used_for_tests(), 0);
    }
}
