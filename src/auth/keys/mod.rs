//! API keys, for producers and programs.
//!
//! A key is shown once, when it is made. It may do what its scopes say, and never more than the user who made it may at that
//! moment. It is good until it expires, is revoked, or its overlap with the one that took its place has passed.
//!
//! A write-only key is for web pages to publish. It sends events from pages of its origins, and does nothing else: it reads
//! nothing, has no part in its owner's account, and is counted by a budget of its own.

mod cache;
mod store;
mod text;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use uuid::Uuid;

pub(super) use cache::{KeyCache, Known, KnownKey};
pub use store::ListedKey;
pub use text::{KeyHash, is_key, is_write_only_key};

use self::store::{NewRow, Store};
use self::text::NewKey;
use super::principal::{Principal, Who};
use super::random::Secret;
use super::scope::{Scope, Scopes};
use super::{AuthError, Verifier};
use crate::config::{AuthConfig, is_origin};
use crate::db::{Database, DbError};

/// Bytes of a key's name.
const MAX_NAME_BYTES: usize = 200;
/// Origins of a write-only key.
const MAX_ORIGINS: usize = 20;
/// Bytes of an origin: a host of 253, a scheme and a port.
const MAX_ORIGIN_BYTES: usize = 267;
/// Keys in a page of a list.
pub const KEYS_PAGE: usize = 100;
/// The longest that a key and the one that took its place are both good, in seconds.
pub const MAX_OVERLAP_S: i64 = 30 * 86_400;

/// What a new key is to be.
#[derive(Debug, Clone)]
pub struct KeyRequest {
    /// What it is called. `None`: as the key whose place it takes, if there is one.
    pub name: Option<String>,
    /// What it may do.
    pub scopes: Scopes,
    /// When it expires, in seconds of Unix time.
    pub expires_s: Option<i64>,
    /// The key whose place it takes, and for how many seconds both are good.
    pub replaces: Option<(Uuid, i64)>,
    /// For a write-only key: the origins of the pages that may use it.
    pub origins: Option<Vec<String>>,
}

/// A key that was made.
#[derive(Debug, Clone)]
pub struct MadeKey {
    /// Its id.
    pub id: Uuid,
    /// The part of it that lists show.
    pub prefix: String,
    /// What it is called.
    pub name: String,
    /// The key itself, which nobody can find out later.
    pub secret: Secret,
}

/// Keys; cheap to clone.
#[derive(Debug, Clone)]
pub struct Keys {
    store: Store,
    verifier: Arc<Verifier>,
    most: i64,
    capacity: i64,
}

impl KnownKey {
    /// Who has this key.
    pub(super) fn principal(&self) -> Principal {
        let Some(origins) = &self.origins else {
            let who = Who::Key { id: self.id, owner: self.owner };
            return Principal { who, permissions: Some(self.scopes) };
        };
        let who = Who::WriteOnlyKey { id: self.id, origins: Arc::clone(origins) };
        let sends_events = Scopes::default().with(Scope::EventsWrite);
        Principal { who, permissions: Some(self.scopes.within(sends_events)) }
    }
}

impl Keys {
    /// The keys of `database`.
    pub fn new(config: &AuthConfig, verifier: &Arc<Verifier>, database: &Database) -> Self {
        Self {
            store: Store::new(database, Duration::from_millis(config.auth_timeout_ms)),
            verifier: Arc::clone(verifier),
            most: config.max_user_keys,
            capacity: config.key_cache as i64,
        }
    }

    /// Makes a key for `owner`, or for nobody; whoever asks has the scopes `rights`.
    ///
    /// # Errors
    ///
    /// [`AuthError`].
    pub async fn create(
        &self,
        request: &KeyRequest,
        owner: Option<Uuid>,
        rights: Scopes,
    ) -> Result<MadeKey, AuthError> {
        check(request, rights)?;
        let key = NewKey::make(request.origins.is_some())?;
        let id = Uuid::new_v4();
        let scopes = request.scopes;
        let row = NewRow {
            id,
            key: &key,
            name: request.name.as_deref(),
            scopes,
            is_admin: scopes.allow(Scope::Admin),
            owner,
            expires_s: request.expires_s,
            replaces: request.replaces,
            origins: request.origins.as_deref(),
        };
        let name = self.store.add(&row, self.most).await?;
        if let Some((replaced, _)) = request.replaces {
            self.verifier.keys.forget(&[replaced]);
        }
        Ok(MadeKey { id, prefix: key.prefix, name, secret: key.secret })
    }

