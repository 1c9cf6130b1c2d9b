//! A store whose log says anything, and is believed: it is opened or refused, what is in it is used
//! or an error, and the checker gets to its end. Nothing panics or hangs.

use arbitrary::{Arbitrary, Unstructured};
use razorfs::disk::sim::SimMedia;
use razorfs::engine::{
    Cred, DirEntry, NewInode, OpenOptions, RenameMode, SetAttr, Volume, WriteFlags,
};
use razorfs::format::id::{Generation, Ino, Lsn, PageNo, TxId};
use razorfs::format::key::SYSTEM_TREES;
use razorfs::format::superblock::{SUPERBLOCK_BYTES, Superblock};
use razorfs::format::wal::RING_START;
use razorfs::fsck;
use razorfs::log::Change;
use razorfs::log::wal::{WalError, scan};
use razorfs::store::superblock;

use vm_tests::frontend::hostile::fields::Number;

use super::log::{Log, Names};
use super::store::{self, LOG_KEY};

/// The log's file among the simulated disks.
const WAL: usize = 4;
/// Entries of a directory that are used.
const ENTRIES_MAX: usize = 40;

/// Puts arbitrary batches into the log: instead of what is there, or behind it.
fn spoil(sim: &SimMedia, u: &mut Unstructured<'_>, behind: bool) {
    let media = sim.media();
    let mut superblock = superblock::read(&*media.superblock).unwrap().superblock;
    // The log of a store that was closed is not read.
    superblock.clean = false;
    write_superblock(sim, &superblock);
    let (mut from, mut tx) = (superblock.checkpoint_lsn, superblock.next_tx);
    let mut end = superblock.strings_end;
    if behind {
        let report = scan(&*media.wal, LOG_KEY, from, tx, &mut |_, _, changes| {
            for change in changes {
                if let Change::Intern { id, name } = change {
                    end = id.0 + razorfs::format::name::record_bytes(name.len()) as u64;
                }
            }
            Ok::<(), WalError>(())
        })
        .unwrap();
        (from, tx) = (report.end, report.next_tx);
    }
    let Ok(log) = Log::arbitrary(u) else {
        return;
    };
    let ring = superblock.log_bytes;
    for (Lsn(at), bytes) in log.bytes(from, tx, LOG_KEY.tag(), Names { end }).batches {
        let at = at % ring;
        if at + bytes.len() as u64 <= ring {
            sim.corrupt(WAL, RING_START + at, &bytes);
        }
    }
}

fn write_superblock(sim: &SimMedia, superblock: &Superblock) {
    for copy in 0..2 {
        sim.corrupt(0, copy * SUPERBLOCK_BYTES as u64, &superblock.encode());
    }
}

/// Changes a number in the superblock, both copies of it.
fn spoil_superblock(sim: &SimMedia, u: &mut Unstructured<'_>) {
    let mut superblock = superblock::read(&*sim.media().superblock)
        .unwrap()
        .superblock;
    let (which, number): (u8, Number) = match (u.arbitrary(), u.arbitrary()) {
        (Ok(which), Ok(number)) => (which, number),
        _ => return,
    };
    let root = &mut superblock.roots[usize::from(which / 16) % SYSTEM_TREES];
    match which % 16 {
        0 => superblock.checkpoint_lsn = Lsn(number.0 & !4095),
        1 => superblock.next_tx = TxId(number.0),
        2 => superblock.generation = Generation(number.0),
        3 => superblock.nodes_end = PageNo(number.0),
        4 => superblock.nodes_used = number.0,
        5 => superblock.strings_end = number.0,
        6 => superblock.capacity_bytes = number.0,
        7 => superblock.log_bytes = number.0,
        8 => superblock.created_sec = number.0.cast_signed(),
        9 => superblock.clean = !superblock.clean,
        10 => root.page = PageNo(number.0),
        11 => root.generation = Generation(number.0),
        12 => superblock
            .roots
            .swap(0, usize::from(which / 16) % SYSTEM_TREES),
        13 => superblock.ro_compat = number.0,
        _ => {}
    }
    write_superblock(sim, &superblock);
}

/// Does a little of everything.
fn use_it(volume: &Volume) {
    let mut names: Vec<DirEntry> = Vec::new();
    let _ = volume.readdir(Ino::ROOT, 0, &mut |entry| {
        names.push(entry);
        names.len() < ENTRIES_MAX
    });
    let _ = volume.readdirplus(Ino::ROOT, 0, &mut |_, _| true);
    for entry in &names {
        let ino = entry.ino;
        let _ = volume.lookup(Ino::ROOT, &entry.name);
        let _ = (
            volume.getattr(ino),
            volume.readlink(ino),
            volume.listxattr(ino),
        );
        let _ = volume.getxattr(ino, b"user.a");
        let mut content = Vec::new();
        let _ = volume.read(ino, 0, 64 << 10, &mut content);
        let _ = volume.readdir(ino, 0, &mut |_| true);
    }
    let new = NewInode {
        mode: 0o100_644,
        umask: 0,
        rdev: 0,
        xattrs: &[],
        supplementary_gid: None,
    };
    let flags = WriteFlags::default();
    let made = volume.create(Cred::default(), Ino::ROOT, b"new", &new);
    let files = names.iter().map(|entry| entry.ino);
    for ino in files.chain(made.iter().map(|attr| attr.ino)).take(16) {
        let content = [9; 9000];
        let _ = volume.write(ino, 100, content.len(), &mut content.as_slice(), flags);
        let _ = volume.fsync(ino, false);
        let cut = SetAttr {
            size: Some(50),
            ..SetAttr::default()
        };
        let _ = volume.setattr(ino, &cut);
    }
    let _ = volume.store().checkpoint();
    for (index, entry) in names.iter().enumerate() {
        let root = Ino::ROOT;
        let _ = match index % 3 {
            0 => volume.unlink(root, &entry.name).map(drop),
            1 => volume.rmdir(root, &entry.name).map(drop),
            _ => volume
                .rename(root, &entry.name, root, b"renamed", RenameMode::Replace)
                .map(drop),
        };
        let _ = volume.reclaim(entry.ino);
    }
    let _ = (volume.sync_all(), volume.statfs());
}

pub fn run(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let how: u8 = u.arbitrary().unwrap_or(0);
    let sim = if how & 1 == 0 {
        store::open()
    } else {
        store::closed()
    };
    spoil(&sim, &mut u, how & 2 != 0);
    if how & 0x80 != 0 {
        spoil_superblock(&sim, &mut u);
    }
    let options = OpenOptions {
        read_only: how & 0x1c == 0x1c,
        discard_damaged_log: how & 0x20 != 0,
        ..store::options()
    };
    if let Ok(volume) = Volume::open_media(sim.media(), options, store::clock()) {
        use_it(&volume);
        let _ = volume.store().close();
    }
    let options = fsck::Options {
        data: how & 0x40 != 0,
        cache_bytes: 1 << 20,
        progress: None,
    };
    let _ = fsck::check(&sim.media(), options, &mut |issue| drop(issue.to_string()));
}
