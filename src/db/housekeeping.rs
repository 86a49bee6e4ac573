//! What keeps the tables small, as health and metrics report it: the clocks, and the days that cannot be made or dropped.

use parking_lot::Mutex;

/// A day whose partition cannot be made or dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionFailure {
    /// `YYYY-MM-DD`.
    pub day: String,
    /// `make` or `drop`.
    pub action: &'static str,
    /// What Postgres reports, the SQLSTATE first.
    pub error: String,
}

/// The state of housekeeping.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HousekeepingStatus {
    /// Seconds between the service's clock and Postgres', as of the last look; positive if the service's is ahead.
    pub clock_ahead_s: i64,
    /// Whether nothing is deleted by age, as the clocks differ.
    pub is_refused: bool,
    /// Days whose partitions cannot be made or dropped.
    pub partitions: Vec<PartitionFailure>,
}

impl HousekeepingStatus {
    /// Whether nothing is wrong.
    pub fn is_fine(&self) -> bool {
        !self.is_refused && self.partitions.is_empty()
    }
}

/// The state of housekeeping, shared by all that does it.
#[derive(Debug, Default)]
pub struct Housekeeping(Mutex<HousekeepingStatus>);

impl Housekeeping {
    /// The state.
    pub fn status(&self) -> HousekeepingStatus {
        self.lock().clone()
    }

    /// Takes note of how far the clocks are apart; true if that is news.
    pub(super) fn clocks(&self, ahead_s: i64, is_refused: bool) -> bool {
        let mut status = self.lock();
        status.clock_ahead_s = ahead_s;
        std::mem::replace(&mut status.is_refused, is_refused) != is_refused
    }

    /// Takes note of a round over the partitions; the failures that were not there before.
    pub(super) fn partitions(&self, failures: Vec<PartitionFailure>) -> Vec<PartitionFailure> {
        let mut status = self.lock();
        let known = |failure: &PartitionFailure| status.partitions.contains(failure);
        let news = failures.iter().filter(|failure| !known(failure)).cloned().collect();
        status.partitions = failures;
        news
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, HousekeepingStatus> {
        self.0.lock()
    }
}
