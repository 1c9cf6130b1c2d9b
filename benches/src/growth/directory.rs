//! Entries of one directory.

use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::ROOT;

use super::{Curves, Growth, Series, Store, each, making, own_time, time, time_entries};
use crate::Error;
use crate::driver::{Driver, Message};

const LOOKUPS: u64 = 2000;
const MADE: u64 = 200;
const LISTING_BYTES: u32 = 4096;
/// Replies of a listing that are timed at most.
const LISTINGS_MAX: usize = 500;

fn name(number: u64) -> String {
    format!("a-name-of-usual-length-{number}")
}

/// How long listing takes, and of how many entries: the first ones.
fn list(driver: &mut Driver, dir: u64) -> Result<(Duration, u64), Error> {
    let fh = driver.call(&request::opendir(dir))?.fh;
    let (mut took, mut count, mut at) = (Duration::ZERO, 0, 0);
    for _ in 0..LISTINGS_MAX {
        let listing = request::readdir(dir, fh, at, LISTING_BYTES);
        let began = own_time();
        let entries = driver.call(&listing)?;
        took += own_time().saturating_sub(began);
        count += entries.len() as u64;
        match entries.last() {
            Some(last) => at = last.dirent.off,
            None => break,
        }
    }
    driver.call(&request::releasedir(dir, fh))?;
    Ok((took, count))
}

#[allow(clippy::cast_precision_loss)] // Far below 2^52.
fn costs(curves: &mut Curves, store: &mut Store, dir: u64, entries: u64) -> Result<(), Error> {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let driver = &mut store.driver;
    let lookup = each(LOOKUPS, || {
        let any = |_| Message::new(&request::lookup(dir, name(rng.random_range(0..entries))));
        let lookups: Vec<Message> = (0..LOOKUPS).map(any).collect();
        Ok(time_entries(driver, &lookups)?.0)
    })?;
    curves.add("lookup", entries, lookup);
    let mut unlinked = Vec::new();
    let create = each(MADE, || {
        let names = || (0..MADE).map(|number| format!("new-{number}"));
        let (took, _) = time_entries(driver, &making(dir, names()))?;
        let unlinks = names().map(|name| Message::new(&request::unlink(dir, name)));
        unlinked.push(time(driver, &unlinks.collect::<Vec<_>>())?);
        Ok(took)
    })?;
    curves.add("create", entries, create);
    let unlink = each(MADE, || Ok(unlinked.pop().unwrap_or_default()))?;
    curves.add("unlink", entries, unlink);
    let mut listed = Vec::new();
    for _ in 0..super::REPEATS {
        let (took, count) = list(driver, dir)?;
        listed.push(took.as_secs_f64() * 1e6 / count.max(1) as f64);
    }
    curves.add("readdir, an entry", entries, crate::report::median(listed));
    Ok(())
}

/// From 1 entry on, ten times as many each time.
pub fn run(run: &Growth) -> Result<Vec<Series>, Error> {
    let mut curves = Curves::new("An operation in a large directory", "entries", "us");
    let mut store = Store::new(run)?;
    let made = request::mkdir(ROOT, "large", 0o755);
    let dir = store.driver.call(&made)?.nodeid;
    let (mut there, mut entries) = (0, 1);
    while entries <= run.entries {
        while there < entries {
            let end = entries.min(there + 1000);
            time_entries(&mut store.driver, &making(dir, (there..end).map(name)))?;
            there = end;
        }
        costs(&mut curves, &mut store, dir, entries)?;
        entries *= 10;
    }
    store.close()?;
    Ok(curves.all)
}
