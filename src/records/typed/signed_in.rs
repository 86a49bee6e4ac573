//! The records of callers who are connected, cached, and the task that drops those that change, by the feed.
//!
//! Requests read their caller's record from the database. Streams ask for it with each change that they judge, so they read it from here: another
//! password or a deletion takes effect as soon as the feed brings it to this node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::sync::Mutex;

use super::accounts::AuthRecord;
use super::catalog::CollectionHandle;
use super::{TypedError, TypedRecords};
use crate::realtime::{self, Realtime, Subscription};
use crate::supervisor::{Next, Step, StepError};

/// The most cached records.
const MAX_RECORDS: usize = 20_000;

/// The time between two looks of the task. Readers look by themselves; this only keeps the subscription short.
pub(super) const INTERVAL: Duration = Duration::from_millis(50);

/// Cached records, by the topic of their collection and their id, and the changes of all accounts, which a reader of a record takes first: the
/// feed delivers a change to all its subscribers before the next one, so a stream never judges a change by an older record of its caller.
#[derive(Debug)]
pub(super) struct SignedIn {
    records: Cache<(String, String), Arc<AuthRecord>>,
    /// Counts what was dropped: a record that was read before may be older.
    dropped: AtomicU64,
    /// Of these topics. `None`: changes are not followed, and nothing is cached.
    subscription: Mutex<Option<(Subscription, BTreeSet<String>)>>,
}

impl Default for SignedIn {
    fn default() -> Self {
        Self { records: Cache::new(MAX_RECORDS), dropped: AtomicU64::new(0), subscription: Mutex::new(None) }
    }
}

impl SignedIn {
    /// Drops all of them.
    pub(super) fn clear(&self) {
        self.dropped.fetch_add(1, Ordering::SeqCst);
        self.records.clear();
    }

    fn forget(&self, topic: &str, id: &str) {
        self.dropped.fetch_add(1, Ordering::SeqCst);
        self.records.remove(&(topic.to_owned(), id.to_owned()));
    }

    async fn follow(&self, subscription: Subscription, topics: BTreeSet<String>) {
        *self.subscription.lock().await = Some((subscription, topics));
        self.clear();
    }

    async fn follows(&self, topics: &BTreeSet<String>) -> bool {
        self.subscription.lock().await.as_ref().is_some_and(|(_, followed)| followed == topics)
    }

    /// Takes the changes that the feed has delivered; returns whether the cached records of a topic are as new as they are.
    async fn catch_up(&self, topic: &str) -> bool {
        let mut held = self.subscription.lock().await;
        let Some((subscription, topics)) = held.as_mut() else { return false };
        loop {
            match subscription.next().await {
                Ok(realtime::Next::Change(change)) => {
                    self.forget(&change.topic, &change.record);
                    subscription.sent();
                }
                Ok(realtime::Next::Reset) => self.clear(),
                Ok(realtime::Next::Nothing) => return subscription.is_live() && topics.contains(topic),
                Ok(_) => {}
                // It was dropped, and begins anew.
                Err(_end) => {
                    *held = None;
                    self.clear();
                    return false;
                }
            }
        }
    }
}

impl TypedRecords {
    /// The record of a connected caller, from the cache if it is there. `None`: there is none.
    ///
    /// # Errors
    ///
    /// [`TypedError::Records`].
    pub async fn signed_in(&self, collection: &str, id: &str) -> Result<Option<Arc<AuthRecord>>, TypedError> {
        let signed_in = &self.inner.signed_in;
        let Some(topic) = self.collection(collection).await?.map(|found| found.topic().to_owned()) else {
            return Ok(None);
        };
        let key = (topic, id.to_owned());
        let is_new = signed_in.catch_up(&key.0).await;
        if let Some(known) = signed_in.records.get(&key).filter(|_| is_new) {
            return Ok(Some(known));
        }
        let before = signed_in.dropped.load(Ordering::SeqCst);
        let record = self.auth_record(collection, id).await?.map(Arc::new);
        if let Some(record) = record.as_ref().filter(|_| is_new) {
            signed_in.records.insert(key.clone(), Arc::clone(record));
            if signed_in.dropped.load(Ordering::SeqCst) != before {
                signed_in.records.remove(&key);
            }
        }
        Ok(record)
    }
}

/// Follows the changes of all accounts.
pub(super) struct SignedInTask {
    typed: TypedRecords,
    realtime: Realtime,
}

impl SignedInTask {
    pub(super) fn new(typed: TypedRecords, realtime: Realtime) -> Self {
        Self { typed, realtime }
    }

    /// The topics of all auth collections.
    async fn wanted(&self) -> Result<BTreeSet<String>, StepError> {
        let collections =
            self.typed.collections().await.map_err(|error| StepError::new(error.to_string()))?;
        let is_auth = |collection: &CollectionHandle| collection.auth().is_some();
        Ok(collections.iter().filter(|one| is_auth(one)).map(|one| one.topic().to_owned()).collect())
    }
}

impl Step for SignedInTask {
    async fn step(&mut self) -> Result<Next, StepError> {
        let signed_in = &self.typed.inner.signed_in;
        let wanted = self.wanted().await?;
        signed_in.catch_up("").await;
        if signed_in.follows(&wanted).await {
            return Ok(Next::Interval);
        }
        // New, or with other collections.
        let joining = self.realtime.join(wanted.iter().cloned().collect(), None, None);
        let mut subscription = joining.map_err(|error| StepError::new(error.to_string()))?;
        subscription.joined().await;
        signed_in.follow(subscription, wanted).await;
        Ok(Next::Interval)
    }
}
