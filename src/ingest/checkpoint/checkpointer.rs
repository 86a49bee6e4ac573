//! Determines what of the journal is durable in Postgres, and detects what Postgres has lost.
//!
//! Batches commit without waiting for Postgres' disk, since the journal still holds them. About once a second a checkpoint
//! reads all receipts and commits with `synchronous_commit = on`: the receipts *that it has read* are durable from then on,
//! and only their sequences may be trimmed from the journal.
//!
//! Sequences that are settled as far as this process knows, but missing from the receipts that a checkpoint reads, were
//! lost: by a crash of Postgres, by a failover to a standby that lagged behind, or by a restore to an older point. They are
//! delivered again.
//!
//! Each checkpoint raises a number in the journal's row. A number lower than one seen before means that the database went
//! back in time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rangemap::RangeSet;
use tokio::sync::Notify;
use tokio_postgres::types::Type;
use tokio_util::sync::CancellationToken;

use super::backlog::{Backlog, JournalProgress, length};
use super::ledger::{Account, Ledger};
use super::receipts::{Coverage, Receipts};
use crate::db::{Connection, Database, DbError, Parameter, query_in_time, sql};
use crate::ingest::journal::JournalId;
use crate::ingest::status::{WriterState, WriterStatus};

const INTERVAL: Duration = Duration::from_secs(1);
/// Between two checks whether the database went back in time while nothing was stored.
const IDLE_INTERVAL: Duration = Duration::from_secs(10);
/// For one checkpoint.
const TIMEOUT: Duration = Duration::from_secs(60);
/// For opening the journals at the start.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two deletions of expired keys.
const KEY_EXPIRY_INTERVAL: Duration = Duration::from_secs(60);
/// For one deletion of expired keys.
const KEY_EXPIRY_TIMEOUT: Duration = Duration::from_secs(50);
/// Between two log lines about the progress through a large backlog.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// A smaller backlog is drained without log lines.
const LARGE_BACKLOG: u64 = 100_000;

/// Why the journal and the database do not belong together.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The database does not know a journal that was registered with it.
    #[error(
        "the database does not know journal {journal}, which holds {events} events and was registered before: this is another database, or one that was restored to an older point. Point DATABASE_URL at the right one, or start with --adopt-database to store all events of the journal in this one"
    )]
    UnknownJournal {
        /// The journal.
        journal: uuid::Uuid,
        /// Events that it holds.
        events: u64,
    },
    /// This server is older than one seen before.
    #[error(
        "this server is on timeline {found}, and timeline {seen} was seen before: it is a former primary"
    )]
    OldTimeline {
        /// Its timeline.
        found: i64,
        /// The highest timeline seen.
        seen: i64,
    },
    /// The list of registered journals cannot be read or written.
    #[error("cannot keep the list of registered journals")]
    Files(#[from] std::io::Error),
    /// An error of Postgres.
    #[error("{}", .0.with_sources())]
    Database(#[from] DbError),
}

/// The highest checkpoint number of each journal, shared by the checkpointer and the lanes.
#[derive(Debug, Default)]
pub struct Checkpoints {
    highest: Mutex<HashMap<JournalId, i64>>,
    wake: Notify,
    /// A lane asked for a checkpoint since the last one.
    requested: AtomicBool,
}

impl Checkpoints {
    fn highest(&self) -> MutexGuard<'_, HashMap<JournalId, i64>> {
        self.highest.lock()
    }

    /// The highest number seen: a statement that is sent from now on reads no lower one. `None`: none was seen.
    pub fn latest(&self, journal: JournalId) -> Option<i64> {
        self.highest().get(&journal).copied()
    }

    /// Records a number read from the database, by a statement that was sent when `since` was the latest one. False if it is lower; a checkpoint is
    /// requested then. One that was raised since does not count: another task may have handled its answer before this one.
    pub fn observe(&self, journal: JournalId, number: i64, since: Option<i64>) -> bool {
        let mut highest = self.highest();
        let known = highest.entry(journal).or_insert(number);
        *known = number.max(*known);
        let is_lower = since.is_some_and(|since| number < since);
        if is_lower {
            self.request();
        }
        !is_lower
    }

    /// Requests a checkpoint ahead of the interval.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Whether this is the highest number seen: a command that changes receipts raises it.
    fn is_highest(&self, journal: JournalId, number: i64) -> bool {
        self.highest().get(&journal).is_none_or(|known| *known == number)
    }

    fn set(&self, journal: JournalId, number: i64) {
        self.highest().insert(journal, number);
    }
}

