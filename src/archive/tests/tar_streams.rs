//! What tar streams may say, and what they may not.

use super::*;
use crate::format::xattr::XATTR_VALUE_MAX;

/// Imports a stream into `to` of a dataset that has something outside it; the paths then. The store
/// is sound whatever came.
fn imported(stream: &[u8]) -> (Vec<String>, Result<()>) {
    let sim = make();
    let store = open(&sim);
    let main = store.main().unwrap();
    let outside = stream_of(&[file("outside/secret", b"kept")]);
    import_into(&main, "", false, &outside).1.unwrap();
    let (_, done) = import_into(&main, "in", false, stream);
    assert_eq!(content(&main, "outside/secret"), b"kept");
    assert_eq!(at(&main, "outside/secret").unwrap().nlink, 1);
    let found = paths(&main);
    let stray: Vec<_> = found
        .iter()
        .filter(|path| !path.starts_with("/in") && !path.starts_with("/outside"))
        .collect();
    assert_eq!(stray, Vec::<&String>::new());
    assert_eq!(
        found
            .iter()
            .filter(|path| path.starts_with("/outside"))
            .count(),
        2
    );
    assert_eq!(main.orphans_for_tests(), []);
    drop(main);
    finish(&store, &sim);
    let inside = found.into_iter().filter_map(|path| {
        let path = path.strip_prefix("/in")?;
        path.strip_prefix('/').map(ToOwned::to_owned)
    });
    (inside.collect(), done)
}

fn refused(members: &[Given], reason: &str) {
    let (_, done) = imported(&stream_of(members));
    let error = done.expect_err(reason).to_string();
    assert!(error.contains(reason), "{error}, not: {reason}");
}

#[test]
fn nothing_leads_outside() {
    let (found, done) = imported(&stream_of(&[
        file("/etc/passwd", b"x"),
        file("./a//b", b"y"),
    ]));
    done.unwrap();
    assert_eq!(found, ["a", "a/b", "etc", "etc/passwd"]);
    refused(&[file("../outside/secret", b"x")], "'..'");
    refused(&[file("a/../../outside/secret", b"x")], "'..'");
    refused(&[with_pax(file("a", b"x"), "path", b"../a")], "'..'");
    for target in ["../outside", "/outside", "."] {
        let members = [link(b'2', "s", target), file("s/secret", b"x")];
        refused(&members, "s: not a directory");
    }
    refused(&[link(b'1', "h", "../outside/secret")], "'..'");
    refused(&[link(b'1', "h", "/outside/secret")], "not there");
    let through = [link(b'2', "s", "../outside"), link(b'1', "h", "s/secret")];
    refused(&through, "not there");
    let dir = [given(b'5', "d"), link(b'1', "h", "d")];
    refused(&dir, "a directory");
    refused(&[file("", b"x")], "without a name");
    refused(&[file(".", b"x")], "without a name");
}

#[test]
fn names_have_limits() {
    let long = "n".repeat(256);
    refused(
        &[with_pax(file("a", b""), "path", long.as_bytes())],
        "255 bytes",
    );
    let most = "n".repeat(255);
    let path = format!("{most}/{most}/{most}/{most}/{most}");
    let (found, done) = imported(&stream_of(&[with_pax(
        file("a", b""),
        "path",
        path.as_bytes(),
    )]));
    done.unwrap();
    assert_eq!(found.last(), Some(&path));
    refused(&[with_pax(file("a", b""), "path", b"a\0b")], "NUL");
    let target = vec![b't'; 4096];
    refused(
        &[with_pax(link(b'2', "l", ""), "linkpath", &target)],
        "too long",
    );
    refused(&[link(b'2', "l", "")], "4095");
    let nested = "d/".repeat(40_000) + "f";
    refused(
        &[with_pax(file("a", b""), "path", nested.as_bytes())],
        "a path of more than 65536 bytes",
    );
    refused(
        &[with_pax(link(b'1', "l", ""), "linkpath", nested.as_bytes())],
        "a path of more than 65536 bytes",
    );
    // GNU tar's long names, and one that has none.
    let long = Given {
        content: b"x/y/long-name\0".to_vec(),
        ..given(b'L', "././@LongLink")
    };
    let (found, done) = imported(&stream_of(&[long, file("cut-off", b"")]));
    done.unwrap();
    assert_eq!(found, ["x", "x/y", "x/y/long-name"]);
}

