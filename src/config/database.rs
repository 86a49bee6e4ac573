//! Postgres: where it is, how it is used, and what the first migration makes.

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

impl DatabaseConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let name = &self.db_schema;
        if !is_name(name) {
            return Err(refuse("DB_SCHEMA", name, NAME));
        }
        Ok(())
    }
}
