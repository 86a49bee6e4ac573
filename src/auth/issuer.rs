//! The public keys of an issuer whose tokens are taken.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Notify;

/// A public key, which verifies by one algorithm.
pub(super) struct IssuerKey {
    /// Its name (`kid`), if it has one.
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// The keys that are good now. They change when the issuer publishes others.
#[derive(Default)]
pub(super) struct IssuerKeys {
    keys: RwLock<Arc<Vec<Arc<IssuerKey>>>>,
    /// A token came that none of them fits.
    lacking: Notify,
    /// Unreadable keys of the last set, so that they are logged once.
    malformed: AtomicUsize,
}

/// A published set (RFC 7517, section 5). Each key is read by itself: a malformed one affects no other.
#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

/// Keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    File(std::io::Error),
    /// It holds no public key that can be used.
    #[error("holds no public key in PEM of RSA, P-256 or Ed25519")]
    NotAKey,
    /// What is published is no set of keys.
    #[error("no set of keys (RFC 7517)")]
    NotASet,
}

/// The most keys that are taken of a set.
const MAX_KEYS: usize = 100;

impl IssuerKeys {
    /// The key in a file.
    pub(super) fn read(path: &Path) -> Result<Self, IssuerError> {
        let pem = std::fs::read(path).map_err(IssuerError::File)?;
        let key = parse_pem(&pem).ok_or(IssuerError::NotAKey)?;
        Ok(Self { keys: RwLock::new(Arc::new(vec![Arc::new(key)])), ..Self::default() })
    }

    /// Takes the keys of a published set in place of those that were good.
    pub(super) fn replace(&self, set: &[u8]) -> Result<usize, IssuerError> {
        let set: KeySet = serde_json::from_slice(set).map_err(|_| IssuerError::NotASet)?;
        let parsed: Vec<_> = set.keys.iter().take(MAX_KEYS).map(Jwk::deserialize).collect();
        let malformed = parsed.iter().filter(|parsed| parsed.is_err()).count();
        if self.malformed.swap(malformed, Ordering::Relaxed) != malformed && malformed > 0 {
            tracing::warn!(malformed, "keys of the issuer cannot be read and are skipped (JWT_JWKS_URL)");
        }
        let keys: Vec<Arc<IssuerKey>> = parsed.iter().flatten().filter_map(of_set).collect();
        let count = keys.len();
        // An empty set would let nobody in until the next look; more likely it is a mistake.
        if count == 0 {
            return Err(IssuerError::NotASet);
        }
        *self.keys.write() = Arc::new(keys);
        Ok(count)
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

    /// Resolves when a token came that none of the keys fits.
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
    // A symmetric key that is published is no secret.
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
