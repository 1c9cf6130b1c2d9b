//! What is measured: for each workload, requests that are made ready before the clock runs, and
//! what cleans up behind them.

use std::collections::HashMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vm_tests::frontend::Result;
use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::{EntryOut, OpenOut, ROOT, SetattrIn};
use zerocopy::FromBytes;

use crate::driver::{DATA_MAX, DEPTH_MAX, Driver, Message};
use crate::raw::Access;

/// Entries of the directory that is listed.
const LISTED: u64 = 10_000;
const LISTING_BYTES: u32 = 4096;
/// Bytes of the file that is read and written, which everybody's memory holds.
const FILE_BYTES: u64 = 64 << 20;
/// Bytes of the file that razorfsd's does not hold, at its default of 128 MiB for content.
const LARGE_BYTES: u64 = 512 << 20;
const BLOCK: usize = 4096;
/// An extended attribute.
const ATTRIBUTE: &str = "user.bench";
/// `FATTR_MODE` (include/uapi/linux/fuse.h).
const FATTR_MODE: u32 = 1;

/// A kind of work.
pub struct Workload {
    /// For tables.
    pub name: &'static str,
    /// Requests of a round.
    pub count: u64,
    /// Requests in flight.
    pub depths: &'static [usize],
    /// What the disk itself does beside it.
    pub disk: Option<Access>,
    /// Makes ready.
    pub prepare: fn(&mut Scene, u64) -> Result<Work>,
}

/// What a reply makes necessary.
type Behind = fn(&[u8]) -> Vec<Message>;

/// What a round does.
#[derive(Default)]
pub struct Work {
    /// What is timed.
    pub timed: Vec<Message>,
    /// What is done afterwards with what each reply was.
    pub after: Option<Behind>,
}

impl Work {
    fn of(timed: Vec<Message>) -> Result<Work> {
        Ok(Work { timed, after: None })
    }
}

/// A session with a daemon, and what it has.
pub struct Scene {
    /// To it.
    pub driver: Driver,
    /// It answers from constants.
    pub is_floor: bool,
    /// Directories made.
    made: u64,
    rng: ChaCha8Rng,
    /// Those that are read and written, by size.
    files: HashMap<u64, (u64, u64)>,
    offsets: Option<(u64, u64, Vec<u64>)>,
    /// What lets go of what a round needed.
    rest: Vec<Message>,
}

const PLAIN: &[usize] = &[1, DEPTH_MAX];

/// All of them.
pub const ALL: &[Workload] = &[
    workload("lookup", 2000, PLAIN, lookup),
    workload("lookup, no such name", 2000, PLAIN, negative),
    workload("getattr", 2000, PLAIN, getattr),
    workload("create", 1000, PLAIN, create),
    workload("mkdir", 1000, PLAIN, mkdir),
    workload("unlink", 1000, PLAIN, unlink),
    workload("rename", 1000, PLAIN, rename),
    workload("symlink", 1000, PLAIN, symlink),
    workload("link", 1000, PLAIN, link),
    workload("setattr", 1000, PLAIN, setattr),
    workload("setxattr", 1000, PLAIN, setxattr),
    workload("getxattr", 2000, PLAIN, getxattr),
    workload("readdirplus, 10000 entries", LISTED, &[1], readdirplus),
    workload("read, 4 KiB random", 2000, PLAIN, read_random),
    workload("read, 4 KiB random of 512 MiB", 2000, PLAIN, read_large),
    workload("read, 1 MiB in order", 64, PLAIN, read_in_order),
    workload("write, 4 KiB random", 2000, PLAIN, write_random),
    workload("write, 1 MiB in order, fsync", 64, &[1], write_in_order).beside(Access::Pieces),
    workload("write 4 KiB, fsync", 100, &[1], write_fsync).beside(Access::Blocks),
    workload(
        "write 4 KiB, fsync, 16 files",
        800,
        &[DEPTH_MAX],
        write_fsync_files,
    )
    .beside(Access::Blocks),
    workload("create, write 4 KiB, fsync", 100, &[1], small_files).beside(Access::Blocks),
];

const fn workload(
    name: &'static str,
    count: u64,
    depths: &'static [usize],
    prepare: fn(&mut Scene, u64) -> Result<Work>,
) -> Workload {
    Workload {
        name,
        count,
        depths,
        disk: None,
        prepare,
    }
}

impl Workload {
    const fn beside(self, access: Access) -> Workload {
        Workload {
            disk: Some(access),
            ..self
        }
    }
}

