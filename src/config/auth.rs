//! Whose bearer tokens are good.

use serde::Deserialize;

use super::{ConfigError, Kind, Setting};

/// Whose bearer tokens are good.
#[derive(Clone, Default, Deserialize)]
pub struct AuthConfig {
    /// A token that is good for ever.
    pub stress_token: Option<String>,
    /// The secret of HS256 tokens.
    pub jwt_secret: Option<String>,
}

/// Both are secrets: only whether they are there is shown.
impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig")
            .field("stress_token", &self.stress_token.is_some())
            .field("jwt_secret", &self.jwt_secret.is_some())
            .finish()
    }
}

/// RFC 7518, section 3.2: a key of HS256 has at least the size of the hash.
const LEAST_SECRET_BYTES: usize = 32;
const JWT_SECRET_TAKES: &str = "at least 32 bytes";
const STRESS_TOKEN_TAKES: &str = "visible ASCII characters, as a header has them";

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "STRESS_TOKEN",
        default: "",
        kind: Kind::Secret(STRESS_TOKEN_TAKES),
        help: "A bearer token that is good for ever. Unset: there is none.",
    },
    Setting {
        name: "JWT_SECRET",
        default: "",
        kind: Kind::Secret(JWT_SECRET_TAKES),
        help: "The secret with which bearer tokens are signed (JWT, HS256). Unset: none is good.",
    },
];

impl AuthConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let refuse = |name, takes: &str| {
            Err(ConfigError::Value { name, got: "a value that is not shown".into(), takes: takes.into() })
        };
        if self.jwt_secret.as_ref().is_some_and(|secret| secret.len() < LEAST_SECRET_BYTES) {
            return refuse("JWT_SECRET", JWT_SECRET_TAKES);
        }
        if self.stress_token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            return refuse("STRESS_TOKEN", STRESS_TOKEN_TAKES);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_checked_and_never_shown() {
        let config = AuthConfig { stress_token: Some("hunter2".into()), jwt_secret: Some("x".repeat(31)) };
        assert!(!format!("{config:?}").contains("hunter2"));
        let error = config.check().unwrap_err().to_string();
        assert_eq!(error, "JWT_SECRET: got a value that is not shown, takes at least 32 bytes");
        assert!(AuthConfig { jwt_secret: Some("x".repeat(32)), ..config }.check().is_ok());
        let config = AuthConfig { stress_token: Some("a b".into()), jwt_secret: None };
        assert!(config.check().unwrap_err().to_string().starts_with("STRESS_TOKEN: "));
    }
}
