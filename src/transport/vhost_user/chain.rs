//! One request's descriptors (VirtIO 1.3, 2.7.5), walked once: checked for being a chain within the
//! guest's memory, and turned into what lies here of the request and of the room for its reply.
//!
//! The guest may change descriptors at any time: each is copied, and only the copy is looked at.

use std::io;
use std::sync::Arc;

use smallvec::SmallVec;
use vm_memory::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryRegion, GuestRegionMmap, VolatileSlice,
};

use super::dirty::{Marks, MarksFrom};
use super::memory::Memory;
use super::ring::SIZE_MAX;
use crate::server::consts::opcode;
use crate::server::{Input, Output, Server};

/// The chain goes on at `next`.
const NEXT: u16 = 1;
/// The device writes.
const WRITE: u16 = 2;
/// It is a table of descriptors (VirtIO 1.3, 2.7.5.3).
const INDIRECT: u16 = 4;
const DESCRIPTOR_BYTES: usize = 16;
/// Entries of a table at most: indices have 16 bits.
const TABLE_MAX: usize = 1 << 16;
/// Parts of a chain at most: as many as the largest ring has entries. Buffers across regions of
/// memory have several.
const PARTS_MAX: usize = SIZE_MAX as usize;

/// `fuse_in_header` and `fuse_write_in` up to the file's open flags.
const PEEK_BYTES: usize = 76;
const OPCODE_AT: usize = 4;
const WRITE_OPEN_FLAGS_AT: usize = 72;

/// Parts of a request without data: header, arguments; of most replies: header, body.
const FEW: usize = 4;

/// Why it is not a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ChainError {
    #[error("a chain without end, or that leaves its table")]
    Endless,
    #[error("a descriptor outside of the guest's memory")]
    Outside,
    #[error("a descriptor to read after one to write")]
    Order,
    #[error("a table of descriptors in a table, or one that is no table")]
    Table,
    #[error("a chain of more than {PARTS_MAX} parts, or of more than 2^32 bytes")]
    Large,
}

/// A request that was taken off a ring; its memory stays mapped as long as this lives.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    pub(super) memory: Arc<Memory>,
    /// Guest address of the ring's table.
    pub(super) table: u64,
    /// Entries of the ring.
    pub(super) size: u16,
    /// The chain's first descriptor.
    pub(super) head: u16,
}

/// What lies here of a chain.
#[derive(Debug, Default)]
pub(super) struct Parts<'m> {
    readable: Slices<'m>,
    writable: Slices<'m>,
    /// Of all of them: at most 2^32 (VirtIO 1.3, 2.7.5.2).
    bytes: u32,
}

type Slice<'m> = VolatileSlice<'m, MarksFrom<'m>>;
type Slices<'m> = SmallVec<[Slice<'m>; FEW]>;

/// A copy of a descriptor.
#[derive(Debug, Clone, Copy)]
struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    fn decode(bytes: [u8; DESCRIPTOR_BYTES]) -> Descriptor {
        let bits = u128::from_le_bytes(bytes);
        // Truncation takes the field.
        #[allow(clippy::cast_possible_truncation)]
        Descriptor {
            address: bits as u64,
            len: (bits >> 64) as u32,
            flags: (bits >> 96) as u16,
            next: (bits >> 112) as u16,
        }
    }
}

/// The guest's memory, and the region of it that was asked for last. Nearly all that is asked for
/// lies in one region, and in the same: to see that costs much less than to find the region, and
/// to find it much less than to look over all of them.
struct Near<'m> {
    memory: &'m Memory,
    region: Option<&'m GuestRegionMmap<Marks>>,
}

impl<'m> Near<'m> {
    fn new(memory: &'m Memory) -> Self {
        let region = None;
        Near { memory, region }
    }

    /// Memory from an address on, where it lies in one region.
    fn slice(&mut self, address: GuestAddress, len: usize) -> Option<Slice<'m>> {
        let of = |region: &'m GuestRegionMmap<Marks>| {
            let offset = region.to_region_addr(address)?;
            region.get_slice(offset, len).ok()
        };
        if let Some(slice) = self.region.and_then(of) {
            return Some(slice);
        }
        self.region = self.memory.find_region(address);
        self.region.and_then(of)
    }

    /// Copies from there.
    fn read(&mut self, address: GuestAddress, bytes: &mut [u8]) -> Result<(), ChainError> {
        if let Some(slice) = self.slice(address, bytes.len()) {
            slice.copy_to(bytes);
            return Ok(());
        }
        let read = self.memory.read_slice(bytes, address);
        read.map_err(|_| ChainError::Outside)
    }
}

