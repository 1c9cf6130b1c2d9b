//! What is in files: holes, copies, locks, many writers.

use super::*;

#[test]
fn holes_are_made_found_and_cost_nothing() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let file = mounted.file("file", &[9; 1 << 20]);
    fallocate(
        &file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        4096,
        65_536,
    )
    .unwrap();
    let mut bytes = vec![1; 65_536 + 8192];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes[..4096] == [9; 4096] && bytes[4096 + 65_536..] == [9; 4096]);
    assert!(bytes[4096..4096 + 65_536].iter().all(|byte| *byte == 0));
    let seek = |from| rustix::fs::seek(&file, from);
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(0)), Ok(4096));
    assert_eq!(seek(rustix::fs::SeekFrom::Data(4096)), Ok(4096 + 65_536));
    assert_eq!(seek(rustix::fs::SeekFrom::Data(1 << 20)), Err(Errno::NXIO));
    fallocate(&file, FallocateFlags::ZERO_RANGE, 1 << 19, 100).unwrap();
    file.read_exact_at(&mut bytes[..102], (1 << 19) - 1)
        .unwrap();
    assert!(bytes[0] == 9 && bytes[1..101].iter().all(|byte| *byte == 0) && bytes[101] == 9);
    fallocate(&file, FallocateFlags::KEEP_SIZE, 1 << 20, 1 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    fallocate(&file, FallocateFlags::empty(), 1 << 20, 4096).unwrap();
    assert_eq!(file.metadata().unwrap().len(), (1 << 20) + 4096);
    let collapse = fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096);
    assert_eq!(collapse, Err(Errno::OPNOTSUPP));
    // 1 TiB with a byte at both ends.
    let sparse = mounted.file("sparse", b"a");
    sparse.write_all_at(b"z", (1 << 40) - 1).unwrap();
    sparse.sync_all().unwrap();
    let found = sparse.metadata().unwrap();
    assert_eq!(found.len(), 1 << 40);
    assert!(found.blocks() <= 64, "{} blocks", found.blocks());
    let mut byte = [0];
    sparse.read_exact_at(&mut byte, (1 << 40) - 1).unwrap();
    assert_eq!(byte, *b"z");
}

/// Wherever a program left holes, GNU tar writes what it can read again, and so does `razorfs extract`.
#[test]
fn tar_takes_files_with_holes() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    let file = mounted.file("file", &[b'a'; 1000]);
    for (offset, len) in [(1 << 20, 5000), (3_000_001, 777), (4_000_000, 100_000)] {
        file.write_all_at(&vec![b'b'; len], offset).unwrap();
    }
    file.set_len(5_000_001).unwrap();
    fs::write(mounted.path("next"), "next").unwrap();
    drop(file);
    let sh = |mounted: &Mounted, script: &str| {
        let mut sh = Command::new("sh");
        let razorfs = env!("CARGO_BIN_EXE_razorfs");
        let script = format!("set -e; razorfs() {{ {razorfs} \"$@\"; }}; {script}");
        let sh = sh.args(["-c", &script]).current_dir(mounted.dir.path());
        let done = sh.output().unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    sh(
        &mounted,
        "cp -r mnt seen; tar -C mnt --sparse -cf written.tar .; tar -tf written.tar > list
         mkdir by-tar; tar -xf written.tar -C by-tar; diff -r seen by-tar",
    );
    mounted.unmount();
    sh(
        &mounted,
        "razorfs extract store main extracted.tar; mkdir by-tar-too
         tar -tf extracted.tar > list; tar -xf extracted.tar -C by-tar-too; diff -r seen by-tar-too
         razorfs mkfs other; razorfs import other written.tar; razorfs extract other main out
         diff -r seen out; test $(stat -c %s extracted.tar) -lt 1000000",
    );
}

#[test]
fn copies_share_their_space() {
    const BYTES: usize = 8 << 20;
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let mut random = vec![0; BYTES];
    File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut random)
        .unwrap();
    let source = mounted.file("source", &random);
    source.sync_all().unwrap();
    let target = mounted.file("target", b"");
    let before = statvfs(mounted.path("")).unwrap();
    let (mut from, mut to) = (0, 0);
    while from < BYTES as u64 {
        let done =
            copy_file_range(&source, Some(&mut from), &target, Some(&mut to), BYTES).unwrap();
        assert_ne!(done, 0);
    }
    target.sync_all().unwrap();
    let after = statvfs(mounted.path("")).unwrap();
    let used = (before.f_bfree.saturating_sub(after.f_bfree)) * before.f_frsize;
    assert!(used < BYTES as u64 / 8, "{used} bytes for the copy");
    assert!(fs::read(mounted.path("target")).unwrap() == random);
    source.write_all_at(b"changed", 100_000).unwrap();
    assert!(fs::read(mounted.path("target")).unwrap() == random);
}

#[test]
fn a_running_program_cannot_be_truncated() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let program = mounted.path("program");
    fs::copy("/bin/sleep", &program).unwrap();
    let size = fs::metadata(&program).unwrap().len();
    for _ in 0..20 {
        let mut running = Command::new(&program).arg("60").spawn().unwrap();
        let refused = OpenOptions::new().write(true).truncate(true).open(&program);
        assert_eq!(
            refused.unwrap_err().raw_os_error(),
            Some(Errno::TXTBSY.raw_os_error())
        );
        assert_eq!(fs::metadata(&program).unwrap().len(), size);
        // O_RDONLY | O_TRUNC reaches the file system before the kernel's own check.
        let flags = OFlags::RDONLY | OFlags::TRUNC;
        let refused = openat(CWD, &program, flags, Mode::empty());
        assert_eq!(refused.unwrap_err(), Errno::TXTBSY);
        assert_eq!(fs::metadata(&program).unwrap().len(), size);
        running.kill().unwrap();
        running.wait().unwrap();
    }
}

#[test]
fn locks_exclude_each_other() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let first = mounted.file("file", b"");
    let second = File::open(mounted.path("file")).unwrap();
    flock(&first, FlockOperation::NonBlockingLockExclusive).unwrap();
    let taken = flock(&second, FlockOperation::NonBlockingLockShared);
    assert_eq!(taken, Err(Errno::WOULDBLOCK));
    flock(&first, FlockOperation::Unlock).unwrap();
    flock(&second, FlockOperation::NonBlockingLockShared).unwrap();
}

#[test]
fn appends_of_many_writers_all_arrive() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    mounted.file("log", b"");
    let script = "for n in $(seq 200); do echo \"writer $$ line $n\" >> \"$0\"; done";
    let writers: Vec<Child> = (0..4)
        .map(|_| {
            Command::new("sh")
                .args(["-c", script])
                .arg(mounted.path("log"))
                .spawn()
                .unwrap()
        })
        .collect();
    for mut writer in writers {
        assert!(writer.wait().unwrap().success());
    }
    let log = fs::read_to_string(mounted.path("log")).unwrap();
    assert_eq!(log.lines().count(), 800);
    assert!(log.lines().all(|line| line.starts_with("writer ")));
}

#[test]
fn direct_io_goes_around_the_cache() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .custom_flags(libc::O_DIRECT | libc::O_DSYNC)
        .open(mounted.path("file"))
        .unwrap();
    let block = vec![5; 4 << 20];
    file.write_all_at(&block, 0).unwrap();
    let cached = fs::read(mounted.path("file")).unwrap();
    assert!(cached == block);
}
