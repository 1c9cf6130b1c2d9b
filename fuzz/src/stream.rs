//! A stream of a snapshot: any bytes, or records of any kind and payload whose lengths, numbers and
//! hashes are right. It is received or refused; nothing panics or hangs, and the store stays sound.

use std::ops::ControlFlow;
use std::sync::Arc;

use razorfs::engine::{Cred, NewInode, SetXattr, Store, Time, WriteFlags};
use razorfs::format::codec::Compression;
use razorfs::format::id::Ino;
use razorfs::format::record::{Dedup, StreamPosition};
use razorfs::fsck;
use razorfs::stream::format::Header;
use razorfs::stream::framing::Writer;
use razorfs::stream::{Progress, receive, send};

use super::store::{clock, closed, options};

/// Bytes of a record before its payload.
const HEAD_BYTES: usize = 48;
/// The kind of the record that ends a stream.
const END: u32 = 12;

fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A stream of the records that the bytes say: kind, length (u16), payload.
fn framed(mut bytes: &[u8], base: [u8; 16]) -> Vec<u8> {
    let header = Header {
        snapshot: [5; 16],
        base,
        sender: [6; 16],
        created: Time { sec: 0, nsec: 0 },
        compression: Compression::OFF,
        dedup: Dedup::Off,
        position: StreamPosition::START,
        counts_projects: false,
        name: "x@s".into(),
    };
    let mut stream = Vec::new();
    let mut writer = Writer::begin(&mut stream, &header).unwrap();
    while let Some(([kind, low, high], rest)) = bytes.split_first_chunk() {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (payload, rest) = rest.split_at(len);
        writer.put_bytes(u32::from(*kind), payload).unwrap();
        bytes = rest;
    }
    writer.put_bytes(END, &[0; 32]).unwrap();
    stream
}

/// Receives what the first byte says that the others are.
pub fn run(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else {
        return;
    };
    let sim = closed();
    let store = Store::open_media(sim.media(), options(), clock()).unwrap();
    let (dataset, base) = match how % 4 {
        0 => ("copy", [0; 16]),
        // As a change of what is there.
        _ => {
            store.snapshot("main@b").unwrap();
            let all = store.list().unwrap();
            let newest = all.iter().rfind(|info| info.snapshot_of.is_some());
            ("main", newest.map_or([0; 16], |info| info.uuid))
        }
    };
    let stream = match how % 8 {
        7 => bytes.to_vec(),
        _ => framed(bytes, base),
    };
    let _ = receive(&store, (dataset, None), stream.as_slice(), &mut go_on);
    store.close().unwrap();
    assert_eq!(fsck::errors(&sim.media()).unwrap(), [""; 0]);
}

/// Records of real streams, whole and of what changed.
pub fn seeds() -> Vec<Vec<u8>> {
    let store = Store::open_media(closed().media(), options(), clock()).unwrap();
    store.snapshot("main@a").unwrap();
    change(&store);
    store.snapshot("main@b").unwrap();
    let mut seeds = Vec::new();
    for (how, snapshot, base) in [(0, "main@a", None), (1, "main@b", Some("main@a"))] {
        let sending = store.send(snapshot, base).unwrap();
        let mut stream = Vec::new();
        send(&sending, StreamPosition::START, &mut stream, &mut go_on).unwrap();
        // The header has the snapshot's name, and a hash behind it.
        let mut rest = stream.get(124 + snapshot.len() + 32..).unwrap();
        let mut seed = vec![how];
        while let Some((head, behind)) = rest.split_first_chunk::<HEAD_BYTES>() {
            let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
            let (payload, behind) = behind.split_at(len);
            if u32::from(head[4]) != END {
                seed.push(head[4]);
                seed.extend_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes());
                seed.extend_from_slice(payload.get(..65535).unwrap_or(payload));
            }
            rest = behind;
        }
        seeds.push(seed);
        seeds.push([&[7], stream.as_slice()].concat());
    }
    seeds
}

fn change(store: &Arc<Store>) {
    let main = store.main().unwrap();
    let cred = Cred::default();
    let new = NewInode {
        mode: 0o100_644,
        umask: 0,
        rdev: 0,
        xattrs: &[],
        supplementary_gid: None,
    };
    let ino = main.create(cred, Ino::ROOT, b"more", &new).unwrap().ino;
    let flags = WriteFlags::default();
    main.write(ino, 50, 3000, &mut [8; 3000].as_slice(), flags)
        .unwrap();
    let gone = main.unlink(Ino::ROOT, b"name5").unwrap();
    main.reclaim(gone.ino).unwrap();
    let other = main.lookup(Ino::ROOT, b"name6").unwrap().ino;
    main.setxattr(other, b"user.b", b"c", SetXattr::Any, false)
        .unwrap();
}
