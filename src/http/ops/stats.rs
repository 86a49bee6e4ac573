//! The snapshots of the topic `stats`: one a second, made by the first subscriber that is due and shared by all, so nothing runs without
//! subscribers.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prometheus::core::Collector;
use serde::Serialize;
use tokio::time::Instant;

use super::health::{HealthResponse, LedgerHealth};
use crate::http::AppState;
use crate::ingest::{AckLevel, LaneActivity, LaneReport};
use crate::observe::{Latencies, LatencySample, Metrics};
use crate::time::Micros;

/// The time between two snapshots.
const INTERVAL: Duration = Duration::from_secs(1);

/// A snapshot, as subscribers get it.
#[derive(Serialize)]
struct StatsResponse {
    /// Unix time in milliseconds.
    at_ms: i64,
    /// As of `GET /api/health`.
    #[serde(flatten)]
    health: HealthResponse,
    /// `None`: the service is starting.
    #[serde(flatten)]
    pipeline: Option<PipelineStats>,
    /// Events rejected with 503 since the start, by reason.
    refused: BTreeMap<String, u64>,
    realtime: RealtimeStats,
    /// `None`: there was no snapshot a second ago.
    last_second: Option<LastSecond>,
}

#[derive(Serialize)]
struct PipelineStats {
    ledger: LedgerHealth,
    lanes: LaneStats,
}

#[derive(Serialize)]
struct LaneStats {
    count: usize,
    /// Those that store a batch.
    busy: usize,
    /// What each of them is doing, in the order of their numbers.
    each: Vec<OneLaneStats>,
}

#[derive(Serialize)]
struct OneLaneStats {
    /// `waiting`, `copying`, `isolating` (bad rows of a batch), `retrying` (a passing error) or `halted` (the database needs its operator).
    state: &'static str,
    /// The time in this state, in milliseconds.
    since_ms: u64,
    /// Events of its batch.
    events: u64,
    /// Finished batches, since the start.
    batches: u64,
}

impl LaneStats {
    fn of(lanes: &[LaneReport]) -> Self {
        let busy = lanes.iter().filter(|lane| lane.activity != LaneActivity::Waiting).count();
        let each = lanes.iter().map(|lane| OneLaneStats {
            state: lane.activity.name(),
            since_ms: lane.since.as_millis().try_into().unwrap_or(u64::MAX),
            events: lane.events,
            batches: lane.batches,
        });
        Self { count: lanes.len(), busy, each: each.collect() }
    }
}

#[derive(Serialize)]
struct RealtimeStats {
    subscribers: i64,
    /// Changes that wait for them.
    held_bytes: i64,
}

/// Latencies since the snapshot before.
#[derive(Serialize)]
struct LastSecond {
    /// The time since then.
    seconds: f64,
    /// From a request's head to its answer, by level.
    acks: BTreeMap<&'static str, LatencyStats>,
    /// Of each COPY.
    copies: LatencyStats,
    /// Of each sync of the journal.
    journal_syncs: LatencyStats,
}

/// Latencies; the percentiles are null if there are none.
#[derive(Serialize)]
struct LatencyStats {
    count: u64,
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
    p99_ms: Option<f64>,
}

impl From<Latencies> for LatencyStats {
    fn from(latencies: Latencies) -> Self {
        // To the microsecond.
        let ms = |index: usize| latencies.percentiles.map(|all| (all[index] * 1e6).round() / 1e3);
        Self { count: latencies.count, p50_ms: ms(0), p95_ms: ms(1), p99_ms: ms(2) }
    }
}

/// What the percentiles are computed from.
#[derive(Debug)]
struct Samples {
    at: Instant,
    acks: [LatencySample; 3],
    copies: LatencySample,
    syncs: LatencySample,
}

const LEVELS: [AckLevel; 3] = [AckLevel::Queued, AckLevel::Journaled, AckLevel::Committed];

impl Samples {
    fn now(metrics: &Metrics) -> Self {
        let of_level =
            |level: AckLevel| LatencySample::of(&metrics.ack_seconds.with_label_values(&[level.name()]));
        Self {
            at: Instant::now(),
            acks: LEVELS.map(of_level),
            copies: LatencySample::of(&metrics.batch_seconds),
            syncs: LatencySample::of(&metrics.journal_sync_seconds),
        }
    }

    /// Observations since the previous samples; `None` if those are too old.
    fn since(&self, before: &Self) -> Option<LastSecond> {
        let elapsed = self.at - before.at;
        if elapsed >= INTERVAL * 2 {
            return None;
        }
        let acks = LEVELS.iter().zip(self.acks.iter().zip(&before.acks));
        Some(LastSecond {
            seconds: (elapsed.as_secs_f64() * 1e3).round() / 1e3,
            acks: acks.map(|(level, (now, before))| (level.name(), now.since(before).into())).collect(),
            copies: self.copies.since(&before.copies).into(),
            journal_syncs: self.syncs.since(&before.syncs).into(),
        })
    }
}

/// The shared snapshots.
#[derive(Debug)]
pub(in crate::http) struct Stats {
    /// Seconds count from here.
    origin: Instant,
    last: Mutex<Option<Last>>,
}

#[derive(Debug)]
struct Last {
    /// The second in which it was made.
    second: u64,
    json: Bytes,
    samples: Samples,
}

impl Stats {
    /// None yet.
    pub(in crate::http) fn new() -> Self {
        Self { origin: Instant::now(), last: Mutex::default() }
    }

    /// When the next snapshot is due.
    pub(in crate::http) fn next_at(&self) -> Instant {
        self.origin + INTERVAL * (self.second() + 1) as u32
    }

    fn second(&self) -> u64 {
        self.origin.elapsed().as_secs()
    }

    /// The snapshot of this second, in JSON.
    ///
    /// # Errors
    ///
    /// It cannot be encoded, which is a defect.
    pub(in crate::http) fn snapshot(&self, state: &AppState) -> serde_json::Result<Bytes> {
        let second = self.second();
        // Held while the snapshot is made: all who are due want it.
        let mut last = self.last.lock();
        if let Some(last) = last.as_ref().filter(|last| last.second == second) {
            return Ok(last.json.clone());
        }
        let samples = Samples::now(&state.metrics);
        let before = last.as_ref().map(|last| &last.samples);
        let stats = stats(state, before.and_then(|before| samples.since(before)));
        let json = Bytes::from(serde_json::to_vec(&stats)?);
        *last = Some(Last { second, json: json.clone(), samples });
        Ok(json)
    }
}

fn stats(state: &AppState, last_second: Option<LastSecond>) -> StatsResponse {
    let gauges = &state.metrics.gauges;
    StatsResponse {
        at_ms: Micros::now().0 / 1_000,
        health: HealthResponse::now(state),
        pipeline: state.services.get().map(|services| {
            let now = services.ingest.snapshot();
            PipelineStats { ledger: LedgerHealth::of(&now), lanes: LaneStats::of(&now.lanes) }
        }),
        refused: refused(&state.metrics),
        realtime: RealtimeStats {
            subscribers: gauges.followers.get(),
            held_bytes: gauges.followers_bytes.get(),
        },
        last_second,
    }
}

fn refused(metrics: &Metrics) -> BTreeMap<String, u64> {
    let families = metrics.refused.collect();
    let counters = families.iter().flat_map(|family| family.get_metric());
    counters
        .filter_map(|counter| {
            let reason = counter.get_label().first()?.value().to_owned();
            Some((reason, counter.get_counter().get_value() as u64))
        })
        .collect()
}
