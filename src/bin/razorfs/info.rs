//! `razorfs info STORE`: what a store is and holds.

use std::fmt::{self, Display, Formatter};
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use razorfs::control::{self, StorePlace};
use razorfs::disk::dir::{OpenDir, open_store};
use razorfs::engine::received_for;
use razorfs::format::codec::Compression;
use razorfs::format::id::DatasetId;
use razorfs::format::key::TreeId;
use razorfs::format::page::PAGE_BYTES;
use razorfs::format::record::{
    ChunkRecord, Codec, DATASET_DOOMED, DATASET_RECEIVING, DatasetCounters, DatasetRecord, Dedup,
    counters_key,
};
use razorfs::format::superblock::UNIT_BYTES;
use razorfs::log::recovery::{self, Report};
use razorfs::store::Read;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::health::{Health, Walk, hundredths};
use crate::store::shown;

type Error = Box<dyn std::error::Error>;

/// Bytes of memory for pages: the few of the dataset tree are read.
const CACHE_BYTES: u64 = 1 << 20;

/// Says what a store is and holds. Reads only; where a daemon serves it, the daemon is asked.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// The store's directory.
    pub(crate) store: PathBuf,
    #[command(flatten)]
    control: crate::store::ControlArgs,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Read the records of all chunks and free ranges too, and say how much space compression and
    /// sharing save, and how the free space lies. No daemon may serve the store meanwhile.
    #[arg(long)]
    pub(crate) chunks: bool,
    /// Read the trees of all files too, and say how much storing names once saves, and how files are
    /// cut up. No daemon may serve the store meanwhile.
    #[arg(long)]
    pub(crate) files: bool,
}

struct Dataset {
    id: DatasetId,
    record: DatasetRecord,
    counters: DatasetCounters,
}

impl Dataset {
    fn limits(&self) -> String {
        let record = &self.record;
        limits(
            record.quota_bytes,
            record.quota_inodes,
            record.reserved_bytes,
        )
    }

    fn state(&self) -> State<'_> {
        let flags = self.record.flags;
        match received_for(&self.record.name) {
            _ if flags & DATASET_DOOMED != 0 => State::Deleted,
            Some(dataset) if flags & DATASET_RECEIVING != 0 => State::Received(dataset),
            _ => State::There,
        }
    }

    fn shown_name(&self) -> String {
        match self.state() {
            State::There => self.record.name.clone(),
            State::Received(dataset) => {
                format!("(what a receive for '{dataset}' that was cut off has so far)")
            }
            State::Deleted => format!(
                "(number {}, deleted; others may share what it has)",
                self.id
            ),
        }
    }

    fn compression(&self) -> Compression {
        let record = &self.record;
        Compression::of_record(record.codec, record.codec_level).unwrap_or(Compression::OFF)
    }
}

/// What a dataset's record is that of.
enum State<'a> {
    /// Of one that `razorfs list` shows.
    There,
    /// Of what was received so far for the dataset of this name.
    Received(&'a str),
    /// Of one without a name, as long as others share what it has, or until it is cleared away.
    Deleted,
}

impl Display for State<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::There => "there",
            State::Received(_) => "received",
            State::Deleted => "deleted",
        })
    }
}

/// What the chunks of a store are together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Chunks {
    count: u64,
    /// Of them, compressed.
    compressed: u64,
    /// Extents that refer to them.
    references: u64,
    /// Bytes of content.
    content_bytes: u64,
    /// Bytes of chunks.dat that they take.
    stored_bytes: u64,
}

