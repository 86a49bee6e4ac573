//! A live subscription to a conversation: its messages, then its changes, without gap or double.
//!
//! ```text
//! subscribe to the hub ─▶ pages, each with its snapshot ─▶ the table of changes, from the cursor to the subscription ─▶ the hub
//!                                                          └──────── less what a page's snapshot saw ────────────┘
//! ```
//!
//! A client that comes back sends the [`LiveCursor`] of its last event, and continues there.

mod cursor;
mod event;
mod seen;

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::reading::{LivePage, ReadStore};
use crate::db::DbError;
use crate::paging::SortKey;
use crate::realtime::{Change, Next, Position, Subscription, SubscriptionEnd};
pub use cursor::LiveCursor;
use event::ConversationChange;
pub use event::{Event, EventError, EventKind, change_json};
use seen::SeenSnapshots;

/// The reason for which a live subscription ended.
#[derive(Debug)]
pub enum LiveEnd {
    /// The conversation was deleted.
    Deleted,
    /// The subscription ended, or the database failed.
    Subscription(SubscriptionEnd),
    /// A change of the conversation cannot be sent.
    Event(EventError),
}

impl From<EventError> for LiveEnd {
    fn from(error: EventError) -> Self {
        Self::Event(error)
    }
}

impl From<DbError> for LiveEnd {
    fn from(error: DbError) -> Self {
        Self::Subscription(error.into())
    }
}

impl From<SubscriptionEnd> for LiveEnd {
    fn from(end: SubscriptionEnd) -> Self {
        Self::Subscription(end)
    }
}

/// The source of the next events.
#[derive(Debug)]
enum Phase {
    /// Pages of messages, from this key on.
    Pages(SortKey),
    /// An import, whose messages are read in pages.
    Import(Arc<Change>),
    /// The subscription.
    Changes,
    /// None: the conversation was deleted.
    Over,
}

/// A live subscription to a conversation.
#[derive(Debug)]
pub struct Live {
    store: ReadStore,
    subscription: Subscription,
    conversation: Uuid,
    owner: Option<Uuid>,
    phase: Phase,
    seen: SeenSnapshots,
    /// The key behind which pages start after a reset.
    start: SortKey,
    /// The changes up to here were delivered.
    position: Position,
    /// The last message that was delivered of the import behind the position.
    within: Option<Uuid>,
}

/// The parts of a [`Live`].
#[derive(Debug)]
pub(super) struct LiveParts {
    pub(super) store: ReadStore,
    /// From the cursor's position on.
    pub(super) subscription: Subscription,
    pub(super) conversation: Uuid,
    pub(super) owner: Option<Uuid>,
    /// The key behind which messages start, without a cursor.
    pub(super) start: SortKey,
    pub(super) cursor: Option<LiveCursor>,
}

/// A pattern of the topics of conversations, which search reads.
pub const TOPICS: &str = "conversation:%";

/// The topic of a conversation.
pub fn topic(conversation: Uuid) -> String {
    format!("conversation:{conversation}")
}

impl Live {
    pub(super) fn new(parts: LiveParts) -> Self {
        let LiveParts { store, subscription, conversation, owner, start, cursor } = parts;
        let position = subscription.position().clone();
        let mut live = Self {
            store,
            subscription,
            conversation,
            owner,
            phase: Phase::Pages(start),
            seen: SeenSnapshots::default(),
            start,
            position,
            within: None,
        };
        if let Some(cursor) = cursor {
            live.within = cursor.within;
            live.phase = match cursor.seen.end() {
                Some(key) if cursor.is_paging => Phase::Pages(key),
                _ => Phase::Changes,
            };
            live.seen = cursor.seen;
        }
        live
    }

    /// Waits until [`Self::next`] has something to do, and a permit for it. Cancel-safe.
    pub async fn ready(&mut self) {
        match self.phase {
            Phase::Pages(_) | Phase::Import(_) => self.subscription.permitted().await,
            Phase::Changes => self.subscription.ready().await,
            Phase::Over => {}
        }
    }

    /// The events were sent. Releases the permit, unless more events need it.
    pub fn sent(&mut self) {
        if !matches!(self.phase, Phase::Import(_)) {
            self.subscription.sent();
        }
    }

    /// The cursor of a subscriber without events for a while, if the feed has moved on: so it does not fall behind the retention of changes.
    pub fn moved_on(&mut self) -> Option<LiveCursor> {
        if !matches!(self.phase, Phase::Changes) {
            return None;
        }
        let position = self.subscription.moved_on()?;
        self.pass(position);
        Some(self.cursor(None))
    }

    /// A chunk of delivered events, which counts in `SUBSCRIBERS_BYTES` until the connection has written it. Waits while too much is held.
    pub async fn hold(&self, chunk: Bytes) -> Bytes {
        self.subscription.hold(chunk).await
    }

    /// Resolves if the client has taken nothing for a while though a permit is held or requested, and others wait for permits.
    pub async fn overstays(&self) {
        self.subscription.overstays().await;
    }

    /// Waits until the hub drops the subscriber.
    pub async fn dropped(&self) -> LiveEnd {
        self.subscription.dropped().await.into()
    }

