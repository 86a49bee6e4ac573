//! Rows of the feed that wake other nodes.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::types::Type;

use crate::db::{Database, DbError, query_often_in_time, sql};

/// Writes wake-ups, with a quota of the pool.
#[derive(Debug, Clone)]
pub(in crate::streams::postgres) struct WakeStore {
    database: Database,
    timeout: Duration,
    node: Arc<str>,
}

impl WakeStore {
    pub(in crate::streams::postgres) fn new(database: &Database, timeout: Duration, node: &Arc<str>) -> Self {
        Self { database: database.clone(), timeout, node: Arc::clone(node) }
    }

    /// Reports changed streams to the other nodes.
    pub(super) async fn write(&self, paths: &[&str]) -> Result<(), DbError> {
        let connection = self.database.get().await?;
        let sql = sql!(self.database, "streams/wake.sql");
        let parameters: [crate::db::Parameter<'_>; 2] =
            [(&&*self.node, Type::TEXT), (&paths, Type::TEXT_ARRAY)];
        let written = query_often_in_time(&connection, self.timeout, sql, &parameters).await;
        connection.release(written).map(drop)
    }
}
