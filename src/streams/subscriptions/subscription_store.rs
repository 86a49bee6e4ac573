//! The store of subscriptions: in Postgres, or in memory. Decisions are those of [`WakeState`](super::wake::WakeState), made under the
//! subscription's lock in both.

use std::sync::Arc;
use std::time::Duration;

use super::super::{StreamPath, StreamStore};
use super::config::{SubscriptionConfig, SubscriptionId};
use super::error::SubscriptionError;
use super::memory::MemorySubscriptions;
use super::random;
use super::signing::{Rotation, SEED_BYTES, SigningKey, SigningKeys};
use super::store::PostgresSubscriptions;
use super::subscription::{Links, Locked, Subscription, SubscriptionNumber, SubscriptionView};
use super::token::{SECRET_BYTES, TokenSecret};
use crate::db::Database;
use crate::time::Micros;

/// Subscriptions of a service.
pub const MAX_SUBSCRIPTIONS: usize = 10_000;
/// Streams that one look for missed ones reads at once.
pub(super) const SCAN_PAGE: usize = 5_000;

/// The subscription that a decision is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target<'a> {
    Id(&'a SubscriptionId),
    Number(SubscriptionNumber),
}

/// Subscriptions for which something is due.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Now.
    pub(super) now: Vec<SubscriptionNumber>,
    /// Until the next one is; `None`: nothing is known.
    pub(super) next: Option<Duration>,
}

impl Due {
    /// Records a later time.
    pub(super) fn next_at(&mut self, at: Micros, now: Micros) {
        let wait = Duration::from_micros(at.0.saturating_sub(now.0).max(0).unsigned_abs());
        self.next = Some(self.next.map_or(wait, |next| next.min(wait)));
    }
}

/// All subscriptions, for matching their patterns.
#[derive(Debug, Default)]
pub(super) struct PatternSource {
    /// Differs after each change.
    pub(super) revision: u64,
    pub(super) subscriptions: Vec<Subscription>,
}

/// The secrets that all nodes share.
#[derive(Debug, Clone)]
pub(super) struct Secrets {
    pub(super) signing: SigningKeys,
    pub(super) token: TokenSecret,
    /// The time at which they were read, by the clock of the store.
    pub(super) read_at: Micros,
}

/// The place where the next look for unlinked streams begins.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ScanPosition {
    /// Streams with lower ids were looked at.
    pub(super) after: i64,
}

/// A store of subscriptions.
#[derive(Debug)]
pub(super) enum SubscriptionStore {
    Memory(MemorySubscriptions, parking_lot::Mutex<Option<Secrets>>),
    Postgres(PostgresSubscriptions),
}

/// Calls the same method of either store.
macro_rules! either {
    ($store:expr, $name:ident($($argument:expr),*)) => {
        match $store {
            Self::Memory(store, _) => store.$name($($argument),*).await,
            Self::Postgres(store) => store.$name($($argument),*).await,
        }
    };
}

impl SubscriptionStore {
    /// A store in memory.
    pub(super) fn memory(streams: Arc<dyn StreamStore>) -> Self {
        Self::Memory(MemorySubscriptions::new(streams), parking_lot::Mutex::new(None))
    }

    /// The store of a database.
    pub(super) fn postgres(database: &Database) -> Self {
        Self::Postgres(PostgresSubscriptions::new(database))
    }

    /// Creates a subscription, unless there is one of the same configuration: then the flag is false. Existing streams are linked at their ends.
    pub(super) async fn create(
        &self,
        id: &SubscriptionId,
        config: &SubscriptionConfig,
    ) -> Result<(SubscriptionView, bool), SubscriptionError> {
        either!(self, create(id, config))
    }

    /// A subscription; `None`: there is none of this id.
    pub(super) async fn view(
        &self,
        id: &SubscriptionId,
    ) -> Result<Option<SubscriptionView>, SubscriptionError> {
        either!(self, view(id))
    }

    /// Deletes a subscription. Returns whether there was one.
    pub(super) async fn delete(&self, id: &SubscriptionId) -> Result<bool, SubscriptionError> {
        match self {
            Self::Memory(store, _) => Ok(store.delete(id).await),
            Self::Postgres(store) => Ok(store.delete(id).await?),
        }
    }

    /// Links streams by name, at their ends. Linked ones keep their offsets.
    pub(super) async fn link_explicit(
        &self,
        number: SubscriptionNumber,
        paths: &[StreamPath],
    ) -> Result<(), SubscriptionError> {
        either!(self, link_explicit(number, paths))
    }

