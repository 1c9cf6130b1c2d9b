//! How far something long is: counted by who does it, looked at by who shows it.
//!
//! Counting waits for nobody and decides nothing: what is done is the same whether somebody looks or
//! not. What takes less than a moment is never shown.
//!
//! Imports nothing of razorfs but `ticker`.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use parking_lot::Mutex;

use crate::ticker::Ticker;

/// What takes no longer than this is not shown on a terminal.
const SHOWN_AFTER: Duration = Duration::from_secs(1);
/// How often a terminal is told.
const SHOWN_EVERY: Duration = Duration::from_millis(100);

/// A handle on how far something is; all clones are of the same.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<State>);

#[derive(Debug, Default)]
struct State {
    step: Mutex<Step>,
    done: AtomicU64,
    total: AtomicU64,
}

#[derive(Debug, Default)]
struct Step {
    name: &'static str,
    /// When it began; `None` before any did.
    at: Option<Instant>,
    /// How much was done then.
    from: u64,
}

/// How far it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// What is being done; nothing before it begins.
    pub step: &'static str,
    /// How much of this step is done, in whatever it counts.
    pub done: u64,
    /// How much there is to do, at most; 0 when that is not known.
    pub total: u64,
    /// How long it will take at most, if it goes on as it did; `None` when that is not known.
    pub left: Option<Duration>,
}

impl Progress {
    /// A step begins, of `total` at most; 0 when that is not known.
    pub fn begin(&self, step: &'static str, total: u64) {
        self.go_on(step, 0, total);
    }

    /// The same of a step of which so much was `done` another time.
    pub fn go_on(&self, step: &'static str, done: u64, total: u64) {
        let mut now = self.0.step.lock();
        *now = Step {
            name: step,
            at: Some(Instant::now()),
            from: done,
        };
        self.0.done.store(done, Ordering::Relaxed);
        self.0.total.store(total, Ordering::Relaxed);
    }

    /// So much more is done.
    pub fn add(&self, count: u64) {
        self.0.done.fetch_add(count, Ordering::Relaxed);
    }

    /// So much is done of the step.
    pub fn reach(&self, done: u64) {
        self.0.done.store(done, Ordering::Relaxed);
    }

    /// How far it is.
    #[must_use]
    pub fn look(&self) -> Look {
        let step = self.0.step.lock();
        let done = self.0.done.load(Ordering::Relaxed);
        let total = self.0.total.load(Ordering::Relaxed);
        let took = step.at.map(|at| at.elapsed());
        Look {
            step: step.name,
            done,
            total,
            left: took.and_then(|took| left(took, done.saturating_sub(step.from), total, done)),
        }
    }
}

/// How long the rest takes when `since` took so long.
fn left(took: Duration, since: u64, total: u64, done: u64) -> Option<Duration> {
    let rest = total.saturating_sub(done);
    if since == 0 || rest == 0 {
        return None;
    }
    let nanos = took.as_nanos().saturating_mul(rest.into()) / u128::from(since);
    Some(Duration::from_nanos(
        u64::try_from(nanos).unwrap_or(u64::MAX),
    ))
}

impl std::fmt::Display for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Look { step, done, .. } = self;
        match self.total {
            0 if *done == 0 => write!(f, "{step}"),
            0 => write!(f, "{step}: {done}"),
            total => write!(f, "{step}: {done} of {total}"),
        }
    }
}

