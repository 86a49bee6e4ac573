//! Rows of the inbox in Postgres.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio_postgres::types::Type;

use super::{FailedRow, Moved};
use crate::db::{
    BY_INDEX, DbError, DependentWrites, Parameter, Transaction, begin_in_time, in_time, query_often_in_time,
    roll_back, sql,
};
use crate::offload;
use crate::streams::postgres::appends::DecidedAppend;
use crate::streams::postgres::appends::decided::{Before, Decisions, Outcome};
use crate::streams::postgres::appends::store::{AppendStore, DecidedWrites, batch_number, before};
use crate::streams::postgres::heads::{COLUMNS, HEAD};
use crate::streams::{Append, AppendBody, ContentType, StreamPath};

/// Rows that are moved in one transaction, and their bytes, about.
const MAX_ROWS: i64 = 1_000;
const MAX_BYTES: i64 = 4 * 1024 * 1024;
/// The number up to which rows are counted.
const MAX_COUNTED: i64 = 100_000;

/// Moves rows, with a quota of the pool.
#[derive(Debug)]
pub(in crate::streams::postgres::appends) struct InboxStore {
    appends: AppendStore,
    /// The stream that clients may only read.
    registry: Option<StreamPath>,
}

/// A row that waits.
#[derive(Debug)]
struct WaitingRow {
    id: i64,
    path: String,
    data: Bytes,
    is_json: bool,
}

/// What becomes of a row.
enum Fate {
    Append(Arc<DecidedAppend>),
    Failed(String),
    Held(StreamPath),
}

impl InboxStore {
    pub(in crate::streams::postgres::appends) fn new(
        appends: AppendStore,
        registry: Option<StreamPath>,
    ) -> Self {
        Self { appends, registry }
    }

    /// Whether rows wait.
    pub(super) async fn has_rows(&self) -> Result<bool, DbError> {
        let AppendStore { database, timeout, .. } = &self.appends;
        let connection = database.get().await?;
        let rows =
            query_often_in_time(&connection, *timeout, sql!(database, "streams/inbox_look.sql"), &[]).await;
        Ok(!connection.release(rows)?.is_empty())
    }

