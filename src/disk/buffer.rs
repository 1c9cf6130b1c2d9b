//! Memory that the disk can take from where it lies.
//!
//! Direct I/O asks for addresses, offsets and lengths that are multiples of the device's block
//! (open(2), O_DIRECT; no device in use has larger ones than [`BLOCK_BYTES`]).

use std::ops::{Deref, DerefMut};

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// What addresses, offsets and lengths of direct I/O are multiples of.
pub const BLOCK_BYTES: usize = 4096;

#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Block([u8; BLOCK_BYTES]);

const _: () = assert!(size_of::<Block>() == BLOCK_BYTES && align_of::<Block>() == BLOCK_BYTES);

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

    /// It, and the zeros up to the end of its last block.
    #[must_use]
    pub fn blocks(&self) -> &[u8] {
        self.blocks.as_bytes()
    }
}

impl From<&[u8]> for Buffer {
    fn from(bytes: &[u8]) -> Self {
        let mut buffer = Buffer::with_capacity(bytes.len());
        buffer.extend_from_slice(bytes);
        buffer
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