impl Chain {
    /// Walks the chain.
    pub(super) fn parts(&self) -> Result<Parts<'_>, ChainError> {
        let near = &mut Near::new(&self.memory);
        let mut parts = Parts::default();
        let mut descriptor = self.descriptor(near, self.head)?;
        for _ in 0..self.size {
            if descriptor.flags & INDIRECT != 0 {
                // The last, if it is not the only one (VirtIO 1.3, 2.7.5.3.2).
                return walk_table(near, descriptor, parts);
            }
            parts.add(near, descriptor)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(parts);
            }
            descriptor = self.descriptor(near, descriptor.next)?;
        }
        Err(ChainError::Endless)
    }

    /// A descriptor of the ring's table.
    fn descriptor(&self, near: &mut Near<'_>, index: u16) -> Result<Descriptor, ChainError> {
        if index >= self.size {
            return Err(ChainError::Endless);
        }
        let offset = u64::from(index).saturating_mul(DESCRIPTOR_BYTES as u64);
        let at = self.table.checked_add(offset).ok_or(ChainError::Outside)?;
        let mut bytes = [0; DESCRIPTOR_BYTES];
        near.read(GuestAddress(at), &mut bytes)?;
        Ok(Descriptor::decode(bytes))
    }
}

/// Walks the table that a descriptor names, over a copy of it, and adds what is in it.
fn walk_table<'m>(
    near: &mut Near<'m>,
    descriptor: Descriptor,
    mut parts: Parts<'m>,
) -> Result<Parts<'m>, ChainError> {
    let len = usize::try_from(descriptor.len).map_err(|_| ChainError::Table)?;
    let entries = len / DESCRIPTOR_BYTES;
    let whole = len.is_multiple_of(DESCRIPTOR_BYTES) && (1..=TABLE_MAX).contains(&entries);
    // Whether it says WRITE is to be ignored.
    if !whole || descriptor.flags & NEXT != 0 {
        return Err(ChainError::Table);
    }
    let mut table: SmallVec<[u8; 16 * DESCRIPTOR_BYTES]> = SmallVec::from_elem(0, len);
    near.read(GuestAddress(descriptor.address), &mut table)?;
    let (table, _) = table.as_chunks();
    let mut index = 0;
    for _ in 0..entries {
        let bytes = table.get(index).ok_or(ChainError::Endless)?;
        let descriptor = Descriptor::decode(*bytes);
        parts.add(near, descriptor)?;
        if descriptor.flags & NEXT == 0 {
            return Ok(parts);
        }
        index = usize::from(descriptor.next);
    }
    Err(ChainError::Endless)
}

impl<'m> Parts<'m> {
    /// Adds a descriptor's buffer; in pieces, where it lies across regions of memory.
    fn add(&mut self, near: &mut Near<'m>, descriptor: Descriptor) -> Result<(), ChainError> {
        if descriptor.flags & INDIRECT != 0 {
            return Err(ChainError::Table);
        }
        let slices = match descriptor.flags & WRITE != 0 {
            true => &mut self.writable,
            false if self.writable.is_empty() => &mut self.readable,
            false => return Err(ChainError::Order),
        };
        self.bytes = self
            .bytes
            .checked_add(descriptor.len)
            .ok_or(ChainError::Large)?;
        let len = usize::try_from(descriptor.len).map_err(|_| ChainError::Outside)?;
        let address = GuestAddress(descriptor.address);
        if len > 0
            && let Some(slice) = near.slice(address, len)
        {
            if slices.len() >= PARTS_MAX {
                return Err(ChainError::Large);
            }
            slices.push(slice);
            return Ok(());
        }
        for slice in near.memory.get_slices(address, len) {
            if slices.len() >= PARTS_MAX {
                return Err(ChainError::Large);
            }
            slices.push(slice.map_err(|_| ChainError::Outside)?);
        }
        Ok(())
    }

    /// What the request is.
    pub(super) fn shape(&self) -> Shape {
        let mut peek = [0; PEEK_BYTES];
        let mut peeked = 0usize;
        for slice in &self.readable {
            let Some(room) = peek.get_mut(peeked..).filter(|room| !room.is_empty()) else {
                break;
            };
            peeked = peeked.saturating_add(slice.copy_to(room));
        }
        let word = |at: usize| {
            peek.get(at..at.saturating_add(4))
                .and_then(|bytes| bytes.try_into().ok())
                .map_or(0, u32::from_le_bytes)
        };
        let opcode = if peeked >= 8 { word(OPCODE_AT) } else { 0 };
        let open_flags = i32::from_ne_bytes(word(WRITE_OPEN_FLAGS_AT).to_ne_bytes());
        Shape {
            opcode,
            sync_write: opcode == opcode::WRITE && open_flags & (libc::O_SYNC | libc::O_DSYNC) != 0,
            len_bytes: self.bytes.into(),
        }
    }

