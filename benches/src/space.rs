//! What compression and deduplication save and cost: the same files written to stores that differ
//! in nothing else, in turn, and read back from a store opened anew.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use razorfs::disk::dir::{OpenDir, create_store, open_store};
use razorfs::engine::{
    Cred, MkfsOptions, NewInode, OpenOptions, Volume, WriteFlags, mkfs, system_clock,
};
use razorfs::format::codec::Compression;
use razorfs::format::id::Ino;
use razorfs::format::key::TreeId;
use razorfs::format::record::{ChunkRecord, Dedup};
use razorfs::format::superblock::UNIT_BYTES;
use razorfs::log::recovery;
use razorfs::store::Read;
use tempfile::TempDir;

use crate::{Error, work_dir};

/// Measures what compression and deduplication save and cost.
#[derive(clap::Args)]
pub struct Space {
    /// The files to write.
    #[arg(long, default_value = "/usr/share/doc")]
    tree: PathBuf,
    /// Of them, as many bytes at most; and as many random ones.
    #[arg(long, default_value_t = 128 << 20)]
    bytes: usize,
    /// How new chunks are compressed; the first is what the others are compared with.
    #[arg(long, value_delimiter = ',', default_value = "off,lz4,zstd,zstd:9")]
    compression: Vec<Compression>,
    /// How often files are written to see what deduplication makes of it.
    #[arg(long, default_value_t = 10)]
    copies: usize,
    /// Of the files, as many bytes at most for that.
    #[arg(long, default_value_t = 16 << 20)]
    copied_bytes: usize,
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Where the stores go, on the disk that is to be measured.
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
}

/// What a store took.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    write: Duration,
    write_cpu: Duration,
    read: Duration,
    content_bytes: u64,
    stored_bytes: u64,
}

/// Measures, and prints a table.
///
/// # Errors
/// When a store cannot be made or used, or gives back something else.
pub fn run(run: &Space) -> Result<(), Error> {
    println!("| content | compression | content : stored | {COSTS} |");
    println!("| --- | --- | --- | --- | --- | --- |");
    let text = files_of(&run.tree, run.bytes)?;
    let mut random = vec![0; run.bytes];
    ChaCha8Rng::seed_from_u64(1).fill(&mut random[..]);
    let random = random.chunks(8 << 20).map(<[u8]>::to_vec).collect();
    let name = run.tree.display().to_string();
    for (name, files) in [(name.as_str(), text), ("random bytes", random)] {
        compare(run, name, &files)?;
    }
    compare_copies(run)
}

/// The content of the files below a directory, in the order of their names, up to `most` bytes.
fn files_of(dir: &Path, most: usize) -> Result<Vec<Vec<u8>>, Error> {
    let (mut files, mut bytes) = (Vec::new(), 0);
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let mut entries: Vec<_> = std::fs::read_dir(&dir)?.collect::<Result<_, _>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let kind = entry.file_type()?;
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if kind.is_file() && bytes < most {
                let content = std::fs::read(entry.path())?;
                bytes += content.len();
                files.push(content);
            }
        }
    }
    match files.is_empty() {
        true => Err(format!("{}: no files", dir.display()).into()),
        false => Ok(files),
    }
}

fn compare(run: &Space, name: &str, files: &[Vec<u8>]) -> Result<(), Error> {
    let options = |compression: &Compression| MkfsOptions {
        compression: *compression,
        ..MkfsOptions::reproducible()
    };
    let hows: Vec<_> = run.compression.iter().map(options).collect();
    let samples = rounds(run, &hows, files)?;
    for (how, of_one) in run.compression.iter().zip(&samples) {
        let sample = of_one.first().copied().unwrap_or_default();
        let saved = as_f64(sample.content_bytes) / as_f64(sample.stored_bytes.max(1));
        println!(
            "| {name} | {how} | {saved:.3} | {} |",
            costs(&samples, of_one)
        );
    }
    Ok(())
}

/// The same files several times in one store.
fn compare_copies(run: &Space) -> Result<(), Error> {
    let files = files_of(&run.tree, run.copied_bytes)?;
    let off = MkfsOptions::reproducible();
    let one = measure(&run.dir, &off, &files)?;
    let copies = std::iter::repeat_n(&files, run.copies).flatten();
    let copies: Vec<_> = copies.cloned().collect();
    let all = [Dedup::Off, Dedup::On, Dedup::Verify];
    let hows = all.map(|dedup| MkfsOptions { dedup, ..off });
    let samples = rounds(run, &hows, &copies)?;
    println!(
        "\n| content | dedup | stored : by one copy | {COSTS} |\n| --- | --- | --- | --- | --- | --- |"
    );
    let name = format!("{}, {} times", run.tree.display(), run.copies);
    for (dedup, of_one) in all.iter().zip(&samples) {
        let sample = of_one.first().copied().unwrap_or_default();
        let taken = as_f64(sample.stored_bytes) / as_f64(one.stored_bytes.max(1));
        println!(
            "| {name} | {dedup} | {taken:.3} | {} |",
            costs(&samples, of_one)
        );
    }
    Ok(())
}

