//! JSON Web Tokens (RFC 7519): our own, signed with `JWT_SECRET` by HS256, and those of an issuer whose public key is known.
//!
//! * What a token says of its algorithm chooses among keys, never how a key is used: each key has one algorithm (RFC 8725,
//!   section 3.1). `jku`, `x5u` and `jwk` are not looked at, and a token with a critical extension (`crit`) is refused.
//! * `exp` has to be there and to come, `nbf` has to be past, with no leeway.
//! * Tokens of an issuer must have `iss` and `aud` as they are set. Our own have them; tokens that an operator signs with
//!   `JWT_SECRET` may leave out what is not set.

use std::collections::HashMap;

use hmac::{Hmac, Mac};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::AuthError;
use super::issuer::IssuerKeys;
use super::principal::{Principal, Who};
use super::random::Secret;
use super::scope::Scopes;
use super::users::User;
use crate::config::AuthConfig;

/// Bytes of a refresh token's tag.
const TAG_BYTES: usize = 16;
/// A refresh token's tag.
pub(super) type Tag = [u8; TAG_BYTES];

/// `iss` and `aud` of our own tokens where nothing is set.
const OURSELVES: &str = "tidegate";
/// The clock of the node that a new token is shown to may be behind ours.
const CLOCKS_APART_S: i64 = 10;

/// Signs and verifies tokens.
pub(super) struct Tokens {
    own: Option<Own>,
    issuer: IssuerKeys,
    expects: Expects,
    permissions_claim: String,
    lifetime_s: i64,
}

struct Own {
    signs: EncodingKey,
    verifies: DecodingKey,
    validation: Validation,
    refresh_key: Hmac<Sha256>,
    refresh_tag_key: Hmac<Sha256>,
}

struct Expects {
    issuer: String,
    audience: String,
}

/// What a token said, once it was found to be good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verified {
    pub(super) principal: Principal,
    /// When it was issued, in seconds of Unix time; 0 if it does not say.
    pub(super) issued_s: i64,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
    iss: Option<String>,
    #[serde(default)]
    iat: f64,
    sid: Option<Uuid>,
    #[serde(flatten)]
    others: HashMap<String, Value>,
}

#[derive(Serialize)]
struct OwnClaims<'a> {
    sub: Uuid,
    email: &'a str,
    permissions: Vec<&'static str>,
    iss: &'a str,
    aud: &'a str,
    exp: i64,
    nbf: i64,
    iat: i64,
    jti: Uuid,
    sid: Uuid,
}

impl Tokens {
    /// Tokens of our own with `secret`, if there is one, and of the issuer of these keys.
    pub(super) fn new(config: &AuthConfig, secret: Option<&Secret>, issuer: IssuerKeys) -> Self {
        let set = |value: &Option<String>| value.clone().unwrap_or_else(|| OURSELVES.to_owned());
        let expects = Expects { issuer: set(&config.jwt_issuer), audience: set(&config.jwt_audience) };
        let mut required = vec!["exp"];
        required.extend(config.jwt_issuer.as_ref().map(|_| "iss"));
        required.extend(config.jwt_audience.as_ref().map(|_| "aud"));
        let own = secret.and_then(|secret| {
            let secret = secret.reveal().as_bytes();
            let derived = |purpose: &[u8]| {
                let mut key = <Hmac<Sha256> as Mac>::new_from_slice(secret).ok()?;
                key.update(purpose);
                <Hmac<Sha256> as Mac>::new_from_slice(&key.finalize().into_bytes()).ok()
            };
            Some(Own {
                signs: EncodingKey::from_secret(secret),
                verifies: DecodingKey::from_secret(secret),
                validation: validation(Algorithm::HS256, &expects, &required),
                refresh_key: derived(b"tidegate refresh tokens")?,
                refresh_tag_key: derived(b"tidegate refresh tags")?,
            })
        });
        Self {
            own,
            issuer,
            expects,
            permissions_claim: config.jwt_permissions_claim.clone(),
            lifetime_s: config.access_token_s as i64,
        }
    }

    /// Seconds that a new token is good.
    pub(super) fn lifetime_s(&self) -> i64 {
        self.lifetime_s
    }

    /// The keys of the issuer.
    pub(super) fn issuer(&self) -> &IssuerKeys {
        &self.issuer
    }

    /// Whether users can sign in here.
    pub(super) fn can_sign(&self) -> bool {
        self.own.is_some()
    }

