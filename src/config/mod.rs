//! Settings, read once from the environment (and from `.env`, where the environment says nothing).
//!
//! `table` declares every setting once. Its macro makes of it a struct for each concern, which envy fills, and the [`Setting`]s, which
//! provide defaults, check values before envy sees them (a mistake is reported with the variable's name, what it got and what it
//! takes), and print `serve --help` and `.env.example`. The other modules hold what follows from settings.

mod access;
mod auth;
mod database;
mod dot_env;
mod error;
mod ingest;
mod logging;
mod quotas;
mod records;
mod server;
mod setting;
mod stress;
mod subscribers;
mod table;
mod variables;

use std::path::Path;

use serde::Deserialize;

pub use access::{Rates, is_origin};
pub use auth::AuthMode;
pub use database::Partitioning;
pub use error::ConfigError;
use error::refuse;
pub use ingest::Durability;
pub use logging::LogFormat;
pub use quotas::PoolQuotas;
pub use setting::{Kind, Setting, help};
pub use subscribers::SubscriberLimits;
pub use table::*;
pub use variables::Variables;

/// `on` or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// Enabled.
    On,
    /// Disabled.
    Off,
}

impl Switch {
    /// Whether it is on.
    pub fn is_on(self) -> bool {
        self == Self::On
    }
}

/// What [`is_name`] takes.
const NAME: &str = "a letter or _, then letters, digits or _, at most 63";

/// Whether `text` is a name as schemas and collections have it.
fn is_name(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= 63 && text.starts_with(|c: char| !c.is_ascii_digit()) && text.chars().all(is_word)
}

