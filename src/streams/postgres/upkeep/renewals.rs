//! Renewals of TTLs by reads: kept in memory, and written in groups once a quarter of a TTL is left.
//!
//! A stream with a watch is renewed all the time, so that it does not end under its readers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::store::UpkeepStore;
use crate::streams::postgres::heads::{KnownStream, KnownStreams};
use crate::streams::{StreamId, Watches};
use crate::supervisor::{Next, Step, StepError};

/// The interval between two looks: a quarter of the shortest TTL is longer.
const INTERVAL: Duration = Duration::from_millis(100);
/// Renewals of one statement.
const MAX_RENEWALS: usize = 1_000;

/// Streams that were read since their last renewal was written.
#[derive(Debug, Default)]
pub(in crate::streams::postgres) struct Renewals(Mutex<HashMap<StreamId, Renewal>>);

#[derive(Debug, Clone)]
struct Renewal {
    stream: Arc<KnownStream>,
    read: Instant,
}

impl Renewals {
    /// Renews a stream's TTL, which begins anew now.
    pub(in crate::streams::postgres) fn renew(&self, stream: &Arc<KnownStream>) {
        if stream.ttl().is_some_and(|ttl| !ttl.is_zero()) {
            let renewal = Renewal { stream: Arc::clone(stream), read: Instant::now() };
            self.0.lock().insert(stream.id(), renewal);
        }
    }

    /// All, if one of them is due.
    fn due(&self, now: Instant) -> Vec<Renewal> {
        let mut renewals = self.0.lock();
        if renewals.values().any(|renewal| renewal.stream.is_renewal_due(now)) {
            let all = std::mem::take(&mut *renewals);
            return all.into_values().collect();
        }
        Vec::new()
    }

    /// Puts renewals back that were not written.
    fn put_back(&self, renewals: Vec<Renewal>) {
        let mut waiting = self.0.lock();
        for renewal in renewals {
            waiting.entry(renewal.stream.id()).or_insert(renewal);
        }
    }
}

/// Writes renewals.
#[derive(Debug)]
pub(in crate::streams::postgres) struct RenewalTask {
    pub(in crate::streams::postgres) renewals: Arc<Renewals>,
    pub(in crate::streams::postgres) known: Arc<KnownStreams>,
    pub(in crate::streams::postgres) watches: Watches,
    pub(in crate::streams::postgres) store: UpkeepStore,
}

impl RenewalTask {
    /// The interval of its steps.
    pub(in crate::streams::postgres) const INTERVAL: Duration = INTERVAL;
}

impl Step for RenewalTask {
    async fn step(&mut self) -> Result<Next, StepError> {
        let now = Instant::now();
        if !self.watches.is_empty() {
            for path in self.watches.paths() {
                if let Some(stream) = self.known.get(&path)
                    && stream.is_renewal_due(now)
                {
                    self.renewals.renew(&stream);
                }
            }
        }
        let mut due = self.renewals.due(now);
        while !due.is_empty() {
            let rest = due.split_off(due.len().min(MAX_RENEWALS));
            let asked: Vec<(StreamId, Duration)> =
                due.iter().map(|renewal| (renewal.stream.id(), renewal.read.elapsed())).collect();
            match self.store.renew(&asked).await {
                Ok(renewed) => {
                    for renewal in due.iter().filter(|renewal| renewed.contains(&renewal.stream.id())) {
                        renewal.stream.renewed(renewal.read);
                    }
                }
                Err(error) => {
                    due.extend(rest);
                    self.renewals.put_back(due);
                    return Err(error.into());
                }
            }
            due = rest;
        }
        Ok(Next::Interval)
    }
}
