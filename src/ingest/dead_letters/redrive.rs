//! Redrive: stores dead letters again, exactly once each.
//!
//! One transaction deletes the dead letter, inserts its row and corrects its receipt. Several redrives may run at once: each
//! skips the dead letters that another has locked. A [`probe`] isolates rows that Postgres rejects again; they stay dead
//! letters in the transaction that stores the others.

use std::collections::HashMap;

use tokio_postgres::Transaction;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::Reason;
use super::store::{DeadLetterStore, Filter, TIMEOUT};
use crate::bisect;
use crate::db::{DbError, Parameter, begin_in_time, roll_back, sql};
use crate::ingest::checkpoint::receipts::{Counts, Receipts};
use crate::ingest::event::id::{self, Tag, unix_now_us};
use crate::ingest::event::json::{self, JsonLimits};
use crate::ingest::event::row::{self, Row, Tuple};
use crate::ingest::journal::JournalId;
use crate::ingest::write::copy::copy_rows;
use crate::ingest::write::copy_writer::set_again;
use crate::ingest::write::hook::BatchHook;
use crate::ingest::write::probe;
use crate::ingest::write::verdict::{Fault, Verdict};

/// The most dead letters in one transaction, by number and by bytes.
const BATCH: usize = 5000;
const BATCH_BYTES: i64 = 16 << 20;

/// The dead letters of a redrive.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Only these; `None`: all that match the filter.
    pub ids: Option<Vec<Uuid>>,
    /// Without a reason and without ids, overloads are excluded: their clients received a 503 and may have sent them again.
    pub filter: Filter,
}

/// The result of a redrive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Redriven {
    /// Stored.
    pub stored: u64,
    /// Rejected again; they stay dead letters.
    pub refused: u64,
    /// Whether the limit was reached, so that there may be more.
    pub more: bool,
}

/// A locked dead letter and its tuple of `requests`.
struct Taken {
    id: Uuid,
    tuple: Vec<u8>,
    overload: bool,
}

/// The result of one transaction.
enum Moved {
    /// The numbers of stored dead letters and of those kept for their faults.
    Done { stored: u64, refused: u64 },
    /// A row is at fault; nothing is changed.
    Rejected { error: DbError, taken: Vec<Taken> },
}

/// The faults of dead letters.
type FaultsById = HashMap<Uuid, Fault>;

