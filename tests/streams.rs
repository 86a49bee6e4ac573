//! Durable Streams: what the outside suite (`tests/outside/durable-streams.sh`) does not test.

use std::collections::BTreeSet;

use crate::support::accounts::{guarded, key};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Service, eventually};
use crate::support::sse::{EventStream, metric};
use crate::support::streams::{JSON, TEXT, append, get, put};

/// The variables of a service with streams in memory.
const MEMORY: [(&str, &str); 2] = [("MODULES", "events,streams"), ("STREAMS_STORE", "memory")];

fn with<'a>(variables: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    MEMORY.iter().chain(variables).copied().collect()
}

#[tokio::test]
async fn settings_decide_on_urls_cursors_waits_sizes_and_the_registry() {
    let database = TestDatabase::create().await;
    let variables = with(&[
        ("PUBLIC_URL", "https://streams.example/base"),
        ("STREAMS_CURSOR_INTERVAL_S", "60"),
        ("STREAMS_CURSOR_EPOCH", "2026-01-01T00:00:00Z"),
        ("STREAMS_LONG_POLL_TIMEOUT_MS", "50"),
        ("STREAMS_MAX_ANSWER_BYTES", "128"),
        ("STREAMS_REGISTRY_PATH", "__registry__"),
    ]);
    let service = Service::start(database.url(), &variables).await;
    let made = put(&service, "a/b", &TEXT, &"x".repeat(300)).await;
    assert_eq!(made.status, 201);
    assert_eq!(made.header("location"), "https://streams.example/base/v1/stream/a/b");
    let first = get(&service, "a/b", &[]).await;
    assert_eq!((first.body.len(), first.header("stream-up-to-date")), (128, ""));
    assert_eq!(first.header("stream-next-offset"), "0000000000000000_0000000000000128");
    let waited = get(&service, "a/b?offset=now&live=long-poll", &[]).await;
    assert_eq!((waited.status.as_u16(), waited.header("stream-up-to-date")), (204, "true"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (cursor, expected) =
        (waited.header("stream-cursor").parse::<u64>().unwrap(), (now - 1_767_225_600) / 60);
    assert!(cursor == expected || cursor + 1 == expected, "{cursor} {expected}");
    for method in ["PUT", "POST", "DELETE"] {
        let refused = service.request(method, "/v1/stream/__registry__", &JSON, "1").await;
        assert_eq!(refused.status, 405, "{method}");
    }
}

#[tokio::test]
async fn an_answer_is_compressed_by_the_weights_of_its_client() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &MEMORY).await;
    let text = "durable ".repeat(2_000);
    put(&service, "a", &TEXT, &text).await;
    let plain = get(&service, "a", &[("accept-encoding", "gzip;q=0")]).await;
    assert_eq!((plain.header("content-encoding"), plain.body.len()), ("", text.len()));
    let tag = plain.header("etag").to_owned();
    for (accepted, coding) in [("gzip", "gzip"), ("br;q=0.9, gzip;q=0.5", "br"), ("zstd, gzip", "zstd")] {
        let answer = get(&service, "a", &[("accept-encoding", accepted)]).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-encoding")), (200, coding));
        assert!(answer.body.len() < text.len() / 4, "{coding}: {}", answer.body.len());
        assert_eq!((answer.header("etag"), answer.header("vary")), (&*format!("W/{tag}"), "accept-encoding"));
    }
    for known in [&*tag, &*format!("\"x\", W/{tag}"), "*"] {
        let answer = get(&service, "a", &[("if-none-match", known), ("accept-encoding", "gzip")]).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (304, 0), "{known}");
    }
    // Another stream at the same path has other tags, though its bytes are the same.
    assert_eq!(service.request("DELETE", "/v1/stream/a", &[], "").await.status, 204);
    put(&service, "a", &TEXT, &text).await;
    assert_eq!(get(&service, "a", &[("if-none-match", &tag)]).await.status, 200);
}

