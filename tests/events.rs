//! `POST /api/v1/events`: what is answered, and what is stored.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use tidegate::ingest::json::{JsonKind, classify, measure};

use crate::support::postgres::TestDatabase;
use crate::support::service::{Service, eventually};

#[tokio::test]
async fn an_event_is_acknowledged_and_stored_as_it_came() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let headers = [("content-type", "application/json"), ("x-trace-id", "demo-123")];
    let answer = service.post(&headers, r#"{"event":"signup","userId":"u_42"}"#).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("x-trace-id"), answer.header("x-ack")),
        (202, "demo-123", "journaled")
    );
    assert!(answer.body.is_empty());
    let health = service.settled().await;
    assert_eq!(
        (&health["accepted"], &health["committed"], &health["dead"]),
        (&json!(1), &json!(1), &json!(0))
    );

    let row = database.connect().await.query_one(
        "select id::text, trace_id, payload->>'event', body, content_type, received_at between now() - interval '1 minute' and now() from requests", &[]).await.unwrap();
    let id: String = row.get(0);
    assert_eq!(id.as_bytes()[14], b'7', "{id} is a UUIDv7");
    assert_eq!(
        (row.get::<_, &str>(1), row.get::<_, &str>(2), row.get::<_, Option<&[u8]>>(3)),
        ("demo-123", "signup", None)
    );
    assert_eq!((row.get::<_, &str>(4), row.get::<_, bool>(5)), ("application/json", true));
}

#[tokio::test]
async fn an_event_without_a_trace_id_gets_its_own_id_as_one() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let answer = service.post(&[], "1").await;
    service.settled().await;
    let row =
        database.connect().await.query_one("select id::text, trace_id from requests", &[]).await.unwrap();
    assert_eq!(
        (row.get::<_, &str>(0), row.get::<_, &str>(1)),
        (answer.header("x-trace-id"), answer.header("x-trace-id"))
    );
}

#[tokio::test]
async fn any_body_of_any_type_is_kept_byte_for_byte_where_jsonb_cannot_keep_it() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let bodies: &[(&str, &[u8])] = &[
        ("empty", b""),
        ("text", b"hello"),
        ("binary", &[0, 255, 128, 10]),
        ("nul", br#"{"a":"\u0000"}"#),
        ("surrogate", br#"["\ud800"]"#),
        ("number", b"1e200000"),
        ("invalid-utf8", b"\"\xff\""),
        ("deep", deep.as_bytes()),
    ];
    for (trace_id, body) in bodies {
        let answer = service
            .post(&[("x-trace-id", trace_id), ("content-type", "application/octet-stream")], body.to_vec())
            .await;
        assert_eq!(answer.status.as_u16(), 202, "{trace_id}");
    }
    service.settled().await;
    let client = database.connect().await;
    for (trace_id, body) in bodies {
        let row = client
            .query_one("select payload is null, body from requests where trace_id = $1", &[trace_id])
            .await
            .unwrap();
        assert_eq!((row.get::<_, bool>(0), row.get::<_, &[u8]>(1)), (true, *body), "{trace_id}");
    }
}

#[tokio::test]
async fn a_trace_id_that_is_not_visible_ascii_of_1_to_128_characters_is_refused() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let longest = "x".repeat(128);
    assert_eq!(service.post(&[("x-trace-id", &longest)], "1").await.status.as_u16(), 202);
    // An empty one is what a client with nothing to trace sends.
    let answer = service.post(&[("x-trace-id", "")], "1").await;
    assert_eq!((answer.status.as_u16(), answer.header("x-trace-id").len()), (202, 36));
    for wrong in ["a b", "é", &"x".repeat(129)] {
        let answer = service.post(&[("x-trace-id", wrong)], "1").await;
        assert_eq!(
            (answer.status.as_u16(), answer.error_code().as_str()),
            (400, "invalid_request"),
            "{wrong:?}"
        );
        assert_eq!(answer.json()["error"]["field"], "x-trace-id");
    }
    assert_eq!(service.settled().await["accepted"], 2);
}

