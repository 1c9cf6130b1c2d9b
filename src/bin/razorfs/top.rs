//! `razorfs top STORE`: what guests do with a store that a daemon serves, again and again.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};

use clap::Args;
use razorfs::control::activity::{Activity, CacheActivity, ExportActivity, Spread};
use razorfs::control::{Client, SessionError, named};

use crate::info::human;
use crate::store::StoreArgs;

type Error = Box<dyn std::error::Error>;

/// Kinds of requests that are shown of each export: those that took the most time.
const OPERATIONS_MAX: usize = 5;
/// Moves to the top left corner and clears what is there (ECMA-48).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Shows what guests do with a store that a daemon serves, and what that makes the store do: requests,
/// bytes, times, the log, the disk; each look is about the seconds since the one before. Ctrl-C ends it.
/// With --json, all that is counted since the daemon began, on a line for each look.
#[derive(Debug, Args)]
pub struct TopArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Seconds from one look to the next.
    #[arg(long, value_name = "SECONDS", default_value_t = 2,
          value_parser = clap::value_parser!(u32).range(1..=3600))]
    interval: u32,
    /// Looks to show, and then to end; 0 for no end.
    #[arg(long, value_name = "N", default_value_t = 0)]
    count: u64,
}

/// Does it.
///
/// # Errors
/// When no daemon serves the store, or it ends.
pub fn run(args: &TopArgs) -> Result<(), Error> {
    let store = args.store.store();
    let Some(client) = args.store.daemon()? else {
        let store = store.display();
        return Err(format!(
            "{store}: no daemon serves it, so nothing happens in it: see razorfs info"
        )
        .into());
    };
    Ok(watch(args, &client).map_err(|error| named(store, &error))?)
}

fn watch(args: &TopArgs, client: &Client) -> Result<(), SessionError> {
    let mut before = client.activity()?;
    let mut since = Instant::now();
    let mut looks = 0;
    loop {
        if args.store.is_json() {
            let text = serde_json::to_string(&before).unwrap_or_default();
            // Whoever closed the pipe has seen enough.
            if writeln!(stdout(), "{text}").is_err() {
                return Ok(());
            }
            looks += 1;
        }
        if args.count > 0 && looks >= args.count {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(args.interval.into()));
        let now = client.activity()?;
        let passed = since.elapsed();
        since = Instant::now();
        if !args.store.is_json() {
            let text = screen(&before, &now, passed);
            let clear = if stdout().is_terminal() { CLEAR } else { "" };
            if writeln!(stdout(), "{clear}{}\n{text}", args.store.store().display()).is_err() {
                return Ok(());
            }
            looks += 1;
        }
        before = now;
    }
}

/// What happened between two looks.
struct Between {
    seconds: f64,
}

impl Between {
    /// How much more there is, in a second. A daemon that was started anew begins at 0.
    fn rate(&self, before: u64, now: u64) -> f64 {
        float(now.saturating_sub(before)) / self.seconds
    }

    fn bytes(&self, before: u64, now: u64) -> String {
        let rate = self.rate(before, now);
        // Not below 0, and far below 2^64.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let rate = rate as u64;
        format!("{}/s", human(rate))
    }
}

/// What [`Spread`]s differ in.
fn since(before: Option<&Spread>, now: &Spread) -> Spread {
    let none = Spread::default();
    let before = before.unwrap_or(&none);
    let old = before.buckets.iter().copied().chain(std::iter::repeat(0));
    let buckets = now.buckets.iter().zip(old);
    Spread {
        count: now.count.saturating_sub(before.count),
        sum: now.sum.saturating_sub(before.sum),
        buckets: buckets.map(|(now, old)| now.saturating_sub(old)).collect(),
    }
}

/// The mean time, and the bound that 99 of 100 do not pass.
fn times(spread: &Spread) -> (String, String) {
    if spread.count == 0 {
        return ("-".into(), "-".into());
    }
    let mean = float(spread.sum) / float(spread.count) / 1000.0;
    let wanted = spread.count.saturating_mul(99).div_ceil(100);
    let mut below = 0;
    let mut bound = 1.0;
    for count in &spread.buckets {
        below += count;
        if below >= wanted {
            break;
        }
        bound *= 2.0;
    }
    (duration(mean), format!("<{}", duration(bound)))
}

