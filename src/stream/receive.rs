//! Receiving: each record that is read has been checked, and is made so.

use std::io::Read;
use std::sync::Arc;

use super::format::{Data, Header, Record};
use super::framing::Reader;
use super::send::Watch;
use super::{Progress, StreamError};
use crate::engine::{Content, DatasetError, EngineError, ReceiveHow, Receiving, Store};
use crate::format::id::Ino;
use crate::format::record::ReceiveRecord;

/// Pieces of a file's content that are written together.
const TOGETHER: usize = if cfg!(test) { 4 } else { 32 };

/// Reads a snapshot from `input` into the store: into the dataset `dataset`, as its snapshot
/// `snapshot`, or as what the sender calls it. Durable on return. What was received before an error
/// stays, unless it was nothing, and another stream can go on with it.
///
/// # Errors
/// When the stream is damaged or cut off; when it does not go with the dataset; when the store
/// refuses; when `watch` breaks it off.
pub fn receive(
    store: &Arc<Store>,
    (dataset, snapshot): (&str, Option<&str>),
    input: impl Read,
    watch: &mut Watch<'_>,
) -> Result<Progress, StreamError> {
    let (mut reader, header) = Reader::begin(input)?;
    let receiving = store.receive(&how(dataset, snapshot, &header)?)?;
    if header.counts_projects {
        receiving.count_projects().map_err(DatasetError::from)?;
    }
    let mut receiver = Receiver {
        to: receiving,
        ino: Ino(0),
        content: Vec::new(),
    };
    let counts = loop {
        let done = match reader.read() {
            Ok(Record::End(counts)) => break receiver.write().map(|()| counts),
            Ok(record) => receiver.apply(record),
            Err(error) => {
                receiver.give_up();
                return Err(error);
            }
        };
        if let Err(error) = done {
            receiver.give_up();
            return Err(at(&reader, error.into()));
        }
        if watch(reader.progress()).is_break() {
            receiver.give_up();
            let source = std::io::ErrorKind::Interrupted.into();
            let (offset, record) = reader.place();
            return Err(StreamError::Read {
                offset,
                record,
                source,
            });
        }
    };
    let place = reader.place();
    let counts = match counts {
        Ok(counts) => counts,
        Err(error) => {
            receiver.give_up();
            return Err(at(&reader, error.into()));
        }
    };
    if let Err(error) = reader.end() {
        receiver.give_up();
        return Err(error);
    }
    receiver
        .to
        .finish(counts)
        .map_err(|error| located(place, error))?;
    Ok(reader.progress())
}

fn how<'a>(
    dataset: &'a str,
    snapshot: Option<&str>,
    header: &Header,
) -> Result<ReceiveHow<'a>, StreamError> {
    let own = header.name.split_once('@').map(|(_, own)| own);
    let name = snapshot.or(own).unwrap_or_default();
    Ok(ReceiveHow {
        dataset,
        record: ReceiveRecord {
            snapshot: header.snapshot,
            base: header.base,
            sender: header.sender,
            created: header.created,
            position: header.position,
            name: name.to_owned(),
        },
        compression: header.compression,
        dedup: header.dedup,
    })
}

/// An error about the record that was read last.
fn at<R: Read>(reader: &Reader<R>, error: DatasetError) -> StreamError {
    located(reader.place(), error)
}

fn located((offset, record): (u64, u64), source: DatasetError) -> StreamError {
    match source {
        // It can be nothing that a store has sent.
        DatasetError::Engine(EngineError::Invalid(reason)) => StreamError::Damaged {
            offset,
            record,
            reason: reason.into(),
        },
        source => StreamError::Store {
            offset,
            record,
            source,
        },
    }
}

struct Receiver {
    to: Receiving,
    /// The file that the content is of.
    ino: Ino,
    content: Vec<Content>,
}

impl Receiver {
    fn apply(&mut self, record: Record) -> Result<(), EngineError> {
        if let Record::Data(data) = record {
            return self.collect(data);
        }
        self.write()?;
        match record {
            Record::Inode(ino, inode) => self.to.inode(ino, &inode),
            Record::Xattr(ino, name, value) => self.to.set_xattr(ino, &name, &value),
            Record::XattrGone(ino, name) => self.to.remove_xattr(ino, &name),
            Record::Share {
                ino,
                range,
                source,
                source_offset,
            } => self.to.share(ino, range, source, source_offset),
            Record::Reserve(ino, range) => self.to.reserve(ino, range),
            Record::Hole(ino, range) => self.to.punch(ino, range),
            Record::Unlink(dir, name) => self.to.unlink(dir, &name),
            Record::Link(dir, name, ino) => self.to.link(dir, &name, ino),
            Record::Gone(ino) => self.to.remove(ino),
            Record::Mark(position) => self.to.mark(position),
            Record::ProjectLimit(project, limit) => self.to.limit_project(project, limit),
            Record::Data(_) | Record::End(_) => Ok(()),
        }
    }

    /// Keeps content to be written with what follows it.
    fn collect(&mut self, data: Data) -> Result<(), EngineError> {
        let Data {
            ino,
            offset,
            codec,
            raw_len,
            hash,
            stored,
        } = data;
        let is_next = self.content.last().is_none_or(|last| last.end() <= offset);
        if ino != self.ino || !is_next || self.content.len() >= TOGETHER {
            self.write()?;
        }
        self.ino = ino;
        let content = Content::new(offset, codec, raw_len, hash, stored)?;
        self.content.push(content);
        Ok(())
    }

    fn write(&mut self) -> Result<(), EngineError> {
        match self.content.is_empty() {
            true => Ok(()),
            false => self.to.content(self.ino, std::mem::take(&mut self.content)),
        }
    }

    /// Keeps what was received, for who goes on.
    fn give_up(self) {
        if let Err(error) = self.to.sync() {
            ::log::error!("what was received is not durable: {error}");
        }
    }
}
