//! Content that comes from another store: it becomes chunks as what was written does, but nothing
//! of it is compressed that was compressed as this dataset would.

use std::sync::Arc;

use super::pieces::Captured;
use crate::disk::buffer::Buffer;
use crate::engine::data::chunks::{self, Packed};
use crate::engine::data::dirty::DirtyMap;
use crate::engine::data::table::InodeState;
use crate::engine::data::{check_file, hash_of};
use crate::engine::{EngineError, Volume};
use crate::format::codec;
use crate::format::id::Ino;
use crate::format::record::{CHUNK_MAX, Codec, Storing};

/// Bytes of a file as another store has them in a chunk of its own. They have been checked: see
/// [`Content::new`].
pub struct Content {
    offset: u64,
    codec: Codec,
    stored: Vec<u8>,
    /// What it is, decompressed.
    content: Buffer,
    hash: [u8; 32],
}

impl Content {
    /// Content of `raw_len` bytes, 1 to [`CHUNK_MAX`], that is at `offset` of a file: what it is
    /// stored as, and its BLAKE3.
    ///
    /// # Errors
    /// When it does not decompress to as many bytes, or they have another hash.
    pub fn new(
        offset: u64,
        codec: Codec,
        raw_len: u32,
        hash: [u8; 32],
        stored: Vec<u8>,
    ) -> Result<Self, EngineError> {
        if raw_len == 0 || raw_len > CHUNK_MAX || stored.len() > raw_len as usize {
            return Err(EngineError::Invalid("content of an impossible length"));
        }
        let mut content = Buffer::for_filling(raw_len as usize);
        codec::decompress(codec, &stored, &mut content)
            .map_err(|_| EngineError::Invalid("content that does not decompress"))?;
        if hash_of(&content) != hash {
            return Err(EngineError::Invalid("content that does not match its hash"));
        }
        Ok(Content {
            offset,
            codec,
            stored,
            content,
            hash,
        })
    }

    /// Where it begins in the file.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.offset
    }

    /// Where it ends in the file.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.content.len() as u64)
    }

    fn capture(self, how: Storing) -> Captured {
        let units = |len: usize| chunks::units(len);
        let is_like = self.codec != Codec::Raw
            && self.codec == how.compression.codec()
            && units(self.stored.len()) < units(self.content.len());
        let packed = is_like.then(|| Packed {
            record: chunks::describe(&self.content, self.hash, self.codec, &self.stored),
            stored: Some(Arc::new(Buffer::from(self.stored.as_slice()))),
        });
        Captured::known(self.offset, self.content, how, self.hash, packed)
    }
}

impl Volume {
    /// Puts content in the place of what a file has there, within its size. Each begins where the
    /// one before it ends or behind that. Nobody else uses the dataset.
    ///
    /// # Errors
    /// When it lies behind the file's size or is not in order; over the quota; when the store is
    /// full or refuses. Some of it may be there then.
    pub(in crate::engine) fn receive_content(
        &self,
        ino: Ino,
        content: Vec<Content>,
    ) -> Result<(), EngineError> {
        let view = self.store.journal.view();
        let record = self.load_inode(&view, ino)?;
        check_file(&record)?;
        let (mut end, mut units) = (0, 0u64);
        let mut charges = Vec::new();
        for each in &content {
            if each.start() < end || each.end() > record.size {
                return Err(EngineError::Invalid("content out of its place"));
            }
            end = each.end();
            let range = (each.start(), each.end());
            charges.push(self.charge_range(ino, &DirtyMap::default(), range)?);
            units = units.saturating_add(chunks::units(each.content.len()));
        }
        // All of it fits, and is counted as it is written.
        drop(charges);
        let _promise = self.reserve_units(units)?;
        let how = self.storing(&view)?;
        drop(view);
        self.store.throttle()?;
        let state = InodeState::default();
        let runs = content.into_iter().map(|each| each.capture(how));
        self.write_out_batch(ino, &state, runs.collect())
    }
}
