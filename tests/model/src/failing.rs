//! A store in a directory, on disks of which one call can be made to fail.
//!
//! What a flush that failed did not write is forgotten, as Linux forgets it ("Can Applications
//! Recover from fsync Failures?", USENIX ATC 2020): its pages count as clean, the next flush
//! succeeds, and what was on the disk comes back when they leave the page cache.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use razorfs::disk::dir::{self, OpenDir, StoreDir};
use razorfs::disk::sim::Call;
use razorfs::disk::{Disk, Media, SECTOR_BYTES};
use tempfile::TempDir;

const PAGE: u64 = 4096;
const FILES: usize = 5;

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// EIO: a read, or a write of which nothing was written.
    Nothing,
    /// EIO, when half of a write was written, in whole sectors.
    Half,
    /// ENOSPC: an allocation, or a write of which half was written.
    Full,
    /// EIO of a flush; everything was written nevertheless.
    Written,
    /// EIO of a flush; what it did not write is read as it was before from now on.
    Lost,
    /// EIO of a flush; what it did not write is read from memory until the files are opened again.
    LostLater,
}

impl Way {
    pub const ALL: [Way; 6] = [
        Way::Nothing,
        Way::Half,
        Way::Full,
        Way::Written,
        Way::Lost,
        Way::LostLater,
    ];

    /// The ways in which a kind of call fails.
    #[must_use]
    pub fn of(call: Call) -> &'static [Way] {
        match call {
            Call::Read | Call::Trim | Call::Cut => &Way::ALL[..1],
            Call::Write => &Way::ALL[..3],
            Call::Flush => &Way::ALL[3..],
            Call::Allocate => &Way::ALL[2..3],
        }
    }

    fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Way::Full => libc::ENOSPC,
            _ => libc::EIO,
        })
    }
}

/// A call that is to fail.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub call: Call,
    /// How many of that kind succeed first.
    pub after: u64,
    /// Whether all later ones of the kind fail too.
    pub sticky: bool,
    pub way: Way,
}

/// What was done to a file: pages by their number, and as they were.
#[derive(Default)]
struct History {
    /// Of which a copy is made: the rest is space that was never written to.
    written: BTreeSet<u64>,
    /// At the last flush, of those written since.
    unflushed: BTreeMap<u64, Vec<u8>>,
    /// On the disk, of those whose content only memory holds, and which no flush will write.
    lost: BTreeMap<u64, Vec<u8>>,
}

/// What the files of a store share.
#[derive(Default)]
struct Shared {
    fault: Option<Fault>,
    /// Calls of the kind that is to fail.
    calls: u64,
    files: [History; FILES],
}

impl Shared {
    /// Counts a call; how it fails.
    fn call(&mut self, call: Call) -> Option<Fault> {
        let fault = self.fault.filter(|fault| fault.call == call)?;
        let nth = self.calls;
        self.calls += 1;
        (nth == fault.after || fault.sticky && nth > fault.after).then_some(fault)
    }
}

/// A file of a store.
struct Failing {
    file: Arc<dyn Disk>,
    index: usize,
    shared: Arc<Mutex<Shared>>,
}

impl Failing {
    /// Keeps what a write is about to replace.
    fn keep(&self, history: &mut History, offset: u64, len: usize) -> io::Result<()> {
        let end = (offset + len as u64).div_ceil(PAGE);
        for page in offset / PAGE..end {
            history.written.insert(page);
            if history.unflushed.contains_key(&page) {
                continue;
            }
            let bytes = match history.lost.remove(&page) {
                Some(bytes) => bytes,
                None => get(&*self.file, page)?,
            };
            history.unflushed.insert(page, bytes);
        }
        Ok(())
    }