fn duration(micros: f64) -> String {
    match micros {
        ..1000.0 => format!("{micros:.0}us"),
        ..1_000_000.0 => format!("{:.1}ms", micros / 1000.0),
        _ => format!("{:.1}s", micros / 1_000_000.0),
    }
}

/// What happened between two looks, as text.
fn screen(before: &Activity, now: &Activity, passed: Duration) -> String {
    let between = Between {
        seconds: passed.as_secs_f64().max(0.001),
    };
    let mut text = store(before, now, &between);
    text += &format!(
        "\n{:32}{:>10}{:>12}{:>12}{:>9}{:>9}{:>9}{:>9}\n",
        "EXPORT", "REQUESTS/S", "READ", "WRITTEN", "MEAN", "99 %", "WAITING", "ERRORS/S"
    );
    let old: BTreeMap<_, _> = before
        .exports
        .iter()
        .map(|each| (&each.socket, each))
        .collect();
    let none = ExportActivity::default();
    for each in &now.exports {
        let old = old.get(&each.socket).copied().unwrap_or(&none);
        text += &export(old, each, &between);
    }
    text
}

fn store(before: &Activity, now: &Activity, between: &Between) -> String {
    let state = match now.is_writable {
        true => "",
        false => "READ-ONLY, ",
    };
    let commits = since(Some(&before.commit_times), &now.commit_times);
    let (mean, most) = times(&commits);
    let together = now
        .commit_transactions
        .sum
        .saturating_sub(before.commit_transactions.sum);
    let checkpoints = since(Some(&before.checkpoint_times), &now.checkpoint_times);
    let sum = |activity: &Activity, of: fn(&(u64, u64)) -> u64| -> u64 {
        let files = activity.files.iter();
        files
            .map(|file| of(&(file.read_bytes, file.written_bytes)))
            .sum()
    };
    let mut text = String::new();
    let lines = [
        format!(
            "space       {state}{} free, {} used, {} snapshots",
            human(now.free_bytes),
            human(now.used_bytes),
            now.snapshot_count
        ),
        format!(
            "commits     {:.0}/s, {:.1} transactions each, mean {mean}, 99 % {most}",
            between.rate(0, commits.count),
            float(together) / float(commits.count.max(1))
        ),
        format!(
            "log         {} of {}, {} checkpoints, mean {}",
            human(now.log_used_bytes),
            human(now.log_bytes),
            checkpoints.count,
            times(&checkpoints).0
        ),
        format!(
            "unwritten   {} of {}, {} pages",
            human(now.unwritten_bytes),
            human(now.unwritten_bytes_max),
            now.dirty_pages
        ),
        format!(
            "memory      {}",
            caches(&before.caches, &now.caches).join(", ")
        ),
        format!(
            "disk        read {}, written {}, {} errors, {} damaged reads",
            between.bytes(sum(before, |file| file.0), sum(now, |file| file.0)),
            between.bytes(sum(before, |file| file.1), sum(now, |file| file.1)),
            now.files.iter().map(|file| file.errors).sum::<u64>(),
            now.damaged_pages.saturating_add(now.damaged_content)
        ),
    ];
    for line in lines {
        text += &line;
        text.push('\n');
    }
    text
}

fn caches(before: &[CacheActivity], now: &[CacheActivity]) -> Vec<String> {
    let lines = now.iter().map(|cache| {
        let none = CacheActivity::default();
        let old = before.iter().find(|old| old.cache == cache.cache);
        let old = old.unwrap_or(&none);
        let hits = cache.hits.saturating_sub(old.hits);
        let all = hits.saturating_add(cache.misses.saturating_sub(old.misses));
        let found = match all {
            0 => "not asked".to_owned(),
            all => format!("{:.0} % found", 100.0 * float(hits) / float(all)),
        };
        format!("{} {}, {found}", human(cache.bytes), cache.cache)
    });
    lines.collect()
}