/// The task that opens journals and makes checkpoints.
#[derive(Debug)]
pub struct Checkpointer {
    database: Database,
    receipts: Receipts,
    /// The age at which keys are deleted.
    key_window_s: f64,
    backlog: Arc<Backlog>,
    checkpoints: Arc<Checkpoints>,
    ledger: Arc<Ledger>,
    status: Arc<WriterStatus>,
    adopt: bool,
    timeline: Option<i64>,
    /// The progress as of the last checkpoint (journal, end, settled). While it stays the same, no checkpoint is needed.
    last_progress: Vec<(JournalId, u64, u64)>,
    last_check: Instant,
    /// The start of the current progress report, and the pending events then.
    reporting: Option<(Instant, u64)>,
    keys_expired: Option<Instant>,
}

impl Checkpointer {
    /// A checkpointer for the backlog's journals. With `adopt`, all their events go to a database that does not know them.
    pub fn new(database: Database, backlog: &Arc<Backlog>, adopt: bool, key_window_s: u64) -> Self {
        Self {
            receipts: Receipts::new(&database),
            key_window_s: key_window_s as f64,
            database,
            backlog: Arc::clone(backlog),
            checkpoints: Arc::default(),
            ledger: Arc::default(),
            status: Arc::default(),
            adopt,
            timeline: None,
            last_progress: Vec::new(),
            last_check: Instant::now(),
            reporting: None,
            keys_expired: None,
        }
    }

    /// The checkpoint numbers, for the lanes.
    pub fn checkpoints(&self) -> &Arc<Checkpoints> {
        &self.checkpoints
    }

    /// The accounts.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// The state that health shows.
    pub fn status(&self) -> &Arc<WriterStatus> {
        &self.status
    }

    /// Registers all journals with the database and reads their receipts. From then on their events are delivered.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`]; journals opened before it stay open.
    pub async fn open(&mut self) -> Result<(), CheckpointError> {
        for progress in self.backlog.progress().into_iter().filter(|progress| !progress.open) {
            let JournalProgress { journal, held, .. } = progress;
            let mut connection = self.database.get().await?;
            let is_known = self.receipts.is_known(&connection, journal).await?;
            let events = held.end - held.start;
            if !is_known && self.backlog.reader().is_registered(journal) && events > 0 && !self.adopt {
                return Err(CheckpointError::UnknownJournal { journal: journal.0, events });
            }
            self.receipts.register(&mut connection, journal).await?;
            self.register(journal).await?;
            // Read after the registration, which waits for the transactions of former processes.
            let settled = match held.is_empty() {
                true => RangeSet::new(),
                false => self.receipts.settled_in(&connection, journal, &held).await?,
            };
            let pending = events - length(&settled);
            if pending > 0 {
                tracing::info!(journal = %journal.0, pending, "storing the events that a former run left in its journal");
            }
            self.backlog.open(journal, &settled);
        }
        Ok(())
    }

    /// Registers a journal on disk. Off the runtime, since it is synced.
    async fn register(&self, journal: JournalId) -> std::io::Result<()> {
        let reader = Arc::clone(self.backlog.reader());
        tokio::task::spawn_blocking(move || reader.register(journal)).await?
    }

