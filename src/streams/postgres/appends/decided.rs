//! Decisions on a batch of appends, with the rows of their streams locked.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::DecidedAppend;
use crate::streams::append::{self, AppendDecision, AppendState};
use crate::streams::postgres::chunks::Chunk;
use crate::streams::postgres::heads::{Status, Stream};
use crate::streams::{AppendBody, Appended, Offset, Producer, ProducerState, StreamError, StreamPath};

/// The outcome of an append.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    Done(Result<Appended, StreamError>),
    /// Something else has locked the stream.
    Held,
}

/// A stream whose row is locked.
#[derive(Debug)]
pub(super) struct LockedStream {
    pub(super) stream: Stream,
    pub(super) seq: Option<Bytes>,
    pub(super) closed_by: Option<Producer>,
}

/// The state of a batch's streams before it.
#[derive(Debug, Default)]
pub(super) struct Before {
    pub(super) locked: HashMap<StreamPath, LockedStream>,
    /// Paths at which there are streams, locked or not.
    pub(super) existing: HashSet<StreamPath>,
    pub(super) producers: HashMap<(StreamPath, Arc<str>), ProducerState>,
}

/// A stream that the batch changes.
#[derive(Debug)]
pub(super) struct ChangedStream {
    pub(super) stream: Arc<Stream>,
    pub(super) tail: Offset,
    pub(super) closed: bool,
    pub(super) seq: Option<Bytes>,
    pub(super) closed_by: Option<Producer>,
    /// Its appends in one chunk; `None`: it is only closed.
    pub(super) chunk: Option<Chunk>,
    /// The new states of its producers.
    pub(super) producers: BTreeMap<Arc<str>, ProducerState>,
}

/// The decisions on a batch.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    pub(super) outcomes: Vec<Outcome>,
    /// In the order of their ids.
    pub(super) changed: Vec<ChangedStream>,
}

/// A stream while the batch is decided on.
struct Current {
    changed: ChangedStream,
    bodies: Vec<AppendBody>,
    is_changed: bool,
}

impl Decisions {
    /// Decides on the appends, one after the other.
    pub(super) fn on(requests: &[Arc<DecidedAppend>], mut before: Before) -> Self {
        let mut current: HashMap<StreamPath, Result<Current, StreamError>> = HashMap::new();
        let mut outcomes = Vec::with_capacity(requests.len());
        for request in requests {
            let path = &request.path;
            if !current.contains_key(path) {
                let Some(locked) = before.locked.remove(path) else {
                    outcomes.push(match before.existing.contains(path) {
                        true => Outcome::Held,
                        false => Outcome::Done(Err(StreamError::NotFound)),
                    });
                    continue;
                };
                current.insert(path.clone(), Current::of(locked));
            }
            let outcome = match current.get_mut(path) {
                Some(Ok(stream)) => stream.append(&request.append, &before),
                Some(Err(error)) => Err(error.clone()),
                None => Err(StreamError::NotFound),
            };
            outcomes.push(Outcome::Done(outcome));
        }
        let changed = current.into_values().filter_map(Result::ok).filter(|stream| stream.is_changed);
        let mut changed: Vec<ChangedStream> = changed.map(Current::end).collect();
        changed.sort_unstable_by_key(|changed| changed.stream.head.id);
        Self { outcomes, changed }
    }
}

impl Current {
    fn of(locked: LockedStream) -> Result<Self, StreamError> {
        let LockedStream { stream, seq, closed_by } = locked;
        match stream.status {
            Status::Living => {}
            Status::Kept => return Err(StreamError::Gone),
            Status::Ended => return Err(StreamError::NotFound),
        }
        let (tail, closed, stream) = (stream.head.tail, stream.head.closed, Arc::new(stream));
        let producers = BTreeMap::new();
        let changed = ChangedStream { stream, tail, closed, seq, closed_by, chunk: None, producers };
        Ok(Self { changed, bodies: Vec::new(), is_changed: false })
    }

    fn append(&mut self, append: &crate::streams::Append, before: &Before) -> Result<Appended, StreamError> {
        let changed = &mut self.changed;
        let producer = append.producer.as_ref().and_then(|producer| {
            let known = changed.producers.get(&producer.id).copied();
            let key = || (changed.stream.path.clone(), Arc::clone(&producer.id));
            known.or_else(|| before.producers.get(&key()).copied())
        });
        let state = AppendState {
            content_type: &changed.stream.head.content_type,
            tail: changed.tail,
            closed: changed.closed,
            closed_by: changed.closed_by.as_ref(),
            seq: changed.seq.as_deref(),
            producer,
        };
        match append::decide(&state, append)? {
            AppendDecision::Duplicate { producer } => {
                Ok(Appended { next: changed.tail, closed: changed.closed, producer, is_duplicate: true })
            }
            AppendDecision::Accept { next, producer, closes } => {
                self.is_changed = true;
                changed.tail = next;
                changed.closed = closes;
                if let (Some(state), Some(request)) = (producer, &append.producer) {
                    changed.producers.insert(Arc::clone(&request.id), state);
                }
                if closes {
                    changed.closed_by.clone_from(&append.producer);
                }
                if let Some(seq) = &append.seq {
                    changed.seq = Some(seq.clone());
                }
                self.bodies.extend(append.body.clone());
                Ok(Appended { next, closed: closes, producer, is_duplicate: false })
            }
        }
    }

    fn end(self) -> ChangedStream {
        let Self { mut changed, bodies, .. } = self;
        if !bodies.is_empty() {
            let first = changed.stream.head.tail;
            changed.chunk = Some(Chunk::of_appends(first, &bodies.iter().collect::<Vec<_>>()));
        }
        changed
    }
}
