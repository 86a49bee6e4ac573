//! What follows a commit, behind the answers: the cache, the watches, the listeners, and the other nodes.

use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::chunks::{Chunk, ChunkCache};
use super::heads::KnownStreams;
use crate::streams::{
    ContentType, Listeners, Offset, StreamEvent, StreamEventKind, StreamId, StreamPath, Watches,
};
use crate::supervisor::{Next, Step, StepError};
use crate::time::Micros;

/// A change of a stream that was committed here.
#[derive(Debug)]
pub(super) struct Committed {
    pub(super) path: StreamPath,
    pub(super) id: StreamId,
    pub(super) tail: Offset,
    /// As it was known with the change.
    pub(super) generation: u64,
    pub(super) kind: CommittedKind,
}

/// Its kind.
#[derive(Debug)]
pub(super) enum CommittedKind {
    Created { content_type: ContentType, at: Micros, start: Offset, chunk: Option<Chunk> },
    Appended(Chunk),
    Closed,
    Deleted,
}

/// Hands changes on. They are few bytes, and shared ones with requests that were bounded; the task takes them at once.
#[derive(Debug, Clone)]
pub(super) struct FanOut(UnboundedSender<Vec<Committed>>);

impl FanOut {
    /// The handle, and the end from which the task takes.
    pub(super) fn new() -> (Self, UnboundedReceiver<Vec<Committed>>) {
        let (sender, receiver) = unbounded_channel();
        (Self(sender), receiver)
    }

    /// Hands on the changes of one commit.
    pub(super) fn send(&self, committed: Vec<Committed>) {
        if !committed.is_empty() {
            let _service_ends = self.0.send(committed);
        }
    }
}

/// Takes the changes.
#[derive(Debug)]
pub(super) struct FanOutTask {
    pub(super) changes: UnboundedReceiver<Vec<Committed>>,
    pub(super) cache: Arc<ChunkCache>,
    pub(super) known: Arc<KnownStreams>,
    pub(super) watches: Watches,
    pub(super) listeners: Arc<Listeners>,
    /// For other nodes: the streams that changed.
    pub(super) elsewhere: UnboundedSender<StreamPath>,
    /// For the merging of small chunks.
    pub(super) grown: UnboundedSender<StreamId>,
}

impl Step for FanOutTask {
    async fn step(&mut self) -> Result<Next, StepError> {
        let Some(committed) = self.changes.recv().await else {
            // The store is gone.
            return std::future::pending().await;
        };
        for Committed { path, id, tail, generation, kind } in committed {
            let kind = match kind {
                CommittedKind::Appended(chunk) => {
                    self.cache.push(id, generation, chunk);
                    let _upkeep_is_gone = self.grown.send(id);
                    StreamEventKind::Appended
                }
                CommittedKind::Created { content_type, at, start, chunk } => {
                    if let Some(chunk) = chunk {
                        self.cache.push(id, generation, chunk);
                    }
                    StreamEventKind::Created { content_type, at, start }
                }
                CommittedKind::Closed => StreamEventKind::Closed,
                CommittedKind::Deleted => {
                    self.cache.remove(id);
                    self.known.forget(&path, Some(id));
                    StreamEventKind::Deleted
                }
            };
            self.watches.wake(&path);
            self.listeners.report(|| StreamEvent { path: path.clone(), id, tail, kind });
            let _nobody_writes = self.elsewhere.send(path);
        }
        Ok(Next::Interval)
    }
}
