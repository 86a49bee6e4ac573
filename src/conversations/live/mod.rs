//! Following a conversation: its messages as far as they are there, then what happens to it, without gap or double.
//!
//! ```text
//! follow the hub ─▶ pages, each with its snapshot ─▶ the feed's table from the first snapshot on ─▶ the hub's changes
//!                                                    └────────── less what a page has shown ──────────┘
//! ```
//!
//! Whoever comes back names the [`Token`] of the last event, and begins where that says.

mod event;
mod shown;
mod token;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::ConversationsError;
use super::place::Place;
use super::reading::{LivePage, ReadStore};
use crate::db::DbError;
use crate::realtime::store::Changes;
use crate::realtime::{Action, Change, Dropped, Position, Room, RoomRequest, Snapshot, Subscriber};
use event::Imported;
pub use event::{Event, EventError, EventKind};
use shown::Shown;
pub use token::Token;

/// Why nothing more is told.
#[derive(Debug)]
pub enum LiveEnd {
    /// The conversation is gone.
    Deleted,
    /// The hub dropped the follower.
    Dropped(Dropped),
    /// The database said no.
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

/// What is done next.
#[derive(Debug)]
enum Phase {
    /// Pages are read, from this place on.
    Paging(Place),
    /// The feed's table is read.
    Backlog,
    /// What comes from the hub is told.
    Following,
    /// The conversation is gone.
    Over,
}

/// Somebody who follows a conversation.
#[derive(Debug)]
pub struct Live {
    store: ReadStore,
    changes: Changes,
    follower: Subscriber,
    conversation: Uuid,
    owner: Option<Uuid>,
    topic: String,
    phase: Phase,
    shown: Shown,
    /// Where pages begin when all of them are told again.
    start: Place,
    /// The feed up to here was told, or shown.
    position: Position,
    /// Of the import that comes next, the messages up to this id were told.
    within: Option<Uuid>,
    /// Changes that were read and not told yet.
    pending: VecDeque<Arc<Change>>,
    /// For these, and for what is told of them or of a page.
    room: Option<Room>,
    /// While it is waited for.
    room_request: Option<RoomRequest>,
}

/// What a follower is built from.
#[derive(Debug)]
pub(super) struct LiveParts {
    pub(super) store: ReadStore,
    pub(super) changes: Changes,
    pub(super) follower: Subscriber,
    pub(super) conversation: Uuid,
    pub(super) owner: Option<Uuid>,
    /// Behind which place the messages are told, if there is no token.
    pub(super) start: Place,
    pub(super) token: Option<Token>,
}

/// The topic of a conversation.
pub(super) fn topic(conversation: Uuid) -> String {
    format!("conversation:{conversation}")
}

impl Live {
    pub(super) fn new(parts: LiveParts) -> Self {
        let LiveParts { store, changes, follower, conversation, owner, start, token } = parts;
        let mut live = Self {
            store,
            changes,
            follower,
            conversation,
            owner,
            topic: topic(conversation),
            phase: Phase::Paging(start),
            shown: Shown::default(),
            start,
            position: Position::before(0),
            within: None,
            pending: VecDeque::new(),
            room: None,
            room_request: None,
        };
        if let Some(token) = token {
            live.position = token.position;
            live.within = token.within;
            live.phase = match token.shown.end() {
                Some(place) if token.is_paging => Phase::Paging(place),
                _ => Phase::Backlog,
            };
            live.shown = token.shown;
        }
        live
    }

    /// Waits until [`Self::next`] has something to do, and room for it. Nothing is lost if it is dropped.
    pub async fn ready(&mut self) {
        if self.reads() {
            if self.room.is_none() {
                // Kept while this future is dropped for a heartbeat, or the place in the queue would be lost each time.
                let request = self.room_request.get_or_insert_with(|| self.follower.request_room());
                tokio::select! {
                    room = request.granted() => {
                        self.room_request = None;
                        self.room = Some(room);
                    }
                    _why = self.follower.dropped() => {}
                }
            }
        } else if matches!(self.phase, Phase::Following) && self.pending.is_empty() {
            self.follower.ready().await;
        }
    }

