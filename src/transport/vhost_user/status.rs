//! The device's status (VirtIO 1.3, 2.1): SET_STATUS and GET_STATUS of the vhost-user protocol,
//! which the vhost crate does not know, answered before it sees them.
//!
//! What the driver sees is the front-end's to say: it is told of a broken ring by the ring's error
//! event and finds DEVICE_NEEDS_RESET in the status. A front-end sends the status 0 when the guest
//! resets its device, and also when it only pauses the guest: so it makes rings new, and does not
//! end the session. A guest that has started again begins with INIT.

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;

use rustix::net::{RecvFlags, recv};

use super::device::Device;

/// `VHOST_USER_SET_STATUS`
const SET_STATUS: u32 = 39;
/// `VHOST_USER_GET_STATUS`
const GET_STATUS: u32 = 40;
/// Request, flags, bytes of the body.
const HEADER_BYTES: usize = 12;
const BODY_BYTES: usize = 8;
/// The protocol's version in a message's flags, and the bits that make up the version.
const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// DEVICE_NEEDS_RESET: the device is in a state that only a reset ends.
pub(super) const NEEDS_RESET: u8 = 64;

/// What was done about the next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It was about the status, and is handled.
    Done,
    /// It cannot be handled before the store is open, and is still there.
    NeedsStore,
    /// It is another one, and still there.
    Other,
}

/// Handles the next message, if it is about the status.
///
/// # Errors
/// When the connection is gone, or the message makes no sense.
pub(super) fn next(stream: &mut UnixStream, device: &Device) -> io::Result<Next> {
    let mut header = [MaybeUninit::uninit(); HEADER_BYTES];
    let ((header, _), _) = recv(&*stream, &mut header, RecvFlags::PEEK | RecvFlags::WAITALL)?;
    let Some([request, flags, size]) = words(header) else {
        return Ok(Next::Other);
    };
    if device.needs_store(request) {
        return Ok(Next::NeedsStore);
    }
    if !matches!(request, SET_STATUS | GET_STATUS) || !device.has_status() {
        return Ok(Next::Other);
    }
    let mut message = [0; HEADER_BYTES + BODY_BYTES];
    let expected = if request == SET_STATUS { BODY_BYTES } else { 0 };
    if flags & (VERSION_MASK | REPLY) != VERSION || usize::try_from(size) != Ok(expected) {
        return Err(io::Error::other("a status that is none"));
    }
    let (message, _) = message.split_at_mut(HEADER_BYTES.saturating_add(expected));
    stream.read_exact(message)?;
    if request == GET_STATUS {
        reply(stream, request, device.status().into())?;
        return Ok(Next::Done);
    }
    let status = message
        .last_chunk::<BODY_BYTES>()
        .map_or(0, |status| u64::from_ne_bytes(*status));
    let status = u8::try_from(status).map_err(|_| io::Error::other("a status of many bits"))?;
    device.set_status(status);
    if flags & NEED_REPLY != 0 {
        reply(stream, request, 0)?;
    }
    Ok(Next::Done)
}

fn words(header: &[u8]) -> Option<[u32; 3]> {
    let (words, []) = header.as_chunks::<4>() else {
        return None;
    };
    let words: &[[u8; 4]; 3] = words.try_into().ok()?;
    Some(words.map(u32::from_ne_bytes))
}

/// Sends a message as a front-end does, with a number or without.
pub(super) fn put(mut stream: &UnixStream, request: u32, value: Option<u64>) -> io::Result<()> {
    let body = value.map(u64::to_ne_bytes);
    let body = body.as_ref().map_or(&[][..], |bytes| bytes);
    let size = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let header = [request, VERSION, size].map(u32::to_ne_bytes);
    stream.write_all(&[header.as_flattened(), body].concat())
}

fn reply(stream: &mut UnixStream, request: u32, value: u64) -> io::Result<()> {
    let size = u32::try_from(BODY_BYTES).unwrap_or(u32::MAX);
    let header = [request, VERSION | REPLY, size].map(u32::to_ne_bytes);
    stream.write_all(&[header.as_flattened(), &value.to_ne_bytes()].concat())
}
