//! Projects: what is counted for them, what they refuse, and who else has them.

use super::*;
use crate::engine::projects::counted_below;
use crate::engine::{DatasetError, FsXattr, ProjectInfo, RenameMode, StatFs, WriteFlags};
use crate::format::record::{ProjectLimit, ProjectUse};
use crate::format::superblock::RO_COMPAT_PROJECTS;

const BLOCK: u64 = 4096;

fn limit(bytes: u64, inodes: u64) -> ProjectLimit {
    ProjectLimit { bytes, inodes }
}

fn info(id: u32, used: (u64, u64), limit: ProjectLimit) -> ProjectInfo {
    let (inodes, bytes) = used;
    ProjectInfo {
        id,
        used: ProjectUse { inodes, bytes },
        limit,
    }
}

impl World {
    fn write(&self, ino: Ino, offset: u64, len: u64) -> Result<usize, EngineError> {
        let bytes = vec![7; len as usize];
        let flags = WriteFlags::default();
        self.volume
            .write(ino, offset, bytes.len(), &mut bytes.as_slice(), flags)
    }

    fn limit(&self, project: u32, limit: ProjectLimit) {
        let store = self.volume.store();
        store.limit_project("main", project, limit).unwrap();
    }

    fn assign(&self, ino: Ino, project: u32) -> u64 {
        self.volume
            .assign_project(ino, project, &mut || true)
            .unwrap()
    }

    fn projects(&self) -> Vec<ProjectInfo> {
        self.volume.projects().unwrap()
    }

    fn projid(&self, ino: Ino) -> u32 {
        self.volume.get_fsxattr(ino).unwrap().projid
    }
}

fn quota<T: std::fmt::Debug>(result: Result<T, EngineError>) {
    assert!(matches!(result, Err(EngineError::Quota)), "{result:?}");
}

#[test]
fn a_tree_is_given_to_a_project_and_counted_with_what_was_there() {
    let mut world = World::new();
    let tree = world.make(ROOT, "tree", DIR);
    let below = world.make(tree, "below", DIR);
    for number in 0..10 {
        let file = world.make(below, &format!("file {number}"), FILE);
        world.write(file, 0, 3 * BLOCK).unwrap();
    }
    let apart = world.make(ROOT, "apart", FILE);
    world.write(apart, 0, BLOCK).unwrap();
    assert_eq!(world.projects(), []);
    assert_eq!(world.assign(tree, 7), 12);
    world.volume.store().write_out_all().unwrap();
    let all = [info(7, (12, 30 * BLOCK), limit(0, 0))];
    assert_eq!(world.projects(), all);
    // What is made there belongs to it, what is not does not.
    let new = world.make(below, "new", DIR);
    let file = world.make(new, "file", FILE);
    assert_eq!((world.projid(file), world.projid(apart)), (7, 0));
    let mode = RenameMode::Replace;
    let moved = world.volume.rename(ROOT, b"apart", tree, b"in", mode);
    assert!(matches!(moved, Err(EngineError::OtherProject)));
    let linked = world.volume.link(apart, tree, b"in");
    assert!(matches!(linked, Err(EngineError::OtherProject)));
    // Out of it anything may go, and stays its.
    world
        .volume
        .rename(new, b"file", ROOT, b"out", mode)
        .unwrap();
    assert_eq!(world.projects()[0].used.inodes, 14);
    world.volume.unlink(ROOT, b"out").unwrap();
    assert_eq!(world.projects()[0].used.inodes, 14, "it may be open");
    world.volume.reclaim(file).unwrap();
    assert_eq!(world.projects()[0].used.inodes, 13);
    world.reopen();
    assert_eq!(world.projects()[0].used.inodes, 13);
    assert_eq!(world.assign(tree, 0), 13);
    assert_eq!(world.projects(), []);
    assert_eq!(world.projid(new), 0);
    world.finish();
}

