//! Tries to store dead letters again, each exactly once.
//!
//! A dead letter and the row that it becomes change places in one transaction, and its receipt with them. Several may
//! redrive at once: each takes what the others have not locked.

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::Reason;
use super::store::{DeadLetterStore, Filter};
use crate::db::{DbError, Parameter};
use crate::ingest::copy::copy_rows;
use crate::ingest::id::{self, Tag, unix_now_us};
use crate::ingest::journal::JournalId;
use crate::ingest::receipts::{Counts, Receipts};
use crate::ingest::retry::Verdict;
use crate::ingest::row::{self, Row};
use crate::ingest::{content, json};

/// Dead letters that change places in one transaction.
const BATCH: usize = 500;

/// Which dead letters are to be stored.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// These; `None`: all that fit the filter.
    pub ids: Option<Vec<Uuid>>,
    /// Without a reason, and without ids, overloads are left out: their clients were told that they were not taken, and
    /// may have sent them again.
    pub filter: Filter,
}

/// What a redrive did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Redriven {
    /// Stored.
    pub stored: u64,
    /// Refused by Postgres again; they are dead letters still.
    pub refused: u64,
    /// There may be more: the limit was reached.
    pub more: bool,
}

/// A dead letter on its way back.
struct Taken {
    id: Uuid,
    tuple: Vec<u8>,
    overload: bool,
}

impl DeadLetterStore {
    /// Stores up to `limit` of the selected dead letters.
    ///
    /// # Errors
    ///
    /// Whatever Postgres says against more than a row. What was done before stays done.
    pub async fn redrive(
        &self,
        selection: &Selection,
        max_json_depth: usize,
        limit: usize,
    ) -> Result<Redriven, DbError> {
        let select = self.database.sql(include_str!("../../../sql/ingest/select_dead_letters.sql"));
        let mut redriven = Redriven::default();
        let mut after = Uuid::nil();
        let mut left = limit;
        while left > 0 {
            let batch = left.min(BATCH) as i64;
            let parameters: [Parameter<'_>; 6] = [
                (&after, Type::UUID),
                (&selection.ids, Type::UUID_ARRAY),
                (&selection.filter.reason, Type::TEXT),
                (&selection.filter.since_us, Type::INT8),
                (&selection.filter.until_us, Type::INT8),
                (&batch, Type::INT8),
            ];
            let rows = self.database.get().await?.query_typed(&select, &parameters).await?;
            let ids = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<Uuid>, _>>()?;
            let Some(last) = ids.last() else { return Ok(redriven) };
            after = *last;
            left -= ids.len().min(left);
            self.store_all(ids, max_json_depth, &mut redriven).await?;
        }
        redriven.more = true;
        Ok(redriven)
    }

