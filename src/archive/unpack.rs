//! A tar stream of an extraction, where it arrives: made a directory of the host, or passed on.
//!
//! It is what [`super::extract_to_tar`] writes: directories come before what is in them, and all of
//! that comes before anything else. So no more is kept of it than the way down to where it is. What
//! is in another order is refused, and nothing that a stream says leads outside the directory that is
//! made: each name is one of the directory that it is in, and a link is to what was made.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::path::Path;

use super::extract::{Content, Found, Put, Target};
use super::host::write::Directory;
use super::import::components;
use super::tar::{Kind, Member, Reader};
use super::{ArchiveError, PIECE_BYTES, Result, Summary, Tell, say, shown};

/// Makes a directory of the host of the stream of an extraction, as
/// [`super::extract_to_directory`] would. Durable when this returns.
///
/// # Errors
/// When the stream cannot be read, is damaged or is none of an extraction; when something cannot be
/// made. The summary says what was extracted.
pub fn unpack(stream: &mut dyn Read, target: &Path, tell: &mut Tell<'_>) -> (Summary, Result<()>) {
    let mut summary = Summary::default();
    let done = Directory::make(target).and_then(|mut directory| {
        Unpacking::new(stream, &mut summary, tell).run(&mut directory)?;
        directory.sync()
    });
    (summary, done)
}

/// Writes the stream of an extraction to `output` as it is.
///
/// # Errors
/// When the stream cannot be read, is damaged or is none of an extraction; when it cannot be written.
/// The summary says what was written.
pub fn pass_on(
    stream: &mut dyn Read,
    output: &mut dyn Write,
    tell: &mut Tell<'_>,
) -> (Summary, Result<()>) {
    let mut summary = Summary::default();
    let mut passed = Passed {
        stream,
        output,
        failed: None,
    };
    let done = Unpacking::new(&mut passed, &mut summary, tell).run(&mut Nothing);
    let written = match passed.failed.take() {
        Some(error) => Err(error),
        None => passed.output.flush(),
    };
    (summary, written.map_err(ArchiveError::Write).and(done))
}

/// A stream that is written as it is read.
struct Passed<'a> {
    stream: &'a mut dyn Read,
    output: &'a mut dyn Write,
    /// Why it cannot be written.
    failed: Option<io::Error>,
}

impl Read for Passed<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let len = self.stream.read(bytes)?;
        let read = bytes.get(..len).unwrap_or_default();
        if let Err(error) = self.output.write_all(read) {
            self.failed = Some(error);
            return Err(io::Error::other("it cannot be passed on"));
        }
        Ok(len)
    }
}

struct Unpacking<'a, 't> {
    reader: Reader<'a>,
    summary: &'a mut Summary,
    tell: &'a mut Tell<'t>,
    /// The path of the directory that was entered last.
    at: Vec<u8>,
    /// Bytes of the paths of those that are not complete: each is in the one before.
    open: Vec<usize>,
    /// What was not made, and may have further names.
    left_out: HashSet<Vec<u8>>,
    has_begun: bool,
    piece: Vec<u8>,
}

impl<'a, 't> Unpacking<'a, 't> {
    fn new(stream: &'a mut dyn Read, summary: &'a mut Summary, tell: &'a mut Tell<'t>) -> Self {
        Unpacking {
            reader: Reader::new(stream),
            summary,
            tell,
            at: Vec::new(),
            open: Vec::new(),
            left_out: HashSet::new(),
            has_begun: false,
            piece: vec![0; PIECE_BYTES],
        }
    }

    fn run(mut self, target: &mut dyn Target) -> Result<()> {
        while let Some(member) = self.reader.next()? {
            self.member(&member, target)?;
            self.has_begun = true;
            self.told()?;
        }
        while self.open.pop().is_some() {
            target.leave(self.summary)?;
        }
        Ok(())
    }

    fn member(&mut self, member: &Member, target: &mut dyn Target) -> Result<()> {
        let names = components(&member.path)?;
        let path = names.join(&b'/');
        let Some((_, above)) = names.split_last() else {
            return self.top(member, target);
        };
        self.go_to(&path, &above.join(&b'/'), target)?;
        if member.foreign_acls {
            let reason = "an ACL of users or groups without numbers";
            self.summary.skip(&path, reason);
        }
        self.make(member, path, target)
    }

    fn top(&mut self, member: &Member, target: &mut dyn Target) -> Result<()> {
        if self.has_begun || member.kind != Kind::Directory {
            return Err(out_of_order(&member.path));
        }
        self.enter(member, Vec::new(), target)
    }

    /// Completes the directories that the next member is not in.
    fn go_to(&mut self, path: &[u8], dir: &[u8], target: &mut dyn Target) -> Result<()> {
        while self.open.last().is_some() && self.at != dir {
            self.open.pop();
            self.at.truncate(self.open.last().copied().unwrap_or(0));
            target.leave(self.summary)?;
        }
        // What is no directory may be all that there is.
        match self.open.is_empty() && (self.has_begun || !dir.is_empty()) {
            true => Err(out_of_order(path)),
            false => Ok(()),
        }
    }

