//! The handle that faces hold.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::ConversationsError;
use super::list::{ListQuery, MessageQuery, Page};
use super::live::{Live, LiveParts, Token, topic};
use super::messages::{Added, Key, NewMessage, added};
use super::model::{Conversation, Message, Metadata};
use super::pieces::Piece;
use super::place::{Order, Place};
use super::reading::{Read, ReadStore, Reading, Shown};
use super::removal::remove;
use super::search::Indexer;
use super::store::Store;
use super::writing::{Addition, Creation, Done, Entered, Growth, Write, WriteLimits, WriteStore, Writing};
use crate::config::{ConversationsConfig, SubscriberLimits};
use crate::db::Database;
use crate::ingest::id::{IdMint, unix_now_us};
use crate::observe::Metrics;
use crate::realtime::Hub;
use crate::realtime::store::Changes;
use crate::supervisor::{Backoff, Next, Supervisor};

/// What conversations are built from.
#[derive(Debug, Clone)]
pub struct ConversationsSettings {
    /// Limits.
    pub config: ConversationsConfig,
    /// Limits of followers.
    pub realtime: SubscriberLimits,
    /// Bytes of a page.
    pub max_page_bytes: usize,
    /// Levels of JSON that metadata may have.
    pub max_json_depth: usize,
}

/// Conversations and their messages; cheap to clone.
#[derive(Debug, Clone)]
pub struct Conversations {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: ConversationsSettings,
    store: Store,
    writing: Writing,
    reading: Reading,
    pages: ReadStore,
    mint: IdMint,
    hub: Hub,
    changes: Changes,
}

/// A conversation that is to be made.
#[derive(Debug, Clone)]
pub struct NewConversation {
    /// Its title.
    pub title: String,
    /// What its owner keeps with it.
    pub metadata: Metadata,
}

/// What is to become of a conversation; what is none stays as it is.
#[derive(Debug, Clone)]
pub struct Patch {
    /// Its title.
    pub title: Option<String>,
    /// What its owner keeps with it, as a whole.
    pub metadata: Option<Metadata>,
}

