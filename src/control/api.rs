//! What requests and answers of the control socket are made of.
//!
//! Fields are added, never renamed, removed or given another meaning: who knows fewer goes on.
//! A request with a field that is not known is refused, since it asks for something that would not
//! be done.

mod archive;
mod datasets;
mod events;
mod exports;
mod failure;
mod projects;
mod snapshots;
mod streams;
mod whole;

pub use archive::{ExtractFrom, ImportInto, Imported};
pub use datasets::{
    ChangeDataset, Dataset, DeleteDataset, NewClone, NewDataset, Rewrite, Rewritten,
};
pub use events::{Event, EventKind, Watch};
pub use exports::{DeleteExport, Export, NewExport};
pub use failure::{ErrorKind, Failure};
pub use projects::{ChangeProject, ListProjects, Project};
pub use snapshots::{
    ChangeSnapshot, Compare, Difference, ListSnapshots, NewSnapshot, PathChange, Restore,
    RestoreDataset, Restored, Snapshot,
};
pub use streams::{ReceiveSnapshot, Received, SendSnapshot, UnfinishedReceive};
pub use whole::{
    ChangeStore, Compact, Compacted, Health, HostFileSystem, NewScrub, Opening, Scrub, Stats,
    StoreSettings, Trim, Trimmed,
};
