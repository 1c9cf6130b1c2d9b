//! Sessions on their way to another process of this host, which goes on serving their guests.
//!
//! ```text
//! new: Hello                     what its configuration has it serve
//! old: Refused, or Daemon, then for each of its exports Export, Region..., Ring..., and Done at the end
//! new: Ready                     the store is open, and all of it can be served
//! old: Go                        from here on it does nothing with them
//! ```
//!
//! Instead of Hello, another process may ask which Program the old one runs, and which version of all
//! this it speaks (Who). What Hello, Daemon and Export say about exports is JSON that only daemons
//! understand ([`crate::daemon`]). In version 1 nothing is said about them: Hello has their names, the
//! new process gets those or nothing, and there is no Daemon.
//!
//! Each is a frame: three numbers, JSON, bytes, and with the first of them descriptors. Between Done and
//! Go nobody serves, and the old process goes on when Ready does not come; the new one does nothing
//! before Go. So a guest's requests are taken by one of them at any time, whatever fails.
//!
//! Neither believes the other: sizes and counts are bounded, and what comes is checked as if a
//! front-end had sent it. What came with a front-end's state is checked by who restores it.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use vhost::vhost_user::message::VhostUserMemoryRegion;

use super::REQUEST_QUEUES_MAX;
use super::frozen::{Frozen, FrozenDevice, Standing};
use super::memory::{REGIONS_MAX, Table};
use super::ring::{FrozenRing, RingPlace};
use super::socket::{Socket, into_file, peer_process};
use super::transfer::Transfer;
use crate::server::state::STATE_BYTES_MAX;

/// The protocol's newest version. Older ones are spoken too.
pub const VERSION: u32 = 2;
/// The version in which exports have names and nothing else.
pub const VERSION_OF_NAMES: u32 = 1;
const MAGIC: u32 = 0x5246_5a48;
/// Bytes of JSON in a frame at most: what a configuration of ten thousand exports takes.
const TEXT_BYTES_MAX: usize = 16 << 20;
/// Descriptors with a frame at most.
const FDS_MAX: usize = 4;
const HEADER_BYTES: usize = 20;
/// How long the other side may take with a frame, and with opening or closing the store.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long it may take to say what it wants.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);

/// Why sessions are not taken over. The process that has them keeps them.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The connection failed.
    #[error("handing guests over: {0}")]
    Io(#[from] io::Error),
    /// The other side does not want to.
    #[error("the other razorfsd refuses: {0}")]
    Refused(String),
    /// What came makes no sense.
    #[error("handing guests over: {0}")]
    Malformed(String),
    /// Something cannot be handed over now.
    #[error("{0}")]
    NotNow(&'static str),
    /// It would go on with less than there is, or otherwise.
    #[error("{0}")]
    NotAll(String),
}

pub(crate) fn malformed(what: impl std::fmt::Display) -> HandoverError {
    HandoverError::Malformed(what.to_string())
}

/// What a process runs, and what only it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Device of the program's file.
    pub device: u64,
    /// Inode of it. A file that was replaced is another one.
    pub inode: u64,
    /// How long the service manager waits for a sign of life, in microseconds.
    pub watchdog_us: Option<u64>,
    /// The newest version of handing over that it speaks.
    #[serde(default = "version_of_names")]
    pub version: u32,
}

fn version_of_names() -> u32 {
    VERSION_OF_NAMES
}

/// What a process asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// The version to speak.
    pub version: u32,
    /// The names of exports, in version 1.
    pub names: Vec<String>,
    /// What it says about the exports that it is to serve, from version 2 on.
    pub about: Option<Value>,
}

/// An export on its way.
pub struct Export<S> {
    /// What two processes call it.
    pub name: String,
    /// What is said about it, from version 2 on.
    pub about: Option<Value>,
    /// Its socket, and the session to go on with.
    pub standing: S,
}

