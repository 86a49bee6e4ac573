//! Who follows what, and what waits for him.
//!
//! A follower has a buffer that is bounded in changes and in bytes; the changes in it are shared with all others. One whose
//! buffer is full is dropped: he comes back with the position that he has reached, and reads what he missed from the table.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Change;
use crate::config::RealtimeConfig;
use crate::db::Database;
use crate::observe::Metrics;

/// Why nobody follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FollowError {
    /// There are as many followers as there may be.
    #[error("there are {0} followers already (MAX_FOLLOWERS)")]
    TooMany(usize),
    /// The feed cannot be read.
    #[error("the feed cannot be read now")]
    Away,
}

/// Why a follower gets nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// More waits for him than may.
    Slow,
    /// Changes were deleted before the feed had read them.
    Behind,
}

impl Dropped {
    fn name(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Behind => "behind",
        }
    }
}

/// Who follows what; cheap to clone.
#[derive(Debug, Clone)]
pub struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    config: RealtimeConfig,
    metrics: Arc<Metrics>,
    /// Something was committed here, or somebody follows.
    woken: Notify,
    /// Something was committed here.
    written: Notify,
    /// The feed has begun, or cannot.
    begun: Notify,
}

#[derive(Debug, Default)]
struct State {
    topics: HashMap<Box<str>, HashMap<u64, Arc<Buffer>>>,
    count: usize,
    next: u64,
    feed: Feed,
}

/// What the feed does.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feed {
    /// Nothing, as nobody follows.
    #[default]
    Idle,
    /// It hands on all that is committed from now on.
    Running,
    /// It cannot be read.
    Failing,
}

/// What waits for a follower.
#[derive(Debug, Default)]
struct Buffer {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
    dropped: Option<Dropped>,
}

/// Somebody who follows a topic. He leaves when it is dropped.
#[derive(Debug)]
pub struct Follower {
    hub: Hub,
    topic: Box<str>,
    number: u64,
    buffer: Arc<Buffer>,
}

impl Hub {
    /// A hub that nobody follows yet, and the task that feeds it from a share of the pool.
    pub fn new(
        config: &RealtimeConfig,
        metrics: &Arc<Metrics>,
        share: &Database,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let hub = Self::idle(config, metrics);
        let feeding = super::feed::run(hub.clone(), share.clone());
        (hub, feeding)
    }

