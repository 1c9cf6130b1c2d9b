//! `--reload PID`: what is installed and configured comes in force in the daemon that serves, as a
//! service manager asks for it (`ExecReload=`).
//!
//! A daemon that runs this very program reads its configuration again. From one of another program,
//! usually an older one, a new process takes the guests over. For the manager's sake,
//!
//! - the new process is no child of the one that the manager started for the reload, but the
//!   manager's own, before it asks for the guests: a manager does not wait for the end of a main
//!   process that is somebody else's child, and would kill it while it closes the store;
//! - the old process says which one the main process is from then on, before it ends
//!   ([`crate::service::goes_on_in`]): there is no moment without one;
//! - the one that the manager waits for ends when the old one is gone, with what came of it.
//!
//! A daemon that cannot say what it runs is from before all this, and keeps its guests. Where the
//! guests stay with the old process, it reads its configuration again all the same, so that a
//! reload never does less than SIGHUP.
#![allow(unsafe_code)] // fork(2) and setting a variable have no safe form.

use std::fs;
use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use razorfs::config::Config;
use razorfs::daemon::handover;
use razorfs::transport::vhost_user::{Handover, Program, VERSION};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getppid, kill_process, pidfd_open, setsid, waitpid,
};

use crate::Error;

/// What is said when guests are served.
const SERVES: u8 = b's';
/// How long the old process may take to end once it has nothing to do any more.
const END_PATIENCE: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};
/// How often it is looked whether the process in between is gone.
const PARENT_PAUSE: Duration = Duration::from_millis(1);
/// What the manager says to the service's main process alone, and the new one has to know.
const WATCHDOG: &str = "WATCHDOG_USEC";

/// How a reload goes on.
pub enum Reloaded {
    /// It is done, and there may be something to warn of.
    Done(Option<String>),
    /// In this process, which is another one than before: it is to take the guests over.
    TakeOver(Awaited),
}

/// The process that waits for this one to serve.
pub struct Awaited {
    told: PipeWriter,
    /// Whose guests they are.
    old: Pid,
}

impl Awaited {
    /// Tells it so.
    pub fn serves(mut self) {
        // Whether it has had the patience is no matter here.
        let _ = self.told.write_all(&[SERVES]);
    }

    /// The guests have to come from whom the manager knows.
    pub fn check_is_from(&self, asked: &Handover) -> Result<(), Error> {
        check_peer(asked, self.old)
    }
}

/// Has process `pid` read its configuration again, or, when it runs another program, goes on in a
/// new process that is to take over from it. To be called while there is one thread. Logs nothing.
///
/// # Errors
/// When there is no such daemon, or it cannot be told; when nobody took over from it.
pub fn reload(pid: i32, config: &Config) -> Result<Reloaded, Error> {
    let named = |error: io::Error| format!("--reload {pid}: {error}");
    let old = Pid::from_raw(pid).ok_or_else(|| named(io::ErrorKind::InvalidInput.into()))?;
    let watched = pidfd_open(old, PidfdFlags::empty()).map_err(|error| named(error.into()))?;
    // SIGHUP ends other programs.
    let name = |process: &str| fs::read(format!("/proc/{process}/comm"));
    if name(&pid.to_string()).map_err(named)? != name("self")? {
        return Err(format!("--reload {pid}: it is no razorfsd").into());
    }
    let read_again = || kill_process(old, Signal::HUP).map_err(|error| named(error.into()));
    let Ok(mut asked) = handover::ask(&config.store) else {
        read_again()?;
        let warning = "does not serve the store now, so nobody takes over from it";
        return Ok(Reloaded::Done(Some(format!("process {pid} {warning}"))));
    };
    check_peer(&asked, old)?;
    let its = asked.who();
    drop(asked);
    let own = program()?;
    let is_own = |its: &Program| (its.device, its.inode) == (own.device, own.inode);
    if its.as_ref().is_ok_and(is_own) {
        read_again()?;
        return Ok(Reloaded::Done(None));
    }
    let reason = match its {
        // One from before it was asked would not tell the manager who takes over, either.
        Err(_) => "the razorfsd that runs is too old for it",
        Ok(its) => match in_background()? {
            Side::New(told) => {
                if let Some(patience) = its.watchdog_us {
                    // SAFETY: there is one thread.
                    unsafe { std::env::set_var(WATCHDOG, patience.to_string()) };
                }
                return Ok(Reloaded::TakeOver(Awaited { told, old }));
            }
            Side::Waiting(mut heard) => {
                let mut said = Vec::new();
                heard.read_to_end(&mut said)?;
                if said == [SERVES] {
                    let mut gone = [PollFd::new(&watched, PollFlags::IN)];
                    let gone = poll(&mut gone, Some(&END_PATIENCE)).map_err(io::Error::from)?;
                    let warning = "is still there, though it serves nobody";
                    let warning = (gone == 0).then(|| format!("process {pid} {warning}"));
                    return Ok(Reloaded::Done(warning));
                }
                "the program that is installed did not take over"
            }
        },
    };
    read_again()?;
    Err(format!(
        "{reason}: process {pid} goes on, with the program that it has, and reads its \
         configuration again"
    )
    .into())
}