/// What a process gives to another.
pub struct Given<S, F> {
    /// What is said about the daemon, from version 2 on.
    pub about: Option<Value>,
    /// A listening socket of the daemon's own that goes with it.
    pub socket: Option<F>,
    /// All that it exports.
    pub exports: Vec<Export<S>>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Said {
    Who,
    Program(Program),
    Hello {
        version: u32,
        exports: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        about: Option<Value>,
    },
    Refused {
        reason: String,
    },
    /// With a listening socket of the daemon's own, if it has one.
    Daemon {
        about: Value,
    },
    /// With the listening socket; then with a connection, and the guest's mount as bytes.
    Export {
        name: String,
        session: Option<SessionSaid>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        about: Option<Value>,
    },
    /// With the memory's file.
    Region {
        guest: u64,
        front_end: u64,
        len: u64,
        offset: u64,
    },
    /// With the descriptors that are there, in this order.
    Ring {
        place: RingPlace,
        kick: bool,
        call: bool,
        error: bool,
    },
    Done,
    Ready,
    Go,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SessionSaid {
    peer: Option<u32>,
    owned: bool,
    features: u64,
    protocol_features: u64,
    status: u8,
    regions: usize,
    rings: usize,
}

/// A frame that came.
struct Frame {
    said: Said,
    bytes: Vec<u8>,
    fds: std::vec::IntoIter<OwnedFd>,
}

impl Frame {
    fn file(&mut self) -> Result<File, HandoverError> {
        let fd = self.fds.next();
        Ok(into_file(
            fd.ok_or_else(|| malformed("a descriptor is missing"))?,
        ))
    }

    fn file_if(&mut self, is: bool) -> Result<Option<File>, HandoverError> {
        is.then(|| self.file()).transpose()
    }
}

/// A connection between an old and a new process.
pub struct Handover(UnixStream);

impl Handover {
    /// Over a connection.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new(stream: UnixStream) -> io::Result<Handover> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Handover(stream))
    }

    /// The process on the other side, when it is visible here.
    #[must_use]
    pub fn peer(&self) -> Option<u32> {
        peer_process(&self.0)
    }

    fn send(
        &mut self,
        said: &Said,
        bytes: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), HandoverError> {
        let text = serde_json::to_vec(said).map_err(malformed)?;
        if text.len() > TEXT_BYTES_MAX || fds.len() > FDS_MAX {
            return Err(malformed("a frame that is too large"));
        }
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend(MAGIC.to_le_bytes());
        header.extend(
            (fds.len() as u64)
                .to_le_bytes()
                .get(..4)
                .unwrap_or_default(),
        );
        header.extend(
            (text.len() as u64)
                .to_le_bytes()
                .get(..4)
                .unwrap_or_default(),
        );
        header.extend((bytes.len() as u64).to_le_bytes());
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut with = SendAncillaryBuffer::new(&mut room);
        if !fds.is_empty() && !with.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(malformed("too many descriptors"));
        }
        let sent = sendmsg(
            &self.0,
            &[IoSlice::new(&header)],
            &mut with,
            SendFlags::NOSIGNAL,
        );
        if sent.map_err(io::Error::from)? != header.len() {
            return Err(malformed("a header was sent in part"));
        }
        self.0.write_all(&text)?;
        Ok(self.0.write_all(bytes)?)
    }

