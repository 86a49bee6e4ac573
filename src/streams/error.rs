//! Refusals and failures of operations on streams.

use std::sync::Arc;

use super::offset::Offset;
use crate::db::{DbError, Overloaded};

/// An operation on a stream that was refused or failed. A refusal changes nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StreamError {
    /// There is no such stream, or it has expired.
    #[error("there is no such stream")]
    NotFound,
    /// The stream was deleted, and is kept for its forks alone.
    #[error("the stream was deleted, and is kept for its forks alone")]
    Gone,
    /// A stream of another configuration has the path.
    #[error("a stream with another configuration has this path")]
    Exists,
    /// A deleted stream that is kept for its forks has the path.
    #[error("a deleted stream that is kept for its forks has this path")]
    PathKept,
    /// The stream is closed.
    #[error("the stream is closed")]
    Closed {
        /// Its end.
        next: Offset,
    },
    /// The content has another type than the stream.
    #[error("the content type differs from that of the stream")]
    ContentType,
    /// `Stream-Seq` is not larger than the last one.
    #[error("Stream-Seq is not larger than the stream's last one")]
    Seq,
    /// The producer has a newer epoch.
    #[error("the producer has epoch {current}")]
    StaleEpoch {
        /// The newest one.
        current: u64,
    },
    /// Requests of the producer are missing.
    #[error("the producer's next sequence number is {expected}, not {received}")]
    ProducerGap {
        /// The next sequence number.
        expected: u64,
        /// That of the request.
        received: u64,
    },
    /// A new epoch does not begin with 0.
    #[error("a new Producer-Epoch begins with Producer-Seq 0")]
    EpochStart,
    /// The source of a fork does not exist, or has expired.
    #[error("there is no stream to fork at Stream-Forked-From")]
    ForkSource,
    /// The source of a fork was deleted.
    #[error("the stream to fork was deleted")]
    ForkSourceGone,
    /// The fork has another type than its source.
    #[error("the content type differs from that of the stream to fork")]
    ForkContentType,
    /// The fork's offset is beyond the end of its source, before its kept start, or within a JSON message.
    #[error("Stream-Fork-Offset is no position of the stream to fork")]
    ForkOffset,
    /// The append behind the fork's offset ends before the sub-offset.
    #[error("Stream-Fork-Sub-Offset is beyond the append that follows Stream-Fork-Offset")]
    ForkSubOffset,
    /// Only messages of JSON have keys.
    #[error("Stream-Compaction: key is for streams of application/json")]
    Compaction,
    /// An offset is beyond the end of the stream, or within a JSON message.
    #[error("the offset is no position of the stream")]
    Offset,
    /// An offset is before the first position that is kept.
    #[error("the stream is kept from {first} on")]
    NotKept {
        /// The first position that is kept.
        first: Offset,
    },
    /// The stream is as long as offsets can count.
    #[error("the stream is full")]
    TooLong,
    /// The memory store is full.
    #[error("the memory of streams is full; streams have to be deleted")]
    Full,
    /// Too much waits for Postgres.
    #[error("too many requests wait; try again later")]
    Overloaded,
    /// Postgres failed. Where it was a write, it is known to have changed nothing, unless [`DbError::OutcomeUnknown`] says otherwise.
    #[error("the database failed")]
    Database(#[source] Arc<DbError>),
}

impl From<DbError> for StreamError {
    fn from(error: DbError) -> Self {
        Self::Database(Arc::new(error))
    }
}

impl From<Overloaded> for StreamError {
    fn from(_: Overloaded) -> Self {
        Self::Overloaded
    }
}
