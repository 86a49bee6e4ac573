//! Metrics in Prometheus' naming conventions.
//!
//! A [`Metrics`] belongs to one running service and has a registry of its own, so that two services in one process (in tests)
//! count separately. Label values come from fixed sets only: routes of the router's table, statuses, reasons, states. No
//! client's data becomes a label.

use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::proto::MetricType;
use prometheus::{
    CounterVec, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::config::{Module, Modules};

/// Latency buckets in seconds, from an answer out of memory to a request's time limit.
const LATENCY_BUCKETS_S: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
];
const BATCH_ROWS_BUCKETS: &[f64] =
    &[1.0, 10.0, 100.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0, 25_000.0, 50_000.0, 100_000.0];

/// The metrics of one service.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests by route and status.
    pub requests: IntCounterVec,
    /// Time from a request's head to its response, by route.
    pub request_seconds: HistogramVec,
    /// Time from a request's head to its ack, by level.
    pub ack_seconds: HistogramVec,
    /// Connections rejected beyond MAX_CONNECTIONS.
    pub connections_refused: IntCounter,
    /// Accepted events.
    pub accepted: IntCounter,
    /// Events stored in `requests`.
    pub committed: IntCounter,
    /// Events skipped because their idempotency key existed.
    pub duplicates: IntCounter,
    /// Accepted events that became dead letters.
    pub dead: IntCounter,
    /// Events of the journal that are not readable any more.
    pub quarantined: IntCounter,
    /// Events of each group written to the journal.
    pub group_events: Histogram,
    /// Time to write and sync each group.
    pub group_seconds: Histogram,
    /// Time of each sync of the journal.
    pub journal_sync_seconds: Histogram,
    /// Events rejected with 503, by reason.
    pub refused: IntCounterVec,
    /// Dead letters stored, by reason.
    pub dead_letters: IntCounterVec,
    /// Dead letters dropped because their queue was full, by reason.
    pub dead_letters_dropped: IntCounterVec,
    /// Rows of each COPY.
    pub batch_rows: Histogram,
    /// Time of each COPY.
    pub batch_seconds: Histogram,
    /// Retried COPYs, by the verdict on their error.
    pub retries: IntCounterVec,
    /// Probes for bad rows that failed.
    pub probes_failed: IntCounter,
    /// Events in other protocols that were rejected, by protocol.
    pub intake_rejected: IntCounterVec,
    /// Faults injected, by kind.
    pub faults_injected: IntCounterVec,
    /// Messages of the stress API's event streams.
    pub sse_messages: IntCounter,
    /// Ended event streams of the stress API, by reason.
    pub sse_closed: IntCounterVec,
    /// Files stored.
    pub files_stored: IntCounter,
    /// Bytes of the files stored.
    pub file_bytes_stored: IntCounter,
    /// Rejected uploads, by error code.
    pub file_uploads_refused: IntCounterVec,
    /// Removed contents, which no file had any more.
    pub contents_swept: IntCounter,
    /// Lines of imported files, by outcome.
    pub import_lines: IntCounterVec,
    /// Rows that routes wrote, by route.
    route_rows: IntCounterVec,
    /// Rows that routes refused, by route.
    route_errors: IntCounterVec,
    /// Time in the functions of routes, by route.
    route_seconds: CounterVec,
    /// 1 while a route is suspended.
    route_suspended: IntGaugeVec,
    /// Events that wait until a route is live again.
    route_deferred: IntGaugeVec,
    /// Ended streams of changes, by reason.
    pub follows_closed: IntCounterVec,
    /// Subscribers dropped by the hub, by reason.
    pub followers_dropped: IntCounterVec,
    /// Time from the beginning of a change's transaction to its delivery.
    pub feed_lag_seconds: Histogram,
    /// Messages and titles indexed by search.
    pub search_indexed: IntCounter,
    /// Attempts to wake subscriptions to streams, by the kind of subscription and the outcome.
    pub stream_wakes: IntCounterVec,
    /// Appends by `tidegate_append`, by outcome.
    pub stream_inbox: IntCounterVec,
    /// Mails, by outcome.
    pub mails: IntCounterVec,
    /// Entries of the log of requests, by outcome.
    pub request_logs: IntCounterVec,
    /// Restarts of background tasks after a panic, by task.
    pub task_restarts: IntCounterVec,
    /// Gauges, read when the metrics are rendered.
    pub gauges: Gauges,
}

