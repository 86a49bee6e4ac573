//! Statements of compactions.

use std::collections::BTreeSet;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::Replacement;
use crate::db::{
    BY_INDEX, DbError, DependentWrites, Parameter, Transaction, begin_in_time, in_time, roll_back, sql,
};
use crate::streams::postgres::upkeep::store::{Merge, SmallChunk, UpkeepStore, id, small};
use crate::streams::{Offset, StreamId};
use crate::time::Micros;

/// Chunks that are looked at for their age at once.
const MAX_AHEAD: i64 = 10_000;
/// Bytes of a page, about, and its chunks.
const PAGE_BYTES: i64 = 1024 * 1024;
const PAGE_CHUNKS: i64 = 2_000;

/// What a compaction would go through.
#[derive(Debug)]
pub(super) struct Plan {
    /// The first offset of what may be compacted.
    pub(super) first: Offset,
    /// The end of the last compaction, and the bytes that it left.
    pub(super) compacted_to: Offset,
    pub(super) left_bytes: u64,
    /// The end of further old chunks; `None`: there are none.
    pub(super) old_to: Option<Offset>,
}

impl UpkeepStore {
    /// Living streams that are compacted.
    pub(super) async fn compacted(&self) -> Result<BTreeSet<StreamId>, DbError> {
        // Few of many: without an index for what one look at a start needs.
        let sql = sql!(self.database, "streams/compacted.sql");
        let rows = self.database.query_in_time(self.timeout, sql, &[]).await?;
        rows.iter().map(id).collect()
    }

    /// What a compaction of a stream would go through, where its chunks before `known` are old. `None`: the stream is gone.
    pub(super) async fn compaction_plan(
        &self,
        id: StreamId,
        known: Offset,
        before: Micros,
    ) -> Result<Option<Plan>, DbError> {
        let (id, known) = (id.0 as i64, known.0 as i64);
        let parameters: Vec<Parameter<'_>> =
            vec![(&id, Type::INT8), (&known, Type::INT8), (&before.0, Type::INT8), (&MAX_AHEAD, Type::INT8)];
        let rows = self.query(sql!(self.database, "streams/compaction_plan.sql"), parameters).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let old_to: Option<i64> = row.try_get("old_to")?;
        Ok(Some(Plan {
            first: Offset(number(row, "first")?),
            compacted_to: Offset(number(row, "compacted_to")?),
            left_bytes: number(row, "compacted_bytes")?,
            old_to: old_to.and_then(|offset| u64::try_from(offset).ok()).map(Offset),
        }))
    }

    /// Begins a compaction; returns the stream's generation. `None`: another node works on it.
    pub(super) async fn compaction_claim(&self, id: StreamId) -> Result<Option<u64>, DbError> {
        let id = id.0 as i64;
        let sql = sql!(self.database, "streams/compaction_claim.sql");
        let rows = self.query(sql, vec![(&id, Type::INT8)]).await?;
        rows.first().map(|row| number(row, "generation")).transpose()
    }

