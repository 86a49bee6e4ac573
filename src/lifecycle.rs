//! The phases of the service: starting, serving, stopping.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The current phase; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Lifecycle(Arc<LifecycleState>);

#[derive(Debug, Default)]
struct LifecycleState {
    phase: AtomicU8,
    started: CancellationToken,
    draining: CancellationToken,
}

const STARTING: u8 = 0;
const SERVING: u8 = 1;
const DRAINING: u8 = 2;

impl Lifecycle {
    /// The service is ready and accepts events.
    pub fn serve(&self) {
        let _already_draining =
            self.0.phase.compare_exchange(STARTING, SERVING, Ordering::SeqCst, Ordering::SeqCst);
        self.0.started.cancel();
    }

    /// The service stops and accepts nothing.
    pub fn drain(&self) {
        self.0.phase.store(DRAINING, Ordering::SeqCst);
        self.0.started.cancel();
        self.0.draining.cancel();
    }

    /// Whether the service is ready and not stopping.
    pub fn is_serving(&self) -> bool {
        self.0.phase.load(Ordering::SeqCst) == SERVING
    }

    /// Resolves when the start is over: the service serves, or stops.
    pub async fn started(&self) {
        self.0.started.cancelled().await;
    }

    /// Whether the service is stopping.
    pub fn is_draining(&self) -> bool {
        self.0.phase.load(Ordering::SeqCst) == DRAINING
    }

    /// Resolves when the service stops: responses without an end of their own end then.
    pub fn draining(&self) -> WaitForCancellationFutureOwned {
        self.0.draining.clone().cancelled_owned()
    }
}