/// A metric, without its values.
#[derive(Debug, Clone)]
pub struct MetricDescription {
    /// Its name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its labels.
    pub labels: Vec<String>,
    /// Its help.
    pub help: String,
}

/// Gauges, set just before they are rendered.
#[derive(Debug)]
pub struct Gauges {
    /// Events in the queue.
    pub queue_events: IntGauge,
    /// Bytes of the events in the queue.
    pub queue_bytes: IntGauge,
    /// Dead letters waiting to be stored.
    pub dead_queue_events: IntGauge,
    /// Bytes of dead letters waiting to be stored.
    pub dead_queue_bytes: IntGauge,
    /// Lanes that store a batch.
    pub lanes_busy: IntGauge,
    /// Bytes of request bodies in memory.
    pub body_bytes: IntGauge,
    /// Open client connections.
    pub connections: IntGauge,
    /// Open event streams of the stress API.
    pub sse_streams: IntGauge,
    /// Subscribers to changes.
    pub followers: IntGauge,
    /// Bytes of changes waiting for subscribers, including those that their sockets have not taken.
    pub followers_bytes: IntGauge,
    /// Positions in the feed that are kept for clients, at the last count.
    pub client_positions: IntGauge,
    /// Age in seconds of the first change that search had not read, at its last poll.
    pub search_lag_seconds: Gauge,
    /// Rows of the inbox of streams, by state, at the last count.
    pub stream_inbox_rows: IntGaugeVec,
    /// Database connections by state.
    pub pool: IntGaugeVec,
    /// Seconds by which the service's clock is ahead of Postgres'.
    pub clock_ahead_seconds: IntGauge,
    /// 1 while nothing is deleted by age because the clocks differ.
    pub deletion_refused: IntGauge,
    /// 1 for each day whose partition cannot be made or dropped.
    pub partitions_failing: IntGaugeVec,
    /// The ledger over the journals on disk, by state.
    pub ledger: IntGaugeVec,
    /// Bytes of the journal, by state.
    pub journal_bytes: IntGaugeVec,
    /// 1 while the journal accepts nothing, by state.
    pub journal_refuses: IntGaugeVec,
    /// Events that Postgres lost and the journal did not have any more.
    pub lost: IntGauge,
    /// Acknowledged events that the journal lost, until an operator acknowledges the loss.
    pub acknowledged_lost: IntGauge,
    /// Seconds since a step of a background task last succeeded, by task.
    pub task_since_success: GaugeVec,
}