impl DeadLetterStore {
    /// Stores up to `limit` of the selected dead letters. `hook` is asked where Postgres cancels a batch.
    ///
    /// # Errors
    ///
    /// Any error of Postgres that concerns more than a row. Dead letters stored before it stay stored.
    pub async fn redrive(
        &self,
        selection: &Selection,
        limits: JsonLimits,
        limit: usize,
        hook: &dyn BatchHook,
    ) -> Result<Redriven, DbError> {
        let select = sql!(self.database, "ingest/select_dead_letters.sql");
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
            let rows = self.database.query_in_time(TIMEOUT, select, &parameters).await?;
            let mut ids = Vec::with_capacity(rows.len());
            let mut bytes = 0;
            for row in rows {
                bytes += row.try_get::<_, i64>(1)?;
                if bytes > BATCH_BYTES && !ids.is_empty() {
                    break;
                }
                ids.push(row.try_get::<_, Uuid>(0)?);
            }
            let Some(last) = ids.last() else { return Ok(redriven) };
            after = *last;
            left -= ids.len().min(left);
            self.store_all(ids, limits, hook, &mut redriven).await?;
        }
        redriven.more = true;
        Ok(redriven)
    }

    /// Stores all of `ids` that Postgres accepts. Rows that a probe cannot isolate are found by bisection.
    async fn store_all(
        &self,
        ids: Vec<Uuid>,
        limits: JsonLimits,
        hook: &dyn BatchHook,
        redriven: &mut Redriven,
    ) -> Result<(), DbError> {
        let mut faults = FaultsById::new();
        let mut pending = vec![(0..ids.len() as u64, true)];
        while let Some((range, may_probe)) = pending.pop() {
            let part = ids.get(range.start as usize..range.end as usize).unwrap_or_default();
            let (error, taken) = match self.store(part, limits, &faults).await {
                Ok(Moved::Done { stored, refused }) => {
                    redriven.stored += stored;
                    redriven.refused += refused;
                    continue;
                }
                Ok(Moved::Rejected { error, taken }) => (error, taken),
                Err(error) if error.is_cancelled() && hook.cancelled(&error).await => {
                    pending.push((range, may_probe));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let good = || taken.iter().filter(|taken| !faults.contains_key(&taken.id));
            let halves = match (bisect::halves(&range), part) {
                (Some(halves), _) => halves,
                (None, [id]) if !faults.contains_key(id) => {
                    faults.insert(*id, Fault::of(&error, 1));
                    pending.push((range, false));
                    continue;
                }
                (None, _) => return Err(error),
            };
            let found = match may_probe {
                true => self.probe(good()).await,
                false => Ok(Vec::new()),
            };
            match found {
                Ok(found) if !found.is_empty() => {
                    faults.extend(found);
                    pending.push((range, true));
                }
                found => {
                    let may_probe = found.is_err();
                    pending.extend(halves.into_iter().rev().map(|half| (half, may_probe)));
                }
            }
        }
        Ok(())
    }

    async fn probe<'a>(&self, taken: impl Iterator<Item = &'a Taken>) -> Result<Vec<(Uuid, Fault)>, DbError> {
        let taken: Vec<(Uuid, Tuple<'_>)> =
            taken.filter_map(|taken| Some((taken.id, row::tuples(&taken.tuple).next()?))).collect();
        probe::faults(&self.database, &taken, 1, TIMEOUT).await
    }

    async fn store(&self, ids: &[Uuid], limits: JsonLimits, faults: &FaultsById) -> Result<Moved, DbError> {
        let mut connection = self.database.get().await?;
        let transaction = begin_in_time(&mut connection, TIMEOUT).await?;
        let mut taken = Vec::with_capacity(ids.len());
        let stored = match self.store_within(&transaction, ids, limits, faults, &mut taken).await {
            Ok(refused) => transaction.commit().await.map(|()| refused).map_err(DbError::from),
            Err(error) => Err(roll_back(transaction, error).await),
        };
        match stored {
            Ok(refused) => Ok(Moved::Done { stored: taken.len() as u64, refused }),
            Err(error) if Verdict::on(&error) == Verdict::Bisect => Ok(Moved::Rejected { error, taken }),
            Err(error) => Err(error),
        }
    }

    /// Stores the dead letters without a fault, which go to `taken`; returns the number of those with a fault, which stay.
    async fn store_within(
        &self,
        transaction: &Transaction<'_>,
        ids: &[Uuid],
        limits: JsonLimits,
        faults: &FaultsById,
        taken: &mut Vec<Taken>,
    ) -> Result<u64, DbError> {
        let ids = ids.to_vec();
        let lock = sql!(self.database, "ingest/lock_journals.sql");
        transaction.query_typed(lock, &[(&ids, Type::UUID_ARRAY)]).await?;
        let take = sql!(self.database, "ingest/take_dead_letters.sql");
        let mut refused = Vec::new();
        for row in transaction.query_typed(take, &[(&ids, Type::UUID_ARRAY)]).await? {
            let letter = read(&row, limits)?;
            match faults.get(&letter.id) {
                Some(fault) => refused.push((letter.id, fault)),
                None => taken.push(letter),
            }
        }
        self.refuse(transaction, &refused).await?;
        self.accept_overloads(transaction, taken).await?;
        self.move_letters(transaction, taken).await?;
        Ok(refused.len() as u64)
    }

    /// Records the faults of dead letters that stay.
    async fn refuse(&self, transaction: &Transaction<'_>, refused: &[(Uuid, &Fault)]) -> Result<(), DbError> {
        if refused.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = refused.iter().map(|(id, _)| *id).collect();
        // An error's message may quote a NUL, which a text column rejects.
        let errors: Vec<String> = refused.iter().map(|(_, fault)| fault.error.replace('\0', "\\0")).collect();
        let reasons: Vec<&str> = refused.iter().map(|(_, fault)| fault.reason.name()).collect();
        let refuse = sql!(self.database, "ingest/refuse_dead_letters.sql");
        let parameters: [Parameter<'_>; 3] =
            [(&ids, Type::UUID_ARRAY), (&errors, Type::TEXT_ARRAY), (&reasons, Type::TEXT_ARRAY)];
        transaction.execute_typed(refuse, &parameters).await?;
        Ok(())
    }

    /// Moves dead letters to `requests`, and corrects their receipts.
    async fn move_letters(&self, transaction: &Transaction<'_>, taken: &[Taken]) -> Result<(), DbError> {
        if taken.is_empty() {
            return Ok(());
        }
        let copy = sql!(self.database, "ingest/copy_requests.sql", columns = row::COLUMNS);
        let tuples = taken.iter().map(|taken| &taken.tuple[..]);
        let stored = copy_rows(transaction, copy, tuples).await?;
        DbError::all_stored("requests", taken.len() as u64, stored)?;
        set_again(transaction, TIMEOUT).await?;
        let all: Vec<Uuid> = taken.iter().map(|taken| taken.id).collect();
        let remove = sql!(self.database, "ingest/remove_dead_letters.sql");
        transaction.execute_typed(remove, &[(&all, Type::UUID_ARRAY)]).await?;
        let accepted: Vec<Uuid> =
            taken.iter().filter(|taken| !taken.overload).map(|taken| taken.id).collect();
        let moved = sql!(self.database, "ingest/move_dead.sql", state = "committed");
        transaction.execute_typed(moved, &[(&accepted, Type::UUID_ARRAY)]).await?;
        Ok(())
    }

    /// Accepts overloads: they get new ids and a receipt in the redrive journal.
    async fn accept_overloads(
        &self,
        transaction: &Transaction<'_>,
        taken: &mut [Taken],
    ) -> Result<(), DbError> {
        let overloads = taken.iter().filter(|taken| taken.overload).count() as u64;
        if overloads == 0 {
            return Ok(());
        }
        let new = Uuid::new_v4();
        let tag = Tag::of_journal(new).bytes().to_vec();
        let make = sql!(self.database, "ingest/make_redrive_journal.sql");
        transaction.execute_typed(make, &[(&new, Type::UUID), (&tag, Type::BYTEA)]).await?;
        let journal = sql!(self.database, "ingest/redrive_journal.sql");
        let rows = transaction.query_typed(journal, &[]).await?;
        let journal: Uuid = rows.first().map(|row| row.try_get(0)).transpose()?.unwrap_or(new);
        let next = sql!(self.database, "ingest/next_sequence.sql");
        let rows = transaction.query_typed(next, &[(&journal, Type::UUID)]).await?;
        // A default would give its events the ids of others.
        let first: i64 = rows.first().ok_or(DbError::Unexpected("no next sequence"))?.try_get(0)?;
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

fn read(row: &tokio_postgres::Row, limits: JsonLimits) -> Result<Taken, DbError> {
    let id: Uuid = row.try_get("id")?;
    let (trace_id, content_type): (&str, Option<&str>) =
        (row.try_get("trace_id")?, row.try_get("content_type")?);
    let (payload, body): (Option<&[u8]>, Option<&[u8]>) = (row.try_get("payload")?, row.try_get("body")?);
    // A rejected payload was kept byte for byte, so it is classified again.
    let body = payload.or(body).unwrap_or_default();
    let event = Row {
        id,
        trace_id: trace_id.as_bytes(),
        content: row::content(json::classify_event(body, limits), body),
        content_type,
        received_at_us: row.try_get("received_at_us")?,
    };
    let mut tuple = Vec::with_capacity(event.encoded_len());
    event.encode(&mut tuple);
    let overload = row.try_get::<_, &str>("reason")? == Reason::Overload.name();
    Ok(Taken { id, tuple, overload })
}
