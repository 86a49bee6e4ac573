//! Postgres: the connection URL, TLS, the pool, migrations, partitions, and the private cluster of a first run.

mod batch;
mod clock;
mod grants;
mod housekeeping;
mod json;
mod migrations;
mod partitions;
mod pool;
pub mod private;
mod server;
mod sql;
mod statement;
mod stress;
pub mod trace_index;

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type, WasNull, WrongType};

use crate::supervisor::StepError;

pub use batch::{BatchExecutor, BatchWork, NumberedShard, Outcomes, Overloaded, Shard, numbered};
pub use grants::{grants, grants_of_appender, grants_of_publisher, grants_of_tables, grants_of_watcher};
pub use housekeeping::{Housekeeping, HousekeepingStatus, PartitionFailure};
pub use json::JsonText;
pub use migrations::{
    MigrationError, has_tables, is_schema_of, migrate, own_relations, schema, schema_version,
};
pub use partitions::PartitionManager;
pub use pool::{Connection, Database, PoolStatus};
pub use server::ServerIdentity;
pub use sql::SqlText;
pub(crate) use sql::sql;
pub use statement::{
    BY_INDEX, ConflictRetries, DependentWrites, Query, Transaction, WriteFailure, begin, begin_in_time,
    begin_snapshot_in_time, in_time, presets, query_all_in_time, query_alone_in_time, query_bare_in_time,
    query_in_time, query_often_in_time, query_snapshot_in_time, read_snapshot_in_time, read_then_write,
    roll_back,
};
pub use stress::FailingStatements;
pub(crate) use tidegate_connection::chain;
pub use tidegate_connection::{ConnectError, ConnectionUrl, UrlError};