    /// Keys of a user, or all, newest first, after one of them; at most [`KEYS_PAGE`].
    ///
    /// # Errors
    ///
    /// [`AuthError::Database`].
    pub async fn list(&self, owner: Option<Uuid>, after: Option<Uuid>) -> Result<Vec<ListedKey>, AuthError> {
        Ok(self.store.list(owner, after, KEYS_PAGE as i64).await?)
    }

    /// Revokes a key, by its id or what is shown of it, if it is `owner`'s where there is one. When this returns it is not
    /// good here any more.
    ///
    /// # Errors
    ///
    /// [`AuthError::NotFound`], [`AuthError::Database`].
    pub async fn revoke(&self, name: &str, owner: Option<Uuid>) -> Result<(), AuthError> {
        let revoked = self.store.revoke(Uuid::try_parse(name).ok(), name, owner).await?;
        self.verifier.keys.forget(&revoked);
        if revoked.is_empty() { Err(AuthError::NotFound("key")) } else { Ok(()) }
    }

    /// Asks the database for a key that this node does not know.
    ///
    /// # Errors
    ///
    /// [`AuthError::Invalid`] if it is nobody's, [`AuthError::Database`].
    pub(super) async fn look_up(&self, hash: KeyHash) -> Result<Principal, AuthError> {
        let cache = &self.verifier.keys;
        let since = cache.generation();
        let found = self.store.find(&hash).await?.map(Arc::new);
        cache.put(since, hash, found.clone());
        Ok(found.ok_or(AuthError::Invalid)?.principal())
    }

    /// Learns the keys that were used last, so that they are known if Postgres goes away.
    pub(super) async fn warm(&self) -> Result<(), DbError> {
        let since = self.verifier.keys.generation();
        for (hash, key) in self.store.used_last(self.capacity).await? {
            self.verifier.keys.put(since, hash, Some(Arc::new(key)));
        }
        Ok(())
    }

    /// Writes when keys were used last.
    pub(super) async fn write_last_used(&self) -> Result<(), DbError> {
        let used = self.verifier.keys.used();
        if used.is_empty() {
            return Ok(());
        }
        let (ids, at_s): (Vec<Uuid>, Vec<i64>) = used.iter().map(|(key, at_s)| (key.id, *at_s)).unzip();
        self.store.touch(&ids, &at_s).await?;
        for (key, at_s) in used {
            key.written_s.store(at_s, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn check(request: &KeyRequest, rights: Scopes) -> Result<(), AuthError> {
    let refuse = |field, message: &str| Err(AuthError::Field { field, message: message.to_owned() });
    if request.name.as_deref().is_some_and(|name| name.len() > MAX_NAME_BYTES || name.contains('\0')) {
        return refuse("name", "name takes up to 200 bytes");
    }
    if request.scopes.is_empty() {
        return refuse("scopes", "scopes takes at least one scope");
    }
    if request.expires_s.is_some_and(|expires_s| expires_s <= super::clock::now_s()) {
        return refuse("expires", "expires takes a time that is to come");
    }
    if request.replaces.is_some_and(|(_, overlap_s)| !(0..=MAX_OVERLAP_S).contains(&overlap_s)) {
        return refuse("overlap_s", "overlap_s takes 0 to 2592000 seconds");
    }
    if let Some(origins) = &request.origins {
        if request.scopes != Scopes::default().with(Scope::EventsWrite) {
            return refuse("scopes", "a write-only key has the scope events:write and no other");
        }
        let is_origin = |origin: &String| origin.len() <= MAX_ORIGIN_BYTES && is_origin(origin);
        if !(1..=MAX_ORIGINS).contains(&origins.len()) || !origins.iter().all(is_origin) {
            return refuse(
                "origins",
                "origins takes 1 to 20 origins of web pages, such as https://app.example",
            );
        }
    }
    if rights.cover(request.scopes) { Ok(()) } else { Err(AuthError::BeyondRights) }
}
