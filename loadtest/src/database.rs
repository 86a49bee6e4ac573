//! The service's database: its location, and the rows of a run.
//!
//! Behind a pooler each transaction may use another server connection, so every statement is in a transaction with its own
//! settings, and none is prepared by name.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, TryStreamExt as _};
use tidegate_connection::{ConnectionUrl, Connector, Failure, UrlError};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Transaction};

use crate::environment::variable;
use crate::payload::now_ms;
use crate::program::{self, Program};

const COUNT_RUN: &str = include_str!("../sql/count_run.sql");
const HOLD_REQUESTS: &str = include_str!("../sql/hold_requests.sql");
const MAKE_FLOOR: &str = include_str!("../sql/make_floor.sql");
const COPY_OUT: &str = include_str!("../sql/copy_out.sql");
const COPY_FLOOR: &str = include_str!("../sql/copy_floor.sql");
const COUNT_DEAD: &str = include_str!("../sql/count_dead.sql");
const INSTALL_BAD: &str = include_str!("../sql/install_bad.sql");
const REMOVE_BAD: &str = include_str!("../sql/remove_bad.sql");
const PIECE_BYTES: usize = 128 * 1024;
const DOUBLED_TRACES: &str = include_str!("../sql/doubled_traces.sql");

/// The settings of each transaction. Counting millions of rows takes time, but is bounded.
const SETTINGS: &str =
    "set local statement_timeout = '120s'; set local work_mem = '64MB'; set local jit = off";
/// Attempts to add the constraint of bad events: each waits for its lock, and blocks every COPY meanwhile.
const BAD_TRIES: u32 = 20;
const BAD_LOCK: &str = "set local lock_timeout = '1s'";

/// The leeway for the clock of row ids.
const CLOCK_MARGIN_MS: u64 = 60_000;

/// The time of an attempt at one host, as the service has it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The service's default of `DB_SCHEMA`.
const DEFAULT_SCHEMA: &str = "public";

