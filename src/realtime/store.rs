//! Keeps the feed as long as `CHANGES_RETENTION_S` says.

use std::time::Duration;

use tokio_postgres::types::Type;

use crate::db::{Database, DbError, query_in_time};

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

    /// Deletes a lot; whether there may be more.
    async fn forget(&self) -> Result<bool, DbError> {
        let connection = self.database.get().await?;
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&LOT, Type::INT8), (&self.retention_s, Type::FLOAT8)];
        let deleted = query_in_time(&connection, TIMEOUT, &self.forget, &parameters).await?;
        Ok(deleted.len() as i64 == LOT)
    }
}
