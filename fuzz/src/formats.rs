//! Every on-disk structure: decoding ends in a value or an error, behind the checksum too. What was
//! decoded is encoded to the same bytes.
//!
//! The first byte says which structure, the second whether its checksum is made right.

use razorfs::format::id::{Generation, Lsn, NameId, PageNo};
use razorfs::format::page::{PAGE_BYTES, Page, TreeTag};
use razorfs::format::record::{
    ChunkRecord, DatasetCounters, DatasetRecord, DentryRecord, ExtentRecord, InodeRecord, PagePtr,
    PendingFree, ReceiveRecord,
};
use razorfs::format::superblock::{SUPERBLOCK_BYTES, Superblock};
use razorfs::format::wal::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, ENTRY_HEADER_BYTES, LogHeader, decode_entry,
};
use razorfs::format::{key, name, xattr};
use razorfs::log::{Change, Changes};

use super::store;

const KINDS: u8 = 8;
const PLACE: PagePtr = PagePtr {
    page: PageNo(7),
    generation: Generation(3),
};
const LSN: Lsn = Lsn(8192);
const TAG: u64 = 5;
/// Bytes of the log's header block that have something in them.
const LOG_HEADER_BYTES: usize = 72;

fn crc(parts: &[&[u8]]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().to_le_bytes()
}

/// Makes the checksum at 4 right, over `len` bytes.
fn mend(bytes: &mut [u8], len: usize) {
    if let Some(covered) = bytes.get_mut(..len) {
        let sum = crc(&[&covered[..4], &covered[8..]]);
        covered[4..8].copy_from_slice(&sum);
    }
}

fn block<const N: usize>(bytes: &[u8]) -> Box<[u8; N]> {
    let mut block = Box::new([0; N]);
    let len = bytes.len().min(N);
    block[..len].copy_from_slice(&bytes[..len]);
    block
}

pub fn run(data: &[u8]) {
    let [kind, mended, rest @ ..] = data else {
        return;
    };
    let mended = mended % 8 != 0;
    match kind % KINDS {
        0 => page(rest, mended),
        1 => superblock(rest, mended),
        2 => log_header(rest, mended),
        3 => batch(rest, mended),
        4 => entry(rest, mended),
        5 => changes(rest),
        6 => records(rest),
        _ => names(rest, mended),
    }
}

fn page(bytes: &[u8], mended: bool) {
    let mut bytes = block::<PAGE_BYTES>(bytes);
    if mended {
        bytes[..4].copy_from_slice(b"RNOD");
        bytes[8..16].copy_from_slice(&PLACE.page.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&PLACE.generation.0.to_le_bytes());
        mend(bytes.as_mut_slice(), PAGE_BYTES);
    }
    let Ok(mut page) = Page::decode(bytes, PLACE) else {
        return;
    };
    let cells = |page: &Page| -> Vec<(Vec<u8>, Vec<u8>)> {
        (0..page.len())
            .map(|index| (page.key(index).to_vec(), page.value(index).to_vec()))
            .collect()
    };
    let before = cells(&page);
    for (index, (key, _)) in before.iter().enumerate() {
        assert_eq!(page.search(key), Ok(index));
        let _ = (page.child(index), page.child_index(key));
    }
    let again = Page::decode(page.encode(PLACE, page.tag()), PLACE).unwrap();
    assert_eq!(again.tag(), page.tag());
    assert_eq!(cells(&again), before);
    // It can be changed like any other.
    for (key, value) in before.iter().rev() {
        let Ok(index) = page.search(key) else {
            panic!("a key that was there is gone");
        };
        page.remove(index);
        let longer = [value.as_slice(), b"more"].concat();
        if page.level() == 0 && longer.len() <= key::VALUE_MAX && page.fits(key, &longer) {
            page.insert(index, key, &longer);
        }
    }
    let left = cells(&page);
    let again = Page::decode(page.encode(PLACE, TreeTag::NONE), PLACE).unwrap();
    assert_eq!(cells(&again), left);
}

fn superblock(bytes: &[u8], mended: bool) {
    let mut bytes = block::<SUPERBLOCK_BYTES>(bytes);
    if mended {
        mend(bytes.as_mut_slice(), SUPERBLOCK_BYTES);
    }
    if let Ok(found) = Superblock::decode(&bytes) {
        assert!(found.encode() == *bytes, "{found:?}");
    }
}

fn log_header(bytes: &[u8], mended: bool) {
    let mut bytes = block::<BLOCK_BYTES>(bytes);
    if mended {
        mend(bytes.as_mut_slice(), LOG_HEADER_BYTES);
    }
    if let Ok(found) = LogHeader::decode(&bytes) {
        assert_eq!(LogHeader::decode(&found.encode()), Ok(found));
    }
}

fn batch(bytes: &[u8], mended: bool) {
    let mut bytes = bytes.to_vec();
    if mended {
        bytes.resize(bytes.len().max(BATCH_HEADER_BYTES), 0);
        bytes[8..16].copy_from_slice(&LSN.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&TAG.to_le_bytes());
        mend(&mut bytes, BATCH_HEADER_BYTES);
    }
    if let Some(found) = BatchHeader::decode(&bytes, LSN, TAG) {
        assert!(found.durable <= found.lsn);
        let again = BatchHeader::decode(&found.encode(), LSN, TAG);
        assert_eq!(again, Some(found));
        assert!(found.padded_bytes() >= BATCH_HEADER_BYTES as u64);
    }
}

