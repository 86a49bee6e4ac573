//! The database that the service lands its events in: where it is, and what it holds of a run.

use std::process::Command;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::NoTls;

use crate::payload::now_ms;

const COUNT_RUN: &str = include_str!("../sql/count_run.sql");
const DOUBLED_TRACES: &str = include_str!("../sql/doubled_traces.sql");

/// Counting millions of rows takes its time, but not for ever.
const SESSION: &str = "set statement_timeout = '120s'; set work_mem = '64MB'; set jit = off";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How far the clock that makes row ids may be behind ours.
const CLOCK_MARGIN_MS: u64 = 60_000;

/// Why the database cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is no private cluster, or it does not run.
    #[error("no database to audit: {0}; give --database-url, or --no-audit")]
    NoPrivateCluster(String),
    /// The URL is no Postgres URL. It may hold a password, so it is not repeated.
    #[error("the database URL cannot be used")]
    BadUrl(#[source] tokio_postgres::Error),
    /// Nothing answers there, or it refuses us.
    #[error("cannot connect to the database")]
    Connect(#[source] tokio_postgres::Error),
    /// A statement failed.
    #[error("the database cannot be asked for the run's rows")]
    Query(#[from] tokio_postgres::Error),
}

/// The URL of the private Postgres that a service started with nothing set runs for itself.
pub(crate) fn private_cluster_url() -> Result<String, Error> {
    let missing = |reason: String| Error::NoPrivateCluster(reason);
    let own = std::env::current_exe().map_err(|error| missing(error.to_string()))?;
    let output = Command::new(own.with_file_name("tidegate"))
        .arg("url")
        .output()
        .map_err(|error| missing(format!("`tidegate url` cannot be run ({error})")))?;
    if !output.status.success() {
        return Err(missing(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Where the run's rows are.
#[derive(Debug, Clone)]
pub(crate) struct Location {
    config: tokio_postgres::Config,
    schema: String,
}

impl Location {
    /// Reads a connection URL; `schema` is where the service's tables are.
    pub(crate) fn parse(url: &str, schema: &str) -> Result<Self, Error> {
        let mut config: tokio_postgres::Config = url.parse().map_err(Error::BadUrl)?;
        config.application_name("loadtest");
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        Ok(Self { config, schema: schema.to_owned() })
    }

    /// Connects.
    pub(crate) async fn connect(&self) -> Result<Database, Error> {
        let (client, connection) = self.config.connect(NoTls).await.map_err(Error::Connect)?;
        // A connection that breaks is reported by the statement that it breaks under.
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        let database = Database { client, driver };
        let search_path = format!("{SESSION}; set search_path to {}", quoted(&self.schema));
        database.client.batch_execute(&search_path).await?;
        Ok(database)
    }
}

/// What the audit looks for: the trace ids of one run.
#[derive(Debug, Clone)]
pub(crate) struct RunRows {
    lowest_id: String,
    prefix: String,
    unanswered: Vec<String>,
}

impl RunRows {
    /// The rows of `run`, which is starting now.
    pub(crate) fn starting_now(run: &str) -> Self {
        let earliest_ms = now_ms().saturating_sub(CLOCK_MARGIN_MS);
        let lowest = uuid::Builder::from_unix_timestamp_millis(earliest_ms, &[0; 10]).into_uuid();
        Self { lowest_id: lowest.to_string(), prefix: format!("{run}-"), unanswered: Vec::new() }
    }

    /// Names the events whose answer never came, so that they are counted apart.
    pub(crate) fn set_unanswered(&mut self, trace_ids: Vec<String>) {
        self.unanswered = trace_ids;
    }
}

/// What the database holds of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Rows in `requests`.
    pub(crate) stored: u64,
    /// Dead letters that the service kept for another reason than overload.
    pub(crate) dead: u64,
    /// Distinct trace ids among them of events that were answered.
    pub(crate) answered: u64,
    /// Distinct trace ids among them of events that were never answered.
    pub(crate) unanswered: u64,
}

/// One connection to the database.
pub(crate) struct Database {
    client: tokio_postgres::Client,
    driver: JoinHandle<()>,
}

impl Drop for Database {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Database {
    /// Counts the rows of a run.
    pub(crate) async fn count(&self, run: &RunRows) -> Result<Found, Error> {
        let row = self.client.query_one(COUNT_RUN, &[&run.lowest_id, &run.prefix, &run.unanswered]).await?;
        let count = |column| row.get::<_, i64>(column).unsigned_abs();
        Ok(Found {
            stored: count("stored"),
            dead: count("dead"),
            answered: count("answered"),
            unanswered: count("unanswered"),
        })
    }

    /// A few trace ids that stand in more than one row.
    pub(crate) async fn doubled(&self, run: &RunRows) -> Result<Vec<String>, Error> {
        let rows = self.client.query(DOUBLED_TRACES, &[&run.lowest_id, &run.prefix]).await?;
        Ok(rows.iter().map(|row| row.get("trace_id")).collect())
    }
}

/// `name` as an identifier, whatever it holds.
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

    #[test]
    fn an_unusable_url_is_refused_without_repeating_it() {
        let error = Location::parse("postgres://u:secret@h:port/db", "public").unwrap_err();
        assert!(!crate::describe(&error).contains("secret"));
    }
}
