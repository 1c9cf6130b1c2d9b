//! Streams that are not what was sent.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::engine::{ReceivedInode, TreeCounts};
use crate::format::codec::Compression;
use crate::format::record::{Codec, Dedup};
use crate::stream::format::{Data, Header};
use crate::stream::framing::Writer;

/// A small tree with everything in it, its stream, and a store to receive it.
fn setting() -> (Vec<u8>, World) {
    let from = World::new(1);
    let main = from.volume("main");
    let file = from.make(ROOT, "file", FILE);
    from.write(file, 3000, &[7; 3000]);
    main.setxattr(file, b"user.a", b"value", SetXattr::Any, false)
        .unwrap();
    let dir = from.make(ROOT, "dir", DIR);
    main.symlink(Cred::default(), dir, b"link", b"target", &new(0))
        .unwrap();
    from.snapshot("main@a");
    (from.stream("main@a", None), World::new(2))
}

/// The record that a place of the stream is in: where it begins, and its number.
fn record_at(stream: &[u8], at: usize) -> (u64, u64) {
    let all = records(stream);
    let index = all.partition_point(|(start, _)| *start <= at);
    match index.checked_sub(1) {
        Some(before) => (all[before].0 as u64, index as u64),
        None => (0, 0),
    }
}

fn place_of(error: &StreamError) -> (u64, u64) {
    match error {
        StreamError::Damaged { offset, record, .. } => (*offset, *record),
        // Of the header, which says so.
        StreamError::Unknown(_) => (0, 0),
        other => panic!("{other}"),
    }
}

#[test]
fn a_byte_that_is_not_what_was_sent_is_found_where_it_is() {
    let (stream, to) = setting();
    for at in 0..stream.len() {
        let mut other = stream.clone();
        other[at] ^= 1 << (at % 8);
        let error = to.receive("copy", &other).unwrap_err();
        assert_eq!(
            place_of(&error),
            record_at(&stream, at),
            "byte {at}: {error}"
        );
        assert_eq!(to.names(), ["main"], "byte {at}");
        if to.store.receive_record("copy").unwrap().is_some() {
            to.store.abort_receive("copy").unwrap();
        }
    }
    to.receive("copy", &stream).unwrap();
}

#[test]
fn nothing_of_a_damaged_record_is_applied() {
    let (stream, to) = setting();
    let all = records(&stream);
    let is_link = |record: &Option<Record>| match record {
        Some(Record::Link(_, name, _)) => name == b"file",
        _ => false,
    };
    let index = all.iter().position(|(_, record)| is_link(record));
    let index = index.unwrap();
    let mut other = stream.clone();
    let last = all[index + 1].0 - 1;
    other[last] ^= 1;
    to.receive("copy", &other).unwrap_err();
    let (_, hidden) = hidden_tree(&to);
    assert!(
        !hidden.keys().any(|path| path.starts_with(b"/f")),
        "{:?}",
        hidden.keys()
    );
}

/// What was received so far, which only a test can see.
fn hidden_tree(world: &World) -> (Volume, Tree) {
    let volume = world.store.hidden_for_tests("copy");
    let found = tree(&volume);
    (volume, found)
}

#[test]
fn records_that_come_twice_or_in_another_order_are_refused() {
    let (stream, to) = setting();
    let all = records(&stream);
    let part = |index: usize| stream[all[index].0..all[index + 1].0].to_vec();
    for index in 0..all.len() - 2 {
        let (start, next) = (all[index].0, all[index + 1].0);
        let twice = [&stream[..next], &part(index), &stream[next..]].concat();
        let swapped = [
            &stream[..start],
            &part(index + 1),
            &part(index),
            &stream[all[index + 2].0..],
        ]
        .concat();
        let left_out = [&stream[..start], &stream[next..]].concat();
        let number = index as u64;
        for (other, record) in [
            (twice, number + 2),
            (swapped, number + 1),
            (left_out, number + 1),
        ] {
            let error = to.receive("copy", &other).unwrap_err();
            assert_eq!(place_of(&error).1, record, "record {index}: {error}");
            assert_eq!(to.names(), ["main"]);
            to.store.abort_receive("copy").unwrap();
        }
    }
    let more = [stream.as_slice(), b"x"].concat();
    assert!(error_of(to.receive("copy", &more)).contains("behind its end"));
    assert_eq!(to.names(), ["main"]);
}

