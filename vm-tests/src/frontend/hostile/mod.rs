//! What a hostile guest sends: FUSE messages and rings, made out of arbitrary bytes.
//!
//! The same bytes make the same message. A fuzzer chooses them to get far, a campaign takes them
//! from a seed.

pub mod fields;
pub mod kind;
pub mod ring;

use arbitrary::{Arbitrary, Result, Unstructured};
use zerocopy::{FromBytes, IntoBytes};

use super::fuse::wire::{EntryOut, InHeader, OutHeader, opcode};
use fields::{Flags, Number, Told};
use kind::Kind;

/// A request, and how it is spoilt.
#[derive(Debug, Clone, Arbitrary)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// What is done to its bytes.
    pub spoil: Spoil,
    /// Room for the reply.
    pub room: Room,
    /// Who asks.
    pub caller: u8,
    /// Answered with this.
    pub unique: u64,
}

/// What is done to a request's bytes: mostly nothing.
#[derive(Debug, Clone)]
pub enum Spoil {
    /// It is sent as it is.
    Not,
    /// Cut to a part of it.
    Cut(u16),
    /// More at the end.
    More(Vec<u8>),
    /// Another length in the header.
    Length(Number),
    /// Another opcode with the same body.
    Opcode(u8),
    /// Other bytes, by place.
    Bytes(Vec<(u8, u8)>),
    /// Extensions that are there or not.
    Extensions(u16, Flags),
}

impl<'a> Arbitrary<'a> for Spoil {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(match u.arbitrary::<u8>()? {
            0..170 => Spoil::Not,
            170..184 => Spoil::Cut(u.arbitrary()?),
            184..198 => Spoil::More(u.arbitrary()?),
            198..212 => Spoil::Length(u.arbitrary()?),
            212..226 => Spoil::Opcode(u.arbitrary()?),
            226..240 => Spoil::Bytes(u.arbitrary()?),
            _ => Spoil::Extensions(u.arbitrary()?, u.arbitrary()?),
        })
    }
}

/// Bytes of room for a reply: mostly enough.
#[derive(Debug, Clone, Copy)]
pub struct Room(pub usize);

impl<'a> Arbitrary<'a> for Room {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Room(match u.arbitrary::<u8>()? {
            0..180 => 4096 + 16,
            180..200 => 8192,
            200..210 => 128 << 10,
            210..250 => u.arbitrary::<u8>()?.into(),
            _ => 0,
        }))
    }
}

impl Message {
    /// The bytes sent.
    #[must_use]
    pub fn bytes(&self, told: &Told) -> Vec<u8> {
        let (opcode, nodeid, body) = self.kind.parts(told);
        let mut header = InHeader {
            len: u32::try_from(size_of::<InHeader>() + body.len()).unwrap_or(u32::MAX),
            opcode,
            unique: self.unique,
            nodeid,
            uid: u32::from(self.caller & 1) * 1000,
            gid: u32::from(self.caller >> 1 & 1) * 1000,
            pid: 1,
            total_extlen: 0,
            padding: 0,
        };
        match &self.spoil {
            Spoil::Length(len) => header.len = len.word(),
            Spoil::Opcode(opcode) => header.opcode = u32::from(*opcode),
            Spoil::Extensions(len, padding) => {
                header.total_extlen = *len;
                header.padding = u16::try_from(padding.0 & 0xffff).unwrap_or_default();
            }
            _ => {}
        }
        let mut bytes = [header.as_bytes(), &body].concat();
        match &self.spoil {
            Spoil::Cut(len) => {
                let len = usize::from(*len) % (bytes.len() + 1);
                bytes.truncate(len);
            }
            Spoil::More(more) => bytes.extend(more),
            Spoil::Bytes(others) => {
                for (at, byte) in others {
                    if let Some(place) = bytes.get_mut(usize::from(*at)) {
                        *place = *byte;
                    }
                }
            }
            _ => {}
        }
        bytes
    }
}

/// What is wrong with a reply of `reply.len()` bytes to a request of these bytes; none when it is
/// as the protocol wants it.
#[must_use]
pub fn fault(request: &[u8], reply: &[u8]) -> Option<String> {
    let Ok((asked, _)) = InHeader::read_from_prefix(request) else {
        return (!reply.is_empty()).then(|| "a reply to what has no header".into());
    };
    if reply.is_empty() {
        // Too little room, or none is wanted.
        return None;
    }
    let Ok((header, body)) = OutHeader::read_from_prefix(reply) else {
        return Some(format!("a reply of {} bytes", reply.len()));
    };
    if usize::try_from(header.len).ok() != Some(reply.len()) {
        return Some(format!("{} bytes that say {}", reply.len(), header.len));
    }
    if header.unique != asked.unique {
        return Some(format!("{} answered as {}", asked.unique, header.unique));
    }
    if header.error != 0 && (!body.is_empty() || !(-4095..0).contains(&header.error)) {
        return Some(format!("error {} with {} bytes", header.error, body.len()));
    }
    let long_enough = usize::try_from(asked.len)
        .is_ok_and(|len| len <= request.len() && len >= size_of::<InHeader>());
    if long_enough && matches!(asked.opcode, opcode::FORGET | opcode::BATCH_FORGET) {
        return Some("a reply to a forget".into());
    }
    None
}

/// Notes what a reply tells of: the inode that was looked up or made.
pub fn learn(told: &mut Told, request: &[u8], reply: &[u8]) {
    let Ok((asked, _)) = InHeader::read_from_prefix(request) else {
        return;
    };
    let tells = matches!(
        asked.opcode,
        opcode::LOOKUP
            | opcode::CREATE
            | opcode::MKDIR
            | opcode::MKNOD
            | opcode::SYMLINK
            | opcode::LINK
            | opcode::TMPFILE
    );
    if !tells {
        return;
    }
    let body = reply.get(size_of::<OutHeader>()..).unwrap_or_default();
    if let Ok((entry, _)) = EntryOut::read_from_prefix(body) {
        told.node(entry.nodeid);
    }
}
