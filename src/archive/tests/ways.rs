//! The two ways into a dataset and out of it, straight and by a tar stream: the same comes of both.

use std::fs::{self, File, FileTimes};
use std::io::{self, Read as _, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::*;
use crate::engine::SetXattr;

/// A tree with what can be had without being root, read once so that nobody changes its times.
fn tree(dir: &Path) {
    let at = |name: &str| dir.join(name);
    fs::create_dir_all(at("d/e")).unwrap();
    fs::create_dir(at(&"p".repeat(200))).unwrap();
    fs::write(at("d/file"), vec![7; 3_000_000]).unwrap();
    fs::write(at("empty"), b"").unwrap();
    fs::write(at("d/e/odd\n\\ name"), b"x").unwrap();
    fs::write(at("d").join("n".repeat(255)), b"y").unwrap();
    fs::hard_link(at("d/file"), at("d/e/same")).unwrap();
    symlink("../d/file", at("d/link")).unwrap();
    symlink("t".repeat(300), at("long")).unwrap();
    fs::hard_link(at("long"), at("long too")).unwrap();
    let fifo = rustix::fs::mknodat(
        rustix::fs::CWD,
        at("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o640),
        0,
    );
    fifo.unwrap();
    let sparse = File::create(at("sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    let write = |offset, bytes| std::os::unix::fs::FileExt::write_all_at(&sparse, bytes, offset);
    write(5_000_000, b"data").unwrap();
    write(30_000_000, &[9; 100_000]).unwrap();
    File::create(at("hole")).unwrap().set_len(1 << 20).unwrap();
    fs::set_permissions(at("d/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(at("d/e"), fs::Permissions::from_mode(0o2700)).unwrap();
    let now = SystemTime::now();
    let times = FileTimes::new()
        .set_accessed(now)
        .set_modified(now - Duration::from_nanos(123_456_789_012));
    for name in ["d/file", "sparse", "d/e", "d", "empty"] {
        File::open(at(name)).unwrap().set_times(times).unwrap();
    }
}

/// What there is of a tree of the host.
fn described(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(path) = dirs.pop() {
        let found = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(dir).unwrap();
        let (mode, links, size) = (found.mode(), found.nlink(), found.size());
        let times = (found.mtime(), found.mtime_nsec());
        let mut text = format!("{name:?} {mode:o} {links} {times:?}");
        if found.is_file() {
            let content = blake3::hash(&fs::read(&path).unwrap());
            text += &format!(" {size} {content} {}", found.blocks() < 2000);
        } else if found.is_symlink() {
            text += &format!(" {:?}", fs::read_link(&path).unwrap());
        } else if found.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            dirs.extend(entries.map(|entry| entry.unwrap().path()));
        }
        all.push(text);
    }
    all.sort();
    all
}

fn extracted(volume: &Volume) -> (Summary, Vec<u8>) {
    let mut stream = Vec::new();
    let (summary, done) = extract_to_tar(volume, b"", &mut stream, &mut go_on);
    done.unwrap();
    (summary, stream)
}

fn packed(dir: &Path) -> (Summary, Vec<u8>) {
    let mut stream = Vec::new();
    let (summary, done) = pack(dir, WalkHow::default(), &mut stream, &mut go_on);
    done.unwrap();
    (summary, stream)
}

#[test]
fn a_directory_is_imported_the_same_straight_and_by_a_stream() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    let (sent, _) = packed(dir.path());
    let sim = make();
    let store = open(&sim);
    let main = store.main().unwrap();
    let how = ImportHow::default();
    let (straight, done) = import_directory(&main, &how, dir.path(), &mut go_on);
    done.unwrap();
    let (_, stream) = packed(dir.path());
    store.create_dataset("other", (5, 5)).unwrap();
    let other = store.volume("other").unwrap();
    let (by_stream, done) = import_into(&other, "", false, &stream);
    done.unwrap();
    assert_eq!((&straight, &straight), (&by_stream, &sent));
    assert_eq!((straight.files, straight.hard_links), (6, 2));
    assert!(extracted(&main).1 == extracted(&other).1);
    assert!(at(&other, "sparse").unwrap().blocks < 2000);
    assert!(stream.len() < 4_000_000, "{}", stream.len());
    drop((main, other));
    finish(&store, &sim);
}

#[test]
fn a_directory_is_extracted_the_same_straight_and_by_a_stream() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    tree(&source);
    let sim = make();
    let store = open(&sim);
    let main = store.main().unwrap();
    import_into(&main, "", false, &packed(&source).1).1.unwrap();
    let attribute = main.lookup(Ino::ROOT, b"d").unwrap().ino;
    main.setxattr(attribute, b"user.a=\n", b"v", SetXattr::Any, false)
        .unwrap();
    let (summary, stream) = extracted(&main);
    let target = dir.path().join("target");
    let (unpacked, done) = unpack(&mut stream.as_slice(), &target, &mut go_on);
    done.unwrap();
    assert_eq!(unpacked, summary);
    assert_eq!(described(&target), described(&source));
    let straight = dir.path().join("straight");
    extract_to_directory(&main, b"", &straight, &mut go_on)
        .1
        .unwrap();
    assert_eq!(described(&target), described(&straight));
    let mut value = [0; 9];
    let len = rustix::fs::getxattr(target.join("d"), "user.a=\n", &mut value);
    // Not every file system has them.
    assert!(len.is_err() || value.starts_with(b"v"));
    // What is no directory.
    let (_, part) = extract_part(&main, "d/file");
    let alone = dir.path().join("alone");
    unpack(&mut part.as_slice(), &alone, &mut go_on).1.unwrap();
    assert!(fs::read(alone.join("file")).unwrap() == [7; 3_000_000]);
    let mut passed = Vec::new();
    let (seen, done) = pass_on(&mut stream.as_slice(), &mut passed, &mut go_on);
    done.unwrap();
    assert_eq!(seen, summary);
    assert!(passed == stream);
    drop(main);
    finish(&store, &sim);
}

fn extract_part(volume: &Volume, path: &str) -> (Summary, Vec<u8>) {
    let mut stream = Vec::new();
    let (summary, done) = extract_to_tar(volume, path.as_bytes(), &mut stream, &mut go_on);
    done.unwrap();
    (summary, stream)
}

/// Who sends the stream decides nothing but what is in the directory.
#[test]
fn a_stream_in_another_order_or_that_leads_elsewhere_is_refused() {
    let top = || given(b'5', ".");
    let cases: [(&[Given], &str); 11] = [
        (&[top(), file("../x", b"x")], "'..'"),
        (&[top(), file("a/../../x", b"x")], "'..'"),
        (&[top(), link(b'2', "s", ".."), file("s/x", b"x")], "order"),
        (
            &[top(), given(b'5', "d"), file("x", b""), file("d/y", b"")],
            "order",
        ),
        (&[file("x", b""), top()], "order"),
        (&[file("x", b""), file("y", b"")], "order"),
        (&[file("d/x", b"")], "order"),
        (&[top(), file("x", b""), file("x", b"")], "File exists"),
        (&[top(), given(b'5', "d"), given(b'5', "d")], "File exists"),
        (&[top(), link(b'1', "h", "../outside")], "'..'"),
        (
            &[top(), link(b'2', "s", ".."), link(b'1', "h", "s/outside")],
            "h: linking",
        ),
    ];
    for (members, reason) in cases {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("outside"), b"kept").unwrap();
        let stream = stream_of(members);
        let target = dir.path().join("target");
        let (_, done) = unpack(&mut stream.as_slice(), &target, &mut go_on);
        let error = done.expect_err(reason).to_string();
        assert!(error.contains(reason), "{error}, not: {reason}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        let outside = fs::metadata(dir.path().join("outside")).unwrap();
        assert_eq!((outside.nlink(), outside.len()), (1, 4));
    }
}

/// Cut off anywhere it is no whole one, and what was made before is.
#[test]
fn a_stream_that_is_cut_off_is_told_and_leaves_whole_files() {
    let members = [
        given(b'5', "."),
        file("a", &[1; 700]),
        given(b'5', "d"),
        file("d/b", &[2; 5000]),
        link(b'2', "d/c", "b"),
    ];
    let stream = stream_of(&members);
    for len in (0..stream.len() - 512).step_by(256) {
        let dir = tempfile::tempdir().unwrap();
        let part = &stream[..len];
        let target = dir.path().join("target");
        let done = unpack(&mut &*part, &target, &mut go_on).1;
        let is_cut = matches!(done, Err(ArchiveError::Damaged { .. }));
        // One block of zeros is an end mark, too.
        assert!(is_cut || len >= stream.len() - 512, "{len}: {done:?}");
        for (name, content) in [("a", &[1; 700][..]), ("d/b", &[2; 5000])] {
            if let Ok(found) = fs::read(target.join(name)) {
                assert!(found == content, "{len}: {name}");
            }
        }
        let mut out = Vec::new();
        let passed = pass_on(&mut &*part, &mut out, &mut go_on).1;
        assert_eq!(passed.is_err(), done.is_err(), "{len}");
    }
}

struct Full;

impl Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Who takes a stream and fails is told of as that, and not as damage.
#[test]
fn a_stream_that_cannot_be_written_is_told() {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    let (_, stream) = packed(dir.path());
    let passed = pass_on(&mut stream.as_slice(), &mut Full, &mut go_on).1;
    assert!(matches!(passed, Err(ArchiveError::Write(_))), "{passed:?}");
    let packed = pack(dir.path(), WalkHow::default(), &mut Full, &mut go_on).1;
    assert!(matches!(packed, Err(ArchiveError::Write(_))), "{packed:?}");
    let none = dir.path().join("none");
    let (summary, none) = pack(&none, WalkHow::default(), &mut Full, &mut go_on);
    assert!(none.unwrap_err().to_string().contains("No such file"));
    assert_eq!(summary, Summary::default());
    // Read to where it fails, and no further.
    let mut broken = stream[..5000].chain(Broken);
    let broken = pass_on(&mut broken, &mut io::sink(), &mut go_on).1;
    assert!(broken.unwrap_err().to_string().contains("unplugged"));
}

struct Broken;

impl io::Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("unplugged"))
    }
}

