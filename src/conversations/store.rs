//! Conversations and messages in Postgres: the statements, and what becomes of their rows.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use deadpool_postgres::Transaction;
use serde_json::value::RawValue;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::chat::Extra;
use super::list::ListQuery;
use super::model::{Conversation, Message, Metadata, Role};
use super::place::Place;
use super::search::query::tsquery;
use crate::db::{
    BY_INDEX, ConflictRetries, Database, DbError, JsonText, Parameter as Typed, Query, begin_in_time,
    in_time, query_all_in_time, query_often_in_time,
};

/// Conversations and messages, over a share of the pool.
#[derive(Debug, Clone)]
pub(super) struct Store {
    database: Database,
    timeout: Duration,
    sql: Arc<Statements>,
}

#[derive(Debug)]
struct Statements {
    search_of_owner: String,
    search_of_nobody: String,
    change: String,
    of_owner: String,
    delete_messages: String,
    delete: String,
    message: String,
    forget_keys: String,
}

/// Whose conversations a list has; each has an index.
const OF_OWNER: &str = "owner = $1::uuid";
const OF_NOBODY: &str = "owner is null and $1::uuid is null";
/// Before a search, in its transaction: one asks for one connection's share of the server.
const ALONE: &str = include_str!("../../sql/conversations/alone.sql");

impl Statements {
    fn new(database: &Database) -> Self {
        let search = database.sql(include_str!("../../sql/conversations/search.sql"));
        Self {
            search_of_owner: search.replace("{mine}", OF_OWNER),
            search_of_nobody: search.replace("{mine}", OF_NOBODY),
            change: database.sql(include_str!("../../sql/conversations/change.sql")),
            of_owner: database.sql(include_str!("../../sql/conversations/of_owner.sql")),
            delete_messages: database.sql(include_str!("../../sql/conversations/delete_messages.sql")),
            delete: database.sql(include_str!("../../sql/conversations/delete.sql")),
            message: database.sql(include_str!("../../sql/conversations/message.sql")),
            forget_keys: database.sql(include_str!("../../sql/conversations/forget_keys.sql")),
        }
    }
}

/// What one transaction deleted.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeletedBatch {
    pub(super) messages: u64,
    /// With the last batch, the number of conversations that were there.
    pub(super) conversations: Option<usize>,
}

/// The table that a rehearsal of `delete.sql` names where all rows would be deleted.
const REHEARSAL: &str = "rehearsal";

/// Entries, and whether there are more behind them.
pub(super) type Found<T> = (Vec<T>, bool);

impl Store {
    /// Over `database`, whose statements may take up to `timeout`.
    pub(super) fn new(database: &Database, timeout: Duration) -> Self {
        Self { database: database.clone(), timeout, sql: Arc::new(Statements::new(database)) }
    }

    /// A page of the conversations with the words of a query, of at most `max_bytes` and one conversation more; none if these only
    /// rule something out.
    pub(super) async fn search(
        &self,
        owner: Option<Uuid>,
        query: &ListQuery,
        words: &str,
        max_bytes: usize,
    ) -> Result<Option<Found<Conversation>>, DbError> {
        let sql = match owner {
            Some(_) => &self.sql.search_of_owner,
            None => &self.sql.search_of_nobody,
        };
        let asked = tsquery(words);
        let (at, limit) = (SystemTime::from(query.after.at), query.limit as i64 + 1);
        let (offset, bytes) = (i64::from(query.offset), max_bytes as i64);
        let parameters: [Typed<'_>; 7] = [
            (&owner, Type::UUID),
            (&at, Type::TIMESTAMPTZ),
            (&query.after.id, Type::UUID),
            (&limit, Type::INT8),
            (&offset, Type::INT8),
            (&bytes, Type::INT8),
            (&asked, Type::TEXT),
        ];
        let rows = self.behind(&[(ALONE, Vec::new())], sql, &parameters).await?;
        match rows.first() {
            Some(row) if row.try_get("is_broad")? => Ok(None),
            Some(row) if row.try_get::<_, Option<Uuid>>("id")?.is_none() => Ok(Some((Vec::new(), false))),
            _ => page(&rows, query.limit, conversation).map(Some),
        }
    }

