//! The state of housekeeping, for health and metrics: the clocks, and the days that cannot be made or dropped.

use parking_lot::Mutex;

/// A day whose partition cannot be made or dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionFailure {
    /// `YYYY-MM-DD`.
    pub day: String,
    /// `make` or `drop`.
    pub action: &'static str,
    /// Postgres' error, the SQLSTATE first.
    pub error: String,
}

/// The state of housekeeping.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HousekeepingStatus {
    /// Seconds between the service's clock and Postgres', as last measured; positive if the service's is ahead.
    pub clock_ahead_s: i64,
    /// Whether nothing is deleted by age because the clocks differ.
    pub is_refused: bool,
    /// Days whose partitions cannot be made or dropped.
    pub partitions: Vec<PartitionFailure>,
}

impl HousekeepingStatus {
    /// Whether there is no problem.
    pub fn is_fine(&self) -> bool {
        !self.is_refused && self.partitions.is_empty()
    }
}

/// The state of housekeeping, shared by its tasks.
#[derive(Debug, Default)]
pub struct Housekeeping(Mutex<HousekeepingStatus>);

impl Housekeeping {
    /// The state.
    pub fn status(&self) -> HousekeepingStatus {
        self.lock().clone()
    }

    /// Records the difference between the clocks; returns whether `is_refused` has changed.
    pub(super) fn clocks(&self, ahead_s: i64, is_refused: bool) -> bool {
        let mut status = self.lock();
        status.clock_ahead_s = ahead_s;
        std::mem::replace(&mut status.is_refused, is_refused) != is_refused
    }

    /// Records the failures of a round over the partitions; returns the new ones.
    pub(super) fn partitions(&self, failures: Vec<PartitionFailure>) -> Vec<PartitionFailure> {
        let mut status = self.lock();
        let known = |failure: &PartitionFailure| status.partitions.contains(failure);
        let new_ones = failures.iter().filter(|failure| !known(failure)).cloned().collect();
        status.partitions = failures;
        new_ones
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, HousekeepingStatus> {
        self.0.lock()
    }
}
