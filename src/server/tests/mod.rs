//! The server as a kernel sees it, in memory.

mod files;
mod kernel;
mod session;
