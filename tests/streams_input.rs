//! Durable Streams: bad input, and the spellings of what is good, in both stores.

use std::io::Write;
use std::time::Duration;

use flate2::write::GzEncoder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Service, eventually, try_request};
use crate::support::streams::{JSON, STORES, TEXT, append, get, head, offset, producer, put};

/// A service with one of the stores.
async fn service(database: &TestDatabase, store: &str) -> Service {
    let variables = [("MODULES", "events,streams"), ("STREAMS_STORE", store)];
    Service::start(database.url(), &variables).await
}

/// Asserts that a request is refused, and names its field.
fn assert_refused(answer: &Answer, field: &str, what: &str) {
    assert_eq!(answer.status, 400, "{what}: {answer:?}");
    assert_eq!(answer.json()["error"]["field"], field, "{what}");
    assert_eq!(answer.header("x-content-type-options"), "nosniff", "{what}");
}

async fn is_closed(service: &Service, path: &str) -> bool {
    let head = head(service, path).await;
    assert_eq!(head.status, 200);
    head.header("stream-closed") == "true"
}

/// Values of `Stream-Closed` that close, and others.
const CLOSES: [&str; 5] = ["true", "TRUE", "True", "tRuE", " true\t"];
const DOES_NOT: [&str; 8] = ["false", "FALSE", "yes", "1", "", "truex", "true, true", "\"true\""];

#[tokio::test]
async fn stream_closed_closes_as_true_in_any_case_and_is_ignored_otherwise() {
    for store in STORES {
        let database = TestDatabase::create().await;
        let service = service(&database, store).await;
        for (number, value) in CLOSES.iter().chain(&DOES_NOT).enumerate() {
            let closes = number < CLOSES.len();
            let (by_put, by_post) = (format!("put{number}"), format!("post{number}"));
            let headers = [TEXT[0], ("stream-closed", value)];
            let made = put(&service, &by_put, &headers, "x").await;
            assert_eq!((made.status.as_u16(), made.header("stream-closed") == "true"), (201, closes));
            assert_eq!(is_closed(&service, &by_put).await, closes, "{store}: PUT {value:?}");

            put(&service, &by_post, &TEXT, "").await;
            let appended = append(&service, &by_post, &headers, "x").await;
            assert_eq!((appended.status.as_u16(), appended.header("stream-closed") == "true"), (204, closes));
            let alone = append(&service, &by_post, &[("stream-closed", value)], "").await;
            assert_eq!(alone.status, if closes { 204 } else { 400 }, "{store}: close-only {value:?}");
            assert_eq!(is_closed(&service, &by_post).await, closes, "{store}: POST {value:?}");
            assert_eq!(get(&service, &by_post, &[]).await.body, "x");
        }
        // Repeated, it closes if all agree.
        for (values, closes) in [(["true", "TRUE"], true), (["true", "false"], false), (["", "true"], false)]
        {
            let path = format!("twice{}", values.concat());
            let headers = [TEXT[0], ("stream-closed", values[0]), ("stream-closed", values[1])];
            assert_eq!(put(&service, &path, &headers, "").await.status, 201);
            assert_eq!(is_closed(&service, &path).await, closes, "{store}: {values:?}");
        }
    }
}

