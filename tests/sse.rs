//! The stream of server-sent events: in order, without gaps, and without buffers for slow readers.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::postgres::TestDatabase;
use crate::support::service::{Service, eventually};
use crate::support::sse::{EventStream, metric};

const ROUTE: &str = "/api/stress/sse-stream";

async fn open(service: &Service, query: &str) -> EventStream {
    EventStream::open(service, &format!("{ROUTE}?{query}"), &[]).await
}

fn ids(events: &[eventsource_stream::Event]) -> Vec<u64> {
    events.iter().map(|event| event.id.parse().unwrap()).collect()
}

#[tokio::test]
async fn messages_arrive_in_order_without_gaps_at_their_rate_and_end_at_the_count() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let started = Instant::now();
    let mut stream = open(&service, "rate=10000&count=20000&events=tick,tock&size=100").await;
    assert_eq!(stream.status, 200);
    assert_eq!(stream.headers["content-type"], "text/event-stream");
    let events = stream.rest().await;
    let elapsed = started.elapsed();
    assert_eq!(ids(&events), (1..=20_000).collect::<Vec<_>>());
    assert!(elapsed >= Duration::from_millis(1_990), "{elapsed:?}");
    for (event, name) in events.iter().zip(["tock", "tick"].iter().cycle()) {
        assert_eq!(event.event, *name);
        assert_eq!(event.data.len(), 100);
        let json: Value = serde_json::from_str(&event.data).unwrap();
        assert_eq!(json["seq"].to_string(), event.id);
    }
    assert_eq!(metric(&service, "tidegate_sse_closed_total{reason=\"complete\"}").await, 1.0);
    assert_eq!(metric(&service, "tidegate_sse_messages_total").await, 20_000.0);
}

#[tokio::test]
async fn the_first_message_arrives_at_once_and_comments_keep_the_stream_alive() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("SSE_HEARTBEAT_S", "1")]).await;
    let started = Instant::now();
    let mut stream = TcpStream::connect(&service.address).await.unwrap();
    let request = format!("GET {ROUTE}?rate=0.01 HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut read = String::new();
    while !read.contains("\ndata: {\"seq\":1,") {
        read_some(&mut stream, &mut read).await;
    }
    assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
    assert!(read.contains("retry: 1000\nid: 1\n"), "{read}");
    while read.matches("\r\n:\n\n").count() < 2 {
        read_some(&mut stream, &mut read).await;
    }
    assert!(started.elapsed() >= Duration::from_millis(1_900), "{:?}", started.elapsed());
}

async fn read_some(stream: &mut TcpStream, into: &mut String) {
    let mut buffer = [0; 4096];
    let read =
        tokio::time::timeout(Duration::from_secs(10), stream.read(&mut buffer)).await.unwrap().unwrap();
    assert!(read > 0, "ended: {into}");
    into.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
}

#[tokio::test]
async fn a_stream_resumes_behind_the_last_event_id_and_does_not_restart_after_its_end() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let mut first = open(&service, "rate=1000&count=30").await;
    let seen = ids(&first.take(10).await);
    drop(first);
    let last = seen.last().unwrap().to_string();
    let path = format!("{ROUTE}?rate=1000&count=30");
    let mut second = EventStream::open(&service, &path, &[("last-event-id", &last)]).await;
    assert_eq!(ids(&second.rest().await), (11..=30).collect::<Vec<_>>());
    let finished = service.request("GET", &path, &[("last-event-id", "30")], "").await;
    assert_eq!(finished.status, 204);
}

#[tokio::test]
async fn every_shape_is_json_and_datastar_has_its_own_events() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    for shape in ["flat", "nested", "array", "multiline", "mixed"] {
        let mut stream = open(&service, &format!("rate=1000&count=8&size=300&shape={shape}")).await;
        for event in stream.rest().await {
            let _json: Value =
                serde_json::from_str(&event.data).unwrap_or_else(|error| panic!("{error}: {event:?}"));
            assert_eq!(event.event, "message");
            assert_eq!(shape == "multiline", event.data.contains('\n') && shape != "mixed", "{event:?}");
        }
    }
    let mut stream = open(&service, "rate=1000&count=4&format=datastar&shape=multiline").await;
    for event in stream.rest().await {
        let literal = match event.event.as_str() {
            "datastar-patch-signals" => "signals ",
            "datastar-patch-elements" => "elements ",
            other => panic!("{other}"),
        };
        assert!(event.data.lines().count() > 1);
        assert!(event.data.lines().all(|line| line.starts_with(literal)), "{event:?}");
    }
}

