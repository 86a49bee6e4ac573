//! Percentiles of a histogram over the time between two samples of it.

use prometheus::Histogram;
use prometheus::core::Metric;

/// The counts of a histogram at a moment.
#[derive(Debug, Clone, Default)]
pub struct LatencySample {
    /// The upper bound of each bucket in seconds, and the observations up to it since the start.
    buckets: Vec<(f64, u64)>,
    count: u64,
}

/// The latencies of some time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latencies {
    /// Observations.
    pub count: u64,
    /// The 50th, 95th and 99th percentile in seconds, estimated within the histogram's buckets; `None` without observations.
    pub percentiles: Option<[f64; 3]>,
}

/// The percentiles.
const RANKS: [f64; 3] = [0.50, 0.95, 0.99];

impl LatencySample {
    /// The counts now.
    pub fn of(histogram: &Histogram) -> Self {
        let metric = histogram.metric();
        let histogram = metric.get_histogram();
        let buckets = histogram.get_bucket().iter();
        Self {
            buckets: buckets.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).collect(),
            count: histogram.get_sample_count(),
        }
    }

    /// The latencies since an earlier sample of the same histogram.
    pub fn since(&self, earlier: &Self) -> Latencies {
        let count = self.count.saturating_sub(earlier.count);
        let percentiles = (count > 0).then(|| RANKS.map(|rank| self.value(earlier, rank * count as f64)));
        Latencies { count, percentiles }
    }

    /// The value below which `wanted` observations are. Those of a bucket count as evenly spread; beyond the last bound nothing is known, and it
    /// is the value.
    fn value(&self, earlier: &Self, wanted: f64) -> f64 {
        let (mut bound_before, mut count_before) = (0.0, 0.0);
        for (index, (bound, count)) in self.buckets.iter().enumerate() {
            let old = earlier.buckets.get(index).map_or(0, |(_, count)| *count);
            let count = count.saturating_sub(old) as f64;
            if count >= wanted && count > count_before {
                return bound_before
                    + (bound - bound_before) * (wanted - count_before) / (count - count_before);
            }
            (bound_before, count_before) = (*bound, count);
        }
        bound_before
    }
}

#[cfg(test)]
mod tests {
    use prometheus::HistogramOpts;

    use super::*;

    #[test]
    fn percentiles_are_those_of_the_time_between_two_samples() {
        let options = HistogramOpts::new("x", "x").buckets(vec![0.01, 0.1, 1.0]);
        let histogram = Histogram::with_opts(options).unwrap();
        histogram.observe(0.5);
        let before = LatencySample::of(&histogram);
        assert_eq!(before.since(&before), Latencies { count: 0, percentiles: None });
        for _ in 0..50 {
            histogram.observe(0.005);
        }
        for _ in 0..45 {
            histogram.observe(0.05);
        }
        for _ in 0..5 {
            histogram.observe(7.0);
        }
        let since = LatencySample::of(&histogram).since(&before);
        assert_eq!(since.count, 100);
        let [p50, p95, p99] = since.percentiles.unwrap();
        assert!((p50 - 0.01).abs() < 1e-9 && (p95 - 0.1).abs() < 1e-9, "{p50} {p95}");
        assert!((p99 - 1.0).abs() < 1e-9, "beyond the last bound: {p99}");
        let first = LatencySample::of(&histogram).since(&LatencySample::default());
        assert_eq!(first.count, 101, "the first sample has no earlier one");
    }
}