#[tokio::test]
async fn slashes_at_the_end_of_a_path_and_doubled_ones_do_no_harm() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let json = [("content-type", "application/json"), ("x-trace-id", "t")];
    for path in
        ["/api/v1/events/", "//api/v1/events", "/api//v1/events//?ack=committed", "/api/v1/events/?x=//"]
    {
        let answer = service.request("POST", path, &json, "{}").await;
        assert_eq!(answer.status.as_u16(), if path.contains("committed") { 201 } else { 202 }, "{path}");
    }
    for path in ["/api/v1/events/batch/", "/api/v1//events/batch?id_field=a"] {
        let answer = service.request("POST", path, &json, "[{\"a\":1}]").await;
        assert_eq!((answer.status.as_u16(), &answer.json()["accepted"]), (202, &1.into()), "{path}");
    }
    let answer = service.get("/api/v1/events/").await;
    assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, "POST"));
    for path in ["/api/v1/events/batch/x/", "/api/v1/", "/api/health//x"] {
        assert_eq!(service.request("POST", path, &json, "{}").await.status.as_u16(), 404, "{path}");
    }
    assert_eq!(service.settled().await["accepted"], 6);
}

#[tokio::test]
async fn an_event_over_the_limit_is_refused_and_one_at_the_limit_is_not() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("MAX_EVENT_BYTES", "1000")]).await;
    assert_eq!(service.post(&[], "1".repeat(1000)).await.status.as_u16(), 202);
    let answer = service.post(&[], "1".repeat(1001)).await;
    assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (413, "too_large"));
    // Without a length in front, and far more than a socket's buffers hold.
    let chunk = format!("{:x}\r\n{}\r\n", 65_536, "1".repeat(65_536)).repeat(200);
    let head = "POST /api/v1/events HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer = service
        .raw((head.to_owned() + &chunk + "0\r\n\r\n").as_bytes(), std::time::Duration::from_secs(1))
        .await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn a_compressed_event_is_stored_decompressed() {
    use std::io::Write;
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(br#"{"zipped":true}"#).unwrap();
    let answer =
        service.post(&[("content-encoding", "gzip"), ("x-trace-id", "z")], gzip.finish().unwrap()).await;
    assert_eq!(answer.status.as_u16(), 202);
    let answer = service.post(&[("content-encoding", "gzip")], "not gzip").await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["error"]["field"].clone()),
        (400, json!("content-encoding"))
    );
    assert_eq!(service.post(&[("content-encoding", "compress")], "x").await.status.as_u16(), 415);
    service.settled().await;
    let row = database
        .connect()
        .await
        .query_one("select payload from requests where trace_id = 'z'", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, Value>(0), json!({"zipped": true}));
}

