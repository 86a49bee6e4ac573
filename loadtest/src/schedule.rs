//! The due times of requests: pure arithmetic, without clock and timer.
//!
//! The schedule is fixed before the run starts. A late request keeps its due time, and latency is measured from there: a stall
//! of the service therefore shows in every request that should have left meanwhile, not only in those on the wire (no
//! coordinated omission).
//!
//! Request `n` of worker `w` out of `k` is request `n * k + w` of the run, so that several workers together produce one evenly
//! spaced stream.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A stretch of a run with one rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Phase {
    /// Requests per second over all workers, above 0.
    pub(crate) per_second: f64,
    /// Its duration, in seconds.
    pub(crate) seconds: f64,
}

/// The due times of one worker's share of a run whose rates are fixed.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    phases: Vec<Phase>,
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
        Self::of(vec![Phase { per_second, seconds: duration.as_secs_f64() }], lane)
    }

    /// The share of `lane` in a run of these phases, one after the other; at least one.
    pub(crate) fn of(phases: Vec<Phase>, lane: Lane) -> Self {
        let requests: f64 = phases.iter().map(|phase| phase.per_second * phase.seconds).sum();
        Self { phases, lane, total: lane.share(requests.round().max(1.0) as u64) }
    }

    /// The number of this worker's requests.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The due time of this worker's request `n`, from the start of the run.
    pub(crate) fn due_at(&self, n: u64) -> Duration {
        let (mut left, mut start) = (self.lane.in_run(n) as f64, 0.0);
        let mut phases = self.phases.iter().peekable();
        while let Some(phase) = phases.next() {
            let requests = phase.per_second * phase.seconds;
            // The last phase has no end: its rate goes on.
            if left < requests || phases.peek().is_none() {
                return Duration::from_secs_f64(start + left / phase.per_second);
            }
            left -= requests;
            start += phase.seconds;
        }
        Duration::from_secs_f64(start)
    }

    /// The number of requests that are due after `elapsed`: all that a wake-up has to release, however late it is.
    pub(crate) fn due_by(&self, elapsed: Duration) -> u64 {
        let in_run = requests_by(&self.phases, elapsed.as_secs_f64());
        let mut due = self.lane.share((in_run.floor() as u64).saturating_add(1));
        // The divisions here and in `due_at` may round apart by one; `due_at` is decisive.
        while due > 0 && self.due_at(due - 1) > elapsed {
            due -= 1;
        }
        while due < self.total && self.due_at(due) <= elapsed {
            due += 1;
        }
        due.min(self.total)
    }
}

/// The number of the run's requests before a time.
fn requests_by(phases: &[Phase], mut left_s: f64) -> f64 {
    let mut requests = 0.0;
    for (index, phase) in phases.iter().enumerate() {
        let is_last = index + 1 == phases.len();
        let seconds = if is_last { left_s } else { left_s.min(phase.seconds) };
        requests += seconds * phase.per_second;
        left_s -= seconds;
        if left_s <= 0.0 {
            break;
        }
    }
    requests
}

/// The rate that is asked for at a time; after the end that of the last phase.
pub(crate) fn rate_at(phases: &[Phase], elapsed_s: f64) -> Option<f64> {
    let mut end = 0.0;
    let phase = phases.iter().find(|phase| {
        end += phase.seconds;
        elapsed_s < end
    });
    phase.or(phases.last()).map(|phase| phase.per_second)
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
    fn a_run_of_phases_changes_its_rate_without_gap_or_overlap() {
        let phase = |per_second, seconds| Phase { per_second, seconds };
        let phases = vec![phase(100.0, 2.0), phase(1_000.0, 1.0), phase(50.0, 2.0)];
        let schedule = Schedule::of(phases.clone(), ALONE);
        assert_eq!(schedule.total(), 1_300);
        assert_eq!(schedule.due_at(199), Duration::from_millis(1_990));
        assert_eq!(schedule.due_at(200), Duration::from_secs(2));
        assert_eq!(schedule.due_at(201), Duration::from_millis(2_001));
        assert_eq!(schedule.due_at(1_200), Duration::from_secs(3));
        assert_eq!(schedule.due_at(1_201), Duration::from_millis(3_020));
        for n in 0..schedule.total() {
            assert!(schedule.due_by(schedule.due_at(n)) > n, "{n}");
        }
        let rates = [0.0, 1.9, 2.0, 2.9, 3.0, 99.0].map(|at| rate_at(&phases, at));
        assert_eq!(rates, [100.0, 100.0, 1_000.0, 1_000.0, 50.0, 50.0].map(Some));
        assert_eq!(rate_at(&[], 1.0), None);
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
