//! What is wrong with a setting.

use super::database;

/// A variable has a value that it does not take.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// A value of the wrong form, or out of bounds.
    #[error("{name}: got {got}, takes {takes}")]
    Value {
        /// The variable.
        name: &'static str,
        /// Its value, quoted, unless it is a secret.
        got: String,
        /// What it takes.
        takes: String,
    },
    /// A variable of an earlier version.
    #[error("{name} is gone: {instead}")]
    Removed {
        /// The variable.
        name: &'static str,
        /// Its replacement.
        instead: &'static str,
    },
    /// `.env` is there and cannot be read; names of variables and numbers of lines, without values.
    #[error(".env: {0}")]
    DotEnv(String),
}

impl ConfigError {
    /// No `JWT_SECRET` where there has to be one.
    pub fn jwt_secret_needed() -> Self {
        let takes = "at least 32 bytes where AUTH=required and the database is your own".into();
        Self::Value { name: "JWT_SECRET", got: "nothing".into(), takes }
    }

    /// A `JWT_PUBLIC_KEY_FILE` that cannot be used, for this reason.
    pub fn jwt_public_key_file(reason: &impl std::fmt::Display) -> Self {
        let got = format!("a file that {reason}");
        let takes = "a file with a public key in PEM: RSA, P-256 or Ed25519".into();
        Self::Value { name: "JWT_PUBLIC_KEY_FILE", got, takes }
    }

    /// A `DATABASE_URL` that cannot be used, for this reason; its value is not shown.
    pub fn database_url(reason: &impl std::fmt::Display) -> Self {
        let got = format!("one that is not valid ({reason})");
        Self::Value { name: "DATABASE_URL", got, takes: database::DATABASE_URL_TAKES.into() }
    }
}

/// Refuses a value that only its relation to another makes wrong.
pub(super) fn refuse(
    name: &'static str,
    got: impl std::fmt::Display,
    takes: impl Into<String>,
) -> ConfigError {
    ConfigError::Value { name, got: format!("\"{got}\""), takes: takes.into() }
}
