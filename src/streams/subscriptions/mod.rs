//! Subscriptions: durable cursors over streams that wake workers (sections 6 and 7 of the protocol).
//!
//! ```text
//! stream events ─▶ dirty ─▶ delivery (a task of each node) ─▶ store: lock, links, WakeState ─┬─▶ WebhookSender
//! requests ──────────────▶ Subscriptions ───────────────────▶                               └─▶ wake stream
//! ```
//!
//! * All state is in the store: configurations, links with their acknowledged offsets, the wake under way, the time of the next attempt, and the
//!   secrets of signatures and tokens.
//! * Decisions on a wake are pure functions ([`WakeState`]), called under the lock of the subscription. The ends of streams are read under it too.
//! * Delivery is at least once: a node that ends in between, or an answer that is lost, leads to another wake with a new generation.

mod config;
mod delivery;
mod dirty;
mod error;
mod matcher;
mod memory;
mod pattern;
mod random;
mod signing;
mod store;
mod subscription;
mod subscription_store;
mod token;
mod wake;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;

use super::{StreamListener, StreamPath, StreamStore};
use crate::db::Database;
use crate::observe::Metrics;
use crate::supervisor::Supervisor;

pub use config::{
    DEFAULT_LEASE_MS, Delivery, LEASE_MS, MAX_DESCRIPTION_BYTES, MAX_ID_BYTES, MAX_REQUEST_STREAMS,
    SubscriptionConfig, SubscriptionId,
};
pub use delivery::WebhookSender;
pub use error::SubscriptionError;
pub use pattern::{Pattern, PatternError};
pub use signing::PublicKeySet;
pub use subscription::{MAX_SHOWN_LINKS, Subscription, SubscriptionNumber, SubscriptionView};
pub use subscription_store::MAX_SUBSCRIPTIONS;
pub use wake::{Ack, Link, Phase, Wake, WakeRef, WakeState};

use dirty::Dirty;
use subscription::{Links, Locked};
use subscription_store::{Secrets, SubscriptionStore, Target};

/// Bytes of a worker's name.
pub const MAX_WORKER_BYTES: usize = 256;
/// The time for which a node uses the secrets that it read. A new key is published much longer before it signs.
const SECRETS_FRESH: Duration = Duration::from_secs(60);

/// The URLs of the service, as its webhooks name them.
#[derive(Debug, Clone)]
pub struct PublicUrls {
    /// Before `/v1/stream`; `None`: the service is not known by any, so that there can be no webhooks.
    base: Option<String>,
}

impl PublicUrls {
    /// Those below a base such as `https://streams.example`, without a `/` at its end.
    pub fn new(base: Option<String>) -> Self {
        Self { base }
    }

    /// The URL of the public keys.
    pub fn jwks(&self) -> Option<String> {
        self.base.as_ref().map(|base| format!("{base}/v1/stream/__ds/jwks.json"))
    }

    /// The URL of a subscription's action.
    fn action(&self, id: &SubscriptionId, action: &str) -> Option<String> {
        let id = percent_encoding::utf8_percent_encode(id.as_str(), percent_encoding::NON_ALPHANUMERIC);
        // Unreserved characters stay as they are (RFC 3986).
        let id =
            id.to_string().replace("%2D", "-").replace("%5F", "_").replace("%2E", ".").replace("%7E", "~");
        self.base.as_ref().map(|base| format!("{base}/v1/stream/__ds/subscriptions/{id}/{action}"))
    }
}

/// The state of a stream of a subscription, on the wire.
#[derive(Debug, Clone, Serialize)]
pub struct StreamStatus {
    path: String,
    link_type: &'static str,
    acked_offset: String,
    tail_offset: String,
    has_pending: bool,
}

impl StreamStatus {
    /// That of a link.
    pub fn new(link: &Link) -> Self {
        Self {
            path: link.path.to_string(),
            link_type: link_type(link),
            acked_offset: link.acked.to_string(),
            tail_offset: link.tail.to_string(),
            has_pending: link.is_pending(),
        }
    }
}

/// `explicit` or `glob`.
pub fn link_type(link: &Link) -> &'static str {
    if link.is_explicit { "explicit" } else { "glob" }
}

/// A claimed wake.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The wake.
    pub wake: WakeRef,
    /// The token for its acknowledgement.
    pub token: String,
    /// Its streams.
    pub links: Vec<Link>,
    /// The length of the lease.
    pub lease_ms: u64,
}

/// A kind of subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Webhooks.
    Webhook,
    /// Wakes in a stream.
    PullWake,
}