#[tokio::test]
async fn a_put_finds_the_stream_only_if_it_is_closed_as_it_asks() {
    let closed = [TEXT[0], ("stream-closed", "true")];
    for store in STORES {
        let database = TestDatabase::create().await;
        let service = service(&database, store).await;
        // How each came to be closed, or not.
        put(&service, "open", &TEXT, "x").await;
        put(&service, "made-closed", &closed, "x").await;
        put(&service, "closed-alone", &TEXT, "x").await;
        append(&service, "closed-alone", &[("stream-closed", "true")], "").await;
        put(&service, "closed-with", &TEXT, "").await;
        append(&service, "closed-with", &closed, "x").await;
        put(&service, "closed-by-producer", &TEXT, "").await;
        let by = [&producer("p", "0", "0")[..], &[("stream-closed", "true")]].concat();
        append(&service, "closed-by-producer", &by, "x").await;
        for path in ["open", "made-closed", "closed-alone", "closed-with", "closed-by-producer"] {
            let is_open = path == "open";
            for (headers, asks_open) in
                [(&TEXT[..], true), (&[TEXT[0], ("stream-closed", "false")], true), (&closed, false)]
            {
                for body in ["", "another body"] {
                    let answer = put(&service, path, headers, body).await;
                    if asks_open == is_open {
                        assert_eq!(answer.status, 200, "{store} {path} {headers:?}: {answer:?}");
                        assert_eq!(answer.header("stream-next-offset"), offset(1));
                        assert_eq!(answer.header("stream-closed") == "true", !is_open);
                        assert_eq!(answer.header("location"), "");
                    } else {
                        assert_eq!(answer.status, 409, "{store} {path} {headers:?}: {answer:?}");
                    }
                }
            }
            assert_eq!(get(&service, path, &[]).await.body, "x", "{store} {path}");
            // A fork starts as it asks, whatever its source is.
            for (name, more, is_closed_now) in
                [("a", &[][..], false), ("b", &[("stream-closed", "true")], true)]
            {
                let source = format!("/v1/stream/{path}");
                let headers = [&[("stream-forked-from", &*source)][..], more].concat();
                let fork = format!("fork-{name}-{path}");
                assert_eq!(put(&service, &fork, &headers, "").await.status, 201, "{store} {fork}");
                assert_eq!(is_closed(&service, &fork).await, is_closed_now, "{store} {fork}");
            }
        }
    }
}

#[tokio::test]
async fn the_numbers_of_producers_are_whole_and_bounded() {
    const MOST: &str = "9007199254740991";
    let digits = "9".repeat(400);
    let long = "p".repeat(257);
    for store in STORES {
        let database = TestDatabase::create().await;
        let service = service(&database, store).await;
        put(&service, "a", &TEXT, "").await;
        for bad in
            ["-1", "+1", "1.0", "1e3", "0x1", "", "1 2", "9007199254740992", "18446744073709551616", &digits]
        {
            let epoch = append(&service, "a", &producer("p", bad, "0"), "x").await;
            assert_refused(&epoch, "producer-epoch", bad);
            let seq = append(&service, "a", &producer("p", "0", bad), "x").await;
            assert_refused(&seq, "producer-seq", bad);
        }
        for id in ["", &*long] {
            assert_refused(&append(&service, "a", &producer(id, "0", "0"), "x").await, "producer-id", id);
        }
        let all = producer("p", "0", "0");
        for left_out in 1..4 {
            let some: Vec<_> =
                all.iter().enumerate().filter(|(n, _)| *n != left_out).map(|(_, one)| *one).collect();
            assert_refused(&append(&service, "a", &some, "x").await, "producer-id", all[left_out].0);
            let one = [TEXT[0], all[left_out]];
            assert_refused(&append(&service, "a", &one, "x").await, "producer-id", all[left_out].0);
        }
        // None of these was noted.
        let gap = append(&service, "a", &producer("p", "0", MOST), "x").await;
        assert_eq!(
            (gap.status.as_u16(), gap.header("producer-expected-seq"), gap.header("producer-received-seq")),
            (409, "0", MOST)
        );
        let first = append(&service, "a", &producer("p", "0", "0"), "x").await;
        assert_eq!((first.status.as_u16(), first.header("producer-seq")), (200, "0"));
        let started = append(&service, "a", &producer("p", MOST, "1"), "x").await;
        assert_refused(&started, "producer-seq", "an epoch begins with 0");
        let last = append(&service, "a", &producer("p", MOST, "0"), "x").await;
        assert_eq!((last.status.as_u16(), last.header("producer-epoch")), (200, MOST));
        let stale = append(&service, "a", &producer("p", "9007199254740990", "0"), "x").await;
        assert_eq!((stale.status.as_u16(), stale.header("producer-epoch")), (403, MOST));
        assert_eq!(get(&service, "a", &[]).await.body, "xx");
    }
}

