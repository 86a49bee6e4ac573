//! The task that wakes subscriptions: it looks at those whose streams changed, makes the attempts that are due, and ends leases.
//!
//! Every node runs one. A wake is taken under its subscription's lock, so it is delivered by one of them. Changes of streams arrive from this node's
//! store at once; every ten seconds it looks for those that a node could not look at before it ended.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::{Append, AppendBody, Producer, StreamError, StreamPath};
use super::config::Delivery;
use super::dirty::Changes;
use super::error::SubscriptionError;
use super::matcher::Matcher;
use super::subscription::{Links, Locked, Subscription, SubscriptionNumber};
use super::subscription_store::{ScanPosition, Target};
use super::wake::{Attempt, AttemptOutcome};
use super::{Shared, StreamStatus};
use crate::supervisor::{Backoff, Next, Step, StepError, Supervisor};
use crate::time::Micros;

/// The longest time between two looks for what is due.
const POLL: Duration = Duration::from_secs(1);
/// The shortest time between two looks at changed streams: a stream under load costs at most so many.
const COALESCE: Duration = Duration::from_millis(5);
/// The time between two looks for what other nodes left.
const SWEEP: Duration = Duration::from_secs(10);
/// The same on a node that knows of no subscriptions: the nodes that do look for all. It lets idle connections close.
const IDLE_SWEEP: Duration = Duration::from_secs(60);
/// Sweeps between two removals of links.
const SWEEPS_A_CLEANING: u32 = 60;
/// A stream that is not committed for so long has failed: ids below the last one are then complete.
const LONGEST_COMMIT: Duration = Duration::from_secs(120);
/// Deliveries of a node at once.
const MAX_DELIVERIES: usize = 64;
/// The longest that a receiver may take to answer.
const LONGEST_DELIVERY: Duration = Duration::from_secs(30);
/// Time after which the recording of an outcome is tried again.
const RECORD_AGAIN: Duration = Duration::from_millis(500);
const RECORD_ATTEMPTS: u32 = 10;
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(5) };

/// Sends webhooks.
pub trait WebhookSender: std::fmt::Debug + Send + Sync + 'static {
    /// Checks a URL before it is accepted. The error is a phrase such as "is no absolute URL".
    fn check<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<(), String>>;

    /// Posts JSON to a URL with its signature; returns the content of a 2xx answer. The error is for the subscription's owner.
    fn send<'a>(
        &'a self,
        url: &'a str,
        body: Bytes,
        signature: String,
        within: Duration,
    ) -> BoxFuture<'a, Result<Vec<u8>, String>>;
}

/// The body of a webhook (section 7.1).
#[derive(Serialize)]
struct WebhookBody<'a> {
    subscription_id: &'a str,
    wake_id: &'a str,
    generation: u64,
    streams: Vec<StreamStatus>,
    callback_url: String,
    callback_token: String,
}

/// The answer of a webhook, as far as it is understood.
#[derive(Deserialize, Default)]
struct WebhookAnswer {
    #[serde(default)]
    done: bool,
}

/// A message of a wake stream (section 7.2).
#[derive(Serialize)]
struct WakeEvent<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    subscription_id: &'a str,
    stream: &'a str,
    generation: u64,
    /// Milliseconds of Unix time.
    ts: i64,
}

/// Starts the task.
pub(super) fn start(shared: &Arc<Shared>, supervisor: &Supervisor) {
    let now = Instant::now();
    let dispatcher = Dispatcher {
        shared: Arc::clone(shared),
        matcher: Matcher::default(),
        permits: Arc::new(Semaphore::new(MAX_DELIVERIES)),
        deliveries: JoinSet::new(),
        next_due: now,
        next_sweep: now,
        sweeps: 0,
        scanned: ScanPosition::default(),
        candidate: None,
    };
    supervisor.periodic("stream-subscriptions", Duration::ZERO, BACKOFF, dispatcher);
}

