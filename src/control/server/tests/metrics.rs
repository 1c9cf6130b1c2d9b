//! What Prometheus is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::{World, write};
use crate::metrics::{Carried, Meter};

/// A page, taken apart: the type of each metric, and each sample with its value.
struct Page {
    types: BTreeMap<String, String>,
    samples: BTreeMap<String, f64>,
}

impl Page {
    fn of(text: &str) -> Page {
        let mut page = Page {
            types: BTreeMap::new(),
            samples: BTreeMap::new(),
        };
        let mut helped = BTreeSet::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                assert!(help.ends_with('.') || help.ends_with(')'), "{line}");
                helped.insert(name);
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert!(helped.contains(name), "no help: {line}");
                let again = page.types.insert(name.to_owned(), kind.to_owned());
                assert_eq!(again, None, "{line}");
            } else {
                let (sample, value) = line.rsplit_once(' ').unwrap();
                let value = value.parse().unwrap();
                let again = page.samples.insert(sample.to_owned(), value);
                assert_eq!(again, None, "{line}");
                let name = sample.split('{').next().unwrap();
                assert!(page.has(name), "of no type: {line}");
            }
        }
        page
    }

    /// Whether there is a metric of which a sample may be named so.
    fn has(&self, name: &str) -> bool {
        let kind = |name: &str| self.types.get(name).map(String::as_str);
        let of_histogram = ["_bucket", "_sum", "_count"].iter().any(|suffix| {
            name.strip_suffix(suffix)
                .is_some_and(|name| kind(name) == Some("histogram"))
        });
        of_histogram || matches!(kind(name), Some("counter" | "gauge"))
    }

    fn value(&self, sample: &str) -> f64 {
        let found = self.samples.get(sample);
        *found.unwrap_or_else(|| panic!("no {sample} in {:#?}", self.samples))
    }
}

/// What counts for an export of `main`.
fn metered(world: &World) -> Arc<Meter> {
    let socket = world.dir.path().join("main.sock");
    let new = json!({ "dataset": "main", "socket": socket });
    assert_eq!(world.post("/api/v1/exports", &new).0, 201);
    Arc::clone(&world.exports.0.list()[0].meter)
}

const LARGE_BYTES: usize = 1 << 20;

/// A store in which all happened that is counted.
fn busy() -> World {
    let world = World::new();
    let main = world.store.main().unwrap();
    write(&main, "file", &[7; 5000]);
    // More than an fsync leaves in the log.
    let large = write(&main, "large", &[8; LARGE_BYTES]);
    main.fsync(large, false).unwrap();
    drop(main);
    world.store.commit_tick().unwrap();
    world.store.checkpoint().unwrap();
    let meter = metered(&world);
    let queue = meter.queue(1);
    for (opcode, micros, carried) in [
        (15, 3, Carried::Read(4096)),
        (15, 5000, Carried::Read(4096)),
        (16, 17, Carried::Written(100)),
        (200, 1, Carried::Nothing),
    ] {
        queue.answered(opcode, Duration::from_micros(micros), carried);
    }
    let mut batch = queue.batch();
    (0..3).for_each(|_| batch.took());
    drop(batch);
    meter.refused.note(libc::ENOENT);
    world
}

fn page(world: &World) -> Page {
    let (status, text) = world.get("/metrics");
    assert_eq!(status, 200);
    Page::of(text.as_str().unwrap())
}

