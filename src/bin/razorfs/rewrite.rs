//! `razorfs rewrite STORE PATH`: writes a file's content anew.

use clap::Args;
use razorfs::control::SessionError;
use razorfs::control::api::{Failure, Rewrite, Rewritten};
use serde_json::json;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::store::{StoreArgs, goes_on, shown};

type Error = Box<dyn std::error::Error>;

/// Writes the content of files anew, as the dataset's settings are now (compression, deduplication),
/// in few extents. Neither their size nor their times change. Where the dataset deduplicates, what it
/// finds stays as it is stored. It may be interrupted at any time; a daemon that serves the store goes
/// on with the file that it is at.
#[derive(Debug, Args)]
pub struct RewriteArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Paths of files in the dataset.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// The dataset.
    #[arg(long, default_value = "main")]
    dataset: String,
}

/// Does it.
///
/// # Errors
/// When the store can be neither reached nor opened, or a file cannot be found or written.
pub fn run(args: &RewriteArgs) -> Result<(), Error> {
    let mut all = Vec::new();
    let done = args.store.with(false, |session| {
        let mut go_on = goes_on(session);
        for path in &args.paths {
            let what = Rewrite {
                path: path.as_os_str().as_bytes().escape_ascii().to_string(),
            };
            let done = shown("writing a file anew", || {
                session.rewrite(&args.dataset, &what, &mut go_on)
            });
            let Rewritten { bytes } = done.map_err(|error| named(path, error))?;
            if !args.store.is_json() {
                crate::tell(&format!("{}: {bytes} bytes written anew\n", path.display()));
            }
            all.push(json!({"path": what.path, "bytes": bytes}));
        }
        Ok(())
    });
    args.store.tell(&all)?;
    done
}

/// A refusal that says what was refused.
fn named(path: &Path, error: SessionError) -> SessionError {
    match error {
        SessionError::Refused(failure) => {
            let message = format!("{}: {failure}", path.display());
            Failure::new(failure.error, message).into()
        }
        other => other,
    }
}
