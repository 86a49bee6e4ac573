//! The counts and times of a worker, and their sum over all workers.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

/// Counts of events, except where the name says requests. Every event sent ends up in exactly one of `accepted`,
/// `refused`, `rejected` and `unknown`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// HTTP requests that left.
    pub(crate) requests: u64,
    /// Events that left.
    pub(crate) sent: u64,
    /// Events that the service accepted.
    pub(crate) accepted: u64,
    /// Events in requests with another status than 202, by status.
    pub(crate) refused: BTreeMap<u16, u64>,
    /// Events rejected within an accepted batch, by code.
    pub(crate) rejected: BTreeMap<String, u64>,
    /// Events without an answer: the connection broke, or the time was up.
    pub(crate) unknown: u64,
    /// Events that were due and not sent, because no connection was free in time.
    pub(crate) unsent: u64,
    /// Connections reopened after one broke.
    pub(crate) reconnects: u64,
}

impl Counts {
    /// Adds another worker's counts.
    pub(crate) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.sent += other.sent;
        self.accepted += other.accepted;
        self.unknown += other.unknown;
        self.unsent += other.unsent;
        self.reconnects += other.reconnects;
        for (status, events) in &other.refused {
            *self.refused.entry(*status).or_default() += events;
        }
        for (code, events) in &other.rejected {
            *self.rejected.entry(code.clone()).or_default() += events;
        }
    }

    /// Events that the service rejected in either way.
    pub(crate) fn all_refused(&self) -> u64 {
        self.refused.values().sum::<u64>() + self.rejected.values().sum::<u64>()
    }

    /// Events that the service did not accept, or that it did not answer, or that were not sent in time.
    pub(crate) fn errors(&self) -> u64 {
        self.all_refused() + self.unknown + self.unsent
    }

    /// Sent events without an outcome yet.
    pub(crate) fn in_flight(&self) -> u64 {
        self.sent.saturating_sub(self.accepted + self.all_refused() + self.unknown)
    }
}

/// Times in microseconds, at three significant digits, up to an hour.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Times(Histogram<u64>);

/// Another worker's histogram is unreadable.
#[derive(Debug, thiserror::Error)]
#[error("a worker's histogram cannot be read: {0}")]
pub(crate) struct Unreadable(String);

impl Default for Times {
    fn default() -> Self {
        Self::empty()
    }
}

impl Times {
    const LONGEST_US: u64 = 3_600_000_000;

    /// An empty histogram.
    #[expect(clippy::expect_used, reason = "constant bounds that the first test of this module tries")]
    pub(crate) fn empty() -> Self {
        Self(Histogram::new_with_bounds(1, Self::LONGEST_US, 3).expect("constant bounds are valid"))
    }

    /// Records one time.
    pub(crate) fn record(&mut self, time: Duration) {
        self.0.saturating_record((time.as_micros() as u64).max(1));
    }

    /// Adds another worker's times.
    pub(crate) fn add(&mut self, other: &Self) {
        // Both have the same bounds, so every value fits.
        let _ = self.0.add(&other.0);
    }

    /// The number of recorded times.
    pub(crate) fn len(&self) -> u64 {
        self.0.len()
    }

    /// The time that `percentile` per cent did not exceed.
    pub(crate) fn at(&self, percentile: f64) -> Duration {
        Duration::from_micros(self.0.value_at_percentile(percentile))
    }

    /// The recorded times in microseconds, each with its count.
    pub(crate) fn counted(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter_recorded().map(|value| (value.value_iterated_to(), value.count_since_last_iteration()))
    }

    /// Records a time of this many microseconds, `count` times.
    pub(crate) fn record_n(&mut self, us: u64, count: u64) {
        self.0.saturating_record_n(us.max(1), count);
    }

    /// Removes all times.
    pub(crate) fn clear(&mut self) {
        self.0.reset();
    }

    /// The longest time.
    pub(crate) fn max(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }

    /// The mean.
    pub(crate) fn mean(&self) -> Duration {
        Duration::from_secs_f64(self.0.mean() / 1e6)
    }

    fn encode(&self) -> Result<String, Unreadable> {
        let mut bytes = Vec::new();
        let written = V2DeflateSerializer::new().serialize(&self.0, &mut bytes);
        written.map_err(|error| Unreadable(error.to_string()))?;
        Ok(BASE64.encode(bytes))
    }

