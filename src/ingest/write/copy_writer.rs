//! Gets a batch of encoded tuples into Postgres, however long it takes.
//!
//! A landing ends in one of few ways: the batch is settled, or a row of it is at fault, or a part of it turns out to be
//! settled already. Rows whose faults are known go to `dead_letters`, in the transaction that stores the others. Everything else (no connection, a restart, a full disk, a missing table) is waited out here, with
//! the state for health to show.
//!
//! # How a batch of a journal is settled exactly once
//!
//! Its rows and its receipt are one transaction. If the end of that was not heard, it may be committed, rolled back, or
//! still be on its way to either, even after a new connection has been made. So the lane's epoch is raised first, which
//! waits for whatever holds the lane and keeps out whatever does not yet; only then do the receipts tell for sure.
//!
//! Without a journal a batch is retried in the same boundaries, so the primary key keeps it from being stored twice, and
//! asking for one of its ids settles what became of it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rangemap::RangeSet;
use tokio_postgres::Transaction;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::claims::{Claimed, Claims};
use super::copy::{CopyBatch, Kind, Origin, copy_rows};
use super::probe::{PROBED_ROWS, Probe};
use super::verdict::{Fault, Verdict};
use crate::db::{Connection, Database, DbError, begin, presets, query_in_time, roll_back};
use crate::ingest::checkpoint::checkpointer::Checkpoint;
use crate::ingest::checkpoint::receipts::{Counts, Receipts};
use crate::ingest::event::row::Tuple;
use crate::ingest::journal::JournalId;
use crate::ingest::status::{WriterState, WriterStatus};
use crate::observe::Metrics;

/// The least time for settling a lane, however soon a COPY is given up: a transaction that holds it is waited for 2 s,
/// ended, and waited for once more.
const HOLDER_TIME: Duration = Duration::from_secs(5);

/// The statements of the tables that rows land in.
#[derive(Debug)]
pub struct TargetTables {
    /// `copy requests … from stdin (format binary)`.
    pub copy_requests: String,
    /// `copy dead_letters … from stdin (format binary)`.
    pub copy_dead_letters: String,
    /// Whether a row of `requests` with the id `$1` exists.
    pub has_request: String,
    /// The same of `dead_letters`.
    pub has_dead_letter: String,
    /// Finds rows that `requests` rejects.
    pub probe: Probe,
    /// Keys of producers.
    pub claims: Claims,
    /// The journal's side.
    pub receipts: Receipts,
}

impl TargetTables {
    /// Copies rows into the table of their kind.
    ///
    /// # Errors
    ///
    /// [`DbError::DroppedByTrigger`] if Postgres took fewer than `rows`.
    async fn copy<'a>(
        &self,
        transaction: &Transaction<'_>,
        kind: Kind,
        chunks: impl Iterator<Item = &'a [u8]>,
        rows: u64,
    ) -> Result<(), DbError> {
        let (copy, table) = match kind {
            Kind::Events => (&self.copy_requests, "requests"),
            _ => (&self.copy_dead_letters, "dead_letters"),
        };
        let stored = copy_rows(transaction, copy, chunks).await?;
        DbError::all_stored(table, rows, stored)
    }

    fn has_id(&self, kind: Kind) -> &str {
        if kind == Kind::Events { &self.has_request } else { &self.has_dead_letter }
    }
}

/// Why a batch was not landed as it was.
#[derive(Debug)]
pub enum WriteError {
    /// Postgres refuses a row, whoever sends it and however often.
    Rejected(Rejected),
    /// A part of it is settled already; the sequences are given.
    Partly(RangeSet<u64>),
    /// It takes Postgres too long: less of it may do.
    TooSlow,
}

/// Postgres refuses a row.
#[derive(Debug)]
pub struct Rejected {
    /// What Postgres says.
    pub error: DbError,
    /// How often it was tried.
    pub attempts: u32,
}

/// A batch that is settled.
#[derive(Debug, Clone)]
pub struct Written {
    /// Rows stored.
    pub stored: u64,
    /// The places of those that were left out, as their keys were there; in order.
    pub duplicates: Vec<u64>,
    /// The places of rows that became dead letters for their faults, in order.
    pub dead: Vec<u64>,
    /// The time that it took.
    pub elapsed: Duration,
}

/// What an attempt came to.
enum Attempt {
    Written(Stored),
    Settled(RangeSet<u64>),
    /// Another process, or an older self, has the lane; or the database went back in time.
    Fenced,
}

/// What a transaction stored of a batch.
#[derive(Debug, Default)]
struct Stored {
    claimed: Claimed,
    /// The places of rows that became dead letters for their faults.
    dead: Vec<u64>,
    /// Whether a COPY into the batch's own table took part: a row may be at fault until the commit.
    copied: bool,
}

