//! The hub: topics, their subscribers, and the memory of all subscribers.
//!
//! A subscriber has a set of topics and one buffer; the changes in it are shared with all others. A subscriber that is slow, or that holds most
//! where memory runs out, is dropped: it comes back with its position, and reads from the table what it missed.
//!
//! Publishing locks the hub for a look-up only. The list of a topic's subscribers is shared with the publisher, and copied once after each
//! change of it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use uuid::Uuid;

use super::buffer::{Buffer, Dropped, Item, Run};
use super::memory::{MemoryBudget, MemoryPermit};
use super::ranking::{Ranking, weighed};
use super::shared_pages::SharedPages;
use super::store::PAGE_BYTES;
use super::{Change, Position};
use crate::config::SubscriberLimits;
use crate::observe::Metrics;
use crate::waking::WakeBatch;

/// The most topics of a subscriber.
pub const MAX_TOPICS: usize = 1_000;

/// A subscription that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// `MAX_SUBSCRIBERS` is reached.
    #[error("there are {0} subscribers already (MAX_SUBSCRIBERS)")]
    TooMany(usize),
    /// The user's `MAX_USER_SUBSCRIBERS` is reached.
    #[error("this user has {0} subscribers already (MAX_USER_SUBSCRIBERS)")]
    TooManyOfUser(usize),
    /// [`MAX_TOPICS`] is reached.
    #[error("a subscriber has up to {MAX_TOPICS} topics")]
    TooManyTopics,
    /// The feed cannot be read.
    #[error("the feed cannot be read now")]
    Away,
}

/// The topics and their subscribers; cheap to clone.
#[derive(Debug, Clone)]
pub struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    ranking: Mutex<Ranking>,
    config: SubscriberLimits,
    metrics: Arc<Metrics>,
    /// Something was committed here, or there is a first subscriber.
    woken: Notify,
    /// Something was committed here.
    written: Notify,
    /// For pages that were read from the database for subscribers: half of `SUBSCRIBERS_BYTES` at most.
    read_permits: Arc<Semaphore>,
    /// `SUBSCRIBERS_BYTES`: for these pages, for waiting changes, and for chunks that sockets have not taken.
    budget: MemoryBudget,
    /// Pages that subscribers share.
    pages: SharedPages,
    mail: Mail,
}

/// Messages of other nodes to this one, which wait in a table ([`super::clients`]).
#[derive(Debug)]
struct Mail {
    /// The node's id: 16 hexadecimal digits, new at each start.
    node: Box<str>,
    /// The topic whose changes announce messages.
    topic: Box<str>,
    /// Whether messages are awaited, and so the feed is read.
    is_awaited: AtomicBool,
    woken: Notify,
}

impl Mail {
    fn new() -> Self {
        let node = format!("{:016x}", fastrand::u64(..));
        let topic = format!("node:{node}").into();
        Self { node: node.into(), topic, is_awaited: AtomicBool::new(false), woken: Notify::new() }
    }
}

#[derive(Debug, Default)]
struct State {
    topics: HashMap<Box<str>, Topic>,
    subscribers: HashMap<u64, Subscription>,
    /// The number of subscribers of each user.
    users: HashMap<Uuid, usize>,
    next: u64,
    /// Topics that subscribers get from the end of the next poll on.
    joining: Vec<Joining>,
    /// All changes up to here were published.
    published: Option<Position>,
}

/// Topics of a subscriber that wait for a poll.
#[derive(Debug)]
pub(super) struct Joining {
    number: u64,
    topics: Vec<Box<str>>,
    answer: Answer,
}

/// How a subscriber learns that its topics have joined, and at which position. Dropped before, it learns that the feed could not be read.
#[derive(Debug)]
enum Answer {
    /// Before it takes anything.
    Direct(oneshot::Sender<Position>),
    /// By an item between its changes.
    Marked(Marker),
}

#[derive(Debug)]
struct Marker {
    buffer: Arc<Buffer>,
    joined: Option<Position>,
}

impl Drop for Marker {
    fn drop(&mut self) {
        self.buffer.mark(self.joined.take());
    }
}

