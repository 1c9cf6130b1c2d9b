//! What is not seen from outside. The rest is in `fsck::tests`, where each defect planted is
//! repaired, and in `tests/damage`.

use super::chunks::{Piece, Place, places};
use crate::format::id::ChunkId;

#[test]
fn a_slice_of_a_damaged_chunk_is_what_is_left_of_it() {
    let piece = |start, end, id| Piece {
        start,
        end,
        id: ChunkId(id),
    };
    let pieces = [piece(4096, 8192, 1), piece(12_288, 14_000, 2)];
    let lost = |len| Place { len, at: None };
    let kept = |len, id, offset| Place {
        len,
        at: Some((ChunkId(id), offset)),
    };
    assert_eq!(
        places(&pieces, 0, 14_000),
        [lost(4096), kept(4096, 1, 0), lost(4096), kept(1712, 2, 0)]
    );
    assert_eq!(places(&pieces, 5000, 100), [kept(100, 1, 904)]);
    assert_eq!(places(&pieces, 8000, 1000), [kept(192, 1, 3904), lost(808)]);
    assert_eq!(places(&pieces, 13_999, 10), [kept(1, 2, 1711), lost(9)]);
    assert_eq!(places(&[], 7, 3), [lost(3)]);
}
