//! A local mount: requests come from this host's kernel over /dev/fuse.
//!
//! Several threads read requests from one connection; the kernel wakes one of them for each. The
//! mount ends when someone unmounts it: the readers then find the connection gone.
//!
//! What a store contains may come from a guest that is not trusted, so the mount ignores suid bits
//! and device nodes unless told otherwise.
#![allow(unsafe_code)] // mount(2) and umount2(2) have no safe form in std.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use fuse_backend_rs::transport::{FuseBuf, FuseDevWriter, Reader, Writer};

use crate::server::{Server, WRITE_MAX_BYTES};

/// Room for headers beside the bytes of a READ or WRITE.
const HEADER_BYTES: usize = 4096;

/// How to mount.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// What the mount table shows as the source.
    pub source: String,
    /// Let users other than the one who mounts use it.
    pub allow_other: bool,
    /// Mount read-only.
    pub read_only: bool,
    /// Honour suid bits found in the store.
    pub suid: bool,
    /// Honour device nodes found in the store.
    pub dev: bool,
    /// Allow programs in the store to be run.
    pub exec: bool,
    /// Threads that serve requests, at least 1.
    pub threads: usize,
}

/// Why mounting, serving or unmounting failed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// /dev/fuse is not there or not for this user.
    #[error("/dev/fuse: {0}")]
    Device(#[source] io::Error),
    /// The mount point cannot be used.
    #[error("{path}: {source}")]
    MountPoint {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the mount.
    #[error("mounting on {path}: {source}")]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("starting a thread: {0}")]
    Thread(#[source] io::Error),
}

/// A mounted file system that is not served yet: whoever touches it waits.
pub struct Mount {
    connection: Arc<File>,
    point: PathBuf,
    threads: usize,
}

/// The threads that serve a mount.
pub struct Serving {
    threads: Vec<JoinHandle<()>>,
}

impl Mount {
    /// Mounts on directory `point`. Requires CAP_SYS_ADMIN.
    ///
    /// # Errors
    /// When there is no /dev/fuse, no such directory, or the kernel refuses.
    pub fn new(point: &Path, options: &MountOptions) -> Result<Mount, MountError> {
        let at_point = |source| MountError::MountPoint {
            path: point.to_owned(),
            source,
        };
        let point = point.canonicalize().map_err(at_point)?;
        if !point.metadata().map_err(at_point)?.is_dir() {
            return Err(at_point(io::Error::from(io::ErrorKind::NotADirectory)));
        }
        let connection = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .map_err(MountError::Device)?;
        let mut data = format!(
            "fd={},rootmode=40000,user_id={},group_id={},max_read={WRITE_MAX_BYTES},\
             default_permissions",
            connection.as_raw_fd(),
            // SAFETY: getuid(2) has no preconditions and cannot fail.
            unsafe { libc::getuid() },
            // SAFETY: getgid(2) has no preconditions and cannot fail.
            unsafe { libc::getgid() },
        );
        if options.allow_other {
            data.push_str(",allow_other");
        }
        let flags = [
            (options.read_only, libc::MS_RDONLY),
            (!options.suid, libc::MS_NOSUID),
            (!options.dev, libc::MS_NODEV),
            (!options.exec, libc::MS_NOEXEC),
        ]
        .into_iter()
        .filter(|(on, _)| *on)
        .fold(0, |flags, (_, flag)| flags | flag);
        mount(&options.source, &point, flags, &data).map_err(|source| MountError::Mount {
            path: point.clone(),
            source,
        })?;
        Ok(Mount {
            connection: Arc::new(connection),
            point,
            threads: options.threads.max(1),
        })
    }

    /// The mount point.
    #[must_use]
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Starts serving. [`Serving::wait`] tells when it is over.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn serve(&self, server: &Arc<Server>) -> Result<Serving, MountError> {
        let mut threads = Vec::with_capacity(self.threads);
        for number in 0..self.threads {
            let (connection, server) = (Arc::clone(&self.connection), Arc::clone(server));
            let thread = std::thread::Builder::new()
                .name(format!("fuse-{number}"))
                .spawn(move || serve(&connection, &server))
                .map_err(MountError::Thread)?;
            threads.push(thread);
        }
        Ok(Serving { threads })
    }

    /// Takes the mount out of the tree, if someone has not done so already. Files still open on it
    /// stay usable, and it is served until they are closed; returns whether that may be so.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unmount(&self) -> io::Result<bool> {
        match umount(&self.point, 0) {
            Ok(()) => Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                umount(&self.point, libc::MNT_DETACH)?;
                Ok(true)
            }
            // Not mounted there any more, as after a lazy unmount.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

impl Serving {
    /// Waits until the mount is gone.
    pub fn wait(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                log::error!("a thread that served the mount panicked");
            }
        }
    }
}

/// Serves requests until the connection is gone.
fn serve(connection: &File, server: &Server) {
    let mut request = vec![0; WRITE_MAX_BYTES + HEADER_BYTES];
    let mut reply = vec![0; WRITE_MAX_BYTES + HEADER_BYTES];
    loop {
        let mut from = connection;
        let len = match from.read(&mut request) {
            Ok(len) => len,
            Err(error) => match error.raw_os_error() {
                // The request was interrupted before it could be read, or there is none yet.
                Some(libc::ENOENT | libc::EINTR | libc::EAGAIN) => continue,
                // Unmounted, or the connection was aborted.
                Some(libc::ENODEV | libc::ECONNABORTED) => return,
                _ => {
                    log::error!("reading from /dev/fuse: {error}");
                    return;
                }
            },
        };
        let Some(message) = request.get_mut(..len) else {
            continue;
        };
        let reader = match Reader::<()>::from_fuse_buffer(FuseBuf::new(message)) {
            Ok(reader) => reader,
            Err(error) => {
                log::error!("a request of {len} bytes: {error}");
                continue;
            }
        };
        let writer = match FuseDevWriter::<()>::new(connection.as_raw_fd(), &mut reply) {
            Ok(writer) => Writer::FuseDev(writer),
            Err(error) => {
                log::error!("a reply: {error}");
                continue;
            }
        };
        // The kernel takes no reply for a request whose caller was killed: not worth a word.
        if let Err(error) = server.handle(reader, writer) {
            log::debug!("{error}");
        }
    }
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

fn mount(source: &str, point: &Path, flags: libc::c_ulong, data: &str) -> io::Result<()> {
    let source = c_string(source.as_bytes())?;
    let point = c_string(point.as_os_str().as_bytes())?;
    let data = c_string(data.as_bytes())?;
    // SAFETY: all four strings end with NUL and live until the call returns.
    let done = unsafe {
        libc::mount(
            source.as_ptr(),
            point.as_ptr(),
            c"fuse.razorfs".as_ptr(),
            flags,
            data.as_ptr().cast(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn umount(point: &Path, flags: libc::c_int) -> io::Result<()> {
    let point = c_string(point.as_os_str().as_bytes())?;
    // SAFETY: the string ends with NUL and lives until the call returns.
    let done = unsafe { libc::umount2(point.as_ptr(), flags) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