#[tokio::test]
async fn a_wrong_offset_is_refused_in_every_mode() {
    let digits = "9".repeat(400);
    let database = TestDatabase::create().await;
    let service = service(&database, "postgres").await;
    put(&service, "a", &JSON, "[1,22,333]").await;
    for bad in [
        "",
        "0",
        "-2",
        "NOW",
        "-1%20",
        "a%2Cb",
        "..%2F",
        "%00",
        "%0d%0a",
        "0000000000000000_000000000000002",
        "0000000000000000_00000000000000002",
        "0000000000000000-0000000000000002",
        "0000000000000000_0000000000000002%2F",
        "%D9%A1000000000000000_0000000000000002",
        // Within a message, and beyond the end.
        "0000000000000000_0000000000000001",
        "0000000000000000_0000000000000010",
        "0000000000000001_0000000000000002",
        "9999999999999999_9999999999999999",
        &*digits,
    ] {
        for live in ["", "&live=long-poll", "&live=sse"] {
            let answer = get(&service, &format!("a?offset={bad}{live}"), &[]).await;
            assert_refused(&answer, "offset", &format!("{bad}{live}"));
        }
        let mux = get(&service, &format!("__ds/mux?stream=a@{bad}"), &[]).await;
        assert_eq!(mux.status, 400, "{bad}: {mux:?}");
        let fork = [JSON[0], ("stream-forked-from", "/v1/stream/a"), ("stream-fork-offset", bad)];
        if !bad.is_empty() {
            assert_refused(&put(&service, "new", &fork, "").await, "stream-fork-offset", bad);
        }
    }
    for twice in ["offset=-1&offset=-1", "offset=now&offset=-1", "offset=-1&live=sse&offset=-1"] {
        assert_refused(&get(&service, &format!("a?{twice}"), &[]).await, "offset", twice);
    }
    assert_refused(&get(&service, "a?offset=-1&live=sse&live=sse", &[]).await, "live", "live twice");
    // A cursor is a hint: a senseless one is as good as none.
    let cursor = get(&service, &format!("a?offset=-1&live=long-poll&cursor={digits}"), &[]).await;
    assert_eq!((cursor.status.as_u16(), &cursor.body[..]), (200, &b"[1,22,333]"[..]));
    assert!(cursor.header("stream-cursor").parse::<u64>().is_ok());
}

