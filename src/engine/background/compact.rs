//! Compaction beside guests: when, how fast, and when not.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::{Shared, State, sleep, sleep_interval};
use crate::engine::{CompactOptions, EngineError, Store};
use crate::store::StoreError;

/// Bytes that guests and others move in a second from which on they are not to be disturbed.
const BUSY_BYTES_PER_SEC: u128 = 4 << 20;
/// How often in a row they may be found busy before a compaction gives up.
const BUSY_MAX: u32 = 20;

/// What a compaction needs to be worth it, where it is wanted: without trims nothing would come of
/// it.
fn wanted(state: &State) -> Option<CompactOptions> {
    state.compact.filter(|_| state.trim_interval.is_some())
}

/// Compacts when that pays. What goes wrong there is nobody else's trouble: it is tried again at the
/// next opening.
pub(super) fn run(shared: &Shared, store: &Weak<Store>) {
    let interval = |state: &State| wanted(state).map(|options| options.interval);
    let mut last = Instant::now();
    let next = |last: Instant, interval: Duration| last + interval.max(Duration::from_millis(1));
    while sleep_interval(shared, interval, |interval| next(last, interval)).is_some() {
        let options = wanted(&shared.state.lock());
        let (Some(options), Some(store)) = (options, store.upgrade()) else {
            continue;
        };
        if !store.is_writable() {
            return;
        }
        let mut go_on = || rest(shared, &store, options.pause, || store.moved_by_all());
        let done = store.defragment_idle(options, &mut go_on);
        let done = done.and_then(|bytes| {
            if bytes > 0 {
                ::log::info!("compaction: {bytes} bytes of files written anew");
            }
            store.compact_idle(options, &mut go_on)
        });
        match done {
            Ok(done) if done.moved_chunks > 0 => {
                let (chunks, bytes) = (done.moved_chunks, done.moved_bytes);
                ::log::info!("compaction: {bytes} bytes moved in {chunks} chunks");
            }
            Ok(_) => {}
            Err(EngineError::Store(StoreError::NoSpace(reason))) => {
                ::log::debug!("compaction: {reason}");
            }
            Err(error) => {
                ::log::warn!("there will be no compaction until the store is reopened: {error}");
                return;
            }
        }
        last = Instant::now();
    }
}

/// Waits until guests leave room for a step, of which `moved` tells how many bytes all have moved so
/// far. False when it should not be taken: they do not, it is not wanted any more, or nobody else uses
/// the store.
fn rest(
    shared: &Shared,
    store: &Arc<Store>,
    pause: Duration,
    mut moved: impl FnMut() -> u64,
) -> bool {
    let busy_bytes = BUSY_BYTES_PER_SEC * pause.as_millis() / 1000;
    for _ in 0..BUSY_MAX {
        let before = moved();
        if !sleep(shared, Instant::now() + pause)
            || wanted(&shared.state.lock()).is_none()
            || Arc::strong_count(store) == 1
        {
            return false;
        }
        if u128::from(moved().saturating_sub(before)) <= busy_bytes {
            return true;
        }
    }
    false
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use crate::disk::sim::SimMedia;
    use crate::engine::{MkfsOptions, OpenOptions, mkfs, system_clock};

    #[test]
    fn it_rests_for_as_long_as_guests_are_busy() {
        let sim = SimMedia::new();
        mkfs(sim.media(), &MkfsOptions::reproducible(), &system_clock()).unwrap();
        let options = OpenOptions {
            background: false,
            ..OpenOptions::default()
        };
        let store = Store::open_media(sim.media(), options, system_clock()).unwrap();
        let user = Arc::clone(&store);
        let shared = Shared::default();
        let rest = |moved: &mut dyn FnMut() -> u64| {
            let pause = Duration::from_millis(2);
            super::rest(&shared, &store, pause, moved)
        };
        assert!(!rest(&mut || 0), "it is not wanted");
        shared.state.lock().compact = Some(CompactOptions::default());
        assert!(!rest(&mut || 0), "nothing would come of it");
        shared.state.lock().trim_interval = Some(Duration::from_secs(60));
        assert!(rest(&mut || 0));
        let (mut looks, mut bytes) = (0, 0);
        let busy = &mut || {
            looks += 1;
            bytes += 1 << 20;
            bytes
        };
        assert!(!rest(busy), "a guest writes all the time");
        assert_eq!(looks, 2 * BUSY_MAX);
        let (mut looks, mut bytes) = (0, 0);
        let soon_idle = &mut || {
            looks += 1;
            bytes += if looks < 10 { 1 << 20 } else { 1 };
            bytes
        };
        assert!(rest(soon_idle), "it has stopped");
        assert_eq!(looks, 10);
        store
            .guest_bytes
            .fetch_add(1 << 20, crate::sync::atomic::Ordering::Relaxed);
        let moved = store.moved_by_all();
        assert!(moved >= 1 << 20, "{moved}");
        drop(user);
        assert!(!rest(&mut || 0), "nobody uses the store");
        shared.state.lock().stopping = true;
    }
}
