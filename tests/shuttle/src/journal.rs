//! Group commit and checkpoints: what is told durable is durable, nobody waits for ever.

use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use razorfs::disk::Media;
use razorfs::disk::sim::{Call, Fault, SimMedia, Survival};
use razorfs::format::id::Lsn;
use razorfs::format::key::TreeId;
use razorfs::log::recovery::{self, Format, Options};
use razorfs::log::{Journal, View};
use razorfs::store::{Read, StoreError};

use crate::disks::{Gate, SlowFlush, Store};
use crate::{choose, explore, sync, together};

const TREE: TreeId = TreeId::Chunks;
/// The number of chunks.dat among the disks.
const CHUNKS: usize = 3;
/// Keys that come and go.
const PASSING: TreeId = TreeId::FreeByStart;

fn store() -> Store {
    Store::made(|sim| {
        let journal = recovery::create(sim.media(), Format::reproducible(), 1 << 20).unwrap();
        // Several pages, so that not all of them are in memory.
        let mut tx = journal.begin().unwrap();
        for first in 0..40 {
            tx.put(TREE, vec![first, 0, 0], vec![first; 400]).unwrap();
        }
        tx.commit().unwrap();
        journal.checkpoint(true, &|_| Ok(())).unwrap();
    })
}

fn open(media: Media, read_only: bool) -> Journal {
    let options = Options {
        read_only,
        discard_damaged_log: false,
        cache_bytes: 0,
    };
    let opened = recovery::open(media, options).unwrap();
    assert!(opened.report.damage.is_none(), "{:?}", opened.report.damage);
    opened.journal
}

/// The keys that transactions of a schedule put.
fn keys(read: &impl Read) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    read.scan(TREE, &[], &[0xff; 9], &mut |key, _| {
        all.extend((key.len() == 2).then(|| key.to_vec()));
        ControlFlow::Continue(())
    })
    .unwrap();
    all
}

/// Where in chunks.dat the content lies that a transaction refers to.
fn place(key: &[u8]) -> u64 {
    4096 * (u64::from(key[0]) * 8 + u64::from(key[1]))
}

/// What threads did, for the end of the schedule. Never locked over a place to switch.
#[derive(Default)]
struct History {
    /// Where a transaction ends, and the key that it put.
    committed: Vec<(Lsn, Vec<u8>)>,
    /// How many events of the disks there had been when a key was known to be durable.
    durable: Vec<(usize, Vec<u8>)>,
    failed: usize,
}

/// A journal that several threads use.
struct Run {
    sim: Arc<SimMedia>,
    journal: Journal,
    history: Mutex<History>,
}

impl Run {
    fn new(store: &Store) -> Arc<Run> {
        let sim = store.disks();
        Self::over(sim.media(), sim)
    }

    fn over(media: Media, sim: Arc<SimMedia>) -> Arc<Run> {
        let journal = open(media, false);
        let history = Mutex::default();
        Arc::new(Run {
            sim,
            journal,
            history,
        })
    }

    /// A transaction that nobody else makes.
    fn commit(&self, thread: usize, step: usize) -> Result<(Lsn, Vec<u8>), StoreError> {
        let key = vec![u8::try_from(thread).unwrap(), u8::try_from(step).unwrap()];
        // What a transaction refers to is on the disk before it is.
        let written = self.journal.chunks().write_at(place(&key), &key);
        self.journal
            .latching(written.map_err(|source| StoreError::io("chunks.dat", source)))?;
        let mut tx = self.journal.begin()?;
        tx.put(TREE, key.clone(), vec![7; 40])?;
        // Replayed twice, or in another order, it removes what is not there: recovery says so.
        let passing = vec![key[0]];
        if step.is_multiple_of(2) {
            tx.put(PASSING, passing, vec![1])?;
        } else {
            assert!(tx.delete(PASSING, passing)?);
        }
        let end = tx.commit()?;
        let mut history = self.history.lock().unwrap();
        history.committed.push((end, key.clone()));
        Ok((end, key))
    }