#[test]
fn sizes_are_believed_as_far_as_they_can_be() {
    let mut huge = file("a", b"x");
    huge.size = Some(b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff".to_vec());
    refused(&[huge.clone()], "2^63");
    huge.size = Some(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff".to_vec());
    refused(&[huge.clone()], "cut off");
    huge.size = Some(vec![0xff; 12]);
    refused(&[huge.clone()], "size");
    huge.size = Some(b"not a size !".to_vec());
    refused(&[huge], "size");
    let pax = |size: &[u8]| with_pax(file("a", b"x"), "size", size);
    refused(&[pax(b"9223372036854775808")], "2^63");
    refused(&[pax(b"99999999999999999999999")], "number");
    refused(&[pax(b"-1")], "number");
    // Extensions are bounded, and are not made room for before they are there.
    for kind in [b'x', b'g', b'L', b'K'] {
        let mut large = given(kind, "x");
        large.size = Some(octal(1 << 30));
        refused(&[large], "extended by");
        let mut claimed = given(kind, "x");
        claimed.size = Some(octal(15 << 20));
        refused(&[claimed], "cut off");
    }
}

#[test]
fn a_stream_that_is_cut_off_anywhere_is_found_so() {
    let members = [
        with_pax(file("a", &[7; 700]), "SCHILY.xattr.user.x", b"y\n"),
        given(b'5', "d"),
        file("d/b", b"content"),
    ];
    let stream = stream_of(&members);
    for len in (0..stream.len() - 1024).step_by(64) {
        let (found, done) = imported(&stream[..len]);
        let error = done.unwrap_err().to_string();
        let expected = ["cut off", "without an end mark", "empty"];
        assert!(
            expected.iter().any(|part| error.contains(part)),
            "{len}: {error}"
        );
        assert!(found.len() <= 3, "{found:?}");
    }
    // Any byte of a header that is another.
    for at in (0..stream.len() - 1024).step_by(7) {
        let mut stream = stream.clone();
        stream[at] ^= 0x10;
        let _ = imported(&stream);
    }
    let (_, packed) = imported(b"\x1f\x8b".repeat(300).as_slice());
    assert!(packed.unwrap_err().to_string().contains("gzip -dc"));
    let (_, text) = imported(&[b'x'; 2000]);
    assert!(text.unwrap_err().to_string().contains("no tar stream"));
}

#[test]
fn what_comes_again_takes_the_place_of_what_was_there() {
    let members = [
        file("a", b"first"),
        file("a", b"second, longer"),
        link(b'2', "d", "a"),
        given(b'5', "d"),
        file("d/f", b"x"),
        link(b'1', "l", "a"),
        file("l", b"its own"),
        link(b'1', "l", "l"),
        link(b'2', "a", "elsewhere"),
    ];
    let (found, done) = imported(&stream_of(&members));
    done.unwrap();
    assert_eq!(found, ["a", "d", "d/f", "l"]);
    refused(&[given(b'5', "d"), file("d", b"x")], "is a directory");
    refused(&[given(b'5', "d"), link(b'2', "d", "x")], "is a directory");
}

#[test]
fn attributes_come_along() {
    let sim = make();
    let store = open(&sim);
    let main = store.main().unwrap();
    let large = vec![b'\n'; XATTR_VALUE_MAX];
    let acl = b"user::rw-,user:5:r--,group::---,mask::r--,other::---";
    let mut one = file("f", b"x");
    for (key, value) in [
        ("mtime", b"-1.5".as_slice()),
        ("atime", b"1700000000.123456789"),
        ("uid", b"4000000000"),
        ("SCHILY.xattr.user.large", &large),
        ("SCHILY.xattr.user.a%3Db", b"="),
        ("SCHILY.xattr.security.capability", b"cap"),
        ("SCHILY.xattr.system.nfs4_acl", b"not kept"),
        ("SCHILY.acl.access", acl),
        ("unknown.key", b"x"),
    ] {
        one = with_pax(one, key, value);
    }
    let many = (0..40).fold(given(b'5', "d"), |dir, index| {
        with_pax(dir, &format!("SCHILY.xattr.user.{index}"), b"v")
    });
    let device = given(b'3', "null");
    let (summary, done) = import_into(&main, "", false, &stream_of(&[one, many, device]));
    done.unwrap();
    assert_eq!(summary.skipped.values().sum::<u64>(), 1);
    let found = at(&main, "f").unwrap();
    let time = |sec, nsec| Time { sec, nsec };
    assert_eq!(found.mtime, time(-2, 500_000_000));
    assert_eq!(found.atime, time(1_700_000_000, 123_456_789));
    assert_eq!(
        (found.uid, found.gid, found.mode & 0o777),
        (4_000_000_000, 9, 0o640)
    );
    let xattr = |name: &str| main.getxattr(found.ino, name.as_bytes()).unwrap();
    assert_eq!(xattr("user.large"), large);
    assert_eq!(xattr("user.a=b"), b"=");
    assert_eq!(xattr("security.capability"), b"cap");
    let list = xattr("system.posix_acl_access");
    assert_eq!(acl::to_text(&list).unwrap().as_bytes(), acl);
    assert_eq!(
        main.listxattr(at(&main, "d").unwrap().ino).unwrap().len(),
        40
    );
    let null = at(&main, "null").unwrap();
    assert_eq!(
        (null.mode & libc::S_IFMT, null.rdev),
        (libc::S_IFCHR, 0x103)
    );
    drop(main);
    finish(&store, &sim);
    refused(
        &[with_pax(
            file("f", b""),
            "SCHILY.xattr.user.x",
            &vec![1; XATTR_VALUE_MAX + 1],
        )],
        "too long",
    );
    refused(
        &[with_pax(link(b'2', "l", "x"), "SCHILY.xattr.user.x", b"y")],
        "l: invalid argument",
    );
    refused(
        &[with_pax(
            file("f", b""),
            "SCHILY.xattr.system.posix_acl_access",
            b"x",
        )],
        "not a POSIX ACL",
    );
}

/// A file with holes in the form 1.0: the map as text, and the stored bytes behind it.
fn sparse(size: u64, map: &str, stored: &[u8]) -> Given {
    let mut content = padded(map.as_bytes().to_vec());
    content.extend_from_slice(stored);
    let given = file("GNUSparseFile.0/s", &content);
    let given = with_pax(given, "GNU.sparse.major", b"1");
    let given = with_pax(given, "GNU.sparse.minor", b"0");
    let given = with_pax(given, "GNU.sparse.name", b"s");
    with_pax(given, "GNU.sparse.realsize", size.to_string().as_bytes())
}

#[test]
fn holes_stay_holes_and_maps_must_fit() {
    let sim = make();
    let store = open(&sim);
    let main = store.main().unwrap();
    let map = "2\n1000000\n3\n5000000\n0\n";
    let stream = stream_of(&[sparse(5_000_000, map, b"abc")]);
    import_into(&main, "", false, &stream).1.unwrap();
    let found = at(&main, "s").unwrap();
    assert_eq!(found.size, 5_000_000);
    assert!(found.blocks < 100, "{}", found.blocks);
    assert_eq!(&content(&main, "s")[999_999..1_000_004], b"\0abc\0");
    // The older forms.
    let stored = [&[b'a'; 512][..], b"cd"].concat();
    let old = with_pax(file("o", &stored), "GNU.sparse.map", b"10,512,600,2");
    let old = with_pax(old, "GNU.sparse.size", b"700");
    let oldest = with_pax(file("oo", b"xy"), "GNU.sparse.offset", b"4");
    let oldest = with_pax(oldest, "GNU.sparse.numbytes", b"2");
    let oldest = with_pax(oldest, "GNU.sparse.size", b"6");
    import_into(&main, "", true, &stream_of(&[old, oldest]))
        .1
        .unwrap();
    assert_eq!(
        content(&main, "o"),
        [&[0; 10][..], &[b'a'; 512], &[0; 78], b"cd", &[0; 98]].concat()
    );
    assert_eq!(content(&main, "oo"), b"\0\0\0\0xy");
    drop(main);
    finish(&store, &sim);
    for (size, map, stored) in [
        (10, "2\n0\n4\n2\n4\n", b"aabbccdd".as_slice()),
        (10, "2\n4\n2\n0\n2\n", b"abcd"),
        (10, "1\n8\n4\n", b"abcd"),
        (10, "1\n0\n4\n", b"ab"),
        (10, "1\n0\n2\n", b"abcd"),
        (10, "1\n18446744073709551615\n4\n", b"abcd"),
        (10, "1\nx\n4\n", b"abcd"),
        (10, "\n", b"abcd"),
        (10, "99999999\n0\n4\n", b"abcd"),
        (10, "3\n0\n4\n", b""),
        // GNU tar reads another file from it than others do.
        (5000, "2\n0\n2\n4096\n2\n", b"abcd"),
        (1 << 63, "1\n0\n4\n", b"abcd"),
    ] {
        let (_, done) = imported(&stream_of(&[sparse(size, map, stored)]));
        let error = done.expect_err(map).to_string();
        assert!(error.contains("damaged"), "{map}: {error}");
    }
    let odd = with_pax(file("o", b"ab"), "GNU.sparse.map", b"0,2,4");
    refused(&[odd], "within a pair");
    let order = with_pax(file("o", b"ab"), "GNU.sparse.numbytes", b"2");
    refused(&[order], "out of order");
}

/// However many ranges of data a file has, what is written can be read: where they are more than a map
/// has, the shortest holes become zeros. A directory of the host has them all.
#[test]
fn files_of_many_ranges_come_back() {
    let sim = make();
    let store = open(&sim);
    let main = store.main().unwrap();
    // The reader of the tests knows 64; of the first file's holes each is needed.
    for (name, count) in [("few", 63), ("many", 64), ("lots", 500_u64)] {
        import_into(&main, "", true, &stream_of(&[file(name, b"")]))
            .1
            .unwrap();
        let ino = main.lookup(Ino::ROOT, name.as_bytes()).unwrap().ino;
        for n in 0..count {
            let flags = crate::engine::WriteFlags::default();
            let mut source: &[u8] = &[(n % 250) as u8 + 1; 4096];
            let gap = if n > count - 40 { 1 << 22 } else { 12_288 };
            main.write(ino, n * gap, 4096, &mut source, flags).unwrap();
        }
    }
    let mut stream = Vec::new();
    extract_to_tar(&main, b"", &mut stream, &mut go_on)
        .1
        .unwrap();
    store.create_dataset("other", (0, 0)).unwrap();
    let other = store.volume("other").unwrap();
    import_into(&other, "", false, &stream).1.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let host = dir.path().join("host");
    extract_to_directory(&main, b"", &host, &mut go_on)
        .1
        .unwrap();
    for name in ["few", "many", "lots"] {
        let expected = content(&main, name);
        assert!(content(&other, name) == expected, "{name}");
        assert!(
            std::fs::read(host.join(name)).unwrap() == expected,
            "{name}"
        );
    }
    let blocks = |volume, name| at(volume, name).unwrap().blocks;
    assert_eq!(blocks(&other, "few"), blocks(&main, "few"));
    // Of the long holes none is gone.
    let more = blocks(&other, "lots") * 512;
    assert!(more < 2 * 500 * 12_288, "{more}");
    drop((main, other));
    finish(&store, &sim);
    let map: String = (0..65).map(|n| format!("{n}\n1\n")).collect();
    let longer = sparse(65, &format!("65\n{map}"), &[7; 65]);
    refused(&[longer], "more holes than are read");
}

/// Whatever is in a dataset comes back from its own stream.
#[test]
fn a_stream_that_was_extracted_is_imported_as_it_was() {
    let sim = make();
    let store = open(&sim);
    let main = store.main().unwrap();
    let long = "p".repeat(200);
    let deep = format!("d/{long}/{long}");
    let mut members = vec![
        with_pax(given(b'5', "."), "mtime", b"12345.000000678"),
        with_pax(given(b'5', "d"), "SCHILY.acl.default", b"u::rwx,g::rx,o::-"),
        with_pax(file("x", &[3; 1234]), "path", deep.as_bytes()),
        with_pax(file("f", &[1; 512]), "SCHILY.xattr.user.=%", b"a=\n"),
        sparse(3 << 20, "2\n4096\n4096\n2000896\n3\n", &[5; 4099]),
        file("empty", b""),
        link(b'1', "hard", "f"),
        link(b'2', "soft", "d/../f"),
        given(b'6', "fifo"),
        given(b'4', "disk"),
    ];
    for given in &mut members {
        given.pax.push((b"atime".to_vec(), b"-7.25".to_vec()));
    }
    import_into(&main, "", false, &stream_of(&members))
        .1
        .unwrap();
    let extracted = |volume: &Volume| {
        let mut stream = Vec::new();
        let (summary, done) = extract_to_tar(volume, b"", &mut stream, &mut go_on);
        done.unwrap();
        (summary, stream)
    };
    let (summary, stream) = extracted(&main);
    assert_eq!(
        (summary.files, summary.hard_links, summary.specials),
        (4, 1, 2)
    );
    store.create_dataset("other", (5, 5)).unwrap();
    let other = store.volume("other").unwrap();
    import_into(&other, "", false, &stream).1.unwrap();
    assert_eq!(paths(&other), paths(&main));
    let (_, again) = extracted(&other);
    assert!(again == stream, "it is not the same stream");
    assert_eq!(content(&other, &deep), [3; 1234]);
    assert!(at(&other, "s").unwrap().blocks < 100);
    // A part of it.
    let mut part = Vec::new();
    extract_to_tar(&main, b"d", &mut part, &mut go_on)
        .1
        .unwrap();
    import_into(&other, "part", false, &part).1.unwrap();
    assert_eq!(content(&other, &format!("part/{long}/{long}")), [3; 1234]);
    let (_, none) = extract_to_tar(&main, b"none", &mut part, &mut go_on);
    assert!(none.unwrap_err().to_string().starts_with("none: no such"));
    drop((main, other));
    finish(&store, &sim);
}
