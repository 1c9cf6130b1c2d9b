//! The values that fields of hostile messages have: mostly plausible, so that a message gets far,
//! and the rest at the borders.

use arbitrary::{Arbitrary, Result, Unstructured};

/// Known inodes kept: the oldest goes first.
const NODES_MAX: usize = 24;

/// What a guest has been told, and refers to.
#[derive(Debug, Clone, Default)]
pub struct Told {
    nodes: Vec<u64>,
    turn: usize,
}

impl Told {
    /// Notes an inode.
    pub fn node(&mut self, node: u64) {
        if self.nodes.contains(&node) || node == 0 {
            return;
        }
        if self.nodes.len() < NODES_MAX {
            self.nodes.push(node);
            return;
        }
        self.turn = (self.turn + 1) % NODES_MAX;
        if let Some(oldest) = self.nodes.get_mut(self.turn) {
            *oldest = node;
        }
    }
}

/// An inode: one that is known, or none.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub struct Node {
    kind: u8,
    any: u64,
}

impl Node {
    /// Its number, by what the guest has been told.
    #[must_use]
    pub fn number(self, told: &Told) -> u64 {
        let known = usize::try_from(self.any % 256).unwrap_or_default();
        match self.kind {
            0..60 => super::super::fuse::wire::ROOT,
            60..220 => told
                .nodes
                .get(known % told.nodes.len().max(1))
                .copied()
                .unwrap_or(super::super::fuse::wire::ROOT),
            220..240 => self.any % 64,
            240..246 => u64::MAX - self.any % 4,
            246..250 => 1 << (self.any % 64),
            _ => self.any,
        }
    }
}

/// A name or target, without its NUL.
#[derive(Debug, Clone)]
pub struct Name(pub Vec<u8>);

impl<'a> Arbitrary<'a> for Name {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let which: u8 = u.arbitrary()?;
        Ok(Name(match which {
            // Few names, so that they meet.
            0..170 => format!("name{}", which % 16).into_bytes(),
            170..176 => Vec::new(),
            176..182 => b".".to_vec(),
            182..188 => b"..".to_vec(),
            188..192 => b"/".to_vec(),
            192..196 => b"name1/name2".to_vec(),
            196..200 => b"../../etc/passwd".to_vec(),
            200..204 => b"name1\0name2".to_vec(),
            204..208 => b"\0".to_vec(),
            208..214 => vec![b'x'; 255],
            214..220 => vec![b'x'; 256],
            220..224 => vec![b'y'; 4095],
            224..228 => vec![b'y'; 4096],
            228..232 => vec![0xff; usize::from(which)],
            _ => u.arbitrary()?,
        }))
    }
}

/// An attribute's name, without its NUL.
#[derive(Debug, Clone)]
pub struct AttributeName(pub Vec<u8>);

impl<'a> Arbitrary<'a> for AttributeName {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        const NAMES: [&[u8]; 10] = [
            b"user.a",
            b"user.b",
            b"trusted.c",
            b"security.selinux",
            b"security.capability",
            b"system.posix_acl_access",
            b"system.posix_acl_default",
            b"user.",
            b"system.other",
            b"",
        ];
        let which: u8 = u.arbitrary()?;
        let index = usize::from(which);
        Ok(AttributeName(match NAMES.get(index % 16) {
            Some(name) => name.to_vec(),
            None if which < 200 => [b"user.", vec![b'n'; index].as_slice()].concat(),
            None => u.arbitrary()?,
        }))
    }
}

/// An offset, a length, a count: small, at a border, or anything.
#[derive(Debug, Clone, Copy)]
pub struct Number(pub u64);

impl<'a> Arbitrary<'a> for Number {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let which: u8 = u.arbitrary()?;
        let small = u64::from(which % 4);
        Ok(Number(match which {
            0..40 => 0,
            40..120 => u.arbitrary::<u16>()?.into(),
            120..160 => u64::from(u.arbitrary::<u8>()?) << 12,
            160..190 => (1 << (which % 32)) + small,
            190..210 => (1 << (which % 64)) - small.min(1),
            210..220 => i64::MAX.cast_unsigned() - small,
            220..230 => u64::MAX - small,
            230..240 => u64::from(u32::MAX) - small,
            _ => u.arbitrary()?,
        }))
    }
}

impl Number {
    /// Cut to 32 bits.
    #[must_use]
    pub fn word(self) -> u32 {
        u32::try_from(self.0 & u64::from(u32::MAX)).unwrap_or_default()
    }
}

/// Flags: none, one, all, or any.
#[derive(Debug, Clone, Copy)]
pub struct Flags(pub u32);

impl<'a> Arbitrary<'a> for Flags {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let which: u8 = u.arbitrary()?;
        Ok(Flags(match which {
            0..120 => 0,
            120..200 => 1 << (which % 32),
            200..216 => u32::MAX,
            216..240 => u32::from(which % 16),
            _ => u.arbitrary()?,
        }))
    }
}

/// Type and permissions.
#[derive(Debug, Clone, Copy)]
pub struct Mode(pub u32);

impl<'a> Arbitrary<'a> for Mode {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let which: u8 = u.arbitrary()?;
        Ok(Mode(match which {
            0..100 => libc::S_IFREG | 0o644,
            100..130 => libc::S_IFREG | u32::from(u.arbitrary::<u16>()? & 0o7777),
            130..150 => libc::S_IFDIR | 0o2777,
            150..170 => libc::S_IFLNK | 0o777,
            170..190 => libc::S_IFCHR | 0o600,
            190..200 => libc::S_IFIFO | 0o600,
            200..210 => libc::S_IFSOCK | 0o600,
            210..220 => 0,
            220..230 => u32::MAX,
            _ => u.arbitrary()?,
        }))
    }
}

/// File content or an attribute's value: of one byte repeated, or any bytes.
#[derive(Debug, Clone)]
pub struct Content(pub Vec<u8>);

impl<'a> Arbitrary<'a> for Content {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let which: u8 = u.arbitrary()?;
        Ok(Content(match which {
            0..20 => Vec::new(),
            20..120 => vec![which; u.arbitrary::<u8>()?.into()],
            120..170 => vec![which; u.arbitrary::<u16>()?.into()],
            170..180 => vec![which; 4096 * usize::from(which - 169)],
            180..184 => vec![which; 65_537],
            _ => u.arbitrary()?,
        }))
    }
}