/// A subscriber as the hub knows it.
#[derive(Debug)]
struct Subscription {
    buffer: Arc<Buffer>,
    topics: HashSet<Box<str>>,
}

#[derive(Debug, Default)]
struct Topic {
    subscribers: HashMap<u64, Arc<Buffer>>,
    /// The same for publishers; `None` after a change.
    shared: Option<Arc<[Arc<Buffer>]>>,
}

/// The unit of read permits, in bytes.
const PERMIT_UNIT: usize = 1024;
/// The time between two checks of a subscriber that waits for memory, where nothing wakes it.
const MEMORY_POLL: Duration = Duration::from_millis(250);
/// How long the holder of a read permit may take nothing while others wait for permits.
const PERMIT_PATIENCE: Duration = Duration::from_secs(10);

/// A permit to hold a page that was read from the database for a subscriber. Released when it is dropped.
#[derive(Debug)]
pub struct ReadPermit {
    _permit: Option<OwnedSemaphorePermit>,
    _held: MemoryPermit,
}

/// A request for a read permit, which keeps its place in the queue while it lives.
pub struct ReadPermitRequest(Pin<Box<dyn Future<Output = ReadPermit> + Send + Sync>>);

impl ReadPermitRequest {
    /// Waits for the permit. Cancel-safe: the next call continues to wait.
    pub async fn granted(&mut self) -> ReadPermit {
        self.0.as_mut().await
    }
}

impl std::fmt::Debug for ReadPermitRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadPermitRequest").finish_non_exhaustive()
    }
}

/// A client that listens to topics. Dropped, it unsubscribes.
#[derive(Debug)]
pub struct Subscriber {
    hub: Hub,
    user: Option<Uuid>,
    number: u64,
    buffer: Arc<Buffer>,
}

/// All read permits, in units.
fn permit_units(config: &SubscriberLimits) -> usize {
    (config.subscribers_bytes / 2 / PERMIT_UNIT).min(Semaphore::MAX_PERMITS)
}

impl State {
    /// Adds a topic to a subscriber, if that is still there.
    fn add_topic(&mut self, number: u64, topic: &str) {
        let Some(subscription) = self.subscribers.get_mut(&number) else { return };
        if subscription.topics.insert(topic.into()) {
            let subscribers = self.topics.entry(topic.into()).or_default();
            subscribers.subscribers.insert(number, Arc::clone(&subscription.buffer));
            subscribers.shared = None;
        }
    }

    fn remove_topic(&mut self, number: u64, topic: &str) {
        if let Some(subscribers) = self.topics.get_mut(topic) {
            subscribers.subscribers.remove(&number);
            subscribers.shared = None;
            if subscribers.subscribers.is_empty() {
                self.topics.remove(topic);
            }
        }
    }

    /// The subscribers of a topic, if there are any.
    fn subscribers_of(&mut self, topic: &str) -> Option<Arc<[Arc<Buffer>]>> {
        let Topic { subscribers, shared } = self.topics.get_mut(topic)?;
        Some(Arc::clone(shared.get_or_insert_with(|| subscribers.values().cloned().collect())))
    }
}

