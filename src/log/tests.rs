//! The journal on disks that lose power.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Journal;
use super::recovery::{self, Format, Options};
use crate::disk::{Disk, Media};
use crate::format::key::TreeId;
use crate::store::Read;

#[derive(Default)]
struct Memory(Mutex<Vec<u8>>);

impl Disk for Memory {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let bytes = self.0.lock();
        let source = bytes
            .get(start..start + buf.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(source);
        Ok(())
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let mut bytes = self.0.lock();
        let end = start + buf.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(buf);
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = usize::try_from(offset + len).unwrap();
        let mut bytes = self.0.lock();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        Ok(())
    }
    fn trim(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn len_bytes(&self) -> u64 {
        self.0.lock().len() as u64
    }
    fn available_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

fn media() -> Media {
    let disk = || Arc::new(Memory::default()) as Arc<dyn Disk>;
    Media {
        superblock: disk(),
        nodes: disk(),
        strings: disk(),
        chunks: disk(),
        wal: disk(),
    }
}

fn contents(read: &impl Read) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut all = BTreeMap::new();
    read.scan(TreeId::Chunks, &[], &[0xff; 9], &mut |key, value| {
        all.insert(key.to_vec(), value.to_vec());
        ControlFlow::Continue(())
    })
    .unwrap();
    all
}

#[test]
fn reopening_brings_back_what_was_synced() {
    let media = media();
    let format = Format {
        uuid: [1; 16],
        hash_seed: [2; 16],
        created_sec: 0,
        capacity_bytes: 0,
        log_bytes: 4 << 20,
    };
    let journal = recovery::create(media.clone(), format, 1 << 20).unwrap();
    journal.checkpoint(true).unwrap();
    drop(journal);
    let options = Options {
        read_only: false,
        discard_damaged_log: false,
        cache_bytes: 1 << 20,
    };
    let mut model = BTreeMap::new();
    for round in 0..30u64 {
        let opened = recovery::open(media.clone(), options).unwrap();
        assert_eq!(opened.report.damage, None);
        let journal: Journal = opened.journal;
        assert_eq!(contents(&journal.view()), model, "round {round}");
        journal.find_free_pages().unwrap();
        for step in 0..300u64 {
            let mut tx = journal.begin().unwrap();
            let key = ((step * 7919 + round) % 1000).to_be_bytes().to_vec();
            let value = vec![u8::try_from(step % 256).unwrap(); 300];
            tx.put(TreeId::Chunks, key.clone(), value.clone()).unwrap();
            tx.intern(format!("name {}", (round * step) % 77).as_bytes())
                .unwrap();
            let end = tx.commit().unwrap();
            model.insert(key, value);
            if step % 50 == 0 {
                journal.sync(end).unwrap();
                assert!(journal.durable_lsn() >= end);
            }
            if step % 130 == round % 130 {
                journal.checkpoint(false).unwrap();
            }
        }
        journal.sync(journal.end_lsn()).unwrap();
    }
}
