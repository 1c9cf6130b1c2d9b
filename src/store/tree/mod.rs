//! Copy-on-write B+ trees.
//!
//! A tree in memory is a [`Link`] to its root. What is reached through a link never changes while
//! anyone else can see it: a change copies the nodes on its path, so a clone of a root is a
//! snapshot, and readers need no lock. Nodes not yet written hold their children in memory; once a
//! checkpoint has written them they are links to pages again, and live in the bounded cache.
//!
//! Invariants: keys are sorted within a node and across its children; cell 0 of an internal node
//! stands for everything below cell 1; every other cell's key is at most any key below it; all
//! leaves are at level 0; no node but the root is empty.

mod change;
mod checkpoint;
mod diff;
mod node;
mod query;
mod verify;
mod walk;

#[cfg(test)]
mod diff_tests;
#[cfg(test)]
mod tests;

pub use change::{Effects, delete, put};
pub use checkpoint::{freeze, settle};
pub use diff::{Differs, diff};
pub use node::{Link, Loaded, Node, Source};
pub use query::{floor_with, get_with, has_room, make_ready, scan};
pub use verify::verify;
pub use walk::{Entries, Walk};