    /// Ends a link by name. That of a matching pattern stays.
    pub(super) async fn unlink_explicit(
        &self,
        subscription: &Subscription,
        path: &StreamPath,
    ) -> Result<(), SubscriptionError> {
        match self {
            Self::Memory(store, _) => store.unlink_explicit(subscription.number, path).await,
            Self::Postgres(store) => {
                store.unlink_explicit(subscription.number, path, subscription.config.matches(path)).await?;
            }
        }
        Ok(())
    }

    /// Decides on a subscription under its lock, and stores its state. Streams are read under the lock too: no append is missed. `named`: links
    /// that the decision needs, at most [`MAX_REQUEST_STREAMS`](super::config::MAX_REQUEST_STREAMS). `None`: there is no such subscription.
    pub(super) async fn decide<T>(
        &self,
        target: Target<'_>,
        named: &[StreamPath],
        wanted: Links,
        decide: impl FnOnce(Locked<'_>) -> T + Send,
    ) -> Result<Option<T>, SubscriptionError> {
        either!(self, decide(target, named, wanted, decide))
    }

    /// All subscriptions, if they differ from those of the revision `known`.
    pub(super) async fn patterns(&self, known: u64) -> Result<Option<PatternSource>, SubscriptionError> {
        match self {
            Self::Memory(store, _) => Ok(store.patterns(known).await),
            Self::Postgres(store) => store.patterns(known).await,
        }
    }

    /// Links streams that a pattern matches, at their first own positions. Linked ones are left alone.
    pub(super) async fn link_found(
        &self,
        number: SubscriptionNumber,
        paths: &[StreamPath],
    ) -> Result<(), SubscriptionError> {
        either!(self, link_found(number, paths))
    }

    /// The subscriptions that are linked to these streams and have no wake under way. The others look for pending data when theirs ends.
    pub(super) async fn idle_of(
        &self,
        paths: &[StreamPath],
    ) -> Result<Vec<SubscriptionNumber>, SubscriptionError> {
        match self {
            Self::Memory(store, _) => Ok(store.idle_of(paths).await),
            Self::Postgres(store) => Ok(store.idle_of(paths).await?),
        }
    }

    /// The subscriptions that have pending data, or may have, and no wake under way.
    pub(super) async fn idle_with_data(&self) -> Result<Vec<SubscriptionNumber>, SubscriptionError> {
        match self {
            Self::Memory(store, _) => Ok(store.idle().await),
            Self::Postgres(store) => Ok(store.idle_with_data().await?),
        }
    }

    /// Subscriptions with a delivery or the end of a lease that is due.
    pub(super) async fn due(&self) -> Result<Due, SubscriptionError> {
        match self {
            Self::Memory(store, _) => Ok(store.due().await),
            Self::Postgres(store) => Ok(store.due().await?),
        }
    }

    /// Paths of the next streams that may not be linked; the place behind them, unless these were the last ones.
    pub(super) async fn scan(
        &self,
        from: ScanPosition,
    ) -> Result<(Vec<StreamPath>, Option<ScanPosition>), SubscriptionError> {
        match self {
            Self::Memory(store, _) => Ok((store.all_streams().await?, None)),
            Self::Postgres(store) => Ok(store.scan(from).await?),
        }
    }

    /// Deletes some links by patterns to streams that are gone.
    pub(super) async fn forget_links(&self) -> Result<(), SubscriptionError> {
        match self {
            // Their number is that of the paths ever used, in memory that ends with the process.
            Self::Memory(..) => Ok(()),
            Self::Postgres(store) => Ok(store.forget_links().await?),
        }
    }

    /// The secrets, with the next step of the rotation done.
    pub(super) async fn secrets(&self) -> Result<Secrets, SubscriptionError> {
        match self {
            Self::Memory(_, kept) => {
                let now = Micros::now();
                let mut kept = kept.lock();
                let secrets = match kept.take() {
                    Some(secrets) => secrets,
                    None => Secrets {
                        signing: SigningKeys::default(),
                        token: TokenSecret::new(random::bytes::<SECRET_BYTES>()?),
                        read_at: now,
                    },
                };
                let Rotation { add, delete } = secrets.signing.rotation(now);
                let mut keys = secrets.signing.into_kept(&delete);
                if let Some(signs_from) = add {
                    keys.push(SigningKey::new(&random::bytes::<SEED_BYTES>()?, signs_from));
                }
                let secrets = Secrets { signing: SigningKeys::new(keys), token: secrets.token, read_at: now };
                *kept = Some(secrets.clone());
                Ok(secrets)
            }
            Self::Postgres(store) => store.secrets().await,
        }
    }
}
