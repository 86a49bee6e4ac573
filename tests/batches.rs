//! `POST /api/v1/events/batch`.

use std::io::Write;
use std::time::Duration;

use async_compression::tokio::write::{BrotliEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::postgres::TestDatabase;
use crate::support::service::Service;

const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");
const ARRAY: (&str, &str) = ("content-type", "application/json");

async fn rows(database: &TestDatabase) -> Vec<(String, Option<Value>, Option<Vec<u8>>)> {
    let rows = database
        .connect()
        .await
        .query("select trace_id, payload, body from requests order by id", &[])
        .await
        .unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

#[tokio::test]
async fn one_bad_line_never_costs_its_neighbours() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("MAX_EVENT_BYTES", "100")]).await;
    let long = format!("\"{}\"", "x".repeat(99));
    let body = format!("{{\"n\":0}}\nnot json\r\n\n  {{\"n\":3}}  \r\n{long}\n[\"\\u0000\"]\n{{\"n\":6}}");
    let answer = service.post_batch(&[NDJSON, ("x-trace-id", "T")], body).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("x-trace-id"), answer.header("x-ack")),
        (202, "T", "journaled")
    );
    assert_eq!(
        answer.json(),
        json!({"accepted": 4, "rejected": [
            {"index": 1, "code": "invalid_json", "message": "not JSON from byte 0 on"},
            {"index": 4, "code": "too_large", "message": "larger than 100 bytes (MAX_EVENT_BYTES)"},
        ]})
    );
    service.settled().await;
    let stored = rows(&database).await;
    assert_eq!(stored.iter().map(|row| row.0.as_str()).collect::<Vec<_>>(), ["T-0", "T-3", "T-5", "T-6"]);
    assert_eq!(stored[1].1, Some(json!({"n": 3})));
    assert_eq!(
        (&stored[2].1, stored[2].2.as_deref()),
        (&None, Some(&br#"["\u0000"]"#[..])),
        "jsonb refuses it"
    );
}

#[tokio::test]
async fn an_array_is_a_batch_too() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let answer = service.post_batch(&[ARRAY], r#" [ {"n":0}, oops, [1,{"a":"],["}] , 3,] "#).await;
    let trace_id = answer.header("x-trace-id").to_owned();
    assert_eq!((answer.status.as_u16(), trace_id.len()), (202, 36));
    let rejected: Vec<u64> = answer.json()["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["index"].as_u64().unwrap())
        .collect();
    assert_eq!((&answer.json()["accepted"], rejected), (&json!(3), vec![1, 4]));
    service.settled().await;
    let stored: Vec<_> =
        rows(&database).await.into_iter().map(|(trace, payload, _)| (trace, payload.unwrap())).collect();
    let wanted = [(0, json!({"n": 0})), (2, json!([1, {"a": "],["}])), (3, json!(3))];
    assert_eq!(stored, wanted.map(|(index, payload)| (format!("{trace_id}-{index}"), payload)));
    for broken in ["", "[1", "[1]]", "1", "nonsense"] {
        let answer = service.post_batch(&[ARRAY], broken).await;
        assert_eq!(
            (answer.status.as_u16(), answer.error_code().as_str()),
            (400, "invalid_request"),
            "{broken:?}"
        );
    }
    assert_eq!(service.post_batch(&[ARRAY], "[]").await.json(), json!({"accepted": 0, "rejected": []}));
    assert_eq!(service.post_batch(&[NDJSON], "").await.json(), json!({"accepted": 0, "rejected": []}));
    assert_eq!(service.settled().await["accepted"], 3);
}

async fn compressed(encoding: &str, body: &[u8]) -> Vec<u8> {
    macro_rules! by {
        ($encoder:ty) => {{
            let mut encoder = <$encoder>::new(Vec::new());
            encoder.write_all(body).await.unwrap();
            encoder.shutdown().await.unwrap();
            encoder.into_inner()
        }};
    }
    match encoding {
        "gzip" => by!(GzipEncoder<Vec<u8>>),
        "deflate" => by!(ZlibEncoder<Vec<u8>>),
        "zstd" => by!(ZstdEncoder<Vec<u8>>),
        "br" => by!(BrotliEncoder<Vec<u8>>),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn every_encoding_is_understood_and_a_broken_one_refused_whole() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let body: String = (0..5000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    for encoding in ["gzip", "deflate", "zstd", "br"] {
        let sent = compressed(encoding, body.as_bytes()).await;
        let headers = [NDJSON, ("content-encoding", encoding), ("x-trace-id", encoding)];
        let answer = service.post_batch(&headers, sent.clone()).await;
        assert_eq!(answer.json(), json!({"accepted": 5000, "rejected": []}), "{encoding}");
        for broken in [&sent[..sent.len() / 2], b"\x1f\x8bnonsense", b"{\"n\":1}"] {
            let answer = service.post_batch(&headers, broken.to_vec()).await;
            assert_eq!(
                (answer.status.as_u16(), answer.json()["error"]["field"].as_str()),
                (400, Some("content-encoding")),
                "{encoding}"
            );
        }
    }
    let health = service.settled().await;
    assert_eq!((&health["accepted"], &health["committed"]), (&json!(20_000), &json!(20_000)));
    let row = database
        .connect()
        .await
        .query_one("select count(*), count(distinct (trace_id, payload)) from requests", &[])
        .await
        .unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (20_000, 20_000));
}

#[tokio::test]
async fn a_bomb_is_refused_at_the_limit_and_costs_bounded_memory() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let line = vec![b' '; 1 << 20];
    // 1 GiB of white space in about 1 MiB.
    for _ in 0..1024 {
        gzip.write_all(&line).unwrap();
    }
    let bomb = gzip.finish().unwrap();
    let before = service.resident_bytes();
    for _ in 0..3 {
        let answer = service.post_batch(&[NDJSON, ("content-encoding", "gzip")], bomb.clone()).await;
        assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (413, "too_large"));
    }
    let answer = service.post(&[("content-encoding", "gzip")], bomb[..900_000].to_vec()).await;
    assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (413, "too_large"));
    let grown = service.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "grew by {grown} bytes");
    // zstd may ask for windows of gigabytes; such a frame is refused before it is given one.
    let mut huge_window = compressed("zstd", b"{}").await;
    huge_window.splice(4..6, [0x00, 0xA0]);
    let answer = service.post_batch(&[NDJSON, ("content-encoding", "zstd")], huge_window).await;
    assert_eq!(answer.status.as_u16(), 400);
    assert_eq!(service.health().await["http"]["body_bytes"], 0, "all shares are given back");
}

