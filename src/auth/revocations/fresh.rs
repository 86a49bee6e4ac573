//! How old what a node knows of revocations is.
//!
//! While tokens are shown, the follower looks every half second. While none are, it hardly looks at all, so that a service which
//! nobody uses holds no connection: then the first token waits for a look.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// What was looked at longer ago than this may have changed without our knowing.
const STALE: Duration = Duration::from_secs(2);
/// The longest that a request waits for a look; then what is known has to do.
const PATIENCE: Duration = Duration::from_millis(500);
/// For so long after a token was shown, more are expected.
const BUSY: Duration = Duration::from_secs(10);

/// How old what is known is, and whether anybody wants to know.
#[derive(Debug)]
pub(in crate::auth) struct Freshness {
    origin: Instant,
    /// In milliseconds from `origin`, as `shown_ms`.
    looked_ms: AtomicU64,
    shown_ms: AtomicU64,
    /// The last look failed, or there was none: waiting for the next one would help nobody.
    is_failing: AtomicBool,
    wanted: Notify,
    looked: Notify,
}

impl Default for Freshness {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            looked_ms: AtomicU64::new(0),
            shown_ms: AtomicU64::new(0),
            is_failing: AtomicBool::new(true),
            wanted: Notify::new(),
            looked: Notify::new(),
        }
    }
}

impl Freshness {
    /// A token is shown: whether what is known is too old for it.
    pub(in crate::auth) fn is_stale(&self) -> bool {
        let now_ms = self.now_ms();
        // The first one after a rest: from now on the follower looks often.
        if !Self::is_busy(self.shown_ms.swap(now_ms.max(1), Ordering::Relaxed), now_ms) {
            self.wanted.notify_one();
        }
        let age_ms = now_ms.saturating_sub(self.looked_ms.load(Ordering::Relaxed));
        age_ms > STALE.as_millis() as u64 && !self.is_failing.load(Ordering::Relaxed)
    }

    /// Waits for a look, for a moment.
    pub(in crate::auth) async fn wait(&self) {
        let looked = self.looked.notified();
        tokio::pin!(looked);
        // Armed before it is asked for.
        looked.as_mut().enable();
        self.wanted.notify_one();
        let _in_vain = tokio::time::timeout(PATIENCE, looked).await;
    }

    /// The follower has looked, or failed to.
    pub(super) fn looked(&self, is_well: bool) {
        self.is_failing.store(!is_well, Ordering::Relaxed);
        if is_well {
            self.looked_ms.store(self.now_ms(), Ordering::Relaxed);
        }
        self.looked.notify_waiters();
    }

    /// The follower's pause: `busy` while tokens are shown, else until one is, or for `idle`.
    pub(super) async fn pause(&self, busy: Duration, idle: Duration) {
        if Self::is_busy(self.shown_ms.load(Ordering::Relaxed), self.now_ms()) {
            tokio::time::sleep(busy).await;
        } else {
            let _nobody = tokio::time::timeout(idle, self.wanted.notified()).await;
        }
    }

    /// Whether a token was shown lately; 0: none ever was.
    fn is_busy(shown_ms: u64, now_ms: u64) -> bool {
        shown_ms > 0 && now_ms.saturating_sub(shown_ms) < BUSY.as_millis() as u64
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
        assert!(!freshness.is_stale(), "nothing was ever looked at, so waiting helps nobody");
        let began = Instant::now();
        freshness.pause(Duration::from_millis(1), Duration::from_secs(60)).await;
        assert!(began.elapsed() < Duration::from_secs(30), "the token had asked for a look");
        freshness.looked(true);
        assert!(!freshness.is_stale());
        freshness.looked_ms.store(0, Ordering::Relaxed);
        let old = Freshness { origin: Instant::now() - Duration::from_secs(10), ..freshness };
        assert!(old.is_stale());
        tokio::join!(old.wait(), async { old.looked(true) });
        assert!(!old.is_stale());
        old.looked_ms.store(0, Ordering::Relaxed);
        old.looked(false);
        assert!(!old.is_stale());
    }
}
