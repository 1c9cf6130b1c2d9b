//! The server as a kernel sees it, in memory.

mod caching;
mod files;
mod kernel;
mod privileges;
mod session;
mod snapshots;
mod state;
