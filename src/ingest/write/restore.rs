//! Stores lost events that became readable again, exactly once each.
//!
//! Their sequences are settled as quarantined. The row and the receipt change in one transaction, which locks the journal's
//! row as a checkpoint does. An event that is in a table already is skipped.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::time::Duration;

use tokio_postgres::Transaction;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::claims::Claims;
use super::copy::{CopyBatch, Kind, Origin, copy_rows};
use super::copy_writer::set_again;
use super::verdict::{Fault, Faults, Verdict};
use crate::bisect;
use crate::db::{Database, DbError, begin_in_time, roll_back, sql};
use crate::ingest::event::dead_letter;
use crate::ingest::event::row::{self, Tuple};
use crate::ingest::journal::{JournalId, JournalRows};

/// For each statement.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The outcomes of recovered events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restored {
    /// Stored in `requests` now.
    pub stored: u64,
    /// Skipped: their keys were claimed in the meantime.
    pub duplicates: u64,
    /// Rejected by Postgres: dead letters.
    pub dead: u64,
    /// In a table already.
    pub present: u64,
    /// Without a receipt that counts them as quarantined: the service has not settled them yet.
    pub unsettled: u64,
}

impl Restored {
    /// Events that are not lost any more.
    pub fn found(&self) -> u64 {
        self.stored + self.duplicates + self.dead + self.present
    }

    /// Adds the outcomes of other events.
    pub fn add(&mut self, other: Self) {
        self.stored += other.stored;
        self.duplicates += other.duplicates;
        self.dead += other.dead;
        self.present += other.present;
        self.unsettled += other.unsettled;
    }
}

/// Stores recovered events.
#[derive(Debug)]
pub struct Restorer {
    database: Database,
    claims: Claims,
}

impl Restorer {
    /// A restorer to `database`. Keys are valid for `idempotency_window_s` seconds.
    pub fn new(database: &Database, idempotency_window_s: u64) -> Self {
        Self { database: database.clone(), claims: Claims::new(database, idempotency_window_s) }
    }

