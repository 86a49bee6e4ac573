//! What a request awaits until its events are journaled or committed.
//!
//! A [`CommitWaiter`] is shared by a request and its events. The task that reaches a level reports it to the waiter, which
//! wakes the request, together with others of its thread ([`crate::waking`]).

use std::sync::Arc;
use std::task::Poll;

use parking_lot::{Mutex, MutexGuard};
use uuid::Uuid;

use super::refusal::Refusal;
use crate::ingest::AckLevel;
use crate::ingest::event::dead_letter::Reason;
use crate::ingest::event::keys::Key;
use crate::waking::{WaitingTask, WakeBatch};

/// Why events were not journaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotJournaled {
    /// The journal rejected them; nothing was kept.
    Refused(Refusal),
    /// They were written, but the sync failed: they may or may not exist after a restart.
    OutcomeUnknown,
}

/// An accepted event that is not in `requests`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadEvent {
    /// Its index in its batch, from 0.
    pub index: u64,
    /// The reason.
    pub cause: NotStored,
}

/// Why an accepted event is not in `requests`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotStored {
    /// Postgres rejected it: a dead letter.
    Rejected {
        /// The five characters of the SQLSTATE.
        sqlstate: String,
    },
    /// A trigger on `requests` dropped it: a dead letter.
    DroppedByTrigger,
    /// The journal could not be read: the bytes are in the quarantine.
    Unreadable,
}

impl NotStored {
    /// The cause's name in answers.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Rejected { .. } => Reason::Rejected.name(),
            Self::DroppedByTrigger => Reason::DroppedByTrigger.name(),
            Self::Unreadable => "quarantined",
        }
    }
}

/// The most dead events, and the most duplicates, that a waiter lists; the rest is only counted.
const MAX_LISTED: usize = 1000;

/// The outcome of settled events.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    /// Stored.
    Stored,
    /// Skipped: an event with the same key is stored.
    Duplicate,
    /// Not stored, and the cause.
    Dead(&'a NotStored),
}

/// What a request waits on. Shared by the request and its events.
#[derive(Debug)]
pub struct CommitWaiter {
    state: Mutex<State>,
    /// The level that the request waits for.
    pub level: AckLevel,
    /// The events' keys, by index in the batch.
    pub keys: Box<[(u32, Key)]>,
    /// Whether the event's trace id is its id, to be written when the id is assigned.
    pub trace_from_id: bool,
}

#[derive(Debug)]
struct State {
    task: WaitingTask,
    journaled: Option<Result<Uuid, NotJournaled>>,
    unsettled: u64,
    dead: u64,
    dead_events: Vec<DeadEvent>,
    duplicates: Duplicates,
}

/// Events of a request that were skipped because of their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Duplicates {
    /// Their number.
    pub count: u64,
    /// The indices of the first of them, from 0, in no particular order.
    pub indices: Vec<u64>,
}

impl CommitWaiter {
    /// A waiter for `events` events.
    pub fn new(events: u64, level: AckLevel, keys: Box<[(u32, Key)]>, trace_from_id: bool) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                task: WaitingTask::default(),
                journaled: None,
                unsettled: events,
                dead: 0,
                dead_events: Vec::new(),
                duplicates: Duplicates::default(),
            }),
            level,
            keys,
            trace_from_id,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Waits for the journal's answer: the id of the first event.
    pub async fn journaled(&self) -> Result<Uuid, NotJournaled> {
        self.wait(|state| state.journaled).await
    }

    /// Waits until all events are settled; returns the number of dead letters, and the first of them.
    pub async fn settled(&self) -> (u64, Vec<DeadEvent>) {
        self.wait(|state| {
            (state.unsettled == 0).then(|| (state.dead, std::mem::take(&mut state.dead_events)))
        })
        .await
    }

    /// The duplicates among the settled events.
    pub fn take_duplicates(&self) -> Duplicates {
        std::mem::take(&mut self.state().duplicates)
    }

    /// Whether all events are settled.
    pub fn is_settled(&self) -> bool {
        self.state().unsettled == 0
    }

    async fn wait<T>(&self, poll: impl Fn(&mut State) -> Option<T>) -> T {
        std::future::poll_fn(|context| {
            let mut state = self.state();
            if let Some(ready) = poll(&mut state) {
                return Poll::Ready(ready);
            }
            state.task.register(context);
            Poll::Pending
        })
        .await
    }

    /// Reports the journal's answer.
    pub fn answer(&self, journaled: Result<Uuid, NotJournaled>, wake_batch: &mut WakeBatch) {
        let mut state = self.state();
        state.journaled = Some(journaled);
        state.task.wake(wake_batch);
    }

    /// Reports the outcome of `events` events, the first of which has this index.
    pub fn settle(&self, index: u64, events: u64, outcome: Outcome<'_>, wake_batch: &mut WakeBatch) {
        let mut state = self.state();
        state.unsettled = state.unsettled.saturating_sub(events);
        if let Outcome::Dead(cause) = outcome {
            state.dead += events;
            if state.dead_events.len() < MAX_LISTED {
                state.dead_events.push(DeadEvent { index, cause: cause.clone() });
            }
        }
        if matches!(outcome, Outcome::Duplicate) {
            let duplicates = &mut state.duplicates;
            duplicates.count += events;
            let unlisted = MAX_LISTED.saturating_sub(duplicates.indices.len());
            duplicates.indices.extend((index..index + events).take(unlisted));
        }
        if state.unsettled == 0 {
            state.task.wake(wake_batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_waiter_is_settled_once_all_its_events_are() {
        let waiter = CommitWaiter::new(3, AckLevel::Committed, Box::default(), false);
        let waiting = tokio::spawn({
            let waiter = Arc::clone(&waiter);
            async move { waiter.settled().await }
        });
        let cause = NotStored::Rejected { sqlstate: "23505".to_owned() };
        for (index, outcome) in
            [Outcome::Stored, Outcome::Dead(&cause), Outcome::Duplicate].into_iter().enumerate()
        {
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished());
            waiter.settle(index as u64, 1, outcome, &mut WakeBatch::default());
        }
        let dead = DeadEvent { index: 1, cause: cause.clone() };
        assert_eq!(waiting.await.unwrap(), (1, vec![dead]));
        assert_eq!(waiter.take_duplicates(), Duplicates { count: 1, indices: vec![2] });
    }
}
