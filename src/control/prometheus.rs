//! [`Activity`] as Prometheus wants it: the text format of its exposition formats, version 0.0.4.
//!
//! Names follow Prometheus's own advice: base units (seconds, bytes), `_total` for what only grows.
//! A metric keeps its name and meaning once it has been told.

use prometheus::proto::{Bucket, Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Error, TextEncoder};

use super::activity::{Activity, ExportActivity, FileActivity, Spread};

/// The type of [`text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Of the bounds of a [`Spread`], every second is told: a factor of four, so that a scrape stays
/// small where there are many exports.
const BOUNDS_STEP: usize = 2;

/// What values are counted in, and what is told.
#[derive(Clone, Copy)]
enum Unit {
    /// Buckets in microseconds, the sum in nanoseconds; told in seconds.
    Seconds,
    /// Numbers of things.
    Things,
}

/// A page of metrics under construction.
#[derive(Default)]
struct Page(Vec<MetricFamily>);

type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

/// The page for a scrape.
///
/// # Errors
/// When a name or a label breaks the format's rules, which none here does.
pub fn text(activity: &Activity) -> Result<String, Error> {
    let mut page = Page::default();
    page.store(activity);
    page.log(activity);
    page.space(activity);
    page.files(&activity.files);
    page.exports(&activity.exports);
    TextEncoder::new().encode_to_string(&page.0)
}

impl Page {
    fn store(&mut self, now: &Activity) {
        self.gauges(
            "razorfs_build_info",
            "The program's version. Always 1.",
            [([("version", now.version.as_str())], 1)],
        );
        self.gauge(
            "razorfs_writable",
            "Whether the store takes changes: 0 when opened so, or since a write failed.",
            now.is_writable.into(),
        );
        let caches = || now.caches.iter();
        self.counters(
            "razorfs_cache_hits_total",
            "Looks for something that memory had.",
            caches().map(|each| ([("cache", each.cache.as_str())], each.hits)),
        );
        self.counters(
            "razorfs_cache_misses_total",
            "Looks for something that memory had not.",
            caches().map(|each| ([("cache", each.cache.as_str())], each.misses)),
        );
        self.gauges(
            "razorfs_cache_bytes",
            "What memory keeps of what was read.",
            caches().map(|each| ([("cache", each.cache.as_str())], each.bytes)),
        );
        self.counters(
            "razorfs_damaged_reads_total",
            "Reads of what does not match its checksum, or cannot be what was written.",
            [
                ([("file", "nodes")], now.damaged_pages),
                ([("file", "chunks")], now.damaged_content),
            ],
        );
        self.gauge(
            "razorfs_unwritten_bytes",
            "Content that is in memory only.",
            now.unwritten_bytes,
        );
        self.gauge(
            "razorfs_unwritten_limit_bytes",
            "Content in memory from which on writers wait (--dirty-limit).",
            now.unwritten_bytes_max,
        );
        self.counter(
            "razorfs_guest_written_bytes_total",
            "Content that guests wrote.",
            now.guest_written_bytes,
        );
        self.counter(
            "razorfs_stored_content_bytes_total",
            "Content that became chunks of its own.",
            now.stored_content_bytes,
        );
        self.counter(
            "razorfs_stored_bytes_total",
            "Space that these chunks took, compressed as they are.",
            now.stored_bytes,
        );
        self.counter(
            "razorfs_deduplicated_bytes_total",
            "Content that was stored already, and was not stored again.",
            now.deduplicated_bytes,
        );
    }

    fn log(&mut self, now: &Activity) {
        self.gauge("razorfs_log_bytes", "The size of the log.", now.log_bytes);
        self.gauge(
            "razorfs_log_used_bytes",
            "Log that the next checkpoint frees.",
            now.log_used_bytes,
        );
        self.gauge(
            "razorfs_dirty_pages",
            "Tree pages that the next checkpoint writes.",
            now.dirty_pages,
        );
        self.histograms(
            "razorfs_group_commit_duration_seconds",
            "How long it took to make transactions durable, all that waited at once.",
            Unit::Seconds,
            [([], &now.commit_times)],
        );
        self.histograms(
            "razorfs_group_commit_transactions",
            "Transactions that were made durable at once.",
            Unit::Things,
            [([], &now.commit_transactions)],
        );
        self.histograms(
            "razorfs_checkpoint_duration_seconds",
            "How long checkpoints took.",
            Unit::Seconds,
            [([], &now.checkpoint_times)],
        );
    }

