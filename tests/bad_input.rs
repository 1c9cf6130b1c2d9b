//! Stores that are not what they should be: each gets a clear error that names what is wrong and
//! what to do, nothing is lost, nothing panics, and razorfsck names the damage.
//!
//! Everything here runs the programs themselves.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use razorfs::engine::{Cred, NewInode, OpenOptions, SetXattr, Volume, WriteFlags};
use razorfs::format::id::Ino;
use tempfile::TempDir;

const RAZORFS: &str = env!("CARGO_BIN_EXE_razorfs");
const RAZORFSCK: &str = env!("CARGO_BIN_EXE_razorfsck");

const EXIT_CLEAN: i32 = 0;
const EXIT_MENDED: i32 = 1;
const EXIT_ERRORS: i32 = 4;
const EXIT_FAILED: i32 = 8;
const EXIT_USAGE: i32 = 16;

/// A panic exits with this.
const EXIT_PANIC: i32 = 101;

fn run(program: &str, args: &[&str]) -> (i32, String) {
    let output: Output = Command::new(program)
        .args(args)
        .env("RUST_LOG", "error")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let code = output.status.code().unwrap_or(-1);
    assert!(
        code != EXIT_PANIC && !text.contains("panicked"),
        "{args:?}: {text}"
    );
    (code, text)
}

/// A new store that is closed; it lies wherever the tests' temporary directory does.
struct Store {
    dir: PathBuf,
    path: String,
    /// Removed with everything in it at the end.
    _parent: TempDir,
}

impl Store {
    fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("store");
        let store = Store {
            path: dir.display().to_string(),
            dir,
            _parent: parent,
        };
        let (code, text) = run(
            RAZORFS,
            &["mkfs", store.path(), "--log-size", "4M", "--allow-volatile"],
        );
        assert_eq!(code, 0, "{text}");
        store
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn file(&self, name: &str) -> File {
        let path = self.dir.join(name);
        File::options().read(true).write(true).open(path).unwrap()
    }

    fn flip(&self, name: &str, offset: u64) {
        let file = self.file(name);
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        byte[0] ^= 0x10;
        file.write_all_at(&byte, offset).unwrap();
    }

    /// Changes a field of both copies of the superblock and makes the checksums right again.
    fn edit_superblock(&self, offset: usize, bytes: &[u8]) {
        let file = self.file("superblock");
        for copy in 0..2 {
            let mut block = [0; 4096];
            file.read_exact_at(&mut block, copy * 4096).unwrap();
            block[offset..offset + bytes.len()].copy_from_slice(bytes);
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(&block[..4]);
            hasher.update(&block[8..]);
            block[4..8].copy_from_slice(&hasher.finalize().to_le_bytes());
            file.write_all_at(&block, copy * 4096).unwrap();
        }
    }

    fn content(&self) -> Vec<Vec<u8>> {
        [
            "superblock",
            "nodes.dat",
            "strings.dat",
            "chunks.dat",
            "wal.log",
        ]
        .map(|name| std::fs::read(self.dir.join(name)).unwrap())
        .to_vec()
    }

    /// A file of 20,000 bytes with a name and an extended attribute; closed unless `killed`.
    fn fill(&self, killed: bool) {
        let options = OpenOptions {
            allow_volatile: true,
            background: false,
            ..OpenOptions::default()
        };
        let volume = Volume::open(&self.dir, options).unwrap();
        let new = NewInode {
            mode: 0o100_644,
            umask: 0o022,
            rdev: 0,
            xattrs: &[],
            supplementary_gid: None,
        };
        let file = volume
            .create(Cred::default(), Ino::ROOT, b"file", &new)
            .unwrap();
        let content = [7u8; 20_000];
        let flags = WriteFlags::default();
        volume
            .write(file.ino, 0, content.len(), &mut content.as_slice(), flags)
            .unwrap();
        volume.fsync(file.ino, false).unwrap();
        volume
            .setxattr(file.ino, b"user.a", b"1", SetXattr::Any, false)
            .unwrap();
        volume.sync_all().unwrap();
        if !killed {
            volume.store().close().unwrap();
        }
    }

