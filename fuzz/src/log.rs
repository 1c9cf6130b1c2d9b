//! Logs made of arbitrary batches, whose checksums are right: what is in them is believed.

use arbitrary::{Arbitrary, Result, Unstructured};
use razorfs::format::id::{ChunkId, DatasetId, Generation, Ino, Lsn, NameId, PageNo, TxId};
use razorfs::format::key::{self, Key, TreeId};
use razorfs::format::record::{
    ChunkRecord, Codec, DatasetCounters, DatasetRecord, DentryRecord, ExtentRecord, InodeRecord,
    PagePtr, PendingFree, Time, UNITS_USED_KEY, counters_key, dataset_key, dataset_name_key,
};
use razorfs::format::wal::{BATCH_HEADER_BYTES, BatchHeader, EntryHeader, encode_entry};
use razorfs::log::{Change, Changes};
use vm_tests::frontend::hostile::fields::{Content, Mode, Number};

use super::store::HASH_SEED;

/// A change of anything to anything.
#[derive(Debug, Arbitrary)]
enum AnyChange {
    Put(AnyTree, AnyKey, AnyValue),
    Fitting(Fitting),
    Fitting2(Fitting),
    Delete(AnyTree, AnyKey),
    Intern(u8, Vec<u8>),
    Data(u8, u8, Number, Content),
    Clear(u8, u8, Number, Number),
}

#[derive(Debug, Arbitrary)]
struct AnyTree(u8);

impl AnyTree {
    fn tree(&self) -> TreeId {
        match self.0 {
            0..80 => TreeId::Fs(DatasetId::MAIN),
            80..96 => TreeId::Fs(DatasetId(u64::from(self.0 % 4))),
            _ => TreeId::SYSTEM[usize::from(self.0) % TreeId::SYSTEM.len()],
        }
    }
}

/// Small numbers: of inodes, chunks, units.
type Small = u8;

#[derive(Debug, Arbitrary)]
enum AnyKey {
    Inode(Small),
    Symlink(Small, u8),
    Xattr(Small, u8),
    XattrMore(Small, u8, u8),
    Dentry(Small, Number),
    Named(Small, u8),
    Extent(Small, Number),
    Orphan(Small),
    Number(Number),
    TwoNumbers(Number, Number),
    Dataset(Small),
    Counters(Small),
    DatasetName(u8),
    UnitsUsed,
    Raw(Vec<u8>),
}

fn ino(number: Small) -> Ino {
    // The store has thirteen inodes.
    Ino(match number {
        0..240 => u64::from(number % 16),
        _ => u64::MAX - u64::from(number % 4),
    })
}

fn name(which: u8) -> Vec<u8> {
    format!("name{}", which % 16).into_bytes()
}

impl AnyKey {
    fn key(&self) -> Key {
        match self {
            AnyKey::Inode(i) => key::inode(ino(*i)),
            AnyKey::Symlink(i, index) => key::symlink(ino(*i), u16::from(*index)),
            AnyKey::Xattr(i, n) => {
                key::xattr(ino(*i), [&b"user.a"[..], b"user.b"][usize::from(n % 2)])
            }
            AnyKey::XattrMore(i, n, index) => key::xattr_more(
                ino(*i),
                [&b"user.a"[..], b"user.b"][usize::from(n % 2)],
                u16::from(*index),
            ),
            AnyKey::Dentry(dir, cookie) => key::dentry(ino(*dir), cookie.0),
            AnyKey::Named(dir, which) => {
                let cookies = key::name_cookies(&HASH_SEED, &name(*which));
                key::dentry(ino(*dir), cookies.start)
            }
            AnyKey::Extent(i, offset) => key::extent(ino(*i), offset.0),
            AnyKey::Orphan(i) => key::orphan(ino(*i)),
            AnyKey::Number(number) => key::u64_key(number.0),
            AnyKey::TwoNumbers(one, two) => key::free_by_size(one.0, two.0),
            AnyKey::Dataset(id) => dataset_key(DatasetId(u64::from(id % 4))),
            AnyKey::Counters(id) => counters_key(DatasetId(u64::from(id % 4))),
            AnyKey::DatasetName(which) => {
                dataset_name_key(["main", "other"][usize::from(which % 2)])
            }
            AnyKey::UnitsUsed => Key::from_slice(UNITS_USED_KEY),
            AnyKey::Raw(bytes) => bytes.iter().copied().take(key::KEY_MAX).collect(),
        }
    }
}

