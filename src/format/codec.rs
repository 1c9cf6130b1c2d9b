//! Compression: what a dataset asks for, and the stored bytes of a chunk from its content and back.
//!
//! Stored is an LZ4 block without a size in front, or one Zstandard frame. What is decompressed may
//! be anything: it never becomes more or less than the content that the chunk's record promises.

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;

use lz4_flex::block::{self, CompressTable};
use zstd_safe::{CCtx, DCtx};

use super::FormatError;
use super::record::{CHUNK_MAX, Codec};

/// The level of Zstandard when none is asked for.
const ZSTD_LEVEL_DEFAULT: u8 = 3;
/// The highest level of Zstandard: those above it differ in windows larger than a chunk.
const ZSTD_LEVEL_MAX: u8 = 19;

/// How new chunks of a dataset are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    codec: Codec,
    /// 0 for the codec's default.
    level: u8,
}

/// What was asked for is no compression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is none of off, lz4, zstd, and zstd:LEVEL with a level from 1 to 19")]
pub struct NoCompression(String);

/// Stored bytes are not what their chunk's record says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it does not decompress ({codec:?}): {reason}")]
pub struct DecompressError {
    codec: Codec,
    reason: String,
}

impl Compression {
    /// None.
    pub const OFF: Compression = Compression {
        codec: Codec::Raw,
        level: 0,
    };

    /// As the bytes of a dataset's record say.
    ///
    /// # Errors
    /// When there is no such codec, or it has no such level.
    pub fn of_record(codec: u8, level: u8) -> Result<Self, FormatError> {
        let field = |field, found: u8| FormatError::Field {
            what: "dataset record",
            field,
            found: found.into(),
        };
        let codec = Codec::of(codec).ok_or_else(|| field("codec", codec))?;
        let most = match codec {
            Codec::Raw | Codec::Lz4 => 0,
            Codec::Zstd => ZSTD_LEVEL_MAX,
        };
        if level > most {
            return Err(field("compression level", level));
        }
        Ok(Compression { codec, level })
    }

    /// The bytes for a dataset's record: codec and level.
    #[must_use]
    pub fn to_record(self) -> (u8, u8) {
        (self.codec as u8, self.level)
    }

    /// The codec of chunks for which it pays.
    #[must_use]
    pub fn codec(self) -> Codec {
        self.codec
    }
}

impl FromStr for Compression {
    type Err = NoCompression;

    fn from_str(text: &str) -> Result<Self, NoCompression> {
        let wrong = || NoCompression(text.to_owned());
        let (name, level) = match text.split_once(':') {
            Some((name, level)) => (name, Some(level)),
            None => (text, None),
        };
        let codec = match name {
            "off" => Codec::Raw,
            "lz4" => Codec::Lz4,
            "zstd" => Codec::Zstd,
            _ => return Err(wrong()),
        };
        let level = match level {
            None => 0,
            Some(level) => {
                let number = level.parse().ok().filter(|number| *number > 0);
                number.ok_or_else(wrong)?
            }
        };
        Compression::of_record(codec as u8, level).map_err(|_| wrong())
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.codec, self.level) {
            (Codec::Raw, _) => write!(f, "off"),
            (Codec::Lz4, _) => write!(f, "lz4"),
            (Codec::Zstd, 0) => write!(f, "zstd"),
            (Codec::Zstd, level) => write!(f, "zstd:{level}"),
        }
    }
}

/// What the codecs work with: each thread makes it once.
struct Scratch {
    /// Room for a chunk that LZ4 makes longer.
    room: Vec<u8>,
    table: CompressTable,
    compress: Option<CCtx<'static>>,
    decompress: Option<DCtx<'static>>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        room: Vec::new(),
        table: CompressTable::default(),
        compress: None,
        decompress: None,
    });
}

