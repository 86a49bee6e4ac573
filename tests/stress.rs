//! The test bench: failures on demand, large payloads, tokens, and their isolation from the path of events.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::postgres::{TestDatabase, blocked};
use crate::support::service::{Service, eventually, narrow, run};

const ERRORS: &str = "/api/stress/error";
const LARGE: &str = "/api/stress/large-payload/items";

/// An object of about `bytes`.
fn large(bytes: usize) -> String {
    let mut text = String::from("{\"items\":[0");
    let mut n = 0;
    while text.len() < bytes {
        n += 1;
        text += &format!(",{{\"n\":{n},\"text\":\"item {n}\"}}");
    }
    text + "]}"
}

#[tokio::test]
async fn every_failure_is_a_real_one_with_its_status() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    service.request("POST", "/api/stress/records/items", &[], "{}").await;
    for (path, status, code) in [
        ("404/items/abc", 404, "not_found"),
        ("404/none/abcdefghij01234", 404, "not_found"),
        ("auth", 401, "unauthorized"),
        ("500", 500, "internal"),
        ("timeout?delay_ms=100", 504, "statement_timeout"),
        ("timeout?delay_ms=100&mode=statement", 504, "statement_timeout"),
        ("timeout?delay_ms=100&mode=before", 504, "timeout"),
        ("timeout?delay_ms=100&mode=pool", 503, "pool_exhausted"),
        ("timeout?delay_ms=0", 400, "invalid_request"),
        ("timeout?delay_ms=30001", 400, "invalid_request"),
        ("timeout?delay_ms=x", 400, "invalid_request"),
        ("timeout?mode=never", 400, "invalid_request"),
        ("timeout?delay=1", 400, "invalid_request"),
    ] {
        let answer = service.get(&format!("{ERRORS}/{path}")).await;
        assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (status, code), "{path}");
        assert_eq!(answer.headers.contains_key("retry-after"), status == 503, "{path}");
    }
    let unauthorized = service.get(&format!("{ERRORS}/auth")).await;
    assert_eq!(unauthorized.header("www-authenticate"), "Bearer error=\"invalid_token\"");
    let failed = service.get(&format!("{ERRORS}/500")).await;
    assert!(!String::from_utf8_lossy(&failed.body).contains("division"), "{:?}", failed.body);
    assert!(service.log().contains("22012 division by zero"), "the log has the cause");
}

#[tokio::test]
async fn an_invalid_token_is_rejected_on_every_route() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("STRESS_TOKEN", "good")]).await;
    for (method, path) in [
        ("POST", "/api/v1/events"),
        ("POST", "/api/v1/events/batch"),
        ("GET", "/api/health"),
        ("GET", "/nothing"),
        ("GET", "/api/stress/records/items"),
        ("POST", "/api/stress/records/items"),
    ] {
        let bad = service.request(method, path, &[("authorization", "Bearer bad")], "{}").await;
        assert_eq!((bad.status.as_u16(), bad.error_code().as_str()), (401, "unauthorized"), "{path}");
        assert_eq!(bad.header("www-authenticate"), "Bearer error=\"invalid_token\"");
        let good = service.request(method, path, &[("authorization", "Bearer good")], "{}").await;
        assert_ne!(good.status.as_u16(), 401, "{path}");
    }
    assert_eq!(service.settled().await["accepted"], 1, "of the refused events none was taken");
    assert!(!service.log().contains("Bearer bad"));
}

#[tokio::test]
async fn without_the_stress_api_its_routes_do_not_exist() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("MODULES", "events")]).await;
    for path in ["/api/stress/records/items", "/api/stress/error/500"] {
        assert_eq!(service.get(path).await.status.as_u16(), 404, "{path}");
    }
    let (status, _, stderr) = run(&["serve"], &[("JWT_SECRET", "short")]).await;
    assert_eq!(status.code(), Some(2));
    assert!(
        stderr.contains("JWT_SECRET: got a value that is not shown, takes at least 32 bytes"),
        "{stderr}"
    );
}