impl Metrics {
    /// Metrics with all values at zero.
    ///
    /// # Errors
    ///
    /// If two metrics have one name, which is a defect of this file.
    pub fn new() -> prometheus::Result<Arc<Self>> {
        let registry = Registry::new();
        let metrics = Self {
            requests: counters(
                "tidegate_http_requests_total",
                "Requests by route and status.",
                &["route", "status"],
            )?,
            request_seconds: histograms(
                "tidegate_http_request_duration_seconds",
                "Time from a request's head to its response.",
                "route",
            )?,
            ack_seconds: histograms(
                "tidegate_ack_duration_seconds",
                "Time from a request's head to its ack, by level.",
                "level",
            )?,
            connections_refused: counter(
                "tidegate_http_connections_refused_total",
                "Connections beyond MAX_CONNECTIONS, which got 503 and were closed.",
            )?,
            accepted: counter("tidegate_events_accepted_total", "Accepted events.")?,
            committed: counter("tidegate_events_committed_total", "Events stored in requests.")?,
            duplicates: counter(
                "tidegate_events_duplicate_total",
                "Events skipped because one with the same idempotency key is stored.",
            )?,
            dead: counter("tidegate_events_dead_total", "Accepted events that became dead letters.")?,
            quarantined: counter(
                "tidegate_events_quarantined_total",
                "Events of the journal that are not readable any more.",
            )?,
            group_events: histogram(
                "tidegate_journal_group_events",
                "Events of each group written to the journal.",
                BATCH_ROWS_BUCKETS,
            )?,
            group_seconds: histogram(
                "tidegate_journal_group_duration_seconds",
                "Time to write and sync each group.",
                LATENCY_BUCKETS_S,
            )?,
            journal_sync_seconds: histogram(
                "tidegate_journal_sync_duration_seconds",
                "Time of each sync of the journal.",
                LATENCY_BUCKETS_S,
            )?,
            refused: counters(
                "tidegate_events_refused_total",
                "Events rejected with 503, by reason.",
                &["reason"],
            )?,
            dead_letters: counters("tidegate_dead_letters_total", "Dead letters stored.", &["reason"])?,
            dead_letters_dropped: counters(
                "tidegate_dead_letters_dropped_total",
                "Dead letters dropped because their queue was full.",
                &["reason"],
            )?,
            batch_rows: histogram("tidegate_copy_rows", "Rows of each COPY.", BATCH_ROWS_BUCKETS)?,
            batch_seconds: histogram(
                "tidegate_copy_duration_seconds",
                "Time of each COPY.",
                LATENCY_BUCKETS_S,
            )?,
            retries: counters(
                "tidegate_copy_retries_total",
                "Retried COPYs, by the verdict on their error.",
                &["verdict"],
            )?,
            probes_failed: counter(
                "tidegate_probes_failed_total",
                "Failed probes for bad rows; the rows are found by bisection instead.",
            )?,
            intake_rejected: counters(
                "tidegate_intake_rejected_total",
                "Events in the protocols of other SDKs that were rejected.",
                &["protocol"],
            )?,
            faults_injected: counters(
                "tidegate_faults_injected_total",
                "Faults injected into requests (FAULTS=on).",
                &["kind"],
            )?,
            sse_messages: counter(
                "tidegate_sse_messages_total",
                "Messages of the stress API's event streams.",
            )?,
            sse_closed: counters(
                "tidegate_sse_closed_total",
                "Ended event streams of the stress API.",
                &["reason"],
            )?,
            files_stored: counter("tidegate_files_stored_total", "Files stored.")?,
            file_bytes_stored: counter("tidegate_file_bytes_stored_total", "Bytes of the files stored.")?,
            file_uploads_refused: counters(
                "tidegate_file_uploads_refused_total",
                "Rejected uploads, by error code.",
                &["reason"],
            )?,
            contents_swept: counter(
                "tidegate_file_contents_swept_total",
                "Contents without a file that were removed from DATA_DIR/files.",
            )?,
            route_rows: counters("tidegate_route_rows_total", "Rows that routes wrote.", &["route"])?,
            route_errors: counters("tidegate_route_errors_total", "Rows that routes refused.", &["route"])?,
            route_seconds: CounterVec::new(
                Opts::new("tidegate_route_seconds_total", "Time in the functions of routes, in seconds."),
                &["route"],
            )?,
            route_suspended: IntGaugeVec::new(
                Opts::new("tidegate_route_suspended", "1 while a route is suspended."),
                &["route"],
            )?,
            route_deferred: IntGaugeVec::new(
                Opts::new("tidegate_route_deferred_events", "Events that wait until a route is live again."),
                &["route"],
            )?,
            import_lines: counters(
                "tidegate_import_lines_total",
                "Lines of imported files, without blank ones, by outcome.",
                &["outcome"],
            )?,
            follows_closed: counters(
                "tidegate_follows_closed_total",
                "Ended streams of changes.",
                &["reason"],
            )?,
            followers_dropped: counters(
                "tidegate_followers_dropped_total",
                "Subscribers dropped by the hub.",
                &["reason"],
            )?,
            feed_lag_seconds: histogram(
                "tidegate_feed_lag_seconds",
                "Time from the beginning of a change's transaction to its delivery, for the oldest change of a page.",
                LATENCY_BUCKETS_S,
            )?,
            search_indexed: counter(
                "tidegate_search_indexed_total",
                "Messages and titles indexed by search.",
            )?,
            stream_wakes: counters(
                "tidegate_stream_wakes_total",
                "Attempts to wake subscriptions to streams, by type (webhook or pull-wake) and outcome (delivered or failed).",
                &["type", "outcome"],
            )?,
            stream_inbox: counters(
                "tidegate_stream_inbox_total",
                "Appends by tidegate_append that this node moved to their streams, or could not move (failed).",
                &["outcome"],
            )?,
            request_logs: counters(
                "tidegate_request_logs_total",
                "Entries of the log of requests to typed collections, by outcome (stored or dropped).",
                &["outcome"],
            )?,
            mails: counters(
                "tidegate_mails_total",
                "Mails that were sent, refused by the mail server, that failed for another reason, or found no place in the queue (dropped).",
                &["outcome"],
            )?,
            task_restarts: counters(
                "tidegate_task_restarts_total",
                "Restarts of background tasks after a panic.",
                &["task"],
            )?,
            gauges: Gauges {
                queue_events: gauge(
                    "tidegate_queue_events",
                    "Events in the queue: accepted, and neither stored nor dead.",
                )?,
                queue_bytes: gauge("tidegate_queue_bytes", "Bytes of the events in the queue.")?,
                dead_queue_events: gauge(
                    "tidegate_dead_letter_queue_events",
                    "Dead letters waiting to be stored.",
                )?,
                dead_queue_bytes: gauge(
                    "tidegate_dead_letter_queue_bytes",
                    "Bytes of dead letters waiting to be stored.",
                )?,
                lanes_busy: gauge("tidegate_lanes_busy", "Lanes that store a batch.")?,
                body_bytes: gauge("tidegate_http_body_bytes", "Bytes of request bodies in memory.")?,
                connections: gauge("tidegate_http_connections", "Open client connections.")?,
                sse_streams: gauge("tidegate_sse_streams", "Open event streams of the stress API.")?,
                followers: gauge("tidegate_followers", "Subscribers to changes.")?,
                followers_bytes: gauge(
                    "tidegate_followers_bytes",
                    "Bytes of changes waiting for subscribers, including those that their sockets have not taken.",
                )?,
                client_positions: gauge(
                    "tidegate_client_positions",
                    "Positions in the feed that are kept for clients (`resume`), of all nodes, at the last count.",
                )?,
                search_lag_seconds: Gauge::new(
                    "tidegate_search_lag_seconds",
                    "Age of the first change that search had not read, at its last poll.",
                )?,
                stream_inbox_rows: IntGaugeVec::new(
                    Opts::new(
                        "tidegate_stream_inbox_rows",
                        "Appends by tidegate_append in stream_inbox: waiting, or failed; up to 100,000 of each.",
                    ),
                    &["state"],
                )?,
                pool: IntGaugeVec::new(
                    Opts::new("tidegate_db_connections", "Database connections by state."),
                    &["state"],
                )?,
                clock_ahead_seconds: gauge(
                    "tidegate_clock_ahead_seconds",
                    "Seconds by which the service's clock is ahead of Postgres', as last measured.",
                )?,
                deletion_refused: gauge(
                    "tidegate_deletion_refused",
                    "1 while nothing is deleted by age because the clocks differ by more than a minute.",
                )?,
                partitions_failing: IntGaugeVec::new(
                    Opts::new(
                        "tidegate_partitions_failing",
                        "1 for each day whose partition cannot be made or dropped.",
                    ),
                    &["action", "day", "sqlstate"],
                )?,
                ledger: IntGaugeVec::new(
                    Opts::new(
                        "tidegate_ledger_events",
                        "Events of the journals on disk: accepted is the sum of the other states.",
                    ),
                    &["state"],
                )?,
                journal_bytes: IntGaugeVec::new(
                    Opts::new("tidegate_journal_bytes", "Bytes of the journal on disk."),
                    &["state"],
                )?,
                journal_refuses: IntGaugeVec::new(
                    Opts::new("tidegate_journal_refuses", "1 while the journal accepts nothing, by state."),
                    &["state"],
                )?,
                lost: gauge(
                    "tidegate_events_lost_by_postgres",
                    "Events that Postgres lost and the journal did not have any more.",
                )?,
                acknowledged_lost: gauge(
                    "tidegate_acknowledged_lost",
                    "Acknowledged events that the journal lost, until `tidegate journal --acknowledge`.",
                )?,
                task_since_success: GaugeVec::new(
                    Opts::new(
                        "tidegate_task_seconds_since_success",
                        "Seconds since a step of a background task last succeeded.",
                    ),
                    &["task"],
                )?,
            },
            registry,
        };
        metrics.register()?;
        Ok(Arc::new(metrics))
    }

