//! A disk that is full, or a store that is: what must work all the same.

use rand::seq::SliceRandom;

use super::*;

/// What fallocate reserved of a store with a size can be written.
#[test]
fn all_of_a_store_of_limited_size_can_be_reserved_and_written() {
    let volume = open(&make_empty(8 << 20));
    let ino = create(&volume, "file");
    let how = Fallocate::Allocate { keep_size: false };
    volume.fallocate(ino, 0, 8 << 20, how).unwrap();
    for offset in (0..8u64 << 20).step_by(64 << 10) {
        write(&volume, ino, offset, &[7; 64 << 10]);
    }
}

#[test]
fn deleting_many_files_works_on_a_full_disk() {
    delete_many(false);
}

#[test]
fn a_checkpoint_carries_over_on_a_full_disk() {
    delete_many(true);
}

/// Deletes 40,000 files on a full disk, with file bytes in the log or not.
fn delete_many(logged: bool) {
    let sim = make();
    let volume = open(&sim);
    let mut names: Vec<String> = (0..40_000).map(|n| format!("file number {n}")).collect();
    for name in &names {
        create(&volume, name);
    }
    volume.store().checkpoint().unwrap();
    volume.store().checkpoint().unwrap();
    if logged {
        write(&volume, FILE, 0, b"sync");
        volume.fsync(FILE, false).unwrap();
    }
    sim.set_capacity(Some(sim.allocated()));
    names.shuffle(&mut ChaCha8Rng::seed_from_u64(1));
    for name in &names {
        let removed = volume.unlink(Ino::ROOT, name.as_bytes()).unwrap();
        volume.reclaim(removed.ino).unwrap();
    }
    volume.store().checkpoint().unwrap();
    drop(volume);
    let full = sim.killed();
    full.set_capacity(Some(full.allocated()));
    open(&full);
}

/// Copying over unwritten bytes cuts them into more units than were promised room.
#[test]
fn copies_over_unwritten_bytes_leave_them_their_room() {
    let sim = make();
    let volume = open(&sim);
    write(&volume, OTHER, 0, &[9]);
    volume.write_out(OTHER).unwrap();
    volume.store().checkpoint().unwrap();
    let nodes = sim.media().nodes;
    nodes.allocate(nodes.len_bytes(), 32 << 20).unwrap();
    sim.set_capacity(Some(sim.allocated() + (6 << 20)));
    let bytes = vec![7; 64 << 10];
    let mut written = 0;
    while try_write(&volume, FILE, written, &bytes).is_ok() {
        written += at(bytes.len());
    }
    // All was written out when space ran short: free some, and take it with unwritten bytes.
    written -= 4 << 20;
    volume.resize(FILE, written, &mut |_, _| Ok(())).unwrap();
    volume.store().checkpoint().unwrap();
    let first = written;
    for _ in 0..62 {
        write(&volume, FILE, written, &bytes);
        written += at(bytes.len());
    }
    for index in 0..1800u64 {
        let target = first + index * 2048 + 100;
        volume.copy_range(OTHER, 0, FILE, target, 1).unwrap();
    }
    volume.fsync(FILE, false).unwrap();
}

/// Names are never given back: when there is no room for another one, deleting, writing out and
/// checkpoints work all the same, and so does opening.
#[test]
fn no_room_for_another_name_stops_nothing_else() {
    let sim = make();
    let volume = open(&sim);
    create(&volume, "victim");
    let name = |number: u32| format!("{number:0>250}").into_bytes();
    let mode = RenameMode::Replace;
    create(&volume, &String::from_utf8(name(0)).unwrap());
    volume.store().checkpoint().unwrap();
    let nodes = sim.media().nodes;
    nodes.allocate(nodes.len_bytes(), 32 << 20).unwrap();
    write(&volume, FILE, 0, b"sync");
    volume.fsync(FILE, false).unwrap();
    sim.set_capacity(Some(sim.allocated()));
    let refused = (0..100_000).find(|number| {
        let (from, to) = (name(*number), name(number + 1));
        let renamed = volume.rename(Ino::ROOT, &from, Ino::ROOT, &to, mode);
        renamed.is_err()
    });
    assert!(refused.is_some());
    volume.sync_all().unwrap();
    volume.unlink(Ino::ROOT, b"victim").unwrap();
    volume.resize(OTHER, 0, &mut |_, _| Ok(())).unwrap();
    volume.store().checkpoint().unwrap();
    drop(volume);
    let full = sim.killed();
    full.set_capacity(Some(full.allocated()));
    open(&full);
}
