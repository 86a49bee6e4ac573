//! Isolates the rows of a batch that Postgres rejects, without storing any.
//!
//! A probe copies up to [`PROBED_ROWS`] rows into a temporary table, inserts them from there into `requests` within
//! subtransactions, and is rolled back. The server finds each bad row, so a batch costs a few round trips, however many of
//! its rows are bad. The batch is written afterwards like any other: one COPY of the good rows, one of the dead letters,
//! one receipt.
//!
//! A failed probe decides nothing. A probe needs the privilege to create temporary tables. It takes no part in fencing,
//! since it leaves nothing behind except gaps in users' own sequences.

use std::time::Duration;

use tokio_postgres::Transaction;

use super::copy::copy_rows;
use super::verdict::{self, Fault};
use crate::db::{Connection, Database, DbError, begin_in_time, roll_back};
use crate::ingest::event::row::{self, Tuple};

/// The most rows in a probe's transaction. Many thousands of subtransactions slow down every snapshot of the server; one
/// thousand do not.
pub const PROBED_ROWS: usize = 1000;
/// Rows that are inserted together, and one by one only if that fails.
const CHUNK_ROWS: usize = 64;
/// For each statement of a probe.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The stack's depth: a probe has less of it left than a COPY.
const STACK_DEPTH: &str = "54001";

/// The statements of a probe.
#[derive(Debug)]
pub struct Probe {
    begin: String,
    copy: String,
    rows: String,
}

impl Probe {
    /// A probe of the `requests` of `database`.
    pub fn new(database: &Database) -> Self {
        let list =
            |codes: &[&str]| codes.iter().map(|code| format!("'{code}'")).collect::<Vec<_>>().join(", ");
        let not_row_faults = [&verdict::OWN_FORMAT[..], &[STACK_DEPTH]].concat();
        Self {
            begin: database
                .sql(include_str!("../../../sql/ingest/probe_begin.sql"))
                .replace("{chunk}", &CHUNK_ROWS.to_string())
                .replace("{row_faults}", &list(&verdict::ROW_FAULTS))
                .replace("{not_row_faults}", &list(&not_row_faults)),
            copy: include_str!("../../../sql/ingest/probe_copy.sql").replace("{columns}", row::COLUMNS),
            rows: include_str!("../../../sql/ingest/probe_rows.sql").to_owned(),
        }
    }

    /// The faults of `tuples`, at most [`PROBED_ROWS`], by index. `attempts` is kept with each fault.
    ///
    /// # Errors
    ///
    /// Any error that may not be a row's fault; no fault is known then.
    pub async fn run(
        &self,
        connection: &mut Connection,
        tuples: &[Tuple<'_>],
        attempts: u32,
    ) -> Result<Vec<(usize, Fault)>, DbError> {
        let transaction = begin_in_time(connection, TIMEOUT).await?;
        let found = self.run_within(&transaction, tuples, attempts).await;
        match found {
            Ok(found) => transaction.rollback().await.map(|()| found).map_err(DbError::from),
            Err(error) => Err(roll_back(transaction, error).await),
        }
    }

    async fn run_within(
        &self,
        transaction: &Transaction<'_>,
        tuples: &[Tuple<'_>],
        attempts: u32,
    ) -> Result<Vec<(usize, Fault)>, DbError> {
        transaction.batch_execute(&self.begin).await?;
        let prefixes: Vec<[u8; PREFIX_BYTES]> = (0..tuples.len() as i32).map(prefix).collect();
        let chunks = prefixes.iter().zip(tuples).flat_map(|(prefix, tuple)| {
            // The prefix replaces the tuple's own field count.
            [&prefix[..], tuple.bytes().get(2..).unwrap_or_default()]
        });
        copy_rows(transaction, &self.copy, chunks).await?;
        let rows = transaction.query_typed(&self.rows, &[]).await?;
        rows.iter().map(|row| Fault::read(row, attempts)).collect()
    }
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
