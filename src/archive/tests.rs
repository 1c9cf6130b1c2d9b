//! Imports and extracts on a simulated disk: what streams say that cannot be, and what failing disks
//! and power cuts leave.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::*;
use crate::disk::sim::{Call, Fault, SimMedia, Survival};
use crate::engine::{
    Attr, Durability, MkfsOptions, OpenOptions, Store, Time, Volume, mkfs, system_clock,
};
use crate::format::id::Ino;
use crate::fsck;

mod tar_streams;
mod ways;

/// A member of a stream, as GNU tar would write it.
#[derive(Clone)]
struct Given {
    kind: u8,
    path: Vec<u8>,
    link: Vec<u8>,
    content: Vec<u8>,
    /// Records of a PAX header before it.
    pax: Vec<(Vec<u8>, Vec<u8>)>,
    /// What its header says of its size, if not the truth.
    size: Option<Vec<u8>>,
}

fn given(kind: u8, path: &str) -> Given {
    Given {
        kind,
        path: path.into(),
        link: Vec::new(),
        content: Vec::new(),
        pax: Vec::new(),
        size: None,
    }
}

fn file(path: &str, content: &[u8]) -> Given {
    Given {
        content: content.to_vec(),
        ..given(b'0', path)
    }
}

fn link(kind: u8, path: &str, to: &str) -> Given {
    Given {
        link: to.into(),
        ..given(kind, path)
    }
}

fn with_pax(mut given: Given, key: &str, value: &[u8]) -> Given {
    given.pax.push((key.into(), value.to_vec()));
    given
}

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// A header block, written without the code that is tested.
fn header(kind: u8, path: &[u8], link: &[u8], size: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 512];
    let put = |block: &mut Vec<u8>, at: usize, bytes: &[u8]| {
        block[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(&mut block, 0, &path[..path.len().min(100)]);
    put(&mut block, 100, b"0000640\0");
    put(&mut block, 108, b"0000007\0");
    put(&mut block, 116, b"0000011\0");
    put(&mut block, 124, size);
    put(&mut block, 136, b"14371573400\0");
    put(&mut block, 148, b"        ");
    block[156] = kind;
    put(&mut block, 157, &link[..link.len().min(100)]);
    put(&mut block, 257, b"ustar\x0000");
    put(&mut block, 329, b"0000001\0");
    put(&mut block, 337, b"0000003\0");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    put(&mut block, 148, format!("{sum:06o}\0 ").as_bytes());
    block
}

fn octal(len: usize) -> Vec<u8> {
    format!("{len:011o}\0").into_bytes()
}

fn stream_of(members: &[Given]) -> Vec<u8> {
    let mut stream = Vec::new();
    for given in members {
        if !given.pax.is_empty() {
            let mut records = Vec::new();
            for (key, value) in &given.pax {
                let rest = key.len() + value.len() + 3;
                let len = (1..8).map(|digits| rest + digits);
                let len = len
                    .into_iter()
                    .find(|len| len.to_string().len() + rest == *len);
                let record = [key.as_slice(), b"=", value, b"\n"].concat();
                records.extend_from_slice(format!("{} ", len.unwrap()).as_bytes());
                records.extend_from_slice(&record);
            }
            stream.extend(header(b'x', b"pax", b"", &octal(records.len())));
            stream.extend(padded(records));
        }
        let size = given.size.clone();
        let size = size.unwrap_or_else(|| octal(given.content.len()));
        stream.extend(header(given.kind, &given.path, &given.link, &size));
        stream.extend(padded(given.content.clone()));
    }
    stream.extend([0; 1024]);
    stream
}

fn make() -> SimMedia {
    let sim = SimMedia::new();
    mkfs(sim.media(), &MkfsOptions::reproducible(), &system_clock()).unwrap();
    sim
}

fn open(sim: &SimMedia) -> Arc<Store> {
    let options = OpenOptions {
        background: false,
        ..OpenOptions::default()
    };
    Store::open_media(sim.media(), options, system_clock()).unwrap()
}

fn go_on(_: &Summary) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn import_into(volume: &Volume, to: &str, merge: bool, stream: &[u8]) -> (Summary, Result<()>) {
    let how = ImportHow {
        to: to.into(),
        merge,
        ..ImportHow::default()
    };
    import_tar(volume, &how, &mut &*stream, &mut go_on)
}

fn at(volume: &Volume, path: &str) -> Option<Attr> {
    let mut ino = Ino::ROOT;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        ino = volume.lookup(ino, name.as_bytes()).ok()?.ino;
    }
    volume.getattr(ino).ok()
}

