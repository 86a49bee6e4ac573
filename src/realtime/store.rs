//! Keeps the feed as long as `CHANGES_RETENTION_S` says.

use std::time::Duration;

use tokio_postgres::types::Type;

use crate::db::{Database, DbError, Parameter};

/// Changes that one statement deletes.
const LOT: i64 = 5_000;
/// Between two of them, so that others have their turn.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two looks.
const ROUND: Duration = Duration::from_secs(10);
/// After an error, which may be one that lasts: a role that may not delete.
const AFTER_ERROR: Duration = Duration::from_secs(60);
/// For one statement.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Deletes changes that are older than `CHANGES_RETENTION_S`.
#[derive(Debug, Clone)]
pub struct ChangeKeeper {
    database: Database,
    forget: String,
    retention_s: f64,
}

impl ChangeKeeper {
    /// Over `database`, a share of the pool, for changes older than so many seconds.
    pub fn new(database: &Database, retention_s: u64) -> Self {
        let forget = database.sql(include_str!("../../sql/realtime/forget_changes.sql"));
        Self { database: database.clone(), forget, retention_s: retention_s as f64 }
    }

    /// Goes round until it is dropped.
    pub async fn run(self) {
        if let Err(error) = self.forget_foreign().await {
            tracing::warn!(error = error.with_sources(), "changes of another server were not looked for");
        }
        loop {
            let wait = match self.forget().await {
                Ok(true) => PAUSE,
                Ok(false) => ROUND,
                Err(error) => {
                    tracing::warn!(
                        error = error.with_sources(),
                        "old changes were not deleted; trying again"
                    );
                    AFTER_ERROR
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Deletes what came with a dump of another server whose transactions had higher numbers: it would be hidden until
    /// those of this one pass them, and then stand behind what happened since.
    async fn forget_foreign(&self) -> Result<(), DbError> {
        let forget = self.database.sql(include_str!("../../sql/realtime/forget_foreign_changes.sql"));
        self.database.query_in_time(TIMEOUT, &forget, &[]).await?;
        Ok(())
    }

    /// Deletes a lot; whether there may be more.
    async fn forget(&self) -> Result<bool, DbError> {
        let parameters: [Parameter<'_>; 2] = [(&LOT, Type::INT8), (&self.retention_s, Type::FLOAT8)];
        let deleted = self.database.query_in_time(TIMEOUT, &self.forget, &parameters).await?;
        Ok(deleted.len() as i64 == LOT)
    }
}
