//! API keys, for producers and programs.
//!
//! A key is shown once, when it is created. It has its scopes, limited by the current permissions of the user who created it.
//! It is valid until it expires, is revoked, or its overlap with its replacement ends.
//!
//! A write-only key is meant to be published in web pages. It sends events from pages of its origins, and nothing else: it
//! reads nothing, has no access to its owner's account, and has a rate limit of its own.

mod cache;
mod store;
mod text;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uuid::Uuid;

pub(super) use cache::{CacheLookup, CachedKey, KeyCache};
pub use store::ListedKey;
pub use text::{KeyHash, is_key, is_write_only_key};

use self::store::{KeyStore, NewKeyRow};
use self::text::NewKey;
use super::principal::{Identity, Principal};
use super::random::Secret;
use super::scope::{Scope, Scopes};
use super::{AuthError, Verifier};
use crate::config::{is_origin, limits};
use crate::db::{Database, DbError};

/// Bytes of a key's name.
const MAX_NAME_BYTES: usize = 200;
/// Origins of a write-only key.
const MAX_ORIGINS: usize = 20;
/// Bytes of an origin: a host of 253, a scheme and a port.
const MAX_ORIGIN_BYTES: usize = 267;
/// Keys in a page of a list.
pub const KEYS_PAGE: usize = 100;
/// The longest overlap of a key and its replacement, in seconds.
pub const MAX_OVERLAP_S: i64 = 30 * 86_400;

/// The properties of a new key.
#[derive(Debug, Clone)]
pub struct KeyRequest {
    /// The name. `None`: the name of the replaced key, if there is one.
    pub name: Option<String>,
    /// The scopes.
    pub scopes: Scopes,
    /// The expiry in seconds of Unix time.
    pub expires_s: Option<i64>,
    /// The key to be replaced, and the overlap in seconds.
    pub replaces: Option<(Uuid, i64)>,
    /// For a write-only key: the origins of its pages.
    pub origins: Option<Vec<String>>,
}

/// A new key.
#[derive(Debug, Clone)]
pub struct CreatedKey {
    /// Its id.
    pub id: Uuid,
    /// The part of it that lists show.
    pub prefix: String,
    /// The name.
    pub name: String,
    /// The key itself, which cannot be read later.
    pub secret: Secret,
}

/// Keys; cheap to clone.
#[derive(Debug, Clone)]
pub struct Keys {
    store: KeyStore,
    verifier: Arc<Verifier>,
    most: i64,
    capacity: i64,
}

impl CachedKey {
    /// The key's principal.
    pub(super) fn principal(&self) -> Principal {
        let Some(origins) = &self.origins else {
            let identity = Identity::Key { id: self.id, owner: self.owner };
            return Principal { identity, permissions: Some(self.scopes.clone()) };
        };
        let identity = Identity::WriteOnlyKey { id: self.id, origins: Arc::clone(origins) };
        let sends_events = Scopes::default().with(Scope::EventsWrite);
        Principal { identity, permissions: Some(self.scopes.within(&sends_events)) }
    }
}

impl Keys {
    /// The keys of `database`.
    pub fn new(verifier: &Arc<Verifier>, database: &Database) -> Self {
        Self {
            store: KeyStore::new(database, database.statement_timeout()),
            verifier: Arc::clone(verifier),
            most: limits::MAX_USER_KEYS,
            capacity: limits::KEY_CACHE as i64,
        }
    }

    /// Creates a key for `owner`, or without an owner; the caller has the scopes `rights`.
    ///
    /// # Errors
    ///
    /// [`AuthError`].
    pub async fn create(
        &self,
        request: &KeyRequest,
        owner: Option<Uuid>,
        rights: &Scopes,
    ) -> Result<CreatedKey, AuthError> {
        check(request, rights)?;
        let key = NewKey::make(request.origins.is_some())?;
        let id = Uuid::new_v4();
        let scopes = &request.scopes;
        let row = NewKeyRow {
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
        Ok(CreatedKey { id, prefix: key.prefix, name, secret: key.secret })
    }

    /// The keys of a user, or all, newest first, after a given one; at most [`KEYS_PAGE`].
    ///
    /// # Errors
    ///
    /// [`AuthError::Database`].
    pub async fn list(&self, owner: Option<Uuid>, after: Option<Uuid>) -> Result<Vec<ListedKey>, AuthError> {
        Ok(self.store.list(owner, after, KEYS_PAGE as i64).await?)
    }

    /// Revokes a key by its id or prefix; with `owner`, only the owner's. It is invalid on this node when this returns.
    ///
    /// # Errors
    ///
    /// [`AuthError::NotFound`], [`AuthError::Database`].
    pub async fn revoke(&self, name: &str, owner: Option<Uuid>) -> Result<(), AuthError> {
        let revoked = self.store.revoke(Uuid::try_parse(name).ok(), name, owner).await?;
        self.verifier.keys.forget(&revoked);
        if revoked.is_empty() { Err(AuthError::NotFound("key")) } else { Ok(()) }
    }

    /// Queries the database for a key that is not cached.
    ///
    /// # Errors
    ///
    /// [`AuthError::Invalid`] for an unknown key, [`AuthError::Database`].
    pub(super) async fn look_up(&self, hash: KeyHash) -> Result<Principal, AuthError> {
        let cache = &self.verifier.keys;
        let since = cache.generation();
        let found = self.store.find(&hash).await?.map(Arc::new);
        cache.put(since, hash, found.clone());
        Ok(found.ok_or(AuthError::Invalid)?.principal())
    }

    /// Caches the keys used last, so that they work while Postgres is away.
    pub(super) async fn warm(&self) -> Result<(), DbError> {
        let since = self.verifier.keys.generation();
        for (hash, key) in self.store.used_last(self.capacity).await? {
            self.verifier.keys.put(since, hash, Some(Arc::new(key)));
        }
        Ok(())
    }

    /// Writes the last uses of keys.
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

fn check(request: &KeyRequest, rights: &Scopes) -> Result<(), AuthError> {
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
    if rights.cover(&request.scopes) { Ok(()) } else { Err(AuthError::BeyondRights) }
}