    fn space(&mut self, now: &Activity) {
        self.gauge(
            "razorfs_capacity_bytes",
            "Content that the store may hold; 0 for as much as the disk gives.",
            now.capacity_bytes,
        );
        self.gauge(
            "razorfs_free_bytes",
            "Content that can still be written.",
            now.free_bytes,
        );
        self.gauge(
            "razorfs_used_bytes",
            "Space that content takes, shared and compressed as it is.",
            now.used_bytes,
        );
        self.gauge(
            "razorfs_chunks_file_bytes",
            "The length of chunks.dat.",
            now.chunks_file_bytes,
        );
        self.gauge(
            "razorfs_punched_bytes",
            "Bytes of chunks.dat that went back to the disk below from inside of it.",
            now.punched_bytes,
        );
        self.counter(
            "razorfs_compacted_chunks_total",
            "Chunks that compactions moved.",
            now.moved_chunks,
        );
        self.counter(
            "razorfs_compacted_bytes_total",
            "Bytes of chunks.dat that they take.",
            now.moved_bytes,
        );
        self.counter(
            "razorfs_defragmented_bytes_total",
            "Bytes of files that were written anew in the background.",
            now.defragmented_bytes,
        );
        self.counter(
            "razorfs_forgotten_names_total",
            "Names that nobody used any more, and that were forgotten.",
            now.forgotten_names,
        );
        self.gauge(
            "razorfs_names_punched_bytes",
            "Bytes of strings.dat that went back to the disk below.",
            now.names_punched_bytes,
        );
        self.gauge("razorfs_snapshots", "Snapshots.", now.snapshot_count);
        let datasets = || now.datasets.iter();
        self.gauges(
            "razorfs_dataset_allocated_bytes",
            "Content of a dataset's files as the guest sees it, shared or not.",
            datasets().map(|each| ([("dataset", each.dataset.as_str())], each.allocated_bytes)),
        );
        self.gauges(
            "razorfs_dataset_quota_bytes",
            "What a dataset's files may take; 0 for no limit.",
            datasets().map(|each| ([("dataset", each.dataset.as_str())], each.quota_bytes)),
        );
        self.gauges(
            "razorfs_dataset_inodes",
            "Inodes of a dataset.",
            datasets().map(|each| ([("dataset", each.dataset.as_str())], each.inodes)),
        );
    }

    fn files(&mut self, files: &[FileActivity]) {
        self.counters(
            "razorfs_disk_read_bytes_total",
            "Bytes read from the store's files, but for what is read through mappings.",
            files
                .iter()
                .map(|each| ([("file", each.file.as_str())], each.read_bytes)),
        );
        self.counters(
            "razorfs_disk_written_bytes_total",
            "Bytes written to the store's files.",
            files
                .iter()
                .map(|each| ([("file", each.file.as_str())], each.written_bytes)),
        );
        self.counters(
            "razorfs_disk_errors_total",
            "Calls that the disk refused, but for want of space.",
            files
                .iter()
                .map(|each| ([("file", each.file.as_str())], each.errors)),
        );
        let times = files.iter().flat_map(|each| {
            let file = each.file.as_str();
            let kinds = [
                ("read", &each.reads),
                ("write", &each.writes),
                ("durable_write", &each.durable_writes),
                ("flush", &each.flushes),
            ];
            kinds.map(|(call, times)| ([("file", file), ("call", call)], times))
        });
        self.histograms(
            "razorfs_disk_duration_seconds",
            "How long calls to the disk took.",
            Unit::Seconds,
            times.filter(|(_, times)| times.count > 0),
        );
    }

