//! Stores one batch of encoded tuples in Postgres, however long that takes.
//!
//! A write ends in one of few ways: the batch is settled, a row of it is at fault, a part of it turns out to be settled
//! already, or it is too slow as a whole. Rows with known faults go to `dead_letters`, in the transaction that stores the
//! others. Everything else (no connection, a restart, a full disk, a missing table) is retried here, and health shows the
//! state.
//!
//! # How a batch of a journal is settled exactly once
//!
//! Its rows and its receipt are one transaction. If the answer to its commit is lost, it may be committed, rolled back, or
//! still on its way to either, even after a new connection has been made. So the lane's epoch is raised first, which waits
//! for a transaction that holds the lane and fences off one that does not hold it yet. Only then are the receipts final.
//!
//! Without a journal a batch is retried within the same boundaries, so the primary key prevents a second copy, and a query
//! for one of its ids reveals its outcome.

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
use super::hook::BatchHook;
use super::lanes::{LaneActivity, LaneSlot};
use super::probe;
use super::verdict::{Fault, Verdict};
use crate::db::{Connection, Database, DbError, begin, presets, query_in_time, roll_back, sql};
use crate::ingest::checkpoint::checkpointer::Checkpoints;
use crate::ingest::checkpoint::receipts::{Counts, Receipts};
use crate::ingest::event::dead_letter;
use crate::ingest::event::row::{self, Tuple};
use crate::ingest::journal::JournalId;
use crate::ingest::status::{WriterState, WriterStatus};
use crate::observe::Metrics;

/// The least time for taking a lane, however short the COPY's own deadline: another transaction of the lane is waited for
/// for 2 s, terminated, and waited for once more.
const HOLDER_TIME: Duration = Duration::from_secs(5);

/// The tables that rows are copied to.
#[derive(Debug)]
pub struct TargetTables {
    database: Database,
    /// Idempotency keys.
    claims: Claims,
    /// Lanes and receipts.
    receipts: Receipts,
}

impl TargetTables {
    /// The tables of `database`. A key is claimed for `window_s` seconds.
    pub fn new(database: &Database, window_s: u64) -> Self {
        Self {
            database: database.clone(),
            claims: Claims::new(database, window_s),
            receipts: Receipts::new(database),
        }
    }

    /// Copies rows into the table of their kind.
    ///
    /// # Errors
    ///
    /// [`DbError::DroppedByTrigger`] if Postgres stored fewer than `rows`.
    async fn copy<'a>(
        &self,
        transaction: &Transaction<'_>,
        kind: Kind,
        chunks: impl Iterator<Item = &'a [u8]>,
        rows: u64,
    ) -> Result<(), DbError> {
        let (copy, table) = match kind {
            Kind::Events => {
                (sql!(self.database, "ingest/copy_requests.sql", columns = row::COLUMNS), "requests")
            }
            _ => {
                let columns = dead_letter::COLUMNS;
                (sql!(self.database, "ingest/copy_dead_letters.sql", columns = columns), "dead_letters")
            }
        };
        let stored = copy_rows(transaction, copy, chunks).await?;
        DbError::all_stored(table, rows, stored)
    }

    /// The query for a row with an id.
    fn has_id(&self, kind: Kind) -> &'static str {
        match kind {
            Kind::Events => sql!(self.database, "ingest/request_exists.sql"),
            _ => sql!(self.database, "ingest/dead_letter_exists.sql"),
        }
    }
}

/// Why a batch was not stored as it is.
#[derive(Debug)]
pub enum WriteError {
    /// Postgres rejects a row, and would reject it again.
    Rejected(Rejected),
    /// These sequences of it are settled already.
    PartlySettled(RangeSet<u64>),
    /// Postgres cancelled it: a smaller batch may succeed.
    TooSlow,
}

/// Postgres rejects a row.
#[derive(Debug)]
pub struct Rejected {
    /// Postgres' error.
    pub error: DbError,
    /// The number of attempts.
    pub attempts: u32,
}

/// A settled batch.
#[derive(Debug, Clone)]
pub struct Written {
    /// Rows stored in the batch's own table.
    pub stored: u64,
    /// The indices of events that were skipped because of their keys, in order.
    pub duplicates: Vec<u64>,
    /// The indices of rows that became dead letters because of their faults, in order.
    pub dead: Vec<u64>,
    /// The duration of the successful attempt.
    pub elapsed: Duration,
}

/// The result of an attempt.
enum Attempt {
    Written(Stored),
    /// Sequences of the batch that an earlier attempt has settled.
    AlreadySettled(RangeSet<u64>),
    /// Another process, or an older one of this service, has the lane; or the database went back in time.
    Fenced,
}

