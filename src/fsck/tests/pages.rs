//! Defects of pages, of the superblock and of the log's header.

use super::*;
use crate::format::id::PageNo;
use crate::format::page::{PAGE_BYTES, Page, TreeTag};
use crate::format::superblock::{SUPERBLOCK_BYTES, Superblock};
use crate::fsck::{FsckError, Severity};

fn superblock(sim: &SimMedia) -> Superblock {
    let mut bytes = [0; SUPERBLOCK_BYTES];
    sim.peek(0, 0, &mut bytes);
    Superblock::decode(&bytes).unwrap()
}

fn write_superblock(sim: &SimMedia, block: &Superblock) {
    sim.corrupt(0, 0, &block.encode());
    sim.corrupt(0, 4096, &block.encode());
}

fn write_page(sim: &SimMedia, page: &Page, place: PagePtr) {
    let at = place.page.0 * PAGE_BYTES as u64;
    sim.corrupt(NODES, at, page.encode(place, TreeTag::NONE).as_slice());
}

/// The sound store with the dead-lists tree, which is empty in it, given these pages: leaves with
/// one key each, and a root above them.
fn with_tree(leaves: &[(PagePtr, Page)], separators: &[&[u8]]) -> SimMedia {
    let sim = sound();
    let mut block = superblock(&sim);
    let first = block.nodes_end.0;
    let mut root = Page::new(1);
    for ((place, leaf), separator) in leaves.iter().zip(separators) {
        let place = moved(*place, first);
        root.insert(root.len(), separator, &place.encode());
        write_page(&sim, leaf, place);
    }
    let place = PagePtr {
        page: PageNo(first),
        generation: block.generation,
    };
    write_page(&sim, &root, place);
    block.roots[7] = place;
    block.nodes_end = PageNo(first + 8);
    block.nodes_used += 1 + leaves.len() as u64;
    write_superblock(&sim, &block);
    sim
}

fn moved(place: PagePtr, by: u64) -> PagePtr {
    PagePtr {
        page: PageNo(place.page.0 + by),
        ..place
    }
}

fn leaf(key: &[u8]) -> Page {
    let mut page = Page::new(0);
    page.insert(0, key, b"v");
    page
}

/// The place of the `index`-th page behind the tree's root.
fn place(index: u64) -> PagePtr {
    PagePtr {
        page: PageNo(index),
        generation: Generation(1),
    }
}

#[test]
fn a_flipped_bit_in_any_page_is_found() {
    let sim = sound();
    let end = superblock(&sim).nodes_end.0;
    for page in 1..end {
        let sim = sim.killed();
        let at = page * PAGE_BYTES as u64 + 77;
        let mut byte = [0];
        sim.peek(NODES, at, &mut byte);
        sim.corrupt(NODES, at, &[byte[0] ^ 4]);
        let found = issues_of(&sim);
        assert!(
            found.iter().any(
                |issue| matches!(issue, Issue::PageUnreadable { page: of, .. } if of.0 == page)
            ),
            "page {page}: {found:?}"
        );
    }
}

#[test]
fn a_page_of_an_older_time_is_found() {
    let sim = sound();
    let mut block = superblock(&sim);
    block.roots[1].generation = Generation(2);
    block.generation = Generation(2);
    write_superblock(&sim, &block);
    let found = issues_of(&sim);
    assert!(
        matches!(
            found[0],
            Issue::PageUnreadable {
                tree: TreeId::Chunks,
                ..
            }
        ),
        "{found:?}"
    );
    assert!(
        found
            .iter()
            .any(|issue| matches!(issue, Issue::TreeUnreadable { .. }))
    );
}

#[test]
fn sound_tree_of_two_levels_has_no_issues() {
    let sim = with_tree(
        &[(place(1), leaf(b"a")), (place(2), leaf(b"n"))],
        &[b"", b"m"],
    );
    assert_eq!(issues_of(&sim), []);
}

