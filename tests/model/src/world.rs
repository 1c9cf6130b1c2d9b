//! A store and its model, side by side.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use razorfs::disk::Media;
use razorfs::disk::sim::{SimMedia, Survival};
use razorfs::engine::{
    Clock, Durability, EngineError, MkfsOptions, OpenOptions, StatFs, Store, Time, Volume, mkfs,
};
use razorfs::format::codec::Compression;
use razorfs::format::id::Ino;
use razorfs::format::record::Dedup;
use razorfs::fs::{FsError, errno};
use razorfs::fsck;

use crate::datasets;
use crate::failing::Files;
use crate::found::{Found, compare_inode, compare_tree, list};
use crate::limits::{Limits, Wanted};
use crate::model::{Content, Made, Model, Node, linked};

/// What went wrong.
pub type Outcome<T = ()> = Result<T, String>;

#[macro_export]
macro_rules! ensure {
    ($holds:expr, $($what:tt)+) => {
        if !$holds {
            return Err(format!($($what)+));
        }
    };
}

/// How a sequence's volume is made and opened.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub capacity_bytes: u64,
    pub dirty_limit_bytes: u64,
    pub strict: bool,
    pub compression: Compression,
    pub dedup: Dedup,
    pub limits: Limits,
}

/// Where a store lies.
pub enum Disks {
    Simulated(SimMedia),
    Files(Files),
}

pub struct World {
    pub disks: Disks,
    pub volume: Arc<Volume>,
    pub setup: Setup,
    /// By the operation under way.
    pub wanted: Wanted,
    seconds: Arc<AtomicI64>,
    /// What an empty store says of its space.
    empty: StatFs,
    pub model: Model,
    /// The states since the last opening, the first and the present one among them.
    history: Vec<Model>,
    /// What is durable now.
    durable: Durable,
    /// How it was before each step since the last opening.
    marks: Vec<Mark>,
}

/// What a power cut must leave.
#[derive(Debug, Clone, Default)]
struct Durable {
    /// The oldest step that it may bring back.
    floor: u32,
    /// The content of which step is durable, by file.
    synced: BTreeMap<Ino, u32>,
}

/// The moment before a step.
#[derive(Debug, Clone)]
struct Mark {
    /// Events of the disks by then.
    events: usize,
    /// The step that came.
    step: u32,
    durable: Durable,
}

/// What a power cut left, and the step it is the state of.
pub struct Survived {
    store: Arc<Store>,
    /// By name.
    found: BTreeMap<String, Found>,
    /// Where it stands in the history.
    at: usize,
}

/// The end of what went wrong with EIO.
pub const UNREADABLE: &str = " (EIO)";

/// The name of an error.
pub fn name_of(error: &EngineError) -> String {
    let text = format!("{error:?}");
    let end = text.find(|c: char| !c.is_alphanumeric());
    let name = text[..end.unwrap_or(text.len())].to_owned();
    if text.starts_with("Store(NoSpace") {
        return "NoSpace".into();
    }
    if name == "Store" { text } else { name }
}

/// What the system said when the files of a test could not be made.
pub fn refused(error: std::io::Error) -> String {
    format!("files of the test: {error}")
}

/// Says what failed with an error, and whether that is one of the disk.
pub fn failed(what: &str) -> impl Fn(EngineError) -> String {
    let what = what.to_owned();
    move |error| {
        let why = format!("{what}: {error}");
        match errno::of(&FsError::Engine(error)) {
            libc::EIO => why + UNREADABLE,
            _ => why,
        }
    }
}

impl Disks {
    pub fn media(&self) -> Media {
        match self {
            Disks::Simulated(sim) => sim.media(),
            Disks::Files(files) => files.media(),
        }
    }

    /// Events by now, of which only the simulated disks take note.
    pub fn events(&self) -> usize {
        match self {
            Disks::Simulated(sim) => sim.events(),
            Disks::Files(_) => 0,
        }
    }

