//! The due times of requests: pure arithmetic, without clock and timer.
//!
//! The schedule is fixed before the run starts. A late request keeps its due time, and latency is measured from there: a stall
//! of the service therefore shows in every request that should have left meanwhile, not only in those on the wire (no
//! coordinated omission).
//!
//! Request `n` of worker `w` out of `k` is request `n * k + w` of the run, so that several workers together produce one evenly
//! spaced stream.

use std::time::Duration;

/// The due times of one worker's share of a fixed-rate run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    per_second: f64,
    lane: Lane,
    total: u64,
}

/// A worker's share of the run's requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lane {
    /// This worker's index, from 0.
    pub(crate) worker: u32,
    /// The number of workers in the run.
    pub(crate) workers: u32,
}

impl Lane {
    /// The run's number of this worker's request `n`.
    pub(crate) fn in_run(self, n: u64) -> u64 {
        n * u64::from(self.workers) + u64::from(self.worker)
    }

    /// The number of this worker's requests among the run's first `total`.
    fn share(self, total: u64) -> u64 {
        let (worker, workers) = (u64::from(self.worker), u64::from(self.workers));
        total.saturating_sub(worker).div_ceil(workers)
    }
}

impl Schedule {
    /// The share of `lane` in a run of `per_second` requests per second over all workers, for `duration`.
    pub(crate) fn new(per_second: f64, duration: Duration, lane: Lane) -> Self {
        let total = (per_second * duration.as_secs_f64()).round().max(1.0) as u64;
        Self { per_second, lane, total: lane.share(total) }
    }

    /// The number of this worker's requests.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The due time of this worker's request `n`, from the start of the run.
    pub(crate) fn due_at(&self, n: u64) -> Duration {
        Duration::from_secs_f64(self.lane.in_run(n) as f64 / self.per_second)
    }

    /// The number of requests that are due after `elapsed`: all that a wake-up has to release, however late it is.
    pub(crate) fn due_by(&self, elapsed: Duration) -> u64 {
        let in_run = elapsed.as_secs_f64() * self.per_second;
        let mut due = self.lane.share((in_run.floor() as u64).saturating_add(1));
        // The divisions here and in `due_at` may round apart by one; `due_at` is decisive.
        while due > 0 && self.due_at(due - 1) > elapsed {
            due -= 1;
        }
        while self.due_at(due) <= elapsed {
            due += 1;
        }
        due.min(self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Lane = Lane { worker: 0, workers: 1 };

    #[test]
    fn the_first_request_is_due_at_the_start_and_the_last_before_the_end() {
        let schedule = Schedule::new(20_000.0, Duration::from_secs(20), ALONE);
        assert_eq!(schedule.total(), 400_000);
        assert_eq!(schedule.due_by(Duration::ZERO), 1);
        assert!(schedule.due_at(399_999) < Duration::from_secs(20));
    }

    #[test]
    fn a_late_wake_up_releases_everything_that_fell_due_meanwhile() {
        let schedule = Schedule::new(20_000.0, Duration::from_secs(20), ALONE);
        assert_eq!(schedule.due_by(Duration::from_millis(1)), 21);
        assert_eq!(schedule.due_by(Duration::from_secs(2)), 40_001);
        assert_eq!(schedule.due_by(Duration::from_secs(60)), 400_000);
    }

    #[test]
    fn counting_and_due_times_agree_at_every_request() {
        for per_second in [0.3, 7.0, 999.0, 12_345.6, 3e6] {
            let lane = Lane { worker: 2, workers: 3 };
            let schedule = Schedule::new(per_second, Duration::from_secs_f64(30_000.0 / per_second), lane);
            for n in 0..schedule.total() {
                let due = schedule.due_at(n);
                assert!(schedule.due_by(due) > n, "{n} at {per_second}/s");
                let before = due.saturating_sub(Duration::from_nanos(1));
                assert!(before == due || schedule.due_by(before) <= n, "{n} at {per_second}/s");
            }
        }
    }

    #[test]
    fn workers_share_the_run_without_gap_or_overlap() {
        for (rate, workers) in [(1_000.0, 3), (10.0, 4), (1.0, 8)] {
            let duration = Duration::from_secs(1);
            let mut requests: Vec<u64> = (0..workers)
                .flat_map(|worker| {
                    let lane = Lane { worker, workers };
                    (0..Schedule::new(rate, duration, lane).total()).map(move |n| lane.in_run(n))
                })
                .collect();
            requests.sort_unstable();
            assert_eq!(requests, (0..rate as u64).collect::<Vec<_>>());
        }
    }
}
