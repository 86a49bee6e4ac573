//! A journal's rows in Postgres: the journal itself, its lanes and its receipts.
//!
//! A receipt states that a range of sequences is settled. It is written by the transaction that stores their rows, so it
//! exists if and only if they do. That is what makes the path exactly-once.

use std::ops::Range;
use std::time::Duration;

use rangemap::RangeSet;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Row, Transaction};
use uuid::Uuid;

use crate::db::{Connection, Database, DbError, Parameter, begin_in_time, presets, query_in_time, sql};
use crate::ingest::event::id::Tag;
use crate::ingest::journal::JournalId;

/// Bounds the wait for another transaction of a lane, before that transaction's backend is terminated.
const HOLDER_TIMEOUT: &str = sql!("ingest/holder_timeout.sql");

/// For each statement, except those of a batch, which has its own deadline.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Journals, lanes and receipts in Postgres.
#[derive(Debug)]
pub struct Receipts {
    database: Database,
}

/// The outcomes of settled events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows of `requests`.
    pub committed: u64,
    /// Skipped: an event with the same key was stored.
    pub duplicates: u64,
    /// Dead letters.
    pub dead: u64,
    /// Dead letters that an operator deleted.
    pub discarded: u64,
    /// Unreadable on disk.
    pub quarantined: u64,
}

impl Counts {
    /// The number of settled events.
    pub fn total(self) -> u64 {
        self.committed + self.duplicates + self.dead + self.discarded + self.quarantined
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.committed += other.committed;
        self.duplicates += other.duplicates;
        self.dead += other.dead;
        self.discarded += other.discarded;
        self.quarantined += other.quarantined;
    }
}

/// The receipts of one journal.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    /// The settled sequences.
    pub settled: RangeSet<u64>,
    /// The sums of their outcomes.
    pub counts: Counts,
    /// The number of the last checkpoint.
    pub checkpoint: i64,
}

impl Receipts {
    /// Those in the tables of `database`.
    pub fn new(database: &Database) -> Self {
        Self { database: database.clone() }
    }

    /// Whether the database knows the journal.
    pub async fn is_known(&self, connection: &Connection, journal: JournalId) -> Result<bool, DbError> {
        let known = sql!(self.database, "ingest/journal_known.sql");
        let known = query_in_time(connection, TIMEOUT, known, &[(&journal.0, Type::UUID)]).await?;
        Ok(known.first().map(|row| row.try_get(0)).transpose()?.unwrap_or(false))
    }

