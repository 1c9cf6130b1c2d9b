//! Locks, condition variables, atomics and threads, for all that is shared between threads.
//!
//! They are parking_lot's and the standard library's, except in a build with `--cfg shuttle`: there
//! they are shuttle's, under whose scheduler `tests/shuttle` runs the same code in thousands of
//! orders. The layers from the engine down, and the worker pool, take what blocks from here, so that
//! no order is out of that scheduler's reach. Imports nothing of razorfs.

#[cfg(shuttle)]
mod controlled;

#[cfg(shuttle)]
pub use controlled::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(not(shuttle))]
pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

#[cfg(shuttle)]
pub use shuttle::{
    sync::{atomic, mpsc},
    thread,
};
#[cfg(not(shuttle))]
pub use std::{
    sync::{atomic, mpsc},
    thread,
};