    fn enter(&mut self, member: &Member, path: Vec<u8>, target: &mut dyn Target) -> Result<()> {
        let found = Found::of(libc::S_IFDIR, 0, 0, &member.attrs);
        target.enter(&path, found, self.summary)?;
        self.summary.directories += 1;
        self.open.push(path.len());
        self.at = path;
        Ok(())
    }

    fn make(&mut self, member: &Member, path: Vec<u8>, target: &mut dyn Target) -> Result<()> {
        let attrs = &member.attrs;
        let (file_type, rdev, link): (_, _, &[u8]) = match &member.kind {
            Kind::Directory => return self.enter(member, path, target),
            Kind::File(size, ranges) => {
                let found = Found::of(libc::S_IFREG, 0, *size, attrs);
                let mut content = Stored {
                    reader: &mut self.reader,
                    ranges,
                    summary: &mut *self.summary,
                    tell: &mut *self.tell,
                    piece: &mut self.piece,
                };
                let is_made = target.file(&path, &found, &mut content)?;
                self.summary.files += u64::from(is_made);
                return Ok(());
            }
            Kind::HardLink(first) => {
                let found = Found::of(libc::S_IFREG, 0, 0, attrs);
                let first = components(first)?.join(&b'/');
                if self.left_out.contains(&first) {
                    self.summary
                        .skip(&path, "another name of what was left out");
                    return Ok(());
                }
                target.link(&path, &first, &found)?;
                self.summary.hard_links += 1;
                return Ok(());
            }
            Kind::Other(reason) => {
                self.summary.skip(&path, reason);
                return Ok(());
            }
            Kind::Symlink(to) => (libc::S_IFLNK, 0, to),
            Kind::Fifo => (libc::S_IFIFO, 0, b""),
            Kind::CharDevice(rdev) => (libc::S_IFCHR, *rdev, b""),
            Kind::BlockDevice(rdev) => (libc::S_IFBLK, *rdev, b""),
        };
        let found = Found::of(file_type, rdev, 0, attrs);
        let is_made = target.other(&path, &found, link, self.summary)?;
        if !is_made {
            self.left_out.insert(path);
        }
        match file_type {
            libc::S_IFLNK => self.summary.symlinks += u64::from(is_made),
            _ => self.summary.specials += u64::from(is_made),
        }
        Ok(())
    }

    fn told(&mut self) -> Result<()> {
        say(self.tell, self.summary)
    }
}

fn out_of_order(path: &[u8]) -> ArchiveError {
    let path = shown(path);
    let reason = "it is not in the order in which an extraction has it".into();
    ArchiveError::Refused { path, reason }
}

/// The content of a member.
struct Stored<'u, 'r, 't> {
    reader: &'u mut Reader<'r>,
    ranges: &'u [(u64, u64)],
    summary: &'u mut Summary,
    tell: &'u mut Tell<'t>,
    piece: &'u mut Vec<u8>,
}

impl Content for Stored<'_, '_, '_> {
    fn summary(&mut self) -> &mut Summary {
        self.summary
    }

    fn range_from(&mut self, _: &[u8], at: u64) -> Result<Option<(u64, u64)>> {
        // In order, within the file: the reader has seen to that.
        let first = self.ranges.partition_point(|(start, _)| *start < at);
        Ok(self.ranges.get(first).copied())
    }

    fn read(&mut self, _: &[u8], (start, len): (u64, u64), put: &mut Put<'_>) -> Result<()> {
        let mut done = 0;
        while done < len {
            let rest = usize::try_from(len - done).unwrap_or(usize::MAX);
            let most = rest.min(self.piece.len());
            let into = self.piece.get_mut(..most).unwrap_or_default();
            self.reader.content(into)?;
            put(start.saturating_add(done), into)?;
            done += most as u64;
            self.summary.bytes = self.summary.bytes.saturating_add(most as u64);
            say(self.tell, self.summary)?;
        }
        Ok(())
    }
}

/// Makes nothing of what there is.
struct Nothing;

impl Target for Nothing {
    fn enter(&mut self, _: &[u8], _: Found, _: &mut Summary) -> Result<()> {
        Ok(())
    }

    fn leave(&mut self, _: &mut Summary) -> Result<()> {
        Ok(())
    }

    fn file(&mut self, path: &[u8], _: &Found, content: &mut dyn Content) -> Result<bool> {
        let mut end = 0;
        while let Some(range) = content.range_from(path, end)? {
            content.read(path, range, &mut |_, _| Ok(()))?;
            end = range.0.saturating_add(range.1);
        }
        Ok(true)
    }

    fn other(&mut self, _: &[u8], _: &Found, _: &[u8], _: &mut Summary) -> Result<bool> {
        Ok(true)
    }

    fn link(&mut self, _: &[u8], _: &[u8], _: &Found) -> Result<()> {
        Ok(())
    }
}
