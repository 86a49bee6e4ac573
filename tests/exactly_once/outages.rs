//! Postgres crashes, is away, or has altered tables.

use serde_json::json;

use super::{NDJSON, load_of, rows, writer_is};
use crate::support::load::{Load, assert_exactly_once, assert_receipts_add_up};
use crate::support::postgres::{PrivateServer, TestDatabase, connect};
use crate::support::service::{Folder, Service, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_a_crash_of_postgres_loses_are_stored_again_exactly_once() {
    // Commits that did not wait for the disk are certainly lost, unless a checkpoint followed them.
    let settings = [("wal_writer_delay", "10s"), ("wal_writer_flush_after", "1GB")];
    let mut server = PrivateServer::start(&settings).await;
    let url = server.url().to_owned();
    let service = Service::start(&url, &[("BATCH_SIZE", "100")]).await;
    let load = Load::start(&service.address, 4, 0);
    for _ in 0..3 {
        load.progresses(500 + fastrand::u64(0..2000)).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_dropped_or_altered_under_load_loses_no_event() {
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
    load.progresses(1).await;
    service.post(&[("x-trace-id", "while-away")], "{}").await;
    // A request that waits for a commit gets only the level that was reached.
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
async fn an_outage_fills_the_journal_but_no_memory_and_recovery_needs_no_operator() {
    const BATCH: usize = 500;
    let mut server = PrivateServer::start(&[]).await;
    let url = server.url().to_owned();
    let settings = [
        ("MAX_QUEUE_SIZE", "1000"),
        ("MAX_QUEUE_BYTES", "4194304"),
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
    let metrics = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("tidegate_journal_refuses{state=\"full\"} 1"), "{metrics}");
    assert!(!metrics.contains("tidegate_events_refused_total{reason=\"overload\"}"), "{metrics}");
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
