//! Interned names: strings.dat against the tree that finds them.

use super::{Bytes, Context, Issue, Issues, split_u64, walk_all};
use crate::format::id::NameId;
use crate::format::key::TreeId;
use crate::format::name::record_bytes;
use crate::store::Read;
use crate::store::roots::name_hash;

const TREE: TreeId = TreeId::Names;

/// Reads every name in the order of strings.dat.
pub(super) fn check(context: &Context<'_>, issues: &mut Issues<'_>) {
    let mut names: Vec<(NameId, u64)> = Vec::new();
    let mut last: Option<(u64, NameId)> = None;
    let complete = walk_all(context, TREE, issues, &mut |issues, key, _| {
        let place = split_u64(key).and_then(|(hash, rest)| Some((hash, split_u64(rest)?)));
        let Some((hash, (id, []))) = place else {
            let (tree, key) = (TREE, Bytes(key.to_vec()));
            return issues.add(Issue::UnknownKey { tree, key });
        };
        let id = NameId(id);
        // Names of one hash lie together; that they are different is rare, and checked here.
        if let Some((_, first)) = last.filter(|(of, _)| *of == hash)
            && let (Ok(a), Ok(b)) = (context.view.name(first), context.view.name(id))
            && a == b
        {
            issues.add(Issue::NameAgain { first, second: id });
        }
        last = Some((hash, id));
        names.push((id, hash));
    });
    names.sort_unstable();
    issues.summary.names = names.len() as u64;
    // Where the next name begins; `None` behind one whose length is unknown.
    let mut expected = Some(0);
    for (id, hash) in names {
        if let Some(end) = expected {
            if id.0 > end && complete {
                let (start, end) = (end, id.0);
                issues.add(Issue::NameGap { start, end });
            }
            if id.0 < end {
                issues.add(Issue::NameOverlap { id });
            }
        }
        expected = match context.view.name(id) {
            Ok(name) => {
                if name_hash(&context.superblock.hash_seed, &name) != hash {
                    issues.add(Issue::NameHash { id });
                }
                Some(id.0.saturating_add(record_bytes(name.len()) as u64))
            }
            Err(error) => {
                let reason = error.to_string();
                issues.add(Issue::NameDamaged { id, reason });
                None
            }
        };
    }
    let end = context.view.strings_end();
    if let Some(start) = expected.filter(|start| *start < end && complete) {
        issues.add(Issue::NameGap { start, end });
    }
}