#[tokio::test]
async fn a_slow_reader_is_cut_off_and_counted_and_memory_does_not_grow() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("SUBSCRIBER_BYTES", "65536")]).await;
    let before = service.resident_bytes();
    let mut idle = Vec::new();
    for _ in 0..10 {
        let socket = TcpSocket::new_v4().unwrap();
        // A small window, so that the kernel does not read for the client.
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(service.address.parse().unwrap()).await.unwrap();
        let request = format!("GET {ROUTE}?rate=10000&size=1000 HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        idle.push(stream);
    }
    eventually("all are cut off", async || {
        let cut = metric(&service, "tidegate_sse_closed_total{reason=\"slow_reader\"}").await;
        (cut == 10.0).then_some(())
    })
    .await;
    let grown = service.resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown}");
    assert_eq!(metric(&service, "tidegate_sse_streams").await, 0.0);
    assert_eq!(metric(&service, "tidegate_http_connections").await, 1.0);
    let mut all = Vec::new();
    let error = idle[0].read_to_end(&mut all).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_steady_slow_reader_is_cut_off_too() {
    let database = TestDatabase::create().await;
    // Far more than arrives between two reads, so that no pause alone exceeds it.
    let service = Service::start(database.url(), &[("SUBSCRIBER_BYTES", "33554432")]).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(service.address.parse().unwrap()).await.unwrap();
    let request = format!("GET {ROUTE}?rate=10000&size=1000 HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut buffer = vec![0; 16 * 1024];
    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
        assert!(Instant::now() < deadline, "it goes on");
        // The pace of a steady reader.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(metric(&service, "tidegate_sse_closed_total{reason=\"slow_reader\"}").await, 1.0);
}

#[tokio::test]
async fn a_client_that_disconnects_releases_its_permit() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("MAX_SUBSCRIBERS", "10")]).await;
    let first = open(&service, "rate=1").await;
    let second = open(&service, "rate=1").await;
    assert_eq!((first.status, second.status), (hyper::StatusCode::OK, hyper::StatusCode::OK));
    let third = service.get(ROUTE).await;
    assert_eq!((third.status.as_u16(), third.error_code().as_str()), (503, "overloaded"));
    assert_eq!(third.header("retry-after"), "1");
    drop(first);
    eventually("a place comes free", async || {
        let stream = open(&service, "rate=1").await;
        (stream.status == 200).then_some(())
    })
    .await;
    assert!(metric(&service, "tidegate_sse_closed_total{reason=\"client_gone\"}").await >= 1.0);
}

#[tokio::test]
async fn a_stream_outlives_the_idle_time_and_further_bytes_of_its_client() {
    let database = TestDatabase::create().await;
    let settings = [("IDLE_TIMEOUT_S", "1"), ("BODY_TIMEOUT_S", "1"), ("SSE_HEARTBEAT_S", "60")];
    let service = Service::start(database.url(), &settings).await;
    let mut stream = TcpStream::connect(&service.address).await.unwrap();
    let request = format!("GET {ROUTE}?rate=0.3&count=2 HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut read = String::new();
    while !read.contains("\nid: 1\n") {
        read_some(&mut stream, &mut read).await;
    }
    // A request that comes too early: the answer says that the connection ends with it.
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    while !read.contains("\r\n0\r\n\r\n") {
        read_some(&mut stream, &mut read).await;
    }
    assert!(read.contains("\nid: 2\n") && read.contains("connection: close\r\n"), "{read}");
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_stream_is_whole_for_old_clients_behind_other_answers_and_as_a_head() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let patience = Duration::from_secs(30);
    let stream = format!("{ROUTE}?rate=100&count=3");
    let old = service.raw(format!("GET {stream} HTTP/1.0\r\n\r\n").as_bytes(), patience).await;
    let (head, body) = old.split_once("\r\n\r\n").unwrap();
    assert!(!head.contains("transfer-encoding"), "{old}");
    assert!(body.starts_with("retry: 1000\nid: 1\n") && body.matches("\ndata: ").count() == 3, "{old}");
    let health = "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let both = format!("{health}{health}GET {stream} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let both = service.raw(both.as_bytes(), patience).await;
    assert_eq!((both.matches("HTTP/1.1 200 OK").count(), both.matches("ok\n").count()), (3, 2), "{both}");
    assert!(both.matches("\ndata: ").count() == 3 && both.ends_with("\r\n0\r\n\r\n"), "{both}");
    let head = format!("HEAD {stream} HTTP/1.1\r\nhost: localhost\r\n\r\n{health}");
    let head = service.raw(head.as_bytes(), Duration::from_secs(1)).await;
    assert!(head.contains("text/event-stream") && head.ends_with("ok\n"), "{head}");
    eventually("no stream is left", async || {
        (metric(&service, "tidegate_sse_streams").await == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_drain_ends_the_streams_at_once() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let mut busy = open(&service, "rate=1000").await;
    let mut quiet = open(&service, "rate=0.01").await;
    busy.take(10).await;
    quiet.take(1).await;
    let started = Instant::now();
    let (ended, ..) = tokio::join!(service.stop(), busy.rest(), quiet.rest());
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn invalid_parameters_are_rejected_with_their_names_and_the_api_can_be_off() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    for (query, field) in [
        ("rate=0", "rate"),
        ("rate=10001", "rate"),
        ("rate=%27%3B%20drop%20table%20requests", "rate"),
        ("count=0", "count"),
        ("size=99999999", "size"),
        ("shape=round", "shape"),
        ("format=xml", "format"),
        ("events=a%0Ab", "events"),
        ("events=a%00b", "events"),
        ("colour=red", "colour"),
        ("rate=1&rate=1", "rate"),
    ] {
        let answer = service.get(&format!("{ROUTE}?{query}")).await;
        assert_eq!(
            (answer.status.as_u16(), answer.error_code().as_str()),
            (400, "invalid_request"),
            "{query}"
        );
        assert_eq!(answer.json()["error"]["field"], field, "{query}");
    }
    let answer = service.request("GET", ROUTE, &[("last-event-id", "seven")], "").await;
    assert_eq!(answer.json()["error"]["field"], "last-event-id");
    let beyond = [("last-event-id", "9007199254740992")];
    assert_eq!(service.request("GET", ROUTE, &beyond, "").await.status.as_u16(), 400);
    assert_eq!(service.request("POST", ROUTE, &[], "").await.status, 405);
    let service = Service::start(database.url(), &[("MODULES", "events")]).await;
    assert_eq!(service.get(ROUTE).await.status, 404);
}
