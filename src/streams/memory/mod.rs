//! Streams in memory: for development and tests. They end with the process.
//!
//! One lock for all streams; decisions are those of the other store. Memory has a limit, which counts bytes, boundaries, paths and producers.

mod log;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::ready;
use std::ops::Bound;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::append::{Append, AppendDecision, AppendState, Appended, decide};
use super::compaction::COMPACT_AFTER;
use super::create::{self, CreateStream, Created, ForkOrigin};
use super::error::StreamError;
use super::listener::{Listeners, StreamEvent, StreamEventKind, StreamListener};
use super::offset::{Offset, ReadFrom};
use super::path::StreamPath;
use super::stream_store::{Freshness, ListedStream, Slice, StoreFuture, StreamHead, StreamId, StreamStore};
use super::watch::{StreamWatch, WatchEnded, Watches};
use crate::time::Micros;
use log::Log;
use stream::{MemoryStream, NewMemoryStream};

/// A store of streams in memory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MemoryStore(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    watches: Watches,
    listeners: Listeners,
    /// Bytes of all streams together.
    limit: u64,
    /// The age from which messages are compacted.
    compact_after: Duration,
    /// Itself, for watches.
    this: Weak<Self>,
}

#[derive(Debug)]
struct State {
    streams: BTreeMap<StreamPath, MemoryStream>,
    /// When streams are looked at next, as they may have expired.
    checks: BTreeSet<(Instant, StreamPath)>,
    used: u64,
    next_id: u64,
}

/// A time by both clocks: that of the day for times of day, the other one for durations.
#[derive(Debug, Clone, Copy)]
struct Now {
    time: Micros,
    instant: Instant,
}

impl Now {
    fn read() -> Self {
        Self { time: Micros::now(), instant: Instant::now() }
    }
}

impl MemoryStore {
    /// An empty store for `limit` bytes, with the default of `STREAMS_COMPACT_AFTER_S`.
    pub fn new(limit: u64) -> Self {
        Self::with_compaction(limit, COMPACT_AFTER)
    }

    /// The same, which compacts messages that are older than `compact_after`, where a stream asks for it.
    pub fn with_compaction(limit: u64, compact_after: Duration) -> Self {
        Self(Arc::new_cyclic(|this| Shared {
            state: Mutex::new(State {
                streams: BTreeMap::new(),
                checks: BTreeSet::new(),
                used: 0,
                // A process begins its numbers behind those of the one before, which cannot have made one a microsecond.
                next_id: Micros::now().0.unsigned_abs(),
            }),
            watches: Watches::default(),
            listeners: Listeners::default(),
            limit,
            compact_after,
            this: Weak::clone(this),
        }))
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.0.state.lock().used
    }
}

impl Shared {
    /// Runs an operation, behind the end of streams that have expired.
    fn run<T>(&self, operation: impl FnOnce(&mut State, Now) -> T) -> T {
        let now = Now::read();
        let mut state = self.state.lock();
        while let Some((due, _)) = state.checks.first()
            && *due <= now.instant
        {
            let Some((_, path)) = state.checks.pop_first() else { break };
            self.check(&mut state, &path, now);
        }
        operation(&mut state, now)
    }

    /// Ends a stream that has expired, or sets the time at which it is looked at again.
    fn check(&self, state: &mut State, path: &StreamPath, now: Now) {
        let Some(stream) = state.streams.get_mut(path).filter(|stream| !stream.is_deleted) else { return };
        if self.watches.has(path) {
            stream.renew(now);
        }
        if stream.is_expired(now) {
            self.end(state, path);
        } else if let Some(due) = stream.next_check(now) {
            state.checks.insert((due, path.clone()));
        }
    }

