//! Interned names: strings.dat against the tree that finds them, and against those who use them.
//!
//! What lies between the names that can be found means nothing: names that nobody used stood there,
//! whole or in part, or it was given back to the disk below.

use std::ops::ControlFlow;

use super::{Bytes, Context, Issue, Issues, split_u64, walk_all};
use crate::format::id::NameId;
use crate::format::key::{TreeId, trailing_u64};
use crate::format::name::record_bytes;
use crate::format::record::name_used;
use crate::log::View;
use crate::store::Read;
use crate::store::roots::name_hash;
use crate::store::strings::UsedNames;

const TREE: TreeId = TreeId::Names;

/// The names that can be found; `None` when the tree of names cannot be read, of which [`check`]
/// tells.
pub(super) fn known(view: &View) -> Option<UsedNames> {
    let names = UsedNames::new(view.strings_end());
    let found = view.scan(TREE, &[], &super::KEYS_END, &mut |key, _| {
        if let Ok(id) = trailing_u64(key) {
            names.mark(NameId(id));
        }
        ControlFlow::Continue(())
    });
    found.is_ok().then_some(names)
}

/// The name that an entry of a dataset's tree uses and that cannot be found: it would be taken for
/// unused, and given a second place.
pub(super) fn unknown(context: &Context<'_>, key: &[u8], value: &[u8]) -> Option<NameId> {
    // What cannot be read is told by who checks inodes and directories.
    let id = name_used(key, value).ok().flatten()?;
    let known = context.known_names.as_ref()?;
    (!known.has(id)).then_some(id)
}

/// Checks that the name that an entry uses can be found. Each is told once.
pub(super) fn check_used(context: &Context<'_>, key: &[u8], value: &[u8], issues: &mut Issues<'_>) {
    if let Some(id) = unknown(context, key, value) {
        if let Some(known) = &context.known_names {
            known.mark(id);
        }
        issues.add(Issue::NameUnknown { id });
    }
}

/// Reads every name in the order of strings.dat.
pub(super) fn check(context: &Context<'_>, issues: &mut Issues<'_>) {
    let mut names: Vec<(NameId, u64)> = Vec::new();
    let mut last: Option<(u64, NameId)> = None;
    walk_all(context, TREE, issues, &mut |issues, key, _| {
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
    // Where the name before ends; 0 behind one whose length is unknown.
    let mut end = 0;
    for (id, hash) in names {
        if id.0 < end {
            issues.add(Issue::NameOverlap { id });
        }
        end = match context.view.name(id) {
            Ok(name) => {
                if name_hash(&context.superblock.hash_seed, &name) != hash {
                    issues.add(Issue::NameHash { id });
                }
                id.0.saturating_add(record_bytes(name.len()) as u64)
            }
            Err(error) => {
                let reason = error.to_string();
                issues.add(Issue::NameDamaged { id, reason });
                0
            }
        };
    }
}
