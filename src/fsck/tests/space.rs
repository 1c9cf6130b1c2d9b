//! Defects of chunks and of the space of chunks.dat.

use super::*;

fn edit_chunk(tx: &mut Tx<'_>, id: u64, change: impl FnOnce(&mut ChunkRecord)) {
    let at = key::chunk(ChunkId(id));
    let bytes = tx.get(TreeId::Chunks, &at).unwrap().unwrap();
    let mut record = ChunkRecord::decode(&bytes).unwrap();
    change(&mut record);
    tx.put(TreeId::Chunks, at, record.encode()).unwrap();
}

const TAIL: u64 = UNITS_END - FREE_START;

#[test]
fn chunks() {
    let chunk = ChunkId(1);
    let found = planted(|tx| edit_chunk(tx, 1, |record| record.refcount = 2));
    assert_eq!(
        found,
        [Issue::Refcount {
            chunk,
            found: 1,
            recorded: 2
        }]
    );

    let found = planted(|tx| {
        let (at, value) = super::chunk(3, FREE_START, &[0; 1]);
        tx.put(TreeId::Chunks, at, value).unwrap();
        edit_chunk(tx, 3, |record| record.refcount = 0);
        delete_free(tx, FREE_START, TAIL);
        put_free(tx, FREE_START + 1, TAIL - 1);
    });
    assert!(
        found.contains(&Issue::ChunkUnused { chunk: ChunkId(3) }),
        "{found:?}"
    );
    assert!(
        found
            .iter()
            .any(|issue| matches!(issue, Issue::ChunkBeyondFile { .. }))
    );

    let found = planted(|tx| {
        tx.put(TreeId::Chunks, key::chunk(ChunkId(1)), vec![1])
            .unwrap()
    });
    assert!(matches!(found[..], [Issue::BadRecord { .. }]), "{found:?}");
}

#[test]
fn space() {
    let found = planted(|tx| {
        delete_free(tx, FREE_START, TAIL);
        put_free(tx, FREE_START + 1, TAIL - 1);
    });
    assert_eq!(found, [Issue::SpaceLeak { start: 5, end: 6 }]);

    let found = planted(|tx| {
        delete_free(tx, FREE_START, TAIL);
        put_free(tx, FREE_START, TAIL - 1);
    });
    assert_eq!(
        found,
        [Issue::SpaceLeak {
            start: UNITS_END - 1,
            end: UNITS_END
        }]
    );

    let found = planted(|tx| {
        delete_free(tx, FREE_START, TAIL);
        put_free(tx, FREE_START - 1, TAIL + 1);
    });
    assert!(
        matches!(
            found[..],
            [Issue::SpaceOverlap {
                start: 4,
                end: 5,
                ..
            }]
        ),
        "{found:?}"
    );

    let found = planted(|tx| {
        delete_free(tx, FREE_START, TAIL);
        put_free(tx, FREE_START, TAIL + 1);
    });
    assert!(
        matches!(found[..], [Issue::SpaceBeyondEnd { .. }]),
        "{found:?}"
    );

    let found = planted(|tx| {
        delete_free(tx, FREE_START, TAIL);
        put_free(tx, FREE_START, 10);
        put_free(tx, FREE_START + 10, TAIL - 10);
    });
    assert_eq!(found, [Issue::FreeNeighbours { at: 15 }]);
}

#[test]
fn units_used() {
    let found = planted(|tx| {
        let value = 9u64.to_le_bytes().to_vec();
        tx.put(TreeId::Datasets, UNITS_USED_KEY, value).unwrap();
    });
    let (found_units, recorded) = (5, 9);
    assert_eq!(
        found,
        [Issue::UnitsUsed {
            found: found_units,
            recorded
        }]
    );
}

#[test]
fn a_range_that_is_being_written_is_in_order() {
    let found = planted(|tx| {
        let pending = PendingFree {
            len_units: 2,
            generation: PendingFree::CLAIMED,
        };
        tx.put(TreeId::FreePending, key::u64_key(3), pending.encode())
            .unwrap();
    });
    assert_eq!(found, []);
}

