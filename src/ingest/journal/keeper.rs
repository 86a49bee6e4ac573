//! The thread that prepares the next segment, so that rolling over does not wait for the disk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::store::{JournalReader, lock};

/// How often the free space is looked at.
const TICK: Duration = Duration::from_secs(1);

/// The running thread; ended and joined when dropped.
#[derive(Debug)]
pub(super) struct Keeper {
    store: Arc<JournalReader>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    pub(super) fn start(store: &Arc<JournalReader>) -> std::io::Result<Self> {
        let thread = Builder::new().name("journal-keeper".into()).spawn({
            let store = Arc::clone(store);
            move || run(&store)
        })?;
        Ok(Self { store: Arc::clone(store), thread: Some(thread) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        lock(&self.store.signal.state).stop = true;
        self.store.signal.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

fn run(store: &JournalReader) {
    let mut panics: u64 = 0;
    loop {
        // Without this thread a journal that once refused events would refuse them for ever.
        if catch_unwind(AssertUnwindSafe(|| store.tend())).is_err() {
            panics += 1;
            if panics.is_power_of_two() {
                tracing::error!(panics, "the journal's keeper panicked; it goes on");
            }
        }
        let wanted = lock(&store.signal.state);
        let waited =
            store.signal.changed.wait_timeout_while(wanted, TICK, |wanted| !wanted.work && !wanted.stop);
        let (mut wanted, _timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
        if wanted.stop {
            return;
        }
        wanted.work = false;
    }
}