fn content(volume: &Volume, path: &str) -> Vec<u8> {
    let found = at(volume, path).unwrap_or_else(|| panic!("{path} is not there"));
    let mut bytes = Vec::new();
    volume
        .read(found.ino, 0, found.size as usize, &mut bytes)
        .unwrap();
    bytes
}

/// All paths, in order.
fn paths(volume: &Volume) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![(String::new(), Ino::ROOT)];
    while let Some((path, dir)) = dirs.pop() {
        let mut visit = |entry: crate::engine::DirEntry| {
            let name = String::from_utf8_lossy(&entry.name).into_owned();
            if name != "." && name != ".." {
                let path = format!("{path}/{name}");
                if entry.file_type == libc::DT_DIR {
                    dirs.push((path.clone(), entry.ino));
                }
                found.push(path);
            }
            true
        };
        volume.readdir(dir, 0, &mut visit).unwrap();
    }
    found.sort_unstable();
    found
}

fn finish(store: &Arc<Store>, sim: &SimMedia) {
    store.close().unwrap();
    assert_eq!(fsck::errors(&sim.media()).unwrap(), [""; 0]);
}

/// A power cut at any moment of an import: each file that has a name is whole.
#[test]
fn what_has_a_name_after_a_power_cut_is_whole() {
    let made = make();
    let sim = made.killed();
    let store = open(&sim);
    let members: Vec<_> = (0..24)
        .map(|index| {
            let len = [0, 1, 700, 5000, 70_000, 200_000][index % 6];
            let name = format!("d{}/f{index}", index % 3);
            let bytes = vec![b'a' + index as u8; len];
            with_pax(file(&name, &bytes), "SCHILY.xattr.user.x", b"y")
        })
        .collect();
    let main = store.main().unwrap();
    // As the timer does: what is in the log becomes durable before what is not. Not before a name is
    // there: that the content precedes it must not be the timer's doing.
    let mut named = 0;
    let mut tell = |summary: &Summary| {
        if std::mem::replace(&mut named, summary.files) != summary.files {
            store.commit_tick().unwrap();
        }
        ControlFlow::Continue(())
    };
    let stream = stream_of(&members);
    let how = ImportHow::default();
    let (summary, done) = import_tar(&main, &how, &mut &*stream, &mut tell);
    done.unwrap();
    assert_eq!(summary.files, 24);
    let end = sim.events();
    let mut recording = sim.recording();
    let mut found_some = 0;
    for point in 0..=end {
        let crashed = recording.crash_at(point, Survival::Random(point as u64));
        let store = open(&crashed);
        let main = store.main().unwrap();
        for (index, given) in members.iter().enumerate() {
            let path = String::from_utf8(given.path.clone()).unwrap();
            if at(&main, &path).is_none() {
                assert!(point < end, "{path} is lost");
                continue;
            }
            found_some += usize::from(point < end);
            assert!(
                content(&main, &path) == given.content,
                "event {point}: {path} {index}"
            );
            let found = at(&main, &path).unwrap();
            assert_eq!(main.getxattr(found.ino, b"user.x").unwrap(), b"y");
            assert_eq!((found.mode & 0o7777, found.uid, found.gid), (0o640, 7, 9));
        }
        drop(main);
        finish(&store, &crashed);
    }
    assert!(found_some > 20, "{found_some}");
}