fn entry(bytes: &[u8], mended: bool) {
    let mut bytes = bytes.to_vec();
    if mended {
        bytes.resize(bytes.len().max(ENTRY_HEADER_BYTES), 0);
        let payload = u32::try_from(bytes.len() - ENTRY_HEADER_BYTES).unwrap();
        bytes[8..16].copy_from_slice(&LSN.0.to_le_bytes());
        // The length as it is, or too long.
        if bytes[32] < 240 {
            bytes[32..36].copy_from_slice(&payload.to_le_bytes());
        }
        let (head, payload) = bytes.split_at(ENTRY_HEADER_BYTES);
        let sum = crc(&[&head[..4], &head[8..], payload]);
        bytes[4..8].copy_from_slice(&sum);
    }
    let mut rest = bytes.as_slice();
    if let Ok((header, payload)) = decode_entry(&mut rest, LSN) {
        assert_eq!(ENTRY_HEADER_BYTES + payload.len() + rest.len(), bytes.len());
        let _ = Change::decode_all(payload, header.changes);
    }
}

fn changes(bytes: &[u8]) {
    let [count, rest @ ..] = bytes else { return };
    if let Ok(found) = Change::decode_all(rest, u32::from(*count)) {
        let mut again = Changes::default();
        found.iter().for_each(|change| again.push(change));
        assert_eq!(again.bytes(), rest);
    }
}

fn records(bytes: &[u8]) {
    let [which, rest @ ..] = bytes else { return };
    match which % 9 {
        0 => drop(InodeRecord::decode(rest).map(|r| assert_eq!(r.encode(), rest))),
        1 => drop(DentryRecord::decode(rest).map(|r| assert_eq!(r.encode(), rest))),
        2 => drop(ExtentRecord::decode(rest).map(|r| assert_eq!(r.encode(), rest))),
        3 => drop(ChunkRecord::decode(rest).map(|r| assert_eq!(r.encode(), rest))),
        4 => drop(PendingFree::decode(rest).map(|r| assert_eq!(r.encode(), rest))),
        5 => drop(DatasetRecord::decode(rest).map(|r| assert_eq!(r.encode(), rest))),
        6 => drop(DatasetCounters::decode(rest).map(|r| assert_eq!(r.encode(), rest))),
        7 => drop(ReceiveRecord::decode(rest).map(|r| assert_eq!(r.encode(), rest))),
        _ => drop(PagePtr::decode(rest).map(|r| assert_eq!(r.encode(), rest))),
    }
}

fn names(bytes: &[u8], mended: bool) {
    let _ = (xattr::decode_head(bytes), key::trailing_u64(bytes));
    let found = name::decode(NameId(8), bytes).map(<[u8]>::to_vec);
    let mut encoded = Vec::new();
    let made = name::encode(NameId(8), bytes, &mut encoded);
    assert_eq!(made.is_ok(), (1..=name::NAME_MAX).contains(&bytes.len()));
    if mended && made.is_ok() {
        assert_eq!(name::decode(NameId(8), &encoded), Ok(bytes));
    } else if let Ok(found) = found {
        let mut again = Vec::new();
        name::encode(NameId(8), &found, &mut again).unwrap();
        assert!(bytes.starts_with(&again));
    }
}

/// The structures of a store.
pub fn seeds() -> Vec<Vec<u8>> {
    let sim = store::open();
    let seed = |kind: u8, disk: usize, offset: u64, len: usize| {
        let mut bytes = vec![0; len];
        sim.peek(disk, offset, &mut bytes);
        [&[kind, 1], bytes.as_slice()].concat()
    };
    let mut seeds = vec![
        seed(1, 0, 0, SUPERBLOCK_BYTES),
        seed(2, 4, 0, BLOCK_BYTES),
        seed(7, 2, 0, 64),
    ];
    for page in 1..8 {
        seeds.push(seed(0, 1, page * PAGE_BYTES as u64, PAGE_BYTES));
    }
    let mut at = 2 * BLOCK_BYTES as u64;
    for _ in 0..16 {
        let batch = seed(3, 4, at, 2048);
        if batch[2..6] == *b"WBAT" {
            let head = 2 + BATCH_HEADER_BYTES;
            let len = u32::from_le_bytes(batch[head + 32..head + 36].try_into().unwrap());
            let changes = head + ENTRY_HEADER_BYTES;
            let count = batch[head + 36];
            let end = (changes + len as usize).min(batch.len());
            seeds.push([&[5, 1, count], &batch[changes..end]].concat());
            seeds.push([&[4, 1], &batch[head..end]].concat());
            seeds.push(batch);
        }
        at += BLOCK_BYTES as u64;
    }
    let lens = [112, 18, 28, 68, 16, 104, 32, 16];
    for (which, len) in (0u8..).zip(lens) {
        seeds.push([&[6, 1, which], vec![1; len].as_slice()].concat());
    }
    seeds
}
