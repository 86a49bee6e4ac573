//! The pool of connections: connections dropped with a statement under way, and statements repeated after conflicts.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tidegate::config::{Config, Quota, Variables};
use tidegate::db::{
    ConnectionUrl, Database, DbError, DependentWrites, Query, WriteFailure, begin_in_time, read_then_write,
};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::support::postgres::TestDatabase;
use crate::support::service::eventually;

/// Longer than any statement here takes.
const LONG: Duration = Duration::from_secs(60);
/// The time limit of an answer from a connection that is free.
const ANSWER: Duration = Duration::from_secs(20);
/// Waits until the test's lock is free.
const WAIT: &str = "select pg_advisory_xact_lock_shared(7)";

/// A quota of one connection, for which a caller waits a moment.
fn quota(database: &TestDatabase) -> Database {
    let variables = [("DATABASE_URL", database.url()), ("POOL_WAIT_MS", "100")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::from_variables(&variables.into_iter().collect::<Variables>()).unwrap();
    let url = ConnectionUrl::parse(database.url()).unwrap();
    Database::new(&url, &config.database).unwrap().quota(Quota { connections: 1, is_long: false })
}

/// The backend that waits for the test's lock.
async fn waiting_backend(admin: &Client) -> i32 {
    let waiting = "select pid from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock' and wait_event = 'advisory'";
    eventually("a statement waits for the lock", async || {
        admin.query(waiting, &[]).await.unwrap().first().map(|row| row.get(0))
    })
    .await
}

/// The backend of a connection that answers in time.
async fn backend(quota: &Database) -> Option<i32> {
    let connection = quota.get().await.ok()?;
    let answer = connection.query_one("select pg_backend_pid()", &[]);
    let row = tokio::time::timeout(ANSWER, answer).await.expect("a connection without a statement answers");
    Some(row.unwrap().get(0))
}

#[tokio::test]
async fn a_connection_dropped_with_a_statement_under_way_is_reused_only_after_its_answer() {
    let database = TestDatabase::create().await;
    let (quota, admin) = (quota(&database), database.connect().await);
    admin.batch_execute("select pg_advisory_lock(7)").await.unwrap();
    for in_transaction in [false, true] {
        let task = tokio::spawn({
            let quota = quota.clone();
            async move {
                if in_transaction {
                    let mut connection = quota.get().await.unwrap();
                    let transaction = begin_in_time(&mut connection, LONG).await.unwrap();
                    transaction.batch_execute("create table left_over ()").await.unwrap();
                    transaction.batch_execute(WAIT).await.unwrap();
                } else {
                    quota.query_in_time(LONG, WAIT, &[]).await.unwrap();
                }
            }
        });
        let waiting = waiting_backend(&admin).await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert!(matches!(quota.get().await, Err(DbError::Exhausted(_))), "the statement still runs");
        admin.batch_execute("select pg_advisory_unlock(7)").await.unwrap();
        let reused = eventually("the connection is free", async || backend(&quota).await).await;
        assert_eq!(reused, waiting);
        admin.batch_execute("select pg_advisory_lock(7)").await.unwrap();
    }
    let left: bool =
        admin.query_one("select to_regclass('left_over') is not null", &[]).await.unwrap().get(0);
    assert!(!left, "the transaction was rolled back");
}

#[tokio::test]
async fn a_connection_that_never_answers_is_closed() {
    let database = TestDatabase::create().await;
    let (quota, admin) = (quota(&database), database.connect().await);
    admin.batch_execute("select pg_advisory_lock(7)").await.unwrap();
    let task = tokio::spawn({
        let quota = quota.clone();
        async move { quota.query_in_time(Duration::from_secs(1), WAIT, &[]).await }
    });
    let waiting = waiting_backend(&admin).await;
    kill(Pid::from_raw(waiting), Signal::SIGSTOP).unwrap();
    task.abort();
    let other = eventually("another connection is made", async || backend(&quota).await).await;
    kill(Pid::from_raw(waiting), Signal::SIGCONT).unwrap();
    assert_ne!(other, waiting);
}

#[tokio::test]
async fn statements_repeated_after_conflicts_share_one_deadline() {
    let database = TestDatabase::create().await;
    let (quota, admin) = (quota(&database), database.connect().await);
    admin
        .batch_execute(
            "create sequence attempts;
             create function conflict() returns void language plpgsql as $$
             begin
                 perform nextval('attempts');
                 perform pg_sleep(0.4);
                 raise sqlstate '40001';
             end $$",
        )
        .await
        .unwrap();
    let attempts = async || {
        let last = admin.query_one("select last_value from attempts", &[]).await.unwrap();
        last.get::<_, i64>(0)
    };
    assert!(quota.query_in_time(LONG, "select conflict()", &[]).await.unwrap_err().is_conflict());
    assert_eq!(attempts().await, 5);
    // The second attempt is cut short, so it is the last one.
    quota.query_in_time(Duration::from_millis(600), "select conflict()", &[]).await.unwrap_err();
    assert!(attempts().await <= 7, "{}", attempts().await);
}

/// Writes of a number into a table, each by a statement.
#[derive(Debug)]
struct Numbers(Vec<i32>);

impl DependentWrites for Numbers {
    fn queries(&self) -> Vec<Query<'_>> {
        let insert = |number| ("insert into numbers values ($1)", vec![(number as _, Type::INT4)]);
        self.0.iter().map(insert).collect()
    }
}

#[tokio::test]
async fn writes_behind_a_decision_are_committed_together_on_a_new_connection_too() {
    let database = TestDatabase::create().await;
    let (quota, admin) = (quota(&database), database.connect().await);
    admin.batch_execute("create table numbers (number int unique)").await.unwrap();
    let write = async |numbers: &[i32]| {
        let connection = quota.get().await.unwrap();
        let reads: [Query<'_>; 1] = [("select count(*) from numbers", Vec::new())];
        let written = read_then_write(&connection, LONG, &reads, |rows| {
            let count: i64 = rows[0][0].get(0);
            Ok(Numbers(numbers.iter().map(|number| number + count as i32).collect()))
        });
        written.await.map(|written| written.0)
    };
    let stored =
        async || -> i64 { admin.query_one("select count(*) from numbers", &[]).await.unwrap().get(0) };
    // The first one of the connection prepares its statements.
    assert!(matches!(write(&[1, 1]).await, Err(WriteFailure::RolledBack(error)) if error.is_rows_fault()));
    assert_eq!(stored().await, 0);
    assert_eq!(write(&[1, 2]).await.unwrap(), [1, 2]);
    assert_eq!(write(&[1, 2]).await.unwrap(), [3, 4]);
    assert_eq!(write(&[]).await.unwrap(), [0; 0]);
    assert!(write(&[5, 0]).await.is_err());
    assert_eq!(stored().await, 4);
}