    /// The request, and the room for its reply.
    pub(super) fn split(self) -> (Readable<'m>, Writable<'m>) {
        let readable = Readable(Cursor::new(self.readable));
        (readable, Writable(Cursor::new(self.writable)))
    }
}

/// What a look at a request tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// FUSE opcode; 0 when the request is too short to have one.
    pub(super) opcode: u32,
    /// The file was opened for synchronous writes, when it is a WRITE.
    pub(super) sync_write: bool,
    /// Bytes of request and room for the reply.
    pub(super) len_bytes: u64,
}

impl Shape {
    /// Whether the request may wait for the disk. `strict`: so does every change.
    pub(super) fn may_block(self, strict: bool) -> bool {
        self.sync_write || Server::may_block(self.opcode) || (strict && changes(self.opcode))
    }

    /// Whether it is found out only in answering it.
    pub(super) fn may_have_to_wait(self) -> bool {
        Server::may_have_to_wait(self.opcode)
    }

    /// Whether one wait does for many of them, once they are begun.
    pub(super) fn can_be_begun(self) -> bool {
        Server::can_be_begun(self.opcode)
    }
}

fn changes(opcode: u32) -> bool {
    matches!(
        opcode,
        opcode::SETATTR
            | opcode::SYMLINK
            | opcode::MKNOD
            | opcode::MKDIR
            | opcode::UNLINK
            | opcode::RMDIR
            | opcode::LINK
            | opcode::RENAME
            | opcode::RENAME2
            | opcode::WRITE
            | opcode::SETXATTR
            | opcode::REMOVEXATTR
            | opcode::CREATE
            | opcode::TMPFILE
            | opcode::IOCTL
    )
}

/// A place in memory that lies in pieces.
#[derive(Debug)]
struct Cursor<'m> {
    slices: Slices<'m>,
    /// The slice that is next, and how much of it was passed.
    index: usize,
    offset: usize,
    /// Bytes not passed yet.
    left: usize,
}

impl<'m> Cursor<'m> {
    fn new(slices: Slices<'m>) -> Self {
        let left = slices.iter().map(VolatileSlice::len);
        let left = left.fold(0, usize::saturating_add);
        Cursor {
            slices,
            index: 0,
            offset: 0,
            left,
        }
    }

    /// Passes `len` bytes, piece by piece: `each` gets what is left of a slice and how many bytes
    /// were passed before, and tells how many it took, none of them behind `len`.
    fn pass(
        &mut self,
        len: usize,
        too_short: io::ErrorKind,
        mut each: impl FnMut(&Slice<'_>, usize) -> usize,
    ) -> io::Result<()> {
        let left = self.left.checked_sub(len).ok_or(too_short)?;
        let mut done = 0;
        while done < len {
            let slice = self.slices.get(self.index).ok_or(too_short)?;
            let here = slice.offset(self.offset).map_err(io::Error::other)?;
            let count = each(&here, done);
            done = done.saturating_add(count);
            self.offset = self.offset.saturating_add(count);
            if self.offset >= slice.len() {
                (self.index, self.offset) = (self.index.saturating_add(1), 0);
            }
        }
        self.left = left;
        Ok(())
    }
}

/// A request in the guest's memory.
#[derive(Debug)]
pub struct Readable<'m>(Cursor<'m>);

impl Input for Readable<'_> {
    fn available_bytes(&self) -> usize {
        self.0.left
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> io::Result<()> {
        let too_short = io::ErrorKind::UnexpectedEof;
        self.0.pass(buf.len(), too_short, |here, done| {
            here.copy_to(buf.get_mut(done..).unwrap_or_default())
        })
    }
}

/// Room for a reply in the guest's memory.
#[derive(Debug)]
pub struct Writable<'m>(Cursor<'m>);

