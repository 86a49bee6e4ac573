//! Who follows what, and what waits for him.
//!
//! A follower has a buffer that is bounded in changes and in bytes; the changes in it are shared with all others. One whose
//! buffer is full is dropped: he comes back with the position that he has reached, and reads what he missed from the table.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use super::budget::MemoryBudget;
use super::buffer::{Buffer, Dropped};
use super::feed::FeedReader;
use super::{Change, Position};
use crate::config::SubscriberLimits;
use crate::db::Database;
use crate::observe::Metrics;
use crate::supervisor::Supervisor;

/// Why nobody follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// There are as many followers as there may be.
    #[error("there are {0} followers already (MAX_FOLLOWERS)")]
    TooMany(usize),
    /// The user has as many as he may have.
    #[error("this user has {0} followers already (MAX_USER_FOLLOWERS)")]
    TooManyOfUser(usize),
    /// The feed cannot be read.
    #[error("the feed cannot be read now")]
    Away,
}

/// Who follows what; cheap to clone.
#[derive(Debug, Clone)]
pub struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    config: SubscriberLimits,
    metrics: Arc<Metrics>,
    /// Something was committed here, or somebody follows.
    woken: Notify,
    /// Something was committed here.
    written: Notify,
    /// The feed has begun, or cannot.
    begun: Notify,
    /// What may be held for followers of what was read of the database: half of `FOLLOWERS_BYTES`.
    room: Arc<Semaphore>,
    /// What may be held of changes that wait, and of chunks that sockets have not taken: the other half.
    budget: MemoryBudget,
}

#[derive(Debug, Default)]
struct State {
    topics: HashMap<Box<str>, HashMap<u64, Arc<Buffer>>>,
    count: usize,
    /// How many each user has.
    users: HashMap<Uuid, usize>,
    next: u64,
    feed: Feed,
    /// All up to here was handed on.
    handed_on: Option<Position>,
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

/// Bytes that are read of the database for a follower at once, changes or messages, or nearly so: one may be larger.
pub const LOT_BYTES: usize = 256 * 1024;
/// What rooms are counted in, in bytes.
const ROOM_UNIT: usize = 1024;
/// How often one who waits for memory looks again, where nothing wakes it.
const MEMORY_LOOK: Duration = Duration::from_millis(250);
/// How long one who keeps room may take nothing, while others wait for it.
const ROOM_PATIENCE: Duration = Duration::from_secs(10);

/// Room for what was read of the database for a follower (half of `FOLLOWERS_BYTES`). It is given back when this is dropped.
#[derive(Debug)]
pub struct Room {
    _taken: Option<OwnedSemaphorePermit>,
}

/// A request for room, which keeps its place in the queue for as long as it lives.
pub struct RoomRequest(Pin<Box<dyn Future<Output = Room> + Send + Sync>>);

impl RoomRequest {
    /// Waits for the room. Dropped before that, the wait goes on with the next call.
    pub async fn granted(&mut self) -> Room {
        self.0.as_mut().await
    }
}

impl std::fmt::Debug for RoomRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RoomRequest").finish_non_exhaustive()
    }
}

/// Somebody who follows a topic. He leaves when it is dropped.
#[derive(Debug)]
pub struct Subscriber {
    hub: Hub,
    topic: Box<str>,
    user: Option<Uuid>,
    number: u64,
    buffer: Arc<Buffer>,
}

/// Room for all together, in units.
fn room_units(config: &SubscriberLimits) -> usize {
    (config.subscribers_bytes / 2 / ROOM_UNIT).min(Semaphore::MAX_PERMITS)
}

impl Hub {
    /// A hub without subscribers, and the task that feeds it from a share of the pool.
    pub fn start(
        config: &SubscriberLimits,
        metrics: &Arc<Metrics>,
        share: &Database,
        supervisor: &Supervisor,
    ) -> Self {
        let hub = Self::idle(config, metrics);
        FeedReader::start(&hub, share, supervisor);
        hub
    }