#[test]
fn what_happened_is_told() {
    let world = busy();
    let page = page(&world);
    let socket = world.dir.path().join("main.sock");
    let export = format!(r#"dataset="main",socket="{}""#, socket.display());
    let of = |name: &str| page.value(&format!("{name}{{{export}}}"));
    assert_eq!(of("razorfs_read_bytes_total"), 8192.0);
    assert_eq!(of("razorfs_written_bytes_total"), 100.0);
    assert_eq!(of("razorfs_export_stale"), 0.0);
    let reads = |le: &str| {
        let labels = format!(r#"{export},operation="READ",le="{le}""#);
        page.value(&format!(
            "razorfs_request_duration_seconds_bucket{{{labels}}}"
        ))
    };
    assert_eq!([reads("0.000001"), reads("0.000004")], [0.0, 1.0]);
    assert_eq!([reads("0.004096"), reads("0.016384")], [1.0, 2.0]);
    assert_eq!(reads("+Inf"), 2.0);
    let labels = format!(r#"{{{export},operation="READ"}}"#);
    let sum = page.value(&format!("razorfs_request_duration_seconds_sum{labels}"));
    assert!((sum - 0.005_003).abs() < 1e-9, "{sum}");
    let labels = format!(r#"{{{export},operation="OTHER"}}"#);
    let other = page.value(&format!("razorfs_request_duration_seconds_count{labels}"));
    assert_eq!(other, 1.0);
    let labels = format!(r#"{{{export},errno="2"}}"#);
    assert_eq!(
        page.value(&format!("razorfs_refused_requests_total{labels}")),
        1.0
    );
    assert_eq!(page.value("razorfs_writable"), 1.0);
    assert_eq!(page.value("razorfs_checkpoint_duration_seconds_count"), 1.0);
    assert!(page.value("razorfs_group_commit_duration_seconds_count") >= 1.0);
    assert!(page.value(r#"razorfs_disk_written_bytes_total{file="wal"}"#) >= 4096.0);
    assert_eq!(page.value(r#"razorfs_dataset_inodes{dataset="main"}"#), 3.0);
    let large = LARGE_BYTES as f64;
    assert_eq!(
        page.value("razorfs_guest_written_bytes_total"),
        5000.0 + large
    );
    assert_eq!(page.value("razorfs_stored_content_bytes_total"), large);
    assert_eq!(page.value("razorfs_stored_bytes_total"), large);
    assert_eq!(of("razorfs_queue_depth_sum"), 3.0);
    assert_eq!(of("razorfs_queue_depth_count"), 1.0);
    world.finish();
}

#[test]
fn a_page_is_whole_before_anything_happened() {
    let world = World::new();
    let page = page(&world);
    assert_eq!(page.value("razorfs_writable"), 1.0);
    assert!(!page.has("razorfs_request_duration_seconds_count"));
    world.finish();
}

#[test]
fn the_dashboard_asks_for_all_metrics_that_are_there_and_no_others() {
    let world = busy();
    let page = page(&world);
    let dashboard = include_str!("../../../../configs/grafana-dashboard.json");
    let dashboard: Value = serde_json::from_str(dashboard).unwrap();
    let mut asked = BTreeSet::new();
    let is_name = |byte: char| byte.is_ascii_alphanumeric() || byte == '_';
    let panels = dashboard["panels"].as_array().unwrap();
    for target in panels.iter().flat_map(|panel| panel["targets"].as_array()) {
        for target in target {
            let expression = target["expr"].as_str().unwrap();
            let words = expression.split(|byte| !is_name(byte));
            let names = words.filter(|word| word.starts_with("razorfs_"));
            asked.extend(names.map(str::to_owned));
        }
    }
    assert!(asked.len() > 20, "{asked:?}");
    for name in &asked {
        assert!(page.has(name), "{name} is no metric");
    }
    for name in page.types.keys() {
        let is_asked = asked.iter().any(|of| of.starts_with(name.as_str()));
        assert!(is_asked, "{name} is on no panel");
    }
    world.finish();
}

#[test]
fn the_same_is_told_as_json() {
    let world = busy();
    let (status, activity) = world.get("/api/v1/activity");
    assert_eq!(status, 200);
    let requests = activity["exports"][0]["requests"].as_array().unwrap();
    let names: Vec<_> = requests.iter().map(|each| &each["operation"]).collect();
    assert_eq!(names, ["OTHER", "READ", "WRITE"]);
    assert_eq!(requests[1]["times"]["count"], 2);
    assert_eq!(requests[1]["times"]["sum"], 5_003_000);
    assert_eq!(activity["files"].as_array().unwrap().len(), 5);
    world.finish();
}
