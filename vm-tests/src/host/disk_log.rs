//! The log of a disk's writes and flushes, as QEMU's blklogwrites driver keeps it.
//!
//! QEMU logs a request before it completes it. So all that was complete when a flush was asked for
//! lies before the flush in the log. What lies there too and was still under way is taken for
//! durable as well, though a disk need not do that.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::guest::{Error, Result};

/// 'WRLsf...' as the field of the log's super block (Linux, dm-log-writes).
const LOG_MAGIC: u64 = 0x006a_7366_7773_6872;
const FLAG_FLUSH: u64 = 1;
const FLAG_FUA: u64 = 2;
const FLAG_DISCARD: u64 = 4;

/// An entry of the write log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Where on the disk it writes.
    pub offset: u64,
    /// Bytes written; 0 for a mere flush.
    pub len: u64,
    /// The log's flags.
    flags: u64,
    /// Where its bytes lie in the log.
    data: u64,
    /// Where the next entry begins.
    pub end: u64,
}

impl Entry {
    /// Whether all before it is durable when it is complete.
    #[must_use]
    pub fn flushes(&self) -> bool {
        self.flags & FLAG_FLUSH != 0
    }

    /// Whether its own bytes are durable when it is complete.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.flags & FLAG_FUA != 0
    }

    /// What it writes: zeros for a discard.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn read(&self, log: &File) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.len).unwrap_or(0)];
        if self.flags & FLAG_DISCARD == 0 {
            log.read_exact_at(&mut bytes, self.data)
                .map_err(|error| Error::new("write log", error))?;
        }
        Ok(bytes)
    }

    /// Does to a disk what it says.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub fn apply(&self, log: &File, disk: &File) -> Result<()> {
        let written = disk.write_all_at(&self.read(log)?, self.offset);
        written.map_err(|error| Error::new("rebuilding a disk", error))
    }
}

/// Reads the entries of a log in the format of dm-log-writes: a super block, then for each request
/// a header block and its data.
///
/// # Errors
/// When it cannot be read or is no such log.
pub fn read_log(log: &File) -> Result<Vec<Entry>> {
    let failed = |error| Error::new("write log", error);
    let mut block = [0; 512];
    log.read_exact_at(&mut block, 0).map_err(failed)?;
    if u64_at(&block, 0) != LOG_MAGIC {
        return Err(Error("the write log has no super block".into()));
    }
    let length = log.metadata().map_err(failed)?.len();
    let mut at = 512;
    let mut entries = Vec::new();
    while at + 512 <= length {
        log.read_exact_at(&mut block, at).map_err(failed)?;
        let (sector, sectors, flags) = (u64_at(&block, 0), u64_at(&block, 8), u64_at(&block, 16));
        if sectors == 0 && flags == 0 {
            break;
        }
        let (len, data) = (sectors * 512, at + 512);
        let logged = if flags & FLAG_DISCARD == 0 { len } else { 0 };
        let end = data + logged;
        if end > length {
            break;
        }
        entries.push(Entry {
            offset: sector * 512,
            len,
            flags,
            data,
            end,
        });
        at = end;
    }
    Ok(entries)
}

fn u64_at(block: &[u8; 512], at: usize) -> u64 {
    let bytes = block.get(at..at + 8).and_then(|b| b.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
impl Entry {
    /// An entry without a log.
    pub fn of(kind: &str, offset: u64, len: u64) -> Entry {
        let flags = match kind {
            "flush" => FLAG_FLUSH,
            "fua" => FLAG_FUA,
            _ => 0,
        };
        Entry {
            offset,
            len,
            flags,
            data: 0,
            end: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(sector: u64, sectors: u64, flags: u64) -> [u8; 512] {
        let mut block = [0; 512];
        for (at, value) in [(0, sector), (8, sectors), (16, flags)] {
            block[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        block
    }

    #[test]
    fn a_log_is_read_up_to_what_was_not_finished() {
        let file = tempfile::tempfile().unwrap();
        let mut bytes = header(LOG_MAGIC, 1, 0).to_vec();
        bytes.extend(header(8, 2, 0));
        bytes.extend([7; 1024]);
        bytes.extend(header(0, 0, FLAG_FLUSH));
        bytes.extend(header(4, 1, FLAG_DISCARD));
        bytes.extend(header(16, 8, FLAG_FUA));
        file.write_all_at(&bytes, 0).unwrap();
        let entries = read_log(&file).unwrap();
        let seen: Vec<_> = entries.iter().map(|e| (e.offset, e.len)).collect();
        assert_eq!(seen, [(4096, 1024), (0, 0), (2048, 512)]);
        assert_eq!(entries[0].read(&file).unwrap(), [7; 1024]);
        assert_eq!(entries[2].read(&file).unwrap(), [0; 512]);
        assert!(entries[1].flushes() && !entries[0].flushes());
    }

    #[test]
    fn what_is_no_log_is_refused() {
        let file = tempfile::tempfile().unwrap();
        assert!(read_log(&file).is_err());
        file.set_len(4096).unwrap();
        assert!(read_log(&file).is_err());
    }
}
