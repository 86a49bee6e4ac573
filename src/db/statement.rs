//! Statements with a limit of time that Postgres enforces, without a further round trip.
//!
//! Every transaction names its isolation level and sets the parameters that the service relies on (`sql/db/presets.sql`), for
//! itself only: a session's parameters would outlive it behind a pooler. Only frequent statements are prepared by name.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use futures_util::future::join_all;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{IsolationLevel, Row, Statement};

use super::pool::PendingAnswer;
use super::{Connection, Database, DbError, Parameter, sql};

/// Statements that a connection keeps prepared; beyond them, all are dropped.
const MAX_PREPARED: usize = 100;
/// The wait for an answer beyond `statement_timeout`: Postgres may be stopped, or the network gone.
const GRACE: Duration = Duration::from_secs(2);
/// The age at which a connection's plans of statements without a transaction are made anew: they are not planned by `db/by_index.sql`, and one
/// made while a table was small reads all of it.
const PLAN_AGE: Duration = Duration::from_secs(30);
/// Repetitions of a transaction after conflicts with others.
const MAX_REPETITIONS: u32 = 4;
/// The longest wait before the first repetition; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(10);
/// The wait for the rollback of a transaction that was dropped.
const ROLLBACK_LIMIT: Duration = Duration::from_secs(5);

/// Repeats transactions that Postgres rolled back because of another one (40001, 40P01). Nothing of them is stored, and the next
/// attempt may succeed. Repetitions are bounded in number and in time, as a trigger may raise these errors for ever.
#[derive(Debug)]
pub struct ConflictRetries {
    repetitions: u32,
    deadline: Instant,
}

impl ConflictRetries {
    /// Attempts that together take up to `timeout`.
    pub fn within(timeout: Duration) -> Self {
        Self { repetitions: 0, deadline: Instant::now() + timeout }
    }

    /// The time that is left for the next attempt. Never zero, which Postgres takes for no limit.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }

    /// Whether a transaction that ended so is repeated; waits a moment first.
    pub async fn again<T>(&mut self, ended: &Result<T, DbError>) -> bool {
        if self.repetitions >= MAX_REPETITIONS || !ended.as_ref().is_err_and(DbError::is_conflict) {
            return false;
        }
        let longest = FIRST_WAIT * (1 << self.repetitions);
        self.repetitions += 1;
        tokio::time::sleep(longest.mul_f64(fastrand::f64())).await;
        Instant::now() < self.deadline
    }
}

/// Runs one statement in a transaction of its own. Its three messages are sent at once, and Postgres answers them in order.
/// After a conflict with another transaction it is repeated, within the same `timeout`.
///
/// # Errors
///
/// [`DbError::Postgres`] with SQLSTATE 57014 after `timeout`; [`DbError::Timeout`] if not even that answer came. Nothing is
/// stored then, except for a commit whose answer was lost.
pub async fn query_in_time(
    connection: &Connection,
    timeout: Duration,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Row>, DbError> {
    repeated(connection, ConflictRetries::within(timeout), |left| {
        in_transaction(connection, Isolation::Statement, left, connection.query_typed(sql, parameters))
    })
    .await
}

/// Repeats an attempt after conflicts. Each attempt may take the time that is left.
async fn repeated<T, F: Future<Output = Result<T, DbError>>>(
    connection: &Connection,
    mut retries: ConflictRetries,
    attempt: impl Fn(Duration) -> F,
) -> Result<T, DbError> {
    loop {
        let left = retries.left();
        connection.pending().expect(left + GRACE);
        let answered = in_time(left, attempt(left)).await;
        if !matches!(answered, Err(DbError::Timeout(_))) {
            connection.pending().received();
        }
        if !retries.again(&answered).await {
            return answered;
        }
    }
}

/// What the statements of a transaction see.
#[derive(Debug, Clone, Copy)]
enum Isolation {
    /// Each what was committed before it.
    Statement,
    /// All of them what was committed before the first.
    Snapshot,
}

impl Isolation {
    fn name(self) -> &'static str {
        match self {
            Self::Statement => "read committed",
            Self::Snapshot => "repeatable read",
        }
    }
}

