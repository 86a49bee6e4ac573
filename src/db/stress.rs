//! Statements that fail on purpose, for clients that want to see how the service tells.

use std::time::Duration;

use tokio_postgres::types::Type;

use super::{Database, DbError};

/// Statements that fail, over a share of the pool.
#[derive(Debug, Clone)]
pub struct FailingStatements {
    database: Database,
}

/// Far longer than a division takes.
const SHORT: Duration = Duration::from_secs(5);

impl FailingStatements {
    /// Over `database`, a share that may be used up.
    pub fn new(database: &Database) -> Self {
        Self { database: database.clone() }
    }

    /// Runs a statement that Postgres cannot finish.
    ///
    /// # Errors
    ///
    /// Always: division by zero.
    pub async fn fail(&self) -> Result<(), DbError> {
        self.database
            .query_in_time(SHORT, include_str!("../../sql/db/fail.sql"), &[(&0, Type::INT4)])
            .await?;
        Ok(())
    }

    /// Sleeps in Postgres for twice as long as the statement may take.
    ///
    /// # Errors
    ///
    /// Always, after `timeout`: the statement was cancelled.
    pub async fn exceed(&self, timeout: Duration) -> Result<(), DbError> {
        let seconds = timeout.as_secs_f64() * 2.0;
        let sleep = include_str!("../../sql/db/sleep.sql");
        self.database.query_in_time(timeout, sleep, &[(&seconds, Type::FLOAT8)]).await?;
        Ok(())
    }

    /// Waits for a connection of a share that has none.
    ///
    /// # Errors
    ///
    /// Always, after `wait`: [`DbError::Exhausted`].
    pub async fn exhaust(&self, wait: Duration) -> Result<(), DbError> {
        self.database.quota(0, wait).get().await.map(|_connection| ())
    }
}