    /// Waits until a transaction is durable.
    fn sync(&self, (end, key): (Lsn, Vec<u8>)) -> Result<(), StoreError> {
        let result = self.journal.sync(end);
        match &result {
            Ok(()) => {
                let events = self.sim.events();
                self.history.lock().unwrap().durable.push((events, key));
            }
            Err(_) => self.history.lock().unwrap().failed += 1,
        }
        result
    }

    /// Power is lost at each moment at which someone was told that something is durable, and at the
    /// end: it must be there, and with it all that was committed before, and nothing else.
    fn check(&self) {
        let mut history = self.history.lock().unwrap();
        history.committed.sort();
        history.durable.sort();
        let last = self.sim.events();
        let mut positions: Vec<_> = history.durable.iter().map(|(at, _)| *at).collect();
        positions.push(last);
        positions.dedup();
        let mut recording = self.sim.recording();
        for at in positions {
            let crashed = recording.crash_at(at, Survival::None);
            let mut found = keys(&open(crashed.media(), true).view());
            for (_, key) in history.durable.iter().filter(|(told, _)| *told <= at) {
                assert!(found.contains(key), "{key:?} was told durable at {at}");
            }
            for key in &found {
                let mut content = [0xff; 2];
                crashed.peek(CHUNKS, place(key), &mut content);
                assert_eq!(content, key[..], "content is missing at {at}");
            }
            let committed = history.committed.iter().map(|(_, key)| key.clone());
            let mut first: Vec<_> = committed.take(found.len()).collect();
            first.sort();
            found.sort();
            assert_eq!(found, first, "not those that were committed first");
        }
    }
}

#[test]
fn who_returns_from_a_group_commit_is_durable() {
    let store = store();
    explore("group commit", 1, move || {
        let run = Run::new(&store);
        let threads = Arc::clone(&run);
        together(3, move |thread| {
            for step in 0..2 {
                let committed = threads.commit(thread, step).unwrap();
                threads.sync(committed).unwrap();
            }
        });
        assert_eq!(run.history.lock().unwrap().durable.len(), 6);
        run.check();
    });
}

#[test]
fn one_flush_serves_all_who_came_while_another_ran() {
    let store = store();
    explore("one flush for several", 1, move || {
        let sim = store.disks();
        let gate = Gate::new(3);
        let media = SlowFlush::of_log(sim.media(), &gate);
        let run = Run::over(media, sim);
        let (threads, passing) = (Arc::clone(&run), Arc::clone(&gate));
        together(4, move |thread| {
            if thread > 0 {
                passing.wait_for_flush();
            }
            let committed = threads.commit(thread, 0).unwrap();
            if thread > 0 {
                passing.pass();
            }
            threads.sync(committed).unwrap();
        });
        assert_eq!(gate.flushes(), 2, "three who waited share a flush");
        run.check();
    });
}

#[test]
fn a_flush_that_fails_fails_for_all_who_wait() {
    let store = store();
    explore("a failing flush", 1, move || {
        let run = Run::new(&store);
        let fault = Fault {
            call: [Call::Flush, Call::Write][usize::try_from(choose(2)).unwrap()],
            after: choose(4),
            // Only once: whoever tries again would be told that all is well.
            sticky: false,
            kind: io::ErrorKind::Other,
        };
        run.sim.set_fault(Some(fault));
        let threads = Arc::clone(&run);
        together(3, move |thread| {
            let mut failed = false;
            for step in 0..2 {
                let Ok(committed) = threads.commit(thread, step) else {
                    threads.history.lock().unwrap().failed += 1;
                    failed = true;
                    continue;
                };
                assert!(!failed, "a transaction after a failure that was reported");
                failed = threads.sync(committed).is_err();
            }
        });
        let fired = run.sim.fault_calls() > fault.after;
        let failed = run.history.lock().unwrap().failed;
        assert_eq!(fired, failed > 0, "{failed} were told of the failure");
        assert_eq!(fired, run.journal.writable().is_err());
        // Nobody is told later that it is durable, unless it was so before the failure.
        let committed = std::mem::take(&mut run.history.lock().unwrap().committed);
        for (end, key) in &committed {
            let _ = run.sync((*end, key.clone()));
        }
        run.history.lock().unwrap().committed = committed;
        run.check();
    });
}

