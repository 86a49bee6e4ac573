//! Subscriptions in memory, for `STREAMS_STORE=memory`: they end with the process, as its streams do.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::Mutex;

use super::super::{Freshness, Offset, StreamError, StreamPath, StreamStore};
use super::config::{SubscriptionConfig, SubscriptionId};
use super::error::SubscriptionError;
use super::random;
use super::subscription::{
    LinkedStream, Links, Locked, MAX_SHOWN_LINKS, StoredLink, Subscription, SubscriptionNumber,
    SubscriptionView,
};
use super::subscription_store::{Due, MAX_SUBSCRIPTIONS, PatternSource, Target};
use super::wake::{Link, Moment, WakeState};
use crate::time::Micros;

/// Streams of a page of all streams.
const PAGE: usize = 1_000;

/// Subscriptions to the streams of a store in memory.
#[derive(Debug)]
pub(super) struct MemorySubscriptions {
    streams: Arc<dyn StreamStore>,
    /// An asynchronous lock, as streams are read under it. They are in memory, so it is held for a moment.
    shared: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    last_number: u64,
    revision: u64,
    entries: HashMap<SubscriptionId, Entry>,
}

#[derive(Debug)]
struct Entry {
    subscription: Subscription,
    hash: [u8; 32],
    state: WakeState,
    links: BTreeMap<StreamPath, StoredLink>,
}

impl MemorySubscriptions {
    pub(super) fn new(streams: Arc<dyn StreamStore>) -> Self {
        Self { streams, shared: Mutex::default() }
    }

