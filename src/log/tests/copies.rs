//! What copies of trees know of where their pages are from.

use std::cell::RefCell;

use super::*;
use crate::format::id::{DatasetId, Generation};
use crate::format::record::{
    DatasetRecord, HistoryRecord, NEXT_DATASET_KEY, Time, Until, dataset_key, history_key,
};
use crate::log::{CopyAs, Tx};

const MAIN: DatasetId = DatasetId::MAIN;
const CLONE: DatasetId = DatasetId(2);
const OF_CLONE: DatasetId = DatasetId(3);

fn put_dataset(tx: &mut Tx<'_>, id: DatasetId) {
    let birth = tx.generation();
    let record = DatasetRecord::new("a name", [3; 16], birth, Time::default());
    tx.put(TreeId::Datasets, dataset_key(id), record.encode())
        .unwrap();
    let next = (id.0 + 1).to_le_bytes();
    tx.put(TreeId::Datasets, NEXT_DATASET_KEY, next).unwrap();
}

fn put_file(journal: &Journal, ino: u64) {
    let mut tx = journal.begin().unwrap();
    if ino == 1 {
        put_dataset(&mut tx, MAIN);
    }
    tx.put(TreeId::Fs(MAIN), ino.to_be_bytes(), vec![7; 100])
        .unwrap();
    tx.commit().unwrap();
}

fn clone(journal: &Journal, from: DatasetId, to: DatasetId) {
    let mut tx = journal.begin().unwrap();
    put_dataset(&mut tx, to);
    tx.copy_tree(from, to, CopyAs::Branch(to.0)).unwrap();
    journal.sync(tx.commit().unwrap()).unwrap();
}

/// The timelines that a copy goes on from, and the checkpoint that wrote its root.
fn past_of(journal: &Journal, id: DatasetId) -> (Vec<(u64, Until)>, Generation) {
    let view = journal.view();
    let get = |key: &[u8]| view.get(TreeId::Datasets, key).unwrap().unwrap();
    let history = HistoryRecord::decode(&get(&history_key(id))).unwrap();
    let past = history.past.iter();
    let past = past.map(|past| (past.timeline, past.until));
    let root = DatasetRecord::decode(&get(&dataset_key(id))).unwrap().root;
    (past.collect(), root.generation)
}

#[test]
fn a_copy_of_what_is_on_disk_has_all_of_it() {
    let sim = SimMedia::new();
    create(&sim);
    let journal = open(&sim).unwrap().journal;
    put_file(&journal, 1);
    journal.checkpoint(false, &|_| Ok(())).unwrap();
    clone(&journal, MAIN, CLONE);
    journal.checkpoint(false, &|_| Ok(())).unwrap();
    let (past, root) = past_of(&journal, CLONE);
    let until = |newest, sure| Until { newest, sure };
    assert_eq!(past, [(MAIN.0, until(root, root))]);
    // What is not on disk yet gets the next checkpoint's number, with what its dataset changes.
    put_file(&journal, 2);
    clone(&journal, MAIN, OF_CLONE);
    journal.checkpoint(false, &|_| Ok(())).unwrap();
    let (past, root) = past_of(&journal, OF_CLONE);
    let born = Generation(root.0 - 1);
    assert_eq!(past, [(MAIN.0, until(root, Generation(born.0 - 1)))]);
}

#[test]
fn a_copy_made_beside_a_checkpoint_that_never_counts_knows_its_pages() {
    let sim = SimMedia::new();
    create(&sim);
    let journal = open(&sim).unwrap().journal;
    put_file(&journal, 1);
    journal.checkpoint(false, &|_| Ok(())).unwrap();
    put_file(&journal, 2);
    clone(&journal, MAIN, CLONE);
    let never = journal.begin().unwrap().generation();
    let killed = RefCell::new(None);
    let carry_over = |_| {
        // The places that the trees have now are those of a checkpoint without a superblock.
        clone(&journal, CLONE, OF_CLONE);
        killed.borrow_mut().get_or_insert_with(|| sim.killed());
        Ok(())
    };
    journal.checkpoint(false, &carry_over).unwrap();
    let killed = killed.into_inner().unwrap();
    let journal = open(&killed).unwrap().journal;
    journal.checkpoint(false, &|_| Ok(())).unwrap();
    for id in [CLONE, OF_CLONE] {
        let (past, root) = past_of(&journal, id);
        let all = past.iter().all(|(_, until)| until.newest >= root);
        assert!(all, "{id}: {past:?}, its root is of {root:?}");
        // What main changed since was written by the checkpoint that never counted.
        let is_sure = past
            .iter()
            .any(|(of, until)| *of == MAIN.0 && until.sure >= never);
        assert!(!is_sure, "{id}: {past:?}, and main went on in {never:?}");
    }
}