#[test]
fn punched_units() {
    let punch = |tx: &mut Tx<'_>| {
        let pending = PendingFree {
            len_units: 2,
            generation: PendingFree::PUNCHED,
        };
        tx.put(TreeId::FreePending, key::u64_key(3), pending.encode())
            .unwrap();
    };
    let (found, recorded) = (2, 0);
    assert_eq!(planted(punch), [Issue::UnitsPunched { found, recorded }]);
    let found = planted(|tx| {
        punch(tx);
        let value = 2u64.to_le_bytes().to_vec();
        tx.put(TreeId::Datasets, UNITS_PUNCHED_KEY, value).unwrap();
    });
    assert_eq!(found, []);
}

#[test]
fn free_trees() {
    let found = planted(|tx| {
        let at = key::free_by_size(TAIL, FREE_START);
        assert!(tx.delete(TreeId::FreeBySize, at).unwrap());
    });
    let (start, len) = (FREE_START, TAIL);
    assert_eq!(
        found,
        [Issue::FreeTrees {
            start,
            len,
            known: "start"
        }]
    );

    let found = planted(|tx| {
        tx.put(TreeId::FreeBySize, key::free_by_size(7, 900), vec![])
            .unwrap();
    });
    assert_eq!(
        found,
        [Issue::FreeTrees {
            start: 900,
            len: 7,
            known: "size"
        }]
    );

    let found = planted(|tx| {
        let pending = PendingFree {
            len_units: 2,
            generation: Generation(1 << 40),
        };
        tx.put(TreeId::FreePending, key::u64_key(3), pending.encode())
            .unwrap();
    });
    let generation = Generation(1 << 40);
    assert_eq!(
        found,
        [Issue::PendingGeneration {
            start: 3,
            generation
        }]
    );
}

#[test]
fn chunks_by_content() {
    let hash_of = |tx: &Tx<'_>, id| {
        let value = tx.get(TreeId::Chunks, &key::chunk(ChunkId(id))).unwrap();
        ChunkRecord::decode(&value.unwrap()).unwrap().hash
    };
    let enter = |tx: &mut Tx<'_>, hash: [u8; 32], id: u64| {
        let key = key::chunk_hash(&hash);
        tx.put(TreeId::ChunkHashes, key, id.to_le_bytes()).unwrap();
    };
    let found = planted(|tx| enter(tx, hash_of(tx, 1), 1));
    assert_eq!(found, []);
    let found = planted(|tx| enter(tx, hash_of(tx, 1), 2));
    assert_eq!(found, [Issue::ChunkHashEntry { chunk: ChunkId(2) }]);
    let found = planted(|tx| enter(tx, [7; 32], 99));
    assert_eq!(found, [Issue::ChunkHashEntry { chunk: ChunkId(99) }]);
    let found = planted(|tx| {
        let tree = TreeId::ChunkHashes;
        tx.put(tree, key::u64_key(1), 1u64.to_le_bytes()).unwrap();
    });
    assert!(matches!(found[..], [Issue::UnknownKey { .. }]), "{found:?}");
}

#[test]
fn content() {
    let sim = sound();
    sim.corrupt(CHUNKS, 4096 + 10, &[9]);
    let (chunk, start, end) = (ChunkId(1), 4096, 5000);
    assert_eq!(issues_of(&sim), [Issue::ChunkBlock { chunk, start, end }]);

    let found = planted(|tx| edit_chunk(tx, 2, |record| record.hash = [0; 32]));
    assert_eq!(found, [Issue::ChunkHash { chunk: ChunkId(2) }]);

    let found = planted(|tx| {
        edit_chunk(tx, 2, |record| {
            record.codec = Codec::Lz4;
            record.raw_len += 1;
        });
    });
    assert!(
        matches!(found[..], [Issue::ChunkUnreadable { .. }]),
        "{found:?}"
    );
}
