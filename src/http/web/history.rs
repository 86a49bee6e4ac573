//! The figures of the last minutes, with which the page's charts begin: a small sample a second, whether a page is open or not.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;

use crate::ingest::{AckLevel, Ingest};
use crate::observe::{Latencies, LatencySample, Metrics};
use crate::supervisor::{Backoff, Next, Supervisor};
use crate::time::Micros;

/// The time between two samples.
const INTERVAL: Duration = Duration::from_secs(1);
/// Samples that are kept: five minutes, in about 30 KiB.
const KEPT: usize = 300;
const LEVELS: [AckLevel; 3] = [AckLevel::Queued, AckLevel::Journaled, AckLevel::Committed];

/// The last samples.
#[derive(Debug, Default)]
pub(in crate::http) struct History(Mutex<VecDeque<Point>>);

/// A sample: what the charts show of a second.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    /// Unix time in milliseconds.
    at_ms: i64,
    accepted_rate: f64,
    committed_rate: f64,
    dead_rate: f64,
    pending: u64,
    queued: u64,
    /// Of the level with the most answers.
    acks: Option<[f64; 3]>,
    sync_p99: Option<f64>,
    copy_p99: Option<f64>,
}

/// The samples as the page's charts take them: a list for each line, all of one length.
#[derive(Debug, Default, Serialize)]
pub(super) struct HistoryResponse {
    /// Unix time in seconds.
    x: Vec<f64>,
    accepted: Vec<f64>,
    committed: Vec<f64>,
    dead: Vec<f64>,
    pending: Vec<u64>,
    queued: Vec<u64>,
    /// Milliseconds, as all latencies.
    p50: Vec<Option<f64>>,
    p95: Vec<Option<f64>>,
    p99: Vec<Option<f64>>,
    sync: Vec<Option<f64>>,
    copy: Vec<Option<f64>>,
}

impl History {
    /// Starts the sampling. It reads counters and histograms, and takes no lock of the event path.
    pub(in crate::http) fn start(
        self: &Arc<Self>,
        ingest: &Ingest,
        metrics: &Arc<Metrics>,
        supervisor: &Supervisor,
    ) {
        let (history, ingest, metrics) = (Arc::clone(self), ingest.clone(), Arc::clone(metrics));
        let mut before = Samples::now(&metrics);
        supervisor.periodic("figures", INTERVAL, Backoff::fixed(INTERVAL), move || {
            let now = Samples::now(&metrics);
            if let Some(point) = now.since(&before, &ingest) {
                history.add(point);
                before = now;
            }
            std::future::ready(Ok(Next::Interval))
        });
    }

    fn add(&self, point: Point) {
        let mut points = self.0.lock();
        if points.len() >= KEPT {
            points.pop_front();
        }
        points.push_back(point);
    }

    /// The samples, the oldest first.
    pub(super) fn response(&self) -> HistoryResponse {
        let mut all = HistoryResponse::default();
        for point in self.0.lock().iter() {
            let percentile = |place: usize| point.acks.map(|all| all[place]);
            all.x.push(point.at_ms as f64 / 1e3);
            all.accepted.push(point.accepted_rate);
            all.committed.push(point.committed_rate);
            all.dead.push(point.dead_rate);
            all.pending.push(point.pending);
            all.queued.push(point.queued);
            all.p50.push(percentile(0));
            all.p95.push(percentile(1));
            all.p99.push(percentile(2));
            all.sync.push(point.sync_p99);
            all.copy.push(point.copy_p99);
        }
        all
    }
}

/// What a sample is computed from.
struct Samples {
    at: Instant,
    accepted: u64,
    committed: u64,
    dead: u64,
    acks: [LatencySample; 3],
    syncs: LatencySample,
    copies: LatencySample,
}

impl Samples {
    fn now(metrics: &Metrics) -> Self {
        let of_level =
            |level: AckLevel| LatencySample::of(&metrics.ack_seconds.with_label_values(&[level.name()]));
        Self {
            at: Instant::now(),
            accepted: metrics.accepted.get(),
            committed: metrics.committed.get(),
            dead: metrics.dead.get(),
            acks: LEVELS.map(of_level),
            syncs: LatencySample::of(&metrics.journal_sync_seconds),
            copies: LatencySample::of(&metrics.batch_seconds),
        }
    }

    /// The figures of the time since `before`; `None`: too short a time for rates, as at the start.
    fn since(&self, before: &Self, ingest: &Ingest) -> Option<Point> {
        let seconds = (self.at - before.at).as_secs_f64();
        if seconds < INTERVAL.as_secs_f64() / 2.0 {
            return None;
        }
        let rate = |now: u64, before: u64| tenths(now.saturating_sub(before) as f64 / seconds);
        let acks = self.acks.iter().zip(&before.acks).map(|(now, before)| now.since(before));
        let busiest = acks.max_by_key(|latencies| latencies.count);
        let p99 = |latencies: Latencies| latencies.percentiles.map(|all| ms(all[2]));
        let (pending, queued) = ingest.pending();
        Some(Point {
            at_ms: Micros::now().0 / 1_000,
            accepted_rate: rate(self.accepted, before.accepted),
            committed_rate: rate(self.committed, before.committed),
            dead_rate: rate(self.dead, before.dead),
            pending,
            queued,
            acks: busiest.and_then(|latencies| latencies.percentiles).map(|all| all.map(ms)),
            sync_p99: p99(self.syncs.since(&before.syncs)),
            copy_p99: p99(self.copies.since(&before.copies)),
        })
    }
}

/// Rounded to tenths.
fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Seconds as milliseconds, to the microsecond.
fn ms(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_sample_goes_once_there_are_five_minutes_of_them() {
        let history = History::default();
        for second in 0..KEPT as i64 + 3 {
            history.add(Point {
                at_ms: second * 1_000,
                accepted_rate: 1.5,
                committed_rate: 1.0,
                dead_rate: 0.0,
                pending: 2,
                queued: 1,
                acks: (second % 2 == 0).then_some([1.0, 2.0, 3.0]),
                sync_p99: None,
                copy_p99: Some(4.0),
            });
        }
        let all = history.response();
        assert_eq!((all.x.len(), all.x.first(), all.x.last()), (KEPT, Some(&3.0), Some(&302.0)));
        assert_eq!((all.p99[0], all.p99[1], all.copy[0], all.sync[0]), (None, Some(3.0), Some(4.0), None));
        let json = serde_json::to_value(&all).unwrap();
        assert!(json.as_object().unwrap().values().all(|line| line.as_array().unwrap().len() == KEPT));
    }
}
