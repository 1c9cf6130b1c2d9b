//! Who may do what: modes, ACLs, attributes, flags.

use super::*;

/// Runs a shell command as an ordinary user, with umask 022.
fn as_user(script: &str) -> bool {
    Command::new("sh")
        .args(["-c", script])
        .uid(1000)
        .gid(1000)
        .status()
        .unwrap()
        .success()
}

#[test]
fn xattrs_of_every_kind_and_size() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    mounted.file("file", b"");
    let path = mounted.path("file");
    for name in ["user.a", "trusted.a", "security.a"] {
        for size in [0usize, 1, 100, 700, 5000, 65_536] {
            let bytes: Vec<u8> = (0..size).map(|n| (n % 256) as u8).collect();
            setxattr(&path, name, &bytes, XattrFlags::empty()).unwrap();
            assert!(value(&path, name).unwrap() == bytes, "{name} of {size}");
        }
    }
    assert_eq!(
        setxattr(&path, "user.a", b"", XattrFlags::CREATE),
        Err(Errno::EXIST)
    );
    assert_eq!(
        setxattr(&path, "user.b", b"", XattrFlags::REPLACE),
        Err(Errno::NODATA)
    );
    for n in 0..100 {
        setxattr(&path, format!("user.many{n}"), &[1; 50], XattrFlags::CREATE).unwrap();
    }
    let mut list = vec![0; 65_536];
    let len = listxattr(&path, list.as_mut_slice()).unwrap();
    let names: BTreeSet<_> = list[..len]
        .split(|byte| *byte == 0)
        .filter(|n| !n.is_empty())
        .collect();
    assert_eq!(names.len(), 103);
    removexattr(&path, "user.a").unwrap();
    assert_eq!(value(&path, "user.a"), Err(Errno::NODATA));
    assert_eq!(removexattr(&path, "user.a"), Err(Errno::NODATA));
    // What a symlink may have, and a user's attribute is not among it.
    symlink("target", mounted.path("link")).unwrap();
    lsetxattr(mounted.path("link"), "trusted.a", b"v", XattrFlags::empty()).unwrap();
    let user = lsetxattr(mounted.path("link"), "user.a", b"v", XattrFlags::empty());
    assert_eq!(user, Err(Errno::PERM));
}

/// An ACL as the system calls take it: version 2, then tag, permissions and id of each entry.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