impl Output for Writable<'_> {
    fn available_bytes(&self) -> usize {
        self.0.left
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let full = io::ErrorKind::WriteZero;
        self.0.pass(bytes.len(), full, |here, done| {
            let rest = bytes.get(done..).unwrap_or_default();
            let (now, _) = rest.split_at(rest.len().min(here.len()));
            here.copy_from(now);
            now.len()
        })
    }

    /// To be called before anything is put.
    fn split_at(&mut self, at: usize) -> io::Result<Self> {
        let mut first = Slices::new();
        let mut rest = Slices::new();
        let mut wanted = at;
        for slice in std::mem::take(&mut self.0.slices) {
            let (here, behind) = slice
                .split_at(wanted.min(slice.len()))
                .map_err(io::Error::other)?;
            wanted = wanted.saturating_sub(here.len());
            for (part, slices) in [(here, &mut first), (behind, &mut rest)] {
                if !part.is_empty() {
                    slices.push(part);
                }
            }
        }
        self.0 = Cursor::new(first);
        match wanted {
            0 => Ok(Writable(Cursor::new(rest))),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// Everything is there already.
    fn commit(&mut self, _rest: Option<&Self>) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: u64 = 0x1000;
    const SIZE: u16 = 8;

    /// Two regions that touch, and a chain of descriptors at the start of the ring's table.
    fn chain(descriptors: &[(u64, u32, u16, u16)]) -> Chain {
        let regions = [(GuestAddress(0), 0x8000), (GuestAddress(0x8000), 0x8000)];
        let memory = Memory::from_ranges(&regions).unwrap();
        put(&memory, TABLE, descriptors);
        Chain {
            memory: Arc::new(memory),
            table: TABLE,
            size: SIZE,
            head: 0,
        }
    }

    fn put(memory: &Memory, at: u64, descriptors: &[(u64, u32, u16, u16)]) {
        for (index, (address, len, flags, next)) in (0..).zip(descriptors) {
            let mut bytes = address.to_le_bytes().to_vec();
            bytes.extend(len.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            bytes.extend(next.to_le_bytes());
            memory
                .write_slice(&bytes, GuestAddress(at + 16 * index))
                .unwrap();
        }
    }

    fn error(descriptors: &[(u64, u32, u16, u16)]) -> ChainError {
        chain(descriptors).parts().unwrap_err()
    }

    #[test]
    fn bytes_go_over_parts_and_regions() {
        let chain = chain(&[
            (0x7ff0, 40, NEXT, 1),
            (0x9000, 5, NEXT, 2),
            (0x7000, 3, NEXT | WRITE, 3),
            (0x7ffe, 4, WRITE, 0),
        ]);
        let bytes: Vec<u8> = (0..45).collect();
        chain
            .memory
            .write_slice(&bytes[..40], GuestAddress(0x7ff0))
            .unwrap();
        chain
            .memory
            .write_slice(&bytes[40..], GuestAddress(0x9000))
            .unwrap();
        let (mut readable, mut writable) = chain.parts().unwrap().split();
        let mut read = vec![0; 45];
        readable.read_exact(&mut read[..18]).unwrap();
        assert_eq!(readable.available_bytes(), 27);
        readable.read_exact(&mut read[18..]).unwrap();
        assert_eq!(read, bytes);
        assert!(readable.read_exact(&mut [0]).is_err());
        assert_eq!(writable.available_bytes(), 7);
        assert!(writable.write_all(&[0; 8]).is_err());
        let mut rest = writable.split_at(4).unwrap();
        rest.write_all(b"xyz").unwrap();
        writable.write_all(b"abcd").unwrap();
        assert!(rest.write_all(b"!").is_err() && writable.write_all(b"!").is_err());
        let mut written = [0; 4];
        chain
            .memory
            .read_slice(&mut written, GuestAddress(0x7ffe))
            .unwrap();
        assert_eq!(&written, b"dxyz");
        assert!(writable.split_at(5).is_err());
    }

    #[test]
    fn an_indirect_table_is_a_chain_of_its_own() {
        let chain = chain(&[(0x7ff8, 32, INDIRECT, 0)]);
        put(
            &chain.memory,
            0x7ff8,
            &[(0x5000, 80, NEXT, 1), (0x6000, 16, WRITE, 0)],
        );
        let parts = chain.parts().unwrap();
        assert_eq!(parts.shape().len_bytes, 96);
        // It leaves its table, though the ring's goes on.
        put(&chain.memory, 0x7ff8, &[(0x5000, 80, NEXT, 2)]);
        assert_eq!(chain.parts().unwrap_err(), ChainError::Endless);
        put(&chain.memory, 0x7ff8, &[(0x5000, 32, INDIRECT, 0)]);
        assert_eq!(chain.parts().unwrap_err(), ChainError::Table);
    }

    #[test]
    fn a_table_may_end_a_chain() {
        let chain = chain(&[(0x5000, 40, NEXT, 1), (0x6000, 32, INDIRECT, 0)]);
        let table = [(0x5100, 8, NEXT, 1), (0x5200, 16, WRITE, 0)];
        put(&chain.memory, 0x6000, &table);
        let (readable, writable) = chain.parts().unwrap().split();
        assert_eq!(readable.available_bytes(), 48);
        assert_eq!(writable.available_bytes(), 16);
    }

    #[test]
    fn a_chain_has_bounds() {
        // Each entry lies across all of sixteen regions.
        let regions: Vec<_> = (0..16).map(|n| (GuestAddress(n << 16), 1 << 16)).collect();
        let memory = Memory::from_ranges(&regions).unwrap();
        let entries = 4096_u16;
        let len = u32::from(entries) * 16;
        let table: Vec<_> = (1..=entries)
            .map(|next| (0, 1 << 20, if next < entries { NEXT } else { 0 }, next))
            .collect();
        put(&memory, 0x2_0000, &table);
        put(&memory, TABLE, &[(0x2_0000, len, INDIRECT, 0)]);
        let chain = Chain {
            memory: Arc::new(memory),
            table: TABLE,
            size: SIZE,
            head: 0,
        };
        assert_eq!(chain.parts().unwrap_err(), ChainError::Large);
        let table: Vec<_> = (1..=entries)
            .map(|next| (0, 1 << 16, if next < entries { NEXT } else { 0 }, next))
            .collect();
        put(&chain.memory, 0x2_0000, &table);
        assert!(chain.parts().is_ok());
    }

    #[test]
    fn a_chain_has_at_most_4_gib() {
        let memory = Memory::from_ranges(&[(GuestAddress(0), 64 << 20)]).unwrap();
        let entries = |count: u16| -> Vec<_> {
            (1..=count)
                .map(|next| (0, 64 << 20, if next < count { NEXT } else { 0 }, next))
                .collect()
        };
        put(&memory, TABLE, &[(0x2_0000, 63 * 16, INDIRECT, 0)]);
        put(&memory, 0x2_0000, &entries(63));
        let mut chain = Chain {
            memory: Arc::new(memory),
            table: TABLE,
            size: SIZE,
            head: 0,
        };
        assert!(chain.parts().is_ok());
        put(&chain.memory, TABLE, &[(0x2_0000, 65 * 16, INDIRECT, 0)]);
        put(&chain.memory, 0x2_0000, &entries(65));
        assert_eq!(chain.parts().unwrap_err(), ChainError::Large);
        chain.head = SIZE;
        assert_eq!(chain.parts().unwrap_err(), ChainError::Endless);
    }

    #[test]
    fn what_is_no_chain_is_told() {
        assert_eq!(error(&[(0x5000, 80, NEXT, 0)]), ChainError::Endless);
        assert_eq!(error(&[(0x5000, 80, NEXT, SIZE)]), ChainError::Endless);
        assert_eq!(error(&[(0xfff0, 80, 0, 0)]), ChainError::Outside);
        assert_eq!(error(&[(u64::MAX, 80, 0, 0)]), ChainError::Outside);
        assert_eq!(error(&[(0x5000, u32::MAX, 0, 0)]), ChainError::Outside);
        let order = [
            (0x5000, 80, NEXT, 1),
            (0x6000, 16, NEXT | WRITE, 2),
            (0x5000, 8, 0, 0),
        ];
        assert_eq!(error(&order), ChainError::Order);
        for len in [0, 8, 17, u32::MAX] {
            assert_eq!(error(&[(0x5000, len, INDIRECT, 0)]), ChainError::Table);
        }
        assert_eq!(error(&[(0xfff8, 32, INDIRECT, 0)]), ChainError::Outside);
        assert_eq!(
            error(&[(0x5000, 32, INDIRECT | NEXT, 1)]),
            ChainError::Table
        );
    }

    #[test]
    fn what_may_wait_is_seen_from_the_first_bytes() {
        let chain = chain(&[(0x5000, 30, NEXT, 1), (0x5100, 50, 0, 0)]);
        let shape = |opcode: u32, flags: i32| {
            let at = |offset: u64| GuestAddress(0x5000 + offset);
            chain
                .memory
                .write_slice(&opcode.to_le_bytes(), at(4))
                .unwrap();
            chain
                .memory
                .write_slice(&flags.to_le_bytes(), at(0x100 + 42))
                .unwrap();
            chain.parts().unwrap().shape()
        };
        assert!(shape(opcode::WRITE, libc::O_DSYNC).may_block(false));
        assert!(!shape(opcode::WRITE, 0).may_block(false));
        assert!(shape(opcode::WRITE, 0).may_block(true));
        assert!(shape(opcode::FSYNC, 0).may_block(false));
        assert!(!shape(opcode::GETATTR, libc::O_DSYNC).may_block(true));
    }
}
