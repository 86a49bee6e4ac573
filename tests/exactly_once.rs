//! Each accepted event is stored once, whatever happens to Postgres, to the connection, or to the folder.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::postgres::{PrivateServer, TestDatabase, connect};
use crate::support::service::{Folder, Service, eventually, run};

const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

/// Rows, and distinct events among them.
async fn stored(url: &str) -> (i64, i64) {
    let count = "select count(*), count(distinct trace_id) from requests";
    let row = connect(url).await.query_one(count, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

async fn post_many(service: &Service, batches: usize) {
    for _ in 0..batches {
        let body = "{\"n\":1}\n".repeat(100);
        assert_eq!(service.post_batch(&[NDJSON], body).await.status.as_u16(), 202);
    }
}

async fn all_settled(service: &Service, events: i64) {
    eventually("all is in the ledger", async || {
        let ledger = service.health().await["journal"]["ledger"].take();
        (ledger["pending"] == 0 && ledger["accepted"] == events && ledger["balanced"] == true).then_some(())
    })
    .await;
}

/// A transaction that is given up at its commit, stands still, and commits after all, when the service has long begun to
/// try again.
#[tokio::test]
async fn a_backend_that_stops_at_commit_and_goes_on_after_the_retry_doubles_nothing() {
    let server = PrivateServer::start(&[]).await;
    let service = Service::start(server.url(), &[("COPY_TIMEOUT_S", "1")]).await;
    let client = connect(server.url()).await;
    client
        .batch_execute(
            "create table slowness (seconds double precision); insert into slowness values (0.8);
            create function slow() returns trigger language plpgsql as $$ begin
                perform pg_sleep((select seconds from slowness)); return null; end $$;
            create constraint trigger slow after insert on ingest_receipts deferrable initially deferred
                for each row execute function slow();",
        )
        .await
        .unwrap();
    let posting = post_many(&service, 3);
    let stopping = async {
        let find = "select pid from pg_stat_activity where application_name like 'tidegate % lane %' and wait_event = 'PgSleep'";
        let pid: i32 = eventually("a batch is at its commit", async || {
            client.query(find, &[]).await.unwrap().first().map(|row| row.get(0))
        })
        .await;
        kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
        client.execute("update slowness set seconds = 0", &[]).await.unwrap();
        // Given up after a second; the retry waits for the lane meanwhile.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
    };
    tokio::join!(posting, stopping);
    all_settled(&service, 300).await;
    assert_eq!(stored(server.url()).await, (300, 300));
}

#[tokio::test]
async fn what_a_crash_of_postgres_lost_is_stored_again() {
    let mut server = PrivateServer::start(&[("wal_writer_delay", "10s")]).await;
    let service = Service::start(server.url(), &[]).await;
    for _ in 0..3 {
        post_many(&service, 10).await;
        // Committed, and not on Postgres' disk yet.
        server.stop_immediate().await;
        post_many(&service, 1).await;
        server.start_again().await;
    }
    all_settled(&service, 3300).await;
    assert_eq!(stored(server.url()).await, (3300, 3300));
}

/// What an operator does who restores a backup: rows, receipts and fences go back together.
#[tokio::test]
async fn a_database_that_is_restored_to_an_older_point_is_given_what_it_lacks() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    post_many(&service, 2).await;
    all_settled(&service, 200).await;
    let client = database.connect().await;
    client
        .batch_execute(
            "create table saved_requests as table requests; create table saved_receipts as table ingest_receipts;
             create table saved_journals as table ingest_journals;",
        )
        .await
        .unwrap();
    post_many(&service, 3).await;
    all_settled(&service, 500).await;
    client
        .batch_execute(
            "begin; alter table requests disable trigger user;
             delete from requests; insert into requests select * from saved_requests;
             delete from ingest_receipts; insert into ingest_receipts select * from saved_receipts;
             update ingest_journals set fence = saved.fence from saved_journals saved where saved.journal = ingest_journals.journal;
             alter table requests enable trigger user; commit;",
        )
        .await
        .unwrap();
    post_many(&service, 1).await;
    all_settled(&service, 600).await;
    assert_eq!(stored(database.url()).await, (600, 600));
    assert!(service.log().contains("Postgres has lost events that it had"));
    assert_eq!(service.health().await["journal"]["lost_by_postgres"], 0);
}

/// A folder whose journal holds 200 events that Postgres does not have.
async fn with_pending(server: &mut PrivateServer) -> Folder {
    let data = Folder::new();
    let service = Service::start(server.url(), &[("DATA_DIR", data.path())]).await;
    post_many(&service, 1).await;
    all_settled(&service, 100).await;
    server.stop_immediate().await;
    post_many(&service, 2).await;
    service.signal(Signal::SIGKILL);
    service.ended().await;
    data
}

#[tokio::test]
async fn a_service_starts_and_accepts_while_postgres_is_away() {
    let mut server = PrivateServer::start(&[]).await;
    let data = with_pending(&mut server).await;
    let service = Service::start(server.url(), &[("DATA_DIR", data.path())]).await;
    post_many(&service, 1).await;
    assert_eq!(service.get("/health/ready").await.status.as_u16(), 200);
    server.start_again().await;
    eventually("all is stored", async || (stored(server.url()).await == (400, 400)).then_some(())).await;
    assert!(service.stop().await.status.success());
}

#[tokio::test]
async fn two_clones_of_a_folder_store_each_event_once() {
    let mut server = PrivateServer::start(&[]).await;
    let data = with_pending(&mut server).await;
    let clone = Folder::new();
    let copied =
        Command::new("cp").args(["-r", &format!("{}/.", data.path()), clone.path()]).status().unwrap();
    assert!(copied.success());
    let (one, two) = (
        Service::start(server.url(), &[("DATA_DIR", data.path())]).await,
        Service::start(server.url(), &[("DATA_DIR", clone.path())]).await,
    );
    server.start_again().await;
    post_many(&one, 1).await;
    post_many(&two, 1).await;
    eventually("all is stored", async || (stored(server.url()).await == (500, 500)).then_some(())).await;
    for service in [&one, &two] {
        eventually("both know it", async || (service.health().await["pending"] == 0).then_some(())).await;
    }
}

#[tokio::test]
async fn a_folder_has_one_process() {
    let database = TestDatabase::create().await;
    let data = Folder::new();
    let settings = [("DATA_DIR", data.path()), ("DATABASE_URL", database.url()), ("PORT", "0")];
    let service = Service::start_with(&settings).await;
    let (status, _, stderr) = run(&["serve"], &settings).await;
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("in use by another process"), "{stderr}");
    post_many(&service, 1).await;
}

