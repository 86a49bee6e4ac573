//! Faults on demand, as a client on a raw socket sees them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::exchange::exchange;
use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Service, eventually};
use crate::support::sse::{EventStream, metric};

const INJECT: &str = "/_test/inject-error";
const EVENTS: &str = "/api/v1/events";
const STREAM: &str = "/api/stress/sse-stream";

async fn service(database: &TestDatabase) -> Service {
    Service::start(database.url(), &[("FAULTS", "on")]).await
}

async fn inject(service: &Service, fault: Value) -> Answer {
    let answer = service.request("POST", INJECT, &[], fault.to_string()).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    answer
}

async fn injected(service: &Service, kind: &str) -> f64 {
    metric(service, &format!("tidegate_faults_injected_total{{kind=\"{kind}\"}}")).await
}

/// Invalid lines of a batch, which the answer lists.
fn refused_lines(count: usize) -> String {
    "{\n".repeat(count)
}

#[tokio::test]
async fn a_dropped_connection_is_really_reset() {
    let database = TestDatabase::create().await;
    let service = service(&database).await;
    for request in
        ["GET /health", "POST /api/v1/events", "POST /api/v1/events/batch", "GET /api/stress/sse-stream"]
    {
        let (_, path) = request.split_once(' ').unwrap();
        inject(&service, json!({"path": path, "dropConnection": true})).await;
        let received = exchange(&service, request, "1\n").await;
        assert!(received.was_reset && received.bytes.is_empty(), "{request}: {received:?}");
    }
    assert_eq!(injected(&service, "drop").await, 4.0);
    assert_eq!(service.get("/health").await.status, 200, "each was used up");
    assert_eq!(service.settled().await["accepted"], 0);
}

#[tokio::test]
async fn an_answer_is_cut_after_the_requested_bytes() {
    let database = TestDatabase::create().await;
    let service = service(&database).await;
    for by_reset in [false, true] {
        let fault =
            |path, bytes| json!({"path": path, "truncateBodyBytes": bytes, "dropConnection": by_reset});
        for bytes in [0, 1, 20] {
            inject(&service, fault("/nowhere", bytes)).await;
            let received = exchange(&service, "GET /nowhere", "").await;
            assert_eq!((received.body().len(), received.was_reset), (bytes, by_reset), "{received:?}");
            let whole = exchange(&service, "GET /nowhere", "").await;
            // Each answer has an id and a time of its own.
            let head = |head: &str| {
                let is_own = |line: &&str| line.starts_with("x-request-id") || line.starts_with("date");
                head.lines().filter(|line| !is_own(line)).collect::<Vec<_>>().join("\n")
            };
            assert_eq!(head(&received.head()), head(&whole.head()), "its length stays that of the whole");
        }
        inject(&service, fault(EVENTS, 30)).await;
        let received = exchange(&service, "POST /api/v1/events?ack=nonsense", "1").await;
        assert_eq!((received.body().len(), received.was_reset), (30, by_reset), "{received:?}");

        inject(&service, fault("/api/v1/events/batch", 5_000)).await;
        let received = exchange(&service, "POST /api/v1/events/batch", &refused_lines(500)).await;
        assert_eq!((received.body().len(), received.was_reset), (5_000, by_reset));

        inject(&service, fault(STREAM, 100_000)).await;
        let received = exchange(&service, "GET /api/stress/sse-stream?rate=1000&size=1000", "").await;
        assert!(received.head().contains("transfer-encoding: chunked"));
        assert_eq!((received.dechunked().len(), received.was_reset), (100_000, by_reset));
    }
    inject(&service, json!({"path": "/health", "truncateBodyBytes": 3})).await;
    let received = exchange(&service, "GET /health", "").await;
    assert_eq!((received.body(), received.was_reset), (&b"ok\n"[..], false), "no longer than the cut");
}

#[tokio::test]
async fn about_three_percent_of_the_bits_of_a_body_are_flipped() {
    let database = TestDatabase::create().await;
    let service = service(&database).await;
    for request in ["POST /api/v1/events/batch", "POST /api/v1/events?ack=nonsense", "GET /nowhere"] {
        let path = request.split([' ', '?']).nth(1).unwrap();
        let body = if path == EVENTS { "1".into() } else { refused_lines(300) };
        let whole = exchange(&service, request, &body).await;
        inject(&service, json!({"path": path, "corruptBody": true})).await;
        let received = exchange(&service, request, &body).await;
        let length =
            |head: String| head.lines().find(|line| line.starts_with("content-length")).map(str::to_owned);
        assert_eq!(length(received.head()), length(whole.head()), "flipping changes no length");
        let share = flipped(whole.body(), received.body());
        let most = if whole.body().len() > 2_000 { 0.05 } else { 0.15 };
        assert!(share > 0.0 && share < most, "{request}: {share} of {}", whole.body().len());
        if whole.body().len() > 2_000 {
            assert!(share > 0.01, "{request}: {share}");
        }
    }
    inject(&service, json!({"path": STREAM, "corruptBody": true})).await;
    let received = exchange(&service, "GET /api/stress/sse-stream?rate=1000&count=200&size=1000", "").await;
    let body = received.dechunked();
    // Nearly all of it is padding; the rest adds a little.
    let filling = vec![b'x'; body.len()];
    let plain = exchange(&service, "GET /api/stress/sse-stream?rate=1000&count=200&size=1000", "").await;
    let share = flipped(&filling, &body) - flipped(&filling, &plain.dechunked());
    assert!((0.01..0.05).contains(&share), "{share}");
    assert_eq!(injected(&service, "corrupt").await, 4.0);
}

