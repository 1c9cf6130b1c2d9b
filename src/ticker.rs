//! Something that is done again and again beside what goes on.
//!
//! Imports nothing of razorfs.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Does it, until this is dropped.
pub struct Ticker {
    over: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Has a thread of this name call `act` after `first`, then after each `every`.
    ///
    /// # Errors
    /// When there can be no thread for it.
    pub fn start(
        name: &str,
        first: Duration,
        every: Duration,
        mut act: impl FnMut() + Send + 'static,
    ) -> io::Result<Ticker> {
        let (over, is_over) = channel();
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                let mut pause = first;
                while is_over.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                    act();
                    pause = every;
                }
            })?;
        Ok(Ticker {
            over: Some(over),
            thread: Some(thread),
        })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.over = None;
        let Some(thread) = self.thread.take() else {
            return;
        };
        let name = thread.thread().name().unwrap_or_default().to_owned();
        if thread.join().is_err() {
            log::error!("the thread {name} failed");
        }
    }
}
