//! A subscription: the changes of some topics behind a position, from the table and then from the hub, without gap or double.
//!
//! ```text
//! position ─▶ the table, up to the point at which the hub took the subscriber ─▶ the hub
//! ```
//!
//! Pages of the table are read with a permit, as they count in `SUBSCRIBERS_BYTES`.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::hub::{Hub, ReadPermit, ReadPermitRequest, SubscribeError, Subscriber};
use super::store::{ChangeStore, Range};
use super::{Change, Dropped, Place, Position};
use crate::db::DbError;

/// The next step of a subscription.
#[derive(Debug)]
pub enum Next {
    /// A change.
    Change(Arc<Change>),
    /// The position was too old, or of another database: some changes are missing. The subscription goes on at
    /// [`Subscription::position`].
    Reset,
    /// None yet; see [`Subscription::ready`].
    Nothing,
}

/// The reason for which a subscription ended.
#[derive(Debug)]
pub enum SubscriptionEnd {
    /// The hub dropped the subscriber.
    Dropped(Dropped),
    /// The database failed.
    Database(Arc<DbError>),
}

impl From<DbError> for SubscriptionEnd {
    fn from(error: DbError) -> Self {
        Self::Database(Arc::new(error))
    }
}

/// A subscription to some topics.
#[derive(Debug)]
pub struct Subscription {
    changes: ChangeStore,
    subscriber: Subscriber,
    topics: Vec<String>,
    /// The point of the feed from which on the hub delivers.
    joined: Position,
    /// The changes up to here were returned.
    position: Position,
    /// Whether the hub is next, and the table was read.
    is_live: bool,
    /// Changes that were read and not yet returned.
    pending: VecDeque<Arc<Change>>,
    permit: Option<ReadPermit>,
    /// While the permit is waited for.
    permit_request: Option<ReadPermitRequest>,
}

impl Subscription {
    /// Subscribes to topics, from a position on, else from now on: what was committed before this call is not delivered then.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`].
    pub async fn start(
        hub: &Hub,
        changes: ChangeStore,
        topics: Vec<String>,
        user: Option<Uuid>,
        from: Option<Position>,
    ) -> Result<Self, SubscribeError> {
        let (subscriber, joined) = hub.subscribe(&topics, user).await?;
        let is_live = from.is_none();
        let position = from.unwrap_or_else(|| joined.clone());
        Ok(Self {
            changes,
            subscriber,
            topics,
            joined,
            position,
            is_live,
            pending: VecDeque::new(),
            permit: None,
            permit_request: None,
        })
    }

    /// The position behind the last change that was returned.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Waits until [`Self::next`] has something to do, and a permit for it. Cancel-safe.
    pub async fn ready(&mut self) {
        match (self.pending.is_empty(), self.is_live) {
            (true, true) => self.subscriber.ready().await,
            (true, false) => self.permitted().await,
            (false, _) => {}
        }
    }

    /// Waits for a permit to read a page, or until the subscriber is dropped. Cancel-safe.
    pub async fn permitted(&mut self) {
        if self.permit.is_some() {
            return;
        }
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

    /// Whether a permit is held.
    pub fn has_permit(&self) -> bool {
        self.permit.is_some()
    }

    /// What was returned was sent. Releases the permit, unless pending changes need it.
    pub fn sent(&mut self) {
        if self.pending.is_empty() {
            self.permit = None;
        }
    }

    /// The next change, in order.
    ///
    /// # Errors
    ///
    /// [`SubscriptionEnd`]: nothing more comes.
    pub async fn next(&mut self) -> Result<Next, SubscriptionEnd> {
        if let Some(change) = self.pending.pop_front() {
            self.position = change.position();
            return Ok(Next::Change(change));
        }
        if self.is_live {
            let change = self.subscriber.take().map_err(SubscriptionEnd::Dropped)?;
            return Ok(match change {
                Some(change) => {
                    self.position = change.position();
                    Next::Change(change)
                }
                None => Next::Nothing,
            });
        }
        self.check()?;
        match self.permit.is_some() {
            true => self.read().await,
            false => Ok(Next::Nothing),
        }
    }

    /// Fails if the hub dropped the subscriber.
    ///
    /// # Errors
    ///
    /// [`SubscriptionEnd::Dropped`].
    pub fn check(&self) -> Result<(), SubscriptionEnd> {
        self.subscriber.is_dropped().map_or(Ok(()), |why| Err(SubscriptionEnd::Dropped(why)))
    }

    /// Reads a page of the table.
    async fn read(&mut self) -> Result<Next, SubscriptionEnd> {
        let (base, joined) = (self.position.base(), self.joined.base());
        // A poll that was delivered in part is read to its end, and then what follows it.
        let (end, after) = self.position.partial().unwrap_or((joined, Place::START));
        let range = Range { base, end: Some(end), after };
        let page = self.changes.page_of_topics(range, &self.topics).await?;
        let origin = page.poll.origin;
        let is_of_here = self.position.origin() == origin && self.joined.origin() == origin;
        if page.is_gone || !is_of_here || !joined.covers(self.position.newest()) {
            self.position = self.joined.clone();
            self.is_live = true;
            return Ok(Next::Reset);
        }
        self.is_live = !page.is_full && page.poll.end == *joined;
        self.pending.extend(page.changes.into_iter().map(Arc::new));
        if self.pending.is_empty() {
            self.position = Position::of(origin, Arc::clone(&page.poll.end));
        }
        Ok(Next::Nothing)
    }

    /// The position up to which nothing is left to return, if the feed has moved on: so a quiet subscriber does not fall behind the
    /// retention of changes. It becomes the subscription's.
    pub fn moved_on(&mut self) -> Option<Position> {
        if !self.is_live || !self.pending.is_empty() {
            return None;
        }
        let position = self.subscriber.caught_up().filter(|position| *position != self.position)?;
        self.position = position.clone();
        Some(position)
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
    pub async fn dropped(&self) -> SubscriptionEnd {
        SubscriptionEnd::Dropped(self.subscriber.dropped().await)
    }
}
