//! Whether the service is starting, serving or stopping.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// The phase of the service's life; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Lifecycle(Arc<AtomicU8>);

const STARTING: u8 = 0;
const SERVING: u8 = 1;
const DRAINING: u8 = 2;

impl Lifecycle {
    /// The database is ready and events are taken.
    pub fn serve(&self) {
        let _already_draining =
            self.0.compare_exchange(STARTING, SERVING, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Nothing more is taken.
    pub fn drain(&self) {
        self.0.store(DRAINING, Ordering::SeqCst);
    }

    /// Whether nothing more is taken.
    pub fn is_draining(&self) -> bool {
        self.0.load(Ordering::SeqCst) == DRAINING
    }
}