/// A statement's parameter with its type, so that the statement needs no round trip to be prepared.
pub type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// An error between the service and Postgres.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// Postgres returned an error, or the connection broke.
    #[error("postgres")]
    Postgres(#[from] tokio_postgres::Error),
    /// No connection could be made.
    #[error("cannot connect to {target}")]
    Connect {
        /// Hosts, ports and database.
        target: Arc<str>,
        /// The cause.
        source: ConnectError,
    },
    /// The pool had no connection.
    #[error("no connection to postgres")]
    Pool(#[source] deadpool_postgres::PoolError),
    /// Postgres did not answer in time.
    #[error("no answer from postgres within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// The quota had no connection free in time.
    #[error("no connection of the pool's quota within {} s", .0.as_secs_f32())]
    Exhausted(Duration),
    /// The statements ended without an answer, by a panic of their task or because the answer to their commit was lost: they may be committed.
    #[error("the outcome is unknown: the statements ended without an answer, and may be committed")]
    OutcomeUnknown,
    /// Postgres returned a value that none of the service's statements can return.
    #[error("postgres returned {0}")]
    Unexpected(&'static str),
    /// The certificates for TLS cannot be read.
    #[error("TLS: {0}")]
    Tls(String),
    /// A trigger of the user's dropped rows without an error.
    #[error("a trigger dropped {} of {sent} rows of {table}", .sent.saturating_sub(*.stored))]
    DroppedByTrigger {
        /// The table.
        table: &'static str,
        /// Rows sent.
        sent: u64,
        /// Rows stored, as Postgres reports.
        stored: u64,
    },
    /// The service's clock and Postgres' differ by more than a minute, so nothing may be deleted by age.
    #[error("the clocks of this service and of Postgres differ by {apart_s} s: nothing is deleted by age until they differ by less than {} s", clock::MAX_APART.as_secs())]
    ClocksDiffer {
        /// The difference in seconds.
        apart_s: u64,
    },
}

/// The SQLSTATE by which `expect_rows` (`sql/migrations/V12`) rejects a statement of which a trigger dropped rows.
const DROPPED_BY_TRIGGER: &str = "TG001";

impl DbError {
    /// Compares the number of rows that a statement stored in `table` with the number sent.
    ///
    /// # Errors
    ///
    /// [`Self::DroppedByTrigger`] if fewer were stored.
    pub fn all_stored(table: &'static str, sent: u64, stored: u64) -> Result<(), Self> {
        if stored < sent { Err(Self::DroppedByTrigger { table, sent, stored }) } else { Ok(()) }
    }

    /// The SQLSTATE, if Postgres sent one.
    pub fn sql_state(&self) -> Option<&SqlState> {
        self.driver_error()?.code()
    }

    fn driver_error(&self) -> Option<&tokio_postgres::Error> {
        match self {
            Self::Postgres(error)
            | Self::Pool(deadpool_postgres::PoolError::Backend(error))
            | Self::Connect { source: ConnectError::Refused(error), .. } => Some(error),
            _ => None,
        }
    }

    /// Whether a lock was not free in time.
    pub fn is_locked(&self) -> bool {
        self.state_code() == Some("55P03")
    }

    /// Whether another transaction was in the way: a serialization failure or a deadlock. Nothing is stored then, and the
    /// transaction may be repeated.
    pub fn is_conflict(&self) -> bool {
        matches!(self.state_code(), Some("40001" | "40P01"))
    }

    /// Whether a statement that committed by itself, or whose commit was sent with it, may have been committed: there was no answer, or one
    /// that a server sends which is stopping.
    pub fn is_in_doubt(&self) -> bool {
        match self {
            Self::Postgres(_) => match self.state_code() {
                Some(_) => {
                    matches!(self.class(), "08" | "57" | "58" | "XX") && self.state_code() != Some("57014")
                }
                None => !self.is_undecodable(),
            },
            Self::Timeout(_) | Self::OutcomeUnknown => true,
            _ => false,
        }
    }

    /// Whether a trigger dropped rows without an error of its own.
    pub fn is_dropped_by_trigger(&self) -> bool {
        matches!(self, Self::DroppedByTrigger { .. }) || self.state_code() == Some(DROPPED_BY_TRIGGER)
    }

    /// Whether a retry may succeed: no answer, or a server that is starting, stopping, out of connections, or read-only for a
    /// failover, or a pooler without a server. Passwords, certificates, missing databases and missing rights are permanent.
    pub fn is_passing(&self) -> bool {
        if let Some(state) = self.sql_state() {
            let code = state.code();
            // 53100: a full disk needs an operator.
            return matches!(code, "25006" | "55P03")
                || (matches!(self.class(), "08" | "40" | "53" | "57") && code != "53100");
        }
        match self {
            Self::Timeout(_) | Self::Exhausted(_) | Self::Pool(_) => true,
            Self::Postgres(error) => tidegate_connection::is_passing(error),
            Self::Connect { source, .. } => source.is_passing(),
            Self::Tls(_)
            | Self::DroppedByTrigger { .. }
            | Self::ClocksDiffer { .. }
            | Self::Unexpected(_)
            | Self::OutcomeUnknown => false,
        }
    }

    /// Whether a host's name is unknown.
    pub fn is_unknown_host(&self) -> bool {
        let error = self.driver_error().and_then(tidegate_connection::io_error);
        error.is_some_and(tidegate_connection::is_unknown_host)
    }

    /// The five characters of the SQLSTATE, if Postgres sent one.
    pub fn state_code(&self) -> Option<&str> {
        self.sql_state().map(SqlState::code)
    }

    /// The class of the SQLSTATE, its first two characters; empty without an SQLSTATE.
    fn class(&self) -> &str {
        self.state_code().and_then(|code| code.get(..2)).unwrap_or("")
    }

    /// Whether Postgres found no partition for a row: there is none, or one was attached while the statement ran.
    ///
    /// Its SQLSTATE is that of a check constraint; only the reporting routine tells them apart.
    pub fn is_partition_missing(&self) -> bool {
        let routine = self.database_error().and_then(tokio_postgres::error::DbError::routine);
        matches!(routine, Some("ExecFindPartition" | "ExecPartitionCheckEmitError"))
    }

    /// Whether Postgres does not know a prepared statement, or already has one of that name: a pooler switched to another
    /// server connection.
    pub fn is_unprepared(&self) -> bool {
        self.sql_state().is_some_and(|state| matches!(state.code(), "26000" | "42P05"))
    }

    /// Whether Postgres does not answer, or has no capacity at the moment.
    pub fn is_away(&self) -> bool {
        match self.sql_state() {
            Some(_) => matches!(self.class(), "08" | "53" | "57"),
            None => match self {
                Self::DroppedByTrigger { .. }
                | Self::ClocksDiffer { .. }
                | Self::Unexpected(_)
                | Self::OutcomeUnknown => false,
                error => !error.is_undecodable(),
            },
        }
    }

    /// Whether Postgres returned a value of another type, or an unexpected null.
    fn is_undecodable(&self) -> bool {
        let Self::Postgres(error) = self else { return false };
        std::error::Error::source(error).is_some_and(|cause| cause.is::<WasNull>() || cause.is::<WrongType>())
    }

    /// Whether one of a statement's rows is at fault, and the others could be stored: a value that does not fit, a constraint,
    /// a limit, or an error raised by a trigger.
    pub fn is_rows_fault(&self) -> bool {
        self.is_dropped_by_trigger() || matches!(self.class(), "22" | "23" | "54" | "P0")
    }

    /// Whether the statement's table is missing.
    pub fn is_table_missing(&self) -> bool {
        self.sql_state() == Some(&SqlState::UNDEFINED_TABLE)
    }

    /// The violated constraint, if Postgres names one.
    pub fn constraint(&self) -> Option<&str> {
        self.database_error()?.constraint()
    }

    /// The table concerned, if Postgres names one.
    pub fn table(&self) -> Option<&str> {
        self.database_error()?.table()
    }

    /// The call stack of functions in which a statement failed, if Postgres sends one.
    pub fn context(&self) -> Option<&str> {
        self.database_error()?.where_()
    }

    /// Whether Postgres cancelled the statement, such as for its time limit.
    pub fn is_cancelled(&self) -> bool {
        self.state_code() == Some("57014")
    }

    /// The message, without its SQLSTATE.
    pub fn message(&self) -> String {
        self.database_error().map_or_else(|| chain(self), |error| error.message().to_owned())
    }

    fn database_error(&self) -> Option<&tokio_postgres::error::DbError> {
        self.driver_error()?.as_db_error()
    }

    /// The error and its sources in one line, the SQLSTATE first.
    pub fn with_sources(&self) -> String {
        match (self.database_error(), self) {
            // Without its detail, which quotes the row.
            (Some(error), Self::Connect { target, .. }) => {
                format!("{} {} (connecting to {target})", error.code().code(), error.message())
            }
            (Some(error), _) => format!("{} {}", error.code().code(), error.message()),
            (None, _) => chain(self),
        }
    }
}

impl From<tidegate_connection::Failure> for DbError {
    fn from(failure: tidegate_connection::Failure) -> Self {
        match failure {
            tidegate_connection::Failure::Connect { target, source } => Self::Connect { target, source },
            tidegate_connection::Failure::Tls(error) => Self::Tls(error),
        }
    }
}

impl From<DbError> for StepError {
    fn from(error: DbError) -> Self {
        Self::new(error.with_sources())
    }
}