/// The reason why the database cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The service's program cannot be asked for its database.
    #[error("no database to audit; give --database-url, or --no-audit")]
    Unknown(#[from] program::Error),
    /// An invalid URL. It may hold a password, so it is not repeated.
    #[error("the database URL cannot be used")]
    BadUrl(#[from] UrlError),
    /// No answer, or a rejection.
    #[error(transparent)]
    Connect(#[from] Failure),
    /// A statement failed.
    #[error("the database cannot be asked for the run's rows")]
    Query(#[from] tokio_postgres::Error),
}

/// The location of the run's rows.
#[derive(Debug, Clone)]
pub(crate) struct Location {
    connector: Arc<Connector>,
    schema: String,
}

/// How the database is found.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Given<'a> {
    /// Its URL.
    pub(crate) url: Option<&'a str>,
    /// The service's schema.
    pub(crate) schema: Option<&'a str>,
    /// The service's program.
    pub(crate) program: Option<&'a Path>,
}

impl Location {
    /// The given database; else `DATABASE_URL` and `DB_SCHEMA`; else what the service's program reports, which reads `.env` and
    /// knows its private cluster. Within a runtime.
    pub(crate) fn find(given: Given<'_>) -> Result<Self, Error> {
        let named = given.schema.map(str::to_owned).or_else(|| variable("DB_SCHEMA"));
        let (url, schema) = match given.url.map(str::to_owned).or_else(|| variable("DATABASE_URL")) {
            Some(url) => (url, named),
            None => {
                let program = Program::find(given.program)?;
                let schema = if named.is_some() { named } else { program.schema()? };
                (program.database_url()?, schema)
            }
        };
        let connector = Connector::new(&ConnectionUrl::parse(&url)?, CONNECT_TIMEOUT)?;
        Ok(Self {
            connector: Arc::new(connector),
            schema: schema.unwrap_or_else(|| DEFAULT_SCHEMA.to_owned()),
        })
    }

    /// Connects, by TLS if the URL requires it.
    pub(crate) async fn connect(&self) -> Result<Database, Error> {
        let client = self.connector.connect_in_time().await?;
        let schema = quoted(&self.schema);
        Ok(Database { client, settings: format!("{SETTINGS}; set local search_path to {schema}") })
    }
}

/// The trace ids of one run.
#[derive(Debug, Clone)]
pub(crate) struct RunRows {
    lowest_id: String,
    prefix: String,
    unanswered: Vec<String>,
}

impl RunRows {
    /// The rows of `run`, which starts now.
    pub(crate) fn starting_now(run: &str) -> Self {
        let earliest_ms = now_ms().saturating_sub(CLOCK_MARGIN_MS);
        let lowest = uuid::Builder::from_unix_timestamp_millis(earliest_ms, &[0; 10]).into_uuid();
        Self { lowest_id: lowest.to_string(), prefix: format!("{run}-"), unanswered: Vec::new() }
    }

    /// Sets the trace ids of events without an answer, which are counted apart.
    pub(crate) fn set_unanswered(&mut self, trace_ids: Vec<String>) {
        self.unanswered = trace_ids;
    }
}

/// The rows of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RunCounts {
    /// Rows in `requests`.
    pub(crate) stored: u64,
    /// Dead letters for another reason than overload.
    pub(crate) dead: u64,
    /// Distinct trace ids among them, of events with an answer.
    pub(crate) answered: u64,
    /// Distinct trace ids among them, of events without an answer.
    pub(crate) unanswered: u64,
}

/// One connection to the database.
pub(crate) struct Database {
    client: Client,
    settings: String,
}

impl Database {
    async fn begin(&mut self) -> Result<Transaction<'_>, tokio_postgres::Error> {
        let transaction = self.client.transaction().await?;
        transaction.batch_execute(&self.settings).await?;
        Ok(transaction)
    }

    /// Counts the rows of a run.
    pub(crate) async fn count(&mut self, run: &RunRows) -> Result<RunCounts, Error> {
        let transaction = self.begin().await?;
        let parameters: [(&(dyn ToSql + Sync), Type); 3] =
            [(&run.lowest_id, Type::TEXT), (&run.prefix, Type::TEXT), (&run.unanswered, Type::TEXT_ARRAY)];
        let rows = transaction.query_typed(COUNT_RUN, &parameters).await?;
        let count = |column| {
            let count = rows.first().map_or(Ok(0), |row| row.try_get::<_, i64>(column));
            count.map(i64::unsigned_abs)
        };
        Ok(RunCounts {
            stored: count("stored")?,
            dead: count("dead")?,
            answered: count("answered")?,
            unanswered: count("unanswered")?,
        })
    }

    /// Adds the constraint that rejects bad events.
    pub(crate) async fn reject_bad(&mut self) -> Result<(), Error> {
        self.change_constraint(INSTALL_BAD).await
    }

    /// Drops the constraint that rejects bad events.
    pub(crate) async fn take_bad(&mut self) -> Result<(), Error> {
        self.change_constraint(REMOVE_BAD).await
    }

    async fn change_constraint(&mut self, change: &str) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let transaction = self.begin().await?;
            let changed = transaction.batch_execute(&format!("{BAD_LOCK}; {change}")).await;
            match changed {
                Ok(()) => return Ok(transaction.commit().await?),
                Err(error) if tries < BAD_TRIES && is_lock_missed(&error) => transaction.rollback().await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Counts dead letters of events accepted from `lowest` on.
    pub(crate) async fn dead_from(&mut self, lowest: &uuid::Uuid) -> Result<u64, Error> {
        let transaction = self.begin().await?;
        let rows = transaction.query_typed(COUNT_DEAD, &[(lowest, Type::UUID)]).await?;
        Ok(rows.first().map_or(Ok(0), |row| row.try_get::<_, i64>(0))?.unsigned_abs())
    }

    /// The smallest id of events sent from now on.
    pub(crate) fn rows_from_now(&self) -> uuid::Uuid {
        uuid::Builder::from_unix_timestamp_millis(now_ms(), &[0; 10]).into_uuid()
    }

    /// Locks the table: nothing is stored until [`Database::let_go`].
    pub(crate) async fn hold_requests(&self) -> Result<(), Error> {
        self.client.batch_execute(&format!("begin; {}", self.settings)).await?;
        Ok(self.client.batch_execute(HOLD_REQUESTS).await?)
    }

    /// Releases the lock.
    pub(crate) async fn let_go(&self) -> Result<(), Error> {
        Ok(self.client.batch_execute("commit").await?)
    }

    /// Copies the rows from `lowest` on into a table of the same shape, with one plain COPY; returns their number, and the time
    /// of that COPY alone.
    pub(crate) async fn copy_floor(&mut self, lowest: &uuid::Uuid) -> Result<(u64, Duration), Error> {
        let transaction = self.begin().await?;
        transaction
            .batch_execute("set local statement_timeout = 0; drop table if exists drain_floor")
            .await?;
        transaction.batch_execute(MAKE_FLOOR).await?;
        let out = transaction.copy_out(&COPY_OUT.replace("{lowest}", &lowest.to_string())).await?;
        let pieces: Vec<Bytes> = out.try_collect().await?;
        transaction.commit().await?;
        let transaction = self.begin().await?;
        transaction.batch_execute("set local statement_timeout = 0").await?;
        let started = Instant::now();
        let sink = transaction.copy_in::<_, Bytes>(COPY_FLOOR).await?;
        let mut sink = std::pin::pin!(sink);
        // In chunks of a client's size: one message per row would measure the messages.
        let mut buffer = BytesMut::with_capacity(2 * PIECE_BYTES);
        for piece in pieces {
            buffer.extend_from_slice(&piece);
            if buffer.len() >= PIECE_BYTES {
                sink.feed(buffer.split().freeze()).await?;
            }
        }
        sink.send(buffer.freeze()).await?;
        let rows = sink.finish().await?;
        transaction.commit().await?;
        let elapsed = started.elapsed();
        let transaction = self.begin().await?;
        transaction.batch_execute("drop table drain_floor").await?;
        transaction.commit().await?;
        Ok((rows, elapsed))
    }

    /// Some trace ids with more than one row.
    pub(crate) async fn doubled(&mut self, run: &RunRows) -> Result<Vec<String>, Error> {
        let transaction = self.begin().await?;
        let parameters: [(&(dyn ToSql + Sync), Type); 2] =
            [(&run.lowest_id, Type::TEXT), (&run.prefix, Type::TEXT)];
        let rows = transaction.query_typed(DOUBLED_TRACES, &parameters).await?;
        rows.iter().map(|row| Ok(row.try_get("trace_id")?)).collect()
    }
}

/// Whether a lock was not available in time, or only at the price of a COPY.
fn is_lock_missed(error: &tokio_postgres::Error) -> bool {
    let missed = [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED];
    error.code().is_some_and(|code| missed.contains(code))
}

/// `name` as a quoted identifier.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_name_cannot_leave_its_quotes() {
        assert_eq!(quoted("public"), "\"public\"");
        assert_eq!(quoted("a\"; drop table x; --"), "\"a\"\"; drop table x; --\"");
    }

    #[test]
    fn the_lowest_id_lies_before_every_id_of_the_run() {
        let before = now_ms();
        let rows = RunRows::starting_now("lt-x");
        let first = uuid::Builder::from_unix_timestamp_millis(before, &[0; 10]).into_uuid();
        let lowest: uuid::Uuid = rows.lowest_id.parse().unwrap();
        assert!(lowest < first);
        let (seconds, _) = lowest.get_timestamp().unwrap().to_unix();
        assert!(before / 1000 - seconds <= 61);
    }
}
