//! The connection of a live reader: its place, its time, and the memory of chunks that wait for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::http::AppState;
use crate::http::event_stream::Close;
use crate::http::streams::StreamsApi;
use crate::http::wire::body::{MemoryBudget, MemoryPermit};
use crate::http::wire::error::ApiError;
use crate::observe::Metrics;

/// The time after which a connection ends, about.
const LIFE: Duration = Duration::from_secs(60);
/// The time between two tries to hold a chunk while memory is short.
const HOLD_RETRY: Duration = Duration::from_millis(50);
/// The size up to which a chunk that waits for its client is not counted.
pub(super) const SMALL_CHUNK_BYTES: usize = 4 * 1024;

/// The connection of a reader of one stream or of many.
pub(in crate::http::streams) struct LiveConnection {
    pub(in crate::http::streams) ends_at: Instant,
    answers: Arc<MemoryBudget>,
    metrics: Arc<Metrics>,
    _place: OwnedSemaphorePermit,
}

impl LiveConnection {
    /// A place among the live readers.
    pub(in crate::http::streams) fn new(state: &AppState, api: &StreamsApi) -> Result<Self, ApiError> {
        Ok(Self {
            _place: api.reader()?,
            ends_at: Instant::now() + LIFE.mul_f64(0.9 + 0.2 * fastrand::f64()),
            answers: Arc::clone(&api.answers),
            metrics: Arc::clone(&state.metrics),
        })
    }

    /// Waits until a chunk may be held.
    pub(in crate::http::streams) async fn hold(&self, chunk: Bytes) -> Bytes {
        if chunk.len() <= SMALL_CHUNK_BYTES {
            return chunk;
        }
        let mut permit = MemoryPermit::new(&self.answers);
        // A client that waits for long is cut off by its connection's time.
        while permit.grow(chunk.len()).is_err() {
            tokio::time::sleep(HOLD_RETRY).await;
        }
        Bytes::from_owner(HeldChunk { chunk, _permit: permit })
    }

    pub(in crate::http::streams) fn closed(&self, close: Close) {
        self.metrics.follows_closed.with_label_values(&[close.name()]).inc();
    }
}

/// A chunk that counts against the memory of answers.
struct HeldChunk {
    chunk: Bytes,
    _permit: MemoryPermit,
}

impl AsRef<[u8]> for HeldChunk {
    fn as_ref(&self) -> &[u8] {
        &self.chunk
    }
}