    /// [`Self::open`] with a timeout.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub async fn open_in_time(&mut self) -> Result<(), CheckpointError> {
        match tokio::time::timeout(OPEN_TIMEOUT, self.open()).await {
            Ok(opened) => opened,
            Err(_elapsed) => Err(DbError::Timeout(OPEN_TIMEOUT).into()),
        }
    }

    /// Makes checkpoints until `stop` is cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut attempts: u32 = 0;
        loop {
            match self.round().await {
                Ok(()) => {
                    if attempts > 0 {
                        tracing::info!("checkpoints succeed again");
                    }
                    attempts = 0;
                    self.status.running();
                }
                Err(error) => {
                    attempts += 1;
                    self.failed(&error, attempts);
                }
            }
            let checkpoints = Arc::clone(&self.checkpoints);
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                // After a pause: a server that shuts down breaks many connections, and each requests a checkpoint.
                () = async { checkpoints.wake.notified().await; tokio::time::sleep(INTERVAL / 4).await } => {}
                () = stop.cancelled() => break,
            }
        }
        // If this fails, the next run trims the journal.
        let _ignored = tokio::time::timeout(INTERVAL, self.round()).await;
    }

    fn failed(&self, error: &CheckpointError, attempts: u32) {
        let is_passing = matches!(error, CheckpointError::Database(error) if error.is_passing());
        let state = if is_passing { WriterState::Retrying } else { WriterState::Halted };
        if attempts.is_power_of_two() {
            tracing::warn!(
                attempts,
                error = crate::db::chain(error),
                "the checkpoint failed; the journal is not trimmed"
            );
        }
        let _logged_above = self.status.failed(state, crate::db::chain(error));
    }

    async fn round(&mut self) -> Result<(), CheckpointError> {
        let round = async {
            self.open().await?;
            self.checkpoint().await?;
            self.expire_keys().await
        };
        match tokio::time::timeout(TIMEOUT, round).await {
            Ok(done) => done,
            Err(_elapsed) => Err(DbError::Timeout(TIMEOUT).into()),
        }
    }

    async fn checkpoint(&mut self) -> Result<(), CheckpointError> {
        let journals = self.backlog.progress();
        let progress: Vec<_> = journals
            .iter()
            .map(|progress| (progress.journal, progress.held.end, length(&progress.settled)))
            .collect();
        self.report_progress();
        let requested = self.checkpoints.requested.swap(false, Ordering::Relaxed);
        let is_idle = !requested && progress == self.last_progress;
        if is_idle && self.last_check.elapsed() < IDLE_INTERVAL {
            return Ok(());
        }
        let mut connection = self.database.get().await?;
        let ids: Vec<JournalId> = journals.iter().map(|progress| progress.journal).collect();
        if is_idle && self.is_unchanged(&connection, &ids).await? {
            self.last_check = Instant::now();
            return Ok(());
        }
        if let Some(found) = self.receipts.timeline(&connection).await {
            let seen = self.timeline.unwrap_or(found);
            if found < seen {
                connection.discard();
                return Err(CheckpointError::OldTimeline { found, seen });
            }
            self.timeline = Some(found);
        }
        let coverage = self.receipts.checkpoint(&mut connection, &ids).await?;
        drop(connection);
        let mut accounts = Vec::new();
        let mut rewound = false;
        for progress in &journals {
            let JournalProgress { journal, held, .. } = progress;
            let Some((_, covered)) = coverage.iter().find(|(known, _)| known == journal) else {
                let events = held.end - held.start;
                return Err(CheckpointError::UnknownJournal { journal: journal.0, events });
            };
            self.checkpoints.set(*journal, covered.checkpoint);
            rewound |= self.rewind(progress, covered);
            // Read after the receipts, so that no settled event is missing from the accepted ones.
            let accepted = self.backlog.reader().flushed(*journal).unwrap_or(held.end);
            accounts.push(Account { journal: *journal, accepted, counts: covered.counts });
        }
        self.ledger.set(accounts);
        self.trim(coverage).await;
        self.last_progress = if rewound { Vec::new() } else { progress };
        self.last_check = Instant::now();
        Ok(())
    }

    /// Whether the database has the numbers of the last checkpoint.
    async fn is_unchanged(&self, connection: &Connection, journals: &[JournalId]) -> Result<bool, DbError> {
        let numbers = self.receipts.checkpoint_numbers(connection, journals).await?;
        Ok(numbers.len() == journals.len()
            && numbers.iter().all(|(journal, number)| {
                self.checkpoints.is_highest(*journal, *number)
                    && self.checkpoints.observe(*journal, *number, None)
            }))
    }

    /// Delivers again the events that the database has lost.
    fn rewind(&self, progress: &JournalProgress, covered: &Coverage) -> bool {
        let mut expected = progress.settled.clone();
        if progress.held.start > 0 {
            // Trimmed sequences were durable.
            expected.insert(0..progress.held.start);
        }
        let lost: RangeSet<u64> = expected.iter().flat_map(|range| covered.settled.gaps(range)).collect();
        if lost.is_empty() {
            return false;
        }
        let rewound = self.backlog.rewind(progress.journal, &lost);
        let before = self.ledger.set_lost(progress.journal, rewound.gone);
        if rewound.replayed == 0 && before == Some(rewound.gone) {
            return false;
        }
        tracing::warn!(
            journal = %progress.journal.0,
            replayed = rewound.replayed,
            gone = rewound.gone,
            "Postgres has lost events; those that the journal holds are stored again"
        );
        rewound.replayed > 0
    }

    async fn expire_keys(&mut self) -> Result<(), CheckpointError> {
        if self.keys_expired.is_some_and(|expired| expired.elapsed() < KEY_EXPIRY_INTERVAL) {
            return Ok(());
        }
        self.keys_expired = Some(Instant::now());
        let now = match self.database.deletion_time().await {
            // Reported by health; the checkpoint itself has succeeded.
            Err(DbError::ClocksDiffer { .. }) => return Ok(()),
            now => now?,
        };
        let connection = self.database.get().await?;
        let parameters: [Parameter<'_>; 2] = [(&self.key_window_s, Type::FLOAT8), (&now, Type::TIMESTAMPTZ)];
        let forget = sql!(self.database, "ingest/forget_keys.sql");
        query_in_time(&connection, KEY_EXPIRY_TIMEOUT, forget, &parameters).await?;
        Ok(())
    }

    async fn trim(&mut self, coverage: Vec<(JournalId, Coverage)>) {
        let reader = Arc::clone(self.backlog.reader());
        let trimmed = tokio::task::spawn_blocking(move || {
            coverage.iter().try_for_each(|(journal, covered)| reader.trim(*journal, &covered.settled))
        });
        if let Ok(Err(error)) = trimmed.await {
            tracing::warn!(error = error.to_string(), "the journal cannot be trimmed");
        }
        self.backlog.refresh();
    }

    fn report_progress(&mut self) {
        let pending = self.backlog.pending();
        let now = Instant::now();
        match self.reporting {
            None if pending > LARGE_BACKLOG => self.reporting = Some((now, pending)),
            Some((since, before)) => {
                let elapsed = now.duration_since(since);
                if elapsed < PROGRESS_INTERVAL {
                    return;
                }
                let per_s = before.saturating_sub(pending) / elapsed.as_secs().max(1);
                tracing::info!(pending, settled_per_s = per_s, "storing the journal's backlog");
                self.reporting = (pending > LARGE_BACKLOG).then_some((now, pending));
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_another_one_has_overtaken_is_no_way_back_in_time() {
        let (checkpoints, journal) = (Checkpoints::default(), JournalId(uuid::Uuid::from_u128(1)));
        assert!(checkpoints.observe(journal, 4, checkpoints.latest(journal)));
        // Sent before the checkpoint, and handled after it.
        let since = checkpoints.latest(journal);
        checkpoints.set(journal, 5);
        assert!(checkpoints.observe(journal, 4, since) && checkpoints.latest(journal) == Some(5));
        assert!(!checkpoints.requested.load(Ordering::Relaxed));
        // Sent after it.
        assert!(!checkpoints.observe(journal, 4, checkpoints.latest(journal)));
        assert!(checkpoints.requested.load(Ordering::Relaxed));
    }
}
