//! What holds the records of a stream together: lengths, numbers and hashes.
//!
//! Invariant: nothing is decoded that does not match its hash, and no length is believed beyond
//! [`PAYLOAD_MAX`].

use std::io::{self, Read, Write};

use super::format::{
    Bytes, FEATURES_KNOWN, HEADER_BYTES, HEADER_START, Header, MAGIC, PAYLOAD_MAX, Record, VERSION,
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
        let unknown = needed & !FEATURES_KNOWN;
        if unknown != 0 {
            let text = format!("the stream needs features that are not known here: {unknown:#x}");
            return Err(StreamError::Unknown(text));
        }
        let fields = bytes.get(HEADER_START..).unwrap_or_default();
        let header =
            Header::decode(needed, fields).ok_or_else(|| damaged("its header makes no sense"))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{ReceivedInode, Time, TreeCounts};
    use crate::format::codec::Compression;
    use crate::format::id::Ino;
    use crate::format::record::{Codec, Dedup, StreamPosition};
    use crate::stream::format::Data;

    /// One record of each kind, with no two numbers in it equal.
    fn one_of_each() -> Vec<Record> {
        let time = |sec: i64| Time { sec, nsec: 7 };
        let inode = ReceivedInode {
            mode: libc::S_IFLNK | 0o777,
            uid: 1,
            gid: 2,
            rdev: 3,
            flags: 4,
            projid: 5,
            size: 6,
            atime: time(-8),
            mtime: time(9),
            ctime: time(10),
            btime: time(11),
            target: b"target".to_vec(),
        };
        let position = StreamPosition {
            pass: 1,
            ino: Ino(12),
            kind: 0x30,
            at: 13,
        };
        vec![
            Record::Inode(Ino(14), inode),
            Record::Xattr(Ino(15), b"user.a".to_vec(), b"value".to_vec()),
            Record::XattrGone(Ino(16), b"user.b".to_vec()),
            Record::Data(Data {
                ino: Ino(17),
                offset: 18,
                codec: Codec::Zstd,
                raw_len: 19,
                hash: [20; 32],
                stored: vec![21; 22],
            }),
            Record::Share {
                ino: Ino(23),
                range: (24, 25),
                source: Ino(26),
                source_offset: 27,
            },
            Record::Reserve(Ino(28), (29, 30)),
            Record::Hole(Ino(31), (32, 33)),
            Record::Unlink(Ino(34), b"old".to_vec()),
            Record::Link(Ino(35), b"new".to_vec(), Ino(36)),
            Record::Gone(Ino(37)),
            Record::Mark(position),
            Record::End(TreeCounts {
                inodes: 38,
                allocated_bytes: 39,
                reserved_bytes: 40,
                next_ino: 41,
            }),
        ]
    }

    #[test]
    fn the_bytes_of_a_stream_are_those_of_version_1() {
        let header = Header {
            snapshot: [42; 16],
            base: [43; 16],
            sender: [44; 16],
            created: Time { sec: 45, nsec: 46 },
            compression: Compression::OFF,
            dedup: Dedup::Verify,
            position: StreamPosition::START,
            counts_projects: false,
            name: "main@monday".into(),
        };
        let mut stream = Vec::new();
        let mut writer = Writer::begin(&mut stream, &header).unwrap();
        for record in one_of_each() {
            writer.put(&record).unwrap();
        }
        // The stream changes with its version and docs/STREAM.md, or not at all.
        let hash = blake3::hash(&stream).to_hex();
        assert_eq!(hash.get(..16), Some("8df60741097eb20c"));
        let (mut reader, found) = Reader::begin(stream.as_slice()).unwrap();
        assert_eq!(found, header);
        for record in one_of_each() {
            assert_eq!(reader.read().unwrap(), record);
        }
        reader.end().unwrap();
    }

    #[test]
    fn what_is_longer_than_a_record_is_not_read() {
        struct Endless(u64);
        impl Read for Endless {
            fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
                bytes.fill(0xff);
                self.0 += bytes.len() as u64;
                Ok(bytes.len())
            }
        }
        let header = Header {
            snapshot: [0; 16],
            base: [0; 16],
            sender: [0; 16],
            created: Time { sec: 0, nsec: 0 },
            compression: Compression::OFF,
            dedup: Dedup::Off,
            position: StreamPosition::START,
            counts_projects: false,
            name: "a@b".into(),
        };
        let mut stream = Vec::new();
        Writer::begin(&mut stream, &header).unwrap();
        let mut endless = Endless(0);
        let (mut reader, _) = Reader::begin(stream.as_slice().chain(&mut endless)).unwrap();
        let error = reader.read().unwrap_err().to_string();
        assert!(error.contains("impossible length"), "{error}");
        drop(reader);
        assert!(endless.0 < 100, "{}", endless.0);
    }
}