impl Hub {
    /// A hub without subscribers. A [`super::FeedReader`] publishes to it.
    pub fn new(config: &SubscriberLimits, metrics: &Arc<Metrics>) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::default(),
            ranking: Mutex::default(),
            config: config.clone(),
            metrics: Arc::clone(metrics),
            woken: Notify::new(),
            written: Notify::new(),
            read_permits: Arc::new(Semaphore::new(permit_units(config))),
            budget: MemoryBudget::new(config.subscribers_bytes, &metrics.gauges.followers_bytes),
            pages: SharedPages::default(),
            mail: Mail::new(),
        }))
    }

    /// Limits.
    pub fn config(&self) -> &SubscriberLimits {
        &self.0.config
    }

    /// Wakes the feed after a commit, before its next poll.
    pub fn wake(&self) {
        self.0.woken.notify_one();
    }

    /// The same after messages or titles were committed, which search indexes.
    pub fn wake_with_search(&self) {
        self.wake();
        self.0.written.notify_one();
    }

    /// This node's id.
    pub(super) fn node(&self) -> &str {
        &self.0.mail.node
    }

    /// Sets whether other nodes may send messages to this one. Then the feed is read.
    pub(super) fn set_mail(&self, is_awaited: bool) {
        if self.0.mail.is_awaited.swap(is_awaited, Relaxed) != is_awaited {
            self.wake();
            self.wake_mail();
        }
    }

    /// Whether other nodes may send messages.
    pub(super) fn awaits_mail(&self) -> bool {
        self.0.mail.is_awaited.load(Relaxed)
    }

    /// There may be messages.
    pub(super) fn wake_mail(&self) {
        self.0.mail.woken.notify_one();
    }

    /// Waits until there may be messages. For one waiter.
    pub(super) async fn mail(&self) {
        self.0.mail.woken.notified().await;
    }

    /// Waits until something was committed since the last call. For one waiter.
    pub async fn written(&self) {
        self.0.written.notified().await;
    }

    /// Subscribes to topics, from a point of the feed on that includes everything committed before this call; returns it too. Earlier
    /// changes are in the table. Subscribers without a user share the limit of all.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`].
    pub async fn subscribe(
        &self,
        topics: &[String],
        user: Option<Uuid>,
    ) -> Result<(Subscriber, Position), SubscribeError> {
        let subscriber = self.register(user)?;
        let start = subscriber.add_topics(topics).await?;
        Ok((subscriber, start))
    }

    /// Pages that subscribers share.
    pub(super) fn pages(&self) -> &SharedPages {
        &self.0.pages
    }

    /// A subscriber without topics. Subscribers without a user share the limit of all.
    ///
    /// # Errors
    ///
    /// [`SubscribeError::TooMany`] and [`SubscribeError::TooManyOfUser`].
    pub(super) fn register(&self, user: Option<Uuid>) -> Result<Subscriber, SubscribeError> {
        let buffer = Arc::new(Buffer::new(&self.0.budget));
        let mut state = self.state();
        if state.subscribers.len() >= self.0.config.max_subscribers {
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
        state.next += 1;
        let number = state.next;
        let subscription = Subscription { buffer: Arc::clone(&buffer), topics: HashSet::new() };
        state.subscribers.insert(number, subscription);
        drop(state);
        self.0.metrics.gauges.followers.inc();
        Ok(Subscriber { hub: self.clone(), user, number, buffer })
    }

    /// The topics that join at the end of the poll that begins now.
    pub(super) fn joining(&self) -> Vec<Joining> {
        std::mem::take(&mut self.state().joining)
    }

    /// Those whose poll delivered nothing wait for the next one.
    pub(super) fn return_joining(&self, joining: Vec<Joining>) {
        self.state().joining.extend(joining);
    }

    /// They get all changes behind the published position.
    pub(super) fn admit(&self, joining: Vec<Joining>) {
        let mut state = self.state();
        let Some(published) = state.published.clone() else { return };
        for Joining { number, topics, answer } in joining {
            for topic in topics {
                state.add_topic(number, &topic);
            }
            match answer {
                Answer::Direct(joined) => {
                    // A client that has left dropped its subscriber too.
                    let _left = joined.send(published.clone());
                }
                // Nothing is published meanwhile: what follows in the buffer is behind the position.
                Answer::Marked(mut marker) => marker.joined = Some(published.clone()),
            }
        }
    }

    fn leave(&self, user: Option<Uuid>, number: u64) {
        let mut state = self.state();
        if let Some(user) = user
            && let Entry::Occupied(mut count) = state.users.entry(user)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        let subscription = state.subscribers.remove(&number);
        for topic in subscription.into_iter().flat_map(|subscription| subscription.topics) {
            state.remove_topic(number, &topic);
        }
        drop(state);
        self.0.metrics.gauges.followers.dec();
    }

    /// Delivers changes, in order, to the subscribers of their topics.
    pub(super) fn publish(&self, changes: Vec<Change>) {
        let mut wakes = WakeBatch::default();
        let max_bytes = Run::MAX_BYTES.min(self.0.config.subscribers_bytes / 32);
        let (mut run, mut bytes) = (Vec::<Change>::new(), 0);
        for change in changes {
            let continues = run.last().is_none_or(|last| last.topic == change.topic) && bytes < max_bytes;
            if !continues {
                self.publish_run(std::mem::take(&mut run), &mut wakes);
                bytes = 0;
            }
            bytes += change.held_bytes();
            run.push(change);
        }
        self.publish_run(run, &mut wakes);
    }

    /// Delivers changes of one topic.
    fn publish_run(&self, changes: Vec<Change>, wakes: &mut WakeBatch) {
        let Some(first) = changes.first() else { return };
        if first.topic == self.0.mail.topic {
            return self.wake_mail();
        }
        let Some(subscribers) = self.state().subscribers_of(&first.topic) else { return };
        let bytes = Run::held_bytes(&changes, subscribers.len());
        self.make_room(bytes);
        let Some(held) = self.0.budget.try_hold(bytes) else {
            // They come back, and read it from the table.
            for _dropped in subscribers.iter().filter(|buffer| buffer.drop_with(Dropped::Slow, wakes)) {
                self.count_dropped(Dropped::Slow);
            }
            return;
        };
        let run = Run::new(changes, held);
        for buffer in &*subscribers {
            if buffer.push(&run, &self.0.config, wakes) == Some(Dropped::Slow) {
                self.count_dropped(Dropped::Slow);
            }
        }
    }

    /// Drops subscribers until `bytes` more leave a quarter of the memory free: first those that hold most for the longest. A
    /// subscriber whose socket takes its chunks holds next to nothing.
    fn make_room(&self, bytes: usize) {
        if self.0.budget.excess(bytes) == 0 {
            return;
        }
        let mut ranking = self.0.ranking.lock();
        // Another publisher may have made room meanwhile.
        let excess = self.0.budget.excess(bytes);
        for _dropped in 0..ranking.drop_heaviest(excess, || self.weighed()) {
            self.count_dropped(Dropped::Slow);
        }
    }

    /// The subscribers that hold memory.
    fn weighed(&self) -> Vec<(u128, Weak<Buffer>)> {
        let state = self.state();
        state.subscribers.values().filter_map(|subscription| weighed(&subscription.buffer)).collect()
    }

    /// All changes up to this position were published.
    pub(super) fn set_published(&self, position: Position) {
        self.state().published = Some(position);
    }

    /// Whether there are subscribers with topics, or that want some, or messages are awaited.
    pub(super) fn has_topics(&self) -> bool {
        let mut state = self.state();
        if state.subscribers.is_empty() {
            state.joining.clear();
        }
        !state.topics.is_empty() || !state.joining.is_empty() || self.awaits_mail()
    }

    /// Drops all subscribers that have topics.
    pub(super) fn drop_all(&self, why: Dropped) {
        let mut wakes = WakeBatch::default();
        let state = self.state();
        for subscription in state.subscribers.values().filter(|subscription| !subscription.topics.is_empty())
        {
            if subscription.buffer.drop_with(why, &mut wakes) {
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
        self.0.state.lock()
    }
}

impl Subscriber {
    /// Adds topics, as [`Hub::subscribe`] does.
    ///
    /// # Errors
    ///
    /// [`SubscribeError::TooManyTopics`] and [`SubscribeError::Away`].
    pub async fn add_topics(&self, topics: &[String]) -> Result<Position, SubscribeError> {
        self.request(topics)?.await.map_err(|_| SubscribeError::Away)
    }

    /// Requests topics. The answer is the point of the feed from which on they are delivered; none comes of a poll that failed.
    pub(super) fn request(&self, topics: &[String]) -> Result<oneshot::Receiver<Position>, SubscribeError> {
        let (joined, answer) = oneshot::channel();
        self.enqueue(topics, || Answer::Direct(joined))?;
        Ok(answer)
    }

    /// Adds topics while changes of others are taken: [`Self::take`] returns [`Item::Joined`] where the new ones begin. One request at a
    /// time.
    ///
    /// # Errors
    ///
    /// [`SubscribeError::TooManyTopics`].
    pub(super) fn start_adding(&self, topics: &[String]) -> Result<(), SubscribeError> {
        let buffer = &self.buffer;
        self.enqueue(topics, || Answer::Marked(Marker { buffer: Arc::clone(buffer), joined: None }))
    }

    fn enqueue(&self, topics: &[String], answer: impl FnOnce() -> Answer) -> Result<(), SubscribeError> {
        let mut state = self.hub.state();
        let own = state.subscribers.get(&self.number).map_or(0, |subscription| subscription.topics.len());
        if own + topics.len() > MAX_TOPICS {
            return Err(SubscribeError::TooManyTopics);
        }
        let topics = topics.iter().map(|topic| topic.as_str().into()).collect();
        state.joining.push(Joining { number: self.number, topics, answer: answer() });
        drop(state);
        self.hub.0.woken.notify_one();
        Ok(())
    }

    /// Removes a topic. Its changes that wait already are still delivered.
    pub fn remove_topic(&self, topic: &str) {
        let mut state = self.hub.state();
        let subscription = state.subscribers.get_mut(&self.number);
        if subscription.is_some_and(|subscription| subscription.topics.remove(topic)) {
            state.remove_topic(self.number, topic);
        }
    }

    /// Waits until there is an item to take, or the subscriber is dropped. Cancel-safe.
    pub async fn ready(&self) {
        self.buffer.ready().await;
    }

    /// Waits until the subscriber is dropped.
    pub async fn dropped(&self) -> Dropped {
        self.buffer.ended().await
    }

    /// Takes the next item, if there is one.
    ///
    /// # Errors
    ///
    /// [`Dropped`]: nothing more comes.
    pub(super) fn take(&self) -> Result<Option<Item>, Dropped> {
        self.buffer.take()
    }

    /// The position up to which the feed was published, if no change up to it is left to take.
    pub fn caught_up(&self) -> Option<Position> {
        // Read before the buffer: a position is set after the changes up to it were pushed.
        let published = self.hub.state().published.clone();
        published.filter(|_| self.buffer.is_empty())
    }

    /// The reason for which the subscriber was dropped, if it was.
    pub fn is_dropped(&self) -> Option<Dropped> {
        self.buffer.dropped()
    }

    /// A chunk that counts in the memory for subscribers until the connection has written it. Waits while the memory is full: for this
    /// subscriber's own chunks to be taken first, else for those of others, of which the slowest are dropped.
    pub async fn hold(&self, chunk: Bytes) -> Bytes {
        let budget = &self.hub.0.budget;
        loop {
            let mut released = std::pin::pin!(budget.released());
            // Before the check, so that nothing between the two is missed.
            released.as_mut().enable();
            let is_alone = !self.buffer.is_in_flight();
            if is_alone {
                self.hub.make_room(chunk.len());
            }
            if (is_alone || budget.excess(chunk.len()) == 0)
                && let Some(held) = self.buffer.try_hold(&chunk)
            {
                return held;
            }
            if is_alone {
                let _woken = tokio::time::timeout(MEMORY_POLL, released).await;
            } else {
                self.buffer.taken().await;
            }
        }
    }

    /// Resolves if this subscriber has held a read permit for a while without taking anything, and others wait for permits.
    pub async fn overstays(&self) {
        loop {
            tokio::time::sleep(PERMIT_PATIENCE).await;
            if self.hub.0.read_permits.available_permits() < self.units() as usize {
                return;
            }
        }
    }

    /// A page and one message, with their events.
    fn units(&self) -> u32 {
        let config = &self.hub.0.config;
        let bytes = PAGE_BYTES + PAGE_BYTES.max(config.message_bytes);
        (bytes / PERMIT_UNIT).min(permit_units(config)) as u32
    }

    /// Requests a permit to hold a page that is read from the database, until its last event is sent.
    pub fn request_permit(&self) -> ReadPermitRequest {
        let (hub, units) = (self.hub.clone(), self.units());
        let acquiring = Arc::clone(&hub.0.read_permits).acquire_many_owned(units);
        ReadPermitRequest(Box::pin(async move {
            // The semaphore is never closed.
            let permit = acquiring.await.ok();
            let bytes = units as usize * PERMIT_UNIT;
            hub.make_room(bytes);
            ReadPermit { _permit: permit, _held: hub.0.budget.hold(bytes) }
        }))
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.hub.leave(self.user, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::super::change::Forms;
    use super::super::{Place, Poll, Snapshot};
    use super::*;
    use crate::db::ServerIdentity;

    fn config() -> SubscriberLimits {
        SubscriberLimits {
            max_subscribers: 3,
            max_user_subscribers: 1,
            max_changes: 3,
            subscriber_bytes: 10_000,
            subscribers_bytes: 2 * PAGE_BYTES,
            message_bytes: 0,
            heartbeat_s: 1,
        }
    }

    fn hub() -> Hub {
        Hub::new(&config(), &Metrics::new().unwrap())
    }

    fn position(xmax: u64) -> Position {
        let snapshot = Snapshot::parse(&format!("{xmax}:{xmax}:")).unwrap();
        Position::of(ServerIdentity::default(), Arc::new(snapshot))
    }

    /// A subscription, and the poll that it waits for.
    async fn subscribe(hub: &Hub, topic: &str, user: Option<Uuid>) -> Result<Subscriber, SubscribeError> {
        let topics = [topic.to_owned()];
        let poll = async {
            hub.set_published(position(5));
            hub.admit(hub.joining());
        };
        let (subscribed, ()) = tokio::join!(biased; hub.subscribe(&topics, user), poll);
        subscribed.map(|(subscriber, _)| subscriber)
    }

    async fn add_topic(hub: &Hub, subscriber: &Subscriber, topic: &str) -> Result<(), SubscribeError> {
        let topics = [topic.to_owned()];
        let (added, ()) =
            tokio::join!(biased; subscriber.add_topics(&topics), async { hub.admit(hub.joining()) });
        added.map(|_| ())
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_subscriber_waits_for_a_poll_and_a_failed_one_is_reported() {
        let hub = hub();
        let topics = ["a:1".to_owned()];
        let subscribing = hub.subscribe(&topics, None);
        tokio::pin!(subscribing);
        assert!(tokio::time::timeout(Duration::from_secs(9), &mut subscribing).await.is_err());
        let joining = hub.joining();
        hub.publish(vec![change("a:1", 0)]);
        hub.drop_all(Dropped::Behind);
        hub.return_joining(joining);
        hub.set_published(position(7));
        hub.admit(hub.joining());
        let (subscriber, start) = subscribing.await.unwrap();
        assert_eq!(start, position(7));
        assert!(matches!(subscriber.take(), Ok(None)), "and is not dropped");
        let failed = tokio::join!(biased; hub.subscribe(&topics, None), async { drop(hub.joining()) });
        assert_eq!(failed.0.map(|_| ()), Err(SubscribeError::Away));
        drop(subscriber);
        let left = hub.register(None).unwrap();
        let topics = ["a:1".to_owned()];
        assert!(tokio::time::timeout(Duration::from_secs(1), left.add_topics(&topics)).await.is_err());
        drop(left);
        assert!(!hub.has_topics() && hub.state().joining.is_empty(), "none is kept");
    }

    #[tokio::test]
    async fn a_subscriber_is_caught_up_once_it_has_taken_its_changes() {
        let hub = hub();
        let subscriber = subscribe(&hub, "a:1", None).await.unwrap();
        assert_eq!(subscriber.caught_up(), Some(position(5)));
        hub.publish(vec![change("a:1", 0)]);
        hub.set_published(position(9));
        assert_eq!(subscriber.caught_up(), None);
        subscriber.take().unwrap().unwrap();
        assert_eq!(subscriber.caught_up(), Some(position(9)));
        hub.drop_all(Dropped::Behind);
        assert_eq!(subscriber.caught_up(), None);
    }

    fn change(topic: &str, bytes: usize) -> Change {
        Change {
            xid: 5,
            place: Place { last: 1, number: 1 },
            poll: Arc::new(Poll {
                origin: ServerIdentity::default(),
                base: Arc::default(),
                end: Arc::default(),
            }),
            is_last: false,
            topic: topic.into(),
            record: "r".into(),
            keys: None,
            action: super::super::Action::Create,
            created_us: 0,
            updated_us: 0,
            at_us: 0,
            data: "x".repeat(bytes),
            old: None,
            forms: Forms::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn idle_subscribers_are_dropped_before_they_hold_all_memory_and_others_are_not() {
        let config = SubscriberLimits { max_subscribers: 101, subscribers_bytes: 2_000_000, ..config() };
        let hub = Hub::new(&config, &Metrics::new().unwrap());
        let reader = subscribe(&hub, "a:reader", None).await.unwrap();
        let mut idle = Vec::new();
        for n in 0..100 {
            let topic = format!("a:{n}");
            let subscriber = subscribe(&hub, &topic, None).await.unwrap();
            let chunk = subscriber.hold(Bytes::from(vec![0; 20_000])).await;
            hub.publish(vec![change(&topic, 9_000)]);
            assert!(hub.0.budget.held() <= 2_000_000);
            // Its socket takes all at once.
            drop(reader.hold(Bytes::from(vec![0; 30_000])).await);
            hub.publish(vec![change("a:reader", 5_000)]);
            assert!(reader.take().unwrap().is_some());
            idle.push((subscriber, chunk));
            tokio::time::advance(Duration::from_millis(10)).await;
            // A dropped one's connection ends.
            idle.retain(|(subscriber, _)| subscriber.is_dropped().is_none());
        }
        assert_eq!(reader.is_dropped(), None);
        assert!(idle.len() > 20 && idle.len() < 60, "{}", idle.len());
        drop(idle);
        assert_eq!(hub.0.budget.held(), 0, "all is released");
    }

    #[tokio::test(start_paused = true)]
    async fn a_chunk_waits_for_its_subscribers_own_before_others_are_dropped() {
        let hub = hub();
        let slow = subscribe(&hub, "a:1", None).await.unwrap();
        let other = subscribe(&hub, "a:2", None).await.unwrap();
        let kept = other.hold(Bytes::from(vec![0; 1_000])).await;
        let first = slow.hold(Bytes::from(vec![0; 250_000])).await;
        let second = slow.hold(Bytes::from(vec![0; 250_000]));
        tokio::pin!(second);
        let patience = Duration::from_secs(60);
        assert!(tokio::time::timeout(patience, &mut second).await.is_err());
        assert_eq!((other.is_dropped(), slow.is_dropped()), (None, None));
        drop(first);
        assert_eq!(second.await.len(), 250_000);
        drop(kept);
    }

    #[tokio::test(start_paused = true)]
    async fn each_user_has_a_limit_and_read_permits_are_bounded() {
        let (hub, user) = (hub(), Uuid::from_u128(1));
        let first = subscribe(&hub, "a:1", Some(user)).await.unwrap();
        assert!(matches!(subscribe(&hub, "a:2", Some(user)).await, Err(SubscribeError::TooManyOfUser(1))));
        let second = subscribe(&hub, "a:1", Some(Uuid::from_u128(2))).await.unwrap();
        let permit = first.request_permit().granted().await;
        let patience = Duration::from_secs(9);
        let mut request = second.request_permit();
        assert!(
            tokio::time::timeout(patience, request.granted()).await.is_err(),
            "there are permits for one"
        );
        // A later request is granted later, though the wait was interrupted.
        let mut later = first.request_permit();
        assert!(tokio::time::timeout(patience, later.granted()).await.is_err());
        drop(permit);
        let granted = request.granted().await;
        assert!(
            tokio::time::timeout(patience, later.granted()).await.is_err(),
            "the place in the queue is kept"
        );
        drop(granted);
        later.granted().await;
        drop(later);
        drop(first);
        subscribe(&hub, "a:2", Some(user)).await.unwrap();
        assert_eq!(hub.state().users.len(), 1, "a user without subscribers is forgotten");
    }

    #[tokio::test]
    async fn a_subscriber_gets_the_changes_of_its_topics_while_it_has_them() {
        let hub = hub();
        let subscriber = subscribe(&hub, "a:1", None).await.unwrap();
        let taken = || {
            let taken = std::iter::from_fn(|| subscriber.take().unwrap());
            let name = |item| match item {
                Item::Change(change) => change.topic.to_string(),
                Item::Joined(joined) => format!("joined {}", joined.is_some()),
            };
            taken.map(name).collect::<Vec<_>>()
        };
        let topics = || {
            hub.publish(vec![change("a:1", 0)]);
            hub.publish(vec![change("a:2", 0)]);
            taken()
        };
        assert_eq!(topics(), ["a:1"]);
        add_topic(&hub, &subscriber, "a:2").await.unwrap();
        add_topic(&hub, &subscriber, "a:2").await.unwrap();
        assert_eq!(topics(), ["a:1", "a:2"]);
        subscriber.remove_topic("a:1");
        subscriber.remove_topic("a:3");
        assert_eq!(topics(), ["a:2"]);
        subscriber.start_adding(&["a:1".to_owned()]).unwrap();
        hub.publish(vec![change("a:2", 0)]);
        hub.admit(hub.joining());
        hub.publish(vec![change("a:1", 0)]);
        assert_eq!(taken(), ["a:2", "joined true", "a:1"], "where its changes begin");
        subscriber.start_adding(&["a:3".to_owned()]).unwrap();
        drop(hub.joining());
        hub.publish(vec![change("a:3", 0)]);
        assert_eq!(taken(), ["joined false"]);
        subscriber.remove_topic("a:1");
        for n in 1..MAX_TOPICS {
            add_topic(&hub, &subscriber, &format!("b:{n}")).await.unwrap();
        }
        assert_eq!(add_topic(&hub, &subscriber, "c").await, Err(SubscribeError::TooManyTopics));
        drop(subscriber);
        assert!(hub.state().topics.is_empty() && hub.state().subscribers.is_empty());
    }

    #[tokio::test]
    async fn changes_of_a_poll_come_in_order_to_subscribers_of_several_topics_and_long_ones_in_several_runs()
    {
        let hub = hub();
        let both = subscribe(&hub, "a:1", None).await.unwrap();
        add_topic(&hub, &both, "a:2").await.unwrap();
        let one = subscribe(&hub, "a:2", None).await.unwrap();
        let topics = ["a:1", "a:1", "a:2", "a:3", "a:1", "a:2"];
        let changes = |bytes: usize| topics.map(|topic| change(topic, bytes)).into_iter().enumerate();
        let numbered = |(number, change)| Change { record: format!("{number}").into(), ..change };
        for bytes in [0, 9_000] {
            hub.publish(changes(bytes).map(numbered).collect());
            let taken = |subscriber: &Subscriber| {
                let taken = std::iter::from_fn(|| subscriber.take().unwrap());
                let name = |item| match item {
                    Item::Change(change) => change.record.to_string(),
                    Item::Joined(_) => "joined".to_owned(),
                };
                taken.map(name).collect::<Vec<_>>().concat()
            };
            assert_eq!((&*taken(&both), &*taken(&one)), ("01245", "25"));
        }
        let long = (0..20).map(|_| change("a:2", 9_000)).collect();
        hub.publish(long);
        assert!(hub.0.budget.held() > 360_000);
        assert!((0..8).all(|_| matches!(both.take(), Ok(Some(_)))));
        assert!((0..8).all(|_| matches!(one.take(), Ok(Some(_)))));
        assert!(hub.0.budget.held() < 300_000, "memory is released before all are taken");
    }

    #[tokio::test(start_paused = true)]
    async fn full_memory_ranks_all_subscribers_once_for_many_changes() {
        let config = SubscriberLimits { max_subscribers: 2_000, subscribers_bytes: 8_000_000, ..config() };
        let hub = Hub::new(&config, &Metrics::new().unwrap());
        let mut subscribers = Vec::new();
        for n in 0..2_000 {
            let topic = format!("a:{n}");
            let subscriber = subscribe(&hub, &topic, None).await.unwrap();
            hub.publish(vec![change(&topic, 9_000)]);
            subscribers.push(subscriber);
        }
        let dropped = subscribers.iter().filter(|s| s.is_dropped().is_some()).count();
        let ranked = hub.0.ranking.lock().count;
        assert!(dropped > 1_000 && ranked < 50, "{dropped} dropped, ranked {ranked} times");
    }
}