/// What a transaction stored of a batch.
#[derive(Debug, Default)]
struct Stored {
    claimed: Claimed,
    /// The indices of rows that became dead letters because of their faults.
    dead: Vec<u64>,
    /// The step in which the commit may still fail: [`Step::Rows`] if rows were copied, as deferred constraints are checked
    /// then.
    commit_step: Step,
}

/// A writer's lane: the unit of fencing. Each lane has one transaction at a time.
#[derive(Debug)]
pub struct Lane {
    number: i32,
    /// The lane's epoch in each journal. A missing epoch has to be raised first.
    epochs: HashMap<JournalId, i64>,
    state: LaneState,
    /// Where it notes what it is doing, for figures.
    slot: Arc<LaneSlot>,
}

impl Lane {
    /// The lane with this number.
    pub fn new(number: i32) -> Self {
        Self::noting(number, Arc::default())
    }

    /// The same; it notes in `slot` what it is doing.
    pub fn noting(number: i32, slot: Arc<LaneSlot>) -> Self {
        Self { number, epochs: HashMap::new(), state: LaneState::NotStored(Step::Other), slot }
    }
}

/// The state of a lane's batch during an attempt, and between attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LaneState {
    /// No attempt has stored the batch.
    NotStored(Step),
    /// Without a journal: the outcome of an earlier attempt is unknown, so the batch may be stored.
    InDoubt(Step),
}

/// The current step of an attempt, or the one in which it failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Step {
    /// The connection, the keys, the dead letters or the receipt. No row is at fault if it fails.
    #[default]
    Other,
    /// The COPY of the rows, or the commit that checks them. A row may be at fault if it fails.
    Rows,
}

impl LaneState {
    fn step(self) -> Step {
        match self {
            Self::NotStored(step) | Self::InDoubt(step) => step,
        }
    }

    fn is_in_doubt(self) -> bool {
        matches!(self, Self::InDoubt(_))
    }

    /// Enters a step.
    fn enter(&mut self, step: Step) {
        *self = match self {
            Self::NotStored(_) => Self::NotStored(step),
            Self::InDoubt(_) => Self::InDoubt(step),
        };
    }

    /// From now on the batch may be stored.
    fn doubt(&mut self) {
        *self = Self::InDoubt(self.step());
    }
}

/// Writes batches, exactly once each.
#[derive(Debug, Clone)]
pub struct CopyWriter {
    database: Database,
    tables: Arc<TargetTables>,
    status: Arc<WriterStatus>,
    metrics: Arc<Metrics>,
    deadline: Duration,
    checkpoints: Arc<Checkpoints>,
    hook: Arc<dyn BatchHook>,
}

impl CopyWriter {
    /// A writer to `tables`. A transaction that takes longer than `deadline` is cancelled and retried.
    pub fn new(
        database: Database,
        tables: &Arc<TargetTables>,
        metrics: Arc<Metrics>,
        deadline: Duration,
        checkpoints: &Arc<Checkpoints>,
        hook: &Arc<dyn BatchHook>,
    ) -> Self {
        let (tables, checkpoints, hook) = (Arc::clone(tables), Arc::clone(checkpoints), Arc::clone(hook));
        Self { database, tables, status: Arc::default(), metrics, deadline, checkpoints, hook }
    }

    /// The state that health shows.
    pub fn status(&self) -> &Arc<WriterStatus> {
        &self.status
    }

