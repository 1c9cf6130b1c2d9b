//! Where the daemon listens, and how it is found.
//!
//! By default that is a file in the store's directory, so who knows the store finds its daemon.
//! Only the daemon's user (and root) may connect. The address of a UNIX socket has 107 bytes, and paths
//! of stores may be longer: then its directory is opened, and the socket named through that.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// The socket's name in the store's directory.
pub const SOCKET_FILE: &str = "control.sock";

/// Bytes of an address at most (unix(7)), without the zero that ends it.
const ADDRESS_BYTES_MAX: usize = 107;
/// Connections that wait to be accepted, at most.
const WAITING_MAX: i32 = 128;

/// Why the daemon cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Something that is not a socket has the path.
    #[error("{0} exists and is not a socket")]
    NotSocket(PathBuf),
    /// Another program listens there.
    #[error("{0} is in use: another program listens on it")]
    InUse(PathBuf),
    /// The system refuses.
    #[error("cannot listen on {path}: {source}")]
    Listen {
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Where the socket of a store is, unless somebody said otherwise.
#[must_use]
pub fn default_path(store: &Path) -> PathBuf {
    store.join(SOCKET_FILE)
}

/// A socket in a directory.
struct Place {
    directory: OwnedFd,
    name: OsString,
    path: PathBuf,
}

impl Place {
    fn of(path: &Path) -> io::Result<Place> {
        let no_name = || io::Error::new(io::ErrorKind::InvalidInput, "the path has no file name");
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Place {
            directory: rustix::fs::open(directory, flags, Mode::empty())?,
            name: path.file_name().ok_or_else(no_name)?.to_owned(),
            path: path.to_owned(),
        })
    }

    /// What to bind to or to connect to: valid as long as this is there.
    fn address(&self) -> PathBuf {
        if self.path.as_os_str().as_bytes().len() <= ADDRESS_BYTES_MAX {
            return self.path.clone();
        }
        let directory = format!("/proc/self/fd/{}", self.directory.as_raw_fd());
        Path::new(&directory).join(&self.name)
    }

    fn find(&self) -> io::Result<Option<Stat>> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        match rustix::fs::statat(&self.directory, self.name.as_os_str(), flags) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn remove(&self) -> io::Result<()> {
        let name: &OsStr = &self.name;
        Ok(rustix::fs::unlinkat(
            &self.directory,
            name,
            AtFlags::empty(),
        )?)
    }
}

/// Connects to the daemon that listens at a path.
///
/// # Errors
/// When nobody does, or may not be spoken to.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(Place::of(path)?.address())
}

/// A listening socket, removed when it is dropped.
pub struct Listener {
    listener: UnixListener,
    place: Place,
    /// Device and inode of what was made here.
    made: (u64, u64),
}

/// For messages: where it is.
impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.place.path.display())
    }
}

impl Listener {
    /// Listens at a path. A socket there that nobody listens on is replaced: a daemon that was
    /// killed has left it.
    ///
    /// # Errors
    /// When the path is taken or cannot be used.
    pub fn bind(path: &Path) -> Result<Listener, SocketError> {
        let failed = |source| SocketError::Listen {
            path: path.to_owned(),
            source,
        };
        let place = Place::of(path).map_err(failed)?;
        match place.find().map_err(failed)? {
            None => {}
            Some(found) if FileType::from_raw_mode(found.st_mode) != FileType::Socket => {
                return Err(SocketError::NotSocket(path.to_owned()));
            }
            Some(_) => match UnixStream::connect(place.address()) {
                Ok(_) => return Err(SocketError::InUse(path.to_owned())),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    place.remove().map_err(failed)?;
                }
                Err(error) => return Err(failed(error)),
            },
        }
        let listener = listen(&place.address()).map_err(failed)?;
        let made = match place.find().map_err(failed)? {
            Some(made) => (made.st_dev, made.st_ino),
            None => return Err(failed(io::ErrorKind::NotFound.into())),
        };
        Ok(Listener {
            listener,
            place,
            made,
        })
    }

    /// The listening socket itself, which does not block.
    pub(crate) fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Listener {
    /// The next connection; an error when none waits.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept()?.0)
    }
}

fn listen(address: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Before it has a name: the file is made with the mode of the socket, so that there is no
    // moment at which others may connect.
    rustix::fs::fchmod(socket.as_fd(), Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(address)?)?;
    rustix::net::listen(&socket, WAITING_MAX)?;
    Ok(UnixListener::from(socket))
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Another program may have replaced it.
        let is_ours = |found: Stat| (found.st_dev, found.st_ino) == self.made;
        if self
            .place
            .find()
            .is_ok_and(|found| found.is_some_and(is_ours))
            && let Err(error) = self.place.remove()
        {
            log::warn!("cannot remove {self}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn only_the_owner_may_connect_from_the_first_moment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SOCKET_FILE);
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        connect(&path).unwrap();
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_what_is_in_use_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SOCKET_FILE);
        drop(UnixListener::bind(&path).unwrap());
        let listener = Listener::bind(&path).unwrap();
        let second = Listener::bind(&path).err().unwrap();
        assert!(matches!(second, SocketError::InUse(_)), "{second}");
        connect(&path).unwrap();
        drop(listener);
        fs::write(&path, "precious").unwrap();
        let third = Listener::bind(&path).err().unwrap();
        assert!(matches!(third, SocketError::NotSocket(_)), "{third}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
        assert!(matches!(
            Listener::bind(&path),
            Err(SocketError::NotSocket(_))
        ));
    }

    #[test]
    fn what_has_replaced_it_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SOCKET_FILE);
        let listener = Listener::bind(&path).unwrap();
        let _other = UnixListener::bind(dir.path().join("other")).unwrap();
        fs::rename(dir.path().join("other"), &path).unwrap();
        drop(listener);
        assert!(path.exists());
    }

    #[test]
    fn a_path_may_be_longer_than_an_address() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a".repeat(120)).join("b".repeat(200));
        fs::create_dir_all(&deep).unwrap();
        let path = deep.join(SOCKET_FILE);
        assert!(UnixListener::bind(&path).is_err());
        let listener = Listener::bind(&path).unwrap();
        assert!(matches!(Listener::bind(&path), Err(SocketError::InUse(_))));
        connect(&path).unwrap();
        drop(listener);
        assert!(!path.exists());
        // As a killed daemon leaves it.
        let place = Place::of(&path).unwrap();
        drop(listen(&place.address()).unwrap());
        assert!(connect(&path).is_err() && path.exists());
        drop(Listener::bind(&path).unwrap());
        assert!(!path.exists());
    }
}