/// Its size was said before: the rest are zeros, and what comes behind it is where it belongs.
#[test]
fn a_file_that_becomes_shorter_does_not_spoil_the_stream() {
    let dir = tempfile::tempdir().unwrap();
    let shrinks = dir.path().join("a");
    fs::write(&shrinks, vec![7; 3 << 20]).unwrap();
    fs::write(dir.path().join("b"), b"behind").unwrap();
    let mut tell = |summary: &Summary| {
        if summary.bytes > 0 && summary.files == 0 {
            File::options()
                .write(true)
                .open(&shrinks)
                .unwrap()
                .set_len(1_500_000)
                .unwrap();
        }
        ControlFlow::Continue(())
    };
    let mut stream = Vec::new();
    let (summary, done) = pack(dir.path(), WalkHow::default(), &mut stream, &mut tell);
    done.unwrap();
    let skipped: Vec<_> = summary.skipped.into_iter().collect();
    assert_eq!(skipped.len(), 1);
    assert!(skipped[0].0.contains("became shorter"), "{skipped:?}");
    let sim = make();
    let store = open(&sim);
    let main = store.main().unwrap();
    import_into(&main, "", false, &stream).1.unwrap();
    let found = content(&main, "a");
    assert_eq!(found.len(), 3 << 20);
    assert!(found[..1_500_000].iter().all(|byte| *byte == 7));
    assert!(found[1_500_000..].iter().all(|byte| *byte == 0));
    assert_eq!(content(&main, "b"), b"behind");
    drop(main);
    finish(&store, &sim);
}