/// Compresses the content of a chunk to at most `most` bytes and hands them to `take`; `None` when
/// they would be more, or there is nothing to compress with.
pub fn compress<T>(
    how: Compression,
    content: &[u8],
    most: usize,
    take: impl FnOnce(&[u8]) -> T,
) -> Option<T> {
    if how.codec == Codec::Raw || most == 0 || content.len() > CHUNK_MAX as usize {
        return None;
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let len = match how.codec {
            Codec::Raw => return None,
            Codec::Lz4 => scratch.lz4(content)?,
            Codec::Zstd => {
                // LZ4 leaves in no time what it finds nothing in, as higher levels do not.
                if looks_random(content) && scratch.lz4(content)? > most {
                    return None;
                }
                scratch.zstd(content, how.level)?
            }
        };
        let pays = len <= most;
        scratch.room.get(..len).filter(|_| pays).map(take)
    })
}

impl Scratch {
    /// Makes `room` large enough for a codec's worst case, which is what codecs want.
    fn make_room(&mut self, most: usize) {
        if self.room.len() < most {
            self.room.resize(most, 0);
        }
    }

    /// Compresses into `room`; how many bytes it took.
    fn lz4(&mut self, content: &[u8]) -> Option<usize> {
        self.make_room(block::get_maximum_output_size(content.len()));
        block::compress_into_with_table(content, &mut self.room, &mut self.table).ok()
    }

    /// The same.
    fn zstd(&mut self, content: &[u8], level: u8) -> Option<usize> {
        self.make_room(zstd_safe::compress_bound(content.len()));
        let level = match level {
            0 => ZSTD_LEVEL_DEFAULT,
            level => level,
        };
        if self.compress.is_none() {
            self.compress = CCtx::try_create();
        }
        let context = self.compress.as_mut()?;
        let room = self.room.as_mut_slice();
        context.compress(room, content, level.into()).ok()
    }
}

/// Whether bytes drawn from all over the content are as evenly spread as those of compressed or
/// encrypted data: no codec gains by their frequencies.
fn looks_random(content: &[u8]) -> bool {
    const PIECES: usize = 64;
    const PIECE: usize = 64;
    let mut counts = [0u64; 256];
    let mut drawn = 0;
    for piece in content.chunks((content.len() / PIECES).max(PIECE)) {
        for byte in piece.iter().take(PIECE) {
            if let Some(count) = counts.get_mut(usize::from(*byte)) {
                *count += 1;
            }
            drawn += 1;
        }
    }
    // How often two of them are equal, of which 1 in 256 is chance. An eighth more is what a code
    // for single bytes turns into one unit in 32.
    let pairs: u64 = counts.iter().map(|n| n * n.saturating_sub(1)).sum();
    let chance = drawn * (drawn - 1u64.min(drawn)) / 256;
    pairs <= chance + chance / 8
}

/// Makes `content` of stored bytes: exactly as much as it has room for.
///
/// # Errors
/// When the bytes are not those of the codec, or make less or more. What is in `content` then means
/// nothing.
pub fn decompress(codec: Codec, stored: &[u8], content: &mut [u8]) -> Result<(), DecompressError> {
    let wrong = |reason: String| DecompressError { codec, reason };
    let len = match codec {
        Codec::Raw => {
            let len = stored.len().min(content.len());
            let (from, to) = (stored.get(..len), content.get_mut(..len));
            if let (Some(from), Some(to)) = (from, to) {
                to.copy_from_slice(from);
            }
            stored.len()
        }
        Codec::Lz4 => {
            block::decompress_into(stored, content).map_err(|error| wrong(error.to_string()))?
        }
        Codec::Zstd => SCRATCH.with_borrow_mut(|scratch| {
            if scratch.decompress.is_none() {
                scratch.decompress = DCtx::try_create();
            }
            let context = scratch.decompress.as_mut();
            let context = context.ok_or_else(|| wrong("no memory".into()))?;
            let done = context.decompress(content, stored);
            done.map_err(|code| wrong(zstd_safe::get_error_name(code).into()))
        })?,
    };
    if len != content.len() {
        let expected = content.len();
        return Err(wrong(format!("it makes {len} bytes, not {expected}")));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests;