#[tokio::test]
async fn a_database_that_does_not_know_the_journal_is_refused_until_it_is_adopted() {
    let mut server = PrivateServer::start(&[]).await;
    let data = with_pending(&mut server).await;
    let other = TestDatabase::create().await;
    let settings = [
        ("DATA_DIR", data.path()),
        ("DATABASE_URL", other.url()),
        ("PORT", "0"),
        ("JOURNAL_SEGMENT_BYTES", "4194304"),
    ];
    let (status, _, stderr) = run(&["serve"], &settings).await;
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("does not know journal") && stderr.contains("--adopt-database"), "{stderr}");
    assert_eq!(stored(other.url()).await, (0, 0));
    let mut adopting =
        crate::support::service::program(&["serve", "--adopt-database"], &settings).spawn().unwrap();
    // All that the journal holds: what the lost database had, and what it never got.
    eventually("all is stored", async || (stored(other.url()).await == (300, 300)).then_some(())).await;
    adopting.start_kill().unwrap();
    adopting.wait().await.unwrap();
}

#[tokio::test]
async fn an_outage_fills_the_journal_up_to_its_limit_in_flat_memory_and_is_made_up_for() {
    let mut server = PrivateServer::start(&[]).await;
    let settings =
        [("JOURNAL_MAX_BYTES", "100663296"), ("MAX_QUEUE_SIZE", "1000"), ("JOURNAL_KEEP_BYTES", "0")];
    let service = Service::start(server.url(), &settings).await;
    post_many(&service, 1).await;
    all_settled(&service, 100).await;
    server.stop_immediate().await;
    let before = service.resident_bytes();
    let body = format!("{{\"text\":\"{}\"}}\n", "x".repeat(1000)).repeat(500);
    let mut accepted = 100;
    let refused = loop {
        let answer = service.post_batch(&[NDJSON], body.clone()).await;
        match answer.status.as_u16() {
            202 => accepted += 500,
            _ => break answer,
        }
    };
    assert_eq!((refused.status.as_u16(), refused.error_code().as_str()), (503, "journal_full"));
    assert!(accepted > 70_000, "{accepted} were taken");
    let grown = service.resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "grew by {grown} bytes with {accepted} events");
    assert_eq!(service.health().await["journal"]["state"], json!("full"));
    server.start_again().await;
    all_settled(&service, accepted).await;
    assert_eq!(stored(server.url()).await, (accepted, accepted));
    assert_eq!(service.post_batch(&[NDJSON], body).await.status.as_u16(), 202);
}

#[tokio::test]
async fn doctor_and_journal_tell_what_they_find() {
    let database = TestDatabase::create().await;
    let data = Folder::new();
    let settings =
        [("DATA_DIR", data.path()), ("DATABASE_URL", database.url()), ("JOURNAL_SEGMENT_BYTES", "4194304")];
    let service = Service::start(database.url(), &settings).await;
    post_many(&service, 2).await;
    all_settled(&service, 200).await;
    let (status, stdout, _) = run(&["journal", "--check"], &settings).await;
    assert!(status.success() && stdout.contains("200 events from 0"), "{stdout}");
    assert!(service.stop().await.status.success());

    let segments = std::fs::read_dir(format!("{}/journal", data.path())).unwrap();
    let segment = segments
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "seg"))
        .unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let (status, stdout, _) = run(&["journal", "--check"], &settings).await;
    assert!(!status.success() && stdout.contains("DAMAGED"), "{stdout}");

    // The tests' shared cluster runs without fsync.
    let (status, stdout, stderr) = run(&["doctor"], &settings).await;
    assert!(!status.success() && stdout.contains("FAIL  settings: fsync is off"), "{stdout} {stderr}");
    let server = PrivateServer::start(&[]).await;
    let url = [("DATA_DIR", data.path()), ("DATABASE_URL", server.url())];
    let (status, stdout, _) = run(&["doctor"], &url).await;
    assert!(status.success() && stdout.contains("ok    crash drill"), "{stdout}");
}
