use super::*;

fn tree_of(model: &Model) -> Tree {
    let mut tree = Tree::new();
    for dir in model.dirs().filter(|dir| !dir.is_empty()) {
        tree.insert(dir.clone(), Found::Dir);
    }
    for (path, id) in &model.names {
        let node = &model.nodes[id];
        let (ino, links) = (
            u64::from(*id),
            model.names.values().filter(|other| *other == id).count(),
        );
        let nlink = u32::try_from(links).unwrap();
        let found = match node.target.clone() {
            Some(target) => Found::Symlink { ino, nlink, target },
            None => Found::File(File {
                ino,
                nlink,
                mode: node.mode,
                tag: node.tag,
                cells: node.cells.iter().map(|cell| cell.last().copied()).collect(),
            }),
        };
        tree.insert(path.clone(), found);
    }
    tree
}

fn state(ops: &[Op], upto: u32) -> Tree {
    let mut model = Model::new();
    for (id, op) in (1..=upto).zip(ops) {
        model.apply(op, id);
    }
    tree_of(&model)
}

fn file<'a>(tree: &'a mut Tree, path: &str) -> &'a mut File {
    match tree.get_mut(path) {
        Some(Found::File(file)) => file,
        other => panic!("{path}: {other:?}"),
    }
}

fn create(path: &str) -> Op {
    Op::Create(path.into())
}

fn write(path: &str, first: u32, count: u32, wait: Wait) -> Op {
    let path = path.into();
    Op::Write {
        path,
        first,
        count,
        wait,
    }
}

fn fsync(path: &str) -> Op {
    let path = path.into();
    Op::Fsync {
        path,
        data_only: false,
    }
}

fn rename(from: &str, to: &str) -> Op {
    let (from, to) = (from.into(), to.into());
    Op::Rename { from, to }
}

fn kind(ops: &[Op], begun: u32, returned: u32, tree: &Tree) -> Option<Kind> {
    judge(ops, begun, returned, tree).err().map(|b| b.kind)
}

#[test]
fn accepts_every_prefix_that_a_sync_allows_and_no_other() {
    for seed in 0..30 {
        let ops = plan(seed, 200, Able::ALL);
        let (begun, returned) = (150, 149);
        let last_sync = (1u32..=returned)
            .filter(|id| ops[*id as usize - 1] == Op::Sync)
            .max()
            .unwrap_or(0);
        for upto in returned..=begun {
            let judged = judge(&ops, begun, returned, &state(&ops, upto));
            assert!(judged.is_ok(), "seed {seed} at {upto}: {judged:?}");
        }
        for upto in 0..last_sync {
            // An older state can only pass by being the same as a newer one.
            match judge(&ops, begun, returned, &state(&ops, upto)) {
                Ok(id) => assert_eq!(state(&ops, id), state(&ops, upto)),
                Err(breach) => assert_eq!(breach.kind, Kind::Lost, "{seed} at {upto}: {breach}"),
            }
        }
    }
}

#[test]
fn a_plan_has_every_operation() {
    let ops = plan(1, 3_000, Able::ALL);
    let kinds: std::collections::HashSet<_> = ops.iter().map(std::mem::discriminant).collect();
    assert_eq!(kinds.len(), 19);
    let waits = |wanted| {
        let waits = |op: &Op| matches!(op, Op::Write { wait, .. } if *wait == wanted);
        ops.iter().any(waits)
    };
    assert!(waits(Wait::No) && waits(Wait::Data) && waits(Wait::All));
}

#[test]
fn a_client_gets_only_what_it_can_do() {
    let able = Able {
        sync: false,
        unnamed: false,
    };
    let words = able.words();
    let words: Vec<&str> = words.split_whitespace().collect();
    assert_eq!(Able::parse(&words), able);
    assert_eq!(Able::parse(&[]), Able::ALL);
    let ops = plan(1, 3_000, able);
    assert!(
        !ops.iter()
            .any(|op| matches!(op, Op::Sync | Op::Unnamed { .. }))
    );
}

#[test]
fn a_sound_tree_passes_with_old_or_new_content_where_nothing_was_synced() {
    let ops = [
        create("a"),
        write("a", 0, 2, Wait::No),
        fsync("a"),
        write("a", 1, 1, Wait::No),
    ];
    for (returned, cells, sound) in [
        (4, [2, 4], true),
        (4, [2, 2], true),
        (4, [4, 2], false),
        (4, [2, 0], false),
        (2, [0, 0], true),
    ] {
        let mut tree = state(&ops, returned);
        file(&mut tree, "a").cells = cells.map(Some).to_vec();
        let judged = judge(&ops, 4, returned, &tree);
        assert_eq!(judged.is_ok(), sound, "{cells:?}: {judged:?}");
    }
    assert_eq!(judge(&ops, 2, 2, &Tree::new()), Ok(0));
}

