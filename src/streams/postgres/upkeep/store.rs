//! Statements of the work behind the requests.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, SystemTime};

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::db::{
    BY_INDEX, Database, DbError, DependentWrites, Parameter, Query, WriteFailure, query_all_in_time,
    read_then_write, sql,
};
use crate::streams::postgres::chunks::{Chunk, array_text, chunk};
use crate::streams::{Offset, StreamId};
use crate::time::Micros;

/// The age of chunks that are merged. The outcome of a commit is asked for within less.
const MERGE_AGE: &str = "20 seconds";

/// A chunk that may be merged.
#[derive(Debug, Clone)]
pub(in crate::streams::postgres) struct SmallChunk {
    pub(super) chunk: Chunk,
    /// The time of its appends, in microseconds of Unix time.
    pub(super) at_us: i64,
    /// The time of each of them, where they differ.
    pub(super) times_us: Vec<i64>,
}

/// Statements of the upkeep, with a quota of the pool.
#[derive(Debug, Clone)]
pub(in crate::streams::postgres) struct UpkeepStore {
    pub(super) database: Database,
    pub(super) timeout: Duration,
}

impl UpkeepStore {
    pub(in crate::streams::postgres) fn new(database: &Database, timeout: Duration) -> Self {
        Self { database: database.clone(), timeout }
    }

    pub(super) async fn query(&self, sql: &str, parameters: Vec<Parameter<'_>>) -> Result<Vec<Row>, DbError> {
        let connection = self.database.get().await?;
        let queries = [(BY_INDEX, Vec::new()), (sql, parameters)];
        let rows = query_all_in_time(&connection, self.timeout, &queries).await;
        Ok(connection.release(rows)?.pop().unwrap_or_default())
    }

    /// Renews streams that were read so long ago; returns those that were renewed.
    pub(super) async fn renew(
        &self,
        renewals: &[(StreamId, Duration)],
    ) -> Result<HashSet<StreamId>, DbError> {
        let ids: Vec<i64> = renewals.iter().map(|(id, _)| id.0 as i64).collect();
        let agos: Vec<i64> = renewals.iter().map(|(_, ago)| ago.as_micros() as i64).collect();
        let sql = sql!(self.database, "streams/renew.sql");
        let rows = self.query(sql, vec![(&ids, Type::INT8_ARRAY), (&agos, Type::INT8_ARRAY)]).await?;
        rows.iter().map(id).collect()
    }

    /// The time before which a stream must have ended for its bytes to be removed, by both clocks.
    pub(super) async fn deletion_time(&self) -> Result<SystemTime, DbError> {
        self.database.deletion_time().await
    }

    /// Whether some streams have ended by themselves, by Postgres' clock.
    pub(super) async fn has_expired(&self) -> Result<bool, DbError> {
        let rows = self.query(sql!(self.database, "streams/has_expired.sql"), Vec::new()).await?;
        Ok(rows.first().map_or(Ok(false), |row| row.try_get(0))?)
    }

    /// Streams that ended by themselves before a time, in the order of their ids.
    pub(super) async fn expired(
        &self,
        before: Micros,
        after: StreamId,
        limit: usize,
    ) -> Result<Vec<StreamId>, DbError> {
        let (after, limit) = (after.0 as i64, limit as i64);
        let parameters: Vec<Parameter<'_>> =
            vec![(&before.0, Type::INT8), (&after, Type::INT8), (&limit, Type::INT8)];
        let rows = self.query(sql!(self.database, "streams/expired.sql"), parameters).await?;
        rows.iter().map(id).collect()
    }

    /// Removes some of what belongs to deleted streams; whether there may be more.
    pub(super) async fn erase(&self, max_chunks: i64) -> Result<bool, DbError> {
        let sql = sql!(self.database, "streams/erase.sql");
        let rows = self.query(sql, vec![(&max_chunks, Type::INT8)]).await?;
        let Some(row) = rows.first() else { return Ok(false) };
        let (chunks, streams): (i64, i64) = (row.try_get("chunks")?, row.try_get("streams")?);
        Ok(chunks > 0 || streams > 0)
    }

    /// Living streams of which a part is kept.
    pub(super) async fn retained(&self) -> Result<BTreeSet<StreamId>, DbError> {
        // Few of many: without an index for what one look at a start needs.
        let rows = self
            .database
            .query_in_time(self.timeout, sql!(self.database, "streams/retained.sql"), &[])
            .await?;
        rows.iter().map(id).collect()
    }

    /// Moves the kept start of a stream; whether it moved. `None`: the stream is gone.
    pub(super) async fn retain(&self, id: StreamId, max_chunks: i64) -> Result<Option<bool>, DbError> {
        let id = id.0 as i64;
        let parameters: Vec<Parameter<'_>> = vec![(&id, Type::INT8), (&max_chunks, Type::INT8)];
        let rows = self.query(sql!(self.database, "streams/retain.sql"), parameters).await?;
        Ok(rows.first().map(|row| row.try_get("has_moved")).transpose()?)
    }

    /// Removes chunks before the kept start of a stream; returns how many.
    pub(super) async fn drop_chunks(&self, id: StreamId, max_chunks: i64) -> Result<usize, DbError> {
        let id = id.0 as i64;
        let parameters: Vec<Parameter<'_>> = vec![(&id, Type::INT8), (&max_chunks, Type::INT8)];
        Ok(self.query(sql!(self.database, "streams/drop_chunks.sql"), parameters).await?.len())
    }

