//! A subscription: the changes of some topics behind a position, from the table and then from the hub, without gap or double.
//!
//! ```text
//! position ─▶ the table, up to the point at which the hub took the subscriber ─▶ the hub
//! ```
//!
//! Pages of the table are read with a permit, as they count in `SUBSCRIBERS_BYTES`, and [shared](super::shared_pages).
//!
//! Topics may be added while others are delivered. A subscription has one position for all of its topics: up to it, the changes of each were
//! returned. So while added topics are read from the table, from an older position on, the others pause; a client that comes back with a
//! position of meanwhile gets some changes of the others again, and misses none.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::buffer::Item;
use super::hub::{Hub, ReadPermit, ReadPermitRequest, SubscribeError, Subscriber};
use super::shared_pages::{PageKey, ReadPage, SharedPage};
use super::store::ChangeStore;
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
    /// The topics of [`Subscription::add`] have joined, and are delivered from [`Subscription::position`] on.
    Joined,
    /// They have not: the feed could not be read.
    NotJoined,
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
    hub: Hub,
    subscriber: Subscriber,
    /// Topics that are read from the table.
    topics: Arc<[String]>,
    /// The answer of the poll that is waited for.
    joining: Option<oneshot::Receiver<Position>>,
    /// Topics that were added, and the position from which on they are delivered.
    adding: Option<(Vec<String>, Option<Position>)>,
    /// Whether any topics have joined.
    has_joined: bool,
    /// Whether the last change came from the table.
    is_of_table: bool,
    /// The point of the feed from which on the hub delivers.
    joined: Position,
    /// The changes up to here were returned.
    position: Position,
    /// Whether the hub is next, and the table was read.
    is_live: bool,
    page: Page,
    permit: Option<ReadPermit>,
    /// While the permit is waited for.
    permit_request: Option<ReadPermitRequest>,
}

/// A subscription's page of the table.
#[derive(Debug)]
enum Page {
    None,
    /// It is to be read, by this subscriber or by another.
    Wanted(Arc<SharedPage>),
    /// Its changes are returned: the number of those that were.
    Returning(Arc<SharedPage>, usize),
}

