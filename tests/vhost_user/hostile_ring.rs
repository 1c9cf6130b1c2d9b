//! Guests that write into their rings what no driver writes (VirtIO 1.3, 2.7).
//!
//! A queue whose rings make no sense is broken: the front-end is told, nothing of it is served
//! until it is set up anew, and the others go on. A chain that is one is given back, whatever the
//! request in it.

use std::time::Duration;

use vm_tests::frontend::fuse::request;
use vm_tests::frontend::fuse::wire::{InHeader, ROOT, opcode};
use vm_tests::frontend::queue::{INDIRECT, NEXT, WRITE};
use vm_tests::frontend::{Descriptor, Mount, Options, Part, Queue, WAIT};
use zerocopy::IntoBytes;

use crate::daemon::Daemon;

/// The end of the default memory.
const END: u64 = 64 << 20;
/// Where the evil chains begin.
const HEAD: u16 = 40;

fn descriptor(address: u64, len: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor {
        address,
        len,
        flags,
        next,
    }
}

/// Stops the queue of the first client and starts it anew.
fn renew(mount: &mut Mount) {
    let client = &mut mount.clients[0];
    mount.device.stop(client.queue.index).unwrap();
    client.queue.clear().unwrap();
    client.abandon();
    mount.device.run(&client.queue, 0).unwrap();
}

/// Has the first client's queue broken by `evil`, which may use 64 KiB of memory.
fn breaks(daemon: &mut Daemon, name: &str, evil: impl Fn(&mut Queue, u64)) {
    let mut mount = daemon.mount(&Options::default());
    let scratch = mount.device.memory().alloc(1 << 16).unwrap();
    let queue = &mut mount.clients[0].queue;
    let before = queue.used_index().unwrap();
    evil(queue, scratch.address);
    queue.kick().unwrap();
    assert!(queue.is_broken(WAIT), "{name}: not noticed");
    assert_eq!(queue.used_index().unwrap(), before, "{name}");
    mount.client(1).call(request::getattr(ROOT)).unwrap();
    renew(&mut mount);
    mount.client(0).call(request::getattr(ROOT)).unwrap();
    daemon.is_unharmed(name);
}

