//! Real Postgres for tests: one cluster a test run, a database of its own for each test, and whole servers for the tests that
//! break one.
//!
//! Everything lives under `target/tmp/postgres` and is made by the service's own `db::private`:
//!
//! ```text
//! pristine/      a cluster that initdb made once a build; the others are copies of it
//! shared/        the run's cluster, fast and forgetful
//! scratch/…      a DATA_DIR of one test
//! users.lock     held shared by every test process, whatever runs them: cargo has one, nextest one a test
//! start.lock     held while something common is made
//! guardian.lock  held by the guardian
//! ```

mod guardian;
mod run;
mod server;

pub(crate) use server::{PrivateServer, Scratch, postmaster_pid};

use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use super::service::eventually;
use run::{RUN, Run};

/// A constraint that rejects events with a member `evil`.
const NO_EVIL: &str = "alter table requests add constraint no_evil check (payload->>'evil' is null)";

/// Waits until `count` statements in the client's database wait for locks of `pg_locks` that match `which`.
pub(crate) async fn blocked(client: &Client, count: i64, which: &str) {
    let waiting = format!(
        "select count(distinct pid) from pg_locks join pg_stat_activity using (pid)
         where datname = current_database() and not granted and ({which})"
    );
    eventually(&format!("{count} statements wait for a lock, {which}"), async || {
        (client.query_one(&waiting, &[]).await.unwrap().get::<_, i64>(0) >= count).then_some(())
    })
    .await;
}

/// A database for one test, dropped with its value.
pub(crate) struct TestDatabase {
    name: String,
    url: String,
}

impl TestDatabase {
    pub(crate) async fn create() -> Self {
        Self::create_with(&format!("template {}", Run::join().await.template)).await
    }

    /// A database whose `requests` rejects events with a member `evil`.
    pub(crate) async fn refusing_evil() -> Self {
        let database = Self::create().await;
        database.connect().await.batch_execute(NO_EVIL).await.unwrap();
        database
    }

    /// A database that was never migrated.
    pub(crate) async fn create_empty() -> Self {
        Self::create_with("").await
    }

    /// A database created with these options.
    pub(crate) async fn create_with(options: &str) -> Self {
        let run = Run::join().await;
        let name = format!("test_{}", Uuid::new_v4().simple());
        let admin = connect(&run.admin_url()).await;
        admin.batch_execute(&format!("create database {name} {options}")).await.unwrap();
        Self { url: run.url(&name), name }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) async fn connect(&self) -> Client {
        connect(&self.url).await
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let Some(run) = RUN.get() else { return };
        let (url, drop) = (run.admin_url(), format!("drop database if exists {} with (force)", self.name));
        // A runtime cannot be entered from within one, so it gets a thread. Best effort: the guardian removes the rest.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                if let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await {
                    tokio::spawn(connection);
                    let _ = client.batch_execute(&drop).await;
                }
            });
            std::io::Result::Ok(())
        });
        let _ = dropped.join();
    }
}

/// Connects; the connection ends with the client.
pub(crate) async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

mod tests {
    use super::*;

    #[tokio::test]
    async fn two_test_databases_see_nothing_of_each_other() {
        let (one, other) = (TestDatabase::create().await, TestDatabase::create().await);
        assert_ne!(one.name(), other.name());
        one.connect().await.batch_execute("create table t ()").await.unwrap();
        connect(other.url()).await.batch_execute("create table t ()").await.unwrap();
    }

    #[tokio::test]
    async fn a_test_database_is_dropped_with_its_value() {
        let database = TestDatabase::create().await;
        let (name, client) = (database.name().to_owned(), database.connect().await);
        drop(database);
        let admin = connect(&Run::join().await.admin_url()).await;
        let rows = admin.query("select from pg_database where datname = $1", &[&name]).await.unwrap();
        assert_eq!(rows.len(), 0);
        assert!(client.query("select 1", &[]).await.is_err());
    }

    #[tokio::test]
    async fn a_private_server_has_its_settings_and_comes_back_after_a_crash() {
        let mut server = PrivateServer::start(&[("wal_level", "logical"), ("max_connections", "30")]).await;
        let client = connect(server.url()).await;
        let level: String = client.query_one("show wal_level", &[]).await.unwrap().get(0);
        let most: String = client.query_one("show max_connections", &[]).await.unwrap().get(0);
        assert_eq!((level.as_str(), most.as_str()), ("logical", "30"));
        client.batch_execute("create table kept as select 1 as n").await.unwrap();

        let before = server.pid();
        server.stop_immediate().await;
        assert!(client.query("select 1", &[]).await.is_err());
        server.start_again().await;
        assert_ne!(server.pid(), before);
        let n: i32 = connect(server.url()).await.query_one("select n from kept", &[]).await.unwrap().get(0);
        assert_eq!(n, 1);
    }
}