    /// A copy, as they are found after the process was killed.
    pub fn killed(&self) -> Outcome<Disks> {
        Ok(match self {
            Disks::Simulated(sim) => Disks::Simulated(sim.killed()),
            Disks::Files(files) => Disks::Files(files.killed().map_err(refused)?),
        })
    }
}

impl Setup {
    fn open(&self, media: Media, seconds: &Arc<AtomicI64>) -> Outcome<Arc<Volume>> {
        let options = OpenOptions {
            background: false,
            dirty_limit_bytes: self.dirty_limit_bytes,
            // Without, all that is written is read back from the disk.
            cache_bytes: if self.strict { 0 } else { 1 << 20 },
            durability: if self.strict {
                Durability::Strict
            } else {
                Durability::Fsync
            },
            ..OpenOptions::default()
        };
        let volume = Volume::open_media(media, options, clock(seconds));
        let volume = volume.map_err(failed("opening"))?;
        ensure!(volume.is_writable(), "opened read-only");
        Ok(volume)
    }
}

fn clock(seconds: &Arc<AtomicI64>) -> Clock {
    let seconds = Arc::clone(seconds);
    Arc::new(move || Time {
        sec: seconds.load(Ordering::Relaxed),
        nsec: 7,
    })
}

impl World {
    /// On simulated disks.
    pub fn new(setup: Setup) -> Outcome<World> {
        World::on(Disks::Simulated(SimMedia::new()), setup)
    }

    /// On empty disks.
    pub fn on(made: Disks, setup: Setup) -> Outcome<World> {
        let seconds = Arc::new(AtomicI64::new(1000));
        let options = MkfsOptions {
            capacity_bytes: setup.capacity_bytes,
            compression: setup.compression,
            dedup: setup.dedup,
            ..MkfsOptions::reproducible()
        };
        mkfs(made.media(), &options, &clock(&seconds)).map_err(failed("mkfs"))?;
        let fresh = setup.open(made.media(), &seconds)?;
        setup.limit(fresh.store())?;
        fresh.store().close().map_err(failed("closing"))?;
        let disks = made.killed()?;
        let volume = setup.open(disks.media(), &seconds)?;
        let root = volume.getattr(Ino::ROOT).map_err(failed("the root"))?;
        let empty = volume.statfs().map_err(failed("statfs"))?;
        let model = Model {
            dataset: Made(0, "main".into()),
            nodes: BTreeMap::from([(Ino::ROOT, Arc::new(Node::new(&root)))]),
            others: BTreeMap::new(),
            made: 0,
            step: 0,
            now: root.mtime,
        };
        Ok(World {
            disks,
            volume,
            setup,
            wanted: Wanted::default(),
            seconds,
            empty,
            history: vec![model.clone()],
            model,
            durable: Durable::default(),
            marks: Vec::new(),
        })
    }

    /// Begins a step: time goes on.
    pub fn begin(&mut self) {
        self.model.step += 1;
        self.marks.push(Mark {
            events: self.disks.events(),
            step: self.model.step,
            durable: self.durable.clone(),
        });
        let sec = self.seconds.fetch_add(1, Ordering::Relaxed) + 1;
        self.model.now = Time { sec, nsec: 7 };
    }

    /// Ends a step that changed the model, or not.
    pub fn end(&mut self) {
        if self.setup.strict {
            self.durable.floor = self.model.step;
        }
        self.history.push(self.model.clone());
    }

    /// Ends a step that failed: what it had done by then may be there or not.
    pub fn failed(&mut self) {
        self.history.push(self.model.clone());
    }

    /// Opens a store as this world's is opened.
    ///
    /// # Errors
    /// When it cannot be opened for writing.
    pub fn open(&self, media: Media) -> Outcome<Arc<Volume>> {
        self.setup.open(media, &self.seconds)
    }

