//! A rate limit for a log line that many requests could cause.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The interval between two lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// Permits one line every ten seconds, and counts the omitted ones. One per call site.
#[derive(Debug)]
pub struct LogThrottle {
    state: Mutex<(Option<Instant>, u64)>,
}

impl LogThrottle {
    /// A throttle that permits the first line.
    pub const fn new() -> Self {
        Self { state: Mutex::new((None, 0)) }
    }

    /// Permits a line: returns the number of omitted ones since the last line, or `None`.
    pub fn ready(&self) -> Option<u64> {
        self.ready_at(Instant::now())
    }

    fn ready_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        let (last, left_out) = *state;
        if last.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL) {
            *state = (last, left_out + 1);
            return None;
        }
        *state = (Some(now), 0);
        Some(left_out)
    }
}

impl Default for LogThrottle {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_passes_in_each_interval_and_the_others_are_counted() {
        let (throttle, start) = (LogThrottle::new(), Instant::now());
        assert_eq!(throttle.ready_at(start), Some(0));
        for _ in 0..3 {
            assert_eq!(throttle.ready_at(start + INTERVAL / 2), None);
        }
        assert_eq!(throttle.ready_at(start + INTERVAL), Some(3));
        assert_eq!(throttle.ready_at(start + INTERVAL * 3), Some(0));
    }
}
