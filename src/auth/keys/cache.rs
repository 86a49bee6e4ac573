//! The cache of API keys: an event needs no query.
//!
//! It holds valid keys and hashes without a key, each bounded; the least used go first. A revocation during a look-up must win,
//! so a look-up records the generation first, and each revocation begins a new one.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use quick_cache::sync::Cache;
use uuid::Uuid;

use super::KeyHash;
use crate::auth::scope::Scopes;

/// A key that is valid until it expires.
#[derive(Debug)]
pub struct CachedKey {
    pub(super) id: Uuid,
    pub(super) owner: Option<Uuid>,
    pub(super) scopes: Scopes,
    /// Of a write-only key: the origins of its pages.
    pub(super) origins: Option<Arc<[String]>>,
    /// Seconds of Unix time.
    pub(super) expires_s: Option<i64>,
    /// The last use in seconds of Unix time; 0: none since it was cached.
    pub(super) used_s: AtomicI64,
    /// The last use as last written to the database.
    pub(super) written_s: AtomicI64,
}

/// The result of a look-up in the cache.
#[derive(Debug)]
pub(crate) enum CacheLookup {
    /// A valid key.
    Key(Arc<CachedKey>),
    /// No key has this hash.
    NoKey,
    /// Not cached: ask the database.
    Miss,
}

/// The number of revocations before a look-up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Generation(u64);

/// The cache.
#[derive(Debug)]
pub(crate) struct KeyCache {
    keys: Cache<KeyHash, Arc<CachedKey>>,
    unknown: Cache<KeyHash, ()>,
    generation: AtomicU64,
    /// Held during insertions and revocations; reads take no lock.
    changing: Mutex<()>,
}

impl KeyCache {
    /// A cache for `capacity` keys, and as many hashes without a key.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            keys: Cache::new(capacity),
            unknown: Cache::new(capacity),
            generation: AtomicU64::new(0),
            changing: Mutex::new(()),
        }
    }

    /// Looks up a hash at `now_s`, in seconds of Unix time, and records the use.
    pub(crate) fn get(&self, hash: &KeyHash, now_s: i64) -> CacheLookup {
        match self.keys.get(hash) {
            Some(key) if key.expires_s.is_some_and(|expires| expires <= now_s) => CacheLookup::NoKey,
            Some(key) => {
                if key.used_s.load(Ordering::Relaxed) != now_s {
                    key.used_s.store(now_s, Ordering::Relaxed);
                }
                CacheLookup::Key(key)
            }
            None if self.unknown.get(hash).is_some() => CacheLookup::NoKey,
            None => CacheLookup::Miss,
        }
    }

    pub(super) fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    /// Caches the result of a query, unless a key was revoked since it began.
    pub(super) fn put(&self, since: Generation, hash: KeyHash, found: Option<Arc<CachedKey>>) {
        let _changing = self.changing();
        if self.generation.load(Ordering::Acquire) != since.0 {
            return;
        }
        match found {
            Some(key) => self.keys.insert(hash, key),
            None => self.unknown.insert(hash, ()),
        }
    }

    /// Removes these keys, to be looked up again.
    pub(crate) fn forget(&self, ids: &[Uuid]) {
        if ids.is_empty() {
            return;
        }
        let _changing = self.changing();
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.keys.retain(|_, key| !ids.contains(&key.id));
    }

    /// Removes all keys, to be looked up again.
    pub(crate) fn forget_all(&self) {
        let _changing = self.changing();
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.keys.clear();
        self.unknown.clear();
    }

    /// Keys used since the last write, with the time in seconds of Unix time.
    pub(super) fn used(&self) -> Vec<(Arc<CachedKey>, i64)> {
        let used = |key: &Arc<CachedKey>| {
            let at = key.used_s.load(Ordering::Relaxed);
            (at > key.written_s.load(Ordering::Relaxed)).then(|| (Arc::clone(key), at))
        };
        self.keys.iter().filter_map(|(_, key)| used(&key)).collect()
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u128, expires_s: Option<i64>) -> Arc<CachedKey> {
        Arc::new(CachedKey {
            id: Uuid::from_u128(id),
            owner: None,
            scopes: Scopes::ADMIN,
            origins: None,
            expires_s,
            used_s: AtomicI64::new(0),
            written_s: AtomicI64::new(0),
        })
    }

    const HASH: KeyHash = KeyHash([1; 32]);
    const OTHER: KeyHash = KeyHash([2; 32]);

    #[test]
    fn what_was_looked_up_is_known_until_it_expires_or_is_taken_back() {
        let cache = KeyCache::new(10);
        assert!(matches!(cache.get(&HASH, 5), CacheLookup::Miss));
        cache.put(cache.generation(), HASH, Some(key(1, Some(10))));
        cache.put(cache.generation(), OTHER, None);
        assert!(matches!(cache.get(&HASH, 9), CacheLookup::Key(_)));
        assert!(matches!(cache.get(&HASH, 10), CacheLookup::NoKey));
        assert!(matches!(cache.get(&OTHER, 9), CacheLookup::NoKey));
        assert_eq!(cache.used()[0].1, 9);
        cache.forget(&[Uuid::from_u128(2)]);
        assert!(matches!(cache.get(&HASH, 9), CacheLookup::Key(_)));
        cache.forget(&[Uuid::from_u128(1)]);
        assert!(matches!(cache.get(&HASH, 9), CacheLookup::Miss));
        cache.forget_all();
        assert!(matches!(cache.get(&OTHER, 9), CacheLookup::Miss));
    }

    #[test]
    fn a_look_up_that_began_before_a_key_was_taken_back_does_not_bring_it_back() {
        let cache = KeyCache::new(10);
        let began = cache.generation();
        cache.forget(&[Uuid::from_u128(1)]);
        cache.put(began, HASH, Some(key(1, None)));
        assert!(matches!(cache.get(&HASH, 5), CacheLookup::Miss));
    }

    #[test]
    fn made_up_keys_do_not_push_out_good_ones_and_take_no_memory_without_bound() {
        let cache = KeyCache::new(100);
        cache.put(cache.generation(), HASH, Some(key(1, None)));
        for n in 0..100_000_u32 {
            let mut hash = [9; 32];
            hash[..4].copy_from_slice(&n.to_le_bytes());
            cache.put(cache.generation(), KeyHash(hash), None);
        }
        assert!(matches!(cache.get(&HASH, 5), CacheLookup::Key(_)));
        assert!(cache.unknown.len() <= 100);
    }
}
