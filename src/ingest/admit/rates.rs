//! Events per second over the last 1, 10 and 60 seconds, from one sample per second.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

/// The spans of the rates, in seconds.
pub const SPANS_S: [usize; 3] = [1, 10, 60];
const SAMPLES: usize = 61;
/// The bounds of a computed `Retry-After`.
const RETRY_AFTER_S: std::ops::RangeInclusive<f64> = 1.0..=30.0;

/// Samples of the two counters, one second apart.
#[derive(Debug, Default)]
pub struct Rates(Mutex<VecDeque<Sample>>);

#[derive(Debug, Clone, Copy)]
struct Sample {
    accepted: u64,
    settled: u64,
}

/// Events per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// The span, in seconds.
    pub span_s: usize,
    /// Accepted.
    pub accepted: f64,
    /// Stored, or dead.
    pub settled: f64,
}

impl Rates {
    /// Adds one sample.
    pub fn sample(&self, accepted: u64, settled: u64) {
        let mut samples = self.0.lock();
        if samples.len() == SAMPLES {
            samples.pop_front();
        }
        samples.push_back(Sample { accepted, settled });
    }

    /// The rates over each of `SPANS_S`, or over the time since the first sample.
    pub fn get(&self) -> [Rate; 3] {
        let samples = self.0.lock();
        SPANS_S.map(|span_s| {
            let passed = span_s.min(samples.len().saturating_sub(1));
            let (Some(last), true) = (samples.back(), passed > 0) else {
                return Rate { span_s, accepted: 0.0, settled: 0.0 };
            };
            let first = samples[samples.len() - 1 - passed];
            let rate = |last: u64, first: u64| last.saturating_sub(first) as f64 / passed as f64;
            Rate {
                span_s,
                accepted: rate(last.accepted, first.accepted),
                settled: rate(last.settled, first.settled),
            }
        })
    }

    /// The time that `depth` events need to drain at the rate of the last ten seconds, plus up to a quarter, so that clients
    /// do not all return at once.
    pub fn retry_after(&self, depth: u64) -> Duration {
        let [_, ten_seconds, _] = self.get();
        let drain_s =
            if ten_seconds.settled > 0.0 { depth as f64 / ten_seconds.settled } else { f64::INFINITY };
        let jittered_s =
            drain_s.clamp(*RETRY_AFTER_S.start(), *RETRY_AFTER_S.end()) * (1.0 + fastrand::f64() / 4.0);
        Duration::from_secs_f64(jittered_s.ceil())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_cover_the_time_since_the_first_sample() {
        let rates = Rates::default();
        assert_eq!(rates.get()[0], Rate { span_s: 1, accepted: 0.0, settled: 0.0 });
        for second in 0..200 {
            rates.sample(second * 100, second * 50);
        }
        for rate in rates.get() {
            assert_eq!((rate.accepted, rate.settled), (100.0, 50.0));
        }
    }

    #[test]
    fn retry_after_is_depth_over_drain_rate_within_bounds() {
        let rates = Rates::default();
        assert!(rates.retry_after(10) >= Duration::from_secs(30), "nothing drains");
        for second in 0..20 {
            rates.sample(second * 100, second * 100);
        }
        for _ in 0..100 {
            let wait = rates.retry_after(1000);
            assert!((10..=13).contains(&wait.as_secs()), "{wait:?}");
            assert!((1..=2).contains(&rates.retry_after(1).as_secs()));
        }
    }
}