#[derive(Debug, Arbitrary)]
enum AnyValue {
    Inode(AnyInode),
    Dentry(Small, Number, u8, u8),
    Extent(Number, Small, u16, Small),
    Chunk(Number, Small, u32, u8),
    Pending(Number, Number),
    Counters([u8; 4]),
    Dataset(Number, Number, [Small; 4]),
    Number(Number),
    Raw(Vec<u8>),
    Empty,
}

#[derive(Debug, Arbitrary)]
struct AnyInode {
    mode: Mode,
    nlink: u8,
    flags: u8,
    xattrs: u8,
    size: Number,
    allocated: Number,
    entries: u8,
    parent: Small,
}

impl AnyInode {
    fn record(&self) -> InodeRecord {
        let time = Time { sec: 3, nsec: 4 };
        InodeRecord {
            mode: self.mode.0,
            nlink: u32::from(self.nlink),
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: u32::from(self.flags),
            projid: 0,
            xattrs: u32::from(self.xattrs),
            size: self.size.0,
            allocated: self.allocated.0,
            entries: u64::from(self.entries),
            parent: ino(self.parent),
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
        }
    }
}

impl AnyValue {
    fn value(&self) -> Vec<u8> {
        let mut bytes = match self {
            AnyValue::Inode(inode) => inode.record().encode().to_vec(),
            AnyValue::Dentry(i, name, name_len, file_type) => DentryRecord {
                ino: ino(*i),
                name: NameId(name.0),
                name_len: *name_len,
                file_type: *file_type,
            }
            .encode()
            .to_vec(),
            AnyValue::Extent(len, chunk, chunk_offset, birth) => {
                extent(*len, *chunk, *chunk_offset, *birth)
            }
            AnyValue::Chunk(unit, refcount, len, codec) => ChunkRecord {
                start_unit: unit.0,
                refcount: u64::from(*refcount),
                stored_len: len % (128 << 10),
                raw_len: len % (128 << 10),
                codec: if *codec < 250 {
                    Codec::Raw
                } else {
                    Codec::Zstd
                },
                hash: [*codec; 32],
                crcs: vec![0; (len % (128 << 10)).div_ceil(4096) as usize].into(),
            }
            .encode(),
            AnyValue::Pending(len, generation) => PendingFree {
                len_units: len.0,
                generation: Generation(generation.0),
            }
            .encode(),
            AnyValue::Counters(counts) => {
                let [next_ino, inodes, allocated_bytes, reserved_bytes] = counts.map(u64::from);
                DatasetCounters {
                    next_ino,
                    inodes,
                    allocated_bytes,
                    reserved_bytes,
                }
                .encode()
                .to_vec()
            }
            AnyValue::Dataset(page, generation, [flags, origin, of, codec]) => DatasetRecord {
                root: PagePtr {
                    page: PageNo(page.0),
                    generation: Generation(generation.0),
                },
                flags: u32::from(*flags),
                quota_bytes: 0,
                quota_inodes: 0,
                reserved_bytes: 0,
                origin: DatasetId(u64::from(*origin)),
                snapshot_of: DatasetId(u64::from(*of)),
                birth: Generation(1),
                created: Time { sec: 0, nsec: 0 },
                uuid: [1; 16],
                codec: *codec,
                codec_level: 0,
                name: "main".into(),
            }
            .encode(),
            AnyValue::Number(number) => number.0.to_le_bytes().to_vec(),
            AnyValue::Raw(bytes) => bytes.clone(),
            AnyValue::Empty => Vec::new(),
        };
        bytes.truncate(key::VALUE_MAX);
        bytes
    }
}

fn extent(len: Number, chunk: Small, chunk_offset: u16, birth: Small) -> Vec<u8> {
    ExtentRecord {
        len: len.0.max(1),
        chunk: ChunkId(u64::from(chunk % 16)),
        chunk_offset: u32::from(chunk_offset),
        birth: Generation(u64::from(birth)),
    }
    .encode()
    .to_vec()
}

/// A record under a key of its kind.
#[derive(Debug, Arbitrary)]
enum Fitting {
    Inode(Small, AnyInode),
    Dentry(Small, u8, Small, Number, u8, u8),
    Extent(Small, Number, Number, Small, u16),
    Chunk(Small, AnyValue),
    FreeByStart(Number, Number),
    FreeBySize(Number, Number),
    Pending(Number, Number, Number),
    Counters(Small, [u8; 4]),
    Dataset(Small, Number, Number, [Small; 4]),
    Orphan(Small),
    Symlink(Small, u8, Vec<u8>),
    Xattr(Small, u8, Number, Vec<u8>),
}

