//! Transactions, the write-ahead log, group commit, checkpoint and recovery.
//!
//! A transaction is a list of [`Change`]s. At run time it is applied to the trees and appended to
//! the log; recovery reads the same changes back and applies them with the same code. What the keys
//! and values mean is the engine's business.

pub mod change;
mod checkpoint;
pub mod journal;
pub mod names;
mod pages;
pub mod recovery;
mod scan;
#[cfg(test)]
mod tests;
mod tracked;
mod tx;
pub mod wal;

pub use change::{Change, Changes};
pub use journal::{Journal, View};
pub use tx::{CopyAs, Tx};
