//! The public keys of a trusted issuer.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Notify;

/// A public key and its only algorithm.
pub(super) struct IssuerKey {
    /// Its name (`kid`).
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// The current keys. They change when the issuer publishes others.
#[derive(Default)]
pub(super) struct IssuerKeys {
    keys: RwLock<Arc<Vec<Arc<IssuerKey>>>>,
    /// Notified by a token that fits none of the keys.
    lacking: Notify,
    /// The number of malformed keys in the last set, so that they are reported once.
    malformed: AtomicUsize,
}

/// A published set (RFC 7517, section 5). Each key is parsed by itself: a malformed one affects no other.
#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

/// The reason why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    File(std::io::Error),
    /// It has no usable public key.
    #[error("holds no public key in PEM of RSA, P-256 or Ed25519")]
    NotAKey,
    /// The published text is not a key set.
    #[error("no set of keys (RFC 7517)")]
    NotASet,
}

/// A published set that has replaced the keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReplacedKeys {
    /// The number of keys.
    pub(super) count: usize,
    /// The number of malformed keys, which are skipped, where it is not the last set's.
    pub(super) newly_malformed: Option<usize>,
}

/// Keys of a set at most.
const MAX_KEYS: usize = 100;

impl IssuerKeys {
    /// The key in a file.
    pub(super) fn read(path: &Path) -> Result<Self, IssuerError> {
        let pem = std::fs::read(path).map_err(IssuerError::File)?;
        let key = parse_pem(&pem).ok_or(IssuerError::NotAKey)?;
        Ok(Self { keys: RwLock::new(Arc::new(vec![Arc::new(key)])), ..Self::default() })
    }

    /// Replaces the keys by those of a published set.
    pub(super) fn replace(&self, set: &[u8]) -> Result<ReplacedKeys, IssuerError> {
        let set: KeySet = serde_json::from_slice(set).map_err(|_| IssuerError::NotASet)?;
        let parsed: Vec<_> = set.keys.iter().take(MAX_KEYS).map(Jwk::deserialize).collect();
        let malformed = parsed.iter().filter(|parsed| parsed.is_err()).count();
        let is_news = self.malformed.swap(malformed, Ordering::Relaxed) != malformed && malformed > 0;
        let keys: Vec<Arc<IssuerKey>> = parsed.iter().flatten().filter_map(of_set).collect();
        let count = keys.len();
        // An empty set would lock out all users until the next fetch; more likely it is a mistake.
        if count == 0 {
            return Err(IssuerError::NotASet);
        }
        *self.keys.write() = Arc::new(keys);
        Ok(ReplacedKeys { count, newly_malformed: is_news.then_some(malformed) })
    }

    /// The keys that may verify a token with this algorithm and key name.
    pub(super) fn fitting(&self, algorithm: Algorithm, id: Option<&str>) -> Vec<Arc<IssuerKey>> {
        let keys = Arc::clone(&self.keys.read());
        let fits = |key: &&Arc<IssuerKey>| {
            let names = (key.id.as_deref(), id);
            key.algorithm == algorithm && !matches!(names, (Some(own), Some(asked)) if own != asked)
        };
        let fitting: Vec<_> = keys.iter().filter(fits).cloned().collect();
        if fitting.is_empty() {
            self.lacking.notify_one();
        }
        fitting
    }

    /// Resolves when a token fits none of the keys.
    pub(super) async fn lacking(&self) {
        self.lacking.notified().await;
    }
}

fn of_set(jwk: &Jwk) -> Option<Arc<IssuerKey>> {
    if jwk.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
        return None;
    }
    let algorithm = match jwk.common.key_algorithm {
        Some(algorithm) => algorithm.to_string().parse().ok()?,
        None => by_kind(jwk)?,
    };
    // A published symmetric key is no secret.
    if !matches!(algorithm, Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA) {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some(Arc::new(IssuerKey { id: jwk.common.key_id.clone(), algorithm, key }))
}

fn by_kind(jwk: &Jwk) -> Option<Algorithm> {
    use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve};
    match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Some(Algorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Some(Algorithm::ES256),
        AlgorithmParameters::OctetKeyPair(_) => Some(Algorithm::EdDSA),
        _ => None,
    }
}

fn parse_pem(pem: &[u8]) -> Option<IssuerKey> {
    let (algorithm, key) = if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
        (Algorithm::RS256, key)
    } else if let Ok(key) = DecodingKey::from_ec_pem(pem) {
        (Algorithm::ES256, key)
    } else {
        (Algorithm::EdDSA, DecodingKey::from_ed_pem(pem).ok()?)
    };
    Some(IssuerKey { id: None, algorithm, key })
}
