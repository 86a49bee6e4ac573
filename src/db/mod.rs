//! Postgres: the connection URL, TLS, the pool, migrations, partitions, and the private cluster of a first run.

mod group;
mod json;
pub mod local;
mod migrations;
mod partitions;
mod pool;
mod statement;
mod stress;
mod tls;
pub mod trace_index;
mod url;

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type, WasNull, WrongType};

pub use group::{Crowded, Group, Line, NumberedLine, Outcomes, Work, numbered};
pub use json::JsonText;
pub use migrations::{MigrationError, migrate, schema_version};
pub use partitions::PartitionKeeper;
pub use pool::{Connection, Database, PoolStatus};
pub use statement::{
    BY_INDEX, Query, begin_in_time, in_time, query_all_in_time, query_in_time, query_often_in_time, roll_back,
};
pub use stress::FailingStatements;
pub use url::{ConnectionUrl, UrlError};

/// A statement's parameter with its type, so that the statement needs no round trip to be prepared.
pub type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// What can go wrong between us and Postgres.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// Postgres answered with an error, or the connection broke.
    #[error("postgres")]
    Postgres(#[from] tokio_postgres::Error),
    /// No connection could be had from the pool.
    #[error("no connection to postgres")]
    Pool(#[from] deadpool_postgres::PoolError),
    /// Postgres did not answer in time.
    #[error("no answer from postgres within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// This use's share of the pool had no connection free in time.
    #[error("no connection of its share of the pool within {} s", .0.as_secs_f32())]
    Exhausted(Duration),
    /// Postgres stored fewer rows of a COPY into this table than were sent.
    #[error("a trigger on {0} returned null: the row was dropped")]
    RowsDropped(&'static str),
    /// The roots of trust for TLS cannot be had.
    #[error("TLS: {0}")]
    Tls(String),
}

impl DbError {
    /// The SQLSTATE, where Postgres sent one.
    pub fn sql_state(&self) -> Option<&SqlState> {
        match self {
            Self::Postgres(error) | Self::Pool(deadpool_postgres::PoolError::Backend(error)) => error.code(),
            _ => None,
        }
    }

    /// The five characters of the SQLSTATE, where Postgres sent one.
    pub fn state_code(&self) -> Option<&str> {
        self.sql_state().map(SqlState::code)
    }

    /// Whether Postgres found no partition for a row: none is there, or one was attached while the statement ran.
    ///
    /// Its SQLSTATE is that of a check constraint; only the routine that reports it tells them apart.
    pub fn is_partition_missing(&self) -> bool {
        let routine = self.database_error().and_then(tokio_postgres::error::DbError::routine);
        matches!(routine, Some("ExecFindPartition" | "ExecPartitionCheckEmitError"))
    }

    /// Whether Postgres does not know a prepared statement, or knows one of that name already: a pooler handed out another
    /// of its connections.
    fn is_unprepared(&self) -> bool {
        self.sql_state().is_some_and(|state| matches!(state.code(), "26000" | "42P05"))
    }

    /// Whether there is no answer from Postgres, or only that it has no room or time for one now.
    pub fn is_away(&self) -> bool {
        match self.sql_state() {
            Some(state) => matches!(&state.code()[..2], "08" | "53" | "57"),
            None => !self.is_undecodable() && !matches!(self, Self::RowsDropped(_)),
        }
    }

    /// Whether Postgres answered with a value that is not of the type, or is null, where that was not expected.
    fn is_undecodable(&self) -> bool {
        let Self::Postgres(error) = self else { return false };
        std::error::Error::source(error).is_some_and(|cause| cause.is::<WasNull>() || cause.is::<WrongType>())
    }

    /// Whether one of a statement's rows is at fault, and others would be stored: a value that does not fit, a
    /// constraint, a limit, or what a trigger raised.
    pub fn is_rows_fault(&self) -> bool {
        self.sql_state().is_some_and(|state| matches!(&state.code()[..2], "22" | "23" | "54" | "P0"))
    }

    /// Whether the statement's table is not there.
    pub fn is_table_missing(&self) -> bool {
        self.sql_state() == Some(&SqlState::UNDEFINED_TABLE)
    }

    /// The constraint that was violated, where Postgres names one.
    pub fn constraint(&self) -> Option<&str> {
        self.database_error()?.constraint()
    }

    /// The table that is concerned, where Postgres names one.
    pub fn table(&self) -> Option<&str> {
        self.database_error()?.table()
    }

    fn database_error(&self) -> Option<&tokio_postgres::error::DbError> {
        match self {
            Self::Postgres(error) | Self::Pool(deadpool_postgres::PoolError::Backend(error)) => {
                error.as_db_error()
            }
            _ => None,
        }
    }

    /// The whole story in one line, the SQLSTATE first where there is one.
    pub fn with_sources(&self) -> String {
        match self.database_error() {
            // Without its detail, which quotes the row.
            Some(error) => format!("{} {}", error.code().code(), error.message()),
            None => chain(self),
        }
    }
}

/// An error with its sources, from the outermost in.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let inner = error.to_string();
        // Some wrappers repeat their source.
        if !text.ends_with(&inner) {
            text = format!("{text}: {inner}");
        }
        source = error.source();
    }
    text
}
