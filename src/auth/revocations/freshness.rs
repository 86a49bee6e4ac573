//! The age of the loaded revocations.
//!
//! While requests have tokens, the reader polls every half second. Otherwise it polls rarely, so that an idle service holds no
//! connection; the first token after a rest waits for a poll.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// The age at which revocations are stale.
const STALE: Duration = Duration::from_secs(2);
/// The longest wait of a request for a poll; then the loaded revocations are used.
const PATIENCE: Duration = Duration::from_millis(500);
/// The time after a token during which more are expected.
const BUSY: Duration = Duration::from_secs(10);

/// The age of the loaded revocations, and the demand for newer ones.
#[derive(Debug)]
pub(in crate::auth) struct Freshness {
    origin: Instant,
    /// In milliseconds from `origin`, as `used_ms`.
    polled_ms: AtomicU64,
    used_ms: AtomicU64,
    /// The last poll failed, or there was none: waiting for the next one is useless.
    is_failing: AtomicBool,
    wanted: Notify,
    polled: Notify,
}

impl Default for Freshness {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            polled_ms: AtomicU64::new(0),
            used_ms: AtomicU64::new(0),
            is_failing: AtomicBool::new(true),
            wanted: Notify::new(),
            polled: Notify::new(),
        }
    }
}

impl Freshness {
    /// Records the use of a token; returns whether the revocations are too old for it.
    pub(in crate::auth) fn is_stale(&self) -> bool {
        let now_ms = self.now_ms();
        // The first one after a rest: the reader polls often from now on.
        if !Self::is_busy(self.used_ms.swap(now_ms.max(1), Ordering::Relaxed), now_ms) {
            self.wanted.notify_one();
        }
        let age_ms = now_ms.saturating_sub(self.polled_ms.load(Ordering::Relaxed));
        age_ms > STALE.as_millis() as u64 && !self.is_failing.load(Ordering::Relaxed)
    }

    /// Waits a moment for a poll.
    pub(in crate::auth) async fn wait(&self) {
        let polled = self.polled.notified();
        tokio::pin!(polled);
        // Armed before the poll is requested.
        polled.as_mut().enable();
        self.wanted.notify_one();
        let _in_vain = tokio::time::timeout(PATIENCE, polled).await;
    }

    /// Records a poll of the reader, successful or not.
    pub(super) fn polled(&self, is_well: bool) {
        self.is_failing.store(!is_well, Ordering::Relaxed);
        if is_well {
            self.polled_ms.store(self.now_ms(), Ordering::Relaxed);
        }
        self.polled.notify_waiters();
    }

    /// The reader's pause: `busy` while tokens are used, else until one is, or for `idle`.
    pub(super) async fn pause(&self, busy: Duration, idle: Duration) {
        if Self::is_busy(self.used_ms.load(Ordering::Relaxed), self.now_ms()) {
            tokio::time::sleep(busy).await;
        } else {
            let _nobody = tokio::time::timeout(idle, self.wanted.notified()).await;
        }
    }

    /// Whether a token was used lately; 0: never.
    fn is_busy(used_ms: u64, now_ms: u64) -> bool {
        used_ms > 0 && now_ms.saturating_sub(used_ms) < BUSY.as_millis() as u64
    }

    fn now_ms(&self) -> u64 {
        self.origin.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_token_after_a_rest_wakes_the_follower_and_a_failing_one_is_not_waited_for() {
        let freshness = Freshness::default();
        assert!(!freshness.is_stale(), "no poll has succeeded, so waiting is useless");
        let began = Instant::now();
        freshness.pause(Duration::from_millis(1), Duration::from_secs(60)).await;
        assert!(began.elapsed() < Duration::from_secs(30), "the token requested a poll");
        freshness.polled(true);
        assert!(!freshness.is_stale());
        freshness.polled_ms.store(0, Ordering::Relaxed);
        let old = Freshness { origin: Instant::now() - Duration::from_secs(10), ..freshness };
        assert!(old.is_stale());
        tokio::join!(old.wait(), async { old.polled(true) });
        assert!(!old.is_stale());
        old.polled_ms.store(0, Ordering::Relaxed);
        old.polled(false);
        assert!(!old.is_stale());
    }
}