    /// The events were sent. Whoever waits for room has his turn, if nothing is left that needs it.
    pub fn told(&mut self) {
        if self.pending.is_empty() {
            self.room = None;
        }
    }

    /// Whether what comes next is read of the database, and so needs room.
    fn reads(&self) -> bool {
        match self.pending.front() {
            Some(change) => change.action == Action::Import,
            None => matches!(self.phase, Phase::Paging(_) | Phase::Backlog),
        }
    }

    /// Where a follower is of whose conversation nothing was told for a while, if the feed has moved on: so he does not fall behind
    /// what the table forgets, and still has all that he was sent.
    pub fn moved_on(&mut self) -> Option<Token> {
        if !matches!(self.phase, Phase::Following) || !self.pending.is_empty() {
            return None;
        }
        // The table was read behind all that was handed on before he followed, and what came since was taken and told.
        let place = self.follower.caught_up().filter(|place| *place > self.position)?;
        self.pass(place);
        Some(self.token(None))
    }

    /// A chunk of delivered events, which counts in `FOLLOWERS_BYTES` until the connection has written it. Waits while too much is held.
    pub async fn hold(&self, chunk: Bytes) -> Bytes {
        self.follower.hold(chunk).await
    }

    /// Resolves if the client has taken nothing for a while though room is kept or asked for, and others wait for room.
    pub async fn overstays(&self) {
        match self.room.is_some() || self.room_request.is_some() {
            true => self.follower.overstays().await,
            false => std::future::pending().await,
        }
    }

    /// Waits until the hub drops the follower.
    pub async fn dropped(&self) -> LiveEnd {
        LiveEnd::Dropped(self.follower.dropped().await)
    }

    /// The next events, in order; none at times, as before [`Self::ready`] got the room for them.
    ///
    /// # Errors
    ///
    /// [`LiveEnd`] says why there are no more.
    pub async fn next(&mut self) -> Result<Vec<Event>, LiveEnd> {
        if self.reads() && self.room.is_none() {
            return self.follower.is_dropped().map_or(Ok(Vec::new()), |why| Err(LiveEnd::Dropped(why)));
        }
        if let Some(change) = self.pending.pop_front() {
            return self.tell(&change).await;
        }
        match self.phase {
            Phase::Paging(after) => self.page(after).await,
            Phase::Backlog => self.backlog().await,
            Phase::Following => {
                match self.follower.take().map_err(LiveEnd::Dropped)? {
                    // What is before the position was read from the table.
                    Some(change) if change.position <= self.position => Ok(Vec::new()),
                    // Its messages are read once there is room.
                    Some(change) if change.action == Action::Import => {
                        self.pending.push_back(change);
                        Ok(Vec::new())
                    }
                    Some(change) => self.tell(&change).await,
                    None => Ok(Vec::new()),
                }
            }
            Phase::Over => Err(LiveEnd::Deleted),
        }
    }

    async fn page(&mut self, after: Place) -> Result<Vec<Event>, LiveEnd> {
        let page = self.store.live_page(self.conversation, self.owner, after).await?;
        let Some(LivePage { messages, is_more, snapshot }) = page else { return Err(LiveEnd::Deleted) };
        let end = messages.last().map_or(after, |last| Place { at: last.timestamp, id: last.id });
        let before = self.shown.clone();
        self.shown.add(end, snapshot.clone());
        // The feed is read from where the first page did not see everything.
        self.position = self.shown.first().map_or(self.position, Snapshot::position);
        let position = self.position;
        let last = messages.len().saturating_sub(1);
        let event = |(index, message): (usize, super::Message)| {
            let place = Place { at: message.timestamp, id: message.id };
            let token = Token {
                position,
                within: None,
                shown: before.with(place, &snapshot),
                is_paging: is_more || index < last,
            };
            Ok(Event { kind: EventKind::Message, data: event::message(&message)?, token: Some(token) })
        };
        let events = messages.into_iter().enumerate().map(event).collect::<Result<_, EventError>>()?;
        self.phase = if is_more { Phase::Paging(end) } else { Phase::Backlog };
        Ok(events)
    }

