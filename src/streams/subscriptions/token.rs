//! Tokens of wakes: an HMAC-SHA-256 over the subscription, the generation and an expiry (section 12.9 of the protocol).
//!
//! A token says which wake it is for; the state of the subscription decides whether that wake is still under way. So a token of a wake that is
//! over is told apart from one that was never made here.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::config::SubscriptionId;
use super::error::SubscriptionError;
use crate::time::Micros;

/// Seconds for which a token is valid, whatever becomes of its lease.
const LIFETIME_S: i64 = 86_400;
/// Bytes of a secret.
pub(super) const SECRET_BYTES: usize = 32;
/// Characters of a token, at most: an id of 256 bytes may be escaped in JSON.
const MAX_TOKEN_BYTES: usize = 4_096;

/// The wake that a token is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenClaims {
    /// The id of the subscription.
    #[serde(rename = "sub")]
    subscription: String,
    /// Its number, which no other subscription of the same id has.
    #[serde(rename = "num")]
    number: u64,
    /// The generation.
    #[serde(rename = "gen")]
    generation: u64,
    /// The end, in seconds of Unix time.
    #[serde(rename = "exp")]
    expires_s: i64,
}

impl TokenClaims {
    /// Checks that the token has not expired, and is for this subscription and generation.
    ///
    /// # Errors
    ///
    /// [`SubscriptionError::TokenExpired`], [`SubscriptionError::Fenced`].
    pub fn check(&self, number: u64, generation: u64, now: Micros) -> Result<(), SubscriptionError> {
        if self.expires_s.saturating_mul(1_000_000) <= now.0 {
            return Err(SubscriptionError::TokenExpired);
        }
        let is_current = (self.number, self.generation) == (number, generation);
        if is_current { Ok(()) } else { Err(SubscriptionError::Fenced) }
    }
}

/// Makes and verifies tokens.
#[derive(Clone)]
pub struct TokenSecret([u8; SECRET_BYTES]);

impl std::fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

impl TokenSecret {
    /// The secret of these bytes.
    pub fn new(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(bytes)
    }

    fn mac(&self, claims: &str) -> Option<Hmac<Sha256>> {
        // Keys of any length are valid.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        mac.update(claims.as_bytes());
        Some(mac)
    }

    /// A token for a wake that begins or is claimed now.
    pub fn token(&self, subscription: &SubscriptionId, number: u64, generation: u64, now: Micros) -> String {
        let expires_s = now.0 / 1_000_000 + LIFETIME_S;
        let subscription = subscription.as_str().to_owned();
        let claims = TokenClaims { subscription, number, generation, expires_s };
        let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).unwrap_or_default());
        let mac = self.mac(&claims).map(|mac| URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()));
        format!("{claims}.{}", mac.unwrap_or_default())
    }

    /// The claims of a token for a subscription of this id.
    ///
    /// # Errors
    ///
    /// [`SubscriptionError::TokenInvalid`]: it was not made with this secret, or is for another one.
    pub fn verify(
        &self,
        token: &str,
        subscription: &SubscriptionId,
    ) -> Result<TokenClaims, SubscriptionError> {
        let claims = (token.len() <= MAX_TOKEN_BYTES).then(|| self.claims(token)).flatten();
        claims
            .filter(|claims| claims.subscription == subscription.as_str())
            .ok_or(SubscriptionError::TokenInvalid)
    }

    fn claims(&self, token: &str) -> Option<TokenClaims> {
        let (claims, mac) = token.split_once('.')?;
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
        // In constant time.
        self.mac(claims)?.verify_slice(&mac).ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_valid_for_its_subscription_and_generation_and_a_day() {
        let (secret, other) = (TokenSecret::new([7; 32]), TokenSecret::new([8; 32]));
        let (id, now) = (SubscriptionId::new("sub \"1\"").unwrap(), Micros(1_700_000_000_000_000));
        let token = secret.token(&id, 5, 3, now);
        let claims = secret.verify(&token, &id).unwrap();
        claims.check(5, 3, now).unwrap();
        let later = |seconds: i64| Micros(now.0 + seconds * 1_000_000);
        claims.check(5, 3, later(LIFETIME_S - 1)).unwrap();
        assert!(matches!(claims.check(5, 3, later(LIFETIME_S)), Err(SubscriptionError::TokenExpired)));
        assert!(matches!(claims.check(5, 4, now), Err(SubscriptionError::Fenced)));
        assert!(
            matches!(claims.check(6, 3, now), Err(SubscriptionError::Fenced)),
            "of the same id, made anew"
        );
        let invalid = |token: &str| matches!(secret.verify(token, &id), Err(SubscriptionError::TokenInvalid));
        assert!(other.verify(&token, &id).is_err());
        assert!(secret.verify(&token, &SubscriptionId::new("sub-2").unwrap()).is_err());
        let (claims, mac) = token.split_once('.').unwrap();
        for bad in ["", ".", claims, &format!("{claims}."), &format!(".{mac}"), &format!("{claims}.{mac}x")] {
            assert!(invalid(bad), "{bad}");
        }
        assert!(invalid(&format!("{}.{mac}", URL_SAFE_NO_PAD.encode("{}"))));
        assert!(invalid(&"x".repeat(1 << 20)));
        let longest = SubscriptionId::new(&"\\".repeat(256)).unwrap();
        assert!(secret.verify(&secret.token(&longest, u64::MAX, u64::MAX, now), &longest).is_ok());
    }
}
