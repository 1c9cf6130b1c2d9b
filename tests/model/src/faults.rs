//! Each call of a workload to the disk fails in turn: reads, writes (of which half is written),
//! flushes, and allocations for want of space.
//!
//! After a failed write or flush the volume must be read-only, and nothing may become durable that
//! was not; after any other failure it must go on, with the operation undone as a whole. And
//! whatever the disk then holds, the next opening must find a state that the contract allows.

use std::io::ErrorKind;

use razorfs::disk::sim::{Call, Fault, SimMedia, Survival};
use razorfs::engine::{Cred, NewInode};
use razorfs::format::id::Ino;

use crate::ensure;
use crate::explore::{SETUP, quietly};
use crate::ops::Op;
use crate::workload::{self, Workload};
use crate::world::{Outcome, World};

/// A call that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failing {
    pub call: Call,
    /// Which of that kind, from 0.
    pub after: u64,
    /// While the workload runs, or in the opening behind it.
    pub opening: bool,
}

/// The calls that can fail.
pub const CALLS: [Call; 4] = [Call::Read, Call::Write, Call::Flush, Call::Allocate];

fn arm(sim: &SimMedia, failing: Failing) {
    let Failing { call, after, .. } = failing;
    let kind = match call {
        Call::Allocate => ErrorKind::StorageFull,
        _ => ErrorKind::Other,
    };
    sim.set_fault(Some(Fault {
        call,
        after,
        // Later ones succeed: that must not undo the latch.
        sticky: after % 3 == 2,
        kind,
    }));
}

/// Fails one call of a workload; false when there are not so many.
///
/// # Errors
/// What was not as it must be.
pub fn fail(workload: &Workload, failing: Failing) -> Outcome<bool> {
    quietly(|| {
        let mut world = World::new(SETUP)?;
        for op in workload::prelude() {
            world.apply(&op)?;
        }
        world.reopen()?;
        if failing.opening {
            return fail_opening(world, workload, failing);
        }
        arm(&world.sim, failing);
        let mut ops = ops(workload).into_iter();
        let failed = ops.find_map(|op| {
            let failed = world.apply(&op).err();
            failed.map(|why| format!("{op:?}: {why}"))
        });
        let hit = world.sim.fault_calls() > failing.after;
        world.sim.set_fault(None);
        match failed {
            None => {
                world.compare()?;
                Ok(hit)
            }
            Some(why) => {
                ensure!(hit && is_failure(&why), "{why}");
                check_failed(&mut world, failing)?;
                Ok(true)
            }
        }
    })
}

/// A workload's operations. One that writes and syncs becomes two: the model does not know how far
/// a single one came when it failed.
fn ops(workload: &Workload) -> Vec<Op> {
    let split = |op| match op {
        Op::Write {
            ino,
            offset,
            len,
            fill,
            append,
            kill,
            sync: true,
        } => {
            let write = Op::Write {
                ino,
                offset,
                len,
                fill,
                append,
                kill,
                sync: false,
            };
            vec![write, Op::Fsync { ino, data: false }]
        }
        op => vec![op],
    };
    workload.ops().into_iter().flat_map(split).collect()
}

/// Whether it says what the disk did.
fn is_failure(why: &str) -> bool {
    ["made to fail", "ReadOnly", "NoSpace"]
        .iter()
        .any(|word| why.contains(word))
}

fn check_failed(world: &mut World, failing: Failing) -> Outcome {
    world.failed();
    if matches!(failing.call, Call::Write | Call::Flush) {
        ensure!(!world.volume.is_writable(), "writable after a failure");
        let new = NewInode {
            mode: libc::S_IFREG | 0o600,
            umask: 0,
            rdev: 0,
            xattrs: &[],
            supplementary_gid: None,
        };
        let made = world
            .volume
            .create(Cred::default(), Ino::ROOT, b"after", &new);
        ensure!(made.is_err(), "something was made after a failure");
        if world.volume.sync_all().is_ok() {
            // Then all of it must be there.
            world.synced_all();
        }
    } else {
        ensure!(world.volume.is_writable(), "read-only without a reason");
        world.compare()?;
        world
            .volume
            .sync_all()
            .map_err(|error| format!("the next sync: {error}"))?;
        world.synced_all();
    }
    let end = world.sim.events();
    let survivals = [
        Survival::All,
        Survival::None,
        Survival::Random(failing.after),
        Survival::Random(failing.after + 1),
    ];
    let mut recording = world.sim.recording();
    for survival in survivals {
        let crashed = recording.crash_at(end, survival);
        world
            .judge(&crashed, end)
            .map_err(|why| format!("{survival:?}: {why}"))?;
    }
    Ok(())
}

/// The call fails in the opening that follows a power cut.
fn fail_opening(mut world: World, workload: &Workload, failing: Failing) -> Outcome<bool> {
    for op in ops(workload) {
        world.apply(&op)?;
    }
    let end = world.sim.events();
    let crashed = world.sim.recording().crash_at(end, Survival::All);
    arm(&crashed, failing);
    let opened = world.open(&crashed);
    let hit = crashed.fault_calls() > failing.after;
    crashed.set_fault(None);
    if let Err(why) = &opened {
        ensure!(hit && is_failure(why) || why.contains("read-only"), "{why}");
    }
    drop(opened);
    let events = crashed.events();
    for survival in [
        Survival::All,
        Survival::None,
        Survival::Random(failing.after),
    ] {
        let again = crashed.recording().crash_at(events, survival);
        world
            .judge(&again, end)
            .map_err(|why| format!("opened again, {survival:?}: {why}"))?;
    }
    Ok(hit)
}

/// Fails every call of a workload in turn; how many there were.
///
/// # Errors
/// The first that was not survived, and why.
pub fn fail_each(workload: &Workload) -> Result<u64, (Failing, String)> {
    let mut count = 0;
    for opening in [false, true] {
        for call in CALLS {
            for after in 0.. {
                let failing = Failing {
                    call,
                    after,
                    opening,
                };
                match fail(workload, failing) {
                    Ok(true) => count += 1,
                    Ok(false) => break,
                    Err(why) => return Err((failing, why)),
                }
            }
        }
    }
    Ok(count)
}

impl std::fmt::Display for Failing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let when = if self.opening { "opening-" } else { "" };
        let call = format!("{:?}", self.call).to_lowercase();
        write!(f, "{when}{call}{}", self.after)
    }
}

impl std::str::FromStr for Failing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (opening, rest) = match text.strip_prefix("opening-") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let parsed = CALLS.into_iter().find_map(|call| {
            let name = format!("{call:?}").to_lowercase();
            let after = rest.strip_prefix(&name)?.parse().ok()?;
            Some(Failing {
                call,
                after,
                opening,
            })
        });
        parsed.ok_or_else(|| format!("'{text}' is no call: it is like write3 or opening-flush0"))
    }
}