    fn receive(&mut self) -> Result<Frame, HandoverError> {
        let mut header = [0; HEADER_BYTES];
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut with = RecvAncillaryBuffer::new(&mut room);
        let received = recvmsg(
            &self.0,
            &mut [IoSliceMut::new(&mut header)],
            &mut with,
            RecvFlags::CMSG_CLOEXEC,
        );
        let received = received.map_err(io::Error::from)?.bytes;
        let mut fds = Vec::new();
        for message in with.drain() {
            if let RecvAncillaryMessage::ScmRights(found) = message {
                fds.extend(found);
            }
        }
        if received == 0 {
            return Err(HandoverError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        self.0
            .read_exact(header.get_mut(received..).unwrap_or_default())?;
        let word = |at: usize| {
            let bytes = header.get(at..at.saturating_add(4));
            let word = bytes.and_then(|bytes| bytes.try_into().ok());
            word.map_or(0, u32::from_le_bytes)
        };
        let text_len = word(8) as usize;
        let bytes_len = u64::from(word(12)) | u64::from(word(16)) << 32;
        if word(0) != MAGIC || word(4) as usize != fds.len() || text_len > TEXT_BYTES_MAX {
            return Err(malformed("a frame that is none"));
        }
        let bytes_len = usize::try_from(bytes_len).unwrap_or(usize::MAX);
        if bytes_len > STATE_BYTES_MAX {
            return Err(malformed(format!("a state of {bytes_len} bytes")));
        }
        let text = self.read(text_len)?;
        let bytes = self.read(bytes_len)?;
        let said = serde_json::from_slice(&text).map_err(malformed)?;
        Ok(Frame {
            said,
            bytes,
            fds: fds.into_iter(),
        })
    }

    /// Reads bytes; takes memory for them as they come.
    fn read(&self, len: usize) -> Result<Vec<u8>, HandoverError> {
        let mut bytes = Vec::new();
        (&self.0).take(len as u64).read_to_end(&mut bytes)?;
        match bytes.len() == len {
            true => Ok(bytes),
            false => Err(HandoverError::Io(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    // What the new process does.

    /// What the other side runs.
    ///
    /// # Errors
    /// When it does not say; one from before there was this question does not.
    pub fn who(&mut self) -> Result<Program, HandoverError> {
        self.send(&Said::Who, &[], &[])?;
        match self.receive()?.said {
            Said::Program(program) => Ok(program),
            other => Err(malformed(format!("{other:?}"))),
        }
    }

    /// Asks for what the other side serves, and takes it, in the order in which it comes.
    ///
    /// # Errors
    /// When the other side refuses, or what it sends makes no sense.
    pub fn take(&mut self, wanted: Wanted) -> Result<Given<Standing, OwnedFd>, HandoverError> {
        let hello = Said::Hello {
            version: wanted.version,
            exports: wanted.names,
            about: wanted.about,
        };
        self.send(&hello, &[], &[])?;
        let mut taken = Given {
            about: None,
            socket: None,
            exports: Vec::new(),
        };
        loop {
            let mut frame = self.receive()?;
            // Each export brings a descriptor, of which the system lets a process have so many.
            match &frame.said {
                Said::Daemon { about } if taken.about.is_none() => {
                    taken.about = Some(about.clone());
                    taken.socket = frame.fds.next();
                }
                Said::Export {
                    name,
                    session,
                    about,
                } => {
                    let (name, about) = (name.clone(), about.clone());
                    let session = session.clone();
                    let standing = self.take_standing(frame, session)?;
                    taken.exports.push(Export {
                        name,
                        about,
                        standing,
                    });
                }
                Said::Done => return Ok(taken),
                Said::Refused { reason } => return Err(HandoverError::Refused(reason.clone())),
                other => return Err(malformed(format!("{other:?}"))),
            }
        }
    }

    fn take_standing(
        &mut self,
        mut frame: Frame,
        session: Option<SessionSaid>,
    ) -> Result<Standing, HandoverError> {
        let listener = OwnedFd::from(frame.file()?);
        let socket = Socket::adopt(listener).map_err(malformed)?;
        let Some(session) = session else {
            return Ok(socket.into());
        };
        let stream = UnixStream::from(OwnedFd::from(frame.file()?));
        let device = self.take_device(&session)?;
        let frozen = Frozen {
            stream,
            peer: session.peer,
            device,
            mount: frame.bytes,
            arrived: false,
            waits: false,
        };
        Ok(Standing {
            socket,
            frozen: Some(frozen),
        })
    }

    fn take_device(&mut self, session: &SessionSaid) -> Result<FrozenDevice, HandoverError> {
        if session.regions > REGIONS_MAX || session.rings > REQUEST_QUEUES_MAX.saturating_add(1) {
            return Err(malformed("a session with too much in it"));
        }
        let mut table = Table::default();
        for _ in 0..session.regions {
            let mut frame = self.receive()?;
            let Said::Region {
                guest,
                front_end,
                len,
                offset,
            } = frame.said
            else {
                return Err(malformed("a region is missing"));
            };
            let region = VhostUserMemoryRegion::new(guest, len, front_end, offset);
            let added = table.add(&region, frame.file()?, session.peer);
            added.map_err(malformed)?;
        }
        let mut rings = Vec::new();
        for _ in 0..session.rings {
            let mut frame = self.receive()?;
            let Said::Ring {
                place,
                kick,
                call,
                error,
            } = frame.said
            else {
                return Err(malformed("a queue is missing"));
            };
            rings.push(FrozenRing {
                place,
                kick: frame.file_if(kick)?,
                call: frame.file_if(call)?,
                error: frame.file_if(error)?,
            });
        }
        Ok(FrozenDevice {
            owned: session.owned,
            features: session.features,
            protocol_features: session.protocol_features,
            status: session.status,
            table,
            log: None,
            rings,
            transfer: Transfer::None,
        })
    }

    /// Tells that all can be served, and waits for the word that it is to be.
    ///
    /// # Errors
    /// When the other side goes on itself: nothing is to be served then.
    pub fn begin(mut self) -> Result<(), HandoverError> {
        self.send(&Said::Ready, &[], &[])?;
        match self.receive()?.said {
            Said::Go => Ok(()),
            other => Err(malformed(format!("{other:?}"))),
        }
    }

    // What the old process does.

    /// What the other side asks for. None when it only wanted to know what runs here, and was told.
    ///
    /// # Errors
    /// When it is not understood; it has been told so.
    pub fn asked(&mut self, program: Program) -> Result<Option<Wanted>, HandoverError> {
        self.0.set_read_timeout(Some(HELLO_PATIENCE))?;
        let asked = self.receive();
        self.0.set_read_timeout(Some(PATIENCE))?;
        match asked?.said {
            Said::Who => self.send(&Said::Program(program), &[], &[]).map(|()| None),
            Said::Hello {
                version: version @ VERSION_OF_NAMES..=VERSION,
                exports: names,
                about,
            } => Ok(Some(Wanted {
                version,
                names,
                about,
            })),
            Said::Hello { version, .. } => {
                let reason = format!(
                    "it speaks version {VERSION} of handing over, and older ones, not {version}"
                );
                self.refuse(&reason);
                Err(HandoverError::Malformed(reason))
            }
            other => Err(malformed(format!("{other:?}"))),
        }
    }

    /// Tells the other side that it gets nothing.
    pub fn refuse(&mut self, reason: &str) {
        let refused = Said::Refused {
            reason: reason.to_owned(),
        };
        // It is told or gone.
        let _ = self.send(&refused, &[], &[]);
    }

    /// Gives all that stands to the other side; on return it serves, and nothing of this is to be
    /// used here any more.
    ///
    /// # Errors
    /// When the other side cannot: all of it is to be gone on with here.
    pub fn give(mut self, all: &Given<&Standing, BorrowedFd<'_>>) -> Result<(), HandoverError> {
        if let Err(error) = self.give_all(all) {
            self.refuse(&error.to_string());
            return Err(error);
        }
        self.send(&Said::Done, &[], &[])?;
        match self.receive()?.said {
            // Once this is said, it is the other side's.
            Said::Ready => self.send(&Said::Go, &[], &[]),
            Said::Refused { reason } => Err(HandoverError::Refused(reason)),
            other => Err(malformed(format!("{other:?}"))),
        }
    }

    fn give_all(&mut self, all: &Given<&Standing, BorrowedFd<'_>>) -> Result<(), HandoverError> {
        if let Some(about) = all.about.clone() {
            self.send(&Said::Daemon { about }, &[], all.socket.as_slice())?;
        }
        let mut exports = all.exports.iter();
        exports.try_for_each(|export| self.give_export(export))
    }

    fn give_export(&mut self, export: &Export<&Standing>) -> Result<(), HandoverError> {
        let standing = export.standing;
        let said = |session| Said::Export {
            name: export.name.clone(),
            session,
            about: export.about.clone(),
        };
        let mut fds = vec![standing.socket.as_fd()];
        let Some(frozen) = &standing.frozen else {
            return self.send(&said(None), &[], &fds);
        };
        let device = &frozen.device;
        if device.log.is_some() || device.transfer.is_under_way() {
            return Err(HandoverError::NotNow("a guest is moving to another host"));
        }
        let regions: Vec<_> = device.table.regions().collect();
        let session = SessionSaid {
            peer: frozen.peer,
            owned: device.owned,
            features: device.features,
            protocol_features: device.protocol_features,
            status: device.status,
            regions: regions.len(),
            rings: device.rings.len(),
        };
        fds.push(frozen.stream.as_fd());
        self.send(&said(Some(session)), &frozen.mount, &fds)?;
        for (region, file) in regions {
            let said = Said::Region {
                guest: region.guest_phys_addr,
                front_end: region.user_addr,
                len: region.memory_size,
                offset: region.mmap_offset,
            };
            self.send(&said, &[], &[file.as_fd()])?;
        }
        for ring in &device.rings {
            let said = Said::Ring {
                place: ring.place,
                kick: ring.kick.is_some(),
                call: ring.call.is_some(),
                error: ring.error.is_some(),
            };
            let files = [&ring.kick, &ring.call, &ring.error];
            let fds: Vec<_> = files.into_iter().flatten().map(AsFd::as_fd).collect();
            self.send(&said, &[], &fds)?;
        }
        Ok(())
    }
}
