//! `razorfs export|unexport`: what a daemon that runs serves to virtual machines.

use std::path::{Path, PathBuf};

use clap::Args;
use razorfs::config::parse_export;
use razorfs::control::Client;
use razorfs::control::api::NewExport;
use razorfs::export::Endpoint;
use serde_json::json;

use crate::store::StoreArgs;

type Error = Box<dyn std::error::Error>;

/// Has the daemon that serves the store export one more dataset or snapshot. It has to run with
/// --socket-dir, below which the socket has to be.
#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// What is exported where; `ro` refuses every change.
    #[arg(value_name = "DATASET:SOCKET[:TAG][:ro]")]
    export: String,
    /// Others may write to the dataset later, on other sockets: what one virtual machine changes,
    /// another sees within a second. Without it, a second one that writes is refused.
    #[arg(long)]
    shared: bool,
}

/// Has the daemon that serves the store end an export.
#[derive(Debug, Args)]
pub struct UnexportArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// The socket's path, as `razorfs info` tells it.
    socket: PathBuf,
    /// Disconnect the virtual machine that uses it: for its guest the file system does not answer
    /// any more.
    #[arg(long)]
    force: bool,
}

/// Exports it.
///
/// # Errors
/// When no daemon serves the store, or it refuses.
pub fn export(args: &ExportArgs) -> Result<(), Error> {
    let new = parse_export(&args.export)?;
    let Endpoint::Path(path) = &new.endpoint else {
        return Err("a socket's path is wanted".into());
    };
    let request = NewExport {
        dataset: new.dataset,
        socket: text(path)?,
        tag: new.tag,
        readonly: new.read_only,
        shared: args.shared,
    };
    let exported = args
        .store
        .with_daemon(|daemon: &Client| daemon.add_export(&request))?;
    args.store.tell(&exported)
}

/// Ends it.
///
/// # Errors
/// When no daemon serves the store, or it refuses.
pub fn unexport(args: &UnexportArgs) -> Result<(), Error> {
    let socket = match args.socket.to_str() {
        // A socket that the daemon was started with.
        Some(fd) if fd.starts_with("fd:") => fd.to_owned(),
        _ => text(&args.socket)?,
    };
    args.store
        .with_daemon(|daemon| daemon.remove_export(&socket, args.force))?;
    args.store.tell(&json!({ "unexported": socket }))
}

/// A path that means the same to the daemon.
fn text(path: &Path) -> Result<String, Error> {
    let absolute = std::path::absolute(path)?;
    let text = absolute.into_os_string().into_string();
    Ok(text.map_err(|path| format!("{} is no UTF-8", path.display()))?)
}