    /// The living stream at a path.
    fn living<'a>(
        &self,
        state: &'a mut State,
        path: &StreamPath,
        now: Now,
    ) -> Result<&'a mut MemoryStream, StreamError> {
        self.end_expired(state, path, now);
        match state.streams.get_mut(path) {
            Some(stream) if !stream.is_deleted => Ok(stream),
            Some(_) => Err(StreamError::Gone),
            None => Err(StreamError::NotFound),
        }
    }

    fn end_expired(&self, state: &mut State, path: &StreamPath, now: Now) {
        if let Some(stream) = state.streams.get_mut(path)
            && !stream.is_deleted
        {
            if self.watches.has(path) {
                stream.renew(now);
            }
            if stream.is_expired(now) {
                self.end(state, path);
            }
        }
    }

    /// Deletes a living stream. Its bytes are kept while it has forks.
    fn end(&self, state: &mut State, path: &StreamPath) {
        let Some(stream) = state.streams.get_mut(path) else { return };
        let event = StreamEvent {
            path: path.clone(),
            id: stream.id,
            tail: stream.log.tail(),
            kind: StreamEventKind::Deleted,
        };
        let released = stream.release_writers();
        stream.is_deleted = true;
        state.used -= released;
        state.remove_unused(path);
        self.watches.wake(path);
        self.listeners.report(|| event);
    }

    fn create(&self, path: &StreamPath, request: &CreateStream) -> Result<Created, StreamError> {
        self.run(|state, now| {
            self.end_expired(state, path, now);
            if let Some(existing) = state.streams.get(path) {
                if existing.is_deleted {
                    return Err(StreamError::PathKept);
                }
                let head = existing.head(now);
                create::compare(&head, request)?;
                return Ok(Created::Existing(head));
            }
            let source = match &request.fork {
                None => None,
                Some(fork) => Some(match self.living(state, &fork.source, now) {
                    Ok(source) => source.head(now),
                    Err(StreamError::Gone) => return Err(StreamError::ForkSourceGone),
                    Err(_) => return Err(StreamError::ForkSource),
                }),
            };
            let planned = create::plan(request, source.as_ref())?;
            let start = match &planned.origin {
                None => Offset::START,
                Some(origin) => state.fork_end(origin)?,
            };
            let mut stream = MemoryStream::new(NewMemoryStream {
                id: StreamId(state.next_id),
                planned,
                start,
                kept_from: source.as_ref().map_or(Offset::START, |source| source.kept_from),
                request,
                now,
            });
            if let Some(body) = &request.body {
                if start.plus(body.bytes().len()).is_none() {
                    return Err(StreamError::TooLong);
                }
                stream.log.push(body, now.time);
            }
            state.take(stream.bytes(path), self.limit)?;
            state.next_id += 1;
            let head = stream.head(now);
            if let Some(source) =
                stream.origin.as_ref().and_then(|origin| state.streams.get_mut(&origin.source))
            {
                source.forks.push(start);
            }
            if let Some(due) = stream.next_check(now) {
                state.checks.insert((due, path.clone()));
            }
            state.streams.insert(path.clone(), stream);
            self.watches.wake(path);
            self.listeners.report(|| StreamEvent {
                path: path.clone(),
                id: head.id,
                tail: head.tail,
                kind: StreamEventKind::Created {
                    content_type: head.content_type.clone(),
                    at: now.time,
                    start,
                },
            });
            Ok(Created::New(head))
        })
    }

    fn append(&self, path: &StreamPath, append: &Append) -> Result<Appended, StreamError> {
        self.run(|state, now| {
            let limit = self.limit;
            let stream = self.living(state, path, now)?;
            // A refused write is no write, but the stream was used.
            stream.renew(now);
            let known =
                append.producer.as_ref().and_then(|producer| stream.producers.get(&producer.id)).copied();
            let append_state = AppendState {
                content_type: &stream.content_type,
                tail: stream.log.tail(),
                closed: stream.closed,
                closed_by: stream.closed_by.as_ref(),
                seq: stream.seq.as_deref(),
                producer: known,
            };
            let (next, producer, closes) = match decide(&append_state, append)? {
                AppendDecision::Accept { next, producer, closes } => (next, producer, closes),
                AppendDecision::Duplicate { producer } => {
                    let next = stream.log.tail();
                    return Ok(Appended { next, closed: stream.closed, producer, is_duplicate: true });
                }
            };
            let cost = append.body.as_ref().map_or(0, Log::cost) + stream.cost_of_writer(append);
            state.take(cost, limit)?;
            let Some(stream) = state.streams.get_mut(path) else { return Err(StreamError::NotFound) };
            let freed = stream.apply(append, producer, closes, now) + stream.compact(now, self.compact_after);
            let id = stream.id;
            let closed = stream.closed;
            state.used -= freed.min(state.used);
            self.watches.wake(path);
            self.listeners.report(|| StreamEvent {
                path: path.clone(),
                id,
                tail: next,
                kind: if append.body.is_some() { StreamEventKind::Appended } else { StreamEventKind::Closed },
            });
            Ok(Appended { next, closed, producer, is_duplicate: false })
        })
    }

    fn read(&self, path: &StreamPath, from: ReadFrom, max_bytes: usize) -> Result<Slice, StreamError> {
        self.run(|state, now| {
            let stream = self.living(state, path, now)?;
            let freed = stream.retain(now) + stream.compact(now, self.compact_after);
            let head = stream.head(now);
            state.used -= freed.min(state.used);
            let start = match from {
                ReadFrom::Start => head.kept_from,
                ReadFrom::Now => head.tail,
                ReadFrom::At(offset) if offset > head.tail => return Err(StreamError::Offset),
                ReadFrom::At(offset) if offset < head.kept_from => {
                    return Err(StreamError::NotKept { first: head.kept_from });
                }
                ReadFrom::At(offset) => offset,
            };
            let mut bytes = Vec::new();
            let next = state.read(path, start, max_bytes, &mut bytes)?;
            let is_tail = next == head.tail;
            Ok(Slice { head, start, bytes, next, is_tail })
        })
    }
}