#[test]
fn checkpoints_take_nothing_from_commits() {
    let store = store();
    explore("commits and checkpoints", 2, move || {
        let run = Run::new(&store);
        run.journal.find_free_pages().unwrap();
        let threads = Arc::clone(&run);
        together(4, move |thread| match thread {
            0 => {
                for _ in 0..2 {
                    let before: Vec<_> = {
                        let history = threads.history.lock().unwrap();
                        history
                            .committed
                            .iter()
                            .map(|(_, key)| key.clone())
                            .collect()
                    };
                    threads.journal.checkpoint(false, &|_| Ok(())).unwrap();
                    let events = threads.sim.events();
                    let mut history = threads.history.lock().unwrap();
                    history
                        .durable
                        .extend(before.into_iter().map(|key| (events, key)));
                }
            }
            1 => {
                let view = threads.journal.view();
                // Others may come first here: pages that it reads must not be written again.
                sync::thread::yield_now();
                let first = keys(&view);
                assert_eq!(keys(&view), first);
            }
            _ => {
                for step in 0..2 {
                    let committed = threads.commit(thread, step).unwrap();
                    threads.sync(committed).unwrap();
                }
            }
        });
        run.check();
    });
}

/// What a view has of the transactions of a thread: the keys, and whether its passing key is there.
fn state(view: &View, thread: u8) -> (usize, bool) {
    let keys = keys(view);
    let passing = view.get(PASSING, &[thread]).unwrap();
    let of_thread = keys.iter().filter(|key| key[0] == thread).count();
    assert!(!keys.contains(&vec![thread, 9]), "it was never committed");
    (of_thread, passing.is_some())
}

#[test]
fn a_view_is_the_state_between_two_commits() {
    let store = store();
    explore("views and commits", 1, move || {
        let run = Run::new(&store);
        // What they change is in memory from here on, and is changed there.
        for thread in 0..2 {
            run.commit(thread, 0).unwrap();
        }
        let threads = Arc::clone(&run);
        together(4, move |thread| {
            if thread < 2 {
                let mut tx = threads.journal.begin().unwrap();
                tx.put(TREE, [u8::try_from(thread).unwrap(), 9], [7; 40])
                    .unwrap();
                drop(tx);
                for step in 1..3 {
                    threads.commit(thread, step).unwrap();
                }
                return;
            }
            for of in 0..2 {
                let committed = {
                    let history = threads.history.lock().unwrap();
                    let keys = history.committed.iter().map(|(_, key)| key[0]);
                    keys.filter(|thread| *thread == of).count()
                };
                let view = threads.journal.view();
                sync::thread::yield_now();
                let first = state(&view, of);
                assert!(
                    first.0 >= committed,
                    "{first:?}, {committed} were committed"
                );
                // A transaction puts it, and the next one takes it away.
                assert_eq!(first.1, first.0 % 2 == 1, "half a transaction: {first:?}");
                sync::thread::yield_now();
                assert_eq!(state(&view, of), first);
            }
        });
        run.check();
    });
}

#[test]
fn a_flush_of_chunks_under_way_is_none_yet() {
    let store = store();
    explore("a slow flush of chunks", 1, move || {
        let sim = store.disks();
        let gate = Gate::new(1);
        let media = SlowFlush::of_chunks(sim.media(), &gate);
        let run = Run::over(media, sim);
        let (threads, passing) = (Arc::clone(&run), Arc::clone(&gate));
        together(4, move |thread| match thread {
            0 => threads.journal.checkpoint(false, &|_| Ok(())).unwrap(),
            1 => {
                passing.wait_for_flush();
                passing.pass();
            }
            _ => {
                let committed = threads.commit(thread, 0).unwrap();
                threads.sync(committed).unwrap();
            }
        });
        run.check();
    });
}
