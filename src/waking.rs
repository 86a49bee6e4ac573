//! Waking of many tasks at once.
//!
//! A group commit answers many requests of a few threads at once, and a change has many subscribers. Waking a task from another thread costs a
//! system call, and puts it into a queue from which its runtime takes one task now and then while others run. So tasks are not woken one by one.
//! Their wakers go to the [`LocalWaker`] of their thread. It is woken once, and wakes all of them on its own thread, which costs next to nothing.

use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Context, Waker};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// Wakes the waiting tasks of one thread, all at once.
#[derive(Debug, Default)]
pub struct LocalWaker {
    ready: Mutex<Vec<Waker>>,
    notify: Notify,
}

thread_local! {
    static LOCAL_WAKER: RefCell<Option<Arc<LocalWaker>>> = const { RefCell::new(None) };
}

impl LocalWaker {
    /// Serves this thread for as long as the future runs. Tasks of other threads are woken one by one.
    pub async fn serve() {
        let local_waker = Arc::new(Self::default());
        LOCAL_WAKER.set(Some(Arc::clone(&local_waker)));
        let _cleared = ClearLocalWaker;
        loop {
            local_waker.notify.notified().await;
            let ready = std::mem::take(&mut *local_waker.ready());
            for waker in ready {
                waker.wake();
            }
        }
    }

    fn ready(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.ready.lock()
    }
}

struct ClearLocalWaker;

impl Drop for ClearLocalWaker {
    fn drop(&mut self) {
        LOCAL_WAKER.set(None);
    }
}

/// A task that waits for another one, and the [`LocalWaker`] of its thread.
#[derive(Debug, Default)]
pub struct WaitingTask {
    waker: Option<Waker>,
    local_waker: Option<Arc<LocalWaker>>,
}

impl WaitingTask {
    /// Registers the task that is polled, in the place of an earlier one. Its runtime is that of the calling thread.
    pub fn register(&mut self, context: &Context<'_>) {
        if self.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            return;
        }
        self.waker = Some(context.waker().clone());
        LOCAL_WAKER.with_borrow(|local_waker| {
            if self.local_waker.as_ref().map(Arc::as_ptr) != local_waker.as_ref().map(Arc::as_ptr) {
                self.local_waker.clone_from(local_waker);
            }
        });
    }

    /// Has the registered task woken with the batch, once.
    pub fn wake(&mut self, batch: &mut WakeBatch) {
        if let Some(waker) = self.waker.take() {
            batch.add(waker, self.local_waker.as_ref());
        }
    }

    /// Forgets the registered task.
    pub fn clear(&mut self) {
        self.waker = None;
    }
}

/// Collects wakers, and wakes them on drop.
#[derive(Debug, Default)]
pub struct WakeBatch {
    by_thread: Vec<(Arc<LocalWaker>, Vec<Waker>)>,
    /// Wakers of threads without a [`LocalWaker`].
    others: Vec<Waker>,
}

impl WakeBatch {
    fn add(&mut self, waker: Waker, local_waker: Option<&Arc<LocalWaker>>) {
        let Some(local_waker) = local_waker else { return self.others.push(waker) };
        match self.by_thread.iter_mut().find(|(known, _)| Arc::ptr_eq(known, local_waker)) {
            Some((_, wakers)) => wakers.push(waker),
            None => self.by_thread.push((Arc::clone(local_waker), vec![waker])),
        }
    }
}

impl Drop for WakeBatch {
    fn drop(&mut self) {
        for (local_waker, wakers) in self.by_thread.drain(..) {
            local_waker.ready().extend(wakers);
            local_waker.notify.notify_one();
        }
        for waker in self.others.drain(..) {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;

    /// A flag, and the task that waits for it.
    type Flag = Arc<Mutex<(bool, WaitingTask)>>;

    async fn set(flag: Flag) {
        poll_fn(|context| {
            let (is_set, task) = &mut *flag.lock();
            task.register(context);
            if *is_set { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    #[tokio::test]
    async fn tasks_are_woken_by_the_waker_of_their_thread() {
        let local_waker = tokio::spawn(LocalWaker::serve());
        tokio::task::yield_now().await;
        let flags: Vec<Flag> = (0..3).map(|_| Flag::default()).collect();
        let waiting: Vec<_> = flags.iter().map(|flag| tokio::spawn(set(Arc::clone(flag)))).collect();
        tokio::task::yield_now().await;
        assert!(flags.iter().all(|flag| flag.lock().1.local_waker.is_some()));
        let mut batch = WakeBatch::default();
        for flag in &flags {
            let (is_set, task) = &mut *flag.lock();
            *is_set = true;
            task.wake(&mut batch);
        }
        assert_eq!((batch.by_thread.len(), batch.by_thread[0].1.len(), batch.others.len()), (1, 3, 0));
        std::thread::spawn(move || drop(batch)).join().unwrap();
        for task in waiting {
            task.await.unwrap();
        }
        local_waker.abort();
        let _aborted = local_waker.await;
        assert!(LOCAL_WAKER.with_borrow(Option::is_none));
    }

    #[tokio::test]
    async fn a_task_of_a_thread_without_a_local_waker_is_woken_too() {
        let flag = Flag::default();
        let waiting = tokio::spawn(set(Arc::clone(&flag)));
        tokio::task::yield_now().await;
        {
            let (is_set, task) = &mut *flag.lock();
            *is_set = true;
            task.wake(&mut WakeBatch::default());
        }
        waiting.await.unwrap();
    }
}