struct Dispatcher {
    shared: Arc<Shared>,
    matcher: Matcher,
    permits: Arc<Semaphore>,
    deliveries: JoinSet<()>,
    next_due: Instant,
    next_sweep: Instant,
    sweeps: u32,
    /// Streams up to this id were matched with all patterns.
    scanned: ScanPosition,
    /// A later place, and the time from which it is complete.
    candidate: Option<(ScanPosition, Instant)>,
}

impl Step for Dispatcher {
    async fn step(&mut self) -> Result<Next, StepError> {
        while self.deliveries.try_join_next().is_some() {}
        let timer = self.next_due.min(self.next_sweep);
        tokio::select! {
            () = self.shared.dirty.changed() => {}
            () = sleep_until(timer) => {}
        }
        let changes = self.shared.dirty.take();
        match self.look(&changes).await {
            Ok(()) => Ok(Next::After(COALESCE)),
            Err(error) => {
                self.shared.dirty.restore(changes);
                Err(StepError::new(format!("subscriptions to streams wait: {}", crate::db::chain(&error))))
            }
        }
    }

    fn recover(&mut self) {
        // The changes of the step that panicked are lost: a sweep finds them.
        self.next_sweep = Instant::now();
    }
}

impl Dispatcher {
    async fn look(&mut self, changes: &Changes) -> Result<(), SubscriptionError> {
        let now = Instant::now();
        let is_sweep = now >= self.next_sweep || changes.is_incomplete;
        if now >= self.next_due || is_sweep || !changes.subscriptions.is_empty() {
            self.reload().await?;
            if self.matcher.is_empty() {
                self.next_due = now + IDLE_SWEEP;
                self.next_sweep = self.next_due;
                return Ok(());
            }
            self.next_sweep = self.next_sweep.min(now + SWEEP);
        }
        let mut numbers: Vec<SubscriptionNumber> = changes.subscriptions.iter().copied().collect();
        if !changes.paths.is_empty() {
            let paths = changes.paths.iter().map(|(path, is_new)| (path, *is_new));
            self.link(paths).await?;
            let paths: Vec<StreamPath> = changes.paths.keys().cloned().collect();
            numbers.extend(self.shared.store.idle_of(&paths).await?);
        }
        if is_sweep {
            self.scan().await?;
            numbers.extend(self.shared.store.idle_with_data().await?);
            self.sweeps += 1;
            if self.sweeps.is_multiple_of(SWEEPS_A_CLEANING) {
                self.shared.store.forget_links().await?;
            }
            self.next_sweep = now + SWEEP;
        }
        if now >= self.next_due || is_sweep || !numbers.is_empty() {
            self.attempt_all(&mut numbers).await?;
        }
        Ok(())
    }

    /// Attempts what is due, and what these subscriptions may have to deliver.
    async fn attempt_all(&mut self, numbers: &mut Vec<SubscriptionNumber>) -> Result<(), SubscriptionError> {
        let due = self.shared.store.due().await?;
        numbers.extend(due.now);
        numbers.sort_unstable();
        numbers.dedup();
        let mut wait = due.next.unwrap_or(POLL).min(POLL);
        for number in numbers.iter() {
            if !self.attempt(*number).await? {
                // All deliveries are busy; what is left stays due.
                wait = COALESCE;
                break;
            }
        }
        self.next_due = Instant::now() + wait;
        Ok(())
    }

    /// Reloads the subscriptions if they changed.
    async fn reload(&mut self) -> Result<(), SubscriptionError> {
        if let Some(source) = self.shared.store.patterns(self.matcher.revision()).await? {
            self.shared.dirty.collect(!source.subscriptions.is_empty());
            self.matcher.replace(source);
        }
        Ok(())
    }

