//! Whatever happens to Postgres and the way to it, each accepted event is stored exactly once.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio_postgres::Client;

use crate::support::load::{Load, Sent, assert_exactly_once, assert_receipts_add_up};
use crate::support::postgres::{PrivateServer, TestDatabase, connect};
use crate::support::proxy::{Cut, Proxy};
use crate::support::service::{Folder, Service, eventually, run};

const NDJSON: [(&str, &str); 1] = [("content-type", "application/x-ndjson")];

/// A load of so many events, all of which are answered when this returns.
async fn load_of(service: &Service, events: u64) -> Sent {
    let load = Load::start(&service.address, 3, 0);
    load.progresses(events).await;
    load.stop().await
}

async fn writer_is(service: &Service, state: &str) {
    eventually(state, async || (service.health().await["writer"]["state"] == state).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_postgres_loses_when_it_crashes_is_stored_again_exactly_once() {
    // Commits that do not wait for the disk are lost for sure, if no fence came after them.
    let settings = [("wal_writer_delay", "10s"), ("wal_writer_flush_after", "1GB")];
    let mut server = PrivateServer::start(&settings).await;
    let url = server.url().to_owned();
    let service = Service::start(&url, &[("BATCH_SIZE", "100")]).await;
    let load = Load::start(&service.address, 4, 0);
    for _ in 0..3 {
        load.progresses(500).await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..1000))).await;
        server.stop_immediate().await;
        load.progresses(100).await;
        server.start_again().await;
        assert_eq!(server.url(), url);
        eventually("it stores again", async || {
            let health = service.health().await;
            (health["writer"]["state"] == "running" && health["pending"].as_u64() < Some(2000)).then_some(())
        })
        .await;
    }
    let sent = load.stop().await;
    let health = service.fenced().await;
    assert_eq!((&health["journal"]["lost_by_postgres"], &health["status"]), (&json!(0), &json!("ok")));
    assert_exactly_once(&connect(&url).await, &sent).await;
    let lost = service.log().matches("Postgres has lost events").count();
    assert!(lost > 0, "nothing was lost, so nothing was proved: {}", service.log());
}