#[tokio::test]
async fn caches_keep_answers_and_never_those_of_one_tenant_for_another() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &MEMORY).await;
    put(&service, "a", &TEXT, "x").await;
    let answer = get(&service, "a", &[]).await;
    assert_eq!(answer.header("cache-control"), "public, max-age=60, stale-while-revalidate=300");
    let now = get(&service, "a?offset=now", &[]).await;
    assert_eq!((now.header("cache-control"), now.header("etag")), ("no-store", ""));
    put(&service, "b", &[("content-type", "text/plain"), ("stream-ttl", "30")], "x").await;
    let short = get(&service, "b", &[]).await;
    assert!(
        ["public, max-age=29", "public, max-age=30"].contains(&short.header("cache-control")),
        "{short:?}"
    );
    assert_eq!(get(&service, "missing", &[]).await.header("cache-control"), "no-store");
    let service = guarded(&database, &with(&[("STRESS_TOKEN", TOKEN)])).await;
    let token = format!("Bearer {TOKEN}");
    let made = put(&service, "a", &[("content-type", "text/plain"), ("authorization", &token)], "x").await;
    assert_eq!(made.status, 201, "{made:?}");
    let answer = get(&service, "a", &[("authorization", &token)]).await;
    assert_eq!(answer.header("cache-control"), "private, max-age=60, stale-while-revalidate=300");
    assert_eq!(get(&service, "a", &[]).await.status, 401);
}

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

#[tokio::test]
async fn bad_input_is_refused_and_names_its_field() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &MEMORY).await;
    put(&service, "a", &JSON, "[1,22,333]").await;
    let digits = "9".repeat(400);
    for (query, field) in [
        ("offset=", "offset"),
        ("offset=a%2Cb", "offset"),
        ("offset=..%2F", "offset"),
        ("offset=%00", "offset"),
        ("offset=-1&offset=-1", "offset"),
        ("offset=-2", "offset"),
        (&*format!("offset={digits}"), "offset"),
        ("offset=0000000000000000_0000000000000001", "offset"),
        ("offset=9999999999999999_9999999999999999", "offset"),
        ("live=sse", "offset"),
        ("offset=-1&live=poll", "live"),
        ("offset=%zz", "query"),
    ] {
        let answer = get(&service, &format!("a?{query}"), &[]).await;
        assert_eq!(answer.status, 400, "{query}: {answer:?}");
        assert_eq!(answer.json()["error"]["field"], field, "{query}");
    }
    let long = "x".repeat(8 * 1024);
    for path in ["a%2Fb", "a%2fb", "a%00b", "%ff", "a//b", "a/", "%2e%2e/a", &long] {
        for method in ["PUT", "GET", "POST", "DELETE", "HEAD"] {
            let answer = service.request(method, &format!("/v1/stream/{path}"), &TEXT, "x").await;
            assert_eq!(answer.status, 400, "{method} {path}: {answer:?}");
        }
    }
    let named = put(&service, "h%C3%A9/%20", &TEXT, "x").await;
    assert_eq!((named.status.as_u16(), get(&service, "h%c3%a9/%20", &[]).await.status.as_u16()), (201, 200));
    assert_eq!(put(&service, "__ds/x", &TEXT, "x").await.status, 404);
    for (headers, field) in [
        (&[("stream-ttl", "1"), ("stream-ttl", "1")][..], "stream-ttl"),
        (&[("stream-ttl", &*digits)], "stream-ttl"),
        (&[("stream-ttl", "1"), ("stream-expires-at", "2030-01-01T00:00:00Z")], "stream-expires-at"),
        (&[("stream-expires-at", "Jan 1 2030")], "stream-expires-at"),
        (&[("content-type", "nonsense")], "content-type"),
        (&[("stream-forked-from", "elsewhere")], "stream-forked-from"),
        (&[("stream-fork-sub-offset", "0")], "stream-fork-sub-offset"),
        (
            &[("stream-forked-from", "/v1/stream/a"), ("stream-fork-sub-offset", "1")],
            "stream-fork-sub-offset",
        ),
        (
            &[
                ("stream-forked-from", "/v1/stream/a"),
                ("stream-fork-offset", "0000000000000000_0000000000000001"),
            ],
            "stream-fork-offset",
        ),
        (&[("stream-retention", "age=0")], "stream-retention"),
        (&[("stream-compaction", "value")], "stream-compaction"),
    ] {
        let answer = put(&service, "new", headers, "").await;
        assert_eq!(answer.status, 400, "{headers:?}: {answer:?}");
        assert_eq!(answer.json()["error"]["field"], field, "{headers:?}");
    }
    for (headers, body, status) in [
        (&JSON[..], "{", 400),
        (&JSON, "[]", 400),
        (&JSON, "", 400),
        (&[], "1", 400),
        (&TEXT, "x", 409),
        (&[("content-type", "application/json"), ("producer-id", "p")], "1", 400),
    ] {
        let answer = append(&service, "a", headers, body).await;
        assert_eq!(answer.status, status, "{headers:?} {body}: {answer:?}");
    }
    // A body larger than the limit, which the answer names.
    let large = service.request("POST", "/v1/stream/a", &TEXT, vec![b'x'; (32 << 20) + 1]).await;
    assert_eq!((large.status.as_u16(), large.error_code().as_str()), (413, "too_large"));
    assert!(large.json()["error"]["message"].as_str().unwrap().contains("33554432"), "{large:?}");
    let read = get(&service, "a", &[]).await;
    assert_eq!(
        (&read.body[..], read.header("stream-next-offset")),
        (&b"[1,22,333]"[..], "0000000000000000_0000000000000009")
    );
}

