//! Real clients' byte-order marks, charsets and encodings, and ambiguous requests.

use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};
use serde_json::json;

use crate::support::files::store;
use crate::support::imports::{NDJSON, PROCESS, count, ended, figures, progress, small_parts};
use crate::support::postgres::TestDatabase;
use crate::support::service::{Answer, Service, eventually};

const JSON: (&str, &str) = ("content-type", "application/json");
const MARK: &str = "\u{feff}";
const PATIENCE: Duration = Duration::from_secs(20);

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn utf_16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// The stored payloads as text, in order of arrival; `None`: kept in `body`.
async fn payloads(service: &Service, database: &TestDatabase) -> Vec<Option<String>> {
    service.settled().await;
    let client = database.connect().await;
    let rows = client.query("select payload::text from requests order by id", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

fn texts(payloads: &[Option<String>]) -> Vec<&str> {
    payloads.iter().map(|payload| payload.as_deref().unwrap_or("-")).collect()
}

#[tokio::test]
async fn a_byte_order_mark_before_json_is_skipped_wherever_json_is_accepted() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("MODULES", "all")]).await;
    assert_eq!(service.post(&[JSON], format!("{MARK}{{\"n\":0}}")).await.status.as_u16(), 202);
    assert_eq!(service.post(&[JSON], format!("{MARK}text")).await.status.as_u16(), 202);
    for (kind, body) in
        [(NDJSON, "{\"n\":1}\n[2]"), (JSON, "[{\"n\":1},[2]]"), (JSON, "\r\n{\"n\":1}\n[2]\n")]
    {
        let answer = service.post_batch(&[kind], format!("{MARK}{body}")).await;
        assert_eq!(answer.json(), json!({"accepted": 2, "rejected": []}), "{body}");
    }
    let stored = payloads(&service, &database).await;
    let batch = ["{\"n\": 1}", "[2]"];
    assert_eq!(texts(&stored), [&["{\"n\": 0}", "-"], &batch[..], &batch, &batch].concat());
    let client = database.connect().await;
    let row = client.query_one("select body from requests where body is not null", &[]).await.unwrap();
    assert_eq!(
        row.get::<_, &[u8]>(0),
        format!("{MARK}text").as_bytes(),
        "what is no JSON is kept as it came"
    );

    let records = "/api/stress/records/things";
    let made = service.request("POST", records, &[JSON], format!("{MARK}{{\"a\":1}}")).await;
    assert_eq!((made.status.as_u16(), &made.json()["a"]), (201, &json!(1)));
    let large = "/api/stress/large-payload/things";
    assert_eq!(service.request("POST", large, &[JSON], format!("{MARK}{{}}")).await.status.as_u16(), 201);
    let conversation = service.request("POST", "/api/conversations", &[JSON], format!("{MARK}{{}}")).await;
    let messages = format!("/api/conversations/{}/messages", conversation.json()["id"].as_str().unwrap());
    let said = format!("{MARK}[{{\"role\":\"user\",\"content\":\"{MARK}hi\"}}]");
    let said = service.request("POST", &messages, &[JSON], said).await;
    assert_eq!((said.status.as_u16(), &said.json()[0]["content"]), (201, &json!(format!("{MARK}hi"))));
    let none = json!({"receipts": [], "trace_ids": []});
    let asked = service.request("POST", "/api/v1/reconcile", &[JSON], format!("{MARK}{none}")).await;
    assert_eq!(asked.status.as_u16(), 200);

    // In a concatenation of two files the second has one, too.
    let lines = format!("{MARK}{{\"n\":3}}\n{MARK}\n{MARK}{{\"n\":4}}\n");
    let answer = service.request("POST", &format!("{PROCESS}?kind=event"), &[NDJSON], lines).await;
    let file = answer.json()["file_id"].as_str().unwrap().to_owned();
    assert_eq!(figures(&ended(&service, "", &file).await), (3, 2, 0));
    let named = format!("{MARK}{{\"file_id\":\"{file}\"}}");
    let again = service.request("POST", PROCESS, &[JSON], named).await;
    assert_eq!(again.error_code(), "processed");
}

