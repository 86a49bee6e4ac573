//! Conversations and messages in Postgres: the statements, and what becomes of their rows.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::value::RawValue;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::list::{From, ListQuery, MessageQuery};
use super::model::{Conversation, Message, Metadata, Role};
use super::place::Place;
use crate::db::{Database, DbError, JsonText, Parameter as Typed, query_all_in_time, query_often_in_time};
use crate::realtime::Snapshot;

/// Conversations and messages, over a share of the pool.
#[derive(Debug, Clone)]
pub(super) struct Store {
    database: Database,
    timeout: Duration,
    sql: Arc<Statements>,
}

#[derive(Debug)]
struct Statements {
    list_of_owner: String,
    list_of_nobody: String,
    search_of_owner: String,
    search_of_nobody: String,
    get: String,
    change: String,
    delete_messages: String,
    delete: String,
    messages_after: String,
    messages_before: String,
    message: String,
    messages_between: String,
    forget_keys: String,
}

/// Whose conversations a list has; each has an index.
const OF_OWNER: &str = "owner = $1::uuid";
const OF_NOBODY: &str = "owner is null and $1::uuid is null";
/// Before a search, in its transaction: one asks for one connection's share of the server.
const ALONE: &str = include_str!("../../sql/conversations/alone.sql");

impl Statements {
    fn new(database: &Database) -> Self {
        let list = database.sql(include_str!("../../sql/conversations/list.sql"));
        let search = database.sql(include_str!("../../sql/conversations/search.sql"));
        let messages = database.sql(include_str!("../../sql/conversations/messages.sql"));
        let towards =
            |beyond, direction| messages.replace("{beyond}", beyond).replace("{direction}", direction);
        Self {
            list_of_owner: list.replace("{mine}", OF_OWNER),
            list_of_nobody: list.replace("{mine}", OF_NOBODY),
            search_of_owner: search.replace("{mine}", OF_OWNER),
            search_of_nobody: search.replace("{mine}", OF_NOBODY),
            get: database.sql(include_str!("../../sql/conversations/get.sql")),
            change: database.sql(include_str!("../../sql/conversations/change.sql")),
            delete_messages: database.sql(include_str!("../../sql/conversations/delete_messages.sql")),
            delete: database.sql(include_str!("../../sql/conversations/delete.sql")),
            messages_after: towards(">", "asc"),
            messages_before: towards("<", "desc"),
            message: database.sql(include_str!("../../sql/conversations/message.sql")),
            messages_between: database.sql(include_str!("../../sql/conversations/messages_between.sql")),
            forget_keys: database.sql(include_str!("../../sql/conversations/forget_keys.sql")),
        }
    }
}

/// A page for somebody who follows.
#[derive(Debug)]
pub(super) struct LivePage {
    pub(super) messages: Vec<Message>,
    pub(super) is_more: bool,
    /// What the page's statement saw.
    pub(super) snapshot: Snapshot,
}

/// Messages of a page for somebody who follows, and the bytes at which that is enough: it waits until he has read it.
const LIVE_PAGE: usize = 200;
const LIVE_PAGE_BYTES: usize = crate::realtime::LOT_BYTES;

/// Entries, and whether there are more behind them.
pub(super) type Found<T> = (Vec<T>, bool);

impl Store {
    /// Over `database`, whose statements may take up to `timeout`.
    pub(super) fn new(database: &Database, timeout: Duration) -> Self {
        Self { database: database.clone(), timeout, sql: Arc::new(Statements::new(database)) }
    }

