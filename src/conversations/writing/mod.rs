//! Writes that wait at the same moment are done together: the statements of many requests in one transaction.
//!
//! ```text
//! create ─┐
//! add ────┼─▶ group ─▶ locks that are free ─▶ lots: one statement for many requests ─▶ commit, answers
//! append ─┘                └─ not free ─▶ alone: waits for the lock
//! ```
//!
//! A conversation is always of the same line (see [`crate::db::BatchExecutor`]), so groups of one node do not meet in one. Where
//! somebody else holds one, its requests leave the group and each waits by itself: nobody else waits for them.

mod rounds;
mod store;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::ConversationsError;
use super::messages::{Key, NewMessage};
use super::model::{Conversation, Metadata, Micros};
use super::pieces::{Piece, Written};
use crate::db::{BatchExecutor, BatchWork, NumberedShard, Outcomes, Overloaded};
use rounds::{Once, Stage, Step};
pub(super) use store::{Patience, WriteStore};

/// What a message counts for beside its content and its metadata.
const MESSAGE_BYTES: usize = 256;

/// A conversation that is to be made.
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
    pub(super) key: Option<Key>,
    pub(super) messages: Vec<NewMessage>,
    /// One for each message.
    pub(super) ids: Vec<Uuid>,
}

/// A piece for a message.
#[derive(Debug)]
pub(super) struct Growth {
    pub(super) conversation: Uuid,
    pub(super) owner: Option<Uuid>,
    pub(super) message: Uuid,
    pub(super) piece: Piece,
}

/// What is to be written.
#[derive(Debug, Clone)]
pub(super) enum Write {
    /// A conversation is made.
    Create(Arc<Creation>),
    /// Messages are added.
    Add(Arc<Addition>),
    /// A piece is added.
    Append(Arc<Growth>),
}

/// What became of an [`Addition`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entered {
    /// Its messages are there, from this time on.
    Added(Micros),
    /// Its key was known.
    Known {
        /// The hash that came with the key.
        hash: Vec<u8>,
        /// The ids that were given then.
        ids: Vec<Uuid>,
        /// The time of the first of them.
        first: Micros,
    },
}

/// What became of a write.
#[derive(Debug, Clone)]
pub(super) enum Done {
    /// The conversation is made.
    Created(Conversation),
    /// The messages are there.
    Entered(Entered),
    /// The piece came.
    Written(Written),
    /// There is no such conversation or message.
    NotFound,
    /// Somebody holds the conversation.
    Held,
}

impl Write {
    /// The conversation, by whose line it goes.
    fn conversation(&self) -> Uuid {
        match self {
            Self::Create(new) => new.id,
            Self::Add(addition) => addition.conversation,
            Self::Append(growth) => growth.conversation,
        }
    }

    /// What it counts for while it waits.
    fn bytes(&self) -> usize {
        match self {
            Self::Create(new) => new.title.len() + new.metadata.as_str().len(),
            Self::Append(growth) => growth.piece.content.len(),
            Self::Add(addition) => {
                let bytes = |message: &NewMessage| {
                    let extra = message.said.extra.as_ref().map_or(0, |extra| extra.as_str().len());
                    MESSAGE_BYTES + message.said.content.len() + extra + message.metadata.as_str().len()
                };
                addition.messages.iter().map(bytes).sum()
            }
        }
    }

    fn step(&self) -> Step<'_> {
        let (stage, once) = match self {
            Self::Create(_) => (Stage::Create, None),
            Self::Add(addition) => (Stage::Add, addition.key.as_ref().map(|key| Once::Key(&key.text))),
            Self::Append(growth) => {
                let stage = if growth.piece.done { Stage::Finish } else { Stage::Append };
                (stage, Some(Once::Message(growth.message)))
            }
        };
        Step { conversation: self.conversation(), stage, once }
    }
}

/// Writes groups.
struct Writes(WriteStore);

impl BatchWork for Writes {
    type Shard = NumberedShard;
    type Request = Write;
    type Answer = Done;
    type Error = ConversationsError;

    // Larger ones are hardly cheaper for each, and take above 100 ms under load.
    const MAX_REQUESTS: usize = 64;

    async fn run(&self, _line: &NumberedShard, jobs: &[Write]) -> Outcomes<Self> {
        Ok(self.0.write(jobs, Patience::None).await?.into_iter().map(Ok).collect())
    }
}

/// What is bounded.
#[derive(Debug, Clone, Copy)]
pub(super) struct WriteLimits {
    /// Groups at once.
    pub(super) turns: usize,
    /// Bytes that wait.
    pub(super) queue_bytes: usize,
    /// How long one waits for its turn.
    pub(super) wait: Duration,
}

/// The way to write.
#[derive(Debug)]
pub(super) struct Writing {
    group: BatchExecutor<Writes>,
    lines: Vec<Arc<NumberedShard>>,
    /// For what somebody holds.
    alone: WriteStore,
    queue_bytes: usize,
}

impl Writing {
    /// Groups over `grouped`, and `alone` for what has to wait for somebody.
    pub(super) fn new(
        grouped: WriteStore,
        alone: WriteStore,
        limits: WriteLimits,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let WriteLimits { turns, queue_bytes, wait } = limits;
        let (group, grouping) = BatchExecutor::new(Writes(grouped), turns, queue_bytes, wait);
        let lines = NumberedShard::all(turns);
        (Self { group, lines, alone, queue_bytes }, grouping)
    }

    /// Writes, and answers after the commit.
    ///
    /// # Errors
    ///
    /// [`ConversationsError`].
    pub(super) async fn write(&self, write: Write) -> Result<Done, ConversationsError> {
        let number = write.conversation().as_u128() % self.lines.len().max(1) as u128;
        let line = self.lines.get(number as usize).ok_or(Overloaded)?;
        let bytes = write.bytes().min(self.queue_bytes);
        match self.group.execute(Arc::clone(line), write.clone(), bytes).await? {
            Done::Held => {
                let done = self.alone.write(&[write], Patience::Lock).await?;
                Ok(done.into_iter().next().unwrap_or(Done::NotFound))
            }
            done => Ok(done),
        }
    }
}
