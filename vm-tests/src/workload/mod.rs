//! A workload whose every outcome can be judged afterwards, and the model that judges it.
//!
//! A seed gives a list of operations (`ops`); each changes the model (`model`) in the same way as
//! the file system. The guest says which operation it begins and which has returned. After a power
//! cut the tree (`tree`) must equal the model after some prefix of the operations, not before what
//! a sync had covered and not behind what was begun; and each 1 KiB cell of a file's content must
//! be one that was written there since the last sync that covered it, or the one before (`judge`).

mod judge;
mod model;
mod ops;
#[cfg(test)]
mod tests;
mod tree;

pub use judge::{Breach, Kind, judge, judge_live};
pub use model::Model;
pub use ops::{Able, Op, Wait, plan, syncs};
pub use tree::{File, Found, Tree, dump_line, parse_dump_line, renumbered};

/// Bytes of a cell: the unit of content.
pub const CELL_BYTES: usize = 1024;

/// The content of a cell as written by operation `id` of the workload `seed`.
#[must_use]
pub fn cell(seed: u64, id: u32, index: u32) -> Vec<u8> {
    let mut unit = Vec::with_capacity(16);
    unit.extend_from_slice(&id.to_le_bytes());
    unit.extend_from_slice(&index.to_le_bytes());
    unit.extend_from_slice(&seed.to_le_bytes());
    unit.repeat(CELL_BYTES / 16)
}

/// Who wrote a cell: 0 for zeros, `None` for bytes that no operation of this workload wrote there.
#[must_use]
pub fn writer(seed: u64, index: u32, bytes: &[u8]) -> Option<u32> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Some(0);
    }
    let id = u32::from_le_bytes(*bytes.first_chunk::<4>()?);
    (id != 0 && cell(seed, id, index) == bytes).then_some(id)
}

/// The directory of a path; `""` for the workload's own.
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}
