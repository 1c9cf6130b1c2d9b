//! The trees of datasets, made anew: what several of them have in common is made once.
//!
//! Snapshots and clones mostly have the leaves of others. A new tree begins as a copy of that which
//! has most pages in common with it, in which lost parts have been searched for already, and gets
//! what the leaves tell in which the two differ. So a thousand clones of an image take the room of
//! one, and what all of them lost with one page is found for all of them.
//!
//! What is found is of the newest checkpoint, or older, and so are the counts that tell what is
//! missed. Of trees that the log changed, what was found is judged again when these changes were
//! made.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::Fixes;
use super::family::Family;
use super::fix::Fix;
use super::kin;
use super::load::Loaded;
use super::salvaged::{Entered, Salvaged};
use super::stray::{History, Kin, Pages, Search, Strays};
use crate::format::id::{DatasetId, Generation};
use crate::format::key::{Key, TreeId};
use crate::format::page::TreeTag;
use crate::format::record::{PagePtr, Until};
use crate::fsck::pages::{Lost, Outline, Part, Range};
use crate::progress::Progress;
use crate::store::StoreError;

/// The tree of a dataset in the newest checkpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tree {
    pub(super) id: DatasetId,
    pub(super) root: PagePtr,
}

impl Tree {
    fn id(&self) -> TreeId {
        TreeId::Fs(self.id)
    }
}

/// Makes the trees of all datasets, with what is found of the lost parts of all trees.
pub(super) fn load(
    loaded: &mut Loaded,
    mut found: Vec<Tree>,
    mut family: Family,
    progress: &Progress,
    fixes: &mut Fixes<'_>,
) -> Result<(), StoreError> {
    if !loaded.walker.lost.is_empty() {
        progress.begin("looking for lost pages", 0);
    }
    let strays = Strays::find(loaded);
    // What a snapshot lost all that go on from it have, so it comes first.
    family.sort(&mut found, |tree| tree.id);
    if loaded.has_lost(TreeId::Datasets) {
        for (id, history) in strays.histories(&loaded.walker) {
            family.learn(id, history);
        }
    }
    let mut trees = Trees {
        found,
        family,
        strays,
    };
    // Whether an extent is missed is asked of its chunk.
    for tree in [TreeId::Datasets, TreeId::Chunks] {
        trees.search(loaded, tree, HashSet::new(), Kin::default())?;
    }
    // The main dataset may have no record, and so no tree: the newest there is was its own.
    if !trees.found.iter().any(|tree| tree.id == DatasetId::MAIN) {
        let kin = trees.kin(loaded, DatasetId::MAIN, PagePtr::EMPTY);
        let tree = TreeId::Fs(DatasetId::MAIN);
        trees.search(loaded, tree, HashSet::new(), kin)?;
    }
    progress.begin("reading datasets", trees.found.len() as u64);
    let mut made = Made::default();
    for tree in trees.found.clone() {
        progress.add(1);
        trees.make(loaded, &tree, &mut made, fixes)?;
    }
    Ok(())
}

/// Looks again at what was found for trees that the log changed: what is missed is another matter
/// now.
pub(super) fn judge_again(loaded: &mut Loaded) -> Result<(), StoreError> {
    let is_changed = |salvaged: &Salvaged| !salvaged.changed.is_empty();
    let chunks_changed = loaded.salvaged.get(&TreeId::Chunks).is_some_and(is_changed);
    let trees = loaded.salvaged.iter();
    let trees = trees.filter(|(_, salvaged)| chunks_changed || is_changed(salvaged));
    let trees: Vec<TreeId> = trees.map(|(tree, _)| *tree).collect();
    for tree in trees {
        if !matches!(tree, TreeId::Fs(_)) || !loaded.is_kept(tree)? {
            continue;
        }
        let Some(before) = loaded.salvaged.remove(&tree) else {
            continue;
        };
        for key in before.untouched() {
            loaded.builder.delete(tree, key)?;
        }
        let mut salvaged = Salvaged::default();
        for found in &before.found {
            let is_wanted =
                |key: &Key| before.changed.get(key) != Some(&false) && !found.removed.contains(key);
            let mut entered = Entered::default();
            entered.unsure = found.unsure;
            for candidates in &found.candidates {
                let builder = &mut loaded.builder;
                let before = entered.keys.len();
                let of_kin = candidates.enter(builder, tree, &is_wanted, &mut entered)?;
                kin::note_unsure(tree, &of_kin, &mut entered);
                let records = entered.keys.len() - before;
                salvaged.fixes.extend(candidates.fix(tree, records));
            }
            salvaged.found.push(Arc::new(entered));
        }
        loaded.salvaged.insert(tree, salvaged);
    }
    Ok(())
}