    /// Merges small chunks of a stream behind an offset, as `group` groups them; returns how many it found, and the end of what needs no look again.
    pub(super) async fn merge(
        &self,
        id: StreamId,
        after: Offset,
        max_chunks: i64,
        group: impl FnOnce(Vec<SmallChunk>) -> Vec<Vec<SmallChunk>>,
    ) -> Result<(usize, Offset), DbError> {
        let (stream, after_number) = (id.0 as i64, after.0 as i64);
        let parameters: Vec<Parameter<'_>> =
            vec![(&stream, Type::INT8), (&after_number, Type::INT8), (&max_chunks, Type::INT8)];
        let sql = sql!(self.database, "streams/small_chunks.sql", age = MERGE_AGE);
        let reads: [Query<'_>; 2] = [(BY_INDEX, Vec::new()), (sql, parameters)];
        let connection = self.database.get().await?;
        let (mut found, mut end) = (0, after);
        let merged = read_then_write(&connection, self.timeout, &reads, |mut rows| {
            let rows = rows.pop().unwrap_or_default();
            let chunks = rows.iter().map(small).collect::<Result<Vec<_>, _>>()?;
            found = chunks.len();
            let groups = group(chunks);
            // The last one may grow further.
            if let Some(last) = groups.last().and_then(|group| group.first()) {
                end = last.chunk.first;
            }
            Ok(Merge::of(self.database.clone(), id, &groups))
        })
        .await;
        match merged {
            Ok(_) => connection.release(Ok((found, end))),
            // Another node merges them.
            Err(WriteFailure::RolledBack(error)) if error.is_locked() || error.is_conflict() => {
                connection.release(Ok((0, after)))
            }
            Err(WriteFailure::RolledBack(error) | WriteFailure::InDoubt(error, _)) => {
                connection.release(Err(error))
            }
        }
    }
}

pub(super) fn id(row: &Row) -> Result<StreamId, DbError> {
    Ok(StreamId(row.try_get::<_, i64>("id")? as u64))
}

pub(super) fn small(row: &Row) -> Result<SmallChunk, DbError> {
    let times_us: Option<Vec<i64>> = row.try_get("times_us")?;
    Ok(SmallChunk {
        chunk: chunk(row)?,
        at_us: row.try_get("at_us")?,
        times_us: times_us.unwrap_or_default(),
    })
}

/// The statement that replaces chunks by merged ones.
#[derive(Debug)]
pub(super) struct Merge {
    database: Database,
    stream: i64,
    removed: Vec<i64>,
    nexts: Vec<i64>,
    firsts: Vec<i64>,
    append_ends: Vec<Option<String>>,
    message_ends: Vec<Option<String>>,
    byte_ends: Vec<Option<String>>,
    times: Vec<String>,
    bytes: Vec<Vec<u8>>,
}

impl Merge {
    fn of(database: Database, id: StreamId, groups: &[Vec<SmallChunk>]) -> Self {
        let mut merge = Self::new(database, id);
        for group in groups {
            if let Some((chunk, times)) = SmallChunk::merged(group) {
                merge.add(group, &chunk, &times);
            }
        }
        merge
    }

    pub(super) fn new(database: Database, id: StreamId) -> Self {
        Self {
            database,
            stream: id.0 as i64,
            removed: Vec::new(),
            nexts: Vec::new(),
            firsts: Vec::new(),
            append_ends: Vec::new(),
            message_ends: Vec::new(),
            byte_ends: Vec::new(),
            times: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// Adds a chunk in the place of several, of which it has the end, and the times of its appends.
    pub(super) fn add(&mut self, replaced: &[SmallChunk], chunk: &Chunk, times: &[i64]) {
        let others = replaced.iter().filter(|small| small.chunk.next != chunk.next);
        self.removed.extend(others.map(|small| small.chunk.next.0 as i64));
        self.nexts.push(chunk.next.0 as i64);
        self.firsts.push(chunk.first.0 as i64);
        self.append_ends.push(array_text(chunk.append_ends.as_deref()));
        self.message_ends.push(array_text(chunk.message_ends.as_deref()));
        self.byte_ends.push(array_text(chunk.byte_ends.as_deref()));
        let times: Vec<String> = times.iter().map(i64::to_string).collect();
        self.times.push(format!("{{{}}}", times.join(",")));
        self.bytes.push(chunk.bytes.to_vec());
    }
}

impl DependentWrites for Merge {
    fn queries(&self) -> Vec<Query<'_>> {
        if self.nexts.is_empty() {
            return Vec::new();
        }
        let parameters: Vec<Parameter<'_>> = vec![
            (&self.stream, Type::INT8),
            (&self.removed, Type::INT8_ARRAY),
            (&self.nexts, Type::INT8_ARRAY),
            (&self.firsts, Type::INT8_ARRAY),
            (&self.append_ends, Type::TEXT_ARRAY),
            (&self.message_ends, Type::TEXT_ARRAY),
            (&self.times, Type::TEXT_ARRAY),
            (&self.bytes, Type::BYTEA_ARRAY),
            (&self.byte_ends, Type::TEXT_ARRAY),
        ];
        vec![(sql!(self.database, "streams/merge.sql"), parameters)]
    }
}
