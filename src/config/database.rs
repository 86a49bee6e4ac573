//! Postgres: where it is, how it is used, and what the first migration makes.

use std::time::Duration;

use serde::Deserialize;

use super::{ConfigError, DatabaseConfig, NAME, is_name, refuse};

/// How `requests` is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Partitioning {
    /// A partition a day.
    Day,
    /// One table.
    Off,
}

impl Partitioning {
    /// The word in the settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Off => "off",
        }
    }
}

pub(super) const DATABASE_URL_TAKES: &str =
    "a URL such as postgres://user:password@host:5432/name?sslmode=verify-full";

/// How much longer a `COPY` may take than a request's statement.
const COPY_FACTOR: u32 = 12;

impl DatabaseConfig {
    /// Time of one statement of a request.
    pub fn statement_timeout(&self) -> Duration {
        Duration::from_millis(self.statement_timeout_ms)
    }

    /// Time of one `COPY`.
    pub fn copy_timeout(&self) -> Duration {
        self.statement_timeout() * COPY_FACTOR
    }

    /// Time that a request waits for a connection.
    pub fn pool_wait(&self) -> Duration {
        Duration::from_millis(self.pool_wait_ms)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let name = &self.db_schema;
        if !is_name(name) {
            return Err(refuse("DB_SCHEMA", name, NAME));
        }
        Ok(())
    }
}
