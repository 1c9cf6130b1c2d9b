//! A tree as found, and the lines in which a guest tells it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What a file is, as the guest tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Inode number: equal for names of one file.
    pub ino: u64,
    /// Link count.
    pub nlink: u32,
    /// Permissions.
    pub mode: u32,
    /// The xattr `user.tag`, 0 for none.
    pub tag: u32,
    /// Who wrote each cell; `None` for foreign bytes.
    pub cells: Vec<Option<u32>>,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink {
        /// Inode number.
        ino: u64,
        /// Link count.
        nlink: u32,
        /// Where it points.
        target: String,
    },
    /// A regular file.
    File(File),
}

/// A tree as found after a crash, by path.
pub type Tree = BTreeMap<String, Found>;

/// The tree with its inodes numbered in the order in which they appear: two are the same but for
/// the numbers of their inodes when these are equal.
#[must_use]
pub fn renumbered(tree: &Tree) -> Tree {
    let mut numbers = BTreeMap::new();
    let mut tree = tree.clone();
    for found in tree.values_mut() {
        if let Found::Symlink { ino, .. } | Found::File(File { ino, .. }) = found {
            let next = numbers.len() as u64;
            *ino = *numbers.entry(*ino).or_insert(next);
        }
    }
    tree
}

/// One line of a dump for each path.
#[must_use]
pub fn dump_line(path: &str, found: &Found) -> String {
    let file = match found {
        Found::Dir => return format!("P {path} d"),
        Found::Symlink { ino, nlink, target } => {
            return format!("P {path} l {ino} {nlink} {target}");
        }
        Found::File(file) => file,
    };
    let mut line = format!(
        "P {path} f {} {} {} {} ",
        file.ino, file.nlink, file.mode, file.tag
    );
    let mut rest = file.cells.as_slice();
    while let Some(first) = rest.first() {
        let count = rest.iter().take_while(|cell| *cell == first).count();
        let name = first.map_or("x".into(), |id| id.to_string());
        let _ = write!(line, "{name}*{count},");
        rest = rest.get(count..).unwrap_or_default();
    }
    line.push('.');
    line
}

/// Reads a line that [`dump_line`] made.
#[must_use]
pub fn parse_dump_line(line: &str) -> Option<(String, Found)> {
    let mut fields = line.strip_prefix("P ")?.split(' ');
    let path = fields.next()?.to_owned();
    let kind = fields.next()?;
    if kind == "d" {
        return Some((path, Found::Dir));
    }
    let ino = fields.next()?.parse().ok()?;
    let nlink = fields.next()?.parse().ok()?;
    if kind == "l" {
        let target = fields.next()?.to_owned();
        return Some((path, Found::Symlink { ino, nlink, target }));
    }
    let mut file = File {
        ino,
        nlink,
        mode: fields.next()?.parse().ok()?,
        tag: fields.next()?.parse().ok()?,
        cells: Vec::new(),
    };
    for run in fields.next()?.strip_suffix('.')?.split_terminator(',') {
        let (name, count) = run.split_once('*')?;
        let id = if name == "x" {
            None
        } else {
            Some(name.parse().ok()?)
        };
        file.cells
            .extend(std::iter::repeat_n(id, count.parse().ok()?));
    }
    Some((path, Found::File(file)))
}
