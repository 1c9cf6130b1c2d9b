//! Requests about a dataset's snapshots: those about inodes in one are answered by a server of its
//! own, those about the directory that has them all here.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::abi::{EntryOut, GetxattrIn, InHeader, StatxIn};
use super::consts::{feature, opcode};
use super::data::{dirent_bytes, listing, put_dirent};
use super::dispatch::{put_open, put_sized};
use super::reply::Reply;
use super::request::Request;
use super::{Error, Input, Output, Server, convert};
use crate::engine::EngineError;
use crate::format::id::{DatasetId, Ino};
use crate::fs::FsError;

impl Server {
    /// Answers a request about an inode of a snapshot.
    pub(super) fn answer_in(
        &self,
        (snapshot, ino): (DatasetId, Ino),
        request: &Request<'_>,
        session: u64,
        payload: &mut impl Input,
        writer: &mut impl Output,
        out: &mut Reply<'_>,
    ) -> Result<usize, Error> {
        let fs = match self.fs.snapshot(snapshot) {
            Ok(fs) => fs,
            Err(error) => return self.send(writer, &request.header, out, Err(error)),
        };
        let server = Server {
            fs,
            session: AtomicU64::new(session),
            refused: Arc::clone(&self.refused),
        };
        let request = Request {
            header: InHeader {
                nodeid: ino.0,
                ..request.header
            },
            ..*request
        };
        server.answer(&request, payload, writer, out)
    }

    /// Answers a request about the directory of the snapshots.
    pub(super) fn dispatch_snapshots(
        &self,
        request: &Request<'_>,
        session: u64,
        room: usize,
        out: &mut Reply<'_>,
    ) -> Result<(), FsError> {
        let mut body = request.body;
        match request.header.opcode {
            opcode::LOOKUP => self.put_entry(&self.fs.find_snapshot(body.string()?)?, out),
            opcode::GETATTR => self.put_attr(&self.fs.snapshots_dir()?, out),
            opcode::STATX => {
                body.take::<StatxIn>()?;
                let attr = self.fs.snapshots_dir()?;
                out.put(&convert::statx_out(&attr, self.fs.attr_timeout(&attr)));
                Ok(())
            }
            opcode::OPENDIR if session & feature::NO_OPENDIR_SUPPORT != 0 => {
                Err(FsError::NoSuchOperation)
            }
            // Nothing of it may be kept.
            opcode::OPENDIR => put_open(0, out),
            opcode::READDIR | opcode::READDIRPLUS => self.list_snapshots(request, room, out),
            opcode::RELEASEDIR | opcode::FSYNCDIR => Ok(()),
            opcode::STATFS => self.statfs(Ino::ROOT, out),
            opcode::SYNCFS => self.fs.syncfs(),
            opcode::LISTXATTR => put_sized(&[], &body.take::<GetxattrIn>()?, out),
            opcode::GETXATTR => Err(EngineError::NoAttribute.into()),
            opcode::IOCTL => Err(FsError::NoSuchIoctl),
            opcode::OPEN | opcode::LSEEK | opcode::READ | opcode::COPY_FILE_RANGE => {
                Err(EngineError::IsDirectory.into())
            }
            // A kernel would take it that there is no such operation at all, if it was told so.
            opcode::SETATTR
            | opcode::MKNOD
            | opcode::MKDIR
            | opcode::SYMLINK
            | opcode::CREATE
            | opcode::TMPFILE
            | opcode::LINK
            | opcode::UNLINK
            | opcode::RMDIR
            | opcode::RENAME
            | opcode::RENAME2
            | opcode::SETXATTR
            | opcode::REMOVEXATTR
            | opcode::WRITE
            | opcode::FALLOCATE => Err(FsError::ReadOnly),
            _ => Err(FsError::NoSuchOperation),
        }
    }

    /// As many entries as fit; none counts as a lookup.
    fn list_snapshots(
        &self,
        request: &Request<'_>,
        room: usize,
        out: &mut Reply<'_>,
    ) -> Result<(), FsError> {
        let (after, room) = listing(request, room)?;
        let plus = request.header.opcode == opcode::READDIRPLUS;
        let before = if plus { size_of::<EntryOut>() } else { 0 };
        self.fs.list_snapshots(after, &mut |entry| {
            let fits = out.body_len() + before + dirent_bytes(&entry) <= room;
            if fits {
                if plus {
                    out.put(&EntryOut::default());
                }
                put_dirent(out, &entry);
            }
            fits
        })
    }
}
