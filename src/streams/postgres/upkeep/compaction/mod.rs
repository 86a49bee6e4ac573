//! Compaction by key: passes over streams that ask for it, from the last old message to the first.
//!
//! A pass reads pages of chunks without a lock. A page with messages that go is written in one transaction, which locks the stream, sees that the chunks are as
//! they were read and that no fork has come to share them, and begins a new generation. So a pass that was overtaken by a fork, a merge or another node
//! changes nothing, and begins anew later.

mod store;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::store::{SmallChunk, UpkeepStore};
use crate::streams::compaction::{CompactionPass, is_worth};
use crate::streams::postgres::chunks::Chunk;
use crate::streams::postgres::heads::KnownStreams;
use crate::streams::{Offset, StreamId};
use crate::supervisor::{Next, Step, StepError};
use crate::time::Micros;
use store::Plan;

/// The interval between two steps.
const INTERVAL: Duration = Duration::from_secs(1);
/// Streams of one step, in turn.
const STREAMS: usize = 500;
/// Bytes of the chunks that are made of several, about.
const MERGED_BYTES: usize = 64 * 1024;

/// Compacts streams.
#[derive(Debug)]
pub(in crate::streams::postgres) struct CompactionTask {
    known: Arc<KnownStreams>,
    store: UpkeepStore,
    /// The age from which messages are compacted.
    after: Duration,
    /// Streams that are compacted; `None`: they were not looked up yet.
    streams: Option<BTreeSet<StreamId>>,
    /// The last one of the last step.
    last: StreamId,
    /// Up to where their chunks are known to be old.
    old_to: HashMap<StreamId, Offset>,
}

impl CompactionTask {
    /// The interval of its steps.
    pub(in crate::streams::postgres) const INTERVAL: Duration = INTERVAL;

    pub(in crate::streams::postgres) fn new(
        known: &Arc<KnownStreams>,
        store: UpkeepStore,
        after: Duration,
    ) -> Self {
        let (streams, last, old_to) = (None, StreamId(0), HashMap::new());
        Self { known: Arc::clone(known), store, after, streams, last, old_to }
    }

    /// Compacts a stream as far as it is worth it. False: the stream is gone.
    async fn compact(&mut self, id: StreamId, before: Micros) -> Result<bool, StepError> {
        loop {
            let known = self.old_to.get(&id).copied().unwrap_or(Offset::START);
            let Some(plan) = self.store.compaction_plan(id, known, before).await? else { return Ok(false) };
            let Plan { first, compacted_to, left_bytes, old_to } = plan;
            let has_more = old_to.is_some();
            let end = old_to.unwrap_or(known).max(known);
            self.old_to.insert(id, end);
            // A fork may have come to share what was left.
            let left_bytes = if first < compacted_to { left_bytes } else { 0 };
            if is_worth(end.0.saturating_sub(compacted_to.max(first).0), left_bytes) {
                self.pass(id, first, end).await?;
                return Ok(true);
            }
            if !has_more {
                return Ok(true);
            }
        }
    }

    /// One pass over a stream, between two offsets.
    async fn pass(&mut self, id: StreamId, first: Offset, end: Offset) -> Result<(), StepError> {
        let Some(mut generation) = self.store.compaction_claim(id).await? else { return Ok(()) };
        let (mut pass, mut at, mut left_bytes) = (CompactionPass::default(), end, 0);
        while at > first {
            let begun = Instant::now();
            let page = self.store.compaction_page(id, first, at).await?;
            let Some(next) = page.first().map(|chunk| chunk.chunk.first) else { break };
            let work = move || {
                let compacted = compacted(&page, first, &mut pass);
                (page, compacted, pass)
            };
            let (page, compacted);
            (page, compacted, pass) =
                crate::offload::run(work).await.map_err(|_| StepError::new("a compaction panicked"))?;
            left_bytes += compacted.iter().map(|chunk| chunk.chunk.bytes.len() as u64).sum::<u64>();
            let replacements = replacements(&page, &compacted);
            if !replacements.is_empty() {
                let replaced = self.store.compact(id, generation, first, &page, &replacements).await?;
                // Something has changed meanwhile. The claim ends by itself.
                let Some(next) = replaced else { return Ok(()) };
                generation = next;
            }
            at = next;
            // Requests come first.
            tokio::time::sleep(begun.elapsed()).await;
        }
        Ok(self.store.compaction_end(id, generation, end, left_bytes).await?)
    }
}