    /// Stores rows of a journal.
    ///
    /// # Errors
    ///
    /// Any error of Postgres that concerns more than a row. Events stored before it stay stored.
    pub async fn restore(&self, journal: Uuid, rows: &JournalRows) -> Result<Restored, DbError> {
        let keys = rows.keys.iter().map(|(sequence, key)| (sequence - rows.from, *key)).collect();
        let origin = Some(Origin { journal: JournalId(journal), first: rows.from });
        let events = rows.until - rows.from;
        let batch = CopyBatch::new(Kind::Events, events, origin, keys, rows.rows().collect());
        let tuples = batch.tuples();
        let no_faults = Faults::default();
        let mut restored = Restored::default();
        let mut pending: Vec<Range<u64>> = std::iter::once(0..events).collect();
        while let Some(range) = pending.pop() {
            let part = batch.part(&tuples, &range, &no_faults);
            match self.store(journal, &part, None).await {
                Ok(done) => restored.add(done),
                Err(error) if Verdict::on(&error) == Verdict::Bisect => {
                    if let Some([left, right]) = bisect::halves(&range) {
                        pending.extend([right, left]);
                    } else {
                        let fault = Fault::of(&error, 1);
                        restored.add(self.store(journal, &part, Some(&fault)).await?);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(restored)
    }

    /// Stores a batch in one transaction, which is rolled back if events are unsettled. `fault` is that of its only row.
    async fn store(
        &self,
        journal: Uuid,
        batch: &CopyBatch<'_>,
        fault: Option<&Fault>,
    ) -> Result<Restored, DbError> {
        let mut connection = self.database.get().await?;
        let transaction = begin_in_time(&mut connection, TIMEOUT).await?;
        match self.store_within(&transaction, journal, batch, fault).await {
            Ok(done) if done.unsettled > 0 => {
                transaction.rollback().await?;
                Ok(done)
            }
            Ok(done) => {
                transaction.commit().await?;
                Ok(done)
            }
            Err(error) => Err(roll_back(transaction, error).await),
        }
    }

    async fn store_within(
        &self,
        transaction: &Transaction<'_>,
        journal: Uuid,
        batch: &CopyBatch<'_>,
        fault: Option<&Fault>,
    ) -> Result<Restored, DbError> {
        let lock = sql!(self.database, "ingest/lock_journal.sql");
        transaction.execute_typed(lock, &[(&journal, Type::UUID)]).await?;

        let tuples = batch.tuples();
        let ids: Vec<Uuid> = tuples.iter().filter_map(|tuple| row::tuple_id(*tuple)).collect();
        let select_present = sql!(self.database, "ingest/select_present.sql");
        let mut present = HashSet::new();
        for row in transaction.query_typed(select_present, &[(&ids, Type::UUID_ARRAY)]).await? {
            present.insert(row.try_get::<_, Uuid>(0)?);
        }
        let is_present = |tuple: &Tuple<'_>| row::tuple_id(*tuple).is_none_or(|id| present.contains(&id));
        // Skipped events change the indices, so keys are assigned anew.
        let keys_by_index: HashMap<u64, _> = batch.keys.iter().copied().collect();
        let mut lost: Vec<Tuple<'_>> = Vec::with_capacity(tuples.len());
        let mut keys = Vec::new();
        for (index, tuple) in tuples.iter().enumerate().filter(|(_, tuple)| !is_present(tuple)) {
            let key = keys_by_index.get(&(index as u64));
            keys.extend(key.map(|key| (lost.len() as u64, *key)));
            lost.push(*tuple);
        }
        let mut done = Restored { present: present.len() as u64, ..Restored::default() };
        if lost.is_empty() {
            return Ok(done);
        }
        let rows = lost.iter().map(|tuple| tuple.bytes()).collect();
        let remaining = CopyBatch::new(Kind::Events, lost.len() as u64, None, keys, rows);
        let claimed = self.claims.claim(transaction, &remaining).await?;
        let (duplicates, new): (Vec<_>, Vec<_>) =
            lost.iter().enumerate().partition(|(index, _)| claimed.is_duplicate(*index as u64));
        if let (Some(fault), [(_, tuple)]) = (fault, &new[..]) {
            let letter = fault.dead_letter(**tuple);
            let copy = sql!(self.database, "ingest/copy_dead_letters.sql", columns = dead_letter::COLUMNS);
            let stored = copy_rows(transaction, copy, std::iter::once(&letter[..])).await?;
            DbError::all_stored("dead_letters", 1, stored)?;
        } else if !new.is_empty() {
            let copy = sql!(self.database, "ingest/copy_requests.sql", columns = row::COLUMNS);
            let tuples = new.iter().map(|(_, tuple)| tuple.bytes());
            let stored = copy_rows(transaction, copy, tuples).await?;
            DbError::all_stored("requests", new.len() as u64, stored)?;
            set_again(transaction, TIMEOUT).await?;
        }
        let state = if fault.is_some() { "dead" } else { "committed" };
        for (state, events) in [(state, &new), ("duplicates", &duplicates)] {
            let ids: Vec<Uuid> = events.iter().filter_map(|(_, tuple)| row::tuple_id(**tuple)).collect();
            if ids.is_empty() {
                continue;
            }
            let moved = sql!(self.database, "ingest/move_quarantined.sql").replace("{state}", state);
            let mut settled = 0;
            for row in transaction.query_typed(&moved, &[(&ids, Type::UUID_ARRAY)]).await? {
                settled += row.try_get::<_, i64>(0)? as u64;
            }
            if settled != ids.len() as u64 {
                return Ok(Restored { unsettled: lost.len() as u64, ..done });
            }
        }
        let stored = new.len() as u64;
        done.duplicates = duplicates.len() as u64;
        (done.stored, done.dead) = if fault.is_some() { (0, stored) } else { (stored, 0) };
        Ok(done)
    }
}