#[test]
fn acls_grant_are_inherited_and_follow_chmod() {
    const NONE: u32 = u32::MAX;
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let dir = mounted.path("dir");
    fs::create_dir(&dir).unwrap();
    mounted.file("dir/before", b"secret");
    let access = acl(&[
        (1, 6, NONE),
        (2, 4, 1000),
        (4, 0, NONE),
        (0x10, 4, NONE),
        (0x20, 0, NONE),
    ]);
    let file = mounted.path("dir/before");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    assert!(!as_user(&format!("cat {} >/dev/null 2>&1", file.display())));
    setxattr(
        &file,
        "system.posix_acl_access",
        &access,
        XattrFlags::empty(),
    )
    .unwrap();
    assert!(as_user(&format!("cat {} >/dev/null", file.display())));
    assert_eq!(mode(&file), 0o640, "the group bits show the mask");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    assert!(!as_user(&format!("cat {} >/dev/null 2>&1", file.display())));
    // An ACL that says no more than the mode becomes the mode.
    let minimal = acl(&[(1, 7, NONE), (4, 5, NONE), (0x20, 1, NONE)]);
    setxattr(
        &file,
        "system.posix_acl_access",
        &minimal,
        XattrFlags::empty(),
    )
    .unwrap();
    assert_eq!(mode(&file), 0o751);
    let default = acl(&[
        (1, 7, NONE),
        (2, 6, 1000),
        (4, 5, NONE),
        (0x10, 7, NONE),
        (0x20, 4, NONE),
    ]);
    setxattr(
        &dir,
        "system.posix_acl_default",
        &default,
        XattrFlags::empty(),
    )
    .unwrap();
    // The umask does not count where there is a default ACL.
    let script = format!(
        "umask 077; echo x > {0}/file; mkdir {0}/inner; echo x > {0}/inner/file",
        dir.display()
    );
    assert!(
        Command::new("sh")
            .args(["-c", &script])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(mode(&dir.join("file")), 0o664);
    assert_eq!(mode(&dir.join("inner")), 0o774);
    assert_eq!(
        value(&dir.join("inner"), "system.posix_acl_default").unwrap(),
        default
    );
    assert!(value(&dir.join("inner/file"), "system.posix_acl_access").is_ok());
    assert!(as_user(&format!("echo more >> {}/file", dir.display())));
    removexattr(&dir, "system.posix_acl_default").unwrap();
    mounted.file("dir/plain", b"");
    assert_eq!(
        value(&dir.join("plain"), "system.posix_acl_access"),
        Err(Errno::NODATA)
    );
}

#[test]
fn immutable_and_append_only_are_obeyed() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let file = mounted.file("file", b"content");
    let path = mounted.path("file");
    let set = |flags| ioctl_setflags(&file, flags).unwrap();
    let denied = |result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EPERM));
    };
    set(IFlags::IMMUTABLE);
    assert!(ioctl_getflags(&file).unwrap().contains(IFlags::IMMUTABLE));
    denied(OpenOptions::new().write(true).open(&path).map(drop));
    denied(fs::remove_file(&path));
    denied(fs::rename(&path, mounted.path("other")));
    denied(fs::hard_link(&path, mounted.path("other")));
    denied(fs::set_permissions(&path, PermissionsExt::from_mode(0o600)));
    set(IFlags::APPEND);
    denied(OpenOptions::new().write(true).open(&path).map(drop));
    denied(
        OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|file| file.set_len(0)),
    );
    OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap()
        .write_all(b" and more")
        .unwrap();
    denied(fs::remove_file(&path));
    set(IFlags::empty());
    assert_eq!(fs::read(&path).unwrap(), b"content and more");
    fs::remove_file(&path).unwrap();
}

#[test]
fn special_files_and_inherited_groups() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let mode_600 = Mode::from_raw_mode(0o600);
    mknodat(CWD, mounted.path("fifo"), FileType::Fifo, mode_600, 0).unwrap();
    let device = rustix::fs::makedev(1, 3);
    let rw = Mode::from_raw_mode(0o666);
    mknodat(
        CWD,
        mounted.path("null"),
        FileType::CharacterDevice,
        rw,
        device,
    )
    .unwrap();
    assert_eq!(fs::metadata(mounted.path("null")).unwrap().rdev(), device);
    fs::write(mounted.path("null"), b"gone").unwrap();
    let listener = std::os::unix::net::UnixListener::bind(mounted.path("socket")).unwrap();
    std::os::unix::net::UnixStream::connect(mounted.path("socket")).unwrap();
    drop(listener);
    let dir = mounted.path("dir");
    fs::create_dir(&dir).unwrap();
    std::os::unix::fs::chown(&dir, None, Some(4321)).unwrap();
    fs::set_permissions(&dir, PermissionsExt::from_mode(0o2777)).unwrap();
    assert!(as_user(&format!(
        "cd {} && mkdir inner && echo x > file",
        dir.display()
    )));
    assert_eq!(fs::metadata(dir.join("file")).unwrap().gid(), 4321);
    assert_eq!(fs::metadata(dir.join("inner")).unwrap().gid(), 4321);
    assert_eq!(mode(&dir.join("inner")) & 0o2000, 0o2000);
}