    fn idle(config: &RealtimeConfig, metrics: &Arc<Metrics>) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::default(),
            config: config.clone(),
            metrics: Arc::clone(metrics),
            woken: Notify::new(),
            written: Notify::new(),
            begun: Notify::new(),
        }))
    }

    /// Limits.
    pub fn config(&self) -> &RealtimeConfig {
        &self.0.config
    }

    /// Something was committed: whoever follows need not wait until the feed looks by itself.
    pub fn wake(&self) {
        self.0.woken.notify_one();
        self.0.written.notify_one();
    }

    /// Waits until something was committed since the last time; for one who waits.
    pub async fn written(&self) {
        self.0.written.notified().await;
    }

    /// Follows a topic: all changes of transactions that the feed has not handed on yet, and that this call's end could not
    /// see. What was before is in the table.
    ///
    /// # Errors
    ///
    /// [`FollowError`].
    pub async fn follow(&self, topic: &str) -> Result<Follower, FollowError> {
        let follower = self.join(topic)?;
        loop {
            let begun = self.0.begun.notified();
            tokio::pin!(begun);
            // Before the look, so that nothing between the two is missed.
            begun.as_mut().enable();
            let feed = self.state().feed;
            match feed {
                Feed::Running => return Ok(follower),
                Feed::Failing => return Err(FollowError::Away),
                Feed::Idle => begun.await,
            }
        }
    }

    fn join(&self, topic: &str) -> Result<Follower, FollowError> {
        let (topic, buffer) = (Box::<str>::from(topic), Arc::new(Buffer::default()));
        let mut state = self.state();
        if state.count >= self.0.config.max_followers {
            return Err(FollowError::TooMany(self.0.config.max_followers));
        }
        state.count += 1;
        state.next += 1;
        let number = state.next;
        state.topics.entry(topic.clone()).or_default().insert(number, Arc::clone(&buffer));
        drop(state);
        self.0.metrics.gauges.followers.inc();
        self.0.woken.notify_one();
        Ok(Follower { hub: self.clone(), topic, number, buffer })
    }

    fn leave(&self, topic: &str, number: u64) {
        let mut state = self.state();
        state.count -= 1;
        if let Some(followers) = state.topics.get_mut(topic) {
            followers.remove(&number);
            if followers.is_empty() {
                state.topics.remove(topic);
            }
        }
        drop(state);
        self.0.metrics.gauges.followers.dec();
    }

    /// Hands a change on to those who follow its topic.
    pub(super) fn publish(&self, change: Change) {
        let state = self.state();
        let Some(followers) = state.topics.get(&change.topic) else { return };
        let change = Arc::new(change);
        for buffer in followers.values() {
            if buffer.push(&change, &self.0.config) == Some(Dropped::Slow) {
                self.count_dropped(Dropped::Slow);
            }
        }
    }

    /// Whether somebody follows; if not, the feed is idle from now on.
    pub(super) fn is_followed(&self) -> bool {
        let mut state = self.state();
        if state.count == 0 {
            state.feed = Feed::Idle;
        }
        state.count > 0
    }

    pub(super) fn set_feed(&self, feed: Feed) {
        self.state().feed = feed;
        self.0.begun.notify_waiters();
    }

    /// Drops all followers. The feed is idle from then on: who joins now waits until it begins anew, as what is between his
    /// look at the table and the place where it begins would be in neither.
    pub(super) fn drop_all(&self, why: Dropped) {
        let mut state = self.state();
        state.feed = Feed::Idle;
        for buffer in state.topics.values().flat_map(HashMap::values) {
            if buffer.drop_with(why) {
                self.count_dropped(why);
            }
        }
    }

    pub(super) async fn woken(&self) {
        self.0.woken.notified().await;
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    fn count_dropped(&self, why: Dropped) {
        self.0.metrics.followers_dropped.with_label_values(&[why.name()]).inc();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    /// Adds a change; says so if that drops the follower.
    fn push(&self, change: &Arc<Change>, config: &RealtimeConfig) -> Option<Dropped> {
        let mut waiting = self.waiting();
        if waiting.dropped.is_some() {
            return None;
        }
        let bytes = waiting.bytes + change.bytes();
        let is_full = waiting.changes.len() >= config.follower_changes
            || (bytes > config.follower_bytes && !waiting.changes.is_empty());
        if is_full {
            *waiting = Waiting { dropped: Some(Dropped::Slow), ..Waiting::default() };
        } else {
            waiting.bytes = bytes;
            waiting.changes.push_back(Arc::clone(change));
        }
        drop(waiting);
        self.filled.notify_one();
        is_full.then_some(Dropped::Slow)
    }

    fn drop_with(&self, why: Dropped) -> bool {
        let mut waiting = self.waiting();
        let is_new = waiting.dropped.is_none();
        if is_new {
            *waiting = Waiting { dropped: Some(why), ..Waiting::default() };
        }
        drop(waiting);
        self.filled.notify_one();
        is_new
    }

    fn is_empty(&self) -> bool {
        let waiting = self.waiting();
        waiting.dropped.is_none() && waiting.changes.is_empty()
    }

    fn dropped(&self) -> Option<Dropped> {
        self.waiting().dropped
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower {
    /// Waits until there is something to take, or nothing more comes. Nothing is lost if it is dropped.
    pub async fn ready(&self) {
        while self.buffer.is_empty() {
            self.buffer.filled.notified().await;
        }
    }

    /// Waits until nothing more comes.
    pub async fn dropped(&self) -> Dropped {
        loop {
            if let Some(why) = self.buffer.dropped() {
                return why;
            }
            self.buffer.filled.notified().await;
        }
    }

    /// Takes the next change, if there is one.
    ///
    /// # Errors
    ///
    /// [`Dropped`]: nothing more comes.
    pub fn take(&self) -> Result<Option<Arc<Change>>, Dropped> {
        let mut waiting = self.buffer.waiting();
        if let Some(why) = waiting.dropped {
            return Err(why);
        }
        let change = waiting.changes.pop_front();
        if let Some(change) = &change {
            waiting.bytes -= change.bytes();
        }
        Ok(change)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.hub.leave(&self.topic, self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::super::{Action, Position};
    use super::*;

    fn change(number: i64, bytes: usize) -> Arc<Change> {
        Arc::new(Change {
            position: Position { xid: 1, number },
            topic: "a:1".into(),
            record: "r".into(),
            action: Action::Create,
            created_us: 0,
            updated_us: 0,
            at_us: 0,
            data: "x".repeat(bytes),
            encoded: OnceLock::new(),
        })
    }

    fn config() -> RealtimeConfig {
        RealtimeConfig {
            feed_poll_ms: 50,
            max_followers: 1,
            follower_changes: 3,
            follower_bytes: 10_000,
            follower_heartbeat_s: 1,
        }
    }

    fn hub() -> Hub {
        Hub::idle(&config(), &Metrics::new().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn who_joins_after_all_were_dropped_waits_until_the_feed_begins_anew() {
        let hub = hub();
        hub.set_feed(Feed::Running);
        drop(hub.follow("a:1").await.unwrap());
        hub.drop_all(Dropped::Behind);
        let follow = hub.follow("a:1");
        tokio::pin!(follow);
        assert!(tokio::time::timeout(std::time::Duration::from_secs(9), &mut follow).await.is_err());
        hub.set_feed(Feed::Running);
        let follower = follow.await.unwrap();
        assert_eq!(follower.take().map(|change| change.is_none()), Ok(true), "and is not dropped");
    }

    #[test]
    fn a_buffer_is_bounded_in_changes_and_bytes_and_is_empty_once_it_was_full() {
        let config = config();
        let buffer = Buffer::default();
        assert!((0..3).all(|n| buffer.push(&change(n, 10), &config).is_none()));
        assert_eq!(buffer.push(&change(3, 10), &config), Some(Dropped::Slow));
        assert_eq!(buffer.push(&change(4, 10), &config), None, "that is told once");
        assert_eq!((buffer.dropped(), buffer.waiting().changes.len()), (Some(Dropped::Slow), 0));
        let buffer = Buffer::default();
        assert_eq!(buffer.push(&change(0, 100_000), &config), None, "one always fits, however large it is");
        assert_eq!(buffer.push(&change(1, 10), &config), Some(Dropped::Slow));
        assert!(!buffer.drop_with(Dropped::Behind), "the first reason stands");
    }
}
