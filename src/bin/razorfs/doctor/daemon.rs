//! The daemon that serves the store, and how that goes.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use razorfs::control::activity::Activity;
use razorfs::control::api::{Export, Stats};
use razorfs::control::{Client, SessionError};

use super::Findings;

/// From here on the log is about to stop writers, in percent.
const LOG_MAX_PERCENT: u64 = 90;

/// Looks for it; what guests can reach.
pub(super) fn look(
    store: &Path,
    served: Result<Option<Client>, SessionError>,
    found: &mut Findings,
) -> Vec<Export> {
    let about = "the daemon";
    let daemon = match served {
        Ok(Some(daemon)) => daemon,
        Ok(None) => {
            let advice = format!("start one: razorfsd --store {} ...", store.display());
            found.doubtful(
                about,
                "nobody serves the store, or who does not listen",
                advice,
            );
            return Vec::new();
        }
        Err(error) => {
            let advice = "ask as the user that it runs as, or as root";
            found.wrong(about, error.to_string(), advice);
            return Vec::new();
        }
    };
    let told = daemon.stats().and_then(|stats| {
        let activity = daemon.activity()?;
        Ok((stats, activity, daemon.exports()?))
    });
    match told {
        Ok((stats, activity, exports)) => {
            answers(&stats, &activity, found);
            for export in &exports {
                socket(export, found);
            }
            exports
        }
        Err(error) => {
            let advice = "see its log: journalctl, or where its errors go";
            found.wrong(about, error.to_string(), advice);
            Vec::new()
        }
    }
}

fn answers(stats: &Stats, activity: &Activity, found: &mut Findings) {
    let about = "the daemon";
    let ours = env!("CARGO_PKG_VERSION");
    if activity.version == ours {
        found.good(about, format!("it serves the store, version {ours}"));
    } else {
        let what = format!(
            "it is version {}, and this command {ours}",
            activity.version
        );
        found.doubtful(
            about,
            what,
            "have a new one take over, which guests do not notice: systemctl reload, or razorfsd \
             --reload PID (docs/MIGRATION.md)",
        );
    }
    if !stats.is_writable {
        let advice = "unless it was started so: its log says which write failed; mend the disk, then \
                      restart the daemon and its guests, which do without it until then \
                      (docs/RECOVERY.md)";
        found.wrong(
            "changes",
            "they are refused: the store is read-only",
            advice,
        );
    }
    if let Some(damage) = &stats.opening.damage {
        let advice = "razorfs recover --discard-damaged-log goes on without what lies behind it";
        found.wrong("the log", damage.clone(), advice);
    }
    let damaged = activity
        .damaged_pages
        .saturating_add(activity.damaged_content);
    if damaged > 0 {
        let what = format!("{damaged} reads found something that is not what was written");
        let advice = "razorfs scrub tells all of it; razorfsck --repair --data keeps what is whole";
        found.wrong("the disk", what, advice);
    }
    let errors: u64 = activity.files.iter().map(|file| file.errors).sum();
    if errors > 0 {
        let what = format!("it refused {errors} reads or writes since the daemon began");
        found.wrong(
            "the disk",
            what,
            "see the kernel's log (dmesg) and the disk's own (smartctl)",
        );
    }
    let full = activity
        .log_used_bytes
        .saturating_mul(100)
        .checked_div(activity.log_bytes)
        .unwrap_or(0);
    if full > LOG_MAX_PERCENT {
        let what = format!("{full} % of it waits for a checkpoint, and writers for that");
        found.doubtful(
            "the log",
            what,
            "a faster disk, or a larger log (razorfs mkfs --log-size)",
        );
    }
    if activity.unwritten_bytes >= activity.unwritten_bytes_max {
        let what = "guests write faster than the disk takes it";
        found.doubtful(
            "writing",
            what,
            "a faster disk; --dirty-limit only puts it off",
        );
    }
    if activity.free_bytes == 0 {
        let advice = "delete, in guests or snapshots: space comes back at once";
        found.wrong("space", "the store is full: guests get ENOSPC", advice);
    }
    for dataset in &activity.datasets {
        if dataset.quota_bytes > 0 && dataset.allocated_bytes >= dataset.quota_bytes {
            let about = format!("dataset {}", dataset.dataset);
            let what = "it has all that its quota allows: the guest gets EDQUOT";
            found.doubtful(about, what, "delete in the guest, or razorfs set quota=");
        }
    }
}

