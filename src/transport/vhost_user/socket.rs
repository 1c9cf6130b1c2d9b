//! The listening socket.
//!
//! A socket that nobody listens on is left from a daemon that was killed, and is replaced;
//! anything else at the path is not touched. Only a socket made here is removed at the end.
#![allow(unsafe_code)] // Descriptors handed over, group names and a peer's process have no safe form in std.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::VhostUserError;

/// Where front-ends connect.
pub struct Socket {
    listener: UnixListener,
    /// What was made here: path, device and inode.
    made: Option<(PathBuf, u64, u64)>,
    /// The same of one that is another process's still.
    adopted: Option<(PathBuf, u64, u64)>,
}

/// For messages: where it is.
impl std::fmt::Display for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.made.as_ref().or(self.adopted.as_ref()) {
            Some((path, ..)) => write!(f, "{}", path.display()),
            None => write!(f, "descriptor {}", self.listener.as_raw_fd()),
        }
    }
}

impl Socket {
    /// Listens at `path`; members of `group` may connect too.
    ///
    /// # Errors
    /// When the path is taken or cannot be used.
    pub fn bind(path: &Path, group: Option<u32>) -> Result<Socket, VhostUserError> {
        let failed = |source| VhostUserError::Listen {
            path: path.to_owned(),
            source,
        };
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(VhostUserError::NotSocket(path.to_owned()));
            }
            Ok(_) => match UnixStream::connect(path) {
                Ok(_) => return Err(VhostUserError::InUse(path.to_owned())),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(failed)?;
                }
                Err(error) => return Err(failed(error)),
            },
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        let metadata = fs::symlink_metadata(path).map_err(failed)?;
        let socket = Socket {
            listener,
            made: Some((path.to_owned(), metadata.dev(), metadata.ino())),
            adopted: None,
        };
        if let Some(group) = group {
            // A directory may have seen to that (setgid), where this process may not.
            if metadata.gid() != group {
                std::os::unix::fs::chown(path, None, Some(group)).map_err(failed)?;
            }
            fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(failed)?;
        }
        socket.listener.set_nonblocking(true).map_err(failed)?;
        Ok(socket)
    }

    /// Takes over a listening socket that this process was started with.
    ///
    /// # Errors
    /// When the descriptor is something else.
    pub fn inherit(fd: RawFd) -> Result<Socket, VhostUserError> {
        let bad = || VhostUserError::NotListening(fd);
        let (mut listening, mut len) = (0 as libc::c_int, socklen::<libc::c_int>());
        // SAFETY: the kernel writes at most `len` bytes of `listening`; a descriptor that is none
        // is an error.
        let result = unsafe {
            libc::getsockopt(
                fd,
                libc::SOL_SOCKET,
                libc::SO_ACCEPTCONN,
                (&raw mut listening).cast(),
                &raw mut len,
            )
        };
        if fd <= 2 || result != 0 || listening == 0 {
            return Err(bad());
        }
        // SAFETY: it is open, and given to this process for this purpose: nobody else owns it.
        let listener = UnixListener::from(unsafe { OwnedFd::from_raw_fd(fd) });
        if listener.local_addr().is_err() {
            return Err(bad());
        }
        listener
            .set_nonblocking(true)
            .map_err(VhostUserError::system("the listening socket"))?;
        Ok(Socket {
            listener,
            made: None,
            adopted: None,
        })
    }

    /// Takes over a listening socket from another process; see [`Socket::stands_at`].
    ///
    /// # Errors
    /// When the descriptor is something else.
    pub(super) fn adopt(fd: OwnedFd) -> Result<Socket, VhostUserError> {
        Socket::inherit(fd.into_raw_fd())
    }

    /// Says where a socket that was taken over is to be found. If it is, it is removed there in the
    /// end, once it is this process's ([`Socket::keep`]).
    pub fn stands_at(&mut self, path: &Path) {
        let found = fs::symlink_metadata(path);
        let local = self.listener.local_addr();
        let is_there = local.is_ok_and(|local| {
            let bound = local.as_pathname().map(std::path::absolute);
            matches!(bound, Some(Ok(bound)) if bound == path)
        });
        if let Ok(found) = found
            && is_there
            && found.file_type().is_socket()
        {
            self.adopted = Some((path.to_owned(), found.dev(), found.ino()));
        }
    }

    /// A socket that was taken over is this process's from here on.
    pub fn keep(&mut self) {
        if let Some(adopted) = self.adopted.take() {
            self.made = Some(adopted);
        }
    }

    /// Leaves the socket's path to another process.
    pub fn leave(mut self) {
        self.made = None;
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    pub(super) fn as_raw_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }

    /// The next front-end, if one waits, and its process, if known.
    pub(super) fn accept(&self) -> io::Result<Option<(UnixStream, Option<u32>)>> {
        match self.listener.accept() {
            Ok((stream, _)) => {
                let peer = peer_process(&stream);
                Ok(Some((stream, peer)))
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::Interrupted
                        | io::ErrorKind::ConnectionAborted
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let Some((path, device, inode)) = &self.made else {
            return;
        };
        // Another daemon may have replaced it.
        if fs::symlink_metadata(path).is_ok_and(|m| m.dev() == *device && m.ino() == *inode)
            && let Err(error) = fs::remove_file(path)
        {
            log::warn!("cannot remove {}: {error}", path.display());
        }
    }
}

/// A descriptor as a file.
pub(super) fn into_file(fd: impl IntoRawFd) -> File {
    // SAFETY: the caller gives it away, and nobody else has it.
    unsafe { File::from_raw_fd(fd.into_raw_fd()) }
}

/// Puts `stream` in the place of `old`, which stays open by its number: whoever owns that has the
/// other connection from here on.
pub(super) fn put_in_place(stream: &UnixStream, old: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: the number is that of a descriptor that is open as long as `old` lives, and whose owner
    // only reads and writes it; it is not closed here.
    let mut place = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(old.as_raw_fd()) });
    Ok(rustix::io::dup3(
        stream,
        &mut place,
        rustix::io::DupFlags::CLOEXEC,
    )?)
}