    fn idle(config: &SubscriberLimits, metrics: &Arc<Metrics>) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::default(),
            config: config.clone(),
            metrics: Arc::clone(metrics),
            woken: Notify::new(),
            written: Notify::new(),
            begun: Notify::new(),
            room: Arc::new(Semaphore::new(room_units(config))),
            budget: MemoryBudget::new(
                config.subscribers_bytes - room_units(config) * ROOM_UNIT,
                &metrics.gauges.followers_bytes,
            ),
        }))
    }

    /// Limits.
    pub fn config(&self) -> &SubscriberLimits {
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
    /// see. What was before is in the table. Nobody's in particular have the whole to share.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`].
    pub async fn subscribe(&self, topic: &str, user: Option<Uuid>) -> Result<Subscriber, SubscribeError> {
        let follower = self.join(topic, user)?;
        loop {
            let begun = self.0.begun.notified();
            tokio::pin!(begun);
            // Before the look, so that nothing between the two is missed.
            begun.as_mut().enable();
            let feed = self.state().feed;
            match feed {
                Feed::Running => return Ok(follower),
                Feed::Failing => return Err(SubscribeError::Away),
                Feed::Idle => begun.await,
            }
        }
    }

    fn join(&self, topic: &str, user: Option<Uuid>) -> Result<Subscriber, SubscribeError> {
        let (topic, buffer) = (Box::<str>::from(topic), Arc::new(Buffer::new(&self.0.budget)));
        let mut state = self.state();
        if state.count >= self.0.config.max_subscribers {
            return Err(SubscribeError::TooMany(self.0.config.max_subscribers));
        }
        if let Some(user) = user {
            let max = self.0.config.max_user_subscribers;
            let count = state.users.entry(user).or_default();
            if *count >= max {
                return Err(SubscribeError::TooManyOfUser(max));
            }
            *count += 1;
        }
        state.count += 1;
        state.next += 1;
        let number = state.next;
        state.topics.entry(topic.clone()).or_default().insert(number, Arc::clone(&buffer));
        drop(state);
        self.0.metrics.gauges.followers.inc();
        self.0.woken.notify_one();
        Ok(Subscriber { hub: self.clone(), topic, user, number, buffer })
    }

    fn leave(&self, topic: &str, user: Option<Uuid>, number: u64) {
        let mut state = self.state();
        state.count -= 1;
        if let Some(user) = user
            && let Entry::Occupied(mut count) = state.users.entry(user)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
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
    pub(super) fn publish(&self, mut change: Change) {
        let state = self.state();
        let Some(followers) = state.topics.get(&change.topic) else { return };
        let bytes = change.held_bytes();
        self.make_room(&state, bytes);
        change.held = self.0.budget.try_hold(bytes);
        if change.held.is_none() {
            // They come back, and read it from the table.
            for _dropped in followers.values().filter(|buffer| buffer.drop_with(Dropped::Slow)) {
                self.count_dropped(Dropped::Slow);
            }
            return;
        }
        let change = Arc::new(change);
        for buffer in followers.values() {
            if buffer.push(&change, &self.0.config) == Some(Dropped::Slow) {
                self.count_dropped(Dropped::Slow);
            }
        }
    }

    /// Drops subscribers until so many more bytes leave a quarter of the memory free: those first that hold most for the
    /// longest. One whose socket takes what it is sent holds next to nothing.
    fn make_room(&self, state: &State, bytes: usize) {
        let mut excess = self.0.budget.excess(bytes);
        if excess == 0 {
            return;
        }
        let all = state.topics.values().flat_map(HashMap::values);
        let mut holders: Vec<(u128, usize, &Arc<Buffer>)> = all
            .filter_map(|buffer| {
                let (held, idle) = buffer.holds()?;
                Some((held as u128 * (idle.as_millis() + 100), held, buffer))
            })
            .collect();
        holders.sort_unstable_by_key(|(weight, ..)| std::cmp::Reverse(*weight));
        for (_, held, buffer) in holders {
            if excess == 0 {
                break;
            }
            if buffer.drop_with(Dropped::Slow) {
                self.count_dropped(Dropped::Slow);
                excess = excess.saturating_sub(held);
            }
        }
    }

    /// All up to this place was handed on.
    pub(super) fn set_handed_on(&self, place: Position) {
        self.state().handed_on = Some(place);
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

impl Subscriber {
    /// Waits until there is something to take, or nothing more comes. Nothing is lost if it is dropped.
    pub async fn ready(&self) {
        self.buffer.ready().await;
    }

    /// Waits until nothing more comes.
    pub async fn dropped(&self) -> Dropped {
        self.buffer.ended().await
    }

    /// Takes the next change, if there is one.
    ///
    /// # Errors
    ///
    /// [`Dropped`]: nothing more comes.
    pub fn take(&self) -> Result<Option<Arc<Change>>, Dropped> {
        self.buffer.take()
    }

    /// Up to where the feed was handed on, if nothing of that is left to take.
    pub fn caught_up(&self) -> Option<Position> {
        // While the state is locked nothing is handed on.
        let state = self.hub.state();
        state.handed_on.filter(|_| self.buffer.is_empty())
    }

    /// Why nothing more comes, if nothing does.
    pub fn is_dropped(&self) -> Option<Dropped> {
        self.buffer.dropped()
    }

    /// A chunk that counts in the memory for subscribers until the connection has written it. Waits while the memory is full: for this
    /// subscriber's own chunks to be taken first, else for those of others, of which the slowest are dropped.
    pub async fn hold(&self, chunk: Bytes) -> Bytes {
        let budget = &self.hub.0.budget;
        loop {
            let mut released = std::pin::pin!(budget.released());
            // Before the look, so that nothing between the two is missed.
            released.as_mut().enable();
            let is_alone = !self.buffer.is_in_flight();
            if is_alone && budget.excess(chunk.len()) > 0 {
                self.hub.make_room(&self.hub.state(), chunk.len());
            }
            if (is_alone || budget.excess(chunk.len()) == 0)
                && let Some(held) = self.buffer.try_hold(&chunk)
            {
                return held;
            }
            if is_alone {
                let _woken = tokio::time::timeout(MEMORY_LOOK, released).await;
            } else {
                self.buffer.taken().await;
            }
        }
    }

    /// Resolves if this subscriber, which keeps room and takes nothing, has done so for a while, and others wait for room.
    pub async fn overstays(&self) {
        loop {
            tokio::time::sleep(ROOM_PATIENCE).await;
            if self.hub.0.room.available_permits() < self.units() as usize {
                return;
            }
        }
    }

    /// What a lot and one message take, and what is told of them.
    fn units(&self) -> u32 {
        let config = &self.hub.0.config;
        let bytes = LOT_BYTES + LOT_BYTES.max(config.message_bytes);
        (bytes / ROOM_UNIT).min(room_units(config)) as u32
    }

    /// Asks for room to hold what is read of the database for this subscriber, for as long as all of it is taken.
    pub fn request_room(&self) -> RoomRequest {
        let acquiring = Arc::clone(&self.hub.0.room).acquire_many_owned(self.units());
        // The semaphore is never closed.
        RoomRequest(Box::pin(async move { Room { _taken: acquiring.await.ok() } }))
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.hub.leave(&self.topic, self.user, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> SubscriberLimits {
        SubscriberLimits {
            feed_poll_ms: 50,
            max_subscribers: 3,
            max_user_subscribers: 1,
            max_changes: 3,
            subscriber_bytes: 10_000,
            subscribers_bytes: 2 * LOT_BYTES,
            message_bytes: 0,
            heartbeat_s: 1,
        }
    }

    fn hub() -> Hub {
        Hub::idle(&config(), &Metrics::new().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn who_joins_after_all_were_dropped_waits_until_the_feed_begins_anew() {
        let hub = hub();
        hub.set_feed(Feed::Running);
        drop(hub.subscribe("a:1", None).await.unwrap());
        hub.drop_all(Dropped::Behind);
        let follow = hub.subscribe("a:1", None);
        tokio::pin!(follow);
        assert!(tokio::time::timeout(Duration::from_secs(9), &mut follow).await.is_err());
        hub.set_feed(Feed::Running);
        let follower = follow.await.unwrap();
        assert_eq!(follower.take().map(|change| change.is_none()), Ok(true), "and is not dropped");
    }

    #[tokio::test]
    async fn nobody_is_caught_up_with_what_he_has_not_taken() {
        let hub = hub();
        hub.set_feed(Feed::Running);
        let follower = hub.subscribe("a:1", None).await.unwrap();
        assert_eq!(follower.caught_up(), None, "nothing was handed on yet");
        hub.set_handed_on(Position::before(5));
        assert_eq!(follower.caught_up(), Some(Position::before(5)));
        hub.publish(Change {
            position: Position { xid: 5, number: 1 },
            topic: "a:1".into(),
            record: "r".into(),
            action: super::super::Action::Create,
            created_us: 0,
            updated_us: 0,
            at_us: 0,
            data: String::new(),
            encoded: std::sync::OnceLock::new(),
            held: None,
        });
        hub.set_handed_on(Position::before(9));
        assert_eq!(follower.caught_up(), None);
        follower.take().unwrap().unwrap();
        assert_eq!(follower.caught_up(), Some(Position::before(9)));
        hub.drop_all(Dropped::Behind);
        assert_eq!(follower.caught_up(), None);
    }

    fn change(topic: &str, bytes: usize) -> Change {
        Change {
            position: Position { xid: 5, number: 1 },
            topic: topic.into(),
            record: "r".into(),
            action: super::super::Action::Create,
            created_us: 0,
            updated_us: 0,
            at_us: 0,
            data: "x".repeat(bytes),
            encoded: std::sync::OnceLock::new(),
            held: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_take_nothing_are_dropped_before_they_hold_all_memory_and_others_are_not() {
        let config = SubscriberLimits { max_subscribers: 100, subscribers_bytes: 2_000_000, ..config() };
        let hub = Hub::idle(&config, &Metrics::new().unwrap());
        hub.set_feed(Feed::Running);
        let limit = 2_000_000 - room_units(&config) * ROOM_UNIT;
        let reader = hub.subscribe("a:reader", None).await.unwrap();
        let mut idle = Vec::new();
        for n in 0..50 {
            let topic = format!("a:{n}");
            let follower = hub.subscribe(&topic, None).await.unwrap();
            let chunk = follower.hold(Bytes::from(vec![0; 20_000])).await;
            hub.publish(change(&topic, 9_000));
            assert!(hub.0.budget.held() <= limit);
            // Its socket takes all at once.
            drop(reader.hold(Bytes::from(vec![0; 30_000])).await);
            hub.publish(change("a:reader", 5_000));
            assert!(reader.take().unwrap().is_some());
            idle.push((follower, chunk));
            tokio::time::advance(Duration::from_millis(10)).await;
            // A dropped one's connection ends.
            idle.retain(|(follower, _)| follower.is_dropped().is_none());
        }
        assert_eq!(reader.is_dropped(), None);
        assert!(idle.len() > 10 && idle.len() < 30, "{}", idle.len());
        drop(idle);
        assert_eq!(hub.0.budget.held(), 0, "all is given back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_chunk_waits_for_its_subscribers_own_before_others_are_dropped() {
        let hub = hub();
        hub.set_feed(Feed::Running);
        let slow = hub.subscribe("a:1", None).await.unwrap();
        let other = hub.subscribe("a:2", None).await.unwrap();
        let kept = other.hold(Bytes::from(vec![0; 1_000])).await;
        let first = slow.hold(Bytes::from(vec![0; 150_000])).await;
        let second = slow.hold(Bytes::from(vec![0; 150_000]));
        tokio::pin!(second);
        let patience = Duration::from_secs(60);
        assert!(tokio::time::timeout(patience, &mut second).await.is_err());
        assert_eq!((other.is_dropped(), slow.is_dropped()), (None, None));
        drop(first);
        assert_eq!(second.await.len(), 150_000);
        drop(kept);
    }

    #[tokio::test(start_paused = true)]
    async fn each_user_has_his_own_share_and_what_is_read_for_all_is_bounded() {
        let (hub, user) = (hub(), Uuid::from_u128(1));
        hub.set_feed(Feed::Running);
        let first = hub.subscribe("a:1", Some(user)).await.unwrap();
        assert!(matches!(hub.subscribe("a:2", Some(user)).await, Err(SubscribeError::TooManyOfUser(1))));
        let second = hub.subscribe("a:1", Some(Uuid::from_u128(2))).await.unwrap();
        let room = first.request_room().granted().await;
        let patience = Duration::from_secs(9);
        let mut request = second.request_room();
        assert!(tokio::time::timeout(patience, request.granted()).await.is_err(), "there is room for one");
        // Whoever asks later is served later, though the wait was interrupted.
        let mut later = first.request_room();
        assert!(tokio::time::timeout(patience, later.granted()).await.is_err());
        drop(room);
        let granted = request.granted().await;
        assert!(
            tokio::time::timeout(patience, later.granted()).await.is_err(),
            "the place in the queue is kept"
        );
        drop(granted);
        later.granted().await;
        drop(later);
        drop(first);
        hub.subscribe("a:2", Some(user)).await.unwrap();
        assert_eq!(hub.state().users.len(), 1, "who follows nothing more is not remembered");
    }
}