impl Chunks {
    fn read(view: &impl Read) -> Result<Self, Error> {
        let mut sum = Chunks::default();
        let mut wrong = None;
        view.scan(TreeId::Chunks, &[], &[0xff; 9], &mut |key, value| {
            match ChunkRecord::decode(value) {
                Ok(chunk) => sum.add(&chunk),
                Err(error) => {
                    wrong = Some(format!("chunk {}: {error}", key.escape_ascii()));
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        wrong.map_or(Ok(sum), |wrong| Err(wrong.into()))
    }

    fn add(&mut self, chunk: &ChunkRecord) {
        self.count += 1;
        self.references = self.references.saturating_add(chunk.refcount);
        self.compressed += u64::from(chunk.codec != Codec::Raw);
        self.content_bytes += u64::from(chunk.raw_len);
        self.stored_bytes += u64::from(chunk.stored_len.next_multiple_of(UNIT_BYTES));
    }

    /// `allocated_bytes`: content of all files, what several share counted in each.
    fn as_json(&self, allocated_bytes: u64) -> Value {
        json!({
            "allocated_bytes": allocated_bytes,
            "sharing_percent": self.sharing_percent(allocated_bytes),
            "count": self.count,
            "compressed": self.compressed,
            "references": self.references,
            "content_bytes": self.content_bytes,
            "stored_bytes": self.stored_bytes,
            "ratio_percent": self.ratio_percent(),
        })
    }

    fn as_text(&self, allocated_bytes: u64) -> String {
        let sharing = self.sharing_percent(allocated_bytes);
        format!(
            "sharing         {} of files are {} of content, {}:1\n\
             chunks          {}, {} of them compressed, of {} extents: {} in {}, {}:1\n",
            human(allocated_bytes),
            human(self.content_bytes),
            hundredths(sharing),
            self.count,
            self.compressed,
            self.references,
            human(self.content_bytes),
            human(self.stored_bytes),
            hundredths(self.ratio_percent())
        )
    }

    /// Bytes of files for each of content, in hundredths: what deduplication, copies, snapshots and
    /// clones save, less what overwriting left behind.
    fn sharing_percent(&self, allocated_bytes: u64) -> u64 {
        let ratio = allocated_bytes.saturating_mul(100);
        ratio.checked_div(self.content_bytes).unwrap_or(100)
    }

    /// Bytes of content for each stored, in hundredths.
    fn ratio_percent(&self) -> u64 {
        let ratio = self.content_bytes.saturating_mul(100);
        ratio.checked_div(self.stored_bytes).unwrap_or(100)
    }
}

/// Prints it.
///
/// # Errors
/// When the directory is no store, is in use, or cannot be read.
pub fn run(args: &InfoArgs) -> Result<(), Error> {
    let place = StorePlace {
        store: args.store.clone(),
        control: args.control.place(),
        allow_volatile: true,
    };
    if let Some(daemon) = control::served(&place)? {
        return crate::served::run(args, &daemon);
    }
    let how = OpenDir {
        read_only: true,
        allow_volatile: true,
    };
    let store = open_store(&args.store, how)?;
    let at_store = |error| format!("{}: {error}", args.store.display());
    let chunks_bytes = store.media.chunks.len_bytes();
    let (view, opened) =
        recovery::open_read_only(store.media.clone(), CACHE_BYTES).map_err(at_store)?;
    let punched_names = opened.journal.names_unbacked_bytes();
    let files = FileBytes {
        chunks: chunks_bytes,
        punched_names,
    };
    let mut datasets = Vec::new();
    for (id, record) in recovery::datasets(&view).map_err(at_store)? {
        let counters = match view
            .get(TreeId::Datasets, &counters_key(id))
            .map_err(at_store)?
        {
            Some(bytes) => DatasetCounters::decode(&bytes)?,
            None => DatasetCounters::default(),
        };
        datasets.push(Dataset {
            id,
            record,
            counters,
        });
    }
    let chunks = match args.chunks {
        true => Some(
            shown("reading the records of chunks", || Chunks::read(&view))
                .map_err(|error| format!("{}: {error}", args.store.display()))?,
        ),
        false => None,
    };
    let ids = datasets.iter().map(|dataset| dataset.id).collect();
    let walk = Walk {
        free: args.chunks,
        files: args
            .files
            .then(|| (ids, view.strings_end().saturating_sub(punched_names))),
    };
    let health = shown("reading trees", || Health::read(&view, walk)).map_err(at_store)?;
    let allocated = datasets.iter().fold(0u64, |sum, dataset| {
        sum.saturating_add(dataset.counters.allocated_bytes)
    });
    if args.json {
        let mut value = as_json(&opened.report, &datasets, files);
        if let Some(fields) = value.as_object_mut() {
            health.put_json(fields);
            if let Some(chunks) = chunks {
                fields.insert("chunks".into(), chunks.as_json(allocated));
            }
        }
        crate::tell_json(&value)?;
    } else {
        let chunks = chunks.map(|chunks| chunks.as_text(allocated));
        let text = as_text(&opened.report, &datasets, files);
        crate::tell(&(text + &health.as_text() + &chunks.unwrap_or_default()));
    }
    Ok(())
}

/// What the store's files take, as far as the superblock does not say it.
#[derive(Clone, Copy)]
struct FileBytes {
    /// The length of chunks.dat.
    chunks: u64,
    /// Bytes of strings.dat that take no space.
    punched_names: u64,
}

/// What names take, of so many bytes of strings.dat.
pub(crate) fn names(bytes: u64, punched: u64) -> String {
    let used = human(bytes.saturating_sub(punched));
    match punched {
        0 => format!("{used} in strings.dat"),
        _ => format!("{used} in strings.dat, {} went back", human(punched)),
    }
}

fn as_json(report: &Report, datasets: &[Dataset], files: FileBytes) -> Value {
    let block = &report.superblock;
    let datasets: Vec<Value> = datasets
        .iter()
        .map(|dataset| {
            json!({
                "id": dataset.id.0,
                "name": dataset.record.name,
                "state": dataset.state().to_string(),
                "uuid": Uuid::from_bytes(dataset.record.uuid).to_string(),
                "created_sec": dataset.record.created.sec,
                "inodes": dataset.counters.inodes,
                "next_inode": dataset.counters.next_ino,
                "allocated_bytes": dataset.counters.allocated_bytes,
                "reserved_bytes": dataset.counters.reserved_bytes,
                "compression": dataset.compression().to_string(),
                "dedup": Dedup::of_record(dataset.record.flags).to_string(),
                "quota_bytes": dataset.record.quota_bytes,
                "quota_inodes": dataset.record.quota_inodes,
                "reservation_bytes": dataset.record.reserved_bytes,
            })
        })
        .collect();
    json!({
        "uuid": Uuid::from_bytes(block.uuid).to_string(),
        "format_version": razorfs::format::superblock::VERSION,
        "features": {
            "compatible": block.compat,
            "read_only_compatible": block.ro_compat,
            "incompatible": block.incompat,
        },
        "created_sec": block.created_sec,
        "generation": block.generation.0,
        "clean": block.clean && report.batches == 0,
        "capacity_bytes": block.capacity_bytes,
        "chunks_file_bytes": files.chunks,
        "metadata_pages": block.nodes_used,
        "metadata_bytes": block.nodes_used.saturating_mul(PAGE_BYTES as u64),
        "names_bytes": block.strings_end,
        "names_punched_bytes": files.punched_names,
        "log": {
            "bytes": block.log_bytes,
            "checkpoint_lsn": block.checkpoint_lsn.0,
            "end_lsn": report.log_end.0,
            "transactions": report.applied,
            "damage": report.damage.as_ref().map(ToString::to_string),
        },
        "superblock_damage": report.superblock_damage.iter()
            .map(|(copy, reason)| format!("copy {copy}: {reason}")).collect::<Vec<_>>(),
        "datasets": datasets,
    })
}

fn as_text(report: &Report, datasets: &[Dataset], files: FileBytes) -> String {
    let mut text = String::new();
    macro_rules! line {
        ($($arg:tt)*) => {{
            text += &format!($($arg)*);
            text.push('\n');
        }};
    }
    let block = &report.superblock;
    let version = razorfs::format::superblock::VERSION;
    line!("UUID            {}", Uuid::from_bytes(block.uuid));
    line!("format          version {version}");
    line!("created         {} s since 1970", block.created_sec);
    line!("checkpoint      {}", block.generation);
    let state = if block.clean && report.batches == 0 {
        "closed".to_owned()
    } else {
        format!(
            "not closed: {} transactions in the log, applied at the next opening",
            report.applied
        )
    };
    line!("state           {state}");
    match block.capacity_bytes {
        0 => line!("capacity        as much as the disk gives"),
        bytes => line!("capacity        {}", human(bytes)),
    }
    line!("file content    {} in chunks.dat", human(files.chunks));
    let metadata = block.nodes_used.saturating_mul(PAGE_BYTES as u64);
    line!("metadata        {} in nodes.dat", human(metadata));
    line!(
        "names           {}",
        names(block.strings_end, files.punched_names)
    );
    line!("log             {}", human(block.log_bytes));
    for (copy, reason) in &report.superblock_damage {
        line!("damage          superblock copy {copy}: {reason}");
    }
    if let Some(damage) = &report.damage {
        line!("damage          {damage}");
    }
    for dataset in datasets {
        line!(
            "dataset         {}: {} inodes, {}, compression {}, dedup {}{}",
            dataset.shown_name(),
            dataset.counters.inodes,
            human(dataset.counters.allocated_bytes),
            dataset.compression(),
            Dedup::of_record(dataset.record.flags),
            dataset.limits()
        );
    }
    text
}

/// What a dataset may use and what is kept for it, where anything is; each 0 for none.
pub fn limits(quota_bytes: u64, quota_inodes: u64, reservation_bytes: u64) -> String {
    let mut text = String::new();
    if quota_bytes != 0 {
        text += &format!(", quota {}", human(quota_bytes));
    }
    if quota_inodes != 0 {
        text += &format!(", quota {quota_inodes} inodes");
    }
    if reservation_bytes != 0 {
        text += &format!(", reservation {}", human(reservation_bytes));
    }
    text
}

/// Bytes in the largest unit that leaves at least one, with a decimal.
pub(crate) fn human(bytes: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut index, mut divisor) = (0, 1u64);
    while index + 1 < units.len() && bytes / divisor >= 1024 {
        divisor <<= 10;
        index += 1;
    }
    let unit = units.get(index).copied().unwrap_or_default();
    if index == 0 {
        return format!("{bytes} {unit}");
    }
    let tenths = u128::from(bytes) * 10 / u128::from(divisor);
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_told_in_hundredths() {
        let mut chunks = Chunks::default();
        assert_eq!(chunks.ratio_percent(), 100);
        chunks.content_bytes = 192;
        chunks.stored_bytes = 100;
        assert!(chunks.as_text(288).ends_with("1.92:1\n"));
        assert!(chunks.as_text(288).contains("1.50:1\n"));
    }

    #[test]
    fn limits_are_told_where_there_are_any() {
        assert_eq!(limits(0, 0, 0), "");
        let all = ", quota 1.0 GiB, quota 7 inodes, reservation 512 bytes";
        assert_eq!(limits(1 << 30, 7, 512), all);
    }

    #[test]
    fn bytes_are_told_in_units() {
        assert_eq!(human(0), "0 bytes");
        assert_eq!(human(1023), "1023 bytes");
        assert_eq!(human(1536), "1.5 KiB");
        assert_eq!(human(64 << 20), "64.0 MiB");
        assert_eq!(human(u64::MAX), "15.9 EiB");
    }
}
