//! Datasets and snapshots as they are found, compared with what the model has of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use razorfs::engine::{Attr, EngineError, Seek, Store, Volume};
use razorfs::format::id::Ino;

use crate::ensure;
use crate::model::{Node, Nodes, linked};
use crate::world::{Outcome, failed};

/// A dataset or snapshot as it was found.
pub struct Found {
    pub volume: Volume,
    /// Attributes and content of what has a name.
    pub inodes: BTreeMap<Ino, (Attr, Vec<u8>)>,
}

impl Found {
    pub fn new(store: &Arc<Store>, name: &str) -> Outcome<Found> {
        let volume = store.volume(name).map_err(|error| error.to_string())?;
        Ok(Found {
            inodes: dump(&volume)?,
            volume,
        })
    }

    /// Whether it is what it was, to the last byte.
    pub fn compare(&self, nodes: &Nodes) -> Outcome {
        let nodes = linked(nodes);
        for (ino, node) in &nodes {
            compare_inode(&self.volume, *ino, node)?;
        }
        ensure!(self.inodes.keys().eq(nodes.keys()), "other inodes");
        Ok(())
    }
}

/// Whether an inode is what the model says.
pub fn compare_inode(volume: &Volume, ino: Ino, node: &Node) -> Outcome {
    let attr = volume.getattr(ino).map_err(failed("getattr"))?;
    ensure!(node.matches(&attr), "inode {ino} is {attr:?}, not {node:?}");
    compare_tree(volume, ino, node)?;
    if !node.is_file() {
        return Ok(());
    }
    let mut bytes = Vec::new();
    let size = node.content.bytes.len();
    let read = volume.read(ino, 0, size + 1, &mut bytes);
    read.map_err(failed("reading"))?;
    let differs = bytes
        .iter()
        .zip(&node.content.bytes)
        .position(|(a, b)| a != b);
    ensure!(
        bytes.len() == size && differs.is_none(),
        "inode {ino} differs at {differs:?}"
    );
    check_seek(volume, ino, &bytes)
}

/// Attributes and content of everything that has a name.
fn dump(volume: &Volume) -> Outcome<BTreeMap<Ino, (Attr, Vec<u8>)>> {
    let mut found = BTreeMap::new();
    let mut rest = vec![Ino::ROOT];
    while let Some(ino) = rest.pop() {
        let attr = volume.getattr(ino).map_err(failed("getattr"))?;
        let mut bytes = Vec::new();
        match attr.mode & libc::S_IFMT {
            libc::S_IFREG => {
                let size = usize::try_from(attr.size).unwrap();
                let read = volume.read(ino, 0, size + 1, &mut bytes);
                let count = read.map_err(failed("reading"))?;
                ensure!(count == size && bytes.len() == size, "a short read");
            }
            libc::S_IFDIR => rest.extend(list(volume, ino)?.into_values()),
            _ => {}
        }
        found.insert(ino, (attr, bytes));
    }
    Ok(found)
}

/// A directory's entries, listed a few at a time.
pub fn list(volume: &Volume, dir: Ino) -> Outcome<BTreeMap<Vec<u8>, Ino>> {
    let mut entries = BTreeMap::new();
    let mut after = 0;
    loop {
        let mut batch = 0;
        volume
            .readdir(dir, after, &mut |entry| {
                after = entry.cookie;
                batch += 1;
                if entry.name != b"." && entry.name != b".." {
                    entries.insert(entry.name, entry.ino);
                }
                batch < 3
            })
            .map_err(failed("listing"))?;
        if batch < 3 {
            return Ok(entries);
        }
    }
}

/// Entries, symlink targets and extended attributes.
pub fn compare_tree(volume: &Volume, ino: Ino, node: &Node) -> Outcome {
    if node.is_dir() && node.nlink > 0 {
        let entries = list(volume, ino)?;
        ensure!(
            entries == node.entries,
            "directory {ino} has {entries:?}, not {:?}",
            node.entries
        );
        let parent = volume.lookup(ino, b"..").map_err(failed("'..'"))?.ino;
        ensure!(
            ino == Ino::ROOT || parent == node.parent,
            "{ino} is not below {}",
            node.parent
        );
    }
    if node.is(libc::S_IFLNK) {
        let target = volume.readlink(ino).map_err(failed("readlink"))?;
        ensure!(target == node.target, "symlink {ino} differs");
    }
    let mut names = volume.listxattr(ino).map_err(failed("listxattr"))?;
    names.sort();
    ensure!(
        names.iter().eq(node.xattrs.keys()),
        "inode {ino} has attributes {names:?}"
    );
    for (name, value) in &node.xattrs {
        let found = volume.getxattr(ino, name).map_err(failed("getxattr"))?;
        ensure!(found == **value, "an attribute of inode {ino} differs");
    }
    Ok(())
}

/// What lseek calls a hole reads as zeros, and it gets on.
fn check_seek(volume: &Volume, ino: Ino, bytes: &[u8]) -> Outcome {
    let size = bytes.len() as u64;
    let mut at = 0;
    while at < size {
        let data = match volume.seek(ino, at, Seek::Data) {
            Ok(data) => data,
            Err(EngineError::NoSuchOffset) => size,
            Err(error) => return Err(format!("seeking in {ino}: {error}")),
        };
        let hole = usize::try_from(at).unwrap()..usize::try_from(data).unwrap();
        ensure!(
            bytes[hole].iter().all(|byte| *byte == 0),
            "data in a hole of inode {ino}"
        );
        if data == size {
            break;
        }
        at = volume
            .seek(ino, data, Seek::Hole)
            .map_err(failed("seeking"))?;
        ensure!(at > data, "a hole where data was, in inode {ino}");
    }
    Ok(())
}
