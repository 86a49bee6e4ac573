//! Statements that fail on purpose, for clients that test the service's errors.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::{Database, DbError, sql};

/// Statements that fail, within a quota of the pool.
#[derive(Debug, Clone)]
pub struct FailingStatements {
    database: Database,
}

/// Far longer than a division takes.
const SHORT: Duration = Duration::from_secs(5);

impl FailingStatements {
    /// Statements over `database`, whose quota may be used up.
    pub fn new(database: &Database) -> Self {
        Self { database: database.clone() }
    }

    /// Runs a statement that fails in Postgres.
    ///
    /// # Errors
    ///
    /// Always: division by zero.
    pub async fn fail(&self) -> Result<(), DbError> {
        self.database.query_in_time(SHORT, sql!("db/fail.sql"), &[(&0, Type::INT4)]).await?;
        Ok(())
    }

    /// Sleeps in Postgres for twice the statement's time limit.
    ///
    /// # Errors
    ///
    /// Always, after `timeout`: the statement was cancelled.
    pub async fn exceed(&self, timeout: Duration) -> Result<(), DbError> {
        let seconds = timeout.as_secs_f64() * 2.0;
        let sleep = sql!("db/sleep.sql");
        self.database.query_in_time(timeout, sleep, &[(&seconds, Type::FLOAT8)]).await?;
        Ok(())
    }

    /// Waits for a connection of an empty quota.
    ///
    /// # Errors
    ///
    /// Always, after `wait`: [`DbError::Exhausted`].
    pub async fn exhaust(&self, wait: Duration) -> Result<(), DbError> {
        self.database.exhausted(wait).get().await.map(|_connection| ())
    }
}
