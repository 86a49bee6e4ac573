//! Plain appends: a body for a stream that is known, and nothing else.

use std::collections::HashMap;
use std::sync::Arc;

use super::store::AppendStore;
use crate::db::{BatchWork, NumberedShard, Outcomes};
use crate::streams::postgres::chunks::Chunk;
use crate::streams::postgres::heads::KnownStream;
use crate::streams::{AppendBody, Appended, Offset, StreamError, StreamId};

/// A plain append.
#[derive(Debug)]
pub(super) struct PlainAppend {
    pub(super) stream: Arc<KnownStream>,
    pub(super) body: AppendBody,
}

/// Its outcome.
#[derive(Debug)]
pub(super) enum PlainOutcome {
    Appended(Appended),
    /// Nothing was stored: the stream has changed, or something is in the way. It has to be decided on.
    Elsewhere,
}

/// The appends of a batch to one stream. `chunk` begins at 0 until its place is known.
#[derive(Debug)]
pub(super) struct PlainGroup {
    pub(super) stream: Arc<KnownStream>,
    pub(super) chunk: Chunk,
    /// The numbers of its requests.
    requests: Vec<usize>,
}

/// The appends of a batch by stream, in the order of their ids.
pub(super) fn groups(requests: &[PlainAppend]) -> Vec<PlainGroup> {
    let mut by_stream: HashMap<StreamId, Vec<usize>> = HashMap::new();
    for (number, request) in requests.iter().enumerate() {
        by_stream.entry(request.stream.id()).or_default().push(number);
    }
    let group = |requests_of: Vec<usize>| {
        let of = || requests_of.iter().filter_map(|number| requests.get(*number));
        let bodies: Vec<&AppendBody> = of().map(|request| &request.body).collect();
        let stream = Arc::clone(&of().next()?.stream);
        Some(PlainGroup { stream, chunk: Chunk::of_appends(Offset::START, &bodies), requests: requests_of })
    };
    let mut groups: Vec<PlainGroup> = by_stream.into_values().filter_map(group).collect();
    groups.sort_unstable_by_key(|group| group.stream.id());
    groups
}

/// The outcome of each request, where the streams' ends were at `firsts`.
pub(super) fn outcomes(
    count: usize,
    groups: &mut [PlainGroup],
    firsts: &HashMap<StreamId, Offset>,
) -> Vec<PlainOutcome> {
    let mut outcomes: Vec<PlainOutcome> =
        std::iter::repeat_with(|| PlainOutcome::Elsewhere).take(count).collect();
    for group in groups {
        let Some(first) = firsts.get(&group.stream.id()) else { continue };
        let length = group.chunk.bytes.len() as u64;
        (group.chunk.first, group.chunk.next) = (*first, Offset(first.0 + length));
        for (place, number) in group.requests.iter().enumerate() {
            let end = match &group.chunk.append_ends {
                Some(ends) => ends.get(place).map_or(length, |end| u64::from(*end)),
                None => length,
            };
            let appended =
                Appended { next: Offset(first.0 + end), closed: false, producer: None, is_duplicate: false };
            if let Some(outcome) = outcomes.get_mut(*number) {
                *outcome = PlainOutcome::Appended(appended);
            }
        }
    }
    outcomes
}

/// Stores batches of plain appends.
pub(super) struct PlainWork(pub(super) AppendStore);

impl BatchWork for PlainWork {
    type Shard = NumberedShard;
    type Request = PlainAppend;
    type Answer = PlainOutcome;
    type Error = StreamError;

    const MAX_REQUESTS: usize = 512;

    async fn run(&self, _shard: &NumberedShard, requests: &[PlainAppend]) -> Outcomes<Self> {
        Ok(self.0.append(requests).await?.into_iter().map(Ok).collect())
    }
}
