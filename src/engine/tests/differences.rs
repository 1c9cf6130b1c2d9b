//! What changed between snapshots, against what was done.

use std::collections::{BTreeMap, BTreeSet};

use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::engine::{Difference, PathChange, RenameMode, Store, WriteFlags};

/// A directory, a name in it, and what that leads to.
type Named = (Ino, Vec<u8>, Ino);

/// All names of a dataset or snapshot, by their paths.
fn paths(store: &Arc<Store>, name: &str) -> BTreeMap<Vec<u8>, Named> {
    let volume = store.volume(name).unwrap();
    let mut found = BTreeMap::new();
    let mut dirs = vec![(ROOT, Vec::new())];
    while let Some((dir, path)) = dirs.pop() {
        let mut entries = Vec::new();
        volume
            .readdir(dir, 0, &mut |entry| {
                entries.push((entry.name, entry.ino));
                true
            })
            .unwrap();
        for (name, ino) in entries.into_iter().filter(|(name, _)| name[0] != b'.') {
            let below = [&path[..], &name].join(&b"/"[..usize::from(!path.is_empty())]);
            if volume.getattr(ino).unwrap().mode & libc::S_IFMT == libc::S_IFDIR {
                dirs.push((ino, below.clone()));
            }
            found.insert(below, (dir, name, ino));
        }
    }
    found
}

struct Work {
    store: Arc<Store>,
    volume: Volume,
    rng: ChaCha8Rng,
    made: u32,
    /// Inodes whose content changed.
    written: BTreeSet<Ino>,
    /// Inodes of which anything changed.
    touched: BTreeSet<Ino>,
}

impl Work {
    fn dir(&mut self) -> Ino {
        let all = paths(&self.store, "main").into_values();
        let is_dir =
            |ino: &Ino| self.volume.getattr(*ino).unwrap().mode & libc::S_IFMT == libc::S_IFDIR;
        let dirs = all.map(|(_, _, ino)| ino).filter(is_dir);
        let dirs: Vec<_> = dirs.chain([ROOT]).collect();
        dirs.into_iter().choose(&mut self.rng).unwrap()
    }

    fn step(&mut self) {
        let all = paths(&self.store, "main");
        let some = all.values().choose(&mut self.rng).cloned();
        self.made += 1;
        let name = format!("n{}", self.made).into_bytes();
        let to = self.dir();
        let volume = &self.volume;
        let Some((dir, old, ino)) = some.filter(|_| self.rng.random_bool(0.7)) else {
            let mode = if self.rng.random_bool(0.3) { DIR } else { FILE };
            let made = volume.create(Cred::default(), to, &name, &new(mode));
            self.touched.extend([to, made.unwrap().ino]);
            return;
        };
        let is_dir = volume.getattr(ino).unwrap().mode & libc::S_IFMT == libc::S_IFDIR;
        match self.rng.random_range(0..6) {
            0..2 if !is_dir => {
                let (mut from, flags) = (&[self.made as u8; 9000][..], WriteFlags::default());
                volume.write(ino, 0, from.len(), &mut from, flags).unwrap();
                self.written.insert(ino);
            }
            2 if !is_dir => drop(volume.link(ino, to, &name).unwrap()),
            3 if !is_dir => {
                volume.unlink(dir, &old).unwrap();
                volume.reclaim(ino).unwrap();
            }
            3 => drop(volume.rmdir(dir, &old)),
            4 => {
                let set = SetAttr {
                    mode: Some(0o700 + self.made % 8),
                    ..SetAttr::default()
                };
                volume.setattr(ino, &set).unwrap();
            }
            // Into itself it cannot go.
            _ => drop(volume.rename(dir, &old, to, &name, RenameMode::Replace)),
        }
        self.touched.extend([dir, to, ino]);
    }
}

/// What was told agrees with what there is, and was done.
fn judge(work: &Work, old: &str, new: &str) {
    let differences = work.store.diff(old, new, &mut || true).unwrap();
    let (before, after) = (paths(&work.store, old), paths(&work.store, new));
    let named = |all: &BTreeMap<_, Named>| all.values().cloned().collect::<BTreeSet<Named>>();
    let (mut gone, mut came) = (named(&before), named(&after));
    let stayed: BTreeSet<Named> = gone.intersection(&came).cloned().collect();
    for Difference { path, change } in &differences {
        match change {
            PathChange::Removed => assert!(gone.remove(&before[path])),
            PathChange::Added => assert!(came.remove(&after[path])),
            PathChange::Renamed(to) => {
                assert_eq!(before[path].2, after[to].2);
                assert!(gone.remove(&before[path]) && came.remove(&after[to]));
            }
            PathChange::Changed if path.is_empty() => assert!(work.touched.contains(&ROOT)),
            PathChange::Changed => assert!(work.touched.contains(&after[path].2)),
        }
    }
    assert_eq!((gone, came), (stayed.clone(), stayed.clone()));
    let told: BTreeSet<&Ino> = differences
        .iter()
        .filter(|each| each.change == PathChange::Changed && !each.path.is_empty())
        .map(|each| &after[&each.path].2)
        .collect();
    for (_, _, ino) in &stayed {
        assert!(!work.written.contains(ino) || told.contains(ino), "{ino}");
    }
    assert!(differences.is_sorted());
}

#[test]
fn differences_are_what_was_done() {
    for seed in 0..30 {
        let (_, store) = super::deletion::store(false);
        let mut work = Work {
            volume: store.main().unwrap(),
            store,
            rng: ChaCha8Rng::seed_from_u64(seed),
            made: 0,
            written: BTreeSet::new(),
            touched: BTreeSet::new(),
        };
        (0..30).for_each(|_| work.step());
        work.store.snapshot("main@old").unwrap();
        assert_eq!(
            work.store.diff("main@old", "main", &mut || true).unwrap(),
            []
        );
        work.written.clear();
        work.touched.clear();
        (0..25).for_each(|_| work.step());
        judge(&work, "main@old", "main");
        work.store.snapshot("main@new").unwrap();
        judge(&work, "main@old", "main@new");
    }
}