/// The chunks of a page, in order, without the messages behind `first` that later ones replace.
fn compacted(page: &[SmallChunk], first: Offset, pass: &mut CompactionPass) -> Vec<SmallChunk> {
    let mut compacted: Vec<SmallChunk> = page
        .iter()
        .rev()
        .map(|small| {
            let mut is_kept: Vec<bool> = small
                .chunk
                .messages()
                .into_iter()
                .rev()
                .map(|(offset, json)| offset < first || !pass.removes(json))
                .collect();
            is_kept.reverse();
            match is_kept.iter().all(|is_kept| *is_kept) {
                true => small.clone(),
                false => SmallChunk { chunk: small.chunk.without(&is_kept), ..small.clone() },
            }
        })
        .collect();
    compacted.reverse();
    compacted
}

/// A chunk in the place of one or several of a page.
#[derive(Debug)]
pub(super) struct Replacement {
    /// The first and the last of them, by their number.
    pub(super) replaced: std::ops::RangeInclusive<usize>,
    pub(super) chunk: Chunk,
    /// The times of its appends, in microseconds of Unix time.
    pub(super) times: Vec<i64>,
}

/// What is to be written of a page: chunks of which messages go, each merged with those beside it.
fn replacements(page: &[SmallChunk], compacted: &[SmallChunk]) -> Vec<Replacement> {
    let changes = |number: usize| {
        let length = |chunks: &[SmallChunk]| chunks.get(number).map(|small| small.chunk.bytes.len());
        length(page) != length(compacted)
    };
    let (mut replacements, mut start) = (Vec::new(), 0);
    while let Some(first) = compacted.get(start) {
        let (mut end, mut bytes) = (start, first.chunk.bytes.len());
        while let (Some(last), Some(next)) = (compacted.get(end), compacted.get(end + 1)) {
            bytes += next.chunk.bytes.len();
            let is_long = next.chunk.next.0 - first.chunk.first.0 > Chunk::MAX_LENGTH;
            if bytes > MERGED_BYTES || is_long || last.chunk.next != next.chunk.first {
                break;
            }
            end += 1;
        }
        if (start..=end).any(changes)
            && let Some((chunk, mut times)) = compacted.get(start..=end).and_then(SmallChunk::merged)
        {
            let chunk = chunk.with_fewer_appends(&mut times);
            replacements.push(Replacement { replaced: start..=end, chunk, times });
        }
        start = end + 1;
    }
    replacements
}

impl Step for CompactionTask {
    async fn step(&mut self) -> Result<Next, StepError> {
        if self.streams.is_none() {
            self.streams = Some(self.store.compacted().await?);
        }
        let streams = self.streams.get_or_insert_default();
        streams.extend(self.known.take_compacted());
        if streams.is_empty() {
            return Ok(Next::Interval);
        }
        let behind = streams.iter().copied().filter(|id| *id > self.last);
        let before = streams.iter().copied().filter(|id| *id <= self.last);
        let turn: Vec<StreamId> = behind.chain(before).take(STREAMS).collect();
        // What is removed does not come back: both clocks have to agree.
        let now = self.store.deletion_time().await?;
        let old = now.checked_sub(self.after).map_or(Micros(0), Micros::from);
        for id in turn {
            self.last = id;
            if !self.compact(id, old).await? {
                self.old_to.remove(&id);
                self.streams.get_or_insert_default().remove(&id);
            }
        }
        Ok(Next::Interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::AppendBody;

    #[test]
    fn chunks_of_which_messages_go_are_merged_with_those_beside_them() {
        let (mut at, mut page) = (Offset::START, Vec::new());
        for (number, key) in ["a", "b", "a", "c"].iter().enumerate() {
            let text = format!(
                r#"{{"type":"t","key":"{key}","value":{number},"headers":{{"operation":"update"}}}}"#
            );
            let body = AppendBody::of_json(text.as_bytes()).unwrap().unwrap();
            let chunk = Chunk::of_appends(at, &[&body]);
            at = chunk.next;
            page.push(SmallChunk { chunk, at_us: number as i64, times_us: Vec::new() });
        }
        let left = compacted(&page, Offset::START, &mut CompactionPass::default());
        let made = replacements(&page, &left);
        assert_eq!(made.len(), 1);
        assert_eq!((&made[0].replaced, &made[0].times), (&(0..=3), &vec![0, 1, 2, 3]));
        let offsets: Vec<Offset> = made[0].chunk.messages().iter().map(|(offset, _)| *offset).collect();
        assert_eq!(offsets, page[1..].iter().map(|small| small.chunk.first).collect::<Vec<_>>());
        // What is before the first offset stays, as a fork shares it.
        let second = page[1].chunk.first;
        let left = compacted(&page, second, &mut CompactionPass::default());
        assert!(replacements(&page, &left).is_empty());
    }
}