#[tokio::test]
async fn events_are_stored_while_all_other_quotas_are_used_up() {
    let database = TestDatabase::create().await;
    let settings = [("STATEMENT_TIMEOUT_MS", "5000"), ("POOL_WAIT_MS", "500")];
    let service = Service::start(database.url(), &settings).await;
    let first = service.request("POST", "/api/stress/records/items", &[], "{}").await.json();
    let path = format!("/api/stress/records/items/{}", first["id"].as_str().unwrap());
    let (client, holder) = (database.connect().await, database.connect().await);
    holder.batch_execute("begin; lock table records_1").await.unwrap();
    let started = Instant::now();
    // All connections of records block, and those of the stress API too.
    let hanging = async {
        let changes = (0..20).map(|_| service.request("PATCH", &path, &[], "{}"));
        let creates = (0..20).map(|_| service.request("POST", "/api/stress/records/items", &[], "{}"));
        let sleeps = (0..6).map(|_| service.get("/api/stress/error/timeout?delay_ms=5000"));
        let (changes, creates, sleeps) = tokio::join!(
            futures_util::future::join_all(changes),
            futures_util::future::join_all(creates),
            futures_util::future::join_all(sleeps),
        );
        [changes, creates, sleeps].concat_codes()
    };
    let storing = async {
        blocked(&client, 2, "relation = 'records_1'::regclass").await;
        for _ in 0..10 {
            let answer = service.request("POST", "/api/v1/events?ack=committed", &[], "{}").await;
            assert_eq!(answer.status.as_u16(), 201, "{:?}", answer.body);
        }
        started.elapsed()
    };
    let (codes, stored_after) = tokio::join!(hanging, storing);
    assert!(stored_after < Duration::from_secs(4), "{stored_after:?}: while the others hang");
    let count = |code: &str| codes.iter().filter(|found| *found == code).count();
    assert!(count("pool_exhausted") >= 10 && count("statement_timeout") >= 4, "{codes:?}");
    assert_eq!(count("pool_exhausted") + count("statement_timeout"), 46, "{codes:?}");
    holder.batch_execute("commit").await.unwrap();
    assert_eq!(service.get(&path).await.status.as_u16(), 200, "and all is well again");
}

#[tokio::test]
async fn a_client_that_disconnects_leaves_no_statement_on_its_connection() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let admin = database.connect().await;
    let sleeping = "select count(*) from pg_stat_activity
        where datname = current_database() and wait_event = 'PgSleep'";
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = TcpStream::connect(&service.address).await.unwrap();
        let request = "GET /api/stress/error/timeout?delay_ms=6000 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
        client.write_all(request.as_bytes()).await.unwrap();
        clients.push(client);
    }
    service.has_begun(3).await;
    eventually("a statement is under way", async || {
        (admin.query_one(sleeping, &[]).await.unwrap().get::<_, i64>(0) > 0).then_some(())
    })
    .await;
    drop(clients);
    let started = Instant::now();
    for n in 0..10 {
        let answer = service.request("POST", "/api/v1/events?ack=committed", &[], "{}").await;
        assert_eq!(answer.status.as_u16(), 201, "{:?}", answer.body);
        let path = format!("/api/stress/records/items{n}");
        assert_eq!(service.request("POST", &path, &[], "{}").await.status.as_u16(), 201);
    }
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_slow_reader_loses_its_permit() {
    let database = TestDatabase::create().await;
    let settings = [("BODY_TIMEOUT_S", "1")];
    let service = Service::start(database.url(), &settings).await;
    let payload = large(2 << 20);
    let made = service.request("POST", LARGE, &[], payload.clone()).await;
    assert_eq!(made.status.as_u16(), 201);
    let path = made.header("location").to_owned();
    // As many as may be, each with a second and what it takes at 256 KiB a second.
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = narrow(&service.address).await;
        let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        clients.push(client);
    }
    let slowly = futures_util::future::join_all(clients.into_iter().map(async |mut client| {
        let (mut piece, mut came) = (vec![0; 16 << 10], 0);
        while let Ok(read @ 1..) = client.read(&mut piece).await {
            came += read;
            // A slow reader's pace.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        came
    }));
    let other = async {
        eventually("the permits are in use", async || {
            (service.get(&path).await.status.as_u16() == 503).then_some(())
        })
        .await;
        eventually("the turn is free", async || {
            (service.get(&path).await.status.as_u16() == 200).then_some(())
        })
        .await;
    };
    let (came, ()) = tokio::join!(slowly, other);
    assert!(came.iter().all(|came| *came < payload.len()), "{came:?} bytes: they were cut off");
}