/// Where fsync does nothing, too: who asked for an import is told that it is there.
#[test]
fn an_import_is_durable_whatever_the_durability() {
    let sim = make();
    let options = OpenOptions {
        background: false,
        durability: Durability::Relaxed,
        ..OpenOptions::default()
    };
    let store = Store::open_media(sim.media(), options, system_clock()).unwrap();
    let main = store.main().unwrap();
    let members = [file("d/a", b"first"), file("d/b", &[7; 90_000])];
    import_into(&main, "", false, &stream_of(&members))
        .1
        .unwrap();
    let crashed = sim.recording().crash_at(sim.events(), Survival::None);
    drop(main);
    finish(&store, &sim);
    let store = open(&crashed);
    let main = store.main().unwrap();
    assert_eq!(content(&main, "d/a"), b"first");
    assert!(content(&main, "d/b") == [7; 90_000]);
    drop(main);
    finish(&store, &crashed);
}

/// What is told to be there is there after a power cut, though the store took no more by the end.
#[test]
fn an_import_whose_store_becomes_read_only_at_its_end_says_so() {
    let sim = make();
    let store = open(&sim);
    let main = store.main().unwrap();
    let members = [file("a", b"first"), file("b", b"second")];
    let mut tell = |summary: &Summary| {
        if summary.files == 2 {
            // As the timer meets it.
            sim.set_fault(Some(Fault {
                call: Call::Flush,
                after: 0,
                sticky: true,
                kind: std::io::ErrorKind::Other,
            }));
            store.commit_tick().unwrap_err();
        }
        ControlFlow::Continue(())
    };
    let how = ImportHow::default();
    let stream = stream_of(&members);
    let (summary, done) = import_tar(&main, &how, &mut &*stream, &mut tell);
    assert_eq!(summary.files, 2);
    assert!(matches!(done, Err(ArchiveError::NotDurable(_))), "{done:?}");
    sim.set_fault(None);
    drop((main, store));
    let store = open(&sim);
    finish(&store, &sim);
}

/// Each call of the disk fails: the import says so, and the store is sound.
#[test]
fn an_import_over_a_failing_disk_says_so() {
    let members: Vec<_> = (0..6)
        .map(|index| file(&format!("d/f{index}"), &vec![index; 90_000]))
        .collect();
    let stream = stream_of(&members);
    let (mut failed, mut lost) = (0, 0);
    for call in [Call::Write, Call::Flush, Call::Allocate] {
        for after in 0..30 {
            let sim = make();
            let store = open(&sim);
            let main = store.main().unwrap();
            sim.set_fault(Some(Fault {
                call,
                after,
                sticky: true,
                kind: std::io::ErrorKind::Other,
            }));
            let (summary, done) = import_into(&main, "", false, &stream);
            let is_hit = sim.fault_calls() > after;
            sim.set_fault(None);
            assert_eq!(done.is_err(), is_hit, "{call:?} {after}: {done:?}");
            failed += usize::from(is_hit);
            drop((main, store));
            let crashed = sim.recording().crash_at(sim.events(), Survival::None);
            let store = open(&crashed);
            let main = store.main().unwrap();
            let found = paths(&main).len() as u64;
            let is_durable = !matches!(done, Err(ArchiveError::NotDurable(_)));
            assert!(
                !is_durable || found >= summary.entries(),
                "{call:?} {after}: {found} of {summary:?}, {done:?}"
            );
            lost += usize::from(!is_durable);
            drop(main);
            finish(&store, &crashed);
            let store = open(&sim);
            let main = store.main().unwrap();
            for given in &members {
                let path = String::from_utf8(given.path.clone()).unwrap();
                if at(&main, &path).is_some() {
                    assert!(
                        content(&main, &path) == given.content,
                        "{call:?} {after}: {path}"
                    );
                }
            }
            drop(main);
            finish(&store, &sim);
        }
    }
    assert!(failed > 10 && lost > 5, "{failed} {lost}");
}

