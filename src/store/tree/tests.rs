//! Trees against `BTreeMap`, with checkpoints and snapshots between the changes.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::convert::Infallible;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::disk::Disk;
use crate::format::id::{Generation, PageNo};
use crate::format::key::{KEY_MAX, Key, VALUE_MAX};
use crate::format::page::TreeTag;
use crate::format::record::{LineageRecord, PagePtr};
use crate::store::pages::PageStore;

#[derive(Default)]
pub(super) struct Memory(Mutex<Vec<u8>>, AtomicU64);

impl Memory {
    /// How often it was read from.
    pub(super) fn reads(&self) -> u64 {
        self.1.load(Ordering::Relaxed)
    }
}

impl Disk for Memory {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.1.fetch_add(1, Ordering::Relaxed);
        let start = usize::try_from(offset).unwrap();
        let bytes = self.0.lock();
        let source = bytes
            .get(start..start + buf.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(source);
        Ok(())
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let mut bytes = self.0.lock();
        let end = start + buf.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(buf);
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = usize::try_from(offset + len).unwrap();
        let mut bytes = self.0.lock();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        Ok(())
    }
    fn trim(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn len_bytes(&self) -> u64 {
        self.0.lock().len() as u64
    }
    fn available_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

pub(super) struct Bench {
    pub(super) disk: Arc<Memory>,
    pub(super) pages: PageStore,
    pub(super) root: Link,
    pub(super) model: Model,
    pub(super) effects: Effects,
    generation: u64,
    rng: ChaCha8Rng,
}

pub(super) type Model = BTreeMap<Vec<u8>, Vec<u8>>;

impl Bench {
    pub(super) fn new(seed: u64) -> Self {
        let disk = Arc::new(Memory::default());
        let pages = PageStore::new(disk.clone(), PageNo(1), 0, 1 << 20);
        pages.find_free(|| Ok(Vec::new()), PageNo(1)).unwrap();
        Bench {
            disk,
            pages,
            root: Link::EMPTY,
            model: BTreeMap::new(),
            effects: Effects::default(),
            generation: 1,
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    pub(super) fn key(&mut self) -> Vec<u8> {
        let number = self.rng.random_range(0..3_000u64);
        let mut key = number.to_be_bytes().to_vec();
        key.resize(8 + usize::try_from(number % 7).unwrap() * 40, b'k');
        key
    }

    pub(super) fn change(&mut self) {
        let key = self.key();
        if self.rng.random_bool(0.55) {
            let value = vec![self.rng.random(); self.rng.random_range(0..=700)];
            put(
                &mut self.root,
                Source::Pages(&self.pages),
                &key,
                &value,
                &mut self.effects,
            )
            .unwrap();
            self.model.insert(key, value);
        } else {
            let there = delete(
                &mut self.root,
                Source::Pages(&self.pages),
                &key,
                &mut self.effects,
            )
            .unwrap();
            assert_eq!(there, self.model.remove(&key).is_some());
        }
    }

    pub(super) fn checkpoint(&mut self) -> PagePtr {
        self.checkpoint_beside(|_| {})
    }

    /// A checkpoint, and changes between fixing what it holds and writing that.
    fn checkpoint_beside(&mut self, beside: impl FnOnce(&mut Self)) -> PagePtr {
        let mut written = Vec::new();
        let (pages, generation) = (&self.pages, Generation(self.generation));
        pages
            .reserve(10_000, crate::store::pages::Need::Space)
            .unwrap();
        let mut place = || Ok::<_, Infallible>(pages.allocate(generation));
        let root = freeze(&self.root, TreeTag::NONE, &mut place, &mut written).unwrap();
        let freed = std::mem::take(&mut self.effects.freed);
        self.generation += 1;
        beside(self);
        self.pages.write(&written).unwrap();
        drop(written);
        let mut child = 0;
        while settle(&mut self.root, child, &mut self.effects) {
            child += 1;
        }
        self.pages.retire(&freed);
        self.pages.release(&freed).unwrap();
        root
    }
}

fn contents(root: &Link, pages: &PageStore) -> Model {
    let mut all = Model::new();
    scan(root, pages, &[], &[0xff; 9], &mut |key, value| {
        assert!(all.insert(key.to_vec(), value.to_vec()).is_none());
        ControlFlow::Continue(())
    })
    .unwrap();
    all
}

#[test]
fn agrees_with_a_model_over_changes_checkpoints_and_reopening() {
    for seed in 0..6 {
        let mut bench = Bench::new(seed);
        for step in 0..6_000 {
            bench.change();
            if bench.rng.random_bool(0.002) {
                let root = bench.checkpoint();
                if bench.rng.random_bool(0.3) {
                    // As after reopening: nothing in the cache.
                    let (end, used) = bench.pages.extent();
                    bench.pages = PageStore::new(bench.disk.clone(), end, used, 1 << 18);
                    bench.root = Link::Disk(root);
                    bench.pages.find_free(|| Ok(vec![root]), end).unwrap();
                }
            }
            if step % 7 == 0 {
                let key = bench.key();
                let found = get_with(&bench.root, &bench.pages, &key, <[u8]>::to_vec).unwrap();
                assert_eq!(
                    found.as_ref(),
                    bench.model.get(&key),
                    "seed {seed} step {step}"
                );
                let below = floor_with(&bench.root, &bench.pages, &key, |key, value| {
                    (Key::from_slice(key), value.to_vec())
                })
                .unwrap();
                let expected = bench.model.range(..=key).next_back();
                assert_eq!(
                    below,
                    expected.map(|(k, v)| (Key::from_slice(k), v.clone()))
                );
            }
        }
        assert_eq!(
            contents(&bench.root, &bench.pages),
            bench.model,
            "seed {seed}"
        );
    }
}

#[test]
fn children_are_listed_only_while_one_is_in_memory() {
    let mut bench = Bench::new(7);
    for _ in 0..2_000 {
        bench.change();
    }
    let root = |bench: &Bench| {
        let node = bench.root.show(&bench.pages).unwrap().unwrap();
        assert!(node.page.level() > 0);
        (node.children.len(), node.page.len())
    };
    for round in 0..20 {
        bench.checkpoint();
        assert_eq!(root(&bench).0, 0, "round {round}");
        let (key, value) = (bench.key(), vec![round; 30]);
        put(
            &mut bench.root,
            Source::Pages(&bench.pages),
            &key,
            &value,
            &mut bench.effects,
        )
        .unwrap();
        bench.model.insert(key, value);
        let (listed, cells) = root(&bench);
        assert_eq!(listed, cells, "round {round}");
        assert_eq!(contents(&bench.root, &bench.pages), bench.model);
    }
}

#[test]
fn what_changes_beside_a_checkpoint_is_not_in_it() {
    let mut bench = Bench::new(11);
    for _ in 0..2_000 {
        bench.change();
    }
    for round in 0..30 {
        let model = bench.model.clone();
        let root = bench.checkpoint_beside(|bench| (0..round * 5).for_each(|_| bench.change()));
        let (end, used) = bench.pages.extent();
        let pages = PageStore::new(bench.disk.clone(), end, used, 1 << 18);
        assert_eq!(contents(&Link::Disk(root), &pages), model, "round {round}");
        assert_eq!(contents(&bench.root, &bench.pages), bench.model);
    }
}

#[test]
fn an_internal_node_that_a_checkpoint_writes_is_changed_in_place() {
    let mut bench = Bench::new(12);
    for _ in 0..2_000 {
        bench.change();
    }
    bench.checkpoint();
    for _ in 0..50 {
        bench.change();
    }
    let mut written = Vec::new();
    let (pages, generation) = (&bench.pages, Generation(bench.generation));
    let mut place = || Ok::<_, Infallible>(pages.allocate(generation));
    let root = freeze(&bench.root, TreeTag::NONE, &mut place, &mut written).unwrap();
    let at = |link: &Link| match link {
        Link::Memory(node) => Arc::as_ptr(node),
        Link::Disk(_) => panic!("the root is not in memory"),
    };
    let before = at(&bench.root);
    bench.effects.freed.clear();
    // Removing what is not there changes nothing.
    while bench.effects.freed.is_empty() {
        bench.change();
    }
    assert_eq!(at(&bench.root), before);
    assert!(bench.effects.freed.contains(&root), "its page is not freed");
}

#[test]
fn a_clone_of_the_root_is_a_snapshot() {
    let mut bench = Bench::new(7);
    for _ in 0..2_000 {
        bench.change();
    }
    let (snapshot, model) = (bench.root.clone(), bench.model.clone());
    for _ in 0..4_000 {
        bench.change();
    }
    assert_eq!(contents(&snapshot, &bench.pages), model);
    assert_eq!(contents(&bench.root, &bench.pages), bench.model);
}

#[test]
fn deleting_everything_gives_every_page_back() {
    let mut bench = Bench::new(8);
    for _ in 0..5_000 {
        bench.change();
    }
    bench.checkpoint();
    for key in std::mem::take(&mut bench.model).into_keys() {
        assert!(
            delete(
                &mut bench.root,
                Source::Pages(&bench.pages),
                &key,
                &mut bench.effects
            )
            .unwrap()
        );
    }
    assert_eq!(bench.checkpoint(), PagePtr::EMPTY);
    assert_eq!(bench.pages.extent().1, 0);
}

#[test]
fn pages_in_use_are_exactly_those_reached() {
    let mut bench = Bench::new(9);
    for _ in 0..30 {
        for _ in 0..200 {
            bench.change();
        }
        let root = bench.checkpoint();
        let mut reached = HashSet::new();
        let mut pending = vec![root];
        while let Some(place) = pending.pop() {
            assert!(reached.insert(place));
            let page = bench.pages.read(place).unwrap();
            if page.level() > 0 {
                pending.extend((0..page.len()).map(|index| page.child(index)));
            }
        }
        assert_eq!(bench.pages.extent().1, reached.len() as u64);
    }
}

#[test]
fn growing_keys_leave_full_pages() {
    let mut bench = Bench::new(10);
    for number in 0..20_000u64 {
        let key = number.to_be_bytes();
        put(
            &mut bench.root,
            Source::Pages(&bench.pages),
            &key,
            &[0; 40],
            &mut bench.effects,
        )
        .unwrap();
    }
    bench.checkpoint();
    let full = 20_000 * 54 / 4064;
    assert!(
        bench.pages.extent().1 < full + full / 20 + 4,
        "{} pages",
        bench.pages.extent().1
    );
}

/// Every page's keys rise, and what lies below a cell lies between its key and the next.
fn check_order(link: &Link, pages: &PageStore, bounds: (Option<&[u8]>, Option<&[u8]>)) {
    let Some(node) = link.node(Source::Pages(pages)).unwrap() else {
        return;
    };
    let page = node.page();
    for index in 0..page.len() {
        let (key, next) = (
            page.key(index),
            (index + 1 < page.len()).then(|| page.key(index + 1)),
        );
        assert!(next.is_none_or(|next| key < next), "keys do not rise");
        if page.level() == 0 {
            assert!(
                bounds.0.is_none_or(|low| low <= key) && bounds.1.is_none_or(|high| key < high)
            );
        } else {
            let low = if index == 0 { bounds.0 } else { Some(key) };
            check_order(&node.link(index), pages, (low, next.or(bounds.1)));
        }
    }
}

/// When all below an internal page's first cell is gone, the cell behind it takes its place, and
/// what is inserted then may be smaller than its key.
#[test]
fn a_range_that_was_emptied_can_be_filled_again() {
    for seed in 0..6 {
        let mut bench = Bench::new(seed);
        let key = |number: u64| [number.to_be_bytes().as_slice(), &[b'k'; 60]].concat();
        for number in 0..6_000 {
            let value = vec![1; 300];
            put(
                &mut bench.root,
                Source::Pages(&bench.pages),
                &key(number),
                &value,
                &mut bench.effects,
            )
            .unwrap();
            bench.model.insert(key(number), value);
        }
        for round in 0..20 {
            let start = bench.rng.random_range(0..5_000);
            let len = bench.rng.random_range(1..1_500);
            for number in start..start + len {
                delete(
                    &mut bench.root,
                    Source::Pages(&bench.pages),
                    &key(number),
                    &mut bench.effects,
                )
                .unwrap();
                bench.model.remove(&key(number));
            }
            if round % 3 == 0 {
                bench.checkpoint();
            }
            let mut numbers: Vec<u64> = (start..start + len).collect();
            if round % 2 == 0 {
                numbers.reverse();
            }
            for number in numbers.into_iter().filter(|number| number % 5 > 0) {
                let value = vec![2; bench.rng.random_range(100..600)];
                put(
                    &mut bench.root,
                    Source::Pages(&bench.pages),
                    &key(number),
                    &value,
                    &mut bench.effects,
                )
                .unwrap();
                bench.model.insert(key(number), value);
            }
            check_order(&bench.root, &bench.pages, (None, None));
            assert!(
                contents(&bench.root, &bench.pages) == bench.model,
                "seed {seed}"
            );
        }
    }
}

/// Keys and values of every length, mostly the largest: wherever a page is cut, both halves and the
/// new cell fit. Found by a guest that set attributes with long names and values.
#[test]
fn the_largest_cells_fit_wherever_a_page_is_split() {
    let seed = 11;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let pages = PageStore::new(Arc::new(Memory::default()), PageNo(1), 0, 1 << 20);
    for round in 0..300 {
        let (mut root, mut model) = (Link::EMPTY, Model::new());
        let mut effects = Effects::default();
        for _ in 0..200 {
            let mut length = |max: usize| match rng.random_range(0..4) {
                0 => rng.random_range(9..max),
                _ => max,
            };
            let (key_len, value_len) = (length(KEY_MAX), length(VALUE_MAX));
            let mut key = rng.random::<u64>().to_be_bytes().to_vec();
            key.resize(key_len, b'k');
            let value = vec![7; value_len];
            put(&mut root, Source::Pages(&pages), &key, &value, &mut effects).unwrap();
            model.insert(key, value);
        }
        for (key, value) in &model {
            let found = get_with(&root, &pages, key, <[u8]>::to_vec).unwrap();
            let same = found.as_ref() == Some(value);
            assert!(same, "round {round}, seed {seed}");
        }
    }
}

#[test]
fn nodes_that_two_trees_had_in_common_are_counted_when_a_checkpoint_parts_them() {
    let mut bench = Bench::new(1);
    (0..20_000).for_each(|_| bench.change());
    bench.checkpoint();
    let mut copy = Link::EMPTY;
    bench.checkpoint_beside(|bench| {
        bench.effects.dirtied = 0;
        for (key, value) in &bench.model {
            let source = Source::Pages(&bench.pages);
            put(&mut bench.root, source, key, value, &mut bench.effects).unwrap();
        }
        // A snapshot: none of these nodes has been written.
        bench.effects.shared = LineageRecord::PENDING;
        copy = bench.root.clone();
    });
    let mut written = Vec::new();
    let (pages, generation) = (&bench.pages, Generation(bench.generation));
    let mut place = || Ok::<_, Infallible>(pages.allocate(generation));
    for root in [&bench.root, &copy] {
        freeze(root, TreeTag::NONE, &mut place, &mut written).unwrap();
    }
    let (written, counted) = (written.len() as u64, bench.effects.dirtied);
    assert!(written <= counted, "{written} to write, {counted} counted");
}
