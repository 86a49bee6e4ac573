//! The state of streams: verified reads, and what this node knows.
//!
//! A verified read has to include everything that any node acknowledged before it. Reads that wait at the same time share one statement, which
//! begins after all of them arrived; of streams that several of them want it reads the row once.

mod known;
mod store;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::db::{BatchExecutor, BatchWork, NumberedShard, Outcomes};
use crate::streams::{Offset, StreamError, StreamHead, StreamId, StreamPath};
pub(super) use known::{KnownStream, KnownStreams, Segment};
pub(super) use store::{COLUMNS, HEAD, HeadStore, stream};

/// Bytes of memory that a waiting read counts for.
const READ_BYTES: usize = 1024;

/// Whether a stream can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// It can.
    Living,
    /// It was deleted or has expired, and is kept for its forks.
    Kept,
    /// It was deleted or has expired.
    Ended,
}

/// The part of a stream that it shares with the one that it was forked from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SharedPart {
    /// The source.
    pub(super) source: StreamId,
    /// The end of the shared part.
    pub(super) end: Offset,
}

/// A stream, as Postgres has it.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    pub(super) path: StreamPath,
    pub(super) status: Status,
    pub(super) head: StreamHead,
    /// `None`: it is no fork.
    pub(super) shared: Option<SharedPart>,
}

/// Verified reads.
pub(super) struct HeadReads {
    executor: BatchExecutor<HeadWork>,
    shard: Arc<NumberedShard>,
}

impl std::fmt::Debug for HeadReads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeadReads").finish_non_exhaustive()
    }
}

impl HeadReads {
    /// Verified reads and their task. Waiting ones may hold `budget` bytes, and wait up to `wait`.
    pub(super) fn new(
        store: HeadStore,
        budget: usize,
        wait: Duration,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (executor, task) = BatchExecutor::new(HeadWork(store), 1, budget, wait);
        (Self { executor, shard: NumberedShard::single() }, task)
    }

    /// The stream at a path, with everything that was acknowledged before the call.
    pub(super) async fn get(&self, path: &StreamPath) -> Result<Option<Arc<Stream>>, StreamError> {
        self.executor.execute(Arc::clone(&self.shard), path.clone(), READ_BYTES).await
    }
}

struct HeadWork(HeadStore);

impl BatchWork for HeadWork {
    type Shard = NumberedShard;
    type Request = StreamPath;
    type Answer = Option<Arc<Stream>>;
    type Error = StreamError;

    const MAX_REQUESTS: usize = 512;

    async fn run(&self, _shard: &NumberedShard, requests: &[StreamPath]) -> Outcomes<Self> {
        let (mut paths, mut places): (Vec<&str>, HashMap<&str, usize>) = Default::default();
        let wanted: Vec<usize> = requests
            .iter()
            .map(|path| {
                *places.entry(path.as_str()).or_insert_with(|| {
                    paths.push(path.as_str());
                    paths.len() - 1
                })
            })
            .collect();
        let streams = self.0.read(&paths).await?;
        Ok(wanted.into_iter().map(|place| Ok(streams.get(place).cloned().flatten())).collect())
    }
}
