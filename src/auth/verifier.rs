//! Whose a token is, out of memory.

use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::AuthError;
use super::clock::now_s;
use super::issuer::{IssuerError, IssuerKeys};
use super::jwt::Tokens;
use super::keys::{self, KeyCache, KeyHash, Known};
use super::principal::{Principal, Who};
use super::random::Secret;
use super::revocations::{Freshness, Revocations, Standing};
use super::scope::Scopes;
use crate::config::{AuthConfig, AuthMode};

/// Longer than any header that a client may send.
const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// Knows which tokens are good.
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

/// What a token turns out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// Somebody's.
    Known(Principal),
    /// It may be a key: the database is to be asked ([`super::Accounts::look_up`]).
    Ask(KeyHash),
}

impl Verifier {
    /// A verifier for the tokens that the settings name, and for those that are signed with `secret`.
    ///
    /// # Errors
    ///
    /// [`IssuerError`] for a file of `JWT_PUBLIC_KEY_FILE` that cannot be used.
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
            keys: KeyCache::new(config.key_cache),
        }))
    }

    /// Whether nobody has to say who he is.
    pub fn is_open(&self) -> bool {
        self.mode == AuthMode::Open
    }

    /// A token is shown: whether [`Self::freshen`] is to be waited for before it is verified.
    pub fn is_stale(&self) -> bool {
        self.freshness.is_stale()
    }

    /// Waits until what other nodes took back is known, for half a second at the longest.
    pub async fn freshen(&self) {
        self.freshness.wait().await;
    }

    /// Takes the keys that an issuer publishes (RFC 7517) in place of those before; how many of them can be used.
    ///
    /// # Errors
    ///
    /// [`IssuerError::NotASet`]: those before stay good.
    pub fn replace_issuer_keys(&self, set: &[u8]) -> Result<usize, IssuerError> {
        self.tokens.issuer().replace(set)
    }

    /// Resolves when a token came that none of the issuer's keys fits: it may have published others.
    pub async fn lacks_an_issuer_key(&self) {
        self.tokens.issuer().lacking().await;
    }

    /// Whose token this is.
    ///
    /// # Errors
    ///
    /// [`AuthError::Invalid`] for every token that is not good, [`AuthError::NotReady`] if that cannot be told yet.
    pub fn verify(&self, token: &str) -> Result<Shown, AuthError> {
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::Invalid);
        }
        // Compared without telling by its time how much of it was right.
        let is_operators =
            self.token.as_ref().is_some_and(|own| own.as_bytes().ct_eq(token.as_bytes()).into());
        if is_operators {
            let permissions = Some(Scopes::ADMIN);
            return Ok(Shown::Known(Principal { who: Who::Operator, permissions }));
        }
        if keys::is_key(token) {
            let hash = KeyHash::of(token).ok_or(AuthError::Invalid)?;
            return match self.keys.get(&hash, now_s()) {
                Known::Key(key) => Ok(Shown::Known(key.principal())),
                Known::Nobodys => Err(AuthError::Invalid),
                Known::Unsure => Ok(Shown::Ask(hash)),
            };
        }
        let verified = self.tokens.verify(token)?;
        if let Who::User { session, .. } = verified.principal.who {
            match self.revocations.standing(session, verified.issued_s) {
                Standing::Good => {}
                Standing::Ended => return Err(AuthError::Invalid),
                Standing::Unknown => return Err(AuthError::NotReady),
            }
        }
        Ok(Shown::Known(verified.principal))
    }
}
