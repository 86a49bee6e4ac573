//! Gets encoded tuples into a table, however long it takes.
//!
//! A landing ends in one of two ways: the rows are stored, or Postgres says that one of them is at fault. Everything
//! else (no connection, a restart, a full disk, a missing table) is waited out here, with the state for health to show.
//!
//! A connection lost at a COPY's commit leaves its fate in doubt. A COPY is atomic, so asking for its first row's id
//! settles it before it is tried again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::copy::copy_rows;
use super::retry::Verdict;
use super::row;
use crate::db::{Database, DbError};
use crate::observe::Metrics;

/// What a writer is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WriterState {
    /// Storing, or waiting for something to store.
    #[default]
    Running,
    /// Waiting to try again: a passing error.
    Retrying,
    /// Waiting for the database to be mended.
    Halted,
}

impl WriterState {
    /// The state's name in health.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Halted => "halted",
        }
    }
}

/// The last error that a writer met.
#[derive(Debug, Clone)]
pub struct LastError {
    /// What happened, with its SQLSTATE where there is one.
    pub message: String,
    /// When it was last seen.
    pub at: SystemTime,
}

/// What health shows of the writers; shared by all of one table.
#[derive(Debug, Default)]
pub struct WriterStatus(Mutex<(WriterState, Option<LastError>)>);

impl WriterStatus {
    /// The state and the last error.
    pub fn get(&self) -> (WriterState, Option<LastError>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn failed(&self, state: WriterState, message: String) {
        let error = LastError { message, at: SystemTime::now() };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (state, Some(error));
    }

    fn running(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0 = WriterState::Running;
    }
}

/// The statements of the table that rows land in.
#[derive(Debug, Clone)]
pub struct LandingTable {
    /// Its name in logs.
    pub name: &'static str,
    /// `copy … from stdin (format binary)`.
    pub copy: String,
    /// Whether a row with the id `$1` exists.
    pub has_id: String,
}

/// Postgres refuses a row, whoever sends it and however often.
#[derive(Debug)]
pub struct Rejected {
    /// What Postgres says.
    pub error: DbError,
    /// How often it was tried.
    pub attempts: u32,
}

/// Lands rows in one table.
#[derive(Debug, Clone)]
pub struct Lander {
    database: Database,
    table: Arc<LandingTable>,
    status: Arc<WriterStatus>,
    metrics: Arc<Metrics>,
    deadline: Duration,
}

impl Lander {
    /// Lands rows in `table`; a COPY that takes longer than `deadline` is given up and tried again.
    pub fn new(database: Database, table: LandingTable, metrics: Arc<Metrics>, deadline: Duration) -> Self {
        Self { database, table: Arc::new(table), status: Arc::default(), metrics, deadline }
    }

    /// What the writers of this table are doing.
    pub fn status(&self) -> &Arc<WriterStatus> {
        &self.status
    }

    /// Stores the tuples of `stretches`; returns the time that the COPY took.
    ///
    /// # Errors
    ///
    /// [`Rejected`] if a row is at fault.
    pub async fn land<'a, I>(&self, stretches: I) -> Result<Duration, Rejected>
    where
        I: Iterator<Item = &'a [u8]> + Clone,
    {
        let mut attempts = 0;
        let mut in_doubt = false;
        loop {
            attempts += 1;
            let error = match self.attempt(stretches.clone(), &mut in_doubt).await {
                Ok(elapsed) => {
                    self.recovered(attempts);
                    return Ok(elapsed);
                }
                Err(error) => error,
            };
            let verdict = match Verdict::on(&error) {
                // An earlier attempt that was given up is being stored after all: the next look will find its rows.
                Verdict::Bisect if in_doubt && error.sql_state() == Some(&SqlState::UNIQUE_VIOLATION) => {
                    Verdict::Retry
                }
                verdict => verdict,
            };
            if verdict == Verdict::Bisect {
                // Postgres answers, and the rows are dealt with one by one: nothing is waited for any more.
                self.status.running();
                return Err(Rejected { error, attempts });
            }
            self.wait_out(verdict, &error, attempts).await;
        }
    }

    /// One attempt. `in_doubt` says whether an earlier one may have been stored, and is kept for the next.
    async fn attempt<'a, I>(&self, stretches: I, in_doubt: &mut bool) -> Result<Duration, DbError>
    where
        I: Iterator<Item = &'a [u8]> + Clone,
    {
        let started = Instant::now();
        let mut connection = self.database.get().await?;
        let work = async {
            if *in_doubt && let Some(id) = first_id(stretches.clone()) {
                let stored: bool = connection.query_one(&self.table.has_id, &[&id]).await?.try_get(0)?;
                if stored {
                    return Ok(());
                }
            }
            let statement = connection.prepare_cached(&self.table.copy).await?;
            copy_rows(&mut connection, &statement, stretches).await
        };
        match tokio::time::timeout(self.deadline, work).await {
            Ok(Ok(())) => Ok(started.elapsed()),
            Ok(Err(failed)) => {
                *in_doubt |= failed.in_doubt;
                Err(failed.error.into())
            }
            Err(_elapsed) => {
                *in_doubt = true;
                connection.discard();
                Err(DbError::Timeout(self.deadline))
            }
        }
    }

    fn recovered(&self, attempts: u32) {
        if attempts > 1 {
            tracing::info!(table = self.table.name, attempts, "storing again");
        }
        self.status.running();
    }

    async fn wait_out(&self, verdict: Verdict, error: &DbError, attempts: u32) {
        let state = if verdict == Verdict::Halt { WriterState::Halted } else { WriterState::Retrying };
        let message = error.with_sources();
        // Once when it begins and now and then after that, not at each attempt of an outage.
        if attempts.is_power_of_two() {
            let (table, verdict) = (self.table.name, verdict.name());
            tracing::warn!(
                table,
                attempts,
                verdict,
                error = message,
                "cannot store; the events are kept and tried again"
            );
        }
        self.metrics.retries.with_label_values(&[verdict.name()]).inc();
        self.status.failed(state, message);
        tokio::time::sleep(verdict.delay(attempts)).await;
    }
}

fn first_id<'a>(mut stretches: impl Iterator<Item = &'a [u8]>) -> Option<Uuid> {
    let tuple = row::tuples(stretches.next()?).next()?;
    Uuid::from_slice(tuple.field(0)?).ok()
}