fn flipped(before: &[u8], after: &[u8]) -> f64 {
    assert_eq!(before.len(), after.len());
    let bits: u32 = before.iter().zip(after).map(|(before, after)| (before ^ after).count_ones()).sum();
    f64::from(bits) / (before.len() as f64 * 8.0)
}

#[tokio::test]
async fn an_injected_error_replaces_the_answer() {
    let database = TestDatabase::create().await;
    let service = service(&database).await;
    inject(&service, json!({"path": "*", "status": 429, "retryAfter": 7, "count": 4})).await;
    for (method, path) in [("GET", "/health"), ("POST", EVENTS), ("GET", STREAM), ("GET", "/nowhere")] {
        let answer = service.request(method, path, &[], "1").await;
        assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (429, "injected"), "{path}");
        assert_eq!(answer.header("retry-after"), "7");
        assert_eq!(answer.header("content-type"), "application/json");
    }
    assert_eq!(service.post(&[], "1").await.status, 202, "the count is used up");
    assert_eq!(service.settled().await["accepted"], 1, "the rejected event is not stored");
    inject(&service, json!({"path": EVENTS, "status": 500})).await;
    // The client receives the answer although it still sends.
    let answer = service.post(&[], "1".repeat(900_000)).await;
    assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (500, "injected"));
    assert_eq!(injected(&service, "status").await, 5.0);
}

#[tokio::test]
async fn faults_are_listed_replaced_and_cleared_and_hit_only_matching_requests() {
    let database = TestDatabase::create().await;
    let service = service(&database).await;
    let taken = inject(&service, json!({"path": "/api/*", "status": 418, "count": 3, "method": "get"})).await;
    let wanted = json!({"path": "/api/*", "method": "GET", "count": 3, "remaining": 3, "probability": 1.0, "status": 418});
    assert_eq!(taken.json(), wanted);
    assert_eq!(service.get("/api/health").await.status, 418);
    assert_eq!(service.post(&[], "1").await.status, 202, "another method");
    assert_eq!(service.get("/health").await.status, 200, "another path");
    inject(&service, json!({"path": "/api/health", "status": 420, "count": 9})).await;
    assert_eq!(service.get("/api/health?x=1").await.status, 420, "the longer path");
    let faults = service.get(INJECT).await.json();
    assert_eq!(faults["faults"][0]["remaining"], 2, "{faults}");
    assert_eq!(faults["faults"][1]["remaining"], 8, "{faults}");
    inject(&service, json!({"path": "/api/health", "status": 421, "count": 9})).await;
    assert_eq!(service.get("/api/health").await.status, 421, "it replaced the other");
    let cleared = service.request("DELETE", INJECT, &[], "").await;
    assert_eq!((cleared.status.as_u16(), cleared.json()), (200, json!({"cleared": 2})));
    assert_eq!(service.get("/api/health").await.status, 200);
    assert_eq!(service.get(INJECT).await.json(), json!({"faults": []}));
}

#[tokio::test]
async fn a_fault_that_does_not_strike_is_not_used_up() {
    let database = TestDatabase::create().await;
    let service = service(&database).await;
    inject(&service, json!({"path": "/health", "status": 500, "probability": 0})).await;
    for _ in 0..20 {
        assert_eq!(service.get("/health").await.status, 200);
    }
    assert_eq!(service.get(INJECT).await.json()["faults"][0]["remaining"], 1);
    inject(&service, json!({"path": "/health", "status": 500, "probability": 0.5, "count": 5})).await;
    let mut struck = 0;
    for _ in 0..200 {
        struck += u32::from(service.get("/health").await.status == 500);
    }
    assert_eq!(struck, 5);
}