    /// Halves what Postgres refuses until the bad rows stand alone.
    async fn store_all(
        &self,
        ids: Vec<Uuid>,
        max_json_depth: usize,
        redriven: &mut Redriven,
    ) -> Result<(), DbError> {
        let mut work = vec![ids];
        while let Some(ids) = work.pop() {
            match self.store(&ids, max_json_depth).await {
                Ok(stored) => redriven.stored += stored,
                Err(error) if Verdict::on(&error) == Verdict::Bisect => match &ids[..] {
                    [id] => {
                        let refuse =
                            self.database.sql(include_str!("../../../sql/ingest/refuse_dead_letter.sql"));
                        let error = error.with_sources().replace('\0', "\\0");
                        let parameters: [Parameter<'_>; 2] = [(id, Type::UUID), (&error, Type::TEXT)];
                        self.database.get().await?.execute_typed(&refuse, &parameters).await?;
                        redriven.refused += 1;
                    }
                    ids => {
                        let (left, right) = ids.split_at(ids.len() / 2);
                        work.extend([right.to_vec(), left.to_vec()]);
                    }
                },
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn store(&self, ids: &[Uuid], max_json_depth: usize) -> Result<u64, DbError> {
        let sql = |text| self.database.sql(text);
        let mut connection = self.database.get().await?;
        let transaction = connection.transaction().await?;
        let ids = ids.to_vec();
        let lock = sql(include_str!("../../../sql/ingest/lock_journals.sql"));
        transaction.query_typed(&lock, &[(&ids, Type::UUID_ARRAY)]).await?;
        let take = sql(include_str!("../../../sql/ingest/take_dead_letters.sql"));
        let mut taken = Vec::with_capacity(ids.len());
        for row in transaction.query_typed(&take, &[(&ids, Type::UUID_ARRAY)]).await? {
            taken.push(read(&row, max_json_depth)?);
        }
        if taken.is_empty() {
            return Ok(0);
        }
        self.accept_overloads(&transaction, &mut taken).await?;
        let copy =
            sql(include_str!("../../../sql/ingest/copy_requests.sql")).replace("{columns}", row::COLUMNS);
        copy_rows(&transaction, &copy, taken.iter().map(|taken| &taken.tuple[..])).await?;
        let all: Vec<Uuid> = taken.iter().map(|taken| taken.id).collect();
        let remove = sql(include_str!("../../../sql/ingest/remove_dead_letters.sql"));
        transaction.execute_typed(&remove, &[(&all, Type::UUID_ARRAY)]).await?;
        let accepted: Vec<Uuid> =
            taken.iter().filter(|taken| !taken.overload).map(|taken| taken.id).collect();
        let moved = sql(include_str!("../../../sql/ingest/move_dead.sql")).replace("{state}", "committed");
        transaction.execute_typed(&moved, &[(&accepted, Type::UUID_ARRAY)]).await?;
        transaction.commit().await?;
        Ok(taken.len() as u64)
    }

    /// Overloads get new ids, and a receipt.
    async fn accept_overloads(
        &self,
        transaction: &tokio_postgres::Transaction<'_>,
        taken: &mut [Taken],
    ) -> Result<(), DbError> {
        let overloads = taken.iter().filter(|taken| taken.overload).count() as u64;
        if overloads == 0 {
            return Ok(());
        }
        let sql = |text| self.database.sql(text);
        let fresh = Uuid::new_v4();
        let tag = Tag::of_journal(fresh).bytes().to_vec();
        let make = sql(include_str!("../../../sql/ingest/make_redrive_journal.sql"));
        transaction.execute_typed(&make, &[(&fresh, Type::UUID), (&tag, Type::BYTEA)]).await?;
        let journal = sql(include_str!("../../../sql/ingest/redrive_journal.sql"));
        let rows = transaction.query_typed(&journal, &[]).await?;
        let journal: Uuid = rows.first().map(|row| row.try_get(0)).transpose()?.unwrap_or(fresh);
        let next = sql(include_str!("../../../sql/ingest/next_sequence.sql"));
        let rows = transaction.query_typed(&next, &[(&journal, Type::UUID)]).await?;
        let first: i64 = rows.first().map(|row| row.try_get(0)).transpose()?.unwrap_or(0);
        let tag = Tag::of_journal(journal);
        let accepted = id::lower_bound((unix_now_us() / 1000) as u64);
        let overloaded = taken.iter_mut().filter(|taken| taken.overload);
        for (sequence, taken) in (first as u64..).zip(overloaded) {
            row::set_id(&mut taken.tuple, accepted);
            row::stamp(&mut taken.tuple, tag, sequence, false);
        }
        let range = first as u64..first as u64 + overloads;
        let counts = Counts { committed: overloads, ..Counts::default() };
        Receipts::new(&self.database).add(transaction, JournalId(journal), &range, counts).await?;
        Ok(())
    }
}

fn read(row: &tokio_postgres::Row, max_json_depth: usize) -> Result<Taken, DbError> {
    let id: Uuid = row.try_get("id")?;
    let (trace_id, content_type): (&str, Option<&str>) =
        (row.try_get("trace_id")?, row.try_get("content_type")?);
    let (payload, body): (Option<&[u8]>, Option<&[u8]>) = (row.try_get("payload")?, row.try_get("body")?);
    // What Postgres refused was kept byte for byte, so it is looked at again.
    let body = payload.or(body).unwrap_or_default();
    let event = Row {
        id,
        trace_id: trace_id.as_bytes(),
        content: content(json::classify(body, max_json_depth), body),
        content_type,
        received_at_us: row.try_get("received_at_us")?,
    };
    let mut tuple = Vec::with_capacity(event.encoded_len());
    event.encode(&mut tuple);
    let overload = row.try_get::<_, &str>("reason")? == Reason::Overload.name();
    Ok(Taken { id, tuple, overload })
}
