//! Background work on the journal's files, so that appends wait for the disk as little as possible.

use std::ops::ControlFlow;
use std::sync::PoisonError;
use std::time::Duration;

use super::store::{JournalReader, lock};

/// The longest wait between two steps.
const TICK: Duration = Duration::from_secs(1);

impl JournalReader {
    /// One step of background work, for a thread that repeats it until it breaks. Waits until there is work, or for a second.
    ///
    /// A step prepares the next segment, checks the free space and the folder, and retries what could not be written. A
    /// journal that refuses events may need a step to take some again. Breaks once the journal's writer is dropped.
    pub fn maintain(&self) -> ControlFlow<()> {
        let wanted = lock(&self.signal.state);
        let waited =
            self.signal.changed.wait_timeout_while(wanted, TICK, |wanted| !wanted.work && !wanted.stop);
        let (mut wanted, _timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
        if wanted.stop {
            return ControlFlow::Break(());
        }
        wanted.work = false;
        drop(wanted);
        self.tend();
        ControlFlow::Continue(())
    }

    /// Ends the background work.
    pub(super) fn stop_maintenance(&self) {
        lock(&self.signal.state).stop = true;
        self.signal.changed.notify_all();
    }
}