trait Codes {
    fn concat_codes(self) -> Vec<String>;
}

impl Codes for [Vec<crate::support::service::Answer>; 3] {
    fn concat_codes(self) -> Vec<String> {
        self.into_iter().flatten().map(|answer| answer.error_code()).collect()
    }
}

#[tokio::test]
async fn a_large_payload_is_returned_unchanged_in_any_encoding() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let sent = large(5 << 20);
    let made = service.request("POST", LARGE, &[], sent.clone()).await;
    assert_eq!(made.status.as_u16(), 201);
    let record = made.json();
    assert_eq!(record["items"], serde_json::from_str::<serde_json::Value>(&sent).unwrap()["items"]);
    let path = made.header("location").to_owned();
    assert_eq!(path, format!("{LARGE}/{}", record["id"].as_str().unwrap()));
    assert_eq!(service.get(&path).await.json(), record);
    let squeezed = service.request("GET", &path, &[("accept-encoding", "gzip")], "").await;
    assert_eq!(squeezed.header("content-encoding"), "gzip");
    assert!(squeezed.body.len() < sent.len() / 2);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&squeezed.body[..]), &mut text).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), record);

    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, text.as_bytes()).unwrap();
    let again =
        service.request("POST", LARGE, &[("content-encoding", "gzip")], encoder.finish().unwrap()).await;
    assert_eq!(again.status.as_u16(), 409, "a fetched payload has its id");
    for (body, status) in [("[1]", 400), ("{", 400), ("{\"a\":\"\\u0000\"}", 400), ("{}", 201)] {
        assert_eq!(service.request("POST", LARGE, &[], body).await.status.as_u16(), status, "{body}");
    }
    assert_eq!(service.get(&format!("{LARGE}/abcdefghij01234")).await.status.as_u16(), 404);
    assert_eq!(service.get("/api/stress/large-payload/none/abcdefghij01234").await.status.as_u16(), 404);
}