    /// A token for a user in a session, from `now_s` on.
    ///
    /// # Errors
    ///
    /// [`AuthError::SignInOff`] without a secret.
    pub(super) fn sign(&self, user: &User, session: Uuid, now_s: i64) -> Result<Secret, AuthError> {
        let own = self.own.as_ref().ok_or(AuthError::SignInOff)?;
        let claims = OwnClaims {
            sub: user.id,
            email: &user.email,
            permissions: user.permissions.names(),
            iss: &self.expects.issuer,
            aud: &self.expects.audience,
            exp: now_s + self.lifetime_s,
            nbf: now_s - CLOCKS_APART_S,
            iat: now_s,
            jti: Uuid::new_v4(),
            sid: session,
        };
        let signed = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &own.signs);
        signed.map(Secret::new).map_err(|_| AuthError::Failed)
    }

    /// The successor of `secret` in a session's chain of refresh tokens; always the same.
    pub(super) fn next_refresh(&self, session: Uuid, secret: &[u8; 32]) -> Result<[u8; 32], AuthError> {
        let own = self.own.as_ref().ok_or(AuthError::SignInOff)?;
        Ok(refresh_mac(&own.refresh_key, session, secret).finalize().into_bytes().into())
    }

    /// The tag of a refresh token, by which a token that was issued is recognised.
    pub(super) fn refresh_tag(&self, session: Uuid, secret: &[u8; 32]) -> Result<Tag, AuthError> {
        let own = self.own.as_ref().ok_or(AuthError::SignInOff)?;
        let mac = refresh_mac(&own.refresh_tag_key, session, secret).finalize().into_bytes();
        mac[..TAG_BYTES].try_into().map_err(|_| AuthError::Failed)
    }

    /// Whether a refresh token has this tag; compared in constant time.
    pub(super) fn is_refresh_tag(&self, session: Uuid, secret: &[u8; 32], tag: &Tag) -> bool {
        self.refresh_tag(session, secret).is_ok_and(|own| own.ct_eq(tag).into())
    }

    /// Whose token this is.
    ///
    /// # Errors
    ///
    /// [`AuthError::Invalid`] for every token that is not good.
    pub(super) fn verify(&self, token: &str) -> Result<Verified, AuthError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| AuthError::Invalid)?;
        if header.crit.is_some() {
            return Err(AuthError::Invalid);
        }
        if header.alg == Algorithm::HS256 {
            let own = self.own.as_ref().ok_or(AuthError::Invalid)?;
            let decoded = jsonwebtoken::decode::<Claims>(token, &own.verifies, &own.validation);
            return Ok(self.verified(decoded.map_err(|_| AuthError::Invalid)?.claims, true));
        }
        for key in self.issuer.fitting(header.alg, header.kid.as_deref()) {
            let validation = validation(key.algorithm, &self.expects, &["exp", "iss", "aud", "sub"]);
            if let Ok(decoded) = jsonwebtoken::decode::<Claims>(token, &key.key, &validation) {
                return Ok(self.verified(decoded.claims, false));
            }
        }
        Err(AuthError::Invalid)
    }

    fn verified(&self, claims: Claims, is_own: bool) -> Verified {
        let who = match (is_own, claims.sid, Uuid::parse_str(&claims.sub)) {
            (true, Some(session), Ok(id)) => Who::User { id, session },
            _ => Who::External {
                issuer: claims.iss.unwrap_or_else(|| self.expects.issuer.clone()),
                subject: claims.sub,
            },
        };
        let permissions = claims.others.get(&self.permissions_claim).map(permissions);
        Verified { principal: Principal { who, permissions }, issued_s: claims.iat as i64 }
    }
}

fn refresh_mac(key: &Hmac<Sha256>, session: Uuid, secret: &[u8; 32]) -> Hmac<Sha256> {
    let mut mac = key.clone();
    mac.update(session.as_bytes());
    mac.update(secret);
    mac
}

fn validation(algorithm: Algorithm, expects: &Expects, required: &[&str]) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.leeway = 0;
    validation.validate_nbf = true;
    validation.set_issuer(&[&expects.issuer]);
    validation.set_audience(&[&expects.audience]);
    validation.set_required_spec_claims(required);
    validation
}

/// An array of words, or words with spaces between (RFC 8693, section 4.2); anything else allows nothing.
fn permissions(claim: &Value) -> Scopes {
    match claim {
        Value::Array(words) => Scopes::known(words.iter().filter_map(Value::as_str)),
        Value::String(words) => Scopes::known(words.split(' ')),
        _ => Scopes::default(),
    }
}
