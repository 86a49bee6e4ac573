//! Tokens of records that sign in: JWTs (RFC 7519) signed by HS256 with a key of the record and of its collection.
//!
//! A token names its record, by which its key is found: so its claims are read before they are verified, and say nothing until then. Each type of
//! token has a secret of its own in the collection, and the type is a claim too: a token of one type is none of another.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::AuthError;
use super::clock::now_s;

/// Longer than any of these tokens.
const MAX_BYTES: usize = 4 * 1024;
/// The shortest key, in bytes: that of the hash (RFC 7518, section 3.2).
const LEAST_KEY_BYTES: usize = 32;

/// The type of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RecordTokenKind {
    /// Of a sign-in.
    Auth,
    /// For protected files.
    File,
    /// To prove an email.
    Verification,
    /// To set a forgotten password.
    PasswordReset,
    /// To change an email.
    EmailChange,
}

/// The claims of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordClaims {
    /// The id of the record.
    pub id: String,
    /// The type.
    #[serde(rename = "type")]
    pub kind: RecordTokenKind,
    /// The id of its collection.
    pub collection_id: String,
    /// The first second of Unix time at which it is not valid.
    pub exp: i64,
    /// Whether it can be exchanged for a later one; of a sign-in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refreshable: Option<bool>,
    /// The email that it was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// The email that the record is to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_email: Option<String>,
}

impl RecordClaims {
    /// The claims of a token of `lifetime_s` seconds.
    pub fn new(kind: RecordTokenKind, collection_id: &str, id: &str, lifetime_s: i64) -> Self {
        Self {
            id: id.to_owned(),
            kind,
            collection_id: collection_id.to_owned(),
            exp: now_s().saturating_add(lifetime_s),
            refreshable: None,
            email: None,
            new_email: None,
        }
    }

    /// What a text says that may be a token. It is verified by [`Self::are_of`] only. `None`: it is no such token.
    pub fn read(token: &str) -> Option<Self> {
        if token.len() > MAX_BYTES {
            return None;
        }
        let mut parts = token.split('.');
        let (_header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }

    /// The token, signed with the record's and the collection's part of the key.
    ///
    /// # Errors
    ///
    /// [`AuthError::Failed`], also for a key that is too short to be a secret.
    pub fn sign(&self, token_key: &str, secret: &str) -> Result<String, AuthError> {
        let key = key(token_key, secret).ok_or(AuthError::Failed)?;
        let signed =
            jsonwebtoken::encode(&Header::new(Algorithm::HS256), self, &EncodingKey::from_secret(&key));
        signed.map_err(|_| AuthError::Failed)
    }

    /// Whether these are the claims of this token, which is signed with the key, is of the type and has not expired.
    pub fn are_of(&self, token: &str, kind: RecordTokenKind, token_key: &str, secret: &str) -> bool {
        let Some(key) = key(token_key, secret) else { return false };
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        validation.validate_aud = false;
        let decoded = jsonwebtoken::decode::<Self>(token, &DecodingKey::from_secret(&key), &validation);
        decoded.is_ok_and(|decoded| decoded.claims == *self && self.kind == kind && self.exp > now_s())
    }
}

/// The key of both parts. `None`: a record or a collection without a secret has no tokens.
fn key(token_key: &str, secret: &str) -> Option<Vec<u8>> {
    let is_secret = !token_key.is_empty() && !secret.is_empty();
    let key = [token_key.as_bytes(), secret.as_bytes()].concat();
    (is_secret && key.len() >= LEAST_KEY_BYTES).then_some(key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk";
    const SECRET: &str = "ssssssssssssssssssssssssssssssssssssssssssssssssss";

    fn claims() -> RecordClaims {
        RecordClaims::new(RecordTokenKind::Auth, "pbc_1", "abcdefghijklmno", 60)
    }

    fn is_valid(token: &str, kind: RecordTokenKind, key: &str, secret: &str) -> bool {
        RecordClaims::read(token).is_some_and(|claims| claims.are_of(token, kind, key, secret))
    }

    #[test]
    fn a_token_is_valid_for_its_own_key_and_type_until_it_expires() {
        let token = claims().sign(KEY, SECRET).unwrap();
        assert_eq!(RecordClaims::read(&token), Some(claims()));
        assert!(is_valid(&token, RecordTokenKind::Auth, KEY, SECRET));
        assert!(!is_valid(&token, RecordTokenKind::File, KEY, SECRET));
        assert!(!is_valid(&token, RecordTokenKind::Auth, SECRET, SECRET));
        assert!(!is_valid(&token, RecordTokenKind::Auth, KEY, KEY));
        assert!(!is_valid(&token, RecordTokenKind::Auth, KEY, ""));
        assert!(!is_valid(&token, RecordTokenKind::Auth, "", SECRET));
        let expired = RecordClaims { exp: now_s(), ..claims() }.sign(KEY, SECRET).unwrap();
        assert!(!is_valid(&expired, RecordTokenKind::Auth, KEY, SECRET));
        assert!(claims().sign("", SECRET).is_err() && claims().sign("short", "short").is_err());
    }

    #[test]
    fn another_algorithm_or_other_claims_make_it_invalid() {
        let token = claims().sign(KEY, SECRET).unwrap();
        let (head, rest) = token.split_once('.').unwrap();
        let (body, signature) = rest.split_once('.').unwrap();
        let encoded = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let other = RecordClaims { id: "ooooooooooooooo".into(), ..claims() };
        let other = encoded(&serde_json::to_string(&other).unwrap());
        for forged in [
            format!("{}.{body}.", encoded(r#"{"alg":"none","typ":"JWT"}"#)),
            format!("{}.{body}.{signature}", encoded(r#"{"alg":"none","typ":"JWT"}"#)),
            format!("{}.{body}.{signature}", encoded(r#"{"alg":"HS512","typ":"JWT"}"#)),
            format!("{}.{body}.{signature}", encoded(r#"{"alg":"RS256","typ":"JWT"}"#)),
            format!("{head}.{other}.{signature}"),
            format!("{head}.{body}."),
            format!("{head}.{body}"),
            format!("{token}.x"),
        ] {
            assert!(!is_valid(&forged, RecordTokenKind::Auth, KEY, SECRET), "{forged}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_reading_panic(text in ".{0,60}", parts in "[A-Za-z0-9_-]{0,20}\\.[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,20}") {
            prop_assert!(!is_valid(&text, RecordTokenKind::Auth, KEY, SECRET));
            prop_assert!(!is_valid(&parts, RecordTokenKind::Auth, KEY, SECRET));
        }
    }
}
