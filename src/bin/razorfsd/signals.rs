//! Signals: SIGTERM and SIGINT end what is served, SIGHUP has the configuration read again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use razorfs::config::{Command, Config, staleness};
use razorfs::engine::Store;
use razorfs::export::Exports;
use razorfs::schedule::Scheduler;
use razorfs::transport::vhost_user::Stop;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::daemon::schedules;
use crate::{Error, service};

/// Signals, which wait from here on for [`follow_signals`]. A second SIGTERM or SIGINT ends the daemon
/// at once, and the next opening recovers.
pub fn signals() -> Result<Signals, Error> {
    let again = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, again.clone())?;
        signal_hook::flag::register(signal, again.clone())?;
    }
    Ok(Signals::new([SIGTERM, SIGINT, SIGHUP])?)
}

/// What can change while the daemon runs.
pub struct Live {
    /// What is in force.
    pub config: Config,
    pub store: Arc<Store>,
    pub exports: Arc<Exports>,
    pub scheduler: Scheduler,
}

/// Who follows signals; to be ended before the store is closed.
pub struct Following {
    handle: signal_hook::iterator::Handle,
    thread: std::thread::JoinHandle<()>,
}

impl Following {
    pub fn end(self) {
        self.handle.close();
        if self.thread.join().is_err() {
            log::error!("the thread that follows signals failed");
        }
    }
}

/// What is served now.
pub enum Current {
    /// A store.
    Store(Box<Live>),
    /// Nothing, and this ends it.
    Nothing(Arc<Stop>),
}

impl Current {
    fn stop(&self) {
        match self {
            Current::Store(live) => live.exports.end(),
            Current::Nothing(stop) => {
                if let Err(error) = stop.trigger() {
                    log::error!("cannot end: {error}");
                }
            }
        }
    }
}

/// What signals are about.
#[derive(Clone, Default)]
pub struct Followed {
    current: Arc<Mutex<Option<Current>>>,
    /// The end was asked for.
    over: Arc<AtomicBool>,
    /// The configuration is to be read again, once a store is served.
    read_again: Arc<AtomicBool>,
}

impl Followed {
    pub fn begin(&self, mut current: Current) {
        let mut now = self.current.lock();
        // The signal may have come while nothing was served.
        if self.is_over() {
            current.stop();
        } else if let Current::Store(live) = &mut current
            && self.read_again.swap(false, Ordering::AcqRel)
        {
            live.reload();
        }
        *now = Some(current);
    }

    /// What was served, of a store.
    pub fn end(&self) -> Option<Box<Live>> {
        match self.current.lock().take() {
            Some(Current::Store(live)) => Some(live),
            _ => None,
        }
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// What is going on now. Waits for nothing.
    pub fn look(&self) -> Look {
        // It is held while the configuration is read again, which may take as long as it likes.
        match self.current.try_lock().as_deref() {
            Some(Some(Current::Store(live))) => {
                Look::Store(Arc::clone(&live.store), Arc::clone(&live.exports))
            }
            Some(None) if !self.is_over() => Look::Opening,
            _ => Look::Other,
        }
    }
}

/// What the daemon does.
pub enum Look {
    /// It opens a store, or changes from one opening to the next.
    Opening,
    /// It serves one.
    Store(Arc<Store>, Arc<Exports>),
    /// Anything else.
    Other,
}

/// The first SIGTERM or SIGINT ends what is served, and so the daemon; SIGHUP has the configuration
/// read again.
pub fn follow_signals(mut signals: Signals, followed: Followed) -> Result<Following, Error> {
    let handle = signals.handle();
    let thread = std::thread::Builder::new()
        .name("razorfs-signals".into())
        .spawn(move || {
            for signal in &mut signals {
                let mut current = followed.current.lock();
                if signal == SIGHUP {
                    match current.as_mut() {
                        Some(Current::Store(live)) => {
                            service::reloading();
                            live.reload();
                            service::reloaded();
                        }
                        _ => followed.read_again.store(true, Ordering::Release),
                    }
                    continue;
                }
                log::info!("signal {signal}: closing the store");
                service::stopping();
                followed.over.store(true, Ordering::Release);
                if let Some(current) = &*current {
                    current.stop();
                }
            }
        })?;
    Ok(Following { handle, thread })
}

impl Live {
    /// Reads the configuration again, and does what can be done: all of it is in order, or nothing
    /// changes.
    fn reload(&mut self) {
        let Some(file) = &self.config.file else {
            log::warn!("SIGHUP: there is no configuration file to read again (--config)");
            return;
        };
        let new = match Command::parse(std::env::args_os()) {
            Ok(Command::Serve(new)) => new,
            Ok(_) => return,
            Err(error) => {
                log::error!("SIGHUP: nothing changes: {error}");
                return;
            }
        };
        for line in self.config.fixed_differences(&new) {
            log::warn!("{}: {line}", file.display());
        }
        log::set_max_level(new.log_level);
        self.store.follow(&new.open);
        self.config.schedules.clone_from(&new.schedules);
        self.config.exports.clone_from(&new.exports);
        self.scheduler.replace(schedules(&self.config));
        for warning in staleness(&new.exports) {
            log::warn!("{warning}");
        }
        for error in self.exports.reload(&new.named()) {
            log::error!("{}: {error}", file.display());
        }
        log::info!("{} is in force", file.display());
    }
}
