//! What holds the records of a stream together: lengths, numbers and hashes.
//!
//! Invariant: nothing is decoded that does not match its hash, and no length is believed beyond
//! [`PAYLOAD_MAX`].

use std::io::{self, Read, Write};

use super::format::{
    Bytes, HEADER_BYTES, HEADER_START, Header, MAGIC, PAYLOAD_MAX, Record, VERSION,
};
use super::{Progress, StreamError};

/// Bytes of a hash.
const HASH_BYTES: usize = 32;
/// Bytes of a record before its hash: length, kind, number.
const FIELD_BYTES: usize = 16;
/// Bytes of a record before its payload.
const HEAD_BYTES: usize = FIELD_BYTES + HASH_BYTES;
/// What the hash of the header is derived with.
const CONTEXT: &str = "razorfs stream version 1";

fn hash_header(bytes: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(bytes);
    *hasher.finalize().as_bytes()
}

/// The hash of a record says what was before it, too.
fn hash_record(before: &[u8; 32], head: &[u8], payload: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before);
    hasher.update(head);
    hasher.update(payload);
    *hasher.finalize().as_bytes()
}

/// Writes a stream.
pub struct Writer<W> {
    out: W,
    hash: [u8; 32],
    progress: Progress,
}

impl<W: Write> Writer<W> {
    /// Begins one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(mut out: W, header: &Header) -> Result<Self, StreamError> {
        let bytes = header.encode();
        let hash = hash_header(&bytes);
        let written = out.write_all(&bytes).and_then(|()| out.write_all(&hash));
        written.map_err(StreamError::Write)?;
        let progress = Progress {
            bytes: (bytes.len() + HASH_BYTES) as u64,
            ..Progress::default()
        };
        Ok(Writer {
            out,
            hash,
            progress,
        })
    }

    /// Writes a record.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&mut self, record: &Record) -> Result<(), StreamError> {
        self.put_bytes(record.kind(), &record.encode())?;
        self.progress.inodes += u64::from(matches!(record, Record::Inode(..)));
        match record {
            Record::End(_) => self.out.flush().map_err(StreamError::Write),
            _ => Ok(()),
        }
    }

    /// Writes a record of any kind and payload.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_bytes(&mut self, kind: u32, payload: &[u8]) -> Result<(), StreamError> {
        let number = self.progress.records + 1;
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut head = len.to_le_bytes().to_vec();
        head.extend_from_slice(&kind.to_le_bytes());
        head.extend_from_slice(&number.to_le_bytes());
        self.hash = hash_record(&self.hash, &head, payload);
        let parts = [head.as_slice(), &self.hash, payload];
        let written = parts.iter().try_for_each(|part| self.out.write_all(part));
        written.map_err(StreamError::Write)?;
        self.progress.records = number;
        self.progress.bytes += (HEAD_BYTES + payload.len()) as u64;
        Ok(())
    }

    /// What was written so far.
    pub fn progress(&self) -> Progress {
        self.progress
    }
}

/// Reads a stream, of which nothing is believed.
pub struct Reader<R> {
    input: R,
    hash: [u8; 32],
    progress: Progress,
    /// Where the record begins that was read last, and its number.
    place: (u64, u64),
    payload: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// When there is none, or one of another version.
    pub fn begin(input: R) -> Result<(Self, Header), StreamError> {
        let mut reader = Reader {
            input,
            hash: [0; 32],
            progress: Progress::default(),
            place: (0, 0),
            payload: Vec::new(),
        };
        let mut bytes = vec![0; HEADER_BYTES];
        reader.fill(&mut bytes)?;
        let mut fields = Bytes(&bytes);
        let damaged = |reason: &str| StreamError::Damaged {
            offset: 0,
            record: 0,
            reason: reason.into(),
        };
        if fields.array() != Some(MAGIC) {
            return Err(damaged("this is no stream of razorfs send"));
        }
        let version = fields.u32().unwrap_or(0);
        if version != VERSION {
            let text = format!("the stream is of version {version}; this is for version 1");
            return Err(StreamError::Unknown(text));
        }
        let name_len = fields.u32().unwrap_or(u32::MAX) as usize;
        if name_len > crate::engine::DATASET_NAME_MAX {
            return Err(damaged("its name has an impossible length"));
        }
        bytes.resize(HEADER_BYTES + name_len, 0);
        reader.fill(bytes.get_mut(HEADER_BYTES..).unwrap_or_default())?;
        let mut found = [0; HASH_BYTES];
        reader.fill(&mut found)?;
        reader.hash = hash_header(&bytes);
        if found != reader.hash {
            return Err(damaged("its header does not match its hash"));
        }
        let mut fields = Bytes(bytes.get(16..).unwrap_or_default());
        let needed = fields.u64().unwrap_or(u64::MAX);
        if needed != 0 {
            let text = format!("the stream needs features that are not known here: {needed:#x}");
            return Err(StreamError::Unknown(text));
        }
        let fields = bytes.get(HEADER_START..).unwrap_or_default();
        let header = Header::decode(fields).ok_or_else(|| damaged("its header makes no sense"))?;
        Ok((reader, header))
    }

    /// Reads the next record.
    ///
    /// # Errors
    /// When it is not there, or is not the one that was written there.
    pub fn read(&mut self) -> Result<Record, StreamError> {
        let number = self.progress.records + 1;
        self.place = (self.progress.bytes, number);
        let mut head = [0; HEAD_BYTES];
        self.fill(&mut head)?;
        let mut fields = Bytes(&head);
        let len = fields.u32().unwrap_or(u32::MAX) as usize;
        let kind = fields.u32().unwrap_or(0);
        if len > PAYLOAD_MAX {
            return Err(self.damaged("a record of an impossible length"));
        }
        if fields.u64() != Some(number) {
            return Err(self.damaged("it is not the record that belongs here"));
        }
        let mut payload = std::mem::take(&mut self.payload);
        payload.resize(len, 0);
        self.fill(&mut payload)?;
        let hash = hash_record(
            &self.hash,
            head.get(..FIELD_BYTES).unwrap_or_default(),
            &payload,
        );
        if head.get(FIELD_BYTES..) != Some(hash.as_slice()) {
            return Err(self.damaged("it does not match its hash"));
        }
        let record = Record::decode(kind, &payload);
        let record = record.ok_or_else(|| self.damaged("the record makes no sense"))?;
        self.hash = hash;
        self.payload = payload;
        self.progress.records = number;
        self.progress.inodes += u64::from(matches!(record, Record::Inode(..)));
        Ok(record)
    }

    /// Makes sure that nothing follows.
    ///
    /// # Errors
    /// When something does.
    pub fn end(&mut self) -> Result<(), StreamError> {
        self.place = (self.progress.bytes, self.progress.records + 1);
        match self.input.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.damaged("something follows behind its end")),
            Err(source) => Err(self.unreadable(source)),
        }
    }

    /// What was read so far.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Where the record begins that was read last, and its number.
    pub fn place(&self) -> (u64, u64) {
        self.place
    }

    fn damaged(&self, reason: &str) -> StreamError {
        let (offset, record) = self.place;
        let reason = reason.into();
        StreamError::Damaged {
            offset,
            record,
            reason,
        }
    }

    fn unreadable(&self, source: io::Error) -> StreamError {
        let (offset, record) = self.place;
        StreamError::Read {
            offset,
            record,
            source,
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), StreamError> {
        match self.input.read_exact(bytes) {
            Ok(()) => {
                self.progress.bytes += bytes.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged("it ends here, before its end"))
            }
            Err(error) => Err(self.unreadable(error)),
        }
    }
}
