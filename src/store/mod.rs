//! Superblock, tree pages, names, chunks, space. Knows nothing of transactions or inodes.

pub mod pages;
pub mod read;
pub mod tree;

pub use read::{Read, StoreError};
