//! Finding a key in a page.
//!
//! By halves, with a branch at each: a processor that guesses right has read the next key by then. A
//! search without branches took a third longer, whether pages were in its cache or not.

use std::cmp::Ordering;

use super::{CELL_HEAD, HEADER_BYTES, Page, SLOT};

/// Compares keys as slices compare, eight bytes at a time: most differ in the first sixteen.
#[inline]
pub(super) fn compare(mut one: &[u8], mut other: &[u8]) -> Ordering {
    while let (Some((a, one_rest)), Some((b, other_rest))) =
        (one.split_first_chunk(), other.split_first_chunk())
    {
        let (a, b) = (u64::from_be_bytes(*a), u64::from_be_bytes(*b));
        if a != b {
            return a.cmp(&b);
        }
        (one, other) = (one_rest, other_rest);
    }
    match (one, other) {
        ([], []) => Ordering::Equal,
        ([a], [b]) => a.cmp(b),
        _ => one.cmp(other),
    }
}

#[allow(clippy::indexing_slicing)] // offsets are checked by `decode` and kept by every method
impl Page {
    /// The cell with `key`, or where it would stand.
    pub fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let bytes = &*self.bytes;
        let slots = bytes[HEADER_BYTES..HEADER_BYTES + self.len() * SLOT]
            .as_chunks::<SLOT>()
            .0;
        let (mut low, mut high) = (0, slots.len());
        while low < high {
            let middle = low.midpoint(high);
            let at = usize::from(u16::from_le_bytes(slots[middle]));
            let (head, cell) = bytes[at..].split_at(CELL_HEAD);
            let len = usize::from(u16::from_le_bytes([head[0], head[1]]));
            match compare(&cell[..len], key) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// The cell of an internal page below which `key` lies.
    #[must_use]
    pub fn child_index(&self, key: &[u8]) -> usize {
        match self.search(key) {
            Ok(index) => index,
            Err(index) => index.saturating_sub(1),
        }
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    /// Keys that begin alike, and some that are all that others begin with.
    fn keys() -> Vec<Vec<u8>> {
        let starts = [&b""[..], b"a", b"ab", b"abcdefg", b"abcdefgh", b"abcdefgi"];
        let ends = [
            &b""[..],
            b"\0",
            b"\0\0",
            b"\xff\0\0\0\0\0\0\0\0",
            b"abcdefgh\x7f",
            b"12345678abcdefgh",
            b"12345678abcdefgh\0",
            b"12345678abcdefgi",
        ];
        let mut keys: Vec<Vec<u8>> = starts
            .into_iter()
            .flat_map(|start| ends.map(|end| [start, end].concat()))
            .collect();
        keys.sort();
        keys.dedup();
        keys
    }

    #[test]
    fn keys_compare_as_bytes_do() {
        for one in &keys() {
            for other in &keys() {
                assert_eq!(compare(one, other), one.cmp(other), "{one:?} {other:?}");
            }
        }
    }

    #[test]
    fn a_search_finds_what_is_there_and_where_the_rest_would_stand() {
        let keys = keys();
        // With each key missing in turn, and with none.
        for missing in 0..=keys.len() {
            let mut page = Page::new(0);
            let there: Vec<_> = (0..keys.len()).filter(|at| *at != missing).collect();
            for (index, at) in there.iter().enumerate() {
                page.insert(index, &keys[*at], &[]);
            }
            for (at, key) in keys.iter().enumerate() {
                let before = there.iter().filter(|other| **other < at).count();
                let found = if at == missing {
                    Err(before)
                } else {
                    Ok(before)
                };
                assert_eq!(page.search(key), found, "{key:?}");
            }
        }
    }

    #[test]
    fn an_empty_page_has_no_key() {
        assert_eq!(Page::new(0).search(b"any"), Err(0));
        assert_eq!(Page::new(1).child_index(b"any"), 0);
    }
}
