//! A directory of the host, as a tar stream: what [`super::import_directory`] would import.

use std::io::Write;
use std::path::Path;

use super::extract::{Found, TOO_SPARSE, TarStream, Target as _, in_stream};
use super::host::read::{At, HostFile, SHORTER, Sink, Walk, WalkHow};
use super::ranges::Ranges;
use super::tar::{RANGES_WRITTEN_MAX, Writer};
use super::{Result, Summary, Tell, say};
use crate::engine::{ImportedAttrs, Nameless};

/// Zeros in the place of what a file does not have any more.
const ZEROS: [u8; 16 << 10] = [0; 16 << 10];

/// Writes what is in a directory of the host, and its attributes, as a tar stream. Of a file that
/// becomes shorter meanwhile the rest goes out as zeros, since its size was said before.
///
/// # Errors
/// When something cannot be read, or the stream not be written: it has no end mark then. The summary
/// says what was written.
pub fn pack(
    source: &Path,
    how: WalkHow,
    output: &mut dyn Write,
    tell: &mut Tell<'_>,
) -> (Summary, Result<()>) {
    let mut packing = Packing {
        stream: TarStream(Writer::new(output)),
        summary: Summary::default(),
        tell,
    };
    let walked = Walk::new(&mut packing, how).run(source);
    let Packing {
        stream, summary, ..
    } = packing;
    let done = walked.and_then(|()| stream.0.finish().map(drop));
    (summary, done)
}

struct Packing<'a> {
    stream: TarStream<&'a mut dyn Write>,
    summary: Summary,
    tell: &'a mut Tell<'a>,
}

impl Packing<'_> {
    fn told(&mut self) -> Result<()> {
        say(self.tell, &self.summary)
    }

    /// The ranges of a file, as its header has said them.
    fn content(
        &mut self,
        path: &[u8],
        ranges: &[(u64, u64)],
        file: &mut HostFile<'_>,
    ) -> Result<()> {
        let mut missing: u64 = ranges.iter().map(|(_, len)| len).sum();
        for range in ranges {
            let mut put = |_, bytes: &[u8]| {
                self.stream.0.content(bytes)?;
                missing = missing.saturating_sub(bytes.len() as u64);
                self.summary.bytes = self.summary.bytes.saturating_add(bytes.len() as u64);
                self.told()
            };
            if !file.read(path, *range, &mut put)? {
                self.summary.skip(path, SHORTER);
                break;
            }
        }
        while missing > 0 {
            let most = usize::try_from(missing).unwrap_or(usize::MAX);
            let zeros = ZEROS.get(..most).unwrap_or(&ZEROS);
            self.stream.0.content(zeros)?;
            missing -= zeros.len() as u64;
            self.told()?;
        }
        Ok(())
    }
}

impl Sink for Packing<'_> {
    /// Its path.
    type Made = Vec<u8>;

    fn summary(&mut self) -> &mut Summary {
        &mut self.summary
    }

    fn top(&mut self, attrs: &ImportedAttrs) -> Result<Vec<u8>> {
        self.dir((&Vec::new(), b""), b"", attrs)
    }

    fn dir(&mut self, _: At<'_, Self>, path: &[u8], attrs: &ImportedAttrs) -> Result<Vec<u8>> {
        let found = Found::of(libc::S_IFDIR, 0, 0, attrs);
        self.stream.enter(path, found, &mut self.summary)?;
        self.summary.directories += 1;
        self.told()?;
        Ok(path.to_vec())
    }

    fn file(
        &mut self,
        _: At<'_, Self>,
        path: &[u8],
        attrs: &ImportedAttrs,
        file: &mut HostFile<'_>,
    ) -> Result<Option<Vec<u8>>> {
        let mut ranges = Ranges::new(RANGES_WRITTEN_MAX, file.size());
        let mut at = 0;
        while let Some((start, len)) = file.range_from(path, at)? {
            ranges.add(start, len);
            at = start.saturating_add(len);
            self.told()?;
        }
        let Some(ranges) = ranges.into_vec() else {
            self.summary.skip(path, TOO_SPARSE);
            return Ok(None);
        };
        let found = Found::of(libc::S_IFREG, 0, file.size(), attrs);
        self.stream.0.file(&in_stream(path), &found, &ranges)?;
        self.content(path, &ranges, file)?;
        self.summary.files += 1;
        self.told()?;
        Ok(Some(path.to_vec()))
    }

    fn other(
        &mut self,
        _: At<'_, Self>,
        path: &[u8],
        what: Nameless<'_>,
        attrs: &ImportedAttrs,
    ) -> Result<Vec<u8>> {
        let (file_type, rdev, target): (_, _, &[u8]) = match what {
            Nameless::File => (libc::S_IFREG, 0, b""),
            Nameless::Symlink(target) => (libc::S_IFLNK, 0, target),
            Nameless::Fifo => (libc::S_IFIFO, 0, b""),
            Nameless::CharDevice(rdev) => (libc::S_IFCHR, rdev, b""),
            Nameless::BlockDevice(rdev) => (libc::S_IFBLK, rdev, b""),
        };
        let found = Found::of(file_type, rdev, 0, attrs);
        let is_made = self.stream.other(path, &found, target, &mut self.summary)?;
        match what {
            Nameless::Symlink(_) => self.summary.symlinks += u64::from(is_made),
            _ => self.summary.specials += u64::from(is_made),
        }
        self.told()?;
        Ok(path.to_vec())
    }

    fn link(&mut self, first: &Vec<u8>, _: At<'_, Self>, path: &[u8]) -> Result<()> {
        let found = Found::of(libc::S_IFREG, 0, 0, &ImportedAttrs::default());
        self.stream.link(path, first, &found)?;
        self.summary.hard_links += 1;
        self.told()
    }
}
