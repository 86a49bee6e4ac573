//! A live subscription to a conversation: its messages, then its changes, without gap or double.
//!
//! ```text
//! subscribe to the hub ─▶ pages, each with its snapshot ─▶ the table of changes from the first snapshot on ─▶ changes from the hub
//!                                                          └──────── less what a page's snapshot saw ────────┘
//! ```
//!
//! A client that comes back sends the [`LiveCursor`] of its last event, and continues there.

mod cursor;
mod event;
mod seen;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::reading::{LivePage, ReadStore};
use crate::db::DbError;
use crate::paging::SortKey;
use crate::realtime::store::ChangeStore;
use crate::realtime::{
    Action, Change, Dropped, Position, ReadPermit, ReadPermitRequest, Snapshot, Subscriber,
};
pub use cursor::LiveCursor;
use event::ConversationChange;
pub use event::{Event, EventError, EventKind};
use seen::SeenSnapshots;

/// The reason for which a live subscription ended.
#[derive(Debug)]
pub enum LiveEnd {
    /// The conversation was deleted.
    Deleted,
    /// The hub dropped the subscriber.
    Dropped(Dropped),
    /// The database failed.
    Database(Arc<DbError>),
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
        Self::Database(Arc::new(error))
    }
}

/// The source of the next events.
#[derive(Debug)]
enum Phase {
    /// Pages of messages, from this key on.
    Pages(SortKey),
    /// The table of changes.
    Backlog,
    /// The hub.
    Hub,
    /// None: the conversation was deleted.
    Over,
}

/// A live subscription to a conversation.
#[derive(Debug)]
pub struct Live {
    store: ReadStore,
    changes: ChangeStore,
    subscriber: Subscriber,
    conversation: Uuid,
    owner: Option<Uuid>,
    topic: String,
    phase: Phase,
    seen: SeenSnapshots,
    /// The key behind which pages start after a reset.
    start: SortKey,
    /// The changes up to here were delivered, or seen by a page.
    position: Position,
    /// The last message that was delivered of the import behind the position.
    within: Option<Uuid>,
    /// Changes that were read and not yet delivered.
    pending: VecDeque<Arc<Change>>,
    /// For these, and for the events of them or of a page.
    permit: Option<ReadPermit>,
    /// While the permit is waited for.
    permit_request: Option<ReadPermitRequest>,
}

/// The parts of a [`Live`].
#[derive(Debug)]
pub(super) struct LiveParts {
    pub(super) store: ReadStore,
    pub(super) changes: ChangeStore,
    pub(super) subscriber: Subscriber,
    pub(super) conversation: Uuid,
    pub(super) owner: Option<Uuid>,
    /// The key behind which messages start, without a cursor.
    pub(super) start: SortKey,
    pub(super) cursor: Option<LiveCursor>,
}

/// The topic of a conversation.
pub(super) fn topic(conversation: Uuid) -> String {
    format!("conversation:{conversation}")
}

impl Live {
    pub(super) fn new(parts: LiveParts) -> Self {
        let LiveParts { store, changes, subscriber, conversation, owner, start, cursor } = parts;
        let mut live = Self {
            store,
            changes,
            subscriber,
            conversation,
            owner,
            topic: topic(conversation),
            phase: Phase::Pages(start),
            seen: SeenSnapshots::default(),
            start,
            position: Position::before(0),
            within: None,
            pending: VecDeque::new(),
            permit: None,
            permit_request: None,
        };
        if let Some(cursor) = cursor {
            live.position = cursor.position;
            live.within = cursor.within;
            live.phase = match cursor.seen.end() {
                Some(key) if cursor.is_paging => Phase::Pages(key),
                _ => Phase::Backlog,
            };
            live.seen = cursor.seen;
        }
        live
    }

    /// Waits until [`Self::next`] has something to do, and a permit for it. Cancel-safe.
    pub async fn ready(&mut self) {
        if self.reads() {
            if self.permit.is_none() {
                // Kept while this future is dropped for a heartbeat, or the place in the queue would be lost each time.
                let request = self.permit_request.get_or_insert_with(|| self.subscriber.request_permit());
                tokio::select! {
                    permit = request.granted() => {
                        self.permit_request = None;
                        self.permit = Some(permit);
                    }
                    _why = self.subscriber.dropped() => {}
                }
            }
        } else if matches!(self.phase, Phase::Hub) && self.pending.is_empty() {
            self.subscriber.ready().await;
        }
    }

    /// The events were sent. Releases the permit, unless pending changes need it.
    pub fn sent(&mut self) {
        if self.pending.is_empty() {
            self.permit = None;
        }
    }

    /// Whether the next events are read from the database, and so need a permit.
    fn reads(&self) -> bool {
        match self.pending.front() {
            Some(change) => change.action == Action::Import,
            None => matches!(self.phase, Phase::Pages(_) | Phase::Backlog),
        }
    }

    /// The cursor of a subscriber without events for a while, if the feed has moved on: so it does not fall behind the retention of changes.
    pub fn moved_on(&mut self) -> Option<LiveCursor> {
        if !matches!(self.phase, Phase::Hub) || !self.pending.is_empty() {
            return None;
        }
        // The table was read behind all that the hub delivered before the subscription, and later changes were taken and sent.
        let position = self.subscriber.caught_up().filter(|position| *position > self.position)?;
        self.pass(position);
        Some(self.cursor(None))
    }

    /// A chunk of delivered events, which counts in `SUBSCRIBERS_BYTES` until the connection has written it. Waits while too much is held.
    pub async fn hold(&self, chunk: Bytes) -> Bytes {
        self.subscriber.hold(chunk).await
    }

