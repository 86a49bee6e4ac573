//! The search index in Postgres.

use std::time::Duration;

use deadpool_postgres::Transaction;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::batch::{BatchSize, Documents, Import, IndexBatch, IndexPlace, Indexed, IndexedChange};
use super::query;
use crate::db::{Database, DbError, Parameter as Typed, begin_in_time, in_time, sql};
use crate::realtime::Snapshot;

/// For one statement.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The outcome of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    /// The documents that were written.
    pub(super) documents: u64,
    /// The changes that were read.
    pub(super) changes: i64,
    /// The age in seconds of the first change that is left. `None`: none is left.
    pub(super) lag_s: Option<f64>,
    /// Whether more changes may be readable at once.
    pub(super) is_more: bool,
}

/// How far the feed is indexed.
#[derive(Debug)]
struct Cursor {
    /// What it saw is indexed.
    base: Snapshot,
    /// The end of a poll that is indexed in part.
    until: Option<Snapshot>,
    place: IndexPlace,
}

impl Cursor {
    fn of_row(row: &Row) -> Result<Self, DbError> {
        Ok(Self {
            base: snapshot(row.try_get("seen")?)?,
            until: row.try_get::<_, Option<&str>>("until")?.map(snapshot).transpose()?,
            place: IndexPlace {
                xid: row.try_get("xid")?,
                number: row.try_get("number")?,
                part: row.try_get("part")?,
            },
        })
    }

    /// Before all changes.
    fn start() -> Self {
        Self { base: Snapshot::empty(), until: None, place: IndexPlace::start() }
    }

    /// Whether it is of another server, or of a state of this one that was lost: it saw what `now` does not.
    fn is_foreign(&self, now: &Snapshot) -> bool {
        !now.covers(&self.base) || self.until.as_ref().is_some_and(|until| !now.covers(until))
    }

    /// The transactions that the base saw running, and its end.
    fn bounds(&self) -> (Vec<String>, String) {
        (self.base.running().iter().map(u64::to_string).collect(), self.base.xmax.to_string())
    }
}

/// The outcome of a batch of a rebuild.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rebuilt {
    /// Documents were rebuilt, and there may be more.
    Batch { documents: u64 },
    /// The last documents were rebuilt.
    Last { documents: u64 },
    /// There is nothing to rebuild.
    Nothing,
    /// Another node works on the index.
    Busy,
}

/// The index, with a quota of the pool.
#[derive(Debug)]
pub(super) struct IndexStore {
    database: Database,
}

impl IndexStore {
    pub(super) fn new(database: &Database) -> Self {
        Self { database: database.clone() }
    }

    /// Indexes a batch of up to this size. `None`: another node works on the index.
    pub(super) async fn step(&self, size: BatchSize) -> Result<Option<Step>, DbError> {
        let mut connection = self.database.get().await?;
        // Some statements, each with a time of its own.
        let done = in_time(TIMEOUT * 2, async {
            let transaction = begin_in_time(&mut connection, TIMEOUT).await?;
            let done = self.step_in(&transaction, size).await?;
            transaction.commit().await?;
            Ok(done)
        })
        .await;
        connection.release(done)
    }

    /// Rebuilds up to this many documents of those that a migration left in an older form.
    pub(super) async fn rebuild(&self, size: BatchSize) -> Result<Rebuilt, DbError> {
        let mut connection = self.database.get().await?;
        let done = in_time(TIMEOUT * 2, async {
            let transaction = begin_in_time(&mut connection, TIMEOUT).await?;
            let done = self.rebuild_in(&transaction, size).await?;
            transaction.commit().await?;
            Ok(done)
        })
        .await;
        connection.release(done)
    }

