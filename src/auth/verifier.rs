//! The verification of tokens, from memory.

use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::AuthError;
use super::clock::now_s;
use super::credential::Credential;
use super::issuer::{IssuerError, IssuerKeys};
use super::jwt::{Tokens, Verified};
use super::keys::{self, CacheLookup, KeyCache, KeyHash};
use super::principal::{Identity, Principal};
use super::random::Secret;
use super::revocations::{Freshness, Revocations, SessionStatus};
use super::scope::Scopes;
use crate::config::{AuthConfig, AuthMode, limits};

/// Longer than any header that a client may send.
const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// Verifies tokens.
pub struct Verifier {
    mode: AuthMode,
    token: Option<String>,
    pub(super) tokens: Tokens,
    pub(super) revocations: Revocations,
    pub(super) freshness: Freshness,
    pub(super) keys: KeyCache,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// The result of a verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verification {
    /// A valid token.
    Verified(Principal),
    /// Perhaps a key: the database has to be asked ([`super::Accounts::look_up`]).
    LookUp(KeyHash),
}

impl Verifier {
    /// A verifier for the configured tokens, and for those signed with `secret`.
    ///
    /// # Errors
    ///
    /// [`IssuerError`] for an unusable `JWT_PUBLIC_KEY_FILE`.
    pub fn new(
        config: &AuthConfig,
        mode: AuthMode,
        secret: Option<&Secret>,
    ) -> Result<Arc<Self>, IssuerError> {
        let issuer = match &config.jwt_public_key_file {
            Some(file) => IssuerKeys::read(file)?,
            None => IssuerKeys::default(),
        };
        Ok(Arc::new(Self {
            mode,
            token: config.stress_token.clone(),
            tokens: Tokens::new(config, secret, issuer),
            revocations: Revocations::default(),
            freshness: Freshness::default(),
            keys: KeyCache::new(limits::KEY_CACHE),
        }))
    }

    /// Whether requests need no token.
    pub fn is_open(&self) -> bool {
        self.mode == AuthMode::Open
    }

    /// Records the use of a token; returns whether to wait for [`Self::freshen`] before it is verified.
    pub fn is_stale(&self) -> bool {
        self.freshness.is_stale()
    }

    /// Waits until the revocations of other nodes are read, for half a second at most.
    pub async fn freshen(&self) {
        self.freshness.wait().await;
    }

    /// Replaces the issuer's keys by a published set (RFC 7517); returns the number of usable ones.
    ///
    /// # Errors
    ///
    /// [`IssuerError::NotASet`]: the former keys stay.
    pub fn replace_issuer_keys(&self, set: &[u8]) -> Result<usize, IssuerError> {
        let replaced = self.tokens.issuer().replace(set)?;
        if let Some(malformed) = replaced.newly_malformed {
            tracing::warn!(malformed, "keys of the issuer cannot be read and are skipped (JWT_JWKS_URL)");
        }
        Ok(replaced.count)
    }

    /// Resolves when a token fits none of the issuer's keys: it may have published others.
    pub async fn lacks_an_issuer_key(&self) {
        self.tokens.issuer().lacking().await;
    }

    /// Verifies a token.
    ///
    /// # Errors
    ///
    /// [`AuthError::Invalid`] for every invalid token, [`AuthError::NotReady`] if sessions are not loaded yet.
    pub fn verify(&self, token: &str) -> Result<Verification, AuthError> {
        self.admit(self.credential(token)?)
    }

    /// Verifies what a token says again.
    ///
    /// # Errors
    ///
    /// As [`Self::verify`].
    pub fn verify_again(&self, credential: &Credential) -> Result<Verification, AuthError> {
        self.admit(credential.clone())
    }

    /// What a token says that is genuine.
    ///
    /// # Errors
    ///
    /// [`AuthError::Invalid`].
    pub fn credential(&self, token: &str) -> Result<Credential, AuthError> {
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::Invalid);
        }
        // Compared in constant time.
        let is_operators =
            self.token.as_ref().is_some_and(|own| own.as_bytes().ct_eq(token.as_bytes()).into());
        if is_operators {
            return Ok(Credential::Operator);
        }
        if keys::is_key(token) {
            return Ok(Credential::Key(KeyHash::of(token).ok_or(AuthError::Invalid)?));
        }
        let Verified { principal, issued_s, expires_s } = self.tokens.verify(token)?;
        Ok(Credential::Token { principal, issued_s, expires_s })
    }

    /// The principal of a credential that is valid now.
    fn admit(&self, credential: Credential) -> Result<Verification, AuthError> {
        let principal = match credential {
            Credential::Anonymous => Principal::ANONYMOUS,
            // It may come from another node, of which this one has the token too.
            Credential::Operator if self.token.is_none() => return Err(AuthError::Invalid),
            Credential::Operator => {
                Principal { identity: Identity::Operator, permissions: Some(Scopes::ADMIN) }
            }
            Credential::Key(hash) => match self.keys.get(&hash, now_s()) {
                CacheLookup::Key(key) => key.principal(),
                CacheLookup::NoKey => return Err(AuthError::Invalid),
                CacheLookup::Miss => return Ok(Verification::LookUp(hash)),
            },
            Credential::Token { expires_s, .. } if expires_s <= now_s() => return Err(AuthError::Invalid),
            Credential::Token { principal, issued_s, .. } => {
                if let Identity::User { session, .. } = principal.identity {
                    match self.revocations.status(session, issued_s) {
                        SessionStatus::Active => {}
                        SessionStatus::Ended => return Err(AuthError::Invalid),
                        SessionStatus::Unknown => return Err(AuthError::NotReady),
                    }
                }
                principal
            }
        };
        Ok(Verification::Verified(principal))
    }
}