    async fn backlog(&mut self) -> Result<Vec<Event>, LiveEnd> {
        let lot = self.changes.lot_of_topic(self.position, &self.topic).await?;
        if lot.is_gone {
            (self.shown, self.within) = (Shown::default(), None);
            self.phase = Phase::Paging(self.start);
            return Ok(vec![Event { kind: EventKind::Reset, data: "{}".into(), token: None }]);
        }
        self.pending.extend(lot.changes.into_iter().map(Arc::new));
        if !lot.is_full {
            self.phase = Phase::Following;
            if self.pending.is_empty() {
                self.position = lot.next;
            }
        }
        Ok(Vec::new())
    }

    /// What a change is told as.
    async fn tell(&mut self, change: &Arc<Change>) -> Result<Vec<Event>, LiveEnd> {
        let xid = change.position.xid;
        let is_conversations = Uuid::try_parse(&change.record).is_ok_and(|id| id == self.conversation);
        let was_shown = |place| self.shown.has(xid, place);
        let (kind, data) = match change.action {
            Action::Import => return self.import(change).await,
            Action::Delete if is_conversations => {
                self.phase = Phase::Over;
                self.pending.clear();
                (EventKind::Delete, event::deleted(self.conversation))
            }
            Action::Update if is_conversations && !self.shown.first().is_some_and(|page| page.saw(xid)) => {
                (EventKind::Update, event::updated(change)?)
            }
            Action::Create if !is_conversations && !was_shown(event::place(change)?) => {
                (EventKind::Message, event::created(self.conversation, change)?)
            }
            Action::Append if !was_shown(event::place(change)?) => {
                (EventKind::Append, event::appended(change)?)
            }
            _ => {
                self.pass(change.position);
                return Ok(Vec::new());
            }
        };
        self.pass(change.position);
        let token = Some(self.token(None));
        Ok(vec![Event { kind, data, token }])
    }

    /// A lot of the messages that an import added; it is told again until there are no more.
    async fn import(&mut self, change: &Arc<Change>) -> Result<Vec<Event>, LiveEnd> {
        let Imported { first, last } = serde_json::from_str(&change.data).map_err(EventError::Json)?;
        let (messages, is_more) =
            self.store.messages_between(self.conversation, (first, last), self.within).await?;
        let mut events = Vec::with_capacity(messages.len());
        let count = messages.len();
        for (index, message) in messages.into_iter().enumerate() {
            let place = Place { at: message.timestamp, id: message.id };
            self.within = Some(message.id);
            let is_last = !is_more && index + 1 == count;
            if self.shown.has(change.position.xid, place) {
                continue;
            }
            let token = if is_last { None } else { Some(self.token(self.within)) };
            events.push((event::message(&message)?, token));
        }
        if is_more {
            self.pending.push_front(Arc::clone(change));
        } else {
            self.pass(change.position);
        }
        let end = self.token(None);
        let event = |(data, token): (_, Option<Token>)| {
            let token = Some(token.unwrap_or_else(|| end.clone()));
            Event { kind: EventKind::Message, data, token }
        };
        Ok(events.into_iter().map(event).collect())
    }

    /// All up to this position was told.
    fn pass(&mut self, position: Position) {
        self.position = position;
        self.within = None;
        // Once nothing that was shown can come any more, it need not be remembered.
        if self.shown.is_past(position.xid) {
            self.shown = Shown::default();
        }
    }

    fn token(&self, within: Option<Uuid>) -> Token {
        Token { position: self.position, within, shown: self.shown.clone(), is_paging: false }
    }
}

impl From<LiveEnd> for ConversationsError {
    fn from(end: LiveEnd) -> Self {
        match end {
            LiveEnd::Deleted => Self::NotFound("conversation"),
            LiveEnd::Dropped(_) => Self::Overloaded,
            LiveEnd::Database(error) => Self::Database(error),
            LiveEnd::Event(_) => Self::Overloaded,
        }
    }
}
