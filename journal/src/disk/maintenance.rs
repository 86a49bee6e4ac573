//! Background work on the files, which keeps waits for the disk out of appends.

use std::ops::ControlFlow;
use std::time::Duration;

use super::segments::{JournalReader, PendingWork};

/// The longest wait between two steps.
const TICK: Duration = Duration::from_secs(1);

impl JournalReader {
    /// One step of background work, for a thread that repeats it until it breaks. Waits until there is work, or for a second.
    ///
    /// A step prepares the next segment, checks the free space and the folder, and retries what could not be written. A
    /// journal that refuses events may need a step to take some again. Breaks once the journal's writer is dropped.
    pub fn maintain(&self) -> ControlFlow<()> {
        let mut pending = self.signal.state.lock();
        let is_idle = |pending: &mut PendingWork| !pending.work && !pending.stop;
        let _timed_out = self.signal.changed.wait_while_for(&mut pending, is_idle, TICK);
        if pending.stop {
            return ControlFlow::Break(());
        }
        pending.work = false;
        drop(pending);
        self.run_maintenance();
        ControlFlow::Continue(())
    }

    /// Ends the background work.
    pub(super) fn stop_maintenance(&self) {
        self.signal.state.lock().stop = true;
        self.signal.changed.notify_all();
    }
}