fn directory() -> ReceivedInode {
    let time = Time { sec: 0, nsec: 0 };
    ReceivedInode {
        mode: DIR,
        uid: 0,
        gid: 0,
        rdev: 0,
        flags: 0,
        projid: 0,
        size: 0,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        target: Vec::new(),
    }
}

fn forged(records: &[Record]) -> Vec<u8> {
    let header = Header {
        snapshot: [3; 16],
        base: [0; 16],
        sender: [4; 16],
        created: Time { sec: 0, nsec: 0 },
        compression: Compression::OFF,
        dedup: Dedup::Off,
        position: StreamPosition::START,
        counts_projects: false,
        name: "x@a".into(),
    };
    let mut stream = Vec::new();
    let mut writer = Writer::begin(&mut stream, &header).unwrap();
    for record in records {
        writer.put(record).unwrap();
    }
    stream
}

#[test]
fn trees_that_cannot_be_are_refused() {
    let (a, b) = (Ino(2), Ino(3));
    let name = |name: &[u8]| name.to_vec();
    let file = ReceivedInode {
        mode: FILE,
        size: 10,
        ..directory()
    };
    let content = |offset: u64| {
        Record::Data(Data {
            ino: Ino(4),
            offset,
            codec: Codec::Raw,
            raw_len: 3,
            hash: *blake3::hash(b"abc").as_bytes(),
            stored: b"abc".to_vec(),
        })
    };
    let counts = TreeCounts {
        inodes: 4,
        next_ino: 5,
        ..TreeCounts::default()
    };
    let begin = [
        Record::Inode(a, directory()),
        Record::Inode(b, directory()),
        Record::Inode(Ino(4), file.clone()),
        Record::Link(a, name(b"b"), b),
    ];
    let cases: [(&[Record], &str); 9] = [
        (&[Record::Link(b, name(b"a"), a)], "below itself"),
        (&[Record::Link(a, name(b"a"), a)], "below itself"),
        (&[Record::Link(ROOT, name(b"b"), b)], "second name"),
        (&[Record::Link(ROOT, name(b"x"), Ino(9))], "not there"),
        (&[Record::Link(a, name(b"b"), Ino(4))], "another's"),
        (&[Record::Inode(b, file)], "another type"),
        (
            &[content(8), Record::Hole(Ino(4), (0, 1))],
            "out of its place",
        ),
        (&[Record::Gone(b)], "goes with names"),
        (&[Record::End(counts)], "without a name"),
    ];
    for (last, reason) in cases {
        let to = World::new(2);
        let stream = forged(&[&begin, last].concat());
        let error = error_of(to.receive("copy", &stream));
        assert!(error.contains(reason), "{last:?}: {error}");
        assert_eq!(to.names(), ["main"]);
    }
    let to = World::new(2);
    let all = [
        Record::Link(ROOT, name(b"a"), a),
        Record::Link(ROOT, name(b"file"), Ino(4)),
        content(7),
    ];
    let end = |allocated_bytes| {
        let counts = TreeCounts {
            allocated_bytes,
            ..counts
        };
        forged(&[&begin, all.as_slice(), &[Record::End(counts)]].concat())
    };
    let error = error_of(to.receive("copy", &end(4)));
    assert!(error.contains("not what the stream says"), "{error}");
    assert_eq!(to.names(), ["main"]);
    to.receive("copy", &end(3)).unwrap();
    assert_eq!(to.names(), ["copy", "copy@a", "main"]);
}

