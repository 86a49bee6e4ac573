//! The times of messages at a steady rate, always computed from the start, so that delays do not add up.

use std::time::Duration;

/// A steady rate; the first message is due at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pace {
    /// Messages a second, above zero.
    per_s: f64,
}

impl Pace {
    pub(super) fn new(per_s: f64) -> Self {
        Self { per_s }
    }

    /// Messages that are due when `elapsed` has passed.
    pub(super) fn due(self, elapsed: Duration) -> u64 {
        ((elapsed.as_secs_f64() * self.per_s) as u64).saturating_add(1)
    }

    /// When the message behind the first `sent` is due, or any number of messages later.
    pub(super) fn due_at(self, sent: u64) -> Duration {
        Duration::try_from_secs_f64(sent as f64 / self.per_s).unwrap_or(Duration::MAX)
    }

    /// The time until a backlog of `bytes` has built up, at `bytes_per_message`.
    pub(super) fn time_for(self, bytes: u64, bytes_per_message: u64) -> Duration {
        self.due_at(bytes / bytes_per_message.max(1) + 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_is_due_at_once_and_the_others_at_the_rate() {
        let pace = Pace::new(100.0);
        assert_eq!(pace.due(Duration::ZERO), 1);
        assert_eq!(pace.due(Duration::from_millis(9)), 1);
        assert_eq!(pace.due(Duration::from_millis(1_000)), 101);
        assert_eq!(pace.due_at(0), Duration::ZERO);
        assert_eq!(pace.due_at(50), Duration::from_millis(500));
        assert_eq!(pace.time_for(100_000, 100), Duration::from_millis(10_010));
    }

    proptest! {
        #[test]
        fn a_message_is_due_when_its_time_has_come(per_s in 0.001_f64..1e6, sent in 0_u64..1_000_000_000) {
            let pace = Pace::new(per_s);
            prop_assume!(pace.due_at(sent) < Duration::from_secs(1 << 40));
            // A microsecond of tolerance for rounding.
            let slack = Duration::from_micros(1) + pace.due_at(sent) / 1_000_000_000;
            prop_assert!(pace.due(pace.due_at(sent) + slack) > sent);
            prop_assert!(pace.due(pace.due_at(sent).saturating_sub(slack)) <= sent + 1);
        }
    }
}
