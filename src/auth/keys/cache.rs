//! What this node knows of keys, so that an event asks nobody.
//!
//! Keys that are good, and hashes that are nobody's, each bounded: what was used least goes first. A look-up that was under
//! way while a key was taken back must not bring it back: who looks up notes the generation first, and what was taken back
//! begins a new one.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use quick_cache::sync::Cache;
use uuid::Uuid;

use super::KeyHash;
use crate::auth::scope::Scopes;

/// A key that is good until it expires.
#[derive(Debug)]
pub struct KnownKey {
    pub(super) id: Uuid,
    pub(super) owner: Option<Uuid>,
    pub(super) scopes: Scopes,
    /// Of a write-only key: the origins of its pages.
    pub(super) origins: Option<Arc<[String]>>,
    /// Seconds of Unix time.
    pub(super) expires_s: Option<i64>,
    /// When it was used last, in seconds of Unix time; 0: not since this node knows it.
    pub(super) used_s: AtomicI64,
    /// The same as it was written last.
    pub(super) written_s: AtomicI64,
}

/// What is known of a hash.
#[derive(Debug)]
pub(crate) enum Known {
    /// It is this key's.
    Key(Arc<KnownKey>),
    /// It is nobody's.
    Nobodys,
    /// Nothing: ask the database.
    Unsure,
}

/// When a look-up began, in things taken back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Generation(u64);

/// What this node knows of keys.
#[derive(Debug)]
pub(crate) struct KeyCache {
    keys: Cache<KeyHash, Arc<KnownKey>>,
    nobodys: Cache<KeyHash, ()>,
    generation: AtomicU64,
    /// Held while something is put in or taken back; reading needs no lock.
    changing: Mutex<()>,
}

impl KeyCache {
    /// Room for so many keys, and as many hashes that are nobody's.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            keys: Cache::new(capacity),
            nobodys: Cache::new(capacity),
            generation: AtomicU64::new(0),
            changing: Mutex::new(()),
        }
    }

    /// What is known of a hash at `now_s`, in seconds of Unix time. Notes the use.
    pub(crate) fn get(&self, hash: &KeyHash, now_s: i64) -> Known {
        match self.keys.get(hash) {
            Some(key) if key.expires_s.is_some_and(|expires| expires <= now_s) => Known::Nobodys,
            Some(key) => {
                if key.used_s.load(Ordering::Relaxed) != now_s {
                    key.used_s.store(now_s, Ordering::Relaxed);
                }
                Known::Key(key)
            }
            None if self.nobodys.get(hash).is_some() => Known::Nobodys,
            None => Known::Unsure,
        }
    }

    pub(super) fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    /// Keeps what a look-up found, unless something was taken back since it began.
    pub(super) fn put(&self, since: Generation, hash: KeyHash, found: Option<Arc<KnownKey>>) {
        let _changing = self.changing();
        if self.generation.load(Ordering::Acquire) != since.0 {
            return;
        }
        match found {
            Some(key) => self.keys.insert(hash, key),
            None => self.nobodys.insert(hash, ()),
        }
    }

    /// These keys are to be looked up anew.
    pub(crate) fn forget(&self, ids: &[Uuid]) {
        if ids.is_empty() {
            return;
        }
        let _changing = self.changing();
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.keys.retain(|_, key| !ids.contains(&key.id));
    }

    /// All keys are to be looked up anew.
    pub(crate) fn forget_all(&self) {
        let _changing = self.changing();
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.keys.clear();
        self.nobodys.clear();
    }

    /// The keys that were used since that was written last, with when, in seconds of Unix time.
    pub(super) fn used(&self) -> Vec<(Arc<KnownKey>, i64)> {
        let used = |key: &Arc<KnownKey>| {
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

    fn key(id: u128, expires_s: Option<i64>) -> Arc<KnownKey> {
        Arc::new(KnownKey {
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
        assert!(matches!(cache.get(&HASH, 5), Known::Unsure));
        cache.put(cache.generation(), HASH, Some(key(1, Some(10))));
        cache.put(cache.generation(), OTHER, None);
        assert!(matches!(cache.get(&HASH, 9), Known::Key(_)));
        assert!(matches!(cache.get(&HASH, 10), Known::Nobodys));
        assert!(matches!(cache.get(&OTHER, 9), Known::Nobodys));
        assert_eq!(cache.used()[0].1, 9);
        cache.forget(&[Uuid::from_u128(2)]);
        assert!(matches!(cache.get(&HASH, 9), Known::Key(_)));
        cache.forget(&[Uuid::from_u128(1)]);
        assert!(matches!(cache.get(&HASH, 9), Known::Unsure));
        cache.forget_all();
        assert!(matches!(cache.get(&OTHER, 9), Known::Unsure));
    }

    #[test]
    fn a_look_up_that_began_before_a_key_was_taken_back_does_not_bring_it_back() {
        let cache = KeyCache::new(10);
        let began = cache.generation();
        cache.forget(&[Uuid::from_u128(1)]);
        cache.put(began, HASH, Some(key(1, None)));
        assert!(matches!(cache.get(&HASH, 5), Known::Unsure));
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
        assert!(matches!(cache.get(&HASH, 5), Known::Key(_)));
        assert!(cache.nobodys.len() <= 100);
    }
}