/// Sends the beginning of a transaction, the messages that `asks` sends when it is first polled, and the commit, without waiting
/// in between; then reads the answers. A statement may take up to `timeout`.
async fn in_transaction<T>(
    connection: &Connection,
    isolation: Isolation,
    timeout: Duration,
    asks: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, DbError> {
    let begin = format!("begin isolation level {};\n{}", isolation.name(), presets(timeout));
    let (begun, answered, committed) = tokio::join!(
        biased;
        connection.batch_execute(&begin),
        asks,
        connection.batch_execute("commit"),
    );
    begun?;
    let answered = answered?;
    // A commit after a failed statement rolls back, and reports success.
    committed?;
    Ok(answered)
}

/// The answers to statements sent in order, or the first error.
async fn all<T, E>(asked: impl Iterator<Item = impl Future<Output = Result<T, E>>>) -> Result<Vec<T>, E> {
    join_all(asked).await.into_iter().collect()
}

impl Database {
    /// As [`query_in_time`], with a connection of the pool, which is closed if it does not answer.
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

/// As [`query_in_time`], for a frequent statement: each connection keeps it prepared, as planning it would cost more than
/// running it. Behind a pooler that keeps no prepared statements, nothing is prepared any more.
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
    let retries = ConflictRetries::within(timeout);
    let queried =
        repeated(connection, retries, |left| query_prepared(connection, left, sql, parameters)).await;
    match queried {
        Err(error) if error.is_unprepared() => {
            stop_preparing(connection, &error);
            query_in_time(connection, timeout, sql, parameters).await
        }
        queried => queried,
    }
}

/// As [`query_often_in_time`], without a transaction around the statement and the presets of one: for statements that read no table and
/// on which no preset has an effect. They cost a third.
///
/// # Errors
///
/// As [`query_in_time`].
pub async fn query_bare_in_time(
    connection: &Connection,
    timeout: Duration,
    sql: &str,
) -> Result<Vec<Row>, DbError> {
    if !connection.prepares() {
        return query_in_time(connection, timeout, sql, &[]).await;
    }
    let queried = repeated(connection, ConflictRetries::within(timeout), |_left| async {
        let (statement, values) = prepared(connection, sql, &[]).await?;
        Ok(connection.query(&statement, &values).await?)
    });
    match queried.await {
        Err(error) if error.is_unprepared() => {
            stop_preparing(connection, &error);
            query_in_time(connection, timeout, sql, &[]).await
        }
        queried => queried,
    }
}

async fn query_prepared(
    connection: &Connection,
    timeout: Duration,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Row>, DbError> {
    let (statement, values) = prepared(connection, sql, parameters).await?;
    in_transaction(connection, Isolation::Statement, timeout, connection.query(&statement, &values)).await
}

/// A statement before those that find a few rows each, in their transaction: they are planned to use indexes, however small a
/// table is at that time.
pub const BY_INDEX: &str = sql!("db/by_index.sql");

/// A statement and its parameters.
pub type Query<'a> = (&'a str, Vec<Parameter<'a>>);

/// As [`query_often_in_time`], for several statements in one transaction; returns the rows of each. A statement sees all commits
/// before its own beginning, so a statement after one that takes locks sees all commits that the locks waited for. All messages
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
    query_all(connection, Isolation::Statement, timeout, queries).await
}

/// As [`query_all_in_time`], for statements that read one snapshot and write nothing.
///
/// # Errors
///
/// As [`query_in_time`].
pub async fn query_snapshot_in_time(
    connection: &Connection,
    timeout: Duration,
    queries: &[Query<'_>],
) -> Result<Vec<Vec<Row>>, DbError> {
    query_all(connection, Isolation::Snapshot, timeout, queries).await
}

async fn query_all(
    connection: &Connection,
    isolation: Isolation,
    timeout: Duration,
    queries: &[Query<'_>],
) -> Result<Vec<Vec<Row>>, DbError> {
    if connection.prepares() {
        let retries = ConflictRetries::within(timeout);
        let queried =
            repeated(connection, retries, |left| query_all_prepared(connection, isolation, left, queries))
                .await;
        match queried {
            Err(error) if error.is_unprepared() => stop_preparing(connection, &error),
            queried => return queried,
        }
    }
    repeated(connection, ConflictRetries::within(timeout), |left| {
        let asked = queries.iter().map(|(sql, parameters)| connection.query_typed(sql, parameters));
        in_transaction(connection, isolation, left, all(asked))
    })
    .await
}

async fn query_all_prepared(
    connection: &Connection,
    isolation: Isolation,
    timeout: Duration,
    queries: &[Query<'_>],
) -> Result<Vec<Vec<Row>>, DbError> {
    let mut statements = Vec::with_capacity(queries.len());
    for (sql, parameters) in queries {
        statements.push(prepared(connection, sql, parameters).await?);
    }
    let asked = statements.iter().map(|(statement, values)| connection.query(statement, values));
    in_transaction(connection, isolation, timeout, all(asked)).await
}

/// As [`query_snapshot_in_time`], with the rows of one more statement, which is the last one: `take` gets each as it comes, and the rest is skipped once
/// it returns false. Plans are not compiled. Only frequent statements are worth to be prepared.
///
/// # Errors
///
/// As [`query_in_time`], and those of `take`. Nothing is repeated.
pub async fn read_snapshot_in_time(
    connection: &Connection,
    timeout: Duration,
    is_frequent: bool,
    queries: &[Query<'_>],
    last: &Query<'_>,
    mut take: impl FnMut(&Row) -> Result<bool, DbError>,
) -> Result<Vec<Vec<Row>>, DbError> {
    connection.pending().expect(timeout + GRACE);
    let mut read = in_time(timeout, async {
        let is_prepared = is_frequent && connection.prepares();
        read_snapshot(connection, timeout, is_prepared, queries, last, &mut take).await
    })
    .await;
    if let Err(error) = &read
        && error.is_unprepared()
    {
        // Nothing was read.
        stop_preparing(connection, error);
        read = in_time(timeout, read_snapshot(connection, timeout, false, queries, last, &mut take)).await;
    }
    if !matches!(read, Err(DbError::Timeout(_))) {
        connection.pending().received();
    }
    read
}

async fn read_snapshot(
    connection: &Connection,
    timeout: Duration,
    is_prepared: bool,
    queries: &[Query<'_>],
    last: &Query<'_>,
    take: &mut impl FnMut(&Row) -> Result<bool, DbError>,
) -> Result<Vec<Vec<Row>>, DbError> {
    let statements = match is_prepared {
        true => prepared_each(connection, queries).await?,
        false => Vec::new(),
    };
    let statement = match is_prepared {
        true => Some(prepared(connection, last.0, &last.1).await?),
        false => None,
    };
    let streamed = async {
        let rows = match &statement {
            Some((statement, values)) => connection.query_raw(statement, values.iter().copied()).await?,
            None => {
                let typed = last.1.iter().map(|(value, kind)| (*value, kind.clone()));
                connection.query_typed_raw(last.0, typed).await?
            }
        };
        let mut rows = std::pin::pin!(rows);
        while let Some(row) = rows.try_next().await? {
            match take(&row) {
                Ok(true) => {}
                // The connection skips the rows that are left.
                Ok(false) => break,
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(()))
    };
    let asks = async {
        let (unset, asked, streamed) = tokio::join!(
            biased;
            connection.batch_execute(sql!("db/without_jit.sql")),
            async {
                match is_prepared {
                    true => all(asked(connection, &statements)).await,
                    false => all(asked_unprepared(connection, queries)).await,
                }
            },
            streamed,
        );
        unset?;
        Ok((asked?, streamed?))
    };
    let (rows, streamed) = in_transaction(connection, Isolation::Snapshot, timeout, asks).await?;
    streamed.map(|()| rows)
}

/// As [`query_often_in_time`], without a transaction around the one statement, which costs a seventh of the time of a small one. Nothing
/// sets the parameters that the service relies on: the statement sets those that it needs (`set_config` for its transaction). It
/// is bounded by the locks that it waits for, not by `statement_timeout`, and is not repeated. Behind a pooler that keeps no prepared
/// statements it runs in a transaction.
///
/// # Errors
///
/// As [`query_in_time`]. For a statement that writes see [`DbError::is_in_doubt`].
pub async fn query_alone_in_time(
    connection: &Connection,
    timeout: Duration,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Row>, DbError> {
    if !connection.prepares() {
        return query_in_time(connection, timeout, sql, parameters).await;
    }
    connection.renew_plans(PLAN_AGE);
    let (statement, values) = match prepared(connection, sql, parameters).await {
        Err(error) if error.is_unprepared() => {
            stop_preparing(connection, &error);
            return query_in_time(connection, timeout, sql, parameters).await;
        }
        prepared => prepared?,
    };
    connection.pending().expect(timeout + GRACE);
    let answered = in_time(timeout, async { Ok(connection.query(&statement, &values).await?) }).await;
    if !matches!(answered, Err(DbError::Timeout(_))) {
        connection.pending().received();
    }
    match answered {
        // It was not executed.
        Err(error) if error.is_unprepared() => {
            stop_preparing(connection, &error);
            query_in_time(connection, timeout, sql, parameters).await
        }
        answered => answered,
    }
}

/// Writes that depend on rows read before in their transaction.
pub trait DependentWrites {
    /// The statements, with their parameters.
    fn queries(&self) -> Vec<Query<'_>>;
}

/// A transaction that has failed.
#[derive(Debug)]
pub enum WriteFailure<W> {
    /// Nothing is stored.
    RolledBack(DbError),
    /// The commit of these writes was sent, and its answer did not come.
    InDoubt(DbError, W),
}

/// Runs statements in one transaction in two round trips: `reads`, which may lock; then the writes that `decide` makes of their rows, with the
/// commit. A statement sees all commits before its own beginning. Without writes nothing is committed.
///
/// # Errors
///
/// [`WriteFailure`]; an error of `decide` rolls back. After [`DbError::is_unprepared`] it may be repeated, and prepares nothing then.
pub async fn read_then_write<W: DependentWrites>(
    connection: &Connection,
    timeout: Duration,
    reads: &[Query<'_>],
    decide: impl FnOnce(Vec<Vec<Row>>) -> Result<W, DbError>,
) -> Result<W, WriteFailure<W>> {
    connection.pending().expect(timeout + GRACE);
    let done = in_two_steps(connection, timeout, reads, decide).await;
    let is_late = matches!(
        done,
        Err(WriteFailure::RolledBack(DbError::Timeout(_)) | WriteFailure::InDoubt(DbError::Timeout(_), _))
    );
    if !is_late {
        connection.pending().received();
    }
    if let Err(WriteFailure::RolledBack(error)) = &done
        && error.is_unprepared()
    {
        stop_preparing(connection, error);
    }
    done
}

async fn in_two_steps<W: DependentWrites>(
    connection: &Connection,
    timeout: Duration,
    reads: &[Query<'_>],
    decide: impl FnOnce(Vec<Vec<Row>>) -> Result<W, DbError>,
) -> Result<W, WriteFailure<W>> {
    let begin = format!("begin isolation level read committed;\n{}", presets(timeout));
    let read = in_time(timeout, async {
        let (begun, read) = tokio::join!(
            biased;
            connection.batch_execute(&begin),
            query_each(connection, reads),
        );
        begun?;
        read
    });
    let decided = read.await.and_then(decide);
    let writes = match decided {
        Ok(writes) => writes,
        Err(error) => {
            // Where it fails the connection is lost, and the transaction with it.
            let _lost = in_time(timeout, async { Ok(connection.batch_execute("rollback").await?) }).await;
            return Err(WriteFailure::RolledBack(error));
        }
    };
    let queries = writes.queries();
    let prepares = connection.prepares();
    let written = in_time(timeout, async {
        // Before the commit is sent: it would overtake statements that wait to be prepared.
        let statements = match prepares {
            true => prepared_each(connection, &queries).await?,
            false => Vec::new(),
        };
        // A commit after a failed statement rolls back, and reports success. The first error decides.
        let (written, committed) = tokio::join!(
            biased;
            async {
                match prepares {
                    true => all(asked(connection, &statements)).await,
                    false => all(asked_unprepared(connection, &queries)).await,
                }
            },
            connection.batch_execute("commit"),
        );
        written?;
        Ok(committed.map_err(DbError::from))
    });
    let ended = written.await;
    let writes_nothing = queries.is_empty();
    drop(queries);
    match ended {
        Ok(Ok(())) => Ok(writes),
        Err(error) | Ok(Err(error)) if writes_nothing => Err(WriteFailure::RolledBack(error)),
        // Of the commit, with an SQLSTATE too.
        Ok(Err(error)) => Err(WriteFailure::InDoubt(error, writes)),
        Err(error) if error.is_in_doubt() => Err(WriteFailure::InDoubt(error, writes)),
        Err(error) => Err(WriteFailure::RolledBack(error)),
    }
}

/// Sends several statements at once, prepared unless a pooler keeps none.
async fn query_each(connection: &Connection, queries: &[Query<'_>]) -> Result<Vec<Vec<Row>>, DbError> {
    if !connection.prepares() {
        return Ok(all(asked_unprepared(connection, queries)).await?);
    }
    let statements = prepared_each(connection, queries).await?;
    Ok(all(asked(connection, &statements)).await?)
}

/// A prepared statement and its values.
type PreparedQuery<'a> = (Statement, Vec<&'a (dyn ToSql + Sync)>);

async fn prepared_each<'a>(
    connection: &Connection,
    queries: &'a [Query<'_>],
) -> Result<Vec<PreparedQuery<'a>>, DbError> {
    let mut statements = Vec::with_capacity(queries.len());
    for (sql, parameters) in queries {
        statements.push(prepared(connection, sql, parameters).await?);
    }
    Ok(statements)
}

fn asked<'a>(
    connection: &'a Connection,
    statements: &'a [PreparedQuery<'_>],
) -> impl Iterator<Item = impl Future<Output = Result<Vec<Row>, tokio_postgres::Error>>> {
    statements.iter().map(|(statement, values)| connection.query(statement, values))
}

fn asked_unprepared<'a>(
    connection: &'a Connection,
    queries: &'a [Query<'_>],
) -> impl Iterator<Item = impl Future<Output = Result<Vec<Row>, tokio_postgres::Error>>> {
    queries.iter().map(|(sql, parameters)| connection.query_typed(sql, parameters))
}

/// A statement that the connection keeps prepared, and its values.
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

fn stop_preparing(connection: &Connection, error: &DbError) {
    connection.stop_preparing();
    tracing::warn!(
        error = error.with_sources(),
        "a pooler keeps no prepared statements; from now on each is planned anew (pgbouncer=true in DATABASE_URL)"
    );
}

/// A transaction. Dropped, it is rolled back.
#[derive(Debug)]
pub struct Transaction<'a> {
    inner: deadpool_postgres::Transaction<'a>,
    pending: &'a PendingAnswer,
}

impl Transaction<'_> {
    /// Commits.
    ///
    /// # Errors
    ///
    /// Those of the driver: the outcome is then in doubt.
    pub async fn commit(self) -> Result<(), tokio_postgres::Error> {
        let ended = self.inner.commit().await;
        self.pending.received();
        ended
    }

    /// Rolls back, and waits for it.
    ///
    /// # Errors
    ///
    /// Those of the driver: the connection is lost then, and the transaction with it.
    pub async fn rollback(self) -> Result<(), tokio_postgres::Error> {
        let ended = self.inner.rollback().await;
        self.pending.received();
        ended
    }
}

impl<'a> Deref for Transaction<'a> {
    type Target = deadpool_postgres::Transaction<'a>;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl DerefMut for Transaction<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.inner
    }
}

