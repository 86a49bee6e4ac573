//! The work that a client may request: a budget that refills continuously, beyond which its frames wait unread.

use std::time::Duration;

use tokio::time::Instant;

use crate::realtime::MAX_TOPICS;

/// Units that may be used at once: all topics of a connection.
const BURST: u32 = MAX_TOPICS as u32;
/// The time in which one unit comes back: a hundred a second.
const REFILL: Duration = Duration::from_millis(10);

/// The allowance of a connection.
#[derive(Debug)]
pub(super) struct Allowance {
    /// When it is full again.
    full_at: Instant,
}

impl Allowance {
    /// A full one.
    pub(super) fn new() -> Self {
        Self { full_at: Instant::now() }
    }

    /// Uses units.
    pub(super) fn spend(&mut self, units: u32) {
        self.full_at = self.full_at.max(Instant::now()) + REFILL * units;
    }

    /// When the next frame is read: once the debt is paid.
    pub(super) fn next_at(&self) -> Instant {
        self.full_at.checked_sub(REFILL * BURST).unwrap_or(self.full_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_free_and_a_loop_waits() {
        let mut allowance = Allowance::new();
        allowance.spend(BURST);
        assert!(allowance.next_at() <= Instant::now());
        let began = Instant::now();
        for _ in 0..500 {
            tokio::time::sleep_until(allowance.next_at()).await;
            allowance.spend(2);
        }
        let took = began.elapsed();
        assert!(took > Duration::from_secs(9) && took < Duration::from_secs(11), "{took:?}");
        tokio::time::advance(Duration::from_secs(60)).await;
        allowance.spend(BURST);
        assert!(allowance.next_at() <= Instant::now(), "it is full again, and no more than that");
        allowance.spend(BURST);
        assert!(allowance.next_at() > Instant::now() + Duration::from_secs(9));
    }
}
