//! The answer to one request, on its way from a batch to the request's task.
//!
//! A channel for one value, whose receivers are woken together with those of the same thread ([`crate::waking`]).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;

use crate::waking::{WaitingTask, WakeBatch};

/// The sender was dropped without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoAnswer;

#[derive(Debug)]
struct State<T> {
    answer: Option<Result<T, NoAnswer>>,
    task: WaitingTask,
    is_abandoned: bool,
}

type Slot<T> = Mutex<State<T>>;

/// Sends the answer. Dropped, it reports that there is none.
#[derive(Debug)]
pub(super) struct AnswerSender<T>(Option<Arc<Slot<T>>>);

/// Receives the answer.
#[derive(Debug)]
pub(super) struct AnswerReceiver<T>(Arc<Slot<T>>);

/// The two ends.
pub(super) fn channel<T>() -> (AnswerSender<T>, AnswerReceiver<T>) {
    let slot =
        Arc::new(Mutex::new(State { answer: None, task: WaitingTask::default(), is_abandoned: false }));
    (AnswerSender(Some(Arc::clone(&slot))), AnswerReceiver(slot))
}

impl<T> AnswerSender<T> {
    /// Sends the answer; its task is woken when `wakes` is dropped. Without a receiver nothing happens.
    pub(super) fn send(mut self, answer: T, wakes: &mut WakeBatch) {
        if let Some(slot) = self.0.take() {
            slot.lock().set(Ok(answer), wakes);
        }
    }

    /// Whether the receiver was dropped.
    pub(super) fn is_closed(&self) -> bool {
        self.0.as_ref().is_none_or(|slot| slot.lock().is_abandoned)
    }
}

impl<T> Drop for AnswerSender<T> {
    fn drop(&mut self) {
        if let Some(slot) = self.0.take() {
            let mut wakes = WakeBatch::default();
            slot.lock().set(Err(NoAnswer), &mut wakes);
        }
    }
}

impl<T> State<T> {
    fn set(&mut self, answer: Result<T, NoAnswer>, wakes: &mut WakeBatch) {
        if !self.is_abandoned {
            self.answer = Some(answer);
            self.task.wake(wakes);
        }
    }
}

impl<T> Future for AnswerReceiver<T> {
    type Output = Result<T, NoAnswer>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.lock();
        if let Some(answer) = state.answer.take() {
            return Poll::Ready(answer);
        }
        state.task.register(cx);
        Poll::Pending
    }
}

impl<T> Drop for AnswerReceiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_abandoned = true;
        let unread = state.answer.take();
        state.task.clear();
        drop(state);
        // Without the lock: it may be large.
        drop(unread);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_arrives_before_and_after_it_is_waited_for() {
        let (sender, receiver) = channel();
        sender.send(1, &mut WakeBatch::default());
        assert_eq!(receiver.await, Ok(1));
        let (sender, receiver) = channel();
        let waiting = tokio::spawn(receiver);
        tokio::task::yield_now().await;
        assert!(!sender.is_closed());
        sender.send(2, &mut WakeBatch::default());
        assert_eq!(waiting.await.unwrap(), Ok(2));
    }

    #[tokio::test]
    async fn each_end_learns_that_the_other_has_gone() {
        let (sender, receiver) = channel::<u8>();
        let waiting = tokio::spawn(receiver);
        tokio::task::yield_now().await;
        drop(sender);
        assert_eq!(waiting.await.unwrap(), Err(NoAnswer));
        let (sender, receiver) = channel::<u8>();
        drop(receiver);
        assert!(sender.is_closed());
        sender.send(1, &mut WakeBatch::default());
    }
}
