//! The audit: each subscriber gets each change once, each record's changes in order, and causes before effects.
//!
//! The writers number the changes of a topic as they send them. A change names its number, that of the change of the same record before it,
//! and the *floor*: all changes below it were answered before this one was sent. So whatever a subscriber misses, gets twice or gets too early
//! is found by numbers alone.

use std::collections::BTreeSet;

/// The fate of a sent change, as its writer knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// There is no answer yet.
    Sent,
    /// It was acknowledged: each subscriber has to get it.
    Acknowledged,
    /// There was no answer, or an error: it may be delivered or not.
    Unknown,
}

/// The changes of a topic, by number.
#[derive(Debug, Default)]
pub(super) struct TopicLog {
    outcomes: Vec<Outcome>,
    acknowledged: u64,
    floor: u64,
}

/// A change as a subscriber gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Delivered {
    /// Its number in its topic.
    pub(super) number: u64,
    /// The number of the change of the same record before it.
    pub(super) previous: Option<u64>,
    /// All changes below this number were answered before it was sent.
    pub(super) floor: u64,
}

/// The changes that one subscriber has.
#[derive(Debug, Default)]
pub(super) struct SeenChanges {
    /// All below this number.
    below: u64,
    /// Those above it.
    above: BTreeSet<u64>,
    /// The highest floor that was checked: each fault is counted once.
    checked: u64,
}

/// What is wrong with deliveries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Faults {
    /// Acknowledged changes that were not delivered.
    pub(super) missed: u64,
    /// Changes that were delivered again.
    pub(super) doubled: u64,
    /// Changes that came before one that had to come first.
    pub(super) swapped: u64,
    /// Changes that no writer sent.
    pub(super) unsent: u64,
}

impl Faults {
    pub(super) fn add(&mut self, other: Self) {
        self.missed += other.missed;
        self.doubled += other.doubled;
        self.swapped += other.swapped;
        self.unsent += other.unsent;
    }
}

impl TopicLog {
    /// A change is about to be sent: its number and its floor.
    pub(super) fn begin(&mut self) -> (u64, u64) {
        self.outcomes.push(Outcome::Sent);
        (self.outcomes.len() as u64 - 1, self.floor)
    }

    /// A change was answered, or never will be.
    pub(super) fn settle(&mut self, number: u64, is_acknowledged: bool) {
        let Some(outcome) = self.outcomes.get_mut(number as usize) else { return };
        *outcome = if is_acknowledged { Outcome::Acknowledged } else { Outcome::Unknown };
        self.acknowledged += u64::from(is_acknowledged);
        while self.outcomes.get(self.floor as usize).is_some_and(|outcome| *outcome != Outcome::Sent) {
            self.floor += 1;
        }
    }

    /// The number of acknowledged changes.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The number of changes without an acknowledgement.
    pub(super) fn unknown(&self) -> u64 {
        self.outcomes.len() as u64 - self.acknowledged
    }

    fn is_acknowledged(&self, number: u64) -> bool {
        self.outcomes.get(number as usize) == Some(&Outcome::Acknowledged)
    }
}

impl SeenChanges {
    /// Adds a delivered change; returns its faults.
    pub(super) fn add(&mut self, change: Delivered, log: &TopicLog) -> Faults {
        let Delivered { number, previous, floor } = change;
        let mut faults = Faults::default();
        if number as usize >= log.outcomes.len() {
            faults.unsent = 1;
            return faults;
        }
        if self.has(number) {
            faults.doubled = 1;
            return faults;
        }
        let is_early = previous.is_some_and(|previous| !self.has(previous));
        let lacks = |number: &u64| log.is_acknowledged(*number) && !self.has(*number);
        // One that comes late is counted by the first change that had to wait for it.
        let lacking = (self.checked.max(self.below)..floor).filter(lacks).count() as u64;
        faults.swapped = lacking.max(u64::from(is_early));
        self.checked = self.checked.max(floor);
        self.above.insert(number);
        while self.above.first() == Some(&self.below) {
            self.above.pop_first();
            self.below += 1;
        }
        faults
    }