    /// Everything is durable that was done to one inode.
    pub fn synced(&mut self, ino: Ino) {
        let step = self.model.step;
        self.durable.floor = self.durable.floor.max(self.model.node(ino).touched);
        self.durable.synced.insert(ino, step);
        let touched = self.model.node(ino).touched;
        let node = self.model.edit(ino);
        node.data_since = step;
        node.touched = touched;
    }

    /// Every entry of a directory is durable.
    pub fn synced_dir(&mut self, dir: Ino) {
        self.durable.floor = self.durable.floor.max(self.model.node(dir).touched);
    }

    /// Everything is durable but unwritten content.
    pub fn checkpointed(&mut self) {
        self.durable.floor = self.model.step;
    }

    pub fn synced_all(&mut self) {
        self.durable.floor = self.model.step;
        for ino in self.model.inos() {
            self.synced(ino);
        }
    }

    /// Closes and opens again.
    pub fn reopen(&mut self) -> Outcome {
        self.volume.store().close().map_err(failed("closing"))?;
        self.disks = self.disks.killed()?;
        let main = self.open(self.disks.media())?;
        self.volume = Arc::new(volume_of(main.store(), &self.model.dataset.1)?);
        self.restart();
        self.compare()
    }

    /// The same world once more, on a copy of its disks.
    pub fn again(&self) -> Outcome<World> {
        let disks = self.disks.killed()?;
        let seconds = Arc::new(AtomicI64::new(self.seconds.load(Ordering::Relaxed)));
        Ok(World {
            volume: self.setup.open(disks.media(), &seconds)?,
            disks,
            setup: self.setup,
            wanted: self.wanted,
            seconds,
            empty: self.empty,
            model: self.model.clone(),
            history: self.history.clone(),
            durable: self.durable.clone(),
            marks: self.marks.clone(),
        })
    }

    /// What is there now is durable, and the past forgotten.
    fn restart(&mut self) {
        self.model.nodes = linked(&self.model.nodes);
        for nodes in self.model.others.values_mut() {
            *nodes = linked(nodes);
        }
        for node in self.model.nodes.values_mut() {
            let node = Arc::make_mut(node);
            node.content = Content::found(std::mem::take(&mut node.content.bytes));
            node.data_since = 0;
            node.touched = 0;
        }
        self.model.step = 0;
        self.history = vec![self.model.clone()];
        self.durable = Durable::default();
        self.marks.clear();
    }

    /// Events of the disks when opening was done, which is the same for all that begin alike.
    pub fn opened(&self) -> usize {
        let first = self.marks.first();
        first.map_or(self.disks.events(), |mark| mark.events)
    }

    /// The simulated disks: only they can lose power.
    pub fn sim(&self) -> &SimMedia {
        match &self.disks {
            Disks::Simulated(sim) => sim,
            Disks::Files(_) => panic!("files lose no power"),
        }
    }

    /// Cuts the power, opens again, and goes on with a state that the contract allows.
    pub fn crash(&mut self, back: bool, seed: u64, again: bool) -> Outcome {
        let end = self.disks.events();
        let before = self.marks.last().map_or(end, |mark| mark.events);
        let mut cut = end;
        if back && before < end {
            cut = before + usize::try_from(seed % 1009).unwrap_or(0) % (end - before);
        }
        let mut crashed = self.sim().recording().crash_at(cut, Survival::Random(seed));
        if again {
            self.check_store(&crashed.media(), "after a power cut")?;
            crashed = self.crash_recovery(&crashed, seed)?;
        }
        let survived = self.judge(&crashed.media(), cut)?;
        self.disks = Disks::Simulated(crashed);
        let Survived { store, found, at } = survived;
        self.model = self.history[at].clone();
        self.model.nodes = linked(&self.model.nodes);
        let name = &self.model.dataset.1;
        self.volume = Arc::new(volume_of(&store, name)?);
        let found = &found[name];
        for (ino, (_, bytes)) in found.inodes.clone() {
            let node = Arc::make_mut(self.model.nodes.get_mut(&ino).ok_or("lost")?);
            node.content.bytes = bytes;
        }
        self.restart();
        self.compare()
    }

