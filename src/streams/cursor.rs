//! Cursors of live answers, by which caches collapse requests of many clients into one (section 10 of the protocol).

use std::time::Duration;

use crate::time::Micros;

/// The seconds by which a client's cursor is advanced at most, where it is not behind.
const MAX_JITTER_S: u64 = 3_600;

/// The division of time into numbered intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CursorClock {
    /// The length of an interval, not 0.
    pub interval: Duration,
    /// The begin of interval 0.
    pub epoch: Micros,
}

impl CursorClock {
    /// 2024-10-09T00:00:00Z.
    pub const EPOCH: Micros = Micros(1_728_432_000_000_000);
    /// The length of an interval unless it is set.
    pub const INTERVAL: Duration = Duration::from_secs(20);

    /// The number of the interval of a time; 0 before the epoch.
    pub fn interval(&self, now: Micros) -> u64 {
        let since = u64::try_from(now.0.saturating_sub(self.epoch.0)).unwrap_or(0);
        since / u64::try_from(self.interval.as_micros()).unwrap_or(u64::MAX).max(1)
    }

    /// The cursor of an answer to a request with a client's cursor: always a later one than the client's, so that no cache returns the same answer for
    /// ever. `random` chooses among 1 to 3,600 s.
    pub fn cursor(&self, client: Option<&str>, now: Micros, random: u64) -> u64 {
        let current = self.interval(now);
        // One that is no number, or that no server gave, is as good as none.
        let client = client.and_then(|text| text.parse::<u64>().ok());
        match client {
            Some(client) if client >= current => {
                let interval_s = self.interval.as_secs().max(1);
                let intervals = (1 + random % MAX_JITTER_S).div_ceil(interval_s).max(1);
                client.checked_add(intervals).unwrap_or(current)
            }
            _ => current,
        }
    }
}

impl Default for CursorClock {
    fn default() -> Self {
        Self { interval: Self::INTERVAL, epoch: Self::EPOCH }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn intervals_are_counted_from_the_epoch() {
        let clock = CursorClock::default();
        let at = |seconds: i64| clock.interval(Micros(CursorClock::EPOCH.0 + seconds * 1_000_000));
        assert_eq!((at(0), at(19), at(20), at(41), at(-5)), (0, 0, 1, 2, 0));
        assert_eq!(CursorClock::EPOCH.to_string(), "2024-10-09T00:00:00.000000Z");
    }

    proptest! {
        #[test]
        fn a_cursor_moves_on_by_at_most_an_hour(ahead in 0_u64..1_000, random: u64, text in "[0-9a-z-]{0,30}") {
            let clock = CursorClock::default();
            let now = Micros::now();
            let current = clock.interval(now);
            prop_assert_eq!(clock.cursor(None, now, random), current);
            prop_assert_eq!(clock.cursor(Some("0"), now, random), current);
            let client = current + ahead;
            let next = clock.cursor(Some(&client.to_string()), now, random);
            prop_assert!(next > client && next <= client + 180);
            let _any = clock.cursor(Some(&text), now, random);
        }
    }
}
