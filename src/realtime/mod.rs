//! The feed of changes: live delivery of what was committed, to subscribers. It knows no domain.
//!
//! Each change leaves a row in the table `changes`, in the transaction that makes it. A [`Position`] in the feed is a snapshot; see
//! [`change`] for the order that subscribers can rely on.
//!
//! ```text
//! changes ──▶ feed (one task, poll by poll, while there are subscribers) ──▶ hub ──▶ subscribers, by topic, each with a bounded buffer
//!    └──────▶ retention (keeps positions, deletes what the oldest needed one saw)
//! ```
//!
//! [`Hub`] is the handle: writers wake the feed by it, readers start a [`Subscription`] with it. `app` starts the feed, the
//! retention, and the check of watched tables, whose triggers write to `changes` too.

mod buffer;
pub mod change;
pub mod clients;
mod feed;
mod hub;
mod matcher;
mod members;
mod memory;
mod order;
mod position;
mod ranking;
mod retention;
mod shared_pages;
mod store;
mod subscription;
mod table_name;
mod watch_check;

pub use buffer::Dropped;
pub use change::{Action, Change};
use clients::Clients;
pub use feed::FeedReader;
pub use hub::{Hub, MAX_TOPICS, SubscribeError};
pub use matcher::{Filter, FilterKey, Filters, MatchError, Matcher, State, Verdict};
pub use members::{Members, changed_members, each_element, value_at};
pub use position::{MAX_POSITION_BYTES, Place, Poll, Position, Snapshot};
pub use retention::ChangeRetention;
use store::WatchStore;
pub use store::{ChangeStore, PAGE_BYTES, position_of_row};
pub use subscription::{Next, Subscription, SubscriptionEnd};
pub use table_name::TableName;
pub use watch_check::WatchCheck;

use std::time::Duration;

use uuid::Uuid;

use crate::config::SubscriberLimits;
use crate::db::{Database, DbError};

/// The time of a statement that reads changes for one subscriber.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// What subscriptions need. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Realtime {
    hub: Hub,
    changes: ChangeStore,
    watches: WatchStore,
    filters: Filters,
    clients: Clients,
}

impl Realtime {
    /// Subscriptions by `hub`, which read changes with a quota of the pool.
    pub fn new(hub: &Hub, database: &Database) -> Self {
        let (changes, watches) = (ChangeStore::new(database, READ_TIMEOUT), WatchStore::new(database));
        let clients = Clients::new(hub, database);
        Self { hub: hub.clone(), changes, watches, filters: Filters::default(), clients }
    }

    /// Subscribes to topics of the feed, from a position on, else from now on.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`].
    pub async fn subscribe(
        &self,
        topics: Vec<String>,
        user: Option<Uuid>,
        from: Option<Position>,
    ) -> Result<Subscription, SubscribeError> {
        Subscription::start(&self.hub, self.changes.clone(), topics, user, from).await
    }

    /// The first of these tables that is not watched.
    ///
    /// # Errors
    ///
    /// [`DbError`].
    pub async fn unwatched<'a>(&self, tables: &[&'a TableName]) -> Result<Option<&'a TableName>, DbError> {
        if tables.is_empty() {
            return Ok(None);
        }
        let topics: Vec<String> = tables.iter().map(|table| table.topic()).collect();
        let watched = self.watches.watched(&topics).await?;
        let found = tables.iter().zip(&topics).find(|(_, topic)| !watched.contains(topic));
        Ok(found.map(|(table, _)| *table))
    }

    /// The filters of all subscriptions.
    pub fn filters(&self) -> &Filters {
        &self.filters
    }

    /// Connections that any node finds by their client ids.
    pub fn clients(&self) -> &Clients {
        &self.clients
    }

    /// The same, without waiting for a poll: see [`Subscription::joined`].
    ///
    /// # Errors
    ///
    /// [`SubscribeError`].
    pub fn join(
        &self,
        topics: Vec<String>,
        user: Option<Uuid>,
        from: Option<Position>,
    ) -> Result<Subscription, SubscribeError> {
        Subscription::join(&self.hub, self.changes.clone(), topics, user, from)
    }

    /// Registers a subscriber without topics, to which some are added.
    ///
    /// # Errors
    ///
    /// [`SubscribeError::TooMany`] and [`SubscribeError::TooManyOfUser`].
    pub fn connect(&self, user: Option<Uuid>) -> Result<Subscription, SubscribeError> {
        Ok(Subscription::without_topics(&self.hub, self.hub.register(user)?, self.changes.clone()))
    }

    /// Limits of subscribers.
    pub fn limits(&self) -> &SubscriberLimits {
        self.hub.config()
    }
}

/// The topic of the feed to which `tidegate_publish` publishes.
pub fn published_topic(name: &str) -> String {
    format!("topic:{name}")
}
