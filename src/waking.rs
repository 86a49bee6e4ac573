//! Waking of many tasks at once.
//!
//! A group commit answers many requests of a few threads at once. Waking a task from another thread costs a system call,
//! so requests are not woken one by one. Their wakers go to the [`LocalWaker`] of their thread. It is woken once, and wakes
//! all of them on its own thread, which costs next to nothing.

use std::cell::RefCell;
use std::sync::Arc;
use std::task::Waker;

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

    /// That of the calling thread; `None`: its tasks are woken one by one.
    pub fn of_this_thread() -> Option<Arc<Self>> {
        LOCAL_WAKER.with_borrow(Clone::clone)
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

/// Collects wakers, and wakes them on drop.
#[derive(Debug, Default)]
pub struct WakeBatch {
    by_thread: Vec<(Arc<LocalWaker>, Vec<Waker>)>,
    /// Wakers of threads without a [`LocalWaker`].
    others: Vec<Waker>,
}

impl WakeBatch {
    /// Adds the waker of a task of the thread of `local_waker`.
    pub fn add(&mut self, waker: Option<Waker>, local_waker: Option<&Arc<LocalWaker>>) {
        let Some(waker) = waker else { return };
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