impl Conversations {
    /// Starts the tasks, over shares of the pool: one for groups of writes, and one for all else.
    pub fn start(
        settings: &ConversationsSettings,
        metrics: &Arc<Metrics>,
        commits: &Database,
        share: &Database,
        supervisor: &Supervisor,
    ) -> Self {
        let config = &settings.config;
        let timeout = Duration::from_millis(config.conversations_timeout_ms);
        let store = Store::new(share, timeout);
        let writes = |share| WriteStore::new(share, timeout, config.max_message_bytes);
        let limits = WriteLimits {
            turns: config.conversations_writers,
            queue_bytes: config.conversations_queue_bytes,
            wait: Duration::from_millis(config.conversations_wait_ms),
        };
        let (writing, grouping) = Writing::new(writes(commits), writes(share), limits);
        let pages = ReadStore::new(share, timeout);
        let (reading, reading_along) =
            Reading::new(pages.clone(), settings.max_page_bytes, limits.queue_bytes, limits.wait);
        let changes = Changes::new(share, timeout);
        let hub = Hub::start(&settings.realtime, metrics, share, supervisor);
        forget_keys(store.clone(), settings.config.idempotency_retention_s, supervisor);
        supervisor.spawn("conversation-writes", grouping);
        supervisor.spawn("conversation-reads", reading_along);
        let interval = Duration::from_millis(settings.config.search_interval_ms);
        Indexer::new(share, metrics, &hub, interval).start(supervisor);
        let inner = Inner {
            settings: settings.clone(),
            store,
            writing,
            reading,
            pages,
            mint: IdMint::new(),
            hub,
            changes,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Limits.
    pub fn config(&self) -> &ConversationsConfig {
        &self.inner.settings.config
    }

    /// Levels of JSON that metadata may have.
    pub fn max_json_depth(&self) -> usize {
        self.inner.settings.max_json_depth
    }

    /// Makes a conversation.
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
        match self.inner.writing.write(Write::Create(Arc::new(creation))).await.map_err(no_owner)? {
            Done::Created(made) => {
                self.inner.hub.wake();
                Ok(made)
            }
            _ => Err(NO_USER),
        }
    }

    /// A page of somebody's conversations, newest activity first.
    ///
    /// # Errors
    ///
    /// [`ConversationsError`].
    pub async fn list(
        &self,
        owner: Option<Uuid>,
        query: &ListQuery,
    ) -> Result<Page<Conversation>, ConversationsError> {
        let (entries, is_more) = match &query.words {
            None => match self.inner.reading.read(Read::List { owner, query: query.clone() }).await? {
                Shown::List(found) => found,
                _ => (Vec::new(), false),
            },
            Some(words) => {
                let max_bytes = self.inner.settings.max_page_bytes;
                let found = self.inner.store.search(owner, query, words, max_bytes).await?;
                found.ok_or_else(|| {
                    ConversationsError::invalid("q", "q has to ask for a word: it only rules some out")
                })?
            }
        };
        let place = |last: &Conversation| Place { at: last.updated_at, id: last.id };
        let next = entries.last().filter(|_| is_more).map(|last| place(last).token(Order::Conversations));
        Ok(Page { entries, next, prev: None })
    }

    /// A conversation of somebody's.
    ///
    /// # Errors
    ///
    /// [`ConversationsError`].
    pub async fn get(&self, owner: Option<Uuid>, id: Uuid) -> Result<Conversation, ConversationsError> {
        match self.inner.reading.read(Read::Conversation { id, owner }).await? {
            Shown::Conversation(conversation) => Ok(conversation),
            _ => Err(NO_CONVERSATION),
        }
    }

    /// Changes a conversation; returns what it is now. With nothing to change it keeps its place in lists.
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
            return self.get(owner, id).await;
        }
        let changed = self.inner.store.change(id, owner, title, metadata).await?.ok_or(NO_CONVERSATION)?;
        self.inner.hub.wake();
        Ok(changed)
    }

    /// Deletes a conversation and what it has. That goes first, in lots: what is cut short leaves a conversation with fewer
    /// messages, which can be deleted again.
    ///
    /// # Errors
    ///
    /// [`ConversationsError`].
    pub async fn delete(&self, owner: Option<Uuid>, id: Uuid) -> Result<(), ConversationsError> {
        if remove(&self.inner.store, owner, &[id], |_messages| ()).await? == 0 {
            return Err(NO_CONVERSATION);
        }
        self.inner.hub.wake();
        Ok(())
    }

    /// Adds messages, all or none. With a key that is known nothing is added: what was added then is returned.
    ///
    /// # Errors
    ///
    /// [`ConversationsError`]; nothing is stored then, unless the answer to a commit was lost, which a key makes harmless.
    pub async fn add(
        &self,
        owner: Option<Uuid>,
        conversation: Uuid,
        messages: Vec<NewMessage>,
        key: Option<Key>,
    ) -> Result<Added, ConversationsError> {
        let ids = self.ids(messages.len());
        let addition = Arc::new(Addition { conversation, owner, key, messages, ids });
        let Done::Entered(entered) = self.inner.writing.write(Write::Add(Arc::clone(&addition))).await?
        else {
            return Err(NO_CONVERSATION);
        };
        // The group has given it back by now.
        let Addition { key, messages, ids, .. } = Arc::unwrap_or_clone(addition);
        match entered {
            Entered::Added(first) => {
                self.inner.hub.wake();
                let messages = added(conversation, messages, &ids, first);
                Ok(Added { messages, is_repeated: false })
            }
            Entered::Known { hash, .. } if key.is_none_or(|key| key.hash != hash) => {
                Err(ConversationsError::KeyReused)
            }
            Entered::Known { ids, first, .. } => {
                let messages = added(conversation, messages, &ids, first);
                Ok(Added { messages, is_repeated: true })
            }
        }
    }

    /// A page of a conversation's messages, in order.
    ///
    /// # Errors
    ///
    /// [`ConversationsError`].
    pub async fn messages(
        &self,
        owner: Option<Uuid>,
        conversation: Uuid,
        query: &MessageQuery,
    ) -> Result<Page<Message>, ConversationsError> {
        let read = Read::Messages { conversation, owner, query: query.clone() };
        let Shown::Messages((entries, is_more)) = self.inner.reading.read(read).await? else {
            return Err(NO_CONVERSATION);
        };
        let place = |message: &Message| Place { at: message.timestamp, id: message.id };
        Ok(query.page(entries, is_more, place))
    }

    /// A message.
    ///
    /// # Errors
    ///
    /// [`ConversationsError`].
    pub async fn message(
        &self,
        owner: Option<Uuid>,
        conversation: Uuid,
        id: Uuid,
    ) -> Result<Message, ConversationsError> {
        let found = self.inner.store.message(conversation, owner, id).await?;
        found.ok_or(ConversationsError::NotFound("message"))
    }

    /// Adds a piece to a message that is being written.
    ///
    /// # Errors
    ///
    /// [`ConversationsError`]; nothing is stored then, unless the answer to a commit was lost.
    pub async fn append(
        &self,
        owner: Option<Uuid>,
        conversation: Uuid,
        id: Uuid,
        piece: Piece,
    ) -> Result<(), ConversationsError> {
        let growth = Arc::new(Growth { conversation, owner, message: id, piece });
        match self.inner.writing.write(Write::Append(Arc::clone(&growth))).await? {
            Done::Written(written) => written.outcome(&growth.piece, self.config().max_message_bytes)?,
            _ => return Err(ConversationsError::NotFound("message")),
        }
        self.inner.hub.wake();
        Ok(())
    }

    /// Follows a conversation: its messages behind a place, then what happens to it. With a token it goes on from there.
    ///
    /// # Errors
    ///
    /// [`ConversationsError`].
    pub async fn subscribe(
        &self,
        owner: Option<Uuid>,
        conversation: Uuid,
        start: Place,
        token: Option<Token>,
    ) -> Result<Live, ConversationsError> {
        let inner = &self.inner;
        // Whose it is does not change.
        self.get(owner, conversation).await?;
        let follower = inner.hub.subscribe(&topic(conversation), owner).await?;
        let (store, changes) = (inner.pages.clone(), inner.changes.clone());
        Ok(Live::new(LiveParts { store, changes, follower, conversation, owner, start, token }))
    }

    /// Messages were added by somebody else, an import for instance, and committed: followers and search need not wait until they
    /// look by themselves.
    pub fn wake(&self) {
        self.inner.hub.wake();
    }

    /// Limits of followers.
    pub fn realtime(&self) -> &SubscriberLimits {
        self.inner.hub.config()
    }

    /// New ids, which rise.
    fn ids(&self, count: usize) -> Vec<Uuid> {
        let mut range = self.inner.mint.reserve(count as u64, unix_now_us());
        (0..count).map(|_| range.take()).collect()
    }
}

const NO_CONVERSATION: ConversationsError = ConversationsError::NotFound("conversation");

const NO_USER: ConversationsError = ConversationsError::NotFound("user");

/// A token may be good for a moment longer than its user is there.
fn no_owner(error: ConversationsError) -> ConversationsError {
    match &error {
        ConversationsError::Database(cause) if cause.constraint() == Some("conversations_owner_fkey") => {
            NO_USER
        }
        _ => error,
    }
}

/// Keys that one statement deletes.
const KEY_LOT: i64 = 5_000;
/// Between two of them, so that others have their turn.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two steps that found less than that.
const INTERVAL: Duration = Duration::from_secs(30);

/// Starts the task that deletes old keys.
fn forget_keys(store: Store, retention_s: u64, supervisor: &Supervisor) {
    supervisor.periodic("message-keys", INTERVAL, Backoff::fixed(INTERVAL), move || {
        let store = store.clone();
        async move {
            let deleted = store.forget_keys(KEY_LOT, retention_s as f64).await?;
            Ok(if deleted as i64 == KEY_LOT { Next::After(PAUSE) } else { Next::Interval })
        }
    });
}
