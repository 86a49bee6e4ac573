//! What Postgres knows of a journal: its row, its lanes and its receipts.

use std::ops::Range;
use std::time::Duration;

use rangemap::RangeSet;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Row, Transaction};
use uuid::Uuid;

use crate::db::{Connection, Database, DbError, Parameter, begin_in_time, presets, query_in_time};
use crate::ingest::event::id::Tag;
use crate::ingest::journal::JournalId;

/// How long a transaction of one's own lane is waited for before its backend is ended.
const HOLDER_PATIENCE: &str = include_str!("../../../sql/ingest/holder_patience.sql");

/// For each statement but those of a batch, which has a deadline of its own.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The statements.
#[derive(Debug)]
pub struct Receipts {
    register: String,
    known: String,
    raise_all: String,
    raise_one: String,
    end_holders: String,
    hold_lane: String,
    prepare_batch: String,
    add: String,
    over: String,
    fence: String,
    fences: String,
    compact: String,
    all: String,
    timeline: String,
}

/// What one receipt says of a range.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows of `requests`.
    pub committed: u64,
    /// Left out, as their keys were there.
    pub duplicates: u64,
    /// Dead letters.
    pub dead: u64,
    /// Dead letters that an operator deleted.
    pub discarded: u64,
    /// Unreadable on disk.
    pub quarantined: u64,
}

impl Counts {
    /// All together.
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

/// What Postgres has of one journal.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    /// The sequences with a receipt.
    pub settled: RangeSet<u64>,
    /// Sums over them.
    pub counts: Counts,
    /// The journal's fence.
    pub fence: i64,
}

impl Receipts {
    /// For the tables of `database`.
    pub fn new(database: &Database) -> Self {
        let sql = |text| database.sql(text);
        Self {
            register: sql(include_str!("../../../sql/ingest/register_journal.sql")),
            known: sql(include_str!("../../../sql/ingest/journal_known.sql")),
            raise_all: sql(include_str!("../../../sql/ingest/raise_all_epochs.sql")),
            raise_one: sql(include_str!("../../../sql/ingest/raise_epoch.sql")),
            end_holders: sql(include_str!("../../../sql/ingest/end_lane_holders.sql")),
            hold_lane: sql(include_str!("../../../sql/ingest/hold_lane.sql")),
            prepare_batch: sql(include_str!("../../../sql/ingest/prepare_batch.sql")),
            add: sql(include_str!("../../../sql/ingest/add_receipt.sql")),
            over: sql(include_str!("../../../sql/ingest/receipts_over.sql")),
            fence: sql(include_str!("../../../sql/ingest/fence.sql")),
            fences: sql(include_str!("../../../sql/ingest/fences.sql")),
            compact: sql(include_str!("../../../sql/ingest/compact_receipts.sql")),
            all: sql(include_str!("../../../sql/ingest/receipts.sql")),
            timeline: sql(include_str!("../../../sql/ingest/timeline.sql")),
        }
    }

    /// Whether the database knows the journal.
    pub async fn is_known(&self, connection: &Connection, journal: JournalId) -> Result<bool, DbError> {
        let known = query_in_time(connection, TIMEOUT, &self.known, &[(&journal.0, Type::UUID)]).await?;
        Ok(known.first().map(|row| row.try_get(0)).transpose()?.unwrap_or(false))
    }