    /// The acknowledged changes that are missing.
    pub(super) fn missed(&self, log: &TopicLog) -> u64 {
        if self.count() == log.outcomes.len() as u64 {
            return 0;
        }
        let lacks = |number: &u64| log.is_acknowledged(*number) && !self.has(*number);
        (self.below..log.outcomes.len() as u64).filter(lacks).count() as u64
    }

    /// The number of changes.
    pub(super) fn count(&self) -> u64 {
        self.below + self.above.len() as u64
    }

    fn has(&self, number: u64) -> bool {
        number < self.below || self.above.contains(&number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log of acknowledged changes of two records in turn, each sent after the one before it was answered.
    fn log(count: u64) -> (TopicLog, Vec<Delivered>) {
        let mut log = TopicLog::default();
        let change = |number: u64| {
            let (begun, floor) = log.begin();
            assert_eq!(begun, number);
            log.settle(number, true);
            Delivered { number, previous: number.checked_sub(2), floor }
        };
        let changes = (0..count).map(change).collect();
        (log, changes)
    }

    fn audit(log: &TopicLog, changes: &[Delivered]) -> Faults {
        let mut seen = SeenChanges::default();
        let mut faults = Faults::default();
        for change in changes {
            faults.add(seen.add(*change, log));
        }
        faults.missed = seen.missed(log);
        faults
    }

    #[test]
    fn each_change_once_and_in_order_has_no_fault() {
        let (log, changes) = log(50);
        assert_eq!(audit(&log, &changes), Faults::default());
        assert_eq!(log.acknowledged(), 50);
    }

    #[test]
    fn a_missed_change_is_found_wherever_it_is() {
        let (log, changes) = log(20);
        for gone in 0..changes.len() {
            let mut changes = changes.clone();
            changes.remove(gone);
            let faults = audit(&log, &changes);
            assert_eq!((faults.missed, faults.doubled), (1, 0), "{gone}");
        }
        assert_eq!(audit(&log, &[]).missed, 20);
    }

    #[test]
    fn a_doubled_change_is_found_wherever_it_comes_again() {
        let (log, changes) = log(20);
        for (first, again) in [(0, 1), (3, 4), (3, 20), (19, 20)] {
            let mut changes = changes.clone();
            changes.insert(again, changes[first]);
            assert_eq!(audit(&log, &changes), Faults { doubled: 1, ..Faults::default() }, "{first}");
        }
    }

    #[test]
    fn swapped_changes_are_found_within_a_record_and_between_records() {
        let (log, changes) = log(20);
        for (one, other) in [(4, 6), (4, 5), (0, 1), (18, 19)] {
            let mut changes = changes.clone();
            changes.swap(one, other);
            let faults = audit(&log, &changes);
            assert!(faults.swapped > 0 && faults.missed == 0 && faults.doubled == 0, "{faults:?}");
        }
    }

    #[test]
    fn changes_that_were_sent_at_once_may_come_in_any_order() {
        let mut log = TopicLog::default();
        let sent: Vec<(u64, u64)> = (0..3).map(|_| log.begin()).collect();
        let mut changes: Vec<Delivered> = sent
            .iter()
            .map(|(number, floor)| Delivered { number: *number, previous: None, floor: *floor })
            .collect();
        // The answer of the last comes first.
        for number in [2, 0, 1] {
            log.settle(number, true);
        }
        changes.reverse();
        assert_eq!(audit(&log, &changes), Faults::default());
    }

    #[test]
    fn a_change_without_an_answer_may_come_once_or_not() {
        let mut log = TopicLog::default();
        let (unanswered, _) = log.begin();
        log.settle(unanswered, false);
        let (number, floor) = log.begin();
        log.settle(number, true);
        assert_eq!((floor, log.unknown()), (1, 1));
        let first = Delivered { number: unanswered, previous: None, floor: 0 };
        let second = Delivered { number, previous: None, floor };
        for changes in [vec![second], vec![first, second], vec![second, first]] {
            assert_eq!(audit(&log, &changes), Faults::default(), "{changes:?}");
        }
        assert_eq!(audit(&log, &[first, second, first]).doubled, 1);
        let unsent = Delivered { number: 7, previous: None, floor: 0 };
        assert_eq!(audit(&log, &[second, unsent]).unsent, 1);
    }
}