impl Config {
    /// Reads the process's environment and `.env`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for the first variable with a value that it does not take.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_variables(&Variables::from_process(Path::new(".env"))?)
    }

    /// What one concern's settings ask of another's.
    fn check_together(&self, variables: &Variables) -> Result<(), ConfigError> {
        if self.auth_mode() == AuthMode::Open && !self.server.host.is_loopback() {
            let takes =
                "a loopback address, unless AUTH=required: whoever reaches an open service may use it";
            return Err(refuse("HOST", self.server.host, takes));
        }
        let (ingest, pool) = (&self.ingest, self.database.db_pool_size);
        let others = quotas::WRITERS_COMPANY + quotas::LEAST_FOR_OTHERS;
        if ingest.writers + others > pool {
            // The one that was set is the one to mend.
            let is_pools = variables.is_set("DB_POOL_SIZE") && !variables.is_set("WRITERS");
            let least = ingest.writers + others;
            return Err(if is_pools {
                let takes = format!("at least {least}, WRITERS ({}) and {others} more", ingest.writers);
                refuse("DB_POOL_SIZE", pool, takes)
            } else {
                let takes =
                    format!("at most {}, DB_POOL_SIZE ({pool}) less {others}", pool.saturating_sub(others));
                refuse("WRITERS", ingest.writers, takes)
            });
        }
        let journal = &self.journal;
        if journal.keep_bytes() >= journal.journal_max_bytes {
            let takes = format!("less than JOURNAL_MAX_BYTES, {}", journal.journal_max_bytes);
            return Err(refuse("JOURNAL_KEEP_BYTES", journal.keep_bytes(), takes));
        }
        // One that is written, and one that Postgres does not have.
        let (segment, max) = (journal.segment_bytes(), journal.journal_max_bytes);
        if segment * 2 > max {
            return Err(if variables.is_set("JOURNAL_SEGMENT_BYTES") {
                refuse(
                    "JOURNAL_SEGMENT_BYTES",
                    segment,
                    format!("at most half of JOURNAL_MAX_BYTES, {}", max / 2),
                )
            } else {
                refuse(
                    "JOURNAL_MAX_BYTES",
                    max,
                    format!("at least twice JOURNAL_SEGMENT_BYTES, {}", segment * 2),
                )
            });
        }
        // An event that can never be journaled, be queued, or become a dead letter, must not be accepted.
        let is_journaled = ingest.durability == Durability::Disk;
        let holders = [
            ("JOURNAL_SEGMENT_BYTES", journal.segment_bytes(), 2, is_journaled),
            ("MAX_QUEUE_BYTES", ingest.max_queue_bytes, 1, true),
            ("MAX_DEAD_QUEUE_BYTES", self.dead_letters.max_dead_queue_bytes, 1, true),
            ("MAX_BODY_MEMORY", self.server.max_body_memory, 1, true),
        ];
        let event = ingest.max_event_bytes as u64;
        for (name, bytes, events, _) in holders.into_iter().filter(|(.., counts)| *counts) {
            let most = (bytes / events).saturating_sub(ingest::TUPLE_OVERHEAD_BYTES);
            if event <= most {
                continue;
            }
            // The one that was set is the one to mend.
            return Err(if variables.is_set("MAX_EVENT_BYTES") {
                refuse("MAX_EVENT_BYTES", event, format!("at most {most}, as {name} is {bytes}"))
            } else {
                let least = (event + ingest::TUPLE_OVERHEAD_BYTES) * events;
                refuse(name, bytes, format!("at least {least}, as MAX_EVENT_BYTES is {event}"))
            });
        }
        Ok(())
    }

    /// How the pool's connections are shared out.
    pub fn shares(&self) -> PoolQuotas {
        let kept = self.ingest.writers + quotas::WRITERS_COMPANY + quotas::LEAST_FOR_OTHERS;
        PoolQuotas {
            operations: self.database.operations_connections,
            record_commits: self.records.records_writers,
            records: self.records.records_connections,
            large: self.large.large_connections,
            errors: self.large.error_connections,
            auth: self.auth.auth_connections,
            conversation_commits: self.conversations.conversations_writers,
            conversations: self.conversations.conversations_connections,
            files: self.files.files_connections,
            imports: self.imports.import_writers,
            spare: self.database.db_pool_size.saturating_sub(kept),
        }
    }

    /// Whether anybody has to say who he is: where `AUTH` says nothing, nobody.
    pub fn auth_mode(&self) -> AuthMode {
        self.auth.auth.unwrap_or(AuthMode::Open)
    }

    /// How often anybody may ask: where nothing is set and the service is open, as often as he likes.
    pub fn rates(&self) -> Rates {
        self.access.rates(self.auth_mode() == AuthMode::Open)
    }

    /// A switch that is on by default where the service is open. Not where `HOST` is loopback: behind a proxy that is
    /// the address of a service in production.
    fn on_where_open(&self, switch: Option<Switch>) -> bool {
        switch.map_or(self.auth_mode() == AuthMode::Open, Switch::is_on)
    }

    /// Whether users may register themselves (`REGISTRATION`).
    pub fn takes_registrations(&self) -> bool {
        self.on_where_open(self.auth.registration)
    }

    /// Whether the first record written to a collection creates it (`RECORDS_AUTO_CREATE`).
    pub fn makes_collections(&self) -> bool {
        self.on_where_open(self.records.records_auto_create)
    }

    /// Whether the stress API is served (`STRESS`).
    pub fn serves_stress(&self) -> bool {
        self.on_where_open(self.stress.stress)
    }

    /// Reads the given variables.
    ///
    /// # Errors
    ///
    /// As [`Config::from_env`].
    pub fn from_variables(variables: &Variables) -> Result<Self, ConfigError> {
        let mut config = Self::load(variables)?;
        config.auth.check()?;
        config.access.check()?;
        config.database.check()?;
        config.ingest.check()?;
        config.stress.check(variables)?;
        config.check_together(variables)?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let pairs = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::from_variables(&pairs.collect())
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let config = load(&[]).unwrap();
        assert_eq!((config.server.host.to_string().as_str(), config.server.port), ("127.0.0.1", 3000));
        assert_eq!(config.database.database_url, None);
        assert_eq!(config.database.data_dir, Path::new("./data"));
        assert_eq!((config.database.db_pool_size, config.database.db_idle_timeout), (20, 20));
        let ingest = &config.ingest;
        assert_eq!((ingest.batch_size, ingest.flush_interval_ms, ingest.max_queue_size), (1000, 25, 200_000));
        let dead = &config.dead_letters;
        assert_eq!((dead.dead_flush_interval_ms, dead.max_dead_queue_size), (250, 100_000));
        assert_eq!(config.server.shutdown_timeout_s, 30);
    }

    #[test]
    fn a_bad_value_is_named_with_what_it_takes() {
        let cases = [
            (
                "PORT",
                "70000",
                "PORT: got \"70000\", takes a whole number from 0 to 65535 (TCP port; 0 takes a free one)",
            ),
            (
                "PORT",
                "abc",
                "PORT: got \"abc\", takes a whole number from 0 to 65535 (TCP port; 0 takes a free one)",
            ),
            ("STRESS", "true", "STRESS: got \"true\", takes on or off"),
            (
                "HOST",
                "x86_64-conda-linux-gnu",
                "HOST: got \"x86_64-conda-linux-gnu\", takes an IP address to listen on, or localhost; conda and some shells export a HOST of their own: unset it, or set HOST=127.0.0.1",
            ),
            (
                "DB_POOL_SIZE",
                "12",
                "DB_POOL_SIZE: got \"12\", takes a whole number from 13 to 10000 (connections)",
            ),
            ("DB_POOL_SIZE", "13", "DB_POOL_SIZE: got \"13\", takes at least 14, WRITERS (2) and 12 more"),
            ("WRITERS", "9", "WRITERS: got \"9\", takes at most 8, DB_POOL_SIZE (20) less 12"),
            ("DURABILITY", "tape", "DURABILITY: got \"tape\", takes memory or disk"),
            (
                "DB_SCHEMA",
                "a-b",
                "DB_SCHEMA: got \"a-b\", takes a letter or _, then letters, digits or _, at most 63",
            ),
        ];
        for (name, value, message) in cases {
            assert_eq!(load(&[(name, value)]).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn the_least_of_each_number_is_taken_where_nothing_else_is_set() {
        // These have to hold an event of MAX_EVENT_BYTES, or as many connections as WRITERS need; the error names them.
        let others = ["MAX_QUEUE_BYTES", "MAX_DEAD_QUEUE_BYTES", "DB_POOL_SIZE"];
        for setting in ALL_SETTINGS.iter().flat_map(|(_, settings)| *settings) {
            let Kind::Int { min, max, .. } = setting.kind else { continue };
            for value in [min, max] {
                match load(&[(setting.name, &value.to_string())]) {
                    Ok(_) => {}
                    Err(error) => {
                        let message = error.to_string();
                        assert!(message.starts_with(&format!("{}: got ", setting.name)), "{message}");
                        assert!(value == max || others.contains(&setting.name), "{message}");
                    }
                }
            }
        }
        assert!(load(&[("DB_POOL_SIZE", "13"), ("WRITERS", "1")]).is_ok());
        assert!(load(&[("HOST", "localhost")]).unwrap().server.host.is_loopback());
    }

    #[test]
    fn an_empty_value_is_unset() {
        assert_eq!(load(&[("PORT", ""), ("PG_BIN", "")]).unwrap().server.port, 3000);
    }

    #[test]
    fn help_lists_every_variable() {
        let help = help();
        for setting in ALL_SETTINGS.iter().flat_map(|(_, settings)| *settings) {
            assert!(help.contains(setting.name) && help.contains(setting.help), "{}", setting.name);
        }
    }
}
