//! One stream in memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Now;
use super::log::Log;
use crate::streams::{
    Append, ContentType, CreateStream, ForkOrigin, Lifetime, NewStream, Offset, Producer, ProducerState,
    Retention, StreamHead, StreamId, StreamPath,
};
use crate::time::Micros;

/// Memory of a stream without bytes, beside its path, about.
const STREAM_BYTES: u64 = 512;
/// Memory of a producer's state, beside its id, about.
const PRODUCER_BYTES: u64 = 96;
/// The time between two looks at a stream whose end the clock of the day decides.
const LEAST_CHECK: Duration = Duration::from_millis(100);
/// The longest time between two looks at a stream for a compaction.
const LONGEST_CHECK: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct MemoryStream {
    pub(super) id: StreamId,
    pub(super) content_type: ContentType,
    pub(super) log: Log,
    /// The position from which its bytes are its own.
    pub(super) log_start: Offset,
    pub(super) closed: bool,
    pub(super) closed_by: Option<Producer>,
    pub(super) seq: Option<Bytes>,
    pub(super) producers: HashMap<Arc<str>, ProducerState>,
    pub(super) origin: Option<Arc<ForkOrigin>>,
    /// Where each of its forks begins to differ.
    pub(super) forks: Vec<Offset>,
    /// Kept for its forks alone.
    pub(super) is_deleted: bool,
    /// The first position of its source that a fork has.
    inherits_from: Offset,
    lifetime: Option<Lifetime>,
    /// The last read or write.
    used_at: Instant,
    created_at: Micros,
    retention: Option<Retention>,
    compacts_by_key: bool,
    generation: u64,
    /// When it is looked at for a compaction.
    next_compaction: Instant,
}

pub(super) struct NewMemoryStream<'a> {
    pub(super) id: StreamId,
    pub(super) planned: NewStream,
    pub(super) start: Offset,
    pub(super) kept_from: Offset,
    pub(super) request: &'a CreateStream,
    pub(super) now: Now,
}

impl MemoryStream {
    pub(super) fn new(new: NewMemoryStream<'_>) -> Self {
        let NewMemoryStream { id, planned, start, kept_from, request, now } = new;
        let is_json = planned.content_type.is_json();
        Self {
            id,
            content_type: planned.content_type,
            log: Log::new(start, is_json),
            log_start: start,
            closed: request.closed,
            closed_by: None,
            seq: None,
            producers: HashMap::new(),
            origin: planned.origin,
            forks: Vec::new(),
            is_deleted: false,
            inherits_from: kept_from,
            lifetime: planned.lifetime,
            used_at: now.instant,
            created_at: now.time,
            retention: request.retention,
            compacts_by_key: request.compacts_by_key,
            generation: 0,
            next_compaction: now.instant,
        }
    }

    pub(super) fn head(&self, now: Now) -> StreamHead {
        let left = self.lifetime.map(|lifetime| match lifetime {
            Lifetime::ExpiresAt(time) => {
                let left_us = u64::try_from(time.0.saturating_sub(now.time.0)).unwrap_or(0);
                (Duration::from_micros(left_us), time)
            }
            Lifetime::Ttl(seconds) => {
                let left = Duration::from_secs(seconds).saturating_sub(now.instant - self.used_at);
                let left_us = i64::try_from(left.as_micros()).unwrap_or(i64::MAX);
                (left, Micros(now.time.0.saturating_add(left_us)))
            }
        });
        StreamHead {
            id: self.id,
            content_type: self.content_type.clone(),
            tail: self.log.tail(),
            closed: self.closed,
            lifetime: self.lifetime,
            expires_at: left.map(|(_, time)| time),
            ends: left.and_then(|(left, _)| now.instant.checked_add(left)),
            created_at: self.created_at,
            kept_from: self.kept_from(),
            retention: self.retention,
            compacts_by_key: self.compacts_by_key,
            generation: self.generation,
            origin: self.origin.clone(),
        }
    }

    /// The first position that is kept, the inherited part included.
    fn kept_from(&self) -> Offset {
        if self.log.start() > self.log_start {
            self.log.start()
        } else {
            self.inherits_from.min(self.log_start)
        }
    }