/// Guests do not get over a daemon that is restarted.
const LOST_SOCKET: &str = "a guest that is connected goes on; for another, export the dataset on a new \
                           socket (razorfs export), and end this one (razorfs unexport) when its guest is done; do \
                           not restart the daemon under guests";

/// Whether a front-end finds the socket.
fn socket(export: &Export, found: &mut Findings) {
    let about = format!("{} on {}", export.dataset, export.socket);
    if export.socket.starts_with("fd:") {
        return;
    }
    match fs::metadata(&export.socket) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            let (mode, gid) = (metadata.mode() & 0o777, metadata.gid());
            let who = match mode & 0o060 {
                0o060 => format!("user {} and group {gid} may connect", metadata.uid()),
                _ => format!("only user {} may connect", metadata.uid()),
            };
            found.good(about, who);
        }
        Ok(_) => found.wrong(about, "there is something else in its place", LOST_SOCKET),
        Err(error) => {
            let what = format!("a front-end cannot find it: {error}");
            found.wrong(about, what, LOST_SOCKET);
        }
    }
}

#[cfg(test)]
mod tests {
    use razorfs::control::activity::{DatasetSpace, FileActivity};
    use razorfs::control::api::Opening;

    use super::super::Grade;
    use super::*;

    fn stats() -> Stats {
        Stats {
            uuid: String::new(),
            format_version: 1,
            created_at: String::new(),
            is_writable: true,
            generation: 1,
            dataset_count: 1,
            snapshot_count: 0,
            capacity_bytes: 0,
            free_bytes: 1,
            unwritten_bytes: 0,
            chunks_file_bytes: 0,
            metadata_bytes: 0,
            names_bytes: 0,
            names_punched_bytes: 0,
            log_bytes: 0,
            file_system: None,
            opening: Opening {
                was_closed: true,
                last_written_at: None,
                transactions: 0,
                dropped: 0,
                torn_bytes: 0,
                orphans_freed: 0,
                took_ms: 0,
                superblock_damage: Vec::new(),
                damage: None,
            },
        }
    }

    fn activity() -> Activity {
        Activity {
            version: env!("CARGO_PKG_VERSION").into(),
            is_writable: true,
            free_bytes: 1 << 30,
            log_bytes: 100,
            unwritten_bytes_max: 100,
            ..Activity::default()
        }
    }

    fn found(stats: &Stats, activity: &Activity) -> Findings {
        let mut found = Findings::default();
        answers(stats, activity, &mut found);
        found
    }

    #[test]
    fn each_trouble_is_named() {
        assert_eq!(found(&stats(), &activity()).worst(), Grade::Good);
        let latched = Stats {
            is_writable: false,
            ..stats()
        };
        assert!(found(&latched, &activity()).as_text().contains("read-only"));
        // Of what is advised nothing may cost guests more than the trouble does.
        let other = Activity {
            version: "0.0.1".into(),
            ..activity()
        };
        let text = found(&stats(), &other).as_text();
        assert!(
            text.contains("systemctl reload") && !text.contains("restart"),
            "{text}"
        );
        let file = FileActivity {
            errors: 3,
            ..FileActivity::default()
        };
        let dataset = DatasetSpace {
            dataset: "web".into(),
            allocated_bytes: 10,
            quota_bytes: 10,
            inodes: 1,
        };
        let troubles: [(Activity, Grade, &str); 6] = [
            (
                Activity {
                    damaged_content: 1,
                    ..activity()
                },
                Grade::Wrong,
                "razorfs scrub",
            ),
            (
                Activity {
                    files: vec![file],
                    ..activity()
                },
                Grade::Wrong,
                "refused 3",
            ),
            (
                Activity {
                    log_used_bytes: 95,
                    ..activity()
                },
                Grade::Doubtful,
                "95 %",
            ),
            (
                Activity {
                    unwritten_bytes: 100,
                    ..activity()
                },
                Grade::Doubtful,
                "faster",
            ),
            (
                Activity {
                    free_bytes: 0,
                    ..activity()
                },
                Grade::Wrong,
                "full",
            ),
            (
                Activity {
                    datasets: vec![dataset],
                    ..activity()
                },
                Grade::Doubtful,
                "quota",
            ),
        ];
        for (activity, grade, text) in troubles {
            let found = found(&stats(), &activity);
            assert_eq!(found.worst(), grade, "{text}");
            assert!(found.as_text().contains(text), "{text} in {found:?}");
        }
    }
}