#[tokio::test]
async fn payloads_beyond_the_limits_of_size_and_number_are_rejected() {
    let database = TestDatabase::create().await;
    let settings = [("MEMORY_BUDGET", "134217728")];
    let service = Service::start(database.url(), &settings).await;
    let over = service.request("POST", LARGE, &[], large(8_500_000)).await;
    assert_eq!((over.status.as_u16(), over.error_code().as_str()), (413, "too_large"));
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, large(8_500_000).as_bytes()).unwrap();
    let bomb =
        service.request("POST", LARGE, &[("content-encoding", "gzip")], encoder.finish().unwrap()).await;
    assert_eq!(bomb.status.as_u16(), 413);
    let mut stuck = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(&service.address).await.unwrap();
        let head =
            format!("POST {LARGE} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 900000\r\n\r\n{{\"a\":\"");
        stream.write_all(head.as_bytes()).await.unwrap();
        stuck.push(stream);
    }
    let refused = eventually("all are under way", async || {
        let answer = service.request("POST", LARGE, &[], "{}").await;
        (answer.status.as_u16() == 503).then_some(answer)
    })
    .await;
    assert_eq!((refused.error_code().as_str(), refused.header("retry-after")), ("overloaded", "1"));
    // Clients that disconnect early release their permits.
    drop(stuck);
    eventually("their turns come free", async || {
        (service.request("POST", LARGE, &[], "{}").await.status.as_u16() == 201).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_large_payload_is_in_memory_once_and_a_slow_readers_answer_in_part() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let body = bytes::Bytes::from(large(64 << 20 >> 1));
    let before = service.resident_bytes();
    let made = service.request("POST", LARGE, &[], body.clone()).await;
    assert_eq!(made.status.as_u16(), 201);
    let grown = service.resident_bytes().saturating_sub(before);
    assert!(grown < 2 * body.len() as u64 + (40 << 20), "{} MiB", grown >> 20);
    let path = made.header("location").to_owned();
    let mut readers = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(&service.address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await.unwrap();
        let mut first = [0; 1024];
        stream.read_exact(&mut first).await.unwrap();
        readers.push(stream);
    }
    // A service that read ahead of its clients would do so now; nothing shows that it does not.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let grown = service.resident_bytes().saturating_sub(before);
    assert!(grown < 2 * body.len() as u64 + (60 << 20), "{} MiB", grown >> 20);
    let beyond = service.get(&path).await;
    assert_eq!((beyond.status.as_u16(), beyond.json()["error"]["code"].clone()), (503, json!("overloaded")));
}

#[tokio::test]
async fn the_configuration_is_read_and_changed_within_bounds() {
    let database = TestDatabase::create().await;
    let settings = [("MEMORY_BUDGET", "134217728")];
    let service = Service::start(database.url(), &settings).await;
    let path = "/api/stress/config";
    let before = service.get(path).await.json();
    assert_eq!(before["default_collection"], "stress_test_items");
    assert_eq!((&before["sse_rate"], &before["large_payload_bytes"]), (&json!(10), &json!(8_388_608)));
    assert_eq!((&before["error_delay_ms"], &before["limits"]["max_sse_rate"]), (&json!(500), &json!(10_000)));

    let changes = json!({"default_collection": "mine", "sse_rate": 2, "large_payload_bytes": 1024, "error_delay_ms": 1500});
    let changed = service.request("POST", path, &[], changes.to_string()).await;
    assert_eq!(changed.status.as_u16(), 200);
    let now = service.get(path).await.json();
    assert_eq!((&now["default_collection"], &now["limits"]), (&json!("mine"), &before["limits"]));
    assert_eq!(changed.json(), now);

    // The changes take effect.
    let large = json!({"text": "x".repeat(2000)}).to_string();
    let refused = service.request("POST", "/api/stress/large-payload/items", &[], large).await;
    assert_eq!(refused.status.as_u16(), 413);
    let started = Instant::now();
    assert_eq!(service.get("/api/stress/error/timeout").await.status.as_u16(), 504);
    assert!(started.elapsed() > Duration::from_millis(1400), "{:?}", started.elapsed());
    let started = Instant::now();
    let stream = service.get("/api/stress/sse-stream?count=3").await;
    assert!(String::from_utf8_lossy(&stream.body).contains("id: 3\n"));
    assert!(started.elapsed() > Duration::from_millis(900), "{:?}", started.elapsed());

    for (body, field) in [
        (json!({"sse_rate": 10_001}), "sse_rate"),
        (json!({"sse_rate": 0}), "sse_rate"),
        (json!({"sse_rate": "10"}), "sse_rate"),
        (json!({"large_payload_bytes": 8_388_609}), "large_payload_bytes"),
        (json!({"error_delay_ms": -1}), "error_delay_ms"),
        (json!({"default_collection": "a; drop table x"}), "default_collection"),
        (json!({"limits": {}}), "limits"),
        (json!({"sse_rate": 1, "nonsense": 1}), "nonsense"),
    ] {
        let answer = service.request("POST", path, &[], body.to_string()).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json()["error"]["field"]),
            (400, &json!(field)),
            "{body}"
        );
    }
    for body in ["[]", "1", "null", "{", "{\"sse_rate\":NaN}", ""] {
        assert_eq!(service.request("POST", path, &[], body).await.status.as_u16(), 400, "{body}");
    }
    assert_eq!(service.get(path).await.json(), now, "all of a change, or nothing");
}