#[tokio::test]
async fn a_full_queue_answers_503_with_retry_after_and_keeps_the_event_as_a_dead_letter() {
    let database = TestDatabase::create().await;
    let settings = [
        ("DURABILITY", "memory"),
        ("MAX_QUEUE_SIZE", "3"),
        ("ADMIT_WAIT_MS", "20"),
        ("MAX_DEAD_QUEUE_SIZE", "2"),
        ("STATEMENT_TIMEOUT_MS", "300000"),
    ];
    let service = Service::start(database.url(), &settings).await;
    // While somebody holds the table, nothing is stored.
    let mut holder = database.connect().await;
    let hold = holder.transaction().await.unwrap();
    hold.batch_execute("lock table requests, dead_letters in access exclusive mode").await.unwrap();
    for _ in 0..3 {
        assert_eq!(service.post(&[], "1").await.status.as_u16(), 202);
    }
    assert_eq!(service.get("/health/ready").await.status.as_u16(), 503);
    for trace_id in ["over-1", "over-2", "over-3"] {
        let answer = service.post(&[("x-trace-id", trace_id)], r#"{"kept":1}"#).await;
        assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (503, "overloaded"));
        assert!((1..=38).contains(&answer.header("retry-after").parse::<u32>().unwrap()));
    }
    hold.commit().await.unwrap();
    let health = service.settled().await;
    assert_eq!((&health["accepted"], &health["committed"]), (&json!(3), &json!(3)));
    let rows = holder
        .query("select trace_id, payload, reason, attempts from dead_letters order by trace_id", &[])
        .await
        .unwrap();
    let kept: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(kept, ["over-1", "over-2"], "the third did not fit, and is counted");
    assert_eq!(
        (rows[0].get::<_, Value>(1), rows[0].get::<_, &str>(2), rows[0].get::<_, i32>(3)),
        (json!({"kept": 1}), "overload", 0)
    );
    let metrics = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
    for line in [
        "tidegate_dead_letters_dropped_total{reason=\"overload\"} 1",
        "tidegate_dead_letters_total{reason=\"overload\"} 2",
        "tidegate_events_refused_total{reason=\"overload\"} 3",
        "tidegate_http_requests_total{route=\"/api/v1/events\",status=\"503\"} 3",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}

#[tokio::test]
async fn dead_letters_are_stored_each_flush_interval_and_at_a_stop() {
    let database = TestDatabase::create().await;
    let settings = [
        ("DURABILITY", "memory"),
        ("MAX_QUEUE_SIZE", "1"),
        ("ADMIT_WAIT_MS", "0"),
        ("DEAD_FLUSH_INTERVAL_MS", "60000"),
    ];
    let service = Service::start(database.url(), &settings).await;
    let mut holder = database.connect().await;
    let hold = holder.transaction().await.unwrap();
    hold.batch_execute("lock table requests in access exclusive mode").await.unwrap();
    assert_eq!(service.post(&[], "1").await.status.as_u16(), 202);
    assert_eq!(service.post(&[], "2").await.status.as_u16(), 503);
    hold.commit().await.unwrap();
    let letters = "select count(*) from dead_letters";
    // Four times the default: it is the time of the interval that is tested.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(holder.query_one(letters, &[]).await.unwrap().get::<_, i64>(0), 0, "its time has not come");
    assert!(service.stop().await.status.success());
    assert_eq!(holder.query_one(letters, &[]).await.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test]
async fn an_event_that_finds_the_queue_full_is_taken_when_room_comes_in_time() {
    let database = TestDatabase::create().await;
    let settings = [
        ("DURABILITY", "memory"),
        ("MAX_QUEUE_SIZE", "1"),
        ("ADMIT_WAIT_MS", "30000"),
        ("STATEMENT_TIMEOUT_MS", "300000"),
    ];
    let service = Service::start(database.url(), &settings).await;
    let mut holder = database.connect().await;
    let hold = holder.transaction().await.unwrap();
    hold.batch_execute("lock table requests in access exclusive mode").await.unwrap();
    assert_eq!(service.post(&[], "1").await.status.as_u16(), 202);
    let waiting = service.post(&[], "2");
    tokio::pin!(waiting);
    let early = tokio::time::timeout(std::time::Duration::from_millis(300), &mut waiting).await;
    assert!(early.is_err(), "it waits");
    hold.commit().await.unwrap();
    assert_eq!(waiting.await.status.as_u16(), 202);
    assert_eq!(service.settled().await["committed"], 2);
}

/// JSON documents that go to the limits of what jsonb takes, beside texts that are nearly JSON.
fn json_text() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?",
        (0i64..300_000, any::<bool>(), "0|1|0\\.0|0\\.001|12\\.50|9{1,4}").prop_map(
            |(exponent, negative, mantissa)| {
                format!("{mantissa}e{}{exponent}", if negative { "-" } else { "" })
            }
        ),
        (130_900i64..131_200).prop_map(|exponent| format!("1e{exponent}")),
        (16_300i64..16_500).prop_map(|exponent| format!("1e-{exponent}")),
        (16_300usize..16_500, 0i64..60)
            .prop_map(|(digits, exponent)| format!("0.{}1e{exponent}", "0".repeat(digits))),
        (130_900usize..131_200, -50i64..50)
            .prop_map(|(digits, exponent)| format!("{}e{exponent}", "7".repeat(digits))),
        Just("1e1073741823".to_owned()),
        Just("0e1073741823".to_owned()),
        Just("0e1073741822".to_owned()),
        Just("0e99999999999999999999".to_owned()),
        Just("1e-1073741823".to_owned()),
    ];
    let string = prop_oneof![
        ".{0,10}".prop_map(|text| serde_json::to_string(&text).unwrap()),
        "(\\\\u(0000|0001|00e9|d83d|de00|D800|DFFF|dbff|dc00|ffff)|\\\\n|a|é){0,4}"
            .prop_map(|text| format!("\"{text}\"")),
    ];
    let leaf = prop_oneof![number, string, "true|false|null", "[ -~]{0,3}"];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec(("\"[a-b]?\"|\"\\\\u0000\"|\"\\\\udead\"", inner), 0..4).prop_map(
                |members| {
                    let members: Vec<String> =
                        members.into_iter().map(|(key, value)| format!("{key} : {value}")).collect();
                    format!("{{{}}}", members.join(" , "))
                }
            ),
        ]
    })
}

