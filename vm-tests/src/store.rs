//! The programs under test, from outside: stores, the daemon, the checker.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::guest::image::run;
use crate::guest::{Error, Result};

/// Where the programs are: `RAZORFS_BIN`, or the release build of this checkout.
#[must_use]
pub fn programs() -> PathBuf {
    std::env::var_os("RAZORFS_BIN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release"),
        PathBuf::from,
    )
}

/// A command of one of the programs.
#[must_use]
pub fn program(name: &str) -> Command {
    Command::new(programs().join(name))
}

/// Makes a store.
///
/// # Errors
/// What mkfs says.
pub fn mkfs(store: &Path) -> Result<()> {
    run(program("razorfs").arg("mkfs").arg(store)).map(|_| ())
}

/// Checks a store wholly, its data too; what the checker found wrong.
///
/// # Errors
/// When it finds anything.
pub fn check(store: &Path) -> Result<()> {
    run(program("razorfsck").arg("--data").arg(store)).map(|_| ())
}

/// A running razorfsd.
pub struct Daemon {
    child: Child,
}

impl Daemon {
    /// Starts a daemon on a store, with a socket for each guest, and waits for them.
    ///
    /// # Errors
    /// When it ends instead; its messages are in `log`.
    pub fn start(store: &Path, sockets: &[PathBuf], tag: &str, log: &Path) -> Result<Daemon> {
        Daemon::start_with(store, sockets, tag, log, &[])
    }

    /// The same with more flags.
    ///
    /// # Errors
    /// As there.
    pub fn start_with(
        store: &Path,
        sockets: &[PathBuf],
        tag: &str,
        log: &Path,
        flags: &[&str],
    ) -> Result<Daemon> {
        for socket in sockets {
            let _ = std::fs::remove_file(socket);
        }
        let flags = [&["--tag", tag], flags].concat();
        let mut daemon = Daemon::spawn(store, sockets, log, &flags)?;
        let deadline = Instant::now() + Duration::from_secs(60);
        while !sockets.iter().all(|socket| socket.exists()) {
            let ended = matches!(daemon.child.try_wait(), Ok(Some(_)));
            if ended || Instant::now() > deadline {
                let text = std::fs::read_to_string(log).unwrap_or_default();
                return Err(Error(format!("razorfsd did not start:\n{text}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(daemon)
    }

    /// Starts a daemon beside another one, on the same store: it waits for a guest that moves
    /// (`--incoming`) or takes guests over (`--take-over`), as `flags` say.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn beside(store: &Path, socket: &Path, log: &Path, flags: &[&str]) -> Result<Daemon> {
        Daemon::spawn(store, &[socket.to_owned()], log, flags)
    }

    fn spawn(store: &Path, sockets: &[PathBuf], log: &Path, flags: &[&str]) -> Result<Daemon> {
        let output = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .map_err(|error| Error::new(log.display(), error))?;
        let sockets = sockets.iter();
        let child = program("razorfsd")
            .arg("--store")
            .arg(store)
            .args(sockets.flat_map(|path| [OsStr::new("--socket-path"), path.as_os_str()]))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .map_err(|error| Error::new("razorfsd", error))?;
        Ok(Daemon { child })
    }

    /// Waits for its end, which has to be a good one.
    ///
    /// # Errors
    /// When it is not, or does not come.
    pub fn ends(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(Error(format!("razorfsd ended with {status}"))),
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => return Err(Error::new("razorfsd", error)),
            }
        }
        Err(Error("razorfsd does not end".into()))
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// When it does not end well.
    pub fn stop(mut self) -> Result<()> {
        run(Command::new("kill").args(["-TERM", &self.child.id().to_string()]))?;
        let status = self
            .child
            .wait()
            .map_err(|error| Error::new("razorfsd", error))?;
        if status.success() {
            Ok(())
        } else {
            Err(Error(format!("razorfsd ended with {status}")))
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}