    /// Resolves if the client has taken nothing for a while though a permit is held or requested, and others wait for permits.
    pub async fn overstays(&self) {
        match self.permit.is_some() || self.permit_request.is_some() {
            true => self.subscriber.overstays().await,
            false => std::future::pending().await,
        }
    }

    /// Waits until the hub drops the subscriber.
    pub async fn dropped(&self) -> LiveEnd {
        LiveEnd::Dropped(self.subscriber.dropped().await)
    }

    /// The next events, in order; none at times, as before [`Self::ready`] got a permit.
    ///
    /// # Errors
    ///
    /// [`LiveEnd`]: there are no more.
    pub async fn next(&mut self) -> Result<Vec<Event>, LiveEnd> {
        if self.reads() && self.permit.is_none() {
            return self.subscriber.is_dropped().map_or(Ok(Vec::new()), |why| Err(LiveEnd::Dropped(why)));
        }
        if let Some(change) = self.pending.pop_front() {
            return self.deliver(&change).await;
        }
        match self.phase {
            Phase::Pages(after) => self.page(after).await,
            Phase::Backlog => self.backlog().await,
            Phase::Hub => {
                match self.subscriber.take().map_err(LiveEnd::Dropped)? {
                    // Changes up to the position were read from the table.
                    Some(change) if change.position <= self.position => Ok(Vec::new()),
                    // Its messages are read once there is a permit.
                    Some(change) if change.action == Action::Import => {
                        self.pending.push_back(change);
                        Ok(Vec::new())
                    }
                    Some(change) => self.deliver(&change).await,
                    None => Ok(Vec::new()),
                }
            }
            Phase::Over => Err(LiveEnd::Deleted),
        }
    }

    async fn page(&mut self, after: SortKey) -> Result<Vec<Event>, LiveEnd> {
        let page = self.store.live_page(self.conversation, self.owner, after).await?;
        let Some(LivePage { messages, is_more, snapshot }) = page else { return Err(LiveEnd::Deleted) };
        let end = messages.last().map_or(after, |last| SortKey { at: last.timestamp, id: last.id });
        let before = self.seen.clone();
        self.seen.add(end, snapshot.clone());
        // Changes are read from where the first page did not see everything.
        self.position = self.seen.first().map_or(self.position, Snapshot::position);
        let position = self.position;
        let last = messages.len().saturating_sub(1);
        let event = |(index, message): (usize, super::Message)| {
            let key = SortKey { at: message.timestamp, id: message.id };
            let cursor = LiveCursor {
                position,
                within: None,
                seen: before.with(key, &snapshot),
                is_paging: is_more || index < last,
            };
            Ok(Event { kind: EventKind::Message, data: event::message(&message)?, cursor: Some(cursor) })
        };
        let events = messages.into_iter().enumerate().map(event).collect::<Result<_, EventError>>()?;
        self.phase = if is_more { Phase::Pages(end) } else { Phase::Backlog };
        Ok(events)
    }

    async fn backlog(&mut self) -> Result<Vec<Event>, LiveEnd> {
        let page = self.changes.page_of_topic(self.position, &self.topic).await?;
        if page.is_gone {
            (self.seen, self.within) = (SeenSnapshots::default(), None);
            self.phase = Phase::Pages(self.start);
            return Ok(vec![Event { kind: EventKind::Reset, data: "{}".into(), cursor: None }]);
        }
        self.pending.extend(page.changes.into_iter().map(Arc::new));
        if !page.is_full {
            self.phase = Phase::Hub;
            if self.pending.is_empty() {
                self.position = page.next;
            }
        }
        Ok(Vec::new())
    }

    /// The events of a change.
    async fn deliver(&mut self, change: &Arc<Change>) -> Result<Vec<Event>, LiveEnd> {
        let xid = change.position.xid;
        let parsed = ConversationChange::of(self.conversation, change)?;
        let event = match &*parsed {
            ConversationChange::Imported { first, last } => {
                return self.import(change, (*first, *last)).await;
            }
            ConversationChange::Deleted { data } => {
                self.phase = Phase::Over;
                self.pending.clear();
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
        self.pass(change.position);
        let cursor = self.cursor(None);
        Ok(event
            .map(|(kind, data)| Event { kind, data: data.clone(), cursor: Some(cursor) })
            .into_iter()
            .collect())
    }

    /// A page of the messages of an import, whose change stays pending until there are no more.
    async fn import(&mut self, change: &Arc<Change>, ids: (Uuid, Uuid)) -> Result<Vec<Event>, LiveEnd> {
        let (messages, is_more) = self.store.messages_between(self.conversation, ids, self.within).await?;
        let mut events = Vec::with_capacity(messages.len());
        let count = messages.len();
        for (index, message) in messages.into_iter().enumerate() {
            let key = SortKey { at: message.timestamp, id: message.id };
            self.within = Some(message.id);
            let is_last = !is_more && index + 1 == count;
            if self.seen.has(change.position.xid, key) {
                continue;
            }
            let cursor = if is_last { None } else { Some(self.cursor(self.within)) };
            events.push((event::message(&message)?, cursor));
        }
        if is_more {
            self.pending.push_front(Arc::clone(change));
        } else {
            self.pass(change.position);
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
        self.position = position;
        self.within = None;
        // Snapshots that saw no later transaction decide nothing any more.
        if self.seen.is_past(position.xid) {
            self.seen = SeenSnapshots::default();
        }
    }

    fn cursor(&self, within: Option<Uuid>) -> LiveCursor {
        LiveCursor { position: self.position, within, seen: self.seen.clone(), is_paging: false }
    }
}
