//! Isolates the rows of a batch that Postgres rejects, without storing any.
//!
//! A probe copies up to [`PROBED_ROWS`] rows into a temporary table, tests them there, and is rolled back. Both of its
//! [tests](Test) run on the server, so a batch costs a few round trips, however many of its rows are bad. The batch is
//! written afterwards like any other: one COPY of the good rows, one of the dead letters, one receipt.
//!
//! A failed probe decides nothing. A probe needs the privilege to create temporary tables. It takes no part in fencing,
//! since it leaves nothing behind except gaps in users' own sequences.

use std::time::Duration;

use tokio_postgres::Transaction;

use super::copy::copy_rows;
use super::verdict::{self, Fault};
use crate::db::{Connection, Database, DbError, begin_in_time, query_in_time, roll_back, sql};
use crate::ingest::event::row::{self, Tuple};

/// The most rows in a probe's transaction. Many thousands of subtransactions slow down every snapshot of the server; one
/// thousand do not.
const PROBED_ROWS: usize = 1000;
/// Rows that are inserted together, and one by one only if that fails.
const CHUNK_ROWS: usize = 64;
/// For each statement of a probe.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The stack's depth: a probe has less of it left than a COPY.
const STACK_DEPTH: &str = "54001";

/// How a probe finds bad rows. The cheap test comes first, since most of what users forbid is a CHECK: a thousand rows take
/// it a few milliseconds, and a thousand failing inserts thirty or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    /// Evaluates the CHECK constraints of `requests` over all rows at once.
    Checks,
    /// Inserts the rows into `requests` within subtransactions, so that constraints and triggers see them.
    Inserts,
}

impl Test {
    /// The function that tests the rows.
    fn function(self, database: &Database) -> &'static str {
        let list =
            |codes: &[&str]| codes.iter().map(|code| format!("'{code}'")).collect::<Vec<_>>().join(", ");
        match self {
            Self::Checks => sql!(database, "ingest/probe_checks.sql"),
            Self::Inserts => sql!(
                database,
                "ingest/probe_inserts.sql",
                chunk = CHUNK_ROWS.to_string(),
                row_faults = list(&verdict::ROW_FAULTS),
                not_row_faults = list(&[&verdict::OWN_FORMAT[..], &[STACK_DEPTH]].concat()),
            ),
        }
    }

    /// The query that calls it.
    fn rows(self, database: &Database) -> &'static str {
        match self {
            Self::Checks => sql!(database, "ingest/probe_rows.sql", test = "checks"),
            Self::Inserts => sql!(database, "ingest/probe_rows.sql", test = "inserts"),
        }
    }
}

/// The faults of `tuples`, each with the value that stands beside its tuple; none if no row fails by itself. `attempts`
/// is kept with each fault. Each transaction is abandoned after `deadline`.
///
/// # Errors
///
/// Any error that may not be a row's fault; no fault is known then.
pub async fn faults<I: Copy>(
    database: &Database,
    tuples: &[(I, Tuple<'_>)],
    attempts: u32,
    deadline: Duration,
) -> Result<Vec<(I, Fault)>, DbError> {
    let connection = database.get().await?;
    let has_checks = sql!(database, "ingest/probe_has_checks.sql");
    let has_checks = query_in_time(&connection, TIMEOUT.min(deadline), has_checks, &[]).await;
    let has_checks = connection.release(has_checks)?;
    let has_checks: bool = has_checks.first().ok_or(DbError::Unexpected("no row"))?.try_get(0)?;
    for test in [Test::Checks, Test::Inserts] {
        if test == Test::Checks && !has_checks {
            continue;
        }
        let mut faults = Vec::new();
        for probed in tuples.chunks(PROBED_ROWS) {
            let rows: Vec<Tuple<'_>> = probed.iter().map(|(_, tuple)| *tuple).collect();
            let mut connection = database.get().await?;
            let found =
                tokio::time::timeout(deadline, run(database, &mut connection, test, &rows, attempts)).await;
            let found = connection.release(found.unwrap_or(Err(DbError::Timeout(deadline))))?;
            let beside = |(index, fault): (usize, Fault)| Some((probed.get(index)?.0, fault));
            faults.extend(found.into_iter().filter_map(beside));
        }
        if !faults.is_empty() {
            return Ok(faults);
        }
    }
    Ok(Vec::new())
}

async fn run(
    database: &Database,
    connection: &mut Connection,
    test: Test,
    tuples: &[Tuple<'_>],
    attempts: u32,
) -> Result<Vec<(usize, Fault)>, DbError> {
    let transaction = begin_in_time(connection, TIMEOUT).await?;
    match run_within(database, &transaction, test, tuples, attempts).await {
        Ok(found) => transaction.rollback().await.map(|()| found).map_err(DbError::from),
        Err(error) => Err(roll_back(transaction, error).await),
    }
}

async fn run_within(
    database: &Database,
    transaction: &Transaction<'_>,
    test: Test,
    tuples: &[Tuple<'_>],
    attempts: u32,
) -> Result<Vec<(usize, Fault)>, DbError> {
    let begin = sql!("ingest/probe_begin.sql");
    transaction.batch_execute(&format!("{begin}{}", test.function(database))).await?;
    let prefixes: Vec<[u8; PREFIX_BYTES]> = (0..tuples.len() as i32).map(prefix).collect();
    let chunks = prefixes.iter().zip(tuples).flat_map(|(prefix, tuple)| {
        // The prefix replaces the tuple's own field count.
        [&prefix[..], tuple.bytes().get(2..).unwrap_or_default()]
    });
    let copy = sql!(database, "ingest/probe_copy.sql", columns = row::COLUMNS);
    copy_rows(transaction, copy, chunks).await?;
    let rows = transaction.query_typed(test.rows(database), &[]).await?;
    rows.iter().map(|row| Fault::read(row, attempts)).collect()
}

/// Field count, length and index.
const PREFIX_BYTES: usize = 2 + 4 + 4;

/// The beginning of a probed tuple: its field count, which is one higher, and its index as the first field.
fn prefix(index: i32) -> [u8; PREFIX_BYTES] {
    let mut bytes = [0; PREFIX_BYTES];
    let (count, rest) = bytes.split_at_mut(2);
    let (length, number) = rest.split_at_mut(4);
    count.copy_from_slice(&(row::FIELDS + 1).to_be_bytes());
    length.copy_from_slice(&4i32.to_be_bytes());
    number.copy_from_slice(&index.to_be_bytes());
    bytes
}
