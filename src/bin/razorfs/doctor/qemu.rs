//! QEMU processes on this host that have a device on one of the store's sockets.

use std::fs;

use razorfs::control::api::Export;
use serde_json::Value;

use super::Findings;

/// What a process was started with.
struct Process {
    pid: u32,
    args: Vec<String>,
}

/// Looks at them.
pub(super) fn look(exports: &[Export], found: &mut Findings) {
    if exports.is_empty() {
        return;
    }
    for process in processes() {
        judge(&process, exports, found);
    }
}

/// Those that may be QEMUs, and that may be looked at.
fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let processes = entries.filter_map(|entry| {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let args = line.split(|byte| *byte == 0);
        let args: Vec<_> = args
            .map(|arg| String::from_utf8_lossy(arg).into_owned())
            .collect();
        let is_qemu = args.first().is_some_and(|name| name.contains("qemu"));
        is_qemu.then_some(Process { pid, args })
    });
    processes.collect()
}

/// The value of a property of what QEMU was given: `driver,key=value,...`, or JSON, as libvirt does.
fn property(options: &str, key: &str) -> Option<String> {
    if options.starts_with('{') {
        let options: Value = serde_json::from_str(options).ok()?;
        return match options.get(key)? {
            Value::String(text) => Some(text.clone()),
            Value::Bool(true) => Some("on".to_owned()),
            other => Some(other.to_string()),
        };
    }
    let mut pairs = options.split(',').filter_map(|pair| pair.split_once('='));
    let found = pairs.find(|(name, _)| *name == key);
    found.map(|(_, value)| value.to_owned())
}

/// The driver of what was given to `-device`.
fn driver(options: &str) -> String {
    let first = options.split(',').next().unwrap_or_default().to_owned();
    property(options, "driver").unwrap_or(first)
}

fn judge(process: &Process, exports: &[Export], found: &mut Findings) {
    let mut after = process.args.iter().zip(process.args.iter().skip(1));
    let options = |flag: &str| -> Vec<&str> {
        let pairs = process.args.iter().zip(process.args.iter().skip(1));
        let of_flag = pairs.filter(|(name, _)| name.trim_start_matches('-') == flag);
        of_flag.map(|(_, value)| value.as_str()).collect()
    };
    let chardevs = options("chardev");
    let devices: Vec<_> = options("device")
        .into_iter()
        .filter(|device| driver(device).starts_with("vhost-user-fs"))
        .filter_map(|device| {
            let wanted = property(device, "chardev")?;
            let chardev = chardevs
                .iter()
                .find(|each| property(each, "id").as_ref() == Some(&wanted))?;
            let socket = property(chardev, "path")?;
            let export = exports.iter().find(|export| export.socket == socket)?;
            Some((device, export))
        })
        .collect();
    if devices.is_empty() {
        return;
    }
    let about = format!("QEMU, process {}", process.pid);
    let shares = after.any(|(flag, value)| {
        let flag = flag.trim_start_matches('-');
        matches!(flag, "object" | "machine" | "M")
            && property(value, "share").as_deref() == Some("on")
    });
    if shares {
        found.good(&about, "it shares the guest's memory");
    } else {
        let advice = "-object memory-backend-memfd,id=mem,size=SIZE,share=on -machine memory-backend=mem; \
                      in libvirt: <memoryBacking><source type='memfd'/><access mode='shared'/>";
        found.wrong(
            &about,
            "the guest's memory is not shared: the device cannot work",
            advice,
        );
    }
    for (device, export) in devices {
        tag(&about, device, export, found);
        let size = property(device, "queue-size").and_then(|size| size.parse::<u32>().ok());
        if size.is_none_or(|size| size < 512) {
            let what = format!(
                "the queue of '{}' has {} entries",
                export.dataset,
                size.unwrap_or(128)
            );
            found.doubtful(
                &about,
                what,
                "queue-size=1024 lets more requests be under way",
            );
        }
    }
}

fn tag(about: &str, device: &str, export: &Export, found: &mut Findings) {
    let Some(tag) = property(device, "tag") else {
        let what = format!("the device of '{}' has no tag", export.dataset);
        return found.wrong(about, what, "add tag=NAME to the device");
    };
    if let Some(ours) = &export.tag
        && *ours != tag
    {
        let what = format!("its tag is '{tag}', and the daemon's '{ours}': QEMU's counts");
        found.doubtful(
            about,
            what,
            format!("in the guest: mount -t virtiofs {tag} /mnt"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::Grade;
    use super::*;

    fn judged(args: &str) -> Findings {
        let export = Export {
            dataset: "web".into(),
            socket: "/run/web.sock".into(),
            tag: Some("data".into()),
            is_readonly: false,
            is_shared: false,
            is_connected: true,
            is_stale: false,
        };
        let process = Process {
            pid: 7,
            args: args.split(' ').map(str::to_owned).collect(),
        };
        let mut found = Findings::default();
        judge(&process, &[export], &mut found);
        found
    }

    const SHARED: &str = "-object memory-backend-memfd,id=mem,size=1G,share=on";
    const SOCKET: &str = "-chardev socket,id=fs,path=/run/web.sock";

    #[test]
    fn what_keeps_a_device_from_working_is_told() {
        let device = "-device vhost-user-fs-pci,chardev=fs,tag=data,queue-size=1024";
        let good = judged(&format!("qemu {SHARED} {SOCKET} {device}"));
        assert_eq!(good.worst(), Grade::Good);
        assert!(good.as_text().contains("process 7"));
        let alone = judged(&format!("qemu {SOCKET} {device}"));
        assert_eq!(alone.worst(), Grade::Wrong);
        assert!(alone.as_text().contains("share=on"));
        let other = "-device vhost-user-fs-pci,chardev=fs,tag=other,queue-size=1024";
        let other = judged(&format!("qemu {SHARED} {SOCKET} {other}"));
        assert_eq!(other.worst(), Grade::Doubtful);
        assert!(other.as_text().contains("mount -t virtiofs other /mnt"));
        let small = "-device vhost-user-fs-pci,chardev=fs,tag=data";
        let small = judged(&format!("qemu {SHARED} {SOCKET} {small}"));
        assert!(small.as_text().contains("128 entries"));
    }

    #[test]
    fn what_libvirt_starts_is_understood() {
        let memory = r#"-object {"qom-type":"memory-backend-memfd","id":"pc.ram","share":true}"#;
        let device = r#"-device {"driver":"vhost-user-fs-pci","chardev":"fs","queue-size":1024,"tag":"data"}"#;
        assert_eq!(
            judged(&format!("qemu {memory} {SOCKET} {device}")).worst(),
            Grade::Good
        );
        let memory = memory.replace("true", "false");
        let found = judged(&format!("qemu {memory} {SOCKET} {device}"));
        assert_eq!(found.worst(), Grade::Wrong);
    }

    #[test]
    fn others_are_left_alone() {
        let elsewhere = SOCKET.replace("web", "other");
        let device = "-device vhost-user-fs-pci,chardev=fs,tag=data";
        assert_eq!(judged(&format!("qemu {elsewhere} {device}")).0, []);
        assert_eq!(judged(&format!("qemu {SOCKET}")).0, []);
        assert_eq!(judged("qemu").0, []);
    }
}
