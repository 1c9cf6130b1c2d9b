//! Which CPUs the rings' threads run on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// CPUs that rings' threads are bound to, one each, in turn; none: wherever the system puts them.
#[derive(Debug, Clone, Default)]
pub struct Cpus {
    list: Vec<usize>,
    /// The next in turn, of the threads of all sockets.
    next: Arc<AtomicUsize>,
}

impl PartialEq for Cpus {
    fn eq(&self, other: &Cpus) -> bool {
        self.list == other.list
    }
}

impl Eq for Cpus {}

impl Cpus {
    /// These.
    #[must_use]
    pub fn new(list: Vec<usize>) -> Cpus {
        Cpus {
            list,
            next: Arc::default(),
        }
    }

    /// Those of them that do not exist, or that this process may not run on.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn unusable(&self) -> std::io::Result<Vec<usize>> {
        if self.list.is_empty() {
            return Ok(Vec::new());
        }
        let usable = sched_getaffinity(None)?;
        let unusable = |cpu: &usize| *cpu >= CpuSet::MAX_CPU || !usable.is_set(*cpu);
        Ok(self.list.iter().copied().filter(unusable).collect())
    }

    /// The next in turn.
    pub(super) fn take_turn(&self) -> Option<usize> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        self.list.get(turn.checked_rem(self.list.len())?).copied()
    }
}

/// Binds this thread to a CPU.
pub(super) fn bind(cpu: usize) {
    let mut only = CpuSet::new();
    only.set(cpu);
    if let Err(error) = sched_setaffinity(None, &only) {
        // It was usable at start: the system was changed under us, and serving goes on.
        log::warn!("a queue's thread cannot be bound to CPU {cpu}: {error}");
    }
}

/// The CPUs that a thread may use that is bound to none.
pub(super) struct Anywhere(Option<CpuSet>);

impl Anywhere {
    /// Those of this thread.
    pub(super) fn here() -> Anywhere {
        Anywhere(sched_getaffinity(None).ok())
    }

    /// Lets this thread use them, whatever the one that started it was bound to.
    pub(super) fn unbind(&self) {
        if let Some(cpus) = &self.0
            && let Err(error) = sched_setaffinity(None, cpus)
        {
            log::warn!("a thread of the pool stays bound to a queue's CPU: {error}");
        }
    }
}
