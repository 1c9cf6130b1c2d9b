//! Sending: four walks over what differs in two trees.
//!
//! First what inodes are, with attributes and content; then names that are gone; then names that
//! there are, when all inodes are there; then inodes that are gone, when nothing names them. A full
//! stream has no base, so only the first and the third have anything to say.
//!
//! The order is that of the keys, so that who goes on with a stream can say where by a key's parts.
//! What is sent does not depend on where the walk began but in what is shared: the memory of what
//! was sent before begins empty.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::Write;
use std::ops::ControlFlow;

use super::format::{Data, Header, Record};
use super::framing::Writer;
use super::{Progress, StreamError};
use crate::engine::{EngineError, ReceivedInode, Sending, TreeDifference};
use crate::format::FormatError;
use crate::format::codec::Compression;
use crate::format::id::{ChunkId, Ino};
use crate::format::key::{self, Key, Kind, trailing_u32, trailing_u64};
use crate::format::record::{
    Codec, Dedup, DentryRecord, ExtentRecord, InodeRecord, ProjectLimit, StreamPosition,
};
use crate::store::StoreError;

/// Differences looked at together: a view of the trees is held as long.
const BATCH: usize = 256;
/// Bytes of the stream between two marks, roughly. Few in tests.
const MARK_BYTES: u64 = if cfg!(test) { 20_000 } else { 4 << 20 };
/// Ranges that are remembered because others may share their content.
const REMEMBERED_MAX: usize = if cfg!(test) { 16 } else { 1 << 16 };

/// What inodes are; names that are gone; names that there are; inodes that are gone.
const INODES: u8 = 1;
const UNLINKS: u8 = 2;
const LINKS: u8 = 3;
const GONE: u8 = 4;

/// Is told how far it got; breaks it off.
pub type Watch<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;

/// Writes a snapshot to `out`, from a place in the stream on.
///
/// # Errors
/// When the snapshot cannot be read or the stream not be written; when `watch` breaks it off.
pub fn send(
    from: &Sending,
    position: StreamPosition,
    out: impl Write,
    watch: &mut Watch<'_>,
) -> Result<Progress, StreamError> {
    let of = from.record();
    let header = Header {
        snapshot: of.uuid,
        base: from.base_uuid(),
        sender: from.store_uuid(),
        created: of.created,
        compression: Compression::of_record(of.codec, of.codec_level).unwrap_or(Compression::OFF),
        dedup: Dedup::of_record(of.flags),
        position,
        counts_projects: from.counts_projects()?,
        name: of.name.clone(),
    };
    let mut sender = Sender {
        from,
        out: Writer::begin(out, &header)?,
        watch,
        remembered: Remembered::default(),
        marked_bytes: 0,
        inode: None,
    };
    let mut position = position;
    for pass in [INODES, UNLINKS, LINKS, GONE] {
        if pass < position.pass || (!from.has_base() && matches!(pass, UNLINKS | GONE)) {
            continue;
        }
        if pass > position.pass {
            position = StreamPosition {
                pass,
                ..StreamPosition::START
            };
            sender.mark(position)?;
        }
        sender.walk(position)?;
    }
    let counts = from.counts()?;
    sender.out.put(&Record::End(counts))?;
    Ok(sender.out.progress())
}

/// Where content was sent that others may share.
#[derive(Debug, Clone, Copy)]
struct Sent {
    ino: Ino,
    offset: u64,
    /// The slice of the chunk.
    chunk_offset: u32,
    len: u64,
}

/// The latest of them, by their chunks.
#[derive(Default)]
struct Remembered {
    by_chunk: HashMap<ChunkId, Sent>,
    order: VecDeque<ChunkId>,
}

impl Remembered {
    fn note(&mut self, chunk: ChunkId, sent: Sent) {
        if self.by_chunk.insert(chunk, sent).is_some() {
            return;
        }
        self.order.push_back(chunk);
        if self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_chunk.remove(&oldest);
        }
    }

    /// Where an extent's content was sent: the file and the offset.
    fn find(&self, extent: &ExtentRecord) -> Option<(Ino, u64)> {
        let sent = self.by_chunk.get(&extent.chunk)?;
        let skipped = u64::from(extent.chunk_offset.checked_sub(sent.chunk_offset)?);
        let is_within = skipped.checked_add(extent.len)? <= sent.len;
        is_within.then(|| (sent.ino, sent.offset.saturating_add(skipped)))
    }
}

/// What becomes of an inode that the walk has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The other side has it; what differs is sent.
    Changed,
    /// The other side does not have it.
    New,
    /// It goes, or has no name: nothing of it is sent.
    Left,
}

