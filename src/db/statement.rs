//! Statements with a limit of time that Postgres keeps, without a round trip more than the statement has itself.
//!
//! Every transaction names its isolation level and sets the parameters that we rely on (`sql/db/presets.sql`), for itself
//! only: a session's own would outlive it behind a pooler. Only what is run often is prepared by name.

use std::future::Future;
use std::sync::LazyLock;
use std::time::Duration;

use deadpool_postgres::Transaction;
use futures_util::future::join_all;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{IsolationLevel, Row, Statement};

use super::{Connection, Database, DbError, Parameter};

/// Statements that a connection keeps prepared; beyond it, it starts over.
const MAX_PREPARED: usize = 100;
/// How much longer than `statement_timeout` its answer is waited for: Postgres may be stopped, or the network gone.
const GRACE: Duration = Duration::from_secs(2);
/// Repetitions of a transaction that Postgres rolled back for a conflict with another one.
const MAX_REPETITIONS: u32 = 4;
/// The longest wait before the first of them; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(10);

/// Repeats transactions that Postgres rolled back since another one was in their way (40001, 40P01): nothing of them is
/// stored, and the next attempt may well come through. Bounded, as a trigger may raise these for ever.
#[derive(Debug, Default)]
pub struct ConflictRetries(u32);

impl ConflictRetries {
    /// Whether what ended so is to be done again; waits a moment first.
    pub async fn again<T>(&mut self, ended: &Result<T, DbError>) -> bool {
        if self.0 >= MAX_REPETITIONS || !ended.as_ref().is_err_and(DbError::is_conflict) {
            return false;
        }
        let longest = FIRST_WAIT * (1 << self.0);
        self.0 += 1;
        tokio::time::sleep(longest.mul_f64(fastrand::f64())).await;
        true
    }
}

