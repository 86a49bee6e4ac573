//! Where the writer's batches come from: the queue itself, or the journal behind it.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backlog::{Backlog, Portion};
use super::commit_waiter::{Outcome, WakeBatch};
use super::copy_batch::{CopyBatch, Kind, Origin};
use super::journal::Piece;
use super::occupancy::Size;
use super::queue::{self, Queue};
use super::status::{WriterState, WriterStatus};

/// A source of batches.
#[derive(Debug, Clone)]
pub enum Source {
    /// Without a journal.
    Queue(Arc<Queue>),
    /// With one, and where to say that it cannot be read.
    Journal(Arc<Backlog>, Arc<WriterStatus>),
}

impl Source {
    /// Waits until what waits reaches `mark` or nothing more comes; false if `deadline` came first.
    pub(super) async fn wait_for(&self, mark: Size, deadline: Option<Instant>) -> bool {
        match self {
            Self::Queue(queue) => queue.wait_for(mark, deadline).await,
            Self::Journal(backlog, _) => backlog.wait_for(mark, deadline).await,
        }
    }

    /// Whether nothing more comes.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Queue(queue) => queue.is_closed(),
            Self::Journal(backlog, _) => backlog.is_closed(),
        }
    }

    /// What waits to be taken.
    pub fn waiting(&self) -> Size {
        match self {
            Self::Queue(queue) => queue.waiting(),
            Self::Journal(backlog, _) => backlog.waiting(),
        }
    }

    /// Takes what waits, about `max_bytes` of it; `None` if nothing does.
    pub(super) async fn take(&self, max_bytes: u64) -> Option<Batch> {
        match self {
            Self::Queue(queue) => {
                let batch = queue.take(max_bytes);
                (batch.load().events > 0).then_some(Batch::Queued(batch))
            }
            Self::Journal(backlog, status) => match backlog.take(max_bytes).await {
                Ok(portion) => portion.map(|portion| Batch::Journaled(portion, Arc::clone(backlog))),
                Err(error) => {
                    let error = crate::db::chain(&error);
                    if status.failed(WriterState::Halted, format!("the journal cannot be read: {error}")) {
                        tracing::error!(error, "the journal cannot be read; trying again each second");
                    }
                    tokio::time::sleep(UNREADABLE_DELAY).await;
                    None
                }
            },
        }
    }
}

/// Between two tries to read a journal that the system does not let us read.
const UNREADABLE_DELAY: Duration = Duration::from_secs(1);

/// What one lane works on.
#[derive(Debug)]
pub enum Batch {
    /// Parcels; their room in the queue is given back when they are dropped.
    Queued(queue::Batch),
    /// A part of the journal.
    Journaled(Portion, Arc<Backlog>),
}

impl Batch {
    /// The lot that all of it makes.
    pub fn lot(&self) -> CopyBatch<'_> {
        match self {
            Self::Queued(batch) => {
                let mut keys = Vec::new();
                let mut place = 0;
                for queued in batch.batches() {
                    if let Some(waiter) = &queued.waiter {
                        keys.extend(waiter.keys.iter().map(|(index, key)| (place + u64::from(*index), *key)));
                    }
                    place += queued.load().events;
                }
                CopyBatch::new(Kind::Events, place, None, keys, batch.chunks().collect())
            }
            Self::Journaled(portion, _) => {
                let range = portion.range();
                let (first, events) = (range.start, range.end - range.start);
                let origin = Some(Origin { journal: portion.journal, first });
                match &portion.piece {
                    Piece::Damaged { .. } => {
                        CopyBatch::new(Kind::Damage, events, origin, Vec::new(), Vec::new())
                    }
                    Piece::Rows(chunk) => {
                        let keys = chunk.keys.iter().map(|(sequence, key)| (sequence - first, *key));
                        let chunks = chunk.chunks.iter();
                        let chunks = chunks.map(|range| chunk.buffer.get(range.clone()).unwrap_or_default());
                        CopyBatch::new(Kind::Events, events, origin, keys.collect(), chunks.collect())
                    }
                }
            }
        }
    }

    /// Events are settled: runs of places, in order, each with its outcome.
    pub fn settled(&self, outcomes: &[(Range<u64>, Outcome<'_>)]) {
        match self {
            Self::Journaled(portion, backlog) => {
                let first = portion.range().start;
                for (places, outcome) in outcomes {
                    backlog.settled(portion.journal, first + places.start..first + places.end, *outcome);
                }
            }
            Self::Queued(batch) => {
                let mut wakeups = WakeBatch::default();
                let mut outcomes = outcomes.iter().peekable();
                let mut start = 0;
                for queued in batch.batches() {
                    let end = start + queued.load().events;
                    while let Some((places, outcome)) = outcomes.peek() {
                        let (from, until) = (places.start.max(start), places.end.min(end));
                        if let Some(waiter) = &queued.waiter
                            && from < until
                        {
                            waiter.settle(from - start, until - from, *outcome, &mut wakeups);
                        }
                        if places.end > end {
                            break;
                        }
                        outcomes.next();
                    }
                    start = end;
                }
            }
        }
    }
}
