//! Requests that are wrong, broken or hostile: each gets a clear answer, and nothing that was accepted is lost.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::postgres::TestDatabase;
use crate::support::service::{Service, eventually};

const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn malformed_requests_are_refused_and_the_service_goes_on() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let many_headers =
        format!("POST /api/v1/events HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "a: b\r\n".repeat(10_000));
    let large_header =
        format!("POST /api/v1/events HTTP/1.1\r\nhost: localhost\r\na: {}\r\n\r\n", "b".repeat(100_000));
    for (request, status) in [
        ("nonsense\r\n\r\n", "400"),
        ("POST /api/v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: x\r\n\r\n{}", "400"),
        ("POST /api/v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n{}", "400"),
        (
            "POST /api/v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999999999999\r\n\r\n",
            "400",
        ),
        (
            "POST /api/v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}",
            "400",
        ),
        (
            "POST /api/v1/events HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
            "400",
        ),
        ("POST /api/v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000000000\r\n\r\n", "413"),
        (&many_headers, "431"),
        (&large_header, "431"),
    ] {
        let answer = service.raw(request.as_bytes(), PATIENCE).await;
        let named = &request[..request.len().min(120)];
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{named}: {answer}");
    }
    assert_eq!(service.post(&[], "{}").await.status.as_u16(), 202);
    assert_eq!(service.settled().await["accepted"], 1);
}

#[tokio::test]
async fn a_query_that_cannot_be_decoded_is_refused_wherever_parameters_are_read() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("MODULES", "all")]).await;
    let id = "00000000-0000-4000-8000-000000000001";
    let conversation = format!("/api/conversations/{id}/messages");
    for (method, path, parameter) in [
        ("POST", "/api/v1/events", "ack"),
        ("POST", "/api/v1/events/batch", "id_field"),
        ("GET", "/api/v1/dead-letters", "reason"),
        ("GET", "/api/conversations", "after"),
        ("GET", &conversation, "after"),
        ("GET", "/api/files", "limit"),
        ("GET", "/api/stress/records/things", "filter_kind"),
        ("GET", "/api/stress/sse-stream", "rate"),
        ("GET", "/api/stress/error/timeout", "seconds"),
    ] {
        for value in ["%zz", "%", "%ff", "%C3&b=%A9"] {
            let path = format!("{path}?{parameter}={value}");
            let answer = service.request(method, &path, &[], "{}").await;
            let error = &answer.json()["error"];
            let found = (answer.status.as_u16(), error["code"].as_str(), error["field"].as_str());
            assert_eq!(found, (400, Some("invalid_request"), Some("query")), "{path}: {error}");
        }
    }
    // What can be decoded finds what it says, and where nothing is there is nothing to be read.
    let body = r#"{"id":"000000000000001","kind":"é%"}"#;
    assert_eq!(service.request("POST", "/api/stress/records/things", &[], body).await.status.as_u16(), 201);
    let found =
        service.request("GET", "/api/stress/records/things?filter_kind=%C3%A9%25", &[], "").await.json();
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
    assert_eq!(service.request("GET", "/nowhere?a=%zz", &[], "").await.status.as_u16(), 404);
    assert_eq!(service.settled().await["accepted"], 0);
}

#[tokio::test]
async fn a_client_that_disappears_half_way_leaves_nothing_behind() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    for head in [
        "POST /api/v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n",
        "POST /api/v1/events/batch HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\ncontent-length: 100000\r\n\r\n",
        "POST /api/v1/events/batch HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n4\r\n1\n2\n\r\n",
    ] {
        let mut stream = TcpStream::connect(&service.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&b"1\n".repeat(1000)).await.unwrap();
        eventually("its request has begun, or is refused", async || {
            let open = service.health().await["http"]["connections"].as_u64().unwrap();
            (open > 1 || stream.try_read(&mut [0]).is_ok()).then_some(())
        })
        .await;
        stream.set_zero_linger().unwrap();
    }
    eventually("all shares and connections are given back", async || {
        let health = service.health().await;
        (health["http"]["body_bytes"] == 0 && health["http"]["connections"] == 1).then_some(())
    })
    .await;
    assert_eq!(service.settled().await["accepted"], 0);
}

