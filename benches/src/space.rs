//! What compression saves and costs: the same files written to stores that differ in nothing else,
//! in turn, and read back from a store opened anew.

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
use razorfs::format::record::ChunkRecord;
use razorfs::format::superblock::UNIT_BYTES;
use razorfs::log::recovery;
use razorfs::store::Read;
use tempfile::TempDir;

use crate::{Error, work_dir};

/// Measures what compression saves and costs.
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
    println!(
        "| content | compression | content : stored | writing, times as fast | its processor time | reading, times as fast |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    let text = files_of(&run.tree, run.bytes)?;
    let mut random = vec![0; run.bytes];
    ChaCha8Rng::seed_from_u64(1).fill(&mut random[..]);
    let random = random.chunks(8 << 20).map(<[u8]>::to_vec).collect();
    let name = run.tree.display().to_string();
    for (name, files) in [(name.as_str(), text), ("random bytes", random)] {
        compare(run, name, &files)?;
    }
    Ok(())
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
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); run.compression.len()];
    for round in 0..=run.rounds {
        for (how, samples) in run.compression.iter().zip(&mut samples) {
            let sample = measure(&run.dir, *how, files)?;
            // The first is for warming up.
            if round > 0 {
                samples.push(sample);
            }
        }
    }
    let Some(base) = samples.first().cloned() else {
        return Ok(());
    };
    for (how, samples) in run.compression.iter().zip(&samples) {
        let ratio = |of: fn(&Sample) -> Duration| {
            let pairs = base.iter().zip(samples);
            let ratios = pairs.map(|(base, one)| of(base).as_secs_f64() / of(one).as_secs_f64());
            median(ratios.collect())
        };
        let sample = samples.first().copied().unwrap_or_default();
        println!(
            "| {name} | {how} | {:.3} | {:.2} | {:.2} | {:.2} |",
            as_f64(sample.content_bytes) / as_f64(sample.stored_bytes.max(1)),
            ratio(|sample| sample.write),
            1.0 / ratio(|sample| sample.write_cpu),
            ratio(|sample| sample.read),
        );
    }
    Ok(())
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
fn measure(within: &Path, compression: Compression, files: &[Vec<u8>]) -> Result<Sample, Error> {
    let dir = work_dir(within)?;
    let how = MkfsOptions {
        compression,
        ..MkfsOptions::reproducible()
    };
    mkfs(
        create_store(dir.path(), true, false)?.media,
        &how,
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
    volume.close()?;
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
    volume.close()?;
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
