//! The list of dead letters, for operators, and the deletion of single ones.

use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::db::{ConflictRetries, Database, DbError, Parameter, begin_in_time, sql};

/// A selection of dead letters.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// With this reason.
    pub reason: Option<String>,
    /// Failed at this time or later, in microseconds of Unix time.
    pub since_us: Option<i64>,
    /// Failed before this time.
    pub until_us: Option<i64>,
}

/// The end of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The time at which its last dead letter failed, in microseconds of Unix time.
    pub failed_at_us: i64,
    /// The id of its last dead letter.
    pub id: Uuid,
}

/// A dead letter, without its body.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The event's id.
    pub id: Uuid,
    /// The event's trace id.
    pub trace_id: String,
    /// The name of a [`Reason`](super::Reason).
    pub reason: String,
    /// The error, beginning with the SQLSTATE if Postgres rejected the row.
    pub error: String,
    /// The number of attempts to store it.
    pub attempts: i32,
    /// The declared media type.
    pub content_type: Option<String>,
    /// RFC 3339.
    pub received_at: String,
    /// RFC 3339.
    pub failed_at: String,
    /// `failed_at` in microseconds of Unix time.
    pub failed_at_us: i64,
    /// The body's size in bytes.
    pub bytes: i64,
    /// The version of the body: a hash.
    pub version: i64,
}

/// The body of a dead letter.
#[derive(Debug, Clone)]
pub enum Body {
    /// JSON text.
    Json(String),
    /// The bytes as received.
    Bytes(Bytes),
}

/// For each statement.
pub(super) const TIMEOUT: Duration = Duration::from_secs(60);

/// The table `dead_letters`.
#[derive(Debug, Clone)]
pub struct DeadLetterStore {
    pub(super) database: Database,
}

impl DeadLetterStore {
    /// The dead letters of `database`.
    pub fn new(database: &Database) -> Self {
        Self { database: database.clone() }
    }

    /// One page, newest first.
    ///
    /// # Errors
    ///
    /// Any error of Postgres.
    pub async fn list(
        &self,
        filter: &Filter,
        after: Option<Cursor>,
        limit: i64,
    ) -> Result<Vec<DeadLetter>, DbError> {
        let list = sql!(self.database, "ingest/list_dead_letters.sql");
        let (after_us, after_id) = (after.map(|cursor| cursor.failed_at_us), after.map(|cursor| cursor.id));
        let parameters: [Parameter<'_>; 6] = [
            (&filter.reason, Type::TEXT),
            (&filter.since_us, Type::INT8),
            (&filter.until_us, Type::INT8),
            (&after_us, Type::INT8),
            (&after_id, Type::UUID),
            (&limit, Type::INT8),
        ];
        let rows = self.database.query_in_time(TIMEOUT, list, &parameters).await?;
        rows.iter().map(dead_letter).collect()
    }

    /// One dead letter, with its body.
    ///
    /// # Errors
    ///
    /// Any error of Postgres.
    pub async fn get(&self, id: Uuid) -> Result<Option<(DeadLetter, Body)>, DbError> {
        let get = sql!(self.database, "ingest/dead_letter.sql");
        let rows = self.database.query_in_time(TIMEOUT, get, &[(&id, Type::UUID)]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let body = match row.try_get::<_, Option<String>>("payload")? {
            Some(payload) => Body::Json(payload),
            None => Body::Bytes(row.try_get::<_, Option<Vec<u8>>>("body")?.unwrap_or_default().into()),
        };
        Ok(Some((dead_letter(row)?, body)))
    }

    /// Replaces the body of a dead letter, if it has one of these versions, by JSON; returns the new version, `Some(None)` if it has
    /// another one, and `None` if there is no such dead letter.
    ///
    /// # Errors
    ///
    /// Any error of Postgres.
    pub async fn correct(
        &self,
        id: Uuid,
        payload: &[u8],
        versions: Option<&[i64]>,
    ) -> Result<Option<Option<i64>>, DbError> {
        let correct = sql!(self.database, "ingest/correct_dead_letter.sql");
        let parameters: [Parameter<'_>; 3] =
            [(&id, Type::UUID), (&payload, Type::BYTEA), (&versions, Type::INT8_ARRAY)];
        let rows = self.database.query_in_time(TIMEOUT, correct, &parameters).await?;
        rows.first().map(|row| Ok(row.try_get(0)?)).transpose()
    }

    /// Deletes one dead letter; false if it does not exist. The ledger counts it as discarded.
    ///
    /// # Errors
    ///
    /// Any error of Postgres; nothing is changed then.
    pub async fn discard(&self, id: Uuid) -> Result<bool, DbError> {
        let mut retries = ConflictRetries::within(TIMEOUT);
        loop {
            let discarded = self.discard_once(id).await;
            if !retries.again(&discarded).await {
                return discarded;
            }
        }
    }

    async fn discard_once(&self, id: Uuid) -> Result<bool, DbError> {
        let mut connection = self.database.get().await?;
        let transaction = begin_in_time(&mut connection, TIMEOUT).await?;
        let ids = vec![id];
        let lock = sql!(self.database, "ingest/lock_journals.sql");
        transaction.query_typed(lock, &[(&ids, Type::UUID_ARRAY)]).await?;
        let discard = sql!(self.database, "ingest/discard_dead_letter.sql");
        let gone = transaction.query_typed(discard, &[(&id, Type::UUID)]).await?;
        let Some(row) = gone.first() else { return Ok(false) };
        if row.try_get::<_, &str>(0)? != super::Reason::Overload.name() {
            let moved = sql!(self.database, "ingest/move_dead.sql", state = "discarded");
            transaction.execute_typed(moved, &[(&ids, Type::UUID_ARRAY)]).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }
}

fn dead_letter(row: &Row) -> Result<DeadLetter, DbError> {
    Ok(DeadLetter {
        id: row.try_get("id")?,
        trace_id: row.try_get("trace_id")?,
        reason: row.try_get("reason")?,
        error: row.try_get("error")?,
        attempts: row.try_get("attempts")?,
        content_type: row.try_get("content_type")?,
        received_at: row.try_get("received_at")?,
        failed_at: row.try_get("failed_at")?,
        failed_at_us: row.try_get("failed_at_us")?,
        bytes: row.try_get("bytes")?,
        version: row.try_get("version")?,
    })
}
