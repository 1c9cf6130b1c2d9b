//! The tree that finds chunks by their content.

use super::{Bytes, Context, Issue, Issues, walk_all};
use crate::format::id::ChunkId;
use crate::format::key::{self, TreeId};
use crate::format::record::ChunkRecord;
use crate::store::Read;

const TREE: TreeId = TreeId::ChunkHashes;

/// Checks that each entry names a chunk of its hash. Not every chunk has an entry.
pub(super) fn check(context: &Context<'_>, issues: &mut Issues<'_>) {
    walk_all(context, TREE, issues, &mut |issues, key, value| {
        let (Ok(hash), Ok(id)) = (<[u8; 32]>::try_from(key), <[u8; 8]>::try_from(value)) else {
            let (tree, key) = (TREE, Bytes(key.to_vec()));
            return issues.add(Issue::UnknownKey { tree, key });
        };
        let chunk = ChunkId(u64::from_le_bytes(id));
        let key = key::chunk(chunk);
        let found = context
            .view
            .get_with(TreeId::Chunks, &key, ChunkRecord::decode);
        match found {
            Ok(Some(Ok(record))) if record.hash == hash => {}
            // What cannot be read was reported with the chunks.
            Ok(Some(Err(_))) | Err(_) => {}
            Ok(_) => issues.add(Issue::ChunkHashEntry { chunk }),
        }
    });
}