/// The inode that the walk is at.
struct AtInode {
    ino: Ino,
    fate: Fate,
    /// Differing entries of it that were looked at.
    entries: u64,
    /// Attributes of it that were sent: each of a value's fragments may differ.
    xattrs: HashSet<Vec<u8>>,
}

struct Sender<'a, W> {
    from: &'a Sending,
    out: Writer<W>,
    watch: &'a mut Watch<'a>,
    remembered: Remembered,
    marked_bytes: u64,
    inode: Option<AtInode>,
}

fn corrupt(what: &str, error: FormatError) -> StreamError {
    EngineError::from(StoreError::format(what, error)).into()
}

/// Whether an inode is one that somebody can find.
fn has_name(record: Option<&InodeRecord>) -> bool {
    record.is_some_and(|record| record.nlink > 0)
}

/// The inode and the kind of a key.
fn parts(key: &[u8]) -> Option<(Ino, u8, &[u8])> {
    let (ino, rest) = key.split_first_chunk::<8>()?;
    let (kind, rest) = rest.split_first()?;
    Some((Ino(u64::from_be_bytes(*ino)), *kind, rest))
}

/// The first key to look at.
fn first_key(position: StreamPosition) -> Key {
    let StreamPosition { ino, kind, at, .. } = position;
    let of = |which: Kind| kind == which as u8;
    if of(Kind::Extent) {
        return key::extent(ino, at);
    }
    if of(Kind::Dentry) {
        return key::kind_range(ino, Kind::Dentry).0;
    }
    key::u64_key(ino.0)
}

