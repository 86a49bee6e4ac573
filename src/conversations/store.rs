//! Conversations and messages in Postgres.

use std::time::{Duration, SystemTime};

use deadpool_postgres::Transaction;
use serde_json::value::RawValue;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::chat::Extra;
use super::list::ListQuery;
use super::model::{Conversation, Message, Metadata, Role};
use super::search::query::tsquery;
use crate::db::{
    BY_INDEX, ConflictRetries, Database, DbError, JsonText, Parameter as Typed, Query, begin_in_time,
    in_time, query_all_in_time, query_often_in_time, query_snapshot_in_time, sql,
};
use crate::paging::SortKey;
use crate::realtime::{Position, position_of_row};

/// Conversations and messages, with a quota of the pool.
#[derive(Debug, Clone)]
pub(super) struct ConversationStore {
    database: Database,
    timeout: Duration,
}

/// The owner of listed conversations; each case has an index.
const OWNED: &str = "owner = $1::uuid";
const UNOWNED: &str = "owner is null and $1::uuid is null";

/// The outcome of one transaction of a deletion.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeletedBatch {
    pub(super) messages: u64,
    /// With the last batch: the number of conversations that were there.
    pub(super) conversations: Option<usize>,
}

/// The table that a rehearsal of `delete.sql` names where all rows would be deleted.
const REHEARSAL: &str = "rehearsal";

/// Entries, and whether more follow.
pub(super) type Found<T> = (Vec<T>, bool);

impl ConversationStore {
    /// A store over `database`, whose statements may take up to `timeout`.
    pub(super) fn new(database: &Database, timeout: Duration) -> Self {
        Self { database: database.clone(), timeout }
    }

    /// A page of the conversations with the words of a query, of at most `max_bytes` and one conversation more, and the position of the
    /// snapshot that it was read in. `None`: the words only exclude.
    pub(super) async fn search(
        &self,
        owner: Option<Uuid>,
        query: &ListQuery,
        words: &str,
        max_bytes: usize,
    ) -> Result<Option<(Found<Conversation>, Position)>, DbError> {
        let sql = match owner {
            Some(_) => sql!(self.database, "conversations/search.sql", mine = OWNED),
            None => sql!(self.database, "conversations/search.sql", mine = UNOWNED),
        };
        let query_text = tsquery(words);
        let (at, limit) = (SystemTime::from(query.after.at), query.limit as i64 + 1);
        let (offset, bytes) = (i64::from(query.offset), max_bytes as i64);
        let parameters: [Typed<'_>; 7] = [
            (&owner, Type::UUID),
            (&at, Type::TIMESTAMPTZ),
            (&query.after.id, Type::UUID),
            (&limit, Type::INT8),
            (&offset, Type::INT8),
            (&bytes, Type::INT8),
            (&query_text, Type::TEXT),
        ];
        // A search takes one processor of the server.
        let alone = sql!("conversations/alone.sql");
        let (rows, position) = self.positioned((alone, Vec::new()), sql, &parameters).await?;
        let found = match rows.first() {
            Some(row) if row.try_get("is_broad")? => return Ok(None),
            Some(row) if row.try_get::<_, Option<Uuid>>("id")?.is_none() => (Vec::new(), false),
            _ => page(&rows, query.limit, conversation)?,
        };
        Ok(Some((found, position)))
    }