#[test]
fn a_synced_write_that_is_missing_is_lost() {
    for sync in [
        vec![write("a", 0, 3, Wait::No), fsync("a")],
        vec![write("a", 0, 3, Wait::Data)],
        vec![write("a", 0, 3, Wait::All)],
        vec![write("a", 0, 3, Wait::No), Op::Sync],
        vec![
            write("a", 0, 3, Wait::No),
            Op::Map {
                path: "a".into(),
                first: 0,
                count: 3,
            },
        ],
    ] {
        let ops: Vec<Op> = [create("a"), fsync("a")].into_iter().chain(sync).collect();
        let all = u32::try_from(ops.len()).unwrap();
        let good = state(&ops, all);
        assert_eq!(judge(&ops, all, all, &good), Ok(all));
        let mut zeros = good.clone();
        file(&mut zeros, "a").cells[1] = Some(0);
        assert_eq!(kind(&ops, all, all, &zeros), Some(Kind::Lost), "{ops:?}");
        let mut short = good.clone();
        file(&mut short, "a").cells.pop();
        assert_eq!(kind(&ops, all, all, &short), Some(Kind::Lost), "{ops:?}");
        // While it had not returned, the same was no loss.
        assert_eq!(judge(&ops, all, 2, &zeros).map(|_| ()), Ok(()), "{ops:?}");
    }
}

#[test]
fn a_write_under_way_may_be_there_up_to_the_end_of_a_page() {
    for wait in [Wait::No, Wait::Data] {
        let ops = [create("a"), Op::Sync, write("a", 0, 10, wait)];
        for cells in 1..10 {
            let mut tree = state(&ops, 3);
            file(&mut tree, "a").cells.truncate(cells);
            let sound = cells % 4 == 0;
            assert_eq!(judge(&ops, 3, 2, &tree).is_ok(), sound, "{cells}");
            let judged = kind(&ops, 3, 3, &tree);
            assert_eq!(judged.is_none(), sound && wait == Wait::No, "{cells}");
        }
    }
}

#[test]
fn a_synced_entry_that_is_missing_is_lost() {
    let ops = [
        Op::Mkdir("d".into()),
        create("d/a"),
        Op::Symlink {
            path: "d/s".into(),
            target: "t".into(),
        },
        Op::FsyncDir("d".into()),
        create("b"),
        write("b", 0, 1, Wait::All),
        create("c"),
    ];
    for gone in ["d/a", "d/s", "b"] {
        let mut tree = state(&ops, 7);
        tree.remove(gone);
        assert_eq!(kind(&ops, 7, 7, &tree), Some(Kind::Lost), "{gone}");
    }
    // Without c it is an older state, which may be.
    let mut tree = state(&ops, 7);
    tree.remove("c");
    assert_eq!(judge(&ops, 7, 7, &tree), Ok(6));
    // A removal that was synced is undone: that is lost too.
    let ops = [
        create("a"),
        Op::Sync,
        Op::Unlink("a".into()),
        Op::FsyncDir(String::new()),
    ];
    assert_eq!(kind(&ops, 4, 4, &state(&ops, 2)), Some(Kind::Lost));
}

#[test]
fn foreign_bytes_are_wrong_wherever_they_are() {
    let ops = [
        create("a"),
        write("a", 0, 2, Wait::All),
        write("a", 1, 1, Wait::No),
    ];
    for index in [0, 1] {
        let mut tree = state(&ops, 3);
        file(&mut tree, "a").cells[index] = None;
        assert_eq!(kind(&ops, 3, 3, &tree), Some(Kind::Wrong));
    }
}

#[test]
fn a_rename_that_left_neither_name_is_found() {
    let ops = [create("x"), Op::Sync, create("a"), rename("a", "b")];
    let mut tree = state(&ops, 4);
    tree.remove("b");
    // As before operation 3, which no sync forbids.
    assert_eq!(judge(&ops, 4, 4, &tree), Ok(2));
    let ops = [
        create("x"),
        Op::Sync,
        create("a"),
        rename("a", "b"),
        create("c"),
    ];
    let mut tree = state(&ops, 5);
    tree.remove("b");
    assert_eq!(kind(&ops, 5, 5, &tree), Some(Kind::Wrong));
    let ops = [create("a"), create("b"), Op::Sync, rename("a", "b")];
    let mut tree = state(&ops, 4);
    tree.remove("b");
    assert_eq!(kind(&ops, 4, 4, &tree), Some(Kind::Lost));
}

