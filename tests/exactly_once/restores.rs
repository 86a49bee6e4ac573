//! A database that went back in time, or lost its journals.

use nix::sys::signal::Signal;
use serde_json::json;
use tokio_postgres::Client;

use super::{NDJSON, load_of, rows, writer_is};
use crate::support::load::{Load, assert_exactly_once};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Folder, Service, eventually};

/// A backup of the database.
struct Backup<'a>(&'a Client, &'static str);

/// In the writer's order.
const TABLES: [&str; 8] = [
    "ingest_lanes",
    "ingest_journals",
    "ingest_keys",
    "ingest_duplicates",
    "requests",
    "dead_letters",
    "ingest_receipts",
    "ingest_removed",
];

impl<'a> Backup<'a> {
    async fn take(client: &'a Client, name: &'static str) -> Self {
        let copies = TABLES.map(|table| format!("create table {name}.{table} as table public.{table};"));
        let sql = format!(
            "begin isolation level repeatable read; create schema {name}; {} commit",
            copies.concat()
        );
        client.batch_execute(&sql).await.unwrap();
        Self(client, name)
    }

    /// Restores all tables and cuts all connections, as a restore of the server would.
    async fn restore(&self) {
        let name = self.1;
        let tables = TABLES
            .map(|table| format!("lock table public.{table} in access exclusive mode;"))
            .concat()
            + &TABLES
                .map(|table| {
                    format!("delete from public.{table}; insert into public.{table} table {name}.{table};")
                })
                .concat();
        let sql = format!(
            "begin; set local session_replication_role = replica; {tables}
             select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid();
             commit"
        );
        self.0.batch_execute(&sql).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_restored_to_an_older_point_gets_its_missing_events_while_idle() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let service = Service::start(database.url(), &[]).await;
    let sent = load_of(&service, 200).await;
    service.fenced().await;
    let backup = Backup::take(&client, "older").await;
    let sent = sent.and(load_of(&service, 200).await);
    service.fenced().await;
    let before = rows(&client).await;
    let busy = "select count(*) from pg_stat_activity
        where datname = current_database() and application_name like 'tidegate % lane %'
            and (state <> 'idle' or clock_timestamp() - state_change < interval '1 s')";
    eventually("the service is idle: nothing else makes it query the database", async || {
        (client.query_one(busy, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    backup.restore().await;
    assert!(rows(&client).await < before);
    eventually("all is back", async || (rows(&client).await == before).then_some(())).await;
    let health = service.fenced().await;
    assert_eq!(health["journal"]["lost_by_postgres"], 0);
    assert_exactly_once(&client, &sent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_restored_to_an_older_point_under_load_gets_its_missing_events() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let service = Service::start(database.url(), &[("BATCH_SIZE", "50")]).await;
    let sent = load_of(&service, 200).await;
    service.fenced().await;
    let backup = Backup::take(&client, "older").await;
    let load = Load::start(&service.address, 3, 0);
    for _ in 0..2 {
        load.progresses(300 + fastrand::u64(0..2000)).await;
        backup.restore().await;
    }
    load.progresses(100).await;
    let sent = sent.and(load.stop().await);
    service.fenced().await;
    eventually("all is back", async || (rows(&client).await >= sent.acknowledged() as i64).then_some(()))
        .await;
    assert_exactly_once(&client, &sent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_restored_between_two_runs_gets_its_missing_events() {
    let database = TestDatabase::create().await;
    let (client, folder) = (database.connect().await, Folder::new());
    let settings = [("DATABASE_URL", database.url()), ("DATA_DIR", folder.path())];
    let service = Service::start_with(&settings).await;
    let sent = load_of(&service, 200).await;
    service.fenced().await;
    let backup = Backup::take(&client, "older").await;
    let sent = sent.and(load_of(&service, 200).await);
    service.fenced().await;
    assert!(service.stop().await.status.success());
    backup.restore().await;
    let service = Service::start_with(&settings).await;
    let sent = sent.and(load_of(&service, 50).await);
    service.fenced().await;
    assert_exactly_once(&client, &sent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_missing_from_a_restored_database_and_from_the_journal_are_reported() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let service = Service::start(database.url(), &[("JOURNAL_KEEP_BYTES", "0")]).await;
    let backup = Backup::take(&client, "older").await;
    let body = format!("{{\"text\":\"{}\"}}\n", "x".repeat(4000)).repeat(500);
    for _ in 0..6 {
        assert_eq!(service.post_batch(&NDJSON, body.clone()).await.json()["accepted"], 500);
    }
    service.fenced().await;
    eventually("it is trimmed", async || {
        (service.health().await["journal"]["kept_bytes"] == 0).then_some(())
    })
    .await;
    backup.restore().await;
    // Only the last segment is held, so most events are gone.
    service.post(&[], "{}").await;
    let lost = eventually("the loss is named", async || {
        service.health().await["journal"]["lost_by_postgres"].as_i64().filter(|lost| *lost > 0)
    })
    .await;
    eventually("the rest is back", async || (rows(&client).await + lost == 3001).then_some(())).await;
    // It stays reported.
    let before = service.health().await["journal"]["ledger"]["accepted"].clone();
    service.post(&[], "{}").await;
    let health = eventually("there is another checkpoint", async || {
        let health = service.health().await;
        (health["journal"]["ledger"]["accepted"] != before).then_some(health)
    })
    .await;
    assert_eq!(
        (&health["status"], &health["journal"]["lost_by_postgres"]),
        (&json!("degraded"), &json!(lost))
    );
    assert!(
        String::from_utf8_lossy(&service.get("/metrics").await.body).contains(&format!(" {lost}\n")),
        "metrics name it too"
    );
}

/// Waits until the checkpoint fails because the database does not know the journal.
async fn fence_knows_no_journal(service: &Service) {
    eventually("the fence says why", async || {
        let health = service.health().await;
        let message = health["journal"]["fence"]["last_error"]["message"].as_str()?.to_owned();
        message.contains("the database does not know journal").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_without_the_journal_halts_the_writer_and_makes_no_dead_letters() {
    let database = TestDatabase::create().await;
    let (client, folder) = (database.connect().await, Folder::new());
    let settings = [("DATABASE_URL", database.url()), ("DATA_DIR", folder.path())];
    let backup = Backup::take(&client, "older").await;
    let service = Service::start_with(&settings).await;
    let sent = load_of(&service, 100).await;
    service.fenced().await;
    // To a point before the journal was registered.
    backup.restore().await;
    let load = Load::start(&service.address, 2, 0);
    load.progresses(50).await;
    writer_is(&service, "halted").await;
    fence_knows_no_journal(&service).await;
    let sent = sent.and(load.stop().await);
    service.signal(Signal::SIGKILL);
    service.ended().await;
    let service = Service::start_as(&["serve", "--adopt-database"], &settings).await;
    service.settled().await;
    assert_exactly_once(&client, &sent).await;
    let letters: i64 = client.query_one("select count(*) from dead_letters", &[]).await.unwrap().get(0);
    assert_eq!(letters, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_was_unknown_for_a_while_loses_no_event() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let older = Backup::take(&client, "older").await;
    let service = Service::start(database.url(), &[]).await;
    let sent = load_of(&service, 100).await;
    service.fenced().await;
    let newer = Backup::take(&client, "newer").await;
    older.restore().await;
    let load = Load::start(&service.address, 2, 0);
    load.progresses(50).await;
    writer_is(&service, "halted").await;
    fence_knows_no_journal(&service).await;
    newer.restore().await;
    load.progresses(50).await;
    let sent = sent.and(load.stop().await);
    let health = service.fenced().await;
    assert_eq!(health["dead"], 0);
    assert_exactly_once(&client, &sent).await;
}
