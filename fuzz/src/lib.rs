//! What is fuzzed: each target makes something hostile out of any bytes, and panics when razorfs
//! does what it must not.
//!
//! ```text
//! fuse_request   requests of a kernel, through the server down to a simulated disk
//! chains         a virtqueue of arbitrary descriptors, and the requests in it
//! wal            the log's reader over arbitrary batches
//! formats        every on-disk structure, behind its checksum
//! recovery       a store whose log is arbitrary: opened, used, closed, checked
//! guest_state    the state of a guest's mount, from another host
//! stream         a snapshot's stream of arbitrary records, received
//! tar            a tar stream of arbitrary members, imported
//! ```
//!
//! The fuzzers in `fuzz_targets` choose the bytes; `tests/fuzz_targets.rs` takes them from a seed,
//! and needs neither cargo-fuzz nor a nightly toolchain. It includes this file.

pub mod chains;
pub mod formats;
pub mod fuse_request;
mod guest;
pub mod guest_state;
mod log;
pub mod recovery;
mod store;
pub mod stream;
pub mod tar;
pub mod wal;

/// A target: what it does with bytes, and bytes to begin with.
pub struct Target {
    /// Its name, also its program's.
    pub name: &'static str,
    /// Panics when razorfs does what it must not.
    pub run: fn(&[u8]),
    /// Bytes that get far.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Its share of executions, in percent.
    pub share: u64,
}

/// All of them.
pub const TARGETS: [Target; 8] = [
    Target {
        name: "formats",
        run: formats::run,
        seeds: formats::seeds,
        share: 44,
    },
    Target {
        name: "chains",
        run: chains::run,
        seeds: || random_seeds(1, 900),
        share: 28,
    },
    Target {
        name: "wal",
        run: wal::run,
        seeds: || random_seeds(2, 300),
        share: 10,
    },
    Target {
        name: "fuse_request",
        run: fuse_request::run,
        seeds: || random_seeds(3, 900),
        share: 9,
    },
    Target {
        name: "recovery",
        run: recovery::run,
        seeds: || random_seeds(4, 500),
        share: 2,
    },
    Target {
        name: "guest_state",
        run: guest_state::run,
        seeds: guest_state::seeds,
        share: 5,
    },
    Target {
        name: "stream",
        run: stream::run,
        seeds: stream::seeds,
        share: 1,
    },
    Target {
        name: "tar",
        run: tar::run,
        seeds: tar::seeds,
        share: 1,
    },
];

/// Where a target takes structures out of its bytes, any bytes are a seed.
fn random_seeds(seed: u64, len: usize) -> Vec<Vec<u8>> {
    use rand::{Rng, SeedableRng};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (1..=16)
        .map(|index| {
            let mut bytes = vec![0; len * index / 8];
            random.fill(bytes.as_mut_slice());
            bytes
        })
        .collect()
}
