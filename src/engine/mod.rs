//! A volume: inodes, dentries, extents, xattrs. Every mutation is one transaction of the journal.
//!
//! Rules of Linux's VFS that must hold together with a change (setgid inheritance, default ACLs,
//! suid clearing, link limits, sticky state of append-only and immutable inodes) are applied here,
//! inside the transaction. Whether a caller may do something (permission bits, sticky directories)
//! is checked by the guest's kernel (`default_permissions`), not here.
//!
//! Lock order: an inode's data lock, then the journal's writer. Nothing that holds the writer waits
//! for an inode's lock or for the disk's flush.

mod acl;
mod attr;
mod background;
mod data;
mod datasets;
mod dir;
mod error;
mod events;
mod flags;
pub mod health;
mod import;
mod inode;
mod kernels;
mod mkfs;
mod names;
mod namespace;
mod op;
mod options;
mod orphan;
mod projects;
mod reap;
mod receive;
mod rename;
mod restore_path;
mod scrub;
mod send;
mod settings;
mod size;
mod status;
mod store;
#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests;
mod types;
mod volume;
mod xattr;

pub use data::{CompactOptions, Compacted, Content, TrimOptions, Trimmed};
pub use datasets::{
    DATASET_NAME_MAX, DatasetError, DatasetInfo, Difference, Path, PathChange, Restoration,
    SnapshotEntry, Still, split_name,
};
pub use error::EngineError;
pub use events::{Event, EventKind, Events};
pub use import::{ImportedAttrs, Importing, Nameless, Xattr};
pub use kernels::{Believing, Release};
pub use mkfs::{LOG_BYTES_DEFAULT, MkfsOptions, mkfs};
pub use options::{Durability, OpenOptions};
pub use projects::ProjectInfo;
pub use receive::{ReceiveHow, ReceivedInode, Receiving, received_for};
pub use restore_path::RestorePath;
pub use scrub::{ScrubClaim, ScrubEvent, ScrubOptions, ScrubProgress, ScrubStatus};
pub use send::{Sending, TreeCounts, TreeDifference};
pub use settings::Settings;
pub use status::{Activity, Status};
pub use store::{OpenError, Store, system_clock};
pub use types::*;
pub use volume::Volume;
