//! `razorfs info STORE`: what a store is and holds.

use std::path::PathBuf;

use clap::Args;
use razorfs::disk::dir::{OpenDir, open_store};
use razorfs::format::id::DatasetId;
use razorfs::format::key::TreeId;
use razorfs::format::page::PAGE_BYTES;
use razorfs::format::record::{DatasetCounters, DatasetRecord, counters_key};
use razorfs::log::recovery::{self, Report};
use razorfs::store::Read;
use serde_json::{Value, json};
use uuid::Uuid;

type Error = Box<dyn std::error::Error>;

/// Bytes of memory for pages: the few of the dataset tree are read.
const CACHE_BYTES: u64 = 1 << 20;

/// Says what a store is and holds. Reads only; the store must not be in use.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// The store's directory.
    store: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

struct Dataset {
    id: DatasetId,
    record: DatasetRecord,
    counters: DatasetCounters,
}

/// Prints it.
///
/// # Errors
/// When the directory is no store, is in use, or cannot be read.
pub fn run(args: &InfoArgs) -> Result<(), Error> {
    let how = OpenDir {
        read_only: true,
        allow_volatile: true,
    };
    let store = open_store(&args.store, how)?;
    let at_store = |error| format!("{}: {error}", args.store.display());
    let chunks_bytes = store.media.chunks.len_bytes();
    let (view, opened) =
        recovery::open_read_only(store.media.clone(), CACHE_BYTES).map_err(at_store)?;
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
    if args.json {
        let value = as_json(&opened.report, &datasets, chunks_bytes);
        crate::tell(&format!("{}\n", serde_json::to_string_pretty(&value)?));
    } else {
        crate::tell(&as_text(&opened.report, &datasets, chunks_bytes));
    }
    Ok(())
}

fn as_json(report: &Report, datasets: &[Dataset], chunks_bytes: u64) -> Value {
    let block = &report.superblock;
    let datasets: Vec<Value> = datasets
        .iter()
        .map(|dataset| {
            json!({
                "id": dataset.id.0,
                "name": dataset.record.name,
                "uuid": Uuid::from_bytes(dataset.record.uuid).to_string(),
                "created_sec": dataset.record.created.sec,
                "inodes": dataset.counters.inodes,
                "next_inode": dataset.counters.next_ino,
                "allocated_bytes": dataset.counters.allocated_bytes,
                "reserved_bytes": dataset.counters.reserved_bytes,
                "quota_bytes": dataset.record.quota_bytes,
                "quota_inodes": dataset.record.quota_inodes,
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
        "chunks_file_bytes": chunks_bytes,
        "metadata_pages": block.nodes_used,
        "metadata_bytes": block.nodes_used.saturating_mul(PAGE_BYTES as u64),
        "names_bytes": block.strings_end,
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

fn as_text(report: &Report, datasets: &[Dataset], chunks_bytes: u64) -> String {
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
    line!("file content    {} in chunks.dat", human(chunks_bytes));
    let metadata = block.nodes_used.saturating_mul(PAGE_BYTES as u64);
    line!("metadata        {} in nodes.dat", human(metadata));
    line!(
        "names           {} in strings.dat",
        human(block.strings_end)
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
            "dataset         {}: {} inodes, {}",
            dataset.record.name,
            dataset.counters.inodes,
            human(dataset.counters.allocated_bytes)
        );
    }
    text
}

/// Bytes in the largest unit that leaves at least one, with a decimal.
fn human(bytes: u64) -> String {
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
    fn bytes_are_told_in_units() {
        assert_eq!(human(0), "0 bytes");
        assert_eq!(human(1023), "1023 bytes");
        assert_eq!(human(1536), "1.5 KiB");
        assert_eq!(human(64 << 20), "64.0 MiB");
        assert_eq!(human(u64::MAX), "15.9 EiB");
    }
}