#[test]
fn a_renamed_file_has_its_content() {
    let ops = [create("a"), write("a", 0, 1, Wait::No), rename("a", "b")];
    let mut tree = state(&ops, 3);
    assert_eq!(judge(&ops, 3, 3, &tree), Ok(3));
    file(&mut tree, "b").cells[0] = Some(0);
    assert!(judge(&ops, 3, 3, &tree).is_err());
}

#[test]
fn what_is_no_prefix_is_wrong() {
    let ops = [create("a"), create("b"), create("c")];
    let mut tree = state(&ops, 3);
    tree.remove("b");
    assert_eq!(kind(&ops, 3, 3, &tree), Some(Kind::Wrong));
    // A directory's rename is one step for all below it.
    let (from, to) = ("d".into(), "e".into());
    let ops = [
        Op::Mkdir("d".into()),
        create("d/a"),
        create("d/b"),
        Op::RenameDir { from, to },
    ];
    for upto in 0..=4 {
        assert_eq!(judge(&ops, 4, 4, &state(&ops, upto)), Ok(upto));
    }
    let mut half = state(&ops, 3);
    half.extend(state(&ops, 4));
    assert_eq!(kind(&ops, 4, 4, &half), Some(Kind::Wrong));
    half.remove("d/a");
    half.remove("e/b");
    assert_eq!(kind(&ops, 4, 4, &half), Some(Kind::Wrong));
}

#[test]
fn what_had_not_been_begun_is_wrong() {
    let ops = [create("a"), create("b"), create("c")];
    assert_eq!(judge(&ops, 2, 1, &state(&ops, 2)), Ok(2));
    assert_eq!(kind(&ops, 2, 1, &state(&ops, 3)), Some(Kind::Wrong));
}

#[test]
fn a_file_that_is_another_than_it_was_is_wrong() {
    let link = Op::Link {
        from: "a".into(),
        to: "b".into(),
    };
    let ops = [create("a"), link];
    let mut tree = state(&ops, 2);
    file(&mut tree, "b").ino = 99;
    assert_eq!(kind(&ops, 2, 2, &tree), Some(Kind::Wrong));
    for damage in [
        |file: &mut File| file.mode = 0o600,
        |file: &mut File| file.tag = 1,
        |file: &mut File| file.nlink = 1,
        |file: &mut File| file.cells.push(Some(0)),
    ] {
        let mut tree = state(&ops, 2);
        damage(file(&mut tree, "a"));
        assert_eq!(kind(&ops, 2, 2, &tree), Some(Kind::Wrong));
    }
}

#[test]
fn a_hole_and_a_cut_leave_nothing_old() {
    let punch = Op::Punch {
        path: "a".into(),
        first: 0,
        count: 1,
    };
    let shrink = Op::Truncate {
        path: "a".into(),
        cells: 0,
    };
    let grow = Op::Allocate {
        path: "a".into(),
        cells: 2,
    };
    for removing in [vec![punch], vec![shrink, grow]] {
        let start = [create("a"), write("a", 0, 2, Wait::All)];
        let ops: Vec<Op> = start
            .into_iter()
            .chain(removing)
            .chain([create("b")])
            .collect();
        let all = u32::try_from(ops.len()).unwrap();
        let mut tree = state(&ops, all);
        assert_eq!(judge(&ops, all, all, &tree), Ok(all));
        file(&mut tree, "a").cells[0] = Some(2);
        assert!(judge(&ops, all, all, &tree).is_err(), "{ops:?}");
    }
}

#[test]
fn a_dump_reads_back() {
    let tree = state(&plan(3, 300, Able::ALL), 300);
    for (path, found) in &tree {
        let line = dump_line(path, found);
        assert_eq!(parse_dump_line(&line), Some((path.clone(), found.clone())));
    }
}

#[test]
fn cells_tell_who_wrote_them() {
    assert_eq!(writer(7, 3, &cell(7, 5, 3)), Some(5));
    assert_eq!(writer(7, 4, &cell(7, 5, 3)), None);
    assert_eq!(writer(8, 3, &cell(7, 5, 3)), None);
    assert_eq!(writer(7, 3, &[0; CELL_BYTES]), Some(0));
}
