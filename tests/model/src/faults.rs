//! Each call of a workload to the disk fails in turn: reads, writes (of which half is written),
//! flushes, and allocations for want of space. On the simulated disks, and on files in a directory.
//!
//! After a failed write or flush the volume must be read-only, and nothing may become durable that
//! was not; after any other failure it must go on, with the operation undone as a whole. And
//! whatever the disk then holds, the next opening must find a state that the contract allows.

use std::io::ErrorKind;

use razorfs::disk::sim::{Call, Fault, Survival};
use razorfs::engine::{Cred, NewInode};
use razorfs::format::id::Ino;
use razorfs::fs::{FsError, errno};

use crate::ensure;
use crate::explore::{quietly, setup};
use crate::failing::{self, Files, Way};
use crate::ops::Op;
use crate::workload::{self, Workload};
use crate::world::{Disks, Outcome, UNREADABLE, World, refused};

/// A call that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failing {
    pub call: Call,
    /// Which of that kind, from 0.
    pub after: u64,
    /// While the workload runs, or in the opening behind it.
    pub opening: bool,
    /// How, on files; `None` on the simulated disks.
    pub files: Option<Way>,
}

/// The calls that can fail.
pub const CALLS: [Call; 4] = [Call::Read, Call::Write, Call::Flush, Call::Allocate];

/// Makes a call fail, or none.
fn arm(disks: &Disks, failing: Option<Failing>) {
    match disks {
        Disks::Simulated(sim) => sim.set_fault(failing.map(|failing| Fault {
            call: failing.call,
            after: failing.after,
            sticky: failing.is_sticky(),
            kind: match failing.call {
                Call::Allocate => ErrorKind::StorageFull,
                _ => ErrorKind::Other,
            },
        })),
        Disks::Files(files) => files.set_fault(failing.and_then(|failing| {
            Some(failing::Fault {
                call: failing.call,
                after: failing.after,
                sticky: failing.is_sticky(),
                way: failing.files?,
            })
        })),
    }
}

impl Failing {
    /// Whether later calls fail too. That they succeed must not undo the latch.
    fn is_sticky(self) -> bool {
        self.after % 3 == 2
    }

    /// Whether it came to that.
    fn was_hit(self, disks: &Disks) -> bool {
        let calls = match disks {
            Disks::Simulated(sim) => sim.fault_calls(),
            Disks::Files(files) => files.fault_calls(),
        };
        calls > self.after
    }

    /// Whether nothing may be written after it.
    fn latches(self) -> bool {
        matches!(self.call, Call::Write | Call::Flush)
    }
}

/// What a workload finds, closed.
fn prepare(workload: &Workload, on_files: bool) -> Outcome<World> {
    quietly(|| {
        let setup = setup(workload);
        let mut world = match on_files {
            false => World::new(setup)?,
            true => World::on(Disks::Files(Files::new().map_err(refused)?), setup)?,
        };
        for op in workload::prelude() {
            world.apply(&op)?;
        }
        world.reopen()?;
        let closed = world.volume.store().close();
        closed.map_err(|error| format!("closing: {error}"))?;
        Ok(world)
    })
}

/// Fails one call of a workload; false when there are not so many.
///
/// # Errors
/// What was not as it must be.
pub fn fail(workload: &Workload, failing: Failing) -> Outcome<bool> {
    fail_in(
        &prepare(workload, failing.files.is_some())?,
        workload,
        failing,
    )
}