#[tokio::test]
async fn a_delay_affects_its_request_alone_and_ends_with_its_client_or_the_service() {
    let database = TestDatabase::create().await;
    let service = service(&database).await;
    inject(&service, json!({"path": EVENTS, "delayMs": 600, "jitterMs": 100})).await;
    let started = Instant::now();
    let (delayed, other) = tokio::join!(service.post(&[], "1"), service.get("/health"));
    assert_eq!((delayed.status.as_u16(), other.status.as_u16()), (202, 200));
    assert!(started.elapsed() >= Duration::from_millis(600), "{:?}", started.elapsed());

    inject(&service, json!({"path": "/health", "delayMs": 60_000, "count": 2})).await;
    let mut gone = TcpStream::connect(&service.address).await.unwrap();
    gone.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    eventually("it waits", async || (injected(&service, "delay").await == 2.0).then_some(())).await;
    drop(gone);
    eventually("the wait ends with its client", async || {
        (service.health().await["http"]["connections"] == 1).then_some(())
    })
    .await;
    let mut waiting = TcpStream::connect(&service.address).await.unwrap();
    waiting.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    eventually("it waits", async || (injected(&service, "delay").await == 3.0).then_some(())).await;
    let started = Instant::now();
    let ended = service.stop().await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
}

#[tokio::test]
async fn an_event_is_injected_into_event_streams_only() {
    let database = TestDatabase::create().await;
    let service = service(&database).await;
    let event = json!({"event": "broken", "id": "x", "data": "a\nb"});
    inject(&service, json!({"path": "*", "count": 2, "injectSseEvent": event})).await;
    let mut stream = EventStream::open(&service, "/api/stress/sse-stream?rate=1000&count=3", &[]).await;
    let events = stream.rest().await;
    let seen: Vec<_> = events.iter().map(|event| (event.event.as_str(), event.id.as_str())).collect();
    assert_eq!(seen, [("broken", "x"), ("message", "1"), ("message", "2"), ("message", "3")]);
    assert_eq!(events[0].data, "a\nb");
    assert_eq!(service.get("/health").await.body, "ok\n");
    assert_eq!(injected(&service, "sse_event").await, 1.0);
}

#[tokio::test]
async fn an_invalid_fault_is_rejected_with_its_field() {
    let database = TestDatabase::create().await;
    let settings = [("FAULTS", "on")];
    let service = Service::start(database.url(), &settings).await;
    for (fault, field) in [
        ("{", json!("body")),
        ("[]", json!("body")),
        ("NaN", json!("body")),
        ("{}", json!("path")),
        (r#"{"path": 1}"#, json!("path")),
        (r#"{"path": "/_test/inject-error"}"#, json!("path")),
        (r#"{"path": "/a?b=1"}"#, json!("path")),
        (r#"{"path": "/a b"}"#, json!("path")),
        (r#"{"path": "/a*b"}"#, json!("path")),
        (r#"{"path": "/a"}"#, json!("status")),
        (r#"{"path": "/a", "status": 200}"#, json!("status")),
        (r#"{"path": "/a", "status": 99999999999999999999}"#, json!("status")),
        (r#"{"path": "/a", "delayMs": 60001}"#, json!("delayMs")),
        (r#"{"path": "/a", "count": 0}"#, json!("count")),
        (r#"{"path": "/a", "probability": -0.1}"#, json!("probability")),
        (r#"{"path": "/a", "dropConnection": "true"}"#, json!("dropConnection")),
        (r#"{"path": "/a", "drop": true}"#, json!("drop")),
    ] {
        let answer = service.request("POST", INJECT, &[], fault).await;
        assert_eq!(
            (answer.status.as_u16(), answer.error_code().as_str()),
            (400, "invalid_request"),
            "{fault}"
        );
        assert_eq!(answer.json()["error"]["field"], field, "{fault}");
    }
    for n in 0..100 {
        inject(&service, json!({ "path": format!("/a{n}"), "status": 500 })).await;
    }
    let answer = service.request("POST", INJECT, &[], r#"{"path": "/c", "status": 500}"#).await;
    assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (409, "too_many_faults"));
    assert_eq!(service.request("PUT", INJECT, &[], "").await.status, 405);
}

#[tokio::test]
async fn without_the_switch_there_are_no_faults() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    for method in ["GET", "POST", "DELETE"] {
        let answer = service.request(method, INJECT, &[], r#"{"path": "*"}"#).await;
        assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (404, "not_found"), "{method}");
    }
    assert_eq!(service.post(&[], "1").await.status, 202);
    let ended = service.stop().await;
    assert!(!ended.log.contains("FAULTS=on"), "{}", ended.log);
}

#[tokio::test]
async fn the_log_warns_of_the_switch() {
    let database = TestDatabase::create().await;
    let ended = service(&database).await.stop().await;
    assert!(ended.log.contains("FAULTS=on"), "{}", ended.log);
}