#[tokio::test]
async fn bodies_under_way_are_bounded_together() {
    let database = TestDatabase::create().await;
    let settings =
        [("MEMORY_BUDGET", "268435456"), ("MAX_EVENT_BYTES", "16000000"), ("JOURNAL_MAX_BYTES", "536870912")];
    let service = Service::start(database.url(), &settings).await;
    let mut stuck = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(&service.address).await.unwrap();
        stream
            .write_all(b"POST /api/v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 16000000\r\n\r\n")
            .await
            .unwrap();
        // The service may refuse before all is sent.
        let _ = stream.write_all(&vec![b'1'; 10 << 20]).await;
        stuck.push(stream);
    }
    let answer = eventually("another one is refused", async || {
        let answer = service.post(&[], "1".repeat(8 << 20)).await;
        (answer.status.as_u16() == 503).then_some(answer)
    })
    .await;
    assert_eq!(answer.error_code(), "overloaded");
    let health = service.health().await;
    assert!(health["http"]["body_bytes"].as_u64().unwrap() <= 33_554_432, "{health}");
    assert!(service.resident_bytes() < 160 << 20, "{}", service.resident_bytes());
    assert_eq!(service.post(&[], "{}").await.status.as_u16(), 202, "a small event needs none of it");
    drop(stuck);
    eventually("the memory comes free", async || {
        (service.post(&[], "1".repeat(8 << 20)).await.status.as_u16() == 202).then_some(())
    })
    .await;
}

#[tokio::test]
async fn many_clients_that_send_half_a_head_hold_no_memory() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let before = service.resident_bytes();
    let mut clients = Vec::new();
    for _ in 0..500 {
        let mut stream = TcpStream::connect(&service.address).await.unwrap();
        stream.write_all(b"POST /api/v1/events HTTP/1.1\r\nhost: localhost\r\nx-slow: ").await.unwrap();
        clients.push(stream);
    }
    eventually("all are connected", async || {
        (service.health().await["http"]["connections"].as_u64().unwrap() > 500).then_some(())
    })
    .await;
    let each = service.resident_bytes().saturating_sub(before) / 500;
    // hyper's two buffers are 16 KiB of it.
    assert!(each < 64 << 10, "{each} bytes each");
    assert_eq!(service.post(&[], "{}").await.status.as_u16(), 202);
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_is_not_asked_for_a_body_that_is_refused() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let head = |length: usize| {
        format!(
            "POST /api/v1/events HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let answer = service.raw(head(100_000_000).as_bytes(), PATIENCE).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let answer = service.raw(head(10).as_bytes(), Duration::from_millis(500)).await;
    assert_eq!(answer, "HTTP/1.1 100 Continue\r\n\r\n");
}

#[tokio::test]
async fn a_service_that_is_starting_says_so_and_the_client_can_read_it() {
    let service = Service::spawn(&[("DATABASE_URL", "postgres://u@127.0.0.1:1/d"), ("PORT", "0")]).await;
    let port = eventually("it listens", async || service.listening_port()).await;
    let service = service.at(&format!("127.0.0.1:{port}"));
    for (answer, code) in [
        (service.post(&[], "1".repeat(900_000)).await, "starting"),
        (
            service.post_batch(&[("content-type", "application/x-ndjson")], "1\n".repeat(400_000)).await,
            "starting",
        ),
    ] {
        assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (503, code));
    }
    assert_eq!(service.get("/health").await.status.as_u16(), 200);
    assert_eq!(service.get("/health/ready").await.body, "starting\n");
    assert_eq!(service.health().await["status"], "starting");
    let ended = service.stop().await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
}
