//! Decides what of the journal is safe in Postgres, and finds what Postgres has lost.
//!
//! Batches are committed without waiting for Postgres' disk, since the journal still holds them. About once a second a
//! fence reads all receipts and commits with `synchronous_commit = on`: whatever *it has read* is durable from then on,
//! and that alone may be trimmed from the journal.
//!
//! What was settled, as far as this process knows, and is not among the receipts that a fence reads, was lost: by a crash
//! of Postgres, by a failover to a standby that lagged behind, by a restore to an older point. It is handed out again.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rangemap::RangeSet;
use tokio::sync::Notify;
use tokio_postgres::types::Type;
use tokio_util::sync::CancellationToken;

use super::backlog::{Backlog, Known, length};
use super::ledger::{Account, Ledger};
use super::receipts::{Coverage, Receipts};
use super::registered_journals::RegisteredJournals;
use crate::db::{Connection, Database, DbError, Parameter, query_in_time};
use crate::ingest::journal::JournalId;
use crate::ingest::status::{WriterState, WriterStatus};

const INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked whether the database went back in time while nothing was stored.
const IDLE_LOOK: Duration = Duration::from_secs(10);
/// The longest that a fence may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long a start waits for what Postgres knows of the journals.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two deletions of keys that are older than their window.
const FORGET_KEYS: Duration = Duration::from_secs(60);
/// For the deletion of keys.
const FORGET_TIMEOUT: Duration = Duration::from_secs(50);
/// Between two lines about a backlog that drains.
const PROGRESS: Duration = Duration::from_secs(10);
/// A backlog smaller than this drains without a word.
const LARGE_BACKLOG: u64 = 100_000;