    /// The last chunks of a stream between two offsets, in order.
    pub(super) async fn compaction_page(
        &self,
        id: StreamId,
        first: Offset,
        end: Offset,
    ) -> Result<Vec<SmallChunk>, DbError> {
        let (id, first, end) = (id.0 as i64, first.0 as i64, end.0 as i64);
        let parameters: Vec<Parameter<'_>> = vec![
            (&id, Type::INT8),
            (&first, Type::INT8),
            (&end, Type::INT8),
            (&PAGE_BYTES, Type::INT8),
            (&PAGE_CHUNKS, Type::INT8),
        ];
        let rows = self.query(sql!(self.database, "streams/compaction_page.sql"), parameters).await?;
        rows.iter().map(small).collect()
    }

    /// Writes what is left of a page in one transaction; returns the stream's next generation. `None`: nothing was written, as the stream is not as it was read.
    pub(super) async fn compact(
        &self,
        id: StreamId,
        generation: u64,
        first: Offset,
        page: &[SmallChunk],
        replacements: &[Replacement],
    ) -> Result<Option<u64>, DbError> {
        let mut connection = self.database.get().await?;
        let done = in_time(self.timeout, async {
            let transaction = begin_in_time(&mut connection, self.timeout).await?;
            let page = Page { id, generation, first, chunks: page };
            match self.compact_in(&transaction, &page, replacements).await {
                Ok(Some(generation)) => {
                    // If its answer is lost, the generation says what became of it.
                    transaction.commit().await?;
                    Ok(Some(generation))
                }
                Ok(None) => {
                    transaction.rollback().await?;
                    Ok(None)
                }
                Err(error) => Err(roll_back(transaction, error).await),
            }
        })
        .await;
        match connection.release(done) {
            Err(error) if error.is_conflict() || error.is_locked() => Ok(None),
            done => done,
        }
    }

    async fn compact_in(
        &self,
        transaction: &Transaction<'_>,
        page: &Page<'_>,
        replacements: &[Replacement],
    ) -> Result<Option<u64>, DbError> {
        let database = &self.database;
        transaction.query_typed(BY_INDEX, &[]).await?;
        let (id, generation, first) = (page.id.0 as i64, page.generation as i64, page.first.0 as i64);
        let lock = sql!(database, "streams/compaction_lock.sql");
        let locked = transaction.query_typed(lock, &[(&id, Type::INT8), (&generation, Type::INT8)]).await?;
        if locked.is_empty() {
            return Ok(None);
        }
        let mut merge = Merge::new(database.clone(), page.id);
        let (mut nexts, mut firsts, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for Replacement { replaced, chunk, times } in replacements {
            let replaced = page.chunks.get(replaced.clone()).unwrap_or_default();
            for small in replaced {
                nexts.push(small.chunk.next.0 as i64);
                firsts.push(small.chunk.first.0 as i64);
                lengths.push(small.chunk.bytes.len() as i64);
            }
            merge.add(replaced, chunk, times);
        }
        let parameters: [Parameter<'_>; 5] = [
            (&id, Type::INT8),
            (&first, Type::INT8),
            (&nexts, Type::INT8_ARRAY),
            (&firsts, Type::INT8_ARRAY),
            (&lengths, Type::INT8_ARRAY),
        ];
        let check = sql!(database, "streams/compaction_check.sql");
        let checked = transaction.query_typed(check, &parameters).await?;
        if !checked.first().map_or(Ok(false), |row| row.try_get("is_same"))? {
            return Ok(None);
        }
        for (sql, parameters) in merge.queries() {
            transaction.query_typed(sql, &parameters).await?;
        }
        let begin = sql!(database, "streams/compaction_begin.sql");
        let begun = transaction.query_typed(begin, &[(&id, Type::INT8)]).await?;
        begun.first().map(|row| number(row, "generation")).transpose()
    }

    /// Notes the end of a compaction.
    pub(super) async fn compaction_end(
        &self,
        id: StreamId,
        generation: u64,
        end: Offset,
        left_bytes: u64,
    ) -> Result<(), DbError> {
        let (id, generation, end) = (id.0 as i64, generation as i64, end.0 as i64);
        let left_bytes = i64::try_from(left_bytes).unwrap_or(i64::MAX);
        let parameters: Vec<Parameter<'_>> =
            vec![(&id, Type::INT8), (&generation, Type::INT8), (&end, Type::INT8), (&left_bytes, Type::INT8)];
        self.query(sql!(self.database, "streams/compaction_end.sql"), parameters).await.map(drop)
    }
}

/// A page of a compaction, as it was read.
struct Page<'a> {
    id: StreamId,
    generation: u64,
    first: Offset,
    chunks: &'a [SmallChunk],
}

fn number(row: &Row, column: &str) -> Result<u64, DbError> {
    Ok(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or_default())
}