    /// Changes the title and the metadata, where given.
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
        let change = sql!(self.database, "conversations/change.sql");
        self.locked(id, change, &parameters).await?.first().map(conversation).transpose()
    }

    /// Up to `limit` of a user's conversations behind a key, and the key of the last one.
    pub(super) async fn of_owner(
        &self,
        owner: Uuid,
        after: SortKey,
        limit: usize,
    ) -> Result<Option<(Vec<Uuid>, SortKey)>, DbError> {
        let (at, limit) = (SystemTime::from(after.at), limit as i64);
        let parameters: [Typed<'_>; 4] =
            [(&owner, Type::UUID), (&at, Type::TIMESTAMPTZ), (&after.id, Type::UUID), (&limit, Type::INT8)];
        let rows = self
            .behind(&[(BY_INDEX, Vec::new())], sql!(self.database, "conversations/of_owner.sql"), &parameters)
            .await?;
        let ids = rows.iter().map(|row| row.try_get("id")).collect::<Result<Vec<Uuid>, _>>()?;
        let Some((row, id)) = rows.last().zip(ids.last()) else { return Ok(None) };
        let key = SortKey { at: row.try_get::<_, SystemTime>("updated_at")?.into(), id: *id };
        Ok(Some((ids, key)))
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
        let mut retries = ConflictRetries::within(self.timeout * 2);
        loop {
            let mut connection = self.database.get().await?;
            // Some statements, each with a time of its own.
            let deleted = in_time(retries.left(), async {
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
        transaction.query_typed(sql!("conversations/lock_all.sql"), &[(&ids, Type::UUID_ARRAY)]).await?;
        let limit = limit as i64;
        let parameters: [Typed<'_>; 3] =
            [(&ids, Type::UUID_ARRAY), (&owner, Type::UUID), (&limit, Type::INT8)];
        let delete_messages = sql!(self.database, "conversations/delete_messages.sql");
        let rows = transaction.query_typed(delete_messages, &parameters).await?;
        let row = rows.first().ok_or(DbError::Unexpected("no count of messages"))?;
        let messages = row.try_get::<_, i64>("messages")? as u64;
        let is_last = row.try_get::<_, i64>("most")? < limit;
        if !is_last && !is_first {
            return Ok(DeletedBatch { messages, conversations: None });
        }
        let delete = sql!(self.database, "conversations/delete.sql");
        let parameters: [Typed<'_>; 3] =
            [(&ids, Type::UUID_ARRAY), (&owner, Type::UUID), (&!is_last, Type::BOOL)];
        if is_last {
            let conversations = transaction.query_typed(delete, &parameters).await?.len();
            return Ok(DeletedBatch { messages, conversations: Some(conversations) });
        }
        let savepoint = transaction.savepoint(REHEARSAL).await?;
        match savepoint.query_typed(delete, &parameters).await.map_err(DbError::from) {
            Err(error) if error.is_dropped_by_trigger() && error.table() == Some(REHEARSAL) => {}
            Err(error) => return Err(error),
            Ok(_) => return Err(DbError::Unexpected("an outcome of a rehearsal")),
        }
        savepoint.rollback().await?;
        Ok(DeletedBatch { messages, conversations: None })
    }

    /// A message, and the position of the snapshot that it was read in.
    pub(super) async fn message(
        &self,
        conversation: Uuid,
        owner: Option<Uuid>,
        id: Uuid,
    ) -> Result<Option<(Message, Position)>, DbError> {
        let parameters: [Typed<'_>; 3] =
            [(&conversation, Type::UUID), (&owner, Type::UUID), (&id, Type::UUID)];
        let sql = sql!(self.database, "conversations/message.sql");
        let (rows, position) = self.positioned((BY_INDEX, Vec::new()), sql, &parameters).await?;
        rows.first().map(|row| Ok((message(row)?, position))).transpose()
    }

    /// Deletes up to `limit` keys that are older than `retention_s`; returns their number.
    pub(super) async fn forget_keys(&self, limit: i64, retention_s: f64) -> Result<usize, DbError> {
        let now = match self.database.deletion_time().await {
            // Logged and reported by health where it was found.
            Err(DbError::ClocksDiffer { .. }) => return Ok(0),
            now => now?,
        };
        let parameters: [Typed<'_>; 3] =
            [(&limit, Type::INT8), (&retention_s, Type::FLOAT8), (&now, Type::TIMESTAMPTZ)];
        let connection = self.database.get().await?;
        let forget = sql!(self.database, "conversations/forget_keys.sql");
        let deleted = query_often_in_time(&connection, self.timeout, forget, &parameters).await;
        Ok(connection.release(deleted)?.len())
    }

    /// Runs a statement with the lock of a conversation, in one transaction.
    async fn locked(&self, id: Uuid, sql: &str, parameters: &[Typed<'_>]) -> Result<Vec<Row>, DbError> {
        let lock = (sql!("conversations/lock.sql"), vec![(&id as _, Type::UUID)]);
        self.behind(&[lock], sql, parameters).await
    }

    /// Runs a statement behind another one; returns the position of the snapshot that it read, too.
    async fn positioned(
        &self,
        first: Query<'_>,
        sql: &str,
        parameters: &[Typed<'_>],
    ) -> Result<(Vec<Row>, Position), DbError> {
        let now = sql!(self.database, "realtime/now.sql");
        let queries = [first, (now, Vec::new()), (sql, parameters.to_vec())];
        let connection = self.database.get().await?;
        let read = query_snapshot_in_time(&connection, self.timeout, &queries).await;
        let mut read = connection.release(read)?.into_iter().skip(1);
        let now = read.next().and_then(|now| now.into_iter().next());
        let position =
            position_of_row(&self.database, &now.ok_or(DbError::Unexpected("no snapshot"))?).await?;
        Ok((read.next().unwrap_or_default(), position))
    }

    /// Runs a statement behind others, in one transaction.
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

/// A page of up to `limit` entries from its rows.
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
        role: Role::parse(row.try_get("role")?).ok_or(DbError::Unexpected("a role of no message"))?,
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
    Ok(extra.map(json).transpose()?.map(Extra::new))
}

fn metadata(row: &Row) -> Result<Metadata, DbError> {
    Ok(Metadata::new(json(row.try_get("metadata")?)?))
}

fn json(text: String) -> Result<Box<RawValue>, DbError> {
    RawValue::from_string(text).map_err(|_| DbError::Unexpected("a jsonb that is no JSON"))
}