    /// The numbers of rows that wait, and of those that could not be moved; each up to [`MAX_COUNTED`].
    pub(super) async fn counts(&self) -> Result<(i64, i64), DbError> {
        let AppendStore { database, timeout, .. } = &self.appends;
        let parameters: [Parameter<'_>; 1] = [(&MAX_COUNTED, Type::INT8)];
        let rows =
            database.query_in_time(*timeout, sql!(database, "streams/inbox_counts.sql"), &parameters).await?;
        let Some(row) = rows.first() else { return Ok((0, 0)) };
        Ok((row.try_get("waiting")?, row.try_get("failed")?))
    }

    /// Moves rows in one transaction, but for those of some paths. `None`: another node moves rows.
    pub(super) async fn move_rows(&self, left_out: &[&str]) -> Result<Option<Moved>, DbError> {
        let AppendStore { database, timeout, .. } = &self.appends;
        let begun = Instant::now();
        let mut connection = database.get().await?;
        let done = in_time(*timeout, async {
            let transaction = begin_in_time(&mut connection, *timeout).await?;
            match self.move_in(&transaction, left_out).await {
                Ok(Some(moved)) => {
                    // If its answer is lost, the next look finds the rows, or they are moved.
                    transaction.commit().await?;
                    Ok(Some(moved))
                }
                Ok(None) => {
                    transaction.rollback().await?;
                    Ok(None)
                }
                Err(error) => Err(roll_back(transaction, error).await),
            }
        })
        .await;
        Ok(connection.release(done)?.map(|(moved, decisions)| {
            self.appends.finish(decisions, begun);
            moved
        }))
    }

    async fn move_in(
        &self,
        transaction: &Transaction<'_>,
        left_out: &[&str],
    ) -> Result<Option<(Moved, Decisions)>, DbError> {
        let database = &self.appends.database;
        transaction.query_typed(BY_INDEX, &[]).await?;
        let locked = transaction.query_typed(sql!(database, "streams/inbox_lock.sql"), &[]).await?;
        if !locked.first().map_or(Ok(false), |row| row.try_get("is_mine"))? {
            return Ok(None);
        }
        let parameters: [Parameter<'_>; 3] =
            [(&left_out, Type::TEXT_ARRAY), (&MAX_ROWS, Type::INT8), (&MAX_BYTES, Type::INT8)];
        let rows = transaction.query_typed(sql!(database, "streams/inbox_rows.sql"), &parameters).await?;
        let mut waiting = Vec::with_capacity(rows.len());
        for row in rows {
            waiting.push(WaitingRow {
                id: row.try_get("id")?,
                path: row.try_get("path")?,
                data: Bytes::copy_from_slice(row.try_get("data")?),
                is_json: row.try_get("is_json")?,
            });
        }
        let before = self.lock_streams(transaction, &waiting).await?;
        let mut fates = Vec::with_capacity(waiting.len());
        for row in &waiting {
            fates.push(self.fate(row, &before).await?);
        }
        let appends: Vec<Arc<DecidedAppend>> = fates
            .iter()
            .filter_map(|fate| match fate {
                Fate::Append(append) => Some(Arc::clone(append)),
                _ => None,
            })
            .collect();
        let mut writes =
            DecidedWrites::new(database.clone(), Decisions::on(&appends, before), batch_number());
        for (sql, parameters) in writes.queries() {
            transaction.query_typed(sql, &parameters).await?;
        }
        let mut outcomes = std::mem::take(&mut writes.decisions.outcomes).into_iter();
        let (mut moved, mut ids) = (Moved::default(), Vec::new());
        for (row, fate) in waiting.into_iter().zip(fates) {
            let error = match fate {
                Fate::Failed(error) => error,
                Fate::Held(path) => {
                    moved.held.push(path);
                    continue;
                }
                Fate::Append(append) => match outcomes.next() {
                    Some(Outcome::Done(Ok(_))) => {
                        ids.push(row.id);
                        continue;
                    }
                    Some(Outcome::Done(Err(error))) => error.to_string(),
                    Some(Outcome::Held) | None => {
                        moved.held.push(append.path.clone());
                        continue;
                    }
                },
            };
            moved.failed.push(FailedRow { id: row.id, path: row.path, error });
        }
        moved.moved = ids.len();
        let (failed, errors): (Vec<i64>, Vec<&str>) =
            moved.failed.iter().map(|row| (row.id, &*row.error)).unzip();
        let parameters: [Parameter<'_>; 3] =
            [(&ids, Type::INT8_ARRAY), (&failed, Type::INT8_ARRAY), (&errors, Type::TEXT_ARRAY)];
        transaction.query_typed(sql!(database, "streams/inbox_settle.sql"), &parameters).await?;
        Ok(Some((moved, writes.decisions)))
    }

    /// Locks the streams of rows, but for those that something else has locked.
    async fn lock_streams(
        &self,
        transaction: &Transaction<'_>,
        waiting: &[WaitingRow],
    ) -> Result<Before, DbError> {
        let database = &self.appends.database;
        let paths: HashSet<&str> = waiting.iter().map(|row| &*row.path).collect();
        let paths: Vec<&str> = paths.into_iter().collect();
        let parameters: [Parameter<'_>; 1] = [(&paths, Type::TEXT_ARRAY)];
        let lock = sql!(database, "streams/lock.sql", head = HEAD, columns = COLUMNS, wait = "skip locked");
        let locked = transaction.query_typed(lock, &parameters).await?;
        // A later statement: of what is created in between nothing is locked, and it is held.
        let exist = transaction.query_typed(sql!(database, "streams/exist.sql"), &parameters).await?;
        before(&[Vec::new(), locked, exist])
    }

    /// The append of a row, by the type of its stream, or why there is none.
    async fn fate(&self, row: &WaitingRow, before: &Before) -> Result<Fate, DbError> {
        let path = match StreamPath::new(&row.path) {
            Ok(path) if Some(&path) == self.registry.as_ref() => {
                return Ok(Fate::Failed("the stream is the registry, which takes no appends".into()));
            }
            Ok(path) => path,
            Err(error) => return Ok(Fate::Failed(error.to_string())),
        };
        let Some(locked) = before.locked.get(&path) else {
            return Ok(match before.existing.contains(&path) {
                true => Fate::Held(path),
                false => Fate::Failed("there is no such stream".into()),
            });
        };
        let content_type = locked.stream.head.content_type.clone();
        let body = match content_type.is_json() {
            true => json(row.data.clone()).await?,
            false if row.is_json => return Ok(Fate::Failed(wrong_type(&content_type))),
            false => Ok(AppendBody::of_bytes(row.data.clone())),
        };
        Ok(match body {
            Ok(Some(body)) => {
                let append = Append {
                    content_type: Some(content_type),
                    body: Some(body),
                    seq: None,
                    producer: None,
                    close: false,
                };
                Fate::Append(Arc::new(DecidedAppend { path, append }))
            }
            Ok(None) => Fate::Failed("an append has at least one message".into()),
            Err(error) => Fate::Failed(error),
        })
    }
}

fn wrong_type(content_type: &ContentType) -> String {
    format!("the stream is {}, and takes bytes", content_type.as_str())
}

/// The messages of a body of JSON; large ones are parsed off this thread.
async fn json(data: Bytes) -> Result<Result<Option<AppendBody>, String>, DbError> {
    let is_small = data.len() <= offload::INLINE_BYTES;
    let parse = move || AppendBody::of_json(&data).map_err(|error| error.to_string());
    if is_small {
        return Ok(parse());
    }
    offload::run(parse).await.map_err(|_| DbError::Unexpected("a parser that panicked"))
}
