//! The audit: accepted events are compared with the rows in the database.
//!
//! Events without an answer may be stored or not. They are counted apart, by their trace ids, so that a stored one cannot hide
//! the loss of an accepted one.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::database::{Database, Error, Location, RunCounts, RunRows};
use crate::health::Health;

/// The interval between two queries of the service's pending events.
const LOOK: Duration = Duration::from_millis(200);

/// The time for which the row count has to stay the same to be final.
const STILL: Duration = Duration::from_secs(1);

/// The expectations from the run's answers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Expected {
    /// Events answered as accepted.
    pub(crate) accepted: u64,
    /// Events without an answer and with unknown trace ids: each may account for one surplus row.
    pub(crate) unnamed: u64,
}

/// The result of the audit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Audit {
    /// Rows in `requests`.
    pub(crate) stored: u64,
    /// Dead letters, without those for overload.
    pub(crate) dead: u64,
    /// Rows of events without an answer.
    pub(crate) stored_unanswered: u64,
    /// Accepted events that are missing although they cannot be pending.
    pub(crate) lost: u64,
    /// Accepted events that are not stored yet: the service reports as many pending, or does not report.
    pub(crate) unsettled: u64,
    /// Rows beyond the first one of the same event.
    pub(crate) doubled: u64,
    /// Stored events that were not accepted.
    pub(crate) surplus: u64,
    /// Some of the doubled trace ids.
    pub(crate) doubled_trace_ids: Vec<String>,
    /// Pending events that the service reported last.
    pub(crate) pending: Option<u64>,
}

impl Audit {
    /// Compares the expectations with the rows. `pending` is the service's report from before the count.
    pub(crate) fn judge(expected: Expected, found: &RunCounts, pending: Option<u64>) -> Self {
        let distinct = found.answered + found.unanswered;
        let missing = expected.accepted.saturating_sub(found.answered);
        let unsettled = pending.map_or(missing, |pending| missing.min(pending));
        Self {
            stored: found.stored,
            dead: found.dead,
            stored_unanswered: found.unanswered,
            lost: missing - unsettled,
            unsettled,
            pending,
            doubled: (found.stored + found.dead).saturating_sub(distinct),
            surplus: found.answered.saturating_sub(expected.accepted.saturating_add(expected.unnamed)),
            ..Self::default()
        }
    }

    /// Whether every accepted event is stored exactly once.
    pub(crate) fn balances(&self) -> bool {
        self.lost == 0 && self.unsettled == 0 && self.doubled == 0 && self.surplus == 0
    }
}

/// Waits until the run's rows are stored, as long as there is progress within `patience`, and compares.
pub(crate) async fn audit(
    location: &Location,
    health: &Health,
    run: &RunRows,
    expected: Expected,
    patience: Duration,
) -> Result<Audit, Error> {
    let mut progress = Progress::start(Instant::now());
    let mut database: Option<Database> = None;
    let mut before: Option<RunCounts> = None;
    loop {
        let pending = health.pending().await.ok().flatten();
        progress.note_pending(pending, Instant::now());
        let last_look = progress.pause(Instant::now()) >= patience;
        if pending.unwrap_or(0) > 0 && !last_look {
            tokio::time::sleep(LOOK).await;
            continue;
        }
        match count(&mut database, location, run).await {
            Ok((database, found)) => {
                progress.note_found(&found, Instant::now());
                if last_look || is_settled(pending, expected, &found, before.as_ref()) {
                    let mut audit = Audit::judge(expected, &found, pending);
                    if audit.doubled > 0 {
                        audit.doubled_trace_ids = database.doubled(run).await?;
                    }
                    return Ok(audit);
                }
                before = Some(found);
            }
            // Postgres may be restarting.
            Err(error) if last_look => return Err(error),
            Err(_) => database = None,
        }
        tokio::time::sleep(STILL).await;
    }
}

/// The time of the last progress: fewer pending events, or more rows, than ever before.
struct Progress {
    since: Instant,
    fewest_pending: Option<u64>,
    most_found: u64,
}

impl Progress {
    fn start(now: Instant) -> Self {
        Self { since: now, fewest_pending: None, most_found: 0 }
    }

    fn note_pending(&mut self, pending: Option<u64>, now: Instant) {
        let Some(pending) = pending else { return };
        if self.fewest_pending.is_none_or(|fewest| pending < fewest) {
            self.fewest_pending = Some(pending);
            self.since = now;
        }
    }

    fn note_found(&mut self, found: &RunCounts, now: Instant) {
        let rows = found.stored + found.dead;
        if rows > self.most_found {
            self.most_found = rows;
            self.since = now;
        }
    }

    /// The time without progress.
    fn pause(&self, now: Instant) -> Duration {
        now.duration_since(self.since)
    }
}