#[tokio::test]
async fn an_endless_line_costs_bounded_memory_and_only_itself() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("DURABILITY", "memory")]).await;
    let before = service.resident_bytes();
    let body = "1\n".to_owned() + &"x".repeat(30 << 20) + "\n2";
    let answer = service.post_batch(&[NDJSON], body).await;
    assert_eq!(
        (&answer.json()["accepted"], &answer.json()["rejected"][0]["code"]),
        (&json!(2), &json!("too_large"))
    );
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, "y".repeat(1 << 20)).repeat(40);
    let head = "POST /api/v1/events/batch HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer = service.raw((head.to_owned() + &chunk).as_bytes(), Duration::from_secs(5)).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let grown = service.resident_bytes().saturating_sub(before);
    assert!(grown < 24 << 20, "grew by {grown} bytes");
}

#[tokio::test]
async fn a_batch_is_admitted_whole_or_refused_whole() {
    let database = TestDatabase::create().await;
    let settings = [
        ("DURABILITY", "memory"),
        ("MAX_QUEUE_SIZE", "10"),
        ("ADMIT_WAIT_MS", "20"),
        ("STATEMENT_TIMEOUT_MS", "300000"),
    ];
    let service = Service::start(database.url(), &settings).await;
    let mut holder = database.connect().await;
    let hold = holder.transaction().await.unwrap();
    hold.batch_execute("lock table requests in access exclusive mode").await.unwrap();
    assert_eq!(service.post_batch(&[NDJSON], "1\n2\n3\n4\n5\n6\n").await.status.as_u16(), 202);
    let answer = service.post_batch(&[NDJSON], "1\n2\n3\n4\n5\n").await;
    assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (503, "overloaded"));
    assert!(!answer.header("retry-after").is_empty());
    assert_eq!(service.post_batch(&[NDJSON], "1\n2\n3\n4\n").await.status.as_u16(), 202);
    hold.commit().await.unwrap();
    assert_eq!(service.settled().await["committed"], 10);
    let metrics = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("tidegate_events_refused_total{reason=\"overload\"} 5"), "{metrics}");
    let kept: i64 = holder.query_one("select count(*) from dead_letters", &[]).await.unwrap().get(0);
    assert_eq!(kept, 0, "a refused batch is counted and not kept");
    // More than the queue can ever hold is not worth a second try.
    let answer = service.post_batch(&[NDJSON], "1\n".repeat(11)).await;
    assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (413, "too_large"));
}

#[tokio::test]
async fn a_trace_id_too_long_for_its_index_is_refused_by_the_line() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let trace_id = "t".repeat(126);
    let answer = service.post_batch(&[NDJSON, ("x-trace-id", &trace_id)], "1\n".repeat(11)).await;
    assert_eq!(answer.json()["accepted"], 10);
    assert_eq!(answer.json()["rejected"][0]["code"], "invalid_id");
}

#[tokio::test]
async fn a_media_type_that_is_no_batch_is_refused() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    for headers in [&[][..], &[("content-type", "text/html")]] {
        let answer = service.post_batch(headers, "1").await;
        assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (415, "unsupported_media_type"));
    }
    let parameters = [("content-type", "Application/X-NDJSON; charset=utf-8")];
    assert_eq!(service.post_batch(&parameters, "1").await.status.as_u16(), 202);
}

#[tokio::test]
async fn real_payloads_come_back_as_they_were_sent() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/events.ndjson");
    let body = std::fs::read_to_string(file).unwrap();
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let lines: Vec<&str> = body.lines().collect();
    assert_eq!(
        service.post_batch(&[NDJSON], body.clone()).await.json(),
        json!({"accepted": lines.len(), "rejected": []})
    );
    service.settled().await;
    for ((_, payload, _), line) in rows(&database).await.iter().zip(&lines) {
        assert_eq!(payload.as_ref().unwrap(), &serde_json::from_str::<Value>(line).unwrap());
    }
}

#[tokio::test]
async fn bytes_behind_the_end_of_compressed_data_are_refused() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    for encoding in ["deflate", "br"] {
        let mut sent = compressed(encoding, b"{}\n").await;
        sent.extend_from_slice(b"{\"smuggled\":1}\n");
        let answer = service.post_batch(&[NDJSON, ("content-encoding", encoding)], sent).await;
        assert_eq!(
            (answer.status.as_u16(), answer.error_code().as_str()),
            (400, "invalid_request"),
            "{encoding}"
        );
    }
}