    /// All metrics of the service, those without a value yet too. Those of the process come with them in a registry.
    fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let gauges = &self.gauges;
        let mut all: Vec<Box<dyn Collector>> = vec![
            Box::new(self.requests.clone()),
            Box::new(self.request_seconds.clone()),
            Box::new(self.ack_seconds.clone()),
            Box::new(self.connections_refused.clone()),
            Box::new(self.accepted.clone()),
            Box::new(self.committed.clone()),
            Box::new(self.duplicates.clone()),
            Box::new(self.dead.clone()),
            Box::new(self.quarantined.clone()),
            Box::new(self.group_events.clone()),
            Box::new(self.group_seconds.clone()),
            Box::new(self.journal_sync_seconds.clone()),
            Box::new(self.refused.clone()),
            Box::new(self.dead_letters.clone()),
            Box::new(self.dead_letters_dropped.clone()),
            Box::new(self.batch_rows.clone()),
            Box::new(self.batch_seconds.clone()),
            Box::new(self.retries.clone()),
            Box::new(self.probes_failed.clone()),
            Box::new(self.intake_rejected.clone()),
            Box::new(self.faults_injected.clone()),
            Box::new(self.sse_messages.clone()),
            Box::new(self.sse_closed.clone()),
            Box::new(self.files_stored.clone()),
            Box::new(self.file_bytes_stored.clone()),
            Box::new(self.file_uploads_refused.clone()),
            Box::new(self.contents_swept.clone()),
            Box::new(self.import_lines.clone()),
            Box::new(self.route_rows.clone()),
            Box::new(self.route_errors.clone()),
            Box::new(self.route_seconds.clone()),
            Box::new(self.route_suspended.clone()),
            Box::new(self.route_deferred.clone()),
            Box::new(self.follows_closed.clone()),
            Box::new(self.followers_dropped.clone()),
            Box::new(self.feed_lag_seconds.clone()),
            Box::new(self.search_indexed.clone()),
            Box::new(self.stream_wakes.clone()),
            Box::new(self.stream_inbox.clone()),
            Box::new(self.mails.clone()),
            Box::new(self.request_logs.clone()),
            Box::new(self.task_restarts.clone()),
            Box::new(gauges.queue_events.clone()),
            Box::new(gauges.queue_bytes.clone()),
            Box::new(gauges.dead_queue_events.clone()),
            Box::new(gauges.dead_queue_bytes.clone()),
            Box::new(gauges.lanes_busy.clone()),
            Box::new(gauges.body_bytes.clone()),
            Box::new(gauges.connections.clone()),
            Box::new(gauges.sse_streams.clone()),
            Box::new(gauges.followers.clone()),
            Box::new(gauges.followers_bytes.clone()),
            Box::new(gauges.client_positions.clone()),
            Box::new(gauges.search_lag_seconds.clone()),
            Box::new(gauges.stream_inbox_rows.clone()),
            Box::new(gauges.pool.clone()),
            Box::new(gauges.clock_ahead_seconds.clone()),
            Box::new(gauges.deletion_refused.clone()),
            Box::new(gauges.partitions_failing.clone()),
            Box::new(gauges.ledger.clone()),
            Box::new(gauges.journal_bytes.clone()),
            Box::new(gauges.journal_refuses.clone()),
            Box::new(gauges.lost.clone()),
            Box::new(gauges.acknowledged_lost.clone()),
            Box::new(gauges.task_since_success.clone()),
        ];
        if let Some(jobs) = crate::offload::counter() {
            all.push(Box::new(jobs));
        }
        all
    }

    fn register(&self) -> prometheus::Result<()> {
        for collector in self.collectors() {
            self.registry.register(collector)?;
        }
        #[cfg(target_os = "linux")]
        self.registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(())
    }

    /// Takes away the metrics of modules that are off.
    ///
    /// # Errors
    ///
    /// If one of them is not registered.
    pub fn report_only(&self, modules: Modules) -> prometheus::Result<()> {
        let gauges = &self.gauges;
        let parts: [(bool, Vec<Box<dyn Collector>>); 8] = [
            (modules.has(Module::Intake), vec![Box::new(self.intake_rejected.clone())]),
            (
                modules.has_feed(),
                vec![
                    Box::new(self.follows_closed.clone()),
                    Box::new(self.followers_dropped.clone()),
                    Box::new(self.feed_lag_seconds.clone()),
                    Box::new(gauges.followers.clone()),
                    Box::new(gauges.followers_bytes.clone()),
                ],
            ),
            (
                modules.has(Module::Conversations),
                vec![Box::new(self.search_indexed.clone()), Box::new(gauges.search_lag_seconds.clone())],
            ),
            (
                modules.has(Module::Files),
                vec![
                    Box::new(self.files_stored.clone()),
                    Box::new(self.file_bytes_stored.clone()),
                    Box::new(self.file_uploads_refused.clone()),
                    Box::new(self.contents_swept.clone()),
                ],
            ),
            (modules.has(Module::Imports), vec![Box::new(self.import_lines.clone())]),
            (
                modules.has(Module::Streams),
                vec![
                    Box::new(self.stream_wakes.clone()),
                    Box::new(self.stream_inbox.clone()),
                    Box::new(gauges.stream_inbox_rows.clone()),
                ],
            ),
            (
                modules.has(Module::PocketBase),
                vec![
                    Box::new(self.mails.clone()),
                    Box::new(self.request_logs.clone()),
                    Box::new(gauges.client_positions.clone()),
                ],
            ),
            (
                modules.has(Module::Stress),
                vec![
                    Box::new(self.sse_messages.clone()),
                    Box::new(self.sse_closed.clone()),
                    Box::new(gauges.sse_streams.clone()),
                ],
            ),
        ];
        for (_, collectors) in parts.into_iter().filter(|(is_on, _)| !is_on) {
            for collector in collectors {
                self.registry.unregister(collector)?;
            }
        }
        Ok(())
    }

    /// Counts a committed COPY of `rows` rows that took `elapsed`, without `duplicates`.
    pub fn copy_committed(&self, rows: u64, duplicates: u64, elapsed: Duration) {
        self.committed.inc_by(rows);
        self.duplicates.inc_by(duplicates);
        self.batch_rows.observe(rows as f64);
        self.batch_seconds.observe(elapsed.as_secs_f64());
    }

    /// Counts a group of `events` events whose write and sync took `elapsed`.
    pub fn group_committed(&self, events: u64, elapsed: Duration) {
        self.group_events.observe(events as f64);
        self.group_seconds.observe(elapsed.as_secs_f64());
    }

    /// Counts stored files of `bytes` in total.
    pub fn files_stored(&self, files: usize, bytes: u64) {
        self.files_stored.inc_by(files as u64);
        self.file_bytes_stored.inc_by(bytes);
    }

    /// Counts the lines of a stored part of an import.
    pub fn import_stored(&self, stored: u64, rejected: u64) {
        self.import_lines.with_label_values(&["stored"]).inc_by(stored);
        self.import_lines.with_label_values(&["rejected"]).inc_by(rejected);
    }

    /// Counts what a route did.
    pub fn route_worked(&self, route: &str, rows: u64, refused: u64, microseconds: u64) {
        self.route_rows.with_label_values(&[route]).inc_by(rows);
        self.route_errors.with_label_values(&[route]).inc_by(refused);
        self.route_seconds.with_label_values(&[route]).inc_by(microseconds as f64 / 1e6);
    }

    /// Reports a route's state, and its deferred events.
    pub fn route_waits(&self, route: &str, is_suspended: bool, deferred: i64) {
        self.route_suspended.with_label_values(&[route]).set(is_suspended.into());
        self.route_deferred.with_label_values(&[route]).set(deferred);
    }

    /// Takes away the metrics of a route.
    pub fn route_removed(&self, route: &str) {
        for removed in [
            self.route_rows.remove_label_values(&[route]),
            self.route_errors.remove_label_values(&[route]),
            self.route_seconds.remove_label_values(&[route]),
            self.route_suspended.remove_label_values(&[route]),
            self.route_deferred.remove_label_values(&[route]),
        ] {
            // It was never counted.
            let _absent = removed;
        }
    }

    /// Every metric of the service, sorted by name, for the reference.
    pub fn describe(&self) -> Vec<MetricDescription> {
        let mut all: Vec<_> = self.collectors().iter().flat_map(|collector| describe(&**collector)).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// Renders all metrics in Prometheus' text format.
    ///
    /// # Errors
    ///
    /// If the encoder rejects a metric.
    pub fn render(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// The metrics of a collector.
fn describe(collector: &dyn Collector) -> Vec<MetricDescription> {
    let families = collector.collect().into_iter();
    let described = families.zip(collector.desc()).map(|(family, desc)| MetricDescription {
        name: desc.fq_name.clone(),
        kind: match family.get_field_type() {
            MetricType::COUNTER => "counter",
            MetricType::HISTOGRAM => "histogram",
            MetricType::SUMMARY => "summary",
            MetricType::GAUGE | MetricType::UNTYPED => "gauge",
        },
        labels: desc.variable_labels.clone(),
        help: desc.help.clone(),
    });
    described.collect()
}

fn counter(name: &str, help: &str) -> prometheus::Result<IntCounter> {
    IntCounter::new(name, help)
}

fn counters(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(Opts::new(name, help), labels)
}

fn histogram(name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))
}

fn gauge(name: &str, help: &str) -> prometheus::Result<IntGauge> {
    IntGauge::new(name, help)
}

fn histograms(name: &str, help: &str, label: &str) -> prometheus::Result<HistogramVec> {
    HistogramVec::new(HistogramOpts::new(name, help).buckets(LATENCY_BUCKETS_S.to_vec()), &[label])
}
