//! The index on trace ids (`TRACE_INDEX=on`), on each table of events, for look-ups over all time. It is off by default: it
//! costs every COPY more than half of its speed.
//!
//! Indexes are built concurrently, one table at a time, over a connection of their own: the writer goes on.

use std::time::Duration;

use super::{Database, DbError, sql};
use crate::supervisor::{Backoff, Next, Supervisor};

/// The limit of the check for missing indexes.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// The interval between two checks for tables without the index, such as a new day's.
const INTERVAL: Duration = Duration::from_secs(10);
/// The interval after a failure.
const RETRY: Duration = Duration::from_secs(60);

/// Whether all tables of events have an index on trace ids.
///
/// # Errors
///
/// Errors of Postgres.
pub async fn is_complete(database: &Database) -> Result<bool, DbError> {
    let without = sql!(database, "db/without_trace_index.sql");
    Ok(database.query_in_time(CHECK_TIMEOUT, without, &[]).await?.is_empty())
}

/// Starts the task that builds missing indexes.
pub fn keep(database: &Database, supervisor: &Supervisor) {
    let database = database.clone();
    supervisor.periodic("trace-index", INTERVAL, Backoff::fixed(RETRY), move || {
        let database = database.clone();
        async move {
            round(&database).await?;
            Ok(Next::Interval)
        }
    });
}

/// Builds the missing indexes.
///
/// # Errors
///
/// Errors of Postgres.
pub async fn round(database: &Database) -> Result<(), DbError> {
    if is_complete(database).await? {
        return Ok(());
    }
    let client = database.connect().await?;
    let without = sql!(database, "db/without_trace_index.sql");
    for row in client.query_typed(without, &[]).await? {
        let (table, remains): (String, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
        let of_table = |statement: &str| statement.replace("{table}", &table);
        if remains.is_some() {
            client.batch_execute(&of_table(sql!(database, "db/drop_trace_index.sql"))).await?;
        }
        tracing::info!(table, "building an index on trace ids");
        client.batch_execute(&of_table(sql!(database, "db/make_trace_index.sql"))).await?;
    }
    Ok(())
}