/// Cuts connections at `cut`, again and again.
async fn cut_at(cut: Cut, times: u32, settings: &[(&str, &str)]) {
    let database = TestDatabase::create().await;
    let proxy = Proxy::before(database.url()).await;
    let mut all = vec![("BATCH_SIZE", "50")];
    all.extend(settings);
    let service = Service::start(proxy.url(), &all).await;
    let load = Load::start(&service.address, 3, 0);
    load.progresses(50).await;
    proxy.arm(cut, times);
    eventually("all cuts are made", async || (proxy.done() == times).then_some(())).await;
    load.progresses(50).await;
    let sent = load.stop().await;
    service.fenced().await;
    assert_exactly_once(&database.connect().await, &sent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_in_the_middle_of_a_copy_is_settled_exactly_once() {
    cut_at(Cut::MidCopy, 10, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_right_after_commit_was_sent_is_settled_exactly_once() {
    cut_at(Cut::AfterCommit, 10, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_swallows_a_commit_holds_nothing_up_for_good() {
    // The server still waits for the transaction's end, and its backend holds the lane.
    cut_at(Cut::HangAtCommit, 2, &[("COPY_TIMEOUT_S", "1")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_connections_cut_at_once_again_and_again_double_nothing() {
    let database = TestDatabase::create().await;
    let proxy = Proxy::before(database.url()).await;
    let service = Service::start(proxy.url(), &[("BATCH_SIZE", "20"), ("WRITERS", "4")]).await;
    let load = Load::start(&service.address, 4, 0);
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(10..120))).await;
        proxy.cut_all();
    }
    let sent = load.stop().await;
    service.fenced().await;
    assert_exactly_once(&database.connect().await, &sent).await;
}

/// A backend that does nothing until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn stop(pid: Pid) -> Self {
        kill(pid, Signal::SIGSTOP).unwrap();
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _gone = kill(self.0, Signal::SIGCONT);
    }
}

/// A backend is stopped while it commits, its service gives it up, and it goes on after `pause`.
async fn stopped_at_commit(pause: Duration) {
    // A server of its own: one that makes or drops a database waits for each of its backends.
    let server = PrivateServer::start(&[]).await;
    let migrated = Service::start(server.url(), &[]).await;
    assert!(migrated.stop().await.status.success());
    let client = connect(server.url()).await;
    client
        .batch_execute(
            "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.4); return null; end $$;
             create constraint trigger slow after insert on requests deferrable initially deferred
                for each row when (new.payload->>'slow' is not null) execute function slow();",
        )
        .await
        .unwrap();
    let service = Service::start(server.url(), &[("COPY_TIMEOUT_S", "1"), ("BATCH_SIZE", "20")]).await;
    let load = Load::start(&service.address, 2, 0);
    load.progresses(50).await;
    let answer = service.post(&[("x-trace-id", "slow")], "{\"slow\":true}").await;
    assert_eq!(answer.status.as_u16(), 202);
    let committing = "select pid from pg_stat_activity
        where datname = current_database() and application_name like 'tidegate % lane %' and wait_event = 'PgSleep'";
    let pid = eventually("a backend commits", async || {
        client.query_opt(committing, &[]).await.unwrap().map(|row| Pid::from_raw(row.get(0)))
    })
    .await;
    let stopped = Stopped::stop(pid);
    eventually("it is given up", async || service.logged("no answer from postgres within 1 s")).await;
    tokio::time::sleep(pause).await;
    drop(stopped);
    load.progresses(50).await;
    let mut sent = load.stop().await;
    sent.add("slow");
    service.fenced().await;
    assert_exactly_once(&client, &sent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_stopped_at_commit_that_goes_on_during_the_retry_doubles_nothing() {
    stopped_at_commit(Duration::from_millis(700)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_stopped_at_commit_for_long_doubles_nothing() {
    stopped_at_commit(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_taken_away_or_altered_under_load_costs_no_event() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let service = Service::start(database.url(), &[]).await;
    let load = Load::start(&service.address, 2, 0);
    load.progresses(100).await;
    for (broken, mended) in [
        ("alter table requests rename to gone", "alter table gone rename to requests"),
        (
            "alter table requests alter column received_at type date using received_at::date",
            "alter table requests alter column received_at type timestamptz using received_at::timestamptz",
        ),
        ("alter table ingest_receipts rename to gone", "alter table gone rename to ingest_receipts"),
        ("alter table ingest_lanes rename to gone", "alter table gone rename to ingest_lanes"),
        ("alter table ingest_keys rename to gone", "alter table gone rename to ingest_keys"),
    ] {
        client.batch_execute(broken).await.unwrap();
        writer_is(&service, "halted").await;
        load.progresses(20).await;
        client.batch_execute(mended).await.unwrap();
        writer_is(&service, "running").await;
    }
    let sent = load.stop().await;
    let health = service.fenced().await;
    assert_eq!(health["dead"], 0);
    assert_exactly_once(&client, &sent).await;
}

/// What a backup of the database would hold.
struct Backup<'a>(&'a Client, &'static str);

/// In the order in which the writer takes them.
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

    /// All tables as they were, and all connections are cut, as a restored server would.
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

async fn rows(client: &Client) -> i64 {
    client.query_one("select count(*) from requests", &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_restored_to_an_older_point_gets_what_it_lacks_while_nothing_else_happens() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let service = Service::start(database.url(), &[]).await;
    let sent = load_of(&service, 200).await;
    service.fenced().await;
    let backup = Backup::take(&client, "older").await;
    let sent = sent.and(load_of(&service, 200).await);
    service.fenced().await;
    let before = rows(&client).await;
    // The service rests: it has no reason of its own to look at the database.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    backup.restore().await;
    assert!(rows(&client).await < before);
    eventually("all is back", async || (rows(&client).await == before).then_some(())).await;
    let health = service.fenced().await;
    assert_eq!(health["journal"]["lost_by_postgres"], 0);
    assert_exactly_once(&client, &sent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_restored_to_an_older_point_under_load_gets_what_it_lacks() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let service = Service::start(database.url(), &[("BATCH_SIZE", "50")]).await;
    let sent = load_of(&service, 200).await;
    service.fenced().await;
    let backup = Backup::take(&client, "older").await;
    let load = Load::start(&service.address, 3, 0);
    for _ in 0..2 {
        load.progresses(300).await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..1200))).await;
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
async fn a_database_restored_between_two_runs_gets_what_it_lacks() {
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
async fn what_a_restored_database_lacks_and_the_journal_does_not_hold_any_more_is_named() {
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
    // As long as nothing but the last segment is held, most of it is gone.
    service.post(&[], "{}").await;
    let lost = eventually("the loss is named", async || {
        service.health().await["journal"]["lost_by_postgres"].as_i64().filter(|lost| *lost > 0)
    })
    .await;
    eventually("the rest is back", async || (rows(&client).await + lost == 3001).then_some(())).await;
    // And it stays named.
    service.post(&[], "{}").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let health = service.health().await;
    assert_eq!(
        (&health["status"], &health["journal"]["lost_by_postgres"]),
        (&json!("degraded"), &json!(lost))
    );
    assert!(
        String::from_utf8_lossy(&service.get("/metrics").await.body).contains(&format!(" {lost}\n")),
        "metrics name it too"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_forgot_the_journal_halts_the_writer_and_buries_nothing() {
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
    eventually("the fence says why", async || {
        let health = service.health().await;
        let message = health["journal"]["fence"]["last_error"]["message"].as_str()?.to_owned();
        message.contains("the database does not know journal").then_some(())
    })
    .await;
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
async fn a_journal_that_was_forgotten_for_a_while_costs_no_event() {
    let database = TestDatabase::create().await;
    let client = database.connect().await;
    let older = Backup::take(&client, "older").await;
    let service = Service::start(database.url(), &[("ACK_TIMEOUT_MS", "200")]).await;
    let sent = load_of(&service, 100).await;
    service.fenced().await;
    let newer = Backup::take(&client, "newer").await;
    older.restore().await;
    let load = Load::start(&service.address, 2, 0);
    load.progresses(50).await;
    writer_is(&service, "halted").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    newer.restore().await;
    load.progresses(50).await;
    let sent = sent.and(load.stop().await);
    let health = service.fenced().await;
    assert_eq!(health["dead"], 0);
    assert_exactly_once(&client, &sent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_another_journal_is_refused_unless_it_is_adopted() {
    let (first, other) = (TestDatabase::create().await, TestDatabase::create().await);
    let folder = Folder::new();
    let service = Service::start_with(&[("DATABASE_URL", first.url()), ("DATA_DIR", folder.path())]).await;
    let sent = load_of(&service, 100).await;
    service.fenced().await;
    assert!(service.stop().await.status.success());

    let settings = [("DATABASE_URL", other.url()), ("DATA_DIR", folder.path()), ("PORT", "0")];
    let (status, _, stderr) = run(&["serve"], &settings).await;
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("the database does not know journal ") && stderr.contains("--adopt-database"),
        "{stderr}"
    );
    let client = other.connect().await;
    assert_eq!(rows(&client).await, 0);
    let service = Service::start_as(&["serve", "--adopt-database"], &settings).await;
    service.settled().await;
    assert_exactly_once(&client, &sent).await;
    assert!(service.stop().await.status.success());
    // From now on it is ours.
    let service = Service::start_with(&settings).await;
    let sent = sent.and(load_of(&service, 20).await);
    service.fenced().await;
    assert_exactly_once(&client, &sent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_on_one_data_dir_is_refused() {
    let database = TestDatabase::create().await;
    let folder = Folder::new();
    let settings = [("DATABASE_URL", database.url()), ("DATA_DIR", folder.path()), ("PORT", "0")];
    let service = Service::start_with(&settings).await;
    let (status, _, stderr) = run(&["serve"], &settings).await;
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("journal"), "{stderr}");
    let sent = load_of(&service, 20).await;
    service.fenced().await;
    assert_exactly_once(&database.connect().await, &sent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloned_data_dir_stores_each_event_once() {
    let mut server = PrivateServer::start(&[]).await;
    let url = server.url().to_owned();
    let (folder, parent) = (Folder::new(), Folder::new());
    let settings = [("DATABASE_URL", url.as_str()), ("DATA_DIR", folder.path())];
    let impatient = [settings[0], settings[1], ("ACK_TIMEOUT_MS", "50")];
    let service = Service::start_with(&impatient).await;
    let sent = load_of(&service, 20).await;
    service.fenced().await;
    server.stop_immediate().await;
    let sent = sent.and(load_of(&service, 3000).await);
    service.signal(Signal::SIGKILL);
    service.ended().await;
    let clone = format!("{}/clone", parent.path());
    let copied = std::process::Command::new("cp").args(["-R", "-p", folder.path(), &clone]).status().unwrap();
    assert!(copied.success());
    // Batches of other sizes, so that the two come across each other's in the middle.
    let first = [settings[0], settings[1], ("BATCH_SIZE", "70"), ("MAX_COPY_BYTES", "65536")];
    let second = [settings[0], ("DATA_DIR", &clone), ("BATCH_SIZE", "30"), ("WRITERS", "3")];
    let (one, two) = tokio::join!(Service::start_with(&first), Service::start_with(&second));
    server.start_again().await;
    assert_eq!(server.url(), url);
    let sent = sent.and(load_of(&one, 50).await).and(load_of(&two, 50).await);
    one.settled().await;
    two.settled().await;
    let client = connect(&url).await;
    assert_exactly_once(&client, &sent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_starts_and_accepts_while_postgres_is_away_once_it_was_migrated() {
    let mut server = PrivateServer::start(&[]).await;
    let url = server.url().to_owned();
    let folder = Folder::new();
    let settings = [("DATABASE_URL", url.as_str()), ("DATA_DIR", folder.path())];
    let service = Service::start_with(&settings).await;
    let sent = load_of(&service, 50).await;
    service.fenced().await;
    assert!(service.stop().await.status.success());
    server.stop_immediate().await;
    let service = Service::start_with(&settings).await;
    let load = Load::start(&service.address, 1, 0);
    tokio::time::sleep(Duration::from_millis(300)).await;
    service.post(&[("x-trace-id", "while-away")], "{}").await;
    // Nothing that waits for a commit gets more than it can have.
    let answer = service
        .request("POST", "/api/v1/events", &[("x-trace-id", "waits"), ("prefer", "wait=1")], "{}")
        .await;
    assert_eq!((answer.status.as_u16(), answer.header("x-ack")), (202, "journaled"));
    server.start_again().await;
    assert_eq!(server.url(), url);
    let mut sent = sent.and(load.stop().await);
    sent.add("while-away");
    sent.add("waits");
    service.fenced().await;
    assert_exactly_once(&connect(&url).await, &sent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_fills_the_journal_and_not_the_memory_and_passes_by_itself() {
    const BATCH: usize = 500;
    let mut server = PrivateServer::start(&[]).await;
    let url = server.url().to_owned();
    let settings = [
        ("MAX_QUEUE_SIZE", "1000"),
        ("MAX_QUEUE_BYTES", "4194304"),
        ("MAX_BATCH_EVENTS", "1000"),
        ("JOURNAL_MAX_BYTES", "67108864"),
        ("JOURNAL_KEEP_BYTES", "0"),
    ];
    let service = Service::start(&url, &settings).await;
    let body = format!("{{\"text\":\"{}\"}}\n", "x".repeat(4000)).repeat(BATCH);
    let send = async || service.post_batch(&NDJSON, body.clone()).await;
    assert_eq!(send().await.status.as_u16(), 202);
    service.fenced().await;
    server.stop_immediate().await;
    let mut accepted = BATCH;
    for _ in 0..4 {
        assert_eq!(send().await.status.as_u16(), 202);
        accepted += BATCH;
    }
    let before = service.resident_bytes();
    let refused = loop {
        let answer = send().await;
        if answer.status.as_u16() != 202 {
            break answer;
        }
        accepted += BATCH;
        assert!(accepted < 100 * BATCH, "JOURNAL_MAX_BYTES has no effect");
    };
    assert_eq!((refused.status.as_u16(), refused.error_code().as_str()), (503, "journal_full"));
    assert!(!refused.header("retry-after").is_empty());
    assert!(accepted > 20 * BATCH, "{accepted} is far more than the queue holds");
    assert_eq!(service.health().await["pending"], accepted - BATCH);
    let grown = service.resident_bytes().saturating_sub(before);
    assert!(grown < 24 << 20, "grown by {grown} bytes");
    server.start_again().await;
    assert_eq!(server.url(), url);
    eventually("it takes events again", async || (send().await.status.as_u16() == 202).then_some(())).await;
    service.fenced().await;
    let grown = service.resident_bytes().saturating_sub(before);
    assert!(grown < 48 << 20, "grown by {grown} bytes while it drained");
    let client = connect(&url).await;
    assert_eq!(rows(&client).await, (accepted + BATCH) as i64);
    assert_receipts_add_up(&client).await;
}