    /// The next events, in order; none at times, as before [`Self::ready`] got a permit.
    ///
    /// # Errors
    ///
    /// [`LiveEnd`]: there are no more.
    pub async fn next(&mut self) -> Result<Vec<Event>, LiveEnd> {
        let reads = matches!(self.phase, Phase::Pages(_) | Phase::Import(_));
        if reads && !self.subscription.has_permit() {
            self.subscription.check()?;
            return Ok(Vec::new());
        }
        match &self.phase {
            Phase::Pages(after) => self.page(*after).await,
            Phase::Import(change) => self.import(Arc::clone(change)).await,
            Phase::Changes => match self.subscription.next().await? {
                Next::Change(change) => self.deliver(change),
                Next::Nothing | Next::Joined | Next::NotJoined => Ok(Vec::new()),
                Next::Reset => {
                    (self.seen, self.within) = (SeenSnapshots::default(), None);
                    self.position = self.subscription.position().clone();
                    self.phase = Phase::Pages(self.start);
                    Ok(vec![Event { kind: EventKind::Reset, data: "{}".into(), cursor: None }])
                }
            },
            Phase::Over => Err(LiveEnd::Deleted),
        }
    }

    async fn page(&mut self, after: SortKey) -> Result<Vec<Event>, LiveEnd> {
        let page = self.store.live_page(self.conversation, self.owner, after).await?;
        let Some(LivePage { messages, is_more, snapshot }) = page else { return Err(LiveEnd::Deleted) };
        let end = messages.last().map_or(after, |last| SortKey { at: last.timestamp, id: last.id });
        let before = self.seen.clone();
        self.seen.add(end, snapshot.clone());
        let position = &self.position;
        let last = messages.len().saturating_sub(1);
        let event = |(index, message): (usize, super::Message)| {
            let key = SortKey { at: message.timestamp, id: message.id };
            let cursor = LiveCursor {
                position: position.clone(),
                within: None,
                seen: before.with(key, &snapshot),
                is_paging: is_more || index < last,
            };
            Ok(Event { kind: EventKind::Message, data: event::message(&message)?, cursor: Some(cursor) })
        };
        let events = messages.into_iter().enumerate().map(event).collect::<Result<_, EventError>>()?;
        self.phase = if is_more { Phase::Pages(end) } else { Phase::Changes };
        Ok(events)
    }

    /// The events of a change.
    fn deliver(&mut self, change: Arc<Change>) -> Result<Vec<Event>, LiveEnd> {
        let xid = change.xid;
        let parsed = ConversationChange::of(self.conversation, &change)?;
        let event = match &*parsed {
            ConversationChange::Imported { .. } => {
                // Its messages are read once there is a permit.
                self.phase = Phase::Import(change);
                return Ok(Vec::new());
            }
            ConversationChange::Deleted { data } => {
                self.phase = Phase::Over;
                Some((EventKind::Delete, data))
            }
            ConversationChange::Updated { data } => {
                let is_seen = self.seen.first().is_some_and(|page| page.saw(xid));
                (!is_seen).then_some((EventKind::Update, data))
            }
            ConversationChange::Created { key, data } => {
                (!self.seen.has(xid, *key)).then_some((EventKind::Message, data))
            }
            ConversationChange::Appended { key, data } => {
                (!self.seen.has(xid, *key)).then_some((EventKind::Append, data))
            }
            ConversationChange::Silent => None,
        };
        self.pass(change.position());
        let cursor = self.cursor(None);
        Ok(event
            .map(|(kind, data)| Event { kind, data: data.clone(), cursor: Some(cursor) })
            .into_iter()
            .collect())
    }

    /// A page of the messages of an import.
    async fn import(&mut self, change: Arc<Change>) -> Result<Vec<Event>, LiveEnd> {
        let parsed = ConversationChange::of(self.conversation, &change)?;
        let ConversationChange::Imported { first, last } = *parsed else { return Ok(Vec::new()) };
        let (messages, is_more) =
            self.store.messages_between(self.conversation, (first, last), self.within).await?;
        let mut events = Vec::with_capacity(messages.len());
        let count = messages.len();
        for (index, message) in messages.into_iter().enumerate() {
            let key = SortKey { at: message.timestamp, id: message.id };
            self.within = Some(message.id);
            let is_last = !is_more && index + 1 == count;
            if self.seen.has(change.xid, key) {
                continue;
            }
            let cursor = if is_last { None } else { Some(self.cursor(self.within)) };
            events.push((event::message(&message)?, cursor));
        }
        if !is_more {
            self.phase = Phase::Changes;
            self.pass(change.position());
        }
        let end = self.cursor(None);
        let event = |(data, cursor): (_, Option<LiveCursor>)| {
            let cursor = Some(cursor.unwrap_or_else(|| end.clone()));
            Event { kind: EventKind::Message, data, cursor }
        };
        Ok(events.into_iter().map(event).collect())
    }

    /// The changes up to this position were delivered.
    fn pass(&mut self, position: Position) {
        // Snapshots that saw nothing more decide nothing any more.
        if self.seen.is_past(position.base()) {
            self.seen = SeenSnapshots::default();
        }
        self.position = position;
        self.within = None;
    }

    fn cursor(&self, within: Option<Uuid>) -> LiveCursor {
        LiveCursor { position: self.position.clone(), within, seen: self.seen.clone(), is_paging: false }
    }
}
