//! The volume's model: a tree in memory with no cleverness, what the contract allows after a power
//! cut, and the exploration of power cuts and failing disks over it.
//!
//! A test tool: it panics where a test would.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]
#![allow(clippy::cast_possible_truncation)]

pub mod apply;
pub mod attributes;
pub mod datasets;
pub mod explore;
pub mod failing;
pub mod faults;
pub mod found;
pub mod limits;
pub mod model;
pub mod ops;
pub mod workload;
pub mod world;

/// A number from the environment.
#[must_use]
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}