/// The tag of pages of a timeline.
fn tag_of(timeline: u64) -> TreeTag {
    TreeTag::of(TreeId::Fs(DatasetId(timeline)))
}

/// The trees of the newest checkpoint, and where lost parts of them are searched for.
struct Trees {
    found: Vec<Tree>,
    family: Family,
    strays: Strays,
}

impl Trees {
    /// Searches for what a tree has lost, if anything, but for the parts `but`.
    fn search(
        &mut self,
        loaded: &mut Loaded,
        tree: TreeId,
        but: HashSet<Part>,
        kin: Kin,
    ) -> Result<(), StoreError> {
        if loaded.lost_by(tree).all(|lost| but.contains(&lost.part())) {
            return Ok(());
        }
        let common = match tree {
            TreeId::Fs(id) => self.common(loaded, id),
            _ => BTreeMap::new(),
        };
        let history = match tree {
            TreeId::Fs(id) => self.history(loaded, id),
            _ => History::of(tree, self.family.repaired),
        };
        let is_table_whole = !loaded.has_lost(TreeId::Datasets);
        let of = Search {
            tree,
            but,
            kin,
            is_ambiguous: match tree {
                TreeId::Fs(_) => !is_table_whole || self.family.is_ambiguous,
                _ => false,
            },
            common,
            history,
        };
        let mut salvaged = self.strays.search(loaded, &of)?;
        let copied = loaded.salvaged.remove(&tree);
        salvaged
            .found
            .extend(copied.into_iter().flat_map(|copied| copied.found));
        loaded.salvaged.insert(tree, salvaged);
        Ok(())
    }

    /// Makes a tree of what can be read of it, and of what is found of the rest.
    fn make(
        &mut self,
        loaded: &mut Loaded,
        tree: &Tree,
        made: &mut Made,
        fixes: &mut Fixes<'_>,
    ) -> Result<(), StoreError> {
        let outline = loaded
            .walker
            .outline(tree.id(), tree.root, &mut HashSet::new());
        let base = made.base_of(tree, &outline, &self.family);
        if base.is_none_or(|base| base.root != tree.root) {
            made.note(*tree, &outline);
        }
        let of_base = match base {
            Some(base) => loaded
                .walker
                .outline(base.id(), base.root, &mut HashSet::new()),
            None => Outline::default(),
        };
        let (mut shared, mut copied) = (HashSet::new(), HashSet::new());
        // What is not known to be the base's alone cannot be removed from the copy.
        if let Some(base) = base.filter(|base| loaded.failed(base.id(), &of_base).is_empty()) {
            let own: HashSet<&Part> = outline.leaves.iter().collect();
            let both = of_base.leaves.iter().filter(|leaf| own.contains(leaf));
            let both: HashSet<&Part> = both.collect();
            // Of little in common, more would have to be removed than is saved.
            let is_much = both.len() * 4 >= outline.leaves.len();
            if is_much || loaded.has_lost(tree.id()) {
                shared = both;
                copied = begin_with(loaded, tree, &base, &of_base, &mut shared)?;
            }
        }
        let mut failed = loaded.failed(tree.id(), &outline);
        let leaves = outline.leaves.iter().filter(|leaf| !shared.contains(leaf));
        failed.extend(put_leaves(loaded, tree.id(), leaves)?);
        if !failed.is_empty() {
            let (tree, pages) = (tree.id(), failed.len() as u64);
            fixes.add(Fix::PagesLost { tree, pages });
        }
        failed
            .into_iter()
            .for_each(|lost| loaded.walker.give_up(lost));
        let kin = match loaded
            .lost_by(tree.id())
            .any(|lost| !copied.contains(&lost.part()))
        {
            true => self.kin(loaded, tree.id, tree.root),
            false => Kin::default(),
        };
        self.search(loaded, tree.id(), copied, kin)
    }

