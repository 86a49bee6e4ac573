//! Finds the rows of a batch that Postgres rejects, without storing any.
//!
//! A probe copies up to [`PROBED_ROWS`] rows into a temporary table, inserts them from there into `requests` within
//! sub-transactions, and is rolled back. The server finds each bad row, so a batch costs a few round trips, however many
//! of its rows are bad. What a probe finds is stored afterwards like any other batch: one COPY of the good rows, one of
//! the dead letters, one receipt.
//!
//! A probe that fails decides nothing. It needs the right to make temporary tables, and takes no part in fencing, since
//! nothing of it stays: but for sequences of the user's own, whose numbers are used up.

use std::time::Duration;

use tokio_postgres::Transaction;

use super::copy::copy_rows;
use super::verdict::{self, Fault};
use crate::db::{Connection, Database, DbError, begin_in_time, roll_back};
use crate::ingest::event::row::{self, Tuple};

/// Rows of a probe's transaction. Many sub-transactions in one slow down every snapshot of the server; a thousand do not.
pub const PROBED_ROWS: usize = 1000;
/// Rows that are inserted together as long as none of them fails.
const CHUNK_ROWS: usize = 64;
/// For each statement of a probe.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Depth of the stack: a probe has less of it left than a COPY.
const STACK_DEPTH: &str = "54001";

/// The statements.
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

    /// The faults of `tuples`, at most [`PROBED_ROWS`], by their index. `attempts` is kept with each.
    ///
    /// # Errors
    ///
    /// Any error that may not be a row's fault; then no fault is known.
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
        let places: Vec<[u8; PLACE_BYTES]> = (0..tuples.len() as i32).map(place).collect();
        let chunks = places.iter().zip(tuples).flat_map(|(place, tuple)| {
            // Behind the tuple's own field count.
            [&place[..], tuple.bytes().get(2..).unwrap_or_default()]
        });
        copy_rows(transaction, &self.copy, chunks).await?;
        let rows = transaction.query_typed(&self.rows, &[]).await?;
        rows.iter().map(|row| Fault::read(row, attempts)).collect()
    }
}

/// Field count, length and place.
const PLACE_BYTES: usize = 2 + 4 + 4;

/// The beginning of a tuple with one field more than ours, which is its place.
fn place(place: i32) -> [u8; PLACE_BYTES] {
    let mut bytes = [0; PLACE_BYTES];
    let (count, rest) = bytes.split_at_mut(2);
    let (length, number) = rest.split_at_mut(4);
    count.copy_from_slice(&(row::FIELDS + 1).to_be_bytes());
    length.copy_from_slice(&4i32.to_be_bytes());
    number.copy_from_slice(&place.to_be_bytes());
    bytes
}
