//! Batched writes: the statements of all writes that wait at the same moment, in one transaction.
//!
//! ```text
//! create ─┐
//! add ────┼─▶ batch ─▶ free locks ─▶ stages: one statement for many requests ─▶ commit, responses
//! append ─┘                └─ taken lock ─▶ alone: waits for the lock
//! ```
//!
//! A conversation always belongs to the same shard (see [`crate::db::BatchExecutor`]), so batches of one node do not compete for one. The
//! requests of a conversation that is locked elsewhere leave the batch and wait alone: no other request waits for them.

mod stages;
mod store;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::ConversationsError;
use super::chunk::{AppendOutcome, MessageChunk};
use super::messages::{IdempotencyKey, NewMessage};
use super::model::{Conversation, Metadata};
use crate::db::{BatchExecutor, BatchWork, NumberedShard, Outcomes, Overloaded};
use crate::time::Micros;
use stages::{Exclusive, Stage, Step};
pub(super) use store::{Patience, WriteStore};

/// The bytes of a waiting message beside its content and its metadata.
const MESSAGE_BYTES: usize = 256;

/// A conversation that is to be created.
#[derive(Debug)]
pub(super) struct Creation {
    pub(super) id: Uuid,
    pub(super) title: String,
    pub(super) metadata: Metadata,
    pub(super) owner: Option<Uuid>,
}

/// Messages of one request.
#[derive(Debug, Clone)]
pub(super) struct Addition {
    pub(super) conversation: Uuid,
    pub(super) owner: Option<Uuid>,
    pub(super) key: Option<IdempotencyKey>,
    pub(super) messages: Vec<NewMessage>,
    /// One for each message.
    pub(super) ids: Vec<Uuid>,
}

/// A chunk that is to be appended.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) conversation: Uuid,
    pub(super) owner: Option<Uuid>,
    pub(super) message: Uuid,
    pub(super) chunk: MessageChunk,
}

/// A write.
#[derive(Debug, Clone)]
pub(super) enum WriteRequest {
    /// Creates a conversation.
    Create(Arc<Creation>),
    /// Adds messages.
    Add(Arc<Addition>),
    /// Appends a chunk.
    Append(Arc<Append>),
}

/// The outcome of an [`Addition`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AddOutcome {
    /// Its messages were added, from this time on.
    Added(Micros),
    /// Its key is known.
    Known {
        /// The hash that came with the key.
        hash: Vec<u8>,
        /// The ids that were assigned then.
        ids: Vec<Uuid>,
        /// The time of the first of them.
        first: Micros,
    },
}

/// The outcome of a write.
#[derive(Debug, Clone)]
pub(super) enum WriteResponse {
    /// The conversation.
    Created(Conversation),
    /// Of an addition.
    Added(AddOutcome),
    /// Of a chunk.
    Appended(AppendOutcome),
    /// There is no such conversation or message.
    NotFound,
    /// The conversation is locked.
    Locked,
}

impl WriteRequest {
    /// The conversation, which decides the shard.
    fn conversation(&self) -> Uuid {
        match self {
            Self::Create(new) => new.id,
            Self::Add(addition) => addition.conversation,
            Self::Append(append) => append.conversation,
        }
    }

    /// Its bytes while it waits.
    fn bytes(&self) -> usize {
        match self {
            Self::Create(new) => new.title.len() + new.metadata.as_str().len(),
            Self::Append(append) => append.chunk.content.len(),
            Self::Add(addition) => {
                let bytes = |message: &NewMessage| {
                    let extra = message.content.extra.as_ref().map_or(0, |extra| extra.as_str().len());
                    MESSAGE_BYTES + message.content.text.len() + extra + message.metadata.as_str().len()
                };
                addition.messages.iter().map(bytes).sum()
            }
        }
    }

    fn step(&self) -> Step<'_> {
        let (stage, exclusive) = match self {
            Self::Create(_) => (Stage::Create, None),
            Self::Add(addition) => (Stage::Add, addition.key.as_ref().map(|key| Exclusive::Key(&key.text))),
            Self::Append(append) => {
                let stage = if append.chunk.done { Stage::Finish } else { Stage::Append };
                (stage, Some(Exclusive::Message(append.message)))
            }
        };
        Step { conversation: self.conversation(), stage, exclusive }
    }
}

/// Writes batches.
struct BatchWriter(WriteStore);

impl BatchWork for BatchWriter {
    type Shard = NumberedShard;
    type Request = WriteRequest;
    type Answer = WriteResponse;
    type Error = ConversationsError;

    // Larger batches are hardly cheaper a request, and take above 100 ms under load.
    const MAX_REQUESTS: usize = 64;

    async fn run(&self, _shard: &NumberedShard, requests: &[WriteRequest]) -> Outcomes<Self> {
        Ok(self.0.write(requests, Patience::None).await?.into_iter().map(Ok).collect())
    }
}

/// The limits of writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct WriteLimits {
    /// Batches at once.
    pub(super) writers: usize,
    /// Bytes of waiting requests.
    pub(super) queue_bytes: usize,
    /// The longest wait for a batch.
    pub(super) wait: Duration,
}

/// Writes in batches, and to locked conversations alone.
#[derive(Debug)]
pub(super) struct WriteExecutor {
    batches: BatchExecutor<BatchWriter>,
    shards: Vec<Arc<NumberedShard>>,
    /// For locked conversations.
    alone: WriteStore,
    queue_bytes: usize,
}

impl WriteExecutor {
    /// An executor and its task. `batched` has the quota of batches, `alone` that of writes to locked conversations.
    pub(super) fn new(
        batched: WriteStore,
        alone: WriteStore,
        limits: WriteLimits,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let WriteLimits { writers, queue_bytes, wait } = limits;
        let (batches, task) = BatchExecutor::new(BatchWriter(batched), writers, queue_bytes, wait);
        let shards = NumberedShard::all(writers);
        (Self { batches, shards, alone, queue_bytes }, task)
    }

    /// Writes, and returns after the commit.
    ///
    /// # Errors
    ///
    /// [`ConversationsError`].
    pub(super) async fn write(&self, write: WriteRequest) -> Result<WriteResponse, ConversationsError> {
        let number = write.conversation().as_u128() % self.shards.len().max(1) as u128;
        let shard = self.shards.get(number as usize).ok_or(Overloaded)?;
        let bytes = write.bytes().min(self.queue_bytes);
        match self.batches.execute(Arc::clone(shard), write.clone(), bytes).await? {
            WriteResponse::Locked => {
                let responses = self.alone.write(&[write], Patience::Lock).await?;
                Ok(responses.into_iter().next().unwrap_or(WriteResponse::NotFound))
            }
            response => Ok(response),
        }
    }
}