fn fail_in(prepared: &World, workload: &Workload, failing: Failing) -> Outcome<bool> {
    quietly(|| {
        let mut world = prepared.again()?;
        if failing.opening {
            return fail_opening(world, workload, failing);
        }
        arm(&world.disks, Some(failing));
        let mut ops = ops(workload).into_iter();
        let failed = ops.find_map(|op| {
            let failed = world.apply(&op).err();
            failed.map(|why| format!("{op:?}: {why}"))
        });
        let hit = failing.was_hit(&world.disks);
        arm(&world.disks, None);
        match failed {
            None if hit => check_failed(&mut world, failing)?,
            None => world.compare()?,
            Some(why) => {
                ensure!(hit && is_failure(&why), "{why}");
                world.failed();
                check_failed(&mut world, failing)?;
            }
        }
        Ok(hit)
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
    let words = [
        "made to fail",
        "not on the disk",
        "ReadOnly",
        "NoSpace",
        "no space",
        "Input/output",
    ];
    words.iter().any(|word| why.contains(word))
}

fn check_failed(world: &mut World, failing: Failing) -> Outcome {
    if failing.latches() {
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
        let errno = made.map_err(|error| errno::of(&FsError::Engine(error)));
        ensure!(
            matches!(errno, Err(libc::EROFS | libc::EIO)),
            "after a failure, making a file gave {errno:?}"
        );
        compare_readable(world, failing)?;
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
    // Closing would write once more what was lost behind the engine's back.
    if failing.after % 2 == 1 && failing.files != Some(Way::LostLater) {
        let closed = world.volume.store().close();
        closed.map_err(|error| format!("closing: {error}"))?;
    }
    judge(world, &world.disks, failing)
}

/// Reads still answer rightly, or, of what a flush lost that lies on the disk alone, with EIO.
fn compare_readable(world: &World, failing: Failing) -> Outcome {
    if failing.files != Some(Way::Lost) {
        return world.compare();
    }
    let mut inodes = world.model.nodes.iter();
    inodes.try_for_each(|(ino, node)| {
        let compared = world.compare_inode(*ino, node);
        compared.or_else(|why| match why.ends_with(UNREADABLE) {
            true => Ok(()),
            false => Err(why),
        })
    })
}

/// Whether what is left of the disks, now that something failed, is what the contract allows.
fn judge(world: &World, disks: &Disks, failing: Failing) -> Outcome {
    let end = world.disks.events();
    let sim = match disks {
        Disks::Simulated(sim) => sim,
        Disks::Files(files) => {
            let files = files.plain().map_err(refused)?;
            return world.judge(&files, end).map(drop);
        }
    };
    let survivals = [
        Survival::All,
        Survival::None,
        Survival::Random(failing.after),
        Survival::Random(failing.after + 1),
    ];
    let events = sim.events();
    let mut recording = sim.recording();
    for survival in survivals {
        let crashed = recording.crash_at(events, survival);
        world
            .judge(&crashed.media(), end)
            .map_err(|why| format!("{survival:?}: {why}"))?;
    }
    Ok(())
}

/// The call fails in the opening that follows a power cut.
fn fail_opening(mut world: World, workload: &Workload, failing: Failing) -> Outcome<bool> {
    for op in ops(workload) {
        world.apply(&op)?;
    }
    let disks = world.disks.killed()?;
    arm(&disks, Some(failing));
    let opened = world.open(disks.media());
    let hit = failing.was_hit(&disks);
    arm(&disks, None);
    if let Err(why) = &opened {
        ensure!(hit && is_failure(why) || why.contains("read-only"), "{why}");
    }
    drop(opened);
    judge(&world, &disks, failing).map_err(|why| format!("opened again: {why}"))?;
    Ok(hit)
}

/// Fails every call of a workload in turn, on simulated disks or on files; how many there were.
///
/// # Errors
/// The first that was not survived, why, and how to repeat it.
pub fn fail_each(workload: &Workload, on_files: bool) -> Outcome<u64> {
    let mut count = 0;
    let prepared = prepare(workload, on_files)?;
    for opening in [false, true] {
        for call in CALLS {
            let ways = match on_files {
                false => vec![None],
                true => Way::of(call).iter().copied().map(Some).collect(),
            };
            'calls: for after in 0.. {
                for files in &ways {
                    let failing = Failing {
                        call,
                        after,
                        opening,
                        files: *files,
                    };
                    match fail_in(&prepared, workload, failing) {
                        Ok(true) => count += 1,
                        Ok(false) => break 'calls,
                        Err(why) => return Err(describe(workload, failing, &why)),
                    }
                }
            }
        }
    }
    Ok(count)
}

/// Fails each call of one workload after the other, until there were so many; how many there were.
///
/// # Errors
/// The first that was not survived, or that there were not so many.
pub fn fail_many<'a>(
    workloads: impl IntoIterator<Item = &'a Workload>,
    on_files: bool,
    wanted: u64,
) -> Outcome<u64> {
    let mut done = 0;
    for workload in workloads {
        done += fail_each(workload, on_files)?;
        if done >= wanted {
            return Ok(done);
        }
    }
    Err(format!("{done} faults, {wanted} were wanted"))
}

fn describe(workload: &Workload, failing: Failing, why: &str) -> String {
    let ops = workload.ops().into_iter();
    let ops: String = ops.map(|op| format!("    {op:?}\n")).collect();
    format!(
        "{workload}!{failing}: {why}\n{ops}again with: cargo run --release -p model-tests -- \
         replay '{workload}!{failing}'"
    )
}

fn lowercase(name: impl std::fmt::Debug) -> String {
    format!("{name:?}").to_lowercase()
}

impl std::fmt::Display for Failing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let when = if self.opening { "opening-" } else { "" };
        write!(f, "{when}{}{}", lowercase(self.call), self.after)?;
        let way = self.files.map(lowercase);
        way.map_or(Ok(()), |way| write!(f, ":{way}"))
    }
}

impl std::str::FromStr for Failing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (opening, rest) = match text.strip_prefix("opening-") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (rest, way) = match rest.split_once(':') {
            Some((rest, way)) => (rest, Some(way)),
            None => (rest, None),
        };
        let parsed = CALLS.into_iter().find_map(|call| {
            let after = rest.strip_prefix(&lowercase(call))?.parse().ok()?;
            let mut ways = Way::of(call).iter().copied();
            let files = match way {
                Some(way) => Some(ways.find(|named| lowercase(named) == way)?),
                None => None,
            };
            Some(Failing {
                call,
                after,
                opening,
                files,
            })
        });
        parsed.ok_or_else(|| {
            format!("'{text}' is no call: it is like write3, opening-flush0 or write3:half")
        })
    }
}
