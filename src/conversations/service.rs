//! The handle that the HTTP face and imports hold.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::ConversationsError;
use super::chunk::MessageChunk;
use super::list::{CONVERSATIONS, ListQuery, MessageQuery};
use super::live::{Live, LiveCursor, LiveParts, topic};
use super::messages::{Added, IdempotencyKey, NewMessage, stored};
use super::model::{Conversation, Message, Metadata};
use super::reading::{ReadExecutor, ReadRequest, ReadResponse, ReadStore};
use super::removal::remove;
use super::search::Indexer;
use super::store::ConversationStore;
use super::writing::{
    AddOutcome, Addition, Append, Creation, WriteExecutor, WriteLimits, WriteRequest, WriteResponse,
    WriteStore,
};
use crate::config::{SubscriberLimits, limits};
use crate::db::{Database, DbError};
use crate::ingest::id::{IdMint, unix_now_us};
use crate::observe::Metrics;
use crate::paging::{Page, SortKey};
use crate::realtime::{ChangeStore, Hub, Position, Subscription};
use crate::supervisor::{Backoff, Next, Supervisor};

/// The settings of conversations.
#[derive(Debug, Clone)]
pub struct ConversationsSettings {
    /// Bytes of a message's content, however many pieces it came in.
    pub max_message_bytes: usize,
    /// Seconds that an `Idempotency-Key` is remembered.
    pub key_retention_s: u64,
    /// Bytes of reads and writes that wait for their batch.
    pub queue_bytes: usize,
    /// Batches of writes at once.
    pub writers: usize,
}

/// The database and the services that conversations use.
#[derive(Debug, Clone, Copy)]
pub struct ConversationsParts<'a> {
    /// With the quota of batched writes.
    pub commits: &'a Database,
    /// With the quota of all other statements.
    pub database: &'a Database,
    /// Delivers changes to subscribers.
    pub hub: &'a Hub,
    /// Metrics.
    pub metrics: &'a Arc<Metrics>,
    /// Runs the tasks.
    pub supervisor: &'a Supervisor,
}

/// Conversations and their messages; cheap to clone.
#[derive(Debug, Clone)]
pub struct Conversations {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: ConversationsSettings,
    store: ConversationStore,
    writes: WriteExecutor,
    reads: ReadExecutor,
    pages: ReadStore,
    mint: IdMint,
    hub: Hub,
    changes: ChangeStore,
}

/// A conversation that is to be created.
#[derive(Debug, Clone)]
pub struct NewConversation {
    /// Its title.
    pub title: String,
    /// Metadata of its owner.
    pub metadata: Metadata,
}

/// A change of a conversation.
#[derive(Debug, Clone)]
pub struct Patch {
    /// The new title. `None`: unchanged.
    pub title: Option<String>,
    /// The new metadata as a whole. `None`: unchanged.
    pub metadata: Option<Metadata>,
}