/// Subscriptions; cheap to clone.
#[derive(Debug, Clone)]
pub struct Subscriptions(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: SubscriptionStore,
    streams: Arc<dyn StreamStore>,
    sender: Arc<dyn WebhookSender>,
    urls: PublicUrls,
    metrics: Arc<Metrics>,
    dirty: Arc<Dirty>,
    secrets: Mutex<Option<(Arc<Secrets>, Instant)>>,
}

impl Shared {
    /// The secrets, at most a minute old.
    async fn secrets(&self) -> Result<Arc<Secrets>, SubscriptionError> {
        if let Some((secrets, read)) = &*self.secrets.lock()
            && read.elapsed() < SECRETS_FRESH
        {
            return Ok(Arc::clone(secrets));
        }
        let read = self.store.secrets().await;
        let mut kept = self.secrets.lock();
        match read {
            Ok(secrets) => {
                let secrets = Arc::new(secrets);
                *kept = Some((Arc::clone(&secrets), Instant::now()));
                Ok(secrets)
            }
            // Older ones are valid for a day.
            Err(error) => kept.as_ref().map(|(secrets, _)| Arc::clone(secrets)).ok_or(error),
        }
    }
}

/// What subscriptions need.
#[derive(Debug)]
pub struct SubscriptionsParts<'a> {
    /// The streams.
    pub streams: &'a Arc<dyn StreamStore>,
    /// The database; `None`: streams are in memory, and subscriptions too.
    pub database: Option<&'a Database>,
    /// Sends webhooks.
    pub sender: Arc<dyn WebhookSender>,
    /// The service's URLs.
    pub urls: PublicUrls,
    /// The metrics.
    pub metrics: &'a Arc<Metrics>,
    /// Starts the task.
    pub supervisor: &'a Supervisor,
}

impl Subscriptions {
    /// Starts the task that wakes subscriptions.
    pub fn start(parts: SubscriptionsParts<'_>) -> Self {
        let SubscriptionsParts { streams, database, sender, urls, metrics, supervisor } = parts;
        let store = match database {
            Some(database) => SubscriptionStore::postgres(database),
            None => SubscriptionStore::memory(Arc::clone(streams)),
        };
        let dirty = Arc::new(Dirty::default());
        streams.listen(Arc::clone(&dirty) as Arc<dyn StreamListener>);
        let shared = Arc::new(Shared {
            store,
            streams: Arc::clone(streams),
            sender,
            urls,
            metrics: Arc::clone(metrics),
            dirty,
            secrets: Mutex::default(),
        });
        delivery::start(&shared, supervisor);
        Self(shared)
    }

    /// The service's URLs.
    pub fn urls(&self) -> &PublicUrls {
        &self.0.urls
    }

    /// Creates a subscription, unless there is one of the same configuration: then the flag is false.
    ///
    /// # Errors
    ///
    /// [`SubscriptionError`].
    pub async fn create(
        &self,
        id: &SubscriptionId,
        config: &SubscriptionConfig,
    ) -> Result<(SubscriptionView, bool), SubscriptionError> {
        config.check()?;
        if let Delivery::Webhook(url) = &config.delivery {
            if self.0.urls.base.is_none() {
                let message = "webhooks need PUBLIC_URL, for their callbacks".to_owned();
                return Err(SubscriptionError::Invalid { field: "type", message });
            }
            self.0.sender.check(url).await.map_err(SubscriptionError::WebhookUrl)?;
        }
        // Before streams are linked at their ends: an append after that is noticed.
        self.0.dirty.collect(true);
        let (view, is_new) = self.0.store.create(id, config).await?;
        self.0.dirty.subscription(view.subscription.number);
        Ok((view, is_new))
    }

    /// A subscription.
    ///
    /// # Errors
    ///
    /// [`SubscriptionError::NotFound`], or that of the store.
    pub async fn get(&self, id: &SubscriptionId) -> Result<SubscriptionView, SubscriptionError> {
        self.0.store.view(id).await?.ok_or(SubscriptionError::NotFound)
    }

