//! What the queue holds: events that are kept together, or not at all.

use std::sync::Arc;

use super::commit_waiter::CommitWaiter;
use super::occupancy::Size;

/// Encoded tuples, one behind the other (see [`super::row`]): one event, or a part of a batch.
#[derive(Debug)]
pub struct RowChunk {
    /// The tuples.
    pub rows: Box<[u8]>,
    /// How many they are.
    pub events: u32,
}

impl RowChunk {
    /// Its events and bytes.
    pub fn load(&self) -> Size {
        Size { events: u64::from(self.events), bytes: self.rows.len() as u64 }
    }
}

/// Events that are kept together, or not at all.
#[derive(Debug)]
pub struct QueuedBatch {
    chunks: RowChunks,
    /// What whoever sent them waits on.
    pub waiter: Option<Arc<CommitWaiter>>,
}

/// A single event, which is by far the most frequent queued, needs no list.
#[derive(Debug)]
enum RowChunks {
    One(RowChunk),
    Many(Box<[RowChunk]>),
}

impl QueuedBatch {
    /// One chunk.
    pub fn one(chunk: RowChunk, waiter: Option<Arc<CommitWaiter>>) -> Self {
        Self { chunks: RowChunks::One(chunk), waiter }
    }

    /// A whole batch.
    pub fn many(chunks: Vec<RowChunk>, waiter: Option<Arc<CommitWaiter>>) -> Self {
        Self { chunks: RowChunks::Many(chunks.into()), waiter }
    }

    /// Its events and bytes.
    pub fn load(&self) -> Size {
        total(self.chunks())
    }

    /// Its chunks, in order.
    pub fn chunks(&self) -> &[RowChunk] {
        match &self.chunks {
            RowChunks::One(chunk) => std::slice::from_ref(chunk),
            RowChunks::Many(chunks) => chunks,
        }
    }

    /// Its chunks, for their ids to be filled in.
    pub fn chunks_mut(&mut self) -> &mut [RowChunk] {
        match &mut self.chunks {
            RowChunks::One(chunk) => std::slice::from_mut(chunk),
            RowChunks::Many(chunks) => chunks,
        }
    }
}

/// Events and bytes of all `chunks`.
pub fn total(chunks: &[RowChunk]) -> Size {
    chunks.iter().fold(Size::default(), |sum, chunk| sum + chunk.load())
}