async fn count<'a>(
    database: &'a mut Option<Database>,
    location: &Location,
    run: &RunRows,
) -> Result<(&'a mut Database, RunCounts), Error> {
    let database = match database {
        Some(database) => database,
        none => none.insert(location.connect().await?),
    };
    let found = database.count(run).await?;
    Ok((database, found))
}

/// Whether waiting cannot change the result. A service that does not report its pending events may be recovering from a crash
/// with the missing rows in its journal: then only a complete count is final.
fn is_settled(
    pending: Option<u64>,
    expected: Expected,
    found: &RunCounts,
    before: Option<&RunCounts>,
) -> bool {
    let complete = found.answered >= expected.accepted;
    let still = before == Some(found);
    match pending {
        Some(0) => complete || still,
        Some(_) => false,
        None => complete && still,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(stored: u64, dead: u64, answered: u64, unanswered: u64) -> RunCounts {
        RunCounts { stored, dead, answered, unanswered }
    }

    fn judge(accepted: u64, found: &RunCounts) -> Audit {
        Audit::judge(Expected { accepted, unnamed: 0 }, found, Some(0))
    }

    #[test]
    fn what_is_pending_is_not_lost() {
        let expected = Expected { accepted: 100, unnamed: 0 };
        let some = found(60, 0, 60, 0);
        for (pending, lost, unsettled) in
            [(Some(0), 40, 0), (Some(15), 25, 15), (Some(40), 0, 40), (Some(900), 0, 40), (None, 0, 40)]
        {
            let audit = Audit::judge(expected, &some, pending);
            assert_eq!((audit.lost, audit.unsettled, audit.balances()), (lost, unsettled, false));
        }
        assert!(Audit::judge(expected, &found(99, 1, 100, 0), Some(7)).balances(), "another run's");
    }

    #[test]
    fn waiting_goes_on_while_there_is_progress() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut progress = Progress::start(start);
        progress.note_pending(Some(100), at(10));
        progress.note_pending(None, at(20));
        progress.note_pending(Some(100), at(20));
        progress.note_pending(Some(120), at(20));
        assert_eq!(progress.pause(at(20)), Duration::from_secs(10));
        progress.note_pending(Some(99), at(30));
        progress.note_found(&found(5, 1, 6, 0), at(40));
        progress.note_found(&found(5, 1, 6, 0), at(50));
        assert_eq!(progress.pause(at(50)), Duration::from_secs(10));
    }

    #[test]
    fn every_accepted_event_stored_once_balances() {
        assert!(judge(100, &found(100, 0, 100, 0)).balances());
        assert!(judge(0, &found(0, 0, 0, 0)).balances());
    }

    #[test]
    fn a_dead_letter_keeps_its_promise() {
        let audit = judge(100, &found(97, 3, 100, 0));
        assert!(audit.balances());
        assert_eq!(audit.dead, 3);
    }

    #[test]
    fn a_missing_event_is_lost_even_when_another_is_doubled() {
        let audit = judge(100, &found(100, 0, 99, 0));
        assert!(!audit.balances());
        assert_eq!((audit.lost, audit.doubled), (1, 1));
    }

    #[test]
    fn an_event_both_stored_and_dead_is_doubled() {
        let audit = judge(100, &found(100, 1, 100, 0));
        assert_eq!((audit.lost, audit.doubled), (0, 1));
    }

    #[test]
    fn an_event_that_was_refused_and_stored_all_the_same_is_surplus() {
        let audit = judge(100, &found(101, 0, 101, 0));
        assert!(!audit.balances());
        assert_eq!(audit.surplus, 1);
    }

    #[test]
    fn events_without_an_answer_may_be_stored_or_not_and_hide_no_loss() {
        assert!(judge(100, &found(105, 0, 100, 5)).balances());
        assert!(judge(100, &found(100, 0, 100, 0)).balances());
        assert_eq!(judge(100, &found(104, 0, 99, 5)).lost, 1);
    }

    #[test]
    fn unnamed_events_without_an_answer_are_allowed_for() {
        let expected = Expected { accepted: 100, unnamed: 3 };
        assert!(Audit::judge(expected, &found(103, 0, 103, 0), Some(0)).balances());
        assert_eq!(Audit::judge(expected, &found(104, 0, 104, 0), Some(0)).surplus, 1);
    }

    #[test]
    fn waiting_ends_when_nothing_more_can_come() {
        let expected = Expected { accepted: 100, unnamed: 0 };
        let (all, some) = (found(100, 0, 100, 0), found(60, 0, 60, 0));
        assert!(is_settled(Some(0), expected, &all, None));
        assert!(!is_settled(Some(0), expected, &some, None));
        assert!(is_settled(Some(0), expected, &some, Some(&some)));
        assert!(!is_settled(Some(7), expected, &all, Some(&all)));
        assert!(!is_settled(None, expected, &some, Some(&some)));
        assert!(is_settled(None, expected, &all, Some(&all)));
    }
}