/// A record of a stream whose hashes are right, and which no store has sent.
fn any_record(random: &mut ChaCha8Rng) -> Record {
    let ino = |random: &mut ChaCha8Rng| match random.random_range(0..20) {
        0 => Ino(0),
        1 => Ino(u64::MAX),
        _ => Ino(random.random_range(1..8)),
    };
    let number = |random: &mut ChaCha8Rng| match random.random_range(0..8) {
        0 => u64::MAX - random.random_range(0..3),
        1 => i64::MAX as u64,
        _ => random.random_range(0..6) * 1000,
    };
    let name = |random: &mut ChaCha8Rng| match random.random_range(0..12) {
        0 => b"..".to_vec(),
        1 => b"a/b".to_vec(),
        2 => Vec::new(),
        3 => vec![b'x'; random.random_range(250..260)],
        n => format!("n{}", n % 4).into_bytes(),
    };
    let one = ino(random);
    let range = (number(random), number(random));
    match random.random_range(0..24) {
        0..6 => {
            let kinds = [FILE, DIR, DIR, libc::S_IFLNK | 0o777, libc::S_IFCHR, 0];
            let time = Time { sec: 0, nsec: 0 };
            let target = vec![b't'; random.random_range(0..9)];
            let mode = kinds[random.random_range(0..6)];
            let is_link = mode & libc::S_IFMT == libc::S_IFLNK;
            let size = if is_link {
                target.len() as u64
            } else {
                number(random)
            };
            let inode = ReceivedInode {
                mode,
                uid: 0,
                gid: 0,
                rdev: 0,
                flags: random.random(),
                projid: 0,
                size: if mode == DIR { 0 } else { size },
                atime: time,
                mtime: time,
                ctime: time,
                btime: time,
                target: if is_link { target } else { Vec::new() },
            };
            Record::Inode(one, inode)
        }
        6 => Record::Xattr(
            one,
            b"user.x".to_vec(),
            vec![1; random.random_range(0..3000)],
        ),
        7 => Record::Xattr(one, b"system.posix_acl_access".to_vec(), vec![2; 12]),
        8 => Record::XattrGone(one, b"user.x".to_vec()),
        9..12 => {
            let stored = vec![random.random(); random.random_range(0..5000)];
            let right = random.random_bool(0.8);
            Record::Data(Data {
                ino: one,
                offset: range.0,
                codec: [Codec::Raw, Codec::Raw, Codec::Lz4][random.random_range(0..3)],
                raw_len: stored.len() as u32,
                hash: if right {
                    *blake3::hash(&stored).as_bytes()
                } else {
                    [0; 32]
                },
                stored,
            })
        }
        12 => Record::Share {
            ino: one,
            range,
            source: ino(random),
            source_offset: number(random),
        },
        13 => Record::Reserve(one, (range.0, range.1.min(100_000))),
        14 => Record::Hole(one, range),
        15..17 => Record::Unlink(one, name(random)),
        17..22 => Record::Link(one, name(random), ino(random)),
        22 => Record::Gone(one),
        _ => Record::Mark(StreamPosition {
            pass: random.random(),
            ino: one,
            kind: random.random(),
            at: range.0,
        }),
    }
}

#[test]
fn what_no_store_sends_does_no_harm() {
    let seeds = std::env::var("RAZORFS_SEEDS").map_or(8, |seeds| seeds.parse().unwrap());
    let mut seen = 0;
    for seed in 0..seeds {
        println!("seed {seed}");
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut to = World::new(2);
        let mut position = StreamPosition::START;
        for _ in 0..120 {
            let header = Header {
                snapshot: [3; 16],
                base: [0; 16],
                sender: [4; 16],
                created: Time { sec: 0, nsec: 0 },
                compression: Compression::OFF,
                dedup: Dedup::Off,
                position,
                counts_projects: false,
                name: "x@a".into(),
            };
            let mut stream = Vec::new();
            let mut writer = Writer::begin(&mut stream, &header).unwrap();
            for _ in 0..random.random_range(1..4) {
                writer.put(&any_record(&mut random)).unwrap();
            }
            position = StreamPosition {
                at: random.random(),
                ..StreamPosition::START
            };
            writer.put(&Record::Mark(position)).unwrap();
            writer.put(&Record::End(TreeCounts::default())).unwrap();
            to.receive("copy", &stream).unwrap_err();
            position = to.store.receive_record("copy").unwrap().unwrap().position;
            assert_eq!(to.names(), ["main"]);
        }
        to.reopen();
        let (volume, found) = hidden_tree(&to);
        seen += found.len();
        drop(volume);
        to.reopen();
    }
    assert!(seen > 2 * seeds as usize, "{seen}: something was made");
}