#[test]
fn a_project_is_refused_more_than_it_may_have() {
    let mut world = World::new();
    let tree = world.make(ROOT, "tree", DIR);
    let apart = world.make(ROOT, "apart", FILE);
    world.limit(7, limit(4 * BLOCK, 4));
    world.assign(tree, 7);
    let file = world.make(tree, "file", FILE);
    world.write(file, 0, 3 * BLOCK).unwrap();
    quota(world.write(file, 3 * BLOCK, 2 * BLOCK));
    world.write(file, BLOCK, 3 * BLOCK).unwrap();
    quota(world.write(file, 4 * BLOCK, 1));
    let how = crate::engine::Fallocate::Allocate { keep_size: true };
    quota(world.volume.fallocate(file, 0, 5 * BLOCK, how));
    quota(
        world
            .volume
            .copy_range(file, 0, file, 4 * BLOCK, BLOCK)
            .map(drop),
    );
    // Elsewhere there is room.
    world.write(apart, 0, 9 * BLOCK).unwrap();
    let fsx = |projid| FsXattr { xflags: 0, projid };
    quota(world.volume.set_fsxattr(apart, fsx(7)));
    // What is unwritten is counted as what is not.
    world.volume.store().write_out_all().unwrap();
    quota(world.write(file, 4 * BLOCK, 1));
    world.reopen();
    quota(world.write(file, 4 * BLOCK, 1));
    world.make(tree, "third", FILE);
    world.make(tree, "fourth", DIR);
    quota(world.try_make(tree, "fifth", FILE));
    quota(world.try_make(tree, "fifth", DIR));
    let symlink = world
        .volume
        .symlink(Cred::default(), tree, b"s", b"t", &new(0));
    quota(symlink);
    quota(world.volume.tmpfile(Cred::default(), tree, &new(FILE)));
    let empty = world.make(ROOT, "empty", FILE);
    quota(world.volume.set_fsxattr(empty, fsx(7)));
    assert_eq!(world.find(tree, "fifth"), None);
    // With a raised limit it goes on, with a lower one nothing is lost.
    world.limit(7, limit(5 * BLOCK, 5));
    world.write(file, 4 * BLOCK, BLOCK).unwrap();
    world.volume.set_fsxattr(empty, fsx(7)).unwrap();
    world.limit(7, limit(BLOCK, 1));
    world.write(file, 0, 5 * BLOCK).unwrap();
    world.volume.resize(file, 0, &mut |_, _| Ok(())).unwrap();
    world.write(file, 0, BLOCK).unwrap();
    quota(world.write(file, BLOCK, 1));
    world.limit(7, limit(0, 0));
    world.write(file, BLOCK, 9 * BLOCK).unwrap();
    // An operator is not refused: it only cannot grow.
    world.limit(8, limit(BLOCK, 1));
    world.assign(tree, 8);
    let inodes: Vec<_> = world.projects().iter().map(|of| of.used.inodes).collect();
    assert_eq!(inodes, [1, 4]);
    quota(world.try_make(tree, "fifth", FILE));
    world.finish();
}

#[test]
fn df_of_a_directory_tells_of_its_project() {
    let world = World::new();
    let tree = world.make(ROOT, "tree", DIR);
    let below = world.make(tree, "below", DIR);
    world.limit(7, limit(100 * BLOCK, 50));
    world.assign(tree, 7);
    let file = world.make(below, "file", FILE);
    world.write(file, 0, 10 * BLOCK).unwrap();
    let of = |ino| world.volume.statfs_at(ino).unwrap();
    let sizes = |stat: StatFs| (stat.blocks, stat.blocks_free, stat.blocks_available);
    for dir in [tree, below] {
        assert_eq!(sizes(of(dir)), (100, 90, 90));
        assert_eq!((of(dir).files, of(dir).files_free), (50, 47));
    }
    assert_eq!(of(file), of(ROOT));
    assert_eq!(of(Ino(12_345)), of(ROOT));
    assert!(of(ROOT).blocks > 100);
    world.finish();
}