#[test]
fn pages_in_wrong_places() {
    let sim = with_tree(
        &[(place(1), leaf(b"x")), (place(2), leaf(b"n"))],
        &[b"", b"m"],
    );
    assert!(matches!(issues_of(&sim)[..], [Issue::PageKey { .. }]));

    let sim = with_tree(
        &[(place(1), leaf(b"a")), (place(1), leaf(b"a"))],
        &[b"", b"m"],
    );
    assert!(matches!(issues_of(&sim)[..], [Issue::PageTwice { .. }]));

    let sim = with_tree(
        &[(place(1), leaf(b"a")), (place(2), Page::new(0))],
        &[b"", b"m"],
    );
    assert!(matches!(issues_of(&sim)[..], [Issue::PageEmpty { .. }]));

    let mut inner = Page::new(3);
    inner.insert(0, b"n", &place(1).encode());
    let sim = with_tree(&[(place(1), leaf(b"a")), (place(2), inner)], &[b"", b"m"]);
    assert!(matches!(
        issues_of(&sim)[..],
        [Issue::PageLevel {
            expected: 0,
            found: 3,
            ..
        }]
    ));

    let sim = with_tree(&[(place(9), leaf(b"a"))], &[b""]);
    assert!(matches!(issues_of(&sim)[..], [Issue::PageBeyondEnd { .. }]));

    let newer = PagePtr {
        generation: Generation(9),
        ..place(1)
    };
    let sim = with_tree(&[(newer, leaf(b"a"))], &[b""]);
    assert!(matches!(
        issues_of(&sim)[..],
        [Issue::PageGeneration { .. }]
    ));
}

#[test]
fn page_count() {
    let sim = sound();
    let mut block = superblock(&sim);
    block.nodes_used += 1;
    write_superblock(&sim, &block);
    let found = issues_of(&sim);
    assert!(matches!(found[..], [Issue::PageCount { .. }]), "{found:?}");
    assert_eq!(found[0].severity(), Severity::Warning);
}

#[test]
fn superblock_copies() {
    for copy in 0..2u8 {
        let sim = sound();
        sim.corrupt(0, u64::from(copy) * 4096 + 100, &[0xee; 3]);
        let found = issues_of(&sim);
        assert!(
            matches!(found[..], [Issue::SuperblockCopy { copy: of, certain: true, .. }] if of == copy),
            "{found:?}"
        );
    }
    let sim = sound();
    let mut block = superblock(&sim);
    block.clean = false;
    write_superblock(&sim, &block);
    sim.corrupt(0, 100, &[0xee; 3]);
    let found = issues_of(&sim);
    assert!(
        matches!(found[..], [Issue::SuperblockCopy { certain: false, .. }]),
        "{found:?}"
    );
    assert_eq!(found[0].severity(), Severity::Warning);

    sim.corrupt(0, 4200, &[0xee; 3]);
    assert!(matches!(issues_of(&sim)[..], [Issue::Unopenable { .. }]));
}

#[test]
fn log_header_copies() {
    for copy in 0..2u8 {
        let sim = sound();
        sim.corrupt(WAL, u64::from(copy) * 4096 + 20, &[0xee; 3]);
        let found = issues_of(&sim);
        assert!(
            matches!(found[..], [Issue::LogHeaderCopy { copy: of, .. }] if of == copy),
            "{found:?}"
        );
    }
}

#[test]
fn log_of_closed() {
    let sim = sound();
    let closed = superblock(&sim);
    let journal = open(&sim);
    let mut tx = journal.begin().unwrap();
    tx.intern(b"new").unwrap();
    let end = tx.commit().unwrap();
    journal.sync(end).unwrap();
    drop(journal);
    write_superblock(&sim, &closed);
    let found = issues_of(&sim);
    assert!(
        matches!(found[..], [Issue::LogOfClosed { .. }]),
        "{found:?}"
    );
    repaired(&sim, &found);
}

#[test]
fn a_newer_store_is_not_judged() {
    let sim = sound();
    let mut block = superblock(&sim);
    block.incompat = 1 << 9;
    write_superblock(&sim, &block);
    let result = check(&sim.media(), Options::default(), &mut |_| {});
    assert!(matches!(result, Err(FsckError::Unknown(_))));
}