    fn decode(text: &str) -> Result<Self, Unreadable> {
        let bytes = BASE64.decode(text).map_err(|error| Unreadable(error.to_string()))?;
        let read = Deserializer::new().deserialize(&mut bytes.as_slice());
        read.map(Self).map_err(|error| Unreadable(error.to_string()))
    }
}

impl Serialize for Times {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.encode().map_err(serde::ser::Error::custom)?)
    }
}

impl<'de> Deserialize<'de> for Times {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::decode(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The measurements of one worker.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// The counts.
    pub(crate) counts: Counts,
    /// From the due time to the answer, of requests answered with 202.
    pub(crate) accepted: Times,
    /// Those of them since the last report of progress.
    #[serde(skip)]
    pub(crate) latest: Times,
    /// The same of all others. Unanswered and unsent requests count with the time until they were given up: leaving them out
    /// would make a stalled service look fast.
    pub(crate) other: Times,
    /// From the due time to the sending: the lateness of the generator itself.
    pub(crate) lag: Times,
    /// Trace ids of the requests in `counts.unknown`.
    pub(crate) unknown: Vec<String>,
    /// From the start to the last answer, in seconds.
    pub(crate) elapsed_s: f64,
    /// CPU time of the worker in seconds.
    pub(crate) cpu_s: f64,
}

impl Tally {
    /// The maximum of unknown requests kept by trace id; further ones are only counted.
    pub(crate) const NAMED_UNKNOWN: usize = 100_000;

    /// Records the latency of an accepted request.
    pub(crate) fn accept(&mut self, latency: Duration) {
        self.accepted.record(latency);
        self.latest.record(latency);
    }

    /// Adds the measurements of a later step of the run.
    pub(crate) fn add_after(&mut self, later: &Self) {
        let elapsed_s = self.elapsed_s + later.elapsed_s;
        self.add(later);
        self.elapsed_s = elapsed_s;
    }

    /// Adds another worker's measurements.
    pub(crate) fn add(&mut self, other: &Self) {
        self.counts.add(&other.counts);
        self.accepted.add(&other.accepted);
        self.other.add(&other.other);
        self.lag.add(&other.lag);
        self.unknown.extend_from_slice(&other.unknown);
        self.elapsed_s = self.elapsed_s.max(other.elapsed_s);
        self.cpu_s += other.cpu_s;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(times_us: impl Iterator<Item = u64>, status: u16) -> Tally {
        let mut tally = Tally::default();
        for time in times_us {
            tally.accepted.record(Duration::from_micros(time));
            tally.counts.sent += 2;
            tally.counts.accepted += 1;
            *tally.counts.refused.entry(status).or_default() += 1;
        }
        tally
    }

    #[test]
    fn a_tally_survives_the_way_from_worker_to_coordinator() {
        let mut sent = tally((1..5_000).map(|n| n * n), 503);
        sent.counts.rejected.insert("invalid_json".to_owned(), 3);
        sent.unknown.push("lt-x-0-1".to_owned());
        let line = serde_json::to_string(&sent).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Tally>(&line).unwrap(), sent);
    }

    #[test]
    fn merged_workers_give_the_percentiles_of_all_their_times() {
        let whole = tally(1..10_001, 503);
        let mut merged = tally((1..10_001).filter(|n| n % 3 == 0), 503);
        merged.add(&tally((1..10_001).filter(|n| n % 3 != 0), 429));
        assert_eq!(merged.accepted, whole.accepted);
        assert_eq!(merged.accepted.len(), 10_000);
        assert!(merged.accepted.at(99.0).as_micros().abs_diff(9_900) <= 10);
        assert_eq!(merged.counts.refused, BTreeMap::from([(429, 6_667), (503, 3_333)]));
        assert_eq!(merged.counts.in_flight(), 0);
    }

    #[test]
    fn a_time_beyond_the_scale_is_kept_as_the_longest() {
        let mut times = Times::empty();
        times.record(Duration::from_secs(90_000));
        times.record(Duration::ZERO);
        assert_eq!(times.len(), 2);
        assert!(times.max() >= Duration::from_secs(3_590));
    }

    #[test]
    fn a_broken_histogram_is_an_error() {
        assert!(serde_json::from_str::<Times>("\"AAAA\"").is_err());
        assert!(serde_json::from_str::<Times>("\"!\"").is_err());
    }
}