#[tokio::test]
async fn utf_8_charsets_are_accepted_and_utf_16_stores_nothing() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("MODULES", "all")]).await;
    let routes = [
        ("/api/v1/events/batch", "application/x-ndjson"),
        ("/api/v1/events/batch", "application/json"),
        ("/api/stress/records/things", "application/json"),
        ("/api/stress/large-payload/things", "application/json"),
        ("/api/conversations", "application/json"),
        (PROCESS, "application/x-ndjson"),
    ];
    let post = async |path: &str, declared: String, body: Vec<u8>| -> Answer {
        let path = if path == PROCESS { format!("{PROCESS}?kind=event") } else { path.to_owned() };
        service.request("POST", &path, &[("content-type", declared.as_str())], body).await
    };
    for (path, declared) in routes {
        for charset in ["utf8", "UTF-8", "\"utf_8\"", "us-ascii", "ANSI_X3.4-1968"] {
            let answer = post(path, format!("{declared}; charset={charset}"), b"{}".to_vec()).await;
            assert!(answer.status.is_success(), "{path} {charset}: {answer:?}");
        }
    }
    let files = async || service.get("/api/files?limit=1000").await.json().as_array().unwrap().len();
    let stored = files().await;
    // Two batches and an import in five charsets each. Imports are answered before their lines are stored.
    let before = 15;
    eventually("all lines are stored", async || {
        (payloads(&service, &database).await.len() == before).then_some(())
    })
    .await;
    for (path, declared) in routes {
        for charset in ["utf-16", "UTF-16LE", "iso-8859-1", "shift_jis"] {
            let answer = post(path, format!("{declared}; charset={charset}"), b"{}".to_vec()).await;
            assert_eq!(
                (answer.status.as_u16(), &answer.json()["error"]["field"]),
                (415, &json!("content-type"))
            );
        }
        for body in [utf_16("{}\n{}"), utf_16("\u{feff}{}"), b"\xfe\xff\0{\0}".to_vec()] {
            let answer = post(path, declared.to_owned(), body).await;
            assert_eq!(
                (answer.status.as_u16(), answer.error_code().as_str()),
                (415, "unsupported_media_type")
            );
        }
    }
    assert_eq!(payloads(&service, &database).await.len(), before);
    assert_eq!(files().await, stored);
    // A single event may be any bytes of any type.
    let event = service.post(&[("content-type", "application/json; charset=utf-16")], utf_16("{}")).await;
    assert_eq!(event.status.as_u16(), 202);
}

#[tokio::test]
async fn lines_declared_as_json_are_events() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let body = "{}\n{\"a\":\n  [1,\n2]}\n\nnope\n{\"b\":2}";
    let answer = service.post_batch(&[JSON, ("x-trace-id", "t")], body).await;
    let rejected = json!([{"index": 3, "code": "invalid_json", "message": "not JSON from byte 0 on"}]);
    assert_eq!(answer.json(), json!({"accepted": 3, "rejected": rejected}));
    assert_eq!(service.post_batch(&[JSON], "{}").await.json()["accepted"], 1);
    let stored = payloads(&service, &database).await;
    assert_eq!(texts(&stored), ["{}", "{\"a\": [1, 2]}", "{\"b\": 2}", "{}"]);
}