    /// Opens what a power cut left, and cuts the power once more in the midst of recovery.
    pub fn crash_recovery(&self, crashed: &SimMedia, seed: u64) -> Outcome<SimMedia> {
        let crashed = crashed.killed();
        drop(self.open(crashed.media())?);
        let events = crashed.events();
        let cut = usize::try_from(seed % 997).unwrap_or(0) % (events + 1);
        Ok(crashed
            .recording()
            .crash_at(cut, Survival::Random(seed ^ 1)))
    }

    /// Whether what is left after a power cut behind `events` events of the disks is what the
    /// contract allows: sound, and the state of a step that is neither older than what was synced
    /// nor to come.
    pub fn judge(&self, crashed: &Media, events: usize) -> Outcome<Survived> {
        self.check_store(crashed, "after a power cut")?;
        let under_way = (self.marks.iter().rev())
            .find(|mark| mark.events <= events)
            .filter(|_| events < self.disks.events());
        let (durable, newest) = match (under_way, self.marks.first()) {
            (Some(mark), _) => (&mark.durable, mark.step),
            (None, Some(first)) if events < first.events => (&first.durable, first.step - 1),
            (None, _) => (&self.durable, self.model.step),
        };
        let store = Arc::clone(self.open(crashed.clone())?.store());
        self.setup.check_limits(&store)?;
        let names = datasets::names(&store)?.into_iter();
        let found = names.map(|name| Ok((name.clone(), Found::new(&store, &name)?)));
        let found: BTreeMap<_, _> = found.collect::<Outcome<_>>()?;
        let mut why = String::new();
        for (at, state) in self.history.iter().enumerate().rev() {
            if state.step > newest {
                continue;
            }
            if state.step < durable.floor {
                break;
            }
            match self.is_state(at, &found, &durable.synced) {
                Ok(()) => return Ok(Survived { store, found, at }),
                Err(reason) => why += &format!("\n  not step {}: {reason}", state.step),
            }
        }
        let floor = durable.floor;
        Err(format!(
            "after a power cut: no state from step {floor} to {newest}{why}"
        ))
    }

    /// Whether what was found is a state that a power cut may leave.
    fn is_state(
        &self,
        at: usize,
        all: &BTreeMap<String, Found>,
        synced: &BTreeMap<Ino, u32>,
    ) -> Outcome {
        let state = &self.history[at];
        let names = state.names();
        ensure!(all.keys().eq(&names), "{:?}, not {names:?}", all.keys());
        for (Made(_, name), nodes) in &state.others {
            let compared = all[name].compare(nodes);
            compared.map_err(|why| format!("{name}: {why}"))?;
        }
        let Found {
            volume,
            inodes: found,
        } = &all[&state.dataset.1];
        let linked = state.nodes.iter().filter(|(_, node)| node.nlink > 0);
        let mut count = 0;
        for (ino, node) in linked {
            count += 1;
            let Some((attr, bytes)) = found.get(ino) else {
                return Err(format!("inode {ino} is missing"));
            };
            ensure!(node.matches(attr), "inode {ino} is {attr:?}, not {node:?}");
            compare_tree(volume, *ino, node)?;
            if *bytes == node.content.bytes {
                continue;
            }
            let floor = node
                .data_since
                .max(synced.get(ino).copied().unwrap_or(0).min(state.step));
            let older = self.contents(*ino, at);
            let same = |index: &usize| node.content.bytes[*index] == bytes[*index];
            for index in (0..bytes.len()).filter(|index| !same(index)) {
                let byte = bytes[index];
                let since = floor.max(node.content.since[index]);
                let mut states = older.iter().take_while(|(step, _)| *step >= since);
                let allowed =
                    states.any(|(_, bytes)| bytes.get(index).copied().unwrap_or(0) == byte);
                ensure!(
                    allowed,
                    "inode {ino} has {byte} at {index}, as at no step since {since}"
                );
            }
        }
        ensure!(
            count == found.len(),
            "{} inodes too many",
            found.len() - count
        );
        Ok(())
    }