impl State {
    /// Takes memory.
    fn take(&mut self, bytes: u64, limit: u64) -> Result<(), StreamError> {
        if self.used.saturating_add(bytes) > limit {
            return Err(StreamError::Full);
        }
        self.used += bytes;
        Ok(())
    }

    /// Removes a deleted stream without forks, and deleted sources that are left without forks by it.
    fn remove_unused(&mut self, path: &StreamPath) {
        let mut path = path.clone();
        while self.streams.get(&path).is_some_and(|stream| stream.is_deleted && stream.forks.is_empty()) {
            let Some(removed) = self.streams.remove(&path) else { return };
            self.used -= removed.bytes(&path).min(self.used);
            let Some(origin) = &removed.origin else { return };
            let start = removed.log_start;
            path = origin.source.clone();
            if let Some(source) = self.streams.get_mut(&path)
                && let Some(at) = source.forks.iter().position(|fork| *fork == start)
            {
                source.forks.swap_remove(at);
            }
        }
    }

    /// The place in its source at which a fork begins to differ.
    fn fork_end(&self, origin: &ForkOrigin) -> Result<Offset, StreamError> {
        let Owner { stream, cap } =
            self.owner(&origin.source, origin.offset).ok_or(StreamError::ForkSource)?;
        if !stream.is_boundary(origin.offset) {
            return Err(StreamError::ForkOffset);
        }
        let rest = stream.log.rest_of_append(origin.offset, cap);
        create::fork_end(origin.offset, origin.sub_offset, rest.as_ref())
    }