#[test]
fn what_is_called_jsonb_is_what_postgres_casts_to_jsonb_and_takes_what_was_measured() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let database = runtime.block_on(TestDatabase::create());
    let client = runtime.block_on(database.connect());
    let cast = |text: &str| {
        // A NUL never gets as far as a cast: the protocol's text has none.
        if text.contains('\0') {
            return None;
        }
        let row = runtime.block_on(client.query_one("select ($1::text)::jsonb::text", &[&text])).ok()?;
        Some(row.get::<_, String>(0))
    };
    let agrees = |text: &str| {
        let verdict = classify(text.as_bytes(), 1000);
        let stored = cast(text);
        let is_measured = stored.as_ref().is_none_or(|stored| {
            let (sent, stored) = (measure(text.as_bytes(), 1000), measure(stored.as_bytes(), 1000));
            // Text may be stored in fewer bytes than it was sent in; all else takes what was measured.
            let is_exact = !text.contains('"');
            sent.0 == verdict && (sent.1 == stored.1 || (!is_exact && sent.1 > stored.1))
        });
        (verdict, (verdict == JsonKind::Jsonb) == stored.is_some() && is_measured)
    };
    let mut runner = TestRunner::new(Config { cases: 3000, failure_persistence: None, ..Config::default() });
    runner
        .run(&json_text(), |text| {
            let (verdict, agree) = agrees(&text);
            prop_assert!(agree, "{verdict:?}: {text}");
            Ok(())
        })
        .unwrap();
    let deepest = "[".repeat(1000) + &"]".repeat(1000);
    assert_eq!(agrees(&deepest), (JsonKind::Jsonb, true));
    let deepest = "{\"a\":".repeat(1000) + "1" + &"}".repeat(1000);
    assert_eq!(agrees(&deepest), (JsonKind::Jsonb, true));
}

#[tokio::test]
async fn events_of_many_connections_are_all_stored_once() {
    let database = TestDatabase::create().await;
    let service =
        Service::start(database.url(), &[("HTTP_THREADS", "3"), ("WRITERS", "3"), ("BATCH_SIZE", "7")]).await;
    let posts = (0..300).map(|index| {
        let service = &service;
        async move {
            let trace_id = format!("many-{index}");
            assert_eq!(service.post(&[("x-trace-id", &trace_id)], "{}").await.status.as_u16(), 202);
        }
    });
    futures_util::future::join_all(posts).await;
    service.settled().await;
    let client = database.connect().await;
    eventually("all are there", async || {
        let row = client
            .query_one("select count(*), count(distinct trace_id), count(distinct id) from requests", &[])
            .await
            .unwrap();
        ((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)) == (300, 300, 300)).then_some(())
    })
    .await;
}
