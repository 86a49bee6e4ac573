//! What a request holds while it waits for its events to be journaled, or stored.
//!
//! A waiter travels with its events. Whoever makes a level true says so on the waiter, and the request that waits on
//! it goes on.
//!
//! # Waking
//!
//! A group commit answers many requests of a few threads at once. Waking a task from another thread costs a system call
//! each time, so waiters are not woken one by one: their wakers are handed to the [`LocalWaker`] of the thread that waits, which
//! is woken once and then wakes them all on its own thread, where it costs next to nothing.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use tokio::sync::Notify;
use uuid::Uuid;

use super::refusal::Refusal;
use crate::ingest::AckLevel;
use crate::ingest::event::dead_letter::Reason;
use crate::ingest::event::keys::Key;

/// Why events were not journaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotJournaled {
    /// Nothing was kept: the journal takes nothing now.
    Refused(Refusal),
    /// Written, but the sync failed: they may turn up after a restart, or not.
    OutcomeUnknown,
}

/// An accepted event that is not in `requests`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadEvent {
    /// Its place in its batch, from 0.
    pub index: u64,
    /// Why.
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
    /// The journal could not be read: its bytes are in the quarantine.
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

/// The most dead events, and the most duplicates, that a waiter names; the others are counted.
const MOST_NAMED: usize = 1000;

/// What became of settled events.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    /// Stored.
    Stored,
    /// Skipped: an event with its key is stored.
    Duplicate,
    /// Not stored, and why.
    Dead(&'a NotStored),
}

/// What a request waits on. Shared by the request and its events.
#[derive(Debug)]
pub struct CommitWaiter {
    state: Mutex<State>,
    home: Option<Arc<LocalWaker>>,
    /// What the request waits for.
    pub wants: AckLevel,
    /// Its events' keys, by their place in the batch.
    pub keys: Box<[(u32, Key)]>,
    /// The event's trace id is its id, to be written where the id is given out.
    pub trace_from_id: bool,
}

#[derive(Debug)]
struct State {
    waker: Option<Waker>,
    journaled: Option<Result<Uuid, NotJournaled>>,
    unsettled: u64,
    dead: u64,
    named: Vec<DeadEvent>,
    duplicates: Duplicates,
}

/// Events of a request that were skipped by their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Duplicates {
    /// How many they are.
    pub count: u64,
    /// The places of the first of them, from 0, in no order.
    pub places: Vec<u64>,
}

impl CommitWaiter {
    /// A waiter for `events` events, to be waited on by this thread.
    pub fn new(events: u64, wants: AckLevel, keys: Box<[(u32, Key)]>, trace_from_id: bool) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                waker: None,
                journaled: None,
                unsettled: events,
                dead: 0,
                named: Vec::new(),
                duplicates: Duplicates::default(),
            }),
            home: LocalWaker::of_this_thread(),
            wants,
            keys,
            trace_from_id,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the journal's answer: the id of the first event.
    pub async fn journaled(&self) -> Result<Uuid, NotJournaled> {
        self.wait(|state| state.journaled).await
    }

    /// Waits until all events are settled: how many became dead letters, and the first of them by name.
    pub async fn settled(&self) -> (u64, Vec<DeadEvent>) {
        self.wait(|state| (state.unsettled == 0).then(|| (state.dead, std::mem::take(&mut state.named))))
            .await
    }

    /// The duplicates among the events that are settled.
    pub fn take_duplicates(&self) -> Duplicates {
        std::mem::take(&mut self.state().duplicates)
    }

    /// Whether all events are settled.
    pub fn is_settled(&self) -> bool {
        self.state().unsettled == 0
    }

    async fn wait<T>(&self, look: impl Fn(&mut State) -> Option<T>) -> T {
        std::future::poll_fn(|context| {
            let mut state = self.state();
            if let Some(found) = look(&mut state) {
                return Poll::Ready(found);
            }
            match &state.waker {
                Some(waker) if waker.will_wake(context.waker()) => {}
                _ => state.waker = Some(context.waker().clone()),
            }
            Poll::Pending
        })
        .await
    }

    /// The journal's answer.
    pub fn answer(&self, journaled: Result<Uuid, NotJournaled>, wakeups: &mut WakeBatch) {
        let mut state = self.state();
        state.journaled = Some(journaled);
        wakeups.add(state.waker.take(), self.home.as_ref());
    }

    /// `events` events, of which the first stands at `index`, are settled.
    pub fn settle(&self, index: u64, events: u64, outcome: Outcome<'_>, wakeups: &mut WakeBatch) {
        let mut state = self.state();
        state.unsettled = state.unsettled.saturating_sub(events);
        if let Outcome::Dead(cause) = outcome {
            state.dead += events;
            if state.named.len() < MOST_NAMED {
                state.named.push(DeadEvent { index, cause: cause.clone() });
            }
        }
        if matches!(outcome, Outcome::Duplicate) {
            let duplicates = &mut state.duplicates;
            duplicates.count += events;
            let room = MOST_NAMED.saturating_sub(duplicates.places.len());
            duplicates.places.extend((index..index + events).take(room));
        }
        if state.unsettled == 0 {
            wakeups.add(state.waker.take(), self.home.as_ref());
        }
    }
}