impl Scene {
    /// A new one.
    pub fn new(driver: Driver, is_floor: bool) -> Scene {
        Scene {
            driver,
            is_floor,
            made: 0,
            rng: ChaCha8Rng::seed_from_u64(1),
            files: HashMap::new(),
            offsets: None,
            rest: Vec::new(),
        }
    }

    fn dir(&mut self) -> Result<u64> {
        self.made += 1;
        let made = request::mkdir(ROOT, format!("dir{}", self.made), 0o755);
        Ok(self.driver.call(&made)?.nodeid)
    }

    /// Makes files in a new directory: it, and them.
    fn files(&mut self, count: u64) -> Result<(u64, Vec<u64>)> {
        let dir = self.dir()?;
        let make: Vec<_> = (0..count)
            .map(|n| Message::new(&request::mknod(dir, name(n), libc::S_IFREG | 0o644, 0)))
            .collect();
        let mut nodes = vec![0; make.len()];
        // Replies come in order at a depth of one.
        let mut at = nodes.iter_mut();
        self.driver.each(&make, 1, |body| {
            if let (Ok((entry, _)), Some(node)) = (EntryOut::read_from_prefix(&body), at.next()) {
                *node = entry.nodeid;
            }
        })?;
        self.forget_later(&nodes);
        Ok((dir, nodes))
    }

    fn forget_later(&mut self, nodes: &[u64]) {
        let forgets = nodes
            .iter()
            .map(|node| Message::new(&request::forget(*node, 1)));
        self.rest.extend(forgets);
    }

    /// Makes a file and opens it.
    fn open(&mut self, dir: u64, name: String) -> Result<(u64, u64)> {
        let (entry, open) = self.driver.call(&request::create(dir, name, 0o644))?;
        let release = request::release(entry.nodeid, open.fh);
        self.rest.push(Message::new(&release));
        self.forget_later(&[entry.nodeid]);
        Ok((entry.nodeid, open.fh))
    }

    /// Lets go of what a round needed, and has everything written, so that the next one does not
    /// pay for it.
    ///
    /// # Errors
    /// When the daemon is gone.
    pub fn settle(&mut self) -> Result<()> {
        let rest = std::mem::take(&mut self.rest);
        self.driver.run(&rest, 1)?;
        let sync = Message::new(&request::syncfs()).or(libc::ENOSYS);
        self.driver.run(&[sync], 1)
    }

    /// The file of this size, open, and read once.
    fn file(&mut self, bytes: u64) -> Result<(u64, u64)> {
        if let Some(file) = self.files.get(&bytes) {
            return Ok(*file);
        }
        let dir = self.dir()?;
        let (node, fh) = self.open(dir, format!("of{bytes}"))?;
        // It stays.
        self.rest.clear();
        let writes = in_order(bytes, |at| write(node, fh, at, DATA_MAX));
        self.driver.run(&writes, 4)?;
        self.driver.call(&request::fsync(node, fh, 0))?;
        let read = |at| Message::new(&request::read(node, fh, at, 1 << 20));
        self.driver.run(&in_order(bytes, read), 4)?;
        self.files.insert(bytes, (node, fh));
        Ok((node, fh))
    }

    /// Places of blocks in a file of this size.
    fn blocks(&mut self, bytes: u64, count: u64) -> Vec<u64> {
        let blocks = bytes / BLOCK as u64;
        (0..count)
            .map(|_| self.rng.random_range(0..blocks) * BLOCK as u64)
            .collect()
    }
}

fn name(n: u64) -> String {
    format!("a-name-of-usual-length-{n}")
}

fn in_order(bytes: u64, message: impl Fn(u64) -> Message) -> Vec<Message> {
    (0..bytes).step_by(DATA_MAX).map(message).collect()
}

fn write(node: u64, fh: u64, offset: u64, len: usize) -> Message {
    Message::write(&request::write(node, fh, offset, &vec![0; len]), len)
}

fn names(dir: u64, count: u64, message: impl Fn(u64, String) -> Message) -> Vec<Message> {
    (0..count).map(|n| message(dir, name(n))).collect()
}

fn lookup(scene: &mut Scene, count: u64) -> Result<Work> {
    let (dir, nodes) = scene.files(count)?;
    scene.forget_later(&nodes);
    Work::of(names(dir, count, |dir, name| {
        Message::new(&request::lookup(dir, name))
    }))
}