    /// Links streams that patterns match.
    async fn link<'a>(
        &mut self,
        paths: impl Iterator<Item = (&'a StreamPath, bool)> + Clone + Send,
    ) -> Result<(), SubscriptionError> {
        for (number, unlinked) in self.matcher.unlinked(&paths) {
            self.shared.store.link_found(number, &unlinked).await?;
            self.matcher.linked(number, unlinked);
        }
        Ok(())
    }

    /// Looks for streams that no node has linked.
    async fn scan(&mut self) -> Result<(), SubscriptionError> {
        if !self.matcher.has_patterns() {
            return Ok(());
        }
        let (mut from, now) = (self.scanned, Instant::now());
        loop {
            let (paths, next) = self.shared.store.scan(from).await?;
            self.link(paths.iter().map(|path| (path, false))).await?;
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        match self.candidate {
            Some((place, complete)) if complete <= now => {
                self.scanned = place;
                self.candidate = Some((from, now + LONGEST_COMMIT));
            }
            Some(_) => {}
            None => self.candidate = Some((from, now + LONGEST_COMMIT)),
        }
        Ok(())
    }

    /// Makes the attempt that is due for a subscription, if there is one. False: too many are under way.
    async fn attempt(&mut self, number: SubscriptionNumber) -> Result<bool, SubscriptionError> {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { return Ok(false) };
        let begin = |locked: Locked<'_>| {
            let attempt = locked.state.begin_attempt(&locked.moment)?;
            Some((locked.subscription.clone(), attempt, locked.moment.now))
        };
        let begun = self.shared.store.decide(Target::Number(number), &[], Links::ToShow, begin).await?;
        if let Some((subscription, attempt, now)) = begun.flatten() {
            let shared = Arc::clone(&self.shared);
            self.deliveries.spawn(async move {
                let outcome = deliver(&shared, &subscription, &attempt, now).await;
                record(&shared, &subscription, &attempt, outcome).await;
                drop(permit);
            });
        }
        Ok(true)
    }
}

fn kind(subscription: &Subscription) -> &'static str {
    match subscription.config.delivery {
        Delivery::Webhook(_) => "webhook",
        Delivery::PullWake => "pull-wake",
    }
}

/// Makes an attempt.
async fn deliver(
    shared: &Shared,
    subscription: &Subscription,
    attempt: &Attempt,
    now: Micros,
) -> AttemptOutcome {
    let delivered = match &subscription.config.delivery {
        Delivery::Webhook(url) => send(shared, subscription, url, attempt, now).await,
        Delivery::PullWake => announce(shared, subscription, attempt, now).await,
    };
    delivered.unwrap_or_else(AttemptOutcome::Failed)
}

async fn send(
    shared: &Shared,
    subscription: &Subscription,
    url: &str,
    attempt: &Attempt,
    now: Micros,
) -> Result<AttemptOutcome, String> {
    let secrets = shared.secrets().await.map_err(|_| "the signing key cannot be read".to_owned())?;
    let id = &subscription.id;
    let callback_url = shared.urls.action(id, "callback").ok_or("PUBLIC_URL is not set")?;
    let body = WebhookBody {
        subscription_id: id.as_str(),
        wake_id: &attempt.wake.id,
        generation: attempt.wake.generation,
        streams: attempt.links.iter().map(StreamStatus::new).collect(),
        callback_url,
        callback_token: secrets.token.token(id, subscription.number.0, attempt.wake.generation, now),
    };
    let body = serde_json::to_vec(&body).map_err(|error| error.to_string())?;
    let key = secrets.signing.current(now).ok_or("there is no signing key")?;
    let signature = key.signature(&body, now);
    // Its outcome is recorded before the lease ends.
    let within = Duration::from_millis(subscription.config.lease_ms / 10 * 9).min(LONGEST_DELIVERY);
    let answer = shared.sender.send(url, body.into(), signature, within).await?;
    // Whatever else the answer is, the receiver has the wake.
    let answer: WebhookAnswer = serde_json::from_slice(&answer).unwrap_or_default();
    Ok(if answer.done { AttemptOutcome::Done } else { AttemptOutcome::Delivered })
}