/// The wait after a poll that failed.
const AFTER_ERROR: Duration = Duration::from_millis(200);

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
        let mut subscription = Self::join(hub, changes, topics, user, from)?;
        if let Some(joining) = &mut subscription.joining {
            let joined = joining.await.map_err(|_| SubscribeError::Away)?;
            subscription.join_at(joined);
        }
        Ok(subscription)
    }

    /// The same, without waiting for a poll. [`Self::joined`] comes before everything else.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`].
    pub fn join(
        hub: &Hub,
        changes: ChangeStore,
        topics: Vec<String>,
        user: Option<Uuid>,
        from: Option<Position>,
    ) -> Result<Self, SubscribeError> {
        let subscriber = hub.register(user)?;
        let joining = subscriber.request(&topics)?;
        let mut subscription = Self::without_topics(hub, subscriber, changes);
        subscription.topics = topics.into();
        subscription.joining = Some(joining);
        subscription.is_live = from.is_none();
        subscription.position = from.unwrap_or_else(Position::unknown);
        Ok(subscription)
    }

    /// A subscription without topics; see [`Self::add`].
    pub(super) fn without_topics(hub: &Hub, subscriber: Subscriber, changes: ChangeStore) -> Self {
        Self {
            changes,
            hub: hub.clone(),
            subscriber,
            topics: Arc::new([]),
            joining: None,
            adding: None,
            has_joined: false,
            is_of_table: false,
            joined: Position::unknown(),
            position: Position::unknown(),
            is_live: true,
            page: Page::None,
            permit: None,
            permit_request: None,
        }
    }

    fn join_added(&mut self, joined: Position, topics: Vec<String>, from: Option<Position>) {
        // Without new topics there is nothing to read.
        let from = from.filter(|_| !topics.is_empty());
        self.has_joined = true;
        self.is_live = from.is_none();
        self.position = from.unwrap_or_else(|| joined.clone());
        (self.joined, self.topics) = (joined, topics.into());
    }

    /// Adds topics that it does not have, from a position on, else from now on. [`Self::next`] returns [`Next::Joined`] where they begin: what
    /// was committed before this call is behind it only if `from` names it. Not while [`Self::is_busy`].
    ///
    /// # Errors
    ///
    /// [`SubscribeError::TooManyTopics`].
    pub fn add(&mut self, topics: Vec<String>, from: Option<Position>) -> Result<(), SubscribeError> {
        self.subscriber.start_adding(&topics)?;
        self.adding = Some((topics, from));
        Ok(())
    }

    /// Removes a topic. Its changes that wait already are still returned. Not while [`Self::is_busy`].
    pub fn remove(&mut self, topic: &str) {
        self.subscriber.remove_topic(topic);
    }

    /// Whether added topics have not joined, or are still read from the table.
    pub fn is_busy(&self) -> bool {
        self.adding.is_some() || !self.is_live || self.has_pending()
    }

    /// Whether the last change was read from the table: it is of the topics that were added last.
    pub fn is_of_table(&self) -> bool {
        self.is_of_table
    }

    /// Waits until the subscriber is part of the feed, however long that cannot be read. Cancel-safe.
    pub async fn joined(&mut self) {
        while let Some(joining) = &mut self.joining {
            if let Ok(joined) = joining.await {
                self.join_at(joined);
                return;
            }
            // A failed poll. The answer of the next one is waited for.
            self.joining = self.subscriber.request(&self.topics).ok();
            tokio::time::sleep(AFTER_ERROR).await;
        }
    }

    fn join_at(&mut self, joined: Position) {
        if self.is_live {
            self.position = joined.clone();
        }
        self.joined = joined;
        self.joining = None;
        self.has_joined = true;
    }

    /// The point of the feed from which on the topics that joined last are delivered live.
    pub fn join_point(&self) -> &Position {
        &self.joined
    }

    /// The position behind the last change that was returned.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Waits until [`Self::next`] has something to do, and a permit for it. Cancel-safe.
    pub async fn ready(&mut self) {
        if self.has_pending() {
            return;
        }
        if self.is_live {
            return self.subscriber.ready().await;
        }
        let page = match &self.page {
            Page::Wanted(page) => Arc::clone(page),
            _ => self.want_page(),
        };
        tokio::select! {
            biased;
            () = page.read_by_another() => {}
            () = self.permitted() => {}
        }
    }

    /// The page behind the position.
    fn want_page(&mut self) -> Arc<SharedPage> {
        // A poll that was delivered in part is read to its end, and then what follows it.
        let (end, after) = self.position.partial().unwrap_or((self.joined.base(), Place::START));
        let (base, end) = (Arc::clone(self.position.base()), Arc::clone(end));
        let page = self.hub.pages().page(PageKey { base, end, after, topics: Arc::clone(&self.topics) });
        self.page = Page::Wanted(Arc::clone(&page));
        page
    }

    /// Whether changes of a page are left to return.
    fn has_pending(&self) -> bool {
        match &self.page {
            Page::Returning(page, returned) => page.get().is_some_and(|page| *returned < page.changes.len()),
            _ => false,
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

    /// What was returned was sent. Releases the page and the permit, unless changes of the page are left.
    pub fn sent(&mut self) {
        if !self.has_pending() {
            self.permit = None;
            if let Page::Returning(..) = self.page {
                self.page = Page::None;
            }
        }
    }

    /// The next change, in order.
    ///
    /// # Errors
    ///
    /// [`SubscriptionEnd`]: nothing more comes.
    pub async fn next(&mut self) -> Result<Next, SubscriptionEnd> {
        if let Page::Returning(page, returned) = &mut self.page
            && let Some(change) = page.get().and_then(|page| page.changes.get(*returned))
        {
            *returned += 1;
            self.position = change.position();
            let change = Arc::clone(change);
            self.is_of_table = true;
            return Ok(Next::Change(change));
        }
        if self.is_live {
            return Ok(match self.subscriber.take().map_err(SubscriptionEnd::Dropped)? {
                Some(Item::Change(change)) => {
                    self.position = change.position();
                    self.is_of_table = false;
                    Next::Change(change)
                }
                Some(Item::Joined(joined)) => match (self.adding.take(), joined) {
                    (Some((topics, from)), Some(joined)) => {
                        self.join_added(*joined, topics, from);
                        Next::Joined
                    }
                    _ => Next::NotJoined,
                },
                None => Next::Nothing,
            });
        }
        self.check()?;
        let Page::Wanted(page) = &self.page else { return Ok(Next::Nothing) };
        let page = Arc::clone(page);
        let read = match (page.get(), self.permit.take()) {
            (Some(read), _) => read,
            (None, Some(permit)) => page.read(&self.changes, permit).await?,
            (None, None) => return Ok(Next::Nothing),
        };
        self.permit_request = None;
        self.page = Page::Returning(Arc::clone(&page), 0);
        Ok(self.take_over(read))
    }

    /// Whether changes come as the feed delivers them, and not from the table behind it.
    pub fn is_live(&self) -> bool {
        self.is_live
    }

    /// Fails if the hub dropped the subscriber.
    ///
    /// # Errors
    ///
    /// [`SubscriptionEnd::Dropped`].
    pub fn check(&self) -> Result<(), SubscriptionEnd> {
        self.subscriber.is_dropped().map_or(Ok(()), |why| Err(SubscriptionEnd::Dropped(why)))
    }

    /// Goes on with a page that was read.
    fn take_over(&mut self, page: &ReadPage) -> Next {
        let joined = self.joined.base();
        let origin = page.poll.origin;
        let is_of_here = self.position.origin() == origin && self.joined.origin() == origin;
        if page.is_gone || !is_of_here || !joined.covers(self.position.newest()) {
            self.page = Page::None;
            self.position = self.joined.clone();
            self.is_live = true;
            return Next::Reset;
        }
        self.is_live = !page.is_full && page.poll.end == *joined;
        if page.changes.is_empty() {
            self.page = Page::None;
            self.position = Position::of(origin, Arc::clone(&page.poll.end));
        }
        Next::Nothing
    }

    /// The position up to which nothing is left to return, if the feed has moved on: so a quiet subscriber does not fall behind the
    /// retention of changes. It becomes the subscription's.
    pub fn moved_on(&mut self) -> Option<Position> {
        if !self.has_joined || !self.is_live || self.joining.is_some() || self.has_pending() {
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
        let has_page = matches!(self.page, Page::Returning(..));
        match has_page || self.permit.is_some() || self.permit_request.is_some() {
            true => self.subscriber.overstays().await,
            false => std::future::pending().await,
        }
    }

    /// Waits until the hub drops the subscriber.
    pub async fn dropped(&self) -> SubscriptionEnd {
        SubscriptionEnd::Dropped(self.subscriber.dropped().await)
    }
}
