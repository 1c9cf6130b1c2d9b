//! Hostile rings: chains of arbitrary descriptors, tables in them, heads and indices that jump.

use arbitrary::{Arbitrary, Result, Unstructured};

use super::super::queue::{Descriptor, INDIRECT, NEXT, WRITE};

/// Where a queue and memory to use freely lie.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Entries of the queue.
    pub size: u16,
    /// Descriptor table.
    pub table: u64,
    /// Available ring.
    pub available: u64,
    /// Used ring.
    pub used: u64,
    /// [`SCRATCH_BYTES`] bytes for buffers and tables.
    pub scratch: u64,
    /// The end of the guest's memory.
    pub end: u64,
}

/// Bytes of scratch memory: requests, then room for replies, then tables.
pub const SCRATCH_BYTES: u64 = 3 << 16;
const ROOM: u64 = 1 << 16;
const TABLES: u64 = 2 << 16;
/// Bytes from one table to the next, which may lie across each other.
const TABLE_STEP: u64 = 256;

/// An address in a descriptor.
#[derive(Debug, Clone, Copy)]
pub struct Address {
    kind: u8,
    offset: u64,
}

impl<'a> Arbitrary<'a> for Address {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let kind = u.arbitrary()?;
        let offset = match kind {
            250.. => u.arbitrary()?,
            _ => u64::from(u.arbitrary::<u16>()?),
        };
        Ok(Address { kind, offset })
    }
}

impl Address {
    fn resolve(self, place: &Place) -> u64 {
        let offset = self.offset;
        match self.kind {
            0..90 => place.scratch + offset % 4096,
            90..160 => place.scratch + ROOM + offset,
            160..200 => place.scratch + TABLES + offset % 16 * TABLE_STEP,
            200..210 => place.table.wrapping_add(offset % 2048),
            210..216 => place.available.wrapping_add(offset % 64),
            216..222 => place.used.wrapping_add(offset % 512),
            222..236 => place.end.wrapping_sub(offset % 64),
            236..242 => place.end.wrapping_add(offset),
            242..250 => u64::MAX - offset,
            _ => offset,
        }
    }
}

/// A descriptor.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    address: Address,
    len: u32,
    flags: u16,
    next: u16,
}

impl<'a> Arbitrary<'a> for Entry {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let address = u.arbitrary()?;
        let len = match u.arbitrary::<u8>()? {
            0..20 => 0,
            20..120 => u.arbitrary::<u8>()?.into(),
            120..180 => u32::from(u.arbitrary::<u8>()?) * 16,
            180..230 => u.arbitrary::<u16>()?.into(),
            230..240 => u32::MAX - u32::from(u.arbitrary::<u8>()?),
            _ => u.arbitrary()?,
        };
        let flags = match u.arbitrary::<u8>()? {
            0..60 => 0,
            60..140 => NEXT,
            140..180 => WRITE,
            180..210 => NEXT | WRITE,
            210..235 => INDIRECT,
            235..240 => INDIRECT | NEXT,
            240..245 => INDIRECT | WRITE,
            _ => u.arbitrary()?,
        };
        let next = match u.arbitrary::<u8>()? {
            next @ 0..240 => u16::from(next % 16),
            240..248 => 64,
            _ => u.arbitrary()?,
        };
        Ok(Entry {
            address,
            len,
            flags,
            next,
        })
    }
}

impl Entry {
    fn descriptor(self, place: &Place) -> Descriptor {
        Descriptor {
            address: self.address.resolve(place),
            len: self.len,
            flags: self.flags,
            next: self.next,
        }
    }
}

/// What is written to a ring before the device is told.
#[derive(Debug, Clone, Arbitrary)]
pub struct Attack {
    /// What stands where requests are read.
    pub request: super::Message,
    /// The first entries of the queue's table.
    pub table: Vec<Entry>,
    /// Tables in scratch memory.
    pub tables: Vec<Vec<Entry>>,
    /// What is made available.
    pub heads: Vec<Head>,
    /// How far the available index goes beyond the heads.
    pub jump: Jump,
}

/// The head of a chain.
#[derive(Debug, Clone, Copy, Arbitrary)]
#[allow(missing_docs)]
pub enum Head {
    Low(u8),
    Lower(u8),
    Lowest,
    Any(u16),
}

/// How far the available index goes beyond what it should be.
#[derive(Debug, Clone, Copy, Arbitrary)]
#[allow(missing_docs)]
pub enum Jump {
    No,
    NotNow,
    NotHere,
    Few(u8),
    Any(u16),
}

/// Bytes to write at an address.
pub type Write = (u64, Vec<u8>);

impl Attack {
    /// What is to be written, in this order, to a ring whose next available entry is `next`. The
    /// last one is the new index.
    #[must_use]
    pub fn writes(&self, place: &Place, next: u16, told: &super::fields::Told) -> Vec<Write> {
        let mut request = self.request.bytes(told);
        request.truncate(usize::try_from(ROOM).unwrap_or(usize::MAX));
        let mut writes = vec![(place.scratch, request)];
        let table = |entries: &[Entry], max: usize| -> Vec<u8> {
            let entries = entries.iter().take(max);
            entries
                .flat_map(|entry| entry.descriptor(place).bytes())
                .collect()
        };
        writes.push((place.table, table(&self.table, usize::from(place.size))));
        for (index, entries) in (0..).zip(self.tables.iter().take(64)) {
            let at = place.scratch + TABLES + index * TABLE_STEP;
            writes.push((at, table(entries, 64)));
        }
        let mut index = next;
        for head in self.heads.iter().take(usize::from(place.size)) {
            let head = match head {
                Head::Low(head) => u16::from(head % 64),
                Head::Lower(head) => u16::from(head % 8),
                Head::Lowest => 0,
                Head::Any(head) => *head,
            };
            let slot = u64::from(index % place.size);
            writes.push((place.available + 4 + 2 * slot, head.to_le_bytes().to_vec()));
            index = index.wrapping_add(1);
        }
        index = index.wrapping_add(match self.jump {
            Jump::Few(by) => u16::from(by % 4),
            Jump::Any(by) => by,
            _ => 0,
        });
        writes.push((place.available + 2, index.to_le_bytes().to_vec()));
        writes.retain(|(_, bytes)| !bytes.is_empty());
        writes
    }
}