#[tokio::test]
async fn encodings_are_accepted_in_clients_spellings() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let body = "{\"n\":1}\n{\"n\":2}\n";
    let mut raw = DeflateEncoder::new(Vec::new(), Compression::default());
    raw.write_all(body.as_bytes()).unwrap();
    let raw = raw.finish().unwrap();
    let mut stored = DeflateEncoder::new(Vec::new(), Compression::none());
    stored.write_all(body.as_bytes()).unwrap();
    let stored = stored.finish().unwrap();
    let zipped = gzip(body.as_bytes());
    let [first, second] = ["{\"n\":1}\n", "{\"n\":2}\n"].map(|line| gzip(line.as_bytes()));
    for (encoding, sent) in [
        ("deflate", raw.clone()),
        ("deflate", stored),
        ("gzip", [&zipped[..], &[0; 1]].concat()),
        ("gzip", [&zipped[..], &[0; 200_000]].concat()),
        ("gzip", [&first[..], &second].concat()),
        ("gzip", [&first[..], &[0; 7], &second, &gzip(b"")].concat()),
    ] {
        let answer = service.post_batch(&[NDJSON, ("content-encoding", encoding)], sent).await;
        assert_eq!(answer.json(), json!({"accepted": 2, "rejected": []}), "{encoding}");
    }
    for encoding in ["gzip", "deflate", "zstd", "br"] {
        let answer = service.post_batch(&[NDJSON, ("content-encoding", encoding)], "").await;
        assert_eq!(answer.json(), json!({"accepted": 0, "rejected": []}), "{encoding}");
        assert_eq!(
            service.post(&[("content-encoding", encoding)], "").await.status.as_u16(),
            202,
            "{encoding}"
        );
    }
    assert_eq!(service.post(&[("content-encoding", "gzip")], gzip(b"")).await.status.as_u16(), 202);
    // Each gzip member costs a decoder, even if it is empty.
    let members = gzip(b"").repeat(4_200);
    let refused = service.post(&[("content-encoding", "gzip")], members).await;
    assert_eq!((refused.status.as_u16(), refused.error_code().as_str()), (413, "too_large"));
    for (encoding, sent) in [
        ("deflate", [&raw[..], b"x"].concat()),
        ("deflate", raw[..raw.len() - 1].to_vec()),
        ("gzip", [&zipped[..], b"\0x"].concat()),
        ("gzip", [&zipped[..], b"\x1f\x8bnot"].concat()),
        ("zstd", [&zstd::encode_all(body.as_bytes(), 3).unwrap()[..], b"\0"].concat()),
    ] {
        let answer = service.post_batch(&[NDJSON, ("content-encoding", encoding)], sent).await;
        assert_eq!(
            (answer.status.as_u16(), answer.error_code().as_str()),
            (400, "invalid_request"),
            "{encoding}"
        );
    }
    assert_eq!(payloads(&service, &database).await.len(), 12 + 5);
}

