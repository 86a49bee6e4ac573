//! The merging of small chunks: a lone writer makes a row for each of its appends, and a reader of many rows is slow.
//!
//! Chunks behind the tail are merged some time after their commit, when no outcome of a commit is asked for by them any more. The others stay, so a
//! writer's rows are written twice.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;

use super::store::{SmallChunk, UpkeepStore};
use crate::streams::postgres::chunks::Chunk;
use crate::streams::{Offset, StreamId};
use crate::supervisor::{Next, Step, StepError};

/// The interval between two rounds.
const INTERVAL: Duration = Duration::from_secs(5);
/// Chunks of a stream since its last merge that are worth a merge.
const MIN_CHUNKS: usize = 32;
/// Bytes of a merged chunk, about.
const MERGED_BYTES: usize = 64 * 1024;
/// Chunks that are merged in one transaction.
const MAX_CHUNKS: i64 = 2_000;
/// Streams that are remembered.
const MAX_STREAMS: usize = 100_000;

/// Merges small chunks.
#[derive(Debug)]
pub(in crate::streams::postgres) struct MergeTask {
    grown: UnboundedReceiver<StreamId>,
    store: UpkeepStore,
    streams: HashMap<StreamId, Growing>,
    round: Instant,
}

/// A stream with new chunks.
#[derive(Debug)]
struct Growing {
    chunks: usize,
    /// The end of what was merged.
    merged: Offset,
    last: Instant,
}

impl MergeTask {
    pub(in crate::streams::postgres) fn new(grown: UnboundedReceiver<StreamId>, store: UpkeepStore) -> Self {
        Self { grown, store, streams: HashMap::new(), round: Instant::now() }
    }

    fn note(&mut self, id: StreamId) {
        if self.streams.len() >= MAX_STREAMS && !self.streams.contains_key(&id) {
            return;
        }
        let now = Instant::now();
        let growing =
            self.streams.entry(id).or_insert(Growing { chunks: 0, merged: Offset::START, last: now });
        growing.chunks += 1;
        growing.last = now;
    }
}

/// Groups chunks that follow each other into chunks of about [`MERGED_BYTES`].
fn merged(chunks: Vec<SmallChunk>) -> Vec<Vec<SmallChunk>> {
    let (mut groups, mut group, mut bytes): (Vec<Vec<SmallChunk>>, Vec<SmallChunk>, usize) =
        (Vec::new(), Vec::new(), 0);
    for small in chunks {
        let follows = group.last().is_none_or(|last| last.chunk.next == small.chunk.first);
        let length =
            small.chunk.next.0 - group.first().map_or(small.chunk.first, |first| first.chunk.first).0;
        if !follows || bytes + small.chunk.bytes.len() > MERGED_BYTES || length > Chunk::MAX_LENGTH {
            groups.push(std::mem::take(&mut group));
            bytes = 0;
        }
        bytes += small.chunk.bytes.len();
        group.push(small);
    }
    groups.push(group);
    groups.retain(|group| group.len() > 1);
    groups
}

impl SmallChunk {
    /// One chunk of several, with the times of their appends.
    pub(super) fn merged(group: &[Self]) -> Option<(Chunk, Vec<i64>)> {
        let chunks: Vec<Chunk> = group.iter().map(|small| small.chunk.clone()).collect();
        let times = group.iter().flat_map(Self::times).collect();
        Some((Chunk::merged(&chunks)?, times))
    }

    /// The time of each of its appends, in microseconds of Unix time.
    fn times(&self) -> Vec<i64> {
        let appends = self.chunk.append_ends.as_ref().map_or(1, |ends| ends.len());
        if self.times_us.len() == appends { self.times_us.clone() } else { vec![self.at_us; appends] }
    }
}

impl Step for MergeTask {
    async fn step(&mut self) -> Result<Next, StepError> {
        // Without new chunks there is nothing to do, but for those that were too young.
        let next = self.round + INTERVAL;
        loop {
            let grown = tokio::time::timeout_at(next.into(), self.grown.recv()).await;
            match grown {
                Ok(Some(id)) => self.note(id),
                Ok(None) => return std::future::pending().await,
                Err(_elapsed) => break,
            }
            while let Ok(id) = self.grown.try_recv() {
                self.note(id);
            }
        }
        self.round = Instant::now();
        let due: Vec<(StreamId, Offset)> = self
            .streams
            .iter()
            .filter(|(_, growing)| growing.chunks >= MIN_CHUNKS)
            .map(|(id, growing)| (*id, growing.merged))
            .collect();
        for (id, mut after) in due {
            loop {
                let begun = Instant::now();
                let (found, end) = self.store.merge(id, after, MAX_CHUNKS, merged).await?;
                if found > 0 {
                    // Appends come first.
                    tokio::time::sleep(begun.elapsed() * 2).await;
                }
                // What waits is noted meanwhile: many streams may grow.
                while let Ok(id) = self.grown.try_recv() {
                    self.note(id);
                }
                let is_stuck = end == after;
                after = end;
                if let Some(growing) = self.streams.get_mut(&id) {
                    growing.merged = end;
                    growing.chunks = growing.chunks.saturating_sub(found);
                }
                if is_stuck || found < MAX_CHUNKS as usize {
                    break;
                }
            }
        }
        let is_idle =
            |growing: &Growing| growing.chunks < MIN_CHUNKS && growing.last.elapsed() > 12 * INTERVAL;
        self.streams.retain(|_, growing| !is_idle(growing));
        Ok(Next::Interval)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::streams::AppendBody;

    fn small(first: u64, length: usize) -> SmallChunk {
        let body = AppendBody::of_bytes(Bytes::from(vec![b'x'; length])).unwrap();
        let chunk = Chunk::of_appends(Offset(first), &[&body]);
        SmallChunk { chunk, at_us: first as i64, times_us: Vec::new() }
    }

    #[test]
    fn chunks_that_follow_each_other_are_merged_up_to_a_size_with_their_times() {
        let groups = merged(vec![small(0, 2), small(2, 3), small(9, 1), small(10, 70_000), small(70_010, 4)]);
        let firsts: Vec<Vec<u64>> =
            groups.iter().map(|group| group.iter().map(|small| small.chunk.first.0).collect()).collect();
        assert_eq!(firsts, [[0, 2]]);
        let (chunk, times) = SmallChunk::merged(&groups[0]).unwrap();
        assert_eq!((chunk.first, chunk.next, times.clone()), (Offset(0), Offset(5), vec![0, 2]));
        let twice = SmallChunk { chunk, at_us: 0, times_us: times };
        assert_eq!(SmallChunk::merged(&[twice, small(5, 1)]).unwrap().1, [0, 2, 5]);
    }
}