    /// What a file's content was before one of the past states, newest first, each with the last
    /// step that left it so.
    fn contents(&self, ino: Ino, before: usize) -> Vec<(u32, &[u8])> {
        let older = self.history[..before].iter().rev();
        let mut contents: Vec<_> = older
            .filter_map(|state| Some((state.step, state.nodes.get(&ino)?)))
            .collect();
        contents.dedup_by(|older, newer| Arc::ptr_eq(older.1, newer.1));
        contents
            .into_iter()
            .map(|(step, node)| (step, node.content.bytes.as_slice()))
            .collect()
    }

    /// Whether the volume is what the model says, in all it can be asked for.
    pub fn compare(&self) -> Outcome {
        for (ino, node) in &self.model.nodes {
            self.compare_inode(*ino, node)?;
        }
        let statfs = self.volume.statfs().map_err(failed("statfs"))?;
        let inodes = statfs.files - statfs.files_free;
        ensure!(
            inodes == self.model.nodes.len() as u64,
            "{inodes} inodes are counted"
        );
        self.setup.check_limits(self.volume.store())?;
        let (names, expected) = (datasets::names(self.volume.store())?, self.model.names());
        ensure!(names == expected, "{names:?}, not {expected:?}");
        for (Made(_, name), nodes) in &self.model.others {
            let compared = Found::new(self.volume.store(), name)?.compare(nodes);
            compared.map_err(|why| format!("{name}: {why}"))?;
        }
        Ok(())
    }

    /// Whether an inode is what the model says.
    pub fn compare_inode(&self, ino: Ino, node: &Node) -> Outcome {
        compare_inode(&self.volume, ino, node)
    }

    /// Deletes all that a power cut left: nothing is used then.
    pub fn empty_survived(&self, survived: Survived) -> Outcome {
        let Survived { store, found, .. } = survived;
        drop(found);
        for name in datasets::names(&store)? {
            // A snapshot may have gone with its dataset.
            if name != "main" && datasets::names(&store)?.contains(&name) {
                let deleted = store.delete(&name, true);
                deleted.map_err(|error| format!("deleting {name}: {error}"))?;
            }
        }
        let main = volume_of(&store, "main")?;
        remove_below(&main, Ino::ROOT)?;
        store.reap(&|| false).map_err(failed("reaping"))?;
        for _ in 0..2 {
            store.checkpoint().map_err(failed("a checkpoint"))?;
        }
        let (left, empty) = (main.statfs().map_err(failed("statfs"))?, self.empty);
        ensure!(
            left == empty,
            "with everything deleted: {left:?}, not {empty:?}"
        );
        store.close().map_err(failed("closing"))
    }

    /// The checker finds nothing.
    pub fn check_store(&self, media: &Media, when: &str) -> Outcome {
        let found = fsck::errors(media).map_err(|error| format!("{when}: {error}"))?;
        ensure!(found.is_empty(), "{when}: {found:?}");
        Ok(())
    }
}

/// A dataset or snapshot of a store.
fn volume_of(store: &Arc<Store>, name: &str) -> Outcome<Volume> {
    store
        .volume(name)
        .map_err(|error| format!("{name}: {error}"))
}

/// Removes everything in a directory.
fn remove_below(volume: &Volume, dir: Ino) -> Outcome {
    for (name, ino) in list(volume, dir)? {
        let attr = volume.getattr(ino).map_err(failed("getattr"))?;
        let removed = if attr.mode & libc::S_IFMT == libc::S_IFDIR {
            remove_below(volume, ino)?;
            volume.rmdir(dir, &name)
        } else {
            volume.unlink(dir, &name)
        };
        removed.map_err(failed("removing"))?;
        volume.reclaim(ino).map_err(failed("reclaiming"))?;
    }
    Ok(())
}