/// Runs one statement in a transaction of its own. Its three messages are sent at once, and Postgres answers them in order.
/// Done again, a bounded number of times, if another transaction was in its way.
///
/// # Errors
///
/// [`DbError::Postgres`] with SQLSTATE 57014 after `timeout`; [`DbError::Timeout`] if not even that was heard. Nothing is
/// stored then, but for a commit whose answer was lost.
pub async fn query_in_time(
    connection: &Connection,
    timeout: Duration,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Row>, DbError> {
    let mut retries = ConflictRetries::default();
    loop {
        let asks = connection.query_typed(sql, parameters);
        let answered = in_time(timeout, in_transaction(connection, timeout, asks)).await;
        if !retries.again(&answered).await {
            return answered;
        }
    }
}

/// Sends what begins a transaction, what `asks` sends when it is first polled, and what ends it, one behind the other without
/// waiting, and then takes the answers. A statement may take up to `timeout`.
async fn in_transaction<T>(
    connection: &Connection,
    timeout: Duration,
    asks: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, DbError> {
    let begin = format!("begin isolation level read committed;\n{}", presets(timeout));
    let (begun, answered, committed) = tokio::join!(
        biased;
        connection.batch_execute(&begin),
        asks,
        connection.batch_execute("commit"),
    );
    begun?;
    let answered = answered?;
    // A commit that follows a failed statement rolls back, and says that it went well.
    committed?;
    Ok(answered)
}

/// All answers, asked for in order, or the first error.
async fn all<T, E>(asked: impl Iterator<Item = impl Future<Output = Result<T, E>>>) -> Result<Vec<T>, E> {
    join_all(asked).await.into_iter().collect()
}

impl Database {
    /// As [`query_in_time`], over a connection that is closed if it does not answer.
    ///
    /// # Errors
    ///
    /// As [`query_in_time`], and [`DbError::Exhausted`] or [`DbError::Pool`] if there is no connection.
    pub async fn query_in_time(
        &self,
        timeout: Duration,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, DbError> {
        let connection = self.get().await?;
        let rows = query_in_time(&connection, timeout, sql, parameters).await;
        connection.release(rows)
    }
}

/// As [`query_in_time`], for a statement that is run often: each connection keeps it prepared, as planning it would cost
/// more than running it. Where a pooler turns out not to keep prepared statements nothing is prepared any more.
///
/// # Errors
///
/// As [`query_in_time`].
pub async fn query_often_in_time(
    connection: &Connection,
    timeout: Duration,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Row>, DbError> {
    if !connection.prepares() {
        return query_in_time(connection, timeout, sql, parameters).await;
    }
    let mut retries = ConflictRetries::default();
    loop {
        let queried = query_prepared(connection, timeout, sql, parameters).await;
        match queried {
            Err(error) if error.is_unprepared() => {
                tell_unprepared(connection, &error);
                return query_in_time(connection, timeout, sql, parameters).await;
            }
            queried if retries.again(&queried).await => {}
            queried => return queried,
        }
    }
}

async fn query_prepared(
    connection: &Connection,
    timeout: Duration,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Row>, DbError> {
    in_time(timeout, async {
        let (statement, values) = prepared(connection, sql, parameters).await?;
        in_transaction(connection, timeout, connection.query(&statement, &values)).await
    })
    .await
}

/// In front of statements that find a few rows each, in their transaction: they are planned to go by indexes, however small a
/// table is when that happens.
pub const BY_INDEX: &str = include_str!("../../sql/db/by_index.sql");

/// A statement and its parameters.
pub type Query<'a> = (&'a str, Vec<Parameter<'a>>);

/// As [`query_often_in_time`], for statements in one transaction, one behind the other; the rows of each. A statement sees what
/// was committed before it began, so one behind a statement that takes locks sees all that these waited for. All messages
/// are sent at once.
///
/// # Errors
///
/// As [`query_in_time`].
pub async fn query_all_in_time(
    connection: &Connection,
    timeout: Duration,
    queries: &[Query<'_>],
) -> Result<Vec<Vec<Row>>, DbError> {
    let mut retries = ConflictRetries::default();
    loop {
        let queried = if connection.prepares() {
            query_all_prepared(connection, timeout, queries).await
        } else {
            let asked = queries.iter().map(|(sql, parameters)| connection.query_typed(sql, parameters));
            in_time(timeout, in_transaction(connection, timeout, all(asked))).await
        };
        match queried {
            Err(error) if connection.prepares() && error.is_unprepared() => {
                tell_unprepared(connection, &error);
            }
            queried if retries.again(&queried).await => {}
            queried => return queried,
        }
    }
}

async fn query_all_prepared(
    connection: &Connection,
    timeout: Duration,
    queries: &[Query<'_>],
) -> Result<Vec<Vec<Row>>, DbError> {
    in_time(timeout, async {
        let mut statements = Vec::with_capacity(queries.len());
        for (sql, parameters) in queries {
            statements.push(prepared(connection, sql, parameters).await?);
        }
        let asked = statements.iter().map(|(statement, values)| connection.query(statement, values));
        in_transaction(connection, timeout, all(asked)).await
    })
    .await
}

/// A statement that the connection keeps, and its values.
async fn prepared<'a>(
    connection: &Connection,
    sql: &str,
    parameters: &'a [Parameter<'_>],
) -> Result<(Statement, Vec<&'a (dyn ToSql + Sync)>), DbError> {
    if connection.statement_cache.size() >= MAX_PREPARED {
        connection.statement_cache.clear();
    }
    let types: Vec<Type> = parameters.iter().map(|(_, kind)| kind.clone()).collect();
    let statement = connection.prepare_typed_cached(sql, &types).await?;
    Ok((statement, parameters.iter().map(|(value, _)| *value).collect()))
}

fn tell_unprepared(connection: &Connection, error: &DbError) {
    connection.prepare_no_more();
    tracing::warn!(
        error = error.with_sources(),
        "a pooler keeps no prepared statements; from now on each is planned anew (DB_PREPARE)"
    );
}

/// Begins a transaction each of whose statements may take up to `timeout`. Dropped, it is rolled back.
///
/// # Errors
///
/// [`DbError::Postgres`] if it cannot be begun.
pub async fn begin_in_time(
    connection: &mut Connection,
    timeout: Duration,
) -> Result<Transaction<'_>, DbError> {
    let transaction = begin(connection).await?;
    transaction.batch_execute(&presets(timeout)).await?;
    Ok(transaction)
}

/// Rolls back a transaction in which `error` happened, and waits for that. A transaction that is dropped sends its rollback
/// together with whatever the connection does next; behind a failed COPY PgBouncer then loses an answer, and the
/// connection hangs.
pub async fn roll_back(transaction: Transaction<'_>, error: DbError) -> DbError {
    // Where it fails the connection is lost, and the transaction with it.
    let _lost = transaction.rollback().await;
    error
}

/// Begins a transaction of the isolation level that all of ours have, whatever the default is; [`presets`] come first in it.
/// Dropped, it is rolled back.
///
/// # Errors
///
/// [`DbError::Postgres`] if it cannot be begun.
pub async fn begin(connection: &mut Connection) -> Result<Transaction<'_>, DbError> {
    Ok(connection.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?)
}

/// The statements of `sql/db/presets.sql` without its comments, as they go with every transaction.
static PRESETS: LazyLock<String> = LazyLock::new(|| {
    let lines = include_str!("../../sql/db/presets.sql").lines();
    lines.filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join(" ")
});

/// What a transaction begins with: the parameters that we rely on. A statement may take up to `timeout`; zero is no limit.
pub fn presets(timeout: Duration) -> String {
    PRESETS.replace("{timeout_ms}", &timeout.as_millis().to_string())
}

/// Waits for what is bounded by a `statement_timeout` of `timeout`, and a little longer.
///
/// # Errors
///
/// [`DbError::Timeout`]: the connection's state is not known then.
pub async fn in_time<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, DbError>>,
) -> Result<T, DbError> {
    let patience = timeout + GRACE;
    tokio::time::timeout(patience, work).await.unwrap_or(Err(DbError::Timeout(patience)))
}