/// Has something be looked at again and again, until it is dropped.
pub struct Watch(#[expect(dead_code, reason = "it is dropped")] Option<Ticker>);

impl Watch {
    /// Calls `show` after `first`, then after each `every`. Where there can be no thread for it, nothing
    /// is shown.
    #[must_use]
    pub fn start(
        progress: &Progress,
        first: Duration,
        every: Duration,
        mut show: impl FnMut(Look) + Send + 'static,
    ) -> Watch {
        let progress = progress.clone();
        let show = move || show(progress.look());
        let ticker = Ticker::start("razorfs-progress", first, every, show)
            .inspect_err(|error| log::debug!("how far it is cannot be shown: {error}"));
        Watch(ticker.ok())
    }
}

/// A bar on a terminal, until it is dropped: nothing of it is left there then.
pub struct Terminal {
    bar: Arc<Mutex<Bar>>,
    _watch: Watch,
}

impl Terminal {
    /// Shows it on standard error, if that is a terminal.
    #[must_use]
    pub fn show(progress: &Progress) -> Option<Terminal> {
        if !std::io::stderr().is_terminal() {
            return None;
        }
        let bar = Arc::new(Mutex::new(Bar::default()));
        let shown = Arc::clone(&bar);
        let show = move |look| shown.lock().show(look);
        Some(Terminal {
            bar,
            _watch: Watch::start(progress, SHOWN_AFTER, SHOWN_EVERY, show),
        })
    }

    /// Does something that prints lines, with the bar out of their way.
    pub fn aside<T>(&self, act: impl FnOnce() -> T) -> T {
        let mut bar = self.bar.lock();
        bar.clear();
        act()
    }
}

/// A bar on standard error, for one step after the other.
#[derive(Default)]
struct Bar {
    shown: Option<(&'static str, ProgressBar)>,
}

impl Bar {
    fn show(&mut self, look: Look) {
        let is_same = |(step, bar): &&(&str, ProgressBar)| {
            *step == look.step && bar.length().is_some() == (look.total > 0)
        };
        let bar = match self.shown.as_ref().filter(is_same) {
            Some((_, bar)) => bar.clone(),
            None => {
                self.clear();
                let bar = bar_of(look);
                self.shown = Some((look.step, bar.clone()));
                bar
            }
        };
        if look.total > 0 {
            bar.set_length(look.total);
        }
        bar.set_position(look.done);
        bar.set_prefix(look.left.map_or_else(String::new, |left| {
            format!(", {:#} left", HumanDuration(left))
        }));
        bar.tick();
    }

    fn clear(&mut self) {
        if let Some((_, bar)) = self.shown.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

fn bar_of(look: Look) -> ProgressBar {
    let (bar, template) = match look.total {
        0 => (
            ProgressBar::new_spinner(),
            "{spinner} {msg} {human_pos} ({elapsed})",
        ),
        total => (
            ProgressBar::new(total),
            "{msg} {wide_bar} {percent} % of at most {human_len}{prefix}",
        ),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(look.step);
    bar
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn clones_are_of_the_same_and_a_step_begins_anew() {
        let progress = Progress::default();
        let other = progress.clone();
        other.begin("reading", 10);
        other.add(3);
        other.add(4);
        assert_eq!(progress.look().to_string(), "reading: 7 of 10");
        other.begin("writing", 0);
        assert_eq!(progress.look().to_string(), "writing");
        other.reach(5);
        assert_eq!(progress.look().to_string(), "writing: 5");
    }

    #[test]
    fn the_rest_takes_as_long_as_what_was_done() {
        let second = Duration::from_secs(1);
        assert_eq!(left(second, 10, 40, 10), Some(3 * second));
        // What another time did took none of it.
        assert_eq!(left(second, 10, 40, 30), Some(second));
        assert_eq!(left(second, 0, 40, 30), None);
        assert_eq!(left(second, 10, 40, 40), None, "nothing is left");
        assert_eq!(left(second, 10, 0, 10), None, "nobody knows");
        let longest = Some(Duration::from_nanos(u64::MAX));
        assert_eq!(left(Duration::MAX, 1, u64::MAX, 1), longest);
        let progress = Progress::default();
        assert_eq!(progress.look().left, None);
        progress.go_on("reading", 30, 40);
        assert_eq!(progress.look().left, None);
        progress.reach(35);
        assert!(progress.look().left.is_some());
    }

    #[test]
    fn it_is_shown_until_the_end_and_not_when_it_is_quick() {
        let progress = Progress::default();
        progress.begin("waiting", 2);
        let long = Duration::from_secs(3600);
        let quick = Watch::start(&progress, long, long, |look| panic!("{look}"));
        drop(quick);
        let (sender, shown) = channel();
        let every = Duration::from_millis(1);
        let watch = Watch::start(&progress, every, every, move |look| {
            let _ = sender.send(look.done);
        });
        assert_eq!(shown.recv(), Ok(0));
        progress.add(1);
        while shown.recv().unwrap() == 0 {}
        drop(watch);
        // The thread is gone, and what it sent with is.
        assert!(shown.iter().all(|done| done == 1));
    }
}
