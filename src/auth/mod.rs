//! Who sends a request: what a bearer token says, and whether it is good.
//!
//! Two kinds of token are good: the one that the operator set (`STRESS_TOKEN`), and those signed with `JWT_SECRET`: JSON
//! Web Tokens (RFC 7519) by HS256 and nothing else, with an `exp` that is still to come. There is no leeway.

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use subtle::ConstantTimeEq;

use crate::config::AuthConfig;

/// Who sends a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// Nobody said.
    Anonymous,
    /// Whoever has the operator's token.
    Operator,
    /// The subject (`sub`) of a signed token; empty where it names none.
    Subject(String),
}

/// A token that is not good. Why is not told: it would help whoever made it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the token is not valid")]
pub struct AuthError;

/// Longer than any header that a client may send.
const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// Knows which tokens are good.
pub struct Verifier {
    token: Option<String>,
    jwt: Option<(DecodingKey, Validation)>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
}

impl Verifier {
    /// A verifier for the tokens that the settings name.
    pub fn new(config: &AuthConfig) -> Self {
        let jwt = config.jwt_secret.as_ref().map(|secret| {
            // What a token says of its algorithm counts for nothing (RFC 8725, section 3.1).
            let mut validation = Validation::new(Algorithm::HS256);
            validation.leeway = 0;
            validation.validate_nbf = true;
            validation.validate_aud = false;
            validation.set_required_spec_claims(&["exp"]);
            (DecodingKey::from_secret(secret.as_bytes()), validation)
        });
        Self { token: config.stress_token.clone(), jwt }
    }

    /// Whose token this is.
    ///
    /// # Errors
    ///
    /// [`AuthError`] for every token that is not good.
    pub fn verify(&self, token: &str) -> Result<Principal, AuthError> {
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError);
        }
        // Compared without telling by its time how much of it was right.
        let is_operators =
            self.token.as_ref().is_some_and(|own| own.as_bytes().ct_eq(token.as_bytes()).into());
        if is_operators {
            return Ok(Principal::Operator);
        }
        let (key, validation) = self.jwt.as_ref().ok_or(AuthError)?;
        let decoded = jsonwebtoken::decode::<Claims>(token, key, validation).map_err(|_| AuthError)?;
        Ok(Principal::Subject(decoded.claims.sub))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use jsonwebtoken::{EncodingKey, Header, encode};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const SECRET: &str = "a secret of more than thirty-two bytes";

    fn verifier() -> Verifier {
        Verifier::new(&AuthConfig { stress_token: Some("static".into()), jwt_secret: Some(SECRET.into()) })
    }

    fn now() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    fn token(algorithm: Algorithm, claims: &serde_json::Value, secret: &str) -> String {
        encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    }

    #[test]
    fn the_operators_token_and_signed_ones_are_good() {
        assert_eq!(verifier().verify("static"), Ok(Principal::Operator));
        let signed = token(Algorithm::HS256, &json!({"sub": "ada", "exp": now() + 60}), SECRET);
        assert_eq!(verifier().verify(&signed), Ok(Principal::Subject("ada".into())));
    }

    #[test]
    fn a_token_of_another_secret_algorithm_or_time_is_not() {
        let claims = json!({"sub": "ada", "exp": now() + 60});
        let good = token(Algorithm::HS256, &claims, SECRET);
        let (_, rest) = good.split_once('.').unwrap();
        let unsigned = format!("eyJhbGciOiJub25lIn0.{}.", rest.split_once('.').unwrap().0);
        for bad in [
            "",
            "stati",
            "statics",
            "a.b.c",
            &unsigned,
            &good[..good.len() - 2],
            &token(Algorithm::HS512, &claims, SECRET),
            &token(Algorithm::HS256, &claims, "another secret of thirty-two bytes!"),
            &token(Algorithm::HS256, &json!({"sub": "ada"}), SECRET),
            &token(Algorithm::HS256, &json!({"sub": "ada", "exp": now() - 1}), SECRET),
            &token(Algorithm::HS256, &json!({"exp": now() + 60, "nbf": now() + 30}), SECRET),
        ] {
            assert_eq!(verifier().verify(bad), Err(AuthError), "{bad}");
        }
        let nothing_set = Verifier::new(&AuthConfig::default());
        assert_eq!(nothing_set.verify(&good), Err(AuthError));
        assert_eq!(nothing_set.verify("static"), Err(AuthError));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_verifier_panic(token in ".{0,200}") {
            prop_assert!(verifier().verify(&token).is_err());
        }
    }
}
