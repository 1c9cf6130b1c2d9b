//! parking_lot's interface over shuttle's locks.
//!
//! Poisoning is ignored, as parking_lot has none: a panic ends the schedule anyway. A thread that
//! takes a lock a second time, for reading too, fails the schedule: with parking_lot it could wait
//! for a writer that waits for it.

use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use shuttle::rand::RngCore;

pub use shuttle::sync::{RwLockReadGuard, RwLockWriteGuard};

/// How many waits on a condition variable may run out of time. A timer that could fire without end
/// would keep a schedule from ending.
const TIME_OUTS_MAX: u32 = 3;

/// A mutual exclusion lock.
#[derive(Default)]
pub struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// A lock that is free.
    pub fn new(value: T) -> Self {
        Mutex(shuttle::sync::Mutex::new(value))
    }

    /// The lock, if nobody has it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let held = self.0.try_lock().ok()?;
        Some(MutexGuard {
            mutex: self,
            held: Some(held),
        })
    }

    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard {
            mutex: self,
            held: Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

/// A held [`Mutex`].
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// `None` only while [`MutexGuard::unlocked`] or [`Condvar::wait`] is at work.
    held: Option<shuttle::sync::MutexGuard<'a, T>>,
}

impl<T> MutexGuard<'_, T> {
    /// Does something with the lock given back, and takes it again.
    pub fn unlocked<U>(guard: &mut Self, act: impl FnOnce() -> U) -> U {
        drop(guard.held.take());
        let result = act();
        guard.held = guard.mutex.lock().held.take();
        result
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.held {
            Some(held) => held,
            None => unreachable!("used while it was given back"),
        }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.held {
            Some(held) => held,
            None => unreachable!("used while it was given back"),
        }
    }
}

/// A lock that many may hold for reading.
#[derive(Default)]
pub struct RwLock<T>(shuttle::sync::RwLock<T>);

impl<T> RwLock<T> {
    /// A lock that is free.
    pub fn new(value: T) -> Self {
        RwLock(shuttle::sync::RwLock::new(value))
    }

    /// Waits until nobody writes.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock, if nobody writes.
    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        self.0.try_read().ok()
    }

    /// Waits until nobody has it.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock, if nobody has it.
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        self.0.try_write().ok()
    }
}

/// A condition variable. Wakes nobody without cause, as parking_lot's.
#[derive(Default)]
pub struct Condvar {
    waiters: shuttle::sync::Condvar,
    time_outs: AtomicU32,
}

/// How a wait with a deadline ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Whether the time was over.
    pub fn timed_out(self) -> bool {
        self.0
    }
}

impl Condvar {
    /// One on which nobody waits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the lock back and waits.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let Some(held) = guard.held.take() else {
            unreachable!("used while it was given back");
        };
        let woken = self.waiters.wait(held);
        guard.held = Some(woken.unwrap_or_else(PoisonError::into_inner));
    }

    /// As [`Condvar::wait`]; whether the deadline passes is the schedule's choice, and the clock's
    /// never: a wait either runs out of time, after whatever others do meanwhile, or has for ever.
    pub fn wait_until<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        _deadline: Instant,
    ) -> WaitTimeoutResult {
        let left = self.time_outs.load(Ordering::Relaxed) < TIME_OUTS_MAX;
        if left && shuttle::rand::thread_rng().next_u64().is_multiple_of(2) {
            self.time_outs.fetch_add(1, Ordering::Relaxed);
            MutexGuard::unlocked(guard, shuttle::thread::yield_now);
            return WaitTimeoutResult(true);
        }
        self.wait(guard);
        WaitTimeoutResult(false)
    }

    /// Wakes one who waits, if anyone does.
    pub fn notify_one(&self) {
        self.waiters.notify_one();
    }

    /// Wakes all who wait.
    pub fn notify_all(&self) {
        self.waiters.notify_all();
    }
}
