//! Retention: the kept start of streams moves on, and what is before it is removed, but for what living forks share.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::store::UpkeepStore;
use crate::streams::StreamId;
use crate::streams::postgres::heads::KnownStreams;
use crate::supervisor::{Next, Step, StepError};

/// The interval between two steps.
const INTERVAL: Duration = Duration::from_secs(2);
/// Streams of one step, in turn.
const STREAMS: usize = 500;
/// Chunks of a stream that are looked at, or removed, at once.
const CHUNKS: i64 = 1_000;

/// Moves kept starts.
#[derive(Debug)]
pub(in crate::streams::postgres) struct RetentionTask {
    known: Arc<KnownStreams>,
    store: UpkeepStore,
    /// Streams of which a part is kept; `None`: they were not looked up yet.
    streams: Option<BTreeSet<StreamId>>,
    /// The last one of the last step.
    last: StreamId,
}

impl RetentionTask {
    /// The interval of its steps.
    pub(in crate::streams::postgres) const INTERVAL: Duration = INTERVAL;

    pub(in crate::streams::postgres) fn new(known: &Arc<KnownStreams>, store: UpkeepStore) -> Self {
        Self { known: Arc::clone(known), store, streams: None, last: StreamId(0) }
    }
}

impl Step for RetentionTask {
    async fn step(&mut self) -> Result<Next, StepError> {
        let streams = match &mut self.streams {
            Some(streams) => streams,
            None => self.streams.insert(self.store.retained().await?),
        };
        streams.extend(self.known.take_retained());
        let behind = streams.iter().copied().filter(|id| *id > self.last);
        let before = streams.iter().copied().filter(|id| *id <= self.last);
        let turn: Vec<StreamId> = behind.chain(before).take(STREAMS).collect();
        for id in turn {
            self.last = id;
            loop {
                let Some(has_moved) = self.store.retain(id, CHUNKS).await? else {
                    streams.remove(&id);
                    break;
                };
                if !has_moved {
                    break;
                }
                while self.store.drop_chunks(id, CHUNKS).await? == CHUNKS as usize {}
            }
        }
        Ok(Next::Interval)
    }
}
