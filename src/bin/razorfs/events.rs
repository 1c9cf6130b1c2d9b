//! `razorfs events`: what happens to a store that a daemon serves.

use std::io::{self, Write};

use clap::Args;
use razorfs::control::api::Event;

use crate::store::StoreArgs;

type Error = Box<dyn std::error::Error>;

/// Bytes of a line, at most: the daemon writes shorter ones.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Tells what happens to a store while a daemon serves it, as it happens, until it is stopped: datasets
/// and snapshots that come, go and change, guests that come and go, damage, quotas.
#[derive(Debug, Args)]
pub struct EventsArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Begin behind the event of this number, as far as the daemon remembers.
    #[arg(long, value_name = "ID")]
    after: Option<u64>,
}

/// Tells them.
///
/// # Errors
/// When no daemon serves the store, or it ends.
pub fn run(args: &EventsArgs) -> Result<(), Error> {
    let mut lines = Lines {
        json: args.store.is_json(),
        kind: String::new(),
        line: Vec::new(),
    };
    args.store
        .with(true, |session| session.events(args.after, &mut lines))
}

/// Takes events apart as they come.
struct Lines {
    json: bool,
    kind: String,
    line: Vec<u8>,
}

impl Lines {
    fn end(&mut self) -> io::Result<()> {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        if let Some(kind) = line.strip_prefix("event: ") {
            kind.clone_into(&mut self.kind);
            return Ok(());
        }
        let Some(data) = line.strip_prefix("data: ") else {
            return Ok(());
        };
        let mut out = io::stdout().lock();
        match serde_json::from_str::<Event>(data) {
            _ if self.json => writeln!(out, "{data}")?,
            Ok(event) => {
                let detail = event.detail.map(|detail| format!(" ({detail})"));
                let (detail, kind) = (detail.unwrap_or_default(), &self.kind);
                writeln!(out, "{} {kind} {}{detail}", event.time, event.name)?;
            }
            Err(_) => writeln!(out, "{} {data}", self.kind)?,
        }
        out.flush()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            match byte {
                b'\n' => self.end()?,
                _ if self.line.len() == LINE_BYTES_MAX => {
                    return Err(io::Error::other("a line without end"));
                }
                byte => self.line.push(*byte),
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