    /// Up to which generation the pages of which trees are of the history of one. A page that two
    /// have lost, they had in common.
    fn common(&self, loaded: &Loaded, of: DatasetId) -> BTreeMap<DatasetId, Generation> {
        let line = self.family.line(of);
        let others = self.found.iter().map(|tree| tree.id).chain([of]);
        let mut common: BTreeMap<DatasetId, Generation> = others
            .filter_map(|other| Some((other, self.family.common(&line, other)?)))
            .collect();
        let own = loaded.lost_by(TreeId::Fs(of));
        let own: HashSet<PagePtr> = own.map(|lost| lost.place).collect();
        for lost in loaded
            .walker
            .lost
            .iter()
            .filter(|lost| own.contains(&lost.place))
        {
            if let TreeId::Fs(other) = lost.tree {
                let until = common.entry(other).or_default();
                *until = lost.place.generation.max(*until);
            }
        }
        common
    }

    /// Which pages that nothing points to may be of the history of a tree.
    fn history(&self, loaded: &Loaded, of: DatasetId) -> History {
        let line = self.family.line(of);
        // What its own snapshots kept a dataset had replaced; of what it goes on from it may be a copy.
        let of_kept = |index: usize| index > 0 || line.is_snapshot;
        let timelines = line.timelines.iter().enumerate();
        let timelines = timelines.flat_map(|(index, of)| {
            let plain = Pages {
                tag: tag_of(of.timeline),
                after: Generation(0),
                until: of.until,
            };
            // Older ones only other snapshots have.
            let kept = Pages {
                tag: plain.tag.kept(),
                after: of.until.sure,
                ..plain
            };
            of_kept(index).then_some(kept).into_iter().chain([plain])
        });
        let timelines: Vec<Pages> = timelines.collect();
        let is_table_whole = !loaded.has_lost(TreeId::Datasets);
        let is_found = self.found.iter().any(|tree| tree.id == of);
        // What says more of it may be lost; but what was written for it is rather its own.
        let own = line.timelines.first().map(|own| tag_of(own.timeline));
        let has_own = !is_found && own.is_some_and(|own| self.strays.has_any_of(own));
        History {
            others: match is_table_whole || has_own {
                true => line.earlier,
                false => Until::ALL.newest,
            },
            repaired: self.family.repaired,
            has_untagged: self.family.is_one && is_table_whole,
            timelines,
        }
    }

    /// Leaves of related trees which may be those that a tree has lost, or older versions of them.
    fn kin(&self, loaded: &Loaded, id: DatasetId, root: PagePtr) -> Kin {
        let walker = &loaded.walker;
        let lost: Vec<Lost> = loaded.lost_by(TreeId::Fs(id)).cloned().collect();
        let common = self.common(loaded, id);
        let related = |other: &Tree| Some((*other, *common.get(&other.id)?));
        let others = self.found.iter().filter(|other| other.id != id);
        let mut others: Vec<(Tree, Generation)> = others.filter_map(related).collect();
        // What is part of several counts for the one with most in common.
        others.sort_by_key(|(other, common)| (Reverse(*common), other.id));
        let mut seen = HashSet::new();
        let own = walker.outline(TreeId::Fs(id), root, &mut seen);
        let mut known: HashSet<PagePtr> = own.leaves.iter().map(|(place, _)| *place).collect();
        let mut kin = Kin::default();
        for (other, common) in others {
            let outline = walker.outline(other.id(), other.root, &mut seen);
            kin.is_unreadable |= !loaded.failed(other.id(), &outline).is_empty();
            for leaf in outline.leaves {
                if leaf.0.generation <= common && known.insert(leaf.0) {
                    kin.add(walker, &lost, &leaf);
                }
            }
        }
        kin
    }
}

/// Which trees were made, by what stands above their leaves, and by their roots.
#[derive(Default)]
struct Made {
    trees: Vec<Tree>,
    /// The trees that have a page, by their places among `trees`.
    having: HashMap<PagePtr, Vec<usize>>,
}