/// What is left to be known of a lane between its attempts.
#[derive(Debug)]
pub struct Lane {
    number: i32,
    /// The epoch of each journal in which this lane may write. None: to be raised first.
    epochs: HashMap<JournalId, i64>,
    /// Without a journal: an earlier attempt may have been stored.
    in_doubt: bool,
    /// What failed was the rows' own COPY, or the commit that checks them: a row may be at fault.
    at_rows: bool,
}

impl Lane {
    /// The lane with this number.
    pub fn new(number: i32) -> Self {
        Self { number, epochs: HashMap::new(), in_doubt: false, at_rows: false }
    }
}

/// Lands lots.
#[derive(Debug, Clone)]
pub struct CopyWriter {
    database: Database,
    tables: Arc<TargetTables>,
    status: Arc<WriterStatus>,
    metrics: Arc<Metrics>,
    deadline: Duration,
    fences: Arc<Checkpoint>,
}

impl CopyWriter {
    /// Lands lots in `tables`; a transaction that takes longer than `deadline` is given up and tried again.
    pub fn new(
        database: Database,
        tables: &Arc<TargetTables>,
        metrics: Arc<Metrics>,
        deadline: Duration,
        fences: &Arc<Checkpoint>,
    ) -> Self {
        let (tables, fences) = (Arc::clone(tables), Arc::clone(fences));
        Self { database, tables, status: Arc::default(), metrics, deadline, fences }
    }

    /// What the writers are doing.
    pub fn status(&self) -> &Arc<WriterStatus> {
        &self.status
    }

    /// Settles `batch`.
    ///
    /// # Errors
    ///
    /// [`WriteError`] if it must be cut up first.
    pub async fn land(&self, batch: &CopyBatch<'_>, lane: &mut Lane) -> Result<Written, WriteError> {
        let mut attempts = 0;
        let mut id_clashes = 0;
        lane.in_doubt = false;
        loop {
            attempts += 1;
            let started = Instant::now();
            let error = match self.attempt(batch, lane).await {
                Ok(Attempt::Written(Stored { claimed, dead, .. })) => {
                    self.recovered(attempts);
                    let duplicates = claimed.places();
                    let stored = batch.events - duplicates.len() as u64 - dead.len() as u64;
                    return Ok(Written { stored, duplicates, dead, elapsed: started.elapsed() });
                }
                Ok(Attempt::Settled(settled)) => {
                    self.recovered(attempts);
                    return Err(WriteError::Partly(settled));
                }
                Ok(Attempt::Fenced) => continue,
                Err(error) => error,
            };
            let verdict = match Verdict::on(&error) {
                // An earlier attempt was stored after all: the next look will find it. If it does not, it is not ours.
                Verdict::Bisect if is_id_clash(&error) && (lane.in_doubt || batch.origin.is_some()) => {
                    id_clashes += 1;
                    if id_clashes > 2 { Verdict::Halt } else { Verdict::Retry }
                }
                // No row's fault: the journal is not known, or a receipt is there already, or dead_letters rejects
                // a dead letter, which has no place to go but there.
                Verdict::Bisect if !lane.at_rows => Verdict::Halt,
                verdict => verdict,
            };
            if verdict == Verdict::Bisect {
                // Postgres answers, and the rows are dealt with one by one: nothing is waited for any more.
                self.status.running();
                return Err(WriteError::Rejected(Rejected { error, attempts }));
            }
            self.wait_out(verdict, &error, attempts).await;
            if batch.events > 1 && error.sql_state() == Some(&SqlState::QUERY_CANCELED) {
                return Err(WriteError::TooSlow);
            }
        }
    }

