//! What this node knows of streams: the newest state that it has read or written.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::{SharedPart, Stream};
use crate::streams::{Lifetime, Offset, StreamHead, StreamId, StreamPath};

/// Bytes of a known stream beside its path and its type, about.
const STREAM_BYTES: u64 = 512;

/// A part of a stream's bytes, by the stream whose chunks have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::streams::postgres) struct Segment {
    /// The stream of the chunks.
    pub(in crate::streams::postgres) id: StreamId,
    /// The end of the part.
    pub(in crate::streams::postgres) end: Offset,
    /// The generation of that stream when this was read. What is shared is not compacted any more.
    pub(in crate::streams::postgres) generation: u64,
}

/// A living stream that this node has read or written.
#[derive(Debug)]
pub(in crate::streams::postgres) struct KnownStream {
    pub(in crate::streams::postgres) path: StreamPath,
    pub(in crate::streams::postgres) shared: Option<SharedPart>,
    /// As it was read; its end and whether it is closed are below.
    head: StreamHead,
    tail: AtomicU64,
    closed: AtomicBool,
    /// When it ends by itself, unless it is renewed.
    ends: Mutex<Option<Instant>>,
    /// The parts that its bytes are in; set once they are known.
    pub(in crate::streams::postgres) segments: OnceLock<Arc<[Segment]>>,
}

impl KnownStream {
    fn of(stream: &Stream) -> Self {
        Self {
            path: stream.path.clone(),
            shared: stream.shared,
            head: stream.head.clone(),
            tail: AtomicU64::new(stream.head.tail.0),
            closed: AtomicBool::new(stream.head.closed),
            ends: Mutex::new(stream.head.ends.map(tokio::time::Instant::into_std)),
            segments: OnceLock::new(),
        }
    }

    /// The time to live that reads and writes renew.
    pub(in crate::streams::postgres) fn ttl(&self) -> Option<Duration> {
        match self.head.lifetime {
            Some(Lifetime::Ttl(seconds)) => Some(Duration::from_secs(seconds)),
            _ => None,
        }
    }

    /// Notes that its TTL began anew at a time.
    pub(in crate::streams::postgres) fn renewed(&self, at: Instant) {
        if let Some(ttl) = self.ttl() {
            let mut ends = self.ends.lock();
            *ends = (*ends).max(at.checked_add(ttl));
        }
    }

    /// Whether less than a quarter of its TTL is left, so that a renewal has to be written.
    pub(in crate::streams::postgres) fn is_renewal_due(&self, now: Instant) -> bool {
        let (Some(ttl), ends) = (self.ttl(), *self.ends.lock()) else { return false };
        ends.is_none_or(|ends| ends.saturating_duration_since(now) < ttl / 4)
    }

    pub(in crate::streams::postgres) fn id(&self) -> StreamId {
        self.head.id
    }

    /// The state as far as it is known. What does not change while it lives can be taken from here at any time.
    pub(in crate::streams::postgres) fn head(&self) -> StreamHead {
        // A stream that is closed does not grow: the end that belongs to it was stored before.
        let closed = self.closed.load(Ordering::Acquire);
        let ends = self.ends.lock().map(tokio::time::Instant::from_std);
        StreamHead { tail: Offset(self.tail.load(Ordering::Acquire)), closed, ends, ..self.head.clone() }
    }

    /// The same without a copy, for what never changes.
    pub(in crate::streams::postgres) fn fixed(&self) -> &StreamHead {
        &self.head
    }

    /// Notes its end, and that it is closed.
    pub(in crate::streams::postgres) fn note(&self, tail: Offset, closed: bool) {
        self.tail.fetch_max(tail.0, Ordering::AcqRel);
        if closed {
            self.closed.store(true, Ordering::Release);
        }
    }
}

#[derive(Debug, Clone)]
struct KnownWeighter;

impl Weighter<StreamPath, Arc<KnownStream>> for KnownWeighter {
    fn weight(&self, path: &StreamPath, _: &Arc<KnownStream>) -> u64 {
        STREAM_BYTES + 2 * path.as_str().len() as u64
    }
}

/// The streams that this node knows, the ones used least forgotten.
#[derive(Debug)]
pub(in crate::streams::postgres) struct KnownStreams {
    streams: Cache<StreamPath, Arc<KnownStream>, KnownWeighter>,
    /// Streams of which a part is kept, as far as nothing looks after them yet.
    retained: Mutex<HashSet<StreamId>>,
    /// The same of streams that are compacted.
    compacted: Mutex<HashSet<StreamId>>,
}

impl KnownStreams {
    /// Streams of at most `max_bytes`.
    pub(in crate::streams::postgres) fn new(max_bytes: u64) -> Self {
        let streams = usize::try_from(max_bytes / STREAM_BYTES).unwrap_or(usize::MAX).max(1);
        let streams = Cache::with_weighter(streams, max_bytes, KnownWeighter);
        Self { streams, retained: Mutex::default(), compacted: Mutex::default() }
    }

    pub(in crate::streams::postgres) fn get(&self, path: &StreamPath) -> Option<Arc<KnownStream>> {
        self.streams.get(path)
    }

    /// Notes the state of a living stream that was read or written.
    pub(in crate::streams::postgres) fn note(&self, stream: &Stream) -> Arc<KnownStream> {
        if let Some(known) = self.streams.get(&stream.path) {
            let is_same = known.id() == stream.head.id
                && known.head.kept_from == stream.head.kept_from
                && known.head.generation == stream.head.generation;
            if is_same {
                known.note(stream.head.tail, stream.head.closed);
                *known.ends.lock() = stream.head.ends.map(tokio::time::Instant::into_std);
                return known;
            }
            // Of two states the older one may come later.
            if known.id() > stream.head.id {
                return known;
            }
            if known.id() == stream.head.id && known.head.generation > stream.head.generation {
                known.note(stream.head.tail, stream.head.closed);
                return known;
            }
            if known.id() == stream.head.id {
                let newer = KnownStream::of(stream);
                let head = known.head();
                newer.note(head.tail, head.closed);
                return self.keep(newer);
            }
        }
        self.keep(KnownStream::of(stream))
    }

    /// Streams of which a part is kept that were noted since the last call.
    pub(in crate::streams::postgres) fn take_retained(&self) -> HashSet<StreamId> {
        std::mem::take(&mut *self.retained.lock())
    }

    /// Streams that are compacted that were noted since the last call.
    pub(in crate::streams::postgres) fn take_compacted(&self) -> HashSet<StreamId> {
        std::mem::take(&mut *self.compacted.lock())
    }

    fn keep(&self, stream: KnownStream) -> Arc<KnownStream> {
        if stream.head.retention.is_some() {
            self.retained.lock().insert(stream.id());
        }
        if stream.head.compacts_by_key {
            self.compacted.lock().insert(stream.id());
        }
        let stream = Arc::new(stream);
        self.streams.insert(stream.path.clone(), Arc::clone(&stream));
        stream
    }

    /// Forgets a stream; not another one that has the path meanwhile.
    pub(in crate::streams::postgres) fn forget(&self, path: &StreamPath, id: Option<StreamId>) {
        if id.is_none_or(|id| self.streams.get(path).is_some_and(|known| known.id() == id)) {
            self.streams.remove(path);
        }
    }
}