/// What this process runs, and how long the service manager waits for a sign of life.
pub fn program() -> io::Result<Program> {
    let file = fs::metadata("/proc/self/exe")?;
    let patience = sd_notify::watchdog_enabled();
    let patience = patience.map(|patience| u64::try_from(patience.as_micros()).unwrap_or(u64::MAX));
    Ok(Program {
        device: file.dev(),
        inode: file.ino(),
        watchdog_us: patience,
        version: VERSION,
    })
}

/// Who serves the store has to be who was named: the manager knows no other.
fn check_peer(asked: &Handover, old: Pid) -> Result<(), Error> {
    let old = old.as_raw_nonzero().get();
    match asked.peer().and_then(|peer| i32::try_from(peer).ok()) {
        Some(peer) if peer == old => Ok(()),
        Some(peer) => {
            Err(format!("--reload {old}: it is process {peer} that serves the store").into())
        }
        None => Err(format!("--reload {old}: who serves the store cannot be seen here").into()),
    }
}

/// Where a process goes on that has become two.
enum Side {
    /// It is the one that was there, and hears from the new one.
    Waiting(PipeReader),
    /// It is new, and whoever looks after processes without parents is its parent.
    New(PipeWriter),
}

/// Makes a new process as daemon(7) has it, in a session of its own.
fn in_background() -> Result<Side, Error> {
    let (heard, told) = io::pipe()?;
    // SAFETY: there is one thread, so that no lock is held by one that the copy does not have.
    let between = match unsafe { libc::fork() } {
        0 => {
            drop(heard);
            let between = rustix::process::getpid();
            // It leads no group yet, so it can.
            let is_forked = setsid().is_ok().then(|| {
                // SAFETY: as before.
                unsafe { libc::fork() }
            });
            if is_forked == Some(0) {
                while getppid() == Some(between) {
                    std::thread::sleep(PARENT_PAUSE);
                }
                let null = fs::OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open("/dev/null")?;
                // Who reads what was printed to the end does not wait for this process.
                rustix::stdio::dup2_stdin(&null)?;
                rustix::stdio::dup2_stdout(&null)?;
                return Ok(Side::New(told));
            }
            let failed = is_forked.is_none_or(|process| process < 0);
            // SAFETY: ends the process, and runs nothing of what the original will run at its end.
            unsafe { libc::_exit(i32::from(failed)) }
        }
        forked => Pid::from_raw(forked).filter(|_| forked > 0),
    };
    let between = between.ok_or_else(io::Error::last_os_error)?;
    drop(told);
    let ended = waitpid(Some(between), WaitOptions::empty())?;
    match ended.and_then(|(_, status)| status.exit_status()) {
        Some(0) => Ok(Side::Waiting(heard)),
        _ => Err("there can be no new process".into()),
    }
}