    /// Stores `batch`, retrying until it is settled.
    ///
    /// # Errors
    ///
    /// [`WriteError`] if the batch has to be split first.
    pub async fn write(&self, batch: &CopyBatch<'_>, lane: &mut Lane) -> Result<Written, WriteError> {
        let mut attempts = 0;
        let mut id_clashes = 0;
        lane.state = LaneState::NotStored(Step::Other);
        loop {
            attempts += 1;
            let started = Instant::now();
            let error = match self.attempt(batch, lane).await {
                Ok(Attempt::Written(Stored { claimed, dead, .. })) => {
                    self.succeeded(attempts);
                    let duplicates = claimed.indices();
                    let stored = batch.events - duplicates.len() as u64 - dead.len() as u64;
                    return Ok(Written { stored, duplicates, dead, elapsed: started.elapsed() });
                }
                Ok(Attempt::AlreadySettled(settled)) => {
                    self.succeeded(attempts);
                    return Err(WriteError::PartlySettled(settled));
                }
                Ok(Attempt::Fenced) => continue,
                Err(error) => error,
            };
            let may_be_statements =
                error.is_cancelled() || matches!(error, DbError::Timeout(_)) && self.hook.runs_statements();
            if may_be_statements && self.hook.cancelled(&error).await {
                continue;
            }
            let verdict = match Verdict::on(&error) {
                // An earlier attempt was stored after all, and the next one will find it. If not, the row is foreign.
                Verdict::Bisect
                    if is_id_clash(&error) && (lane.state.is_in_doubt() || batch.origin.is_some()) =>
                {
                    id_clashes += 1;
                    if id_clashes > 2 { Verdict::Halt } else { Verdict::Retry }
                }
                // No row is at fault: the journal is unknown, a receipt exists already, or dead_letters rejects a dead
                // letter, which has no other table.
                Verdict::Bisect if lane.state.step() == Step::Other => Verdict::Halt,
                verdict => verdict,
            };
            if verdict == Verdict::Bisect {
                // Postgres answers: the writer is not waiting for anything.
                self.status.running();
                return Err(WriteError::Rejected(Rejected { error, attempts }));
            }
            let halted = verdict == Verdict::Halt;
            lane.slot.enter(if halted { LaneActivity::Halted } else { LaneActivity::Retrying });
            self.back_off(verdict, &error, attempts).await;
            // With statements of users the time limit is this writer's own, and a lock of requests reaches it, too.
            if batch.events > 1 && error.is_cancelled() && !self.hook.runs_statements() {
                return Err(WriteError::TooSlow);
            }
        }
    }

    /// The limit of a statement. The deadline bounds the transaction, so none is set, except with statements of users: Postgres names the
    /// one that it cancels, just before the deadline.
    fn statement_timeout(&self) -> Duration {
        if self.hook.runs_statements() { self.deadline * 9 / 10 } else { Duration::ZERO }
    }

