//! A tar stream, imported.
//!
//! Invariant: a path leads from the directory that is imported into downwards, by directories only:
//! `..` and what would go through a symlink are errors. A link is to what was there before it.

use super::read::{Kind, Member, Reader};
use crate::archive::import::{Importer, components};
use crate::archive::{ArchiveError, PIECE_BYTES, Result, go_down, joined};
use crate::engine::Nameless;
use crate::format::id::Ino;

/// Imports all members of a stream.
///
/// # Errors
/// When the stream is damaged, leads elsewhere, or something cannot be made.
pub fn import(importer: &mut Importer<'_>, stream: &mut dyn std::io::Read) -> Result<()> {
    let mut members = Members {
        importer,
        reader: Reader::new(stream),
        last: None,
        is_absolute: false,
        piece: vec![0; PIECE_BYTES],
    };
    while let Some(member) = members.reader.next()? {
        members.member(&member)?;
    }
    Ok(())
}

struct Members<'r, 'i, 'a> {
    importer: &'i mut Importer<'a>,
    reader: Reader<'r>,
    /// The directory that the member before was in: the next one is mostly in it, too.
    last: Option<(Vec<u8>, Ino)>,
    /// Whether it has been said that paths are taken as relative.
    is_absolute: bool,
    piece: Vec<u8>,
}

impl Members<'_, '_, '_> {
    fn member(&mut self, member: &Member) -> Result<()> {
        if member.path.starts_with(b"/") && !std::mem::replace(&mut self.is_absolute, true) {
            ::log::warn!("paths from / are taken as relative");
        }
        let names = components(&member.path)?;
        if let Kind::Other(reason) = member.kind {
            self.importer.summary.skip(&member.path, reason);
            return Ok(());
        }
        if member.foreign_acls {
            let reason = "an ACL of users or groups without numbers";
            self.importer.summary.skip(&member.path, reason);
        }
        let Some((name, above)) = names.split_last() else {
            return match member.kind {
                Kind::Directory => self.importer.top(&member.attrs),
                _ => Err(ArchiveError::refused(
                    &member.path,
                    "a member without a name",
                )),
            };
        };
        let (dir, mut path) = self.dir_of(above)?;
        path = joined(&path, name);
        self.make(member, (dir, name), &path)
    }

    /// The directory of these names, what is missing of it made; and its path.
    fn dir_of(&mut self, names: &[&[u8]]) -> Result<(Ino, Vec<u8>)> {
        let path = names.join(&b'/');
        if let Some((last, ino)) = &self.last
            && *last == path
        {
            return Ok((*ino, path));
        }
        let mut at = self.importer.root();
        let mut so_far: Vec<u8> = Vec::new();
        for name in names {
            go_down(&mut so_far, name);
            at = match self.importer.find(at, name, &so_far)? {
                Some((ino, true)) => ino,
                Some((_, false)) => {
                    let reason = "not a directory, and a member of the stream is below it";
                    return Err(ArchiveError::refused(&so_far, reason));
                }
                None => self.importer.make_parent(at, name, &so_far)?,
            };
        }
        self.last = Some((path.clone(), at));
        Ok((at, path))
    }

    fn make(&mut self, member: &Member, place: (Ino, &[u8]), path: &[u8]) -> Result<()> {
        let attrs = &member.attrs;
        let what = match &member.kind {
            Kind::Directory => {
                self.importer.dir(place, path, attrs)?;
                return Ok(());
            }
            Kind::HardLink(target) => return self.link(target, place, path),
            Kind::File(size, ranges) => {
                let (reader, piece) = (&mut self.reader, &mut self.piece);
                let mut fill = |importer: &mut Importer<'_>, ino| {
                    copy(importer, reader, (ino, path), (*size, ranges), piece)
                };
                self.importer
                    .make(place, path, Nameless::File, attrs, &mut fill)?;
                return Ok(());
            }
            Kind::Symlink(target) => Nameless::Symlink(target),
            Kind::Fifo => Nameless::Fifo,
            Kind::CharDevice(rdev) => Nameless::CharDevice(*rdev),
            Kind::BlockDevice(rdev) => Nameless::BlockDevice(*rdev),
            Kind::Other(_) => return Ok(()),
        };
        self.importer
            .make(place, path, what, attrs, &mut |_, _| Ok(()))?;
        Ok(())
    }

    fn link(&mut self, target: &[u8], place: (Ino, &[u8]), path: &[u8]) -> Result<()> {
        let missing = |reason: &str| {
            let target = crate::archive::shown(target);
            ArchiveError::refused(path, format!("a link to {target}, {reason}"))
        };
        let names = components(target)?;
        let mut at = Some((self.importer.root(), true));
        for name in names {
            at = match at {
                Some((dir, true)) => self.importer.find(dir, name, target)?,
                _ => return Err(missing("which is not there")),
            };
        }
        match at {
            Some((ino, false)) => self.importer.link(ino, place, path),
            Some((_, true)) => Err(missing("which is a directory")),
            None => Err(missing("which is not there")),
        }
    }
}

/// Copies a file's ranges of data to where they belong.
fn copy(
    importer: &mut Importer<'_>,
    reader: &mut Reader<'_>,
    (ino, path): (Ino, &[u8]),
    (size, ranges): (u64, &[(u64, u64)]),
    piece: &mut [u8],
) -> Result<()> {
    let mut end = 0;
    for (offset, len) in ranges {
        let mut done = 0;
        while done < *len {
            let rest = usize::try_from(len - done).unwrap_or(usize::MAX);
            let most = rest.min(piece.len());
            let into = piece.get_mut(..most).unwrap_or_default();
            reader.content(into)?;
            importer.write(ino, path, offset + done, into)?;
            done += most as u64;
        }
        end = offset + len;
    }
    match end < size {
        true => importer.set_size(ino, path, size),
        false => Ok(()),
    }
}
