//! The public key of an issuer whose tokens are taken.

use std::path::Path;

use jsonwebtoken::{Algorithm, DecodingKey};

/// A public key, which verifies by one algorithm.
pub(super) struct IssuerKey {
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// The keys that are good.
#[derive(Default)]
pub(super) struct IssuerKeys {
    keys: Vec<IssuerKey>,
}

/// A key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    File(std::io::Error),
    /// It holds no public key that can be used.
    #[error("holds no public key in PEM of RSA, P-256 or Ed25519")]
    NotAKey,
}

impl IssuerKeys {
    /// The key in a file.
    pub(super) fn read(path: &Path) -> Result<Self, IssuerError> {
        let pem = std::fs::read(path).map_err(IssuerError::File)?;
        Ok(Self { keys: vec![parse_pem(&pem).ok_or(IssuerError::NotAKey)?] })
    }

    /// The keys that may verify a token with this algorithm.
    pub(super) fn fitting(&self, algorithm: Algorithm) -> impl Iterator<Item = &IssuerKey> {
        self.keys.iter().filter(move |key| key.algorithm == algorithm)
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
    Some(IssuerKey { algorithm, key })
}