#[test]
fn snapshots_clones_and_what_is_restored_have_its_projects() {
    let mut world = World::new();
    let store = Arc::clone(world.volume.store());
    let tree = world.make(ROOT, "tree", DIR);
    let file = world.make(tree, "file", FILE);
    world.write(file, 0, 4 * BLOCK).unwrap();
    world.limit(7, limit(5 * BLOCK, 0));
    world.assign(tree, 7);
    let then = [info(7, (2, 4 * BLOCK), limit(5 * BLOCK, 0))];
    assert_eq!(world.projects(), then);
    store.snapshot("main@then").unwrap();
    world.limit(7, limit(9 * BLOCK, 0));
    world.write(file, 4 * BLOCK, 4 * BLOCK).unwrap();
    let of_snapshot = store.volume("main@then").unwrap();
    assert_eq!(of_snapshot.projects().unwrap(), then);
    let refused = store.limit_project("main@then", 7, limit(1, 1));
    assert!(matches!(refused, Err(DatasetError::Refused { .. })));
    drop(of_snapshot);
    store.clone_dataset("main@then", "copy").unwrap();
    let copy = store.volume("copy").unwrap();
    assert_eq!(copy.projects().unwrap(), then);
    let bytes = [1; 2 * BLOCK as usize];
    let flags = WriteFlags::default();
    let more = copy.write(file, 4 * BLOCK, bytes.len(), &mut &bytes[..], flags);
    quota(more);
    drop(copy);
    let clock = clock(&world.seconds);
    store.create_dataset("spare", (0, 0)).unwrap();
    drop((store, world.volume));
    world.volume = open(&world.sim, clock);
    let store = Arc::clone(world.volume.store());
    let refused = store.limit_project("main", 0, limit(1, 1));
    assert!(matches!(refused, Err(DatasetError::Refused { .. })));
    // A dataset that is restored has what it had.
    let copy = store.volume("copy").unwrap();
    store.snapshot("copy@one").unwrap();
    store.limit_project("copy", 7, limit(0, 0)).unwrap();
    drop(copy);
    store.restore("copy@one").unwrap();
    let copy = store.volume("copy").unwrap();
    assert_eq!(copy.projects().unwrap(), then);
    quota(copy.write(file, 4 * BLOCK, bytes.len(), &mut &bytes[..], flags));
    drop(copy);
    drop(store);
    world.finish();
}

/// Counting is cut off after each of its transactions, and goes on while files come and go.
#[test]
fn counting_that_is_cut_off_goes_on() {
    let world = World::new();
    let mut inos = Vec::new();
    for number in 0..12u32 {
        let ino = world.make(ROOT, &format!("file {number}"), FILE);
        let fsx = FsXattr {
            xflags: 0,
            projid: number % 3,
        };
        world.volume.set_fsxattr(ino, fsx).unwrap();
        world.write(ino, 0, BLOCK).unwrap();
        inos.push(ino);
    }
    world.volume.store().write_out_all().unwrap();
    let before = world.volume.store().journal.superblock().ro_compat;
    assert_eq!(before & RO_COMPAT_PROJECTS, 0);
    let start = world.sim.events();
    world.volume.count_projects(&mut || true).unwrap();
    let end = world.sim.events();
    let after = world.volume.store().journal.superblock().ro_compat;
    assert_ne!(after & RO_COMPAT_PROJECTS, 0);
    let whole = world.projects();
    assert_eq!(whole.len(), 2);
    assert_eq!(
        whole[0].used,
        ProjectUse {
            inodes: 4,
            bytes: 4 * BLOCK
        }
    );
    world.finish();

    let mut stages = std::collections::BTreeSet::new();
    for number in 0..12u32 {
        // The same store, counted as far as some of the transactions.
        let world = World::new();
        for number in 0..12u32 {
            let ino = world.make(ROOT, &format!("file {number}"), FILE);
            let fsx = FsXattr {
                xflags: 0,
                projid: number % 3,
            };
            world.volume.set_fsxattr(ino, fsx).unwrap();
            world.write(ino, 0, BLOCK).unwrap();
        }
        world.volume.store().write_out_all().unwrap();
        for _ in 0..number % 6 {
            world.volume.count_some_for_tests().unwrap();
        }
        world.volume.unlink(ROOT, b"file 1").unwrap();
        world.volume.reclaim(inos[1]).unwrap();
        world.volume.unlink(ROOT, b"file 10").unwrap();
        world.volume.reclaim(inos[10]).unwrap();
        let late = world.make(ROOT, "late", FILE);
        let fsx = FsXattr {
            xflags: 0,
            projid: 2,
        };
        world.volume.set_fsxattr(late, fsx).unwrap();
        world.write(inos[4], BLOCK, BLOCK).unwrap();
        world.volume.store().write_out_all().unwrap();
        world.volume.sync_all().unwrap();
        let sim = world.sim.killed();
        assert_eq!(errors(&sim), [""; 0]);
        let volume = open(&sim, clock(&world.seconds));
        let view = volume.store().journal.view();
        stages.insert(counted_below(&view, volume.tree()).unwrap());
        volume.count_projects(&mut || true).unwrap();
        let found = volume.projects().unwrap();
        let used = |inodes, bytes| ProjectUse { inodes, bytes };
        assert_eq!(found[0].used, used(2, 3 * BLOCK), "{number}");
        assert_eq!(found[1].used, used(5, 4 * BLOCK), "{number}");
        volume.store().close().unwrap();
        assert_eq!(errors(&sim), [""; 0]);
    }
    assert!(stages.len() > 4 && start < end, "{stages:?}");
}