#[tokio::test]
async fn compressed_lines_are_imported_and_invalid_bytes_are_not() {
    let database = TestDatabase::create().await;
    small_parts(&database.connect().await, 4096).await;
    let settings = [("MAX_FILE_BYTES", "1048576")];
    let service = Service::start(database.url(), &settings).await;
    let lines: String = (0..5_000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let zst = zstd::encode_all(lines.as_bytes(), 3).unwrap();
    let gz = [&gzip(lines.as_bytes())[..], &[0; 100]].concat();
    let process = format!("{PROCESS}?kind=event");
    for (name, bytes) in [("events.jsonl.gz", &gz), ("events.jsonl.zst", &zst)] {
        let file = store(&service, "", name, bytes).await["id"].as_str().unwrap().to_owned();
        let answer = service.request("POST", &process, &[JSON], json!({"file_id": file}).to_string()).await;
        assert_eq!(answer.status.as_u16(), 202, "{answer:?}");
        let progress = ended(&service, "", &file).await;
        assert_eq!((&progress["state"], figures(&progress)), (&json!("done"), (5_000, 5_000, 0)), "{name}");
        assert_eq!(progress["bytes"], progress["total_bytes"]);
    }
    for (encoding, bytes) in [("gzip", gzip(lines.as_bytes())), ("zstd", zst.clone())] {
        let headers = [NDJSON, ("content-encoding", encoding)];
        let answer = service.request("POST", &process, &headers, bytes).await;
        let file = answer.json()["file_id"].as_str().unwrap().to_owned();
        let progress = ended(&service, "", &file).await;
        assert_eq!((figures(&progress), &progress["total_bytes"]), ((5_000, 5_000, 0), &json!(lines.len())));
    }
    let client = database.connect().await;
    let distinct = "(select payload from requests group by payload having count(*) = 4) as each";
    assert_eq!((count(&client, "requests").await, count(&client, distinct).await), (20_000, 5_000));

    let noise: Vec<u8> = (0..4_000).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let nested = gzip(&gzip(lines.as_bytes()));
    let cut = &gz[..gz.len() / 2];
    let bomb = gzip(&b"1\n".repeat(600_000));
    let archive = [b"PK\x03\x04\x14\0\0\0\x08\0", &noise[..]].concat();
    let files = [
        ("a.zip", &archive[..], 415),
        ("a.gz", &nested, 415),
        ("utf16.jsonl", &utf_16(&lines), 415),
        ("cut.gz", cut, 202),
        ("bomb.gz", &bomb, 202),
    ];
    for (name, bytes, status) in files {
        let file = store(&service, "", name, bytes).await["id"].as_str().unwrap().to_owned();
        let answer = service.request("POST", &process, &[JSON], json!({"file_id": file}).to_string()).await;
        assert_eq!(answer.status.as_u16(), status, "{name}: {answer:?}");
        if status == 202 {
            let progress = ended(&service, "", &file).await;
            assert_eq!((&progress["state"], figures(&progress)), (&json!("failed"), (0, 0, 0)), "{name}");
            assert!(progress["error"].as_str().unwrap().contains("decompressed"), "{progress}");
        } else {
            assert_eq!(progress(&service, "", &file).await["error"]["code"], "not_processed");
        }
    }
    // A client without the header, and one whose lines expand beyond a file's limit.
    let forgot = service.request("POST", &process, &[NDJSON], gzip(lines.as_bytes())).await;
    assert_eq!(forgot.status.as_u16(), 415);
    let expands =
        service.request("POST", &process, &[NDJSON, ("content-encoding", "gzip")], bomb.clone()).await;
    assert_eq!(expands.status.as_u16(), 413);
    assert_eq!(count(&client, "requests").await, 20_000);
}

#[tokio::test]
async fn expanding_numbers_are_kept_as_bytes_or_refused_so_that_every_row_is_readable() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[("MODULES", "all")]).await;
    let number = "1e131071";
    let numbers = vec![number; 8_200].join(",");
    let small = "1e-16383";
    let fractions = vec![small; 8_200].join(",");
    let documents = [format!("{{\"n\":[{numbers}]}}"), format!("{{\"n\":[{fractions}]}}")];
    for document in &documents {
        assert!(document.len() < 75_000);
        assert_eq!(service.post(&[JSON], document.clone()).await.status.as_u16(), 202);
        let answer = service.post_batch(&[NDJSON], format!("{document}\n{{\"n\":{number}}}")).await;
        assert_eq!(answer.json()["accepted"], 2);
        let lines = format!("{document}\n{{\"n\":{number}}}\n");
        let answer = service.request("POST", &format!("{PROCESS}?kind=event"), &[NDJSON], lines).await;
        let file = answer.json()["file_id"].as_str().unwrap().to_owned();
        assert_eq!(figures(&ended(&service, "", &file).await), (2, 2, 0));
    }
    service.settled().await;
    let client = database.connect().await;
    assert_eq!(count(&client, "requests where body is not null and payload is null").await, 6);
    assert_eq!(count(&client, "requests where length(payload::text) > 131072").await, 4);

    // A dead letter may be edited before its redrive.
    let edited = "insert into dead_letters (id, trace_id, body, content_type, received_at, error, reason, attempts, failed_at)
        select id, trace_id || '-again', body, content_type, received_at, 'x', 'overload', 1, now() from requests where body is not null limit 1";
    client.execute(edited, &[]).await.unwrap();
    let redriven =
        service.request("POST", "/api/v1/dead-letters/redrive", &[JSON], "{\"reason\":\"overload\"}").await;
    assert_eq!(redriven.json()["redriven"], 1, "{redriven:?}");
    assert_eq!(count(&client, "requests where body is not null and payload is null").await, 7);

    for document in &documents {
        for path in ["/api/stress/records/things", "/api/conversations"] {
            let body = match path {
                "/api/conversations" => format!("{{\"metadata\":{document}}}"),
                _ => document.clone(),
            };
            let answer = service.request("POST", path, &[JSON], body).await;
            assert_eq!((answer.status.as_u16(), answer.error_code().as_str()), (413, "too_large"), "{path}");
        }
        let made = service.request("POST", "/api/conversations", &[JSON], "{}").await.json();
        let conversation = format!("/api/conversations/{}", made["id"].as_str().unwrap());
        let changed =
            service.request("PATCH", &conversation, &[JSON], format!("{{\"metadata\":{document}}}")).await;
        assert_eq!(changed.status.as_u16(), 413);
        let message = format!("{{\"role\":\"user\",\"content\":\"a\",\"metadata\":{document}}}");
        let said = service.request("POST", &format!("{conversation}/messages"), &[JSON], message).await;
        assert_eq!(said.status.as_u16(), 413);
        let record = service.request("POST", "/api/stress/records/things", &[JSON], "{}").await.json();
        let record = format!("/api/stress/records/things/{}", record["id"].as_str().unwrap());
        assert_eq!(service.request("PATCH", &record, &[JSON], document.clone()).await.status.as_u16(), 413);
        let lines = json!({"kind": "conversation", "metadata": 0}).to_string();
        let lines = lines.replace(":0", &format!(":{document}"));
        let answer = service.request("POST", PROCESS, &[NDJSON], lines).await;
        let file = answer.json()["file_id"].as_str().unwrap().to_owned();
        assert_eq!(figures(&ended(&service, "", &file).await), (1, 0, 1));
    }
}

