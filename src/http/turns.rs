//! Turns of event streams: however many streams of a thread have something to send, one of them runs at a time.
//!
//! After a change all its subscribers are ready at once. A task of a request would wait in the thread's queue behind all of them, at each of its
//! steps. So the streams wait for a turn of their own, in order, and the queue holds one of them. A stream that waits longer sends more
//! at once.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::Semaphore;

thread_local! {
    /// The turn of the thread's streams.
    static TURN: Arc<Semaphore> = Arc::new(Semaphore::new(1));
}

/// Does work in a turn, which ends where the work has to wait for something.
pub(super) async fn in_turn<T>(mut work: impl Future<Output = T> + Unpin) -> T {
    let turns = TURN.with(Arc::clone);
    // Never closed.
    let mut turn = turns.acquire_owned().await.ok();
    poll_fn(|cx| {
        let polled = Pin::new(&mut work).poll(cx);
        if polled.is_pending() {
            turn = None;
        }
        polled
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[tokio::test]
    async fn work_that_waits_holds_no_turn() {
        let waiting: Vec<_> = (0..100).map(|_| tokio::spawn(in_turn(std::future::pending::<()>()))).collect();
        tokio::task::yield_now().await;
        in_turn(Box::pin(async {})).await;
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test]
    async fn other_tasks_run_between_two_turns() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let note = |what: &'static str| {
            let log = Arc::clone(&log);
            async move { log.lock().push(what) }
        };
        let turn = TURN.with(Arc::clone).acquire_owned().await;
        let mut tasks: Vec<_> = (0..3).map(|_| tokio::spawn(in_turn(Box::pin(note("stream"))))).collect();
        // They are all ready, and wait for the turn.
        tokio::task::yield_now().await;
        drop(turn);
        tasks.push(tokio::spawn(note("request")));
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*log.lock(), ["stream", "request", "stream", "stream"]);
    }
}
