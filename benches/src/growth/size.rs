//! Bytes of one file: sparse, with the same number of blocks written anywhere, and written from
//! end to end.

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::{ROOT, SetattrIn};

use super::{Curves, Growth, Series, Store, each, resident_mib, time};
use crate::Error;
use crate::driver::{DATA_MAX, Driver, Message};

const BLOCK: usize = 4096;
const BLOCKS: u64 = 1000;
const MIB: u64 = 1 << 20;
/// `FATTR_SIZE` (include/uapi/linux/fuse.h).
const FATTR_SIZE: u32 = 1 << 3;
/// Pieces of 1 MiB that are read back.
const PIECES: u64 = 32;

fn write(node: u64, fh: u64, at: u64, len: usize) -> Message {
    Message::write(&request::write(node, fh, at, &vec![0; len]), len)
}

fn places(rng: &mut ChaCha8Rng, bytes: u64) -> Vec<u64> {
    let blocks = bytes / BLOCK as u64;
    (0..BLOCKS)
        .map(|_| rng.random_range(0..blocks) * BLOCK as u64)
        .collect()
}

fn reads(node: u64, fh: u64, places: &[u64]) -> Vec<Message> {
    let read = |at: &u64| Message::new(&request::read(node, fh, *at, 4096));
    places.iter().map(read).collect()
}

fn writes(node: u64, fh: u64, places: &[u64]) -> Vec<Message> {
    places
        .iter()
        .map(|at| write(node, fh, *at, BLOCK))
        .collect()
}

/// A sparse file of this size.
fn sparse(curves: &mut Curves, driver: &mut Driver, mib: u64) -> Result<(), Error> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let name = format!("sparse{mib}");
    let (entry, open) = driver.call(&request::create(ROOT, &name, 0o644))?;
    let (node, fh) = (entry.nodeid, open.fh);
    let size = SetattrIn {
        valid: FATTR_SIZE,
        size: mib * MIB,
        ..SetattrIn::default()
    };
    driver.call(&request::setattr(node, &size))?;
    let mut written = Vec::new();
    let cost = each(BLOCKS, || {
        let places = places(&mut rng, mib * MIB);
        written.extend_from_slice(&places);
        time(driver, &writes(node, fh, &places))
    })?;
    curves.add("write 4 KiB anywhere", mib, cost);
    driver.call(&request::fsync(node, fh, 0))?;
    let cost = each(BLOCKS, || {
        let any = |_| written.get(rng.random_range(0..written.len())).copied();
        let places: Vec<u64> = (0..BLOCKS).filter_map(any).collect();
        time(driver, &reads(node, fh, &places))
    })?;
    curves.add("read 4 KiB that were written", mib, cost);
    let cost = each(BLOCKS, || {
        let places = places(&mut rng, mib * MIB);
        time(driver, &reads(node, fh, &places))
    })?;
    curves.add("read 4 KiB anywhere", mib, cost);
    driver.call(&request::release(node, fh))?;
    driver.call(&request::forget(node, 1))?;
    let unlink = Message::new(&request::unlink(ROOT, name));
    let took = time(driver, &[unlink])?;
    curves.add("unlink", mib, took.as_secs_f64() * 1e6);
    Ok(())
}

/// A file that grows by being written, until it has this size.
struct Written {
    node: u64,
    fh: u64,
    mib: u64,
}

impl Written {
    fn grow(&mut self, curves: &mut Curves, store: &mut Store, mib: u64) -> Result<(), Error> {
        let (node, fh) = (self.node, self.fh);
        let pieces: Vec<Message> = (self.mib..mib)
            .map(|at| write(node, fh, at * MIB, DATA_MAX))
            .chain([Message::new(&request::fsync(node, fh, 0))])
            .collect();
        let began = Instant::now();
        let took = time(&mut store.driver, &pieces)?;
        let elapsed = began.elapsed();
        #[allow(clippy::cast_precision_loss)]
        let of_each = |time: Duration| time.as_secs_f64() * 1e6 / (mib - self.mib).max(1) as f64;
        let name = "write 1 MiB behind the end, fsync";
        curves.add(name, mib, of_each(took));
        curves.add(&format!("{name}, elapsed"), mib, of_each(elapsed));
        self.mib = mib;
        let mut rng = ChaCha8Rng::seed_from_u64(mib);
        let driver = &mut store.driver;
        let cost = each(BLOCKS, || {
            let places = places(&mut rng, mib * MIB);
            time(driver, &reads(node, fh, &places))
        })?;
        curves.add("read 4 KiB anywhere", mib, cost);
        let cost = each(PIECES, || {
            let piece = |_| {
                let at = rng.random_range(0..mib) * MIB;
                Message::new(&request::read(node, fh, at, 1 << 20))
            };
            time(driver, &(0..PIECES).map(piece).collect::<Vec<_>>())
        })?;
        curves.add("read 1 MiB anywhere", mib, cost);
        let cost = each(BLOCKS, || {
            let places = places(&mut rng, mib * MIB);
            time(driver, &writes(node, fh, &places))
        })?;
        curves.add("write 4 KiB anywhere", mib, cost);
        driver.call(&request::fsync(node, fh, 0))?;
        Ok(())
    }
}

/// From 1 MiB on, four times as much each time.
pub fn run(run: &Growth) -> Result<Vec<Series>, Error> {
    let mut holes = Curves::new("An operation on a large sparse file", "MiB", "us");
    let mut full = Curves::new("An operation on a large written file", "MiB", "us");
    let mut memory = Curves::new("Memory with a large written file", "MiB", "MiB");
    let mut store = Store::new(run)?;
    let mut mib = 1;
    while mib <= run.sparse << 10 {
        sparse(&mut holes, &mut store.driver, mib)?;
        mib *= 4;
    }
    let base = resident_mib(std::process::id());
    let (entry, open) = store
        .driver
        .call(&request::create(ROOT, "written", 0o644))?;
    let mut file = Written {
        node: entry.nodeid,
        fh: open.fh,
        mib: 0,
    };
    mib = 1;
    while mib <= run.written {
        file.grow(&mut full, &mut store, mib)?;
        let now = resident_mib(std::process::id());
        memory.add("resident, its own", mib, now.0 - base.0);
        mib *= 4;
    }
    store.close()?;
    let all = [holes, full, memory].into_iter();
    Ok(all.flat_map(|one| one.all).collect())
}
