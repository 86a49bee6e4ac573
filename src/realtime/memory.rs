//! The memory budget of subscribers: changes that wait in the hub, chunks on their way to the socket, and pages that were read from the table.
//!
//! Bytes are held until the socket has taken them. From three quarters of the limit on the hub drops the subscribers that hold most for the
//! longest, so that memory is left for the others. The bytes of a dropped subscriber are released with its connection, a moment later; until
//! then they count as leaving.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// The bytes that are held, and their limit. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct MemoryBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: usize,
    held: AtomicUsize,
    /// The part of them that dropped subscribers hold.
    leaving: AtomicUsize,
    released: Notify,
    gauge: prometheus::IntGauge,
}

/// A permit for bytes, released when it is dropped.
#[derive(Debug)]
pub(super) struct MemoryPermit {
    budget: MemoryBudget,
    bytes: usize,
}

impl MemoryBudget {
    /// A budget whose held bytes `gauge` reports.
    pub(super) fn new(limit: usize, gauge: &prometheus::IntGauge) -> Self {
        let (held, leaving) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self(Arc::new(Inner { limit, held, leaving, released: Notify::new(), gauge: gauge.clone() }))
    }

    /// A permit for this number of bytes, within the limit; for any number while nothing else is held.
    pub(super) fn try_hold(&self, bytes: usize) -> Option<MemoryPermit> {
        let more =
            |held: usize| (held == 0 || held.saturating_add(bytes) <= self.0.limit).then_some(held + bytes);
        self.0.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        self.0.gauge.add(bytes as i64);
        Some(MemoryPermit { budget: self.clone(), bytes })
    }

    /// A permit for this number of bytes, which have a limit of their own.
    pub(super) fn hold(&self, bytes: usize) -> MemoryPermit {
        self.0.held.fetch_add(bytes, Ordering::Relaxed);
        self.0.gauge.add(bytes as i64);
        MemoryPermit { budget: self.clone(), bytes }
    }

    /// Bytes to release before this number more leaves a quarter of the limit free.
    pub(super) fn excess(&self, bytes: usize) -> usize {
        let staying = self.held().saturating_sub(self.0.leaving.load(Ordering::Relaxed));
        staying.saturating_add(bytes).saturating_sub(self.0.limit / 4 * 3)
    }

    pub(super) fn held(&self) -> usize {
        self.0.held.load(Ordering::Relaxed)
    }

    /// Resolves when bytes are released after it was enabled.
    pub(super) fn released(&self) -> Notified<'_> {
        self.0.released.notified()
    }

    /// A subscriber that holds this number of bytes was dropped.
    pub(super) fn leave(&self, bytes: usize) {
        self.0.leaving.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A dropped subscriber released this number of bytes.
    pub(super) fn left(&self, bytes: usize) {
        self.0.leaving.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for MemoryPermit {
    fn drop(&mut self) {
        self.budget.0.held.fetch_sub(self.bytes, Ordering::Relaxed);
        self.budget.0.gauge.sub(self.bytes as i64);
        self.budget.0.released.notify_waiters();
    }
}