    /// The stream that has the byte behind a position of the one at `path`: itself, or a stream that it is forked from.
    fn owner(&self, path: &StreamPath, offset: Offset) -> Option<Owner<'_>> {
        let mut stream = self.streams.get(path)?;
        let mut cap = stream.log.tail();
        while offset < stream.log_start {
            cap = cap.min(stream.log_start);
            stream = self.streams.get(&stream.origin.as_ref()?.source)?;
        }
        Some(Owner { stream, cap })
    }

    /// Adds bytes from a position on; returns the position behind them.
    fn read(
        &self,
        path: &StreamPath,
        from: Offset,
        max_bytes: usize,
        out: &mut Vec<bytes::Bytes>,
    ) -> Result<Offset, StreamError> {
        let (mut at, mut left) = (from, max_bytes.max(1));
        loop {
            let Owner { stream, cap } = self.owner(path, at).ok_or(StreamError::NotFound)?;
            if at == from && !stream.is_boundary(at) {
                return Err(StreamError::Offset);
            }
            if at >= cap {
                return Ok(at);
            }
            let next = stream.log.cut(at, cap, left);
            let length = (next.0 - at.0) as usize;
            // Behind the end of an inherited part the next message may be too large.
            if length > left && at > from {
                return Ok(at);
            }
            stream.log.read(at, next, out);
            (at, left) = (next, left.saturating_sub(length));
            if left == 0 {
                return Ok(at);
            }
        }
    }
}

/// The stream that has a byte.
struct Owner<'a> {
    stream: &'a MemoryStream,
    /// The end of the part of it that counts.
    cap: Offset,
}

impl WatchEnded for Shared {
    fn ended(&self, path: &StreamPath) {
        self.run(|state, now| {
            if let Some(stream) = state.streams.get_mut(path) {
                stream.renew(now);
            }
        });
    }
}

impl StreamStore for MemoryStore {
    fn create<'a>(&'a self, path: &'a StreamPath, request: CreateStream) -> StoreFuture<'a, Created> {
        let created = self.0.create(path, &request);
        Box::pin(ready(created))
    }

    fn get<'a>(&'a self, path: &'a StreamPath, _: Freshness) -> StoreFuture<'a, StreamHead> {
        let head = self.0.run(|state, now| self.0.living(state, path, now).map(|stream| stream.head(now)));
        Box::pin(ready(head))
    }

    fn append<'a>(&'a self, path: &'a StreamPath, append: Append) -> StoreFuture<'a, Appended> {
        let appended = self.0.append(path, &append);
        Box::pin(ready(appended))
    }

    fn delete<'a>(&'a self, path: &'a StreamPath) -> StoreFuture<'a, ()> {
        let deleted = self.0.run(|state, now| {
            self.0.living(state, path, now)?;
            self.0.end(state, path);
            Ok(())
        });
        Box::pin(ready(deleted))
    }

    fn read<'a>(
        &'a self,
        path: &'a StreamPath,
        from: ReadFrom,
        max_bytes: usize,
        _: Freshness,
    ) -> StoreFuture<'a, Slice> {
        let slice = self.0.read(path, from, max_bytes);
        Box::pin(ready(slice))
    }

    fn renew(&self, path: &StreamPath, stream: &StreamHead) {
        if stream.lifetime.is_some() {
            self.0.run(|state, now| {
                if let Some(known) = state.streams.get_mut(path).filter(|known| known.id == stream.id) {
                    known.renew(now);
                }
            });
        }
    }

    fn watch(&self, path: &StreamPath) -> StreamWatch {
        let ended = self.0.this.upgrade().map(|this| this as Arc<dyn WatchEnded>);
        self.0.watches.watch(path, ended)
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a StreamPath>,
        limit: usize,
    ) -> StoreFuture<'a, Vec<ListedStream>> {
        let listed = self.0.run(|state, now| {
            let from = match after {
                Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
                _ => Bound::Included(prefix),
            };
            let streams = state.streams.range::<str, _>((from, Bound::Unbounded));
            streams
                .take_while(|(path, _)| path.as_str().starts_with(prefix))
                .filter(|(_, stream)| !stream.is_deleted && !stream.is_expired(now))
                .take(limit)
                .map(|(path, stream)| ListedStream {
                    path: path.clone(),
                    id: stream.id,
                    tail: stream.log.tail(),
                })
                .collect()
        });
        Box::pin(ready(Ok(listed)))
    }

    fn has_retention(&self) -> bool {
        true
    }

    fn has_compaction(&self) -> bool {
        true
    }

    fn listen(&self, listener: Arc<dyn StreamListener>) {
        self.0.listeners.add(listener);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("limit", &self.limit).finish_non_exhaustive()
    }
}
