//! Memory that the disk can take from where it lies.
//!
//! Direct I/O asks for addresses, offsets and lengths that are multiples of the device's block
//! (open(2), O_DIRECT; no device in use has larger ones than [`BLOCK_BYTES`]).

use std::ops::{Deref, DerefMut};

use parking_lot::Mutex;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// What addresses, offsets and lengths of direct I/O are multiples of.
pub const BLOCK_BYTES: usize = 4096;

#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Block([u8; BLOCK_BYTES]);

const _: () = assert!(size_of::<Block>() == BLOCK_BYTES && align_of::<Block>() == BLOCK_BYTES);

/// Memory that was given back, for the next buffer of that size, half of it for a few seconds, half
/// of the rest for some more, and so on ([`forget_spare`]). Fresh memory costs a page fault for each page, which takes longer than copying
/// into it.
struct Spare {
    /// Blocks of each.
    blocks: usize,
    /// How many are kept.
    max: usize,
    /// Held for a few instructions and by nobody who waits: no lock for a controlled scheduler.
    kept: Mutex<Vec<Vec<Block>>>,
}

/// What most writes bring: a page, or windows of file content.
static SPARE: [Spare; 2] = [Spare::new(1, 4096), Spare::new(32, 512)];

impl Spare {
    const fn new(blocks: usize, max: usize) -> Spare {
        Spare {
            blocks,
            max,
            kept: Mutex::new(Vec::new()),
        }
    }

    fn of(blocks: usize) -> Option<&'static Spare> {
        SPARE.iter().find(|spare| spare.blocks == blocks)
    }
}

/// Lets go of half of the memory that is kept for buffers to come.
pub fn forget_spare() {
    for spare in &SPARE {
        let mut kept = spare.kept.lock();
        let left = kept.len() / 2;
        let gone = kept.split_off(left);
        drop(kept);
        drop(gone);
    }
}

/// Bytes that begin at a block's boundary and end in a whole block, of which what is behind them is
/// zeros.
#[derive(Clone, Default)]
pub struct Buffer {
    blocks: Vec<Block>,
    len: usize,
}

impl Buffer {
    /// Nothing.
    #[must_use]
    pub fn new() -> Self {
        Buffer::default()
    }

    /// Nothing, with room for `bytes`.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Buffer {
            blocks: Vec::with_capacity(bytes.div_ceil(BLOCK_BYTES)),
            len: 0,
        }
    }

    /// `len` zeros.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let mut buffer = Buffer::new();
        buffer.resize(len);
        buffer
    }

    /// `len` bytes for somebody to write over: what they are means nothing.
    #[must_use]
    pub fn for_filling(len: usize) -> Self {
        let spare = Spare::of(len.div_ceil(BLOCK_BYTES));
        let Some(mut blocks) = spare.and_then(|spare| spare.kept.lock().pop()) else {
            return Buffer::zeroed(len);
        };
        if let Some(behind) = blocks.as_mut_bytes().get_mut(len..) {
            behind.fill(0);
        }
        Buffer { blocks, len }
    }

    /// Cuts it short, or puts zeros behind it.
    pub fn resize(&mut self, len: usize) {
        if let Some(rest) = self.blocks.as_mut_bytes().get_mut(len..self.len) {
            rest.fill(0);
        }
        let blocks = len.div_ceil(BLOCK_BYTES);
        match blocks.checked_sub(self.blocks.len()) {
            // Fails only where a vector that grows would end the process, too.
            Some(more) if Block::extend_vec_zeroed(&mut self.blocks, more).is_err() => {
                self.blocks.resize(blocks, Block::new_zeroed());
            }
            Some(_) => {}
            None => self.blocks.truncate(blocks),
        }
        self.len = len;
    }

    /// Puts `bytes` behind it.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let start = self.len;
        self.resize(start.saturating_add(bytes.len()));
        if let Some(target) = self.get_mut(start..) {
            target.copy_from_slice(bytes);
        }
    }

    /// Memory that it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.blocks.capacity().saturating_mul(BLOCK_BYTES)
    }

    /// It, and the zeros up to the end of its last block.
    #[must_use]
    pub fn blocks(&self) -> &[u8] {
        self.blocks.as_bytes()
    }
}

impl From<&[u8]> for Buffer {
    fn from(bytes: &[u8]) -> Self {
        let mut buffer = Buffer::for_filling(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let blocks = self.blocks.len();
        if let Some(spare) = Spare::of(blocks)
            && self.blocks.capacity() == blocks
        {
            let mut kept = spare.kept.lock();
            if kept.len() < spare.max {
                kept.push(std::mem::take(&mut self.blocks));
            }
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.blocks.as_bytes().get(..self.len).unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        self.blocks
            .as_mut_bytes()
            .get_mut(..len)
            .unwrap_or_default()
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.len)
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn memory_that_comes_back_has_zeros_behind() {
        for size in SPARE.iter().map(|spare| spare.blocks * BLOCK_BYTES) {
            let mut first = Buffer::zeroed(size);
            first.fill(7);
            drop(first);
            for len in [size, size - 1, size - BLOCK_BYTES + 1] {
                let mut buffer = Buffer::for_filling(len);
                buffer.fill(9);
                assert_eq!((buffer.len(), buffer.blocks().len()), (len, size));
                assert!(buffer.blocks()[len..].iter().all(|byte| *byte == 0));
                buffer.resize(size);
                assert!(buffer[len..].iter().all(|byte| *byte == 0));
            }
        }
    }

    #[test]
    fn agrees_with_a_vector_and_has_zeros_behind() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut buffer = Buffer::new();
        let mut model = Vec::new();
        for _ in 0..2000 {
            match rng.random_range(0..3) {
                0 => {
                    let len = rng.random_range(0..20_000);
                    buffer.resize(len);
                    model.resize(len, 0);
                }
                1 => {
                    let more = vec![rng.random(); rng.random_range(0..5000)];
                    buffer.extend_from_slice(&more);
                    model.extend_from_slice(&more);
                }
                _ => {
                    let value = rng.random();
                    let from = rng.random_range(0..=model.len());
                    buffer[from..].fill(value);
                    model[from..].fill(value);
                }
            }
            assert_eq!(*buffer, *model);
            let all = buffer.blocks();
            assert_eq!(all.as_ptr().align_offset(BLOCK_BYTES), 0);
            assert_eq!(all.len(), model.len().next_multiple_of(BLOCK_BYTES));
            assert!(all[model.len()..].iter().all(|byte| *byte == 0));
        }
    }
}
