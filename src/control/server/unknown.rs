//! Connections that have not said yet whose they are: nothing, not all of a request, or one without the
//! token. They keep nobody out: where there is no room, the longest of them gives way. And what they
//! have refused they write to the log once in a while.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Those of a listener, in the order in which they came.
#[derive(Default)]
pub(super) struct Unknown {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    all: BTreeMap<u64, Arc<Notify>>,
}

/// One of them, until this is dropped.
pub(super) struct Entry {
    unknown: Arc<Unknown>,
    number: u64,
    /// It is to give way.
    pub(super) gives_way: Arc<Notify>,
}

impl Unknown {
    /// One more.
    pub(super) fn enter(self: &Arc<Self>) -> Entry {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        let gives_way = Arc::<Notify>::default();
        state.all.insert(number, Arc::clone(&gives_way));
        Entry {
            unknown: Arc::clone(self),
            number,
            gives_way,
        }
    }

    /// Has the longest one end, if there is any.
    pub(super) fn make_room(&self) {
        if let Some((_, longest)) = self.state.lock().all.pop_first() {
            longest.notify_one();
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.unknown.state.lock().all.remove(&self.number);
    }
}

/// How often a line of the log is written that others can cause as often as they like.
const EVERY: Duration = Duration::from_secs(60);

/// Such a line: the first is written, and once a minute how many more there were.
#[derive(Default)]
pub(super) struct Seldom {
    /// When it was written, and how often it was not since.
    state: Mutex<(Option<Instant>, u64)>,
}

impl Seldom {
    /// Notes one at a moment; if the line is to be written, of how many it tells.
    pub(super) fn note(&self, now: Instant) -> Option<u64> {
        let (last, count) = &mut *self.state.lock();
        *count = count.saturating_add(1);
        if last.is_some_and(|last| now.saturating_duration_since(last) < EVERY) {
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_written_and_then_one_a_minute() {
        let seldom = Seldom::default();
        let begin = Instant::now();
        assert_eq!(seldom.note(begin), Some(1));
        for second in 0..59 {
            assert_eq!(seldom.note(begin + Duration::from_secs(second)), None);
        }
        assert_eq!(seldom.note(begin + EVERY), Some(60));
        assert_eq!(seldom.note(begin + EVERY), None);
    }

    #[test]
    fn the_longest_gives_way_first() {
        let unknown = Arc::<Unknown>::default();
        let all = [unknown.enter(), unknown.enter(), unknown.enter()];
        let [first, second, third] = all;
        drop(first);
        unknown.make_room();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(second.gives_way.notified());
        drop(second);
        assert_eq!(unknown.state.lock().all.len(), 1);
        drop(third);
        unknown.make_room();
    }
}
