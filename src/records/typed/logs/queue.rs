//! Entries on their way to the table.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::LogEntry;
use crate::observe::{LogThrottle, Metrics};

/// Entries that wait. Their texts are cut, so one has a few KiB at most.
const MAX_WAITING: usize = 4_096;
/// The entries of a statement, and the number of waiting ones that ends a wait.
pub(super) const BATCH: usize = 1_000;

/// A bounded queue that drops what it has no place for.
#[derive(Debug)]
pub(super) struct LogQueue {
    sender: async_channel::Sender<LogEntry>,
    waiting: async_channel::Receiver<LogEntry>,
    /// Notified once a statement has enough entries.
    woken: Notify,
    metrics: Arc<Metrics>,
    dropped_logged: LogThrottle,
}

impl LogQueue {
    pub(super) fn new(metrics: &Arc<Metrics>) -> Self {
        let (sender, waiting) = async_channel::bounded(MAX_WAITING);
        Self {
            sender,
            waiting,
            woken: Notify::new(),
            metrics: Arc::clone(metrics),
            dropped_logged: LogThrottle::new(),
        }
    }

    /// Adds an entry, or drops and counts it.
    pub(super) fn add(&self, entry: LogEntry) {
        if self.sender.try_send(entry).is_ok() {
            if self.waiting.len() >= BATCH {
                self.woken.notify_one();
            }
            return;
        }
        self.metrics.request_logs.with_label_values(&["dropped"]).inc();
        if let Some(more) = self.dropped_logged.ready() {
            tracing::warn!(
                entries = 1 + more,
                "entries of the log of requests are dropped: they come faster than they are stored"
            );
        }
    }

    /// Waits for enough entries, up to `longest`.
    pub(super) async fn ready(&self, longest: Duration) {
        let _idle = tokio::time::timeout(longest, self.woken.notified()).await;
    }

    /// The next entry, if one waits.
    pub(super) fn next(&self) -> Option<LogEntry> {
        self.waiting.try_recv().ok()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Counts stored entries.
    pub(super) fn stored(&self, entries: usize) {
        self.metrics.request_logs.with_label_values(&["stored"]).inc_by(entries as u64);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::super::LogLevel;
    use super::*;

    #[test]
    fn entries_without_a_place_are_dropped_and_counted() {
        let metrics = Metrics::new().unwrap();
        let queue = LogQueue::new(&metrics);
        for number in 0..MAX_WAITING + 3 {
            queue.add(LogEntry::new(LogLevel::Info, number.to_string(), Map::new()));
        }
        let count = |outcome| metrics.request_logs.with_label_values(&[outcome]).get();
        assert_eq!((queue.len(), count("dropped"), count("stored")), (MAX_WAITING, 3, 0));
        assert_eq!(queue.next().map(|entry| entry.message), Some("0".to_owned()));
        queue.add(LogEntry::new(LogLevel::Error, "last".into(), Map::new()));
        assert_eq!((queue.len(), count("dropped")), (MAX_WAITING, 3));
    }
}
