//! Stores events that were lost and can be read again, each exactly once.
//!
//! Their sequences are settled as quarantined. The row and the receipt change in one transaction, under the lock of the
//! journal's row that a fence takes too; an event that is in a table already is left alone.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::time::Duration;

use tokio_postgres::Transaction;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::claims::Claims;
use super::copy::{CopyBatch, Kind, Origin, copy_rows};
use super::verdict::{Fault, Faults, Verdict};
use crate::db::{Database, DbError, begin_in_time, roll_back};
use crate::ingest::event::dead_letter;
use crate::ingest::event::row::{self, Tuple};
use crate::ingest::journal::{Chunk, JournalId};

/// For one statement.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What became of recovered events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restored {
    /// Stored in `requests` now.
    pub stored: u64,
    /// Left out: their keys were taken since.
    pub duplicates: u64,
    /// Postgres refused them: dead letters.
    pub dead: u64,
    /// In a table already.
    pub there: u64,
    /// Without a receipt that counts them as lost: the service has not settled them yet.
    pub unsettled: u64,
}

impl Restored {
    /// Events that are not lost any more.
    pub fn found(&self) -> u64 {
        self.stored + self.duplicates + self.dead + self.there
    }

    /// Adds what became of others.
    pub fn add(&mut self, other: Self) {
        self.stored += other.stored;
        self.duplicates += other.duplicates;
        self.dead += other.dead;
        self.there += other.there;
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
    /// Into `database`; keys hold for `idempotency_window_s` seconds.
    pub fn new(database: &Database, idempotency_window_s: u64) -> Self {
        Self { database: database.clone(), claims: Claims::new(database, idempotency_window_s) }
    }

    /// Stores the events of a chunk of a journal.
    ///
    /// # Errors
    ///
    /// Any error of Postgres that concerns more than a row. What was done before stays done.
    pub async fn restore(&self, journal: Uuid, chunk: &Chunk) -> Result<Restored, DbError> {
        let keys = chunk.keys.iter().map(|(sequence, key)| (sequence - chunk.from, *key)).collect();
        let origin = Some(Origin { journal: JournalId(journal), first: chunk.from });
        let events = chunk.until - chunk.from;
        let batch = CopyBatch::new(Kind::Events, events, origin, keys, chunk.rows().collect());
        let tuples = batch.tuples();
        let no_faults = Faults::default();
        let mut restored = Restored::default();
        let mut work: Vec<Range<u64>> = std::iter::once(0..events).collect();
        while let Some(places) = work.pop() {
            let part = batch.part(&tuples, &places, &no_faults);
            match self.store(journal, &part, None).await {
                Ok(done) => restored.add(done),
                Err(error) if Verdict::on(&error) == Verdict::Bisect => {
                    if places.end - places.start <= 1 {
                        let fault = Fault::of(&error, 1);
                        restored.add(self.store(journal, &part, Some(&fault)).await?);
                    } else {
                        let Range { start, end } = places;
                        let middle = start + (end - start) / 2;
                        work.extend([middle..end, start..middle]);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(restored)
    }

    /// One transaction; with `refused`, the fault of the only row. It is rolled back if events are unsettled.
    async fn store(
        &self,
        journal: Uuid,
        batch: &CopyBatch<'_>,
        refused: Option<&Fault>,
    ) -> Result<Restored, DbError> {
        let mut connection = self.database.get().await?;
        let transaction = begin_in_time(&mut connection, TIMEOUT).await?;
        match self.store_within(&transaction, journal, batch, refused).await {
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
        refused: Option<&Fault>,
    ) -> Result<Restored, DbError> {
        let sql = |text: &str| self.database.sql(text);
        let lock = sql(include_str!("../../../sql/ingest/lock_journal.sql"));
        transaction.execute_typed(&lock, &[(&journal, Type::UUID)]).await?;

        let tuples = batch.tuples();
        let ids: Vec<Uuid> = tuples.iter().filter_map(|tuple| id_of(*tuple)).collect();
        let elsewhere = sql(include_str!("../../../sql/ingest/settled_elsewhere.sql"));
        let mut there = HashSet::new();
        for row in transaction.query_typed(&elsewhere, &[(&ids, Type::UUID_ARRAY)]).await? {
            there.insert(row.try_get::<_, Uuid>(0)?);
        }
        let is_there = |tuple: &Tuple<'_>| id_of(*tuple).is_none_or(|id| there.contains(&id));
        // Places change where events are left out, so keys go along with their tuples.
        let keys_by_place: HashMap<u64, _> = batch.keys.iter().copied().collect();
        let mut lost: Vec<Tuple<'_>> = Vec::with_capacity(tuples.len());
        let mut keys = Vec::new();
        for (place, tuple) in tuples.iter().enumerate().filter(|(_, tuple)| !is_there(tuple)) {
            let key = keys_by_place.get(&(place as u64));
            keys.extend(key.map(|key| (lost.len() as u64, *key)));
            lost.push(*tuple);
        }
        let mut done = Restored { there: there.len() as u64, ..Restored::default() };
        if lost.is_empty() {
            return Ok(done);
        }
        let rows = lost.iter().map(|tuple| tuple.bytes()).collect();
        let left = CopyBatch::new(Kind::Events, lost.len() as u64, None, keys, rows);
        let claimed = self.claims.claim(transaction, &left).await?;
        let (duplicates, new): (Vec<_>, Vec<_>) =
            lost.iter().enumerate().partition(|(place, _)| claimed.is_duplicate(*place as u64));
        if let (Some(fault), [(_, tuple)]) = (refused, &new[..]) {
            let letter = fault.dead_letter(**tuple);
            let copy = sql(include_str!("../../../sql/ingest/copy_dead_letters.sql"));
            let copy = copy.replace("{columns}", dead_letter::COLUMNS);
            let stored = copy_rows(transaction, &copy, std::iter::once(&letter[..])).await?;
            DbError::all_stored("dead_letters", 1, stored)?;
        } else if !new.is_empty() {
            let copy = sql(include_str!("../../../sql/ingest/copy_requests.sql"));
            let copy = copy.replace("{columns}", row::COLUMNS);
            let tuples = new.iter().map(|(_, tuple)| tuple.bytes());
            let stored = copy_rows(transaction, &copy, tuples).await?;
            DbError::all_stored("requests", new.len() as u64, stored)?;
        }
        let state = if refused.is_some() { "dead" } else { "committed" };
        for (state, events) in [(state, &new), ("duplicates", &duplicates)] {
            let ids: Vec<Uuid> = events.iter().filter_map(|(_, tuple)| id_of(**tuple)).collect();
            if ids.is_empty() {
                continue;
            }
            let moved =
                sql(include_str!("../../../sql/ingest/move_quarantined.sql")).replace("{state}", state);
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
        (done.stored, done.dead) = if refused.is_some() { (0, stored) } else { (stored, 0) };
        Ok(done)
    }
}

fn id_of(tuple: Tuple<'_>) -> Option<Uuid> {
    Uuid::from_slice(tuple.field(0)?).ok()
}
