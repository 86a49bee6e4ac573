//! What each lane is doing, for the figures of operators.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What a lane is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneActivity {
    /// Waiting for a batch.
    Waiting,
    /// Writing a batch.
    Copying,
    /// Isolating the bad rows of a batch that Postgres rejected.
    Isolating,
    /// Waiting before the next attempt, or making it: a passing error.
    Retrying,
    /// The same for an error that the database's operator has to remove.
    Halted,
}

impl LaneActivity {
    /// Its name in figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Copying => "copying",
            Self::Isolating => "isolating",
            Self::Retrying => "retrying",
            Self::Halted => "halted",
        }
    }
}

/// A lane at one moment.
#[derive(Debug, Clone, Copy)]
pub struct LaneReport {
    /// What it is doing.
    pub activity: LaneActivity,
    /// The time since it began with it.
    pub since: Duration,
    /// Events of its batch; 0 while it waits for one.
    pub events: u64,
    /// Batches that it has finished since the start.
    pub batches: u64,
}

/// The place where a lane notes what it is doing. Only the lane writes to it, a few times a batch.
#[derive(Debug)]
pub struct LaneSlot(Mutex<Noted>);

#[derive(Debug)]
struct Noted {
    activity: LaneActivity,
    since: Instant,
    events: u64,
    batches: u64,
}

impl Default for LaneSlot {
    fn default() -> Self {
        let noted = Noted { activity: LaneActivity::Waiting, since: Instant::now(), events: 0, batches: 0 };
        Self(Mutex::new(noted))
    }
}

impl LaneSlot {
    /// The lane begins a batch of `events` events.
    pub fn begin(&self, events: u64) {
        let mut noted = self.0.lock();
        noted.events = events;
        noted.enter(LaneActivity::Copying);
    }

    /// The lane does something else with its batch.
    pub fn enter(&self, activity: LaneActivity) {
        self.0.lock().enter(activity);
    }

    /// The lane has finished its batch.
    pub fn end(&self) {
        let mut noted = self.0.lock();
        noted.events = 0;
        noted.batches += 1;
        noted.enter(LaneActivity::Waiting);
    }

    /// The lane now.
    pub fn report(&self) -> LaneReport {
        let noted = self.0.lock();
        let Noted { activity, since, events, batches } = *noted;
        LaneReport { activity, since: since.elapsed(), events, batches }
    }
}

impl Noted {
    fn enter(&mut self, activity: LaneActivity) {
        if self.activity != activity {
            self.activity = activity;
            self.since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_keeps_the_time_at_which_it_began_what_it_does() {
        let slot = LaneSlot::default();
        slot.begin(7);
        let began = slot.0.lock().since;
        slot.enter(LaneActivity::Retrying);
        let retrying = slot.0.lock().since;
        assert!(retrying > began);
        slot.enter(LaneActivity::Retrying);
        assert_eq!(slot.0.lock().since, retrying, "another attempt is the same activity");
        let report = slot.report();
        assert_eq!((report.activity.name(), report.events, report.batches), ("retrying", 7, 0));
        slot.end();
        let report = slot.report();
        assert_eq!((report.activity, report.events, report.batches), (LaneActivity::Waiting, 0, 1));
    }
}