fn export(before: &ExportActivity, now: &ExportActivity, between: &Between) -> String {
    let old: BTreeMap<_, _> = before
        .requests
        .iter()
        .map(|each| (&each.operation, &each.times))
        .collect();
    let mut kinds: Vec<(&str, Spread)> = now
        .requests
        .iter()
        .map(|each| {
            let old = old.get(&each.operation).copied();
            (each.operation.as_str(), since(old, &each.times))
        })
        .filter(|(_, times)| times.count > 0)
        .collect();
    kinds.sort_by_key(|(_, times)| std::cmp::Reverse(times.sum));
    let mut all = Spread::default();
    for (_, times) in &kinds {
        all.count += times.count;
        all.sum = all.sum.saturating_add(times.sum);
        all.buckets
            .resize(times.buckets.len().max(all.buckets.len()), 0);
        for (bucket, more) in all.buckets.iter_mut().zip(&times.buckets) {
            *bucket += more;
        }
    }
    let errors = |export: &ExportActivity| -> u64 {
        let counts = export.refused.iter().map(|each| each.count);
        counts.sum()
    };
    let (mean, most) = times(&all);
    let mut text = format!(
        "{:32}{:>10.0}{:>12}{:>12}{mean:>9}{most:>9}{:>9}{:>9.0}\n",
        format!("{} {}", now.dataset, now.socket),
        between.rate(0, all.count),
        between.bytes(before.read_bytes, now.read_bytes),
        between.bytes(before.written_bytes, now.written_bytes),
        now.waiting,
        between.rate(errors(before), errors(now)),
    );
    if now.is_stale {
        text += "    STALE: restored, its guest has to mount it again\n";
    }
    for (kind, spread) in kinds.iter().take(OPERATIONS_MAX) {
        let (mean, most) = times(spread);
        let rate = between.rate(0, spread.count);
        text += &format!("    {kind:28}{rate:>10.0}{:24}{mean:>9}{most:>9}\n", "");
    }
    text
}

/// Exact up to 2^53, and shown with three digits.
#[allow(clippy::cast_precision_loss)]
fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use razorfs::control::activity::Requests;

    use super::*;

    fn spread(micros: &[u64]) -> Spread {
        let times = razorfs::metrics::Histogram::default();
        for each in micros {
            times.took(Duration::from_micros(*each));
        }
        Spread::from(&times.read())
    }

    fn export(requests: &[(&str, &[u64])]) -> ExportActivity {
        let requests = requests.iter().map(|(operation, micros)| Requests {
            operation: (*operation).to_owned(),
            times: spread(micros),
        });
        ExportActivity {
            dataset: "web".into(),
            socket: "/run/web.sock".into(),
            requests: requests.collect(),
            ..ExportActivity::default()
        }
    }

    #[test]
    fn what_happened_since_the_last_look_is_shown() {
        let before = Activity {
            exports: vec![export(&[("READ", &[5000])])],
            ..Activity::default()
        };
        let mut later = export(&[("READ", &[5000, 10, 30]), ("GETATTR", &[1, 1, 1, 1])]);
        later.read_bytes = 4 << 20;
        let now = Activity {
            exports: vec![later],
            is_writable: true,
            ..Activity::default()
        };
        let text = screen(&before, &now, Duration::from_secs(2));
        let line = |start: &str| {
            let found = text
                .lines()
                .find(|line| line.trim_start().starts_with(start));
            let words = found.unwrap_or_else(|| panic!("{start} in {text}"));
            words.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let all = line("web");
        assert!(all.starts_with("web /run/web.sock 3 2.0 MiB/s"), "{all}");
        // The one before is not among them.
        assert_eq!(line("READ"), "READ 1 20us <32us");
        assert_eq!(line("GETATTR"), "GETATTR 2 1us <1us");
        assert!(!text.contains("READ-ONLY") && !text.contains("STALE"));
        let mut restored = now.clone();
        restored.exports[0].is_stale = true;
        let text = screen(&before, &restored, Duration::from_secs(2));
        assert!(text.contains("STALE"), "{text}");
        let text = screen(&now, &Activity::default(), Duration::from_secs(2));
        assert!(text.contains("READ-ONLY"), "{text}");
    }

    #[test]
    fn a_daemon_that_was_started_anew_begins_at_nothing() {
        let before = Activity {
            exports: vec![export(&[("READ", &[1; 100])])],
            ..Activity::default()
        };
        let now = Activity {
            exports: vec![export(&[("READ", &[7])])],
            ..Activity::default()
        };
        let text = screen(&before, &now, Duration::from_secs(1));
        let mut lines = text.lines().map(str::trim_start);
        assert!(!lines.any(|line| line.starts_with("READ")), "{text}");
    }
}