/// Wakes the waiting tasks of one thread, all at once.
#[derive(Debug, Default)]
pub struct LocalWaker {
    ready: Mutex<Vec<Waker>>,
    bell: Notify,
}

thread_local! {
    static HOME: RefCell<Option<Arc<LocalWaker>>> = const { RefCell::new(None) };
}

impl LocalWaker {
    /// Makes this thread's home, for as long as the future runs. Tasks of a thread without one are woken one by one.
    pub async fn serve() {
        let home = Arc::new(Self::default());
        HOME.set(Some(Arc::clone(&home)));
        let _cleared = ClearLocalWaker;
        loop {
            home.bell.notified().await;
            let ready = std::mem::take(&mut *home.ready());
            for waker in ready {
                waker.wake();
            }
        }
    }

    fn of_this_thread() -> Option<Arc<Self>> {
        HOME.with_borrow(Clone::clone)
    }

    fn ready(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct ClearLocalWaker;

impl Drop for ClearLocalWaker {
    fn drop(&mut self) {
        HOME.set(None);
    }
}

/// Gathers those who are to be woken; wakes them when it is dropped.
#[derive(Debug, Default)]
pub struct WakeBatch {
    homes: Vec<(Arc<LocalWaker>, Vec<Waker>)>,
    homeless: Vec<Waker>,
}

impl WakeBatch {
    fn add(&mut self, waker: Option<Waker>, home: Option<&Arc<LocalWaker>>) {
        let Some(waker) = waker else { return };
        let Some(home) = home else { return self.homeless.push(waker) };
        match self.homes.iter_mut().find(|(known, _)| Arc::ptr_eq(known, home)) {
            Some((_, wakers)) => wakers.push(waker),
            None => self.homes.push((Arc::clone(home), vec![waker])),
        }
    }
}

impl Drop for WakeBatch {
    fn drop(&mut self) {
        for (home, wakers) in self.homes.drain(..) {
            home.ready().extend(wakers);
            home.bell.notify_one();
        }
        for waker in self.homeless.drain(..) {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_ticket_is_settled_when_all_its_events_are() {
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
        assert_eq!(waiter.take_duplicates(), Duplicates { count: 1, places: vec![2] });
    }

    #[tokio::test]
    async fn tasks_are_woken_through_their_threads_home() {
        let home = tokio::spawn(LocalWaker::serve());
        tokio::task::yield_now().await;
        let waiter = CommitWaiter::new(1, AckLevel::Journaled, Box::default(), false);
        assert!(waiter.home.is_some());
        let waiting = tokio::spawn({
            let waiter = Arc::clone(&waiter);
            async move { waiter.journaled().await }
        });
        tokio::task::yield_now().await;
        std::thread::spawn(move || waiter.answer(Ok(Uuid::max()), &mut WakeBatch::default())).join().unwrap();
        assert_eq!(waiting.await.unwrap(), Ok(Uuid::max()));
        home.abort();
        let _aborted = home.await;
        assert!(LocalWaker::of_this_thread().is_none());
    }
}