    async fn attempt(&self, batch: &CopyBatch<'_>, lane: &mut Lane) -> Result<Attempt, DbError> {
        lane.at_rows = false;
        let mut connection = self.database.get().await?;
        let result = match batch.origin {
            Some(origin) => self.attempt_journaled(batch, origin, lane, &mut connection).await,
            None => within(self.deadline, self.attempt_queued(batch, lane, &mut connection)).await,
        };
        if let Err(error) = &result {
            lane.in_doubt |= matches!(error, DbError::Timeout(_));
            // What was committed a moment ago may be gone with a server that crashed: it does not wait for the disk.
            self.fences.look();
            if let Some(origin) = batch.origin {
                lane.epochs.remove(&origin.journal);
            }
            // A server that was demoted, or a transaction that may still be running, is no connection to keep.
            let demoted = error.sql_state() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION);
            if demoted || matches!(error, DbError::Timeout(_)) {
                connection.discard();
            }
        }
        result
    }

    /// Takes the lane if it is not ours, and stores the batch.
    async fn attempt_journaled(
        &self,
        batch: &CopyBatch<'_>,
        origin: Origin,
        lane: &mut Lane,
        connection: &mut Connection,
    ) -> Result<Attempt, DbError> {
        let (journal, range) = (origin.journal, batch.sequences(origin));
        let receipts = &self.tables.receipts;
        let epoch = match lane.epochs.get(&journal) {
            Some(epoch) => *epoch,
            None => {
                let settling = async {
                    let epoch = receipts.raise_epoch(connection, journal, lane.number).await?;
                    Ok((epoch, receipts.over(connection, journal, &range).await?))
                };
                let (epoch, settled) = within(self.deadline.max(HOLDER_TIME), settling).await?;
                lane.epochs.insert(journal, epoch);
                if !settled.is_empty() {
                    return Ok(Attempt::Settled(settled));
                }
                epoch
            }
        };
        within(self.deadline, self.store_journaled(batch, origin, epoch, lane, connection)).await
    }

    /// Rows, receipt and lane in one transaction.
    async fn store_journaled(
        &self,
        batch: &CopyBatch<'_>,
        origin: Origin,
        epoch: i64,
        lane: &mut Lane,
        connection: &mut Connection,
    ) -> Result<Attempt, DbError> {
        let (journal, range) = (origin.journal, batch.sequences(origin));
        let receipts = &self.tables.receipts;
        let transaction = begin(connection).await?;
        let storing = async {
            let Some(fence) = receipts.hold_lane(&transaction, journal, lane.number, epoch).await? else {
                return Ok(None);
            };
            if !self.fences.saw(journal, fence) {
                // The batch is as good as any. What went missing is the keeper's to find.
                tracing::warn!("the database went back in time; looking for what it lacks");
            }
            let stored = self.store(batch, lane, &transaction).await?;
            lane.at_rows = false;
            receipts.add(&transaction, journal, &range, counts(batch, &stored)).await?;
            Ok(Some(stored))
        };
        match storing.await {
            Ok(Some(stored)) => {
                lane.at_rows = stored.copied;
                transaction.commit().await?;
                Ok(Attempt::Written(stored))
            }
            Ok(None) => {
                transaction.rollback().await?;
                lane.epochs.remove(&journal);
                Ok(Attempt::Fenced)
            }
            Err(error) => Err(roll_back(transaction, error).await),
        }
    }

    /// Without a journal.
    async fn attempt_queued(
        &self,
        batch: &CopyBatch<'_>,
        lane: &mut Lane,
        connection: &mut Connection,
    ) -> Result<Attempt, DbError> {
        if lane.in_doubt
            && let Some((id, kind)) = batch.unkeyed_id()
        {
            let has_id = self.tables.has_id(kind);
            let found = query_in_time(connection, self.deadline, has_id, &[(&id, Type::UUID)]).await?;
            if found.first().map_or(Ok(false), |row| row.try_get(0))? {
                let dead = (0..batch.events).filter(|place| batch.fault(*place).is_some()).collect();
                return Ok(Attempt::Written(Stored { dead, ..Stored::default() }));
            }
        }
        let transaction = begin(connection).await?;
        // Sent ahead of the batch without a round trip. Our own deadline bounds its transaction.
        let presets = presets(Duration::ZERO);
        let storing = async {
            let preset = async { Ok(transaction.batch_execute(&presets).await?) };
            let ((), stored) = tokio::try_join!(biased; preset, self.store(batch, lane, &transaction))?;
            Ok(stored)
        };
        let stored = match storing.await {
            Ok(stored) => stored,
            Err(error) => return Err(roll_back(transaction, error).await),
        };
        if stored.claimed.already_ours {
            transaction.rollback().await?;
            return Ok(Attempt::Written(stored));
        }
        // Even an error that Postgres sent, such as 57P01, may come after the commit.
        lane.in_doubt = true;
        lane.at_rows = stored.copied;
        transaction.commit().await?;
        Ok(Attempt::Written(stored))
    }

    async fn store(
        &self,
        batch: &CopyBatch<'_>,
        lane: &mut Lane,
        transaction: &Transaction<'_>,
    ) -> Result<Stored, DbError> {
        let claimed = if batch.keys.is_empty() {
            Claimed::default()
        } else {
            self.tables.claims.claim(transaction, batch).await?
        };
        let is_dead = |place: &u64| batch.fault(*place).is_some() && !claimed.is_duplicate(*place);
        let dead: Vec<u64> = match batch.has_faults() {
            true => (0..batch.events).filter(is_dead).collect(),
            false => Vec::new(),
        };
        // Keys that are ours tell that the batch was stored where a batch is retried as it was. Of a journal's batch another
        // process may have stored a part: the primary key tells, and then the receipts.
        let was_stored = claimed.already_ours && batch.origin.is_none();
        if batch.kind == Kind::Damage || claimed.duplicates() == batch.events || was_stored {
            return Ok(Stored { claimed, dead, copied: false });
        }
        let tables = &self.tables;
        if claimed.duplicates() == 0 && dead.is_empty() {
            lane.at_rows = true;
            tables.copy(transaction, batch.kind, batch.chunks(), batch.events).await?;
            return Ok(Stored { claimed, dead, copied: true });
        }
        let (mut rows, mut letters) = (Vec::new(), Vec::new());
        for (place, tuple) in (0..).zip(batch.tuples()) {
            match batch.fault(place) {
                _ if claimed.is_duplicate(place) => {}
                Some(fault) => letters.push(fault.dead_letter(tuple)),
                None => rows.push(tuple.bytes()),
            }
        }
        let copied = !rows.is_empty();
        if copied {
            lane.at_rows = true;
            tables.copy(transaction, batch.kind, rows.iter().copied(), rows.len() as u64).await?;
        }
        if !letters.is_empty() {
            lane.at_rows = false;
            let chunks = letters.iter().map(Vec::as_slice);
            tables.copy(transaction, Kind::DeadLetters, chunks, letters.len() as u64).await?;
        }
        Ok(Stored { claimed, dead, copied })
    }

    /// The faults of `tuples`, each of which has its place beside it. `attempts` is kept with each fault.
    ///
    /// # Errors
    ///
    /// Any error that may not be a row's fault; then no fault is known.
    pub async fn probe(
        &self,
        tuples: &[(u64, Tuple<'_>)],
        attempts: u32,
    ) -> Result<Vec<(u64, Fault)>, DbError> {
        let mut faults = Vec::new();
        for some in tuples.chunks(PROBED_ROWS) {
            let rows: Vec<Tuple<'_>> = some.iter().map(|(_, tuple)| *tuple).collect();
            let mut connection = self.database.get().await?;
            let probing = self.tables.probe.run(&mut connection, &rows, attempts);
            let found = within(self.deadline, probing).await;
            let found = connection.release(found)?;
            faults.extend(found.into_iter().filter_map(|(index, fault)| Some((some.get(index)?.0, fault))));
        }
        Ok(faults)
    }

    fn recovered(&self, attempts: u32) {
        if attempts > 1 {
            tracing::info!(attempts, "storing again");
        }
        self.status.running();
    }

    async fn wait_out(&self, verdict: Verdict, error: &DbError, attempts: u32) {
        let state = if verdict == Verdict::Halt { WriterState::Halted } else { WriterState::Retrying };
        let message = error.with_sources();
        // Once when it begins and now and then after that, not at each attempt of an outage.
        if attempts.is_power_of_two() {
            let verdict = verdict.name();
            tracing::warn!(
                attempts,
                verdict,
                error = message,
                "cannot store; the events are kept and tried again"
            );
        }
        self.metrics.retries.with_label_values(&[verdict.name()]).inc();
        let _logged_above = self.status.failed(state, message);
        tokio::time::sleep(verdict.delay(attempts)).await;
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, DbError>>) -> Result<T, DbError> {
    tokio::time::timeout(limit, work).await.unwrap_or(Err(DbError::Timeout(limit)))
}

fn counts(batch: &CopyBatch<'_>, stored: &Stored) -> Counts {
    let (duplicates, dead) = (stored.claimed.duplicates(), stored.dead.len() as u64);
    let rest = batch.events - duplicates - dead;
    match batch.kind {
        Kind::Events => Counts { committed: rest, duplicates, dead, ..Counts::default() },
        Kind::DeadLetters => Counts { dead: rest, duplicates, ..Counts::default() },
        Kind::Damage => Counts { quarantined: batch.events, ..Counts::default() },
    }
}

/// Whether Postgres has a row with the same id. Users' own constraints have names of their own.
fn is_id_clash(error: &DbError) -> bool {
    error.sql_state() == Some(&SqlState::UNIQUE_VIOLATION)
        && error.constraint().is_some_and(|name| {
            name.ends_with("_pkey") && (name.starts_with("requests") || name.starts_with("dead_letters"))
        })
}

/// The sequences of `whole` that are not in `settled`.
pub fn unsettled(whole: &Range<u64>, settled: &RangeSet<u64>) -> Vec<Range<u64>> {
    settled.gaps(whole).collect()
}