/// A table's name, and its descriptors around an address.
type Table = (&'static str, fn(u64) -> Vec<Descriptor>);

/// Chains that are none, in the queue's table.
fn evil_chains(at: u64) -> Vec<(&'static str, Vec<Descriptor>)> {
    let one = |address, len, flags, next| vec![descriptor(address, len, flags, next)];
    let two = |first, second| vec![first, second];
    vec![
        ("a loop of one", one(at, 16, NEXT, HEAD)),
        (
            "a loop of two",
            two(
                descriptor(at, 16, NEXT, HEAD + 1),
                descriptor(at, 16, NEXT, HEAD),
            ),
        ),
        (
            "a loop of writable ones",
            two(
                descriptor(at, 16, NEXT | WRITE, HEAD + 1),
                descriptor(at, 16, NEXT | WRITE, HEAD),
            ),
        ),
        ("next beyond the table", one(at, 16, NEXT, 1000)),
        ("next just beyond the table", one(at, 16, NEXT, 64)),
        ("outside of memory", one(END, 16, 0, 0)),
        ("writable outside of memory", one(END, 16, WRITE, 0)),
        ("across the end of memory", one(END - 8, 16, 0, 0)),
        ("wrapping", one(u64::MAX - 7, 16, 0, 0)),
        ("as long as can be", one(at, u32::MAX, 0, 0)),
        ("writable as long as can be", one(at, u32::MAX, WRITE, 0)),
        (
            "reading after writing",
            two(
                descriptor(at, 64, NEXT | WRITE, HEAD + 1),
                descriptor(at, 64, 0, 0),
            ),
        ),
        ("a table of odd size", one(at, 17, INDIRECT, 0)),
        ("a table outside", one(END, 64, INDIRECT, 0)),
        ("a table across the end", one(END - 8, 64, INDIRECT, 0)),
        ("a table that wraps", one(u64::MAX - 31, 64, INDIRECT, 0)),
        ("an empty table", one(at, 0, INDIRECT, 0)),
        ("a table as long as can be", one(at, !15, INDIRECT, 0)),
    ]
}

#[test]
fn chains_that_are_none_break_their_queue() {
    let mut daemon = Daemon::start(&[]);
    for index in 0..evil_chains(0).len() {
        let name = evil_chains(0)[index].0;
        breaks(&mut daemon, name, |queue, at| {
            for (place, descriptor) in (HEAD..).zip(&evil_chains(at)[index].1) {
                queue.describe(place, *descriptor).unwrap();
            }
            queue.offer(HEAD).unwrap();
        });
    }
    daemon.terminate();
}

#[test]
fn tables_with_loops_and_tables_in_them_break_their_queue() {
    let mut daemon = Daemon::start(&[]);
    let tables: [Table; 6] = [
        ("a table in a table", |at| {
            vec![descriptor(at + 1024, 16, INDIRECT, 0)]
        }),
        ("a table in a table, later", |at| {
            vec![
                descriptor(at + 4096, 40, NEXT, 1),
                descriptor(at + 1024, 16, INDIRECT, 0),
            ]
        }),
        ("a table that has itself", |at| {
            vec![descriptor(at, 16, INDIRECT, 0)]
        }),
        ("a loop in a table", |at| {
            vec![
                descriptor(at + 4096, 16, NEXT, 1),
                descriptor(at + 4096, 16, NEXT, 0),
            ]
        }),
        ("next beyond a table", |at| {
            vec![descriptor(at + 4096, 16, NEXT, 1)]
        }),
        ("outside of memory, in a table", |_| {
            vec![descriptor(END - 1, 2, 0, 0)]
        }),
    ];
    for (name, table) in tables {
        breaks(&mut daemon, name, |queue, at| {
            let table: Vec<u8> = table(at).into_iter().flat_map(Descriptor::bytes).collect();
            let memory = queue.memory().clone();
            // What a nested table would be, if it were followed: a request.
            let inner = descriptor(at + 4096, 56, 0, 0);
            memory.write(at + 1024, &inner.bytes()).unwrap();
            memory.write(at, &table).unwrap();
            let len = u32::try_from(table.len()).unwrap();
            queue
                .describe(HEAD, descriptor(at, len, INDIRECT, 0))
                .unwrap();
            queue.offer(HEAD).unwrap();
        });
    }
    daemon.terminate();
}

#[test]
fn rings_that_make_no_sense_break_their_queue() {
    let mut daemon = Daemon::start(&[]);
    for head in [64, 5000, u16::MAX] {
        breaks(&mut daemon, "a head beyond the table", |queue, _| {
            queue.offer(head).unwrap();
        });
    }
    for jump in [65, 300, 32768, u16::MAX] {
        breaks(&mut daemon, "an index that jumps", |queue, _| {
            let next = queue.next_available().wrapping_add(jump);
            queue.set_available(next).unwrap();
        });
    }
    daemon.terminate();
}

/// GETATTR of the root.
fn getattr() -> Vec<u8> {
    let header = InHeader {
        len: 56,
        opcode: opcode::GETATTR,
        unique: 2,
        nodeid: ROOT,
        ..InHeader::default()
    };
    [header.as_bytes(), &[0; 16]].concat()
}

/// Has a chain carried out whose readable parts hold GETATTR; how many bytes were written.
fn carried_out(mount: &mut Mount, readable: &[u32], writable: &[u32], indirect: bool) -> u32 {
    let memory = mount.device.memory().clone();
    let request = getattr();
    let mut rest = request.as_slice();
    let part = |len: u32| memory.alloc(len as usize).unwrap();
    let readable: Vec<Part> = readable.iter().map(|len| part(*len)).collect();
    let writable: Vec<Part> = writable.iter().map(|len| part(*len)).collect();
    for part in &readable {
        let (now, later) = rest.split_at(rest.len().min(part.len as usize));
        memory.write(part.address, now).unwrap();
        rest = later;
    }
    let queue = &mut mount.clients[0].queue;
    queue.add(&readable, &writable, indirect).unwrap();
    queue.kick().unwrap();
    assert!(queue.wait(1, WAIT).unwrap(), "given back");
    let used = queue.take().unwrap().unwrap();
    for part in readable.into_iter().chain(writable) {
        memory.release(part);
    }
    used.len
}

#[test]
fn odd_chains_are_given_back() {
    let mut daemon = Daemon::start(&[]);
    for indirect in [false, true] {
        let options = Options {
            indirect: true,
            ..Options::default()
        };
        let mut mount = daemon.mount(&options);
        let mut carry = |readable: &[u32], writable: &[u32]| {
            carried_out(&mut mount, readable, writable, indirect)
        };
        // Replies have 16 + 104 bytes. What is cut short does not matter, only what fits.
        assert_eq!(carry(&[56], &[120]), 120, "the plain way");
        assert_eq!(
            carry(&[0, 40, 0, 16, 0], &[0, 16, 0, 104, 0]),
            120,
            "parts of no bytes"
        );
        assert_eq!(carry(&[1; 56], &[1, 119]), 120, "parts of one byte");
        assert_eq!(carry(&[56], &[4096, 4096]), 120, "much room");
        assert_eq!(carry(&[56], &[]), 0, "no room");
        assert_eq!(carry(&[56], &[0]), 0, "room of no bytes");
        for room in [1, 8, 15, 16, 17, 119] {
            assert!(carry(&[56], &[room]) <= room, "room of {room}");
        }
        assert_eq!(carry(&[], &[120]), 0, "no request");
        assert_eq!(carry(&[0], &[120]), 0, "a request of no bytes");
        for len in [1, 3, 8, 39] {
            assert_eq!(carry(&[len], &[120]), 0, "a request of {len} bytes");
        }
        mount.client(0).call(request::getattr(ROOT)).unwrap();
    }
    daemon.is_unharmed("odd chains");
    daemon.terminate();
}

#[test]
fn chains_against_the_rules_harm_nobody_else() {
    let mut daemon = Daemon::start(&[]);
    // A table and a next at once; a table for the device to write; one longer than the queue.
    let cases: [(&str, u16, u32); 4] = [
        ("a table that goes on", INDIRECT | NEXT, 64),
        ("a writable table", INDIRECT | WRITE, 64),
        ("a table longer than the queue", INDIRECT, 16 * 1000),
        ("unknown flags", 0xff00, 64),
    ];
    for (name, flags, len) in cases {
        let mut mount = daemon.mount(&Options::default());
        let memory = mount.device.memory().clone();
        let at = memory.alloc(1 << 16).unwrap().address;
        let request = memory.alloc(4096).unwrap().address;
        memory.write(request, &getattr()).unwrap();
        for index in 0..len / 16 {
            let last = index + 1 == len / 16;
            let flags = if last { WRITE } else { NEXT };
            let next = u16::try_from(index + 1).unwrap();
            let part = descriptor(request, if last { 120 } else { 56 }, flags, next);
            memory
                .write(at + u64::from(index) * 16, &part.bytes())
                .unwrap();
        }
        let queue = &mut mount.clients[0].queue;
        queue
            .describe(HEAD, descriptor(at, len, flags, HEAD))
            .unwrap();
        queue.offer(HEAD).unwrap();
        queue.kick().unwrap();
        let answered = queue.wait(1, Duration::from_millis(100)).unwrap();
        assert!(answered || queue.is_broken(WAIT), "{name}");
        mount.client(1).call(request::getattr(ROOT)).unwrap();
        renew(&mut mount);
        mount.client(0).call(request::getattr(ROOT)).unwrap();
        daemon.is_unharmed(name);
    }
    daemon.terminate();
}

#[test]
fn the_same_chain_twice_and_changing_descriptors_harm_nobody_else() {
    let mut daemon = Daemon::start(&[]);
    let mut mount = daemon.mount(&Options::default());
    let memory = mount.device.memory().clone();
    let at = memory.alloc(4096).unwrap().address;
    memory.write(at, &getattr()).unwrap();
    let queue = &mut mount.clients[0].queue;
    queue
        .describe(HEAD, descriptor(at, 56, NEXT, HEAD + 1))
        .unwrap();
    queue
        .describe(HEAD + 1, descriptor(at + 1024, 120, WRITE, 0))
        .unwrap();
    for round in 0..2000u32 {
        // Always the same chain, which turns evil while it is looked at.
        queue.offer(HEAD).unwrap();
        queue.kick().unwrap();
        let address = if round % 2 == 0 { END } else { at + 1024 };
        let len = if round % 3 == 0 { u32::MAX } else { 120 };
        queue
            .describe(HEAD + 1, descriptor(address, len, WRITE, 0))
            .unwrap();
        if queue.is_broken(Duration::ZERO) {
            mount.device.stop(1).unwrap();
            queue.clear().unwrap();
            mount.device.run(queue, 0).unwrap();
            queue
                .describe(HEAD, descriptor(at, 56, NEXT, HEAD + 1))
                .unwrap();
        }
    }
    renew(&mut mount);
    mount.client(0).call(request::getattr(ROOT)).unwrap();
    drop(mount);
    daemon.is_well("descriptors that change");
    daemon.terminate();
}