#[tokio::test]
async fn messages_keep_their_bytes_and_a_closed_stream_says_so_first() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &MEMORY).await;
    put(&service, "a", &JSON, "").await;
    let message = r#"{"z": 12345678901234567890, "a": 1.0, "e": 1e400}"#;
    assert_eq!(append(&service, "a", &JSON, message).await.status, 204);
    assert_eq!(get(&service, "a", &[]).await.body, format!("[{message}]"));
    let close = [("stream-closed", "TRUE")];
    assert_eq!(append(&service, "a", &close, "").await.status, 204);
    // Whatever else is wrong with it.
    for (headers, body) in [(&JSON[..], "{"), (&TEXT, "x"), (&[], "x"), (&JSON, "[]"), (&[], "")] {
        let answer = append(&service, "a", headers, body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("stream-closed")),
            (409, "true"),
            "{headers:?} {body}"
        );
    }
    assert_eq!(append(&service, "missing", &JSON, "{").await.status, 404);
}

#[tokio::test]
async fn a_stream_of_events_ends_with_its_stream_and_keeps_characters_whole() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &with(&[("SSE_HEARTBEAT_S", "1")])).await;
    put(&service, "a", &TEXT, "").await;
    let mut events = EventStream::open(&service, "/v1/stream/a?offset=-1&live=sse", &[]).await;
    assert_eq!(events.headers["cross-origin-resource-policy"], "same-origin");
    let control = events.take(1).await.remove(0);
    assert_eq!(control.event, "control");
    assert!(control.data.contains("\"upToDate\":true"), "{}", control.data);
    // The sign of life of an idle stream.
    assert_eq!(events.take(1).await[0].event, "control");
    for part in [&b"\xe2"[..], b"\x82", b"\xac!"] {
        let answer = service.request("POST", "/v1/stream/a", &TEXT, part.to_vec()).await;
        assert_eq!(answer.status, 204);
    }
    let data = loop {
        let event = events.take(1).await.remove(0);
        if event.event == "data" {
            break event.data;
        }
    };
    assert_eq!(data, "€!");
    assert_eq!(service.request("DELETE", "/v1/stream/a", &[], "").await.status, 204);
    let rest = events.rest().await;
    assert!(rest.iter().all(|event| event.event == "control"), "{rest:?}");
    assert_eq!(metric(&service, "tidegate_follows_closed_total{reason=\"deleted\"}").await, 1.0);
    // A long-poll is answered at once.
    put(&service, "b", &TEXT, "").await;
    let (waited, deleted) = tokio::join!(get(&service, "b?offset=-1&live=long-poll", &[]), async {
        eventually("a live reader", async || {
            let read = get(&service, "b", &[]).await;
            (read.status == 200).then_some(())
        })
        .await;
        service.request("DELETE", "/v1/stream/b", &[], "").await
    });
    assert_eq!(deleted.status, 204);
    assert_eq!(waited.status, 404, "{waited:?}");
}

