//! A snapshot as a stream of bytes, from one store to another: docs/STREAM.md.
//!
//! What is sent are the differences of two trees, not files by their paths: [`mod@send`] walks
//! them and [`mod@receive`] makes them so, with no more memory than a few records take. What lies
//! between is [`mod@format`] and [`framing`]: nothing in it is a store's own, as numbers of chunks
//! or offsets of names are.
//!
//! Imports the engine and below.

pub mod format;
pub mod framing;
pub mod receive;
pub mod send;
#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]
mod tests;
pub mod token;

use std::io;

use crate::engine::{DatasetError, EngineError};

pub use receive::receive;
pub use send::send;

/// Why a snapshot cannot be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The stream cannot be written.
    #[error("the stream cannot be written: {0}")]
    Write(#[source] io::Error),
    /// The stream cannot be read.
    #[error("the stream, at byte {offset} (record {record}): {source}")]
    Read {
        /// Where the record begins.
        offset: u64,
        /// Its number; 0 for the header.
        record: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The stream cannot be read, by who hands it on.
    #[error("the stream, behind byte {offset}: {source}")]
    Input {
        /// Bytes that were read.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The stream is damaged, cut off, or says what cannot be. What was before is applied.
    #[error("the stream is damaged at byte {offset} (record {record}): {reason}")]
    Damaged {
        /// Where the record begins.
        offset: u64,
        /// Its number; 0 for the header.
        record: u64,
        /// What is wrong.
        reason: String,
    },
    /// The stream is whole, and this store cannot do what a record says.
    #[error("at byte {offset} of the stream (record {record}): {source}")]
    Store {
        /// Where the record begins.
        offset: u64,
        /// Its number.
        record: u64,
        /// Why.
        #[source]
        source: DatasetError,
    },
    /// The stream is of a kind that this program does not know.
    #[error("{0}")]
    Unknown(String),
    /// The dataset cannot be sent or received.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
}

impl From<EngineError> for StreamError {
    fn from(error: EngineError) -> Self {
        StreamError::Dataset(error.into())
    }
}

/// How far sending or receiving got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes of the stream.
    pub bytes: u64,
    /// Records.
    pub records: u64,
    /// Of them, inodes.
    pub inodes: u64,
}
