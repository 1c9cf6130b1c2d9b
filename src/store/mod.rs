//! Superblock, tree pages, names, chunks, space. Knows nothing of transactions or inodes.

pub mod pages;
pub mod read;
pub mod roots;
pub mod strings;
pub mod superblock;
pub mod tree;

pub use read::{Read, StoreError};