fn negative(scene: &mut Scene, count: u64) -> Result<Work> {
    let (dir, _) = scene.files(100)?;
    let missing = |n: u64| Message::new(&request::lookup(dir, format!("no-{}", name(n))));
    Work::of((0..count).map(|n| missing(n).or(libc::ENOENT)).collect())
}

/// One request about each of as many new files.
fn of_each(scene: &mut Scene, count: u64, message: impl Fn(u64) -> Message) -> Result<Work> {
    let (_, nodes) = scene.files(count)?;
    Work::of(nodes.into_iter().map(message).collect())
}

/// One request for each of as many names in a new directory, and what goes behind each reply.
fn making(
    scene: &mut Scene,
    count: u64,
    behind: Behind,
    message: impl Fn(u64, String) -> Message,
) -> Result<Work> {
    let dir = scene.dir()?;
    Ok(Work {
        timed: names(dir, count, message),
        after: Some(behind),
    })
}

fn getattr(scene: &mut Scene, count: u64) -> Result<Work> {
    of_each(scene, count, |node| Message::new(&request::getattr(node)))
}

fn create(scene: &mut Scene, count: u64) -> Result<Work> {
    making(scene, count, release, |dir, name| {
        Message::new(&request::create(dir, name, 0o644))
    })
}

/// What closes and forgets a file that CREATE opened.
fn release(body: &[u8]) -> Vec<Message> {
    let Ok((entry, rest)) = EntryOut::read_from_prefix(body) else {
        return Vec::new();
    };
    let Ok((open, _)) = OpenOut::read_from_prefix(rest) else {
        return Vec::new();
    };
    vec![
        Message::new(&request::release(entry.nodeid, open.fh)),
        Message::new(&request::forget(entry.nodeid, 1)),
    ]
}

/// What forgets an inode that was made.
fn forget(body: &[u8]) -> Vec<Message> {
    match EntryOut::read_from_prefix(body) {
        Ok((entry, _)) => vec![Message::new(&request::forget(entry.nodeid, 1))],
        Err(_) => Vec::new(),
    }
}

fn mkdir(scene: &mut Scene, count: u64) -> Result<Work> {
    making(scene, count, forget, |dir, name| {
        Message::new(&request::mkdir(dir, name, 0o755))
    })
}

fn unlink(scene: &mut Scene, count: u64) -> Result<Work> {
    // Linux looks a name up before it removes it, and forgets the inode afterwards.
    let (dir, _) = scene.files(count)?;
    Work::of(names(dir, count, |dir, name| {
        Message::new(&request::unlink(dir, name))
    }))
}

fn rename(scene: &mut Scene, count: u64) -> Result<Work> {
    let (dir, _) = scene.files(count)?;
    Work::of(names(dir, count, |dir, name| {
        let new = format!("new-{name}");
        Message::new(&request::rename2((dir, name), (dir, new), 0))
    }))
}

fn symlink(scene: &mut Scene, count: u64) -> Result<Work> {
    making(scene, count, forget, |dir, name| {
        Message::new(&request::symlink(dir, name, "../some/where/else"))
    })
}

fn link(scene: &mut Scene, count: u64) -> Result<Work> {
    let (dir, nodes) = scene.files(1)?;
    let node = nodes.first().copied().unwrap_or(0);
    Work::of(
        (0..count)
            .map(|n| Message::new(&request::link(node, dir, format!("link-{}", name(n)))))
            .collect(),
    )
}

fn setattr(scene: &mut Scene, count: u64) -> Result<Work> {
    let mode = SetattrIn {
        valid: FATTR_MODE,
        mode: libc::S_IFREG | 0o600,
        ..SetattrIn::default()
    };
    of_each(scene, count, |node| {
        Message::new(&request::setattr(node, &mode))
    })
}

fn set_attribute(node: u64) -> Message {
    Message::new(&request::setxattr(node, ATTRIBUTE, b"a value", 0))
}

fn setxattr(scene: &mut Scene, count: u64) -> Result<Work> {
    of_each(scene, count, set_attribute)
}

fn getxattr(scene: &mut Scene, count: u64) -> Result<Work> {
    let (_, nodes) = scene.files(count)?;
    let set: Vec<_> = nodes.iter().map(|node| set_attribute(*node)).collect();
    scene.driver.run(&set, 1)?;
    let get = |node: &u64| Message::new(&request::getxattr(*node, ATTRIBUTE, 256));
    Work::of(nodes.iter().map(get).collect())
}