#[tokio::test]
async fn ambiguous_requests_are_refused_and_close_the_connection() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    let post = "POST /api/v1/events HTTP/1.1\r\n";
    let next = "POST /api/v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}";
    let chunk = "2\r\n{}\r\n0\r\n\r\n";
    for (head, body, status) in [
        ("host: localhost\r\ntransfer-encoding: gzip, chunked\r\n", chunk, "501"),
        ("host: localhost\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n", chunk, "501"),
        ("host: localhost\r\ntransfer-encoding: chunked, chunked\r\n", chunk, "501"),
        ("host: localhost\r\ntransfer-encoding: chunked, identity\r\n", chunk, "400"),
        ("host: localhost\r\ntransfer-encoding: identity\r\n", chunk, "400"),
        ("host: localhost\r\ntransfer-encoding: xchunked\r\n", chunk, "400"),
        ("host: localhost\r\nX: a\r\n\ttransfer-encoding: chunked\r\n", chunk, "400"),
        ("host: localhost\r\ntransfer-encoding : chunked\r\n", chunk, "400"),
        ("content-length: 2\r\n", "{}", "400"),
        ("host: localhost\r\nhost: localhost\r\ncontent-length: 2\r\n", "{}", "400"),
        ("host: local host\r\ncontent-length: 2\r\n", "{}", "400"),
        ("host: localhost@evil.example\r\ncontent-length: 2\r\n", "{}", "400"),
        ("host: localhost\r\ncontent-length: 2\r\ncontent-length: 3\r\n", "{}", "400"),
        ("host: localhost\r\ncontent-length: 2, 2\r\n", "{}", "400"),
        ("host: localhost\r\ncontent-length: +2\r\n", "{}", "400"),
    ] {
        let request = format!("{post}{head}\r\n{body}{next}");
        let answer = service.raw(request.as_bytes(), PATIENCE).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{head}: {answer}");
    }
    assert_eq!(service.health().await["accepted"], 0);
    // A length beside chunks is ignored (RFC 9112, section 6.3), and the connection is closed.
    for head in [
        "host: localhost\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "host: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n",
    ] {
        let answer = service.raw(format!("{post}{head}\r\n{chunk}{next}").as_bytes(), PATIENCE).await;
        assert!(answer.starts_with("HTTP/1.1 202 ") && answer.matches("HTTP/1.1").count() == 1, "{answer}");
    }
    assert_eq!(service.settled().await["accepted"], 2);
    let client = database.connect().await;
    assert_eq!(count(&client, "requests where payload = '{}'").await, 2);
}

#[tokio::test]
async fn the_authority_of_an_absolute_target_counts_as_the_host() {
    let database = TestDatabase::create().await;
    let service = Service::start(database.url(), &[]).await;
    for (target, host, status) in [
        ("http://localhost/health", "evil.example", "200"),
        ("http://127.0.0.1:3000/health", "localhost", "200"),
        ("http://evil.example/health", "localhost", "403"),
        ("http://evil.example/api/v1/events", "localhost", "403"),
        ("http://user@localhost/health", "localhost", "400"),
        ("/health", "evil.example", "403"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let answer = service.raw(request.as_bytes(), PATIENCE).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{target} {host}: {answer}");
    }
    let old = service.raw(b"GET /health HTTP/1.0\r\n\r\n", PATIENCE).await;
    assert!(old.starts_with("HTTP/1.0 200 "), "HTTP/1.0 knows no Host: {old}");
}
