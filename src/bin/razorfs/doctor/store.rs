//! The store's directory, and the disk below it.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use razorfs::disk::dir::STORE_FILES;
use razorfs::disk::host::FileSystem;
use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::Findings;
use crate::info::human;

/// Free space of the disk below from which on one should think of more: bytes, and a share.
const FREE_MIN_BYTES: u64 = 1 << 30;
const FREE_MIN_SHARE: u64 = 20;

/// Looks at them.
pub(super) fn look(store: &Path, found: &mut Findings) {
    let path = store.display().to_string();
    let metadata = match fs::metadata(store) {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => {
            return found.wrong(path, "it is no directory", "name the store's directory");
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let advice = format!("make a store: razorfs mkfs {}", store.display());
            return found.wrong(path, error.to_string(), advice);
        }
        Err(error) => return hidden(path, &error, found),
    };
    let mut missing = Vec::new();
    for file in STORE_FILES {
        match fs::metadata(store.join(file)) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => missing.push(file),
            Err(error) => return hidden(path, &error, found),
        }
    }
    match missing.len() {
        0 => found.good(&path, "a store, with all its files"),
        5 => {
            let advice = format!("make one: razorfs mkfs {}", store.display());
            return found.wrong(path, "there is no store in it", advice);
        }
        _ => found.wrong(
            &path,
            format!(
                "of the store's files there are missing: {}",
                missing.join(", ")
            ),
            "bring them back from a copy: without them it cannot be opened",
        ),
    }
    owners(store, metadata.uid(), found);
    access(store, metadata.uid(), found);
    disk(store, found);
}

/// What is there this user cannot see.
fn hidden(path: String, error: &std::io::Error, found: &mut Findings) {
    let user = rustix::process::geteuid().as_raw();
    match error.kind() {
        ErrorKind::PermissionDenied => found.wrong(
            path,
            format!("user {user} may not look into it: {error}"),
            "look as the user that the daemon runs as, or as root",
        ),
        _ => found.wrong(
            path,
            error.to_string(),
            "see the kernel's log (dmesg) and the disk's own (smartctl)",
        ),
    }
}

/// Whether this user may use the files.
fn access(store: &Path, owner: u32, found: &mut Findings) {
    let how = Access::READ_OK | Access::WRITE_OK;
    let refused = STORE_FILES.into_iter().filter_map(|file| {
        let refused = accessat(CWD, store.join(file), how, AtFlags::EACCESS).err()?;
        Some((file, refused))
    });
    let refused: Vec<_> = refused.collect();
    let Some((_, why)) = refused.first() else {
        return;
    };
    let user = rustix::process::geteuid().as_raw();
    let files: Vec<_> = refused.iter().map(|(file, _)| *file).collect();
    let who = match owner {
        0 => "root".to_owned(),
        _ => format!("user {owner} or root"),
    };
    found.doubtful(
        store.display().to_string(),
        format!(
            "user {user} cannot open all of it: {}: {why}",
            files.join(", ")
        ),
        format!("the daemon, and commands while none serves it, are to run as {who}"),
    );
}

/// Whether all files are of one owner.
fn owners(store: &Path, uid: u32, found: &mut Findings) {
    let of_others = STORE_FILES.into_iter().filter(|file| {
        let metadata = fs::metadata(store.join(file));
        metadata.is_ok_and(|metadata| metadata.uid() != uid)
    });
    let of_others: Vec<_> = of_others.collect();
    if !of_others.is_empty() {
        found.doubtful(
            store.display().to_string(),
            format!(
                "not all is of user {uid}, as the directory is: {}",
                of_others.join(", ")
            ),
            "a daemon that runs as the directory's owner cannot open them: chown -R",
        );
    }
}

fn disk(store: &Path, found: &mut Findings) {
    let about = "the disk below";
    let Ok(below) = File::open(store).and_then(|dir| FileSystem::of(&dir)) else {
        return found.doubtful(about, "it does not say what it is", "look at it with df");
    };
    match below.kind.as_str() {
        _ if below.is_volatile() => found.wrong(
            about,
            "the store lies in memory: nothing in it survives this machine",
            "move it to a disk",
        ),
        "nfs" | "fuse" | "cifs" | "smb2" => found.doubtful(
            about,
            "it is a network file system or one in user space: what it calls durable may not be",
            "prefer a local disk, or make sure that fsync means what it says there",
        ),
        "overlay" => found.doubtful(
            about,
            "it is an overlay, as in a container: it goes with the container",
            "mount a volume for the store",
        ),
        _ => {}
    }
    let (free, all) = (below.free_bytes, below.size_bytes);
    let what = format!("{} of {} are free", human(free), human(all));
    if free < FREE_MIN_BYTES || free < all / FREE_MIN_SHARE {
        let advice =
            "delete, in guests or snapshots, and give it back: razorfs trim; or a larger disk";
        found.doubtful(about, what, advice);
    } else {
        found.good(about, what);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use razorfs::disk::dir::SUPERBLOCK_FILE;

    use super::super::Grade;
    use super::*;

    fn looked(store: &Path) -> Findings {
        let mut found = Findings::default();
        look(store, &mut found);
        found
    }

    #[test]
    fn what_is_no_store_is_told() {
        let dir = tempfile::tempdir().unwrap();
        for store in [dir.path().join("none"), dir.path().to_owned()] {
            let found = looked(&store);
            assert_eq!(found.worst(), Grade::Wrong);
            assert!(found.as_text().contains("razorfs mkfs"), "{found:?}");
        }
        fs::write(dir.path().join(SUPERBLOCK_FILE), "").unwrap();
        let text = looked(dir.path()).as_text();
        assert!(
            text.contains("missing: nodes.dat, strings.dat, chunks.dat, wal.log"),
            "{text}"
        );
        for file in STORE_FILES {
            fs::write(dir.path().join(file), "").unwrap();
        }
        assert!(looked(dir.path()).as_text().contains("with all its files"));
    }

    #[test]
    fn what_is_another_users_is_not_taken_for_missing() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        fs::create_dir(&store).unwrap();
        for file in STORE_FILES {
            fs::write(store.join(file), "").unwrap();
        }
        let as_another = |mode: u32, of: &Path| {
            fs::set_permissions(of, Permissions::from_mode(mode)).unwrap();
            let found = host_user(|| looked(&store));
            fs::set_permissions(of, Permissions::from_mode(0o755)).unwrap();
            found
        };
        let closed = [
            (0o700, dir.path()),
            (0o700, store.as_path()),
            (0o744, &store),
        ];
        for (mode, of) in closed {
            let Some(found) = as_another(mode, of) else {
                println!("skipped: only root can be another user");
                return;
            };
            let text = found.as_text();
            assert_eq!(found.worst(), Grade::Wrong, "{text}");
            assert!(text.contains("user 65534 may not look into it"), "{text}");
            assert!(!text.contains("mkfs"), "{text}");
        }
        for file in STORE_FILES {
            let mode = Permissions::from_mode(0o600);
            fs::set_permissions(store.join(file), mode).unwrap();
        }
        let text = as_another(0o755, dir.path()).unwrap().as_text();
        assert!(
            text.contains("user 65534 cannot open all of it: nodes.dat"),
            "{text}"
        );
        assert!(text.contains("are to run as root"), "{text}");
    }

    /// What a thread sees that is an ordinary user's; `None` where it cannot be.
    fn host_user<T: Send>(look: impl FnOnce() -> T + Send) -> Option<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let nobody = rustix::process::Uid::from_raw(65_534);
                rustix::thread::set_thread_uid(nobody).ok()?;
                Some(look())
            });
            thread.join().unwrap()
        })
    }
}
