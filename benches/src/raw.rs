//! What the disk itself takes, past all caches, in files that are there already and were written
//! before: what is durable costs at least that.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::fs::OFlags;

use crate::Error;
use crate::report::Sample;

const FILE_BYTES: u64 = 64 << 20;
const BLOCK: usize = 4096;
const PIECE: usize = 1 << 20;
/// What O_DIRECT asks of memory and places, at most.
const ALIGNMENT: usize = 4096;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// 4 KiB anywhere, each durable (`O_DIRECT | O_DSYNC`).
    Blocks,
    /// 1 MiB after the other (`O_DIRECT`), then a flush; as many as there are.
    Pieces,
}

/// Two descriptors of a file.
pub struct RawDisk {
    durable: File,
    direct: File,
    memory: Vec<u8>,
    rng: ChaCha8Rng,
}

impl RawDisk {
    /// A file in `dir`, written once.
    ///
    /// # Errors
    /// When the file system has no O_DIRECT.
    pub fn new(dir: &Path) -> Result<RawDisk, Error> {
        let path = dir.join("raw");
        let open = |flags: OFlags| {
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .custom_flags(flags.bits().cast_signed())
                .open(&path)
        };
        let mut memory = vec![0; PIECE + ALIGNMENT];
        ChaCha8Rng::seed_from_u64(6).fill(memory.as_mut_slice());
        let mut disk = RawDisk {
            direct: open(OFlags::DIRECT)?,
            durable: open(OFlags::DIRECT | OFlags::DSYNC)?,
            memory,
            rng: ChaCha8Rng::seed_from_u64(7),
        };
        rustix::fs::fallocate(
            &disk.direct,
            rustix::fs::FallocateFlags::empty(),
            0,
            FILE_BYTES,
        )?;
        disk.pieces(FILE_BYTES / PIECE as u64)?;
        disk.direct.sync_all()?;
        Ok(disk)
    }

    fn aligned(memory: &[u8], len: usize) -> &[u8] {
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        memory.get(start..start + len).unwrap_or_default()
    }

    fn blocks(&mut self, count: u64) -> Result<(), Error> {
        let block = Self::aligned(&self.memory, BLOCK);
        for _ in 0..count {
            let at = self.rng.random_range(0..FILE_BYTES / BLOCK as u64);
            self.durable.write_all_at(block, at * BLOCK as u64)?;
        }
        Ok(())
    }

    fn pieces(&mut self, count: u64) -> Result<(), Error> {
        let piece = Self::aligned(&self.memory, PIECE);
        for at in 0..count {
            self.direct
                .write_all_at(piece, at * PIECE as u64 % FILE_BYTES)?;
        }
        Ok(self.direct.sync_data()?)
    }

    /// `count` operations.
    ///
    /// # Errors
    /// What the disk says.
    pub fn round(&mut self, access: Access, count: u64) -> Result<Sample, Error> {
        let began = Instant::now();
        match access {
            Access::Blocks => self.blocks(count)?,
            Access::Pieces => self.pieces(count)?,
        }
        Ok(Sample::new(began.elapsed(), Duration::ZERO, count))
    }
}