/// Broken off at each step: what was told before is there, with its times, and nothing without a name
/// stays.
#[test]
fn an_import_that_is_broken_off_leaves_what_was_imported() {
    let members = [
        given(b'5', "d"),
        file("d/a", b"first"),
        file("d/b", &vec![7; 3 << 20]),
        link(b'2', "d/c", "a"),
        link(b'1', "d/e", "d/a"),
    ];
    let stream = stream_of(&members);
    for steps in 0.. {
        let sim = make();
        let store = open(&sim);
        let main = store.main().unwrap();
        let mut left = steps;
        let mut last = Summary::default();
        let mut tell = |summary: &Summary| {
            last = summary.clone();
            left -= 1;
            match left < 0 {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let how = ImportHow::default();
        let (summary, done) = import_tar(&main, &how, &mut &*stream, &mut tell);
        assert_eq!(summary, last);
        let found = paths(&main);
        assert_eq!(found.len() as u64, summary.entries(), "{steps}: {found:?}");
        if let Some(found) = at(&main, "d") {
            let expected = Time {
                sec: 0o14_371_573_400,
                nsec: 0,
            };
            assert_eq!(found.mtime, expected, "step {steps}");
        }
        let orphans = main.orphans_for_tests();
        assert!(orphans.is_empty(), "{orphans:?}");
        drop(main);
        finish(&store, &sim);
        if done.is_ok() {
            assert!(steps > 6, "{steps}");
            return;
        }
        assert!(matches!(done, Err(ArchiveError::Stopped)), "{done:?}");
    }
}

/// Of a million directories the times are not all set then; what was made is durable.
#[test]
fn an_import_that_is_broken_off_at_its_end_is_durable() {
    let members: Vec<_> = (0..1100)
        .map(|index| given(b'5', &format!("d{index}")))
        .collect();
    let stream = stream_of(&members);
    let sim = make();
    let store = open(&sim);
    let main = store.main().unwrap();
    let mut asked = 0;
    let mut tell = |summary: &Summary| {
        let is_all = summary.directories == 1100;
        asked += u32::from(is_all);
        // The last of them, and then once more.
        match asked > 1 {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let how = ImportHow::default();
    let (_, done) = import_tar(&main, &how, &mut &*stream, &mut tell);
    assert!(matches!(done, Err(ArchiveError::Stopped)), "{done:?}");
    assert_eq!(asked, 2);
    let crashed = sim.recording().crash_at(sim.events(), Survival::None);
    drop(main);
    finish(&store, &sim);
    let store = open(&crashed);
    assert_eq!(paths(&store.main().unwrap()).len(), 1100);
    finish(&store, &crashed);
}

#[test]
fn entries_that_are_there_are_named_unless_it_is_to_be_merged() {
    let sim = make();
    let store = open(&sim);
    let main = store.main().unwrap();
    let first = stream_of(&[file("a", b"1"), file("d/b", b"2"), link(b'2', "l", "a")]);
    import_into(&main, "", false, &first).1.unwrap();
    let more = stream_of(&[file("a", b"3"), file("d/c", b"4"), file("l", b"5")]);
    let (_, refused) = import_into(&main, "", false, &more);
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("a, d, l") && refused.contains("--merge"),
        "{refused}"
    );
    assert_eq!(content(&main, "a"), b"1");
    import_into(&main, "", true, &more).1.unwrap();
    assert_eq!(paths(&main), ["/a", "/d", "/d/b", "/d/c", "/l"]);
    assert_eq!(content(&main, "a"), b"3");
    // The symlink was replaced, and not followed.
    assert_eq!(content(&main, "l"), b"5");
    // Into a path that is made; what is there, is not touched.
    import_into(&main, "x/y", false, &more).1.unwrap();
    assert_eq!(content(&main, "x/y/d/c"), b"4");
    assert_eq!(at(&main, "x").unwrap().mode & 0o7777, 0o755);
    let (_, refused) = import_into(&main, "a/b", false, &more);
    assert!(refused.unwrap_err().to_string().starts_with("a: not a dir"));
    let (_, refused) = import_into(&main, "x/../..", false, &more);
    assert!(refused.unwrap_err().to_string().contains("'..'"));
    // A directory is not replaced by a file.
    let (_, refused) = import_into(&main, "", true, &stream_of(&[file("d", b"x")]));
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .starts_with("d: is a directory")
    );
    assert_eq!(content(&main, "d/b"), b"2");
    drop(main);
    finish(&store, &sim);
}