/// Directories are read a few names at a time, and fewer far down.
#[test]
fn directories_of_many_names_go_out_whole() {
    let sim = make();
    let store = open(&sim);
    let main = store.main().unwrap();
    let mut members: Vec<_> = (0..2600)
        .map(|name| file(&format!("{name}"), b""))
        .collect();
    let mut dir = String::new();
    for level in 0..40 {
        dir += &format!("d{level}/");
        members.extend(
            (0..40)
                .map(|name| file(&format!("x{name}"), b""))
                .map(|each| {
                    let path = format!("{dir}y{}", String::from_utf8_lossy(&each.path));
                    with_pax(each, "path", path.as_bytes())
                }),
        );
    }
    import_into(&main, "", false, &stream_of(&members))
        .1
        .unwrap();
    let (summary, stream) = extracted(&main);
    assert_eq!((summary.files, summary.directories), (2600 + 1600, 41));
    store.create_dataset("other", (5, 5)).unwrap();
    let other = store.volume("other").unwrap();
    import_into(&other, "", false, &stream).1.unwrap();
    assert_eq!(paths(&other), paths(&main));
    drop((main, other));
    finish(&store, &sim);
}

/// Half a stream would carry zeros for ever. A directory of the host gets all of it.
#[test]
fn a_file_of_too_many_holes_goes_out_of_an_open_store_only() {
    let dir = tempfile::tempdir().unwrap();
    let sim = make();
    let store = open(&sim);
    let main = store.main().unwrap();
    import_into(
        &main,
        "",
        false,
        &stream_of(&[file("f", b"x"), file("g", b"y")]),
    )
    .1
    .unwrap();
    let sparse = main.lookup(Ino::ROOT, b"f").unwrap().ino;
    main.import_link(sparse, Ino::ROOT, b"h").unwrap();
    for index in 1..=200_u64 {
        let flags = crate::engine::WriteFlags::default();
        let mut one = b"z".as_slice();
        main.write(sparse, index << 30, 1, &mut one, flags).unwrap();
    }
    let mut stream = vec![0; 1 << 20];
    let (summary, done) = extract_to_tar(&main, b"", &mut stream.as_mut_slice(), &mut go_on);
    done.unwrap();
    assert_eq!(summary.files, 1);
    let skipped = format!("{:?}", summary.skipped);
    assert!(
        skipped.contains("holes than a tar stream can have\": 2"),
        "{skipped}"
    );
    let target = dir.path().join("target");
    let (summary, done) = extract_to_directory(&main, b"", &target, &mut go_on);
    done.unwrap();
    assert_eq!((summary.files, summary.hard_links), (2, 1));
    let made = fs::metadata(target.join("f")).unwrap();
    assert_eq!(made.len(), (200 << 30) + 1);
    let (packed, stream) = packed(&target);
    // Where the file system of the host knows holes.
    if made.blocks() < 1 << 20 {
        assert_eq!((packed.files, stream.len() < 1 << 20), (1, true));
    }
    drop(main);
    finish(&store, &sim);
}

