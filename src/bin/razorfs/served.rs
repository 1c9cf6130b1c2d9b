//! What `razorfs info` says of a store that a daemon serves.

use razorfs::control::Client;
use razorfs::control::api::{Dataset, Export, Stats};
use serde_json::json;

use crate::info::{InfoArgs, human, limits};

type Error = Box<dyn std::error::Error>;

/// Asks the daemon, and prints its answers.
///
/// # Errors
/// When it does not answer; when what is asked for takes a store that is not in use.
pub fn run(args: &InfoArgs, daemon: &Client) -> Result<(), Error> {
    if args.chunks || args.files {
        let store = args.store.display();
        let flag = if args.chunks { "--chunks" } else { "--files" };
        return Err(format!("{store}: {flag} reads a store that no daemon serves").into());
    }
    let (stats, datasets, exports) = (daemon.stats()?, daemon.datasets()?, daemon.exports()?);
    if args.json {
        let mut value = serde_json::to_value(&stats)?;
        if let Some(fields) = value.as_object_mut() {
            fields.insert("datasets".into(), json!(datasets));
            fields.insert("exports".into(), json!(exports));
        }
        crate::tell_json(&value)?;
        return Ok(());
    }
    crate::tell(&as_text(&stats, &datasets, &exports));
    Ok(())
}

fn as_text(stats: &Stats, datasets: &[Dataset], exports: &[Export]) -> String {
    let state = match stats.is_writable {
        true => "in use, served by razorfsd",
        false => "in use, served by razorfsd, read-only",
    };
    let capacity = match stats.capacity_bytes {
        0 => "as much as the disk gives".to_owned(),
        bytes => human(bytes),
    };
    let (content, unwritten) = (human(stats.chunks_file_bytes), human(stats.unwritten_bytes));
    let lines = [
        ("UUID", stats.uuid.clone()),
        ("format", format!("version {}", stats.format_version)),
        ("created", stats.created_at.clone()),
        ("checkpoint", stats.generation.to_string()),
        ("state", state.to_owned()),
        ("capacity", capacity),
        ("free", human(stats.free_bytes)),
        (
            "file content",
            format!("{content} in chunks.dat, {unwritten} not written yet"),
        ),
        (
            "metadata",
            format!("{} in nodes.dat", human(stats.metadata_bytes)),
        ),
        (
            "names",
            crate::info::names(stats.names_bytes, stats.names_punched_bytes),
        ),
        ("log", human(stats.log_bytes)),
    ];
    let mut text: String = lines
        .iter()
        .map(|(name, value)| format!("{name:16}{value}\n"))
        .collect();
    for dataset in datasets {
        text += &format!(
            "dataset         {}: {} inodes, {}, compression {}, dedup {}{}\n",
            dataset.name,
            dataset.inodes,
            human(dataset.allocated_bytes),
            dataset.compression,
            dataset.dedup,
            limits(
                dataset.quota_bytes,
                dataset.quota_inodes,
                dataset.reservation_bytes
            )
        );
    }
    for export in exports {
        let stale = match export.is_stale {
            true => " (restored: its guest has to mount it again)",
            false => "",
        };
        let (dataset, socket) = (&export.dataset, &export.socket);
        text += &format!("export          {dataset}: {socket}{stale}\n");
    }
    text
}