    async fn rebuild_in(&self, transaction: &Transaction<'_>, size: BatchSize) -> Result<Rebuilt, DbError> {
        if !self.lock(transaction).await? {
            return Ok(Rebuilt::Busy);
        }
        let limit: [Typed<'_>; 1] = [(&size.limit(), Type::INT8)];
        let rows = transaction
            .query_typed(sql!(self.database, "conversations/index_old_documents.sql"), &limit)
            .await?;
        let ids = rows
            .iter()
            .filter_map(|row| row.try_get("id").transpose())
            .collect::<Result<Vec<Uuid>, tokio_postgres::Error>>()?;
        if rows.is_empty() {
            return Ok(Rebuilt::Nothing);
        }
        let documents = self.document(transaction, &ids).await?;
        let last = ids.last().filter(|_| ids.len() as i64 >= size.limit());
        transaction
            .query_typed(sql!(self.database, "conversations/index_rebuilt.sql"), &[(&last, Type::UUID)])
            .await?;
        Ok(if last.is_some() { Rebuilt::Batch { documents } } else { Rebuilt::Last { documents } })
    }

    /// Takes the lock of the index, if it is free.
    async fn lock(&self, transaction: &Transaction<'_>) -> Result<bool, DbError> {
        let rows = transaction.query_typed(sql!(self.database, "conversations/index_lock.sql"), &[]).await?;
        let is_mine = rows.first().map(|row| row.try_get("is_mine")).transpose()?;
        Ok(is_mine == Some(true))
    }

    /// Writes the documents of these messages and titles; returns how many there are.
    async fn document(&self, transaction: &Transaction<'_>, ids: &[Uuid]) -> Result<u64, DbError> {
        if ids.is_empty() {
            return Ok(0);
        }
        let documents = sql!(
            self.database,
            "conversations/index_documents.sql",
            spaced = query::without_punctuation("cut.content"),
            unspaced = query::unspaced_class(),
        );
        Ok(transaction.execute_typed(documents, &[(&ids, Type::UUID_ARRAY)]).await?)
    }

    async fn step_in(&self, transaction: &Transaction<'_>, size: BatchSize) -> Result<Option<Step>, DbError> {
        if !self.lock(transaction).await? {
            return Ok(None);
        }
        let rows = transaction.query_typed(sql!(self.database, "conversations/index_place.sql"), &[]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let mut cursor = Cursor::of_row(row)?;
        if let Some(after) = row.try_get("catch_up")? {
            return self.catch_up(transaction, after, &cursor, size).await.map(Some);
        }
        let mut rows = self.changes(transaction, &cursor, size).await?;
        let Some(head) = rows.first() else { return Ok(None) };
        if cursor.is_foreign(&snapshot(head.try_get("snapshot")?)?) {
            // The database came from another server, whose transactions had higher numbers. Changes that were not read yet may be gone.
            transaction
                .execute_typed(
                    sql!(self.database, "conversations/index_caught_up.sql"),
                    &[(&Uuid::nil(), Type::UUID)],
                )
                .await?;
            cursor = Cursor::start();
            self.move_to(transaction, &cursor).await?;
            rows = self.changes(transaction, &cursor, size).await?;
        }
        let Some(head) = rows.first() else { return Ok(None) };
        let found: i64 = head.try_get("found")?;
        let was_partial = cursor.until.is_some();
        let until = match cursor.until.take() {
            Some(until) => until,
            // Behind the highest change that is seen, whose commit was flushed: a crash may assign later transactions' ids again.
            None => {
                let highest = head.try_get::<_, Option<&str>>("highest")?.map(xid).transpose()?;
                let seen = cursor.base.xmax.saturating_sub(1);
                snapshot(head.try_get("snapshot")?)?
                    .ended_behind(highest.map_or(seen, |highest| highest.max(seen)))
            }
        };
        let is_full = found >= size.limit();
        let end = match (head.try_get("last_xid")?, head.try_get("last_number")?) {
            (Some(xid), Some(number)) => IndexPlace { xid, number, part: None },
            _ => cursor.place.clone(),
        };
        let batch = IndexBatch::new(&cursor.place, indexed_changes(&rows)?, end, size.limit());
        let messages = self.messages(transaction, &batch, size).await?;
        let Indexed { ids, next, is_cut } = batch.indexed(&messages, size.limit() as usize);
        let documents = self.document(transaction, &ids).await?;
        let is_more = is_cut || is_full;
        let next = match is_more {
            true => Cursor { until: Some(until), place: next, ..cursor },
            false => Cursor { base: until, until: None, place: IndexPlace::start() },
        };
        // An idle service writes nothing.
        if found > 0 || was_partial {
            self.move_to(transaction, &next).await?;
        }
        let lag_s = self.lag_s(transaction, &next).await?;
        // Behind the end of a poll of several batches, there may be more.
        Ok(Some(Step { documents, changes: found, lag_s, is_more: is_more || was_partial }))
    }

    async fn move_to(&self, transaction: &Transaction<'_>, cursor: &Cursor) -> Result<(), DbError> {
        let (seen, until) = (cursor.base.to_string(), cursor.until.as_ref().map(ToString::to_string));
        let parameters: [Typed<'_>; 5] = [
            (&seen, Type::TEXT),
            (&until, Type::TEXT),
            (&cursor.place.xid, Type::TEXT),
            (&cursor.place.number, Type::INT8),
            (&cursor.place.part, Type::UUID),
        ];
        transaction.query_typed(sql!(self.database, "conversations/index_move.sql"), &parameters).await?;
        Ok(())
    }

    /// Indexes a batch of documents the feed no longer holds, as the database was restored on another server.
    async fn catch_up(
        &self,
        transaction: &Transaction<'_>,
        after: Uuid,
        cursor: &Cursor,
        size: BatchSize,
    ) -> Result<Step, DbError> {
        let parameters: [Typed<'_>; 2] = [(&after, Type::UUID), (&size.limit(), Type::INT8)];
        let rows = transaction
            .query_typed(sql!(self.database, "conversations/index_catch_up.sql"), &parameters)
            .await?;
        let next: Option<Uuid> = rows.first().map(|row| row.try_get("next")).transpose()?.flatten();
        let missing: Vec<Uuid> =
            rows.first().map(|row| row.try_get("missing")).transpose()?.unwrap_or_default();
        let documents = self.document(transaction, &missing).await?;
        transaction
            .execute_typed(sql!(self.database, "conversations/index_caught_up.sql"), &[(&next, Type::UUID)])
            .await?;
        if next.is_none() {
            tracing::info!("all messages of the restored database are indexed");
        }
        let lag_s = self.lag_s(transaction, cursor).await?;
        Ok(Step { documents, changes: 0, lag_s, is_more: true })
    }

    async fn lag_s(&self, transaction: &Transaction<'_>, after: &Cursor) -> Result<Option<f64>, DbError> {
        let (running, xmax) = after.bounds();
        let parameters: [Typed<'_>; 4] = [
            (&after.place.xid, Type::TEXT),
            (&after.place.number, Type::INT8),
            (&running, Type::TEXT_ARRAY),
            (&xmax, Type::TEXT),
        ];
        let rows =
            transaction.query_typed(sql!(self.database, "conversations/index_lag.sql"), &parameters).await?;
        Ok(rows.first().map(|row| row.try_get("lag_s")).transpose()?.flatten())
    }

    async fn changes(
        &self,
        transaction: &Transaction<'_>,
        after: &Cursor,
        size: BatchSize,
    ) -> Result<Vec<Row>, DbError> {
        let (running, xmax) = after.bounds();
        let until = after.until.as_ref().map(ToString::to_string);
        let parameters: [Typed<'_>; 6] = [
            (&after.place.xid, Type::TEXT),
            (&after.place.number, Type::INT8),
            (&size.limit(), Type::INT8),
            (&running, Type::TEXT_ARRAY),
            (&xmax, Type::TEXT),
            (&until, Type::TEXT),
        ];
        Ok(transaction
            .query_typed(sql!(self.database, "conversations/index_changes.sql"), &parameters)
            .await?)
    }

    /// The first messages of a batch's imports, each with the ordinal of its import.
    async fn messages(
        &self,
        transaction: &Transaction<'_>,
        batch: &IndexBatch,
        size: BatchSize,
    ) -> Result<Vec<(usize, Uuid)>, DbError> {
        let all: Vec<Import> = batch.imports().collect();
        if let [Import { conversation, first, last, .. }] = &all[..] {
            let parameters: [Typed<'_>; 4] = [
                (conversation, Type::UUID),
                (first, Type::UUID),
                (last, Type::UUID),
                (&size.limit(), Type::INT8),
            ];
            let rows = transaction
                .query_typed(sql!(self.database, "conversations/index_import.sql"), &parameters)
                .await?;
            return rows.iter().map(|row| Ok((0, row.try_get("id")?))).collect();
        }
        let (starts, ends): (Vec<Uuid>, Vec<Uuid>) = batch.ranges().into_iter().unzip();
        if starts.is_empty() {
            return Ok(Vec::new());
        }
        let of = |id: fn(&Import) -> Uuid| all.iter().map(id).collect::<Vec<Uuid>>();
        let parameters: [Typed<'_>; 6] = [
            (&of(|import| import.conversation), Type::UUID_ARRAY),
            (&of(|import| import.first), Type::UUID_ARRAY),
            (&of(|import| import.last), Type::UUID_ARRAY),
            (&starts, Type::UUID_ARRAY),
            (&ends, Type::UUID_ARRAY),
            (&size.limit(), Type::INT8),
        ];
        let rows = transaction
            .query_typed(sql!(self.database, "conversations/index_imports.sql"), &parameters)
            .await?;
        rows.iter().map(|row| Ok((row.try_get::<_, i64>("nth")? as usize, row.try_get("id")?))).collect()
    }
}

fn snapshot(text: &str) -> Result<Snapshot, DbError> {
    Snapshot::parse(text).ok_or(DbError::Unexpected("a snapshot that is none"))
}

fn xid(text: &str) -> Result<u64, DbError> {
    text.parse().map_err(|_| DbError::Unexpected("an xid8 that is no number"))
}

/// The changes that have to be indexed.
fn indexed_changes(rows: &[Row]) -> Result<Vec<IndexedChange>, DbError> {
    let mut all = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(xid) = row.try_get::<_, Option<String>>("xid")? else { break };
        let (first, last): (Option<Uuid>, Option<Uuid>) = (row.try_get("first")?, row.try_get("last")?);
        let documents = match (row.try_get("id")?, first, last) {
            (Some(id), ..) => Documents::One(id),
            (None, Some(first), Some(last)) => Documents::Import(Import {
                conversation: row.try_get("conversation_id")?,
                first,
                last,
                count: row.try_get("count")?,
            }),
            // An import that names no messages.
            _ => continue,
        };
        all.push(IndexedChange { xid, number: row.try_get("number")?, documents });
    }
    Ok(all)
}