/// What no stream is to hold is told, and all else goes out.
#[test]
fn what_is_too_long_for_a_stream_is_left_out() {
    let sim = make();
    let store = open(&sim);
    let main = store.main().unwrap();
    let mut many = file("many", b"content");
    for name in 0..140 {
        many = with_pax(many, &format!("SCHILY.xattr.user.{name}"), &[7; 60_000]);
    }
    import_into(&main, "", false, &stream_of(&[many]))
        .1
        .unwrap();
    // The last four are longer, with what is before them, than a path may be.
    let mut dir = Ino::ROOT;
    for _ in 0..260 {
        dir = main.import_dir(dir, &[b'n'; 255]).unwrap().0;
    }
    let (summary, stream) = extracted(&main);
    assert_eq!((summary.files, summary.directories), (1, 1 + 256));
    let skipped = format!("{:?}", summary.skipped);
    for what in ["attributes", "path that is too long"] {
        assert!(skipped.contains(what), "{skipped}");
    }
    store.create_dataset("other", (5, 5)).unwrap();
    let other = store.volume("other").unwrap();
    let (again, done) = import_into(&other, "", false, &stream);
    done.unwrap();
    assert_eq!((again.files, again.directories), (1, 1 + 256));
    assert_eq!(content(&other, "many"), b"content");
    let kept = other
        .listxattr(at(&other, "many").unwrap().ino)
        .unwrap()
        .len();
    assert!((130..140).contains(&kept), "{kept}");
    drop((main, other));
    finish(&store, &sim);
}
