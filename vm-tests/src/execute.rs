//! Carrying out a workload on a directory, and telling what is in it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::XattrFlags;

use crate::workload::{CELL_BYTES, Found, Op, Tree, cell, writer};

/// Carries out one operation.
///
/// # Errors
/// What the file system said.
pub fn execute(dir: &Path, seed: u64, id: u32, op: &Op) -> io::Result<()> {
    let at = |path: &str| dir.join(path);
    match op {
        Op::Create(path) => {
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(at(path))?;
            file.set_permissions(fs::Permissions::from_mode(0o644))
        }
        Op::Write { path, first, count } => {
            let bytes: Vec<u8> = (*first..first + count)
                .flat_map(|index| cell(seed, id, index))
                .collect();
            let file = OpenOptions::new().write(true).open(at(path))?;
            file.write_all_at(&bytes, u64::from(*first) * CELL_BYTES as u64)
        }
        Op::Truncate { path, cells } => {
            let file = OpenOptions::new().write(true).open(at(path))?;
            file.set_len(u64::from(*cells) * CELL_BYTES as u64)
        }
        Op::Rename { from, to } => fs::rename(at(from), at(to)),
        Op::Link { from, to } => fs::hard_link(at(from), at(to)),
        Op::Unlink(path) => fs::remove_file(at(path)),
        Op::Mkdir(path) => fs::create_dir(at(path)),
        Op::Rmdir(path) => fs::remove_dir(at(path)),
        Op::Chmod { path, mode } => {
            fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))
        }
        Op::Tag { path, tag } => {
            let value = tag.to_string();
            let flags = XattrFlags::empty();
            Ok(rustix::fs::setxattr(
                at(path),
                "user.tag",
                value.as_bytes(),
                flags,
            )?)
        }
        Op::Fsync { path, data_only } => {
            let file = OpenOptions::new().write(true).open(at(path))?;
            if *data_only {
                file.sync_data()
            } else {
                file.sync_all()
            }
        }
        Op::FsyncDir(path) => File::open(at(path))?.sync_all(),
        Op::Sync => {
            rustix::fs::syncfs(File::open(dir)?)?;
            Ok(())
        }
    }
}

/// All that is below a directory.
///
/// # Errors
/// What the file system said: nothing in a tree may be unreadable.
pub fn dump(dir: &Path, seed: u64) -> io::Result<Tree> {
    let mut tree = Tree::new();
    dump_below(dir, "", seed, &mut tree)?;
    Ok(tree)
}

fn dump_below(dir: &Path, prefix: &str, seed: u64, tree: &mut Tree) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if prefix.is_empty() {
            name
        } else {
            format!("{prefix}/{name}")
        };
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            dump_below(&entry.path(), &path, seed, tree)?;
            tree.insert(path, None);
        } else {
            let tag = tag_of(&entry.path())?;
            let cells = cells_of(&entry.path(), seed)?;
            let found = Found {
                ino: metadata.ino(),
                nlink: u32::try_from(metadata.nlink()).unwrap_or(u32::MAX),
                mode: metadata.mode() & 0o7777,
                tag,
                cells,
            };
            tree.insert(path, Some(found));
        }
    }
    Ok(())
}

fn tag_of(path: &Path) -> io::Result<u32> {
    let mut value = [0; 16];
    match rustix::fs::getxattr(path, "user.tag", &mut value) {
        Ok(len) => {
            let text = String::from_utf8_lossy(value.get(..len).unwrap_or_default()).into_owned();
            Ok(text.parse().unwrap_or(u32::MAX))
        }
        Err(rustix::io::Errno::NODATA) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

fn cells_of(path: &Path, seed: u64) -> io::Result<Vec<Option<u32>>> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    let cells = bytes.chunks(CELL_BYTES).zip(0u32..);
    Ok(cells
        .map(|(bytes, index)| {
            // A size that is no multiple of a cell was never set.
            if bytes.len() == CELL_BYTES {
                writer(seed, index, bytes)
            } else {
                None
            }
        })
        .collect())
}
