//! Large JSON bodies are parsed off the threads that serve connections (`offload::INLINE_BYTES`).

use serde_json::{Value, json};

use crate::support::postgres::TestDatabase;
use crate::support::service::Service;

/// More than the limit of inline parsing.
const LARGE: usize = 300 * 1024;
/// Less than this limit.
const SMALL: usize = 200 * 1024;
const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

/// The number of documents handled off the connections' threads.
async fn offloaded(service: &Service) -> u64 {
    let metrics = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
    let line = metrics.lines().find_map(|line| line.strip_prefix("tidegate_json_offloaded_total "));
    line.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
}

#[tokio::test]
async fn large_bodies_leave_the_connections_thread_and_small_ones_stay() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("HTTP_THREADS", "1")]).await;
    let object = |bytes: usize| json!({ "pad": "x".repeat(bytes) }).to_string();
    let lines = |bytes: usize| format!("{{\"pad\":\"{}\"}}\n", "x".repeat(1000)).repeat(bytes / 1000);
    let ids = |bytes: usize| {
        let ids = vec!["00000000-0000-7000-8000-000000000000"; bytes / 40];
        json!({ "trace_ids": ids, "since": "2026-01-01T00:00:00Z", "until": "2026-01-01T00:01:00Z" })
            .to_string()
    };
    let json = ("content-type", "application/json");
    for (path, header, small, large) in [
        ("/api/v1/events", json, object(SMALL), object(LARGE)),
        ("/api/v1/events/batch", NDJSON, lines(SMALL), lines(LARGE)),
        ("/api/v1/events/batch", json, format!("[{}]", object(SMALL)), format!("[{}]", object(LARGE))),
        ("/api/stress/records/items", json, object(SMALL), object(LARGE)),
        ("/api/stress/large-payload/items", json, object(SMALL), object(LARGE)),
        ("/api/v1/reconcile", json, ids(SMALL), ids(LARGE)),
    ] {
        let before = offloaded(&service).await;
        let answer = service.request("POST", path, &[header], small).await;
        assert!(answer.status.is_success(), "{path}: {:?}", answer.body);
        assert_eq!(offloaded(&service).await, before, "{path}");
        let answer = service.request("POST", path, &[header], large).await;
        assert!(answer.status.is_success(), "{path}: {:?}", answer.body);
        assert!(offloaded(&service).await > before, "{path}");
    }
    // Every event is stored once.
    service.settled().await;
    let rows = database.connect().await.query("select payload from requests", &[]).await.unwrap();
    let pads: Vec<usize> =
        rows.iter().map(|row| row.get::<_, Value>(0)["pad"].as_str().map_or(0, str::len)).collect();
    let of = |length| pads.iter().filter(|pad| **pad == length).count();
    assert_eq!((of(SMALL), of(LARGE), of(1000)), (2, 2, SMALL / 1000 + LARGE / 1000));
}

#[tokio::test]
async fn a_large_page_is_written_off_the_connections_thread() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let path = "/api/stress/records/items";
    for _ in 0..2 {
        let record = json!({ "pad": "x".repeat(SMALL), "n": 1 }).to_string();
        assert_eq!(
            service.request("POST", path, &[("content-type", "application/json")], record).await.status,
            201
        );
    }
    let before = offloaded(&service).await;
    let page = service.get(&format!("{path}?fields=n")).await.json();
    assert_eq!(page, json!([{ "n": 1 }, { "n": 1 }]));
    assert_eq!(offloaded(&service).await, before + 1);
}
