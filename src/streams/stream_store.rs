//! The store of streams, as the HTTP face, subscriptions and embedding programs see it. There are two: in Postgres and in memory.
//!
//! # Rules for stores
//!
//! * Append, close, create and delete are atomic, in one order for each stream, and answered once they are durable. What was answered is final.
//! * Decisions are those of [`append::decide`](super::append::decide), [`create::compare`](super::create::compare),
//!   [`create::plan`](super::create::plan) and [`create::fork_end`](super::create::fork_end), made under the stream's lock.
//! * An expired stream is not found, whether or not its bytes are deleted. One with living forks counts as deleted ([`StreamError::Gone`]).
//! * After each change that is durable, watches of the path wake up, and listeners hear of it. Answers do not wait for them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::append::{Append, Appended};
use super::content_type::ContentType;
use super::create::{CreateStream, Created, ForkOrigin};
use super::error::StreamError;
use super::lifetime::{Lifetime, Retention};
use super::listener::StreamListener;
use super::offset::{Offset, ReadFrom};
use super::path::StreamPath;
use super::watch::StreamWatch;
use crate::time::Micros;

/// The result of an operation, later.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StreamError>> + Send + 'a>>;

/// The number of a stream. None is used twice, though a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// A living stream, without its bytes.
#[derive(Debug, Clone)]
pub struct StreamHead {
    /// Its number.
    pub id: StreamId,
    /// Its type.
    pub content_type: ContentType,
    /// Its end.
    pub tail: Offset,
    /// Whether it is closed.
    pub closed: bool,
    /// When it ends by itself; `None`: never.
    pub lifetime: Option<Lifetime>,
    /// The time of that end, unless a read or write moves it.
    pub expires_at: Option<Micros>,
    /// The same by the clock of this process that only runs forward, measured by the store's clock: the clock of the day may be another one here.
    pub ends: Option<Instant>,
    /// The time of its creation.
    pub created_at: Micros,
    /// The first position that is kept.
    pub kept_from: Offset,
    /// How much of it is kept; `None`: all.
    pub retention: Option<Retention>,
    /// Whether older messages of a key are removed.
    pub compacts_by_key: bool,
    /// The number of compactions so far: bytes at an offset may differ between two.
    pub generation: u64,
    /// Its origin; `None`: it is no fork.
    pub origin: Option<Arc<ForkOrigin>>,
}

/// How new an answer has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// It includes everything that any node acknowledged before the call.
    Verified,
    /// It includes what this node knows: what woke a watch, and everything that this node acknowledged.
    Known,
}

/// Bytes of a stream, and its state at that time.
#[derive(Debug, Clone)]
pub struct Slice {
    /// The state.
    pub head: StreamHead,
    /// The position of the first byte.
    pub start: Offset,
    /// The bytes, in their stored form. Shared, not copied, where they are cached.
    pub bytes: Vec<Bytes>,
    /// The position behind the last byte: stored, not computed.
    pub next: Offset,
    /// Whether that is the end of the stream.
    pub is_tail: bool,
}

/// A stream in a list.
#[derive(Debug, Clone)]
pub struct ListedStream {
    /// Its path.
    pub path: StreamPath,
    /// Its number.
    pub id: StreamId,
    /// Its end.
    pub tail: Offset,
}

/// A store of streams.
pub trait StreamStore: std::fmt::Debug + Send + Sync + 'static {
    /// Creates a stream, unless there is one of the same configuration. `Verified`.
    fn create<'a>(&'a self, path: &'a StreamPath, request: CreateStream) -> StoreFuture<'a, Created>;

    /// The state of a stream. It does not renew a TTL.
    fn get<'a>(&'a self, path: &'a StreamPath, freshness: Freshness) -> StoreFuture<'a, StreamHead>;

    /// Appends, closes, or both. It renews a TTL.
    fn append<'a>(&'a self, path: &'a StreamPath, append: Append) -> StoreFuture<'a, Appended>;

    /// Deletes a stream. While forks live, its path stays taken, and its bytes are kept for them.
    fn delete<'a>(&'a self, path: &'a StreamPath) -> StoreFuture<'a, ()>;

    /// Reads at most about `max_bytes` from a position: at least one byte, or one message, unless it is the end. Of JSON, whole messages only.
    /// It does not renew a TTL.
    fn read<'a>(
        &'a self,
        path: &'a StreamPath,
        from: ReadFrom,
        max_bytes: usize,
        freshness: Freshness,
    ) -> StoreFuture<'a, Slice>;

    /// Renews the TTL of a stream that was read. It returns at once; the renewal counts from now.
    fn renew(&self, path: &StreamPath, stream: &StreamHead);

    /// Watches a path, whether or not there is a stream. A stream with a watch does not end by its TTL, which begins anew with the end of the last one.
    /// Changes after this call wake it: watch first, then read.
    fn watch(&self, path: &StreamPath) -> StreamWatch;

    /// Living streams whose paths begin with `prefix`, in the order of their paths, behind `after`; at most `limit`.
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a StreamPath>,
        limit: usize,
    ) -> StoreFuture<'a, Vec<ListedStream>>;

    /// Whether it drops what a retention does not keep.
    fn has_retention(&self) -> bool {
        false
    }

    /// Whether it compacts streams by key.
    fn has_compaction(&self) -> bool {
        false
    }

    /// Adds a listener for all changes from now on.
    fn listen(&self, listener: Arc<dyn StreamListener>);
}