    fn exports(&mut self, exports: &[ExportActivity]) {
        let times = exports.iter().flat_map(|each| {
            each.requests.iter().map(|of_kind| {
                let [dataset, socket] = of_export(each);
                let operation = ("operation", of_kind.operation.as_str());
                ([dataset, socket, operation], &of_kind.times)
            })
        });
        self.histograms(
            "razorfs_request_duration_seconds",
            "How long guests' requests took, from the queue to the answer.",
            Unit::Seconds,
            times,
        );
        let errors: Vec<_> = exports
            .iter()
            .flat_map(|each| each.refused.iter().map(move |refused| (each, refused)))
            .map(|(each, refused)| (each, refused.errno.to_string(), refused.count))
            .collect();
        self.counters(
            "razorfs_refused_requests_total",
            "Answers that were errors, by Linux's number of the error.",
            errors.iter().map(|(each, errno, count)| {
                let [dataset, socket] = of_export(each);
                ([dataset, socket, ("errno", errno.as_str())], *count)
            }),
        );
        self.histograms(
            "razorfs_queue_depth",
            "Requests that there were at once: taken off a queue until it was empty.",
            Unit::Things,
            exports.iter().map(|each| (of_export(each), &each.depths)),
        );
        type Of = fn(&ExportActivity) -> u64;
        let counters: [(&str, &str, Of); 6] = [
            (
                "razorfs_read_bytes_total",
                "Content that guests read.",
                |each| each.read_bytes,
            ),
            (
                "razorfs_written_bytes_total",
                "Content that guests wrote.",
                |each| each.written_bytes,
            ),
            (
                "razorfs_kicks_total",
                "How often guests had to wake the daemon.",
                |each| each.kicks,
            ),
            (
                "razorfs_polls_paid_total",
                "Looks for more requests before sleeping that found some (--poll-us).",
                |each| each.polls_paid,
            ),
            (
                "razorfs_polls_unpaid_total",
                "Looks for more requests before sleeping that found none.",
                |each| each.polls_unpaid,
            ),
            (
                "razorfs_requests_handed_over_total",
                "Requests that another thread answered, because they wait for the disk.",
                |each| each.handed_over,
            ),
        ];
        for (name, help, of) in counters {
            self.counters(
                name,
                help,
                exports.iter().map(|each| (of_export(each), of(each))),
            );
        }
        self.gauges(
            "razorfs_requests_waiting",
            "Requests that another thread has and has not answered yet.",
            exports.iter().map(|each| (of_export(each), each.waiting)),
        );
        self.gauges(
            "razorfs_export_stale",
            "Whether the dataset was restored below the guest, which has to mount it again.",
            exports
                .iter()
                .map(|each| (of_export(each), each.is_stale.into())),
        );
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.gauges(name, help, [([], value)]);
    }

    fn gauges<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'a, N>, u64)>,
    ) {
        let set = |metric: &mut Metric, value| {
            let mut gauge = Gauge::default();
            gauge.set_value(float(value));
            metric.set_gauge(gauge);
        };
        self.values((name, help, MetricType::GAUGE), values, set);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.counters(name, help, [([], value)]);
    }

    fn counters<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'a, N>, u64)>,
    ) {
        let set = |metric: &mut Metric, value| {
            let mut counter = Counter::default();
            counter.set_value(float(value));
            metric.set_counter(counter);
        };
        self.values((name, help, MetricType::COUNTER), values, set);
    }

    fn histograms<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Unit,
        values: impl IntoIterator<Item = (Labels<'a, N>, &'a Spread)>,
    ) {
        let set = |metric: &mut Metric, spread| metric.set_histogram(histogram(spread, unit));
        self.values((name, help, MetricType::HISTOGRAM), values, set);
    }

    fn values<'a, const N: usize, T>(
        &mut self,
        (name, help, kind): (&str, &str, MetricType),
        values: impl IntoIterator<Item = (Labels<'a, N>, T)>,
        set: impl Fn(&mut Metric, T),
    ) {
        let metrics = values.into_iter().map(|(labels, value)| {
            let mut metric = labelled(labels);
            set(&mut metric, value);
            metric
        });
        self.put(name, help, kind, metrics.collect());
    }

    /// What has no values is not told: the format has no place for it.
    fn put(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }
}

fn of_export(export: &ExportActivity) -> Labels<'_, 2> {
    [("dataset", &export.dataset), ("socket", &export.socket)]
}

fn labelled<const N: usize>(labels: Labels<'_, N>) -> Metric {
    let pairs = labels.map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    });
    Metric::from_label(pairs.into())
}

fn histogram(spread: &Spread, unit: Unit) -> prometheus::proto::Histogram {
    let (scale, sum_scale) = match unit {
        Unit::Seconds => (1e-6, 1e-9),
        Unit::Things => (1.0, 1.0),
    };
    let mut told = prometheus::proto::Histogram::default();
    let mut below: u64 = 0;
    let mut bound = scale;
    let mut buckets = Vec::new();
    // What is in the last is above all bounds.
    let bounded = spread.buckets.len().saturating_sub(1);
    for (at, count) in spread.buckets.iter().take(bounded).enumerate() {
        below = below.saturating_add(*count);
        if at.is_multiple_of(BOUNDS_STEP) {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(below);
            buckets.push(bucket);
        }
        bound *= 2.0;
    }
    told.set_bucket(buckets);
    told.set_sample_count(spread.count);
    told.set_sample_sum(float(spread.sum) * sum_scale);
    told
}

/// Exact up to 2^53, which nothing here reaches in years.
#[allow(clippy::cast_precision_loss)]
fn float(value: u64) -> f64 {
    value as f64
}