    /// Registers the journal, and fences off every transaction of a former process that wrote for it.
    pub async fn register(&self, connection: &mut Connection, journal: JournalId) -> Result<(), DbError> {
        let tag = Tag::of_journal(journal.0).bytes().to_vec();
        let parameters: [Parameter<'_>; 2] = [(&journal.0, Type::UUID), (&tag, Type::BYTEA)];
        let register = sql!(self.database, "ingest/register_journal.sql");
        query_in_time(connection, TIMEOUT, register, &parameters).await?;
        let raise = sql!(self.database, "ingest/raise_all_epochs.sql");
        let _epochs =
            self.raise(connection, raise, &[(&journal.0, Type::UUID)], &lanes_name(journal)).await?;
        Ok(())
    }

    /// Fences off every earlier transaction of a lane; returns the lane's new epoch.
    pub async fn raise_epoch(
        &self,
        connection: &mut Connection,
        journal: JournalId,
        lane: i32,
    ) -> Result<i64, DbError> {
        let parameters: [Parameter<'_>; 2] = [(&journal.0, Type::UUID), (&lane, Type::INT4)];
        let raise = sql!(self.database, "ingest/raise_epoch.sql");
        let rows = self.raise(connection, raise, &parameters, &lane_name(journal, lane)).await?;
        // A default would let an earlier transaction of the lane commit.
        Ok(rows.first().ok_or(DbError::Unexpected("no epoch for a lane"))?.try_get(0)?)
    }

    /// Runs a statement that raises epochs. Waits for a transaction that still holds a lane, and terminates the backend of
    /// one that does not end.
    async fn raise(
        &self,
        connection: &mut Connection,
        statement: &str,
        parameters: &[Parameter<'_>],
        holders: &str,
    ) -> Result<Vec<Row>, DbError> {
        loop {
            let transaction = begin_in_time(connection, TIMEOUT).await?;
            transaction.batch_execute(HOLDER_TIMEOUT).await?;
            match transaction.query_typed(statement, parameters).await {
                Ok(rows) => {
                    transaction.commit().await?;
                    return Ok(rows);
                }
                Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                    transaction.rollback().await?;
                    tracing::warn!(
                        holders,
                        "a transaction of this service does not end; its backend is terminated"
                    );
                    let end = sql!(self.database, "ingest/end_lane_holders.sql");
                    query_in_time(connection, TIMEOUT, end, &[(&holders, Type::TEXT)]).await?;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The settled sequences of `range`.
    pub async fn settled_in(
        &self,
        connection: &Connection,
        journal: JournalId,
        range: &Range<u64>,
    ) -> Result<RangeSet<u64>, DbError> {
        let parameters: [Parameter<'_>; 3] = [
            (&journal.0, Type::UUID),
            (&(range.start as i64), Type::INT8),
            (&(range.end as i64 - 1), Type::INT8),
        ];
        let mut settled = RangeSet::new();
        let select = sql!(self.database, "ingest/settled_in.sql");
        for row in query_in_time(connection, TIMEOUT, select, &parameters).await? {
            let (first, last): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            let (start, end) = (range.start.max(first as u64), range.end.min(last as u64 + 1));
            if start < end {
                settled.insert(start..end);
            }
        }
        Ok(settled)
    }

    /// Begins a batch of a lane; returns the journal's checkpoint number, or `None` if the lane has another epoch. A statement may take up to
    /// `timeout`; zero is no limit.
    pub async fn hold_lane(
        &self,
        transaction: &Transaction<'_>,
        journal: JournalId,
        lane: i32,
        epoch: i64,
        timeout: Duration,
    ) -> Result<Option<i64>, DbError> {
        let name = lane_name(journal, lane);
        let (name, epoch) = (&name, &epoch);
        // All three are sent at once.
        let prepare = sql!(self.database, "ingest/prepare_batch.sql");
        let hold = sql!(self.database, "ingest/hold_lane.sql");
        let presets = presets(timeout);
        let ((), prepared, held) = tokio::try_join!(
            biased;
            transaction.batch_execute(&presets),
            async { transaction.query_typed(prepare, &[(name, Type::TEXT)]).await },
            async {
                let parameters: [Parameter<'_>; 3] =
                    [(&journal.0, Type::UUID), (&lane, Type::INT4), (epoch, Type::INT8)];
                transaction.query_typed(hold, &parameters).await
            }
        )?;
        drop(prepared);
        Ok(held.first().map(|row| row.try_get(0)).transpose()?)
    }

    /// Sets the parameters of a batch's transaction, which [`Self::hold_lane`] has set before.
    pub async fn prepare(
        &self,
        transaction: &Transaction<'_>,
        journal: JournalId,
        lane: i32,
    ) -> Result<(), DbError> {
        let prepare = sql!(self.database, "ingest/prepare_batch.sql");
        transaction.query_typed(prepare, &[(&lane_name(journal, lane), Type::TEXT)]).await?;
        Ok(())
    }

    /// Adds the receipt of `range`.
    pub async fn add(
        &self,
        transaction: &Transaction<'_>,
        journal: JournalId,
        range: &Range<u64>,
        counts: Counts,
    ) -> Result<(), DbError> {
        let [first, last] = [range.start as i64, range.end as i64 - 1];
        let [committed, duplicates, dead, quarantined] =
            [counts.committed, counts.duplicates, counts.dead, counts.quarantined].map(|count| count as i64);
        let parameters: [Parameter<'_>; 7] = [
            (&journal.0, Type::UUID),
            (&first, Type::INT8),
            (&last, Type::INT8),
            (&committed, Type::INT8),
            (&duplicates, Type::INT8),
            (&dead, Type::INT8),
            (&quarantined, Type::INT8),
        ];
        let add = sql!(self.database, "ingest/add_receipt.sql");
        let stored = transaction.execute_typed(add, &parameters).await?;
        DbError::all_stored("ingest_receipts", 1, stored)
    }

    /// The server's timeline; `None` if it cannot be read.
    pub async fn timeline(&self, connection: &Connection) -> Option<i64> {
        let timeline = sql!(self.database, "ingest/timeline.sql");
        let rows = query_in_time(connection, TIMEOUT, timeline, &[]).await.ok()?;
        rows.first()?.try_get(0).ok()
    }

    /// The checkpoint numbers of those `journals` that the database knows.
    pub async fn checkpoint_numbers(
        &self,
        connection: &Connection,
        journals: &[JournalId],
    ) -> Result<Vec<(JournalId, i64)>, DbError> {
        let ids: Vec<Uuid> = journals.iter().map(|journal| journal.0).collect();
        let select = sql!(self.database, "ingest/checkpoint_numbers.sql");
        let rows = query_in_time(connection, TIMEOUT, select, &[(&ids, Type::UUID_ARRAY)]).await?;
        rows.iter().map(|row| Ok((JournalId(row.try_get(0)?), row.try_get(1)?))).collect()
    }

    /// Reads all receipts of `journals` and makes them durable. Adjacent receipts are merged.
    ///
    /// A journal missing from the result is not known to the database.
    pub async fn checkpoint(
        &self,
        connection: &mut Connection,
        journals: &[JournalId],
    ) -> Result<Vec<(JournalId, Coverage)>, DbError> {
        let ids: Vec<Uuid> = journals.iter().map(|journal| journal.0).collect();
        // Its commit waits for the disk, and with it for the commits that it has read.
        let transaction = begin_in_time(connection, TIMEOUT).await?;
        let mut coverage: Vec<(JournalId, Coverage)> = Vec::new();
        let checkpoint = sql!(self.database, "ingest/checkpoint.sql");
        for row in transaction.query_typed(checkpoint, &[(&ids, Type::UUID_ARRAY)]).await? {
            let covered = Coverage { checkpoint: row.try_get(1)?, ..Coverage::default() };
            coverage.push((JournalId(row.try_get(0)?), covered));
        }
        let compact = sql!(self.database, "ingest/compact_receipts.sql");
        transaction.execute_typed(compact, &[(&ids, Type::UUID_ARRAY)]).await?;
        let receipts = sql!(self.database, "ingest/receipts.sql");
        for row in transaction.query_typed(receipts, &[(&ids, Type::UUID_ARRAY)]).await? {
            let journal = JournalId(row.try_get(0)?);
            let Some((_, coverage)) = coverage.iter_mut().find(|(known, _)| *known == journal) else {
                continue;
            };
            let count = |index| row.try_get::<_, i64>(index).map(|count| count as u64);
            coverage.settled.insert(count(1)?..count(2)? + 1);
            coverage.counts += Counts {
                committed: count(3)?,
                duplicates: count(4)?,
                dead: count(5)?,
                discarded: count(6)?,
                quarantined: count(7)?,
            };
        }
        transaction.commit().await?;
        Ok(coverage)
    }
}

/// The application name of a lane's transaction; Postgres keeps 63 bytes of it.
fn lane_name(journal: JournalId, lane: i32) -> String {
    format!("{}{lane}.", lanes_name(journal))
}

/// The common prefix of the names of a journal's lanes.
fn lanes_name(journal: JournalId) -> String {
    format!("tidegate {} lane ", journal.0)
}