#[tokio::test]
async fn many_streams_come_over_one_connection() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &MEMORY).await;
    put(&service, "a", &JSON, "1").await;
    put(&service, "b@c", &[("content-type", "application/x")], "bytes").await;
    let missing = get(&service, "__ds/mux?stream=a@-1&stream=none@-1", &[]).await;
    assert_eq!((missing.status.as_u16(), missing.json()["error"]["field"].as_str()), (404, Some("stream")));
    let mut events = EventStream::open(&service, "/v1/stream/__ds/mux?stream=a@-1&stream=b@c@-1", &[]).await;
    let first = events.take(6).await;
    let data: BTreeSet<(&str, &str)> =
        first.iter().filter(|event| event.event == "data").map(|event| (&*event.id, &*event.data)).collect();
    let expected = [
        ("a@0000000000000000_0000000000000002", "[1]"),
        ("b%40c@0000000000000000_0000000000000005", "Ynl0ZXM="),
    ];
    assert_eq!(data, BTreeSet::from(expected));
    assert!(first.iter().any(|event| event.data.contains("\"stream\":\"b@c\",\"encoding\":\"base64\"")));
    append(&service, "b@c", &[("content-type", "application/x"), ("stream-closed", "true")], "!").await;
    append(&service, "a", &[("stream-closed", "true")], "").await;
    let rest = events.rest().await;
    assert_eq!(
        rest.iter().filter(|event| event.data.contains("\"streamClosed\":true")).count(),
        2,
        "{rest:?}"
    );
}

#[tokio::test]
async fn the_registry_lists_what_is_created_and_deleted() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &with(&[("STREAMS_REGISTRY_PATH", "__registry__")])).await;
    put(&service, "a", &TEXT, "").await;
    assert_eq!(service.request("DELETE", "/v1/stream/a", &[], "").await.status, 204);
    let listed = eventually("two entries", async || {
        let listed = get(&service, "__registry__", &[]).await.json();
        (listed.as_array().map(Vec::len) == Some(2)).then_some(listed)
    })
    .await;
    assert_eq!(
        (&listed[0]["value"]["path"], &listed[0]["headers"]["operation"]),
        (&"a".into(), &"insert".into())
    );
    assert_eq!((&listed[1]["key"], &listed[1]["headers"]["operation"]), (&"a".into(), &"delete".into()));
}

#[tokio::test]
async fn live_readers_and_memory_have_limits() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &with(&[("MAX_SUBSCRIBERS", "2")])).await;
    put(&service, "a", &TEXT, "").await;
    let mut readers = Vec::new();
    for _ in 0..2 {
        readers.push(EventStream::open(&service, "/v1/stream/a?offset=-1&live=sse", &[]).await);
    }
    let refused = get(&service, "a?offset=-1&live=long-poll", &[]).await;
    assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (503, "1"));
    drop(readers);
    eventually("a free place", async || {
        let answer = get(&service, "a?offset=-1&live=sse", &[("stream-closed", "")]);
        tokio::time::timeout(std::time::Duration::from_millis(300), answer).await.is_err().then_some(())
    })
    .await;
    // A sixteenth of the least budget is 8 MiB.
    let service = Service::start(database.url(), &with(&[("MEMORY_BUDGET", "134217728")])).await;
    put(&service, "a", &TEXT, "").await;
    let piece = "x".repeat(1 << 20);
    let mut statuses = Vec::new();
    for _ in 0..20 {
        statuses.push(append(&service, "a", &TEXT, &piece).await.status.as_u16());
    }
    let stored = statuses.iter().filter(|status| **status == 204).count();
    assert!((3..20).contains(&stored) && statuses.ends_with(&[507]), "{statuses:?}");
    assert_eq!(service.request("DELETE", "/v1/stream/a", &[], "").await.status, 204);
    put(&service, "a", &TEXT, &piece).await;
    assert_eq!(get(&service, "a", &[]).await.body.len(), 1 << 20);
}