/// Samples of stores made in each of several ways, in turn.
fn rounds(run: &Space, hows: &[MkfsOptions], files: &[Vec<u8>]) -> Result<Vec<Vec<Sample>>, Error> {
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); hows.len()];
    for round in 0..=run.rounds {
        for (how, samples) in hows.iter().zip(&mut samples) {
            let sample = measure(&run.dir, how, files)?;
            // The first is for warming up.
            if round > 0 {
                samples.push(sample);
            }
        }
    }
    Ok(samples)
}

/// Of [`costs`].
const COSTS: &str = "writing, times as fast | its processor time | reading, times as fast";

/// What one way costs beside the first of all.
fn costs(all: &[Vec<Sample>], samples: &[Sample]) -> String {
    let base = all.first().map(Vec::as_slice).unwrap_or_default();
    let times = |of: fn(&Sample) -> Duration| {
        let pairs = base.iter().zip(samples);
        let ratios = pairs.map(|(base, one)| of(base).as_secs_f64() / of(one).as_secs_f64());
        median(ratios.collect())
    };
    format!(
        "{:.2} | {:.2} | {:.2}",
        times(|sample| sample.write),
        1.0 / times(|sample| sample.write_cpu),
        times(|sample| sample.read)
    )
}

#[allow(clippy::cast_precision_loss)] // Far below 2^52.
fn as_f64(value: u64) -> f64 {
    value as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Processor time of this process: helpers compress.
fn own_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn open(dir: &TempDir) -> Result<Arc<Volume>, Error> {
    let options = OpenOptions {
        allow_volatile: true,
        ..OpenOptions::default()
    };
    Ok(Volume::open(dir.path(), options)?)
}

/// Writes the files to a new store, and reads them back.
fn measure(within: &Path, how: &MkfsOptions, files: &[Vec<u8>]) -> Result<Sample, Error> {
    let dir = work_dir(within)?;
    mkfs(
        create_store(dir.path(), true, false)?.media,
        how,
        &system_clock(),
    )?;
    let volume = open(&dir)?;
    let (began, cpu) = (Instant::now(), own_time());
    let inos = write(&volume, files)?;
    volume.sync_all()?;
    let mut sample = Sample {
        write: began.elapsed(),
        write_cpu: own_time().saturating_sub(cpu),
        ..Sample::default()
    };
    volume.store().close()?;
    drop(volume);
    let volume = open(&dir)?;
    let began = Instant::now();
    let mut content = Vec::new();
    for (ino, file) in inos.iter().zip(files) {
        content.clear();
        volume.read(*ino, 0, file.len(), &mut content)?;
        if content != *file {
            return Err(format!("inode {ino} is not what was written").into());
        }
    }
    sample.read = began.elapsed();
    volume.store().close()?;
    drop(volume);
    count(&dir, &mut sample)?;
    Ok(sample)
}

fn write(volume: &Volume, files: &[Vec<u8>]) -> Result<Vec<Ino>, Error> {
    let new = NewInode {
        mode: libc::S_IFREG | 0o644,
        umask: 0,
        rdev: 0,
        xattrs: &[],
        supplementary_gid: None,
    };
    let mut inos = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let name = format!("file {index}");
        let made = volume.create(Cred::default(), Ino::ROOT, name.as_bytes(), &new)?;
        for (number, part) in file.chunks(1 << 20).enumerate() {
            let offset = (number as u64) << 20;
            let (len, mut from) = (part.len(), part);
            volume.write(made.ino, offset, len, &mut from, WriteFlags::default())?;
        }
        inos.push(made.ino);
    }
    Ok(inos)
}

/// Adds up the chunks of a store.
fn count(dir: &TempDir, sample: &mut Sample) -> Result<(), Error> {
    let how = OpenDir {
        read_only: true,
        allow_volatile: true,
    };
    let media = open_store(dir.path(), how)?.media;
    let (view, _) = recovery::open_read_only(media, 64 << 20)?;
    view.scan(TreeId::Chunks, &[], &[0xff; 9], &mut |_, value| {
        if let Ok(chunk) = ChunkRecord::decode(value) {
            sample.content_bytes += u64::from(chunk.raw_len);
            sample.stored_bytes += u64::from(chunk.stored_len.next_multiple_of(UNIT_BYTES));
        }
        ControlFlow::Continue(())
    })?;
    Ok(())
}