    /// Deletes a subscription. Tokens of its wakes are stale from then on.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn delete(&self, id: &SubscriptionId) -> Result<bool, SubscriptionError> {
        self.0.store.delete(id).await
    }

    /// Links streams by name, at their ends.
    ///
    /// # Errors
    ///
    /// [`SubscriptionError::NotFound`], [`SubscriptionError::Invalid`], or that of the store.
    pub async fn link(&self, id: &SubscriptionId, paths: &[StreamPath]) -> Result<(), SubscriptionError> {
        let subscription = self.get(id).await?.subscription;
        subscription.config.check_streams(paths.iter())?;
        self.0.store.link_explicit(subscription.number, paths).await
    }

    /// Ends a link by name. That of a matching pattern stays.
    ///
    /// # Errors
    ///
    /// [`SubscriptionError::NotFound`], or that of the store.
    pub async fn unlink(&self, id: &SubscriptionId, path: &StreamPath) -> Result<(), SubscriptionError> {
        let subscription = self.get(id).await?.subscription;
        self.0.store.unlink_explicit(&subscription, path).await
    }

    /// Claims the wake of a subscription for a worker.
    ///
    /// # Errors
    ///
    /// [`SubscriptionError`].
    pub async fn claim(&self, id: &SubscriptionId, worker: &str) -> Result<Claimed, SubscriptionError> {
        if !(1..=MAX_WORKER_BYTES).contains(&worker.len()) || worker.contains('\0') {
            return Err(SubscriptionError::invalid("worker", "takes 1 to 256 bytes"));
        }
        let secrets = self.0.secrets().await?;
        let claim = |locked: Locked<'_>| {
            let Locked { subscription, state, moment } = locked;
            if subscription.config.delivery != Delivery::PullWake {
                return Err(wrong_kind(Kind::PullWake));
            }
            let wake = state.claim(&moment, worker)?;
            let token =
                secrets.token.token(&subscription.id, subscription.number.0, wake.generation, moment.now);
            Ok(Claimed { wake, token, links: moment.links.clone(), lease_ms: moment.lease_ms })
        };
        let claimed = self.0.store.decide(Target::Id(id), &[], Links::ToShow, claim).await?;
        claimed.ok_or(SubscriptionError::NotFound)?
    }

    /// Acknowledges offsets of a wake, and ends it or extends its lease. Returns whether the next wake has begun.
    ///
    /// # Errors
    ///
    /// [`SubscriptionError`].
    pub async fn acknowledge(
        &self,
        id: &SubscriptionId,
        kind: Kind,
        token: &str,
        wake: &WakeRef,
        acks: &[Ack],
        is_done: bool,
    ) -> Result<bool, SubscriptionError> {
        let claims = self.0.secrets().await?.token.verify(token, id)?;
        let named: Vec<StreamPath> = acks.iter().map(|ack| ack.path.clone()).collect();
        let acknowledge = |mut locked: Locked<'_>| {
            let number = locked.subscription.number;
            is_of_kind(locked.subscription, kind)?;
            claims.check(number.0, locked.state.generation, locked.moment.now)?;
            let next = locked.state.acknowledge(&mut locked.moment, wake, acks, is_done)?;
            Ok::<_, SubscriptionError>((next, number))
        };
        let decided = self.0.store.decide(Target::Id(id), &named, Links::Pending, acknowledge).await?;
        // The token was made here, so its subscription was deleted.
        let (next, number) = decided.ok_or(SubscriptionError::Fenced)??;
        if next {
            self.0.dirty.subscription(number);
        }
        Ok(next)
    }

    /// Releases a claimed wake without acknowledging anything.
    ///
    /// # Errors
    ///
    /// [`SubscriptionError`].
    pub async fn release(
        &self,
        id: &SubscriptionId,
        token: &str,
        wake: &WakeRef,
    ) -> Result<(), SubscriptionError> {
        let claims = self.0.secrets().await?.token.verify(token, id)?;
        let release = |locked: Locked<'_>| {
            is_of_kind(locked.subscription, Kind::PullWake)?;
            claims.check(locked.subscription.number.0, locked.state.generation, locked.moment.now)?;
            locked.state.release(&locked.moment, wake)?;
            Ok::<_, SubscriptionError>(locked.subscription.number)
        };
        let decided = self.0.store.decide(Target::Id(id), &[], Links::Pending, release).await?;
        let number = decided.ok_or(SubscriptionError::Fenced)??;
        self.0.dirty.subscription(number);
        Ok(())
    }

    /// The public keys of webhooks' signatures.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn public_keys(&self) -> Result<PublicKeySet, SubscriptionError> {
        Ok(self.0.secrets().await?.signing.public())
    }

    /// The id of the key that signs now.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn signing_key(&self) -> Result<String, SubscriptionError> {
        let secrets = self.0.secrets().await?;
        let key = secrets.signing.current(secrets.read_at);
        key.map(|key| key.kid().to_owned()).ok_or(SubscriptionError::NoRandomness)
    }
}

fn is_of_kind(subscription: &Subscription, kind: Kind) -> Result<(), SubscriptionError> {
    let is_pull_wake = subscription.config.delivery == Delivery::PullWake;
    if is_pull_wake == (kind == Kind::PullWake) { Ok(()) } else { Err(wrong_kind(kind)) }
}

fn wrong_kind(kind: Kind) -> SubscriptionError {
    let message = match kind {
        Kind::Webhook => "the subscription is no webhook",
        Kind::PullWake => "the subscription is not pull-wake",
    };
    SubscriptionError::Invalid { field: "type", message: message.to_owned() }
}