/// Begins a transaction whose statements may each take up to `timeout`.
///
/// # Errors
///
/// [`DbError::Postgres`] if it cannot be begun.
pub async fn begin_in_time(
    connection: &mut Connection,
    timeout: Duration,
) -> Result<Transaction<'_>, DbError> {
    preset(begin(connection).await?, timeout).await
}

/// As [`begin_in_time`], for statements that all read one snapshot.
///
/// # Errors
///
/// [`DbError::Postgres`] if it cannot be begun.
pub async fn begin_snapshot_in_time(
    connection: &mut Connection,
    timeout: Duration,
) -> Result<Transaction<'_>, DbError> {
    preset(begin_at(connection, IsolationLevel::RepeatableRead).await?, timeout).await
}

async fn preset(transaction: Transaction<'_>, timeout: Duration) -> Result<Transaction<'_>, DbError> {
    transaction.pending.expect(timeout + GRACE);
    transaction.batch_execute(&presets(timeout)).await?;
    Ok(transaction)
}

/// Rolls back a transaction after `error`, and waits for it. A transaction that is dropped sends its rollback together with the
/// connection's next statement; after a failed COPY, PgBouncer then loses an answer, and the connection hangs.
pub async fn roll_back(transaction: Transaction<'_>, error: DbError) -> DbError {
    // Where it fails the connection is lost, and the transaction with it.
    let _lost = transaction.rollback().await;
    error
}

/// Begins a transaction at the isolation level of all of the service's, whatever the default is; [`presets`] come first in it.
///
/// # Errors
///
/// [`DbError::Postgres`] if it cannot be begun.
pub async fn begin(connection: &mut Connection) -> Result<Transaction<'_>, DbError> {
    begin_at(connection, IsolationLevel::ReadCommitted).await
}

async fn begin_at(
    connection: &mut Connection,
    isolation: IsolationLevel,
) -> Result<Transaction<'_>, DbError> {
    let (client, pending) = connection.client_mut()?;
    pending.expect(ROLLBACK_LIMIT);
    let inner = client.build_transaction().isolation_level(isolation).start().await?;
    Ok(Transaction { inner, pending })
}

/// The statements of `sql/db/presets.sql` without its comments, as they begin every transaction.
static PRESETS: LazyLock<String> = LazyLock::new(|| {
    let lines = sql!("db/presets.sql").lines();
    lines.filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join(" ")
});

/// The first statements of a transaction: the parameters that the service relies on. A statement may take up to `timeout`; zero
/// is no limit.
pub fn presets(timeout: Duration) -> String {
    PRESETS.replace("{timeout_ms}", &timeout.as_millis().to_string())
}

/// Waits for work that is bounded by a `statement_timeout` of `timeout`, and a little longer.
///
/// # Errors
///
/// [`DbError::Timeout`]: the connection's state is not known then.
pub async fn in_time<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, DbError>>,
) -> Result<T, DbError> {
    let limit = timeout + GRACE;
    tokio::time::timeout(limit, work).await.unwrap_or(Err(DbError::Timeout(limit)))
}