    /// The stream that lives at a path.
    async fn stream(&self, path: &StreamPath) -> Result<Option<LinkedStream>, StreamError> {
        match self.streams.get(path, Freshness::Known).await {
            Ok(head) => {
                let start = head.origin.as_ref().map_or(Offset::START, |origin| origin.offset);
                Ok(Some(LinkedStream { id: head.id, start, tail: head.tail }))
            }
            Err(StreamError::NotFound | StreamError::Gone) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn links(&self, entry: &Entry) -> Result<Vec<Link>, SubscriptionError> {
        let mut links = Vec::with_capacity(entry.links.len());
        for (path, stored) in &entry.links {
            let link = stored.resolve(path, self.stream(path).await?);
            if link.is_explicit || link.stream.is_some() {
                links.push(link);
            }
        }
        Ok(links)
    }

    async fn view_of(&self, entry: &Entry) -> Result<SubscriptionView, SubscriptionError> {
        let mut links = self.links(entry).await?;
        let has_more = links.len() > MAX_SHOWN_LINKS;
        links.truncate(MAX_SHOWN_LINKS);
        let (subscription, state) = (entry.subscription.clone(), entry.state.clone());
        Ok(SubscriptionView { subscription, state, links, has_more })
    }

    /// All living streams below a prefix.
    async fn list(&self, prefix: &str) -> Result<Vec<(StreamPath, LinkedStream)>, SubscriptionError> {
        let mut found = Vec::new();
        let mut after: Option<StreamPath> = None;
        loop {
            let page = self.streams.list(prefix, after.as_ref(), PAGE).await?;
            after = page.last().map(|last| last.path.clone());
            let is_last = page.len() < PAGE;
            found.extend(page.into_iter().map(|stream| {
                let linked = LinkedStream { id: stream.id, start: Offset::START, tail: stream.tail };
                (stream.path, linked)
            }));
            if is_last {
                return Ok(found);
            }
        }
    }

    pub(super) async fn create(
        &self,
        id: &SubscriptionId,
        config: &SubscriptionConfig,
    ) -> Result<(SubscriptionView, bool), SubscriptionError> {
        let hash = config.hash();
        let mut shared = self.shared.lock().await;
        if let Some(entry) = shared.entries.get(id) {
            let is_same = entry.hash == hash;
            return if is_same {
                Ok((self.view_of(entry).await?, false))
            } else {
                Err(SubscriptionError::Exists)
            };
        }
        if shared.entries.len() >= MAX_SUBSCRIPTIONS {
            return Err(SubscriptionError::TooMany);
        }
        shared.last_number += 1;
        shared.revision += 1;
        let mut links = BTreeMap::new();
        if let Some(pattern) = &config.pattern {
            for (path, stream) in self.list(pattern.literal_prefix()).await? {
                if config.matches(&path) {
                    let link = StoredLink { stream: Some(stream.id), acked: stream.tail, is_explicit: false };
                    links.insert(path, link);
                }
            }
        }
        for path in &config.streams {
            let link = explicit(self.stream(path).await?);
            links.insert(path.clone(), link);
        }
        let subscription = Subscription {
            id: id.clone(),
            number: SubscriptionNumber(shared.last_number),
            config: Arc::new(config.clone()),
            created_at: Micros::now(),
        };
        let entry = Entry { subscription, hash, state: WakeState::default(), links };
        let view = self.view_of(&entry).await?;
        shared.entries.insert(id.clone(), entry);
        Ok((view, true))
    }

    pub(super) async fn view(
        &self,
        id: &SubscriptionId,
    ) -> Result<Option<SubscriptionView>, SubscriptionError> {
        match self.shared.lock().await.entries.get(id) {
            Some(entry) => self.view_of(entry).await.map(Some),
            None => Ok(None),
        }
    }

    pub(super) async fn delete(&self, id: &SubscriptionId) -> bool {
        let mut shared = self.shared.lock().await;
        let is_deleted = shared.entries.remove(id).is_some();
        shared.revision += u64::from(is_deleted);
        is_deleted
    }

    pub(super) async fn link_explicit(
        &self,
        number: SubscriptionNumber,
        paths: &[StreamPath],
    ) -> Result<(), SubscriptionError> {
        let mut shared = self.shared.lock().await;
        let Some(entry) = shared.entry(number) else { return Ok(()) };
        for path in paths {
            match entry.links.get_mut(path) {
                Some(link) => link.is_explicit = true,
                None => {
                    let link = explicit(self.stream(path).await?);
                    entry.links.insert(path.clone(), link);
                }
            }
        }
        Ok(())
    }

    pub(super) async fn unlink_explicit(&self, number: SubscriptionNumber, path: &StreamPath) {
        let mut shared = self.shared.lock().await;
        let Some(entry) = shared.entry(number) else { return };
        if entry.subscription.config.matches(path) {
            if let Some(link) = entry.links.get_mut(path) {
                link.is_explicit = false;
            }
        } else {
            entry.links.remove(path);
        }
    }

    pub(super) async fn decide<T>(
        &self,
        target: Target<'_>,
        _named: &[StreamPath],
        wanted: Links,
        decide: impl FnOnce(Locked<'_>) -> T + Send,
    ) -> Result<Option<T>, SubscriptionError> {
        let (next_id, random) = (random::wake_id()?, fastrand::f64());
        let mut shared = self.shared.lock().await;
        let entry = match target {
            Target::Id(id) => shared.entries.get_mut(id),
            Target::Number(number) => shared.entry(number),
        };
        let Some(entry) = entry else { return Ok(None) };
        let mut links = self.links(entry).await?;
        if wanted == Links::ToShow {
            links.sort_by_key(|link| !link.is_pending());
            links.truncate(MAX_SHOWN_LINKS);
        }
        let Entry { subscription, state, links: stored, .. } = entry;
        let moment = Moment {
            links: &mut links,
            now: Micros::now(),
            delivery: &subscription.config.delivery,
            lease_ms: subscription.config.lease_ms,
            next_id: &next_id,
            random,
        };
        let decided = decide(Locked { subscription, state, moment });
        for link in links {
            if let Some(stored) = stored.get_mut(&link.path) {
                (stored.stream, stored.acked) = (link.stream, link.acked);
            }
        }
        Ok(Some(decided))
    }

    pub(super) async fn patterns(&self, known: u64) -> Option<PatternSource> {
        let shared = self.shared.lock().await;
        (shared.revision != known).then(|| PatternSource {
            revision: shared.revision,
            subscriptions: shared.entries.values().map(|entry| entry.subscription.clone()).collect(),
        })
    }

    pub(super) async fn link_found(
        &self,
        number: SubscriptionNumber,
        paths: &[StreamPath],
    ) -> Result<(), SubscriptionError> {
        let mut shared = self.shared.lock().await;
        let Some(entry) = shared.entry(number) else { return Ok(()) };
        for path in paths {
            if !entry.links.contains_key(path)
                && let Some(stream) = self.stream(path).await?
            {
                let link = StoredLink { stream: Some(stream.id), acked: stream.start, is_explicit: false };
                entry.links.insert(path.clone(), link);
            }
        }
        Ok(())
    }

    pub(super) async fn idle_of(&self, paths: &[StreamPath]) -> Vec<SubscriptionNumber> {
        let shared = self.shared.lock().await;
        let is_linked = |entry: &&Entry| paths.iter().any(|path| entry.links.contains_key(path));
        let idle = shared.entries.values().filter(|entry| entry.state.wake.is_none()).filter(is_linked);
        idle.map(|entry| entry.subscription.number).collect()
    }

    pub(super) async fn idle(&self) -> Vec<SubscriptionNumber> {
        let shared = self.shared.lock().await;
        let idle = shared.entries.values().filter(|entry| entry.state.wake.is_none());
        idle.map(|entry| entry.subscription.number).collect()
    }

    pub(super) async fn due(&self) -> Due {
        let (shared, now) = (self.shared.lock().await, Micros::now());
        let mut due = Due::default();
        for entry in shared.entries.values() {
            match entry.state.due() {
                Some(at) if at <= now => due.now.push(entry.subscription.number),
                Some(at) => due.next_at(at, now),
                None => {}
            }
        }
        due
    }

    /// Every stream's path, and the place where the next look begins.
    pub(super) async fn all_streams(&self) -> Result<Vec<StreamPath>, SubscriptionError> {
        Ok(self.list("").await?.into_iter().map(|(path, _)| path).collect())
    }
}

impl Entries {
    fn entry(&mut self, number: SubscriptionNumber) -> Option<&mut Entry> {
        self.entries.values_mut().find(|entry| entry.subscription.number == number)
    }
}

/// An explicit link that begins now.
fn explicit(stream: Option<LinkedStream>) -> StoredLink {
    StoredLink {
        stream: stream.map(|stream| stream.id),
        acked: stream.map_or(Offset::START, |stream| stream.tail),
        is_explicit: true,
    }
}
