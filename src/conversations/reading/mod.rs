//! Reads that wait at the same moment are done together: one statement of a kind for all of them.
//!
//! Each page of a group has an even share of the group's bytes. What needs more is read again, by itself, so nobody waits for
//! the large pages of others, and a group of one has all the room that a page may take.

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
pub(super) use store::{LivePage, ReadStore};

/// Groups at once.
const READERS: usize = 2;
/// What the pages of a group may take together.
const GROUP_BYTES: usize = 4 << 20;
/// Conversations that a list of a group passes over; each costs as much as one that is shown.
const MAX_PASSED_OVER: u32 = 200;

/// What is read.
#[derive(Debug, Clone)]
pub(super) enum Read {
    /// A conversation.
    Conversation { id: Uuid, owner: Option<Uuid> },
    /// A page of conversations, in the order of their last activity; words are not looked at.
    List { owner: Option<Uuid>, query: ListQuery },
    /// A page of messages.
    Messages { conversation: Uuid, owner: Option<Uuid>, query: MessageQuery },
}

/// What was found. Pages of messages have the nearest first.
#[derive(Debug)]
pub(super) enum Shown {
    Conversation(Conversation),
    List(Found<Conversation>),
    Messages(Found<Message>),
    /// There is no such conversation.
    Nothing,
    /// More than there was room for.
    TooMuch,
}

/// The room of each page, as statements are told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    bytes: i64,
    /// Whether a page that passes these bytes ends behind what passes them; otherwise it is left out.
    is_alone: bool,
}

impl Room {
    /// All the room that a page may take.
    fn alone(bytes: usize) -> Self {
        Self { bytes: i64::try_from(bytes).unwrap_or(i64::MAX), is_alone: true }
    }

    /// The room of each of so many pages.
    fn of(pages: usize, max_page_bytes: usize) -> Self {
        match pages {
            0 | 1 => Self::alone(max_page_bytes),
            pages => Self { is_alone: false, ..Self::alone(max_page_bytes.min(GROUP_BYTES / pages)) },
        }
    }
}

/// Reads groups.
struct Reads {
    store: ReadStore,
    max_page_bytes: usize,
}

impl BatchWork for Reads {
    type Shard = NumberedShard;
    type Request = Read;
    type Answer = Shown;
    type Error = ConversationsError;

    const MAX_REQUESTS: usize = 64;

    async fn run(&self, _line: &NumberedShard, jobs: &[Read]) -> Outcomes<Self> {
        let room = Room::of(jobs.len(), self.max_page_bytes);
        Ok(self.store.read(jobs, room).await?.into_iter().map(Ok).collect())
    }
}

/// The way to read.
#[derive(Debug)]
pub(super) struct Reading {
    group: BatchExecutor<Reads>,
    lines: Vec<Arc<NumberedShard>>,
    next: AtomicUsize,
    alone: ReadStore,
    max_page_bytes: usize,
}

impl Reading {
    /// Groups over `store`. What waits takes up to `queue_bytes`, and waits no longer than `wait` for its turn.
    pub(super) fn new(
        store: ReadStore,
        max_page_bytes: usize,
        queue_bytes: usize,
        wait: Duration,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let work = Reads { store: store.clone(), max_page_bytes };
        let (group, grouping) = BatchExecutor::new(work, READERS, queue_bytes, wait);
        let lines = NumberedShard::all(READERS);
        (Self { group, lines, next: AtomicUsize::new(0), alone: store, max_page_bytes }, grouping)
    }

    /// Reads.
    ///
    /// # Errors
    ///
    /// [`ConversationsError`].
    pub(super) async fn read(&self, read: Read) -> Result<Shown, ConversationsError> {
        if !read.is_long() {
            // Any line will do.
            let number = self.next.fetch_add(1, Ordering::Relaxed) % self.lines.len().max(1);
            let line = self.lines.get(number).ok_or(Overloaded)?;
            match self.group.execute(Arc::clone(line), read.clone(), 0).await? {
                Shown::TooMuch => {}
                shown => return Ok(shown),
            }
        }
        let shown = self.alone.read(&[read], Room::alone(self.max_page_bytes)).await?;
        Ok(shown.into_iter().next().unwrap_or(Shown::Nothing))
    }
}

impl Read {
    /// Whether others would wait for it for long.
    fn is_long(&self) -> bool {
        matches!(self, Self::List { query, .. } if query.offset > MAX_PASSED_OVER)
    }
}