/// Why the journal and the database do not go together.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The database does not know a journal that was registered with it.
    #[error(
        "the database does not know journal {journal}, which holds {events} events and was registered before: this is another database, or one that was restored to an older point. Point DATABASE_URL at the right one, or start with --adopt-database to store all that the journal holds in this one"
    )]
    UnknownJournal {
        /// The journal.
        journal: uuid::Uuid,
        /// Events that it holds.
        events: u64,
    },
    /// This server is older than the one seen before.
    #[error(
        "this server is on timeline {found}, and timeline {seen} was seen before: it is a former primary"
    )]
    OldTimeline {
        /// Its timeline.
        found: i64,
        /// The highest seen.
        seen: i64,
    },
    /// The list of registered journals cannot be kept.
    #[error("cannot keep the list of registered journals")]
    Files(#[from] std::io::Error),
    /// Postgres says no.
    #[error("{}", .0.with_sources())]
    Database(#[from] DbError),
}

/// The highest fence of each journal that was seen, and what wakes the keeper.
#[derive(Debug, Default)]
pub struct Checkpoint {
    highest: Mutex<HashMap<JournalId, i64>>,
    look: Notify,
    /// Somebody asked for a look since the last one.
    wanted: AtomicBool,
}

impl Checkpoint {
    /// Takes note of a fence; false if it is lower than one seen before, and the keeper looks at once.
    pub fn saw(&self, journal: JournalId, fence: i64) -> bool {
        let mut highest = self.highest.lock().unwrap_or_else(PoisonError::into_inner);
        let known = highest.entry(journal).or_insert(fence);
        if fence < *known {
            self.look();
            return false;
        }
        *known = fence;
        true
    }

    /// The keeper looks at once.
    pub fn look(&self) {
        self.wanted.store(true, Ordering::Relaxed);
        self.look.notify_one();
    }

    /// Whether this is the fence that was seen last: a higher one was set by a command that changed receipts.
    fn is_last(&self, journal: JournalId, fence: i64) -> bool {
        let highest = self.highest.lock().unwrap_or_else(PoisonError::into_inner);
        highest.get(&journal).is_none_or(|known| *known == fence)
    }

    fn fenced(&self, journal: JournalId, fence: i64) {
        self.highest.lock().unwrap_or_else(PoisonError::into_inner).insert(journal, fence);
    }
}

/// Opens journals and sets fences.
#[derive(Debug)]
pub struct Checkpointer {
    database: Database,
    receipts: Receipts,
    /// Deletes keys that are older than `key_window_s`.
    forget_keys: String,
    key_window_s: f64,
    backlog: Arc<Backlog>,
    fences: Arc<Checkpoint>,
    ledger: Arc<Ledger>,
    status: Arc<WriterStatus>,
    registered: RegisteredJournals,
    adopt: bool,
    timeline: Option<i64>,
    /// What was known when the last fence was set; nothing is to be done while it stays so.
    last: Vec<(JournalId, u64, u64)>,
    looked: Instant,
    progress: Option<(Instant, u64)>,
    keys_forgotten: Option<Instant>,
}

impl Checkpointer {
    /// A keeper of the journals in `dir`. With `adopt` a database that does not know them is given all that they hold.
    ///
    /// # Errors
    ///
    /// If the list of registered journals cannot be read.
    pub fn new(
        database: Database,
        backlog: &Arc<Backlog>,
        dir: &Path,
        adopt: bool,
        key_window_s: u64,
    ) -> Result<Self, CheckpointError> {
        Ok(Self {
            receipts: Receipts::new(&database),
            forget_keys: database.sql(include_str!("../../../sql/ingest/forget_keys.sql")),
            key_window_s: key_window_s as f64,
            database,
            backlog: Arc::clone(backlog),
            fences: Arc::default(),
            ledger: Arc::default(),
            status: Arc::default(),
            registered: RegisteredJournals::read(dir)?,
            adopt,
            timeline: None,
            last: Vec::new(),
            looked: Instant::now(),
            progress: None,
            keys_forgotten: None,
        })
    }

    /// The fences seen, for the lanes.
    pub fn fences(&self) -> &Arc<Checkpoint> {
        &self.fences
    }

    /// The accounts.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// What it is doing.
    pub fn status(&self) -> &Arc<WriterStatus> {
        &self.status
    }

    /// Makes all journals known to the database and reads what it has of them; from then on they are drained.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`]; those that were opened before it stay open.
    pub async fn open(&mut self) -> Result<(), CheckpointError> {
        for known in self.backlog.known().into_iter().filter(|known| !known.open) {
            let mut connection = self.database.get().await?;
            let is_known = self.receipts.is_known(&connection, known.journal).await?;
            let events = known.held.end - known.held.start;
            if !is_known && self.registered.contains(known.journal.0) && events > 0 && !self.adopt {
                return Err(CheckpointError::UnknownJournal { journal: known.journal.0, events });
            }
            self.receipts.register(&mut connection, known.journal).await?;
            self.register(move |list| list.add(known.journal.0)).await?;
            // Read only now: whatever a former process had under way has ended.
            let receipts = &self.receipts;
            let settled = match known.held.is_empty() {
                true => RangeSet::new(),
                false => receipts.over(&connection, known.journal, &known.held).await?,
            };
            let pending = events - length(&settled);
            if pending > 0 {
                tracing::info!(journal = %known.journal.0, pending, "storing what a former run left in its journal");
            }
            self.backlog.open(known.journal, &settled);
        }
        Ok(())
    }

    /// Changes the list of registered journals off the runtime, as it is synced to the disk.
    async fn register(
        &mut self,
        change: impl FnOnce(&mut RegisteredJournals) -> std::io::Result<()> + Send + 'static,
    ) -> std::io::Result<()> {
        let mut list = self.registered.clone();
        let (list, changed) = tokio::task::spawn_blocking(move || {
            let changed = change(&mut list);
            (list, changed)
        })
        .await?;
        self.registered = list;
        changed
    }

    /// As [`Self::open`], within the time of a round.
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

    /// Keeps fences until `stop` is cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut attempts: u32 = 0;
        loop {
            let wait = match self.round().await {
                Ok(()) => {
                    if attempts > 0 {
                        tracing::info!("the journal and Postgres go together again");
                    }
                    attempts = 0;
                    self.status.running();
                    INTERVAL
                }
                Err(error) => {
                    attempts += 1;
                    self.failed(&error, attempts);
                    INTERVAL
                }
            };
            let look = Arc::clone(&self.fences);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // Not at once: a server that is just coming down breaks many connections.
                () = async { look.look.notified().await; tokio::time::sleep(INTERVAL / 4).await } => {}
                () = stop.cancelled() => break,
            }
        }
        // What was stored last is trimmed by the next run if this does not come through.
        let _left = tokio::time::timeout(INTERVAL, self.round()).await;
    }

    fn failed(&self, error: &CheckpointError, attempts: u32) {
        let passing = matches!(error, CheckpointError::Database(error) if error.is_passing());
        let state = if passing { WriterState::Retrying } else { WriterState::Halted };
        if attempts.is_power_of_two() {
            tracing::warn!(
                attempts,
                error = crate::db::chain(error),
                "no fence could be set; the journal is not trimmed"
            );
        }
        let _logged_above = self.status.failed(state, crate::db::chain(error));
    }

    async fn round(&mut self) -> Result<(), CheckpointError> {
        let round = async {
            self.open().await?;
            self.fence().await?;
            self.forget_keys().await
        };
        match tokio::time::timeout(TIMEOUT, round).await {
            Ok(done) => done,
            Err(_elapsed) => Err(DbError::Timeout(TIMEOUT).into()),
        }
    }

    async fn fence(&mut self) -> Result<(), CheckpointError> {
        let known: Vec<Known> = self.backlog.known();
        let seen: Vec<_> =
            known.iter().map(|known| (known.journal, known.held.end, length(&known.settled))).collect();
        self.tell_progress();
        let wanted = self.fences.wanted.swap(false, Ordering::Relaxed);
        if !wanted && seen == self.last && self.looked.elapsed() < IDLE_LOOK {
            return Ok(());
        }
        let mut connection = self.database.get().await?;
        let journals: Vec<JournalId> = known.iter().map(|known| known.journal).collect();
        if !wanted && seen == self.last && self.is_as_it_was(&connection, &journals).await? {
            self.looked = Instant::now();
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
        let coverage = self.receipts.fence(&mut connection, &journals).await?;
        drop(connection);
        let mut accounts = Vec::new();
        let mut rewound = false;
        for known in &known {
            let Some((_, covered)) = coverage.iter().find(|(journal, _)| *journal == known.journal) else {
                let events = known.held.end - known.held.start;
                return Err(CheckpointError::UnknownJournal { journal: known.journal.0, events });
            };
            self.fences.fenced(known.journal, covered.fence);
            rewound |= self.rewind(known, covered);
            // Looked at after the receipts, so that nothing is settled that is not accepted.
            let accepted = self.backlog.store().synced(known.journal).unwrap_or(known.held.end);
            accounts.push(Account { journal: known.journal, accepted, counts: covered.counts });
        }
        self.ledger.set(accounts);
        self.trim(coverage).await;
        self.last = if rewound { Vec::new() } else { seen };
        self.looked = Instant::now();
        Ok(())
    }

    /// Whether the database has the fences that were set last.
    async fn is_as_it_was(&self, connection: &Connection, journals: &[JournalId]) -> Result<bool, DbError> {
        let fences = self.receipts.fences(connection, journals).await?;
        Ok(fences.len() == journals.len()
            && fences.iter().all(|(journal, fence)| {
                self.fences.is_last(*journal, *fence) && self.fences.saw(*journal, *fence)
            }))
    }

    /// Hands out again what the database does not have any more.
    fn rewind(&self, known: &Known, covered: &Coverage) -> bool {
        let mut expected = known.settled.clone();
        if known.held.start > 0 {
            // What was trimmed had been settled for good.
            expected.insert(0..known.held.start);
        }
        let lost: RangeSet<u64> = expected.iter().flat_map(|range| covered.settled.gaps(range)).collect();
        if lost.is_empty() {
            return false;
        }
        let rewound = self.backlog.rewind(known.journal, &lost);
        let before = self.ledger.set_lost(known.journal, rewound.gone);
        if rewound.replayed == 0 && before == Some(rewound.gone) {
            return false;
        }
        tracing::warn!(
            journal = %known.journal.0,
            replayed = rewound.replayed,
            gone = rewound.gone,
            "Postgres has lost events that it had; those that the journal holds are stored again"
        );
        rewound.replayed > 0
    }

    /// Keys beyond their window are of no use to anyone.
    async fn forget_keys(&mut self) -> Result<(), CheckpointError> {
        if self.keys_forgotten.is_some_and(|forgotten| forgotten.elapsed() < FORGET_KEYS) {
            return Ok(());
        }
        self.keys_forgotten = Some(Instant::now());
        let now = match self.database.deletion_time().await {
            // Health has it; the fence itself is well.
            Err(DbError::ClocksDiffer { .. }) => return Ok(()),
            now => now?,
        };
        let connection = self.database.get().await?;
        let parameters: [Parameter<'_>; 2] = [(&self.key_window_s, Type::FLOAT8), (&now, Type::TIMESTAMPTZ)];
        query_in_time(&connection, FORGET_TIMEOUT, &self.forget_keys, &parameters).await?;
        Ok(())
    }

    async fn trim(&mut self, coverage: Vec<(JournalId, Coverage)>) {
        let store = Arc::clone(self.backlog.store());
        let trimmed = tokio::task::spawn_blocking(move || {
            coverage.iter().try_for_each(|(journal, covered)| store.trim(*journal, &covered.settled))
        });
        if let Ok(Err(error)) = trimmed.await {
            tracing::warn!(error = error.to_string(), "the journal cannot be trimmed");
        }
        self.backlog.refresh();
        let held = self.backlog.known();
        let retained =
            self.register(move |list| list.retain(|id| held.iter().any(|known| known.journal.0 == id)));
        if let Err(error) = retained.await {
            tracing::debug!(error = error.to_string(), "the list of registered journals is not shortened");
        }
    }

    fn tell_progress(&mut self) {
        let pending = self.backlog.pending();
        let now = Instant::now();
        match self.progress {
            None if pending > LARGE_BACKLOG => self.progress = Some((now, pending)),
            Some((since, before)) => {
                let elapsed = now.duration_since(since);
                if elapsed < PROGRESS {
                    return;
                }
                let per_s = before.saturating_sub(pending) / elapsed.as_secs().max(1);
                tracing::info!(pending, settled_per_s = per_s, "working through the journal's backlog");
                self.progress = (pending > LARGE_BACKLOG).then_some((now, pending));
            }
            None => {}
        }
    }
}