    /// A page of at most `max_bytes` and one conversation more; none if its words only rule something out.
    pub(super) async fn list(
        &self,
        owner: Option<Uuid>,
        query: &ListQuery,
        max_bytes: usize,
    ) -> Result<Option<Found<Conversation>>, DbError> {
        let sql = match (&query.words, owner) {
            (Some(_), Some(_)) => &self.sql.search_of_owner,
            (Some(_), None) => &self.sql.search_of_nobody,
            (None, Some(_)) => &self.sql.list_of_owner,
            (None, None) => &self.sql.list_of_nobody,
        };
        let (at, limit) = (SystemTime::from(query.after.at), query.limit as i64 + 1);
        let (offset, bytes) = (i64::from(query.offset), max_bytes as i64);
        let mut parameters: Vec<Typed<'_>> = vec![
            (&owner, Type::UUID),
            (&at, Type::TIMESTAMPTZ),
            (&query.after.id, Type::UUID),
            (&limit, Type::INT8),
            (&offset, Type::INT8),
            (&bytes, Type::INT8),
        ];
        let Some(words) = &query.words else {
            return page(&self.often(sql, &parameters).await?, query.limit, conversation).map(Some);
        };
        parameters.push((words, Type::TEXT));
        let rows = self.behind((ALONE, &[]), sql, &parameters).await?;
        match rows.first() {
            Some(row) if row.try_get("is_broad")? => Ok(None),
            Some(row) if row.try_get::<_, Option<Uuid>>("id")?.is_none() => Ok(Some((Vec::new(), false))),
            _ => page(&rows, query.limit, conversation).map(Some),
        }
    }

    pub(super) async fn get(&self, id: Uuid, owner: Option<Uuid>) -> Result<Option<Conversation>, DbError> {
        one(&self.often(&self.sql.get, &[(&id, Type::UUID), (&owner, Type::UUID)]).await?)
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

    /// Deletes up to `lot` each of the messages, of what search knows and of the keys; how many there were of the most.
    /// Whoever writes the conversation waits meanwhile, so that no two lock its rows in different orders.
    pub(super) async fn delete_messages(
        &self,
        id: Uuid,
        owner: Option<Uuid>,
        lot: i64,
    ) -> Result<usize, DbError> {
        let parameters: [Typed<'_>; 3] = [(&id, Type::UUID), (&owner, Type::UUID), (&lot, Type::INT8)];
        let rows = self.locked(id, &self.sql.delete_messages, &parameters).await?;
        Ok(rows.first().map_or(Ok(0), |row| row.try_get::<_, i64>("most"))? as usize)
    }

    /// Deletes a conversation; whether it was there.
    pub(super) async fn delete(&self, id: Uuid, owner: Option<Uuid>) -> Result<bool, DbError> {
        let parameters: [Typed<'_>; 2] = [(&id, Type::UUID), (&owner, Type::UUID)];
        Ok(!self.locked(id, &self.sql.delete, &parameters).await?.is_empty())
    }

    /// A page of at most `max_bytes` and one message more, nearest first; none if there is no such conversation.
    pub(super) async fn messages(
        &self,
        conversation: Uuid,
        owner: Option<Uuid>,
        query: &MessageQuery,
        max_bytes: usize,
    ) -> Result<Option<Found<Message>>, DbError> {
        let rows = self.message_rows(conversation, owner, query, max_bytes).await?;
        if rows.is_empty() { Ok(None) } else { messages(&rows, query).map(Some) }
    }

    async fn message_rows(
        &self,
        conversation: Uuid,
        owner: Option<Uuid>,
        query: &MessageQuery,
        max_bytes: usize,
    ) -> Result<Vec<Row>, DbError> {
        let (sql, place): (_, Place) = match query.from {
            From::After(place) => (&self.sql.messages_after, place),
            From::Before(place) => (&self.sql.messages_before, place),
        };
        let (at, limit, bytes) = (SystemTime::from(place.at), query.limit as i64 + 1, max_bytes as i64);
        let parameters: [Typed<'_>; 6] = [
            (&conversation, Type::UUID),
            (&owner, Type::UUID),
            (&at, Type::TIMESTAMPTZ),
            (&place.id, Type::UUID),
            (&limit, Type::INT8),
            (&bytes, Type::INT8),
        ];
        self.often(sql, &parameters).await
    }

    /// A page behind a place, and what its statement saw; none if there is no such conversation.
    pub(super) async fn live_page(
        &self,
        conversation: Uuid,
        owner: Option<Uuid>,
        after: Place,
    ) -> Result<Option<LivePage>, DbError> {
        let query = MessageQuery { limit: LIVE_PAGE, from: From::After(after) };
        let rows = self.message_rows(conversation, owner, &query, LIVE_PAGE_BYTES).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        // What Postgres writes of a snapshot is one.
        let snapshot = Snapshot::parse(row.try_get("snapshot")?).unwrap_or_default();
        let (messages, is_more) = messages(&rows, &query)?;
        Ok(Some(LivePage { messages, is_more, snapshot }))
    }

    /// A lot of the messages with ids between two, both included, behind a third; in the order of their ids.
    pub(super) async fn messages_between(
        &self,
        conversation: Uuid,
        (first, last): (Uuid, Uuid),
        after: Option<Uuid>,
    ) -> Result<Found<Message>, DbError> {
        let after = after.unwrap_or_default();
        let (limit, bytes) = (LIVE_PAGE as i64 + 1, LIVE_PAGE_BYTES as i64);
        let parameters: [Typed<'_>; 6] = [
            (&conversation, Type::UUID),
            (&first, Type::UUID),
            (&last, Type::UUID),
            (&after, Type::UUID),
            (&limit, Type::INT8),
            (&bytes, Type::INT8),
        ];
        page(&self.often(&self.sql.messages_between, &parameters).await?, LIVE_PAGE, message)
    }

    pub(super) async fn message(
        &self,
        conversation: Uuid,
        owner: Option<Uuid>,
        id: Uuid,
    ) -> Result<Option<Message>, DbError> {
        let parameters: [Typed<'_>; 3] =
            [(&conversation, Type::UUID), (&owner, Type::UUID), (&id, Type::UUID)];
        self.often(&self.sql.message, &parameters).await?.first().map(message).transpose()
    }

    /// Deletes up to `lot` keys that are older than so many seconds; how many there were.
    pub(super) async fn forget_keys(&self, lot: i64, retention_s: f64) -> Result<usize, DbError> {
        let parameters: [Typed<'_>; 2] = [(&lot, Type::INT8), (&retention_s, Type::FLOAT8)];
        Ok(self.often(&self.sql.forget_keys, &parameters).await?.len())
    }

    /// Runs one statement in a transaction of its own.
    async fn often(&self, sql: &str, parameters: &[Typed<'_>]) -> Result<Vec<Row>, DbError> {
        let connection = self.database.get().await?;
        let rows = query_often_in_time(&connection, self.timeout, sql, parameters).await;
        if let Err(DbError::Timeout(_)) = rows {
            connection.discard();
        }
        rows
    }

    /// The same with the lock of a conversation.
    async fn locked(&self, id: Uuid, sql: &str, parameters: &[Typed<'_>]) -> Result<Vec<Row>, DbError> {
        let id: [Typed<'_>; 1] = [(&id, Type::UUID)];
        self.behind((include_str!("../../sql/conversations/lock.sql"), &id), sql, parameters).await
    }

    /// The same behind another statement.
    async fn behind(
        &self,
        (first, its): (&str, &[Typed<'_>]),
        sql: &str,
        parameters: &[Typed<'_>],
    ) -> Result<Vec<Row>, DbError> {
        let connection = self.database.get().await?;
        let queries = [(first, its.to_vec()), (sql, parameters.to_vec())];
        let rows = query_all_in_time(&connection, self.timeout, &queries).await;
        if let Err(DbError::Timeout(_)) = rows {
            connection.discard();
        }
        Ok(rows?.pop().unwrap_or_default())
    }
}

fn one(rows: &[Row]) -> Result<Option<Conversation>, DbError> {
    rows.first().map(conversation).transpose()
}

/// The rows of a page of messages; a row without an id is none.
fn messages(rows: &[Row], query: &MessageQuery) -> Result<Found<Message>, DbError> {
    match rows.first() {
        Some(row) if row.try_get::<_, Option<Uuid>>("id")?.is_some() => page(rows, query.limit, message),
        _ => Ok((Vec::new(), false)),
    }
}

/// The rows of a page, which has up to `limit` entries.
fn page<T>(
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

fn message(row: &Row) -> Result<Message, DbError> {
    Ok(Message {
        id: row.try_get("id")?,
        conversation_id: row.try_get("conversation_id")?,
        // The table's check keeps other words out.
        role: Role::parse(row.try_get("role")?).unwrap_or(Role::System),
        content: row.try_get("content")?,
        timestamp: row.try_get::<_, SystemTime>("timestamp")?.into(),
        token_count: row.try_get("token_count")?,
        metadata: metadata(row)?,
        done: row.try_get("done")?,
    })
}

fn metadata(row: &Row) -> Result<Metadata, DbError> {
    // What Postgres writes of a jsonb is JSON.
    Ok(RawValue::from_string(row.try_get("metadata")?).map_or_else(|_| Metadata::empty(), Metadata::new))
}