impl Fitting {
    fn change(&self) -> Change {
        let fs = TreeId::Fs(DatasetId::MAIN);
        let (tree, key, value) = match self {
            Fitting::Inode(i, inode) => (fs, key::inode(ino(*i)), inode.record().encode().to_vec()),
            Fitting::Dentry(dir, which, i, id, len, file_type) => {
                let value = AnyValue::Dentry(*i, *id, *len, *file_type).value();
                (fs, AnyKey::Named(*dir, *which).key(), value)
            }
            Fitting::Extent(i, offset, len, chunk, at) => (
                fs,
                key::extent(ino(*i), offset.0),
                extent(*len, *chunk, *at, 1),
            ),
            Fitting::Chunk(id, value) => {
                let id = ChunkId(u64::from(id % 16));
                (TreeId::Chunks, key::chunk(id), value.value())
            }
            Fitting::FreeByStart(start, len) => {
                let value = len.0.to_le_bytes().to_vec();
                (TreeId::FreeByStart, key::u64_key(start.0), value)
            }
            Fitting::FreeBySize(len, start) => (
                TreeId::FreeBySize,
                key::free_by_size(len.0, start.0),
                Vec::new(),
            ),
            Fitting::Pending(start, len, generation) => {
                let value = AnyValue::Pending(*len, *generation).value();
                (TreeId::FreePending, key::u64_key(start.0), value)
            }
            Fitting::Counters(id, counts) => {
                let value = AnyValue::Counters(*counts).value();
                (TreeId::Datasets, AnyKey::Counters(*id).key(), value)
            }
            Fitting::Dataset(id, page, generation, rest) => {
                let value = AnyValue::Dataset(*page, *generation, *rest).value();
                (TreeId::Datasets, AnyKey::Dataset(*id).key(), value)
            }
            Fitting::Orphan(i) => (fs, key::orphan(ino(*i)), Vec::new()),
            Fitting::Symlink(i, index, bytes) => {
                (fs, key::symlink(ino(*i), u16::from(*index)), bytes.clone())
            }
            Fitting::Xattr(i, n, len, bytes) => {
                let value = [&len.word().to_le_bytes(), bytes.as_slice()].concat();
                (fs, AnyKey::Xattr(*i, *n).key(), value)
            }
        };
        let value = value.into_iter().take(key::VALUE_MAX).collect();
        Change::Put { tree, key, value }
    }
}

/// What a store's next name would be, for a change that interns one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Names {
    pub end: u64,
}

impl AnyChange {
    fn change(&self, names: &mut Names) -> Change {
        let dataset = |id: u8| DatasetId(if id < 200 { 1 } else { u64::from(id % 4) });
        match self {
            AnyChange::Put(tree, key, value) => Change::Put {
                tree: tree.tree(),
                key: key.key(),
                value: value.value(),
            },
            AnyChange::Fitting(fitting) | AnyChange::Fitting2(fitting) => fitting.change(),
            AnyChange::Delete(tree, key) => Change::Delete {
                tree: tree.tree(),
                key: key.key(),
            },
            AnyChange::Intern(id, name) => {
                let name: Vec<u8> = name.iter().copied().chain([b'n']).take(255).collect();
                let at = names.end;
                if *id < 250 {
                    names.end += razorfs::format::name::record_bytes(name.len()) as u64;
                }
                Change::Intern {
                    id: NameId(if *id < 250 { at } else { u64::from(*id) }),
                    name,
                }
            }
            AnyChange::Data(id, i, offset, content) => Change::Data {
                dataset: dataset(*id),
                ino: ino(*i),
                offset: offset.0,
                bytes: content.0.clone(),
            },
            AnyChange::Clear(id, i, offset, len) => Change::DataClear {
                dataset: dataset(*id),
                ino: ino(*i),
                offset: offset.0,
                len: len.0,
            },
        }
    }
}

/// Mostly as it should be.
#[derive(Debug, Clone, Copy)]
struct Off(u64);

impl<'a> Arbitrary<'a> for Off {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Off(match u.arbitrary::<u8>()? {
            0..245 => 0,
            245..250 => 1,
            _ => u.arbitrary::<Number>()?.0,
        }))
    }
}

