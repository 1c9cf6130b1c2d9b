//! Attributes and extended attributes, on both.

use std::sync::Arc;

use razorfs::engine::{Cred, SetAttr, SetTime, SetXattr, Time};
use razorfs::format::id::Ino;

use crate::apply::pick;
use crate::ensure;
use crate::model::Expected;
use crate::ops::Op;
use crate::world::{Outcome, World};

fn attribute(index: u8) -> &'static [u8] {
    [b"user.a".as_slice(), b"user.b", b"trusted.c", b"security.d"][usize::from(index) % 4]
}

impl World {
    pub fn attributes(&mut self, op: &Op) -> Outcome {
        let inos = self.model.inos();
        let now = self.model.now;
        let volume = Arc::clone(&self.volume);
        let set = match *op {
            Op::Chmod { ino, mode } => {
                let set = SetAttr {
                    mode: Some(mode),
                    ..SetAttr::default()
                };
                (ino, set)
            }
            Op::Chown { ino, uid, gid } => {
                let set = SetAttr {
                    uid: Some(uid),
                    gid: Some(gid),
                    ..SetAttr::default()
                };
                (ino, set)
            }
            Op::Utimes { ino, atime, mtime } => {
                let at = |sec: Option<i64>| sec.map(|sec| SetTime::At(Time { sec, nsec: 5 }));
                let set = SetAttr {
                    atime: at(atime),
                    mtime: at(mtime),
                    ..SetAttr::default()
                };
                (ino, set)
            }
            _ => return self.xattrs(op),
        };
        let (ino, set) = (pick(&inos, set.0), set.1);
        let expected = match set.mode {
            Some(_) if self.model.node(ino).is(libc::S_IFLNK) => Err("NotSupported"),
            _ => Ok(()),
        };
        let Some(attr) = self.agree(volume.setattr(ino, &set), &expected)? else {
            return Ok(());
        };
        let node = self.model.edit(ino);
        if let (Some(uid), Some(gid)) = (set.uid, set.gid) {
            (node.uid, node.gid) = (uid, gid);
            node.kill_suidgid(Cred::default());
        }
        if let Some(mode) = set.mode {
            node.mode = (node.mode & libc::S_IFMT) | mode;
        }
        if let Some(SetTime::At(time)) = set.atime {
            node.atime = time;
        }
        if let Some(SetTime::At(time)) = set.mtime {
            node.mtime = time;
        }
        node.ctime = now;
        ensure!(node.matches(&attr), "{attr:?}, not {node:?}");
        Ok(())
    }

    fn xattrs(&mut self, op: &Op) -> Outcome {
        let inos = self.model.inos();
        match op {
            Op::SetXattr {
                ino,
                name,
                len,
                fill,
                how,
            } => {
                let (ino, name) = (pick(&inos, *ino), attribute(*name));
                let value = vec![*fill; *len as usize];
                let node = self.model.node(ino);
                let there = node.xattrs.contains_key(name);
                let kept = node.is_dir() || node.is_file() || !name.starts_with(b"user.");
                let expected = match how {
                    _ if value.len() > 65_536 => Err("TooBig"),
                    _ if !kept => Err("NotPermitted"),
                    SetXattr::Create if there => Err("Exists"),
                    SetXattr::Replace if !there => Err("NoAttribute"),
                    _ => Ok(()),
                };
                self.put_xattr(ino, name, value, *how, &expected)?;
            }
            Op::RemoveXattr { ino, name } => {
                let (ino, name) = (pick(&inos, *ino), attribute(*name));
                self.remove_xattr(ino, name)?;
            }
            _ => {}
        }
        Ok(())
    }

    pub fn one_of_many_xattrs(&mut self, ino: Ino, name: &[u8], len: u32, remove: bool) -> Outcome {
        if remove {
            return self.remove_xattr(ino, name);
        }
        self.put_xattr(ino, name, vec![9; len as usize], SetXattr::Any, &Ok(()))
    }

    fn put_xattr(
        &mut self,
        ino: Ino,
        name: &[u8],
        value: Vec<u8>,
        how: SetXattr,
        expected: &Expected,
    ) -> Outcome {
        let now = self.model.now;
        let set = self.volume.setxattr(ino, name, &value, how, false);
        if self.agree(set, expected)?.is_some() {
            let node = self.model.edit(ino);
            node.xattrs.insert(name.to_vec(), Arc::new(value));
            node.ctime = now;
        }
        Ok(())
    }

    fn remove_xattr(&mut self, ino: Ino, name: &[u8]) -> Outcome {
        let now = self.model.now;
        let there = self.model.node(ino).xattrs.contains_key(name);
        let expected = if there { Ok(()) } else { Err("NoAttribute") };
        let removed = self.volume.removexattr(ino, name);
        if self.agree(removed, &expected)?.is_some() {
            let node = self.model.edit(ino);
            node.xattrs.remove(name);
            node.ctime = now;
        }
        Ok(())
    }
}
