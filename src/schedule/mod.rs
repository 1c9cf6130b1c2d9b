//! Snapshots at their time, and which of them stay.
//!
//! Time is cut into slots of a schedule's interval, from a Monday at midnight UTC on, and each slot
//! has one snapshot of a dataset at most. So what was missed while no daemon ran is made up for by
//! one. A snapshot is named by the schedule's prefix and the minute (UTC) at which it was taken;
//! what has such a name is the schedule's, and nothing else is ever deleted here.
//!
//! ```text
//! names      from a time to a name and back
//! retention  which of many times stay: a pure function
//! due        whether a slot has come, on clocks that jump: a pure function
//! work       what is to be done to a store at a moment
//! thread     who does it
//! ```
//!
//! May import engine.

mod due;
mod names;
mod retention;
#[cfg(test)]
mod tests;
mod thread;
mod work;

use std::fmt;
use std::time::Duration;

pub use names::PREFIX_BYTES_MAX;
pub use retention::{Keep, kept};
pub use thread::Scheduler;
pub use work::Work;

/// What snapshots are taken of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Every dataset of the store, but for those that another schedule of the same prefix names.
    All,
    /// This one.
    Named(String),
}

/// Snapshots to be taken again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// What of.
    pub which: Which,
    /// How often: whole seconds, at least a minute.
    pub every: Duration,
    /// Which stay; `None` for all.
    pub keep: Option<Keep>,
    /// How the names begin.
    pub prefix: String,
}

/// For people: what it does.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Schedule { every, prefix, .. } = self;
        match &self.which {
            Which::All => write!(f, "every dataset")?,
            Which::Named(name) => write!(f, "{name}")?,
        }
        let (number, unit) = match every.as_secs() {
            s if s % 86_400 == 0 => (s / 86_400, "days"),
            s if s % 3_600 == 0 => (s / 3_600, "hours"),
            s if s % 60 == 0 => (s / 60, "minutes"),
            s => (s, "seconds"),
        };
        write!(f, " as {prefix}..., every {number} {unit}, ")?;
        match &self.keep {
            None => write!(f, "all kept"),
            Some(keep) => write!(f, "kept: {keep}"),
        }
    }
}