    /// Forgets what was not flushed, or some of it.
    fn forget(&self, history: &mut History, fault: Fault) -> io::Result<()> {
        let mut rng = ChaCha8Rng::seed_from_u64(fault.after);
        let all: bool = rng.random();
        for (page, bytes) in std::mem::take(&mut history.unflushed) {
            match fault.way {
                _ if !all && rng.random() => {}
                Way::Lost => put(&*self.file, page, &bytes)?,
                Way::LostLater => drop(history.lost.insert(page, bytes)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// A page, with zeros behind the end of the file.
fn get(file: &dyn Disk, page: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; PAGE as usize];
    let len = file.len_bytes().saturating_sub(page * PAGE).min(PAGE);
    file.read_at(page * PAGE, &mut bytes[..len as usize])?;
    Ok(bytes)
}

/// Writes a page, as far as the file goes.
fn put(file: &dyn Disk, page: u64, bytes: &[u8]) -> io::Result<()> {
    let len = file.len_bytes().saturating_sub(page * PAGE).min(PAGE);
    file.write_at(page * PAGE, &bytes[..len as usize])
}

impl Disk for Failing {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match self.shared.lock().call(Call::Read) {
            Some(fault) => Err(fault.way.error()),
            None => self.file.read_at(offset, buf),
        }
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let mut shared = self.shared.lock();
        let fault = shared.call(Call::Write);
        let written = match fault.map(|fault| fault.way) {
            None => buf,
            Some(Way::Nothing) => &[],
            Some(_) => &buf[..buf.len() / 2 / SECTOR_BYTES * SECTOR_BYTES],
        };
        if !written.is_empty() {
            self.keep(&mut shared.files[self.index], offset, written.len())?;
            self.file.write_at(offset, written)?;
        }
        fault.map_or(Ok(()), |fault| Err(fault.way.error()))
    }

    fn flush(&self) -> io::Result<()> {
        let mut shared = self.shared.lock();
        let fault = shared.call(Call::Flush);
        let history = &mut shared.files[self.index];
        if let Some(fault) = fault {
            self.forget(history, fault)?;
            return Err(fault.way.error());
        }
        self.file.flush()?;
        history.unflushed.clear();
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        match self.shared.lock().call(Call::Allocate) {
            Some(fault) => Err(fault.way.error()),
            None => self.file.allocate(offset, len),
        }
    }

    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        match self.shared.lock().call(Call::Trim) {
            Some(fault) => Err(fault.way.error()),
            None => self.file.trim(offset, len),
        }
    }

    fn len_bytes(&self) -> u64 {
        self.file.len_bytes()
    }

    fn available_bytes(&self) -> io::Result<u64> {
        self.file.available_bytes()
    }
}

/// A store in a temporary directory.
pub struct Files {
    store: StoreDir,
    shared: Arc<Mutex<Shared>>,
    dir: TempDir,
}

impl Files {
    /// Files of a store that is yet to be made.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new() -> io::Result<Files> {
        let dir = tempfile::tempdir()?;
        Ok(Files {
            store: dir::create_store(dir.path(), true, false).map_err(io::Error::other)?,
            shared: Arc::default(),
            dir,
        })
    }

    /// The files, with calls that may fail.
    #[must_use]
    pub fn media(&self) -> Media {
        let failing = |index| -> Arc<dyn Disk> {
            Arc::new(Failing {
                file: Arc::clone(files(&self.store.media)[index]),
                index,
                shared: Arc::clone(&self.shared),
            })
        };
        Media {
            superblock: failing(0),
            nodes: failing(1),
            strings: failing(2),
            chunks: failing(3),
            wal: failing(4),
        }
    }

    /// The files themselves, as they are when the process was killed and the page cache is gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn plain(&self) -> io::Result<Media> {
        let mut shared = self.shared.lock();
        for (file, history) in files(&self.store.media).iter().zip(&mut shared.files) {
            for (page, bytes) in std::mem::take(&mut history.lost) {
                put(&***file, page, &bytes)?;
            }
        }
        Ok(self.store.media.clone())
    }

    /// Makes a call fail from now on; counting starts anew.
    pub fn set_fault(&self, fault: Option<Fault>) {
        let mut shared = self.shared.lock();
        shared.fault = fault;
        shared.calls = 0;
    }

    /// Calls of the kind that is to fail, since it was said.
    #[must_use]
    pub fn fault_calls(&self) -> u64 {
        self.shared.lock().calls
    }

    /// A copy of the directory, while no flush has failed.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn killed(&self) -> io::Result<Files> {
        let dir = tempfile::tempdir()?;
        for entry in fs::read_dir(&self.dir)? {
            File::create(dir.path().join(entry?.file_name()))?;
        }
        let options = OpenDir {
            read_only: false,
            allow_volatile: true,
        };
        let copy = Files {
            store: dir::open_store(dir.path(), options).map_err(io::Error::other)?,
            shared: Arc::default(),
            dir,
        };
        let both = files(&self.store.media)
            .into_iter()
            .zip(files(&copy.store.media));
        let shared = self.shared.lock();
        for (index, (from, to)) in both.enumerate() {
            let History { written, lost, .. } = &shared.files[index];
            assert!(lost.is_empty(), "what is lost is not in the files");
            if from.len_bytes() > 0 {
                to.allocate(0, from.len_bytes())?;
            }
            for page in written {
                put(&**to, *page, &get(&**from, *page)?)?;
            }
            copy.shared.lock().files[index].written = written.clone();
        }
        Ok(copy)
    }
}

fn files(media: &Media) -> [&Arc<dyn Disk>; FILES] {
    [
        &media.superblock,
        &media.nodes,
        &media.strings,
        &media.chunks,
        &media.wal,
    ]
}
