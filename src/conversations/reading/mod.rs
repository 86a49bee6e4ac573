//! Batched reads: one statement a kind for all reads that wait at the same moment.
//!
//! Each page of a batch has an even share of the batch's bytes. A larger page is read again, alone, so no read waits for the large pages of
//! others, and a batch of one read has the bytes of a whole page.

mod store;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use uuid::Uuid;

use super::ConversationsError;
use super::list::{ListQuery, MessageQuery};
use super::model::{Conversation, Message};
use super::store::Found;
use crate::db::{BatchExecutor, BatchWork, NumberedShard, Outcomes, Overloaded};
use crate::realtime::Position;
pub(super) use store::{LivePage, ReadStore};

/// Batches at once.
const READERS: usize = 2;
/// The bytes of all pages of a batch.
const BATCH_BYTES: usize = 4 << 20;
/// The most conversations that a list in a batch skips; each costs as much as a listed one.
const MAX_SKIPPED: u32 = 200;

/// A read.
#[derive(Debug, Clone)]
pub(super) enum ReadRequest {
    /// A conversation.
    Conversation { id: Uuid, owner: Option<Uuid> },
    /// A page of conversations, in the order of their last activity. The query's words are ignored.
    List { owner: Option<Uuid>, query: ListQuery },
    /// A page of messages.
    Messages { conversation: Uuid, owner: Option<Uuid>, query: MessageQuery },
}

/// The outcome of a read, and the position of the snapshot that it was read in.
pub(super) type PositionedResponse = (ReadResponse, Position);

/// The outcome of a read. Pages of messages have the nearest first.
#[derive(Debug)]
pub(super) enum ReadResponse {
    Conversation(Conversation),
    List(Found<Conversation>),
    Messages(Found<Message>),
    /// There is no such conversation.
    NotFound,
    /// The page exceeds its budget.
    TooLarge,
}

/// The bytes of each page, as parameters of the statements.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageBudget {
    bytes: i64,
    /// Whether a page that exceeds these bytes ends behind the entry that does; otherwise it is left out.
    is_alone: bool,
}

impl PageBudget {
    /// The bytes of a whole page.
    fn alone(bytes: usize) -> Self {
        Self { bytes: i64::try_from(bytes).unwrap_or(i64::MAX), is_alone: true }
    }

    /// The share of each of `pages`.
    fn of(pages: usize, max_page_bytes: usize) -> Self {
        match pages {
            0 | 1 => Self::alone(max_page_bytes),
            pages => Self { is_alone: false, ..Self::alone(max_page_bytes.min(BATCH_BYTES / pages)) },
        }
    }
}

/// Reads batches.
struct BatchReader {
    store: ReadStore,
    max_page_bytes: usize,
}

impl BatchWork for BatchReader {
    type Shard = NumberedShard;
    type Request = ReadRequest;
    type Answer = PositionedResponse;
    type Error = ConversationsError;

    const MAX_REQUESTS: usize = 64;

    async fn run(&self, _shard: &NumberedShard, requests: &[ReadRequest]) -> Outcomes<Self> {
        let budget = PageBudget::of(requests.len(), self.max_page_bytes);
        let (responses, position) = self.store.read(requests, budget).await?;
        Ok(responses.into_iter().map(|response| Ok((response, position.clone()))).collect())
    }
}

/// Reads in batches, and long or large reads alone.
#[derive(Debug)]
pub(super) struct ReadExecutor {
    batches: BatchExecutor<BatchReader>,
    shards: Vec<Arc<NumberedShard>>,
    next: AtomicUsize,
    alone: ReadStore,
    max_page_bytes: usize,
}

impl ReadExecutor {
    /// An executor over `store`, and its task. Waiting reads hold up to `queue_bytes`, and wait for their batch up to `wait`.
    pub(super) fn new(
        store: ReadStore,
        max_page_bytes: usize,
        queue_bytes: usize,
        wait: Duration,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let reader = BatchReader { store: store.clone(), max_page_bytes };
        let (batches, task) = BatchExecutor::new(reader, READERS, queue_bytes, wait);
        let shards = NumberedShard::all(READERS);
        (Self { batches, shards, next: AtomicUsize::new(0), alone: store, max_page_bytes }, task)
    }

    /// Reads.
    ///
    /// # Errors
    ///
    /// [`ConversationsError`].
    pub(super) async fn read(&self, read: ReadRequest) -> Result<PositionedResponse, ConversationsError> {
        if !read.is_long() {
            // Any shard will do.
            let number = self.next.fetch_add(1, Ordering::Relaxed) % self.shards.len().max(1);
            let shard = self.shards.get(number).ok_or(Overloaded)?;
            match self.batches.execute(Arc::clone(shard), read.clone(), 0).await? {
                (ReadResponse::TooLarge, _) => {}
                response => return Ok(response),
            }
        }
        let budget = PageBudget::alone(self.max_page_bytes);
        let (responses, position) = self.alone.read(&[read], budget).await?;
        Ok((responses.into_iter().next().unwrap_or(ReadResponse::NotFound), position))
    }
}

impl ReadRequest {
    /// Whether other reads would wait for it for long.
    fn is_long(&self) -> bool {
        matches!(self, Self::List { query, .. } if query.offset > MAX_SKIPPED)
    }
}