    /// Makes the journal known, and shuts out every transaction of a former process that wrote for it.
    pub async fn register(&self, connection: &mut Connection, journal: JournalId) -> Result<(), DbError> {
        let tag = Tag::of_journal(journal.0).bytes().to_vec();
        let parameters: [Parameter<'_>; 2] = [(&journal.0, Type::UUID), (&tag, Type::BYTEA)];
        query_in_time(connection, TIMEOUT, &self.register, &parameters).await?;
        let _epochs = self
            .raise(connection, &self.raise_all, &[(&journal.0, Type::UUID)], &lanes_name(journal))
            .await?;
        Ok(())
    }

    /// Shuts out every earlier transaction of a lane; returns the epoch to be used from now on.
    pub async fn raise_epoch(
        &self,
        connection: &mut Connection,
        journal: JournalId,
        lane: i32,
    ) -> Result<i64, DbError> {
        let parameters: [Parameter<'_>; 2] = [(&journal.0, Type::UUID), (&lane, Type::INT4)];
        let rows = self.raise(connection, &self.raise_one, &parameters, &lane_name(journal, lane)).await?;
        // An epoch that was made up would let an earlier transaction of the lane in.
        Ok(rows.first().ok_or(DbError::Unexpected("no epoch for a lane"))?.try_get(0)?)
    }

    /// Runs a statement that raises epochs. A transaction that still holds a lane is waited for; one that does not end
    /// is ended.
    async fn raise(
        &self,
        connection: &mut Connection,
        statement: &str,
        parameters: &[Parameter<'_>],
        holders: &str,
    ) -> Result<Vec<Row>, DbError> {
        loop {
            let transaction = begin_in_time(connection, TIMEOUT).await?;
            transaction.batch_execute(HOLDER_PATIENCE).await?;
            match transaction.query_typed(statement, parameters).await {
                Ok(rows) => {
                    transaction.commit().await?;
                    return Ok(rows);
                }
                Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                    transaction.rollback().await?;
                    tracing::warn!(holders, "a transaction of ours does not end; its backend is ended");
                    query_in_time(connection, TIMEOUT, &self.end_holders, &[(&holders, Type::TEXT)]).await?;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What is settled of `range`.
    pub async fn over(
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
        for row in query_in_time(connection, TIMEOUT, &self.over, &parameters).await? {
            let (first, last): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            let (start, end) = (range.start.max(first as u64), range.end.min(last as u64 + 1));
            if start < end {
                settled.insert(start..end);
            }
        }
        Ok(settled)
    }

    /// Begins a batch of a lane: the journal's fence, or `None` if the lane's epoch is another one.
    pub async fn hold_lane(
        &self,
        transaction: &Transaction<'_>,
        journal: JournalId,
        lane: i32,
        epoch: i64,
    ) -> Result<Option<i64>, DbError> {
        let name = lane_name(journal, lane);
        let (name, epoch) = (&name, &epoch);
        // All are sent at once. Our own deadline bounds a batch's transaction.
        let presets = presets(Duration::ZERO);
        let ((), prepared, held) = tokio::try_join!(
            biased;
            transaction.batch_execute(&presets),
            async { transaction.query_typed(&self.prepare_batch, &[(name, Type::TEXT)]).await },
            async {
                let parameters: [Parameter<'_>; 3] =
                    [(&journal.0, Type::UUID), (&lane, Type::INT4), (epoch, Type::INT8)];
                transaction.query_typed(&self.hold_lane, &parameters).await
            }
        )?;
        drop(prepared);
        Ok(held.first().map(|row| row.try_get(0)).transpose()?)
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
        let stored = transaction.execute_typed(&self.add, &parameters).await?;
        DbError::all_stored("ingest_receipts", 1, stored)
    }

    /// The server's timeline; `None` where it does not tell.
    pub async fn timeline(&self, connection: &Connection) -> Option<i64> {
        let rows = query_in_time(connection, TIMEOUT, &self.timeline, &[]).await.ok()?;
        rows.first()?.try_get(0).ok()
    }

    /// The fences of those of `journals` that the database knows. Changes nothing.
    pub async fn fences(
        &self,
        connection: &Connection,
        journals: &[JournalId],
    ) -> Result<Vec<(JournalId, i64)>, DbError> {
        let ids: Vec<Uuid> = journals.iter().map(|journal| journal.0).collect();
        let rows = query_in_time(connection, TIMEOUT, &self.fences, &[(&ids, Type::UUID_ARRAY)]).await?;
        rows.iter().map(|row| Ok((JournalId(row.try_get(0)?), row.try_get(1)?))).collect()
    }

    /// Reads all receipts of `journals` and makes durable what it read. Receipts that follow each other become one.
    ///
    /// A journal that is missing from the answer is not known to the database.
    pub async fn fence(
        &self,
        connection: &mut Connection,
        journals: &[JournalId],
    ) -> Result<Vec<(JournalId, Coverage)>, DbError> {
        let ids: Vec<Uuid> = journals.iter().map(|journal| journal.0).collect();
        // It makes durable what it has read, and waits for the disk for that, as every transaction but a batch's does.
        let transaction = begin_in_time(connection, TIMEOUT).await?;
        let mut coverage: Vec<(JournalId, Coverage)> = Vec::new();
        for row in transaction.query_typed(&self.fence, &[(&ids, Type::UUID_ARRAY)]).await? {
            let fenced = Coverage { fence: row.try_get(1)?, ..Coverage::default() };
            coverage.push((JournalId(row.try_get(0)?), fenced));
        }
        transaction.execute_typed(&self.compact, &[(&ids, Type::UUID_ARRAY)]).await?;
        for row in transaction.query_typed(&self.all, &[(&ids, Type::UUID_ARRAY)]).await? {
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

/// The name by which a lane's transaction is found again; Postgres keeps 63 bytes of it.
fn lane_name(journal: JournalId, lane: i32) -> String {
    format!("{}{lane}.", lanes_name(journal))
}

/// What the names of all lanes of a journal begin with.
fn lanes_name(journal: JournalId) -> String {
    format!("tidegate {} lane ", journal.0)
}
