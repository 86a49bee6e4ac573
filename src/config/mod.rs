//! Settings, read once from the environment (and from `.env`, where the environment says nothing).
//!
//! `table` declares every setting once. Its macro makes of it a struct for each concern, which envy fills, and the [`Setting`]s, which
//! provide defaults, check values before envy sees them (a mistake is reported with the variable's name, what it got and what it
//! takes), and print `serve --help` and `.env.example`. The other modules hold what follows from settings.

mod access;
mod auth;
mod database;
mod dot_env;
mod effective;
mod error;
mod ingest;
mod intake;
pub mod limits;
mod logging;
mod memory;
mod modules;
mod quotas;
mod removed;
mod server;
mod setting;
mod streams;
mod subscribers;
mod table;
mod variables;

use std::path::Path;

use serde::Deserialize;

pub use access::{Rates, is_origin};
pub use auth::AuthMode;
pub use database::Partitioning;
pub use effective::{EffectiveSetting, EffectiveSettings, Origin, effective};
pub use error::ConfigError;
use error::refuse;
pub use ingest::Durability;
pub use intake::{Protocol, Protocols};
pub use logging::LogFormat;
pub use memory::MemoryShares;
pub use modules::{ALL_MODULES, Module, ModuleInfo, Modules, TableSet};
pub use quotas::{PoolQuotas, PoolUse, Quota};
pub use setting::{Kind, Setting, help};
pub use streams::StreamsStoreKind;
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

    /// The word for it.
    fn name(is_on: bool) -> &'static str {
        if is_on { "on" } else { "off" }
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
        if self.is_open() && !self.server.host.is_loopback() {
            let takes = "a loopback address, unless AUTH=required: all programs that reach an open service may use it";
            return Err(refuse("HOST", self.server.host, takes));
        }
        self.check_writers(variables)?;
        let (ingest, journal) = (&self.ingest, &self.journal);
        if journal.keep_bytes() >= journal.journal_max_bytes {
            let takes = format!("less than JOURNAL_MAX_BYTES, {}", journal.journal_max_bytes);
            return Err(refuse("JOURNAL_KEEP_BYTES", journal.keep_bytes(), takes));
        }
        self.check_streams()?;
        self.check_memory()?;
        let memory = self.memory();
        // An event that can never be journaled, be queued, or become a dead letter, must not be accepted.
        let event = ingest.max_event_bytes as u64;
        let holders = [
            (
                "half of a segment, an eighth of JOURNAL_MAX_BYTES",
                journal.segment_bytes() / 2,
                ingest.durability == Durability::Disk,
            ),
            ("MAX_QUEUE_BYTES", memory.queue, true),
            ("a sixteenth of MEMORY_BUDGET", memory.dead_letters, true),
        ];
        for (holder, bytes, _) in holders.into_iter().filter(|(.., counts)| *counts) {
            let most = bytes.saturating_sub(ingest::TUPLE_OVERHEAD_BYTES);
            if event <= most {
                continue;
            }
            // The one that was set is the one to mend.
            return Err(if variables.is_set("MAX_EVENT_BYTES") {
                refuse("MAX_EVENT_BYTES", event, format!("at most {most}, as {holder} is {bytes}"))
            } else {
                let least = event + ingest::TUPLE_OVERHEAD_BYTES;
                refuse("MAX_QUEUE_BYTES", bytes, format!("at least {least}, as MAX_EVENT_BYTES is {event}"))
            });
        }
        let (message, share) = (self.conversations.max_message_bytes as u64, memory.conversations);
        if message > share && self.modules().has(Module::Conversations) {
            let takes = format!("at most {share}, a sixteenth of MEMORY_BUDGET");
            return Err(refuse("MAX_MESSAGE_BYTES", message, takes));
        }
        Ok(())
    }

    /// Whether requests need a token. `AUTH` unset: no.
    pub fn auth_mode(&self) -> AuthMode {
        self.auth.auth.unwrap_or(AuthMode::Open)
    }

    /// The rate limits. Unset, an open service has none.
    pub fn rates(&self) -> Rates {
        self.access.rates(self.is_open())
    }

    /// Whether callers need no token (`AUTH=open`).
    fn is_open(&self) -> bool {
        self.auth_mode() == AuthMode::Open
    }

    /// A switch that is on by default where the service is open. Not where `HOST` is loopback: behind a proxy that is
    /// the address of a service in production.
    fn on_where_open(&self, switch: Option<Switch>) -> bool {
        switch.map_or(self.is_open(), Switch::is_on)
    }

    /// Whether users may register themselves (`REGISTRATION`).
    pub fn takes_registrations(&self) -> bool {
        self.on_where_open(self.auth.registration)
    }

    /// Whether the first record written to a collection creates it (`RECORDS_AUTO_CREATE`).
    pub fn makes_collections(&self) -> bool {
        self.on_where_open(self.records.records_auto_create)
    }

    /// Reads the given variables.
    ///
    /// # Errors
    ///
    /// As [`Config::from_env`].
    pub fn from_variables(variables: &Variables) -> Result<Self, ConfigError> {
        removed::check(variables)?;
        let mut config = Self::load(variables)?;
        let budget = &mut config.server.memory_budget;
        *budget = budget.or(variables.memory_limit().map(|limit| limit / 2));
        config.check_modules()?;
        config.check_intake()?;
        let notes = config.modules().notes(variables);
        config.notes.extend(notes);
        config.auth.check()?;
        config.access.check()?;
        config.database.check()?;
        config.check_together(variables)?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn load(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
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
        assert_eq!((config.memory().queue, config.writers()), (268_435_456, 2));
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
            ("FAULTS", "true", "FAULTS: got \"true\", takes on or off"),
            (
                "HOST",
                "x86_64-conda-linux-gnu",
                "HOST: got \"x86_64-conda-linux-gnu\", takes an IP address to listen on, or localhost; conda and some shells export a HOST of their own: unset it, or set HOST=127.0.0.1",
            ),
            (
                "DB_POOL_SIZE",
                "4",
                "DB_POOL_SIZE: got \"4\", takes at least 5, WRITERS (1) and 4 more for MODULES",
            ),
            ("WRITERS", "17", "WRITERS: got \"17\", takes at most 16, DB_POOL_SIZE (20) less 4 for MODULES"),
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
        // It has to hold an event of MAX_EVENT_BYTES; the error names it.
        let others = ["MAX_QUEUE_BYTES"];
        for setting in ALL_SETTINGS.iter().flat_map(|(_, settings)| *settings) {
            let Kind::Int { min, max, .. } = setting.kind else { continue };
            for value in [min, max] {
                match load(&[(setting.name, &value.to_string())]) {
                    Ok(_) => {}
                    Err(error) => {
                        let message = error.to_string();
                        // What is too much for the budget is refused as a budget that is too small.
                        let is_too_much = value == max && message.starts_with("MEMORY_BUDGET: got ");
                        let is_pool = message.contains("more for MODULES");
                        let is_named = message.starts_with(&format!("{}: got ", setting.name));
                        assert!(is_named || is_too_much, "{message}");
                        assert!(value == max || is_pool || others.contains(&setting.name), "{message}");
                    }
                }
            }
        }
        assert_eq!(load(&[("DB_POOL_SIZE", "5")]).unwrap().writers(), 1);
        let error = load(&[("DB_POOL_SIZE", "5"), ("WRITERS", "2")]).unwrap_err().to_string();
        assert_eq!(error, "WRITERS: got \"2\", takes at most 1, DB_POOL_SIZE (5) less 4 for MODULES");
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
