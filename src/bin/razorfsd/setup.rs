//! What is done once, before the process is confined, and its confinement.
#![allow(unsafe_code)] // setrlimit(2) has no safe form in std.

use std::io;

use razorfs::config::{Config, Control, Endpoint, LogFormat};
use razorfs::control::socket::{Listener, default_path};
use razorfs::sandbox::{self, Reach};
use razorfs::transport::vhost_user::Socket;

use crate::Error;

/// A broken invariant of ours ends the process: the log has what was promised, and memory that may
/// be wrong must not reach the disk.
pub fn abort_on_panic(format: LogFormat) {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        log::error!("a broken invariant, the daemon ends: {info}");
        // Lines that are no JSON would be in the way of who reads it.
        if format == LogFormat::Text {
            report(info);
        }
        std::process::abort();
    }));
}

pub fn limit_descriptors(max: u64) -> Result<(), Error> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes the structure it is given.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(format!("--rlimit-nofile: {}", io::Error::last_os_error()).into());
    }
    limit.rlim_cur = max;
    limit.rlim_max = limit.rlim_max.max(max);
    // SAFETY: the kernel reads the structure it is given.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(format!("--rlimit-nofile {max}: {}", io::Error::last_os_error()).into());
    }
    Ok(())
}

/// The sockets of the exports.
pub fn sockets(config: &Config, group: Option<u32>) -> Result<Vec<Socket>, Error> {
    let endpoints = config.exports.iter().map(|export| &export.new.endpoint);
    let socket = |endpoint: &Endpoint| match endpoint {
        Endpoint::Path(path) => Socket::bind(path, group),
        Endpoint::Fd(fd) => Socket::inherit(*fd),
    };
    Ok(endpoints.map(socket).collect::<Result<_, _>>()?)
}

/// Where commands will find the daemon. That it can do without, unless it was asked for.
pub fn listen_for_commands(config: &Config) -> Result<Option<Listener>, Error> {
    match &config.control {
        Control::Off => Ok(None),
        Control::At(path) => Ok(Some(Listener::bind(path)?)),
        Control::InStore => match Listener::bind(&default_path(&config.store)) {
            Ok(listener) => Ok(Some(listener)),
            Err(error) => {
                log::warn!("'razorfs' cannot reach this daemon: {error}");
                Ok(None)
            }
        },
    }
}

/// Gives up what the daemon does not need.
pub fn confine(config: &Config) -> Result<(), Error> {
    let Some(action) = config.sandbox else {
        log::warn!("the daemon is not confined (--sandbox none)");
        return Ok(());
    };
    let mut sockets = Vec::new();
    if let Control::At(path) = &config.control {
        sockets.push(path.clone());
    }
    for export in &config.exports {
        if let Endpoint::Path(path) = &export.new.endpoint {
            sockets.push(path.clone());
        }
    }
    let reach = Reach {
        store: &config.store,
        sockets: &sockets,
        socket_dir: config.socket_dir.as_deref(),
        config: config.file.as_deref(),
    };
    Ok(sandbox::confine(&reach, action)?)
}