    /// Changes what is some.
    pub(super) async fn change(
        &self,
        id: Uuid,
        owner: Option<Uuid>,
        title: Option<&str>,
        metadata: Option<&Metadata>,
    ) -> Result<Option<Conversation>, DbError> {
        let metadata = metadata.map(|metadata| JsonText(metadata.as_str().as_bytes()));
        let parameters: [Typed<'_>; 4] =
            [(&id, Type::UUID), (&owner, Type::UUID), (&title, Type::TEXT), (&metadata, Type::JSONB)];
        one(&self.locked(id, &self.sql.change, &parameters).await?)
    }

    /// Up to `limit` of a user's conversations behind a place, and where the last of them is.
    pub(super) async fn of_owner(
        &self,
        owner: Uuid,
        after: Place,
        limit: usize,
    ) -> Result<Option<(Vec<Uuid>, Place)>, DbError> {
        let (at, limit) = (SystemTime::from(after.at), limit as i64);
        let parameters: [Typed<'_>; 4] =
            [(&owner, Type::UUID), (&at, Type::TIMESTAMPTZ), (&after.id, Type::UUID), (&limit, Type::INT8)];
        let rows = self.behind(&[(BY_INDEX, Vec::new())], &self.sql.of_owner, &parameters).await?;
        let ids = rows.iter().map(|row| row.try_get("id")).collect::<Result<Vec<Uuid>, _>>()?;
        let Some((row, id)) = rows.last().zip(ids.last()) else { return Ok(None) };
        let place = Place { at: row.try_get::<_, SystemTime>("updated_at")?.into(), id: *id };
        Ok(Some((ids, place)))
    }

    /// Deletes up to `limit` each of the messages, search documents and keys of conversations, and with the last batch the conversations.
    /// Before the first of several batches the deletion of the conversations is rehearsed, so that a trigger which keeps one keeps its
    /// messages too. Writers of these rows wait meanwhile, so that no two transactions lock them in different orders.
    pub(super) async fn delete_batch(
        &self,
        ids: &[Uuid],
        owner: Option<Uuid>,
        limit: usize,
        is_first: bool,
    ) -> Result<DeletedBatch, DbError> {
        let mut retries = ConflictRetries::default();
        loop {
            let mut connection = self.database.get().await?;
            // Some statements, each with a time of its own.
            let deleted = in_time(self.timeout * 2, async {
                let mut transaction = begin_in_time(&mut connection, self.timeout).await?;
                let deleted = self.delete_in(&mut transaction, ids, owner, limit, is_first).await?;
                transaction.commit().await?;
                Ok(deleted)
            })
            .await;
            let deleted = connection.release(deleted);
            if !retries.again(&deleted).await {
                return deleted;
            }
        }
    }

    async fn delete_in(
        &self,
        transaction: &mut Transaction<'_>,
        ids: &[Uuid],
        owner: Option<Uuid>,
        limit: usize,
        is_first: bool,
    ) -> Result<DeletedBatch, DbError> {
        transaction.query_typed(BY_INDEX, &[]).await?;
        let lock = include_str!("../../sql/conversations/lock_all.sql");
        transaction.query_typed(lock, &[(&ids, Type::UUID_ARRAY)]).await?;
        let limit = limit as i64;
        let parameters: [Typed<'_>; 3] =
            [(&ids, Type::UUID_ARRAY), (&owner, Type::UUID), (&limit, Type::INT8)];
        let rows = transaction.query_typed(&self.sql.delete_messages, &parameters).await?;
        let row = rows.first().ok_or(DbError::Unexpected("no count of messages"))?;
        let messages = row.try_get::<_, i64>("messages")? as u64;
        let is_last = row.try_get::<_, i64>("most")? < limit;
        if !is_last && !is_first {
            return Ok(DeletedBatch { messages, conversations: None });
        }
        let parameters: [Typed<'_>; 3] =
            [(&ids, Type::UUID_ARRAY), (&owner, Type::UUID), (&!is_last, Type::BOOL)];
        if is_last {
            let conversations = transaction.query_typed(&self.sql.delete, &parameters).await?.len();
            return Ok(DeletedBatch { messages, conversations: Some(conversations) });
        }
        let savepoint = transaction.savepoint(REHEARSAL).await?;
        match savepoint.query_typed(&self.sql.delete, &parameters).await.map_err(DbError::from) {
            Err(error) if error.is_dropped_by_trigger() && error.table() == Some(REHEARSAL) => {}
            Err(error) => return Err(error),
            Ok(_) => return Err(DbError::Unexpected("an outcome of a rehearsal")),
        }
        savepoint.rollback().await?;
        Ok(DeletedBatch { messages, conversations: None })
    }

    pub(super) async fn message(
        &self,
        conversation: Uuid,
        owner: Option<Uuid>,
        id: Uuid,
    ) -> Result<Option<Message>, DbError> {
        let parameters: [Typed<'_>; 3] =
            [(&conversation, Type::UUID), (&owner, Type::UUID), (&id, Type::UUID)];
        let rows = self.behind(&[(BY_INDEX, Vec::new())], &self.sql.message, &parameters).await?;
        rows.first().map(message).transpose()
    }

    /// Deletes up to `lot` keys that are older than so many seconds; how many there were.
    pub(super) async fn forget_keys(&self, lot: i64, retention_s: f64) -> Result<usize, DbError> {
        let now = match self.database.deletion_time().await {
            // Logged and kept for health where it was found.
            Err(DbError::ClocksDiffer { .. }) => return Ok(0),
            now => now?,
        };
        let parameters: [Typed<'_>; 3] =
            [(&lot, Type::INT8), (&retention_s, Type::FLOAT8), (&now, Type::TIMESTAMPTZ)];
        Ok(self.often(&self.sql.forget_keys, &parameters).await?.len())
    }

    /// Runs one statement in a transaction of its own.
    async fn often(&self, sql: &str, parameters: &[Typed<'_>]) -> Result<Vec<Row>, DbError> {
        let connection = self.database.get().await?;
        let rows = query_often_in_time(&connection, self.timeout, sql, parameters).await;
        connection.release(rows)
    }

    /// The same with the lock of a conversation.
    async fn locked(&self, id: Uuid, sql: &str, parameters: &[Typed<'_>]) -> Result<Vec<Row>, DbError> {
        let lock = (include_str!("../../sql/conversations/lock.sql"), vec![(&id as _, Type::UUID)]);
        self.behind(&[lock], sql, parameters).await
    }

    /// The same behind other statements.
    async fn behind(
        &self,
        first: &[Query<'_>],
        sql: &str,
        parameters: &[Typed<'_>],
    ) -> Result<Vec<Row>, DbError> {
        let connection = self.database.get().await?;
        let queries = [first, &[(sql, parameters.to_vec())]].concat();
        let rows = query_all_in_time(&connection, self.timeout, &queries).await;
        Ok(connection.release(rows)?.pop().unwrap_or_default())
    }
}

fn one(rows: &[Row]) -> Result<Option<Conversation>, DbError> {
    rows.first().map(conversation).transpose()
}

/// The rows of a page, which has up to `limit` entries.
pub(super) fn page<T>(
    rows: &[Row],
    limit: usize,
    entry: impl Fn(&Row) -> Result<T, DbError>,
) -> Result<Found<T>, DbError> {
    let found: i64 = rows.first().map_or(Ok(0), |row| row.try_get("found"))?;
    let entries = rows.iter().take(limit).map(entry).collect::<Result<Vec<_>, _>>()?;
    let is_more = found > entries.len() as i64;
    Ok((entries, is_more))
}

pub(super) fn conversation(row: &Row) -> Result<Conversation, DbError> {
    Ok(Conversation {
        id: row.try_get("id")?,
        title: row.try_get("title")?,
        created_at: row.try_get::<_, SystemTime>("created_at")?.into(),
        updated_at: row.try_get::<_, SystemTime>("updated_at")?.into(),
        metadata: metadata(row)?,
    })
}

pub(super) fn message(row: &Row) -> Result<Message, DbError> {
    Ok(Message {
        id: row.try_get("id")?,
        conversation_id: row.try_get("conversation_id")?,
        // The table's check keeps other words out.
        role: Role::parse(row.try_get("role")?).unwrap_or(Role::System),
        content: row.try_get("content")?,
        extra: extra(row)?,
        timestamp: row.try_get::<_, SystemTime>("timestamp")?.into(),
        token_count: row.try_get("token_count")?,
        metadata: metadata(row)?,
        done: row.try_get("done")?,
    })
}

fn extra(row: &Row) -> Result<Option<Extra>, DbError> {
    let extra: Option<String> = row.try_get("extra")?;
    // What Postgres writes of a jsonb is JSON.
    Ok(extra.and_then(|extra| RawValue::from_string(extra).ok()).map(Extra::new))
}

fn metadata(row: &Row) -> Result<Metadata, DbError> {
    // What Postgres writes of a jsonb is JSON.
    Ok(RawValue::from_string(row.try_get("metadata")?).map_or_else(|_| Metadata::empty(), Metadata::new))
}