#[tokio::test]
async fn a_fault_strikes_streams_and_their_events() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &with(&[("FAULTS", "on")])).await;
    put(&service, "a", &TEXT, "x").await;
    let inject = async |fault: &str| {
        service.request("POST", "/_test/inject-error", &JSON, fault.to_owned()).await.status.as_u16()
    };
    assert_eq!(inject(r#"{"path": "/v1/stream/a"}"#).await, 400);
    assert_eq!(
        inject(r#"{"path": "/v1/stream/a", "method": "GET", "status": 503, "retryAfter": 1}"#).await,
        200
    );
    let struck = get(&service, "a", &[]).await;
    assert_eq!((struck.status.as_u16(), struck.header("retry-after")), (503, "1"));
    let event = r#"{"path": "/v1/stream/a", "injectSseEvent": {"eventType": "odd", "data": "one"}}"#;
    assert_eq!(inject(event).await, 200);
    let mut events = EventStream::open(&service, "/v1/stream/a?offset=-1&live=sse", &[]).await;
    let first: Vec<String> = events.take(2).await.into_iter().map(|event| event.event).collect();
    assert_eq!(first, ["odd", "data"]);
}

#[tokio::test]
async fn an_acknowledged_close_is_final_under_racing_appends() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &MEMORY).await;
    for n in 0..30 {
        let path = format!("race{n}");
        put(&service, &path, &TEXT, "").await;
        let writes = (0..8).map(|writer| {
            let (service, path) = (&service, &path);
            async move {
                let mut last = 0;
                for _ in 0..10 {
                    let closes = writer == 7;
                    let answer = match closes {
                        true => append(service, path, &[("stream-closed", "true")], "").await,
                        false => append(service, path, &TEXT, "0123456789").await,
                    };
                    if answer.status == 204 {
                        let next = answer.header("stream-next-offset").split('_').nth(1).unwrap();
                        last = last.max(next.parse::<usize>().unwrap());
                    }
                }
                last
            }
        });
        let last = futures_util::future::join_all(writes).await.into_iter().max().unwrap();
        let read = get(&service, &path, &[]).await;
        assert_eq!((read.body.len(), read.header("stream-closed")), (last, "true"), "{path}");
        assert_eq!(append(&service, &path, &TEXT, "x").await.status, 409);
    }
}

#[tokio::test]
async fn scopes_are_limited_to_paths_with_their_prefix() {
    let database = TestDatabase::create().await;
    let service = guarded(&database, &MEMORY).await;
    let scopes = ["streams:create:a/", "streams:write:a/", "streams:read:a/"];
    let arguments: Vec<&str> = scopes.iter().flat_map(|scope| ["--scope", scope]).collect();
    let token = format!("Bearer {}", key(&database, &arguments).await);
    let headers = [("content-type", "text/plain"), ("authorization", &*token)];
    assert_eq!(put(&service, "a/1", &headers, "x").await.status, 201);
    assert_eq!(append(&service, "a/1", &headers, "y").await.status, 204);
    assert_eq!(get(&service, "a/1", &headers).await.body, "xy");
    assert_eq!(put(&service, "b/1", &headers, "x").await.status, 403);
    assert_eq!(get(&service, "__ds/mux?stream=a/1@-1&stream=b/1@-1", &headers).await.status, 403);
    assert_eq!(service.request("DELETE", "/v1/stream/a/1", &headers, "").await.status, 403);
    // A fork would show another tenant's content.
    let fork = [headers[1], ("stream-forked-from", "/v1/stream/b/1")];
    assert_eq!(put(&service, "a/2", &fork, "").await.status, 403);
}