fn readdirplus(scene: &mut Scene, count: u64) -> Result<Work> {
    if scene.offsets.is_none() {
        let (dir, _) = scene.files(count)?;
        let fh = scene.driver.call(&request::opendir(dir))?.fh;
        let mut offsets = vec![0];
        while let Some(last) = offsets.last().copied() {
            if scene.is_floor {
                // As many as it takes with entries of this length.
                offsets = (0..count.div_ceil(20)).collect();
                break;
            }
            let listing = request::readdirplus(dir, fh, last, LISTING_BYTES);
            match scene.driver.call(&listing)?.last() {
                Some(entry) => offsets.push(entry.dirent.off),
                None => break,
            }
        }
        scene.offsets = Some((dir, fh, offsets));
    }
    let (dir, fh, offsets) = scene
        .offsets
        .as_ref()
        .map_or((0, 0, &[][..]), |(d, f, o)| (*d, *f, o));
    let list = |at: &u64| Message::new(&request::readdirplus(dir, fh, *at, LISTING_BYTES));
    Work::of(offsets.iter().map(list).collect())
}

fn read_any(scene: &mut Scene, bytes: u64, count: u64) -> Result<Work> {
    let (node, fh) = scene.file(bytes)?;
    let read = |at: &u64| Message::new(&request::read(node, fh, *at, 4096));
    Work::of(scene.blocks(bytes, count).iter().map(read).collect())
}

fn read_random(scene: &mut Scene, count: u64) -> Result<Work> {
    read_any(scene, FILE_BYTES, count)
}

fn read_large(scene: &mut Scene, count: u64) -> Result<Work> {
    read_any(scene, LARGE_BYTES, count)
}

fn read_in_order(scene: &mut Scene, _count: u64) -> Result<Work> {
    let (node, fh) = scene.file(FILE_BYTES)?;
    Work::of(in_order(FILE_BYTES, |at| {
        Message::new(&request::read(node, fh, at, 1 << 20))
    }))
}

fn write_random(scene: &mut Scene, count: u64) -> Result<Work> {
    let (node, fh) = scene.file(FILE_BYTES)?;
    Work::of(
        scene
            .blocks(FILE_BYTES, count)
            .iter()
            .map(|at| write(node, fh, *at, BLOCK))
            .collect(),
    )
}

fn write_in_order(scene: &mut Scene, _count: u64) -> Result<Work> {
    let dir = scene.dir()?;
    let (node, fh) = scene.open(dir, "new".into())?;
    let mut timed = in_order(FILE_BYTES, |at| write(node, fh, at, DATA_MAX));
    timed.push(Message::new(&request::fsync(node, fh, 0)));
    Work::of(timed)
}

fn write_fsync(scene: &mut Scene, count: u64) -> Result<Work> {
    let (node, fh) = scene.file(FILE_BYTES)?;
    let blocks = scene.blocks(FILE_BYTES, count);
    let pair = |at: &u64| {
        [
            write(node, fh, *at, BLOCK),
            Message::new(&request::fsync(node, fh, 1)),
        ]
    };
    Work::of(blocks.iter().flat_map(pair).collect())
}

/// At this depth each request is of another file than those in flight with it.
fn write_fsync_files(scene: &mut Scene, count: u64) -> Result<Work> {
    let dir = scene.dir()?;
    let files = (0..DEPTH_MAX)
        .map(|n| scene.open(dir, format!("file{n}")))
        .collect::<Result<Vec<_>>>()?;
    let rounds = count / DEPTH_MAX as u64;
    let timed = (0..rounds).flat_map(|round| {
        let at = round * BLOCK as u64;
        let writes = files
            .iter()
            .map(move |(node, fh)| write(*node, *fh, at, BLOCK));
        let syncs = files
            .iter()
            .map(|(node, fh)| Message::new(&request::fsync(*node, *fh, 1)));
        writes.chain(syncs).collect::<Vec<_>>()
    });
    Work::of(timed.collect())
}

fn small_files(scene: &mut Scene, count: u64) -> Result<Work> {
    // Made before: a reply's handle cannot be in a request that is ready. What is timed is a file's
    // making, and the write and fsync of the one made a round before.
    let dir = scene.dir()?;
    let open = (0..count)
        .map(|n| scene.open(dir, format!("before{n}")))
        .collect::<Result<Vec<_>>>()?;
    let timed = (0..).zip(open).flat_map(|(n, (node, fh))| {
        [
            Message::new(&request::mknod(dir, name(n), libc::S_IFREG | 0o644, 0)),
            write(node, fh, 0, BLOCK),
            Message::new(&request::fsync(node, fh, 0)),
        ]
    });
    Work::of(timed.collect())
}