impl<W: Write> Sender<'_, W> {
    /// Notes that who got this far can go on from here.
    fn mark(&mut self, position: StreamPosition) -> Result<(), StreamError> {
        self.out.put(&Record::Mark(position))?;
        self.marked_bytes = self.out.progress().bytes;
        self.watch_on()
    }

    /// Tells how far it is, and whether it is to be broken off.
    fn watch_on(&mut self) -> Result<(), StreamError> {
        match (self.watch)(self.out.progress()) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => {
                Err(StreamError::Write(std::io::ErrorKind::Interrupted.into()))
            }
        }
    }

    fn is_mark_due(&self) -> bool {
        self.out.progress().bytes - self.marked_bytes >= MARK_BYTES
    }

    fn walk(&mut self, start: StreamPosition) -> Result<(), StreamError> {
        self.inode = None;
        let mut skip = match start.kind == Kind::Dentry as u8 {
            true => start.at,
            false => 0,
        };
        let mut from = first_key(start);
        loop {
            // Where there is nothing to send, too.
            self.watch_on()?;
            let some = self.from.differences(&from, false, BATCH)?;
            let is_last = some.len() < BATCH;
            let Some(last) = some.last() else {
                return Ok(());
            };
            from = last.key.clone();
            from.push(0);
            for difference in some {
                self.step(start.pass, difference, &mut skip)?;
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// One difference.
    fn step(
        &mut self,
        pass: u8,
        difference: TreeDifference,
        skip: &mut u64,
    ) -> Result<(), StreamError> {
        let Some((ino, kind, _)) = parts(&difference.key) else {
            return Ok(());
        };
        // The list of orphans, and projects: what those have the other side counts.
        if ino.0 == 0 {
            return match kind == Kind::ProjectLimit as u8 && pass == INODES {
                true => self.send_limit(&difference),
                false => Ok(()),
            };
        }
        let is_next = self.inode.as_ref().is_none_or(|at| at.ino != ino);
        if is_next {
            if self.is_mark_due() && *skip == 0 && kind == Kind::Inode as u8 {
                let position = StreamPosition {
                    pass,
                    ino,
                    ..StreamPosition::START
                };
                self.mark(position)?;
            }
            self.come_to(pass, ino)?;
        }
        match pass {
            INODES => self.step_inode(difference),
            GONE => self.step_gone(&difference),
            _ if kind == Kind::Dentry as u8 => self.step_entry(pass, &difference, skip),
            _ => Ok(()),
        }
    }

    fn come_to(&mut self, pass: u8, ino: Ino) -> Result<(), StreamError> {
        let (old, new) = (self.from.base_inode(ino)?, self.from.inode(ino)?);
        let fate = match (has_name(old.as_ref()), has_name(new.as_ref())) {
            (true, true) => Fate::Changed,
            (false, true) => Fate::New,
            (_, false) => Fate::Left,
        };
        self.inode = Some(AtInode {
            ino,
            fate,
            entries: 0,
            xattrs: HashSet::new(),
        });
        // It got a name again: the other side never had it, and what is the same differs too.
        if pass == INODES && old.is_some() && fate == Fate::New {
            self.send_whole(ino)?;
            if let Some(at) = &mut self.inode {
                at.fate = Fate::Left;
            }
        }
        Ok(())
    }

    fn send_whole(&mut self, ino: Ino) -> Result<(), StreamError> {
        let mut from = key::u64_key(ino.0);
        loop {
            let some = self.from.differences(&from, true, BATCH)?;
            for difference in &some {
                if parts(&difference.key).is_none_or(|(of, ..)| of != ino) {
                    return Ok(());
                }
                self.send_part(ino, Fate::New, difference)?;
            }
            let Some(last) = some.last() else {
                return Ok(());
            };
            from = last.key.clone();
            from.push(0);
        }
    }

    fn step_inode(&mut self, difference: TreeDifference) -> Result<(), StreamError> {
        let Some(AtInode { ino, fate, .. }) = self.inode else {
            return Ok(());
        };
        if fate == Fate::Left {
            return Ok(());
        }
        if self.is_mark_due() && key::is_of_kind(&difference.key, Kind::Extent) {
            let at = trailing_u64(&difference.key).map_err(|error| corrupt("extent", error))?;
            self.mark(StreamPosition {
                pass: INODES,
                ino,
                kind: Kind::Extent as u8,
                at,
            })?;
        }
        self.send_part(ino, fate, &difference)
    }

    /// Sends what a key of an inode says, names aside.
    fn send_part(
        &mut self,
        ino: Ino,
        fate: Fate,
        difference: &TreeDifference,
    ) -> Result<(), StreamError> {
        let Some((_, kind, rest)) = parts(&difference.key) else {
            return Ok(());
        };
        let is = |which: Kind| kind == which as u8;
        if is(Kind::Inode) {
            self.send_inode(ino, difference.new.as_deref())
        } else if is(Kind::Xattr) {
            self.send_xattr(ino, rest)
        } else if is(Kind::XattrMore) {
            let len = rest.first().map_or(0, |len| usize::from(*len));
            let name = rest.get(1..).and_then(|rest| rest.get(..len));
            self.send_xattr(ino, name.unwrap_or_default())
        } else if is(Kind::Extent) {
            self.send_extent(ino, fate, difference)
        } else {
            Ok(())
        }
    }

    fn send_limit(&mut self, difference: &TreeDifference) -> Result<(), StreamError> {
        let wrong = |error| corrupt("project", error);
        let project = trailing_u32(&difference.key).map_err(wrong)?;
        let limit = difference.new.as_deref().map(ProjectLimit::decode);
        let limit = limit.transpose().map_err(wrong)?.unwrap_or_default();
        self.out.put(&Record::ProjectLimit(project, limit))
    }

    fn send_inode(&mut self, ino: Ino, new: Option<&[u8]>) -> Result<(), StreamError> {
        let Some(new) = new else { return Ok(()) };
        let record = InodeRecord::decode(new).map_err(|error| corrupt("inode", error))?;
        let target = match record.mode & libc::S_IFMT {
            libc::S_IFLNK => self.from.target(ino)?,
            _ => Vec::new(),
        };
        let inode = ReceivedInode {
            mode: record.mode,
            uid: record.uid,
            gid: record.gid,
            rdev: record.rdev,
            flags: record.flags,
            projid: record.projid,
            size: record.size,
            atime: record.atime,
            mtime: record.mtime,
            ctime: record.ctime,
            btime: record.btime,
            target,
        };
        self.out.put(&Record::Inode(ino, inode))
    }

    fn send_xattr(&mut self, ino: Ino, name: &[u8]) -> Result<(), StreamError> {
        if let Some(at) = &mut self.inode
            && !at.xattrs.insert(name.to_vec())
        {
            return Ok(());
        }
        let record = match self.from.xattr(ino, name)? {
            Some(value) => Record::Xattr(ino, name.to_vec(), value),
            None => Record::XattrGone(ino, name.to_vec()),
        };
        self.out.put(&record)
    }

    fn send_extent(
        &mut self,
        ino: Ino,
        fate: Fate,
        difference: &TreeDifference,
    ) -> Result<(), StreamError> {
        let start = trailing_u64(&difference.key).map_err(|error| corrupt("extent", error))?;
        let decode =
            |bytes: &[u8]| ExtentRecord::decode(bytes).map_err(|error| corrupt("extent", error));
        if let (Fate::Changed, Some(old)) = (fate, &difference.old) {
            self.send_holes(ino, start, decode(old)?.len)?;
        }
        let Some(new) = &difference.new else {
            return Ok(());
        };
        let extent = decode(new)?;
        let range = (start, extent.len);
        if extent.is_reserved() {
            return self.out.put(&Record::Reserve(ino, range));
        }
        let there = fate == Fate::Changed && self.is_there(ino, start, &extent)?;
        let chunk = self.from.chunk(extent.chunk)?;
        let sent = Sent {
            ino,
            offset: start,
            chunk_offset: extent.chunk_offset,
            len: extent.len,
        };
        if let (false, Some((source, source_offset))) = (there, self.remembered.find(&extent)) {
            return self.out.put(&Record::Share {
                ino,
                range,
                source,
                source_offset,
            });
        }
        // Nobody else refers to a chunk that has one reference.
        if chunk.refcount > 1 {
            self.remembered.note(extent.chunk, sent);
        }
        if there {
            return Ok(());
        }
        let is_whole = extent.chunk_offset == 0 && extent.len == u64::from(chunk.raw_len);
        let data = if is_whole {
            Data {
                ino,
                offset: start,
                codec: chunk.codec,
                raw_len: chunk.raw_len,
                hash: chunk.hash,
                stored: self.from.stored(extent.chunk, &chunk)?,
            }
        } else {
            let slice = (extent.chunk_offset, extent.len);
            let stored = self.from.slice(extent.chunk, &chunk, slice)?;
            Data {
                ino,
                offset: start,
                codec: Codec::Raw,
                raw_len: u32::try_from(stored.len()).unwrap_or(u32::MAX),
                hash: *blake3::hash(&stored).as_bytes(),
                stored,
            }
        };
        self.out.put(&Record::Data(data))
    }

    /// Says which parts of a range that had an extent have none now.
    fn send_holes(&mut self, ino: Ino, start: u64, len: u64) -> Result<(), StreamError> {
        let end = start.saturating_add(len);
        let mut at = start;
        while at < end {
            let found = self.from.extents(ino, (at, end), BATCH)?;
            let is_last = found.len() < BATCH;
            for (first, extent) in found {
                if first > at {
                    self.out.put(&Record::Hole(ino, (at, first - at)))?;
                }
                at = at.max(first.saturating_add(extent.len));
            }
            if is_last {
                break;
            }
        }
        if at < end {
            self.out.put(&Record::Hole(ino, (at, end - at)))?;
        }
        Ok(())
    }

    /// Whether the other side has an extent's content in its place: as the base has it.
    fn is_there(&self, ino: Ino, start: u64, extent: &ExtentRecord) -> Result<bool, StreamError> {
        let end = start.saturating_add(extent.len);
        let found = self.from.base_extents(ino, (start, end), 2)?;
        let [(first, base)] = found.as_slice() else {
            return Ok(false);
        };
        let is_covered = *first <= start && first.saturating_add(base.len) >= end;
        let offset = u64::from(base.chunk_offset).checked_add(start.saturating_sub(*first));
        Ok(is_covered
            && base.chunk == extent.chunk
            && offset == Some(u64::from(extent.chunk_offset)))
    }

    /// A name that is gone, or one that there is.
    fn step_entry(
        &mut self,
        pass: u8,
        difference: &TreeDifference,
        skip: &mut u64,
    ) -> Result<(), StreamError> {
        let due = self.is_mark_due();
        let Some(at) = &mut self.inode else {
            return Ok(());
        };
        let (dir, done, fate) = (at.ino, at.entries, at.fate);
        at.entries += 1;
        if *skip > 0 {
            *skip -= 1;
            return Ok(());
        }
        if due {
            self.mark(StreamPosition {
                pass,
                ino: dir,
                kind: Kind::Dentry as u8,
                at: done,
            })?;
        }
        let value = match pass {
            UNLINKS => &difference.old,
            _ => &difference.new,
        };
        let Some(value) = value else { return Ok(()) };
        // What the other side does not have has no names there.
        if pass == UNLINKS && fate == Fate::New {
            return Ok(());
        }
        let dentry = DentryRecord::decode(value).map_err(|error| corrupt("entry", error))?;
        let name = self.from.name(dentry.name)?;
        self.out.put(&match pass {
            UNLINKS => Record::Unlink(dir, name),
            _ => Record::Link(dir, name, dentry.ino),
        })
    }

    fn step_gone(&mut self, difference: &TreeDifference) -> Result<(), StreamError> {
        let Some(AtInode { ino, fate, .. }) = self.inode else {
            return Ok(());
        };
        if fate != Fate::Left || !key::is_of_kind(&difference.key, Kind::Inode) {
            return Ok(());
        }
        let old = self.from.base_inode(ino)?;
        match has_name(old.as_ref()) {
            true => self.out.put(&Record::Gone(ino)),
            false => Ok(()),
        }
    }
}
