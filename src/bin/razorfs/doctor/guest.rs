//! The machine in which a file system is to be mounted.

use std::fs;
use std::path::Path;

use super::Findings;

/// Looks at the machine that this runs on.
pub(super) fn look(tag: &str, found: &mut Findings) {
    look_below(Path::new("/"), tag, found);
}

fn look_below(root: &Path, tag: &str, found: &mut Findings) {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let about = "virtiofs";
    let known = read("proc/filesystems");
    if known.split_whitespace().any(|word| word == "virtiofs") {
        found.good(about, "the kernel has it");
    } else {
        let what = "the kernel does not know it";
        found.wrong(
            about,
            what,
            "modprobe virtiofs; it needs Linux 5.4 and CONFIG_VIRTIO_FS",
        );
    }
    // Linux 6.9 and later tell of each device; before that nobody does.
    let devices = root.join("sys/fs/virtiofs");
    if let Ok(entries) = fs::read_dir(devices) {
        let tags = entries.filter_map(|entry| {
            let tag = fs::read_to_string(entry.ok()?.path().join("tag")).ok()?;
            Some(tag.trim_end_matches(['\n', '\0']).to_owned())
        });
        let tags: Vec<_> = tags.collect();
        if tags.iter().any(|each| each == tag) {
            found.good("the device", format!("there is one with the tag '{tag}'"));
        } else if tags.is_empty() {
            let advice = "see to it that the machine has a vhost-user-fs device";
            found.wrong("the device", "there is none", advice);
        } else {
            let what = format!("none has the tag '{tag}'");
            found.wrong(
                "the device",
                what,
                format!("these are there: {}", tags.join(", ")),
            );
        }
    }
    let mounts = read("proc/mounts");
    let mounted = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (source, place, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (source == tag && kind == "virtiofs").then_some(place)
    });
    match mounted {
        Some(place) => found.good(tag, format!("it is mounted on {place}")),
        None => {
            let advice = format!("mount -t virtiofs {tag} /mnt");
            found.doubtful(tag, "it is not mounted", advice);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    #[test]
    fn what_is_missing_is_told() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let looked = || {
            let mut found = Findings::default();
            look_below(root.path(), "data", &mut found);
            found
        };
        assert!(looked().as_text().contains("modprobe virtiofs"));
        write("proc/filesystems", "nodev\tsysfs\nnodev\tvirtiofs\n");
        assert_eq!(looked().worst(), Grade::Doubtful, "it is not mounted");
        fs::create_dir_all(root.path().join("sys/fs/virtiofs")).unwrap();
        assert!(looked().as_text().contains("there is none"));
        write("sys/fs/virtiofs/0/tag", "other\n");
        assert!(looked().as_text().contains("these are there: other"));
        write("sys/fs/virtiofs/1/tag", "data\n");
        write(
            "proc/mounts",
            "proc /proc proc rw 0 0\ndata /srv virtiofs rw 0 0\n",
        );
        let found = looked();
        assert_eq!(found.worst(), Grade::Good);
        assert!(found.as_text().contains("mounted on /srv"));
    }
}
