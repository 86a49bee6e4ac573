//! Streams as a service: their store, and limits of their answers.

use std::sync::Arc;
use std::time::Duration;

use super::cursor::CursorClock;
use super::path::StreamPath;
use super::stream_store::StreamStore;

/// The streams of a service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Streams {
    /// The store.
    pub store: Arc<dyn StreamStore>,
    /// Limits and intervals.
    pub settings: Arc<StreamsSettings>,
}

/// Limits and intervals of answers.
#[derive(Debug, Clone)]
pub struct StreamsSettings {
    /// The wait of a long-poll.
    pub long_poll_timeout: Duration,
    /// Bytes of an answer, about (at least one message).
    pub max_answer_bytes: usize,
    /// Bytes of an append.
    pub max_append_bytes: usize,
    /// The cursors of live answers.
    pub cursor: CursorClock,
    /// The time between two signs of life of an idle SSE stream.
    pub heartbeat: Duration,
    /// Live readers at once.
    pub max_readers: usize,
    /// Bytes of answers that clients have not read yet.
    pub answers_bytes: u64,
    /// The URL of the service in `Location`; `None`: that of the request.
    pub public_url: Option<Arc<str>>,
    /// The stream that lists streams, which clients may only read.
    pub registry: Option<StreamPath>,
    /// Whether answers may be stored by shared caches: everybody may read all streams.
    pub is_public: bool,
}

impl Default for StreamsSettings {
    fn default() -> Self {
        Self {
            long_poll_timeout: Duration::from_secs(30),
            max_answer_bytes: 4 * 1024 * 1024,
            max_append_bytes: crate::config::limits::MAX_BATCH_BYTES,
            cursor: CursorClock::default(),
            heartbeat: Duration::from_secs(15),
            max_readers: 10_000,
            answers_bytes: 64 * 1024 * 1024,
            public_url: None,
            registry: None,
            is_public: true,
        }
    }
}