#[test]
fn an_ordinary_users_write_clears_suid() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    let path = mounted.path("file");
    mounted.file("file", b"x");
    for script in ["echo more >> F", "echo new > F", ": > F"] {
        fs::set_permissions(&path, PermissionsExt::from_mode(0o6777)).unwrap();
        assert!(as_user(&script.replace('F', &path.display().to_string())));
        assert_eq!(mode(&path), 0o777, "{script}");
    }
    fs::set_permissions(&path, PermissionsExt::from_mode(0o6777)).unwrap();
    std::os::unix::fs::chown(&path, Some(1000), None).unwrap();
    assert_eq!(mode(&path), 0o777);
}

#[test]
fn what_the_kernel_took_is_kept_though_nothing_may_change_any_more() {
    let Some(mut mounted) = Mounted::new() else {
        return;
    };
    for options in [
        &[][..],
        &["--writeback"],
        &["--writeback", "--cache=always"],
    ] {
        mounted.unmount();
        mounted.mount_with(options);
        let name = |name: &str| mounted.path(&format!("{name}{}", options.len()));
        let (log, mapped) = (name("log"), name("mapped"));
        // The second append comes with all of the page that it is in.
        let script = "echo 1 > LOG; chattr +a LOG; echo 2 >> LOG; sync LOG; echo 3 >> LOG
            sync LOG; ! echo 4 > LOG";
        let script = script.replace("LOG", &log.display().to_string());
        let sh = Command::new("sh").args(["-ec", &script]).status().unwrap();
        assert!(sh.success(), "{options:?}");
        fs::write(&mapped, [0; 4096]).unwrap();
        let script = "import mmap, os, subprocess, sys
fd = os.open(sys.argv[1], os.O_RDWR)
bytes = mmap.mmap(fd, 4096)
bytes[0:4] = b'kept'
subprocess.run(['chattr', '+i', sys.argv[1]], check=True)
bytes.flush()";
        let mut python = Command::new("python3");
        python.args(["-c", script]).arg(&mapped);
        assert!(python.status().unwrap().success(), "{options:?}");
        mounted.unmount();
        mounted.mount();
        assert_eq!(fs::read(&log).unwrap(), b"1\n2\n3\n");
        assert_eq!(&fs::read(&mapped).unwrap()[..4], b"kept");
        File::options().write(true).open(&mapped).unwrap_err();
        File::options().write(true).open(&log).unwrap_err();
    }
}

#[test]
fn whatever_changes_content_clears_suid_unless_root_does_it() {
    let Some(mounted) = Mounted::new() else {
        return;
    };
    mounted.file("source", b"0123456789");
    mounted.file("F", b"0123456789");
    let (source, path) = (mounted.path("source"), mounted.path("F"));
    let (source, shown) = (source.display(), path.display());
    for script in [
        format!("fallocate -l 9999 {shown}"),
        format!("fallocate -p -o 2 -l 3 {shown}"),
        format!("fallocate -z -o 2 -l 3 {shown}"),
        format!(
            r#"perl -e 'open I,"<",shift;open O,"+<",shift;
            exit(syscall(326,fileno I,0,fileno O,0,5,0)!=5)' {source} {shown}"#
        ),
        format!("truncate -s 5 {shown}"),
        format!("echo more >> {shown}"),
    ] {
        // Without group execution setgid is for members of the group to keep, as since Linux 6.2.
        for (before, after) in [(0o6777, 0o777), (0o6766, 0o766), (0o2666, 0o666)] {
            let set = || fs::set_permissions(&path, PermissionsExt::from_mode(before)).unwrap();
            set();
            assert!(as_user(&script), "{script}");
            assert_eq!(mode(&path), after, "{script} with {before:o}");
            set();
            let root = Command::new("sh").args(["-c", &script]).status().unwrap();
            assert!(root.success());
            assert_eq!(mode(&path), before, "{script} with {before:o}, by root");
        }
        std::os::unix::fs::chown(&path, None, Some(1000)).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o6766)).unwrap();
        assert!(as_user(&script), "{script}");
        assert_eq!(mode(&path), 0o2766, "{script}, by a member of the group");
        std::os::unix::fs::chown(&path, None, Some(0)).unwrap();
    }
}
