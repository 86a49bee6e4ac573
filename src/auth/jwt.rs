//! JSON Web Tokens (RFC 7519): the service's own, signed with `JWT_SECRET` by HS256, and those of an issuer with a known public
//! key.
//!
//! * A token's `alg` selects among keys, never how a key is used: each key has one algorithm (RFC 8725, section 3.1). `jku`,
//!   `x5u` and `jwk` are ignored, and a token with a critical extension (`crit`) is rejected.
//! * `exp` is required and must be in the future, `nbf` in the past. An issuer's clock and ours never agree, so both have a
//!   leeway of [`LEEWAY_S`]; the `exp` of tokens signed with `JWT_SECRET` has none.
//! * Tokens of an issuer must have the configured `iss` and `aud`. The service's own have them; tokens that an operator signs
//!   with `JWT_SECRET` may omit what is not configured.

use hmac::{Hmac, Mac};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::AuthError;
use super::clock::now_s;
use super::issuer::IssuerKeys;
use super::principal::{Identity, Principal};
use super::random::Secret;
use super::scope::Scopes;
use super::users::User;
use crate::config::{AuthConfig, limits};

/// Bytes of a refresh token's tag.
const TAG_BYTES: usize = 16;
/// A refresh token's tag.
pub(super) type Tag = [u8; TAG_BYTES];

/// `iss` and `aud` of the service's own tokens where nothing is configured.
const OURSELVES: &str = "tidegate";
/// The leeway for clocks, in seconds.
const LEEWAY_S: u64 = 30;
/// The clock of the node that receives a new token may be behind ours.
const CLOCKS_APART_S: i64 = 10;

/// Signs and verifies tokens.
pub(super) struct Tokens {
    own: Option<Own>,
    issuer: IssuerKeys,
    expects: Expects,
    /// The name of a claim, or the path to a nested one, separated by dots.
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

/// The content of a valid token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verified {
    pub(super) principal: Principal,
    /// The time of issue, in seconds of Unix time; 0: not stated.
    pub(super) issued_s: i64,
    /// The first second of Unix time at which it is not valid.
    pub(super) expires_s: i64,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
    iss: Option<String>,
    #[serde(default)]
    iat: f64,
    exp: f64,
    nbf: Option<f64>,
    sid: Option<Uuid>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Serialize)]
struct OwnClaims<'a> {
    sub: Uuid,
    email: &'a str,
    permissions: Vec<String>,
    iss: &'a str,
    aud: &'a str,
    exp: i64,
    nbf: i64,
    iat: i64,
    jti: Uuid,
    sid: Uuid,
}

impl Tokens {
    /// Tokens signed with `secret`, if there is one, and tokens of the issuer.
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
                validation: validation(Algorithm::HS256, 0, &expects, &required),
                refresh_key: derived(b"tidegate refresh tokens")?,
                refresh_tag_key: derived(b"tidegate refresh tags")?,
            })
        });
        Self {
            own,
            issuer,
            expects,
            permissions_claim: config.jwt_permissions_claim.clone(),
            lifetime_s: limits::ACCESS_TOKEN_S,
        }
    }

    /// The lifetime of a new token in seconds.
    pub(super) fn lifetime_s(&self) -> i64 {
        self.lifetime_s
    }

    /// The keys of the issuer.
    pub(super) fn issuer(&self) -> &IssuerKeys {
        &self.issuer
    }

    /// Whether users can log in here.
    pub(super) fn can_sign(&self) -> bool {
        self.own.is_some()
    }

    /// A token for a user's session, from `now_s` on.
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

    /// The successor of `secret` in a session's chain of refresh tokens. Deterministic.
    pub(super) fn next_refresh(&self, session: Uuid, secret: &[u8; 32]) -> Result<[u8; 32], AuthError> {
        let own = self.own.as_ref().ok_or(AuthError::SignInOff)?;
        Ok(refresh_mac(&own.refresh_key, session, secret).finalize().into_bytes().into())
    }

    /// The tag of a refresh token, which proves that it was issued.
    pub(super) fn refresh_tag(&self, session: Uuid, secret: &[u8; 32]) -> Result<Tag, AuthError> {
        let own = self.own.as_ref().ok_or(AuthError::SignInOff)?;
        let mac = refresh_mac(&own.refresh_tag_key, session, secret).finalize().into_bytes();
        mac[..TAG_BYTES].try_into().map_err(|_| AuthError::Failed)
    }

    /// Whether a refresh token has this tag; compared in constant time.
    pub(super) fn is_refresh_tag(&self, session: Uuid, secret: &[u8; 32], tag: &Tag) -> bool {
        self.refresh_tag(session, secret).is_ok_and(|own| own.ct_eq(tag).into())
    }

    /// The principal of a token.
    ///
    /// # Errors
    ///
    /// [`AuthError::Invalid`] for every invalid token.
    pub(super) fn verify(&self, token: &str) -> Result<Verified, AuthError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| AuthError::Invalid)?;
        if header.crit.is_some() {
            return Err(AuthError::Invalid);
        }
        if header.alg == Algorithm::HS256 {
            let own = self.own.as_ref().ok_or(AuthError::Invalid)?;
            let decoded = jsonwebtoken::decode::<Claims>(token, &own.verifies, &own.validation);
            return self.verified(decoded.map_err(|_| AuthError::Invalid)?.claims, true);
        }
        for key in self.issuer.fitting(header.alg, header.kid.as_deref()) {
            let validation =
                validation(key.algorithm, LEEWAY_S, &self.expects, &["exp", "iss", "aud", "sub"]);
            if let Ok(decoded) = jsonwebtoken::decode::<Claims>(token, &key.key, &validation) {
                return self.verified(decoded.claims, false);
            }
        }
        Err(AuthError::Invalid)
    }

    fn verified(&self, claims: Claims, is_own: bool) -> Result<Verified, AuthError> {
        if claims.nbf.is_some_and(|nbf| !has_begun(nbf, now_s())) {
            return Err(AuthError::Invalid);
        }
        let identity = match (is_own, claims.sid, Uuid::parse_str(&claims.sub)) {
            (true, Some(session), Ok(id)) => Identity::User { id, session },
            _ => Identity::External {
                issuer: claims.iss.unwrap_or_else(|| self.expects.issuer.clone()),
                subject: claims.sub,
            },
        };
        let permissions = claim_at(&claims.others, &self.permissions_claim).map(permissions);
        let leeway_s = if is_own { 0 } else { LEEWAY_S as i64 };
        Ok(Verified {
            principal: Principal { identity, permissions },
            issued_s: claims.iat as i64,
            expires_s: (claims.exp as i64).saturating_add(leeway_s),
        })
    }
}

