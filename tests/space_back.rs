//! What a store takes of the disk when everything in it was deleted, by the commands alone: each opens
//! it anew.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod host;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use host::scratch_dir;

const FILES: usize = 4000;
const MIB: u64 = 1 << 20;

fn razorfs(args: &[&str], store: &Path, more: &[&str]) {
    let mut razorfs = Command::new(env!("CARGO_BIN_EXE_razorfs"));
    let done = razorfs.args(args).arg(store).args(more).output().unwrap();
    assert!(done.status.success(), "{args:?} {more:?}: {done:?}");
}

/// Bytes that the store has of the disk.
fn held(store: &Path) -> u64 {
    let files = fs::read_dir(store).unwrap();
    files
        .map(|file| file.unwrap().metadata().unwrap().blocks() * 512)
        .sum()
}

#[test]
fn deleting_everything_returns_to_the_size_of_a_new_store() {
    let dir = scratch_dir();
    let store = dir.path().join("store");
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let mut byte = 0u8;
    for number in 0..FILES {
        let content: Vec<u8> = (0..number % 9 * 3000)
            .map(|at| {
                byte = byte.wrapping_mul(31).wrapping_add(at.to_le_bytes()[0]);
                byte
            })
            .collect();
        fs::write(tree.join(format!("{number:0>200}")), content).unwrap();
    }
    razorfs(&["mkfs"], &store, &[]);
    let new = held(&store);
    for round in 0..2 {
        razorfs(&["create"], &store, &["web"]);
        let tree = tree.to_str().unwrap();
        razorfs(&["import"], &store, &[tree, "--dataset", "web"]);
        razorfs(&["snapshot"], &store, &["web@now"]);
        razorfs(&["clone"], &store, &["web@now", "other"]);
        razorfs(
            &["import"],
            &store,
            &[tree, "--dataset", "other", "--to", "more"],
        );
        let full = held(&store);
        assert!(full > new + 30 * MIB, "{full}, new {new}");
        razorfs(&["delete"], &store, &["other"]);
        razorfs(&["delete", "--recursive"], &store, &["web"]);
        razorfs(&["trim"], &store, &[]);
        let left = held(&store);
        assert!(left <= new + MIB, "round {round}: {left}, new {new}");
    }
    let check = Command::new(env!("CARGO_BIN_EXE_razorfsck"))
        .arg(&store)
        .output();
    let check = check.unwrap();
    assert!(check.status.success(), "{check:?}");
}