async fn announce(
    shared: &Shared,
    subscription: &Subscription,
    attempt: &Attempt,
    now: Micros,
) -> Result<AttemptOutcome, String> {
    let config = &subscription.config;
    let wake_stream = config.wake_stream.as_ref().ok_or("there is no wake stream")?;
    let stream = attempt.links.iter().find(|link| link.is_pending()).map_or("", |link| link.path.as_str());
    let event = WakeEvent {
        kind: "wake",
        subscription_id: subscription.id.as_str(),
        stream,
        generation: attempt.wake.generation,
        ts: now.0 / 1_000,
    };
    let event = serde_json::to_vec(&event).map_err(|error| error.to_string())?;
    let head = shared.streams.get(wake_stream, super::super::Freshness::Known).await.map_err(refused)?;
    if !head.content_type.is_json() {
        return Err("the wake stream is no stream of JSON".to_owned());
    }
    let append = Append {
        content_type: Some(head.content_type),
        body: AppendBody::of_json(&event).map_err(|error| error.to_string())?,
        seq: None,
        // A repeated attempt adds no second message: a generation is an epoch of one request.
        producer: Some(Producer {
            id: format!("__ds/{}", subscription.number.0).into(),
            epoch: attempt.wake.generation,
            seq: 0,
        }),
        close: false,
    };
    shared.streams.append(wake_stream, append).await.map_err(refused)?;
    Ok(AttemptOutcome::Delivered)
}

fn refused(error: StreamError) -> String {
    match error {
        StreamError::NotFound | StreamError::Gone => "the wake stream does not exist".to_owned(),
        StreamError::Closed { .. } => "the wake stream is closed".to_owned(),
        // The epoch is one of a stream that was deleted and made anew, or the database failed.
        error => format!("the wake stream: {error}"),
    }
}

/// Records the outcome of an attempt. Where that fails, the lease ends, and another wake follows.
async fn record(shared: &Shared, subscription: &Subscription, attempt: &Attempt, outcome: AttemptOutcome) {
    let label = match &outcome {
        AttemptOutcome::Failed(_) => "failed",
        AttemptOutcome::Delivered | AttemptOutcome::Done => "delivered",
    };
    shared.metrics.stream_wakes.with_label_values(&[kind(subscription), label]).inc();
    let number = subscription.number;
    let named: Vec<StreamPath> = attempt.links.iter().map(|link| link.path.clone()).collect();
    for _ in 0..RECORD_ATTEMPTS {
        let end = |mut locked: Locked<'_>| {
            let was_failed = locked.state.is_failed();
            locked.state.end_attempt(&mut locked.moment, attempt, &outcome);
            (was_failed, locked.state.failure.clone(), locked.state.due().is_some())
        };
        match shared.store.decide(Target::Number(number), &named, Links::Pending, end).await {
            Ok(ended) => {
                if let Some((was_failed, failure, is_due)) = ended {
                    log(subscription, was_failed, failure.as_deref());
                    if is_due {
                        shared.dirty.subscription(number);
                    }
                }
                return;
            }
            Err(_) => sleep(RECORD_AGAIN).await,
        }
    }
    tracing::warn!(
        subscription = subscription.id.as_str(),
        "the outcome of a wake is not recorded; it wakes again"
    );
}

/// Logs the first failure of a subscription, and its end.
fn log(subscription: &Subscription, was_failed: bool, failure: Option<&str>) {
    let id = subscription.id.as_str();
    match failure {
        Some(failure) if !was_failed => {
            tracing::warn!(
                subscription = id,
                failure,
                "a subscription's wake cannot be delivered; it is retried"
            );
        }
        None if was_failed => tracing::info!(subscription = id, "a subscription's wakes are delivered again"),
        _ => {}
    }
}