/// Whether the time `nbf` has come. Fractions are not rounded: rounded up, half a second ago would still be in the future.
fn has_begun(nbf: f64, now_s: i64) -> bool {
    nbf.floor() <= (now_s + LEEWAY_S as i64) as f64
}

/// The claim of this name, or at this path of names separated by dots, such as `realm_access.roles`. Names may contain dots.
fn claim_at<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let nested = || {
        path.match_indices('.').find_map(|(dot, _)| match claims.get(&path[..dot]) {
            Some(Value::Object(inner)) => claim_at(inner, &path[dot + 1..]),
            _ => None,
        })
    };
    claims.get(path).or_else(nested)
}

fn refresh_mac(key: &Hmac<Sha256>, session: Uuid, secret: &[u8; 32]) -> Hmac<Sha256> {
    let mut mac = key.clone();
    mac.update(session.as_bytes());
    mac.update(secret);
    mac
}

fn validation(algorithm: Algorithm, leeway_s: u64, expects: &Expects, required: &[&str]) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.leeway = leeway_s;
    // Checked by `has_begun`: the library rounds.
    validation.validate_nbf = false;
    validation.set_issuer(&[&expects.issuer]);
    validation.set_audience(&[&expects.audience]);
    validation.set_required_spec_claims(required);
    validation
}

/// The scopes in an array of words, or in words separated by spaces (RFC 8693, section 4.2); anything else grants none.
fn permissions(claim: &Value) -> Scopes {
    match claim {
        Value::Array(words) => Scopes::known(words.iter().filter_map(Value::as_str)),
        Value::String(words) => Scopes::known(words.split(' ')),
        _ => Scopes::default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_time_to_begin_has_a_leeway_and_is_not_rounded_up() {
        for (nbf, has_come) in
            [(999.9, true), (1000.0, true), (1002.0, true), (1030.0, true), (1030.9, true), (1031.0, false)]
        {
            assert_eq!(has_begun(nbf, 1000), has_come, "{nbf}");
        }
        assert!(has_begun(-1e300, 1000) && !has_begun(1e300, 1000) && !has_begun(f64::NAN, 1000));
    }

    #[test]
    fn a_claim_is_found_by_its_name_or_inside_others() {
        let claims = json!({
            "permissions": 1,
            "realm_access": {"roles": 2, "a.b": 3},
            "https://idp.example/roles": 4,
            "resource_access": {"my.app": {"roles": 5}, "my": 6},
            "a": {"b": {"c": 7}},
            "a.b": {"d": 8},
        });
        let Value::Object(claims) = claims else { unreachable!() };
        for (path, found) in [
            ("permissions", Some(1)),
            ("realm_access.roles", Some(2)),
            ("realm_access.a.b", Some(3)),
            ("https://idp.example/roles", Some(4)),
            ("resource_access.my.app.roles", Some(5)),
            ("a.b.c", Some(7)),
            ("a.b.d", Some(8)),
            ("roles", None),
            ("realm_access.", None),
            (".roles", None),
            ("permissions.roles", None),
        ] {
            assert_eq!(claim_at(&claims, path), found.map(Value::from).as_ref(), "{path}");
        }
    }
}
