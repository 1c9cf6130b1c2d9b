//! A tar stream: any bytes, or members of any kind and content whose headers have right checksums. It
//! is imported or refused; nothing panics or hangs, nothing outside the directory that it goes to
//! changes, and the store stays sound.

use std::ops::ControlFlow;

use razorfs::archive::{ImportHow, extract_to_tar, import_tar};
use razorfs::engine::Store;
use razorfs::format::id::Ino;
use razorfs::fsck;

use super::store::{clock, closed, options};

const BLOCK: usize = 512;

/// A header whose checksum is right.
fn header(kind: u8, name: &[u8], link: &[u8], len: usize) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let mut put = |at: usize, field: usize, bytes: &[u8]| {
        let bytes = bytes.get(..field).unwrap_or(bytes);
        block[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(0, 100, name);
    put(100, 8, b"0000755\0");
    put(108, 8, b"0000001\0");
    put(116, 8, b"0000002\0");
    put(124, 12, format!("{len:011o}\0").as_bytes());
    put(136, 12, b"14371573400\0");
    put(156, 1, &[kind]);
    put(157, 100, link);
    let magic: &[u8] = if kind == b'S' {
        b"ustar  \0"
    } else {
        b"ustar\x0000"
    };
    put(257, 8, magic);
    block
}

fn sealed(mut block: Vec<u8>) -> Vec<u8> {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// A stream of what the bytes say: kind, length of the name, of the link, of what goes over the
/// header's fields, of the content (u16), and these.
fn framed(mut bytes: &[u8]) -> Vec<u8> {
    const KINDS: &[u8] = b"0123456xgLKSD7VM";
    let mut stream = Vec::new();
    while let Some(([kind, name, link, fields, low, high], rest)) = bytes.split_first_chunk() {
        let kind = KINDS.get(usize::from(*kind)).copied().unwrap_or(*kind);
        let mut rest = rest;
        let mut take = |len: usize| {
            let (now, later) = rest.split_at(len.min(rest.len()));
            rest = later;
            now
        };
        let (name, link) = (take(usize::from(*name)), take(usize::from(*link)));
        let fields = take(usize::from(*fields));
        let content = take(usize::from(u16::from_le_bytes([*low, *high])));
        let mut block = header(kind, name, link, content.len());
        // Numbers, or what GNU tar has in the place of a prefix.
        if let Some((at, fields)) = fields.split_first() {
            let at = 100 + usize::from(*at) * 2 % 400;
            let len = fields.len().min(BLOCK - at);
            block[at..at + len].copy_from_slice(&fields[..len]);
        }
        stream.extend(sealed(block));
        stream.extend_from_slice(content);
        stream.resize(stream.len().next_multiple_of(BLOCK), 0);
        bytes = rest;
    }
    stream.extend([0; 2 * BLOCK]);
    stream
}

/// Imports what the first byte says that the others are.
pub fn run(bytes: &[u8]) {
    let Some((how, bytes)) = bytes.split_first() else {
        return;
    };
    let sim = closed();
    let store = Store::open_media(sim.media(), options(), clock()).unwrap();
    let main = store.main().unwrap();
    let names = || {
        let mut names = Vec::new();
        let mut visit = |entry: razorfs::engine::DirEntry| {
            names.push((entry.name, entry.ino));
            true
        };
        main.readdir(Ino::ROOT, 0, &mut visit).unwrap();
        names
    };
    let before = names();
    let stream = match how % 4 {
        3 => bytes.to_vec(),
        _ => framed(bytes),
    };
    let to = ImportHow {
        to: b"into/here".to_vec(),
        merge: true,
        ..ImportHow::default()
    };
    let go_on = &mut |_: &_| ControlFlow::Continue(());
    let _ = import_tar(&main, &to, &mut stream.as_slice(), go_on);
    // A name more, and nothing else at the top.
    let after = names();
    let stray = after.iter().filter(|name| !before.contains(name));
    let stray: Vec<_> = stray.filter(|(name, _)| name != b"into").collect();
    assert_eq!((stray, after.len()), (Vec::new(), before.len() + 1));
    // What came in can go out.
    let mut sink = std::io::sink();
    extract_to_tar(&main, b"into", &mut sink, go_on).1.unwrap();
    drop(main);
    store.close().unwrap();
    assert_eq!(fsck::errors(&sim.media()).unwrap(), [""; 0]);
}

/// Members of all kinds, and a real stream.
pub fn seeds() -> Vec<Vec<u8>> {
    let member = |kind: u8, name: &str, link: &str, content: &[u8]| {
        let len = u16::try_from(content.len()).unwrap_or(0).to_le_bytes();
        let lens = [name.len(), link.len()].map(|len| u8::try_from(len).unwrap_or(0));
        let head = [kind, lens[0], lens[1], 0, len[0], len[1]];
        [&head, name.as_bytes(), link.as_bytes(), content].concat()
    };
    let pax = b"30 mtime=1350244992.023960108\n25 SCHILY.xattr.user.a=b\n18 path=some/name\n";
    let acl = b"53 SCHILY.acl.access=user::rw-,group::---,other::---\n";
    let sparse = [
        "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n",
        "21 GNU.sparse.name=s\n27 GNU.sparse.realsize=900\n",
    ];
    let sparse = sparse.concat().into_bytes();
    let map = [b"1\n10\n4\n".as_slice(), &[0; 505], b"data"].concat();
    let all = [
        vec![0],
        member(5, "dir", "", b""),
        member(7, "pax", "", pax),
        member(0, "dir/file", "", b"content"),
        member(7, "pax", "", acl),
        member(0, "dir/more", "", &[7; 1500]),
        member(1, "hard", "dir/file", b""),
        member(2, "soft", "../..", b""),
        member(0, "soft/x", "", b"x"),
        member(3, "null", "", b""),
        member(6, "fifo", "", b""),
        member(9, "long", "", b"a/long/name\0"),
        member(0, "long", "", b""),
        member(7, "pax", "", &sparse),
        member(0, "GNUSparseFile.0/s", "", &map),
    ]
    .concat();
    let store = Store::open_media(closed().media(), options(), clock()).unwrap();
    let mut real = vec![3];
    let go_on = &mut |_: &_| ControlFlow::Continue(());
    let done = extract_to_tar(&store.main().unwrap(), b"", &mut real, go_on);
    done.1.unwrap();
    vec![all, real]
}
