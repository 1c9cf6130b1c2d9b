//! Threads for requests that wait for the disk.
//!
//! They start when needed, up to a limit, and stay. What waits here is bounded by the rings: each
//! has at most as many requests in flight as it has entries.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex};

type Task = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Task>,
    idle: usize,
    threads: Vec<JoinHandle<()>>,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    /// What each thread does first.
    begin: Box<dyn Fn() + Send + Sync>,
}

/// The threads.
pub(super) struct Pool {
    shared: Arc<Shared>,
    threads_max: usize,
}

impl Pool {
    /// A pool of up to `threads_max` threads, each of which calls `begin` first; with 0, tasks run
    /// in the caller's.
    pub(super) fn new(threads_max: usize, begin: impl Fn() + Send + Sync + 'static) -> Pool {
        Pool {
            shared: Arc::new(Shared {
                queue: Mutex::default(),
                work: Condvar::new(),
                begin: Box::new(begin),
            }),
            threads_max,
        }
    }

    /// Whether it may have threads at all.
    pub(super) fn has_threads(&self) -> bool {
        self.threads_max > 0
    }

    /// Runs a task as soon as a thread is free.
    pub(super) fn run(&self, task: impl FnOnce() + Send + 'static) {
        if self.threads_max == 0 {
            return task();
        }
        let mut queue = self.shared.queue.lock();
        if queue.closed {
            drop(queue);
            return task();
        }
        queue.tasks.push_back(Box::new(task));
        if queue.idle >= queue.tasks.len() || queue.threads.len() >= self.threads_max {
            drop(queue);
            self.shared.work.notify_one();
            return;
        }
        let shared = self.shared.clone();
        match thread::Builder::new()
            .name("razorfs-pool".into())
            .spawn(move || shared.work())
        {
            Ok(thread) => queue.threads.push(thread),
            Err(error) if queue.threads.is_empty() => {
                log::error!("cannot start a thread, requests wait for each other: {error}");
                let task = queue.tasks.pop_back();
                drop(queue);
                if let Some(task) = task {
                    task();
                }
            }
            Err(error) => log::warn!("cannot start another thread: {error}"),
        }
    }

    /// Ends the threads, after everything that was handed over. What comes later runs in the
    /// caller's.
    ///
    /// Not done by dropping it: the last to drop it may be a task, in a thread of the pool.
    pub(super) fn close(&self) {
        let threads = {
            let mut queue = self.shared.queue.lock();
            queue.closed = true;
            std::mem::take(&mut queue.threads)
        };
        self.shared.work.notify_all();
        for thread in threads {
            // A panic in one has been reported by then.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn work(&self) {
        (self.begin)();
        let mut queue = self.queue.lock();
        loop {
            if let Some(task) = queue.tasks.pop_front() {
                drop(queue);
                task();
                queue = self.queue.lock();
            } else if queue.closed {
                return;
            } else {
                queue.idle = queue.idle.saturating_add(1);
                self.work.wait(&mut queue);
                queue.idle = queue.idle.saturating_sub(1);
            }
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn tasks_that_wait_for_each_other_run_together() {
        let barrier = Arc::new(Barrier::new(4));
        let done = Arc::new(AtomicUsize::new(0));
        let pool = Pool::new(4, || {});
        for _ in 0..4 {
            let (barrier, done) = (barrier.clone(), done.clone());
            pool.run(move || {
                barrier.wait();
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        pool.close();
        assert_eq!(done.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn everything_handed_over_is_done_before_the_pool_is_gone() {
        for threads in [0, 1, 3] {
            let done = Arc::new(AtomicUsize::new(0));
            let pool = Pool::new(threads, || {});
            for _ in 0..50 {
                let done = done.clone();
                pool.run(move || {
                    done.fetch_add(1, Ordering::Relaxed);
                });
            }
            pool.close();
            assert_eq!(done.load(Ordering::Relaxed), 50, "{threads} threads");
        }
    }
}