#[tokio::test]
async fn subscribers_of_a_stream_get_the_same_events_each_with_its_own_cursor() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &MEMORY).await;
    for (path, headers) in [("t", &TEXT), ("j", &JSON)] {
        put(&service, path, headers, "").await;
        let targets = [
            format!("/v1/stream/{path}?offset=-1&live=sse"),
            format!("/v1/stream/{path}?offset=now&live=sse"),
            format!("/v1/stream/{path}?offset=-1&live=sse&cursor=99999999"),
            format!("/v1/stream/__ds/mux?stream={path}@-1"),
        ];
        let mut readers = Vec::new();
        for target in &targets {
            let mut reader = EventStream::open(&service, target, &[]).await;
            assert_eq!(reader.take(1).await[0].event, "control");
            readers.push(reader);
        }
        // The mux names the stream first, then says that it is at the end.
        readers[3].take(1).await;
        let mut last = String::new();
        for number in 0..30 {
            append(&service, path, headers, &number.to_string()).await;
            let mut at = BTreeSet::new();
            for (place, reader) in readers.iter_mut().enumerate() {
                let events = reader.take(2).await;
                let data = if path == "j" { format!("[{number}]") } else { number.to_string() };
                assert_eq!((&*events[0].event, &events[0].data), ("data", &data), "{place}");
                let control: serde_json::Value = serde_json::from_str(&events[1].data).unwrap();
                assert_eq!(control["upToDate"], true, "{place}");
                at.insert(control["streamNextOffset"].as_str().unwrap().to_owned());
                let cursor: u64 = control["streamCursor"].as_str().unwrap().parse().unwrap();
                assert_eq!(cursor > 99_999_999, place == 2, "{place}: {cursor}");
            }
            assert_eq!(at.len(), 1, "{at:?}");
            last = at.pop_last().unwrap();
        }
        // Closed, each gets the end, and its connection is over.
        append(&service, path, &[("stream-closed", "true")], "").await;
        for reader in &mut readers {
            let rest = reader.rest().await;
            let control: serde_json::Value = serde_json::from_str(&rest.last().unwrap().data).unwrap();
            assert_eq!(
                (&control["streamClosed"], &control["streamNextOffset"]),
                (&true.into(), &last.as_str().into())
            );
        }
    }
}

#[tokio::test]
async fn a_line_end_that_two_appends_share_is_one_for_a_subscriber_also_when_it_comes_back() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &MEMORY).await;
    put(&service, "t", &TEXT, "").await;
    let mut reader = EventStream::open(&service, "/v1/stream/t?offset=-1&live=sse", &[]).await;
    reader.take(1).await;
    append(&service, "t", &TEXT, "a\r").await;
    let first = reader.take(2).await;
    assert_eq!(first[0].data, "a\n");
    append(&service, "t", &TEXT, "\nb").await;
    let second = reader.take(2).await;
    assert_eq!((&*second[0].event, &*second[0].data), ("data", "b"));
    let control: serde_json::Value = serde_json::from_str(&first[1].data).unwrap();
    let at = control["streamNextOffset"].as_str().unwrap();
    let mut again = EventStream::open(&service, &format!("/v1/stream/t?offset={at}&live=sse"), &[]).await;
    assert_eq!(again.take(1).await[0].data, "b");
    // A line feed alone has nothing to add, but a place.
    append(&service, "t", &TEXT, "\r").await;
    assert_eq!(reader.take(2).await[0].data, "\n");
    append(&service, "t", &TEXT, "\n").await;
    let alone = reader.take(1).await;
    let control: serde_json::Value = serde_json::from_str(&alone[0].data).unwrap();
    assert_eq!(control["streamNextOffset"], "0000000000000000_0000000000000006");
}