    /// The memory that it takes.
    pub(super) fn bytes(&self, path: &StreamPath) -> u64 {
        STREAM_BYTES + path.as_str().len() as u64 + self.log.bytes() + self.writers_bytes()
    }

    fn writers_bytes(&self) -> u64 {
        let producers: usize = self.producers.keys().map(|id| id.len()).sum();
        let seq = self.seq.as_ref().map_or(0, Bytes::len);
        self.producers.len() as u64 * PRODUCER_BYTES + (producers + seq) as u64
    }

    /// The memory that the state of an append's writer takes beside what its former state takes.
    pub(super) fn cost_of_writer(&self, append: &Append) -> u64 {
        let seq = append.seq.as_ref().map_or(0, Bytes::len) as u64;
        let producer = append.producer.as_ref().filter(|producer| !self.producers.contains_key(&producer.id));
        seq + producer.map_or(0, |producer| PRODUCER_BYTES + producer.id.len() as u64)
    }

    /// Forgets its writers; returns the memory that is free by it.
    pub(super) fn release_writers(&mut self) -> u64 {
        let released = self.writers_bytes();
        self.producers = HashMap::new();
        self.seq = None;
        released
    }

    /// Applies an append that was accepted; returns the memory that is free by it.
    pub(super) fn apply(
        &mut self,
        append: &Append,
        producer: Option<ProducerState>,
        closes: bool,
        now: Now,
    ) -> u64 {
        if let Some(body) = &append.body {
            self.log.push(body, now.time);
        }
        if let (Some(state), Some(producer)) = (producer, &append.producer) {
            self.producers.insert(Arc::clone(&producer.id), state);
        }
        let former = match &append.seq {
            // In memory of its own: the request's may be of its whole head.
            Some(seq) => self.seq.replace(Bytes::copy_from_slice(seq)),
            None => None,
        };
        if closes {
            self.closed = true;
            self.closed_by = append.producer.clone();
        }
        former.map_or(0, |former| former.len() as u64) + self.retain(now)
    }

    /// Drops what the retention does not keep; returns the memory that is free by it.
    pub(super) fn retain(&mut self, now: Now) -> u64 {
        let Some(retention) = self.retention else { return 0 };
        let before = self.log.bytes();
        self.log.retain(retention, now.time, self.forks.iter().max().copied());
        before - self.log.bytes()
    }

    /// Removes messages that later ones replace, all of them older than a time; returns the memory that is free by it. What forks share stays.
    pub(super) fn compact(&mut self, now: Now, after: Duration) -> u64 {
        if !self.compacts_by_key || now.instant < self.next_compaction {
            return 0;
        }
        self.next_compaction = now.instant + (after / 4).clamp(LEAST_CHECK, LONGEST_CHECK);
        let before = self.log.bytes();
        let protected = self.forks.iter().copied().fold(self.log_start, Offset::max);
        let age_us = i64::try_from(after.as_micros()).unwrap_or(i64::MAX);
        if self.log.compact(protected, Micros(now.time.0.saturating_sub(age_us))) {
            self.generation += 1;
        }
        before.saturating_sub(self.log.bytes())
    }

    pub(super) fn renew(&mut self, now: Now) {
        self.used_at = now.instant;
    }

    pub(super) fn is_expired(&self, now: Now) -> bool {
        match self.lifetime {
            None => false,
            Some(Lifetime::ExpiresAt(time)) => time <= now.time,
            Some(Lifetime::Ttl(seconds)) => now.instant - self.used_at >= Duration::from_secs(seconds),
        }
    }

    /// When it may have expired.
    pub(super) fn next_check(&self, now: Now) -> Option<Instant> {
        let left = match self.lifetime? {
            Lifetime::ExpiresAt(time) => {
                Duration::from_micros(u64::try_from(time.0.saturating_sub(now.time.0)).unwrap_or(0))
            }
            Lifetime::Ttl(seconds) => Duration::from_secs(seconds).saturating_sub(now.instant - self.used_at),
        };
        now.instant.checked_add(left.max(LEAST_CHECK))
    }

    /// Whether an answer, or a fork, can begin at a position of its own bytes.
    pub(super) fn is_boundary(&self, offset: Offset) -> bool {
        offset == self.log_start || self.log.is_boundary(offset)
    }
}