    fn fsck(&self) -> (i32, String) {
        run(RAZORFSCK, &[self.path(), "--data"])
    }

    fn info(&self) -> (i32, String) {
        run(RAZORFS, &["info", self.path()])
    }
}

fn expect((code, text): (i32, String), expected: i32, words: &[&str]) {
    assert_eq!(code, expected, "{text}");
    for word in words {
        assert!(text.contains(word), "'{word}' is not in: {text}");
    }
}

#[test]
fn a_sound_store_is_clean() {
    let store = Store::new();
    expect(store.fsck(), EXIT_CLEAN, &["clean"]);
    expect(store.info(), 0, &["UUID", "main"]);
}

#[test]
fn checking_and_asking_change_no_byte() {
    let store = Store::new();
    let before = store.content();
    expect(store.fsck(), EXIT_CLEAN, &[]);
    expect(store.info(), 0, &[]);
    assert!(before == store.content());
}

#[test]
fn a_directory_that_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    std::fs::write(dir.path().join("precious"), "data").unwrap();
    let words = ["not a razorfs store", "mkfs"];
    expect(run(RAZORFSCK, &[path]), EXIT_FAILED, &words);
    expect(run(RAZORFS, &["info", path]), 1, &words);
    expect(
        run(RAZORFS, &["recover", path, "--allow-volatile"]),
        1,
        &words,
    );
    let made = run(RAZORFS, &["mkfs", path, "--force", "--allow-volatile"]);
    expect(made, 1, &["not empty"]);
    assert_eq!(std::fs::read(dir.path().join("precious")).unwrap(), b"data");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_store_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none");
    let path = path.to_str().unwrap();
    expect(
        run(RAZORFSCK, &[path]),
        EXIT_FAILED,
        &["not a razorfs store"],
    );
    expect(run(RAZORFS, &["info", path]), 1, &["not a razorfs store"]);
}

#[test]
fn a_store_is_not_made_over_another_unasked() {
    let store = Store::new();
    let before = store.content();
    let made = run(RAZORFS, &["mkfs", store.path(), "--allow-volatile"]);
    expect(made, 1, &["holds a razorfs store already", "--force"]);
    assert!(before == store.content());
}

#[test]
fn a_newer_version() {
    let store = Store::new();
    store.edit_superblock(8, &2u32.to_le_bytes());
    let before = store.content();
    let words = ["version 2", "use a newer razorfs"];
    expect(store.info(), 1, &words);
    expect(store.fsck(), EXIT_FAILED, &words);
    let recovered = run(RAZORFS, &["recover", store.path(), "--allow-volatile"]);
    expect(recovered, 1, &words);
    assert!(before == store.content());
}

#[test]
fn an_unknown_feature() {
    let store = Store::new();
    store.edit_superblock(32, &(1u64 << 40).to_le_bytes());
    let before = store.content();
    let words = ["unknown incompatible features", "use a newer razorfs"];
    expect(store.info(), 1, &words);
    expect(store.fsck(), EXIT_FAILED, &words);
    assert!(before == store.content());
}

#[test]
fn a_store_in_use() {
    let store = Store::new();
    let holder = store.file("superblock");
    holder.lock().unwrap();
    let words = ["in use by another process", "stop it first"];
    expect(store.fsck(), EXIT_FAILED, &words);
    expect(store.info(), 1, &words);
    expect(
        run(RAZORFS, &["recover", store.path(), "--allow-volatile"]),
        1,
        &words,
    );
    let made = run(
        RAZORFS,
        &["mkfs", store.path(), "--force", "--allow-volatile"],
    );
    expect(made, 1, &words);
    drop(holder);
    expect(store.fsck(), EXIT_CLEAN, &[]);
}

