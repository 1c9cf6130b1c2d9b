//! Carrying out a workload on a directory, and telling what is in it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FallocateFlags, OFlags, XattrFlags};

use crate::workload::{self, CELL_BYTES, Found, Op, Tree, Wait, cell, writer};

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
        Op::Unnamed { path, cells } => {
            let file = unnamed(dir)?;
            file.write_all_at(&content(seed, id, 0, *cells), 0)?;
            // Without privileges a file without a name is linked by what /proc calls it.
            let name = format!("/proc/self/fd/{}", file.as_raw_fd());
            let flags = AtFlags::SYMLINK_FOLLOW;
            Ok(rustix::fs::linkat(CWD, name, CWD, at(path), flags)?)
        }
        Op::Symlink { path, target } => std::os::unix::fs::symlink(target, at(path)),
        Op::Write {
            path,
            first,
            count,
            wait,
        } => {
            let flags = match wait {
                Wait::No => OFlags::empty(),
                Wait::Data => OFlags::DSYNC,
                Wait::All => OFlags::SYNC,
            };
            let file = OpenOptions::new()
                .write(true)
                .custom_flags(flags.bits().cast_signed())
                .open(at(path))?;
            file.write_all_at(&content(seed, id, *first, *count), offset(*first))
        }
        Op::Map { path, first, count } => {
            write_mapped(&at(path), *first, &content(seed, id, *first, *count))
        }
        Op::Allocate { path, cells } => {
            let file = OpenOptions::new().write(true).open(at(path))?;
            let how = FallocateFlags::empty();
            Ok(rustix::fs::fallocate(file, how, 0, offset(*cells))?)
        }
        Op::Punch { path, first, count } => {
            let file = OpenOptions::new().write(true).open(at(path))?;
            let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let (start, len) = (offset(*first), offset(*count));
            Ok(rustix::fs::fallocate(file, how, start, len)?)
        }
        Op::Truncate { path, cells } => {
            let file = OpenOptions::new().write(true).open(at(path))?;
            file.set_len(offset(*cells))
        }
        Op::Rename { from, to } | Op::RenameDir { from, to } => fs::rename(at(from), at(to)),
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

fn offset(cells: u32) -> u64 {
    u64::from(cells) * CELL_BYTES as u64
}

fn content(seed: u64, id: u32, first: u32, count: u32) -> Vec<u8> {
    (first..first + count)
        .flat_map(|index| cell(seed, id, index))
        .collect()
}

fn unnamed(dir: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .custom_flags(OFlags::TMPFILE.bits().cast_signed())
        .mode(0o644)
        .open(dir)
}

/// Whether a file system has `O_TMPFILE`.
#[must_use]
pub fn can_unnamed(dir: &Path) -> bool {
    unnamed(dir).is_ok()
}

/// Writes within a file through a mapping of it, durable on return (`msync` with `MS_SYNC`).
#[allow(unsafe_code)] // a mapping of a file cannot be had without
fn write_mapped(path: &Path, first: u32, bytes: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    // SAFETY: the workload is all that uses the file, and it does one operation at a time: nothing
    // else writes to these pages or cuts the file while they are mapped.
    let mut map = unsafe { memmap2::MmapMut::map_mut(&file)? };
    let start = first as usize * CELL_BYTES;
    let place = map.get_mut(start..start + bytes.len());
    place
        .ok_or_else(|| io::Error::other("the file is shorter than it should be"))?
        .copy_from_slice(bytes);
    map.flush_range(start, bytes.len())
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
            tree.insert(path, Found::Dir);
        } else {
            tree.insert(path, found(&entry.path(), &metadata, seed)?);
        }
    }
    Ok(())
}

fn found(path: &Path, metadata: &fs::Metadata, seed: u64) -> io::Result<Found> {
    let ino = metadata.ino();
    let nlink = u32::try_from(metadata.nlink()).unwrap_or(u32::MAX);
    if metadata.is_symlink() {
        let target = fs::read_link(path)?.to_string_lossy().into_owned();
        return Ok(Found::Symlink { ino, nlink, target });
    }
    Ok(Found::File(workload::File {
        ino,
        nlink,
        mode: metadata.mode() & 0o7777,
        tag: tag_of(path)?,
        cells: cells_of(path, seed)?,
    }))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Able, judge, plan};

    #[test]
    fn the_model_is_what_a_file_system_does() {
        let dir = tempfile::tempdir().unwrap();
        let able = Able {
            sync: true,
            unnamed: can_unnamed(dir.path()),
        };
        for seed in 0..4 {
            let (dir, count) = (dir.path().join(seed.to_string()), 400);
            fs::create_dir(&dir).unwrap();
            let ops = plan(seed, count, able);
            for (id, op) in (1..).zip(&ops) {
                let done = execute(&dir, seed, id, op);
                assert!(done.is_ok(), "seed {seed}, {id} {op:?}: {done:?}");
                if id % 20 == 0 {
                    let judged = judge(&ops, id, id, &dump(&dir, seed).unwrap());
                    assert_eq!(judged.map(|_| ()), Ok(()), "seed {seed}");
                }
            }
        }
    }
}
