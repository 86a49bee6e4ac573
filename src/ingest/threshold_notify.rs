//! Wakes a consumer when what waits for it reaches its mark.
//!
//! The consumer publishes a mark, the load at which it wants to be woken. A producer that lifts the level over the
//! mark wakes it, every other producer does not: a wake-up costs a system call, and there is one a COPY instead of one
//! an event.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::Notify;

use super::occupancy::Size;

/// One consumer's mark, and what wakes it.
#[derive(Debug)]
pub(super) struct ThresholdNotify {
    mark_events: AtomicU64,
    mark_bytes: AtomicU64,
    arrived: Notify,
}

impl Default for ThresholdNotify {
    fn default() -> Self {
        Self {
            mark_events: AtomicU64::new(u64::MAX),
            mark_bytes: AtomicU64::new(u64::MAX),
            arrived: Notify::new(),
        }
    }
}

impl ThresholdNotify {
    /// Rings if a rise from `before` to `after` passes the mark.
    pub(super) fn rose(&self, before: Size, after: Size) {
        let mark = Size {
            events: self.mark_events.load(Ordering::SeqCst),
            bytes: self.mark_bytes.load(Ordering::SeqCst),
        };
        if !before.reaches(mark) && after.reaches(mark) {
            self.arrived.notify_one();
        }
    }

    /// Rings, whatever the mark.
    pub(super) fn ring(&self) {
        self.arrived.notify_waiters();
        self.arrived.notify_one();
    }

    /// Waits until `level` reaches `mark` or `closed` holds; false if `deadline` came first.
    pub(super) async fn wait_for(
        &self,
        mark: Size,
        deadline: Option<Instant>,
        level: impl Fn() -> Size,
        closed: impl Fn() -> bool,
    ) -> bool {
        self.mark_events.store(mark.events, Ordering::SeqCst);
        self.mark_bytes.store(mark.bytes, Ordering::SeqCst);
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            // Armed before the look, so that what arrives in between is not missed.
            arrived.as_mut().enable();
            if level().reaches(mark) || closed() {
                return true;
            }
            match deadline {
                None => arrived.await,
                Some(deadline) => {
                    if tokio::time::timeout_at(deadline.into(), arrived).await.is_err() {
                        return false;
                    }
                }
            }
        }
    }
}
