//! razorfs: a durable file system for virtual machines, served over virtiofs.
//!
//! ```text
//! programs    src/bin        flags, exit codes
//! daemon                     where guests go on with another process
//! transport                  vhost-user device, local mount over /dev/fuse
//! archive, stream            trees of the host and tar streams; snapshots on their way
//! server                     FUSE messages: decode, dispatch, encode
//! control                    the control socket, beside server and transport: HTTP and JSON
//! export                     datasets on sockets, which come and go
//! schedule                   snapshots at their time, and which of them stay
//! fs                         FUSE semantics over the engine, errno
//! engine                     a volume: inodes, dentries, extents, xattrs, datasets
//! log                        WAL, group commit, transactions, checkpoint, recovery
//! store                      superblock, tree pages, names, chunks, space
//! disk                       read, write, flush: files, or a simulated disk
//! ```
//!
//! Imports point down only. `format` (bytes and checksums, no I/O) may be used by the engine and
//! everything below it; `fsck` uses `log`, `store`, `disk` and `format`, never `engine`, so that
//! it shares no bug with what it checks. `fault` (faults of mapped files) is for `disk` and
//! `transport`, `memory` (giving it back) for the engine, `sandbox` (confinement of the process) for
//! programs; `progress` (how far something long is) for all that takes long, `ticker` (something done again
//! and again) for `progress` and programs; `ranges` (a set of numbers) for store and engine; `sync`
//! (locks and threads) is for all who share something between threads, `metrics` (counting) for all
//! in whom something happens that operators want to know of.

pub mod archive;
pub mod config;
pub mod control;
pub mod daemon;
pub mod disk;
pub mod engine;
pub mod export;
mod fault;
pub mod format;
pub mod fs;
pub mod fsck;
pub mod log;
pub mod manual;
mod memory;
pub mod metrics;
pub mod progress;
mod ranges;
pub mod sandbox;
pub mod schedule;
pub mod server;
pub mod store;
pub mod stream;
pub mod sync;
pub mod ticker;
pub mod transport;