    async fn attempt(&self, batch: &CopyBatch<'_>, lane: &mut Lane) -> Result<Attempt, DbError> {
        lane.state.enter(Step::Other);
        let mut connection = self.database.get().await?;
        let result = match batch.origin {
            Some(origin) => self.attempt_journaled(batch, origin, lane, &mut connection).await,
            None => within(self.deadline, self.attempt_queued(batch, lane, &mut connection)).await,
        };
        if let Err(error) = &result {
            let timed_out = matches!(error, DbError::Timeout(_));
            if timed_out {
                lane.state.doubt();
            }
            // Recent commits do not wait for the disk, so a server that crashed may have lost them.
            self.checkpoints.request();
            if let Some(origin) = batch.origin {
                lane.epochs.remove(&origin.journal);
            }
            // Neither a demoted server nor a transaction that may still be running is worth keeping.
            let demoted = error.sql_state() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION);
            if demoted || timed_out {
                connection.discard();
            }
        }
        result
    }

    /// With a journal: takes the lane if its epoch is missing, and stores the batch.
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
                let taking = async {
                    let epoch = receipts.raise_epoch(connection, journal, lane.number).await?;
                    Ok((epoch, receipts.settled_in(connection, journal, &range).await?))
                };
                let (epoch, settled) = within(self.deadline.max(HOLDER_TIME), taking).await?;
                lane.epochs.insert(journal, epoch);
                if !settled.is_empty() {
                    return Ok(Attempt::AlreadySettled(settled));
                }
                epoch
            }
        };
        within(self.deadline, self.store_journaled(batch, origin, epoch, lane, connection)).await
    }

    /// Stores rows and receipt in one transaction that holds the lane.
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
            let timeout = self.statement_timeout();
            let since = self.checkpoints.latest(journal);
            let held = receipts.hold_lane(&transaction, journal, lane.number, epoch, timeout).await?;
            let Some(number) = held else { return Ok(None) };
            if !self.checkpoints.observe(journal, number, since) {
                // This batch may be stored nevertheless. The checkpointer finds what is missing.
                tracing::warn!("the database went back in time; a checkpoint will find what it lacks");
            }
            let stored = self.store(batch, lane, &transaction).await?;
            lane.state.enter(Step::Other);
            if self.hook.runs_statements() {
                set_again(&transaction, timeout).await?;
                receipts.prepare(&transaction, journal, lane.number).await?;
            }
            receipts.add(&transaction, journal, &range, counts(batch, &stored)).await?;
            Ok(Some(stored))
        };
        match storing.await {
            Ok(Some(stored)) => {
                lane.state.enter(stored.commit_step);
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
        if lane.state.is_in_doubt()
            && let Some((id, kind)) = batch.unkeyed_id()
        {
            let has_id = self.tables.has_id(kind);
            let found = query_in_time(connection, self.deadline, has_id, &[(&id, Type::UUID)]).await?;
            if found.first().map_or(Ok(false), |row| row.try_get(0))? {
                let dead = (0..batch.events).filter(|index| batch.fault(*index).is_some()).collect();
                return Ok(Attempt::Written(Stored { dead, ..Stored::default() }));
            }
        }
        let transaction = begin(connection).await?;
        // Sent ahead of the batch, without a round trip of their own.
        let presets = presets(self.statement_timeout());
        let storing = async {
            let preset = async { Ok(transaction.batch_execute(&presets).await?) };
            let ((), stored) = tokio::try_join!(biased; preset, self.store(batch, lane, &transaction))?;
            if self.hook.runs_statements() {
                lane.state.enter(Step::Other);
                set_again(&transaction, self.statement_timeout()).await?;
            }
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
        // Even an error that Postgres sent, such as 57P01, may follow the commit.
        lane.state.doubt();
        lane.state.enter(stored.commit_step);
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
        let is_dead = |index: &u64| batch.fault(*index).is_some() && !claimed.is_duplicate(*index);
        let dead: Vec<u64> = match batch.has_faults() {
            true => (0..batch.events).filter(is_dead).collect(),
            false => Vec::new(),
        };
        // Without a journal a batch is retried unchanged, so keys of its own prove that it was stored. Of a journal's batch
        // another process may have stored a part: the primary key reveals that, and then the receipts.
        let was_stored = claimed.already_ours && batch.origin.is_none();
        if batch.kind == Kind::Damage || claimed.duplicates() == batch.events || was_stored {
            return Ok(Stored { claimed, dead, commit_step: Step::Other });
        }
        let tables = &self.tables;
        if claimed.duplicates() == 0 && dead.is_empty() {
            lane.state.enter(Step::Rows);
            tables.copy(transaction, batch.kind, batch.chunks(), batch.events).await?;
            return Ok(Stored { claimed, dead, commit_step: Step::Rows });
        }
        let (mut rows, mut letters) = (Vec::new(), Vec::new());
        for (index, tuple) in (0..).zip(batch.tuples()) {
            match batch.fault(index) {
                _ if claimed.is_duplicate(index) => {}
                Some(fault) => letters.push(fault.dead_letter(tuple)),
                None => rows.push(tuple.bytes()),
            }
        }
        let mut commit_step = Step::Other;
        if !rows.is_empty() {
            commit_step = Step::Rows;
            lane.state.enter(Step::Rows);
            tables.copy(transaction, batch.kind, rows.iter().copied(), rows.len() as u64).await?;
        }
        if !letters.is_empty() {
            lane.state.enter(Step::Other);
            let chunks = letters.iter().map(Vec::as_slice);
            tables.copy(transaction, Kind::DeadLetters, chunks, letters.len() as u64).await?;
        }
        Ok(Stored { claimed, dead, commit_step })
    }

    /// The faults of `tuples`, which come with their indices. `attempts` is kept with each fault.
    ///
    /// # Errors
    ///
    /// Any error that may not be a row's fault; no fault is known then.
    pub async fn probe(
        &self,
        tuples: &[(u64, Tuple<'_>)],
        attempts: u32,
    ) -> Result<Vec<(u64, Fault)>, DbError> {
        probe::faults(&self.database, tuples, attempts, self.deadline).await
    }

    fn succeeded(&self, attempts: u32) {
        if attempts > 1 {
            tracing::info!(attempts, "storing again");
        }
        self.status.running();
    }

    async fn back_off(&self, verdict: Verdict, error: &DbError, attempts: u32) {
        let state = if verdict == Verdict::Halt { WriterState::Halted } else { WriterState::Retrying };
        let message = error.with_sources();
        // Not at each attempt of an outage.
        if attempts.is_power_of_two() {
            let verdict = verdict.name();
            tracing::warn!(
                attempts,
                verdict,
                error = message,
                "cannot store; the events are kept and retried"
            );
        }
        self.metrics.retries.with_label_values(&[verdict.name()]).inc();
        let _logged_above = self.status.failed(state, message);
        tokio::time::sleep(verdict.delay(attempts)).await;
    }
}

/// Sets again what the service relies on, after statements of users have run in a transaction. Even a function that resets the session's
/// parameters at its end leaves what it has set for the session.
///
/// # Errors
///
/// Any error of Postgres.
pub async fn set_again(transaction: &Transaction<'_>, timeout: Duration) -> Result<(), DbError> {
    let after = sql!("ingest/after_copy.sql");
    Ok(transaction.batch_execute(&format!("{after}{}", presets(timeout))).await?)
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

/// Whether a row with the same id exists. Users' own constraints have other names.
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
