//! Superblock, tree pages, names, chunks, space. Knows nothing of transactions or inodes.

pub mod read;

pub use read::{Read, StoreError};
