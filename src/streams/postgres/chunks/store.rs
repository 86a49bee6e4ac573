//! Chunks in Postgres.

use std::time::Duration;

use bytes::Bytes;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::chunk::Chunk;
use crate::db::{BY_INDEX, Database, DbError, query_all_in_time, sql};
use crate::streams::{Offset, StreamId};

/// Chunks that are read at once.
const MAX_CHUNKS: i64 = 20_000;

/// Reads chunks, with a quota of the pool.
#[derive(Debug, Clone)]
pub(in crate::streams::postgres) struct ChunkStore {
    database: Database,
    timeout: Duration,
}

impl ChunkStore {
    pub(in crate::streams::postgres) fn new(database: &Database, timeout: Duration) -> Self {
        Self { database: database.clone(), timeout }
    }

    /// The chunks of a stream from the one at an offset on, up to `end` and about `max_bytes`, and the stream's generation with them.
    pub(in crate::streams::postgres) async fn read(
        &self,
        id: StreamId,
        from: Offset,
        end: Offset,
        max_bytes: usize,
    ) -> Result<(Vec<Chunk>, u64), DbError> {
        let (id, from, end) = (id.0 as i64, from.0 as i64, i64::try_from(end.0).unwrap_or(i64::MAX));
        let max_bytes = i64::try_from(max_bytes).unwrap_or(i64::MAX);
        let parameters: Vec<crate::db::Parameter<'_>> = vec![
            (&id, Type::INT8),
            (&from, Type::INT8),
            (&end, Type::INT8),
            (&max_bytes, Type::INT8),
            (&MAX_CHUNKS, Type::INT8),
        ];
        let queries = [(BY_INDEX, Vec::new()), (sql!(self.database, "streams/chunks.sql"), parameters)];
        let connection = self.database.get().await?;
        let read = query_all_in_time(&connection, self.timeout, &queries).await;
        let rows = connection.release(read)?.pop().unwrap_or_default();
        let generation = rows.first().map_or(Ok(None), |row| row.try_get::<_, Option<i32>>("generation"))?;
        let chunks = rows.iter().map(chunk).collect::<Result<_, _>>()?;
        Ok((chunks, generation.and_then(|number| u64::try_from(number).ok()).unwrap_or_default()))
    }
}

/// A chunk of a row with `first`, `next`, `append_ends`, `message_ends`, `byte_ends` and `bytes`.
pub(in crate::streams::postgres) fn chunk(row: &Row) -> Result<Chunk, DbError> {
    let offset = |column: &str| -> Result<Offset, DbError> {
        Ok(Offset(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or_default()))
    };
    let ends = |column: &str| -> Result<Option<Box<[u32]>>, DbError> {
        let ends: Option<Vec<i32>> = row.try_get(column)?;
        Ok(ends.map(|ends| ends.into_iter().map(i32::unsigned_abs).collect()))
    };
    let (first, next) = (offset("first")?, offset("next")?);
    let bytes = Bytes::copy_from_slice(row.try_get("bytes")?);
    let (append_ends, message_ends, byte_ends) =
        (ends("append_ends")?, ends("message_ends")?, ends("byte_ends")?);
    let is_whole = match (&byte_ends, &message_ends) {
        (None, _) => first.0 + bytes.len() as u64 == next.0,
        (Some(byte_ends), Some(message_ends)) => {
            byte_ends.len() == message_ends.len()
                && byte_ends.last().copied().unwrap_or(0) as usize == bytes.len()
        }
        (Some(_), None) => false,
    };
    if !is_whole {
        return Err(DbError::Unexpected("a chunk with other offsets than bytes"));
    }
    Ok(Chunk { first, next, bytes, append_ends, message_ends, byte_ends })
}
