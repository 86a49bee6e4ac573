//! Postgres: where it is, how it is used, and what the first migration makes.

use std::path::PathBuf;

use serde::Deserialize;

use super::quotas::{LEAST_FOR_OTHERS, WRITERS_COMPANY};
use super::{ConfigError, Kind, NAME, Setting, Switch, is_name, refuse};

/// Postgres.
#[derive(Debug, Clone, Deserialize)]
pub struct DatabaseConfig {
    /// The database; unset: a private one under `data_dir`.
    pub database_url: Option<String>,
    /// Where the service keeps its files.
    pub data_dir: PathBuf,
    /// Folder of Postgres' binaries for the private one.
    pub pg_bin: Option<PathBuf>,
    /// Connections.
    pub db_pool_size: usize,
    /// Of those, for what operators ask for.
    pub operations_connections: usize,
    /// Seconds until an idle connection is closed.
    pub db_idle_timeout: u64,
    /// Seconds for a connection to be made.
    pub db_connect_timeout_s: u64,
    /// Seconds that a start waits for Postgres.
    pub db_start_timeout_s: u64,
    /// Whether statements that are run often are prepared.
    pub db_prepare: Switch,
    /// The schema that holds all tables.
    pub db_schema: String,
    /// How the first migration makes `requests`.
    pub partitioning: Partitioning,
    /// Days for which partitions are made ahead.
    pub partition_days_ahead: u64,
    /// Days that events are kept; unset: for ever.
    pub retention_days: Option<u64>,
    /// Whether trace ids are indexed.
    pub trace_index: Switch,
}

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

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "DATABASE_URL",
        default: "",
        kind: Kind::Secret(DATABASE_URL_TAKES),
        help: "The database. Unset: a private Postgres under DATA_DIR.",
    },
    Setting {
        name: "DATA_DIR",
        default: "./data",
        kind: Kind::Text("a folder, made if it is not there"),
        help: "Where the service keeps its files.",
    },
    Setting {
        name: "PG_BIN",
        default: "",
        kind: Kind::Text("the folder of initdb, pg_ctl and postgres"),
        help: "Postgres' binaries for the private one. Unset: they are looked for.",
    },
    Setting {
        name: "DB_POOL_SIZE",
        default: "20",
        // One writer, and what stands beside it.
        kind: Kind::Int {
            min: 1 + (WRITERS_COMPANY + LEAST_FOR_OTHERS) as u64,
            max: 10_000,
            unit: "connections",
        },
        help: "Connections to Postgres at once, at least WRITERS and 12. WRITERS and 2 are kept for events, and one for each other share; what is left is lent on demand.",
    },
    Setting {
        name: "OPERATIONS_CONNECTIONS",
        default: "2",
        kind: Kind::Int { min: 1, max: 1_000, unit: "connections" },
        help: "Share of the pool for dead letters that are asked for, and for reconcile.",
    },
    Setting {
        name: "DB_IDLE_TIMEOUT",
        default: "20",
        kind: Kind::Int { min: 1, max: 86_400, unit: "seconds" },
        help: "Time after which an idle connection to Postgres is closed.",
    },
    Setting {
        name: "DB_CONNECT_TIMEOUT_S",
        default: "5",
        kind: Kind::Int { min: 1, max: 3_600, unit: "seconds" },
        help: "Time for a connection to Postgres to be made, or to come free.",
    },
    Setting {
        name: "DB_START_TIMEOUT_S",
        default: "60",
        kind: Kind::Int { min: 1, max: 86_400, unit: "seconds" },
        help: "Time that a start waits for Postgres to answer.",
    },
    Setting {
        name: "DB_PREPARE",
        default: "on",
        kind: Kind::Switch,
        help: "Prepares statements that are run often. Off behind a pooler that keeps none, as PgBouncer before 1.21.",
    },
    Setting {
        name: "DB_SCHEMA",
        default: "public",
        kind: Kind::Text(NAME),
        help: "The schema that holds all tables; made if it is not there.",
    },
    Setting {
        name: "PARTITIONING",
        default: "day",
        kind: Kind::OneOf(&["day", "off"]),
        help: "How the first migration makes requests: a partition a day, or one table. Later it has no effect.",
    },
    Setting {
        name: "PARTITION_DAYS_AHEAD",
        default: "7",
        kind: Kind::Int { min: 1, max: 366, unit: "days" },
        help: "Days for which partitions are made ahead.",
    },
    Setting {
        name: "RETENTION_DAYS",
        default: "",
        kind: Kind::Int { min: 1, max: 36_500, unit: "days" },
        help: "Days that events are kept; whole partitions are dropped. Unset: for ever.",
    },
    Setting {
        name: "TRACE_INDEX",
        default: "off",
        kind: Kind::Switch,
        help: "Indexes trace ids, so that reconcile finds them over all time; halves the speed of COPY. Off drops nothing.",
    },
];

impl DatabaseConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let name = &self.db_schema;
        if !is_name(name) {
            return Err(refuse("DB_SCHEMA", name, NAME));
        }
        Ok(())
    }
}
