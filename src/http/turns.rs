//! Turns of event streams: however many streams of a thread have something to send, one of them runs at a time, and requests go before it.
//!
//! After a change all its subscribers are ready at once. A task of a request would wait in the thread's queue behind all of them, at each of its
//! steps. So the streams wait for a turn of their own, in order, and the queue holds one of them. Between turns the thread looks at its sockets
//! and at what other threads have woken, and all of that runs first. A stream that waits longer sends more at once.
//!
//! Where more is written than can be delivered, streams would fill all the time that there is, here and where their clients run, and writers
//! would get a small part of it. Turns are late then, and each leaves something to send. While requests come, such turns are followed by pauses:
//! streams fall behind, and requests do not.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The time for which turns follow each other without a look at the thread's sockets.
const LOOK_INTERVAL: Duration = Duration::from_micros(200);
/// A turn is late after a longer wait, without pauses. A thousand streams that send one event each take a quarter of it.
const LATE: Duration = Duration::from_millis(50);
/// The most that counts of a turn: in the rest other programs ran, as streams yield after it.
const LONGEST_TURN: Duration = Duration::from_millis(2);
/// The pause after turns that are late and leave something, as a multiple of their time: they have a quarter of the thread's.
const PAUSE_FACTOR: u32 = 3;
/// The shortest pause, for several turns together: timers are no finer.
const SHORTEST_PAUSE: Duration = Duration::from_millis(3);
/// The time after a request in which others are expected.
const REQUEST_INTERVAL: Duration = Duration::from_millis(100);

thread_local! {
    static TURNS: Turns = Turns::default();
}

/// The turns of a thread.
#[derive(Debug)]
struct Turns {
    /// Never closed.
    turn: Arc<Semaphore>,
    /// The last look at the sockets between turns.
    looked: Cell<Option<Instant>>,
    /// The last request.
    requested: Cell<Option<Instant>>,
    /// The pause that is left to make.
    owed: Cell<Duration>,
    /// All pauses so far.
    paused: Cell<Duration>,
}

/// What has to happen before a turn.
#[derive(Debug, PartialEq, Eq)]
enum Before {
    Nothing,
    Look,
    Pause(Duration),
}

/// A stream's turn; ends when it is dropped, or where its work has to wait for something.
#[derive(Debug)]
pub(super) struct Turn {
    turn: Option<OwnedSemaphorePermit>,
    is_late: bool,
    /// The time of its work, if it is late.
    taken: Duration,
}

/// A request has come on this thread.
pub(super) fn note_request() {
    TURNS.with(|turns| turns.requested.set(Some(Instant::now())));
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
            looked: Cell::default(),
            requested: Cell::default(),
            owed: Cell::default(),
            paused: Cell::default(),
        }
    }
}

impl Turns {
    /// What has to happen before the turn that begins now.
    fn before(&self, now: Instant) -> Before {
        let owed = self.owed.get();
        if owed >= SHORTEST_PAUSE {
            self.owed.set(Duration::ZERO);
            self.paused.set(self.paused.get() + owed);
            return Before::Pause(owed);
        }
        if self.looked.get().is_none_or(|looked| now.duration_since(looked) >= LOOK_INTERVAL) {
            self.looked.set(Some(now));
            return Before::Look;
        }
        Before::Nothing
    }

    /// A late turn took this time, and leaves something to send.
    fn owe(&self, time: Duration, now: Instant) {
        if self.requested.get().is_some_and(|last| now.duration_since(last) < REQUEST_INTERVAL) {
            self.owed.set(self.owed.get() + time.min(LONGEST_TURN) * PAUSE_FACTOR);
        }
    }
}

impl Turn {
    /// Waits for a turn. Dropped, the future gives its place up.
    pub(super) async fn next() -> Self {
        let wanted = Instant::now();
        let (turns, paused) = TURNS.with(|turns| (Arc::clone(&turns.turn), turns.paused.get()));
        let turn = turns.acquire_owned().await.ok();
        let now = Instant::now();
        let paused = TURNS.with(|turns| turns.paused.get()).saturating_sub(paused);
        let is_late = now.duration_since(wanted).saturating_sub(paused) > LATE;
        match TURNS.with(|turns| turns.before(now)) {
            Before::Nothing => {}
            // The runtime polls its sockets before it runs this task again.
            Before::Look => tokio::task::yield_now().await,
            Before::Pause(pause) => tokio::time::sleep(pause).await,
        }
        Self { turn, is_late, taken: Duration::ZERO }
    }

    /// The stream has more to send, and waits for a further turn.
    pub(super) fn leaves_more(&self) {
        if self.is_late {
            TURNS.with(|turns| turns.owe(self.taken, Instant::now()));
        }
    }

    /// Does work in the turn.
    pub(super) async fn run<T>(&mut self, mut work: impl Future<Output = T> + Unpin) -> T {
        poll_fn(move |cx| {
            let begun = (self.is_late && self.turn.is_some()).then(Instant::now);
            let polled = Pin::new(&mut work).poll(cx);
            if let Some(begun) = begun {
                self.taken += begun.elapsed();
            }
            if polled.is_pending() {
                self.turn = None;
            }
            polled
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[tokio::test]
    async fn work_that_waits_holds_no_turn() {
        let waiting: Vec<_> = (0..100)
            .map(|_| tokio::spawn(async { Turn::next().await.run(std::future::pending::<()>()).await }))
            .collect();
        tokio::task::yield_now().await;
        Turn::next().await.run(Box::pin(async {})).await;
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test]
    async fn other_tasks_run_before_each_turn() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let note = |what: &'static str| {
            let log = Arc::clone(&log);
            async move { log.lock().push(what) }
        };
        let first = Turn::next().await;
        let mut tasks: Vec<_> = (0..3)
            .map(|_| {
                let note = note("stream");
                tokio::spawn(async { Turn::next().await.run(Box::pin(note)).await })
            })
            .collect();
        // They are all ready, and wait for the turn.
        tokio::task::yield_now().await;
        TURNS.with(|turns| turns.looked.set(None));
        drop(first);
        tasks.push(tokio::spawn(note("request")));
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*log.lock(), ["request", "stream", "stream", "stream"]);
    }

    #[test]
    fn turns_that_are_late_and_leave_more_are_followed_by_pauses_while_requests_come() {
        let (turns, start) = (Turns::default(), Instant::now());
        let after = |micros| start + Duration::from_micros(micros);
        assert_eq!(turns.before(start), Before::Look);
        assert_eq!(turns.before(after(199)), Before::Nothing);
        assert_eq!(turns.before(after(200)), Before::Look);
        turns.owe(Duration::from_millis(2), after(300));
        assert_eq!(turns.before(after(300)), Before::Nothing, "there are no requests");
        turns.requested.set(Some(start));
        turns.owe(Duration::from_micros(999), after(300));
        assert_eq!(turns.before(after(301)), Before::Nothing, "it is too short for a timer");
        turns.owe(Duration::from_micros(1), after(302));
        assert_eq!(turns.before(after(303)), Before::Pause(Duration::from_millis(3)));
        assert_eq!(turns.before(after(304)), Before::Nothing);
        turns.owe(Duration::from_millis(40), after(400));
        assert_eq!(turns.before(after(401)), Before::Pause(Duration::from_millis(6)), "other programs ran");
        turns.owe(Duration::from_millis(2), after(100_000));
        assert_eq!(turns.before(after(100_000)), Before::Look, "the last request was long ago");
    }
}
