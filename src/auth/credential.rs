//! Credentials: what a verified token says, from which its validity can be checked again without the token.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::keys::KeyHash;
use super::principal::{Identity, Principal};
use super::scope::Scopes;

/// What a verified token says. It is no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// There was no token.
    Anonymous,
    /// The operator's token.
    Operator,
    /// An API key.
    Key(KeyHash),
    /// A JWT.
    Token {
        /// Its principal.
        principal: Principal,
        /// The time of issue, in seconds of Unix time; 0: not stated.
        issued_s: i64,
        /// The first second of Unix time at which it is not valid.
        expires_s: i64,
    },
}

/// A credential in the database.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
enum StoredCredential {
    Anonymous,
    Operator,
    Key { hash: Vec<u8> },
    User { id: Uuid, session: Uuid, issued_s: i64, expires_s: i64, scopes: Option<Vec<String>> },
    External { issuer: String, subject: String, issued_s: i64, expires_s: i64, scopes: Option<Vec<String>> },
}

impl Credential {
    /// As JSON for the database; `None`: of a kind without access to an account, or it cannot be encoded.
    pub fn to_json(&self) -> Option<serde_json::Value> {
        let names = |permissions: &Option<Scopes>| permissions.as_ref().map(Scopes::names);
        let stored = match self {
            Self::Anonymous => StoredCredential::Anonymous,
            Self::Operator => StoredCredential::Operator,
            Self::Key(hash) => StoredCredential::Key { hash: hash.0.to_vec() },
            Self::Token { principal: Principal { identity, permissions }, issued_s, expires_s } => {
                let (issued_s, expires_s, scopes) = (*issued_s, *expires_s, names(permissions));
                match identity.clone() {
                    Identity::User { id, session } => {
                        StoredCredential::User { id, session, issued_s, expires_s, scopes }
                    }
                    Identity::External { issuer, subject } => {
                        StoredCredential::External { issuer, subject, issued_s, expires_s, scopes }
                    }
                    _ => return None,
                }
            }
        };
        serde_json::to_value(stored).ok()
    }

    /// Reads one from the database; `None`: a later version wrote it.
    pub fn from_json(json: serde_json::Value) -> Option<Self> {
        let token = |identity, scopes: Option<Vec<String>>, issued_s, expires_s| {
            let permissions = scopes.map(|names| Scopes::known(names.iter().map(String::as_str)));
            Self::Token { principal: Principal { identity, permissions }, issued_s, expires_s }
        };
        Some(match serde_json::from_value(json).ok()? {
            StoredCredential::Anonymous => Self::Anonymous,
            StoredCredential::Operator => Self::Operator,
            StoredCredential::Key { hash } => Self::Key(KeyHash(hash.try_into().ok()?)),
            StoredCredential::User { id, session, issued_s, expires_s, scopes } => {
                token(Identity::User { id, session }, scopes, issued_s, expires_s)
            }
            StoredCredential::External { issuer, subject, issued_s, expires_s, scopes } => {
                token(Identity::External { issuer, subject }, scopes, issued_s, expires_s)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Scope;

    #[test]
    fn a_credential_is_read_as_it_was_written() {
        let token = |identity, permissions| Credential::Token {
            principal: Principal { identity, permissions },
            issued_s: 5,
            expires_s: 9,
        };
        let user = Identity::User { id: Uuid::from_u128(1), session: Uuid::from_u128(2) };
        let external = Identity::External { issuer: "i".into(), subject: "s".into() };
        let scopes = Scopes::known(["records:read", "realtime:read:orders/"]);
        for credential in [
            Credential::Anonymous,
            Credential::Operator,
            Credential::Key(KeyHash([7; 32])),
            token(user.clone(), Some(scopes)),
            token(user, Some(Scopes::default())),
            token(external.clone(), None),
            token(external, Some(Scopes::default().with(Scope::Admin))),
        ] {
            let json = credential.to_json().unwrap();
            assert_eq!(Credential::from_json(json), Some(credential));
        }
        assert_eq!(Credential::from_json(serde_json::json!({"kind": "later"})), None);
        assert_eq!(token(Identity::Operator, None).to_json(), None);
    }
}