#[test]
fn a_file_system_in_memory() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
        return;
    };
    let path = dir.path().join("store");
    let path = path.to_str().unwrap();
    let words = ["tmpfs", "--allow-volatile"];
    expect(run(RAZORFS, &["mkfs", path]), 1, &words);
    assert!(!Path::new(path).exists());
    expect(
        run(
            RAZORFS,
            &["mkfs", path, "--log-size", "4M", "--allow-volatile"],
        ),
        0,
        &[],
    );
    // Reading harms nothing; to open it for writing is to rely on it.
    expect(run(RAZORFS, &["info", path]), 0, &[]);
    expect(run(RAZORFS, &["recover", path]), 1, &words);
}

/// A small tmpfs; `None` where this process may not mount.
struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(dir.path())
            .output();
        match done {
            Ok(output) if output.status.success() => Some(SmallDisk { dir }),
            _ => None,
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.dir.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[test]
fn a_full_disk() {
    let Some(disk) = SmallDisk::new("8M") else {
        return;
    };
    let path = disk.dir.path().join("store");
    let text = path.to_str().unwrap();
    let made = run(RAZORFS, &["mkfs", text, "--allow-volatile"]);
    expect(made, 1, &["no store was made", "no space left"]);
    assert!(!path.exists(), "nothing stays behind");
}

#[test]
fn truncated_nodes() {
    let store = Store::new();
    store.file("nodes.dat").set_len(4096 * 2).unwrap();
    let before = store.content();
    let words = ["nodes.dat", "truncated"];
    expect(store.info(), 1, &words);
    expect(store.fsck(), EXIT_ERRORS, &words);
    expect(
        run(RAZORFS, &["recover", store.path(), "--allow-volatile"]),
        1,
        &words,
    );
    assert!(before == store.content());
}

#[test]
fn an_empty_file_in_the_place_of_each() {
    for name in ["superblock", "nodes.dat", "wal.log"] {
        let store = Store::new();
        store.file(name).set_len(0).unwrap();
        expect(store.info(), 1, &[name]);
        expect(store.fsck(), EXIT_ERRORS, &[name]);
    }
}

#[test]
fn a_missing_file() {
    for name in ["nodes.dat", "strings.dat", "chunks.dat", "wal.log"] {
        let store = Store::new();
        std::fs::remove_file(store.dir.join(name)).unwrap();
        expect(store.info(), 1, &[name]);
        expect(store.fsck(), EXIT_FAILED, &[name]);
    }
}

#[test]
fn the_log_of_another_store() {
    let (store, other) = (Store::new(), Store::new());
    std::fs::copy(other.dir.join("wal.log"), store.dir.join("wal.log")).unwrap();
    expect(store.info(), 1, &["belongs to another store"]);
    expect(store.fsck(), EXIT_ERRORS, &["belongs to another store"]);
}

#[test]
fn a_flipped_bit_in_a_superblock_copy() {
    for copy in 0..2 {
        let store = Store::new();
        store.flip("superblock", copy * 4096 + 60);
        let name = format!("superblock copy {copy}");
        expect(store.fsck(), EXIT_ERRORS, &[&name, "checksum"]);
        expect(store.info(), 0, &[&name]);
        // The other copy counts; opening the store mends this one.
        let recovered = run(RAZORFS, &["recover", store.path(), "--allow-volatile"]);
        expect(recovered, 0, &[&name]);
        expect(store.fsck(), EXIT_CLEAN, &["clean"]);
    }
}

#[test]
fn a_flipped_bit_in_both_superblock_copies() {
    let store = Store::new();
    store.flip("superblock", 60);
    store.flip("superblock", 4096 + 60);
    expect(store.fsck(), EXIT_ERRORS, &["superblock", "checksum"]);
    expect(store.info(), 1, &["superblock", "checksum"]);
}

#[test]
fn a_flipped_bit_in_nodes() {
    let store = Store::new();
    // Pages 1 to 4 are those of a new store's trees.
    for page in 1..=4 {
        let store_at = page * 4096 + 100;
        store.flip("nodes.dat", store_at);
        let name = format!("page {page}");
        expect(store.fsck(), EXIT_ERRORS, &[&name, "checksum"]);
        store.flip("nodes.dat", store_at);
    }
    expect(store.fsck(), EXIT_CLEAN, &[]);
}

#[test]
fn a_flipped_bit_in_the_log() {
    for copy in 0..2 {
        let store = Store::new();
        store.flip("wal.log", copy * 4096 + 30);
        let name = format!("wal.log header copy {copy}");
        expect(store.fsck(), EXIT_ERRORS, &[&name, "checksum"]);
        expect(store.info(), 0, &[]);
    }
}

#[test]
fn a_flipped_bit_in_names_and_content() {
    let store = Store::new();
    store.fill(false);
    expect(store.fsck(), EXIT_CLEAN, &["clean"]);
    // The name 'file' is the first in strings.dat, the content the first chunk.
    store.flip("strings.dat", 6);
    expect(store.fsck(), EXIT_ERRORS, &["strings.dat", "checksum"]);
    store.flip("strings.dat", 6);
    store.flip("chunks.dat", 5000);
    expect(store.fsck(), EXIT_ERRORS, &["chunk ", "bytes 4096..8192"]);
    // Without --data content is not read.
    expect(run(RAZORFSCK, &[store.path()]), EXIT_CLEAN, &[]);
    store.flip("chunks.dat", 5000);
    expect(store.fsck(), EXIT_CLEAN, &["clean"]);
}

#[test]
fn a_repair_says_what_is_gone_and_leaves_a_clean_store() {
    let store = Store::new();
    store.fill(false);
    let repair = || run(RAZORFSCK, &[store.path(), "--data", "--repair"]);
    let before = store.content();
    expect(repair(), EXIT_CLEAN, &["clean"]);
    assert!(before == store.content(), "what is sound stays as it is");
    store.flip("chunks.dat", 5000);
    let words = ["bytes 4096..8192", "is \"/file\"", "0 left"];
    expect(repair(), EXIT_MENDED, &words);
    expect(store.fsck(), EXIT_CLEAN, &["1 warnings"]);
    // The first name in strings.dat is that of the file.
    store.flip("strings.dat", 6);
    expect(repair(), EXIT_MENDED, &["lost+found/#2"]);
    expect(repair(), EXIT_CLEAN, &[]);
    let json = run(RAZORFSCK, &[store.path(), "--json", "--repair"]).1;
    assert!(
        json.contains("\"clean\": true") && json.contains("\"fixes\": []"),
        "{json}"
    );
    let neither = run(RAZORFSCK, &[store.path(), "-n", "--repair"]);
    assert_eq!(neither.0, EXIT_USAGE);
}

#[test]
fn a_scrub_finds_what_is_damaged() {
    let store = Store::new();
    store.fill(false);
    let scrub = || run(RAZORFS, &["scrub", store.path(), "--allow-volatile"]);
    expect(scrub(), EXIT_CLEAN, &["0 damaged"]);
    expect(store.fsck(), EXIT_CLEAN, &["clean"]);
    store.flip("chunks.dat", 5000);
    expect(scrub(), EXIT_ERRORS, &["damaged: chunk", "1 damaged"]);
    let json = run(
        RAZORFS,
        &["scrub", store.path(), "--allow-volatile", "--json"],
    );
    expect(json, EXIT_ERRORS, &["\"done\": true", "\"errors\": 1"]);
}

#[test]
fn a_superblock_that_is_gone_cannot_be_repaired() {
    let store = Store::new();
    store.fill(false);
    std::fs::write(store.dir.join("superblock"), [0; 8192]).unwrap();
    let before = store.content();
    let result = run(RAZORFSCK, &[store.path(), "--repair"]);
    expect(result, EXIT_FAILED, &["superblock", "put back a copy"]);
    assert!(before == store.content());
}

#[test]
fn a_flipped_bit_in_acknowledged_log() {
    let store = Store::new();
    store.fill(true);
    expect(store.fsck(), EXIT_CLEAN, &["clean"]);
    // The log of a new store begins behind what mkfs wrote into it: one batch.
    store.flip("wal.log", 8192 + 4096 + 200);
    let words = ["wal.log is damaged", "--discard-damaged-log"];
    expect(store.fsck(), EXIT_ERRORS, &words);
    let before = store.content();
    let recover = ["recover", store.path(), "--allow-volatile"];
    expect(run(RAZORFS, &recover), 1, &words);
    assert!(before == store.content(), "nothing is changed unasked");
    let accepted = [&recover[..], &["--discard-damaged-log"]].concat();
    expect(run(RAZORFS, &accepted), 0, &["damaged"]);
    expect(store.fsck(), EXIT_CLEAN, &["clean"]);
}

#[test]
fn wrong_usage() {
    assert_eq!(run(RAZORFSCK, &[]).0, EXIT_USAGE);
    assert_eq!(run(RAZORFSCK, &["--repair-everything", "x"]).0, EXIT_USAGE);
    assert_eq!(run(RAZORFSCK, &["--help"]).0, EXIT_CLEAN);
    assert_eq!(run(RAZORFS, &["mkfs"]).0, 2);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let small = run(
        RAZORFS,
        &[
            "mkfs",
            path.to_str().unwrap(),
            "--log-size",
            "5000",
            "--allow-volatile",
        ],
    );
    expect(small, 1, &["--log-size", "multiple of 4096"]);
    assert!(!path.exists());
}

#[test]
fn limits_that_cannot_be() {
    let store = Store::new();
    let with = |verb: &str, rest: &[&str]| {
        let args = [&[verb, store.path(), "--allow-volatile"], rest].concat();
        run(RAZORFS, &args)
    };
    for (setting, words) in [
        ("quota=0", ["quota", "none"]),
        ("quota=-5", ["quota", "'-5'"]),
        ("quota=99999999P", ["quota", "below 2^64"]),
        ("quota-inodes=few", ["quota-inodes", "'few'"]),
        (
            "reservation=1000P",
            ["keep 1125899906844721152 bytes", "are free"],
        ),
        ("reservation=8000P", ["'main'", "no store has room"]),
    ] {
        expect(with("set", &[setting]), 1, &words);
    }
    let above = ["quota=1M", "reservation=2M"];
    expect(with("set", &above), 1, &["larger than its quota"]);
    expect(with("create", &["web", "--quota", "0"]), 2, &["say none"]);
    let no_room = with("create", &["web", "--reservation", "1000P"]);
    expect(no_room, 1, &["'web'", "no room", "are free"]);
    let list = with("list", &[]);
    assert!(
        !list.1.contains("web") && !list.1.contains("quota"),
        "{list:?}"
    );
    // What can be is told of.
    let limits = [
        "--quota",
        "1.5M",
        "--quota-inodes",
        "7",
        "--reservation",
        "1M",
    ];
    let web = [&["web"], &limits[..]].concat();
    expect(with("create", &web), 0, &[]);
    let words = ["quota 1.5 MiB, quota 7 inodes, reservation 1.0 MiB"];
    expect(with("list", &[]), 0, &words);
    expect(store.info(), 0, &words);
    let words = [
        "\"quota_bytes\": 1572864",
        "\"quota_inodes\": 7",
        "\"reservation_bytes\": 1048576",
    ];
    expect(with("list", &["--json"]), 0, &words);
    expect(run(RAZORFS, &["info", store.path(), "--json"]), 0, &words);
    let none = ["quota=none", "quota-inodes=none", "reservation=none"];
    expect(
        with("set", &[&["--dataset", "web"], &none[..]].concat()),
        0,
        &[],
    );
    assert!(!with("list", &[]).1.contains("quota"));
    expect(with("snapshot", &["web@s"]), 0, &[]);
    let snapshot = with("set", &["--dataset", "web@s", "quota=1M"]);
    expect(snapshot, 1, &["web@s", "snapshot"]);
    expect(store.fsck(), EXIT_CLEAN, &["clean"]);
}
