//! Whether the service is starting, serving or stopping.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The phase of the service's life; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Lifecycle(Arc<Life>);

#[derive(Debug, Default)]
struct Life {
    phase: AtomicU8,
    draining: CancellationToken,
}

const STARTING: u8 = 0;
const SERVING: u8 = 1;
const DRAINING: u8 = 2;

impl Lifecycle {
    /// The database is ready and events are taken.
    pub fn serve(&self) {
        let _already_draining =
            self.0.phase.compare_exchange(STARTING, SERVING, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Nothing more is taken.
    pub fn drain(&self) {
        self.0.phase.store(DRAINING, Ordering::SeqCst);
        self.0.draining.cancel();
    }

    /// Whether nothing more is taken.
    pub fn is_draining(&self) -> bool {
        self.0.phase.load(Ordering::SeqCst) == DRAINING
    }

    /// Resolves when nothing more is taken: what would go on for as long as its client likes ends then.
    pub fn draining(&self) -> WaitForCancellationFutureOwned {
        self.0.draining.clone().cancelled_owned()
    }
}