fn socklen<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}

/// The process that made the connection; none when it is not visible here.
pub(super) fn peer_process(stream: &UnixStream) -> Option<u32> {
    let mut peer = MaybeUninit::<libc::ucred>::zeroed();
    let mut len = socklen::<libc::ucred>();
    // SAFETY: the kernel writes at most `len` bytes of `peer`.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            peer.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return None;
    }
    // SAFETY: zeros are a valid ucred, and the kernel wrote one over them.
    let peer = unsafe { peer.assume_init() };
    u32::try_from(peer.pid).ok().filter(|pid| *pid != 0)
}

/// A group's number, by name or number.
///
/// # Errors
/// When there is no such group.
pub fn group_id(name: &str) -> Result<u32, VhostUserError> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let unknown = || VhostUserError::NoGroup(name.to_owned());
    let c_name = CString::new(name).map_err(|_| unknown())?;
    let mut group = MaybeUninit::<libc::group>::zeroed();
    let mut found = std::ptr::null_mut();
    // A group's members are in here too: there can be many.
    let mut strings = vec![0 as libc::c_char; 256 * 1024];
    // SAFETY: all pointers are valid for the call, `strings` for the length given; `found` is null
    // or `group` afterwards.
    let result = unsafe {
        libc::getgrnam_r(
            c_name.as_ptr(),
            group.as_mut_ptr(),
            strings.as_mut_ptr(),
            strings.len(),
            &raw mut found,
        )
    };
    if result != 0 || found.is_null() {
        return Err(unknown());
    }
    // SAFETY: `found` is not null, so `group` was filled in; it was zeros, a valid one, before.
    Ok(unsafe { group.assume_init() }.gr_gid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_removed_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let socket = Socket::bind(&path, None).unwrap();
        UnixStream::connect(&path).unwrap();
        assert!(socket.accept().unwrap().is_some());
        assert!(socket.accept().unwrap().is_none());
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_in_use_and_a_file_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let first = Socket::bind(&path, None).unwrap();
        assert!(matches!(
            Socket::bind(&path, None),
            Err(VhostUserError::InUse(_))
        ));
        drop(first);
        fs::write(&path, "precious").unwrap();
        assert!(matches!(
            Socket::bind(&path, None),
            Err(VhostUserError::NotSocket(_))
        ));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_replaced_socket_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let socket = Socket::bind(&path, None).unwrap();
        let _other = UnixListener::bind(dir.path().join("other")).unwrap();
        fs::rename(dir.path().join("other"), &path).unwrap();
        drop(socket);
        assert!(path.exists());
    }

    #[test]
    fn only_a_listening_socket_is_inherited() {
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(Socket::inherit(one.as_raw_fd()).is_err());
        assert!(Socket::inherit(987_654).is_err());
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        let fd = OwnedFd::from(listener);
        Socket::inherit(std::os::fd::IntoRawFd::into_raw_fd(fd)).unwrap();
    }

    #[test]
    fn groups_are_known_by_name_and_number() {
        assert_eq!(group_id("root").unwrap(), 0);
        assert_eq!(group_id("1234").unwrap(), 1234);
        assert!(group_id("no such group").is_err());
    }
}