impl Conversations {
    /// Starts the tasks.
    pub fn start(settings: &ConversationsSettings, parts: ConversationsParts<'_>) -> Self {
        let ConversationsParts { commits, database, hub, metrics, supervisor } = parts;
        let timeout = database.statement_timeout();
        let store = ConversationStore::new(database, timeout);
        let write_store = |database| WriteStore::new(database, timeout, settings.max_message_bytes);
        let bounds = WriteLimits {
            writers: settings.writers,
            queue_bytes: settings.queue_bytes,
            wait: database.pool_wait(),
        };
        let (writes, write_task) = WriteExecutor::new(write_store(commits), write_store(database), bounds);
        let pages = ReadStore::new(database, timeout);
        let (reads, read_task) =
            ReadExecutor::new(pages.clone(), limits::MAX_PAGE_BYTES, bounds.queue_bytes, bounds.wait);
        let changes = ChangeStore::new(database, timeout);
        forget_keys(store.clone(), settings.key_retention_s, supervisor);
        supervisor.spawn("conversation-writes", write_task);
        supervisor.spawn("conversation-reads", read_task);
        let interval = Duration::from_millis(limits::SEARCH_INTERVAL_MS);
        Indexer::new(database, metrics, hub, interval).start(supervisor);
        let inner = Inner {
            settings: settings.clone(),
            store,
            writes,
            reads,
            pages,
            mint: IdMint::new(),
            hub: hub.clone(),
            changes,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The bytes of a message's content.
    pub fn max_message_bytes(&self) -> usize {
        self.inner.settings.max_message_bytes
    }

    /// Creates a conversation.
    ///
    /// # Errors
    ///
    /// [`ConversationsError`]; nothing is stored then, unless the answer to a commit was lost.
    pub async fn create(
        &self,
        owner: Option<Uuid>,
        new: NewConversation,
    ) -> Result<Conversation, ConversationsError> {
        let id = self.ids(1).remove(0);
        let creation = Creation { id, title: new.title, metadata: new.metadata, owner };
        let write = WriteRequest::Create(Arc::new(creation));
        match self.inner.writes.write(write).await.map_err(unknown_owner)? {
            WriteResponse::Created(created) => {
                self.inner.hub.wake_with_search();
                Ok(created)
            }
            _ => Err(NO_USER),
        }
    }

    /// A page of an owner's conversations, newest activity first, and the position of the snapshot that it was read in.
    ///
    /// # Errors
    ///
    /// [`ConversationsError`].
    pub async fn list(
        &self,
        owner: Option<Uuid>,
        query: &ListQuery,
    ) -> Result<(Page<Conversation>, Position), ConversationsError> {
        let ((entries, is_more), position) = match &query.words {
            None => match self.inner.reads.read(ReadRequest::List { owner, query: query.clone() }).await? {
                (ReadResponse::List(found), position) => (found, position),
                (_, position) => ((Vec::new(), false), position),
            },
            Some(words) => {
                let max_bytes = limits::MAX_PAGE_BYTES;
                let found = self.inner.store.search(owner, query, words, max_bytes).await?;
                found.ok_or_else(|| {
                    ConversationsError::invalid("q", "q has to ask for a word: it only rules some out")
                })?
            }
        };
        let cursor = |last: &Conversation| SortKey { at: last.updated_at, id: last.id }.cursor(CONVERSATIONS);
        Ok((Page::forward(entries, is_more, cursor), position))
    }

    /// An owner's conversation, and the position of the snapshot that it was read in.
    ///
    /// # Errors
    ///
    /// [`ConversationsError`].
    pub async fn get(
        &self,
        owner: Option<Uuid>,
        id: Uuid,
    ) -> Result<(Conversation, Position), ConversationsError> {
        match self.inner.reads.read(ReadRequest::Conversation { id, owner }).await? {
            (ReadResponse::Conversation(conversation), position) => Ok((conversation, position)),
            _ => Err(NO_CONVERSATION),
        }
    }

    /// Changes a conversation and returns it. An empty patch changes nothing, its position in lists included.
    ///
    /// # Errors
    ///
    /// [`ConversationsError`]; nothing is changed then, unless the answer to a commit was lost.
    pub async fn change(
        &self,
        owner: Option<Uuid>,
        id: Uuid,
        patch: &Patch,
    ) -> Result<Conversation, ConversationsError> {
        let (title, metadata) = (patch.title.as_deref(), patch.metadata.as_ref());
        if title.is_none() && metadata.is_none() {
            return Ok(self.get(owner, id).await?.0);
        }
        let changed = self.inner.store.change(id, owner, title, metadata).await?.ok_or(NO_CONVERSATION)?;
        self.inner.hub.wake_with_search();
        Ok(changed)
    }

    /// Deletes a conversation with its messages. Messages are deleted first, in batches: an interrupted deletion leaves a conversation with
    /// fewer messages, which can be deleted again.
    ///
    /// # Errors
    ///
    /// [`ConversationsError`].
    pub async fn delete(&self, owner: Option<Uuid>, id: Uuid) -> Result<(), ConversationsError> {
        if remove(&self.inner.store, owner, &[id], |_messages| ()).await? == 0 {
            return Err(NO_CONVERSATION);
        }
        self.inner.hub.wake_with_search();
        Ok(())
    }

    /// Adds messages, all or none. With a known key nothing is added, and the messages that it added are returned.
    ///
    /// # Errors
    ///
    /// [`ConversationsError`]; nothing is stored then, unless the answer to a commit was lost, which a key makes harmless.
    pub async fn add(
        &self,
        owner: Option<Uuid>,
        conversation: Uuid,
        messages: Vec<NewMessage>,
        key: Option<IdempotencyKey>,
    ) -> Result<Added, ConversationsError> {
        let ids = self.ids(messages.len());
        let addition = Arc::new(Addition { conversation, owner, key, messages, ids });
        let response = self.inner.writes.write(WriteRequest::Add(Arc::clone(&addition))).await?;
        let WriteResponse::Added(outcome) = response else { return Err(NO_CONVERSATION) };
        // The batch has dropped its reference by now.
        let Addition { key, messages, ids, .. } = Arc::unwrap_or_clone(addition);
        match outcome {
            AddOutcome::Added(first) => {
                self.inner.hub.wake_with_search();
                Ok(Added { messages: stored(conversation, messages, &ids, first), is_repeated: false })
            }
            AddOutcome::Known { hash, .. } if key.is_none_or(|key| key.hash != hash) => {
                Err(ConversationsError::KeyReused)
            }
            AddOutcome::Known { ids, first, .. } => {
                Ok(Added { messages: stored(conversation, messages, &ids, first), is_repeated: true })
            }
        }
    }

    /// A page of a conversation's messages, in order, and the position of the snapshot that it was read in.
    ///
    /// # Errors
    ///
    /// [`ConversationsError`].
    pub async fn messages(
        &self,
        owner: Option<Uuid>,
        conversation: Uuid,
        query: &MessageQuery,
    ) -> Result<(Page<Message>, Position), ConversationsError> {
        let read = ReadRequest::Messages { conversation, owner, query: query.clone() };
        let (response, position) = self.inner.reads.read(read).await?;
        let ReadResponse::Messages((entries, is_more)) = response else { return Err(NO_CONVERSATION) };
        let key = |message: &Message| SortKey { at: message.timestamp, id: message.id };
        Ok((query.page(entries, is_more, key), position))
    }

    /// A message, and the position of the snapshot that it was read in.
    ///
    /// # Errors
    ///
    /// [`ConversationsError`].
    pub async fn message(
        &self,
        owner: Option<Uuid>,
        conversation: Uuid,
        id: Uuid,
    ) -> Result<(Message, Position), ConversationsError> {
        let found = self.inner.store.message(conversation, owner, id).await?;
        found.ok_or(NO_MESSAGE)
    }

    /// Appends a chunk to a message that is being written.
    ///
    /// # Errors
    ///
    /// [`ConversationsError`]; nothing is stored then, unless the answer to a commit was lost.
    pub async fn append(
        &self,
        owner: Option<Uuid>,
        conversation: Uuid,
        id: Uuid,
        chunk: MessageChunk,
    ) -> Result<(), ConversationsError> {
        let append = Arc::new(Append { conversation, owner, message: id, chunk });
        let response = self.inner.writes.write(WriteRequest::Append(Arc::clone(&append))).await?;
        let WriteResponse::Appended(outcome) = response else { return Err(NO_MESSAGE) };
        match outcome.check(&append.chunk, self.max_message_bytes()) {
            Ok(()) => {
                self.inner.hub.wake_with_search();
                Ok(())
            }
            // A message that still exists was not deleted, so a trigger dropped the update of its draft.
            Err(ConversationsError::NotFound(_)) => {
                self.message(owner, conversation, id).await?;
                Err(DbError::DroppedByTrigger { table: "message_drafts", sent: 1, stored: 0 }.into())
            }
            error => error,
        }
    }

    /// Subscribes to a conversation: its messages behind `start`, then its changes. With a cursor the subscription continues there.
    ///
    /// # Errors
    ///
    /// [`ConversationsError`].
    pub async fn subscribe(
        &self,
        owner: Option<Uuid>,
        conversation: Uuid,
        start: SortKey,
        cursor: Option<LiveCursor>,
    ) -> Result<Live, ConversationsError> {
        let inner = &self.inner;
        // Its owner does not change.
        self.get(owner, conversation).await?;
        let from = cursor.as_ref().map(|cursor| cursor.position().clone());
        let (topics, changes) = (vec![topic(conversation)], inner.changes.clone());
        let subscription = Subscription::start(&inner.hub, changes, topics, owner, from).await?;
        let store = inner.pages.clone();
        Ok(Live::new(LiveParts { store, subscription, conversation, owner, start, cursor }))
    }

    /// Wakes subscribers and search after others, such as an import, have committed messages.
    pub fn wake(&self) {
        self.inner.hub.wake_with_search();
    }

    /// Limits of subscribers.
    pub fn realtime(&self) -> &SubscriberLimits {
        self.inner.hub.config()
    }

    /// New ids, in ascending order.
    fn ids(&self, count: usize) -> Vec<Uuid> {
        let mut range = self.inner.mint.reserve(count as u64, unix_now_us());
        (0..count).map(|_| range.take()).collect()
    }
}

const NO_CONVERSATION: ConversationsError = ConversationsError::NotFound("conversation");
const NO_MESSAGE: ConversationsError = ConversationsError::NotFound("message");
const NO_USER: ConversationsError = ConversationsError::NotFound("user");

/// A token may be valid for a moment longer than its user exists.
fn unknown_owner(error: ConversationsError) -> ConversationsError {
    match &error {
        ConversationsError::Database(cause) if cause.constraint() == Some("conversations_owner_fkey") => {
            NO_USER
        }
        _ => error,
    }
}

/// The keys that one statement deletes.
const KEY_BATCH: i64 = 5_000;
/// The pause behind a full batch, for other statements.
const PAUSE: Duration = Duration::from_millis(50);
/// The interval behind a smaller one.
const INTERVAL: Duration = Duration::from_secs(30);

/// Starts the task that deletes old keys.
fn forget_keys(store: ConversationStore, retention_s: u64, supervisor: &Supervisor) {
    supervisor.periodic("message-keys", INTERVAL, Backoff::fixed(INTERVAL), move || {
        let store = store.clone();
        async move {
            let deleted = store.forget_keys(KEY_BATCH, retention_s as f64).await?;
            Ok(if deleted as i64 == KEY_BATCH { Next::After(PAUSE) } else { Next::Interval })
        }
    });
}