impl Made {
    /// The tree that has most in common with this one: of inner pages, or else of its past.
    fn base_of(&self, tree: &Tree, outline: &Outline, family: &Family) -> Option<Tree> {
        let mut shared: HashMap<usize, usize> = HashMap::new();
        for place in outline.inner.iter().chain([&tree.root]) {
            for index in self.having.get(place).into_iter().flatten() {
                *shared.entry(*index).or_default() += 1;
            }
        }
        let most = shared
            .into_iter()
            .max_by_key(|(index, pages)| (*pages, Reverse(*index)));
        if let Some((index, _)) = most {
            return self.trees.get(index).copied();
        }
        let line = family.line(tree.id);
        let common = |other: &&Tree| family.common(&line, other.id);
        let related = self.trees.iter().filter(|other| common(other).is_some());
        related.max_by_key(common).copied()
    }

    /// Notes a tree that has pages of its own.
    fn note(&mut self, tree: Tree, outline: &Outline) {
        let index = self.trees.len();
        self.trees.push(tree);
        for place in outline.inner.iter().chain([&tree.root]) {
            if *place != PagePtr::EMPTY {
                self.having.entry(*place).or_default().push(index);
            }
        }
    }
}

/// Begins a tree as a copy of `base`, and removes what only that one has. The parts that both have
/// lost: what was found of them the copy has. `shared` are the leaves that the copy has.
fn begin_with(
    loaded: &mut Loaded,
    tree: &Tree,
    base: &Tree,
    of_base: &Outline,
    shared: &mut HashSet<&Part>,
) -> Result<HashSet<Part>, StoreError> {
    loaded.builder.copy_tree(base.id, tree.id, tree.id.0)?;
    let own: HashSet<Part> = loaded.lost_by(tree.id()).map(Lost::part).collect();
    let lost_there = loaded.lost_by(base.id()).map(Lost::part);
    let (copied, alone): (Vec<Part>, Vec<Part>) = lost_there.partition(|part| own.contains(part));
    let only_there = of_base.leaves.iter().filter(|leaf| !shared.contains(leaf));
    for (_, range) in only_there.chain(&alone) {
        clear(loaded, tree.id(), range)?;
    }
    if !alone.is_empty() {
        // What is missed here was not missed there, where more was lost.
        for (_, range) in &copied {
            clear(loaded, tree.id(), range)?;
        }
        // Leaves that are part of both may have been in these ranges.
        shared.clear();
        return Ok(HashSet::new());
    }
    if let Some(of_base) = loaded
        .salvaged
        .get(&base.id())
        .filter(|_| !copied.is_empty())
    {
        let salvaged = Salvaged {
            found: of_base.found.clone(),
            ..Salvaged::default()
        };
        loaded.salvaged.insert(tree.id(), salvaged);
    }
    Ok(copied.into_iter().collect())
}

/// Puts what leaves hold. Those that cannot be read.
fn put_leaves<'a>(
    loaded: &mut Loaded,
    tree: TreeId,
    leaves: impl Iterator<Item = &'a Part>,
) -> Result<Vec<Lost>, StoreError> {
    let mut failed = Vec::new();
    for (place, range) in leaves {
        let page = loaded.walker.read(*place).ok();
        let Some(page) = page.filter(|page| page.level() == 0) else {
            failed.push(Lost {
                range: range.clone(),
                level: Some(0),
                ..Lost::whole(tree, *place, place.generation)
            });
            continue;
        };
        for index in (0..page.len()).filter(|index| range.contains(page.key(*index))) {
            let (key, value) = (page.key(index), page.value(index));
            loaded.builder.put(tree, key, value)?;
        }
    }
    Ok(failed)
}

/// Removes what a tree has in a range.
fn clear(loaded: &mut Loaded, tree: TreeId, range: &Range) -> Result<(), StoreError> {
    let end = range.high.as_deref().unwrap_or(&crate::fsck::KEYS_END);
    let mut keys = Vec::new();
    let view = loaded.builder.view();
    view.scan(tree, &range.low, end, &mut |key, _| {
        keys.push(Key::from_slice(key));
        Ok(())
    })?;
    drop(view);
    for key in keys {
        loaded.builder.delete(tree, &key)?;
    }
    Ok(())
}
