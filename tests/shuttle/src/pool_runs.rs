//! The worker pool: each task runs once, whatever the pool is doing when it comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::pool::Pool;
use crate::{choose, explore, sync, together};

fn count(runs: &[AtomicUsize; 8], task: usize) {
    runs[task].fetch_add(1, Ordering::Relaxed);
}

#[test]
fn each_task_runs_once_when_the_pool_is_closed_meanwhile() {
    explore("the worker pool", 1, || {
        let threads_max = usize::try_from(1 + choose(3)).unwrap();
        let pool = Arc::new(Pool::new(threads_max, || {}));
        // Counted with the standard library's atomics: no places to switch.
        let runs: Arc<[AtomicUsize; 8]> = Arc::default();
        let early = Arc::clone(&runs);
        pool.run(move || count(&early, 6));
        let (shared, counts) = (Arc::clone(&pool), Arc::clone(&runs));
        together(3, move |thread| {
            if thread == 2 {
                shared.close();
                assert_eq!(counts[6].load(Ordering::Relaxed), 1, "handed over before");
                return;
            }
            for step in 0..3 {
                let counts = Arc::clone(&counts);
                let next = Arc::clone(&shared);
                shared.run(move || {
                    sync::thread::yield_now();
                    count(&counts, thread * 3 + step);
                    if thread + step == 0 {
                        // Requests hand over requests.
                        next.run(move || count(&counts, 7));
                    }
                });
            }
        });
        for (task, count) in runs.iter().enumerate() {
            assert_eq!(count.load(Ordering::Relaxed), 1, "task {task}");
        }
    });
}

#[test]
fn tasks_that_wait_for_each_other_run_together() {
    explore("tasks that wait for each other", 1, || {
        let pool = Pool::new(3, || {});
        // Some threads are there before, idle or about to be.
        for _ in 0..choose(3) {
            pool.run(sync::thread::yield_now);
        }
        let barrier = Arc::new(shuttle::sync::Barrier::new(3));
        for _ in 0..3 {
            let barrier = Arc::clone(&barrier);
            pool.run(move || {
                barrier.wait();
            });
        }
        pool.close();
    });
}
