//! The fuzz targets over bytes from a seed: what a fuzzer would find by luck, on any toolchain.
//!
//! `RAZORFS_FUZZ` is the number of executions of all targets, `RAZORFS_SEED` the seed. A failure
//! prints both; the bytes of the execution under way are always in `fuzz-TARGET.bin` in cargo's
//! directory for tests, so that not even an abort or a hang loses them. `RAZORFS_FUZZ_BYTES` names
//! such a file to run again, `RAZORFS_FUZZ_SEEDS` a directory to write the seeds of the fuzzers in
//! `fuzz/` to, and nothing else.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[path = "../fuzz/src/lib.rs"]
mod targets;

use targets::{TARGETS, Target};

/// Inputs that a fuzzer once found something with, each for the target that its name begins with.
const FOUND: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/found");
/// Executions without `RAZORFS_FUZZ`.
const EXECUTIONS: u64 = 100_000;

fn from_environment(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().unwrap())
}

/// Bytes out of nothing, or a seed with some of it changed.
fn bytes(random: &mut ChaCha8Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    if random.random_bool(0.3) {
        let mut bytes = vec![0; random.random_range(0..1200)];
        random.fill(bytes.as_mut_slice());
        return bytes;
    }
    let mut bytes = seeds[random.random_range(0..seeds.len())].clone();
    for _ in 0..random.random_range(0..12) {
        let len = bytes.len().max(1);
        let at = random.random_range(0..len);
        match random.random_range(0..8) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at.min(bytes.len()), random.random()),
            2 => {
                let part: Vec<u8> = bytes[at.min(bytes.len())..]
                    .iter()
                    .copied()
                    .take(40)
                    .collect();
                let to = random.random_range(0..len).min(bytes.len());
                bytes.splice(to..to, part);
            }
            3 => bytes[at.min(len - 1)..]
                .iter_mut()
                .take(8)
                .for_each(|byte| *byte = 0xff),
            _ => {
                // Mostly near the front, where headers are.
                let at = if random.random() { at % 128 } else { at };
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random.random();
                }
            }
        }
    }
    bytes
}

fn run(target: &Target) {
    if let Some(path) = std::env::var_os("RAZORFS_FUZZ_BYTES") {
        return (target.run)(&std::fs::read(path).unwrap());
    }
    for found in std::fs::read_dir(FOUND).unwrap().flatten() {
        if found.file_name().to_string_lossy().starts_with(target.name) {
            (target.run)(&std::fs::read(found.path()).unwrap());
        }
    }
    let seeds = (target.seeds)();
    if let Some(dir) = std::env::var_os("RAZORFS_FUZZ_SEEDS") {
        let dir = Path::new(&dir).join(target.name);
        std::fs::create_dir_all(&dir).unwrap();
        for (index, seed) in seeds.iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{index}")), seed).unwrap();
        }
        return;
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}.bin", target.name));
    let file = File::create(&path).unwrap();
    let executions = from_environment("RAZORFS_FUZZ", EXECUTIONS) * target.share / 100;
    let seed = from_environment("RAZORFS_SEED", 1);
    println!("{}: {executions} executions, seed {seed}", target.name);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for execution in 0..executions {
        let bytes = bytes(&mut random, &seeds);
        file.set_len(0).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(&bytes))) {
            let (name, path) = (target.name, path.display());
            println!("{name}, seed {seed}, execution {execution}: {path}");
            resume_unwind(panic);
        }
    }
}

fn named(name: &str) {
    run(TARGETS.iter().find(|target| target.name == name).unwrap());
}

#[test]
fn formats() {
    named("formats");
}

#[test]
fn chains() {
    named("chains");
}

#[test]
fn wal() {
    named("wal");
}

#[test]
fn fuse_request() {
    named("fuse_request");
}

#[test]
fn recovery() {
    named("recovery");
}

#[test]
fn tar() {
    named("tar");
}

#[test]
fn stream() {
    named("stream");
}

#[test]
fn guest_state() {
    named("guest_state");
}