#[derive(Debug, Arbitrary)]
struct Entry {
    changes: Vec<AnyChange>,
    raw: Option<Vec<u8>>,
    is_raw: u8,
    tx: Off,
    lsn: Off,
    count: Off,
}

#[derive(Debug, Arbitrary)]
struct Batch {
    entries: Vec<Entry>,
    durable: Number,
    claims_durable: u8,
    tag: Off,
    lsn: Off,
    len: Off,
    count: Off,
    first_tx: Off,
    gap: Off,
}

/// A log.
#[derive(Debug, Arbitrary)]
pub struct Log {
    batches: Vec<Batch>,
    /// Bytes changed afterwards: these are not believed.
    patches: Vec<(u16, u8)>,
}

/// A log's bytes.
pub struct Bytes {
    /// What lies in the ring, by position.
    pub batches: Vec<(Lsn, Vec<u8>)>,
    /// Transactions at the front that are as they should be.
    pub whole: u64,
}

impl Log {
    /// The bytes of the log that begins at `from` with transaction `tx`.
    pub fn bytes(&self, from: Lsn, tx: TxId, tag: u64, mut names: Names) -> Bytes {
        let (mut at, mut next_tx) = (from.0, tx.0);
        let mut out = Bytes {
            batches: Vec::new(),
            whole: 0,
        };
        let mut whole = true;
        for batch in &self.batches {
            let first_tx = next_tx;
            let mut payload = Vec::new();
            for entry in &batch.entries {
                let changes: Vec<_> = entry.changes.iter().map(|c| c.change(&mut names)).collect();
                let mut all = Changes::default();
                changes.iter().for_each(|change| all.push(change));
                let mut encoded = all.bytes().to_vec();
                let mut count = u64::from(all.count());
                if let Some(raw) = &entry.raw
                    && entry.is_raw < 32
                {
                    (encoded, count) = (raw.clone(), u64::from(entry.is_raw % 4));
                    whole = false;
                }
                let lsn = at + (BATCH_HEADER_BYTES + payload.len()) as u64;
                let header = EntryHeader {
                    lsn: Lsn(lsn.wrapping_add(entry.lsn.0)),
                    tx: TxId(next_tx.wrapping_add(entry.tx.0)),
                    timestamp_ns: 0,
                    changes: u32::try_from(count.wrapping_add(entry.count.0)).unwrap_or(u32::MAX),
                };
                whole &= [entry.lsn, entry.tx, entry.count]
                    .iter()
                    .all(|off| off.0 == 0);
                encode_entry(&header, &encoded, &mut payload);
                next_tx = next_tx.wrapping_add(1);
            }
            let off = [
                batch.tag,
                batch.lsn,
                batch.len,
                batch.count,
                batch.first_tx,
                batch.gap,
            ];
            whole &= off.iter().all(|off| off.0 == 0) && !batch.entries.is_empty();
            let at_now = at.wrapping_add((batch.gap.0 % 64) << 12);
            let len = payload.len() as u64;
            let header = BatchHeader {
                lsn: Lsn(at_now.wrapping_add(batch.lsn.0)),
                durable: Lsn(if batch.claims_durable < 128 {
                    from.0
                } else {
                    batch.durable.0.min(at_now)
                }),
                tag: tag.wrapping_add(batch.tag.0),
                payload_len: u32::try_from(len.wrapping_add(batch.len.0)).unwrap_or(u32::MAX),
                entries: u32::try_from((batch.entries.len() as u64).wrapping_add(batch.count.0))
                    .unwrap_or(u32::MAX),
                first_tx: TxId(first_tx.wrapping_add(batch.first_tx.0)),
            };
            let mut bytes = header.encode().to_vec();
            bytes.extend_from_slice(&payload);
            bytes.resize(bytes.len().next_multiple_of(4096), 0);
            let end = at_now.wrapping_add(bytes.len() as u64);
            out.batches.push((Lsn(at_now), bytes));
            at = end;
            if whole {
                out.whole += batch.entries.len() as u64;
            }
        }
        self.patch(&mut out);
        out
    }

    fn patch(&self, out: &mut Bytes) {
        let count = out.batches.len();
        for (at, byte) in &self.patches {
            let at = usize::from(*at);
            if let Some((_, bytes)) = out.batches.get_mut(at % count.max(1))
                && let Some(place) = bytes.get_mut(at / 8)
            {
                *place ^= byte;
                out.whole = 0;
            }
        }
    }
}
