//! One request's descriptors: checked for being a chain, and what they say the request is.
//!
//! The walk here finds what the readers and writers over a chain would silently cut short: loops,
//! indices beyond the table, descriptors outside memory. The guest may change descriptors after
//! it; they check every address again, so that this only costs such a guest its own request.

use virtio_queue::DescriptorChain;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory, GuestMemoryRegion};

use std::sync::Arc;

use super::memory::Memory;
use crate::server::Server;
use crate::server::consts::opcode;

/// A chain of descriptors in guest memory that stays mapped as long as this lives.
pub(super) type Chain = DescriptorChain<Arc<Memory>>;

/// `fuse_in_header` and `fuse_write_in` up to the file's open flags.
const PEEK_BYTES: usize = 76;
const OPCODE_AT: usize = 4;
const WRITE_OPEN_FLAGS_AT: usize = 72;

/// Why it is not a chain (VirtIO 1.3, 2.7.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ChainError {
    #[error("a chain without a descriptor that can be read")]
    Empty,
    #[error("a chain without end, or that leaves its table")]
    Endless,
    #[error("a descriptor outside of the guest's memory")]
    Outside,
    #[error("a descriptor to read after one to write")]
    Order,
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
    /// A descriptor begins in one region of memory and ends in another.
    pub(super) crosses: bool,
}

impl Shape {
    /// Walks the chain.
    pub(super) fn of(chain: &Chain) -> Result<Shape, ChainError> {
        let memory = chain.memory();
        let mut peek = [0; PEEK_BYTES];
        let mut peeked = 0;
        let mut len_bytes = 0u64;
        let mut crosses = false;
        let mut ended = None;
        let mut writable = false;
        for descriptor in chain.clone() {
            let len = usize::try_from(descriptor.len()).map_err(|_| ChainError::Outside)?;
            if len > 0 && !within_region(memory, descriptor.addr(), len) {
                if !memory.check_range(descriptor.addr(), len) {
                    return Err(ChainError::Outside);
                }
                crosses = true;
            }
            if descriptor.is_write_only() {
                writable = true;
            } else if writable {
                return Err(ChainError::Order);
            } else if let Some(room) = peek.get_mut(peeked..) {
                let take = room.len().min(len);
                if let Some(room) = room.get_mut(..take) {
                    memory
                        .read_slice(room, descriptor.addr())
                        .map_err(|_| ChainError::Outside)?;
                }
                peeked = peeked.saturating_add(take);
            }
            len_bytes = len_bytes.saturating_add(u64::from(descriptor.len()));
            ended = Some(!descriptor.has_next());
        }
        match ended {
            None => return Err(ChainError::Empty),
            Some(false) => return Err(ChainError::Endless),
            Some(true) => {}
        }
        let word = |at: usize| {
            peek.get(at..at.saturating_add(4))
                .and_then(|bytes| bytes.try_into().ok())
                .map_or(0, u32::from_le_bytes)
        };
        let opcode = if peeked >= 8 { word(OPCODE_AT) } else { 0 };
        let open_flags = i32::from_ne_bytes(word(WRITE_OPEN_FLAGS_AT).to_ne_bytes());
        Ok(Shape {
            opcode,
            sync_write: opcode == opcode::WRITE && open_flags & (libc::O_SYNC | libc::O_DSYNC) != 0,
            len_bytes,
            crosses,
        })
    }

    /// Whether the request may wait for the disk. `strict`: so does every change.
    pub(super) fn may_block(self, strict: bool) -> bool {
        self.sync_write || Server::may_block(self.opcode) || (strict && changes(self.opcode))
    }
}

/// Whether `len` bytes, not 0, lie in one region.
fn within_region(memory: &Memory, address: GuestAddress, len: usize) -> bool {
    let last = u64::try_from(len)
        .ok()
        .and_then(|len| address.checked_add(len.checked_sub(1)?));
    memory
        .find_region(address)
        .is_some_and(|region| last.is_some_and(|last| last <= region.last_addr()))
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
            | opcode::WRITE
            | opcode::SETXATTR
            | opcode::REMOVEXATTR
            | opcode::CREATE
            | opcode::TMPFILE
            | opcode::IOCTL
    )
}