#[tokio::test]
async fn headers_that_are_repeated_or_beyond_bounds_are_refused_by_name() {
    let (digits, long_path) = ("9".repeat(400), format!("/v1/stream/{}", "x".repeat(8 * 1024)));
    let database = TestDatabase::create().await;
    let service = service(&database, "postgres").await;
    put(&service, "a", &TEXT, "x").await;
    let from = ("stream-forked-from", "/v1/stream/a");
    let start = ("stream-fork-offset", "0000000000000000_0000000000000000");
    for (headers, field) in [
        (&[TEXT[0], TEXT[0]][..], "content-type"),
        (&[("stream-ttl", "60"), ("stream-ttl", "60")], "stream-ttl"),
        (&[("stream-ttl", "60"), ("stream-ttl", "")], "stream-ttl"),
        (&[("stream-ttl", &digits)], "stream-ttl"),
        (&[("stream-expires-at", "2099-01-01T00:00:00Z"); 2], "stream-expires-at"),
        (&[("stream-expires-at", &digits)], "stream-expires-at"),
        (&[("stream-retention", "bytes=1"); 2], "stream-retention"),
        (&[("stream-retention", "")], "stream-retention"),
        (&[("stream-compaction", "key"); 2], "stream-compaction"),
        (&[from, from], "stream-forked-from"),
        (&[from, ("stream-fork-offset", "-1")], "stream-fork-offset"),
        (&[from, start, ("stream-fork-sub-offset", &digits)], "stream-fork-sub-offset"),
        (&[from, start, start], "stream-fork-offset"),
        (
            &[from, start, ("stream-fork-sub-offset", "1"), ("stream-fork-sub-offset", "1")],
            "stream-fork-sub-offset",
        ),
        (&[start], "stream-fork-offset"),
        (&[("stream-forked-from", "/v1/stream/..")], "stream-forked-from"),
        (&[("stream-forked-from", "/v1/stream/a%2Fb")], "stream-forked-from"),
        (&[("stream-forked-from", "/v1/stream//a")], "stream-forked-from"),
        (&[("stream-forked-from", &long_path)], "stream-forked-from"),
        (&[("stream-forked-from", "http://elsewhere/v1/stream/a")], "stream-forked-from"),
    ] {
        assert_refused(&put(&service, "new", headers, "").await, field, &format!("{headers:?}"));
    }
    assert_eq!(get(&service, "new", &[]).await.status, 404);
    // A retention of 400 digits keeps everything; one of bytes and age both do.
    let everything = format!("age={digits}, bytes={digits}");
    assert_eq!(put(&service, "kept", &[TEXT[0], ("stream-retention", &everything)], "x").await.status, 201);
    let seq = "s".repeat(257);
    for (headers, field) in [
        (&[TEXT[0], TEXT[0]][..], "content-type"),
        (&[TEXT[0], ("stream-seq", "a"), ("stream-seq", "b")], "stream-seq"),
        (&[TEXT[0], ("stream-seq", &seq)], "stream-seq"),
        (&[&producer("p", "0", "0")[..], &[("producer-id", "p")]].concat(), "producer-id"),
        (&[&producer("p", "0", "0")[..], &[("producer-epoch", "0")]].concat(), "producer-epoch"),
        (&[&producer("p", "0", "0")[..], &[("producer-seq", "0")]].concat(), "producer-seq"),
    ] {
        assert_refused(&append(&service, "a", headers, "x").await, field, &format!("{headers:?}"));
    }
    assert_eq!(get(&service, "a", &[]).await.body, "x");
    // Bytes that a header has, and text has not.
    for header in ["stream-ttl: \u{e9}", "producer-id: \u{e9}\r\nproducer-epoch: 0\r\nproducer-seq: 0"] {
        let request = format!(
            "POST /v1/stream/a HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\n{header}\r\ncontent-length: 1\r\nconnection: close\r\n\r\ny"
        );
        let answer = service.raw(request.as_bytes(), Duration::from_secs(10)).await;
        let is_ignored = header.starts_with("stream-ttl");
        assert!(
            answer.starts_with(if is_ignored { "HTTP/1.1 204" } else { "HTTP/1.1 400" }),
            "{header}: {answer}"
        );
    }
    let length = format!(
        "POST /v1/stream/a HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\ncontent-length: {digits}\r\n\r\n"
    );
    let answer = service.raw(length.as_bytes(), Duration::from_secs(10)).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn paths_have_one_spelling_and_strange_ones_are_refused() {
    let long = format!("{}é", "x".repeat(8 * 1024));
    for store in STORES {
        let database = TestDatabase::create().await;
        let service = service(&database, store).await;
        for bad in [
            "a%2Fb", "a%2fb", "a//b", "a/", "/a", "../a", "a/../b", "%2e%2e/a", "a/.", "%00", "a%0d%0ab",
            "%ff", "a%", "a%zz", "%C3", &long,
        ] {
            let encoded = bad.replace('é', "%C3%A9");
            for method in ["PUT", "GET", "POST", "DELETE"] {
                let answer = service.request(method, &format!("/v1/stream/{encoded}"), &TEXT, "x").await;
                assert_refused(&answer, "path", &format!("{store}: {method} {encoded:.80}"));
            }
        }
        // The longest one, of characters that take three bytes each as they are sent.
        let longest = "%C3%A9".repeat(512);
        for (spelling, same) in
            [("h%C3%A9/%7e%20b", "h%c3%a9/~%20b"), ("%61/b", "a/b"), (&*longest, &*longest)]
        {
            assert_eq!(put(&service, spelling, &TEXT, "x").await.status, 201, "{store}: {spelling:.40}");
            assert_eq!(get(&service, same, &[]).await.body, "x", "{store}: {same:.40}");
        }
        // UTF-8 as it is, which no client should send.
        let raw = "GET /v1/stream/h\u{e9}/~%20b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let answer = service.raw(raw.as_bytes(), Duration::from_secs(10)).await;
        assert!(answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// Sends the head of a request and a body in chunks, until the service answers.
async fn send_chunks(service: &Service, method: &str, path: &str, mebibytes: usize) -> String {
    let stream = TcpStream::connect(&service.address).await.unwrap();
    let (mut from, mut to) = stream.into_split();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    );
    let sending = tokio::spawn(async move {
        to.write_all(head.as_bytes()).await?;
        let chunk = [&b"100000\r\n"[..], &vec![b' '; 1 << 20], b"\r\n"].concat();
        for _ in 0..mebibytes {
            to.write_all(&chunk).await?;
        }
        to.write_all(b"0\r\n\r\n").await?;
        // A client that closes its side is gone.
        std::future::pending::<std::io::Result<()>>().await
    });
    let mut answer = Vec::new();
    let reading = from.read_to_end(&mut answer);
    let _ended = tokio::time::timeout(Duration::from_secs(30), reading).await.expect("no answer");
    sending.abort();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_body_of_64_mib_is_refused_and_the_limit_is_named() {
    const LIMIT: &str = "33554432";
    let database = TestDatabase::create().await;
    let service = service(&database, "postgres").await;
    put(&service, "a", &JSON, "").await;
    let large = bytes::Bytes::from(vec![b' '; 64 << 20]);
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&large).unwrap();
    let bomb = gzip.finish().unwrap();
    assert!(bomb.len() < 1 << 20);
    for (method, path) in [("PUT", "/v1/stream/new"), ("POST", "/v1/stream/a")] {
        let answer = service.request(method, path, &JSON, large.clone()).await;
        assert_eq!((answer.status.as_u16(), &*answer.error_code()), (413, "too_large"), "{method}");
        assert!(answer.json()["error"]["message"].as_str().unwrap().contains(LIMIT), "{answer:?}");
        let encoded = [JSON[0], ("content-encoding", "gzip")];
        let answer = service.request(method, path, &encoded, bomb.clone()).await;
        assert_eq!((answer.status.as_u16(), &*answer.error_code()), (413, "too_large"), "{method} gzip");
        assert!(answer.json()["error"]["message"].as_str().unwrap().contains(LIMIT), "{answer:?}");
        // Without a length it is read up to the limit.
        let answer = send_chunks(&service, method, path, 64).await;
        assert!(answer.starts_with("HTTP/1.1 413") && answer.contains(LIMIT), "{method} in chunks: {answer}");
    }
    for path in ["__ds/subscriptions/s", "__ds/subscriptions/s/claim", "__ds/subscriptions/s/ack"] {
        let method = if path.ends_with("/s") { "PUT" } else { "POST" };
        let headers = [JSON[0], ("authorization", "Bearer x.y")];
        let headers = if path.ends_with("ack") { &headers[..] } else { &headers[..1] };
        let url = format!("/v1/stream/{path}");
        // These are not read to their end: the answer may be lost with the connection.
        if let Ok(answer) = try_request(&service.address, method, &url, headers, large.clone()).await {
            assert_eq!(answer.status, 413, "{path}: {answer:?}");
        }
    }
    assert_eq!(get(&service, "a", &[]).await.body, "[]");
    assert_eq!(get(&service, "new", &[]).await.status, 404);
}

#[tokio::test]
async fn a_retention_drops_the_beginning_and_says_where_it_is() {
    for store in STORES {
        let database = TestDatabase::create().await;
        let service = service(&database, store).await;
        let retention = [TEXT[0], ("stream-retention", "bytes=20")];
        assert_eq!(put(&service, "r", &retention, "").await.status, 201);
        assert_eq!(put(&service, "r", &[TEXT[0], ("stream-retention", " bytes=20 ")], "").await.status, 200);
        for other in [
            &TEXT[..],
            &[TEXT[0], ("stream-retention", "bytes=21")],
            &[TEXT[0], ("stream-retention", "age=20")],
        ] {
            assert_eq!(put(&service, "r", other, "").await.status, 409, "{store} {other:?}");
        }
        for number in 0..2 {
            append(&service, "r", &TEXT, &format!("{number:010}")).await;
        }
        let fork = [("stream-forked-from", "/v1/stream/r")];
        assert_eq!(put(&service, "fork", &fork, "").await.status, 201);
        for number in 2..10 {
            append(&service, "r", &TEXT, &format!("{number:010}")).await;
        }
        let first = offset(80);
        let dropped = eventually("the beginning is dropped", async || {
            let answer = get(&service, &format!("r?offset={}", offset(10)), &[]).await;
            (answer.header("stream-first-offset") == first).then_some(answer)
        })
        .await;
        assert_eq!((dropped.status.as_u16(), dropped.error_code().as_str()), (410, "not_kept"), "{store}");
        assert_eq!(dropped.header("cache-control"), "no-store");
        let exposed = dropped.header("access-control-expose-headers").to_ascii_lowercase();
        assert!(exposed.is_empty() || exposed.contains("stream-first-offset"), "{exposed}");
        for query in ["", "?offset=-1", &*format!("?offset={first}")] {
            let answer = get(&service, &format!("r{query}"), &[]).await;
            assert_eq!(
                (answer.status.as_u16(), &answer.body[..]),
                (200, &b"00000000080000000009"[..]),
                "{store} {query}"
            );
            assert_eq!(answer.header("stream-next-offset"), offset(100));
        }
        for live in ["long-poll", "sse"] {
            let answer = get(&service, &format!("r?offset={}&live={live}", offset(0)), &[]).await;
            assert_eq!(
                (answer.status.as_u16(), answer.header("stream-first-offset")),
                (410, &*first),
                "{store} {live}"
            );
        }
        let shown = head(&service, "r").await;
        assert_eq!(
            (
                shown.header("stream-retention"),
                shown.header("stream-first-offset"),
                shown.header("stream-next-offset")
            ),
            ("bytes=20", &*first, &*offset(100))
        );
        // What a fork shares stays, for the fork alone.
        assert_eq!(get(&service, "fork", &[]).await.body, "00000000000000000001", "{store}");
        // A fork at a place that is dropped has no source.
        let at = [fork[0], ("stream-fork-offset", &*offset(10))];
        assert_refused(&put(&service, "late", &at, "").await, "stream-fork-offset", store);
        // By age everything goes, and the end stays where it is.
        let aged = [TEXT[0], ("stream-retention", "age=1")];
        put(&service, "aged", &aged, "0123456789").await;
        let answer = eventually("all of it is too old", async || {
            let answer = get(&service, "aged", &[]).await;
            answer.body.is_empty().then_some(answer)
        })
        .await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("stream-next-offset"), answer.header("stream-up-to-date")),
            (200, &*offset(10), "true")
        );
        let next = append(&service, "aged", &TEXT, "x").await;
        assert_eq!(next.header("stream-next-offset"), offset(11), "{store}");
    }
}
